"""The project's own certificate authority: one CA, short-lived P-256 certificates.

What it promises: the issuer decides who somebody is, from the token that they
hold, and never from what their request says; agents, operators and viewers get
certificates that cannot serve; keys never leave the machine they were made on.

On disk::

    <dir>/ca.pem ca.key controller.pem controller.key     the controller's, by ``init``
    <dir>/operator/<name>/{ca,cert,key}.pem               the first operator's, by ``init``
    <dir>/{ca,cert,key}.pem                               anybody who has enrolled

``cryptography`` is imported when first needed: it costs as much as the rest of a
command's start.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chaos_core.errors import InvalidInput
from chaos_proto import _x509 as x
from chaos_proto import files
from chaos_proto.identity import Identity

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "CA",
    "Identity",
    "Initialised",
    "ca_hash",
    "check_request",
    "hash_der",
    "identity_of",
    "init",
    "new_key_and_csr",
]

LEAF_VALIDITY: Final = dt.timedelta(days=90)
CA_VALIDITY: Final = dt.timedelta(days=3650)
# Who may read the controller's keys beside root, where that group exists.
GROUP: Final = "chaos"

CA_CERT, CA_KEY = "ca.pem", "ca.key"
CONTROLLER_CERT, CONTROLLER_KEY = "controller.pem", "controller.key"
CERT, KEY = "cert.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What ``init`` has made. ``operator`` is a directory for ``channel.dial``."""

    directory: Path
    operator: Path
    ca_hash: str


@dataclass(frozen=True, slots=True)
class CA:
    """An issuer: its certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls) -> CA:
        """A new self-signed CA that can issue leaves only."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x.name("chaos CA")
        builder = (
            x.builder(name, name, key.public_key(), key.public_key(), CA_VALIDITY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x.usage("key_cert_sign", "crl_sign"), critical=True)
        )
        return cls(x.sign(builder, key), key)

    @classmethod
    def load(cls, directory: Path) -> CA:
        """Read ``ca.pem`` and ``ca.key``. Raises InvalidInput naming the file."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        hint = "make one with: chaosctl pki init"
        certificate = load_certificate(directory / CA_CERT, hint)
        path = directory / CA_KEY
        try:
            key = serialization.load_pem_private_key(files.read(path, hint), password=None)
        except (ValueError, TypeError):
            raise InvalidInput("not a private key in PEM", where=str(path)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidInput("not a P-256 key", where=str(path))
        if key.public_key() != certificate.public_key():
            raise InvalidInput(f"does not belong to {CA_CERT}", where=str(path))
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        return x.pem(self.certificate)

    @property
    def hash(self) -> str:
        return ca_hash(self.pem)

    def sign_request(self, csr_pem: bytes, identity: Identity) -> bytes:
        """A certificate, PEM, for the key in the request and for ``identity``, not what it says.

        Raises InvalidInput unless the request is signed by its own key, which is
        P-256 or RSA of at least 2048 bits.
        """
        return x.pem(self._issue(x.public_key_of(csr_pem), identity, ()))

    def controller(self, names: Collection[str]) -> tuple[bytes, bytes]:
        """Key and certificate, PEM, of a controller that is reached under ``names``."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        return x.key_pem(key), x.pem(self._issue(key.public_key(), Identity("controller"), names))

    def _issue(
        self,
        public_key: x.PublicKey,
        identity: Identity,
        names: Collection[str],
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

        serves = identity.role == "controller"
        uses = [Eku.CLIENT_AUTH, *([Eku.SERVER_AUTH] if serves else [])]
        alternatives = [x509.UniformResourceIdentifier(identity.uri), *map(x.general_name, names)]
        subject, issuer = x.name(str(identity)), self.certificate.subject
        builder = (
            x.builder(subject, issuer, public_key, self.key.public_key(), LEAF_VALIDITY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x.usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        )
        return x.sign(builder, self.key)


def init(directory: Path, *, names: Collection[str], operator: str = "admin") -> Initialised:
    """Make the CA, the controller's certificate and the first operator's.

    ``names`` are the DNS names and IP addresses under which agents and operators
    reach the controller. As root, where the group ``chaos`` exists, the controller's
    keys become root:chaos 0640; else all keys are 0600. Raises InvalidInput when
    there is a PKI already, or when it cannot be written; nothing is overwritten.
    """
    directory = Path(directory)
    identity = Identity("operator", operator)
    if not names:
        raise InvalidInput("a controller needs at least one name", hint="--name controller.example")
    home = directory / "operator" / operator
    _refuse_existing(directory, (CA_CERT, CA_KEY, CONTROLLER_CERT, CONTROLLER_KEY))
    _refuse_existing(home, (CA_CERT, CERT, KEY))
    ca = CA.create()
    controller_key, controller = ca.controller(names)
    operator_key, request = new_key_and_csr(identity)
    gid = _group()
    mode = files.PRIVATE if gid < 0 else 0o640
    make_directory(directory, gid)
    files.write(directory / CA_KEY, ca_key_pem(ca), mode, gid)
    files.write(directory / CA_CERT, ca.pem)
    files.write(directory / CONTROLLER_KEY, controller_key, mode, gid)
    files.write(directory / CONTROLLER_CERT, controller)
    make_directory(home.parent, gid)
    make_directory(home)
    files.write(home / KEY, operator_key, files.PRIVATE)
    files.write(home / CA_CERT, ca.pem)
    files.write(home / CERT, ca.sign_request(request, identity))
    return Initialised(directory, home, ca.hash)


def new_key_and_csr(identity: Identity | None = None) -> tuple[bytes, bytes]:
    """A new P-256 key and a request signed with it, both PEM.

    The name in the request is for people who look at it; the issuer ignores it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x.name(str(identity or "enrolment"))
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return x.key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def check_request(csr_pem: bytes) -> None:
    """Raise InvalidInput unless ``sign_request`` would sign this."""
    x.public_key_of(csr_pem)


def ca_hash(pem: bytes | str) -> str:
    """``sha256:<hex>`` of the first certificate in ``pem``. Raises InvalidInput."""
    text = pem.decode("ascii", "replace") if isinstance(pem, bytes) else pem
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        der = ssl.PEM_cert_to_DER_cert(text[text.index(begin) : text.index(end) + len(end)])
    except ValueError:
        raise InvalidInput("not a certificate in PEM") from None
    return hash_der(der)


def hash_der(der: bytes) -> str:
    """``sha256:<hex>`` of a certificate in DER."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def identity_of(pem: bytes) -> Identity:
    """Whom a certificate names. Raises InvalidInput unless it has exactly one identity."""
    from cryptography import x509

    try:
        names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        raise InvalidInput("the certificate names nobody") from None
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidInput("the certificate must name exactly one identity")
    return Identity.from_uri(uris[0])


def load_certificate(path: Path, hint: str = "") -> x509.Certificate:
    """Read one certificate. Raises InvalidInput naming the file."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(files.read(path, hint))
    except ValueError:
        raise InvalidInput("not a certificate in PEM", where=str(path)) from None


def check_validity(path: Path, certificate: x509.Certificate) -> None:
    """Raise InvalidInput when the certificate has expired or is not valid yet."""
    now = dt.datetime.now(dt.UTC)
    if now >= certificate.not_valid_after_utc:
        raise InvalidInput(
            f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            where=str(path),
            hint="enrol again with a new token: chaosctl pki token",
        )
    if now < certificate.not_valid_before_utc:
        raise InvalidInput(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            where=str(path),
            hint="is this machine's clock right?",
        )


def make_directory(path: Path, gid: int = -1) -> None:
    """Make ``path`` for its owner alone (0700), or for a group too (0750). Existing ones stay."""
    try:
        if path.is_dir():
            return
        path.mkdir(parents=True, mode=0o700)
        if gid >= 0:
            os.chown(path, -1, gid)
            path.chmod(0o750)
    except OSError as error:
        raise files.unwritable(path, error) from None


def ca_key_pem(ca: CA) -> bytes:
    """The CA's private key, PEM, unencrypted: for ``ca.key`` alone."""
    return x.key_pem(ca.key)


# ── certificates ──────────────────────────────────────────────────────────────────────────


def _refuse_existing(directory: Path, names: Collection[str]) -> None:
    for path in (directory / name for name in names):
        if path.exists():
            raise InvalidInput(
                "already exists and is never overwritten",
                where=str(path),
                hint="choose another directory, or move the old one away",
            )


def _group() -> int:
    """The group that the controller runs as, or -1 when it does not exist or we may not chown."""
    import grp

    if os.geteuid() != 0:
        return -1
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return -1
