"""Bytes that somebody rewrites on the way, in packets that look sound (a Byzantine fault)."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from chaos_core.effects import LINK_PREFIX, Effect, Family, Rule, Worker
from chaos_core.envelope import Draw
from chaos_core.errors import Unsupported
from chaos_core.faults._fields import Share
from chaos_core.faults._network import MATCHING, Direction, NetworkFault, ways_of
from chaos_core.node import NodeView
from chaos_core.units import Percent

_FIRST_QUEUE, _QUEUES = 27_000, 4_000
_LONGEST = 128  # what xt_string looks for
_HEX = "hex:"


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix(_HEX)) if text.startswith(_HEX) else text.encode()


class TamperPayload(NetworkFault):
    """Bytes in the payload of TCP and UDP packets are replaced, and checksums are made right.

    Neither side can see it but by a check of its own. The kernel hands packets that hold
    the bytes to a worker on the node; all others do not meet it. Not found are bytes that
    stand in two packets, in fragments, or that are encrypted or compressed. A datagram
    that would grow beyond 1,280 bytes is left as it is. While the worker is down packets
    go on as they are; while it is stopped, 4,096 of them wait, no longer than the lease.
    """

    kind = "tamper.payload"
    summary = "rewrite bytes in packets, checksums valid"
    lease_holder = "a set entry with a timeout, and a SIGKILL timer of the worker's, in the kernel"
    example = "peers=10.0.0.2 ports=5432 find=balance replace=bananas"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (
        *MATCHING,
        *("xt_string", "statistic", "xt_nfqueue", "nfqueue", "worker"),
    )

    find: Annotated[str, Field(max_length=3 * _LONGEST)] = Field(
        description="bytes to look for: text, or hex:00ff; 1 to 128 of them"
    )
    replace: Annotated[str, Field(max_length=3 * _LONGEST)] = Field(
        description="what they become, likewise; for TCP exactly as many"
    )
    protocol: Literal["all", "tcp", "udp"] = Field(
        default="all", description="only packets of this protocol; all: of these two"
    )
    share: Share = Field(
        default=Percent(1_000_000),
        description="of packets that hold them, at random; what is sent at once counts as one",
    )
    direction: Direction = Field(
        default="out", description="out: to the peers; in: from them; or both"
    )

    @field_validator("find", "replace")
    @classmethod
    def _some_bytes(cls, value: str) -> str:
        try:
            found = _bytes(value)
        except ValueError:
            raise ValueError(f"{value!r} is not like hex:00ff") from None
        if len(found) > _LONGEST:
            raise ValueError(f"{len(found)} bytes are more than {_LONGEST}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        find, replace = _bytes(self.find), _bytes(self.replace)
        if not find:
            raise ValueError("find: name at least one byte")
        if find == replace:
            raise ValueError("replace: these are the same bytes")
        if len(find) != len(replace) and self.protocol != "udp":
            raise ValueError(
                f"replace: TCP counts bytes, so it takes {len(find)} of them, not {len(replace)};"
                " or protocol=udp"
            )
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def protocols(self, family: Family) -> tuple[str, ...]:  # noqa: ARG002
        return ("tcp", "udp") if self.protocol == "all" else (self.protocol,)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if node.backend == "nft":
            raise Unsupported(
                f"{self.kind} needs rules of xtables, and node {node.name} uses nftables alone",
                hint="http.fault hurts answers there too",
            )
        queue = _FIRST_QUEUE + int(fault_id, 16) % _QUEUES
        find, replace = _bytes(self.find).hex(), _bytes(self.replace).hex()
        arguments = json.dumps({"queue": queue, "find": find, "replace": replace}, sort_keys=True)
        worker = Worker(f"{LINK_PREFIX}{fault_id}-w", "tamper", arguments)
        share = int(self.share) if self.share < 1_000_000 else 0
        # Table security comes last and is hardly ever used: a packet that comes back from a
        # queue does not meet the rest of its table.
        rule = Rule("NFQUEUE", text=find, probability=share, queue=queue)
        chains = [
            chain
            for way in ways_of(self.direction)
            for chain in self.filtering(node, fault_id, way, rule, table="security")
        ]
        return (worker, *self.leased_sets(node, fault_id), *chains)
