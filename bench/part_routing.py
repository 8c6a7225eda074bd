"""Routing quality: the share of prompt tokens that workers find in their cache, on one trace of conversations in turns,
before the same eight stock mockers; beside it the oracle, one worker whose cache holds everything."""

from machine import ROUNDS, Machine, free_port, load

PART = "routing"
MODEL = "tiny"
WORKERS = 8
# Blocks of 16 tokens a worker: eight of them hold the conversations of the moment about three times, one does not.
BLOCKS = 600
ORACLE_BLOCKS = 200_000
CONVERSATIONS = 96
CLIENTS = 24
ANSWER_TOKENS = 8
FIRST_SEED = 100
COMMAND = f"load conversations --concurrency {CLIENTS} --requests {CONVERSATIONS} --max-tokens {ANSWER_TOKENS}"
# What is played, each on mockers of its own: name, workers, blocks, how the frontend is started.
SIDES = {
    "oracle": (1, ORACLE_BLOCKS, lambda machine, port: machine.our_frontend(port)),
    "ours, kv": (WORKERS, BLOCKS, lambda machine, port: machine.our_frontend(port)),
    "stock, kv": (WORKERS, BLOCKS, lambda machine, port: machine.stock_frontend(port)),
    "stock, round-robin": (WORKERS, BLOCKS, lambda machine, port: machine.stock_frontend(port, "round-robin")),
}


def run(figures):
    for number in range(ROUNDS):
        # Every round plays a trace of its own, the same to each side; the first one changes from round to round.
        names = list(SIDES)
        turn = number % len(names)
        told = {name: play(name, FIRST_SEED + number) for name in names[turn:] + names[:turn]}
        for name in names:
            for label, key, unit in (("hit rate", "hit_rate", "of prompt tokens"), ("first token p50", "first_ms_p50", "ms"),
                                     ("first token p90", "first_ms_p90", "ms"), ("first token p99", "first_ms_p99", "ms")):
                figures.add(PART, f"{label}, {name}", told[name][key], unit, COMMAND)
        for name in names[1:]:
            share = told[name]["hit_rate"] / told["oracle"]["hit_rate"]
            figures.add(PART, f"hit rate / oracle, {name}", share, "ratio", "quotient within a round")


def play(name, seed):
    """The trace of one seed, on caches that are empty at its beginning."""
    workers, blocks, start = SIDES[name]
    with Machine() as machine:
        machine.stock_mockers(workers, speedup="1", blocks=blocks)
        port = free_port()
        machine.wait_for_answer(port, MODEL, start(machine, port))
        machine.wait_for_workers(port, workers)
        return load("conversations", port, MODEL, concurrency=CLIENTS, requests=CONVERSATIONS, max_tokens=ANSWER_TOKENS,
                    seed=seed)
