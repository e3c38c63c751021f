"""Limits of services' cgroups, as they compile: tighter than before, on the right group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import effects, envelope, faults
from chaos_core.effects import CgroupLimit, Effect, UndoTimer
from chaos_core.errors import ChaosError, InvalidInput, Refused
from chaos_core.node import CgroupFacts, NodeView, UnitFacts
from chaos_core.units import Duration

ID = "0123abcd"
MIB = 2**20
GROUP = CgroupFacts(
    "/system.slice/app.service",
    77,
    {
        "cpu.max": "max 100000",
        "io.max": "8:16 rbps=max wbps=1048576 riops=max wiops=120",
        "memory.current": str(200 * MIB),
        "memory.high": "max",
        "pids.current": "12",
        "pids.max": "4915",
    },
)
KINDS = {
    "cpu.throttle": {"percent": "20%"},
    "memory.limit": {"percent": "50%"},
    "io.throttle": {"path": "/var", "write": "512KiB"},
    "pids.exhaust": {},
}


def node(block: str = "8:16", **files: str) -> NodeView:
    named = {name.replace("_", "."): text for name, text in files.items()}
    group = replace(GROUP, files={**GROUP.files, **named})
    app = UnitFacts("app.service", active=True, cgroup=group)
    return replace(NodeView.example(), units={"app.service": app}, block=block)


def compiled(kind: str, given: dict[str, Any], view: NodeView) -> tuple[Effect, ...]:
    return faults.parse(kind, {"unit": "app", **given}).compile(view, ID)


def limits(kind: str, given: dict[str, Any], view: NodeView) -> list[tuple[str, str, str, str]]:
    """What a fault does to which limit, once it is seen to come after its timer."""
    timer, *done = compiled(kind, given, view)
    assert timer == UndoTimer(f"chs-{ID}", tuple(map(effects.to_text, done)))
    found = []
    for effect in done:
        assert isinstance(effect, CgroupLimit)
        assert (effect.unit, effect.group, effect.inode) == ("app.service", GROUP.path, 77)
        assert effects.from_text(effects.to_text(effect)) == effect
        assert effect.value in effects.describe(effect)
        found.append((effect.file, effect.key, effect.before, effect.value))
    return found


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("cpu.throttle", {"percent": "20%"}, [("cpu.max", "", "max 100000", "20000 100000")]),
        ("cpu.throttle", {"percent": "250%"}, [("cpu.max", "", "max 100000", "250000 100000")]),
        ("memory.limit", {"percent": "50%"}, [("memory.high", "", "max", str(100 * MIB))]),
        ("memory.limit", {"size": "9999999B"}, [("memory.high", "", "max", "9998336")]),
        ("pids.exhaust", {}, [("pids.max", "", "4915", "12")]),
        ("pids.exhaust", {"margin": 3}, [("pids.max", "", "4915", "15")]),
        (
            "io.throttle",
            {"path": "/", "read": "1MiB", "write": "512KiB"},
            [
                ("io.max", "8:16 rbps", "max", "1048576"),
                ("io.max", "8:16 wbps", "1048576", "524288"),
            ],
        ),
    ],
)
def test_a_limit_is_set_from_what_it_was(
    kind: str, given: dict[str, Any], expected: list[tuple[str, str, str, str]]
) -> None:
    assert limits(kind, given, node()) == expected


def test_another_disk_has_no_limit_yet() -> None:
    assert limits("io.throttle", KINDS["io.throttle"], node("8:0")) == [
        ("io.max", "8:0 wbps", "max", "524288")
    ]


@pytest.mark.parametrize(
    ("kind", "given", "files"),
    [
        ("cpu.throttle", {"percent": "20%"}, {"cpu_max": "10000 50000"}),
        ("cpu.throttle", {"percent": "400%"}, {}),  # it has no more CPUs
        ("memory.limit", {"size": "64MiB"}, {"memory_high": str(64 * MIB)}),
        ("memory.limit", {"percent": "50%"}, {"memory_high": str(90 * MIB)}),
        ("pids.exhaust", {}, {"pids_max": "12"}),
        ("io.throttle", {"path": "/", "write": "1MiB"}, {}),
    ],
)
def test_what_would_change_nothing_or_loosen_is_refused(
    kind: str, given: dict[str, Any], files: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput, match="change nothing"):
        compiled(kind, given, node(**files))


@given(quota=st.integers(1_000, 10**8), period=st.integers(1_000, 10**6), share=st.integers(10_000))
@settings(derandomize=True, deadline=None, database=None, max_examples=200)
def test_a_throttle_never_gives_more_than_there_was(quota: int, period: int, share: int) -> None:
    try:
        done = compiled(
            "cpu.throttle", {"percent": f"{share / 10_000:.4f}%"}, node(cpu_max=f"{quota} {period}")
        )
    except ChaosError:
        return
    assert isinstance(done[-1], CgroupLimit)
    new_quota, new_period = map(int, done[-1].value.split())
    assert new_quota >= 1_000
    assert new_quota * period < quota * new_period


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_whose_group_has_no_such_controller_is_refused(kind: str) -> None:
    bare = UnitFacts("app.service", active=True, cgroup=replace(GROUP, files={}))
    controller = faults.lookup(kind).file.partition(".")[0]  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=f"without the {controller} controller"):
        compiled(kind, KINDS[kind], replace(node(), units={bare.id: bare}))
    with pytest.raises(Refused, match="no cgroup"):
        compiled(kind, KINDS[kind], replace(node(), units={bare.id: replace(bare, cgroup=None)}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_protected_service_is_refused(kind: str) -> None:
    ssh = UnitFacts("ssh.service", active=True, cgroup=GROUP)
    with pytest.raises(Refused, match="protected"):
        compiled(kind, KINDS[kind], replace(node(), units={"app.service": ssh}))


def test_a_path_on_no_disk_is_refused() -> None:
    with pytest.raises(InvalidInput, match="path: /var is on no block device"):
        compiled("io.throttle", KINDS["io.throttle"], node(block=""))


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("cpu.throttle", {"percent": "0.9%"}, "at least 1%"),
        ("cpu.throttle", {}, "'percent' is required"),
        ("memory.limit", {}, "give size or percent"),
        ("memory.limit", {"size": "1GiB", "percent": "5%"}, "not both"),
        ("memory.limit", {"size": "4KiB"}, "at least 1MiB"),
        ("memory.limit", {"percent": "101%"}, "at most 100%"),
        ("io.throttle", {"path": "/var"}, "give read, write or both"),
        ("io.throttle", {"path": "var", "read": "1MiB"}, "not an absolute path"),
        ("io.throttle", {"path": "/var", "read": "1B"}, "at least 4KiB"),
        ("pids.exhaust", {"margin": -1}, "margin"),
    ],
)
def test_bad_input_is_named(kind: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        faults.parse(kind, {"unit": "app", **given})


def test_what_two_faults_would_change_is_told_by_their_effects() -> None:
    one, other = (compiled("pids.exhaust", {"margin": n}, node()) for n in (1, 2))
    assert effects.changes(one) == effects.changes(other) == {"app.service's pids.max"}
    assert not effects.changes(one) & effects.changes(
        compiled("memory.limit", KINDS["memory.limit"], node())
    )


def test_a_flush_is_allowed_everywhere_and_knows_what_was_counted_before() -> None:
    fault = faults.parse("cache.flush", {"what": "both"})
    assert fault.compile(replace(node(), flushes=(3, 5)), ID) == (effects.Flush("both", 3, 5),)
    for profile in envelope.PROFILES.values():
        envelope.check(profile, fault.draw(), Duration.parse("300s"))
        with pytest.raises(ChaosError, match="ceiling"):
            envelope.check(profile, fault.draw(), Duration.parse("301s"))
