"""The benches of the crates: engine against the bare library loop, text, router."""

import json
import os
import re
import statistics
import subprocess

from machine import ROOT, ROUNDS, THREADS, needed

PART = "engine"
ROW = re.compile(r"(.+): engine (\d+), bare (\d+) tokens/s, ratio ([\d.]+); CPU ([\d.]+) and ([\d.]+) s")
GAP = re.compile(r"(\d+) streams while 500 tokens enter: worst gap (\d+) ms, first token after (\d+) ms")


def executable(package, bench):
    """The bench, built; BENCH_ENGINE_BIN and the like name one that is built already."""
    given = os.environ.get(f"BENCH_{bench.upper()}_BIN")
    if given:
        return given
    done = subprocess.run(["cargo", "bench", "--locked", "-p", package, "--bench", bench, "--no-run",
                           "--message-format", "json-render-diagnostics"],
                          cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    built = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    return next(path for path in reversed(built) if path)


def told_by(command, **env):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)}: {done.stderr[-800:]}")
    return done.stdout


def engine_figures(bench, rounds):
    """(figure, side) to value: tokens a second and CPU seconds of engine and bare loop, the engine's gaps in ms."""
    found = {}
    for line in told_by([bench, needed("BENCH_GGUF"), str(THREADS), str(rounds), "--bench"]).splitlines():
        if row := ROW.match(line):
            found[row[1], "engine"], found[row[1], "bare"] = float(row[2]), float(row[3])
            found[f"CPU of {row[1]}", "engine"], found[f"CPU of {row[1]}", "bare"] = float(row[5]), float(row[6])
        if gap := GAP.match(line):
            found[f"worst gap of {gap[1]} streams while 500 tokens enter", "engine"] = float(gap[2])
            found[f"first token of 500 tokens among {gap[1]} streams", "engine"] = float(gap[3])
    if not found:
        raise SystemExit("bench: the engine's bench told no figure that is understood here")
    return found


def bare_figures(bench, rounds):
    """Figure to its median over `rounds` of the bare loop alone: tokens a second and CPU seconds."""
    values = {}
    for _ in range(rounds):
        for line in told_by([bench, needed("BENCH_GGUF"), str(THREADS), "1", "--side=bare", "--bench"]).splitlines():
            name, rate, cpu = line.split("\t")
            values.setdefault(name, []).append(float(rate))
            values.setdefault(f"CPU of {name}", []).append(float(cpu))
    return {name: statistics.median(found) for name, found in values.items()}


def engine(figures):
    bench = executable("worker", "engine")
    command = f"cargo bench -p worker --bench engine -- GGUF {THREADS} 1"
    for _ in range(ROUNDS):
        found = engine_figures(bench, 1)
        for (name, side), value in found.items():
            figures.add(PART, f"{name}, {side}", value, unit_of(name), command)
            if side == "bare":
                ratio = found[name, "engine"] / value
                figures.add(PART, f"{name}, engine / bare", ratio, "ratio", "quotient within a round")


def unit_of(name):
    if name.startswith("CPU"):
        return "s"
    return "ms" if "enter" in name or "first token" in name else "tokens/s"


def text(_):
    for bench in ("text", "turns"):
        print(told_by([executable("frontend", bench), "--bench"], BUSBAR_TEST_MODEL_DIR=needed("BENCH_HF_FOLDER")))


def router(_):
    print(told_by([executable("router", "index"), "--bench"]))
    print(told_by([executable("frontend", "warm"), "--bench"]))
