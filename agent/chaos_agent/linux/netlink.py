"""Turns pyroute2's errors into ours, so that nothing above ``linux`` has to know it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from chaos_agent.linux.refusal import refusal

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def kernel_call(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of an adapter: what the kernel refuses is raised as ``refusal`` has it."""

    @functools.wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except NetlinkError as error:
            given = ", ".join(str(value) for value in (*args, *kwargs.values()))
            name = method.__name__.replace("_", " ")
            said = str(error.args[1]) if len(error.args) > 1 else ""
            raise refusal(name, error.code or 0, said, given) from error

    return wrapped
