"""What compiled effects take from a node, counted from the effects alone.

Nothing here asks a fault for its draw or the envelope for its opinion: delays are read
off the netem, shares off the quota, losses off the rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from chaos_core.effects import (
    CHAIN_PREFIX,
    LINK_PREFIX,
    Catch,
    CgroupLimit,
    Chain,
    ClockShift,
    Effect,
    FixedSet,
    Flush,
    GilbertElliott,
    Holder,
    IngressPipe,
    Kill,
    LeasedSet,
    Netem,
    Pipe,
    PulsedSet,
    Reboot,
    Restart,
    Stop,
    UndoTimer,
    Unit,
    Worker,
)
from chaos_core.envelope import Envelope
from chaos_core.node import NodeView

# The largest entry of each of iproute2's tables, of which 8192 is one jitter.
_LARGEST = {"uniform": 8192, "normal": 28858, "pareto": 32767, "paretonormal": 31789}


def fault_of(effect: Effect) -> str:
    """The id of the fault that an effect belongs to, by its name; the user's things have none."""
    theirs = Unit | Restart | Kill | Reboot | Flush | Stop | CgroupLimit | ClockShift
    if isinstance(effect, theirs):
        return ""
    name = effect.link if isinstance(effect, Pipe | IngressPipe) else effect.name
    prefix = CHAIN_PREFIX if isinstance(effect, Chain) else LINK_PREFIX
    assert name.startswith(prefix), f"{name} does not carry our tag"
    return name.removeprefix(prefix)[:8]


def within(ceilings: Envelope, view: NodeView, effects: Iterable[Effect]) -> None:
    """Fail unless all of these together are within the ceilings."""
    by_fault: dict[str, list[Effect]] = {}
    for effect in effects:
        by_fault.setdefault(fault_of(effect), []).append(effect)
    taken = [_taken(view, group) for group in by_fault.values()]
    total = {key: sum(part[key] for part in taken) for key in ("latency", "loss", "cpu", "memory")}
    assert total["latency"] <= ceilings.latency, f"delay of {total['latency']} µs"
    assert total["loss"] <= ceilings.loss, f"loss of {total['loss']} ppm"
    assert total["cpu"] <= ceilings.cpu, f"CPU of {total['cpu']} ppm"
    assert total["memory"] <= ceilings.memory, f"memory of {total['memory']} ppm"
    if not ceilings.destructive:
        assert not any(part["cut"] for part in taken), "something is stopped altogether"


def _taken(view: NodeView, effects: Iterable[Effect]) -> Mapping[str, float]:
    """What one fault takes: µs, ppm; ``cut`` counts what stops all that it is about."""
    delay, inward, out, into, cut, cpu, memory, every = 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 1
    for effect in effects:
        match effect:
            case PulsedSet():
                assert min(effect.down, effect.up) >= 1_000_000, "a span that no set can count"
                cut += 1
            case IngressPipe():
                if effect.tbf:
                    cut += 1
                    inward = max(inward, effect.tbf.limit / effect.tbf.rate * 1e6)
                if effect.netem:
                    inward = max(inward, _longest(effect.netem))
                    into = max(into, _lost(effect.netem))
                assert all(catch.peers and catch.safe_ports for catch in effect.catches)
                safe = any(net.version == 4 for net in view.protected.networks())
                assert all(bool(c.safe_nets) == safe for c in effect.catches if c.family == 4)
            case Pipe(tbf=tbf) if tbf is not None:
                cut += 1
                delay = max(delay, tbf.limit / tbf.rate * 1e6)
            case Worker(program="flush"):
                assert effect.service, "a cache that nobody has listed"
            case (
                Pipe(netem=None)
                | Unit()
                | Restart()
                | Kill()
                | Reboot()
                | Stop()
                | CgroupLimit()
                | Worker()
            ):
                cut += 1
            case UndoTimer(undo=undo):
                cut += not all('"effect":"Run"' in text for text in undo)
            case ClockShift():
                assert abs(effect.offset) <= 3_600_000_000, "the clock is more than an hour off"
                cut += 1
            case Pipe(netem=netem) if netem is not None:
                delay = max(delay, _longest(netem))
                out = max(out, _lost(netem))
            case Holder(work="burn"):
                cpu += effect.cpu_quota / effect.cpu_period / view.cpus * 1e6
                assert effect.cpu_quota > 0, "a burner without a quota"
            case Holder(work="churn"):
                cpu += effect.cpu_quota / effect.cpu_period / view.cpus * 1e6
                memory += effect.memory_max / view.memory_total * 1e6
                assert effect.cpu_quota > 0 < effect.memory_max, "without a cap"
            case Holder(work="fill" | "io" | "files"):
                cut += 1
                if effect.work == "fill":
                    assert view.directory is not None, "filled unseen"
                    left = view.directory.free - effect.size
                    assert left >= effect.reserve >= view.directory.total * 0.05 - 1, "no reserve"
                memory += effect.count * 256 / view.memory_total * 1e6
                assert 0 < effect.memory_max <= (64 << 20) + effect.count * 512, "without a cap"
            case Holder():
                memory += effect.memory / view.memory_total * 1e6
                slack = effect.memory // 50 + (8 << 20)
                assert 0 < effect.memory_max <= effect.memory + slack, "a holder without a cap"
            case Chain():
                for rule in effect.rules:
                    harmless = rule.target in ("RETURN", "SEEN", "EXPOSED")
                    assert harmless or rule.match_set, "a rule without a lease"
                    if rule.target == "REJECT":
                        cut += 1
                    if rule.target == "DROP":
                        share = 1_000_000 / rule.every if rule.every else rule.probability
                        into = max(into, share or 1_000_000)
                    if rule.target == "MARK":
                        every = max(every, rule.every)
    out /= every
    if into == 1_000_000 and not out:
        cut += 1
        into = 0
    return {"latency": delay + inward, "loss": out + into, "cpu": cpu, "memory": memory, "cut": cut}


def _longest(netem: Netem) -> float:
    """The longest delay, in µs."""
    return netem.delay + netem.jitter * _LARGEST[netem.distribution] / 8192


def _lost(netem: Netem) -> float:
    """What is lost or looks to a sender as if it were, in ppm."""
    return netem.loss + netem.corrupt + netem.duplicate + _mean(netem.bursts)


def _mean(bursts: GilbertElliott | None) -> float:
    """The long-run share that a chain of two states loses, in ppm."""
    if bursts is None:
        return 0
    bad = bursts.to_bad / (bursts.to_bad + bursts.to_good)
    return bad * bursts.loss_in_bad + (1 - bad) * bursts.loss_in_good


def undo_first(effects: Iterable[Effect]) -> None:
    """Fail if a service changes its state before the timer that changes it back is armed."""
    armed = False
    for effect in effects:
        armed |= isinstance(effect, UndoTimer)
        if isinstance(effect, Unit | Stop | CgroupLimit | ClockShift):
            assert armed, f"nobody would undo {effect}"


def unharmed(effects: Iterable[Effect]) -> None:
    """Fail if what operators and we ourselves hang on is touched.

    But who moves the clock must stop the daemon that would move it back.
    """
    effects = tuple(effects)
    kept = {unit for effect in effects if isinstance(effect, ClockShift) for unit in effect.after}
    for effect in effects:
        if isinstance(effect, Unit) and effect.unit in kept & {"systemd-timesyncd.service"}:
            continue
        if isinstance(effect, Unit | Restart | CgroupLimit):
            assert not effect.unit.startswith(("ssh", "systemd-", "chaos-", "dbus", "user@"))
        if isinstance(effect, Kill | Stop):
            assert all(pid > 1 for pid, _ in effect.victims)


def spared(view: NodeView, catch: Catch, fixed: Mapping[str, tuple[str, ...]]) -> None:
    """Fail unless what is protected is in the sets that a filter at ingress passes over."""
    shielded = [ipaddress.ip_network(entry) for entry in fixed.get(catch.safe_nets, ())]
    for net in view.protected.networks():
        if net.version == catch.family:
            assert any(net.subnet_of(one) for one in shielded), f"{net} in {catch.safe_nets}"  # type: ignore[arg-type]
    wanted = {f"tcp:{port}" for port in view.protected.ssh_ports}
    wanted |= {"udp:67", "udp:68"} if catch.family == 4 else {"udp:546", "icmpv6:34560"}
    for half in ("0.0.0.0/1", "128.0.0.0/1") if catch.family == 4 else ("::/1", "8000::/1"):
        assert {f"{half},{port}" for port in wanted} <= set(fixed[catch.safe_ports]), catch


def protected_first(view: NodeView, effects: Iterable[Effect]) -> None:
    """Fail unless what is protected returns before anything else is asked, in every chain."""
    effects = tuple(effects)
    fixed = {each.name: each.entries for each in effects if isinstance(each, FixedSet)}
    for effect in effects:
        if isinstance(effect, LeasedSet | PulsedSet):
            for entry in effect.entries:
                assert ipaddress.ip_network(entry).prefixlen > 0
        if isinstance(effect, IngressPipe):
            for catch in effect.catches:
                spared(view, catch, fixed)
        if not isinstance(effect, Chain):
            continue
        first = next(
            (n for n, rule in enumerate(effect.rules) if rule.target != "RETURN"), len(effect.rules)
        )
        head = effect.rules[:first]
        assert all(rule.target != "RETURN" or rule.per_day for rule in effect.rules[first:])
        side = "destination" if effect.hook in ("OUTPUT", "POSTROUTING") else "source"
        returned = {getattr(rule, side) for rule in head if not rule.protocol}
        for net in view.protected.networks():
            if net.version == effect.family:
                assert str(net) in returned, f"{net} is not protected in {effect.name}"
        ssh = tuple(map(str, view.protected.ssh_ports))
        for ports in ("source_ports", "destination_ports"):
            assert any(r.protocol == "tcp" and getattr(r, ports) == ssh for r in head), "SSH"
        dhcp = ("67", "68") if effect.family == 4 else ("546", "547")
        assert any(r.protocol == "udp" and r.source_ports == dhcp for r in head), "DHCP"
        if effect.family == 6:
            kinds = {r.icmpv6_type for r in head}
            assert {"133", "134", "135", "136", "137"} <= kinds, "neighbour discovery"
