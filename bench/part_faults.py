"""How soon a fault is noticed by the real processes: a worker that is killed, one that hangs, a client that leaves."""

import json
import os
import re
import signal
import socket
import time

from machine import ROUNDS, Machine, free_port, get, stop

PART = "faults"
WORKERS = 2
# A token in 23 ms, so that a stream outlasts what is done to it.
PACE = "0.25"
# Between two looks: what is measured may be late by one of them.
LOOK_S = 0.002
GIVEN_UP_S = 60
IN_ROUTING = ("ready", "slow")


def run(figures):
    with Machine() as machine:
        port = free_port()
        machine.our_frontend(port)
        workers = [Worker(machine) for _ in range(WORKERS)]
        for number in range(ROUNDS):
            wait_for(lambda: in_routing(port) == WORKERS, "both workers are in routing")
            lost(figures, port, workers[number % WORKERS], signal.SIGKILL, "kill -9 of an idle worker")
            workers[number % WORKERS] = Worker(machine)
            wait_for(lambda: in_routing(port) == WORKERS, "the new worker is in routing")
            lost(figures, port, workers[number % WORKERS], signal.SIGSTOP, "SIGSTOP of an idle worker")
            os.kill(workers[number % WORKERS].process.pid, signal.SIGCONT)
            wait_for(lambda: in_routing(port) == WORKERS, "the worker is back")
            cancel(figures, port, workers)


class Worker:
    """A mock worker of ours, timed."""

    def __init__(self, machine):
        self.system = free_port()
        self.process = machine.busbar(f"worker-{self.system}", "worker", "--engine", "mock", "--speedup-ratio", PACE,
                                      "--system-host", "127.0.0.1", "--system-port", self.system)

    def running(self):
        """Sequences in its engine."""
        text = get(self.system, "/metrics").decode()
        return sum(float(value) for value in re.findall(r"^busbar_engine_running_sequences\{.*\} (\S+)$", text, re.M))


def in_routing(port):
    workers = json.loads(get(port, "/status/snapshot") or "{}").get("workers", [])
    return sum(worker["state"] in IN_ROUTING for worker in workers)


def wait_for(holds, what):
    """Seconds until it holds."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > GIVEN_UP_S:
            raise SystemExit(f"bench: {GIVEN_UP_S} s passed until {what}")
        time.sleep(LOOK_S)
    return time.monotonic() - started


def lost(figures, port, worker, fault, what):
    os.kill(worker.process.pid, fault)
    seconds = wait_for(lambda: in_routing(port) < WORKERS, f"a worker is out of routing after {what}")
    figures.add(PART, f"{what} until it is out of routing", seconds * 1e3, "ms", "kill; GET /status/snapshot every 2 ms")
    if fault == signal.SIGKILL:
        stop(worker.process)


def cancel(figures, port, workers):
    body = json.dumps({"model": model(port), "messages": [{"role": "user", "content": "go on"}], "max_tokens": 2000,
                       "stream": True})
    client = socket.create_connection(("127.0.0.1", port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    client.sendall(f"{head}\r\n\r\n{body}".encode())
    wait_for(lambda: sum(worker.running() for worker in workers) == 1, "a sequence runs")
    client.recv(4096)
    client.close()
    seconds = wait_for(lambda: sum(worker.running() for worker in workers) == 0, "the engine is free")
    figures.add(PART, "a client leaves until the engine is free", seconds * 1e3, "ms", "close; GET /metrics every 2 ms")


def model(port):
    return json.loads(get(port, "/v1/models"))["data"][0]["id"]
