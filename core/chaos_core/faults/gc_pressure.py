"""A service that collects its garbage, or a node whose memory is churned."""

from __future__ import annotations

import math
import signal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from chaos_core.effects import LINK_PREFIX, Effect, Holder, Kill
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused, Unsupported
from chaos_core.faults._fields import Share
from chaos_core.faults._hooks import HookFault, OptionalHookName
from chaos_core.faults._units import Service, target
from chaos_core.node import Asks, NodeView, ProcessQuery
from chaos_core.units import ByteSize, Percent

_PERIOD_US, _LEAST_QUOTA_US = 100_000, 1_000
_LEAST_RATE, _MOST_RATE = ByteSize.parse("1MiB"), ByteSize.parse("16GiB")
_CHURNING = ByteSize.parse("32MiB")  # interpreter, the block that comes and goes, page tables


def _rate(value: ByteSize) -> ByteSize:
    if value and not _LEAST_RATE <= value <= _MOST_RATE:
        raise ValueError(f"must be {_LEAST_RATE} to {_MOST_RATE} a second")
    return value


class GcPressure(HookFault):
    """One of three. A hook that makes a runtime collect garbage, such as ``jcmd PID GC.run``.

    Or ``signal`` to the main process of ``unit``, for a runtime that collects on one: refused
    unless the process handles that signal, since it would die of it; and in production, where
    what root has not listed is not done. Or ``churn``: so many bytes a second are taken, touched
    and given back by a process of ours, which keeps the kernel's allocator busy and takes no
    more than ``cpu`` of the node.
    """

    kind = "gc.pressure"
    summary = "collect a service's garbage, or churn memory"
    lease_holder = (
        "nobody has to if it has no undo, else a systemd timer that runs it; of churn,"
        " a SIGKILL timer of the holder's own, in the kernel"
    )
    example = "hook=gc"
    needs: ClassVar[tuple[str, ...]] = ("systemd",)

    hook: OptionalHookName = Field(
        default="", description="its name in the node's agent.toml; gc if nothing else is asked"
    )
    unit: Service | None = Field(default=None, description="whose main process is signalled")
    signal: Literal["USR1", "USR2"] | None = Field(
        default=None, description="the signal's name, without SIG"
    )
    churn: Annotated[ByteSize, AfterValidator(_rate)] = Field(
        default=ByteSize(0), description="bytes a second that are taken and given back, like 64MiB"
    )
    cpu: Share = Field(
        default=Percent.parse("5%"), description="of the node's CPU, at most, for churn"
    )

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, given: Any) -> Any:
        """A hook named gc, unless something is asked for."""
        chosen = isinstance(given, dict) and any(
            map(given.get, ("hook", "signal", "churn", "unit"))
        )
        return given if chosen or not isinstance(given, dict) else {**given, "hook": "gc"}

    @model_validator(mode="after")
    def _one_of_three(self) -> GcPressure:
        if bool(self.unit) != bool(self.signal):
            raise ValueError("signal: goes with unit, and that with a signal")
        if bool(self.hook) + bool(self.signal) + bool(self.churn) != 1:
            raise ValueError("give one of hook, signal (with unit) and churn")
        return self

    def draw(self) -> Draw:
        if self.churn:
            return Draw("memory", cpu=self.cpu, memory_size=_CHURNING)
        return Draw("destructive") if self.signal else super().draw()

    def asks(self) -> Asks:
        if self.churn:
            return Asks(abilities=("cgroup-cpu", "cgroup-memory"))
        if self.unit:
            query = ProcessQuery(unit=self.unit)
            return Asks(units=(self.unit,), processes=query, abilities=("kill",))
        return Asks(hook=self.hook)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        for why in node.unable.values():
            raise Unsupported(why, where=self.kind)
        if self.churn:
            return (self._churner(node, fault_id),)
        if self.unit and self.signal:
            return (self._signalled(node, self.unit, self.signal),)
        return super().compile(node, fault_id)

    def _signalled(self, node: NodeView, unit: str, name: str) -> Kill:
        facts = target(node, unit, self.kind)
        main = next((one for one in node.processes if one.pid == facts.main), None)
        if main is None:
            raise InvalidInput(f"unit: {facts.id} has no main process", where=self.kind)
        if not main.handles(signal.Signals[f"SIG{name}"]):
            raise Refused(
                f"signal: process {main.pid} ({main.name}) of {facts.id} does not handle SIG{name},"
                " and would die of it",
                where=self.kind,
                hint="process.kill does that; a runtime says on what it collects",
            )
        return Kill(((main.pid, main.started),), f"SIG{name}", fatal=False, handled=True)

    def _churner(self, node: NodeView, fault_id: str) -> Holder:
        quota = math.floor(self.cpu.fraction * node.cpus * _PERIOD_US)
        if quota < _LEAST_QUOTA_US:
            raise InvalidInput(
                f"cpu: {self.cpu} of {node.cpus} CPU(s) is less than a quota can be",
                where=self.kind,
                hint="1% of one CPU is the least",
            )
        return Holder(
            name=f"{LINK_PREFIX}{fault_id}",
            work="churn",
            cpu_quota=quota,
            cpu_period=_PERIOD_US,
            rate=int(self.churn),
            memory_max=int(_CHURNING),
        )
