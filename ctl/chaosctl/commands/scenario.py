"""``chaosctl validate`` and ``scenario schema``: scenarios without a controller or root.

Nothing is sent and nothing is changed: what cannot be known without the nodes (which of
them a target picks, what their own files allow) is left to the controller and the agents.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chaos_core.errors import ChaosError, InvalidInput
from chaosctl import output
from chaosctl.commands.run import EnvironmentOption, LevelOption, SetOption
from chaosctl.options import Output, OutputOption

if TYPE_CHECKING:
    from chaos_core.units import Duration
    from chaos_experiment.load import Loaded
    from chaos_experiment.rehearsal import Rehearsal
    from chaos_experiment.site import Site

app = typer.Typer(help="Scenario files.", no_args_is_help=True, rich_markup_mode=None)


def validate(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE…", help="Scenarios, YAML.")
    ] = None,
    settings: SetOption = None,
    level: LevelOption = "",
    environment: EnvironmentOption = "",
    profile: Annotated[
        str, typer.Option(help="Refuse (exit 3) what is above this profile's ceilings.")
    ] = "",
    site: Annotated[
        Path | None, typer.Option(help="A controller's site file: check it, and them beside it.")
    ] = None,
    form: OutputOption = Output.TABLE,
) -> None:
    """Check scenario files: every mistake at its line, and whose ceilings they are above.

    For example: chaosctl validate scenarios/*/*.yaml --profile lab
    """
    from chaos_experiment import rehearsal
    from chaos_experiment import site as sites

    if profile:
        rehearsal.profile(profile)
    asked = sites.load(_text(site), str(site)) if site else None
    if not files:
        if asked is None:
            raise InvalidInput("nothing to check", hint="name scenario files, or --site FILE")
        _tell_site(asked, as_json=form is Output.JSON)
        return
    rows: list[dict[str, Any]] = []
    problems: list[ChaosError] = []
    for file in files:
        try:
            row, refused = _validated(file, settings or [], level, environment, profile, asked)
            rows.append(row)
            problems = [*refused, *problems]  # mistakes last: the last one gives the exit code
        except InvalidInput as error:
            rows.append({"file": str(file), "valid": False, "problem": str(error)})
            problems.append(error)
    if form is Output.JSON:
        output.document(rows)
    else:
        shared = os.path.commonpath([file.absolute().parent for file in files])
        output.table(
            (f"FILE IN {os.path.relpath(shared)}", ">STEPS", ">ENDS", "", "ALLOWED FROM"),
            [_row(row, shared) for row in rows],
        )
    for problem in problems[:-1]:
        output.error(problem, as_json=form is Output.JSON)
    if problems:
        raise problems[-1]


@app.command()
def schema() -> None:
    """The JSON Schema of scenario files, with every fault and probe, for editors."""
    from chaos_experiment.schema import json_schema

    output.document(json_schema())


def read(
    file: Path, settings: list[str], level: str = "", environment: str = ""
) -> tuple[str, Loaded]:
    """The file's text and what it comes to. Raises InvalidInput at file:line:field."""
    from chaos_core.faults import from_words
    from chaos_experiment.load import load

    text = _text(file)
    return text, load(text, str(file), from_words(settings), level, environment)


def _text(file: Path) -> str:
    """What is in the file, not much more than may be. Raises InvalidInput."""
    from chaos_experiment.source import MAX_BYTES

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        return data.decode()
    except OSError as error:
        raise InvalidInput(
            f"cannot read it: {error.strerror}", where=str(file), hint="name a scenario file"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"not UTF-8: {error.reason}", where=f"{file}: byte {error.start}"
        ) from None


def show_plan(loaded: Loaded, profile: str, *, as_json: bool) -> None:
    """Print what it would do, step by step. Raises the first refusal after it."""
    from chaos_core import envelope
    from chaos_experiment import rehearsal

    done = rehearsal.rehearse(loaded, rehearsal.profile(profile or envelope.DEFAULT_PROFILE))
    if as_json:
        output.document(_as_json(loaded, done))
    else:
        _print(loaded, done)
    done.check()


def _validated(
    file: Path,
    settings: list[str],
    level: str,
    environment: str,
    profile: str,
    site: Site | None,
) -> tuple[dict[str, Any], tuple[ChaosError, ...]]:
    from chaos_core import faults
    from chaos_experiment import rehearsal

    _, loaded = read(file, settings, level, environment)
    if site is not None:
        site.joined(loaded)
    steps = loaded.plan.steps
    row = {
        "file": str(file),
        "valid": True,
        "title": loaded.scenario.title,
        "steps": len(steps),
        "ends": f"T+{clock(max(step.end for step in steps))}",
        "risky": any(faults.lookup(step.kind).risky for step in steps),
        "allowed_by": list(rehearsal.allowing(loaded)),
    }
    if not profile:
        return row, ()
    refusals = rehearsal.rehearse(loaded, rehearsal.profile(profile)).refusals
    return {**row, "refused": [str(each) for each in refusals]}, refusals


def _tell_site(site: Site, *, as_json: bool) -> None:
    """What a site asks of every experiment."""
    rows = [
        (part, each.name, each.text, each.why)
        for part in ("preflight", "advice", "abort_when")
        for each in getattr(site, part)
    ]
    heads = ("part", "name", "condition", "why")
    if as_json:
        output.document([dict(zip(heads, row, strict=True)) for row in rows])
    else:
        output.table([head.upper() for head in heads], rows)


def clock(at: Duration | int) -> str:
    """``1:05`` after T, with a fraction where there is one."""
    minutes, rest = divmod(int(at), 60_000_000)
    seconds = f"{rest / 1_000_000:06.3f}".rstrip("0").rstrip(".")
    return f"{minutes}:{seconds}"


def _print(loaded: Loaded, done: Rehearsal) -> None:
    plan = loaded.plan
    typer.echo(f"Dry run, profile {done.limits.profile}: nothing is sent or changed.\n")
    chosen = [("level", loaded.level), ("environment", loaded.environment)]
    given = [(f"  {name}", value) for name, value in loaded.params.items()]
    output.fields(
        [
            ("title", plan.title),
            *((name, value) for name, value in chosen if value),
            *([("params", "")] if given else []),
            *given,
        ]
    )
    typer.echo("\nTargets, picked from the fleet at the start:")
    output.fields((f"  {name}", target) for name, target in loaded.targets.items())
    _print_lookouts(loaded)
    _print_conditions(loaded)
    typer.echo("")
    output.table(("TIME", "EVENT", "ON", "UNTIL"), _timeline(loaded))
    typer.echo("")
    output.table(
        ("DRAWS", ">PEAK", ">CEILING", "ON", ">STEP"),
        [
            *((p.what, p.asked, p.ceiling, p.target, p.step) for p in done.peaks),
            *_without_a_ceiling(done),
            ("nodes at once", "", done.limits.nodes, "", ""),
        ],
    )
    _print_effects(done)
    risky = sorted({one.step.kind for one in done.steps if one.fault.risky})
    if risky:
        typer.echo(f"\nRisky: asks before it starts (or --yes): {', '.join(risky)}.")
    typer.echo("\nIf the controller has a site file, what that asks of every experiment is added.")
    if done.refusals:
        typer.echo("\nWould be refused:")
        for refusal in done.refusals:
            typer.echo(f"  {output.clean(refusal.what)}")


def _without_a_ceiling(done: Rehearsal) -> list[tuple[object, ...]]:
    """The row about steps of which nothing can be counted: allowed as such, or not."""
    found = [one.step for one in done.steps if one.draw.fault_class == "destructive"]
    if not found:
        return []
    on = ", ".join(dict.fromkeys(name for step in found for name in step.targets))
    steps = ", ".join(str(step.number) for step in found)
    return [("destructive", "yes", "allowed" if done.limits.destructive else "refused", on, steps)]


def _print_effects(done: Rehearsal) -> None:
    from chaos_core import effects

    shown: dict[object, int] = {}
    for one in done.steps:
        title = f"\nStep {one.step.number}, {one.step.kind} ({one.step.where}), does"
        same = shown.setdefault(one.effects, one.step.number)
        if same != one.step.number:
            typer.echo(f"{title} what step {same} does.")
            continue
        typer.echo(f"{title}:")
        for name, address in one.stand_ins.items():
            typer.echo(f"  ({address} stands for {name}: only the controller knows)")
        for effect in one.effects:
            for line in effects.describe(effect).splitlines():
                typer.echo(f"  {line}")
        typer.echo(f"  ended at the latest by: {one.fault.lease_holder}")


def _print_lookouts(loaded: Loaded) -> None:
    found = [(name, probe) for name, probe in loaded.probes.items() if probe.look_from]
    if found:
        typer.echo("\nLook from each node of a target, if its agent.toml allows it:")
        output.fields(
            (f"  {name}", f"{probe.kind} from {probe.look_from}") for name, probe in found
        )


def _print_conditions(loaded: Loaded) -> None:
    plan = loaded.plan
    parts = (
        ("must hold before anything begins", plan.preflight),
        (f"must hold over the baseline of {plan.baseline}", plan.steady_state),
        ("must hold while faults are in force", plan.during),
        ("ends it at once", plan.abort_when),
    )
    for title, conditions in parts:
        if conditions:
            typer.echo(f"\n{title[0].upper()}{title[1:]}:")
            for condition in conditions:
                typer.echo(f"  {output.clean(condition.text)}")
    if plan.steady_state:
        typer.echo(
            f"\nRecovered when it holds for {plan.stable_for} again, within {plan.recovery_within}."
        )


def _timeline(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    rows = [
        (int(step.at), f"T+{clock(step.at)}", _event(step), ", ".join(step.targets), step.end)
        for step in loaded.plan.steps
    ]
    lines = [(at, when, what, on, f"T+{clock(end)}") for at, when, what, on, end in rows]
    lines += [(int(n.at), f"T+{clock(n.at)}", f"“{n.text}”", "", "") for n in loaded.plan.notes]
    return [line[1:] for line in sorted(lines, key=lambda line: line[0])]


def _event(step: Any) -> str:
    shown = " ".join(f"{key}={_value(value)}" for key, value in step.params.items())
    note = f" — {step.note}" if step.note else ""
    return f"{step.number}. {step.kind} {shown}{note}"


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _row(row: dict[str, Any], shared: str) -> tuple[object, ...]:
    file = os.path.relpath(row["file"], shared)
    if not row["valid"]:
        return file, "", "", "wrong", "–"
    risky = "risky" if row["risky"] else ""
    strictest = next(iter(row["allowed_by"]), "nowhere")  # what one allows, the laxer ones do
    return file, row["steps"], row["ends"], risky, strictest


def _as_json(loaded: Loaded, done: Rehearsal) -> dict[str, Any]:
    from chaos_core import effects

    plan = loaded.plan
    return {
        "title": plan.title,
        "file": loaded.name,
        "level": loaded.level,
        "environment": loaded.environment,
        "params": dict(loaded.params),
        "profile": done.limits.profile,
        "allowed": not done.refusals,
        "refusals": [
            {"code": each.code, "error": each.what, "where": each.where} for each in done.refusals
        ],
        "targets": {
            name: target.model_dump(mode="json", exclude_defaults=True)
            for name, target in loaded.targets.items()
        },
        "probes": {
            name: {"kind": probe.kind, "from": probe.look_from or None}
            for name, probe in loaded.probes.items()
        },
        "conditions": {
            "preflight": [each.text for each in plan.preflight],
            "steady_state": [each.text for each in plan.steady_state],
            "during": [each.text for each in plan.during],
            "abort_when": [each.text for each in plan.abort_when],
        },
        "draw": {
            peak.what: {
                "asked": str(peak.asked),
                "ceiling": str(peak.ceiling),
                "target": peak.target,
                "step": peak.step,
            }
            for peak in done.peaks
        },
        "notes": [{"at": str(note.at), "text": note.text} for note in plan.notes],
        "steps": [
            {
                "number": one.step.number,
                "at": str(one.step.at),
                "for": str(one.step.duration),
                "kind": one.step.kind,
                "params": dict(one.step.params),
                "targets": list(one.step.targets),
                "note": one.step.note,
                "where": one.step.where,
                "risky": one.fault.risky,
                "lease_holder": one.fault.lease_holder,
                "stand_ins": dict(one.stand_ins),
                "effects": [effects.to_json(effect) for effect in one.effects],
            }
            for one in done.steps
        ],
    }
