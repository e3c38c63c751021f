"""Kinds of others: an installed distribution adds one by an entry point.

::

    [project.entry-points."chaos.faults"]
    slow-uplink = "acme_chaos:SlowUplink"

The class is a ``Fault`` like ours. It is code: who installs it beside the agent lets it
run as root there. What it compiles to are our effects, under the same envelope, leases
and read-back. It cannot replace a kind of ours, and an error in it refuses its fault.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from chaos_core.effects import CHAIN_PREFIX, LINK_PREFIX, is_ours
from chaos_core.errors import ChaosError, Refused

GROUP = "chaos.faults"
_KIND = re.compile(r"[a-z][a-z0-9]{0,30}(\.[a-z][a-z0-9_]{0,30}){1,2}")
_TOLD = ("summary", "lease_holder", "example")


def load(base: type[Any], known: Collection[str]) -> tuple[dict[str, type[Any]], tuple[str, ...]]:
    """The classes by their kinds, and a line for each that cannot be had, with the reason."""
    found: dict[str, type[Any]] = {}
    problems: list[str] = []
    for entry in sorted(entry_points(group=GROUP)):
        try:
            cls = _checked(entry, base, {*known, *found})
        except Exception as error:  # whatever somebody else's code raises when it is imported
            problems.append(f"plug-in {entry.name} ({entry.value}): {error}")
        else:
            found[cls.kind] = _guarded(cls)
    return found, tuple(problems)


def _checked(entry: EntryPoint, base: type[Any], known: Collection[str]) -> type[Any]:
    cls = entry.load()
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError("not a class derived from chaos_core.faults.Fault")
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise ValueError(f"kind {kind!r} is not like vendor.fault")
    if kind in known:
        raise ValueError(f"kind {kind} is there already")
    for name in _TOLD:
        if not isinstance(getattr(cls, name, None), str):
            raise TypeError(f"{kind} has no {name}")
    return cls


def _guarded(cls: type[Any]) -> type[Any]:
    """The class, whose errors are refusals and whose effects carry the fault's id."""

    def asks(self: Any) -> Any:
        return _call(cls.asks, self)

    def draw(self: Any) -> Any:
        return _call(cls.draw, self)

    def compile(self: Any, node: Any, fault_id: str) -> Any:  # noqa: A001 - as in Fault
        effects = _call(cls.compile, self, node, fault_id)
        for effect in effects:
            name = getattr(effect, "name", "") or getattr(effect, "link", "")
            if name and not (is_ours(name) and name.startswith(_prefixes(fault_id))):
                raise Refused(f"the plug-in calls an effect {name!r}", where=cls.kind)
        return effects

    body: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    body |= {"asks": asks, "draw": draw, "compile": compile}
    guarded: type[Any] = types.new_class(cls.__name__, (cls,), exec_body=lambda ns: ns.update(body))
    return guarded


def _prefixes(fault_id: str) -> tuple[str, str]:
    return f"{LINK_PREFIX}{fault_id}", f"{CHAIN_PREFIX}{fault_id}"


def _call(method: Callable[..., Any], fault: Any, *arguments: Any) -> Any:
    try:
        return method(fault, *arguments)
    except (ChaosError, OSError):
        raise
    except Exception as error:
        text = f"the plug-in failed: {type(error).__name__}: {error}"
        raise Refused(text, where=fault.kind, hint="tell those whose plug-in it is") from error
