"""The Operator service: what chaosctl calls. Roles are checked before (access.py)."""

# ruff: noqa: N802, ARG002 (the names and arguments are gRPC's)

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from chaos_controller import clock, hitting
from chaos_controller.aborts import Aborts
from chaos_controller.access import Context, caller, certificate
from chaos_controller.certificates import Certificates
from chaos_controller.experiments import Experiments
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.limits import (
    ABORT_BURST,
    ABORTS_PER_S,
    AUDIT_PAGE,
    MAX_LISTED,
    MAX_REASON,
    MAX_TOKEN_TTL_S,
    RECORD_PART,
    RELEASE_US,
    Buckets,
)
from chaos_controller.runs import Runs
from chaos_controller.store import LatchRow, Revocation, Store
from chaos_controller.timeline import Timeline
from chaos_core import run as core
from chaos_core.errors import InvalidInput, NodeUnreachable, Refused
from chaos_core.faults import nearest
from chaos_core.text import printable
from chaos_experiment.record import Record
from chaos_proto import pki
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

_T = TypeVar("_T")

_POLL_S: Final = 0.2
_TOKEN_BYTES: Final = 24
_TOKEN_TTL_S: Final = 3_600


class Operator(rpc.OperatorServicer):
    """Reads the fleet and the store; changes things through Runs and Aborts only."""

    def __init__(
        self,
        authority: Authority,
        fleet: Fleet,
        runs: Runs,
        experiments: Experiments,
        aborts: Aborts,
        certificates: Certificates,
        store: Store,
        ca_hash: str,
    ) -> None:
        self._authority = authority
        self._fleet = fleet
        self._runs = runs
        self._experiments = experiments
        self._aborts = aborts
        self._certificates = certificates
        self._store = store
        self._ca_hash = ca_hash
        self._aborts_of = Buckets(ABORTS_PER_S, ABORT_BURST)

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        now = clock.now()
        rows = await self._store.nodes()
        return pb.ListNodesResponse(
            nodes=[self._node(name, rows[name], now) for name in sorted(rows)],
            latch=_latch(self._authority.latch),
            epoch=self._authority.epoch,
            renew_before=_renew_before(certificate(context)),
        )

    def _node(self, name: str, row: Mapping[str, Any], now: int) -> pb.Node:
        node = _node(name, row, self._fleet.sessions.get(name), now)
        whose = Identity("agent", name)
        leaf = self._certificates.newest(whose)
        if leaf is not None:
            node.certificate_expires = clock.rfc3339(leaf.expires)
            node.certificate_old = leaf.left(clock.utc()) < pki.RENEW_LEFT
        elif self._certificates.knows(whose):
            node.certificate_old = True
        return node

    async def Inject(self, request: pb.InjectRequest, context: Context) -> None:  # type: ignore[override]
        timeline = await _to_the_end(self._runs.inject(caller(context), request))
        await self._follow(timeline, context)

    async def _follow(self, timeline: Timeline, context: Context) -> None:
        async for event in timeline.follow():
            if event.verdict:
                await self._runs.recorder.flush()
            await context.write(event)

    async def Experiment(self, request: pb.ExperimentRequest, context: Context) -> None:  # type: ignore[override]
        timeline = await _to_the_end(self._experiments.begin(caller(context), request))
        await self._follow(timeline, context)

    async def End(self, request: pb.EndRequest, context: Context) -> pb.EndResponse:
        reason = printable(request.reason, MAX_REASON).strip()
        if not reason:
            raise InvalidInput("ending a run needs a reason", hint="--reason TEXT")
        await self._known_run(request.run)
        why = f"{caller(context)}: {reason}"
        ended = self._experiments.end(request.run, why) or self._runs.end(request.run, why)
        await self._store.audit(
            actor=str(caller(context)), action="end", request=f"{request.run}: {reason}",
            decision="accepted", outcome="ended" if ended else "it was over already",
        )  # fmt: skip
        return pb.EndResponse()

    async def GetRecord(self, request: pb.GetRecordRequest, context: Context) -> None:  # type: ignore[override]
        await self._runs.recorder.flush()
        run = await self._known_run(request.run)
        text = await self._store.record(request.run)
        if text is None:
            raise InvalidInput(
                f"{request.run} is a single fault and has no report",
                hint=f"chaosctl runs show {request.run}",
            )
        if run["verdict"] == core.Verdict.INTERRUPTED:  # by our start: it was never over for it
            changes = {key: run[key] for key in ("verdict", "reason", "finished")}
            text = Record.model_validate_json(text).model_copy(update=changes).model_dump_json()
        for start in range(0, len(text), RECORD_PART):
            await context.write(pb.RecordPart(json=text[start : start + RECORD_PART]))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> None:  # type: ignore[override]
        if not request.run:
            await self._watch_all(context)
            return
        live = self._experiments.live.get(request.run) or self._runs.live.get(request.run)
        if live is not None:
            async for event in live.timeline.follow():
                await context.write(event)
            return
        await self._runs.recorder.flush()
        await self._known_run(request.run)
        for row in await self._store.events(request.run):
            await context.write(hitting.event(row))

    async def _watch_all(self, context: Context) -> None:
        with self._runs.feed.subscribe() as queue:
            while not queue.full():
                await context.write(await queue.get())
        raise InvalidInput("too slow: events were lost", hint="watch again")

    async def Abort(self, request: pb.AbortRequest, context: Context) -> None:  # type: ignore[override]
        reason = printable(request.reason, MAX_REASON) or "no reason given"
        actor = str(caller(context))
        spare = self._aborts_of.take(actor, clock.now())
        if not spare and self._authority.latch is not None:
            raise Refused(
                f"an abort is in force already; more than {ABORTS_PER_S:g} a second change nothing"
            )
        abort = await _to_the_end(self._aborts.accept(actor, reason))
        async for event in self._aborts.follow(abort):
            await context.write(event)

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        reason = printable(request.reason, MAX_REASON).strip()
        if not reason:
            raise InvalidInput("a resume needs a reason", hint="--reason TEXT")
        was = await _to_the_end(self._aborts.resume(str(caller(context)), reason))
        return pb.ResumeResponse(was=_latch(was))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        await self._runs.recorder.flush()
        limit = min(request.limit or 20, MAX_LISTED)
        return pb.ListRunsResponse(runs=[_run(row) for row in await self._store.runs(limit)])

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        await self._runs.recorder.flush()
        row = await self._known_run(request.id)
        events = [hitting.event(event) for event in await self._store.events(request.id)]
        return pb.GetRunResponse(run=_run(row), events=events)

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        identity = Identity.parse(request.identity)
        if identity.role == "controller":
            raise InvalidInput("the controller does not enrol", hint="chaosctl pki init")
        ttl = request.ttl_s or _TOKEN_TTL_S
        if ttl > MAX_TOKEN_TTL_S:
            raise InvalidInput(f"a token lasts at most {MAX_TOKEN_TTL_S // 86_400} days")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        expires = clock.rfc3339(clock.utc() + dt.timedelta(seconds=ttl))
        digest = hashlib.sha256(token.encode()).hexdigest()
        await self._store.add_token(str(caller(context)), digest, str(identity), expires)
        return pb.CreateTokenResponse(token=token, ca_hash=self._ca_hash, expires=expires)

    async def ReleaseNode(
        self, request: pb.ReleaseNodeRequest, context: Context
    ) -> pb.ReleaseNodeResponse:
        reason = printable(request.reason, MAX_REASON).strip()
        if not reason:
            raise InvalidInput("a release needs a reason", hint="--reason TEXT")
        session = self._fleet.sessions.get(request.node)
        if session is None:
            await self._known_node(request.node)
            raise NodeUnreachable("not connected", where=request.node)
        was = session.quarantine
        asked_at = clock.now()
        epoch = self._authority.epoch
        session.send(pb.ToAgent(release=pb.Release(epoch=epoch, reason=reason)))
        while session.heard_at <= asked_at or session.quarantine:
            if clock.now() > asked_at + RELEASE_US:
                break
            await self._fleet.changed.wait(_POLL_S)
        left = "; ".join(session.quarantine)
        await self._store.audit(
            actor=str(caller(context)),
            action="releasenode",
            request=f"{request.node}: {reason}",
            decision="accepted",
            outcome=f"still quarantined: {left}" if left else "released",
        )
        if left:
            raise Refused(
                f"still quarantined: {left}",
                where=request.node,
                hint="on the node: systemctl stop chaos-agent; chaos-agent recover",
            )
        return pb.ReleaseNodeResponse(was=was)

    async def ForgetNode(
        self, request: pb.ForgetNodeRequest, context: Context
    ) -> pb.ForgetNodeResponse:
        node, reason = request.node, printable(request.reason, MAX_REASON).strip()
        if not reason:
            raise InvalidInput("forgetting a node needs a reason", hint="--reason TEXT")
        row = await self._known_node(node)
        if node in self._fleet.sessions:
            raise Refused(
                "connected: only a node that is gone can be forgotten",
                where=node,
                hint="on the node: systemctl disable --now chaos-link chaos-agent",
            )
        if node in self._runs.carrying() or clock.now() < self._runs.lapsed_at(node):
            raise Refused(
                "may still carry a fault", where=node, hint="its lease is over in a few seconds"
            )
        whose = Identity("agent", node)
        await _to_the_end(
            self._certificates.revoke(certificate(context), whose, reason, forget=True)
        )
        return pb.ForgetNodeResponse(seen=row["seen"])

    async def ListCertificates(
        self, request: pb.ListCertificatesRequest, context: Context
    ) -> pb.ListCertificatesResponse:
        listed = (_certificate(leaf, found) for leaf, found in self._certificates.listed())
        return pb.ListCertificatesResponse(certificates=listed)

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:
        reason = printable(request.reason, MAX_REASON).strip()
        if not reason:
            raise InvalidInput("a revocation needs a reason", hint="--reason TEXT")
        nodes = {Identity("agent", name) for name in await self._store.nodes()}
        subject = self._certificates.resolve(request.subject, nodes)
        found, ended = await _to_the_end(
            self._certificates.revoke(certificate(context), subject, reason)
        )
        return pb.RevokeResponse(
            subject=str(subject),
            certificates=[
                _certificate(leaf, self._certificates.revocation(leaf)) for leaf in found
            ],
            ended=ended,
        )

    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> None:  # type: ignore[override]
        await self._runs.recorder.flush()
        last = 0
        while page := await self._store.audit_entries(after=last, limit=AUDIT_PAGE):
            for entry in page:
                await context.write(pb.AuditEntry(**entry))
            last = page[-1]["number"]

    async def _known_node(self, node: str) -> Mapping[str, Any]:
        rows = await self._store.nodes()
        if node not in rows:
            known = dict.fromkeys(sorted(rows))
            hint = nearest(node, known) if known else "no agent has ever connected"
            raise InvalidInput(f"unknown node {node!r}", hint=hint)
        return rows[node]

    async def _known_run(self, run: str) -> Mapping[str, Any]:
        row = await self._store.run(run)
        if row is None:
            recent = {row["id"]: row for row in await self._store.runs(100)}
            hint = nearest(run, recent) if recent else "there has been no run yet"
            raise InvalidInput(f"unknown run {run!r}", hint=hint)
        return row


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do this whether or not whoever asked for it is still there at the end."""
    return await asyncio.shield(asyncio.ensure_future(work))


# ── from rows to messages ─────────────────────────────────────────────────────────────────


def _node(name: str, row: Mapping[str, Any], session: NodeSession | None, now: int) -> pb.Node:
    """A node as operators see it: live when connected, else as it was last."""
    node = pb.Node(
        name=name,
        state="unreachable",
        profile=row["profile"],
        version=row["version"],
        address=row["address"],
        boot_id=row["boot_id"],
        envelope=row["envelope"],
        heartbeat_age_s=-1.0,
    )
    if session is not None:
        node.state = session.state
        node.faults.extend(session.faults)
        node.quarantine.extend(session.quarantine)
        node.kinds.extend(session.hello.kinds)
        node.addresses.extend(session.hello.addresses)
        node.labels.extend(session.hello.labels)
        if session.heard_at:
            node.heartbeat_age_s = (now - session.heard_at) / 1_000_000
    return node


def _renew_before(leaf: pki.Leaf) -> str:
    return clock.rfc3339(leaf.expires) if leaf.left(clock.utc()) < pki.RENEW_LEFT else ""


def _certificate(leaf: pki.Leaf, revocation: Revocation | None) -> pb.Certificate:
    shown = pb.Certificate(
        identity=str(leaf.identity),
        serial=leaf.serial,
        issued=clock.rfc3339(leaf.issued),
        expires=clock.rfc3339(leaf.expires),
    )
    if revocation is not None:
        shown.revoked = clock.rfc3339(revocation.at)
        shown.revoked_by, shown.reason = revocation.actor, revocation.reason
    return shown


def _latch(latch: LatchRow | None) -> pb.Latch:
    if latch is None:
        return pb.Latch()
    return pb.Latch(set=True, actor=latch.actor, reason=latch.reason, since=latch.since)


def _run(row: Mapping[str, Any]) -> pb.Run:
    columns = {key: value for key, value in row.items() if key not in ("epoch", "nodes")}
    return pb.Run(nodes=row["nodes"].split(","), **columns)
