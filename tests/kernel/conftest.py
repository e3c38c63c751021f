"""Tests against a real kernel: as root, each in a network namespace of its own.

This host's kernel lacks what some tests need (netem, the fw classifier, cgroup v2).
Those are marked ``guest``: they are run by a pytest inside a User-Mode Linux kernel
that boots from this host's files while the others run, and their reports are shown
here as if they had run here. A test that uses ``kernel`` runs in both.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from chaos_agent.linux.host import Host

IN_GUEST = "CHAOS_GUEST" in os.environ
_CLONE_NEWNET = 0x40000000
_GUEST_SECONDS = 120
_TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ping": "iputils-ping",
    "nsenter": "util-linux",
    "iptables-legacy-save": "iptables",
    "ipset": "ipset",
    "linux.uml": "user-mode-linux",
}


# ── the guest ─────────────────────────────────────────────────────────────────────────


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guest: runs inside a User-Mode Linux kernel")
    if IN_GUEST:
        config.pluginmanager.register(_Messenger(config))


class _Messenger:
    """Inside the guest: hands every report out, a line of JSON each."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with Path("/run/exchange/reports").open("a") as file:
            file.write(json.dumps(data) + "\n")


class _Guest:
    """A kernel that runs these tests and powers off; it starts at once, beside the others."""

    def __init__(self, config: pytest.Config, nodes: list[str]) -> None:
        self._config = config
        self._exchange = tempfile.TemporaryDirectory(prefix="chaos-guest-")
        directory = Path(self._exchange.name)
        words = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", *nodes]
        (directory / "command").write_text("\0".join(words))
        init = directory / "init"
        program = Path(__file__).with_name("guest.py")
        init.write_text(f"#!/bin/sh\nexec {sys.executable} -B {program}\n")
        init.chmod(0o700)
        self._kernel = subprocess.Popen(
            [
                *("taskset", "-c", str(max(os.sched_getaffinity(0)))),  # four times faster
                *("linux.uml", "mem=384M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
                *("ro", "con=null", "con0=fd:0,fd:1", "quiet", f"uml_dir={directory}/"),
                *(f"init={init}", f"exchange={directory}", f"cwd={config.rootpath}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reports: dict[str, list[pytest.TestReport]] | None = None
        self._console = ""

    def reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        """What the guest reported of this test. Waits for the guest's end the first time."""
        if self._reports is None:
            self._reports = self._finish()
        return self._reports.get(item.nodeid) or [_failed(item, self._console)]

    def _finish(self) -> dict[str, list[pytest.TestReport]]:
        try:
            self._console = self._kernel.communicate(timeout=_GUEST_SECONDS)[0]
        except subprocess.TimeoutExpired:
            self.close()
            self._console = f"killed after {_GUEST_SECONDS} s"
        found: dict[str, list[pytest.TestReport]] = {}
        out = Path(self._exchange.name, "reports")
        for line in out.read_text().splitlines() if out.exists() else ():
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=json.loads(line)
            )
            found.setdefault(report.nodeid, []).append(report)
        return found

    def close(self) -> None:
        """End its processes, if the run was cut short."""
        if self._kernel.poll() is None:
            os.killpg(self._kernel.pid, 9)
            self._kernel.wait()


_GUEST: pytest.StashKey[_Guest] = pytest.StashKey()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The guest's tests come last: it has run them by then."""
    items.sort(key=lambda item: item.get_closest_marker("guest") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    marked = [item.nodeid for item in session.items if item.get_closest_marker("guest")]
    if marked and not IN_GUEST and not session.config.option.collectonly and not _missing():
        session.stash[_GUEST] = _Guest(session.config, marked)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _GUEST in session.stash:
        session.stash[_GUEST].close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Show a guest test's reports as if it had run here."""
    if IN_GUEST or not item.get_closest_marker("guest"):
        return None
    guest = item.session.stash.get(_GUEST, None)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in guest.reports(item) if guest else [_failed(item, _missing())]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _failed(item: pytest.Item, console: str) -> pytest.TestReport:
    """The report of a test of which the guest said nothing."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"the guest kernel did not run it: {console[-3000:]}",
        when="call",
    )


def _missing() -> str:
    if os.geteuid():
        return "the kernel tests need root: run them as root"
    packages = sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool)})
    return f"install what is missing: apt-get install {' '.join(packages)}" if packages else ""


# ── what the tests are made of ────────────────────────────────────────────────────────


@pytest.fixture(scope="session", autouse=True)
def _prerequisites() -> Iterator[None]:
    missing = _missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    with Path("/run/chaos-kernel-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # cgroups are the machine's: one session at a time
        yield


@pytest.fixture(params=["here", pytest.param("guest", marks=pytest.mark.guest)])
def kernel(request: pytest.FixtureRequest) -> str:
    """Makes a test run twice: on this host's kernel, and in the guest."""
    return str(request.param)


def run(*words: str, check: bool = True, stdin: str = "") -> str:
    """Run a command and return what it printed; on failure show what it complained of."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr or done.stdout}"
    return done.stdout


class Net:
    """A fresh network namespace, with ``v0`` wired to a peer that has two addresses a family.

    ``near`` is this side, ``peer`` the other, ``bystander`` the peer's second address.
    """

    near: ClassVar = {4: "10.9.0.1", 6: "fd09::1"}
    peer: ClassVar = {4: "10.9.0.2", 6: "fd09::2"}
    bystander: ClassVar = {4: "10.9.0.3", 6: "fd09::3"}

    def __init__(self, peer_pid: int) -> None:
        self._there = ("nsenter", f"--net=/proc/{peer_pid}/ns/net")
        here, there = "02:00:00:00:00:01", "02:00:00:00:00:02"
        pair = f"link add v0 address {here} type veth peer name v1 address {there}"
        ours = ["link set lo up", f"{pair} netns {peer_pid}"]
        theirs = ["link set v1 up"]
        for family, length, words in ((4, 24, ""), (6, 64, " nodad")):
            ours.append(f"addr add {self.near[family]}/{length} dev v0{words}")
            theirs.append(f"neigh replace {self.near[family]} lladdr {here} dev v1")
            for address in (self.peer[family], self.bystander[family]):
                ours.append(f"neigh replace {address} lladdr {there} dev v0")
                theirs.append(f"addr add {address}/{length} dev v1{words}")
        run("ip", "-batch", "-", stdin="\n".join(ours))
        run(*self._there, "ip", "-batch", "-", stdin="\n".join(theirs))
        run("ip", "link", "set", "v0", "up")
        _wait_for(lambda: bool(self.ping(self.peer[4], count=1, patience="0.1")))

    def there(self, *words: str, check: bool = True) -> str:
        """Run a command at the peer."""
        return run(*self._there, *words, check=check)

    def sent(self) -> int:
        """Packets that have left by v0."""
        link = json.loads(run("ip", "-s", "-j", "link", "show", "v0"))[0]
        return int(link["stats64"]["tx"]["packets"])

    def ping(self, address: str, count: int = 2, patience: str = "1") -> list[float]:
        """Round-trip times in ms of the answers that came, from here to ``address``."""
        words = ("ping", "-n", "-c", str(count), "-i", "0.02", "-W", patience, address)
        out = run(*words, check=False)
        return [
            float(line.split("time=")[1].split()[0]) for line in out.splitlines() if "time=" in line
        ]

    def ping_from_peer(self, family: int, source: str) -> bool:
        """Whether the peer, as ``source``, gets an answer from here."""
        words = ("ping", "-n", "-c", "1", "-W", "1", "-I", source, self.near[family])
        return "time=" in self.there(*words, check=False)


@pytest.fixture
def net() -> Iterator[Net]:
    """This thread, moved to a namespace of its own for the length of the test."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_CLONE_NEWNET) == 0, "cannot unshare the network namespace"
    peer = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    try:
        _wait_for(lambda: _net_of(str(peer.pid)) != _net_of("thread-self"))
        yield Net(peer.pid)
    finally:
        peer.kill()
        peer.wait()
        assert libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)


def _net_of(task: str) -> str:
    return os.readlink(f"/proc/{task}/ns/net")  # noqa: PTH115 - not a path to follow


def _wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return _wait_for


@pytest.fixture
def sh() -> Callable[..., str]:
    return run


@pytest.fixture
def host(net: Net) -> Iterator[Host]:  # noqa: ARG001 - the namespace comes first
    with Host() as opened:
        yield opened


class Users:
    """What the user has on the same host: a root qdisc, rules, sets, an ifb."""

    def __init__(self) -> None:
        run("ip", "link", "add", "mine0", "type", "ifb")
        run("tc", "-batch", "-", stdin=(
            "qdisc add dev v0 root handle 1: htb default 20\n"
            "class add dev v0 parent 1: classid 1:10 htb rate 1gbit\n"
        ))  # fmt: skip
        run("ipset", "restore", stdin=(
            "create mine hash:ip\nadd mine 192.0.2.7\n"
            "create fleeting hash:ip timeout 300\nadd fleeting 192.0.2.8\n"
        ))  # fmt: skip
        rules = (
            ":MINE - [0:0]\n-A MINE -p tcp --dport 81 -j DROP\n-A INPUT -j MINE\n"
            "-A OUTPUT -p udp -m multiport --dports 9,10 -j ACCEPT\nCOMMIT\n"
        )
        for restore in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            run(restore, stdin=f"*mangle\n{rules}*filter\n{rules}")

    def add_clsact(self, *, empty: bool = False) -> None:
        """The user's own clsact, with a filter at its egress unless it is to be empty."""
        run("tc", "qdisc", "add", "dev", "v0", "clsact")
        if empty:
            return
        words = "filter add dev v0 egress protocol ip pref 7 u32 match ip tos 4 0xff flowid 1:10"
        run("tc", *words.split())

    def listing(self) -> str:
        """Everything of the network as the tools print it, without counters and carriers."""
        tc = (
            *("qdisc", "class show dev v0"),
            *("filter show dev v0 egress", "filter show dev v0 ingress"),
        )
        parts = [
            run("ip", "link"),
            *(run("tc", *words.split()) for words in tc),
            run("ipset", "save", "-sorted"),
            run("iptables-legacy-save"),
            run("ip6tables-legacy-save"),
        ]
        volatile = r" timeout \d+| direct_packets_stat \d+|NO-CARRIER,| state \w+"
        lines = re.sub(volatile, "", "".join(parts)).splitlines()
        return "\n".join(line for line in lines if not line.startswith(("#", ":")))


@pytest.fixture
def users(net: Net) -> Users:  # noqa: ARG001
    return Users()
