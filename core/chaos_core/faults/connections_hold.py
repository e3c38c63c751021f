"""Connections that are held open and do nothing: a pool that is exhausted."""

from __future__ import annotations

import ipaddress
import json
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from chaos_core.effects import LINK_PREFIX, Effect, Worker
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.faults._network import is_name
from chaos_core.node import Asks, NodeView


def _service(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or not port.isascii() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} has no port from 1 to 65535")
    return at(host, int(port))


def at(host: str, port: int) -> str:
    """``host:port``, with brackets where they belong. Raises ValueError if there is none such."""
    if is_name(host) and "=" not in host:
        return f"{host}:{port}"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError(
            f"{host!r} is not like 10.0.0.2:5432, [fd00::2]:5432 or db.example.com:5432"
        ) from None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


class ConnectionsHold(Fault):
    """This node opens TCP connections to a service, here or elsewhere, and keeps them idle.

    One that the service closes is opened again. They count as in force when all of them
    are open; a service that takes fewer ends the fault, with the number that it took. Whose limit
    counts only who has logged in, such as PostgreSQL's ``max_connections``, is not exhausted
    by connections that say nothing: there ``postgres.lock`` keeps an application's pool busy.
    """

    kind = "connections.hold"
    summary = "hold connections to a service open, idle"
    lease_holder = "a SIGKILL timer of the process that holds them, in the kernel"
    example = "to=10.0.0.2:5432 count=100"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("worker",)

    to: Annotated[str, AfterValidator(_service)] = Field(
        description="the service: an address, host name or node, and a port"
    )
    count: Annotated[int, Field(ge=1, le=10_000)] = Field(description="how many connections")
    rate: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=200, description="how many are opened a second"
    )

    def named(self) -> str:
        """The name in ``to``, in whose place the controller puts an address; or empty."""
        host = self.to.rpartition(":")[0]
        return host if is_name(host) else ""

    def asks(self) -> Asks:
        return Asks(ssh_ports=True)

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if self.named():
            raise InvalidInput(
                f"to: {self.named()!r} is a name, and only the controller turns names into"
                " addresses",
                where=self.kind,
                hint="give an address here",
            )
        host, _, port = self.to.rpartition(":")
        address = ipaddress.ip_address(host.strip("[]"))
        if any(address in net for net in node.protected.networks()):
            raise Refused(f"to: {address} is protected on node {node.name}", where=self.kind)
        if int(port) in node.protected.ssh_ports:
            raise Refused(f"to: port {port} is SSH's, and protected", where=self.kind)
        arguments = {"host": str(address), "port": int(port), "count": self.count}
        text = json.dumps({**arguments, "rate": self.rate}, sort_keys=True)
        return (Worker(f"{LINK_PREFIX}{fault_id}-w", "connections", text),)
