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
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from pyroute2 import IPRoute

from chaos_agent import effects
from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux import workers
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.xtrules import iptc
from chaos_agent.offers import memory_total, node_view
from chaos_agent.services import Service
from chaos_agent.supervisor import Supervisor
from chaos_core.envelope import PROFILES
from chaos_core.log import Log
from chaos_core.messages import Apply, FaultStatus, Grant
from chaos_lab import uml
from chaos_lab.layout import LabDir

IN_GUEST = "CHAOS_GUEST" in os.environ
IN_MATRIX = (
    os.environ.get("CHAOS_GUEST") == "matrix"
)  # a distribution's kernel: lab/chaos_lab/matrix
IN_UML = IN_GUEST and not IN_MATRIX
SECOND = 1_000_000
T = TypeVar("T")
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_GUEST_SECONDS = 1200  # on a machine that has other things to do as well
_NOT_IN_MATRIX = (uml.PROGRAM, "psql", "redis-server", "memcached")
_TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ping": "iputils-ping",
    "nsenter": "util-linux",
    "iptables-legacy-save": "iptables",
    "ipset": "ipset",
    "nft": "nftables",
    "mkfs.ext4": "e2fsprogs",
    uml.PROGRAM: "user-mode-linux",
    "psql": "postgresql",
    "redis-server": "redis-server",
    "memcached": "memcached",
}


# ── the guest ─────────────────────────────────────────────────────────────────────────


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guest: runs inside a User-Mode Linux kernel")
    config.addinivalue_line("markers", "long: not in `make test`, but in `make test-long`")
    if IN_GUEST:
        config.pluginmanager.register(_Messenger(config))


class _Messenger:
    """Inside the guest: hands every report out, a line of JSON each."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        if IN_MATRIX:
            print("\nreport", json.dumps(data), flush=True)  # its console is read line by line
            return
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
                *uml.command(LabDir.find(), max(os.sched_getaffinity(0))),
                *("mem=384M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
                *("con=null", "con0=fd:0,fd:1", "quiet", f"uml_dir={directory}/"),
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
    packages = sorted(
        {
            package
            for tool, package in _TOOLS.items()
            if not shutil.which(tool) and not (IN_MATRIX and tool in _NOT_IN_MATRIX)
        }
    )
    return f"install what is missing: apt-get install {' '.join(packages)}" if packages else ""


# ── what the tests are made of ────────────────────────────────────────────────────────


@pytest.fixture(scope="session", autouse=True)
def _prerequisites() -> Iterator[None]:
    missing = _missing()
    if missing:
        pytest.fail(missing, pytrace=False)
    if IN_MATRIX:  # there is a systemd, which would start workers in its own network namespace
        vars(workers)["RUNNING"] = Path("/nonexistent")
    iptc()  # its import takes so long in the guest that a lease would be over
    effects.load()  # as the keeper does at its start
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
    """A fresh network namespace, with ``v0`` wired to a peer that has six addresses a family.

    ``near`` is this side, ``peer`` the other, ``bystander`` the peer's second address, and
    ``others`` are the rest.
    """

    near: ClassVar = {4: "10.9.0.1", 6: "fd09::1"}
    peer: ClassVar = {4: "10.9.0.2", 6: "fd09::2"}
    bystander: ClassVar = {4: "10.9.0.3", 6: "fd09::3"}
    others: ClassVar = {
        4: tuple(f"10.9.0.{number}" for number in range(4, 8)),
        6: tuple(f"fd09::{number}" for number in range(4, 8)),
    }

    def __init__(self, peer: int) -> None:
        """``peer`` is a descriptor of the peer's namespace. By netlink: forks are slow in the

        guest, and every test comes by here.
        """
        self._peer = peer
        self._there = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{peer}")
        here, there = "02:00:00:00:00:01", "02:00:00:00:00:02"
        with IPRoute() as ours, _inside(peer, IPRoute) as theirs:
            far = {"ifname": "v1", "address": there, "net_ns_fd": peer}
            ours.link("add", ifname="v0", kind="veth", address=here, peer=far)
            lo, v0 = (ours.link_lookup(ifname=name)[0] for name in ("lo", "v0"))
            v1 = theirs.link_lookup(ifname="v1")[0]
            for family, length in ((4, 24), (6, 64)):
                flags = {"flags": IFA_F_NODAD} if family == 6 else {}
                ours.addr("add", index=v0, address=self.near[family], prefixlen=length, **flags)
                for address in self.far(family):
                    theirs.addr("add", index=v1, address=address, prefixlen=length, **flags)
            for ip, index in ((theirs, v1), (ours, lo), (ours, v0)):
                ip.link("set", index=index, state="up")
            for family in (4, 6):
                permanent = {"state": NUD_PERMANENT, "lladdr": here}
                theirs.neigh("replace", ifindex=v1, dst=self.near[family], **permanent)
                for address in self.far(family):
                    permanent["lladdr"] = there
                    ours.neigh("replace", ifindex=v0, dst=address, **permanent)
        _wait_for(lambda: all(self.echo().values()))

    def far(self, family: int) -> tuple[str, ...]:
        """All addresses of the other side."""
        return (self.peer[family], self.bystander[family], *self.others[family])

    def peers(self, family: int) -> tuple[str, ...]:
        """All addresses of the other side but the bystander's."""
        return (self.peer[family], *self.others[family])

    def there(self, *words: str, check: bool = True) -> str:
        """Run a command at the peer."""
        return run(*self._there, *words, check=check)

    def take(self, device: str) -> None:
        """Move a device of this side to the peer."""
        run("ip", "link", "set", device, "netns", self._there[1].removeprefix("--net="))

    def socket_there(self, family: int, kind: int) -> socket.socket:
        """A socket of the peer's, for this process to use."""
        return _inside(self._peer, lambda: socket.socket(AF[family], kind))

    def at_peer(self, make: Callable[[], T]) -> T:
        """What ``make`` makes at the peer; a socket stays there."""
        return _inside(self._peer, make)

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

    def echo(self, others: int = 0) -> dict[tuple[int, str], float | None]:
        """Round-trip times in ms by (family, address); None where no answer came.

        The peer, the bystander and as many of the others are asked at once. The bystanders'
        answers say how long to wait for the rest.
        """
        asked = {
            (family, address): (family, address)
            for family in (4, 6)
            for address in self.far(family)[: 2 + others]
        }
        found: dict[tuple[int, str], float | None] = dict.fromkeys(asked)
        with _echo_socket(4) as four, _echo_socket(6) as six:
            sockets = {4: four, 6: six}
            sent = {}
            for number, (family, address) in enumerate(asked):
                kind = 8 if family == 4 else 128
                body = struct.pack("!HH", os.getpid() & 0xFFFF, number)
                check = ~(kind << 8) & 0xFFFF  # of the kind and a body that is its own complement
                packet = struct.pack("!BBH", kind, 0, check) + body + bytes(b ^ 0xFF for b in body)
                sent[family, address] = time.perf_counter()
                with suppress(OSError):  # a local firewall's way of saying no
                    sockets[family].sendto(packet, (address, 0))
            deadline = time.perf_counter() + 1
            while time.perf_counter() < deadline:
                ready = select.select([four, six], [], [], 0.01)[0]
                now = time.perf_counter()
                for one in ready:
                    data, (address, *_) = one.recvfrom(2048)
                    family, at = (4, 20) if one is four else (6, 0)
                    if data[at] in (0, 129) and (family, address) in found:
                        found[family, address] = (now - sent[family, address]) * 1000
                if all(found.values()):
                    break
                if all(found[f, self.bystander[f]] for f in (4, 6)):
                    deadline = min(deadline, now + 0.15)
        return found

    def ping_from_peer(self, family: int, source: str) -> bool:
        """Whether the peer, as ``source``, gets an answer from here."""
        words = ("ping", "-n", "-c", "1", "-W", "1", "-I", source, self.near[family])
        return "time=" in self.there(*words, check=False)


def _echo_socket(family: int) -> socket.socket:
    af, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4
        else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )  # fmt: skip
    return socket.socket(af, socket.SOCK_RAW, protocol)


@pytest.fixture
def net() -> Iterator[Net]:
    """This thread, moved to a namespace of its own for the length of the test."""
    before = _own_net()
    peer = -1
    try:
        assert _libc.unshare(_CLONE_NEWNET) == 0, "cannot unshare the network namespace"
        peer = _own_net()
        assert _libc.unshare(_CLONE_NEWNET) == 0
        yield Net(peer)
    finally:
        assert _libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)
        if peer >= 0:
            os.close(peer)


def _own_net() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _inside(namespace: int, make: Callable[[], T]) -> T:
    """What ``make`` makes while this thread is in that namespace; a socket stays there."""
    here = _own_net()
    try:
        assert _libc.setns(namespace, _CLONE_NEWNET) == 0
        return make()
    finally:
        assert _libc.setns(here, _CLONE_NEWNET) == 0
        os.close(here)


def _wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return _wait_for


@pytest.fixture
def sh() -> Callable[..., str]:
    return run


@pytest.fixture
def services() -> Mapping[str, Service]:
    """What root has listed in agent.toml; for tests to replace."""
    return {}


@pytest.fixture
def host(net: Net, services: Mapping[str, Service]) -> Iterator[Host]:  # noqa: ARG001 - net is first
    with Host(services) as opened:
        yield opened


class Node:
    """A supervisor with its engine, and a controller's side of the conversation."""

    def __init__(
        self, host: Host, state: Path, profile: str, services: Mapping[str, Service]
    ) -> None:
        config = AgentConfig(node="n1", envelope=PROFILES[profile], state=state, services=services)
        self.engine = Engine(
            host, Journal(state), lambda fault: node_view(config, host, fault), now_us
        )
        self.supervisor = Supervisor(config, self.engine, Log.to_stderr("test"), memory_total())
        self.faults = 0
        self._granted: dict[str, tuple[str, int]] = {}  # by fault: its run and epoch

    def apply(
        self, kind: str, *, run: str = "r-1", epoch: int = 1, seconds: float = 30, **params: Any
    ) -> str:
        """Ask for a fault under a fresh lease; returns its id."""
        self.faults += 1
        fault = f"{self.faults:08x}"
        self._granted[fault] = run, epoch
        now = now_us()
        request = Apply(
            epoch=epoch,
            seq=self.supervisor.heartbeat(now).seq,
            ttl_us=3 * SECOND,
            run=run,
            fault=fault,
            kind=kind,
            params=json.dumps(params),
            duration_us=int(seconds * SECOND),
        )
        self.supervisor.obey(request, now)
        return fault

    def partition(self, **params: Any) -> str:
        """A fault that every kernel here can do."""
        wanted = {"peers": "10.9.0.2", "direction": "in", "action": "reject", **params}
        return self.apply("network.partition", **wanted)

    def grant(self, *runs: str, epoch: int = 1) -> None:
        now = now_us()
        seq = self.supervisor.heartbeat(now).seq
        self.supervisor.obey(Grant(epoch=epoch, seq=seq, ttl_us=3 * SECOND, runs=runs), now)

    def status(self, fault: str) -> FaultStatus:
        """How a fault is. One that is being taken off is waited for, but not for long."""
        until = time.monotonic() + 3
        while True:
            faults = self.supervisor.heartbeat(now_us()).faults
            found = next(status for status in faults if status.fault == fault)
            going = found.state == "reverting" and fault in self.engine.standing
            if not going or time.monotonic() > until:
                return found
            time.sleep(0.05)
            self.supervisor.tick(now_us())

    def give_up(self) -> None:
        """Let all the time pass in which the end of a fault is tried."""
        self.supervisor.tick(now_us() + 11 * SECOND)

    def look(self) -> None:
        """Let the supervisor read back what stands, as it does when that is due."""
        self.supervisor.tick(max(now_us(), self.supervisor.next_wakeup() or 0))

    def await_in_force(self, fault: str, seconds: float = 15) -> None:
        """Let time pass until the fault is wholly there, with a lease that is renewed meanwhile."""
        run, epoch = self._granted[fault]

        def settled() -> bool:
            self.grant(run, epoch=epoch)
            self.supervisor.tick(now_us())
            return self.status(fault).state != "applying"

        _wait_for(settled, seconds)
        status = self.status(fault)
        assert status.state == "in_force", status.detail


@pytest.fixture
def new_node(host: Host, tmp_path: Path, services: Mapping[str, Service]) -> Callable[..., Node]:
    """Makes a node from what is on disk: the first one, or one that was restarted."""
    return lambda profile="lab", state=tmp_path / "state": Node(host, state, profile, services)


@pytest.fixture
def node(new_node: Callable[..., Node]) -> Node:
    return new_node()


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
        kept = "\n".join(line for line in lines if not line.startswith(("#", ":")))
        return re.sub(r"\*\w+\nCOMMIT\n?", "", kept)  # an empty table is as good as none


@pytest.fixture
def users(net: Net) -> Users:  # noqa: ARG001
    return Users()


_VOLATILE = re.compile(
    r" timeout \d+| tentative|direct_packets_stat \d+|NO-CARRIER,| state \w+"
    r"|packets \d+ bytes \d+|(?m:^#.*$)|\[\d+:\d+\]|valid_lft \w+| backlog.*"
)
# By name; and actions by their index, whose upper half is 0x6368, or 0x6369 with a claim.
_OURS = re.compile(r"\b(?:(?:chs|CHAOS)-[0-9a-f]{8}|index 1667[78]\d{5})\b")
_CLAIM = re.compile(r"alias chaos clsact=|index 16678[2-9]\d{4}\b")
_OUR_FILTER = re.compile(r"filter protocol \w+ pref \d+ (?:fw|basic) chain 0(?= )")


def _blocks() -> list[str]:
    """All that is in this namespace, a block each, without what changes by itself."""
    tc = (
        "qdisc show\nclass show dev v0\nfilter show dev v0\n"
        "filter show dev v0 egress\nfilter show dev v0 ingress\n"
    )
    ip = "link show\naddr show\nrule show\nroute show table all\n"
    parts = (
        run("ip", "-o", "-batch", "-", stdin=ip),
        run("tc", "-force", "-batch", "-", stdin=tc, check=False),
        run("ipset", "save", "-sorted"),
        run("iptables-legacy-save"),
        run("ip6tables-legacy-save"),
        "" if IN_UML else run("nft", "list", "ruleset"),
    )
    text = _VOLATILE.sub("", "\n".join(parts))
    blocks = [block.strip() for block in re.split(r"\n(?!\s)", text) if block.strip()]
    return [block for block in blocks if not re.search(r"\bfe80:|\bff00:", block)]  # they come late


def _without_ours(blocks: list[str]) -> list[str]:
    """What is left when everything of ours is taken away.

    A clsact that we claim is ours, unless somebody has hung a filter on it.
    """
    heads = {
        found[0] for block in blocks if _OURS.search(block) and (found := _OUR_FILTER.match(block))
    }
    left = [block for block in blocks if not _OURS.search(block) and block not in heads]
    claimed = any(map(_CLAIM.search, blocks))
    if not claimed or any(
        re.match("filter protocol .* (?:u32|flower|matchall|fw)", one) for one in left
    ):
        return left
    return [block for block in left if not block.startswith("qdisc clsact ffff: ")]


@pytest.fixture
def listing(net: Net) -> Callable[[], list[str]]:  # noqa: ARG001
    """What the tools list of this namespace, less what is ours while a fault is in force."""
    # A table that nobody has opened is not listed; one that we have opened stays, empty.
    for open_table in (iptc().Table, iptc().Table6):
        for name in ("mangle", "filter", "security", "nat", *(() if IN_UML else ("raw",))):
            table = open_table(name, autocommit=False)
            table.refresh()
            table.close()
    return lambda: _without_ours(_blocks())


@pytest.fixture
def lock_held() -> Callable[[float], AbstractContextManager[None]]:
    """Holds the lock of the iptables tools for the given seconds, as another program might."""

    @contextmanager
    def hold(seconds: float) -> Iterator[None]:
        with Path("/run/xtables.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            timer = threading.Timer(seconds, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
            timer.start()
            try:
                yield
            finally:
                timer.join()

    return hold
