"""The installed keeper, wrapped so that it can be stopped at any step of a fault.

Runs on a node in place of ``chaos-agent run``, by a drop-in of the lab's. What is a
step is found, not listed: every verb of every effect, every entry of the journal and
its way to the disk, every snapshot, and every call of an adapter of the kernel's while
something is applied or reverted. A new effect or adapter needs nothing here.

At the start of a fault the warden is asked what to do: nothing, to name the steps as
they pass, or to halt at one until it says go on. Without a warden it is a plain keeper.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from chaos_agent import effects, engine, journal, main, snapshot
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import TRANSIENT

SOCKET = "/run/chaos-torture.sock"
_PATIENCE_S = 30.0


class Tracer:
    """Where the keeper is. ``stage`` is start, hold or end of a fault, or nothing."""

    def __init__(self) -> None:
        self.stage = ""
        self.changing = False  # within an effect's apply or revert
        self._seen: Counter[str] = Counter()
        self._warden: socket.socket | None = None
        self._orders: dict[str, Any] = {}

    def begin(self) -> None:
        """A fault starts: ask the warden for orders."""
        self._seen.clear()
        self._orders = {}
        if self._warden is not None:
            self._warden.close()
        self._warden = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._warden.settimeout(_PATIENCE_S)
        with suppress(OSError, ValueError):
            self._warden.connect(SOCKET)
            self._orders = json.loads(self._warden.recv(4096))

    def step(self, name: str) -> None:
        """The keeper is at this step now."""
        if not self.stage or not self._orders:
            return
        assert self._warden is not None
        self._seen[name] += 1
        nth = self._seen[name]
        if self._orders.get("record"):
            dying = self.stage == "end" and self.changing
            holder = not dying and (_has_child() or _has_worker())
            step = {"name": name, "nth": nth, "stage": self.stage, "holder": holder}
            self._warden.send(json.dumps(step).encode())
        elif (name, nth) == (self._orders.get("name"), self._orders.get("nth")):
            self._warden.send(b"{}")
            self._warden.recv(16)

    @contextmanager
    def around(self, name: str, *, stage: str = "", changing: bool = False) -> Iterator[None]:
        """Two steps, before and after, and what they are part of."""
        was = self.stage, self.changing
        self.stage, self.changing = stage or self.stage, changing or self.changing
        try:
            self.step(f"before {name}")
            yield
            self.step(f"after {name}")
        finally:
            self.stage, self.changing = was

    def wrap(self, name: str, function: Callable[..., Any], **around: Any) -> Callable[..., Any]:
        """The function, with a step before it and one after it."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.around(name, **around):
                return function(*args, **kwargs)

        return wrapped


class Traced:
    """Stands for ``real``; its methods are wrapped by ``wrap``, which gets name and method."""

    def __init__(self, real: Any, wrap: Callable[[str, Any], Any]) -> None:
        self._real = real
        self._wrap = wrap

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        return self._wrap(name, value) if callable(value) else value


def install(tracer: Tracer) -> None:
    """Wrap the keeper's parts. Everything that is called afterwards is seen."""

    def verb(effect: str) -> Callable[[str, Any], Any]:
        return lambda name, call: tracer.wrap(
            f"{effect}.{name}", call, changing=name in ("apply", "revert")
        )

    def adapter(part: str) -> Callable[[str, Any], Any]:
        def wrap(name: str, call: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                result = call(*args, **kwargs)
                if tracer.changing:
                    tracer.step(f"after {part}.{name}")
                return result

            return wrapped

        return wrap

    def disk(name: str, call: Any) -> Any:
        return tracer.wrap(f"os.{name}", call) if name in ("write", "fdatasync") else call

    def begin(start: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: engine.Engine, *args: Any, **kwargs: Any) -> Any:
            tracer.begin()
            result = tracer.wrap("start", start, stage="start")(self, *args, **kwargs)
            tracer.stage = "hold"
            return result

        return wrapped

    def finish(end: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: engine.Engine, *args: Any, **kwargs: Any) -> Any:
            try:
                return tracer.wrap("end", end, stage="end")(self, *args, **kwargs)
            finally:
                tracer.stage = ""

        return wrapped

    patches: list[tuple[Any, str, Any]] = [
        (engine.Engine, "start", begin(engine.Engine.start)),
        (engine.Engine, "end", finish(engine.Engine.end)),
        *((user, "ops", _by_effect(effects.ops, verb)) for user in _users_of(effects.ops)),
        (snapshot, "take", tracer.wrap("snapshot", snapshot.take)),
        (journal, "os", Traced(os, disk)),
        *(
            (journal.Journal, name, tracer.wrap(f"journal.{name}", getattr(journal.Journal, name)))
            for name in ("intent", "done")
        ),
        *((Host, name, _traced_part(name, make, adapter)) for name, make in _adapters()),
    ]
    for owner, name, value in patches:
        setattr(owner, name, value)


def _by_effect(
    ops: Callable[[Any], Any], verb: Callable[[str], Callable[[str, Any], Any]]
) -> Callable[[Any], Any]:
    return lambda effect: Traced(ops(effect), verb(type(effect).__name__))


def _users_of(ops: Callable[[Any], Any]) -> list[Any]:
    """The agent's modules that know the verbs' registry by the name of ``ops``."""
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("chaos_agent") and getattr(module, "ops", None) is ops
    ]


def _adapters() -> list[tuple[str, Callable[[Host], Any]]]:
    return [
        (name, part.func) for name, part in vars(Host).items() if isinstance(part, cached_property)
    ]


def _traced_part(
    name: str, make: Callable[[Host], Any], wrap: Callable[[str], Callable[[str, Any], Any]]
) -> cached_property[Any]:
    def traced(host: Host) -> Any:
        real = make(host)
        return real if isinstance(real, str) else Traced(real, wrap(name))  # which one, by name

    part: cached_property[Any] = cached_property(traced)
    part.__set_name__(Host, name)
    return part


def _has_child() -> bool:
    """Whether this keeper has a holder that runs."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _has_worker() -> bool:
    """The same of a worker, which is a child of systemd's. (To look for it takes too long.)"""
    return any(TRANSIENT.glob("chs-*-w.service"))


if __name__ == "__main__":
    install(Tracer())
    main.run()
