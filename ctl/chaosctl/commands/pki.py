"""``chaosctl pki``: the project's own certificates, tokens and enrolment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import InvalidInput
from chaosctl import output
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, default_pki, target

if TYPE_CHECKING:
    from chaos_proto.identity import Identity

CONTROLLER_PKI = Path("/etc/chaos/pki")

app = typer.Typer(
    help="Make the PKI, tokens for newcomers, and enrol with one.",
    no_args_is_help=False,
    rich_markup_mode=None,
)


@app.command()
def init(
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="A DNS name or address of the controller; may be repeated."),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the controller looks for it.")
    ] = CONTROLLER_PKI,
    operator: Annotated[str, typer.Option(help="The first operator's name.")] = "admin",
    form: OutputOption = Output.TABLE,
) -> None:
    """Make a CA, the controller's certificate and the first operator's. Overwrites nothing."""
    from chaos_proto import pki

    made = pki.init(directory, names=names or [], operator=operator)
    if form is Output.JSON:
        output.document(
            {
                "directory": str(made.directory),
                "operator": str(made.operator),
                "ca_hash": made.ca_hash,
            }
        )
        return
    output.fields(
        [
            ("CA and controller", made.directory),
            (f"operator/{operator}", made.operator),
            ("CA hash", made.ca_hash),
        ]
    )
    typer.echo(
        f"\nNext: systemctl enable --now chaos-controller\n      chaosctl nodes"
        f" --controller {(names or ['HOST'])[0]} --pki {shlex.quote(str(made.operator))}"
    )


@app.command()
def token(
    identity: Annotated[
        str, typer.Argument(metavar="IDENTITY", help="agent/NODE, operator/NAME or viewer/NAME.")
    ],
    ttl: Annotated[str, typer.Option(help="How long it is good for, once.")] = "1h",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Make a single-use token, and print the command with which a newcomer enrols."""
    from chaos_core.units import Duration
    from chaos_proto.identity import Identity
    from chaosctl import client

    who = Identity.parse(identity)
    if who.role == "controller":
        raise InvalidInput("a controller does not enrol", hint="chaosctl pki init")
    span = Duration.parse(ttl)
    if span < 1_000_000:
        raise InvalidInput(f"--ttl {ttl} is less than a second", hint="--ttl 1h")
    whom = target(controller, pki)
    with client.operator(whom) as stub:
        request = client.chaos_pb2.CreateTokenRequest(identity=str(who), ttl_s=span // 1_000_000)
        made = stub.CreateToken(request, timeout=client.ANSWER_S)
    command = enrol_command(who, whom.controller, made.token, made.ca_hash)
    if form is Output.JSON:
        output.document({"identity": str(who), **output.message(made), "command": command})
        return
    where = f"node {who.name}, as root" if who.role == "agent" else f"{who.name}'s machine"
    typer.echo(f"On {where}, once, before {made.expires}:\n\n  {command}")


def enrol_command(who: Identity, controller: str, secret: str, ca_hash: str) -> str:
    """The line to paste on the newcomer's machine. Enrolment has a port of its own."""
    from chaos_proto import address

    host, _ = address.split(controller)
    program = "chaos-agent enrol" if who.role == "agent" else "chaosctl pki enrol"
    where = address.join(host, address.ENROLMENT_PORT)
    return f"{program} {where} --token {shlex.quote(secret)} --ca-hash {ca_hash}"


@app.command()
def enrol(
    address: Annotated[str, typer.Argument(help="The controller's enrolment port, HOST[:7401].")],
    secret: Annotated[str, typer.Option("--token", help="From `chaosctl pki token`.")],
    ca_hash: Annotated[str, typer.Option(help="sha256:…, from the same place.")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where to keep the identity.", show_default=False),
    ] = None,
    form: OutputOption = Output.TABLE,
) -> None:
    """Trade a token for this operator's certificate. The key never leaves this machine."""
    from chaos_proto.enrol import enrol as trade

    chosen = directory or default_pki()
    who = trade(address, secret, ca_hash, chosen)
    if form is Output.JSON:
        output.document({"identity": str(who), "directory": str(chosen)})
    else:
        typer.echo(f"Enrolled as {who}; the identity is in {chosen}")
