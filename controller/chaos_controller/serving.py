"""The controller's own certificate: in memory only, and new before the last one is old.

Each handshake asks for it (``grpc.dynamic_ssl_server_credentials``), so nothing has
to be restarted and no stream notices. The key is on no disk and in no backup.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import grpc

from chaos_controller import clock
from chaos_core.log import Log
from chaos_proto import pki

# A private key and the chain of its certificate, PEM.
_Pair = tuple[bytes, bytes]


class ServerCertificate:
    """Issues and serves it. Safe to call from any thread: gRPC's own ask."""

    def __init__(self, ca: pki.CA, names: Collection[str], log: Log) -> None:
        self._ca = ca
        self._names = names
        self._log = log
        self._lock = threading.Lock()
        self._pair, self.leaf = self._issue()

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """For a port on which clients must show a certificate of our CA, or for one without."""
        roots = self._ca.pem if mutual else None
        served = self._current()

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            current = self._current()
            if current is served:
                return None
            served = current
            return grpc.ssl_server_certificate_configuration([current], roots)

        first = grpc.ssl_server_certificate_configuration([served], roots)
        return grpc.dynamic_ssl_server_credentials(
            first,
            newer,  # type: ignore[arg-type]  # None means no change, which the stubs do not know
            require_client_authentication=mutual,
        )

    def _current(self) -> _Pair:
        with self._lock:
            # Above 1: the clock was set back to before it was issued.
            if not pki.RENEW_LEFT < self.leaf.left(clock.utc()) <= 1:
                self._pair, self.leaf = self._issue()
            return self._pair

    def _issue(self) -> tuple[_Pair, pki.Leaf]:
        key, certificate = self._ca.controller(self._names)
        leaf = pki.leaf_of(certificate)
        expires = f"{leaf.expires:%Y-%m-%d %H:%M}"
        self._log.info("own certificate", serial=leaf.serial, expires=expires)
        # With the CA, so that newcomers can compare it with the hash that they were given.
        return (key, certificate + self._ca.pem), leaf
