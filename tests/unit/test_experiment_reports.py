"""What reports say, in every format, and that texts of others stay texts in them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulated_runs import BASELINE, refused, simulated

from chaos_core.hits import Hits
from chaos_experiment.compare import compare
from chaos_experiment.record import Check, Event, FaultSpan, PhaseSpan, Point, ProbeRecord, Record
from chaos_experiment.reports import _content as content
from chaos_experiment.reports import _svg as svg
from chaos_experiment.reports import formats, html, junit, markdown
from chaos_experiment.reports import json as as_json

S = 1_000_000
SCHEMA = Path(__file__).parents[2] / "docs" / "record.schema.json"
HOSTILE = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`|[a](javascript:x)\n"
    "# forged\n| a | b |\x1b[2J\u202e &amp; ]]> -->"
)
PASSED = simulated()
FAILED = simulated(id="x-slow", slow_after_s=25.0, failing=0.03, median_ms=14.0)
ABORTED = simulated(id="x-abort", failing=0.09, abort_at_s=18)
EVERY = [PASSED, FAILED, ABORTED, refused()]
# What was parsed of a record before it had any field but the required ones.
EMPTY = Record(id="x-0", title="", started="")


def hostile(record: Record) -> Record:
    """The record with hostile texts wherever the schema lets a text be."""
    closed = {"held", "unit", "verdict", "version"}

    def spoil(value: Any) -> Any:
        if isinstance(value, str):
            return HOSTILE
        if isinstance(value, list):
            return [spoil(each) for each in value]
        if not isinstance(value, dict):
            return value
        span = "p95" in value  # the phase of a span is one of three
        kept = closed | ({"phase"} if span else set())
        return {key: each if key in kept else spoil(each) for key, each in value.items()}

    data = spoil(record.model_dump(mode="json"))
    data["params"] = {HOSTILE: HOSTILE}
    data["targets"] = {HOSTILE: [HOSTILE]}
    data["faults"][0]["params"] = {HOSTILE: {HOSTILE: [HOSTILE]}}
    return Record.model_validate(data)


class Tags(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


# ── every format ──────────────────────────────────────────────────────────────────────────


def test_formats_are_found_by_being_there() -> None:
    found = {name: form.SUFFIX for name, form in formats().items()}
    assert found == {"html": ".html", "json": ".json", "junit": ".xml", "markdown": ".md"}


@pytest.mark.parametrize("name", list(formats()))
@pytest.mark.parametrize("record", [*EVERY, EMPTY, hostile(ABORTED)], ids=lambda r: r.id[:7])
def test_every_run_can_be_reported_and_drives_no_terminal(name: str, record: Record) -> None:
    form = formats()[name]
    for text in (
        form.render(record),
        form.render_suite([record, PASSED], record.title),
        form.render_suite([], ""),
        form.render_comparison(compare(record, [PASSED, record])),
    ):
        assert all(c.isprintable() or c == "\n" for c in text.removesuffix("\n"))
        assert text.endswith("\n")
        text.encode()


@pytest.mark.parametrize("name", ["html", "markdown", "junit"])
@pytest.mark.parametrize("record", EVERY, ids=lambda r: r.verdict)
def test_the_verdict_its_reason_and_the_sample_are_there(name: str, record: Record) -> None:
    text = re.sub(r"\\(.)", r"\1", formats()[name].render(record)) if name == "markdown" else ""
    text = text or Tags(formats()[name].render(record)).text + formats()[name].render(record)
    assert str(record.verdict) in text.lower()
    for wanted in (record.title, record.reason, content.decisive(record)):
        assert wanted
        assert wanted in text or wanted.replace("<", "&lt;").replace(">", "&gt;") in text


def test_a_suite_compares_the_recoveries() -> None:
    found = content.summary(EVERY)
    assert found.verdicts == "4 runs: 1 passed, 1 failed, 1 aborted, 1 refused"
    assert found.recoveries == (
        "average 12.33 s, fastest 6.00 s (x-7k2qd), slowest 25.00 s (x-slow)"
    )
    assert "3 of 4 runs have a score" in found.scores
    for name in ("markdown", "html"):
        text = formats()[name].render_suite(EVERY, "Nightly")
        assert found.recoveries in text
        assert all(record.id in text for record in EVERY)


# ── what is said ──────────────────────────────────────────────────────────────────────────


def test_moments_count_from_the_injection_and_round_away_from_it() -> None:
    shown = [content.clock(PASSED, BASELINE + off) for off in (-30 * S, -1, 0, 999_999, 65 * S)]
    assert shown == ["T−0:30", "T−0:01", "T+0:00", "T+0:00", "T+1:05"]
    assert content.clock(refused(), 12 * S) == "0:12"


def test_the_timeline_has_what_was_done_beside_what_was_seen() -> None:
    rows = content.timeline(ABORTED)
    assert ("T+0:00", "fault: web-2: network.latency in force", "") in rows
    text = "guard: abort: shop.error_rate > 5% over 5s for 5s was 7.25 %"
    assert ("T+0:17", "", text) in rows
    assert content.timeline(EMPTY) == []


def test_parameters_are_shown_as_one_writes_them() -> None:
    span = FaultSpan(
        step=1, kind="network.reject", params={"peers": ["role=db", "n1"], "share": "10%"},
        nodes=["n2"], start_us=None, end_us=None, verdict="refused", reason="",
    )  # fmt: skip
    record = Record(id="r-1", title="t", started="2026-11-28T16:00:00Z", faults=[span])
    assert content.faults(record)[0][1] == "network.reject peers=role=db,n1 share=10%"


def test_what_a_fault_hit_stands_beside_it_and_what_is_not_counted_is_no_zero() -> None:
    hits = Hits(count=12, unit="packets", seen=9000)
    span = FaultSpan(
        step=1, kind="network.latency", params={}, nodes=["n1", "n2"], start_us=None, end_us=None,
        verdict="held", reason="", hits={"n1": hits},
    )  # fmt: skip
    uncounted = span.model_copy(update={"hits": {}})
    record = Record(id="r-1", title="t", started="2026-11-28T16:00:00Z", faults=[span, uncounted],
                    verdict="no_effect")  # fmt: skip
    column = content.FAULTS.index("hit")
    assert [row[column] for row in content.faults(record)] == ["n1: 12 of 9000 packets",
                                                               "not counted"]  # fmt: skip
    assert "n1: 12 of 9000 packets" in markdown.render(record)
    assert "n1: 12 of 9000 packets" in html.render(record)
    assert json.loads(record.model_dump_json())["faults"][0]["hits"]["n1"]["count"] == 12
    assert "<error" in junit.render(record), "nothing was proven, and nothing has failed"


def test_the_sample_that_decided() -> None:
    assert content.decisive(ABORTED) == (
        "Decided by shop.error_rate > 5% over 5s for 5s: 7.25 % (abort at T+0:17)"
    )
    assert content.decisive(FAILED).startswith("Decided by shop.error_rate < 1%: ")
    assert content.decisive(refused()).startswith("Decided by shop.error_rate < 0.1% over 10s: 3.4")
    worst = max(
        point.p99 or 0
        for point in PASSED.probes[0].points
        if BASELINE <= point.at_us < BASELINE + 60 * S
    )
    assert f"{worst / 1000:.1f} ms" in content.decisive(PASSED)
    assert content.decisive(EMPTY) == ""
    guarded = ABORTED.model_copy(update={"checks": []})
    assert content.decisive(guarded).startswith("Decided at T+0:17: abort: shop.error_rate > 5%")
    by_hand = guarded.model_copy(update={"events": []})
    assert content.decisive(by_hand) == "", "an operator decided"


def test_the_parts_of_the_score_add_up_to_it() -> None:
    rows = content.score_parts(PASSED)
    total = sum(float(points.split()[0]) for _, _, points in rows)
    assert total == pytest.approx(PASSED.score, abs=0.2)
    assert content.score_parts(FAILED)[-1] == ("cap", "verdict: failed", "at most 70")
    assert content.score_parts(refused()) == []


# ── JSON ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("record", [*EVERY, EMPTY, hostile(FAILED)], ids=lambda r: r.id[:7])
def test_json_is_the_record(record: Record) -> None:
    assert Record.model_validate_json(as_json.render(record)) == record


def test_the_schema_in_the_documentation_is_that_of_the_record() -> None:
    assert SCHEMA.read_text() == as_json.schema()
    assert json.loads(as_json.schema())["properties"]["version"]["const"] == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-1e19", "9" * 400])
def test_numbers_that_no_picture_can_hold_are_refused(number: str) -> None:
    text = '{"id": "x", "title": "", "started": "", "health": [[0, NUMBER]]}'
    with pytest.raises(ValueError, match="health"):
        Record.model_validate_json(text.replace("NUMBER", number))


# ── HTML ──────────────────────────────────────────────────────────────────────────────────

PAGES = [
    html.render(hostile(ABORTED)),
    html.render_suite([hostile(ABORTED), *EVERY], HOSTILE),
    html.render_comparison(compare(hostile(ABORTED), [hostile(FAILED)])),
]


@pytest.mark.parametrize("page", PAGES)
def test_no_text_becomes_markup_and_nothing_is_loaded_or_run(page: str) -> None:
    tags = Tags(page)
    known = re.findall(
        r"\S+",
        """html head meta title style body main h1 h2 h3 p div dl dt dd span strong b a section
        table thead tbody tr th td figure figcaption svg rect line path text""",
    )
    assert {tag for tag, _ in tags.found} <= set(known)
    for tag, attributes in tags.found:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not {"src", "srcset", "style", "xlink:href", "action"} & attributes.keys()
        assert attributes.get("href", "#run-0").startswith("#run-")  # type: ignore[union-attr]
        if tag == "meta" and "http-equiv" in attributes:
            assert attributes["http-equiv"] == "Content-Security-Policy"
    assert "url(" not in page
    assert "@import" not in page
    assert "<script>alert(1)</script>" in tags.text, "shown as it was written"


def test_a_page_is_well_formed() -> None:
    """As XML, but for its declaration and the elements that HTML closes by themselves."""
    page = html.render(PASSED).removeprefix("<!doctype html>\n")
    root = ElementTree.fromstring(re.sub(r"<meta ([^>]*)>", r"<meta \1/>", page))  # noqa: S314
    assert root.tag == "html"


@pytest.mark.parametrize(
    ("cell", "breaks"),
    [("T+0:15", False), ("−0:30", False), ("≤ 120 s", False), ("40.0 of 40", False),
     ("The network to the database is slow", True), ("10 % of new connections are refused", True),
     ("Two", True)],
)  # fmt: skip
def test_figures_stay_on_one_line_and_titles_do_not(cell: str, breaks: bool) -> None:
    title = Record(id="r-1", title=cell, started="2026-11-28T16:00:00Z", verdict="passed")
    page = html.render_suite([title], "Suite")
    assert (f"<td>{cell}</td>" in page) is breaks


def test_the_charts_of_a_run() -> None:
    text = html.render(ABORTED)
    labels = [a["aria-label"] for tag, a in Tags(text).found if a.get("class") == "wide"]
    assert labels == [
        "Phases and faults", "shop: latency (ms)", "Error rate (%)", "Health, 0 to 100",
        "replica-lag: value",
    ]  # fmt: skip
    assert text.count('class="narrow"') == len(labels)
    assert "aria-label" not in html.render(EMPTY), "nothing seen, nothing drawn"


def test_a_page_follows_the_reader_s_screen_paper_and_light() -> None:
    page = html.render(PASSED)
    for wanted in ("prefers-color-scheme: dark", "@media print", "max-width", 'name="viewport"'):
        assert wanted in page


def _drawn(picture: ElementTree.Element) -> list[tuple[float, float]]:
    """The steps of the first line, as (x, value) by the picture's own axis."""
    marks = [
        (float(text.get("y", "")) - 4, float(text.text or ""))
        for text in picture.iter("text")
        if text.get("text-anchor") == "end" and re.fullmatch(r"[-0-9.]+", text.text or "")
    ]
    (y0, v0), (y1, v1) = marks[0], marks[-1]
    path = next(p.get("d", "") for p in picture.iter("path") if "line main" in p.get("class", ""))
    head = re.match(r"M([-0-9.]+) ([-0-9.]+)", path)
    assert head
    steps = [(float(head[1]), float(head[2]))]
    steps += [(float(x), float(y)) for x, y in re.findall(r"H([-0-9.]+)V([-0-9.]+)", path)]
    return [(x, v0 + (y - y0) * (v1 - v0) / (y1 - y0)) for x, y in steps]


def test_a_chart_shows_the_values_that_it_was_given() -> None:
    values = [(second * S, 10_000.0 * (1 + second % 7)) for second in range(30)]
    frame = svg.Frame(0, 30 * S, lambda at: f"T+{at}")
    figure = svg.chart(frame, "latency", "duration", [svg.Line("p99", values)])
    wide = next(child for child in figure if child.get("class") == "wide")
    drawn = _drawn(wide)[:-1]
    assert [value for _, value in drawn] == pytest.approx([v / 1000 for _, v in values], abs=0.3)
    xs = [x for x, _ in drawn]
    assert all(b - a == pytest.approx(xs[1] - xs[0], abs=0.2) for a, b in pairwise(xs))


def test_a_line_breaks_where_nothing_was_seen_and_no_peak_is_left_out() -> None:
    rows: list[svg.Value] = [(0, 1.0), (S, None), (2 * S, 3.0), (3 * S, 3.0), (9 * S, 4.0)]
    assert svg.runs(rows) == [
        [(0, 1.0), (S, 1.0)],
        [(2 * S, 3.0), (3 * S, 3.0), (4 * S, 3.0)],
        [(9 * S, 4.0), (10 * S, 4.0)],
    ]
    many: list[svg.Value] = [(at, 1.0 if at != 4321 else 99.0) for at in range(10_000)]
    kept = svg.thin(many, 500)
    assert len(kept) <= 500
    assert (4321, 99.0) in kept


FLOATS = st.floats(-1e18, 1e18)


@given(FLOATS, FLOATS, st.integers(2, 8))
def test_ticks_are_few_and_around_the_values(one: float, two: float, count: int) -> None:
    low, high = min(one, two), max(one, two)
    found = svg.ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= count + 3
    assert found == sorted(set(found))


_POINTS = st.lists(
    st.builds(
        Point, at_us=st.integers(0, 2**53), count=st.integers(0, 9), failed=st.integers(0, 9),
        p50=st.none() | FLOATS, p99=st.none() | FLOATS, last=st.none() | FLOATS,
    ),
    max_size=4,
)  # fmt: skip
_TIMES = st.integers(-(2**53), 2**53)
RECORDS = st.builds(
    Record,
    id=st.text(max_size=5), title=st.text(max_size=5), started=st.text(max_size=5),
    injected_us=st.none() | _TIMES,
    phases=st.lists(st.builds(PhaseSpan, phase=st.text(max_size=9), start_us=_TIMES,
                              end_us=_TIMES), max_size=3),
    events=st.lists(st.builds(Event, at_us=_TIMES, what=st.sampled_from(["guard", "x"]),
                              text=st.text(max_size=9)), max_size=3),
    probes=st.lists(st.builds(ProbeRecord, name=st.text(max_size=3), kind=st.just("k"),
                              unit=st.sampled_from(["duration", "percent", ""]), points=_POINTS),
                    max_size=3),
    health=st.lists(st.tuples(_TIMES, FLOATS), max_size=3),
    checks=st.lists(st.builds(Check, phase=st.text(max_size=5), condition=st.text(max_size=9),
                              held=st.sampled_from(["yes", "no", "unknown"]),
                              measured=st.text(max_size=3)), max_size=2),
    recovery_us=st.none() | _TIMES,
    verdict=st.sampled_from([None, "passed", "failed", "aborted"]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(RECORDS)
def test_no_record_that_the_schema_allows_breaks_a_report(record: Record) -> None:
    for form in formats().values():
        text = form.render(record)
        if form is formats()["html"]:
            assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)


# ── Markdown ──────────────────────────────────────────────────────────────────────────────


def test_no_text_becomes_markdown() -> None:
    text = markdown.render(hostile(ABORTED))
    outside = re.sub(r"```text\n.*?```", "", text, flags=re.DOTALL)
    bare = re.sub(r"\\.", "", outside)
    assert not re.search(r"[<`\[\]]", bare)
    assert "# forged" not in bare
    assert text.count("```") == 2


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for text in (markdown.render(hostile(ABORTED)), markdown.render_suite(EVERY, HOSTILE)):
        tables = re.findall(r"(?:^\|.*\n)+", re.sub(r"\\.", "", text), flags=re.MULTILINE)
        assert len(tables) > 4
        for table in tables:
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_course_shows_the_fault_where_it_was() -> None:
    text = markdown.render(PASSED)
    shop, fault = (re.search(rf"{name} +(\S{{60}})", text) for name in ("shop p99", "fault"))
    assert shop
    assert fault
    hurt = {n for n, cell in enumerate(fault[1]) if cell == "█"}
    assert hurt == set(range(min(hurt), max(hurt) + 1))
    slow = {n for n, cell in enumerate(shop[1]) if cell in "▅▆▇█"}
    assert len(slow & hurt) > 0.8 * len(hurt)
    assert not slow & set(range(min(hurt) - 1))


# ── JUnit ─────────────────────────────────────────────────────────────────────────────────

# What both the Jenkins and the windyroad schema allow, and the latter wants.
_SUITE = {"id", "package", "name", "hostname", "timestamp", "time", "tests", "failures", "errors"}


def _valid(text: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(text)  # noqa: S314
    assert (root.tag, root.attrib) == ("testsuites", {})
    for suite in root:
        assert suite.tag == "testsuite"
        assert set(suite.attrib) == _SUITE
        assert all(suite.get(name) for name in ("package", "hostname"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        tags = [child.tag for child in suite]
        cases = suite.findall("testcase")
        wanted = ["properties", *["testcase"] * len(cases), "system-out", "system-err"]
        assert tags == wanted
        for case in cases:
            assert set(case.attrib) == {"classname", "name", "time"}
            assert [child.tag for child in case] in ([], ["failure"], ["error"])
            assert all(set(child.attrib) == {"type", "message"} for child in case)
        for problem in ("failure", "error"):
            count = sum(case.find(problem) is not None for case in cases)
            assert suite.get(f"{problem}s") == str(count)
        assert suite.get("tests") == str(len(cases))
    return list(root)


def test_junit_is_valid_and_counts_what_did_not_hold() -> None:
    suites = _valid(junit.render_suite([*EVERY, EMPTY, hostile(ABORTED)], HOSTILE))
    found = [(s.get("tests"), s.get("failures"), s.get("errors")) for s in suites[:4]]
    assert found == [("13", "0", "0"), ("13", "3", "0"), ("14", "5", "0"), ("3", "1", "2")]


def test_junit_of_a_comparison_fails_by_what_became_worse() -> None:
    comparison = compare(FAILED, [PASSED])
    (suite,) = _valid(junit.render_comparison(comparison))
    bad = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert tuple(bad) == comparison.worse
    assert "recovery time" in bad


def test_whatever_did_not_pass_is_not_green_in_ci() -> None:
    for record in (*EVERY[1:], EMPTY):
        (suite,) = _valid(junit.render(record))
        assert suite.get("failures") != "0" or suite.get("errors") != "0"
