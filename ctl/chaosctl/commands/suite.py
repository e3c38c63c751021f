"""``chaosctl suite``: scenarios one after another, with a report on all of them.

Every scenario is checked before the first one starts. One that the controller refuses counts as
refused, and the others go on unless the suite fails fast. Ctrl-C (or SIGTERM) ends the
experiment that goes on and with it the suite; what was run by then is reported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import ChaosError, ControllerUnreachable, InvalidInput, Latched
from chaosctl import output
from chaosctl.commands.inject import INTERRUPTED
from chaosctl.commands.run import (
    EnvironmentOption,
    Following,
    LevelOption,
    SetOption,
    confirm,
    length_of,
    request_of,
    terminate_as_ctrl_c,
)
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, Target, target

if TYPE_CHECKING:
    from chaos_core.units import Duration
    from chaos_experiment.load import Loaded
    from chaos_experiment.record import Record
    from chaos_experiment.suites import Entry, Suite

app = typer.Typer(
    help="Run scenarios one after another.", no_args_is_help=True, rich_markup_mode=None
)

NAME = "suites.yaml"
PLACES = (Path("scenarios"), Path("/usr/share/chaosctl/scenarios"))
# Which verdict decides for the whole suite, the worst first.
_WORST = ("aborted", "interrupted", "failed", "no_effect", "refused", "passed")

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help=f"The suites; else {NAME} in scenarios/ here or where it was installed.",
        show_default=False,
    ),
]


@app.command("list")
def list_suites(file: FileOption = None, form: OutputOption = Output.TABLE) -> None:
    """List the suites."""
    _, suites = read(file)
    if form is Output.JSON:
        output.document(
            [
                {
                    "name": suite.name,
                    "title": suite.title,
                    "cooldown": str(suite.cooldown),
                    "fail_fast": suite.fail_fast,
                    "scenarios": [entry.model_dump(mode="json") for entry in suite.entries],
                }
                for suite in suites.values()
            ]
        )
        return
    rows = [(suite.name, len(suite.entries), suite.title) for suite in suites.values()]
    output.table(("SUITE", ">SCENARIOS", "TITLE"), rows)


@app.command("run")
def run_suite(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="chaosctl suite list")],
    file: FileOption = None,
    settings: SetOption = None,
    level: LevelOption = "",
    environment: EnvironmentOption = "",
    fail_fast: Annotated[
        bool | None,
        typer.Option("--fail-fast/--go-on", help="End at the first that does not pass, or not."),
    ] = None,
    cooldown: Annotated[str, typer.Option(metavar="DURATION", help="Between two.")] = "",
    reports: Annotated[
        Path | None, typer.Option("--reports", metavar="DIR", help="Write reports there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check every scenario; needs nobody.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about risky kinds.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Run a suite; exits by the worst verdict.

    --set, --level and --env are for every scenario that does not say otherwise itself.
    """
    from chaos_core.faults import from_words
    from chaos_core.units import Duration
    from chaos_experiment import suites

    where, known = read(file)
    suite = suites.suite(known, name)
    given = from_words(settings or [])
    chosen = [_Chosen.of(entry, where, given, level, environment) for entry in suite.entries]
    if dry_run:
        _show(suite, chosen, as_json=form is Output.JSON)
        return
    whom = target(controller, pki)
    if not yes:
        confirm(suite.title, (step.kind for each in chosen for step in each.loaded.plan.steps))
    if reports is not None:
        _prepare(reports)
    terminate_as_ctrl_c()
    played = _Played(suite, whom, reports, reason, as_json=form is Output.JSON)
    pause = Duration.parse(cooldown) if cooldown else suite.cooldown
    played.play(chosen, pause, suite.fail_fast if fail_fast is None else fail_fast)
    raise typer.Exit(played.finish())


def read(file: Path | None) -> tuple[Path, dict[str, Suite]]:
    """Where the scenarios are, and the suites. Raises InvalidInput."""
    from chaos_experiment import suites

    places = [file] if file else [place / NAME for place in PLACES]
    for path in places:
        try:
            return path.parent, suites.load(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read it: {error}", where=str(path)) from None
    looked = " and ".join(map(str, places))
    raise InvalidInput("there are no suites", where=looked, hint="--file FILE")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A scenario of the suite, checked."""

    file: Path
    text: str
    loaded: Loaded
    settings: dict[str, str]

    @classmethod
    def of(
        cls, entry: Entry, where: Path, given: dict[str, str], level: str, environment: str
    ) -> _Chosen:
        from chaosctl.commands import scenario

        file = where / entry.file
        settings = {**given, **entry.settings}
        words = [f"{key}={value}" for key, value in settings.items()]
        text, loaded = scenario.read(
            file, words, entry.level or level, entry.environment or environment
        )
        return cls(file, text, loaded, settings)

    @property
    def called(self) -> str:
        return f"{self.file.stem} {self.loaded.level}".strip()


class _Played:
    """A suite as it is played."""

    def __init__(
        self, suite: Suite, whom: Target, reports: Path | None, reason: str, *, as_json: bool
    ) -> None:
        self._suite = suite
        self._whom = whom
        self._reports = reports
        self._reason = reason
        self._as_json = as_json
        self._records: list[Record] = []
        self._error: ChaosError | None = None  # with which nothing more can be run
        self._interrupted = False

    def play(self, chosen: list[_Chosen], pause: Duration, fail_fast: bool) -> None:
        """One after another; until one does not pass if it is to end there."""
        for number, each in enumerate(chosen, 1):
            try:
                if number > 1:
                    self._tell(f"\ncooldown of {pause}")
                    time.sleep(pause.seconds)
                self._tell(f"\n{number} of {len(chosen)}: {each.called}: {each.loaded.plan.title}")
                record = self._one(number, each)
            except (KeyboardInterrupt, typer.Exit):
                self._interrupted = True
                record = None
            except (ControllerUnreachable, Latched) as error:
                self._error = error
                record = None
            if record is not None:
                self._records.append(record)
                if record.verdict == "passed" or not (fail_fast or record.verdict == "aborted"):
                    continue
            left = len(chosen) - number
            self._tell(f"\nended there; {left} not run" if left else "")
            return

    def _one(self, number: int, each: _Chosen) -> Record:
        """The record of one scenario, run to its end; also when it was not let begin."""
        from chaosctl import timeline
        from chaosctl.commands import report

        loaded = each.loaded
        request = request_of(
            each.file, each.text, each.settings, loaded.level, loaded.environment, self._reason
        )
        try:
            with timeline.view(as_json=self._as_json, duration_us=length_of(loaded)) as shown:
                following = Following(self._whom, shown)
                following.follow(request)
        except (ControllerUnreachable, Latched):
            raise
        except ChaosError as error:
            output.error(error, as_json=self._as_json)
            return _refused(number, each, error)
        data = report.fetch(following.run, self._whom.controller, self._whom.pki)
        return report.parse(data, following.run)

    def finish(self) -> int:
        """Print and write what came of it; the exit code. Raises what ended it, if anything did."""
        from chaosctl import timeline

        if self._as_json:
            for record in self._records:
                output.line({"run": record.id, "verdict": record.verdict, "score": record.score})
        elif self._records:
            typer.echo("")
            output.table(
                ("RUN", "SCENARIO", "VERDICT", ">RECOVERY", ">SCORE"), map(_row, self._records)
            )
        if self._reports is not None and self._records:
            _write(self._reports, self._suite.title, self._records)
            self._tell(f"reports: {self._reports}")
        if self._error is not None:
            raise self._error
        if self._interrupted:
            return INTERRUPTED
        verdicts = {record.verdict for record in self._records}
        return timeline.exit_of(next(each for each in _WORST if each in verdicts))

    def _tell(self, text: str) -> None:
        if not self._as_json:
            output.note(text)


def _refused(number: int, each: _Chosen, error: ChaosError) -> Record:
    """Of a scenario that the controller did not let begin, for reports and exit code."""
    from chaos_experiment.record import Record

    return Record(
        id=f"not-begun-{number}",
        title=each.loaded.plan.title,
        scenario=each.file.name,
        level=each.loaded.level,
        environment=each.loaded.environment,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        verdict="refused",
        reason=f"{error.where}: {error.what}" if error.where else error.what,
    )


def _row(record: Record) -> tuple[object, ...]:
    took = "–" if record.recovery_us is None else f"{record.recovery_us / 1_000_000:.1f} s"
    score = "–" if record.score is None else f"{record.score:g}"
    called = f"{record.scenario.removesuffix('.yaml')} {record.level}".strip()
    return record.id, called, record.verdict, took, score


def _show(suite: Suite, chosen: list[_Chosen], *, as_json: bool) -> None:
    """What would be run."""
    if as_json:
        output.document(
            [
                {
                    "file": str(each.file),
                    "level": each.loaded.level,
                    "title": each.loaded.plan.title,
                    "length_us": length_of(each.loaded),
                    "kinds": sorted({step.kind for step in each.loaded.plan.steps}),
                }
                for each in chosen
            ]
        )
        return
    typer.echo(f"Suite {suite.name}: nothing is sent or changed.\n")
    rows = (
        (each.called, f"{length_of(each.loaded) // 1_000_000} s", each.loaded.plan.title)
        for each in chosen
    )
    output.table(("SCENARIO", ">FAULTS", "TITLE"), rows)


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"cannot write there: {error.strerror}", where=str(directory), hint="--reports DIR"
        ) from None


def _write(directory: Path, title: str, records: list[Record]) -> None:
    """Each run's reports and those on the suite, in every format."""
    from chaos_experiment import reports

    for form in reports.formats().values():
        for record in records:
            path = directory / f"{record.id}{form.SUFFIX}"
            path.write_text(form.render(record), encoding="utf-8")
        path = directory / f"suite{form.SUFFIX}"
        path.write_text(form.render_suite(records, title), encoding="utf-8")
