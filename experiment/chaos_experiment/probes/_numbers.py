"""Answers that are a number, or else a text."""

from __future__ import annotations

import math

from chaos_experiment.probes import Seen


def number_or_text(text: str) -> Seen:
    """What one line says: a number where it is one, else a text without a value."""
    text = text.strip()
    try:
        value = float(text)
    except ValueError:
        return Seen(True, None, text)
    if not math.isfinite(value):
        return Seen(False, None, f"{text} is no figure")
    return Seen(True, value, text)
