"""systemd's manager, over the system bus: the state of units, and transient timers.

Every call ends within a second, so that the keeper's loop goes on. Our own units are
called ``chs-…`` and are found without the bus: they are files in ``TRANSIENT``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos_agent.linux import waiting
from chaos_agent.linux.boottime import now_us
from chaos_core.effects import is_ours
from chaos_core.errors import Busy, Unsupported

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.blocking import DBusConnection

RUNNING = Path("/run/systemd/system")  # exists when systemd is PID 1, sd_booted(3)
TRANSIENT = Path("/run/systemd/transient")
_PATIENCE_S = 1.0
_MOST_CPU, _LAST_TO_GO = 10_000, -900
_TRIES = 30
HOOK = "-hook"
_LOG_LINES = 100
_WORKER_MEMORY, _WORKER_TASKS = 128 * 2**20, 32
_NAME = "org.freedesktop.systemd1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
# To stop a unit stops those too, systemd.unit(5).
_STOPPED_WITH = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")


@dataclass(frozen=True, slots=True)
class UnitState:
    """``id`` is systemd's own name, ``active`` its ActiveState, ``freezer`` its FreezerState.

    ``invocation`` is its InvocationID in hexadecimal: another one with each start.
    ``stopped_with`` are the units, running or not, that are stopped when it is.
    """

    id: str
    active: str
    freezer: str
    invocation: str
    stopped_with: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A hook's service: its ActiveState (empty: there is none), its Result, and whether the
    undo was run and failed."""

    active: str = ""
    result: str = ""
    undo_failed: bool = False

    @property
    def there(self) -> bool:
        return self.active not in ("", "inactive")


def _literally(argv: Sequence[str]) -> tuple[str, Any]:
    """A command of which systemd leaves every word as it is, also ``$HOME``."""
    return "a(sasas)", [(argv[0], list(argv), ["no-env-expand"])]


def _ours() -> set[str]:
    return {path.stem for path in TRANSIENT.glob("*") if is_ours(path.stem)}


class Systemd:
    """The manager. Connects when first asked, and again after the bus was gone.

    All methods raise Unsupported when systemd refuses or is absent, and Busy when it does not
    answer in time: reloading thousands of units can take it several seconds.
    """

    def __init__(self) -> None:
        self._bus: Any = None

    def version(self) -> str:
        """systemd's own version: proof that it answers."""
        if not RUNNING.is_dir():
            raise Unsupported("this machine's init is not systemd")
        return str(self._property("", "Manager", "Version"))

    def going_down(self) -> bool:
        """Whether the machine is being shut down: no unit can be started or stopped any more."""
        try:
            return RUNNING.is_dir() and self._property("", "Manager", "SystemState") == "stopping"
        except (Unsupported, Busy):
            return False

    def state(self, unit: str) -> UnitState | None:
        """How a unit is; None when there is none of that name."""
        path = self._call("LoadUnit", "s", unit)[0]
        said = self._properties(path, "Unit")
        if said["LoadState"] == "not-found":
            return None
        return UnitState(
            id=said["Id"],
            active=said["ActiveState"],
            freezer=said["FreezerState"],
            invocation=bytes(said["InvocationID"]).hex(),
            stopped_with=tuple(
                sorted({unit for key in _STOPPED_WITH for unit in said.get(key, ())})
            ),
        )

    def control_group(self, service: str) -> str:
        """The cgroup of a service, from the root of its hierarchy; empty when it has none."""
        path = self._call("LoadUnit", "s", service)[0]
        return str(self._property(path, "Service", "ControlGroup"))

    def main_pid(self, service: str) -> int:
        """The main process of a service; 0 when it has none."""
        path = self._call("LoadUnit", "s", service)[0]
        return int(self._property(path, "Service", "MainPID"))

    def at_work(self, units: Sequence[str]) -> list[str]:
        """Those of the units that are not down."""
        found = self._call("ListUnitsByNames", "as", list(units))[0] if units else []
        return [name for name, _, _, active, *_ in found if active not in ("inactive", "failed")]

    def listens(self, unit: str) -> list[int]:
        """The TCP ports at which systemd listens for a socket unit."""
        path = self._call("LoadUnit", "s", unit)[0]
        listed = self._property(path, "Socket", "Listen")
        ports = [where.rpartition(":")[2] for kind, where in listed if kind == "Stream"]
        return [int(port) for port in ports if port.isdecimal()]

    def freeze(self, unit: str) -> None:
        """Pause all its processes. Raises Unsupported where cgroups cannot."""
        self._call("FreezeUnit", "s", unit)

    def thaw(self, unit: str) -> None:
        """Let them go on."""
        self._call("ThawUnit", "s", unit)

    def start(self, unit: str) -> None:
        """Begin to start it."""
        self._call("StartUnit", "ss", unit, "replace")

    def restart(self, unit: str) -> None:
        """Begin to stop it and start it again."""
        self._call("RestartUnit", "ss", unit, "replace")

    def stop(self, unit: str) -> None:
        """Begin to stop it."""
        self._call("StopUnit", "ss", unit, "replace")

    def enabled(self, unit: str) -> str:
        """Whether it starts with the machine: ``enabled`` if so, else what it is instead."""
        try:
            return str(self._call("GetUnitFileState", "s", unit)[0])
        except (Unsupported, Busy):  # who must know whether systemd answers asks for its version
            return "not installed"

    def reboot(self) -> None:
        """Begin to shut the machine down in good order, and to start it again."""
        self._call("StartUnit", "ss", "reboot.target", "replace-irreversibly")

    # ── timers of our own ─────────────────────────────────────────────────────────────────

    def arm(self, name: str, microseconds: int, argv: Sequence[str]) -> None:
        """A timer ``name`` that runs ``argv`` as root, so long from now; again if it fails.

        It counts on CLOCK_MONOTONIC, which stands still while the machine is suspended. It
        is read back: when this returns, it is waiting.
        """
        service = [
            ("Description", ("s", "Chaos agent: undo what the agent could not")),
            ("DefaultDependencies", ("b", False)),
            ("Type", ("s", "oneshot")),
            ("CollectMode", ("s", "inactive-or-failed")),
            # It ends a fault, maybe on a node that is short of everything.
            ("CPUWeight", ("t", _MOST_CPU)),
            ("OOMScoreAdjust", ("i", _LAST_TO_GO)),
            ("Restart", ("s", "on-failure")),
            ("RestartUSec", ("t", 1_000_000)),
            ("StartLimitIntervalUSec", ("t", _TRIES * 10_000_000)),
            ("StartLimitBurst", ("u", _TRIES)),
            ("ExecStartEx", _literally(argv)),
        ]
        timer = [
            ("Description", ("s", "Chaos agent: the end of a lease")),
            ("DefaultDependencies", ("b", False)),
            ("TimersMonotonic", ("a(st)", [("OnActiveSec", microseconds)])),
            ("AccuracyUSec", ("t", 1)),
            ("RemainAfterElapse", ("b", False)),
        ]
        self._call(
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            *(f"{name}.timer", "fail", timer, [(f"{name}.service", service)]),
        )
        self._wait(lambda: self.is_waiting(name), f"{name}.timer is not armed")

    def armed(self) -> list[str]:
        """Names of our timers, waiting or at work. Asks the file system only."""
        return sorted(name for name in _ours() if name.rpartition("-")[2].isdigit())

    def is_waiting(self, name: str) -> bool:
        """Whether that timer is going to run out."""
        state = self.state(f"{name}.timer")
        return state is not None and state.active == "active"

    def command(self, name: str) -> list[str]:
        """The argv that a timer of ours runs."""
        path = self._call("LoadUnit", "s", f"{name}.service")[0]
        commands = self._property(path, "Service", "ExecStart")
        return [str(word) for word in commands[0][1]] if commands else []

    def disarm(self, name: str) -> None:
        """Take a timer away, at work or not. Idempotent, also when it ends meanwhile."""
        for unit in (f"{name}.timer", f"{name}.service"):
            if (TRANSIENT / unit).exists():
                try:
                    self.stop(unit)
                except Unsupported:  # not loaded any more, if it is not there any more
                    if (TRANSIENT / unit).exists():
                        raise
        self._wait(lambda: name not in self.armed(), f"{name}.timer does not go away")

    # ── hooks ─────────────────────────────────────────────────────────────────────────────

    def run(
        self, name: str, argv: Sequence[str], undo: Sequence[str], *, user: str, timeout_us: int
    ) -> None:
        """Begin to run ``argv`` as a service that stays until it is stopped; then ``undo``."""
        service: list[tuple[str, tuple[str, Any]]] = [
            ("Description", ("s", "Chaos agent: a hook of this node")),
            ("Type", ("s", "oneshot")),
            ("RemainAfterExit", ("b", True)),
            ("User", ("s", user)),
            ("TimeoutStartUSec", ("t", timeout_us)),
            ("TimeoutStopUSec", ("t", timeout_us)),
            ("LogRateLimitIntervalUSec", ("t", 30_000_000)),
            ("LogRateLimitBurst", ("u", _LOG_LINES)),
            ("ExecStartEx", _literally(argv)),
        ]
        if undo:
            service.append(("ExecStopPostEx", _literally(undo)))
        self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", f"{name}.service", "fail", service, [])

    def jobs(self) -> list[str]:
        """Names of hooks that are there, at work or done. Asks the file system only."""
        return sorted(name for name in _ours() if name.endswith(HOOK))

    def job(self, name: str) -> Job:
        """How a hook is."""
        if name not in self.jobs():
            return Job()
        path = self._call("LoadUnit", "s", f"{name}.service")[0]
        active = self._properties(path, "Unit")["ActiveState"]
        said = self._properties(path, "Service")
        # (path, argv, ignored, four times, pid, code, status), org.freedesktop.systemd1(5)
        undo = [command[9] for command in said["ExecStopPost"] if command[8]]
        return Job(active=active, result=said["Result"], undo_failed=any(undo))

    def settled(self, name: str) -> Job:
        """How a hook is once it has ended, or after a second."""
        with suppress(Unsupported, Busy):
            self._wait(lambda: self.job(name).active != "activating", name)
        return self.job(name)

    def end(self, name: str) -> None:
        """Stop a hook, which runs its undo. It goes away, unless the undo fails or takes long."""
        if self.job(name).there:
            self.stop(f"{name}.service")
        with suppress(Unsupported, Busy):
            self._wait(lambda: self.job(name).active in ("", "failed"), name)
            if self.job(name).active == "failed" and not self.job(name).undo_failed:
                self._call("ResetFailedUnit", "s", f"{name}.service")
            self._wait(lambda: name not in self.jobs(), name)

    # ── workers ───────────────────────────────────────────────────────────────────────────

    def serve(
        self, name: str, argv: Sequence[str], line: int, within_us: int, capabilities: int = 0
    ) -> None:
        """Start a service of ours whose stdin and stdout are the socket ``line``.

        It has no privileges but ``capabilities`` (a mask), no files and a user of its own, and is
        gone when it ends. With a capability it has no network but netlink. It says when it is
        ready, that is, under a lease; until then systemd holds that, and kills it ``within_us``.
        """
        families = ["AF_NETLINK"] if capabilities else ["AF_INET", "AF_INET6"]
        properties = [
            ("Description", ("s", "Chaos agent: a worker")),
            ("Type", ("s", "notify")),
            ("TimeoutStartUSec", ("t", max(1, within_us))),  # 0 would be for ever
            ("CollectMode", ("s", "inactive-or-failed")),
            ("ExecStart", ("a(sasb)", [(argv[0], list(argv), False)])),
            ("StandardInputFileDescriptor", ("h", line)),
            ("StandardOutputFileDescriptor", ("h", line)),
            ("StandardError", ("s", "journal")),
            ("DynamicUser", ("b", True)),
            ("NoNewPrivileges", ("b", True)),
            ("CapabilityBoundingSet", ("t", capabilities)),
            ("AmbientCapabilities", ("t", capabilities)),
            ("PrivateDevices", ("b", True)),
            ("ProtectHome", ("s", "yes")),
            ("RestrictNamespaces", ("t", 0)),
            ("RestrictAddressFamilies", ("(bas)", (True, [*families, "AF_UNIX"]))),
            ("MemoryMax", ("t", _WORKER_MEMORY)),
            ("TasksMax", ("t", _WORKER_TASKS)),
            ("OOMScoreAdjust", ("i", 1000)),
            ("KillSignal", ("i", signal.SIGKILL)),
        ]
        unit = f"{name}.service"
        self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, [])

    def serves(self, name: str) -> bool:
        """Whether there is a service of ours of that name. Asks the file system only."""
        return (TRANSIENT / f"{name}.service").exists()

    def dismiss(self, name: str) -> None:
        """See a service of ours gone, at once if it has not ended by itself. Idempotent."""
        if self.serves(name):
            try:
                self.stop(f"{name}.service")
            except Unsupported:  # not loaded any more, if it is not there any more
                if self.serves(name):
                    raise
        self._wait(lambda: not self.serves(name), f"{name}.service does not go away")

    # ── the bus ───────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def _wait(self, met: Callable[[], bool], problem: str) -> None:
        if not waiting.until(met, _PATIENCE_S):
            raise Busy(problem)

    def _reply(self, bus: DBusConnection, message: Message) -> Message:
        """Send a message and wait for its answer, in slices. Raises TimeoutError."""
        from jeepney import HeaderFields

        serial, deadline = next(bus.outgoing_serial), waiting.in_seconds(_PATIENCE_S)
        bus.send_message(message, serial=serial)
        while (left := deadline - now_us()) > 0:
            try:
                reply = bus.receive(timeout=min(left / 1_000_000, waiting.SLICE_S))
            except TimeoutError:
                waiting.meanwhile()
                continue
            if reply.header.fields.get(HeaderFields.reply_serial) == serial:
                return reply
        raise TimeoutError

    def _property(self, path: str, interface: str, name: str) -> Any:
        words = (f"{_NAME}.{interface}", name)
        return self._send(path, _PROPERTIES, "Get", "ss", words)[0][1]

    def _properties(self, path: str, interface: str) -> dict[str, Any]:
        found = self._send(path, _PROPERTIES, "GetAll", "s", (f"{_NAME}.{interface}",))[0]
        return {name: value for name, (_, value) in found.items()}

    def _call(self, method: str, signature: str, *body: Any) -> Any:
        return self._send("", f"{_NAME}.Manager", method, signature, body)

    def _send(
        self, path: str, interface: str, method: str, signature: str, body: tuple[Any, ...]
    ) -> Any:
        from jeepney import DBusAddress, DBusErrorResponse, new_method_call
        from jeepney.io.blocking import open_dbus_connection
        from jeepney.wrappers import unwrap_msg

        where = DBusAddress(path or "/org/freedesktop/systemd1", _NAME, interface)
        try:
            if self._bus is None:
                self._bus = open_dbus_connection(
                    "SYSTEM", enable_fds=True, auth_timeout=_PATIENCE_S
                )
            message = new_method_call(where, method, signature, body)
            return unwrap_msg(self._reply(self._bus, message))
        except DBusErrorResponse as error:
            text = error.data[0] if error.data else error.name
            raise Unsupported(f"systemd refuses {method}: {text}") from None
        except TimeoutError:
            self.close()
            raise Busy(f"systemd has not answered {method} within {_PATIENCE_S:g} s") from None
        except OSError as error:
            self.close()
            raise Unsupported(
                f"systemd does not answer on the system bus: {error}",
                hint="the package dbus must be installed and running",
            ) from None
