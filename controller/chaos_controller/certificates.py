"""Certificates in use: who was issued which, which still hold, and what goes on under each.

What it promises: nothing goes on under a certificate that was revoked, from the
moment in which the revocation is accepted, whatever the disk does; no certificate
is issued to somebody who was revoked meanwhile; nobody revokes the certificate
that they call with, so an operator is always left.

A certificate that the store does not know (made by ``pki init``, or issued by a
controller whose store is lost) is good if our CA signed it, and is written down
when it is first seen.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from chaos_controller import clock
from chaos_controller.limits import RENEWAL_BURST, RENEWALS_PER_S, Buckets
from chaos_controller.store import Issued, Revocation, Store
from chaos_controller.store.certificates import KEEP
from chaos_controller.timeline import Later
from chaos_core.errors import ChaosError, InvalidInput, NotPermitted, Refused, Revoked
from chaos_core.faults import nearest
from chaos_core.log import Log
from chaos_proto import pki
from chaos_proto.identity import Identity
from chaos_proto.pki import Leaf

_TICK_S: Final = 0.5
_MIN_PREFIX: Final = 8
_MOMENT: Final = dt.timedelta(milliseconds=1)


@dataclass(slots=True, eq=False)
class _Call:
    leaf: Leaf
    limit: asyncio.Timeout


class Certificates:
    """All certificates of our CA that this controller knows of."""

    def __init__(
        self,
        ca: pki.CA,
        store: Store,
        log: Log,
        later: Later,
    ) -> None:
        """``later`` writes to the store behind the back of what must not wait for a disk."""
        self._ca = ca
        self._store = store
        self._log = log
        self._later = later
        self._known: dict[Identity, dict[str, Leaf]] = {}
        self._revoked: dict[str, Revocation] = {}  # by identity or serial number
        self._revoking: set[Identity] = set()  # while that is being written
        self._calls: set[_Call] = set()
        self._renewals = Buckets(RENEWALS_PER_S, RENEWAL_BURST)

    async def load(self) -> None:
        """Take over what a former controller knew."""
        for leaf in await self._store.certificates(clock.utc() - KEEP):
            self._remember(leaf)
        self._revoked = {found.subject: found for found in await self._store.revocations()}

    # ── what holds ────────────────────────────────────────────────────────────────────────

    def revocation(self, leaf: Leaf) -> Revocation | None:
        """By whom, when and why this certificate was revoked, if it was."""
        own = self._revoked.get(leaf.serial)
        if own is not None:
            return own
        issued = self._known.get(leaf.identity, {}).get(leaf.serial, leaf).issued
        whole = self._revoked.get(str(leaf.identity))
        return whole if whole is not None and issued <= whole.at else None

    def check(self, leaf: Leaf) -> None:
        """Raise Revoked or NotPermitted unless this certificate may be used now.

        TLS looks at the dates too, but only when a connection begins.
        """
        revoked = self.revocation(leaf)
        again = f"if it is to come back: chaosctl pki token {leaf.identity}, enrol --replace"
        if revoked is not None:
            raise Revoked(
                f"the certificate of {leaf.identity} was revoked by {revoked.actor}"
                f" on {clock.rfc3339(revoked.at)}: {revoked.reason}",
                hint=again,
            )
        if leaf.expires <= clock.utc():
            raise NotPermitted(
                f"the certificate of {leaf.identity} expired on {clock.rfc3339(leaf.expires)}",
                hint=again,
            )

    def newest(self, identity: Identity) -> Leaf | None:
        """The certificate of somebody that holds longest; None when none does."""
        known = self._known.get(identity, {}).values()
        now = clock.utc()
        holding = [leaf for leaf in known if leaf.expires > now and not self.revocation(leaf)]
        return max(holding, key=lambda leaf: leaf.expires, default=None)

    def knows(self, identity: Identity) -> bool:
        """Whether it was issued a certificate, or has shown one, in the last weeks."""
        return identity in self._known

    @asynccontextmanager
    async def used(self, leaf: Leaf) -> AsyncIterator[None]:
        """Run the block for as long as the certificate holds; raises what ``check`` does.

        A certificate that was renewed holds for as long as its successor: that is how a
        stream outlives the certificate that it was opened with.
        """
        self.check(leaf)
        if leaf.serial not in self._known.get(leaf.identity, {}):
            self._remember(leaf)
            self._later(partial(self._store.add_certificate, leaf))
        limit = asyncio.timeout(None)
        call = _Call(leaf, limit)
        try:
            async with limit:
                self._calls.add(call)
                yield
        except TimeoutError:
            if limit.expired():
                self.check(leaf)
                raise NotPermitted(f"the certificate of {leaf.identity} did not hold") from None
            raise
        finally:
            self._calls.discard(call)

    async def tick(self) -> None:
        """End what goes on under certificates that have expired, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._end_what_does_not_hold()

    def _end_what_does_not_hold(self) -> int:
        now, loop = clock.utc(), asyncio.get_running_loop()
        over = [
            call
            for call in self._calls
            if self.revocation(call.leaf)
            or (call.leaf.expires <= now and self.newest(call.leaf.identity) is None)
        ]
        for call in over:
            self._calls.discard(call)
            self._log.warning("ended: its certificate does not hold", who=call.leaf.identity)
            call.limit.reschedule(loop.time())
        return len(over)

    # ── issuing ───────────────────────────────────────────────────────────────────────────

    async def enrol(self, digest: str, csr: bytes, peer: str) -> tuple[Identity, bytes]:
        """Trade a token for a certificate. Raises NotPermitted when the token is no good."""
        leaf, pem = await self._store.spend_token(digest, partial(self._issue, csr), peer)
        self._remember(leaf)
        return leaf.identity, pem

    async def renew(self, holder: Leaf, csr: bytes) -> bytes:
        """A certificate for another key in the name and role of ``holder``."""
        if not self._renewals.take(holder.identity, clock.now()):
            raise Refused("too many renewals", where=str(holder.identity), hint="wait a minute")

        def issue() -> Issued:
            self.check(holder)  # once more: it may have been revoked while we waited
            return self._issue(csr, holder.identity)

        leaf, pem = await self._store.renew_certificate(holder, issue)
        self._remember(leaf)
        self._log.info("certificate renewed", who=leaf.identity, serial=leaf.serial)
        return pem

    def _issue(self, csr: bytes, identity: Identity) -> Issued:
        if identity in self._revoking:  # by a token that the revocation is about to void
            raise Refused(f"{identity} is being revoked", hint="ask for a new token")
        pem = self._ca.sign_request(csr, identity)
        issued, revoked = clock.utc(), self._revoked.get(str(identity))
        if revoked is not None:  # also when the clock was set back since
            issued = max(issued, revoked.at + _MOMENT)
        # To the millisecond, which the certificate itself does not say.
        return replace(pki.leaf_of(pem), issued=issued), pem

    def _remember(self, leaf: Leaf) -> None:
        known = self._known.setdefault(leaf.identity, {})
        known[leaf.serial] = leaf
        for old in [old for old in known.values() if old.expires < clock.utc() - KEEP]:
            del known[old.serial]

    # ── revoking ──────────────────────────────────────────────────────────────────────────

    def listed(self) -> list[tuple[Leaf, Revocation | None]]:
        """Every certificate that is known, those that were issued last at the end."""
        found = [leaf for leaves in self._known.values() for leaf in leaves.values()]
        found.sort(key=lambda leaf: leaf.issued)
        return [(leaf, self.revocation(leaf)) for leaf in found]

    def resolve(self, text: str, also: set[Identity]) -> Identity | str:
        """The identity or serial number that ``text`` stands for. Raises InvalidInput.

        ``also`` are identities that exist without a certificate that we know.
        """
        everybody = {*self._known, *also}
        if "/" in text:
            identity = Identity.parse(text)
            matching = [identity] if identity in everybody else []
        else:
            matching = [identity for identity in everybody if identity.name == text]
        serials = [
            serial
            for leaves in self._known.values()
            for serial in leaves
            if len(text) >= _MIN_PREFIX and serial.startswith(text.lower())
        ]
        found: list[Identity | str] = [*matching, *serials]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(map(str, found))
            raise InvalidInput(f"{text!r} can mean {several}", hint="give one of them in full")
        names = dict.fromkeys(sorted(map(str, everybody)))
        raise InvalidInput(
            f"no certificate of {text!r} is known",
            hint=f"{nearest(text, names)}; chaosctl pki list; a serial number needs"
            f" {_MIN_PREFIX} digits or more",
        )

    def _holder(self, serial: str) -> Identity:
        return next(who for who, leaves in self._known.items() if serial in leaves)

    async def revoke(
        self, by: Leaf, subject: Identity | str, reason: str, *, forget: bool = False
    ) -> tuple[list[Leaf], int]:
        """Revoke; returns which certificates that were good are not any more, and the calls ended.

        In force before it is written: a disk that hangs does not keep a thief inside.
        ``forget`` also removes the node of that name from the store.
        """
        self.check(by)  # two operators who revoke each other: the first one wins
        if subject in (by.serial, by.identity):
            raise Refused(
                f"{subject} is what you are calling with",
                hint="let another operator do it; another certificate of yours: by its serial",
            )
        whose = subject if isinstance(subject, Identity) else self._holder(subject)
        theirs = self._known.get(whose, {}).values()
        at = max([clock.utc(), *(leaf.issued for leaf in theirs)])
        revocation = Revocation(str(subject), at, str(by.identity), reason)
        good = [leaf for leaf, revoked in self.listed() if revoked is None]
        was = self._revoked.get(revocation.subject)
        self._revoked[revocation.subject] = revocation
        self._revoking.add(whose)
        ended = self._end_what_does_not_hold()
        try:
            await self._store.revoke(revocation, whose, forget=forget)
        except ChaosError:
            # Only what is on disk is promised. What was ended may dial again.
            if was is None:
                del self._revoked[revocation.subject]
            else:
                self._revoked[revocation.subject] = was
            raise
        finally:
            self._revoking.discard(whose)
        self._log.warning("revoked", subject=subject, by=by.identity, why=reason, ended=ended)
        return [leaf for leaf in good if self.revocation(leaf)], ended
