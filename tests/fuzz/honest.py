"""An honest agent and an honest operator, who must not notice what others do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.controller.rig import Agent, Rig

from chaos_controller import clock
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

_BEAT_S = 0.2


class HonestAgent:
    """One stream that heartbeats, and how long each grant took. Never dials twice."""

    def __init__(self, rig: Rig, node: str) -> None:
        self._rig = rig
        self._node = node
        self._sent: dict[int, float] = {}
        self.slowest = 0.0
        self.granted = 0
        self.problem = ""

    async def __aenter__(self) -> HonestAgent:
        self._link = self._rig.dial(f"agent/{self._node}")
        self._stream = rpc.AgentLinkStub(self._link).Session()
        await self._stream.write(pb.FromAgent(hello=Agent(self._rig, self._node).hello()))
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._read())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    def waiting(self) -> float:
        """For how long the oldest heartbeat has been without its grant, in seconds."""
        return time.monotonic() - min(self._sent.values(), default=time.monotonic())

    async def _beat(self) -> None:
        seq = 0
        while True:
            seq += 1
            self._sent[seq] = time.monotonic()
            beat = pb.Heartbeat(seq=seq, sent_at_us=clock.now())
            await self._stream.write(pb.FromAgent(heartbeat=beat))
            await asyncio.sleep(_BEAT_S)

    async def _read(self) -> None:
        try:
            async for message in self._stream:
                if message.HasField("grant"):
                    sent = self._sent.pop(message.grant.seq)
                    self.slowest = max(self.slowest, time.monotonic() - sent)
                    self.granted += 1
        except Exception as error:
            self.problem = str(error)


async def list_nodes(rig: Rig) -> Any:
    """What an operator asks most."""
    async with rig.operator() as ann:
        return await ann.one("ListNodes", pb.ListNodesRequest())
