"""An identity as its holder keeps it: one file, replaced by one rename.

What it promises: a key never stands beside the certificate of another one, whatever
crashes at whichever moment, since both are in the same file, and the CA with them::

    <dir>/identity.pem     private key · certificate · CA certificate, all PEM

To move an operator to another machine is to copy that file. ``cryptography`` is
imported by ``check`` alone, which a command needs only when something is wrong.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chaos_core.errors import InvalidInput
from chaos_proto import files, pki

_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s.*?-----END \1-----", re.DOTALL)
_ENROL = "enrol this machine first: chaosctl pki enrol, or chaos-agent enrol on a node"
_AGAIN = "enrol again with a new token: chaosctl pki token, then enrol with --replace"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Who we are to the controller, PEM. ``where`` is the file, for messages."""

    key: bytes
    certificate: bytes
    ca: bytes
    where: str = ""

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Raises InvalidInput when the file cannot be read, is no identity, or is everybody's."""
        path = Path(directory) / pki.IDENTITY
        text = files.read_key(path, _ENROL)
        blocks = [(found[1], found[0]) for found in _BLOCK.finditer(text)]
        kinds = [kind.removeprefix(b"EC ").removeprefix(b"RSA ") for kind, _ in blocks]
        if kinds != [b"PRIVATE KEY", b"CERTIFICATE", b"CERTIFICATE"]:
            found = ", ".join(kind.decode().lower() for kind, _ in blocks) or "nothing of them"
            raise InvalidInput(
                f"not an identity: a private key, its certificate and the CA's are expected in"
                f" this order, and there is {found}",
                where=str(path),
                hint=_AGAIN,
            )
        (_, key), (_, certificate), (_, ca) = blocks
        return cls(key, certificate, ca, str(path))

    def write(self, directory: Path, *, uid: int = -1, gid: int = -1) -> None:
        """Put this in the place of what is there. Raises InvalidInput; then nothing changed."""
        whole = b"".join(part.rstrip() + b"\n" for part in (self.key, self.certificate, self.ca))
        files.write(Path(directory) / pki.IDENTITY, whole, files.PRIVATE, uid=uid, gid=gid)

    def check(self, now: dt.datetime | None = None) -> pki.Leaf:
        """Whom this names and until when. Raises InvalidInput when it cannot be used now."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization

        ca, certificate = (pki.parse(pem, self.where) for pem in (self.ca, self.certificate))
        pki.check_validity(self.where, ca, now)
        pki.check_validity(self.where, certificate, now)
        try:
            certificate.verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature):
            raise InvalidInput(
                "its certificate was not issued by the CA beside it", where=self.where, hint=_AGAIN
            ) from None
        try:
            key = serialization.load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):
            raise InvalidInput(
                "its private key is not one in PEM", where=self.where, hint=_AGAIN
            ) from None
        if key.public_key() != certificate.public_key():
            raise InvalidInput(
                "its private key does not belong to its certificate",
                where=self.where,
                hint=_AGAIN,
            )
        return pki.leaf_of(self.certificate)
