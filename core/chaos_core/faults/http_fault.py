"""Requests to a service that come to harm on the way, by a proxy that its port is redirected to."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from chaos_core.effects import LINK_PREFIX, Effect, Family, Rule, Worker
from chaos_core.envelope import Draw
from chaos_core.errors import Refused, Unsupported
from chaos_core.faults._fields import Share
from chaos_core.faults._network import MATCHING, Everywhere, Way
from chaos_core.node import NodeView
from chaos_core.units import Duration, Percent

_FIRST_PORT, _PORTS = 27_000, 4_000  # below the ephemeral ones
_LONGEST = Duration.parse("60s")


class HttpFault(Everywhere):
    """Requests to a port of this node fail, wait, are cut short or are too many.

    New connections from the peers go through a proxy on the node, while the lease lives;
    it connects to the service from the node itself, so the service sees the node's own
    address. So do those to a port that is published for a container, and those that the node
    forwards to that port of somebody else, as from containers; a host firewall must let them
    come in, to ports 27000 to 30999. With ``scope=host`` only the services of the node's own
    processes are hit. Plain HTTP/1.1 only: TLS and HTTP/2 pass through unharmed. Connections
    that are open stay as they are, and those through the proxy end with it.
    """

    kind = "http.fault"
    summary = "make HTTP requests fail, wait or be cut short"
    lease_holder = "a set entry with a timeout, and a SIGKILL timer of the proxy's, in the kernel"
    example = "port=8080 status=503 share=10%"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*MATCHING, "redirect", "worker")
    heading: ClassVar[Way] = "in"

    port: Annotated[int, Field(ge=1, le=65535)] = Field(
        description="the service's port on this node"
    )
    path: Annotated[str, Field(max_length=200)] = Field(
        default="*", description="of requests for this path; * stands for anything"
    )
    method: Annotated[str, Field(pattern=r"^(\*|[A-Z]{3,10})$")] = Field(
        default="*", description="of requests with this method, like POST"
    )
    share: Share = Field(default=Percent(1_000_000), description="of those requests, at random")
    status: Annotated[int, Field(ge=0, le=599)] = Field(
        default=0, description="answer with this, 400 to 599, instead of the service"
    )
    delay: Duration = Field(default=Duration(0), description="wait before the request goes on")
    truncate: Annotated[int, Field(ge=-1, le=2**31)] = Field(
        default=-1, description="cut the answer after so many bytes of its body"
    )
    limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="let so many pass in a period; answer 429 to the others"
    )
    period: Duration = Field(default=Duration(1_000_000), description="of the limit")

    @model_validator(mode="after")
    def _some_harm(self) -> Self:
        harms = [bool(self.status), bool(self.delay), self.truncate >= 0, bool(self.limit)]
        if not any(harms):
            raise ValueError("what shall happen? give status, delay, truncate or limit")
        if self.status and (self.limit or self.truncate >= 0):
            raise ValueError("status: without limit and truncate, which ask the service")
        if 0 < self.status < 400:
            raise ValueError("status: must be an error, 400 to 599")
        if self.delay > _LONGEST or not 0 < self.period <= _LONGEST:
            raise ValueError(f"delay and period: at most {_LONGEST}")
        if self.ports or self.local_ports or self.protocol not in ("all", "tcp"):
            raise ValueError("port: is the only one that counts here, and TCP the only protocol")
        if self.uid is not None or self.unit or self.cgroup:
            raise ValueError("uid, unit, cgroup: who sends is not known on arrival")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def protocols(self, family: Family) -> tuple[str, ...]:  # noqa: ARG002
        return ("tcp",)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        self._refuse_ours(node)
        here = self.here(node).model_copy(update={"local_ports": (str(self.port),)})
        listens = _FIRST_PORT + int(fault_id, 16) % _PORTS
        harm = {
            "path": self.path,
            "method": self.method,
            "share": int(self.share) / 1_000_000,
            "status": self.status,
            "delay": self.delay / 1_000_000,
            "truncate": self.truncate,
            "limit": self.limit,
            "period": self.period / 1_000_000,
        }
        arguments = json.dumps({"port": listens, "harm": harm}, sort_keys=True)
        worker = Worker(f"{LINK_PREFIX}{fault_id}-w", "http", arguments)
        redirect = Rule("REDIRECT", to_port=listens)
        if why := node.unable.get("xt_addrtype"):
            raise Unsupported(f"scope: {why}", where=self.kind, hint="leave scope out")
        chains = here.filtering(node, fault_id, "in", redirect, table="nat")
        return (worker, *here.leased_sets(node, fault_id), *chains)

    def _refuse_ours(self, node: NodeView) -> None:
        own = {address for device in node.devices for address in device.addresses}
        if self.port in node.protected.ssh_ports:
            raise Refused(f"port: {self.port} is SSH's, and protected", where=self.kind)
        if own & set(node.protected.controllers):
            raise Refused("port: the controller is on this very node", where=self.kind)
