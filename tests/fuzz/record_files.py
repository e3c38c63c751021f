"""Records of experiments, damaged anywhere or written by an enemy, and what is made of them.

What must hold: a clear error or a report, never another exception; no report has an element
that the style of none of ours has, loads anything, or holds what drives a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target

from chaos_core.errors import InvalidInput
from chaos_experiment.compare import compare
from chaos_experiment.record import Record
from chaos_experiment.reports import formats
from chaosctl.commands.report import parse

_S = 1_000_000
_POINT = {"at_us": _S, "count": 9, "failed": 2, "p50": 2e3, "p99": 3e3, "max": 4e3, "text": "503"}
_SPAN = {"probe": "shop", "count": 9, "failed": 2, "p99": 3e3}
_RECORD: dict[str, Any] = {
    "id": "x-1",
    "title": "Shop",
    "hypothesis": "It holds",
    "tags": ["network"],
    "params": {"delay": "50ms"},
    "started": "2026-11-21T02:00:00Z",
    "targets": {"slow": ["web-2"]},
    "injected_us": 2 * _S,
    "phases": [{"phase": "observe", "start_us": 2 * _S, "end_us": 9 * _S}],
    "events": [
        {"at_us": 2 * _S, "what": "fault", "text": "in force", "node": "web-2"},
        {"at_us": 5 * _S, "what": "guard", "text": "p99 > 1s"},
    ],
    "faults": [
        {"step": 1, "kind": "network.latency", "params": {"delay": "50ms"}, "nodes": ["web-2"],
         "start_us": 2 * _S, "end_us": 7 * _S, "verdict": "held", "reason": ""},
    ],
    "probes": [
        {"name": "shop", "kind": "http", "unit": "duration",
         "points": [_POINT, {**_POINT, "at_us": 3 * _S, "p99": None}, {**_POINT, "at_us": 9 * _S}]},
        {"name": "lag", "kind": "postgres", "unit": "", "points": [{**_POINT, "last": 0.5}]},
    ],
    "spans": [{**_SPAN, "phase": "baseline"}, {**_SPAN, "phase": "fault"}],
    "health": [[0, 100.0], [_S, 80.0]],
    "checks": [
        {"phase": "baseline", "condition": "shop.p99 < 1s", "held": "yes", "measured": "3.0 ms"},
        {"phase": "abort", "condition": "shop.p99 > 1s", "held": "yes", "measured": "2 s"},
    ],
    "slo": [{"name": "MTTR", "target": "1 s", "measured": "2 s", "held": False}],
    "recovery_us": _S,
    "verdict": "aborted",
    "score": 40.0,
}  # fmt: skip
_OTHER = Record.model_validate(_RECORD)
_MARKUP = (
    "</td></svg></style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "]]><!-- -->&lt;b&gt;&#60;",
    "`|[a](javascript:x)<b>",
    "\x1b[2J\u202e\x9b31m\n# forged",
)
_INTS = (0, -1, 1, 2**53, -(2**53))
_FLOATS = (0.0, -1.0, 1e18, -1e18, 5e-324)
_BEYOND = (2**53 + 1, 2**64, 10**400, 1e19, float("nan"), float("-inf"))
_WORDS = frozenset({"yes", "duration", "baseline", "fault", "aborted", ""})  # of closed sets
_ELEMENTS = re.findall(
    r"\S+",
    """html head meta title style body main h1 h2 h3 p div dl dt dd span strong b a section table
    thead tbody tr th td figure figcaption svg rect line path text""",
)


def _make(dice: Dice) -> bytes:
    data = dumped(_changed(dice, _RECORD)).encode(errors="surrogatepass")
    return dice.damaged(data) if dice.one_in(8) else data


def _changed(dice: Dice, value: Any) -> Any:
    """The same with a leaf here and there replaced by one of its type, seldom by anything."""
    match value:
        case bool():
            return value
        case dict():
            return {key: _changed(dice, each) for key, each in value.items()}
        case list():
            times = dice.choice((0, 2, 9)) if dice.one_in(20) else 1
            return [_changed(dice, each) for each in value for _ in range(times)]
    if dice.one_in(600):
        return dice.choice((*_BEYOND, dice.value()))
    if not dice.one_in(8) or value is None or (isinstance(value, str) and value in _WORDS):
        return value
    if isinstance(value, str):
        return dice.choice((*_MARKUP, dice.text()))
    return dice.choice(_INTS if isinstance(value, int) else _FLOATS)


@contextmanager
def _open() -> Iterator[Check]:
    yield _check


def _check(data: bytes) -> None:
    try:
        record = parse(data, "record.json")
    except InvalidInput:
        return
    for name, form in formats().items():
        for text in (
            form.render(record),
            form.render_suite([record, _OTHER], record.title),
            form.render_comparison(compare(record, [_OTHER])),
        ):
            assert all(c.isprintable() or c == "\n" for c in text), "drives a terminal"
            if name == "html":
                _Judge().feed(text)
            elif name == "junit":
                ElementTree.fromstring(text)  # noqa: S314
            elif name == "json":
                json.loads(text)


class _Judge(HTMLParser):
    """Raises on an element or an attribute that a page of ours never has."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _ELEMENTS, f"<{tag}> out of a text"
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "style", "action"), name
            assert name != "href" or (value or "").startswith("#run-"), value
            assert not {"nan", "inf"} & set((value or "").split()), f"{name} is no number"

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment out of a text: {data}")


TARGET = Target("record_files", _make, _open)
