"""The project's own certificate authority: one CA, short-lived P-256 certificates.

What it promises: the issuer decides who somebody is, from the token that they
hold, and never from what their request says; agents, operators and viewers get
certificates that cannot serve; keys never leave the machine they were made on.

On disk::

    <dir>/ca.pem ca.key                   the CA, on the controller's machine, by ``init``
    <dir>/controller.names                what the controller is reached by, one name a line
    <dir>/operator/<name>/identity.pem    the first operator's, by ``init``
    <dir>/identity.pem                    anybody's who has enrolled (credentials.py)

The controller's own key is on no disk: it issues itself a certificate when it starts
and whenever the last one has grown old.

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
    "Leaf",
    "ca_hash",
    "check_request",
    "hash_der",
    "identity_of",
    "init",
    "issue_operator",
    "leaf_of",
    "new_key_and_csr",
    "read_names",
]

LEAF_VALIDITY: Final = dt.timedelta(days=90)
# Renewed by its holder alone, in memory: it costs nothing to have a new one each few days.
CONTROLLER_VALIDITY: Final = dt.timedelta(days=7)
CA_VALIDITY: Final = dt.timedelta(days=3650)
# Who may read the controller's keys beside root, where that group exists.
GROUP: Final = "chaos"

CA_CERT, CA_KEY, NAMES = "ca.pem", "ca.key", "controller.names"
IDENTITY = "identity.pem"
# A certificate is renewed by the time when this share of its life is left.
RENEW_LEFT: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Initialised:
    """What ``init`` has made. ``operator`` is a directory for ``channel.dial``."""

    directory: Path
    operator: Path
    ca_hash: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """What decides about a certificate: whose it is, its serial number (hex), from when to when."""

    identity: Identity
    serial: str
    issued: dt.datetime
    expires: dt.datetime

    def left(self, now: dt.datetime) -> float:
        """The share of its life that is still to come; below 0 once it has expired."""
        return (self.expires - now) / (self.expires - self.issued)

    def old_at(self, left: float = RENEW_LEFT) -> dt.datetime:
        """When only this share of its life is left."""
        return self.expires - left * (self.expires - self.issued)


@dataclass(frozen=True, slots=True)
class CA:
    """An issuer: its certificate and key, and how long what it issues to others is valid."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    life: dt.timedelta = LEAF_VALIDITY

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
    def load(cls, directory: Path, life: dt.timedelta = LEAF_VALIDITY) -> CA:
        """Read ``ca.pem`` and ``ca.key``. Raises InvalidInput naming the file."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        hint = "make one with: chaosctl pki init"
        where = directory / CA_CERT
        certificate = parse(files.read(where, hint), str(where))
        check_validity(str(where), certificate)
        path = directory / CA_KEY
        try:
            key = serialization.load_pem_private_key(files.read_key(path, hint), password=None)
        except (ValueError, TypeError):
            raise InvalidInput("not a private key in PEM", where=str(path)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidInput("not a P-256 key", where=str(path))
        if key.public_key() != certificate.public_key():
            raise InvalidInput(f"does not belong to {CA_CERT}", where=str(path))
        return cls(certificate, key, life)

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
        return x.pem(self._issue(x.public_key_of(csr_pem), identity, (), self.life))

    def controller(self, names: Collection[str]) -> tuple[bytes, bytes]:
        """New key and certificate, PEM, of a controller that is reached under ``names``."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        life = min(self.life, CONTROLLER_VALIDITY)
        issued = self._issue(key.public_key(), Identity("controller"), names, life)
        return x.key_pem(key), x.pem(issued)

    def _issue(
        self,
        public_key: x.PublicKey,
        identity: Identity,
        names: Collection[str],
        life: dt.timedelta,
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

        serves = identity.role == "controller"
        uses = [Eku.CLIENT_AUTH, *([Eku.SERVER_AUTH] if serves else [])]
        alternatives = [x509.UniformResourceIdentifier(identity.uri), *map(x.general_name, names)]
        subject, issuer = x.name(str(identity)), self.certificate.subject
        builder = (
            x.builder(subject, issuer, public_key, self.key.public_key(), life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x.usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        )
        return x.sign(builder, self.key)


def init(directory: Path, *, names: Collection[str], operator: str = "admin") -> Initialised:
    """Make the CA, the list of the controller's names and the first operator's identity.

    ``names`` are the DNS names and IP addresses under which agents and operators
    reach the controller. As root, where the group ``chaos`` exists, the CA's key
    becomes root:chaos 0640; else all keys are 0600. Raises InvalidInput when
    there is a PKI already, or when it cannot be written; nothing is overwritten.
    """
    directory = Path(directory)
    Identity("operator", operator)
    if not names:
        raise InvalidInput("a controller needs at least one name", hint="--name controller.example")
    for name in names:
        x.general_name(name)
    _refuse_existing(directory, (CA_CERT, CA_KEY, NAMES))
    _refuse_existing(directory / "operator" / operator, (IDENTITY,))
    ca = CA.create()
    gid = _group()
    mode = files.PRIVATE if gid < 0 else 0o640
    make_directory(directory, gid=gid, mode=0o700 if gid < 0 else 0o750)
    files.write(directory / CA_KEY, x.key_pem(ca.key), mode, gid=gid)
    files.write(directory / CA_CERT, ca.pem)
    files.write(directory / NAMES, "".join(f"{name}\n" for name in names).encode())
    return Initialised(directory, issue_operator(directory, operator), ca.hash)


def issue_operator(directory: Path, name: str, *, replace: bool = False) -> Path:
    """Make an operator's identity with the CA's own key, and return where it is.

    For the first operator, and for the day on which no operator is left who could
    make a token. Raises InvalidInput; overwrites nothing unless told to.
    """
    from chaos_proto.credentials import Credentials

    identity = Identity("operator", name)
    ca = CA.load(directory)
    home = directory / "operator" / name
    if not replace:
        _refuse_existing(home, (IDENTITY,))
    make_directory(home.parent, gid=_group(), mode=0o750)
    make_directory(home)
    key, request = new_key_and_csr(identity)
    Credentials(key, ca.sign_request(request, identity), ca.pem).write(home)
    return home


def read_names(directory: Path) -> tuple[str, ...]:
    """What the controller is reached by. Raises InvalidInput with file and line."""
    path = directory / NAMES
    hint = "write there the DNS names and addresses of this controller, one a line"
    lines = files.read(path, hint).decode("utf-8", "replace").splitlines()
    names = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, name in names:
        try:
            x.general_name(name)
        except InvalidInput as error:
            raise InvalidInput(error.what, where=f"{path}:{number}", hint=hint) from None
    if not names:
        raise InvalidInput("it names nothing", where=str(path), hint=hint)
    return tuple(name for _, name in names)


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
    return leaf_of(pem).identity


def leaf_of(pem: bytes) -> Leaf:
    """What a certificate says. Raises InvalidInput unless it names exactly one identity."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        raise InvalidInput("the certificate names nobody") from None
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidInput("the certificate must name exactly one identity")
    return Leaf(
        Identity.from_uri(uris[0]),
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc + x.CLOCK_SKEW,
        certificate.not_valid_after_utc,
    )


def parse(pem: bytes, where: str) -> x509.Certificate:
    """Read one certificate. Raises InvalidInput naming where it was."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise InvalidInput("not a certificate in PEM", where=where) from None


def check_validity(
    where: str, certificate: x509.Certificate, now: dt.datetime | None = None
) -> None:
    """Raise InvalidInput when the certificate has expired or is not valid yet."""
    now = now or dt.datetime.now(dt.UTC)
    if now >= certificate.not_valid_after_utc:
        raise InvalidInput(
            f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            where=where,
            hint="enrol again with a new token: chaosctl pki token, then enrol with --replace",
        )
    if now < certificate.not_valid_before_utc:
        raise InvalidInput(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            where=where,
            hint="is this machine's clock right?",
        )


def make_directory(path: Path, *, uid: int = -1, gid: int = -1, mode: int = 0o700) -> None:
    """Make ``path``, for its owner alone unless told otherwise. An existing one stays."""
    try:
        if path.is_dir():
            return
        path.mkdir(parents=True, mode=0o700)
        os.chown(path, uid, gid)
        path.chmod(mode)
    except OSError as error:
        raise files.unwritable(path, error) from None


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
