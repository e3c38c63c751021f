#!/usr/bin/env python3
"""Write docs/probes.md from the probes' definitions."""

from pathlib import Path

from chaos_experiment.probes._page import page

(Path(__file__).parents[1] / "docs/probes.md").write_text(page())
