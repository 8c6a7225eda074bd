"""What plain forwarding costs: vllm-router and sglang-router before four HTTP workers of our own.

Not the same job as a Dynamo frontend's: no template, no tokenizer, no KV index. Read it beside the part `frontend`.
"""

from machine import ROUNDS, Machine, free_port, load, load_program, needed

PART = "routers"
MODEL = "tiny"
WORKERS = 4
CONCURRENCY = 32
TINY_REQUESTS = 2000
STREAMS = 640
STREAM_TOKENS = 128
SHORT_STREAMS = 40
SHORT_TOKENS = 32


def run(figures):
    with Machine() as machine:
        workers = [free_port() for _ in range(WORKERS)]
        for number, port in enumerate(workers):
            machine.start(f"http-worker-{number}", load_program(), "serve", "--address", f"127.0.0.1:{port}", "--model", MODEL)
        urls = [f"http://127.0.0.1:{port}" for port in workers]
        sides = {}
        for name, command in (("vllm-router", [needed("BENCH_VLLM_ROUTER")]),
                              ("sglang-router", [needed("BENCH_SGLANG_ROUTER"), "launch"])):
            port, metrics = free_port(), free_port()
            process = machine.start(name, *command, "--host", "127.0.0.1", "--port", port, "--policy", "round_robin",
                                    "--prometheus-host", "127.0.0.1", "--prometheus-port", metrics, "--worker-startup-check-interval", 1,
                                    "--max-concurrent-requests", 4096, "--queue-size", 4096, "--worker-urls", *urls)
            machine.wait_for_answer(port, MODEL, process)
            sides[name] = (port, process.pid)
        for number in range(ROUNDS):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for name in order:
                for label, value, unit, command in measure(*sides[name], number + 1):
                    figures.add(PART, f"{label}, {name}", value, unit, command)


def measure(port, pid, seed):
    told = load("requests", port, MODEL, concurrency=CONCURRENCY, requests=TINY_REQUESTS, max_tokens=1, pids=pid, seed=seed)
    command = f"load requests --concurrency {CONCURRENCY} --requests {TINY_REQUESTS} --max-tokens 1"
    yield "CPU a tiny request", told["cpu_seconds"] / told["requests"] * 1e6, "µs", command
    told = load("requests", port, MODEL, concurrency=CONCURRENCY, requests=STREAMS, max_tokens=STREAM_TOKENS, stream=1,
                pids=pid, seed=seed)
    command = f"load requests --concurrency {CONCURRENCY} --requests {STREAMS} --max-tokens {STREAM_TOKENS} --stream 1"
    yield "CPU a streamed token", told["cpu_seconds"] / told["tokens"] * 1e6, "µs", command
    yield "RSS after this many requests", told["rss_mb"], "MB", command
    told = load("requests", port, MODEL, requests=SHORT_STREAMS, max_tokens=SHORT_TOKENS, stream=1, seed=seed)
    command = f"load requests --requests {SHORT_STREAMS} --max-tokens {SHORT_TOKENS} --stream 1"
    yield "32-token stream alone, total p50", told["total_ms_p50"], "ms", command
