"""The embedded engine seen through HTTP, in turn with the bare library loop on the same cores."""

import os

import part_libraries
from machine import ROUNDS, THREADS, Machine, cpu_seconds, free_port, load, needed

PART = "http"
MODEL = "bench"
STREAM_TOKENS = 80
STREAM_PROMPT = 64
LONG_PROMPT = 500
GAP_STREAMS = 4

# Rounds of the bare loop for each round through HTTP; its own median counts.
BARE_ROUNDS = int(os.environ.get("BENCH_BARE_ROUNDS", "3"))


def run(figures):
    bare_loop = part_libraries.executable("worker", "engine")
    with Machine() as machine:
        port = free_port()
        frontend = machine.our_frontend(port)
        worker = machine.busbar("worker", "worker", "--engine", "embedded", "--model", needed("BENCH_GGUF"),
                                "--served-model-name", MODEL, "--threads", THREADS)
        machine.wait_for_answer(port, MODEL, frontend)
        through_http(port, frontend.pid, worker.pid, 1)
        for number in range(ROUNDS):
            http = through_http(port, frontend.pid, worker.pid, number + 2)
            for (name, unit, command), value in http.items():
                figures.add(PART, f"{name}, HTTP", value, unit, command)
            bare = part_libraries.bare_figures(bare_loop, BARE_ROUNDS)
            for (name, unit, _), value in http.items():
                if name in bare:
                    command = f"cargo bench -p worker --bench engine -- GGUF {THREADS} {BARE_ROUNDS} --side=bare"
                    figures.add(PART, f"{name}, bare", bare[name], unit, command)
                    figures.add(PART, f"{name}, HTTP / bare", value / bare[name], "ratio", "quotient within a round")


def through_http(port, frontend, worker, seed):
    """One round. The names are those of the engine's bench."""
    found = {}
    command = f"load prefill --prompt-tokens {LONG_PROMPT}"
    told = load("prefill", port, MODEL, prompt_tokens=LONG_PROMPT, pids=f"{frontend},{worker}", seed=seed * 100)
    found[f"prefill of {LONG_PROMPT} tokens", "tokens/s", command] = told["tokens_per_second"]
    found[f"CPU of prefill of {LONG_PROMPT} tokens", "s", command] = told["cpu_seconds"]
    frontend_before, tokens = cpu_seconds(frontend), 0
    for streams in (1, 4, 8):
        command = f"load streams --streams {streams} --prompt-tokens {STREAM_PROMPT} --max-tokens {STREAM_TOKENS}"
        told = load("streams", port, MODEL, streams=streams, prompt_tokens=STREAM_PROMPT, max_tokens=STREAM_TOKENS,
                    pids=f"{frontend},{worker}", seed=seed * 100 + streams)
        found[f"decode of {streams} streams", "tokens/s", command] = told["tokens_per_second"]
        found[f"CPU of decode of {streams} streams", "s", command] = told["cpu_seconds"]
        tokens += told["tokens"]
    # One write a token here, so that it costs more than in a saturated stream. In ticks of 10 ms over 1,040 tokens.
    command = "load streams, 1, 4 and 8"
    found["CPU of the frontend a token", "µs", command] = (cpu_seconds(frontend) - frontend_before) / tokens * 1e6
    command = f"load gap --streams {GAP_STREAMS} --prompt-tokens {LONG_PROMPT}"
    told = load("gap", port, MODEL, streams=GAP_STREAMS, prompt_tokens=LONG_PROMPT, seed=seed * 100 + 50)
    found[f"worst gap of {GAP_STREAMS} streams while {LONG_PROMPT} tokens enter", "ms", command] = told["worst_gap_ms"]
    found[f"first token of {LONG_PROMPT} tokens among {GAP_STREAMS} streams", "ms", command] = told["first_ms"]
    return found
