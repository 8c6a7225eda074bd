// The status page: asks /status/snapshot once a second and shows what it carries.
//
// Every figure shown is a series of /metrics; rates and the latency plots are differences of two snapshots.
// Text from outside enters the document as text nodes only.

import { authorization, faultOf, showModels } from "./chat.js";
import {
  Plot, ageText, bucketsOf, byId, decimal, durationText, familiesOf, make, newIn, perSecond, percent, plural, quantile, setText, show,
  sumOf, whole, workerName,
} from "./figures.js";

const POLL_MS = 1000;
const POLL_MS_MAX = 15000;
const POLL_TIMEOUT_MS = 5000;
/** How long a worker that vanished stays on the page. */
const GONE_MS = 60000;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/* Tiles */

const tilePlots = {
  active_requests: new Plot("Requests in flight", whole, { top: 4 }),
  tokens_per_second: new Plot("Tokens per second", perSecond, { top: 10 }),
  ttft: new Plot("Median time to first token of each second", durationText),
  itl: new Plot("Median time between tokens of each second", durationText),
};
for (const [name, plot] of Object.entries(tilePlots)) {
  document.querySelector(`[data-tile="${name}"]`).append(plot.svg);
}

function showTiles(now, before) {
  const at = now.snapshot.now_ms;
  const sum = (family) => sumOf(now.families, `dynamo_frontend_${family}`);
  const active = sum("active_requests") ?? 0;
  show(document, "active_requests", active, whole);
  show(document, "queued_requests", sum("queued_requests") ?? 0, whole);
  show(document, "requests_total", sum("requests_total") ?? 0, whole);
  tilePlots.active_requests.add(at, active);

  const tokens = sum("output_tokens_total") ?? 0;
  const tokensBefore = before && (sumOf(before.families, "dynamo_frontend_output_tokens_total") ?? 0);
  const rate = before ? ((tokens - tokensBefore) * 1000) / (at - before.snapshot.now_ms) : null;
  show(document, "output_tokens_total", tokens, whole);
  show(document, "tokens_per_second", rate, perSecond);
  tilePlots.tokens_per_second.add(at, rate);

  for (const [short, family] of [["ttft", "time_to_first_token_seconds"], ["itl", "inter_token_latency_seconds"]]) {
    const buckets = bucketsOf(now.families, `dynamo_frontend_${family}`);
    for (const p of [50, 95, 99]) show(document, `${short}_p${p}`, quantile(buckets, p / 100), durationText);
    const fresh = before ? newIn(buckets, bucketsOf(before.families, `dynamo_frontend_${family}`)) : [];
    tilePlots[short].add(at, quantile(fresh, 0.5));
  }
}

/* Facts */

function showFacts({ snapshot }) {
  const { frontend, models, workers } = snapshot;
  const engines = [...new Set(workers.map((worker) => worker.engine).filter(Boolean))];
  const names = models.map((model) => (model.ready ? model.name : `${model.name} (not ready: ${model.why})`));
  const facts = [
    ["Model", names.join(", ") || "none yet", "models"],
    ["Engine", engines.join(", ") || "not told", "engines"],
    ["Router", frontend.router_mode, "router_mode"],
    ["Frontend", `${frontend.version}, up ${ageText(frontend.uptime_s)}`, "frontend"],
  ];
  const list = byId("facts");
  if (!list.childElementCount) {
    list.append(...facts.map(([term, , name]) => make("div", {}, make("dt", {}, term), make("dd", { "data-fact": name }))));
  }
  for (const [, text, name] of facts) setText(list.querySelector(`[data-fact="${name}"]`), text);
}

/* Workers */

const rows = new Map();

function measure(label, metrics, plot) {
  const value = make("dd", {}, ...metrics);
  return make("div", {}, make("dt", {}, label), value, plot.svg);
}

const figure = (name) => make("span", { "data-metric": name });

function makeRow(worker) {
  const plots = {
    active_decode_blocks: new Plot("Decode blocks", whole, { top: 8 }),
    kv_used_blocks: new Plot("KV blocks in use", whole),
    index_blocks: new Plot("Blocks in the prefix index", whole, { top: 8 }),
    hit_rate: new Plot("Share of prompt tokens found in the cache", percent, { top: 1 }),
  };
  const state = make("span", { class: "pill" });
  const note = make("p", { class: "note" });
  const small = (...parts) => make("small", {}, ...parts);
  const hits = make("span", { class: "hidden" }, " tokens, ", figure("cached_tokens_total"), " cached");
  const measures = make(
    "dl",
    { class: "measures" },
    measure("Decode load", [figure("active_decode_blocks"), small(" blocks · ", figure("active_requests"), " req")], plots.active_decode_blocks),
    measure("KV blocks", [figure("kv_used_blocks"), small(" of ", figure("kv_total_blocks"))], plots.kv_used_blocks),
    measure("In the prefix index", [figure("index_blocks"), small(" blocks")], plots.index_blocks),
    measure("Prompt cache hits", [figure("hit_rate"), small(" of ", figure("prompt_tokens_total"), hits)], plots.hit_rate),
  );
  const title = make("h3", {}, workerName(worker.worker_id, worker.dp_rank));
  const element = make(
    "article",
    { class: "worker", "data-worker": worker.worker_id, "data-rank": worker.dp_rank, "aria-label": `Worker ${worker.worker_id}` },
    make("header", {}, title, state, note),
    measures,
  );
  return { element, plots, state, note, gone_at: null };
}

function showWorker(row, worker, { snapshot, families }) {
  const at = snapshot.now_ms;
  const rank = String(worker.dp_rank);
  const own = { model: worker.model, worker_id: worker.worker_id, dp_rank: rank };
  const stock = { worker_id: worker.worker_id_decimal, dp_rank: rank };
  const cached = sumOf(families, "busbar_router_cached_tokens_total", own);
  const prompt = sumOf(families, "busbar_router_prompt_tokens_total", own);
  const total = sumOf(families, "busbar_frontend_worker_kv_total_blocks", own) || null;
  const values = {
    active_decode_blocks: sumOf(families, "dynamo_frontend_worker_active_decode_blocks", stock),
    kv_used_blocks: sumOf(families, "busbar_frontend_worker_kv_used_blocks", own),
    index_blocks: sumOf(families, "busbar_router_index_blocks", own),
    hit_rate: prompt ? cached / prompt : null,
  };
  const placed = sumOf(families, "busbar_router_placements_total", own) ?? 0;
  row.plots.kv_used_blocks.top = total ?? 8;
  for (const [name, value] of Object.entries(values)) {
    show(row.element, name, value, name === "hit_rate" ? percent : whole);
    row.plots[name].add(at, value);
  }
  show(row.element, "active_requests", worker.active_requests, whole);
  show(row.element, "kv_total_blocks", total, whole);
  show(row.element, "cached_tokens_total", cached, whole);
  show(row.element, "prompt_tokens_total", prompt, whole);
  setState(row, worker.state, worker.state);
  if (!row.placed) {
    row.placed = make("span", { "data-metric": "placements_total" });
    row.about = document.createTextNode("");
    row.note.replaceChildren(row.placed, row.about);
  }
  row.placed.dataset.value = String(placed);
  setText(row.placed, whole(placed));
  const model = snapshot.models.length > 1 || !worker.engine ? worker.model : null;
  const told = [model, worker.engine && `${worker.engine} engine`, worker.device, `here ${ageText(worker.here_s)}`].filter(Boolean);
  setText(row.about, ` placed · ${told.join(" · ")}`);
  row.gone_at = null;
}

function setState(row, state, text) {
  row.element.dataset.state = state;
  row.state.dataset.state = state;
  setText(row.state, text);
}

function showWorkers(now) {
  const { workers } = now.snapshot;
  const here = new Set();
  for (const worker of workers) {
    const key = `${worker.model}\n${worker.worker_id}\n${worker.dp_rank}`;
    here.add(key);
    if (!rows.has(key)) {
      rows.set(key, makeRow(worker));
      byId("workers").append(rows.get(key).element);
    }
    showWorker(rows.get(key), worker, now);
  }
  for (const [key, row] of rows) if (!here.has(key)) showGone(key, row);
  const ready = workers.filter((worker) => worker.state === "ready").length;
  const gone = rows.size - here.size;
  const lost = gone ? `, ${gone} lost in the last minute` : "";
  setText(byId("workers-note"), rows.size ? `${ready} of ${workers.length} ready${lost}` : "");
  byId("workers-note").dataset.ready = ready;
  byId("workers-empty").hidden = rows.size > 0;
}

/** A worker that is no longer registered stays for a while, so that its loss is seen. */
function showGone(key, row) {
  row.gone_at ??= performance.now();
  const gone_ms = performance.now() - row.gone_at;
  if (gone_ms > GONE_MS) {
    row.element.remove();
    rows.delete(key);
    return;
  }
  setState(row, "gone", "lost");
  row.placed = null;
  setText(row.note, `left ${ageText(Math.round(gone_ms / 1000))} ago · last figures · a restart comes under a new id`);
}

function showLeftOut({ snapshot }) {
  const items = snapshot.left_out.map(({ model, worker_id, reason }) =>
    make("li", {}, `${model} at worker `, make("span", { class: "mono" }, worker_id), make("p", {}, reason)),
  );
  byId("left-out").hidden = items.length === 0;
  const list = byId("left-out-list");
  const text = JSON.stringify(snapshot.left_out);
  if (list.dataset.text !== text) list.replaceChildren(...items);
  list.dataset.text = text;
}

/* Routes */

const routes = new Map();

function reasonOf(route) {
  const moved = route.attempt > 1 ? `moved here, attempt ${route.attempt}; ` : "";
  if (route.mode !== "kv") return `${moved}${route.mode} among ${plural(route.candidates, "worker")}`;
  const cached = route.cached_tokens
    ? `${whole(route.cached_tokens)} of ${plural(route.prompt_tokens, "prompt token")} cached here`
    : `nothing of ${plural(route.prompt_tokens, "prompt token")} cached here`;
  const elsewhere = route.best_cached_tokens > route.cached_tokens ? ` (${whole(route.best_cached_tokens)} elsewhere)` : "";
  const next = route.why.length > 1 ? ` against ${decimal.format(route.why[1].cost)}` : "";
  const cost = route.cost === null ? "" : ` · cost ${decimal.format(route.cost)}${next}`;
  return `${moved}${cached}${elsewhere}${cost}`;
}

/** Columns of the explanation: title, what it says, value. */
const WHY = [
  ["Cost", "the lowest wins, blocks", (one) => decimal.format(one.cost)],
  ["Prefill", "blocks to compute there, this prompt included", (one) => decimal.format(one.prefill_blocks)],
  ["Cache credit", "blocks that its cache saves", (one) => decimal.format(one.credit_blocks)],
  ["Decode", "blocks being decoded there, this prompt included", (one) => decimal.format(one.decode_blocks)],
  ["Cached blocks", "of this prompt in its cache", (one) => whole(one.cached_blocks)],
  ["In flight", "requests before this one", (one) => whole(one.active_requests)],
  ["Waiting", "prompt tokens that wait there", (one) => whole(one.waiting_prefill_tokens)],
];

function makeRoute(route) {
  const when = make("time", { class: "when", datetime: new Date(route.at_ms).toISOString() }, clock.format(route.at_ms));
  const summary = make(
    "summary",
    {},
    when,
    workerName(route.worker_id, route.dp_rank),
    make("span", { class: "note reason" }, reasonOf(route)),
  );
  const head = make("tr", {}, make("th", { scope: "col" }, "Candidate"));
  head.append(...WHY.map(([title, says]) => make("th", { scope: "col", title: says }, title)));
  const body = route.why.map((one, at) => {
    const row = make("tr", at === 0 ? { class: "chosen" } : {}, make("td", {}, workerName(one.worker_id, one.dp_rank)));
    row.append(...WHY.map(([, , value]) => make("td", {}, value(one))));
    return row;
  });
  const of = `${route.model} · request ${route.request_id} · ${route.mode} among ${plural(route.candidates, "candidate")}`;
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  const why = make("div", { class: "why" }, make("p", { class: "note" }, of), table);
  return make("li", { "data-route": route.request_id }, make("details", {}, summary, why));
}

function showRoutes({ snapshot }) {
  const keys = snapshot.routes.map((route) => `${route.at_ms} ${route.request_id} ${route.attempt}`);
  const list = byId("routes");
  for (let at = keys.length - 1; at >= 0; at -= 1) {
    if (routes.has(keys[at])) continue;
    routes.set(keys[at], makeRoute(snapshot.routes[at]));
    list.prepend(routes.get(keys[at]));
  }
  const wanted = new Set(keys);
  for (const [key, element] of routes) {
    // One that is being read stays until it is closed.
    if (wanted.has(key) || element.querySelector("details").open) continue;
    element.remove();
    routes.delete(key);
  }
  byId("routes-empty").hidden = keys.length > 0;
}

/* Connection */

let last = null;
let failures = 0;
let timer = null;

async function poll() {
  clearTimeout(timer);
  let next_ms = POLL_MS;
  try {
    const signal = AbortSignal.timeout(POLL_TIMEOUT_MS);
    const response = await fetch("/status/snapshot", { headers: authorization(), cache: "no-store", signal });
    if (!response.ok) throw new Error(await faultOf(response));
    const snapshot = await response.json();
    failures = 0;
    connected(snapshot.frontend.draining);
    // A mistake of the page's own must not look like a lost connection: it goes to the console, and polling goes on.
    queueMicrotask(() => render(snapshot));
  } catch (error) {
    failures += 1;
    next_ms = Math.min(POLL_MS * 2 ** (failures - 1), POLL_MS_MAX);
    disconnected(error, next_ms);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, next_ms);
}

function render(snapshot) {
  const now = { snapshot, families: familiesOf(snapshot.metrics) };
  if (last && snapshot.frontend.uptime_s < last.snapshot.frontend.uptime_s) {
    // Another process answers: its counters began anew, and a difference to the old ones means nothing.
    last = null;
  }
  showFacts(now);
  showTiles(now, last);
  showWorkers(now);
  showLeftOut(now);
  showRoutes(now);
  showModels(now);
  last = now;
  document.body.dataset.nowMs = snapshot.now_ms;
}

function connected(draining) {
  document.body.classList.remove("stale");
  byId("banner").hidden = true;
  byId("connection").dataset.state = draining ? "draining" : "live";
  setText(byId("connection"), draining ? "draining" : "live");
}

function disconnected(error, next_ms) {
  document.body.classList.add("stale");
  byId("connection").dataset.state = "lost";
  setText(byId("connection"), "connection lost");
  byId("banner").hidden = false;
  const why = error.name === "TimeoutError" ? "The frontend does not answer." : error.name === "TypeError" ? "The frontend cannot be reached." : error.message;
  setText(byId("banner-text"), `${why} Figures are from before; next try in ${Math.round(next_ms / 1000)} s.`);
}

byId("retry").addEventListener("click", poll);
addEventListener("online", poll);
document.addEventListener("visibilitychange", () => document.hidden || poll());

poll();
