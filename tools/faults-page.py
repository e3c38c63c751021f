#!/usr/bin/env python3
"""Write docs/faults.md from the faults' definitions and what was measured of them."""

import json
from pathlib import Path

from chaos_core import catalogue

DOCS = Path(__file__).parents[1] / "docs"
(DOCS / "faults.md").write_text(catalogue.page(json.loads((DOCS / "catalogue.json").read_text())))
