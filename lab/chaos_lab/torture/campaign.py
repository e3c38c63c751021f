"""All rounds: the steps are found, the cases drawn and played, three nodes at a time."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from chaos_core.errors import InvalidInput, LabError
from chaos_lab import provision
from chaos_lab.drill.context import Drill
from chaos_lab.fleet import Fleet
from chaos_lab.torture import rounds, setting
from chaos_lab.torture.cases import CONTROLLER, KINDS, SHORT_S, Case, Kind, Step, chosen, draw
from chaos_lab.torture.node import Node, Roll
from chaos_lab.torture.report import Report, Result

_HOLD_SEEN = 2  # of what is repeated while a fault is held, the first two times are steps
_TRIES = 4  # to see a fault through unharmed

_VERBS = (
    *(".apply", ".verify", ".renew", ".revert", ".absent"),
    *("journal.intent", "os.fdatasync", "journal.done", "snapshot"),
)


def run(
    fleet: Fleet,
    *,
    seed: int,
    drawn: int,
    only: str = "",
    kinds: Sequence[Kind] = KINDS,
    say: Callable[[str], None],
    tell: Callable[[Result], None],
) -> Report:
    """Play a campaign on a fleet that is up and provisioned, with its nodes in profile lab.

    Cases are drawn of these ``kinds``. ``say`` hears what is being done, ``tell`` each result as
    it comes. Ctrl-C lets the rounds that are under way end, and the report is of those that were
    played. Raises InvalidInput when ``only`` matches no case.
    """
    started = time.monotonic()
    with under_torture(fleet, say) as nodes:
        say("one fault of each kind, to find the steps")
        steps = discover(nodes, kinds)
        say(", ".join(f"{kind}: {len(found)} steps" for kind, found in steps.items()))
        cases = chosen(tuple(draw(seed, drawn, steps)), only)
        if not cases:
            raise InvalidInput(f"no case matches {only!r}", where="--only")
        results: list[Result] = []

        def played(result: Result) -> None:
            results.append(result)
            tell(result)

        with suppress(KeyboardInterrupt):
            play(cases, nodes, played)
    return Report(
        seed=seed,
        drawn=drawn,
        results=tuple(sorted(results, key=lambda result: result.case.number)),
        unplayed=len(cases) - len(results),
        steps={kind: len(found) for kind, found in steps.items()},
        seconds=time.monotonic() - started,
        date=time.strftime("%Y-%m-%d"),
    )


@contextmanager
def under_torture(fleet: Fleet, say: Callable[[str], None]) -> Iterator[tuple[Node, ...]]:
    """The fleet's nodes with traced keepers and wardens; as installed again afterwards."""
    drill, roll = Drill(fleet, say), Roll(fleet)
    nodes = tuple(Node(drill, roll, name) for name in fleet.nodes)
    say("a tracer for each keeper, a warden for each node")
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        stack.callback(roll.close)
        list(pool.map(Node.set_up, nodes))
        for node in nodes:
            stack.callback(node.tear_down)
        provision.wait_connected(fleet)
        yield nodes


def discover(nodes: Sequence[Node], kinds: Sequence[Kind]) -> dict[str, tuple[Step, ...]]:
    """The steps of one unharmed fault of each kind, in their order. The node is clean after it."""
    found = _spread(_record, kinds, nodes)
    return {kind.name: steps for kind, steps in zip(kinds, found, strict=True)}


def _record(kind: Kind, node: Node) -> tuple[Step, ...]:
    """The steps of one unharmed fault. A traced keeper is slow, so that now and then a lease is
    over before it is renewed: a safe end, of which the steps cannot be learned."""
    setting.ready(node.drill.fleet, node.name, kind)
    for _ in range(_TRIES - 1):
        with suppress(LabError):
            return _recorded(kind, node)
    return _recorded(kind, node)


def _recorded(kind: Kind, node: Node) -> tuple[Step, ...]:
    place = node.warden.order("record")
    code = node.drill.inject(kind.name, *kind.params, nodes=(node.name,), seconds=SHORT_S).wait()
    said: list[dict[str, Any]] = node.warden.said(place, "step")
    node.warden.order("disarm")
    wrong, _ = node.settled()
    steps = (Step(**step) for step in said)
    kept = tuple(step for step in steps if step.stage != "hold" or step.nth <= _HOLD_SEEN)
    for verb in _VERBS:  # without one of them the tracer does not know the keeper any more
        if not any(step.name.endswith(verb) for step in kept):
            wrong = f"{wrong} no step {verb}".strip()
    if code or wrong:
        raise LabError(f"{kind.name}, unharmed: exit {code}, {len(kept)} steps, {wrong}")
    return kept


def play(cases: Sequence[Case], nodes: Sequence[Node], tell: Callable[[Result], None]) -> None:
    """Play the cases, a node each; those that hit the controller hit all, so one at a time.

    Those in which systemd looks away come together: to turn its head takes it seconds.
    """
    lock = threading.Lock()

    def one(case: Case, node: Node) -> None:
        result = rounds.play(case, node)
        with lock:
            tell(result)

    apart = [case for case in cases if case.hit.target == CONTROLLER]
    abreast = [case for case in cases if case.hit.target != CONTROLLER]
    _spread(one, sorted(abreast, key=lambda case: case.hit.alone), nodes)
    for case, node in zip(apart, itertools.cycle(nodes), strict=False):
        one(case, node)


def _spread(
    work: Callable[[Any, Node], Any], items: Sequence[Any], nodes: Sequence[Node]
) -> list[Any]:
    """Do ``work`` for each item on whichever node is free; results in the order of the items."""
    free: queue.SimpleQueue[Node] = queue.SimpleQueue()
    for node in nodes:
        free.put(node)

    def one(item: Any) -> Any:
        node = free.get()
        try:
            return work(item, node)
        finally:
            free.put(node)

    pool = ThreadPoolExecutor(len(nodes))
    try:
        return list(pool.map(one, items))
    finally:
        pool.shutdown(cancel_futures=True)
