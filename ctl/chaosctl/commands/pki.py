"""``chaosctl pki``: the project's own certificates, tokens and enrolment."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import InvalidInput
from chaosctl import output
from chaosctl.options import (
    ControllerOption,
    Output,
    OutputOption,
    PkiOption,
    YesOption,
    default_pki,
    target,
)

if TYPE_CHECKING:
    from chaos_proto.identity import Identity
    from chaos_proto.v1.chaos_pb2 import Certificate

CONTROLLER_PKI = Path("/etc/chaos/pki")
_SERIAL = 12  # as many digits of a serial number as are shown

app = typer.Typer(
    help="Make the PKI and tokens for newcomers; enrol, renew, list and revoke.",
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
    """Make a CA and the first operator's identity. Overwrites nothing."""
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
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of the identity that is there.")
    ] = False,
    form: OutputOption = Output.TABLE,
) -> None:
    """Trade a token for this operator's certificate. The key never leaves this machine."""
    from chaos_proto.enrol import enrol as trade

    chosen = directory or default_pki()
    who = trade(address, secret, ca_hash, chosen, replace=replace)
    if form is Output.JSON:
        output.document({"identity": str(who), "directory": str(chosen)})
    else:
        typer.echo(f"Enrolled as {who}; the identity is in {chosen}")


@app.command()
def renew(
    form: OutputOption = Output.TABLE, controller: ControllerOption = "", pki: PkiOption = None
) -> None:
    """Get a new key and certificate for yourself, before the old one expires.

    Name and role stay. Nodes and the controller renew theirs by themselves.
    """
    from chaos_proto.renew import renew as trade

    whom = target(controller, pki)
    leaf = trade(whom.controller, whom.pki)
    facts = {
        "identity": str(leaf.identity),
        "serial": leaf.serial,
        "expires": f"{leaf.expires:%Y-%m-%dT%H:%M:%SZ}",
        "directory": str(whom.pki),
    }
    if form is Output.JSON:
        output.document(facts)
    else:
        output.fields(list(facts.items()))


@app.command()
def operator(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The operator's name.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the controller's PKI is.")
    ] = CONTROLLER_PKI,
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of the identity that is there.")
    ] = False,
    form: OutputOption = Output.TABLE,
) -> None:
    """Make an operator's identity on the controller's machine, when none is left elsewhere."""
    from chaos_proto import pki

    home = pki.issue_operator(directory, name, replace=replace)
    if form is Output.JSON:
        output.document({"identity": f"operator/{name}", "directory": str(home)})
    else:
        typer.echo(f"operator/{name}: {home}")


@app.command("list")
def show(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that have expired or were revoked.")
    ] = False,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Show the certificates that the controller has issued or seen, oldest first."""
    from chaosctl import client

    request = client.chaos_pb2.ListCertificatesRequest()
    with client.operator(target(controller, pki)) as stub:
        found = stub.ListCertificates(request, timeout=client.ANSWER_S).certificates
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S}"
    chosen = [c for c in found if everything or (not c.revoked and c.expires > now)]
    if form is Output.JSON:
        output.document({"certificates": [output.message(c) for c in chosen]})
        return
    output.table(
        ("IDENTITY", "SERIAL", "ISSUED", "EXPIRES", *(["REVOKED"] if everything else [])),
        [
            (c.identity, c.serial[:_SERIAL], c.issued[:10], c.expires[:10])
            + ((_revoked(c),) if everything else ())
            for c in chosen
        ],
    )


@app.command()
def revoke(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NODE|OPERATOR|SERIAL",
            help="agent/NODE, operator/NAME, viewer/NAME, or a serial number's first 8 digits.",
        ),
    ],
    reason: Annotated[str, typer.Option(help="Shown to whoever is refused. Required.")],
    yes: YesOption = False,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Revoke certificates, at once: sessions end, faults by their lease; nobody gets in again.

    Of an identity all certificates that it has been issued so far, and its unused tokens.
    It can come back by enrolling with a new token.
    """
    from chaosctl import client

    whom = target(controller, pki)
    if not yes:
        output.confirm(f"Revoke {subject}?")
    request = client.chaos_pb2.RevokeRequest(subject=subject, reason=reason)
    with client.operator(whom) as stub:
        answer = stub.Revoke(request, timeout=client.ANSWER_S)
    if form is Output.JSON:
        output.document(output.message(answer))
        return
    typer.echo(f"{answer.subject} is revoked; calls and sessions ended: {answer.ended}")
    for c in answer.certificates:
        typer.echo(f"  {c.identity}  {c.serial[:_SERIAL]}  issued {c.issued[:10]}")


def _revoked(certificate: Certificate) -> str:
    c = certificate
    return f"{c.revoked[:10]} {c.revoked_by}: {c.reason}" if c.revoked else ""
