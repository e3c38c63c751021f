"""Connections that are refused at once."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Family, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import MATCHING, Direction, NetworkFault, ways_of
from chaos_core.node import NodeView
from chaos_core.units import Percent

_ANSWERS: dict[Family, dict[str, str]] = {
    4: {
        "tcp-reset": "tcp-reset",
        "port-unreachable": "icmp-port-unreachable",
        "host-unreachable": "icmp-host-unreachable",
    },
    6: {
        "tcp-reset": "tcp-reset",
        "port-unreachable": "icmp6-port-unreachable",
        "host-unreachable": "icmp6-addr-unreachable",
    },
}


class NetworkReject(NetworkFault):
    """New TCP connections are answered with a refusal, and UDP datagrams one by one.

    Connections that are open go on. The caller, on either side, sees ECONNREFUSED from
    ``tcp-reset`` and ``port-unreachable``, EHOSTUNREACH from ``host-unreachable``. With
    ``direction=out`` a UDP sender on this node gets EPERM from the call that sends, as
    from any local firewall; TCP does not show it.
    """

    kind = "network.reject"
    summary = "refuse new connections with chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 ports=5432 share=50%"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*MATCHING, "statistic", "reject", "tcp-reset")

    action: Literal["tcp-reset", "port-unreachable", "host-unreachable"] = Field(
        default="tcp-reset", description="a TCP RST (then UDP is let through), or an ICMP error"
    )
    share: Share = Field(
        default=Percent(1_000_000), description="of new connections and datagrams, at random"
    )
    direction: Direction = Field(
        default="out", description="out: from this node to the peers; in: from them; or both"
    )

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if self.protocol == "icmp" or (self.protocol, self.action) == ("udp", "tcp-reset"):
            raise ValueError(f"protocol: {self.protocol} is not answered by {self.action}")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        # xt_statistic draws from [0, 1); a probability of one is no match on it.
        share = int(self.share) if self.share < 1_000_000 else 0
        reject = Rule("REJECT", probability=share)
        chains = [
            chain
            for way in ways_of(self.direction)
            for chain in self.filtering(node, fault_id, way, reject, table="filter")
        ]
        return (*self.leased_sets(node, fault_id), *chains)

    def protocols(self, family: Family) -> tuple[str, ...]:
        if self.protocol == "all":
            return ("tcp",) if self.action == "tcp-reset" else ("tcp", "udp")
        return super().protocols(family)

    def matches(
        self, fault_id: str, family: Family, direction: Literal["in", "out"], verdict: Rule
    ) -> tuple[Rule, ...]:
        verdict = replace(verdict, reject_with=_ANSWERS[family][self.action])
        rules = super().matches(fault_id, family, direction, verdict)
        return tuple(replace(rule, syn=rule.protocol == "tcp") for rule in rules)
