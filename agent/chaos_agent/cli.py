"""``chaos-agent``'s commands for people: recover, doctor, faults, apply, enrol."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from chaos_agent import config as configuration
from chaos_core.errors import ChaosError, Exit, InvalidInput, Residue

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The agent of one node. It decides what may be done here, whoever asks.",
    epilog="Exit codes: 0 done, 1 failed, 2 invalid input, 3 refused, 6 node quarantined.",
)


class Output(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"


ConfigOption = Annotated[Path, typer.Option("--config", help="The agent's configuration.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]
_DEFAULT = configuration.DEFAULT_PATH


@app.command("run")
def run_keeper(config: ConfigOption = _DEFAULT) -> None:
    """Run the keeper (root): leases, limits and effects. Started by systemd."""
    from chaos_agent import serve

    serve.keeper(config)


@app.command("link")
def run_link(config: ConfigOption = _DEFAULT) -> None:
    """Run the link (user chaos): the connection to the controller. Started by systemd."""
    from chaos_agent import serve

    serve.link(config)


@app.command()
def recover(
    config: ConfigOption = _DEFAULT,
    release: Annotated[
        str, typer.Option(help="Also lift the quarantine, for this reason, if all is clean.")
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Take off whatever of ours is on this node; idempotent, offline."""
    from chaos_agent.linux.boottime import now_us
    from chaos_agent.linux.host import Host
    from chaos_agent.privilege import need_root, sole_keeper
    from chaos_agent.recover import recover as run_recover
    from chaos_agent.recover import release_quarantine
    from chaos_core.log import Log

    need_root()
    settings = _settings(config)
    log = Log.to_stderr("recover", node=settings.node)
    with sole_keeper(settings.runtime), Host() as host:
        report = run_recover(host, settings.state, now_us, log)
        if release and not report.difference:
            release_quarantine(settings.state, release, log)
    if output is Output.JSON:
        typer.echo(json.dumps({name: getattr(report, name) for name in report.__slots__}))
    else:
        for title, lines in (("recovered", report.faults), ("swept", report.swept)):
            for line in lines:
                typer.echo(f"{title}: {line}")
    if report.difference:
        raise Residue(
            "not clean: " + "; ".join(report.difference),
            where=settings.node,
            hint="set it right by hand, then `chaos-agent recover --release REASON`",
        )
    if output is Output.TABLE:
        typer.echo("clean")


def _settings(path: Path) -> configuration.AgentConfig:
    """The configuration; recover must run even when the file is broken."""
    try:
        return configuration.load(path)
    except ChaosError as error:
        typer.echo(f"warning: {error}", err=True)
        return configuration.AgentConfig(node="unknown")


@app.command()
def doctor(config: ConfigOption = _DEFAULT, output: OutputOption = Output.TABLE) -> None:
    """Say for each fault whether this host can do it, and if not why, by trying.

    And which ports are protected as SSH's: by the file, and by who listens.
    """
    from chaos_agent.linux.host import Host
    from chaos_agent.offers import examine_host
    from chaos_agent.privilege import need_root

    need_root()
    settings = _settings(config)
    with Host() as host:
        offers = examine_host(host, settings.hooks, settings.services)
        found = {"identity": _identity(), "ssh": _ssh(settings, host), **offers}
    if output is Output.JSON:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"identity  {found['identity']}")
    typer.echo(f"firewall  {found['firewall']}")
    for line in _ssh_lines(found["ssh"]):
        typer.echo(f"ssh       {line}")
    typer.echo()
    for kind, offer in found["kinds"].items():
        typer.echo(f"{'yes' if offer['ok'] else 'NO ':4}{kind:20} {offer['why']}".rstrip())
    for problem in found["problems"]:
        typer.echo(f"NO  {problem}")
    typer.echo("\nwhat was tried:")
    for ability in found["abilities"]:
        mark = "NO" if not ability["ok"] else "?" if ability["why"] else "yes"
        typer.echo(f"{mark:4}{ability['name']:20} {ability['why']}".rstrip())


def _ssh(settings: configuration.AgentConfig, host: Any) -> Any:
    """The protected ports, or the line that says why nobody knows who listens."""
    from chaos_agent.offers import ssh_ports

    try:
        return ssh_ports(settings, host)
    except ChaosError as error:
        return error.what


def _ssh_lines(found: Any) -> list[str]:
    if isinstance(found, str):
        return [f"NOT KNOWN, so faults of the network are refused: {found}"]
    lines = []
    for one in found:
        why = ["configured"] if one["configured"] else []
        why += [f"found: {one['found']}"] if one["found"] else []
        warning = f"  WARNING: {one['warning']}" if one["warning"] else ""
        lines.append(f"port {one['port']} is protected ({'; '.join(why)}){warning}")
    return lines


def _identity() -> str:
    """Who this node is to the controller and until when, or why it is nobody."""
    from chaos_proto.credentials import Credentials

    try:
        leaf = Credentials.read(configuration.PKI).check()
    except ChaosError as error:
        return f"NONE THAT CAN BE USED: {error}"
    return f"{leaf.identity}, until {leaf.expires:%Y-%m-%d %H:%M} UTC"


@app.command()
def faults(
    kind: Annotated[str, typer.Argument(help="One kind, with its parameters.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List the kinds of faults and their parameters."""
    from chaos_core.faults import kinds, lookup

    chosen = {kind: lookup(kind)} if kind else dict(kinds())
    if output is Output.JSON:
        schemas = {
            name: {"summary": cls.summary, "schema": cls.model_json_schema()}
            for name, cls in chosen.items()
        }
        typer.echo(json.dumps(schemas, indent=2))
        return
    for name, cls in chosen.items():
        typer.echo(f"{name:20} {cls.summary}")
        typer.echo(f"{'':20}   {cls.example}")
        for field, info in cls.model_fields.items() if kind else ():
            need = "required" if info.is_required() else f"default {info.default!s}"
            typer.echo(f"  {field:14} {info.description} ({need})")


@app.command()
def apply(
    kind: Annotated[str, typer.Argument(help="For example network.latency.")],
    params: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", default_factory=list)],
    local: Annotated[bool, typer.Option("--local", help="Grant the lease from here.")] = False,
    duration: Annotated[str, typer.Option("--for", help="How long, like 30s.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the effects.")] = False,
    config: ConfigOption = _DEFAULT,
    output: OutputOption = Output.TABLE,
) -> None:
    """Try one fault on this node, under the same engine and limits as from afar."""
    from chaos_core.faults import from_words, parse
    from chaos_core.units import Duration

    if not local and not dry_run:
        raise InvalidInput(
            "only --local faults are started here", hint="from afar, use `chaosctl inject`"
        )
    if not duration:
        raise InvalidInput("--for is required", hint="for example --for 30s")
    values = from_words(params)
    fault = parse(kind, values)
    length = Duration.parse(duration)
    settings = configuration.load(config)
    if dry_run:
        _print_effects(fault, settings, length)
        return
    status = _apply_local(settings, kind, values, length, output)
    if status.state == "refused":
        sys.exit(Exit.INVALID if status.code == "invalid" else Exit.REFUSED)
    if not status.clean:
        sys.exit(Exit.NODE_UNREACHABLE)
    sys.exit(Exit.DONE if status.reason in ("duration", "stopped") else Exit.FAILED)


def _print_effects(fault: Any, settings: configuration.AgentConfig, length: Any) -> None:
    from chaos_agent.linux.host import Host
    from chaos_agent.offers import memory_total, node_view
    from chaos_core import envelope
    from chaos_core.effects import describe

    envelope.check(settings.envelope, fault.draw().on(memory_total()), length)
    host = Host()
    for effect in fault.compile(node_view(settings, host, fault), "00000000"):
        typer.echo(describe(effect))
    host.close()


def _apply_local(
    settings: configuration.AgentConfig, kind: str, values: Any, length: Any, output: Output
) -> Any:
    from chaos_agent.engine import Engine
    from chaos_agent.journal import Journal
    from chaos_agent.linux.boottime import now_us
    from chaos_agent.linux.host import Host
    from chaos_agent.local import apply as hold
    from chaos_agent.offers import memory_total, node_view
    from chaos_agent.privilege import need_root, sole_keeper
    from chaos_agent.recover import recover as run_recover
    from chaos_agent.supervisor import Supervisor
    from chaos_core.log import Log
    from chaos_core.messages import FaultStatus

    def tell(status: FaultStatus) -> None:
        if output is Output.JSON:
            typer.echo(status.model_dump_json())
        else:
            words = [status.state, status.reason, "" if status.clean else "NOT CLEAN"]
            words += [f"hit {status.hits}"] if status.hits else []
            typer.echo("  ".join(word for word in [*words, status.detail] if word))

    need_root()
    log = Log.to_stderr("apply", node=settings.node)
    with sole_keeper(settings.runtime):
        host = Host(settings.services)
        run_recover(host, settings.state, now_us, log)
        engine = Engine(
            host, Journal(settings.state), lambda fault: node_view(settings, host, fault), now_us
        )
        return hold(
            Supervisor(settings, engine, log, memory_total()),
            fault=secrets.token_hex(4),
            kind=kind,
            params=values,
            duration=length,
            clock=now_us,
            tell=tell,
        )


@app.command()
def enrol(
    address: Annotated[str, typer.Argument(help="The controller, host[:7401].")],
    token: Annotated[str, typer.Option(help="From `chaosctl pki token agent/NODE`.")],
    ca_hash: Annotated[str, typer.Option(help="The controller's CA, sha256:…, pinned.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where the identity goes.")] = (
        configuration.PKI
    ),
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of the identity that is there.")
    ] = False,
) -> None:
    """Trade a token for this node's certificate. The link renews it from then on."""
    import os
    import pwd

    from chaos_proto.enrol import enrol as trade

    uid = gid = -1
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            link = pwd.getpwnam(configuration.LINK_USER)
            uid, gid = link.pw_uid, link.pw_gid
    identity = trade(address, token, ca_hash, directory, replace=replace, uid=uid, gid=gid)
    typer.echo(f"enrolled as {identity}; the identity is in {directory}")
