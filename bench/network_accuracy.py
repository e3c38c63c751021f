"""How exact ``network.*`` are beside tcconfig: asked and got, on the same kernel.

    .venv/bin/python bench/network_accuracy.py

What is measured, and how, is in ``bench/latency/accuracy.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    os.execv(sys.executable, [sys.executable, "-m", "bench.latency.accuracy", *sys.argv[1:]])  # noqa: S606
