"""Start-up and memory: the whole graph with the real model, and each frontend alone before running workers."""

import time

from machine import ROUNDS, Machine, free_port, load, rss_mb, stop

PART = "startup"
MODEL = "SmolLM2-135M-Instruct"
UP = "busbar up --detach"


def run(figures):
    with Machine() as machine:
        graph(machine, figures)
    with Machine() as machine:
        machine.stock_mockers()
        frontends(machine, figures)


def graph(machine, figures):
    for number in range(ROUNDS):
        port = free_port()
        started = time.monotonic()
        machine.run_busbar("up", "--detach", "-o", "json", "--port", port)
        try:
            figures.add(PART, "busbar up until it says that it serves", time.monotonic() - started, "s", UP)
            machine.wait_for_answer(port, MODEL)
            figures.add(PART, "busbar up until the first answer of the real model", time.monotonic() - started, "s", UP)
            memory(machine, figures, "idle")
            if number == 0:
                load("requests", port, MODEL, concurrency=8, requests=64, max_tokens=48, stream=1)
                memory(machine, figures, "after 64 answers of 48 tokens at 8 at once")
        finally:
            machine.run_busbar("down")


def memory(machine, figures, when):
    graph_run = machine.run_busbar("status", "-o", "json")["runs"][0]
    for process in graph_run["processes"]:
        kind = "frontend" if process["component"] == "Frontend" else "embedded worker"
        whole, anonymous = rss_mb(process["identity"]["pid"])
        figures.add(PART, f"RSS of the {kind}, {when}", whole, "MB", f"{UP}; VmRSS")
        figures.add(PART, f"of it not mapped from a file, {kind}, {when}", anonymous, "MB", f"{UP}; RssAnon")
    whole, _ = rss_mb(graph_run["supervisor"]["pid"])
    figures.add(PART, f"RSS of the supervisor, {when}", whole, "MB", f"{UP}; VmRSS")


def frontends(machine, figures):
    sides = (("ours", machine.our_frontend, "busbar frontend --router-mode kv"),
             ("stock", machine.stock_frontend, "python -m dynamo.frontend --router-mode kv"))
    # The first start reads the files of both from the disk; it is not counted.
    for number in range(-1, ROUNDS):
        for name, start, command in sides:
            port = free_port()
            started = time.monotonic()
            process = start(port)
            machine.wait_for_answer(port, "tiny", process)
            seconds = time.monotonic() - started
            if number >= 0:
                figures.add(PART, f"frontend alone until its first 200, {name}", seconds, "s", command)
                figures.add(PART, f"RSS of the frontend alone, idle, {name}", rss_mb(process.pid)[0], "MB", command)
            stop(process)
