"""Drives the status page in headless Chromium: `page.py URL CHROMIUM PID_OF_A_WORKER_TO_KILL`.

Chats, holds every figure shown against /metrics, kills the worker and sees it lost and replaced, and looks at a phone's width.
With BUSBAR_TEST_SCREENSHOTS set to a folder it leaves pictures there.
"""

import json
import math
import os
import re
import sys
import time
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# Longest wait for anything, seconds: generous, so that a busy machine fails no test.
CAP = 120
QUESTION = "Say <b>something</b> & count: 1 < 2"
FRONTEND = "dynamo_frontend_"
SERIES = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
checks = 0


def check(holds, what):
    """Counts one check; the first that fails ends the test."""
    global checks
    if not holds:
        sys.exit(f"FAILED: {what}")
    checks += 1


def browser(chromium):
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
    ).split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Debian's package puts the driver there; elsewhere selenium looks for it on PATH.
    driver = "/usr/bin/chromedriver"
    return webdriver.Chrome(options=options, service=Service(driver) if os.path.exists(driver) else Service())


class Metrics:
    """What /metrics said at one moment, without what changes with the clock alone."""

    def __init__(self, url):
        with urllib.request.urlopen(f"{url}/metrics", timeout=CAP) as answer:
            text = answer.read().decode()
        self.series = {}
        for line in text.splitlines():
            found = SERIES.match(line)
            if found and found[1].startswith((FRONTEND, "busbar_")):
                self.series[found[1], tuple(sorted(LABEL.findall(found[2] or "")))] = float(found[3])

    def rows(self, family, **labels):
        wanted = set(labels.items())
        return [(dict(at), value) for (name, at), value in self.series.items() if name == family and wanted <= set(at)]

    def sum(self, family, **labels):
        return sum(value for _, value in self.rows(family, **labels))

    def quantile(self, family, share):
        """As PromQL's histogram_quantile; None when nothing was observed."""
        counts = {}
        for labels, value in self.rows(f"{family}_bucket"):
            bound = math.inf if labels["le"] == "+Inf" else float(labels["le"])
            counts[bound] = counts.get(bound, 0) + value
        total = counts.get(math.inf, 0)
        low, below = 0.0, 0.0
        for bound in sorted(counts):
            if total and counts[bound] >= share * total:
                return low if bound == math.inf else low + (bound - low) * (share * total - below) / (counts[bound] - below)
            low, below = bound, counts[bound]
        return None


SHOWN = """
const read = (root) => Object.fromEntries([...root.querySelectorAll('[data-metric]')]
  .map((e) => [e.dataset.metric, [e.dataset.value ?? null, e.textContent]]));
const plots = (root) => [...root.querySelectorAll('svg.plot')].map((plot) => plot.dataset.value);
return {
  now_ms: Number(document.body.dataset.nowMs ?? 0),
  ready: Number(document.getElementById('workers-note').dataset.ready ?? -1),
  tiles: read(document.querySelector('.tiles')),
  tilePlots: plots(document.querySelector('.tiles')),
  workers: [...document.querySelectorAll('.worker')].map((row) => ({
    id: row.dataset.worker, rank: row.dataset.rank, state: row.dataset.state,
    pill: row.querySelector('.pill').textContent, metrics: read(row), plots: plots(row) })),
};
"""


class Page:
    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def until(self, what, look):
        def tried(_):
            return look()

        return WebDriverWait(self.driver, CAP, poll_frequency=0.05).until(tried, f"waited {CAP} s for {what}")

    def shown(self):
        return self.driver.execute_script(SHOWN)

    def fresh(self):
        """What the page shows of a moment after this call."""
        asked_ms = time.time() * 1000

        def look():
            shown = self.shown()
            return shown if shown["now_ms"] > asked_ms else None

        return self.until("a fresh snapshot", look)

    def quiet(self):
        """What the page shows, and /metrics, at a moment when /metrics does not change."""

        def look():
            before = Metrics(self.url)
            shown = self.fresh()
            return (shown, before) if before.series == Metrics(self.url).series else None

        return self.until("a quiet moment", look)

    def complaints(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, name):
        folder = os.environ.get("BUSBAR_TEST_SCREENSHOTS")
        if folder:
            os.makedirs(folder, exist_ok=True)
            self.driver.save_screenshot(os.path.join(folder, f"{name}.png"))

    def screen(self, width, height, scheme="light"):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def number_of(text):
    """The number that a person reads: thousands separated, a unit behind it."""
    value, _, unit = text.replace(",", "").partition(" ")
    factor = {"": 1, "s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    return float(value.rstrip("%")) * factor / (100 if value.endswith("%") else 1)


def same(name, shown, expected, rounded=0.0):
    """The element carries exactly `expected`, and its text reads so, up to rounding."""
    carried, text = shown
    if expected is None:
        return check(carried == "" and text == "–", f"{name}: {shown}, and /metrics has nothing")
    check(carried not in ("", None), f"{name} shows nothing, /metrics says {expected}")
    check(math.isclose(float(carried), expected, rel_tol=1e-12, abs_tol=0), f"{name} is {carried}, /metrics says {expected}")
    near = math.isclose(number_of(text), expected, rel_tol=rounded, abs_tol=rounded)
    check(near if rounded else number_of(text) == expected, f"{name} reads {text!r}, /metrics says {expected}")


def chat(page):
    """Types a question, waits for the streamed answer; gives the worker's id."""
    driver = page.driver
    page.until("a model to chat with", lambda: driver.find_elements(By.CSS_SELECTOR, "#model option"))
    box = driver.find_element(By.ID, "prompt")
    box.send_keys(QUESTION)
    box.send_keys(Keys.ENTER)
    lengths = set()

    def done():
        turn = driver.execute_script(
            "const turn = [...document.querySelectorAll('.turn[data-role=assistant]')].pop();"
            "return turn && {state: turn.dataset.state, text: turn.querySelector('.said').lastChild.data,"
            "fault: turn.dataset.fault ?? '', facts: Object.fromEntries([...turn.querySelectorAll('[data-answer]')]"
            ".map((e) => [e.dataset.answer, e.dataset.workers ?? e.textContent]))}"
        )
        if turn:
            lengths.add(len(turn["text"]))
        return turn if turn and turn["state"] == "done" else None

    turn = page.until("the answer", done)
    check(not turn["fault"], f"the chat failed: {turn['fault']}")
    check(len(turn["text"]) > 20, f"an answer of some length: {turn['text']!r}")
    check(len(lengths) > 2, f"the answer came in pieces: lengths {sorted(lengths)}")
    for fact, form in {"ttft": r"first token [\d.]+ (µs|ms|s)", "rate": r"[\d.,]+ tokens/s", "tokens": r"[\d,]+ tokens?"}.items():
        check(re.fullmatch(form, turn["facts"].get(fact, "")), f"the answer tells its {fact}: {turn['facts']}")
    said = driver.find_element(By.CSS_SELECTOR, ".turn[data-role=user] .said")
    check(said.text.endswith(QUESTION), f"what was typed is shown as text: {said.text!r}")
    check(not said.find_elements(By.TAG_NAME, "b"), "what was typed is not taken as HTML")
    return turn["facts"]["worker"]


def figures_equal_metrics(page):
    shown, metrics = page.quiet()
    tiles = shown["tiles"]
    for name in ("active_requests", "queued_requests", "requests_total", "output_tokens_total"):
        same(name, tiles[name], metrics.sum(FRONTEND + name))
    check(metrics.sum(FRONTEND + "output_tokens_total") > 0, "tokens were counted")
    for short, family in (("ttft", "time_to_first_token_seconds"), ("itl", "inter_token_latency_seconds")):
        for percent in (50, 95, 99):
            expected = metrics.quantile(FRONTEND + family, percent / 100)
            same(f"{short}_p{percent}", tiles[f"{short}_p{percent}"], expected, rounded=0.006)
    check(float(shown["tilePlots"][0]) == metrics.sum(FRONTEND + "active_requests"), "the plot of requests ends at now")
    here = [row for row in shown["workers"] if row["state"] != "gone"]  # a lost one is still registered
    registered = {(at["worker_id"], at["dp_rank"]) for at, _ in metrics.rows("busbar_frontend_worker_kv_total_blocks")}
    check({(row["id"], row["rank"]) for row in here} == registered, f"the workers of /metrics are shown: {registered}")
    for row in here:
        worker_equals_metrics(row, metrics)
    check(metrics.sum("busbar_router_prompt_tokens_total") > 0, "prompts were counted")
    check(metrics.sum("busbar_frontend_worker_kv_used_blocks") > 0, "a worker told its KV blocks")


def worker_equals_metrics(row, metrics):
    own = {"worker_id": row["id"], "dp_rank": row["rank"]}
    stock = {"worker_id": str(int(row["id"], 16)), "dp_rank": row["rank"]}
    prompt = metrics.sum("busbar_router_prompt_tokens_total", **own)
    cached = metrics.sum("busbar_router_cached_tokens_total", **own)
    expected = {
        "active_decode_blocks": metrics.sum(FRONTEND + "worker_active_decode_blocks", **stock),
        "kv_used_blocks": metrics.sum("busbar_frontend_worker_kv_used_blocks", **own),
        "index_blocks": metrics.sum("busbar_router_index_blocks", **own),
        "hit_rate": cached / prompt if prompt else None,
    }
    for (name, value), plotted in zip(expected.items(), row["plots"], strict=True):
        same(f"{row['id']} {name}", row["metrics"][name], value, rounded=0.0006 if name == "hit_rate" else 0)
        check(plotted == row["metrics"][name][0], f"{row['id']}: the plot of {name} ends at {plotted}")
    counters = {
        "kv_total_blocks": metrics.sum("busbar_frontend_worker_kv_total_blocks", **own),
        "cached_tokens_total": cached,
        "prompt_tokens_total": prompt,
        "placements_total": metrics.sum("busbar_router_placements_total", **own),
    }
    for name, value in counters.items():
        same(f"{row['id']} {name}", row["metrics"][name], value)


def a_running_request_is_in_flight(page):
    """A stream held open from outside shows as one request, and as none once its client is gone."""
    with urllib.request.urlopen(f"{page.url}/v1/models", timeout=CAP) as answer:
        model = json.load(answer)["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "long"}], "stream": True, "max_tokens": 20000, "ignore_eos": True}
    request = urllib.request.Request(f"{page.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    in_flight = lambda: float(page.fresh()["tiles"]["active_requests"][0])
    counted = lambda: Metrics(page.url).sum(FRONTEND + "active_requests")
    with urllib.request.urlopen(request, timeout=CAP) as answer:
        answer.readline()
        page.until("one request in flight", lambda: in_flight() == 1 == counted())
        shown = page.until("a rate of tokens", lambda: (s := page.fresh()) and float(s["tiles"]["tokens_per_second"][0] or 0) > 0 and s)
        check(any(number_of(row["metrics"]["active_requests"][1]) == 1 for row in shown["workers"]), "its worker shows it")
        page.picture("busy")
    page.until("no request in flight", lambda: in_flight() == 0 == counted())
    check(True, "a held stream is in flight, and no longer once its client is gone")


def routes_are_explained(page, worker):
    driver = page.driver
    route = driver.find_element(By.CSS_SELECTOR, "#routes li:first-child")
    check(worker[:8] in driver.find_element(By.ID, "routes").text, f"the last requests name the worker {worker}")
    route.find_element(By.TAG_NAME, "summary").click()
    table = page.until("the explanation", lambda: route.find_element(By.TAG_NAME, "table").is_displayed() and route.text)
    check("NaN" not in table and "undefined" not in table, f"every figure of the explanation is there: {table}")
    check(len(route.find_elements(By.CSS_SELECTOR, "tbody tr")) == 2, "both candidates are explained")


def a_killed_worker_is_shown(page, pid):
    before = {row["id"] for row in page.fresh()["workers"]}
    os.kill(pid, 9)

    def lost():
        return [row for row in page.shown()["workers"] if row["state"] in ("gone", "lost")]

    row = page.until("the killed worker to be shown as lost", lost)[0]
    check(row["id"] in before and row["pill"] == "lost", f"the lost worker is one of those before: {row}")
    page.picture("lost")

    def replaced():
        shown = page.shown()
        ready = {row["id"] for row in shown["workers"] if row["state"] == "ready"}
        return shown if len(ready) == 2 and shown["ready"] == 2 and row["id"] not in ready else None

    shown = page.until("two ready workers again", replaced)
    gone = [other for other in shown["workers"] if other["state"] in ("gone", "lost")]
    check([other["id"] for other in gone] == [row["id"]], f"the lost worker stays in sight: {gone}")


def every_screen(page):
    for name, width, height, scheme in (("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("phone", 390, 844, "light")):
        page.screen(width, height, scheme)
        page.driver.execute_script("scrollTo(0, 0)")
        wide = page.driver.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        check(wide[0] <= wide[1] <= width, f"{name}: no scrolling sideways, {wide}")
        page.picture(name)


def main(url, chromium, pid):
    url = url.rstrip("/").removesuffix("/v1")
    driver = browser(chromium)
    try:
        driver.get(f"{url}/")
        page = Page(driver, url)
        page.until("two ready workers", lambda: page.shown()["ready"] == 2)
        worker = chat(page)
        routes_are_explained(page, worker)
        figures_equal_metrics(page)
        a_running_request_is_in_flight(page)
        figures_equal_metrics(page)
        a_killed_worker_is_shown(page, pid)
        chat(page)
        figures_equal_metrics(page)
        every_screen(page)
        complaints = page.complaints()
        check(not complaints, f"nothing on the console: {complaints}")
    finally:
        driver.quit()
    print(f"all checks passed: {checks}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
