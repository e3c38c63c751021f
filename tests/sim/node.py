"""One node: its clocks, its kernel, and the agent's real Supervisor and Engine in a keeper's loop.

``Machine`` and ``Sets`` are what a kernel does with nobody alive; ``Agent`` is the
part of ``keeper.py`` and ``link.py`` that is made of sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.sim.loop import Process

from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.link import _heartbeat, _to_keeper
from chaos_agent.linux.host import Host
from chaos_agent.linux.ipsets import SET_TYPE, SetHead
from chaos_agent.supervisor import Supervisor
from chaos_core.effects import Family
from chaos_core.envelope import PROFILES
from chaos_core.faults import Fault
from chaos_core.lease import HEARTBEAT_INTERVAL
from chaos_core.node import Device, NodeView, Way
from chaos_proto.v1 import chaos_pb2 as pb

if TYPE_CHECKING:
    from tests.sim.judge import Judge
    from tests.sim.world import World

SILENCE = 4_000_000  # as the link: a stream without a word for this long is dropped
RETRY = 500_000
LONGEST_SLEEP = 500_000  # as the keeper: it looks at the clock at least this often
LATENESS = 20_000  # how late a live agent's loop may come to what is due


class Machine:
    """A host's clocks. Its crystal is off by up to 200 ppm; suspend stops all but BOOTTIME."""

    def __init__(self, offset: int, ppm: int) -> None:
        self.offset = offset
        self.ppm = ppm
        self.slept = 0
        self.boot = 0

    def boottime(self, real: int) -> int:
        return self.offset + real + real * self.ppm // 1_000_000

    def monotonic(self, real: int) -> int:
        return self.boottime(real) - self.slept

    def clock(self, real: int) -> int:
        """The clock that all of ours reads."""
        return self.boottime(real)

    def real_span(self, span: int) -> int:
        """How long ``span`` µs of this machine's clocks really are, rounded up."""
        return span - span * self.ppm // 1_000_000 + 1

    def reboot(self, real: int) -> None:
        self.boot += 1
        self.slept = 0
        self.offset = 20_000_000 - (real + real * self.ppm // 1_000_000)


class Sets:
    """ipset, as far as a lease can tell. Timeouts count time that the machine is awake."""

    kind = SET_TYPE

    def __init__(self, agent: Agent, judge: Judge) -> None:
        self.agent = agent
        self.judge = judge
        self.until: dict[str, int] = {}  # set → until when its entry lives, monotonic
        self.entry: dict[str, str] = {}

    def _now(self) -> int:
        return self.agent.machine.monotonic(self.agent.world.loop.now)

    def create(self, name: str, _family: Family) -> None:
        self.until.setdefault(name, 0)

    def put(self, name: str, _family: Family, cidrs: Sequence[str], timeout: int) -> None:
        (cidr,) = cidrs
        self.until[name] = self._now() + timeout * 1_000_000
        self.judge.holding[self.agent.name] = self.agent
        self.entry[name] = cidr
        self.judge.held(self.agent, _fault(name), timeout * 1_000_000)

    move = put

    def head(self, name: str) -> SetHead | None:
        return SetHead(name, SET_TYPE, 4, 1) if name in self.until else None

    def entries(self, name: str) -> dict[str, int]:
        left = self.until.get(name, 0) - self._now()
        return {self.entry[name]: max(1, left // 1_000_000)} if left > 0 else {}

    def destroy(self, name: str) -> None:
        self.until.pop(name, None)
        if not self.until:
            self.judge.holding.pop(self.agent.name, None)

    def clear(self) -> None:
        for name in list(self.until):
            self.destroy(name)

    def in_force(self) -> list[str]:
        """The faults that have an effect now: none while the machine sleeps."""
        if not self.until or self.agent.asleep:
            return []
        now = self._now()
        return [_fault(name) for name, until in self.until.items() if until > now]


def _fault(name: str) -> str:
    return name[4:12]  # chs-<id>…


class Agent:
    """Keeper and link of one node. ``link`` is the number of its stream, 0 for none."""

    def __init__(self, world: World, name: str, profile: str, machine: Machine) -> None:
        self.world = world
        self.name = name
        self.machine = machine
        self.process = Process(name)
        self.asleep = False
        self.pause_at_beat = 0
        self.sets = Sets(self, world.judge)
        host = Host()
        host.__dict__["sets"] = self.sets
        self._host = host
        self._config = AgentConfig(name, envelope=PROFILES[profile], state=Path(name))
        self.start()

    def start(self) -> None:
        """What systemd does: recover, which sweeps whatever is ours, then a new keeper."""
        self.sets.clear()
        self.process.alive = True
        engine = Engine(self._host, cast(Journal, _Journal()), _view, self.world.outside.now)
        log = self.world.log.bind(on=self.name)
        self.supervisor = Supervisor(self._config, engine, log, _NODE.memory_total)
        self.link = 0
        self._heard_at = 0
        self._next_heartbeat = 0
        self._alarm = 0
        self.dial()

    def crash(self) -> None:
        """Every process of ours dies. What the kernel holds it goes on holding."""
        self.process.die()
        self.link = 0

    # ── the keeper's loop ─────────────────────────────────────────────────────────────────

    def enter(self, work: Callable[[int], None]) -> None:
        """Run some of the agent's code at this machine's time, then what its loop does next."""
        outside = self.world.outside
        now = outside.boottime = self.machine.clock(self.world.loop.now)
        work(now)
        self.supervisor.tick(now)
        self._look_after_link()
        if self.link and (now >= self._next_heartbeat or self.supervisor.changed):
            self._next_heartbeat = now + HEARTBEAT_INTERVAL
            self._beat(now)
        self._set_alarm(now)

    def receive(self, kind: str, data: pb.ToAgent, source: int, link: int) -> None:
        """A message from the controller of instance ``source``."""
        if link == self.link:
            self._heard_at = self.world.loop.now
        message = _to_keeper(data)
        assert message is not None
        judge, supervisor = self.world.judge, self.supervisor
        self.world.say(self.name, lambda: f"gets {kind} {message!r} from c{source}")

        def obey(now: int) -> None:
            before = dict(supervisor.leases.leases)
            supervisor.obey(cast(Any, message), now)
            judge.obeyed(self, cast(Any, message), source, before, now)

        self.enter(obey)

    def wake(self, alarm: int) -> None:
        if alarm == self._alarm:
            self.enter(_nothing)

    def _beat(self, now: int) -> None:
        beat = self.supervisor.heartbeat(now)
        self.world.judge.beat(self, beat.seq)
        if beat.faults:
            text = ", ".join(f"{f.fault} {f.state} {f.reason}" for f in beat.faults)
            self.world.say(self.name, lambda: f"beats #{beat.seq}: {text}")
        self.world.to_controller(self, self.link, "heartbeat", _heartbeat(beat))
        if self.pause_at_beat:
            self.process.paused_until = self.world.loop.now + self.pause_at_beat
            self.pause_at_beat = 0

    def _set_alarm(self, now: int) -> None:
        """select() counts awake time: after a suspend it still waits for what was left."""
        due = self._next_heartbeat if self.link else now + SILENCE
        wakeup = self.supervisor.next_wakeup()
        if wakeup is not None and wakeup < due:
            due = wakeup
        self._alarm = alarm = self._alarm + 1
        loop = self.world.loop
        late = self.world.lateness() if due > now else 1
        when = loop.now + self.machine.real_span(max(0, due - now)) + late
        loop.at(when, lambda: self.wake(alarm), self.process)

    def resumed(self) -> None:
        """After a suspend: the sleep that was interrupted goes on, for half a second at most."""
        self._alarm = alarm = self._alarm + 1
        when = self.world.loop.now + self.world.rng.randint(0, LONGEST_SLEEP)
        self.world.loop.at(when, lambda: self.wake(alarm), self.process)

    # ── the link ──────────────────────────────────────────────────────────────────────────

    def dial(self) -> None:
        """Connect to whichever controller answers, or try again."""
        loop = self.world.loop
        link = self.world.connect(self)
        if not link:
            loop.at(loop.now + RETRY, self.dial, self.process)
            return
        self.link = link
        self._heard_at = loop.now
        self._next_heartbeat = 0
        boot = f"{self.name}-{self.machine.boot}"
        hello = pb.Hello(
            node=self.name, version="sim", boot_id=boot, epoch=self.supervisor.leases.epoch
        )
        self.world.to_controller(self, link, "hello", hello)
        loop.at(loop.now + 1, lambda: self.enter(_nothing), self.process)

    def unlink(self) -> None:
        """The stream breaks; the other end may hear of it."""
        if self.link:
            self.world.to_controller(self, self.link, "bye", None)
            self.link = 0
            loop = self.world.loop
            loop.at(loop.now + RETRY, self.dial, self.process)

    def _look_after_link(self) -> None:
        if self.link and self.world.loop.now - self._heard_at > SILENCE:
            self.unlink()


class Immediate:
    """A disk that answers at once."""

    def do(self, work: Callable[[], Any]) -> Any:
        return work()


class _Journal:
    """Keeps nothing; says that all was kept."""

    disk = Immediate()

    def intent(self, *_at: int, **_entry: object) -> None:
        """Kept."""

    def done(self, *_at: int, **_entry: object) -> str:
        return ""


_NODE = NodeView(
    name="sim",
    cpus=1,
    memory_total=2**30,
    devices=(Device("eth0"),),
    elsewhere=Way(("eth0",)),
)


def _view(_fault: Fault) -> NodeView:
    return _NODE


def _nothing(_now: int) -> None:
    return None
