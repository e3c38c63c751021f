"""The PKI: who issues what to whom, what is on disk, and what is refused."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from chaos_core import errors
from chaos_core.errors import InvalidInput
from chaos_proto import address, channel, pki
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity

AGENT = Identity("agent", "n1")


@pytest.fixture(scope="module")
def ca() -> pki.CA:
    return pki.CA.create()


def issue(ca: pki.CA, identity: Identity = AGENT) -> x509.Certificate:
    _, request = pki.new_key_and_csr()
    return x509.load_pem_x509_certificate(ca.sign_request(request, identity))


def test_init_makes_what_a_controller_and_its_first_operator_need(tmp_path: Path) -> None:
    made = pki.init(tmp_path / "pki", names=["127.0.0.1", "c.example"], operator="ann")
    assert (tmp_path / "pki/ca.key").stat().st_mode & 0o007 == 0
    assert (made.operator / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert Credentials.read(made.operator).check().identity == Identity("operator", "ann")
    ca = pki.CA.load(made.directory)
    assert made.ca_hash == pki.ca_hash((made.directory / "ca.pem").read_text()) == ca.hash
    _, controller = ca.controller(pki.read_names(made.directory))
    assert pki.identity_of(controller) == Identity("controller")
    names = x509.load_pem_x509_certificate(controller).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["c.example"]
    channel.diagnose(made.operator)


def test_init_never_overwrites(tmp_path: Path) -> None:
    pki.init(tmp_path, names=["c"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput, match="never overwritten"):
        pki.init(tmp_path, names=["c"])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("names", [[], ["a b"], ["ünicode"], ["a/b"]])
def test_init_with_bad_names_writes_nothing(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InvalidInput):
        pki.init(tmp_path / "pki", names=names)
    assert not (tmp_path / "pki").exists()


def test_the_issuer_decides_the_identity_and_not_the_request(ca: pki.CA) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controller")])
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("chaos://operator/root")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    pem = ca.sign_request(greedy, AGENT)
    assert pki.identity_of(pem) == AGENT
    issued = x509.load_pem_x509_certificate(pem).extensions
    assert not issued.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_leaf_can_do_no_more_than_it_must(ca: pki.CA) -> None:
    leaf = issue(ca)
    use = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(use) == [Eku.CLIENT_AUTH]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    now = dt.datetime.now(dt.UTC)
    assert leaf.not_valid_before_utc < now - dt.timedelta(minutes=4)
    assert leaf.not_valid_after_utc < now + dt.timedelta(days=91)
    leaf.verify_directly_issued_by(ca.certificate)


def test_weak_or_broken_requests_are_refused(ca: pki.CA) -> None:
    def request(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
        builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(InvalidInput, match="weak"):
        ca.sign_request(request(rsa.generate_private_key(65537, 1024)), AGENT)  # noqa: S505
    with pytest.raises(InvalidInput, match="weak"):
        ca.sign_request(request(ec.generate_private_key(ec.SECP384R1())), AGENT)
    with pytest.raises(InvalidInput, match="PEM"):
        ca.sign_request(b"nonsense", AGENT)
    forged = bytearray(
        x509.load_pem_x509_csr(pki.new_key_and_csr()[1]).public_bytes(serialization.Encoding.DER)
    )
    forged[-1] ^= 1
    with pytest.raises(InvalidInput):
        ca.sign_request(_pem_csr(bytes(forged)), AGENT)
    assert ca.sign_request(request(rsa.generate_private_key(65537, 2048)), AGENT)


def _pem_csr(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()


@pytest.mark.parametrize(
    "text", ["", "agent", "agent/", "agent/N1", "agent/-a", "root/x", "agent/a/b", "controller/x"]
)
def test_identities_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        Identity.parse(text)


def test_identities_round_trip() -> None:
    for text in ("agent/n1", "operator/ann", "viewer/a-b", "controller"):
        assert str(Identity.parse(text)) == text
        assert Identity.from_uri(f"chaos://{text}") == Identity.parse(text)
    with pytest.raises(InvalidInput):
        Identity.from_uri("spiffe://agent/n1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c.example", ("c.example", 7400)),
        ("c.example:1", ("c.example", 1)),
        ("10.0.0.1", ("10.0.0.1", 7400)),
        ("10.0.0.1:8", ("10.0.0.1", 8)),
        ("::1", ("::1", 7400)),
        ("[::1]:9", ("::1", 9)),
        ("[fe80::2]", ("fe80::2", 7400)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address.split(text) == expected
    assert address.split(address.join(*expected)) == expected


@pytest.mark.parametrize("text", ["", ":1", "a:b", "a:0", "a:99999", "http://a", "a b:1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        address.split(text)


def test_diagnose_names_what_is_wrong_with_the_files(tmp_path: Path) -> None:
    here = tmp_path / "identity.pem"
    with pytest.raises(InvalidInput, match=r"identity\.pem.*No such file"):
        channel.diagnose(tmp_path)
    ca, other = pki.CA.create(), pki.CA.create()
    good, theirs = identity(ca), identity(other)
    broken = {
        "does not belong": replace(good, key=theirs.key),
        "not issued by": replace(good, ca=theirs.ca),
        "expired on": identity(replace(ca, life=dt.timedelta(seconds=-1))),
        "not a certificate in PEM": replace(good, certificate=damaged(good.certificate)),
        "not one in PEM": replace(good, key=damaged(good.key)),
        "there is certificate, certificate": replace(good, key=b""),
        "there is nothing": Credentials(b"", b"garbage", b""),
    }
    for says, credentials in broken.items():
        credentials.write(tmp_path)
        with pytest.raises(InvalidInput, match=says) as caught:
            channel.diagnose(tmp_path)
        assert caught.value.where == str(here)
    good.write(tmp_path)
    channel.diagnose(tmp_path)


def identity(ca: pki.CA) -> Credentials:
    key, request = pki.new_key_and_csr()
    return Credentials(key, ca.sign_request(request, AGENT), ca.pem)


def damaged(pem: bytes) -> bytes:
    return pem.replace(b"\nMI", b"\n!!", 1)


def test_a_certificate_is_not_valid_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos_proto._x509.CLOCK_SKEW", -dt.timedelta(minutes=10))
    early = identity(pki.CA.create())
    with pytest.raises(InvalidInput, match="is valid from") as caught:
        early.check()
    assert "clock" in caught.value.hint


def test_a_key_that_everybody_can_read_is_not_used(tmp_path: Path) -> None:
    made = pki.init(tmp_path, names=["c"])
    for path, use in (
        (made.operator / "identity.pem", lambda: channel.dial_sync("127.0.0.1", made.operator)),
        (tmp_path / "ca.key", lambda: pki.CA.load(tmp_path)),
    ):
        use()
        path.chmod(0o604)
        with pytest.raises(InvalidInput, match="everybody") as caught:
            use()
        assert caught.value.where == str(path)
        assert "chmod" in caught.value.hint


def test_dialling_without_an_identity_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="enrol this machine first"):
        channel.dial_sync("127.0.0.1", tmp_path)


@pytest.mark.parametrize("cls", [errors.InvalidInput, errors.Latched, errors.NodeUnreachable])
def test_errors_keep_their_class_text_place_and_hint_on_the_wire(
    cls: type[errors.ChaosError],
) -> None:
    sent = cls("50µs is too fine", where="n1", hint="→ 1ms")
    _, details, metadata = channel.status_of(sent)
    received = errors.from_code(
        str(metadata[0][1]),
        details,
        where=bytes(metadata[1][1]).decode(),  # type: ignore[arg-type]
        hint=bytes(metadata[2][1]).decode(),  # type: ignore[arg-type]
    )
    assert type(received) is cls
    assert str(received) == str(sent)
