"""Reports, one module a format. Adding one is adding a file here and its test.

A format is a module with ``SUFFIX`` and pure functions of what ``Format`` lists. Modules are
discovered by being here; a name that starts with an underscore is a helper.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol, cast

from chaos_experiment.compare import Comparison
from chaos_experiment.record import Record


class Format(Protocol):
    """What each module here has. All give one text, to be kept as UTF-8."""

    @property
    def SUFFIX(self) -> str:  # noqa: N802
        """Of its files, like ``.md``."""

    def render(self, record: Record) -> str:
        """One run."""

    def render_suite(self, records: Sequence[Record], title: str) -> str:
        """Several runs: a scorecard, then each."""

    def render_comparison(self, comparison: Comparison) -> str:
        """A run beside another one, or beside its own history."""


@cache
def formats() -> Mapping[str, Format]:
    """Every format by its name, sorted."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: cast("Format", importlib.import_module(f"{__name__}.{name}")) for name in names}
