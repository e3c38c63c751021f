"""The kernel's hold on the lease: entries that time out, and never come back by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import Family, LeasedSet
from chaos_core.errors import NotInForce

SECOND = 1_000_000
PEERS: dict[Family, tuple[str, ...]] = {
    4: ("10.9.0.2/32", "0.0.0.0/1"),
    6: ("fd09::2/128", "8000::/1"),
}


@pytest.fixture(params=[4, 6])
def peers(request: pytest.FixtureRequest) -> LeasedSet:
    family: Family = request.param
    return LeasedSet(f"chs-0000000a-{family}", family, PEERS[family])


def test_entries_time_out_no_later_than_the_lease(host: Host, peers: LeasedSet) -> None:
    ops(peers).apply(host, peers, now_us() + 7_900_000)
    assert ops(peers).verify(host, peers) is None
    left = host.sets.entries(peers.name)
    assert left.keys() == set(PEERS[peers.family])
    assert all(1 <= seconds <= 7 for seconds in left.values())


@pytest.mark.usefixtures("kernel")
def test_a_set_nobody_renews_lapses_and_is_not_revived(host: Host, peers: LeasedSet) -> None:
    verbs = ops(peers)
    verbs.apply(host, peers, now_us() + 1_100_000)
    time.sleep(1.2)
    assert "lapsed" in (verbs.verify(host, peers) or "")
    with pytest.raises(NotInForce, match="lapsed"):
        verbs.renew(host, peers, now_us() + 9 * SECOND)
    assert host.sets.entries(peers.name) == {}


def test_one_lapsed_entry_of_two_is_enough_to_refuse_renewal(
    host: Host, peers: LeasedSet, sh: Callable[..., str]
) -> None:
    ops(peers).apply(host, peers, now_us() + 9 * SECOND)
    sh("ipset", "del", peers.name, peers.entries[0])
    with pytest.raises(NotInForce, match="lapsed"):
        ops(peers).renew(host, peers, now_us() + 9 * SECOND)
    assert len(host.sets.entries(peers.name)) == 1


@pytest.mark.usefixtures("kernel")
def test_renewal_moves_the_end(host: Host, peers: LeasedSet) -> None:
    verbs = ops(peers)
    verbs.apply(host, peers, now_us() + 1_500_000)
    time.sleep(0.5)
    verbs.renew(host, peers, now_us() + 9 * SECOND)
    time.sleep(0.8)
    assert verbs.verify(host, peers) is None
    assert all(seconds > 5 for seconds in host.sets.entries(peers.name).values())


def test_the_deadline_binds_an_apply(host: Host, peers: LeasedSet) -> None:
    ops(peers).apply(host, peers, now_us() + 60 * SECOND, deadline_us=now_us() + 3 * SECOND)
    assert all(seconds <= 3 for seconds in host.sets.entries(peers.name).values())


def test_less_than_a_second_is_never_written_as_for_ever(host: Host, peers: LeasedSet) -> None:
    verbs = ops(peers)
    with pytest.raises(NotInForce, match="less than a second"):
        verbs.apply(host, peers, now_us() + 900_000)
    assert verbs.absent(host, peers) is None
    verbs.apply(host, peers, now_us() + 5 * SECOND)
    verbs.renew(host, peers, now_us() + 900_000)
    assert all(1 < seconds <= 5 for seconds in host.sets.entries(peers.name).values())


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (("add", "{name}", "{other}", "timeout", "5"), "not asked for"),
        (("-exist", "add", "{name}", "{entry}", "timeout", "0"), "never times out"),
        (("flush", "{name}"), "lapsed"),
        (("destroy", "{name}"), "missing"),
    ],
)
def test_verify_names_what_differs(
    host: Host, peers: LeasedSet, sh: Callable[..., str], harm: tuple[str, ...], says: str
) -> None:
    ops(peers).apply(host, peers, now_us() + 9 * SECOND)
    other = "203.0.113.9" if peers.family == 4 else "2001:db8::9"
    names = {"name": peers.name, "entry": peers.entries[0], "other": other}
    sh("ipset", *(word.format(**names) for word in harm))
    assert says in (ops(peers).verify(host, peers) or "")


def test_a_set_of_another_make_is_not_ours(
    host: Host, peers: LeasedSet, sh: Callable[..., str]
) -> None:
    sh(
        "ipset",
        "create",
        peers.name,
        "hash:net",
        "family",
        "inet6" if peers.family == 6 else "inet",
    )
    for entry in peers.entries:
        sh("ipset", "add", peers.name, entry)
    assert "never time out" in (ops(peers).verify(host, peers) or "")


def test_apply_and_revert_can_be_repeated(host: Host, peers: LeasedSet) -> None:
    verbs = ops(peers)
    for _ in range(2):
        verbs.apply(host, peers, now_us() + 5 * SECOND)
    assert verbs.verify(host, peers) is None
    assert "still there" in (verbs.absent(host, peers) or "")
    for _ in range(2):
        verbs.revert(host, peers)
    assert verbs.absent(host, peers) is None


def test_any_number_of_entries_is_moved(host: Host) -> None:
    """They go in few messages, of which one holds a thousand."""
    networks = [f"2001:db8:{number:x}::/48" for number in range(1, 2_501)]
    host.sets.create("chs-0a1b2c3d-6", 6)
    host.sets.put("chs-0a1b2c3d-6", 6, networks, 20)
    assert host.sets.entries("chs-0a1b2c3d-6").keys() == set(networks)
    host.sets.move("chs-0a1b2c3d-6", 6, networks[:-1], 60)
    left = host.sets.entries("chs-0a1b2c3d-6")
    assert min(left[network] for network in networks[:-1]) > 50
    assert left[networks[-1]] <= 20
    host.sets.destroy("chs-0a1b2c3d-6")
