#!/usr/bin/env python3
"""Write docs/record.schema.json from the record's model."""

from pathlib import Path

from chaos_experiment.reports import json

(Path(__file__).parents[1] / "docs" / "record.schema.json").write_text(json.schema())
