"""Runs the parts of the bench that are named, and ends with a table. Called by run.sh, which brings what they need."""

import os
import signal
import sys

import part_faults
import part_frontend
import part_http
import part_libraries
import part_routers
import part_routing
import part_startup
from figures import Figures

PARTS = {
    "engine": part_libraries.engine,
    "http": part_http.run,
    "frontend": part_frontend.run,
    "routers": part_routers.run,
    "startup": part_startup.run,
    "faults": part_faults.run,
    "routing": part_routing.run,
    "router": part_libraries.router,
    "text": part_libraries.text,
}
# Above this many runnable processes a core the wall-clock figures say more about the neighbours.
QUIET_LOAD_A_CORE = 1.5


def main(parts):
    if os.getloadavg()[0] > QUIET_LOAD_A_CORE * (os.cpu_count() or 1):
        print(f"-- the load is {os.getloadavg()[0]:.1f}: trust the ratios and the CPU figures only", flush=True)
    figures = Figures()
    try:
        for part in parts:
            print(f"== {part}", flush=True)
            PARTS[part](figures)
    finally:
        if figures.rows:
            print(figures.table())


if __name__ == "__main__":
    # Leave through the context managers, which stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main(sys.argv[1:])
