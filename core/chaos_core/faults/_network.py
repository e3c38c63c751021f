"""What all network faults share: whom they hit, and what is never touched."""

from __future__ import annotations

import ipaddress
import re
from abc import ABC
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from chaos_core.addresses import Network, network, unreachable
from chaos_core.effects import (
    CHAIN_PREFIX,
    LINK_PREFIX,
    Backend,
    Catch,
    Chain,
    Effect,
    Family,
    FixedSet,
    Hook,
    IngressPipe,
    LeasedSet,
    Netem,
    Pipe,
    Rule,
    Table,
    Tbf,
)
from chaos_core.errors import InvalidInput, Refused, Unsupported
from chaos_core.faults import Fault
from chaos_core.faults._counting import counted
from chaos_core.faults._units import Service, protected
from chaos_core.node import Asks, NodeView

# What doctor must find for building blocks below.
MATCHING = ("ipset", "xt_set", "multiport")
DETOUR = (*MATCHING, "mark", "clsact", "fw")
SHAPING = (*DETOUR, "ifb", "netem")

MAX_PEERS = 64  # each is one netlink message a renewal
MAX_DEVICES = 16  # each is a link, a filter and a rule; a node of containers has hundreds
_PORTS_A_RULE = 15  # XT_MULTI_PORTS
_PORT = re.compile(r"(\d{1,5})(?:[:-](\d{1,5}))?\Z", re.ASCII)
# Names of hosts and of nodes, and labels like role=db. What looks like an address is none.
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})(=[A-Za-z0-9._-]{1,63})?")
_NUMBERS = re.compile(r"[0-9.]+")
_NEIGHBOUR_DISCOVERY = ("133", "134", "135", "136", "137")
_DHCP: dict[Family, tuple[str, ...]] = {4: ("67", "68"), 6: ("546", "547")}
Way = Literal["in", "out"]
Direction = Literal[Way, "both"]
EVERYWHERE = ("0.0.0.0/0", "::/0")
_NO_WAY = {
    "none": "node {node} has no route to {to}",
    "unreachable": "node {node} has an unreachable route to {to}",
    "local": "{to} is node {node} itself",
    "broadcast": "{to} is a broadcast address of node {node}",
}
BEFORE_NAT: tuple[Table, ...] = ("raw", "nat")  # they see the ports that packets come with


def _split(value: Any) -> Any:
    """``a,b`` from a command line is the list [a, b]; a number is a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    items = value if isinstance(value, list | tuple) else [value]
    return [str(item) if type(item) is int else item for item in items]


TextList = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _others(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("name at least one peer, for example peers=10.0.0.2")
    whom = _whom(value)
    for text in whom:
        if not is_name(text) and (why := unreachable(network(text))):
            raise ValueError(f"{text} {why}")
    return whom


def _whom(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > MAX_PEERS:
        raise ValueError(f"{len(value)} are more than {MAX_PEERS}")
    return tuple(dict.fromkeys(map(_peer, value)))


def _group(value: str) -> str:
    parts = PurePosixPath(value).parts
    if not value:
        return value
    if len(value) > 500 or len(parts) < 2 or parts[0] != "/" or ".." in parts:
        raise ValueError(f"{value!r} is not a cgroup below the root, like /system.slice/a.service")
    return str(PurePosixPath(*parts))


Peers = Annotated[TextList, AfterValidator(_others)]
Excluded = Annotated[TextList, AfterValidator(_whom)]
# How long a delay may be and how fast a link, sized in packets of 1,500 bytes at 10 Gbit/s.
_PACKETS_PER_US = 10_000_000_000 / 8 / 1500 / 1_000_000
_MAX_LIMIT = 200_000


def queue_limit(delay_us: int) -> int:
    """Packets that netem must hold so that the queue itself drops none: rate x delay.

    netem's default of 1,000 drops at speed (a known trap). 10 Gbit/s of full frames is
    assumed, between 10,000 and 200,000 packets: enough for 240 ms of it. A longer delay has
    room for less (30 s: 6,667 packets a second). What does not fit is dropped, which is noticed
    and ends the fault as disturbed.
    """
    return max(10_000, min(_MAX_LIMIT, int(delay_us * _PACKETS_PER_US)))


class NetworkFault(Fault, ABC):
    """Selectors: a packet is hit when it goes to (or comes from) a peer and all given match.

    ``uid``, ``unit`` and ``cgroup`` are known of packets that a process of this node
    sends, not of those that the kernel itself answers (as a RST), nor on arrival; by
    ``uid`` also of the handshakes of a socket at which that user listens. A
    connection belongs to the group in which its process was when it opened it. A unit
    that is started anew has another group, which ends the fault as disturbed.
    """

    heading: ClassVar[Way] = "out"  # of a kind without a direction

    peers: Peers = Field(
        description="the other side: addresses, CIDRs, host names, nodes or labels (role=db);"
        " ::ffff:10.0.0.9 is 10.0.0.9"
    )
    exclude: Excluded = Field(
        default=(), description="not hit though they are peers: whatever peers can name"
    )
    ports: TextList = Field(
        default=(), description="the peer's ports or ranges (80,8000-8010); TCP and UDP"
    )
    local_ports: TextList = Field(default=(), description="this node's ports or ranges")
    protocol: Literal["all", "tcp", "udp", "icmp"] = Field(
        default="all", description="only packets of this protocol"
    )
    interface: str = Field(
        default="", description="only by this interface (default: those that route to the peers)"
    )
    uid: int | None = Field(
        default=None,
        ge=0,
        le=2**32 - 2,
        description="only what this user's processes send, by number, and their handshakes",
    )
    unit: Service | None = Field(
        default=None, description="only what this service sends (needs cgroup v2)"
    )
    cgroup: Annotated[str, AfterValidator(_group)] = Field(
        default="", description="only what processes in or below this path of cgroup v2 send"
    )
    scope: Literal["all", "host"] = Field(
        default="all",
        description="host: only what this node's own processes send and receive;"
        " all: also what it forwards, as for containers",
    )

    @field_validator("ports", "local_ports")
    @classmethod
    def _ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ranges = []
        for text in value:
            match = _PORT.match(str(text))
            low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if not 0 < low <= high < 65536:
                raise ValueError(f"{text!r} is not a port or a range like 8000-8010")
            ranges.append(f"{low}:{high}" if low < high else str(low))
        if sum(2 if ":" in text else 1 for text in ranges) > 15:
            raise ValueError("at most 15 ports, where a range counts as two")
        return tuple(ranges)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.ports or self.local_ports) and self.protocol == "icmp":
            raise ValueError("protocol: icmp has no ports")
        if self.unit and self.cgroup:
            raise ValueError("cgroup: unit names one already")
        process = next((name for name in ("uid", "unit", "cgroup") if self._given(name)), "")
        if process and getattr(self, "direction", "out") != "out":
            raise ValueError(
                f"{process}: who receives a packet is not known on arrival, so only direction=out"
            )
        for net in () if self.named("peers") or self.interface else self.networks(6):
            if net.is_link_local:
                raise ValueError(f"peers: {net} is on a link: name the interface as well")
        for family in () if self.named("peers") or self.named("exclude") else self.families():
            unhit = self.excluded(family)
            if all(any(_within(net, safe) for safe in unhit) for net in self.networks(family)):
                raise ValueError(f"exclude: no IPv{family} peer is left")
        return self

    def named(self, field: Literal["peers", "exclude"]) -> tuple[str, ...]:
        """Those that are no addresses: the controller puts addresses in their place."""
        return tuple(text for text in getattr(self, field) if is_name(text))

    def _given(self, name: str) -> bool:
        return getattr(self, name) not in (None, "")

    def asks(self) -> Asks:
        return Asks(
            units=(self.unit,) if self.unit else (),
            cgroups=(self.cgroup,) if self.cgroup else (),
            towards=tuple(map(str, self._all_networks())),
            interface=self.interface,
            ssh_ports=True,
            abilities=("xt_addrtype",) if self.scope == "host" else (),
            translation=bool(self.ports or self.local_ports),
        )

    def _all_networks(self) -> tuple[Network, ...]:
        """The peers of both families as they were given; none when one is still a name.

        Not collapsed: of single addresses the kernel is asked, of networks all routes are read.
        """
        return () if self.named("peers") else tuple(map(network, self.peers))

    def forwarded(self) -> bool:
        """Whether what the node forwards is hit as well: no process of it sends that."""
        return self.scope == "all" and not any(map(self._given, ("uid", "unit", "cgroup")))

    def networks(self, family: Family) -> tuple[Network, ...]:
        """The peers of one family, those inside a larger one left out.

        Raises InvalidInput when one is a name.
        """
        return self._addresses("peers", family)

    def excluded(self, family: Family) -> tuple[Network, ...]:
        """Who is not hit, of one family. Raises InvalidInput when one is a name."""
        return self._addresses("exclude", family)

    def _addresses(self, field: Literal["peers", "exclude"], family: Family) -> tuple[Network, ...]:
        for name in self.named(field):
            raise InvalidInput(
                f"{field}: {name!r} is a name, and only the controller turns names into addresses",
                where=self.kind,
                hint="give addresses here",
            )
        return _of_family(getattr(self, field), family)

    def families(self) -> tuple[Family, ...]:
        both: tuple[Family, ...] = (4, 6)
        return tuple(family for family in both if self.networks(family))

    # ── building blocks for compile() ─────────────────────────────────────────────────

    def leased_sets(
        self, node: NodeView, fault_id: str, backend: Backend | None = None
    ) -> tuple[LeasedSet, ...]:
        """One set a family, of the node's backend unless another is asked for.

        Raises Refused when a peer is protected or the node itself.
        """
        self._refuse_protected(node)
        return tuple(
            LeasedSet(
                _set_name(fault_id, family),
                family,
                _entries(self.networks(family)),
                backend or node.backend,
            )
            for family in self.families()
        )

    def detour(
        self, node: NodeView, fault_id: str, through: Netem | Tbf | None, every: int = 0
    ) -> tuple[Effect, ...]:
        """Egress: packets to the peers are marked and go ``through`` that, or nowhere if None.

        With ``every``, only each n-th packet of an interface and protocol.
        """
        netem = through if isinstance(through, Netem) else None
        tbf = through if isinstance(through, Tbf) else None
        mark, mask = node.free_mark(), node.mark_mask
        pipes = []
        for number, name in enumerate(self.devices(node)):
            device = node.device(name)
            assert device is not None
            self._refuse_taken(device.egress_taken)
            link = f"{LINK_PREFIX}{fault_id}-{number}"
            pipes.append(Pipe(name, link, mark, mask, device.free_pref(), netem, tbf))
        chains = [
            Chain(
                name=f"{CHAIN_PREFIX}{fault_id}-out",
                family=family,
                table="mangle",
                hook="POSTROUTING",
                backend=node.backend,
                rules=(
                    *self._spared(node, family, "out"),
                    *self._counted(
                        rule
                        for pipe in pipes
                        for rule in behind_nat(
                            node,
                            self.matches(
                                fault_id,
                                family,
                                "out",
                                self._sent_by(
                                    node,
                                    Rule(
                                        "MARK",
                                        out_device=pipe.device,
                                        every=every,
                                        mark=mark,
                                        mask=mask,
                                    ),
                                ),
                            ),
                        )
                    ),
                ),
            )
            for family in self.families()
        ]
        return (*pipes, *chains)

    def cut_off(
        self, node: NodeView, fault_id: str, direction: Direction, *, reject: bool = False
    ) -> tuple[Effect, ...]:
        """No packet to or from the peers gets through: it vanishes, or is rejected."""
        effects: tuple[Effect, ...] = self.leased_sets(node, fault_id)
        for way in ways_of(direction):
            if reject:
                rejecting = self.filtering(node, fault_id, way, Rule("REJECT"), table="filter")
                effects = (*effects, *rejecting)
            elif way == "out":
                effects = (*effects, *self.detour(node, fault_id, None))
            else:
                effects = (*effects, *self.filtering(node, fault_id, "in", Rule("DROP")))
        return effects

    def inlet(self, node: NodeView, fault_id: str, through: Netem | Tbf) -> tuple[Effect, ...]:
        """Ingress: what comes from the peers, by a device that routes to them, goes ``through``.

        It takes leased sets of ipset's, whatever the backend. It is matched before xtables,
        by sets alone: what is protected in a chain is protected by sets here, and a protocol
        is known by its ports only.
        """
        sets: list[FixedSet] = []
        catches = []
        for family in self.families():
            nets, ports, theirs, own = (
                f"{_set_name(fault_id, family)}{part}" for part in (1, 2, 3, 4)
            )
            safe = [net for net in node.protected.networks() if net.version == family]
            safe += self.excluded(family)
            if safe:
                entries = _entries(tuple(ipaddress.collapse_addresses(safe)))  # type: ignore[type-var]
                sets.append(FixedSet(nets, family, "hash:net", entries))
            sets.append(FixedSet(ports, family, "hash:net,port", _protected_ports(node, family)))
            peers = _set_name(fault_id, family)
            chosen = ((theirs, self.ports), (own, self.local_ports))
            sets += [
                FixedSet(name, family, "hash:net,port", self._port_entries(family, given))
                for name, given in chosen
                if given
            ]
            catches.append(
                Catch(
                    family,
                    peers,
                    nets if safe else "",
                    ports,
                    *(name if given else "" for name, given in chosen),
                )
            )
        for name in self.devices(node):
            self._refuse_taken(device.ingress_taken if (device := node.device(name)) else "")
        netem = through if isinstance(through, Netem) else None
        tbf = through if isinstance(through, Tbf) else None
        pipes = (
            IngressPipe(name, f"{LINK_PREFIX}{fault_id}-{number}", tuple(catches), netem, tbf)
            for number, name in enumerate(self.devices(node), MAX_DEVICES)
        )
        return (*sets, *pipes, *self._witnesses(node, fault_id))

    def _witnesses(self, node: NodeView, fault_id: str) -> tuple[Chain, ...]:
        """Chains that count what ``inlet`` is about: by whatever device, and by its own.

        They match by address and by no set, as they hit nothing and ipset's are not known
        to nftables.
        """
        devices = self.devices(node)
        seen = ("",) if self._anywhere() else devices
        asked = [*(Rule("SEEN", in_device=name) for name in seen)]
        asked += [Rule("EXPOSED", in_device=name) for name in devices]
        return tuple(
            Chain(
                name=f"{CHAIN_PREFIX}{fault_id}-in",
                family=family,
                table="mangle",
                hook="PREROUTING",
                backend=node.backend,
                rules=(
                    *self._spared(node, family, "in"),
                    *(
                        replace(
                            rule,
                            match_set="",
                            set_side="",
                            source=str(net) if net.prefixlen else "",
                        )
                        for one in asked
                        for rule in self.matches(fault_id, family, "in", one)
                        for net in self.networks(family)
                    ),
                ),
            )
            for family in self.families()
        )

    def _counted(self, rules: Iterable[Rule]) -> tuple[Rule, ...]:
        """The rules of a chain behind those that count what they are about."""
        return counted(rules, anywhere=self._anywhere())

    def _anywhere(self) -> bool:
        """Whether traffic by another device would count as missed: not if all of a device's

        is what the fault is about.
        """
        return not all(peer in EVERYWHERE for peer in self.peers)

    def filtering(
        self,
        node: NodeView,
        fault_id: str,
        direction: Literal["in", "out"],
        verdict: Rule,
        *,
        table: Table = "mangle",
    ) -> tuple[Chain, ...]:
        """Packets from (``in``) or to (``out``) the peers meet ``verdict`` in a chain of ours.

        In table ``nat`` they are only those that open a connection, before they are routed.
        A packet meets one chain of a table: that of the node's own traffic, or the other.
        """
        (device,) = self._filtered_devices(node, direction)
        verdict = self._sent_by(node, _on_device(verdict, direction, device))
        hooks = _hooks(table, direction)
        first = hooks[0]
        at_end = self.scope == "host" and first == "PREROUTING"
        if at_end:  # behind the rules that publish ports of containers
            verdict = replace(verdict, own="dst")
        chains = []
        for family in self.families():
            rules = self.matches(fault_id, family, direction, verdict)
            if table not in BEFORE_NAT:
                rules = behind_nat(node, rules)
            counted = self._counted(rules)
            for hook in hooks if self.forwarded() else (first,):
                name = f"{CHAIN_PREFIX}{fault_id}-{'' if hook == first else 'fwd-'}{direction}"
                spared = (
                    self._spared(node, family, direction)
                    if hook == first
                    else self._spared_forwarded(node, family)
                )
                chain = Chain(name, family, table, hook, (*spared, *counted), node.backend, at_end)
                chains.append(chain)
        return tuple(chains)

    def matches(
        self, fault_id: str, family: Family, direction: Literal["in", "out"], verdict: Rule
    ) -> tuple[Rule, ...]:
        """``verdict`` once for each protocol that the selectors need."""
        outward = direction == "out"
        return tuple(
            replace(
                verdict,
                protocol=protocol,
                destination_ports=self.ports if outward else self.local_ports,
                source_ports=self.local_ports if outward else self.ports,
                match_set=_set_name(fault_id, family),
                set_side="dst" if outward else "src",
            )
            for protocol in self.protocols(family)
        )

    def _port_entries(self, family: Family, ports: tuple[str, ...]) -> tuple[str, ...]:
        """These ports from anywhere, as entries of a FixedSet."""
        return tuple(
            f"{half},{protocol}:{port}"
            for half in _entries((network(EVERYWHERE[family == 6]),))
            for protocol in self.protocols(family)
            for port in each_port(ports)
        )

    def protocols(self, family: Family) -> tuple[str, ...]:
        """Each takes a rule of its own; an empty one is all of them."""
        if self.protocol == "all":
            return ("tcp", "udp") if self.ports or self.local_ports else ("",)
        if self.protocol == "icmp":
            return ("icmp",) if family == 4 else ("icmpv6",)
        return (self.protocol,)

    def devices(self, node: NodeView) -> tuple[str, ...]:
        """The interface asked for, or those by which packets to the peers leave.

        Raises InvalidInput or Refused where there is none.
        """
        if self.interface:
            names = self._named_device(node)
        else:
            found = {name for net in self._all_networks() for name in node.way(net).devices}
            loops = {device.name for device in node.devices if device.loopback}
            names = tuple(sorted(found - loops or found))  # a default route's peers hold ::1 too
        if not names:
            raise InvalidInput(
                f"peers: {no_way(self._all_networks(), node)}",
                where=self.kind,
                hint="check the addresses, or name the interface",
            )
        if len(names) > MAX_DEVICES:
            raise InvalidInput(
                f"peers: {len(names)} interfaces of node {node.name} route to them,"
                f" more than {MAX_DEVICES}",
                where=self.kind,
                hint="name fewer peers, or the interface",
            )
        for name in names:
            self._existing(node, name)
        return names

    def _named_device(self, node: NodeView) -> tuple[str, ...]:
        """The interface asked for, or of a VRF those that belong to it, as packets have those.

        What arrives may come by another way than what is sent takes.
        """
        self._existing(node, self.interface)
        members = tuple(sorted(one.name for one in node.devices if one.vrf == self.interface))
        names = members or (self.interface,)
        leaving = {name for net in self._all_networks() for name in node.way(net).devices}
        if getattr(self, "direction", self.heading) != "in" and not leaving.intersection(names):
            others = f"they leave by {', '.join(sorted(leaving))}" if leaving else ""
            raise InvalidInput(
                f"interface: {self.interface} of node {node.name} has no way to"
                f" {', '.join(self.peers[:3])}",
                where=self.kind,
                hint=others or no_way(self._all_networks(), node),
            )
        return names

    def _existing(self, node: NodeView, name: str) -> None:
        device = node.device(name)
        if device is None:
            known = ", ".join(device.name for device in node.devices)
            raise InvalidInput(
                f"interface: node {node.name} has no {name!r}",
                where=self.kind,
                hint=f"one of: {known}",
            )
        if device.loopback:
            raise Refused(
                f"interface: loopback {name!r} is never touched",
                where=self.kind,
                hint="name peers on another machine",
            )

    def _filtered_devices(self, node: NodeView, direction: Way = "out") -> tuple[str, ...]:
        self.devices(node)  # same refusals as on egress
        device = node.device(self.interface)
        if direction == "in" and device is not None and device.vrf:
            raise Refused(
                f"interface: {self.interface} belongs to VRF {device.vrf},"
                " by whose name its packets are known on arrival",
                where=self.kind,
                hint=f"interface={device.vrf}",
            )
        return (self.interface,)  # ingress and reject do not depend on the route

    def _sent_by(self, node: NodeView, rule: Rule) -> Rule:
        """The rule for what the chosen process sends. Raises InvalidInput, or Refused when it

        may not be touched; Unsupported where the node's own packets cannot be told apart.
        """
        if self.scope == "host" and rule.target == "MARK":
            if why := node.unable.get("xt_addrtype"):
                raise Unsupported(f"scope: {why}", where=self.kind, hint="leave scope out")
            rule = replace(rule, own="src")
        path = self.cgroup
        if self.unit:
            facts = node.units.get(self.unit)
            if facts is None or not facts.cgroup:
                raise InvalidInput(
                    f"unit: {self.unit} does not run on {node.name}",
                    where=self.kind,
                    hint="`systemctl list-units --type=service` on the node lists them",
                )
            path = facts.cgroup.path
        if path and path not in node.cgroups:
            raise InvalidInput(
                f"{'unit' if self.unit else 'cgroup'}: there is no cgroup {path} on {node.name}",
                where=self.kind,
                hint="`systemd-cgls` lists them; they must be of cgroup v2",
            )
        for part in PurePosixPath(path).parts[1:]:
            why = protected(node, part)
            if why:
                raise Refused(
                    f"{'unit' if self.unit else 'cgroup'}: {part} is protected (as {why})",
                    where=self.kind,
                )
        return replace(rule, uid=self.uid, cgroup=path, cgroup_id=node.cgroups.get(path, 0))

    def _spared(
        self, node: NodeView, family: Family, direction: Literal["in", "out"]
    ) -> tuple[Rule, ...]:
        """What returns before any match of ours: what is protected, and what is excluded.

        On the way out also what others than this node send, from there.
        """
        nets = [net for net in node.protected.networks() if net.version == family]
        nets += self.excluded(family)
        senders = nets if direction == "out" and self.forwarded() else []
        return (
            *_protected_rules(node, family, direction),
            *(_spare(net, direction) for net in self.excluded(family)),
            *(_spare(net, "in") for net in senders if not _holds_own(net, node)),
        )

    def _spared_forwarded(self, node: NodeView, family: Family) -> tuple[Rule, ...]:
        """The same of what is forwarded, to and from everybody who is protected or excluded."""
        nets = [net for net in node.protected.networks() if net.version == family]
        both = [
            *self._spared(node, family, "in"),
            *self._spared(node, family, "out"),
            *(_spare(net, "in") for net in nets),
        ]
        # Nothing is forwarded by loopback, and no process of the node sends what is.
        return tuple(
            dict.fromkeys(
                rule
                for rule in both
                if not (rule.in_device or rule.out_device or rule.cgroup) and rule.uid is None
            )
        )

    def _refuse_taken(self, why: str) -> None:
        """Raise Refused where the detour through a link of our own cannot be made."""
        if why:
            raise Refused(
                why,
                where=self.kind,
                hint="`tc qdisc show` and `bpftool net` on the node name its owner. Name another"
                " interface, or use what takes no detour: network.reject, network.limit,"
                " network.partition with action=reject or direction=in",
            )

    def _refuse_protected(self, node: NodeView) -> None:
        for net in self._all_networks():
            if node.way(net).kind in ("local", "broadcast", "multicast"):
                raise Refused(
                    f"peers: {no_way([net], node)}", where=self.kind, hint="name the other side"
                )
        for name, ranges in (("ports", self.ports), ("local_ports", self.local_ports)):
            if (
                ranges
                and self.protocol != "udp"
                and set(each_port(ranges)) <= set(node.protected.ssh_ports)
            ):
                raise Refused(
                    f"{name}: {', '.join(ranges)} is SSH's on node {node.name}, and protected",
                    where=self.kind,
                    hint="`chaos-agent doctor` on the node says which ports are, and why",
                )
        own = {address for device in node.devices for address in device.addresses}
        for family in self.families():
            for net in self.networks(family):
                for safe in node.protected.networks():
                    if _within(net, safe):
                        raise Refused(
                            f"peers: {net} is protected on node {node.name}",
                            where=self.kind,
                            hint="the controller and configured peers are never touched",
                        )
                if net.is_loopback or (net.num_addresses == 1 and str(net.network_address) in own):
                    raise Refused(
                        f"peers: {net} is the node itself",
                        where=self.kind,
                        hint="name the other side",
                    )


def no_way(networks: Iterable[Network], node: NodeView) -> str:
    """Why no packet leaves for these, in words."""
    kinds: dict[str, list[str]] = {}
    for net in networks:
        text = str(net.network_address) if net.num_addresses == 1 else str(net)
        kinds.setdefault(node.way(net).kind, []).append(text)
    return "; ".join(
        _NO_WAY.get(kind, f"node {{node}} has a {kind} route to {{to}}").format(
            node=node.name, to=", ".join(found[:3]) + (" and more" if found[3:] else "")
        )
        for kind, found in kinds.items()
    )


def behind_nat(node: NodeView, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules, which stand where destinations are translated already, for original ports too.

    A container's published port is another one there. Only what was translated meets the
    added rules, and it has one chance only: what is spared by lot is not asked again.
    """
    if not node.translates:
        return rules
    found: list[Rule] = []
    sides: tuple[Literal["dst", "src"], ...] = ("dst", "src")
    for side in sides:
        concerned = [rule for rule in rules if _ports_at(rule, side)]
        for ports in dict.fromkeys(port for rule in concerned for port in _ports_at(rule, side)):
            for rule in concerned:
                one = replace(rule, original_ports=(ports,), original_side=side)
                if side == "dst":
                    one = replace(one, destination_ports=())
                else:
                    one = replace(one, source_ports=())
                found.append(one)
                if rule.probability or rule.every:
                    spared = replace(one, target="RETURN", reject_with="", mark=0, mask=0, queue=0)
                    found.append(replace(spared, probability=0, every=0))
    return (*found, *rules)


def _ports_at(rule: Rule, side: Literal["dst", "src"]) -> tuple[str, ...]:
    return rule.destination_ports if side == "dst" else rule.source_ports


def _hooks(table: Table, direction: Way) -> tuple[Hook, ...]:
    """Where the node's own traffic passes such a table, and where what it forwards does."""
    if direction == "in":
        return ("PREROUTING",) if table == "nat" else ("INPUT", "FORWARD")
    return ("OUTPUT", "PREROUTING" if table in BEFORE_NAT else "FORWARD")


def ways_of(direction: Direction) -> tuple[Way, ...]:
    """Each of the two ways that packets can go, if it is meant."""
    ways: tuple[Way, ...] = ("in", "out")
    return tuple(way for way in ways if direction in (way, "both"))


def _peer(text: str) -> str:
    """A name as it is, an address or a CIDR in its canonical form."""
    return text if is_name(text) else str(network(text))


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and _NUMBERS.fullmatch(text) is None


class Everywhere(NetworkFault, ABC):
    """A network fault that hits all but what is protected, unless peers are named."""

    peers: Peers = Field(
        default=EVERYWHERE,
        description="the other side: addresses, CIDRs, host names, nodes or labels (role=db);"
        " by default everything",
    )

    def here(self, node: NodeView) -> Self:
        """The same without a family that this node does not speak, if no peers are named."""
        spoken = {net.version for net in map(network, EVERYWHERE) if node.way(net).devices}
        peers = tuple(text for text in EVERYWHERE if network(text).version in spoken)
        if self.peers != EVERYWHERE or not peers:
            return self
        return self.model_copy(update={"peers": peers})


def each_port(ranges: tuple[str, ...]) -> list[int]:
    """Every port of ranges like 8000:8010."""
    bounds = (text.partition(":") for text in ranges)
    return sorted({n for low, _, high in bounds for n in range(int(low), int(high or low) + 1)})


def _of_family(texts: tuple[str, ...], family: Family) -> tuple[Network, ...]:
    nets = [net for net in map(network, texts) if net.version == family]
    return tuple(ipaddress.collapse_addresses(nets))  # type: ignore[type-var]


def _within(net: Network, other: Network) -> bool:
    return net.version == other.version and net.subnet_of(other)  # type: ignore[arg-type]


def _entries(networks: tuple[Network, ...]) -> tuple[str, ...]:
    """CIDRs for hash:net, which cannot hold a prefix length of zero."""
    return tuple(
        str(part) for net in networks for part in (net.subnets(1) if net.prefixlen == 0 else (net,))
    )


def _holds_own(net: Network, node: NodeView) -> bool:
    own = (ipaddress.ip_address(text) for device in node.devices for text in device.addresses)
    return any(address in net for address in own)


def _set_name(fault_id: str, family: Family) -> str:
    return f"{LINK_PREFIX}{fault_id}-{family}"


def _on_device(rule: Rule, direction: Literal["in", "out"], device: str) -> Rule:
    if direction == "in":
        return replace(rule, in_device=device)
    return replace(rule, out_device=device)


def _protected_ports(node: NodeView, family: Family) -> tuple[str, ...]:
    """What ``_protected_rules`` spares by port, or type of ICMPv6, as entries of a FixedSet."""
    everywhere = _entries((ipaddress.ip_network("0.0.0.0/0" if family == 4 else "::/0"),))
    ports = [
        *(f"tcp:{port}" for port in node.protected.ssh_ports),
        *(f"udp:{port}" for port in _DHCP[family]),
        *(f"icmpv6:{int(kind) * 256}" for kind in _NEIGHBOUR_DISCOVERY if family == 6),
    ]
    return tuple(f"{half},{port}" for half in everywhere for port in ports)


def _protected_rules(
    node: NodeView, family: Family, direction: Literal["in", "out"]
) -> tuple[Rule, ...]:
    """Neighbours, DHCP, SSH, what never leaves the node, the controller, protected peers."""
    rules = []
    if family == 6:
        rules += [
            Rule("RETURN", protocol="icmpv6", icmpv6_type=kind) for kind in _NEIGHBOUR_DISCOVERY
        ]
    rules += [
        Rule("RETURN", protocol="udp", source_ports=_DHCP[family]),
        Rule("RETURN", protocol="udp", destination_ports=_DHCP[family]),
    ]
    ports = [str(port) for port in node.protected.ssh_ports]
    for at in range(0, len(ports), _PORTS_A_RULE):
        ssh = tuple(ports[at : at + _PORTS_A_RULE])
        rules += [
            Rule("RETURN", protocol="tcp", source_ports=ssh),
            Rule("RETURN", protocol="tcp", destination_ports=ssh),
        ]
    loops = [device.name for device in node.devices if device.loopback]
    rules += [_on_device(Rule("RETURN"), direction, name) for name in loops]
    rules += [_spare(net, direction) for net in node.protected.networks() if net.version == family]
    return tuple(rules)


def _spare(net: Network, direction: Literal["in", "out"]) -> Rule:
    if direction == "out":
        return Rule("RETURN", destination=str(net))
    return Rule("RETURN", source=str(net))
