"""One round: a fault, a hit, and the proof that nothing of the fault is left.

Gone is measured from outside the agent: pings from this host for what is on the
wire, the VM's /proc for what a holder takes. A round that could not be carried out
as drawn has failed, like one in which a promise was broken.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from chaos_core.errors import ChaosError, LabError
from chaos_core.lease import ABORT_BOUND
from chaos_lab import drill as drills
from chaos_lab import provision
from chaos_lab.drill import units
from chaos_lab.drill.context import Injection
from chaos_lab.drill.measure import Answers, Pings, Reply
from chaos_lab.layout import CONTROLLER
from chaos_lab.torture import setting
from chaos_lab.torture.cases import CONTROLLER as THE_CONTROLLER
from chaos_lab.torture.cases import FAR_IP, PORT, POWER, REBOOT, Case
from chaos_lab.torture.node import Look, Node
from chaos_lab.torture.report import BOUND_S, Result

_LATE_MS = 200.0  # half of what is added; far from any jitter of a busy machine
_CLEAR_LOOKS = 10  # a second of them
_PING_SIZE = 1_000  # twenty a second are more than network.rate lets through
_SEEN_S, _STEP_S, _GONE_S, _OVER_S = 15.0, 40.0, 15.0, 40.0
_REBOOT_ORDERED_S = 0.3


class Effect(ABC):
    """What a fault does, as seen from outside. A context of the time in which it is looked for."""

    @abstractmethod
    def __enter__(self) -> Effect: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def seen(self, until: float) -> bool:
        """Whether it was there at some time before ``until``."""

    @abstractmethod
    def gone_after(self, since: float) -> float:
        """Seconds from ``since`` until it is away for good; ``_GONE_S`` when it does not go."""


class Harmed(Pings):
    """Pings of which one that is answered twice or wrongly looks like one that is not."""

    def take(self, at: float, line: str) -> None:
        super().take(at, line)
        if self.replies and ("DUP" in line or "CHECKSUM" in line):
            self.replies[-1] = Reply(at, self.replies[-1].seq, None)


class Asked(Effect):
    """Questions to the node, asked all the time, whose answers come late, never or wrong."""

    def __init__(self, ask: Callable[[], Pings]) -> None:
        self._ask = ask
        self._stream = ask()

    def __enter__(self) -> Asked:
        self._stream.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)

    def seen(self, until: float) -> bool:
        settled = time.monotonic() - _LATE_MS / 1000
        return any(_hit(r) for r in self._stream.replies if r.at < min(until, settled))

    def gone_after(self, since: float) -> float:
        if self._stream.ended:  # it was asked on the node, which has been off
            self._stream.__exit__(None, None, None)
            self._stream = self._ask()
            self._stream.__enter__()
        return self._stream.clean_after(since, _hit, _GONE_S)


def _hit(reply: Reply) -> bool:
    return reply.rtt is None or reply.rtt > _LATE_MS


class InTheNode(Effect):
    """Holders and sessions in the VM's /proc, the memory that is kept, a victim that is unwell."""

    def __init__(self, node: Node, *, memory: int) -> None:
        self._node = node
        self._memory = memory
        self._started = 0.0

    def __enter__(self) -> InTheNode:
        self._started = time.monotonic()
        self._floor = self._node.warden.look().available - self._memory // 2
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _there(self, look: Look) -> bool:
        kept = bool(self._memory) and look.available < self._floor
        return _acts(look) or kept

    def seen(self, until: float) -> bool:
        looks = self._node.warden.looks(self._started)
        return any(_acts(look) for look in looks if look.at < until)

    def gone_after(self, since: float) -> float:
        while time.monotonic() < since + _GONE_S:
            clear: list[Look] = []
            for look in self._node.warden.looks(since):
                clear = [] if self._there(look) else [*clear, look]
                if len(clear) >= _CLEAR_LOOKS:
                    return clear[0].at - since
            time.sleep(0.05)
        return _GONE_S


def _acts(look: Look) -> bool:
    return bool(look.processes["holder"] or look.processes["session"]) or not look.well


def _effect(case: Case, node: Node) -> Effect:
    fleet, ip = node.drill.fleet, node.drill.ip(node.name)
    match case.kind.where:
        case "wire":
            return Asked(lambda: Harmed(fleet, "", ip, size=_PING_SIZE))
        case "calls":
            return Asked(lambda: Answers(fleet, "", ip, PORT))
        case "behind":
            return Asked(lambda: Pings(fleet, node.name, FAR_IP))
        case "inside" | "once":
            quarter = fleet.seat(node.name).memory_mib * 2**20 // 4
            return InTheNode(node, memory=quarter if case.kind.name == "memory.stress" else 0)


def play(case: Case, node: Node) -> Result:
    """Play a case on a node. A failure is in the result, and the node is set right again."""
    try:
        result = _play(case, node)
    except ChaosError as error:
        result = Result(case, node.name, why=f"not carried out: {error}".splitlines()[0])
    if not result.passed:
        lab = node.drill.fleet.lab
        with suppress(ChaosError):  # the rounds that follow will say what is wrong
            for name in (node.name, CONTROLLER):
                log = lab.home / "logs" / f"round-{case.number}-{name}.log"
                drills.keep_log(node.drill.fleet, name, log)
        with suppress(ChaosError):
            _start_afresh(node)
    return result


def _play(case: Case, node: Node) -> Result:
    if case.hit.alone and not node.alone:
        node.look_away()
    elif node.alone and not case.hit.alone:
        node.look_back()
    setting.ready(node.drill.fleet, node.name, case.kind)
    place = _arm(case, node)
    with _effect(case, node) as effect:
        run = node.drill.inject(
            case.kind.name, *case.kind.params, nodes=(node.name,), seconds=case.seconds
        )
        try:
            hit_at, struck, seen = _strike(case, node, run, effect, place)
            off = case.hit.target in (POWER, REBOOT)
            gone = None if off else effect.gone_after(hit_at)
            _revive(case, node)
            wrong, residue = _recover(case, node, struck)
            recovered = time.monotonic() - hit_at
            after = effect.gone_after(time.monotonic())
            run.wait(_OVER_S)
        finally:
            run.drop()
    if case.hit.target == THE_CONTROLLER and case.hit.signal != "SIGSTOP":
        time.sleep(ABORT_BOUND / 1_000_000)  # a new controller starts nothing before
    lasts = case.kind.where != "once"
    must_be_seen = lasts and (case.step is None or case.step.stage == "end")
    why = [
        wrong,
        f"gone only after {gone:.2f} s" if gone is not None and gone >= BOUND_S else "",
        "the fault was never seen" if must_be_seen and not seen else "",
        "the effect is back" if after >= BOUND_S else "",
    ]
    return Result(
        case, node.name, seen, gone, recovered, tuple(residue), "; ".join(filter(None, why))
    )


def _arm(case: Case, node: Node) -> int:
    """Tell the warden what to wait for; returns the place of its answer."""
    if case.step is None:
        return node.warden.order("disarm")
    return node.warden.order(
        "arm",
        name=case.step.name,
        nth=case.step.nth,
        signal=case.hit.signal if case.hit.roles else "",
        who=case.hit.roles,
    )


def _strike(
    case: Case, node: Node, run: Injection, effect: Effect, place: int
) -> tuple[float, list[int], bool]:
    """Wait for the moment and hit: when that was, whom it struck, and was the effect seen then?"""

    def ended() -> str:
        return f"the run ended before the hit: {run.last_words()}" if run.ended else ""

    warden = node.warden
    if case.step is None:
        _wait_seen(effect, ended)
        time.sleep(case.delay)
        if case.hit.roles:
            place = warden.order("hit", signal=case.hit.signal, who=case.hit.roles)
    if case.hit.roles:
        at, struck = warden.wait(place, "hit", _STEP_S, ended)
        if not struck:
            raise LabError(f"there was no {case.hit.target} to hit", where=node.name)
        return at, struck, effect.seen(at)
    if case.step is not None:
        warden.wait(place, "reached", _STEP_S, ended)
    at = time.monotonic()
    seen = effect.seen(at)
    _machine(case, node)
    return at, [], seen


def _wait_seen(effect: Effect, ended: Callable[[], str]) -> None:
    deadline = time.monotonic() + _SEEN_S
    while not effect.seen(time.monotonic()):
        if time.monotonic() > deadline:
            raise LabError(f"the fault was not seen within {_SEEN_S:g} s")
        if why := ended():
            raise LabError(why)
        time.sleep(0.02)


def _machine(case: Case, node: Node) -> None:
    """Hit something bigger than a process of the node's."""
    fleet = node.drill.fleet
    match case.hit.target:
        case "power":
            fleet.power_cut(node.name)
            fleet.start(node.name)
            node.booted()
        case "reboot":
            with ThreadPoolExecutor(1) as pool:
                reboot = pool.submit(fleet.reboot, node.name)
                time.sleep(_REBOOT_ORDERED_S)
                with suppress(LabError):  # it may be down already
                    node.warden.order("go")
                reboot.result()
            node.booted()
        case _:
            signal_controller(node, case.hit.signal)
            node.warden.order("go")


def signal_controller(node: Node, signal: str) -> None:
    """Send a signal to the controller's process."""
    argv = ["systemctl", "kill", "--kill-who=main", "-s", signal, provision.CONTROLLER_UNIT]
    node.drill.fleet.exec(CONTROLLER, argv)


def _revive(case: Case, node: Node) -> None:
    """Do what nobody but an operator would: wake what is stopped, start what stays dead."""
    if case.hit.alone:
        node.warden.order("hit", signal="SIGKILL", who=["keeper", "link", "holder"])
        units.restart(node.drill.fleet, node.name)
    elif case.hit.signal == "SIGSTOP" and "link" in case.hit.roles:
        node.warden.order("hit", signal="SIGCONT", who=["link"])
    elif case.hit.signal == "SIGSTOP" and case.hit.target == THE_CONTROLLER:
        signal_controller(node, "SIGCONT")


def _recover(case: Case, node: Node, struck: list[int]) -> tuple[str, list[str]]:
    """Wait until the agent is at work and the node equals its listing; what does not."""
    if case.hit.signal == "SIGSTOP" and not case.hit.alone:
        struck = []  # a link that was stopped goes on
    return node.settled(struck)


def _start_afresh(node: Node) -> None:
    """After a failure: pull the plug and boot, so that the next round stands alone."""
    fleet = node.drill.fleet
    with suppress(ChaosError):
        signal_controller(node, "SIGCONT")
    fleet.power_cut(node.name)
    fleet.start(node.name)
    node.booted()
    node.look_back()
    time.sleep(ABORT_BOUND / 1_000_000)  # a new controller starts nothing before

    def clean() -> bool:
        if node.roll.node(node.name)["quarantine"]:
            provision.operate(fleet, ["node", "release", node.name, "--reason", "next round"])
        return not node.unsettled(())

    node.drill.wait_for(clean, f"{node.name} to be clean again")
