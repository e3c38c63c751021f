"""JSON: the record itself, whose schema (``docs/record.schema.json``) is stable.

ASCII only, so that no text in it can drive a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from chaos_experiment.compare import Comparison
from chaos_experiment.record import Record
from chaos_experiment.reports import _content as content

SUFFIX = ".json"


def render(record: Record) -> str:
    """One run: the record."""
    return _text(record.model_dump(mode="json"))


def render_suite(records: Sequence[Record], title: str) -> str:
    """Several runs: ``title``, ``summary`` and ``records``."""
    return _text(
        {
            "title": title,
            "summary": asdict(content.summary(records)),
            "records": [record.model_dump(mode="json") for record in records],
        }
    )


def render_comparison(comparison: Comparison) -> str:
    """What became worse, and each figure; runs by their ids."""
    return _text(
        {
            "run": comparison.record.id,
            "older": [record.id for record in comparison.older],
            "worse": list(comparison.worse),
            "figures": [asdict(row) for row in comparison.rows],
        }
    )


def schema() -> str:
    """The JSON Schema of a record, as a document."""
    made = Record.model_json_schema()
    return (
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=2)
        + "\n"
    )


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
