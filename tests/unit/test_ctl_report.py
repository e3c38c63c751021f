"""``chaosctl report`` on records in files."""

from __future__ import annotations

import json
import stat
import webbrowser
from pathlib import Path
from urllib.parse import urlparse

import pytest
from tests.unit.simulated_runs import refused, simulated

from chaos_experiment.reports import formats
from chaosctl.main import main

PASSED, SLOW = simulated(), simulated(id="x-slow", slow_after_s=25.0)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some records, which is the current one."""
    for record in (PASSED, SLOW, refused()):
        (tmp_path / f"{record.id}.json").write_text(formats()["json"].render(record))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_summary_fits_a_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "x-slow.json"]) == 0
    out = capsys.readouterr().out
    assert SLOW.reason in out
    assert "T+1:00" in out
    assert main(["report", *map(str, sorted(runs.glob("*.json")))]) == 0
    out += capsys.readouterr().out
    assert "slowest 25.00 s (x-slow)" in out
    tables = [line for line in out.splitlines() if ": " not in line]
    assert all(len(line.rstrip()) <= 80 for line in tables)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("option", "name"),
    [("--html", "html"), ("--markdown", "markdown"), ("--junit", "junit"), ("-ojson", "json")],
)
def test_each_form_is_printed_or_written(
    option: str, name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form = formats()[name]
    assert main(["report", "x-slow.json", option]) == 0
    assert capsys.readouterr().out == form.render(SLOW)
    to = runs / f"out{form.SUFFIX}"
    assert main(["report", "x-slow.json", "x-7k2qd.json", "--to", str(to), "--title", "Two"]) == 0
    assert to.read_text() == form.render_suite([SLOW, PASSED], "Two")


@pytest.mark.usefixtures("runs")
def test_a_regression_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "x-slow.json", "--against", "x-7k2qd.json"]) == 1
    assert "worse than run x-7k2qd: recovery time" in capsys.readouterr().out
    assert main(["report", "x-7k2qd.json", "--against", "x-slow.json", "--against",
                 "x-7k2qd.json", "-ojson"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["older"] == ["x-slow", "x-7k2qd"]


@pytest.mark.usefixtures("runs")
def test_the_browser_gets_a_page_that_nobody_else_can_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Path] = []

    def browser(url: str) -> bool:
        opened.append(Path(urlparse(url).path))
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", browser)
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(["report", "x-slow.json", "--open"]) == 0
    (page,) = opened
    assert page.read_text() == formats()["html"].render(SLOW)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert main(["report", "x-slow.json", "--open", "--to", "mine.html"]) == 1
    assert "no browser could be started\n  → open mine.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nothing.json"], "nothing.json: cannot read it"),
        (["bad.json"], "bad.json: no record: probes.0.points.0.p99: "),
        (["text.json"], "text.json: no record: Invalid JSON: expected ident at line 2"),
        (["x-slow.json", "--to", "out.pdf"], "which form?"),
        (["x-slow.json", "--to", "missing/out.md"], "missing/out.md: cannot write it"),
        (["x-slow.json", "--html", "--junit"], "one form at a time, not html and junit"),
        (["x-slow.json", "--junit", "--open"], "--open shows HTML"),
        (
            ["x-slow.json", "x-7k2qd.json", "--against", "x-7k2qd.json"],
            "--against and --history compare one run",
        ),
    ],
)
def test_bad_input_is_one_clear_message_and_2(
    argv: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = json.loads(formats()["json"].render(SLOW))
    broken["probes"][0]["points"][0]["p99"] = "fast"
    (runs / "bad.json").write_text(json.dumps(broken))
    (runs / "text.json").write_text('{\n"id": nothing}')
    assert main(["report", *argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) <= 2
