"""``chaosctl report``: what a run, or several, came to; for people, for CI, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import ChaosError, InvalidInput
from chaosctl import output
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, target

if TYPE_CHECKING:
    from chaos_experiment.compare import Comparison
    from chaos_experiment.record import Record

MAX_BYTES = 64 << 20  # of a record's file; one of an hour with 20 probes has 20 MiB

RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN|FILE…", help="Runs, or files that `-o json` wrote.")
]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN|FILE", help="Compare with it; several are the run's history."),
]
_LOOKED_AT = 1000  # runs of the controller's, for a history


def report(
    runs: RunsArgument,
    html: Annotated[bool, typer.Option("--html", help="One page, with charts.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown.")] = False,
    junit: Annotated[bool, typer.Option("--junit", help="JUnit XML.")] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there; its ending says the form.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    against: AgainstOption = None,
    history: Annotated[
        int, typer.Option(min=0, metavar="N", help="Compare with its last N runs, as they were.")
    ] = 0,
    title: Annotated[str, typer.Option(help="Of the report of several runs.")] = "Chaos suite",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Report on a run; on several, with a scorecard; or on a run beside older ones.

    Without a form: a summary for the terminal. Exits 0 whatever the verdicts were, and with
    --against or --history 1 when something became worse. A run's history are those of the same
    scenario with the same values before it.
    """
    from chaos_core.errors import Exit
    from chaos_experiment.compare import compare
    from chaos_experiment.reports import formats

    name = _form(html, markdown, junit, form is Output.JSON, to, show)
    if (against or history) and len(runs) != 1:
        what = "--against and --history compare one run"
        raise InvalidInput(what, hint="name one RUN, and --against others")
    records = [load(each, controller, pki) for each in runs]
    before = _history(records[0], history, controller, pki) if history else []
    older = [load(each, controller, pki) for each in (*(against or ()), *before)]
    comparison = compare(records[0], older) if older else None
    if name is None:
        _summary(records, comparison)
    else:
        module = formats()[name]
        if comparison is not None:
            text = module.render_comparison(comparison)
        elif len(records) == 1:
            text = module.render(records[0])
        else:
            text = module.render_suite(records, title)
        _give(text, to, show, records[0].id)
    if comparison is not None and comparison.worse:
        raise typer.Exit(Exit.FAILED)


def load(name: str, controller: str = "", pki: Path | None = None) -> Record:
    """The record in a file, or of a run that the controller knows. Raises ChaosError."""
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return parse(_read(path), name)
    return parse(fetch(name, controller, pki), name)


def _history(record: Record, most: int, controller: str, pki: Path | None) -> list[str]:
    """The last runs of it that passed: of the same scenario, with the same values, before it.

    Raises InvalidInput when there is none.
    """
    import json

    from chaosctl import client

    same = {"title": record.title, "scenario": record.scenario, "params": record.params}
    request = client.chaos_pb2.ListRunsRequest(limit=_LOOKED_AT)
    with client.operator(target(controller, pki)) as stub:
        runs = stub.ListRuns(request, timeout=client.ANSWER_S).runs
    found = [
        run.id
        for run in runs
        if run.verdict == "passed"
        and (run.started, run.id) < (record.started, record.id)
        and json.loads(run.params or "null") == same
    ]
    if not found:
        raise InvalidInput(
            "the controller knows no earlier run of it that passed",
            where=record.id,
            hint="chaosctl runs",
        )
    return found[:most]


def fetch(run: str, controller: str, pki: Path | None) -> bytes:
    """The JSON of a run's record, from the controller."""
    from chaosctl import client

    request = client.chaos_pb2.GetRecordRequest(run=run)
    with client.operator(target(controller, pki)) as stub:
        parts = [part.json for part in stub.GetRecord(request, timeout=client.ANSWER_S)]
    return "".join(parts).encode()


def parse(data: bytes, where: str) -> Record:
    """A record from its JSON. Raises InvalidInput naming the field."""
    from pydantic import ValidationError

    from chaos_experiment.record import Record

    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = f"{field}: {first['msg']}" if field else first["msg"]
        hint = "a record is what `chaosctl report RUN -o json` writes"
        raise InvalidInput(f"no record: {what}", where=where, hint=hint) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read it: {error.strerror}", where=str(path)) from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"more than {MAX_BYTES >> 20} MiB", where=str(path))
    return data


def _form(
    html: bool, markdown: bool, junit: bool, as_json: bool, to: Path | None, show: bool
) -> str | None:
    """The format that was asked for; None for the terminal's summary. Raises InvalidInput."""
    from chaos_experiment.reports import formats

    asked = {"html": html, "markdown": markdown, "junit": junit, "json": as_json}
    names = [name for name, wanted in asked.items() if wanted]
    if len(names) > 1:
        raise InvalidInput(f"one form at a time, not {' and '.join(names)}")
    if show and names not in ([], ["html"]):
        raise InvalidInput("--open shows HTML", hint="add --html, or leave the form out")
    if names or show:
        return names[0] if names else "html"
    if to is None:
        return None
    by_suffix = {module.SUFFIX: name for name, module in formats().items()}
    if to.suffix not in by_suffix:
        known = ", ".join(by_suffix)
        raise InvalidInput(f"--to {to}: which form?", hint=f"--html, …, or an ending of {known}")
    return by_suffix[to.suffix]


def _give(text: str, to: Path | None, show: bool, run: str) -> None:
    """Print it, or write it and show where."""
    if to is None and not show:
        typer.echo(text, nl=False)
        return
    path = to if to is not None else _scratch(run)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write it: {error.strerror}", where=str(path)) from None
    output.note(f"written to {path}")
    if show:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            raise ChaosError("no browser could be started", hint=f"open {path} in one")


def _scratch(run: str) -> Path:
    """A new file of this user alone, which stays for the browser to read."""
    import tempfile

    safe = "".join(c for c in run if c.isalnum() or c in "-_")[:40]
    with tempfile.NamedTemporaryFile(prefix=f"chaos-{safe}-", suffix=".html", delete=False) as file:
        return Path(file.name)


# ── the summary for the terminal ──────────────────────────────────────────────────────────


def _summary(records: list[Record], comparison: Comparison | None) -> None:
    if comparison is not None:
        columns = ("FIGURE", "BEFORE", "NOW", "CHANGE", "LIMIT", "")
        rows = [
            (row.name, row.before, row.now, row.change, row.limit, "worse" if row.worse else "")
            for row in comparison.rows
        ]
        output.table(columns, rows)
        typer.echo("")
        typer.echo(output.clean(comparison.summary))
    elif len(records) == 1:
        _one(records[0])
    else:
        _several(records)


def _one(record: Record) -> None:
    from chaos_experiment.reports import _content as content

    sample = content.decisive(record)
    pairs = [("verdict", record.verdict or "running"), ("reason", record.reason or "–")]
    pairs += [("", sample)] if sample else []
    pairs += [(name.lower(), value) for name, value in content.times(record)]
    pairs += [(name.lower(), value) for name, value in content.facts(record)]
    output.fields([("title", record.title), *pairs])
    for columns, rows in (
        (content.SLO, content.slo(record)),
        (content.TIMELINE, content.timeline(record)),
        (content.CHECKS, content.checks(record)),
    ):
        if rows:
            typer.echo("")
            output.table([column.upper() for column in columns], rows)


def _several(records: list[Record]) -> None:
    from chaos_experiment.reports import _content as content

    rows = [(row[0], *row[2:]) for row in content.scorecard(records)]
    output.table([name.upper() for name in content.SCORECARD if name != "title"], rows)
    found = content.summary(records)
    typer.echo("")
    for line in (found.verdicts, f"score: {found.scores}", f"recovery: {found.recoveries}"):
        typer.echo(output.clean(line))
