"""The link's own certificate: renewed in time, beside the stream, which does not notice.

A certificate is replaced when a little more than a third of its life is left, at a
moment of its own for each node. One that could not be is tried again until it has
expired; ``chaosctl nodes`` shows it meanwhile. After that only a new enrolment helps.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from random import SystemRandom
from typing import Final

from chaos_agent.config import AgentConfig
from chaos_core.errors import ChaosError
from chaos_core.log import Log
from chaos_proto import pki
from chaos_proto.credentials import Credentials
from chaos_proto.renew import renew_async

# By wall time, which may be set and which stands still in suspend: look at least so often.
_LOOK_S: Final = 60.0
# A certificate whose renewal failed is tried again this often in its life, within these bounds.
_TRIES: Final = 60
_RETRY_S: Final = (0.5, 3600.0)
# Nodes that enrolled together do not renew together.
_EARLIER: Final = 0.07


class Renewal:
    """Keeps the identity in ``config.pki`` young, until cancelled."""

    def __init__(self, config: AgentConfig, log: Log) -> None:
        self._config = config
        self._log = log
        self._left = pki.RENEW_LEFT + SystemRandom().uniform(0, _EARLIER)

    async def run(self) -> None:
        while True:
            wait = await self._step()
            await asyncio.sleep(wait)

    async def _step(self) -> float:
        """Renew if it is time to; how many seconds to wait before looking again."""
        try:
            leaf = pki.leaf_of(Credentials.read(self._config.pki).certificate)
        except ChaosError:
            return _LOOK_S  # the session says what is wrong with it
        wait, left = _seconds_until(leaf.old_at(self._left)), _seconds_until(leaf.expires)
        if wait > 0 or left <= 0:
            return min(wait, _LOOK_S) if wait > 0 else _LOOK_S
        try:
            new = await renew_async(self._config.controller, self._config.pki)
        except ChaosError as error:
            self._log.warning(
                "certificate not renewed", why=str(error), expires=f"{leaf.expires:%Y-%m-%d %H:%M}"
            )
            least, most = _RETRY_S
            life = (leaf.expires - leaf.issued).total_seconds()
            return min(max(life / _TRIES, least), most)
        self._log.info(
            "certificate renewed", serial=new.serial, expires=f"{new.expires:%Y-%m-%d %H:%M}"
        )
        return 0.0


def _seconds_until(moment: dt.datetime) -> float:
    return (moment - dt.datetime.now(dt.UTC)).total_seconds()
