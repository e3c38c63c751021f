"""The services: how sealed they are, who feeds the watchdog, and what ends what outlives them."""

from __future__ import annotations

import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.fuzz.pretend import Quiet, supervisor

from chaos_agent.keeper import Keeper
from chaos_agent.notify import Notifier
from chaos_core.envelope import PROFILES
from chaos_core.messages import Apply

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
GOALS = {"chaos-agent": 4.0, "chaos-link": 2.0, "chaos-controller": 2.0}


def exposure(name: str) -> float:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    said = subprocess.run(
        [*argv, str(UNITS / f"{name}.service")], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(rf"Overall exposure level for {name}.service: ([\d.]+)", said)
    assert found, said
    return float(found[1])


@pytest.mark.parametrize("name", GOALS)
def test_a_service_is_as_sealed_as_it_should_be_and_as_the_documentation_says(name: str) -> None:
    page = (ROOT / "docs/hardening.md").read_text()
    told = re.search(rf"^\| `{name}.service`.*\| ([\d.]+) \| ≤ (\d) \|$", page, re.MULTILINE)
    assert told
    assert exposure(name) <= float(told[2]) == GOALS[name]
    version = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    if f"systemd {version}" in page:  # each version counts in its own way
        assert exposure(name) == float(told[1])


def directives(name: str) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in (UNITS / f"{name}.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def test_the_keepers_unit_has_every_layer_of_the_safety_case() -> None:
    unit = directives("chaos-agent")
    recover = "/usr/bin/chaos-agent recover"
    assert any(line.lstrip("-") == recover for line in unit["ExecStartPre"])
    assert unit["ExecStopPost"] == [recover]
    wanted = {
        "Type": "notify",
        "WatchdogSec": "2s",
        "WatchdogSignal": "SIGKILL",
        "Restart": "always",
        "StartLimitIntervalSec": "0",
        "Delegate": "yes",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "IPAddressDeny": "any",
    }
    assert {key: unit[key] for key in wanted} == {key: [value] for key, value in wanted.items()}
    assert int(*unit["OOMScoreAdjust"]) < 0
    assert unit["MemoryMin"]
    assert unit["CapabilityBoundingSet"]
    assert unit["RestrictAddressFamilies"]
    assert unit["SystemCallFilter"]


@pytest.mark.parametrize("name", ["chaos-link", "chaos-controller"])
def test_who_speaks_to_the_network_has_no_privilege(name: str) -> None:
    unit = directives(name)
    assert unit["User"] == ["chaos"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["Restart"] == ["always"]


# A keeper whose work takes no time, until the file is there: then it never ends.
_KEEPER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from chaos_agent.keeper import Keeper, Listener
from chaos_core.log import Log

place = Path(sys.argv[1])

def tick(now):
    while (place / "hang").exists():
        time.sleep(0.1)

straw = SimpleNamespace(
    config=SimpleNamespace(envelope=SimpleNamespace(profile="lab")),
    tick=tick, next_wakeup=lambda: None, end_all=lambda *_: None, changed=False,
    engine=SimpleNamespace(standing={}),
)
clock = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
Keeper(straw, None, Listener(place / "keeper.sock"), clock, Log.to_stderr("test")).run()
"""


def test_a_keeper_whose_lease_loop_hangs_does_not_feed_the_watchdog(tmp_path: Path) -> None:
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))

    def heard(seconds: float) -> list[bytes]:
        said, until = [], time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(systemd, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0:
                said += [systemd.recv(64) for _ in selector.select(left)]
        return said

    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEPER, str(tmp_path)],
        env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
    )
    try:
        systemd.settimeout(30)
        assert systemd.recv(64) == b"READY=1"
        assert heard(3).count(b"WATCHDOG=1") >= 3  # often enough for two seconds
        (tmp_path / "hang").touch()
        heard(1)
        assert heard(2.5) == []
        assert keeper.poll() is None
        (tmp_path / "hang").unlink()
        assert b"WATCHDOG=1" in heard(3)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(30) == 0
    finally:
        keeper.kill()
        keeper.wait()
        systemd.close()


def _tell(told: list[str], verb: str, work: Callable[..., Any], *words: Any) -> Any:
    told.append(verb)
    return work(*words)


def test_each_effect_of_a_fault_feeds_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a starved node a whole fault can take longer than two seconds."""
    told: list[str] = []
    monkeypatch.setattr(Notifier, "alive", lambda _: told.append("alive"))
    with supervisor(PROFILES["lab"], tmp_path) as (node, kernel):
        for verb in ("apply", "verify", "revert"):
            monkeypatch.setattr(kernel, verb, partial(_tell, told, verb, getattr(kernel, verb)))
        Keeper(node, Mock(), Mock(), kernel.clock, Quiet())
        request = Apply(
            epoch=1,
            seq=node.heartbeat(kernel.now).seq,
            ttl_us=3_000_000,
            run="r",
            fault="00000001",
            kind="unit.stop",
            params='{"unit": "app"}',
            duration_us=10_000_000,
        )
        node.obey(request, kernel.now)
        node.end_all("shutdown", kernel.now)
    assert {"apply", "verify", "revert"} < set(told)
    assert all(before == "alive" for before, verb in pairwise(told) if verb != "alive")
