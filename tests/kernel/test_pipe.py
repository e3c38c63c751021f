"""Latency, loss and blackholes by detour, beside the user's own qdiscs and filters."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from chaos_agent import doctor
from chaos_agent.effects import ops, sweep
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.tc import Tc
from chaos_core.effects import Chain, Effect, Family, LeasedSet, Netem, Pipe, Rule
from chaos_core.errors import Unsupported

LATER = 60 * 1_000_000
MASK = 0x0F000000
DELAY = Netem(delay=50_000, limit=2_000)
guest = pytest.mark.guest


def pipe(
    fault: str = "0000000a", mark: int = 0x01000000, pref: int = 1, netem: Netem | None = DELAY
) -> Pipe:
    return Pipe("v0", f"chs-{fault}-0", mark, MASK, pref, netem)


def detour(
    through: Pipe, peer: str, fault: str = "0000000a", family: Family = 4
) -> tuple[Effect, ...]:
    """A whole egress fault: the peer's packets are marked, and go through the pipe."""
    name = f"chs-{fault}-{family}"
    mark = Rule(
        "MARK", out_device="v0", match_set=name, set_side="dst", mark=through.mark, mask=MASK
    )
    return (
        LeasedSet(name, family, (peer,)),
        through,
        Chain(f"CHAOS-{fault}-out", family, "mangle", "POSTROUTING", (mark,)),
    )


def apply(host: Host, *effects: Effect, lease: int = LATER) -> None:
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + lease)
        assert ops(effect).verify(host, effect) is None


def revert(host: Host, *effects: Effect) -> None:
    for effect in reversed(effects):
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None


@pytest.mark.usefixtures("kernel", "net")
def test_a_kernel_that_lacks_something_says_what(host: Host) -> None:
    abilities = {ability.name: ability for ability in doctor.examine(host).abilities}
    for effect, names in ((pipe(), ("ifb", "netem", "fw")), (pipe(netem=None), ("dummy", "fw"))):
        lacking = [name for name in names if not abilities[name].ok]
        if lacking:
            with pytest.raises(Unsupported, match=f"this kernel lacks .*{lacking[0]}"):
                ops(effect).apply(host, effect, now_us() + LATER)
        else:
            apply(host, effect)
        revert(host, effect)
    assert host.tc.clsact_devices() == set()


@guest
@pytest.mark.parametrize("family", [4, 6])
def test_the_peer_is_late_and_nobody_else(host: Host, net: Any, users: Any, family: Family) -> None:
    before = users.listing()
    effects = detour(pipe(), net.peer[family], family=family)
    apply(host, *effects)
    late = net.ping(net.peer[family], count=5)
    assert len(late) == 5
    assert statistics.median(late) == pytest.approx(50, abs=2)
    assert max(net.ping(net.bystander[family])) < 5
    revert(host, *effects)
    assert users.listing() == before
    assert max(net.ping(net.peer[family])) < 5


@guest
def test_latency_ends_with_its_lease_and_no_process(
    host: Host, net: Any, wait_for: Callable[..., None]
) -> None:
    apply(host, *detour(pipe(), net.peer[4]), lease=2_500_000)
    host.close()
    assert min(net.ping(net.peer[4])) > 48
    wait_for(lambda: max(net.ping(net.peer[4])) < 5, 2.5)


@guest
def test_the_plumbing_alone_does_nothing(host: Host, net: Any) -> None:
    apply(host, *detour(pipe(), net.bystander[4])[:2], pipe("0000000b", 0x02000000, 2, None))
    assert max(net.ping(net.peer[4])) < 5
    assert max(net.ping(net.bystander[4])) < 5


@guest
def test_packets_are_lost_at_the_rate_asked_for(host: Host, net: Any) -> None:
    apply(host, *detour(pipe(netem=Netem(loss=250_000)), net.peer[4]))
    before = net.sent()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(4000):
            sender.sendto(b"x", (net.peer[4], 9))
    time.sleep(0.2)
    assert 1 - (net.sent() - before) / 4000 == pytest.approx(0.25, abs=0.035)  # 5 deviations


@guest
def test_a_blackhole_swallows_without_an_error_at_the_sender(host: Host, net: Any) -> None:
    effects = detour(pipe(netem=None), net.peer[4])
    apply(host, *effects)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((net.peer[4], 9))
        assert all(sender.send(b"x") == 1 for _ in range(100))
    assert net.ping(net.peer[4]) == []
    assert len(net.ping(net.bystander[4])) == 2
    revert(host, *effects)
    assert len(net.ping(net.peer[4])) == 2


@guest
def test_two_faults_share_a_clsact_and_the_last_takes_it_along(
    host: Host, net: Any, users: Any
) -> None:
    before = users.listing()
    first = detour(pipe(), net.peer[4])
    second = detour(pipe("0000000b", 0x02000000, 2, None), net.bystander[4], fault="0000000b")
    apply(host, *first, *second)
    assert min(net.ping(net.peer[4])) > 48
    revert(host, *first)
    assert net.ping(net.bystander[4]) == []
    assert host.tc.clsact_devices()
    revert(host, *second)
    assert users.listing() == before


@guest
@pytest.mark.parametrize("empty", [False, True])
def test_the_users_own_clsact_stays(host: Host, net: Any, users: Any, empty: bool) -> None:
    users.add_clsact(empty=empty)
    before = users.listing()
    effects = detour(pipe(), net.peer[4])
    apply(host, *effects)
    revert(host, *effects)
    assert users.listing() == before


@guest
def test_a_filter_the_user_adds_to_our_clsact_keeps_it(
    host: Host, net: Any, sh: Callable[..., str]
) -> None:
    effects = detour(pipe(), net.peer[4])
    apply(host, *effects)
    words = "filter add dev v0 egress protocol ip pref 7 u32 match ip tos 4 0xff action ok"
    sh("tc", *words.split())
    revert(host, *effects)
    assert "pref 7" in sh("tc", "filter", "show", "dev", "v0", "egress")


STEPS = ("add_netem", "raise_link", "add_clsact", "add_redirect")


class Crashed(Exception):
    pass


@pytest.fixture
def crash_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make one method of Tc end the world when it is called."""

    def crash(*_: object, **__: object) -> None:
        raise Crashed

    return lambda step: monkeypatch.setattr(Tc, step, crash)


@guest
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("net")
def test_a_crash_at_any_step_leaves_nothing_that_cannot_be_reverted(
    host: Host,
    users: Any,
    crash_before: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    before = users.listing()
    crash_before(step)
    with pytest.raises(Crashed):
        ops(pipe()).apply(host, pipe(), now_us() + LATER)
    monkeypatch.undo()
    assert ops(pipe()).verify(host, pipe()) is not None
    with Host() as afresh:
        revert(afresh, pipe())
        assert users.listing() == before


@guest
@pytest.mark.parametrize("step", ["add_netem", "add_redirect"])
def test_a_crash_does_not_harm_another_fault_on_the_device(
    host: Host,
    net: Any,
    crash_before: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    other = detour(pipe("0000000b", 0x02000000, 2), net.bystander[4], fault="0000000b")
    apply(host, *other)
    crash_before(step)
    with pytest.raises(Crashed):
        ops(pipe()).apply(host, pipe(), now_us() + LATER)
    monkeypatch.undo()
    revert(host, pipe())
    assert [ops(effect).verify(host, effect) for effect in other] == [None] * 3
    apply(host, pipe())
    revert(host, *other)
    assert ops(pipe()).verify(host, pipe()) is None
    revert(host, pipe())
    assert host.tc.clsact_devices() == set()


@guest
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("tc qdisc change dev chs-0000000a-0 root netem delay 51ms limit 2000", "has delay"),
        ("tc qdisc change dev chs-0000000a-0 root netem delay 50ms limit 2001", "has limit"),
        ("tc qdisc change dev chs-0000000a-0 root netem delay 50ms loss 1% limit 2000", "has loss"),
        ("tc qdisc change dev chs-0000000a-0 root netem delay 50ms 1ms limit 2000", "has jitter"),
        ("tc qdisc replace dev chs-0000000a-0 root pfifo", "no netem"),
        ("ip link set chs-0000000a-0 down", "that is down"),
        ("ip link del chs-0000000a-0", "is missing"),
        ("tc filter del dev v0 egress", "0 filters"),
        ("tc qdisc del dev v0 clsact", "0 filters"),
    ],
)  # fmt: skip
def test_verify_names_what_differs_and_revert_cleans_up(
    host: Host, sh: Callable[..., str], harm: str, says: str
) -> None:
    apply(host, pipe())
    sh(*harm.split(), check=False)
    assert says in (ops(pipe()).verify(host, pipe()) or "nothing")
    ops(pipe()).revert(host, pipe())
    sweep.remove(host)
    assert "chs-" not in sh("ip", "link")
    assert "fw" not in sh("tc", "filter", "show", "dev", "v0", "egress")


@guest
def test_every_parameter_of_netem_is_read_back(host: Host, sh: Callable[..., str]) -> None:
    netem = Netem(delay=12_345, jitter=1_234, correlation=250_000, loss=12_300, limit=777)
    apply(host, pipe(netem=netem))
    assert "limit 777 delay 12.3ms  1.23ms 25% loss 1.23%" in sh(
        "tc", "qdisc", "show", "dev", "chs-0000000a-0"
    )


@guest
def test_apply_and_revert_can_be_repeated(host: Host, sh: Callable[..., str]) -> None:
    apply(host, pipe())
    made = sh("ip", "link", "show", "chs-0000000a-0")
    apply(host, pipe())
    assert sh("ip", "link", "show", "chs-0000000a-0") == made, "a pipe in force is left alone"
    for _ in range(2):
        revert(host, pipe())


@guest
def test_plumbing_forks_nothing_that_takes_long(host: Host, net: Any) -> None:
    effects = detour(pipe(), net.peer[4])
    times = []
    for _ in range(7):
        started = time.perf_counter()
        for effect in effects:
            ops(effect).apply(host, effect, now_us() + LATER)
        applied = time.perf_counter()
        for effect in reversed(effects):
            ops(effect).revert(host, effect)
        times.append((applied - started, time.perf_counter() - applied))
    assert min(up for up, _ in times) < 0.5  # the figures are in bench/
    assert min(down for _, down in times) < 0.5
