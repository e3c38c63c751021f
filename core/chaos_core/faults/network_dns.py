"""Names that this node cannot look up, or finds to be something else."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from chaos_core.effects import LINK_PREFIX, Chain, Effect, Family, LeasedSet, Rule, Worker
from chaos_core.envelope import Draw
from chaos_core.errors import Unsupported
from chaos_core.faults._network import DETOUR, Everywhere, TextList
from chaos_core.node import Asks, NodeView

_MAX_NAMES = 8  # each is up to four rules for an interface
_MAX_WIRE = 120  # xt_string looks for 128 bytes at most
_MAX_ADDRESSES = 8
_TO_ANSWER = ("ct-zone", "redirect", "tcp-reset", "worker", "xt_addrtype")
_ENCRYPTED = 853  # RFC 7858 and 9250
# Below the ephemeral ports: where the worker of a fault listens, and from where all of them
# pass on what came by TCP, which is not led to them again.
_FIRST_PORT, _PORTS = 23_000, 3_000
_OWN_PORTS = (26_000, 26_255)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)
# The end of a query's header, RFC 1035 section 4.1.1: no authority records, and none or one
# additional record, which is EDNS's OPT. So what follows is the question, and all of its name.
_BEFORE_A_QUESTION = (bytes([0, 0, 0, 0]), bytes([0, 0, 0, 1]))


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(value) <= _MAX_NAMES:
        raise ValueError(f"name 1 to {_MAX_NAMES}, for example names=db.example.com")
    names = [text.lower().removesuffix(".") for text in value]
    for name in names:
        if not all(map(_LABEL.fullmatch, name.split("."))) or len(name) > _MAX_WIRE - 2:
            raise ValueError(
                f"{name!r} is not a name of at most {_MAX_WIRE - 2} letters, digits and hyphens"
                " (others in their xn-- form)"
            )
    return tuple(dict.fromkeys(names))


def _addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > _MAX_ADDRESSES:
        raise ValueError(f"{len(value)} are more than {_MAX_ADDRESSES}")
    return tuple(dict.fromkeys(str(ipaddress.ip_address(text)) for text in value))


def _answers(apart: Rule) -> Rule:
    """Those of the worker, which belong to the queries."""
    return replace(apart, protocol="udp", own="src", source_ports=(str(apart.zone),))


def _port(fault_id: str, ssh_ports: tuple[int, ...]) -> int:
    """Where the worker of a fault listens: strangers are kept from it, so never at SSH's."""
    first = int(fault_id, 16)
    ports = (_FIRST_PORT + (first + number) % _PORTS for number in range(_PORTS))
    return next(port for port in ports if port not in ssh_ports)


def _anybody(one: LeasedSet) -> LeasedSet:
    """A set of all addresses, with the same lease."""
    everywhere = ("0.0.0.0/1", "128.0.0.0/1") if one.family == 4 else ("::/1", "8000::/1")
    return replace(one, name=f"{one.name}0", entries=everywhere)


def _before(chain: Chain, apart: Rule) -> tuple[Rule, ...]:
    """What comes first in a chain that keeps queries apart."""
    if chain.table != "raw":
        return ()
    if chain.hook == "OUTPUT":
        return (_answers(apart),)
    matched = next(rule.match_set for rule in chain.rules if rule.match_set)
    return _strangers(f"{matched}0", apart.zone)


def _strangers(anybody: str, port: int) -> tuple[Rule, ...]:
    """Whoever is not led to the worker but asks it directly, from elsewhere, gets no answer."""
    asking = Rule("DROP", destination_ports=(str(port),), own="dst")
    asking = replace(asking, match_set=anybody, set_side="src")
    return (
        Rule("RETURN", in_device="lo"),
        *(replace(asking, protocol=protocol) for protocol in ("udp", "tcp")),
    )


class NetworkDns(Everywhere):
    """Queries for some names get no answer, or one that is wrong, whichever resolver is asked.

    Without an answer (``timeout``), packets vanish that leave this node for port 53, by UDP or
    TCP, and ask for one of the names. A resolver on the node itself (127.0.0.53, or one that
    containers ask) is not cut off: it answers what it has in its cache, and its own queries for
    the rest get no answer.

    With an ``answer``, a worker on this node gives it, in place of a resolver elsewhere or on
    the node itself, with a time to live of 0. With ``address``, other types than A and AAAA do
    not exist for the name. By UDP only queries for the names go there; conntrack keeps them in
    a zone apart, so what else is sent from the same port goes where it went, now and when the
    lease is over. By TCP every new connection to a resolver goes through the worker, which asks
    that resolver for other names; an open one is reset when it asks for the names. What the node
    forwards, as for containers, is answered too, unless it is for a resolver on the node; a host
    firewall must let it come in, to ports 23000 to 25999.

    Not seen: names in /etc/hosts, DNS over TLS or HTTPS, what is asked of systemd-resolved by
    its own socket (nss-resolve) and is in its cache, and ``name.search.domain``, which
    resolv.conf may add and which is another name.
    """

    kind = "network.dns"
    summary = "let lookups of chosen names fail"
    lease_holder = "a set entry with a timeout, and a SIGKILL timer of who answers, in the kernel"
    example = "names=db.example.com"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy", "xt_string")

    names: Annotated[TextList, AfterValidator(_names)] = Field(
        description="names that are asked for, at most 8"
    )
    subdomains: bool = Field(default=False, description="and all names that end in one of them")
    answer: Literal["timeout", "nxdomain", "servfail", "address"] = Field(
        default="timeout", description="none, no such name, the resolver failed, or an address"
    )
    address: Annotated[TextList, AfterValidator(_addresses)] = Field(
        default=(), description="with answer=address: IPv4 and IPv6 addresses of the names"
    )
    ports: TextList = Field(default=("53",), description="the resolvers' ports")

    @model_validator(mode="after")
    def _asked_by(self) -> Self:
        if not self.ports:
            raise ValueError("ports: resolvers are asked at a port")
        if (self.answer == "address") != bool(self.address):
            raise ValueError("address: goes with answer=address, and that with an address")
        for text in self.ports if self.answer != "timeout" else ():
            low, _, high = text.partition(":")
            if int(low) <= _ENCRYPTED <= int(high or low):
                raise ValueError(f"ports: what goes to {_ENCRYPTED} is encrypted")
        if self.interface and self.answer != "timeout" and self.forwarded():
            raise ValueError(
                "interface: with an answer it needs scope=host, since what is forwarded is"
                " redirected before its interface is known"
            )
        return self

    def asks(self) -> Asks:
        asked = super().asks()
        if self.answer == "timeout":
            return asked
        # By the original port, connections that are redirected to the worker would be reset.
        return replace(asked, abilities=_TO_ANSWER, translation=False)

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        here = self.here(node)
        sets = here.leased_sets(node, fault_id)
        if self.answer == "timeout":
            return (*sets, *here.detour(node, fault_id, None))
        for why in node.unable.values():
            raise Unsupported(f"answer: {why}", where=self.kind, hint="answer=timeout needs less")
        listens = _port(fault_id, node.protected.ssh_ports)
        arguments = {
            "port": listens,
            "own_ports": _OWN_PORTS,
            "names": self.names,
            "subdomains": self.subdomains,
            "answer": self.answer,
            "address": self.address,
            "forwarded": self.forwarded(),
        }
        text = json.dumps(arguments, sort_keys=True)
        apart, redirect = Rule("CT", zone=listens), Rule("REDIRECT", to_port=listens)
        tables = (
            *here.filtering(node, fault_id, "out", apart, table="raw"),
            *here.filtering(node, fault_id, "out", redirect, table="nat"),
            *here.filtering(node, fault_id, "out", Rule("REJECT"), table="filter"),
        )
        chains = [
            replace(chain, rules=(*_before(chain, apart), *chain.rules))
            for chain in tables
            if any(rule.match_set for rule in chain.rules)
        ]
        if self.forwarded():
            sets = (*sets, *(_anybody(one) for one in sets))
        return (Worker(f"{LINK_PREFIX}{fault_id}-w", "dns", text), *sets, *chains)

    def matches(
        self, fault_id: str, family: Family, direction: Literal["in", "out"], verdict: Rule
    ) -> tuple[Rule, ...]:
        """By UDP all go by the name. What opens a TCP connection names nothing yet, so all of

        them are redirected; one that is open stays as it is until it asks.
        """
        found: list[Rule] = []
        for rule in super().matches(fault_id, family, direction, verdict):
            way = (rule.target, rule.protocol)
            if way == ("REDIRECT", "tcp"):
                found.append(replace(rule, syn=True))
            elif way not in (("CT", "tcp"), ("REJECT", "udp")):
                reset = "tcp-reset" if rule.target == "REJECT" else ""
                found += [
                    replace(rule, text=text.hex(), reject_with=reset)
                    for name in self.names
                    for text in self._texts(name)
                ]
        return tuple(found)

    def _spared(
        self, node: NodeView, family: Family, direction: Literal["in", "out"]
    ) -> tuple[Rule, ...]:
        """Who answers stands in for resolvers on the node as well, and is asked nothing itself."""
        rules = super()._spared(node, family, direction)
        if self.answer == "timeout":
            return rules
        loops = {device.name for device in node.devices if device.loopback}
        own = Rule("RETURN", protocol="tcp", source_ports=("{}:{}".format(*_OWN_PORTS),))
        return (own, *(rule for rule in rules if rule.out_device not in loops))

    def _spared_forwarded(self, node: NodeView, family: Family) -> tuple[Rule, ...]:
        """What comes in for the node itself is not forwarded: it may be a resolver of others."""
        return (Rule("RETURN", own="dst"), *super()._spared_forwarded(node, family))

    def _texts(self, name: str) -> tuple[bytes, ...]:
        """What a packet that asks for it holds: labels after their lengths, RFC 1035 3.1."""
        labels = [label.encode() for label in name.split(".")]
        wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        return (wire,) if self.subdomains else tuple(head + wire for head in _BEFORE_A_QUESTION)
