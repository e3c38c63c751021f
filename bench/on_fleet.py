"""What it takes to measure on VMs: footprint, throughput of bystanders, time to abort.

    .venv/bin/python bench/on_fleet.py

Boots a fleet of its own, measures one after the other, and ends it. The figures
are in ``bench/fleet``, a module each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    os.execv(sys.executable, [sys.executable, "-m", "bench.fleet", *sys.argv[1:]])  # noqa: S606
