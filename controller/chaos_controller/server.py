"""The controller as a whole: what is made in which order, and how it stops."""

from __future__ import annotations

import asyncio
import datetime as dt
from types import TracebackType
from typing import Final, Self

import grpc
from grpc import aio

from chaos_controller import clock
from chaos_controller.aborts import Aborts
from chaos_controller.access import Gate
from chaos_controller.api import Operator
from chaos_controller.certificates import Certificates
from chaos_controller.config import Config
from chaos_controller.enrolment import Enrolment, Renewal
from chaos_controller.experiments import Experiments
from chaos_controller.fleet import Fleet
from chaos_controller.grants import Authority
from chaos_controller.parsing import Parsing
from chaos_controller.probing import Probing, read_site
from chaos_controller.runs import Runs
from chaos_controller.serving import ServerCertificate
from chaos_controller.session import AgentLink
from chaos_controller.store import Store
from chaos_core.errors import InvalidInput
from chaos_core.lease import ABORT_BOUND
from chaos_core.log import Log
from chaos_proto import address, pki
from chaos_proto.channel import ENROLMENT_OPTIONS, SERVER_OPTIONS
from chaos_proto.v1 import chaos_pb2_grpc as rpc

# Long enough for reverts to be written; those who watch must not delay a restart.
_GRACE_S: Final = 0.2
_FLUSH_S: Final = 1.0


class Controller:
    """A running controller: ``async with Controller.start(config, log) as controller``.

    ``port`` and ``enrolment_port`` are those really listened on.
    """

    def __init__(self, config: Config, ca: pki.CA, store: Store, authority: Authority, log: Log):
        names = pki.read_names(config.pki)
        self.config = config
        self.log = log
        self.store = store
        self.authority = authority
        self.fleet = Fleet()
        self.runs = Runs(authority, self.fleet, store, log)
        self.port = 0
        self.enrolment_port = 0
        probing = Probing(config.probes, lambda: (self.port, self.enrolment_port), config.site)
        self.experiments = Experiments(authority, self.fleet, self.runs, store, log, probing)
        self.certificate = ServerCertificate(ca, names, log)
        later = self.runs.recorder.later
        self.certificates = Certificates(ca, store, log, later)
        self._ca = ca
        gate = Gate(self.certificates, store, log, later)
        self._main = aio.server(interceptors=(Parsing(), gate), options=SERVER_OPTIONS)
        self._enrolment = aio.server(interceptors=(Parsing(),), options=ENROLMENT_OPTIONS)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, config: Config, log: Log, *, epoch_at_least: int = 0) -> Self:
        """Open everything and serve. Raises InvalidInput naming what cannot be used.

        The ports come before the epoch: a second controller started by mistake must
        neither fence the first nor close its runs.
        """
        if config.site is not None:
            read_site(config.site)
        life = dt.timedelta(microseconds=int(config.certificate_life))
        ca = pki.CA.load(config.pki, life)
        store = await Store.open(config.database)
        try:
            controller = cls(config, ca, store, Authority(0, int(config.ttl)), log)
            controller._listen()
            await controller.certificates.load()
            await controller._inherit(epoch_at_least)
            await controller._serve()
        except BaseException:
            await store.close()
            raise
        return controller

    async def stop(self) -> None:
        """Stop serving. Live runs are reverted and are closed as interrupted by the next start."""
        await self.experiments.suspend()
        self.runs.suspend("the controller stops")
        await asyncio.gather(self._main.stop(_GRACE_S), self._enrolment.stop(_GRACE_S))
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self.runs.recorder.flush()
        except TimeoutError:
            self.log.error("stopped before all events were written")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _listen(self) -> None:
        host, config = self.config.listen, self.config
        mutual, open_to_all = (self.certificate.credentials(mutual=m) for m in (True, False))
        self.port = _listen(self._main, host, config.port, mutual)
        self.enrolment_port = _listen(self._enrolment, host, config.enrolment_port, open_to_all)

    async def _inherit(self, epoch_at_least: int) -> None:
        """Begin a new epoch, close what a former controller left open, wait out its leases.

        Also when nothing is open: this store may be a copy from before it was.
        """
        former = await self.store.epoch()
        self.authority.epoch = await self.store.next_epoch(epoch_at_least)
        self.authority.latch = await self.store.latch()
        interrupted = await self.store.interrupt_runs()
        occupied = await self.store.occupied()
        self.runs.inherit(occupied)
        if former or epoch_at_least:
            self.authority.settled_at = clock.now() + int(ABORT_BOUND)
        for run in interrupted:
            self.log.warning("run interrupted: its controller died", run=run)
        if self.authority.latch is not None:
            self.log.warning("latched", since=self.authority.latch.since)

    async def _serve(self) -> None:
        authority, fleet, runs, store, log = (
            self.authority, self.fleet, self.runs, self.store, self.log,
        )  # fmt: skip
        aborts = Aborts(authority, fleet, runs, self.experiments, store, log)
        agents = AgentLink(authority, fleet, runs, store, log)
        operators = Operator(
            authority,
            fleet,
            runs,
            self.experiments,
            aborts,
            self.certificates,
            store,
            self._ca.hash,
        )
        enrolment = Enrolment(self._ca, self.certificates, log)
        rpc.add_AgentLinkServicer_to_server(agents, self._main)
        rpc.add_OperatorServicer_to_server(operators, self._main)
        rpc.add_RenewalServicer_to_server(Renewal(self.certificates), self._main)
        rpc.add_EnrolmentServicer_to_server(enrolment, self._enrolment)
        resident = (runs.tick(), runs.recorder.run(), self.certificates.tick())
        self._tasks = [asyncio.create_task(work) for work in resident]
        await self._main.start()
        await self._enrolment.start()
        log.info(
            "serving",
            epoch=authority.epoch,
            port=self.port,
            enrolment_port=self.enrolment_port,
            ca=self._ca.hash,
        )


def _listen(server: aio.Server, host: str, port: int, credentials: grpc.ServerCredentials) -> int:
    where = address.join(host, port)
    try:
        return server.add_secure_port(where, credentials)
    except RuntimeError:
        raise InvalidInput(
            "cannot listen there",
            where=where,
            hint="is another chaos-controller running, or the port taken?",
        ) from None
