"""Faults that are a holder process: what they compile to, draw, and refuse."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.pretend import VIEW, supervisor

from chaos_core import effects, envelope, faults
from chaos_core.effects import Holder
from chaos_core.envelope import PROFILES, Draw
from chaos_core.errors import ChaosError, EnvelopeExceeded, InvalidInput, Refused
from chaos_core.messages import Apply
from chaos_core.node import Asks, DirectoryFacts, FileLimits, NodeView
from chaos_core.units import SECOND, ByteSize, Percent

quick = settings(derandomize=True, deadline=None, database=None, max_examples=100)
ID = "0123abcd"
NODE = NodeView.example()
GIB = 2**30


def compiled(kind: str, node: NodeView = NODE, **given: Any) -> Holder:
    fault = faults.parse(kind, given)
    (holder,) = fault.compile(node, ID)
    assert isinstance(holder, Holder)
    assert holder.name == f"chs-{ID}"
    plain = {type(getattr(holder, field.name)) for field in fields(holder)}
    assert plain == {int, str}, "a quantity is written with its unit, which no holder reads"
    assert effects.from_json(json.loads(json.dumps(effects.to_json(holder)))) == holder
    return holder


@pytest.mark.parametrize(
    ("kind", "given", "what"),
    [
        ("cpu.stress", {"percent": "5%", "ramp": "301s"}, "ramp: no fault lasts longer"),
        ("cpu.stress", {"percent": "5%", "cores": "-1"}, "cores"),
        ("memory.stress", {}, "percent: must be above 0%, or give size"),
        ("memory.stress", {"percent": "5%", "size": "1GiB"}, "or give size instead"),
        ("memory.stress", {"size": "0B"}, "or give size"),
        ("memory.stress", {"size": "1000000"}, "has no unit"),
        ("memory.leak", {"percent": "5%"}, "'rate' is required"),
        ("memory.leak", {"rate": "10MiB"}, "'percent' is required"),
        ("memory.leak", {"rate": "1kB", "percent": "5%"}, "rate: must be at least 64KiB"),
        ("disk.fill", {"percent": "5%"}, "'path' is required"),
        ("disk.fill", {"path": "/srv"}, "percent: must be above 0%, or give size"),
        ("disk.fill", {"path": "/srv", "percent": "5%", "size": "1GiB"}, "or give size instead"),
        ("disk.fill", {"path": "/srv", "percent": "101%"}, "percent: must be at most 100%"),
        ("disk.fill", {"path": "srv", "percent": "5%"}, "path: 'srv' is not an absolute path"),
        ("disk.fill", {"path": "/a/../b", "percent": "5%"}, "path: '/a/../b' is not an absolute"),
        ("disk.fill", {"path": "/a\0b", "percent": "5%"}, "is not an absolute path"),
        ("io.stress", {"path": "/srv", "rate": "1kB"}, "rate: must be 64KiB to 1GiB"),
        ("io.stress", {"path": "/srv", "rate": "2GiB"}, "rate: must be 64KiB to 1GiB"),
        ("io.stress", {"path": "/srv", "rate": "2MiB", "mode": "rw"}, "mode"),
        ("io.stress", {"path": "/srv", "rate": "2MiB", "workers": "33"}, "workers"),
        ("fd.exhaust", {}, "'count' is required"),
        ("fd.exhaust", {"count": "0"}, "count"),
    ],
)
def test_bad_input_names_the_field(kind: str, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        faults.parse(kind, given)
    assert what in str(caught.value)


# ── CPU ───────────────────────────────────────────────────────────────────────────────────


def test_cores_say_how_many_are_busy_and_never_raise_the_share() -> None:
    alone = compiled("cpu.stress", percent="30%")  # of 4 CPUs: 1.2
    assert (alone.workers, alone.cpu_quota) == (2, 120_000)
    spread = compiled("cpu.stress", percent="30%", cores=4, ramp="10s")
    assert (spread.workers, spread.cpu_quota, spread.ramp) == (4, 120_000, 10_000_000)


@pytest.mark.parametrize("cores", [1, 5])
def test_cores_that_cannot_be_are_refused(cores: int) -> None:
    with pytest.raises(InvalidInput, match=r"cores: .* keeps 2 to 4"):
        compiled("cpu.stress", percent="30%", cores=cores)


# ── memory ────────────────────────────────────────────────────────────────────────────────


def test_a_size_is_held_to_the_byte_and_counted_where_the_total_is_known() -> None:
    holder = compiled("memory.stress", size="1GiB", ramp="30s")
    assert (holder.memory, holder.ramp) == (GIB, 30_000_000)
    draw = faults.parse("memory.stress", {"size": "1GiB"}).draw()
    assert draw.on(8 * GIB) == Draw("memory", memory=Percent.parse("12.5%"))
    assert draw.on(3 * GIB).memory == 333_334, "rounded up"
    with pytest.raises(InvalidInput, match="size: example has 8589934592 bytes"):
        compiled("memory.stress", size="9GiB")


@given(size=st.integers(1, 2**45), percent=st.integers(0, 10**6), total=st.integers(2**20, 2**45))
@quick
def test_no_size_is_counted_as_less_than_it_is(size: int, percent: int, total: int) -> None:
    draw = Draw("memory", memory=Percent(percent), memory_size=ByteSize(size)).on(total)
    assert draw.memory * total >= size * 1_000_000 + percent * total
    assert not draw.memory_size
    assert draw.on(total) == draw


@pytest.mark.parametrize(("size", "allowed"), [("409MiB", True), ("410MiB", False)])
def test_the_agent_counts_a_size_against_its_own_memory(
    tmp_path: Path, size: str, allowed: bool
) -> None:
    """10 % of 4 GiB are 409.6 MiB."""
    with supervisor(PROFILES["production"], tmp_path) as (node, kernel):
        assert VIEW.memory_total == 4 * GIB
        _apply(node, kernel.now, "memory.stress", size=size)
        assert bool(kernel.in_force()) == allowed
        if not allowed:
            (status,) = node.heartbeat(kernel.now).faults
            assert "above the ceiling of 10%" in status.detail


def test_sizes_and_shares_add_up(tmp_path: Path) -> None:
    two = replace(PROFILES["lab"], memory=Percent.parse("10%"))
    with supervisor(two, tmp_path) as (node, kernel):
        _apply(node, kernel.now, "memory.stress", size="300MiB")
        _apply(node, kernel.now, "memory.leak", fault="00000002", rate="1MiB", percent="5%")
        assert [effect.name for effect in kernel.in_force() if isinstance(effect, Holder)] == [
            "chs-00000001"
        ]


def _apply(node: Any, now: int, kind: str, *, fault: str = "00000001", **params: str) -> None:
    request = Apply(
        epoch=1,
        seq=node.heartbeat(now).seq,
        ttl_us=3_000_000,
        run="r",
        fault=fault,
        kind=kind,
        params=json.dumps(params),
        duration_us=10_000_000,
    )
    node.obey(request, now)


def test_a_leak_is_its_ceiling_reached_at_its_rate() -> None:
    holder = compiled("memory.leak", rate="16MiB", percent="10%")
    assert holder.memory == int(0.1 * 8 * GIB)
    assert holder.memory / holder.ramp * 1_000_000 == pytest.approx(16 * 2**20, rel=1e-6)
    assert holder.memory_max < holder.memory * 1.01 + 5 * 2**20
    slow = compiled("memory.leak", rate="1MiB", percent="10%")
    assert (slow.memory, slow.ramp) == (300 * 2**20, 300_000_000), "what 300 s give"


@given(total=st.integers(2**26, 2**45), share=st.integers(1, 10**6), rate=st.integers(2**16, 2**62))
@quick
def test_a_leak_never_takes_more_than_was_drawn(total: int, share: int, rate: int) -> None:
    given = {"rate": ByteSize(rate), "percent": Percent(share)}
    holder = compiled("memory.leak", replace(NODE, memory_total=total), **given)
    assert holder.memory * 1_000_000 <= share * total
    assert 0 <= holder.ramp <= 300_000_000


def test_production_takes_what_has_a_ceiling_and_refuses_the_rest() -> None:
    for kind in ("cpu.stress", "memory.stress", "memory.leak"):
        fault = faults.parse(
            kind, dict(word.split("=") for word in faults.lookup(kind).example.split())
        )
        envelope.check(PROFILES["production"], fault.draw().on(8 * GIB), SECOND)


# ── disks ─────────────────────────────────────────────────────────────────────────────────

SRV = DirectoryFacts("/srv", mount="/srv", device=2049, total=100 * GIB, free=40 * GIB)
DISK = {"disk.fill": {"percent": "90%"}, "io.stress": {"rate": "20MiB"}}


def on(facts: DirectoryFacts | None = SRV, profile: str = "lab") -> NodeView:
    return replace(NODE, directory=facts, profile=profile)


@pytest.mark.parametrize("kind", DISK)
def test_a_directory_is_asked_for_and_destructive(kind: str) -> None:
    fault = faults.parse(kind, {"path": "/srv/", **DISK[kind]})
    assert fault.asks() == Asks(directory="/srv")
    assert fault.risky
    with pytest.raises(EnvelopeExceeded, match="refused in profile production"):
        envelope.check(PROFILES["production"], fault.draw(), SECOND)


@pytest.mark.parametrize("kind", DISK)
@pytest.mark.parametrize(
    ("facts", "error", "what"),
    [
        (None, InvalidInput, "path: there is no /srv on example"),
        (replace(SRV, real="/data"), InvalidInput, "path: /srv is a link, or behind one, to /data"),
        (replace(SRV, directory=False), InvalidInput, "path: /srv is not a directory"),
        (replace(SRV, type="nfs4"), Refused, "path: /srv is on nfs4"),
        (replace(SRV, type="tmpfs"), Refused, "path: /srv is on tmpfs"),
        (replace(SRV, type="proc"), Refused, "path: /srv is on proc"),
        (replace(SRV, system=("the root",)), Refused, "on the file system of the root"),
        (replace(SRV, system=("the agent's own state",)), Refused, "of the agent's own state"),
        (replace(SRV, writable=False), Refused, "path: the agent may not write in /srv"),
        (replace(SRV, free=5 * GIB), Refused, "path: at most 0B of /srv can be taken now; 5GiB"),
        (replace(SRV, total=GIB, free=2**28), Refused, "256MiB always stay free"),
    ],
)
def test_what_must_not_be_written_on_is_refused(
    kind: str, facts: DirectoryFacts | None, error: type[ChaosError], what: str
) -> None:
    wanted = {"size": "1MiB"} if kind == "disk.fill" else DISK[kind]
    with pytest.raises(error) as caught:
        compiled(kind, on(facts), path="/srv", **wanted)
    assert what in str(caught.value)


@pytest.mark.parametrize("kind", DISK)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_root_takes_a_word_more_and_no_production(kind: str, profile: str) -> None:
    node = on(replace(SRV, system=("the root",)), profile)
    given = {"path": "/srv", **DISK[kind], "system": "true"}
    if profile == "production":
        with pytest.raises(Refused, match="of the root"):
            compiled(kind, node, **given)
    else:
        assert compiled(kind, node, **given).directory == "/srv"


def test_a_disk_is_as_full_as_asked_and_its_reserve_is_told_to_the_holder() -> None:
    holder = compiled("disk.fill", on(), path="/srv", percent="90%")
    assert holder.size == 30 * GIB
    assert holder.reserve == 5 * GIB
    assert (holder.directory, holder.device) == ("/srv", 2049)
    assert compiled("disk.fill", on(), path="/srv", size="10GiB").size == 10 * GIB
    with pytest.raises(Refused, match="at most 35GiB of /srv"):
        compiled("disk.fill", on(), path="/srv", percent="96%")
    with pytest.raises(InvalidInput, match="percent: /srv is 60 % full already"):
        compiled("disk.fill", on(), path="/srv", percent="60%")
    with pytest.raises(InvalidInput, match="size: less than a block"):
        compiled("disk.fill", on(), path="/srv", size="1kB")


@given(total=st.integers(0, 2**50), used=st.integers(0, 10**6), percent=st.integers(1, 10**6))
@quick
def test_the_reserve_is_never_touched(total: int, used: int, percent: int) -> None:
    facts = replace(SRV, total=total, free=total - total * used // 10**6)
    try:
        holder = compiled("disk.fill", on(facts), path="/srv", percent=Percent(percent))
    except (InvalidInput, Refused):
        return
    left = facts.free - holder.size
    assert left >= max(total / 20 - 1, 256 * 2**20)
    assert holder.size > 0
    assert abs(total - left - total * percent // 10**6) <= 4096


def test_io_is_what_was_asked_on_a_bounded_file() -> None:
    holder = compiled("io.stress", on(), path="/srv", rate="20MiB", mode="write", workers=4)
    assert (holder.rate, holder.mode, holder.workers) == (20 * 2**20, "write", 4)
    assert holder.size == 20 * 2**20
    assert compiled("io.stress", on(), path="/srv", rate="1GiB").size == 64 * 2**20
    small = compiled("io.stress", on(), path="/srv", rate="64KiB", workers=32)
    assert small.size == 32 * 2**20


# ── descriptors ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (FileLimits(most=100_000, taken=1_000, ours=2**19), 94_000),
        (FileLimits(most=10_000, taken=1_000, ours=2**19), 7_976),
        (FileLimits(most=2**63 - 1, taken=1_000, ours=20_000), 19_936),
        (FileLimits(most=1_000, taken=900, ours=20_000), 0),
    ],
)
def test_files_are_left_for_the_agent_and_everybody(limits: FileLimits, most: int) -> None:
    node = replace(NODE, files=limits)
    if most:
        holder = compiled("fd.exhaust", node, count=most)
        assert holder.count == most
        assert holder.reserve >= 1_024
    with pytest.raises(Refused, match=f"count: at most {most} files"):
        compiled("fd.exhaust", node, count=most + 1)


def test_what_files_weigh_is_counted() -> None:
    draw = faults.parse("fd.exhaust", {"count": 2**20}).draw()
    assert draw.on(GIB).memory == 500_000
    assert draw.fault_class == "destructive"
