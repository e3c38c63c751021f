"""JUnit XML, for CI. A run is a testsuite; verdict, checks and SLO rows are its testcases.

Valid against Jenkins' schema and against windyroad's older one, so it has what the stricter
of the two wants. What was not seen or not done is an error, never skipped: a CI that treats
skipped as green must not turn green by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from xml.etree.ElementTree import Element, indent, tostring

from chaos_experiment.compare import Comparison
from chaos_experiment.record import Record
from chaos_experiment.reports import _content as content
from chaos_experiment.reports._markup import element

SUFFIX = ".xml"
_PROBLEMS = {"failed": "failure", "aborted": "failure"}  # every other verdict is an error


def render(record: Record) -> str:
    """One run."""
    return _document([_suite(record, 0)])


def render_suite(records: Sequence[Record], title: str) -> str:
    """Several runs, a testsuite each; ``title`` is their package."""
    return _document([_suite(record, n, title) for n, record in enumerate(records)])


def render_comparison(comparison: Comparison) -> str:
    """A testcase a figure; one that became worse is a failure."""
    record = comparison.record
    cases = [
        _case(
            record,
            "comparison",
            row.name,
            "failure" if row.worse else "",
            f"{row.now}, was {row.before}, limit {row.limit}",
        )
        for row in comparison.rows
    ]
    return _document([_testsuite(record, 0, "comparison", cases)])


def _suite(record: Record, number: int, package: str = "chaosctl") -> Element:
    word = content.verdict(record)
    problem = "" if word == "passed" else _PROBLEMS.get(word, "error")
    why = ": ".join(filter(None, (word, record.reason)))
    cases = [_case(record, "verdict", "verdict", problem, why, record.total_us or 0)]
    for check in record.checks:
        problem = "" if content.holds(check) else "failure"
        problem = "error" if check.held == "unknown" else problem
        cases.append(_case(record, check.phase, check.condition, problem, check.measured))
    for row in record.slo:
        name = f"{row.name} {row.target}"
        cases.append(_case(record, "slo", name, "" if row.held else "failure", row.measured))
    return _testsuite(record, number, package, cases)


def _testsuite(record: Record, number: int, package: str, cases: list[Element]) -> Element:
    said = (content.verdict(record), record.reason, content.decisive(record))
    facts = [*content.facts(record), *content.times(record)]
    return element(
        "testsuite",
        element("properties", (element("property", name=n, value=v) for n, v in facts)),
        cases,
        element("system-out", ". ".join(filter(None, said))),
        element("system-err"),
        id=number,
        package=package or "chaosctl",
        name=record.title or record.id,
        hostname="chaosctl",
        timestamp=_timestamp(record.started),
        time=_seconds(record.total_us or 0),
        tests=len(cases),
        failures=sum(case.find("failure") is not None for case in cases),
        errors=sum(case.find("error") is not None for case in cases),
    )


def _case(
    record: Record, group: str, name: str, problem: str, text: str, took_us: int = 0
) -> Element:
    inside = element(problem, text, type=group, message=text) if problem else None
    scenario = record.scenario or record.id
    return element(
        "testcase", inside, classname=f"{scenario}.{group}", name=name, time=_seconds(took_us)
    )


def _seconds(us: int) -> str:
    return f"{us / 1_000_000:.3f}"


def _timestamp(text: str) -> str:
    """To the second and without a zone, as the schemas want it; the epoch if it is no time."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return "1970-01-01T00:00:00"


def _document(suites: list[Element]) -> str:
    root = element("testsuites", suites)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'
