"""CPU and memory of the frontends, ours and stock Dynamo's, in turn before the same four stock mocker workers."""

from machine import ROUNDS, Machine, free_port, load

PART = "frontend"
MODEL = "tiny"
CONCURRENCY = 32
TINY_REQUESTS = 2000
STREAMS = 640
STREAM_TOKENS = 128
SHORT_STREAMS = 40
SHORT_TOKENS = 32
# Words of a long prompt, and requests: the second takes about four times as long each.
LONG_PROMPTS = ((4000, 40), (16000, 16))
PACED_STREAMS = 96


def run(figures):
    with Machine() as machine:
        machine.stock_mockers()
        rounds(figures, sides_of(machine), (tiny, stream, short, prompts))
    with Machine() as machine:
        # At its simulated speed a mocker makes a token in 5.7 ms: each is a read and a write of its own.
        machine.stock_mockers(speedup="1")
        rounds(figures, sides_of(machine), (paced,))


def sides_of(machine):
    """Both frontends, warm: name to (port, process id)."""
    sides = {}
    for name, start in (("ours", machine.our_frontend), ("stock", machine.stock_frontend)):
        port = free_port()
        process = start(port)
        machine.wait_for_answer(port, MODEL, process)
        load("requests", port, MODEL, concurrency=CONCURRENCY, requests=200, max_tokens=8, stream=1, seed=999)
        sides[name] = (port, process.pid)
    return sides


def rounds(figures, sides, measures):
    for number in range(ROUNDS):
        # The first one of a round changes, so that neither side always follows the other.
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        taken = {name: [] for name in sides}
        for measure in measures:
            for name in order:
                port, pid = sides[name]
                for label, value, unit, command in measure(port, pid, number + 1):
                    figures.add(PART, f"{label}, {name}", value, unit, command)
                    taken[name].append((label, value, unit))
        for (label, ours, _), (_, stock, _) in zip(taken["ours"], taken["stock"]):
            figures.add(PART, f"{label}, ours / stock", ours / stock, "ratio", "quotient within a round")


def tiny(port, pid, seed):
    """One token a request, not streamed."""
    told = load("requests", port, MODEL, concurrency=CONCURRENCY, requests=TINY_REQUESTS, max_tokens=1, pids=pid, seed=seed)
    command = f"load requests --concurrency {CONCURRENCY} --requests {TINY_REQUESTS} --max-tokens 1"
    yield "CPU a tiny request", told["cpu_seconds"] / told["requests"] * 1e6, "µs", command
    yield "tiny requests", told["requests_per_second"], "requests/s", command


def stream(port, pid, seed):
    """Streams as fast as the workers make them."""
    told = load("requests", port, MODEL, concurrency=CONCURRENCY, requests=STREAMS, max_tokens=STREAM_TOKENS, stream=1,
                pids=pid, seed=seed)
    if told["tokens"] != STREAMS * STREAM_TOKENS:
        raise SystemExit(f"bench: {told['tokens']} tokens in place of {STREAMS * STREAM_TOKENS}")
    command = f"load requests --concurrency {CONCURRENCY} --requests {STREAMS} --max-tokens {STREAM_TOKENS} --stream 1"
    yield "CPU a streamed token", told["cpu_seconds"] / told["tokens"] * 1e6, "µs", command
    yield "streamed tokens", told["tokens_per_second"], "tokens/s", command
    yield "first token p50 (saturated)", told["first_ms_p50"], "ms", command
    yield "RSS after this many requests", told["rss_mb"], "MB", command


def short(port, pid, seed):
    """One kept-alive connection: a Nagle delay would show as 40 ms."""
    told = load("requests", port, MODEL, requests=SHORT_STREAMS, max_tokens=SHORT_TOKENS, stream=1, pids=pid, seed=seed)
    command = f"load requests --requests {SHORT_STREAMS} --max-tokens {SHORT_TOKENS} --stream 1"
    yield "32-token stream alone, total p50", told["total_ms_p50"], "ms", command


def prompts(port, pid, seed):
    """Prompts that share nothing, one answer token: template, tokenizer, hashing and routing."""
    for words, requests in LONG_PROMPTS:
        told = load("requests", port, MODEL, concurrency=2, requests=requests, max_tokens=1, prompt_words=words, pids=pid,
                    seed=seed)
        command = f"load requests --concurrency 2 --requests {requests} --max-tokens 1 --prompt-words {words}"
        tokens = told["prompt_tokens"]
        yield f"CPU a prompt token, {words} words", told["cpu_seconds"] / tokens * 1e6, "µs", command


def paced(port, pid, seed):
    """Streams at the pace of an engine."""
    told = load("requests", port, MODEL, concurrency=CONCURRENCY, requests=PACED_STREAMS, max_tokens=STREAM_TOKENS, stream=1,
                pids=pid, seed=seed)
    command = f"load requests --concurrency {CONCURRENCY} --requests {PACED_STREAMS} --max-tokens {STREAM_TOKENS} --stream 1"
    yield "CPU a paced token", told["cpu_seconds"] / told["tokens"] * 1e6, "µs", command
