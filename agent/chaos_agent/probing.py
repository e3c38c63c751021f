"""Probes that look from this node. Loaded by the link when the first of them is asked for.

The link is unprivileged, and believes the controller nothing: what a probe may touch is what
root listed in agent.toml, how often and how many at once is bounded by ``chaos_experiment.offer``,
and what they see waits in a queue that is bounded too. They look by the same ``watch`` as the
controller's own; when the stream ends, all of them end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from chaos_agent.allowed import ProbeRules
from chaos_agent.linux.boottime import now_us
from chaos_core.errors import InvalidInput
from chaos_core.log import Log
from chaos_core.messages import read_params
from chaos_core.text import printable
from chaos_experiment.offer import MAX_LOOKS_PER_S, MAX_WATCHED, Offer, looks_per_s
from chaos_experiment.probes import Context, Probe, lookup
from chaos_experiment.probes._watch import watch
from chaos_experiment.series import Observation
from chaos_proto.v1 import chaos_pb2 as pb

BATCH_S: Final = 0.2
MAX_SEEN: Final = 200  # observations in one message
MAX_PARAMS: Final = 16 * 1024  # bytes
_MAX_PENDING: Final = 2_000  # observations: ten times what is due in a second
_ID: Final = 32  # bytes
_TEXT: Final = 300

# Queues a message for the controller; False when it takes none now.
Send = Callable[[pb.FromAgent], bool]


class Prober:
    """The probes of one stream, by the controller's ids of them."""

    def __init__(self, rules: ProbeRules, send: Send, log: Log) -> None:
        self._offer = Offer(rules.kinds, rules.hosts, tuple(rules.commands), rules.files)
        self._context = Context(rules.commands)
        self._send = send
        self._log = log
        self._watched: dict[str, tuple[Probe, asyncio.Task[None]]] = {}
        self._pending: deque[Observation] = deque()

    async def run(self, asked: asyncio.Queue[pb.ToAgent], message: pb.ToAgent) -> None:
        """Obey ``message`` and then each that is asked, until cancelled; then nothing looks."""
        telling = asyncio.create_task(self._tell())
        try:
            while True:
                if message.WhichOneof("message") == "watch":
                    await self._begin(message.watch)
                else:
                    self._end(message.unwatch.id)
                message = await asked.get()
        finally:
            tasks = [telling, *(task for _, task in self._watched.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, asked: pb.Watch) -> None:
        name = asked.id
        if len(name.encode()) > _ID or name in self._watched:
            return
        try:
            # In a thread, since a kind that is new here is loaded: no heartbeat waits for that.
            probe = await asyncio.to_thread(self._read, asked)
            self._fits(probe)
        except InvalidInput as error:
            why = f"{error.where}: {error.what}" if error.where else error.what
            self._log.warning("a probe is refused", why=why, kind=printable(asked.kind, _ID))
            self._keep(Observation(name, now_us(), False, None, printable(why, _TEXT)))
            return
        self._watched[name] = probe, asyncio.create_task(self._look(name, probe))

    def _end(self, name: str) -> None:
        if name in self._watched:
            _, task = self._watched.pop(name)
            task.cancel()

    def _read(self, asked: pb.Watch) -> Probe:
        """The probe that is asked for, if root allows it. Raises InvalidInput."""
        if asked.kind not in self._offer.kinds:
            raise InvalidInput("agent.toml allows no probe of this kind")
        if len(asked.params.encode()) > MAX_PARAMS:
            raise InvalidInput(f"parameters above {MAX_PARAMS} bytes")
        try:
            probe = lookup(asked.kind).model_validate(read_params(asked.params))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidInput(first["msg"], where=where) from None
        self._offer.check(probe)
        return probe

    def _fits(self, probe: Probe) -> None:
        """Raise InvalidInput when with those that look already it is too much."""
        others = [other for other, _ in self._watched.values()]
        if len(others) >= MAX_WATCHED:
            raise InvalidInput(f"{MAX_WATCHED} probes look from here already")
        if sum(map(looks_per_s, (*others, probe))) > MAX_LOOKS_PER_S:
            raise InvalidInput(f"more than {MAX_LOOKS_PER_S} looks a second from one node")

    async def _look(self, name: str, probe: Probe) -> None:
        try:
            await watch(name, probe, self._keep, now_us, self._context)
        except Exception as error:  # what no look has made an observation of
            self._log.error("a probe ended", kind=probe.kind, why=repr(error))
            why = printable(f"the probe ended: {error}", _TEXT)
            self._keep(Observation(name, now_us(), False, None, why))

    def _keep(self, seen: Observation) -> None:
        # It is this full only on a stream that is dead, whose silence is noticed before.
        if len(self._pending) < _MAX_PENDING:
            self._pending.append(seen)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(BATCH_S)
            if self._pending:
                batch = list(self._pending)[:MAX_SEEN]
                if self._send(_message(batch)):
                    for _ in batch:
                        self._pending.popleft()


def _message(batch: list[Observation]) -> pb.FromAgent:
    seen = [
        pb.Observation(
            watch=each.probe, due_us=each.at, ok=each.ok, value=each.value, text=each.text
        )
        for each in batch
    ]
    return pb.FromAgent(observations=pb.Observations(sent_at_us=now_us(), seen=seen))
