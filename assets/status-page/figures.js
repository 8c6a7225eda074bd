// Figures: how they are read from a snapshot's series, written as text, and plotted.

/** What the plots span. */
const WINDOW_MS = 120000;

export const byId = (id) => document.getElementById(id);
const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
/** Makes an element: `make("p", { class: "note" }, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function plural(count, noun) {
  return `${integer.format(count)} ${noun}${count === 1 ? "" : "s"}`;
}

export function durationText(seconds) {
  if (seconds === null) return "–";
  const [value, unit] = seconds < 0.001 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return `${new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value)} ${unit}`;
}

export function ageText(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** An instance id is long; its first half tells workers apart, the title has all of it. */
export const shortId = (id) => id.slice(0, 8);

export function workerName(id, rank) {
  const name = rank ? `${shortId(id)} rank ${rank}` : shortId(id);
  return make("span", { class: "mono", title: `worker ${id}, data-parallel rank ${rank}` }, name);
}

export const perSecond = (value) => (value < 100 ? decimal : integer).format(value);
export const percent = (value) => `${decimal.format(value * 100)}%`;
export const whole = (value) => integer.format(value);

/* Series */

/** Labels of one series name. */
function labelsOf(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[name] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
  }
  return labels;
}

/** The snapshot's metrics by family. */
export function familiesOf(metrics) {
  const families = new Map();
  for (const [name, value] of Object.entries(metrics)) {
    const brace = name.indexOf("{");
    const family = brace < 0 ? name : name.slice(0, brace);
    if (!families.has(family)) families.set(family, []);
    families.get(family).push({ labels: brace < 0 ? {} : labelsOf(name.slice(brace)), value });
  }
  return families;
}

/** Sum of a family's series with these labels; null when there is none. */
export function sumOf(families, family, wanted = {}) {
  const fits = ({ labels }) => Object.entries(wanted).every(([name, value]) => labels[name] === value);
  const series = (families.get(family) ?? []).filter(fits);
  return series.length ? series.reduce((sum, one) => sum + one.value, 0) : null;
}

/** Cumulative counts of a histogram by upper bound, all models together, in the order of the bounds. */
export function bucketsOf(families, family) {
  const counts = new Map();
  for (const { labels, value } of families.get(`${family}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** The quantile of a histogram by the rule of Prometheus' `histogram_quantile`; null when it is empty. */
export function quantile(buckets, share) {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (!(total > 0)) return null;
  const rank = share * total;
  const at = buckets.findIndex(([, count]) => count >= rank);
  const [low, below] = at > 0 ? buckets[at - 1] : [0, 0];
  const [high, count] = buckets[at];
  return high === Infinity ? low : low + ((high - low) * (rank - below)) / (count - below);
}

/** What came into a histogram between two snapshots. */
export function newIn(buckets, before) {
  const known = new Map(before);
  return buckets.map(([bound, count]) => [bound, count - (known.get(bound) ?? 0)]);
}

/* Plots */

const SVG = "http://www.w3.org/2000/svg";

/** A small plot of the last two minutes. A null is a gap; the floor of the scale is 0. */
export class Plot {
  constructor(name, format, { top = 0 } = {}) {
    Object.assign(this, { name, format, top, points: [] });
    this.svg = document.createElementNS(SVG, "svg");
    const attributes = { class: "plot", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" };
    for (const [key, value] of Object.entries(attributes)) this.svg.setAttribute(key, value);
    [this.title, this.base, this.under, this.line, this.dots] = ["title", "path", "path", "path", "path"].map((tag) => {
      const part = document.createElementNS(SVG, tag);
      this.svg.append(part);
      return part;
    });
    this.base.setAttribute("class", "base");
    this.base.setAttribute("d", "M0 100H100");
    this.under.setAttribute("class", "under");
    this.line.setAttribute("class", "line");
    this.dots.setAttribute("class", "line dots");
  }

  add(at, value) {
    this.points.push([at, value]);
    while (this.points[0][0] < at - WINDOW_MS) this.points.shift();
    this.draw(at);
  }

  clear() {
    this.points = [];
  }

  draw(now) {
    const known = this.points.filter(([, value]) => value !== null);
    const peak = known.reduce((most, [, value]) => Math.max(most, value), 0);
    const top = Math.max(this.top, peak * 1.08) || 1;
    const x = (at) => (100 - ((now - at) / WINDOW_MS) * 100).toFixed(2);
    const y = (value) => (100 - (value / top) * 100).toFixed(2);
    let line = "";
    let under = "";
    let dots = "";
    for (const run of this.runs()) {
      const path = run.map(([at, value]) => `${x(at)} ${y(value)}`);
      if (path.length === 1) {
        // A dot: a line of no length with round ends.
        dots += `M${path[0]}L${path[0]}`;
        continue;
      }
      line += `M${path.join("L")}`;
      under += `M${x(run[0][0])} 100L${path.join("L")}L${x(run[run.length - 1][0])} 100Z`;
    }
    this.line.setAttribute("d", line);
    this.under.setAttribute("d", under);
    this.dots.setAttribute("d", dots);
    const last = this.points[this.points.length - 1][1];
    this.svg.dataset.value = last === null ? "" : String(last);
    const told = last === null ? "nothing now" : `now ${this.format(last)}`;
    setText(this.title, `${this.name}, last two minutes: ${told}, highest ${this.format(peak)}`);
  }

  /** Stretches without a gap. */
  runs() {
    const runs = [[]];
    for (const point of this.points) {
      if (point[1] !== null) runs[runs.length - 1].push(point);
      else if (runs[runs.length - 1].length) runs.push([]);
    }
    return runs.filter((run) => run.length);
  }
}

/** Shows a figure; the exact value goes with the text. */
export function show(root, name, value, text) {
  const element = root.querySelector(`[data-metric="${name}"]`);
  element.dataset.value = value === null ? "" : String(value);
  setText(element, value === null ? "–" : text(value));
}
