"""Figures of one run of the bench: one JSON line each in results/PART.jsonl, and a table of their medians."""

import json
import os
import pathlib
import statistics
import time

RESULTS = pathlib.Path(__file__).parent / "results"


class Figures:
    """The figures of one run, in the order in which they were first taken."""

    def __init__(self):
        self.rows = {}

    def add(self, part, name, value, unit, command):
        """Writes one measurement, with the load average of that moment."""
        load = round(os.getloadavg()[0], 2)
        line = {"time": round(time.time(), 1), "part": part, "name": name, "value": value, "unit": unit,
                "load": load, "command": command}
        RESULTS.mkdir(exist_ok=True)
        with open(RESULTS / f"{part}.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        self.rows.setdefault((part, name, unit, command), []).append((value, load))
        print(f"-- {part}: {name}: {value:.4g} {unit} (load {load})", flush=True)

    def table(self):
        """Markdown: median (min–max) of every figure."""
        lines = ["| part | figure | median (min–max) | unit | n | load | command |", "|---|---|---|---|---|---|---|"]
        for (part, name, unit, command), taken in self.rows.items():
            values = [value for value, _ in taken]
            loads = [load for _, load in taken]
            spread = f"{short(statistics.median(values))} ({short(min(values))}–{short(max(values))})"
            lines.append(f"| {part} | {name} | {spread} | {unit} | {len(values)} "
                         f"| {min(loads):.1f}–{max(loads):.1f} | `{command}` |")
        return "\n".join(lines)


def short(value):
    """Three significant digits, as a person writes them."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
