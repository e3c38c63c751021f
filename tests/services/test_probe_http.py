"""The ``http`` probe beside a server whose behaviour is known."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.services.web import Web, serving

from chaos_core.units import Duration
from chaos_experiment.probes import Probe
from chaos_experiment.probes._watch import once, watch
from chaos_experiment.probes.http import Http
from chaos_experiment.series import Observation, percentile


def clock() -> int:
    return time.monotonic_ns() // 1000


async def well(method: str, path: str) -> tuple[int, str]:
    del method, path
    return 200, "all is well"


async def watched(probe: Probe, seconds: float, settle: float = 0.2) -> list[Observation]:
    """All that was due in the first ``seconds``."""
    rows: list[Observation] = []
    task = asyncio.create_task(watch("shop", probe, rows.append, clock))
    await asyncio.sleep(seconds + settle)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    rows.sort(key=lambda row: row.at)
    return [row for row in rows if row.at < rows[0].at + seconds * 1e6]


async def test_coordinated_omission_is_avoided() -> None:
    """A server stands still for 1 s while 50 requests a second are due.

    A closed loop would show one slow request. All 50 that were due have waited, each for what
    was left of that second when it was due.
    """
    stood: list[int] = []
    stall = asyncio.Event()
    begun = asyncio.Event()
    rows: list[Observation] = []

    def emit(row: Observation) -> None:
        rows.append(row)
        begun.set()

    async def answer(_method: str, _path: str) -> tuple[int, str]:
        await stall.wait()
        return 200, ""

    async with serving(answer) as web:
        stall.set()
        load = asyncio.create_task(watch("shop", Http(url=web.url, rate=50), emit, clock))
        async with asyncio.timeout(10):
            await begun.wait()
        stall.clear()
        stood.append(clock())
        await asyncio.sleep(1)
        stood.append(clock())
        stall.set()
        await asyncio.sleep(0.5)
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
    due = [row for row in rows if stood[0] <= row.at < stood[1]]
    assert abs(len(due) - (stood[1] - stood[0]) / 20_000) <= 1
    over = []
    for row in due:
        assert row.ok
        assert row.value is not None
        assert row.value >= stood[1] - row.at  # it falls linearly, to the end of the stall
        over.append(row.value - (stood[1] - row.at))
    assert percentile(over, 0.9) < 300_000  # and is not just anything: this is how noisy we may be
    slow = [row for row in due if row.value is not None and row.value > 100_000]
    assert len(slow) >= 44


async def test_latency_is_the_servers() -> None:
    async def answer(_method: str, _path: str) -> tuple[int, str]:
        await asyncio.sleep(0.05)
        return 200, ""

    async with serving(answer) as web:
        rows = await watched(Http(url=web.url, rate=40), 0.5)
    values = [row.value for row in rows if row.value is not None]
    assert len(rows) == len(values) == 20
    assert min(values) >= 49_000
    assert percentile(values, 0.5) < 120_000
    assert web.connections < 20  # kept open


async def test_a_request_that_is_not_answered_in_time_has_failed() -> None:
    async def answer(_method: str, _path: str) -> tuple[int, str]:
        await asyncio.sleep(5)
        return 200, ""

    async with serving(answer) as web:
        probe = Http(url=web.url, rate=50, timeout=Duration.parse("100ms"))
        rows = await watched(probe, 0.4)
    assert len(rows) == 20
    assert {(row.ok, row.value, row.text) for row in rows} == {
        (False, None, "timed out after 100ms")
    }


async def test_what_is_sent_is_what_was_asked_for() -> None:
    async with serving(well) as web:
        probe = Http(
            url=f"{web.url}/cart?x=1", method="POST", body="{}", headers={"X-Team": "shop"}
        )
        seen = await once("shop", probe, clock)
    assert seen.ok
    ((first, headers, body),) = web.requests
    assert (first, headers["x-team"], body) == ("POST /cart?x=1 HTTP/1.1", "shop", "{}")
    assert headers["host"] == f"127.0.0.1:{web.port}"


@pytest.mark.parametrize(
    ("status", "fields", "ok", "text"),
    [
        (200, {}, True, "status 200"),
        (302, {}, True, "status 302"),
        (404, {}, False, "status 404"),
        (500, {}, False, "status 500"),
        (404, {"expect_status": [404, 410]}, True, "status 404"),
        (200, {"expect_status": 204}, False, "status 200"),
        (200, {"body_contains": "is well"}, True, "status 200"),
        (200, {"body_contains": "sick"}, False, "status 200, without 'sick' in the body"),
        (200, {"body_matches": "^all.*well$"}, True, "status 200"),
        (200, {"body_matches": "^well"}, False, "status 200, no match of '^well' in the body"),
    ],
)
async def test_a_good_answer(status: int, fields: dict[str, object], ok: bool, text: str) -> None:
    async def answer(_method: str, path: str) -> tuple[int, str]:
        return status, "all is well" if path == "/" else "elsewhere"

    async with serving(answer) as web:
        seen = await once("shop", Http.model_validate({"url": web.url + "/", **fields}), clock)
    assert (seen.ok, seen.text) == (ok, text)
    assert (seen.value is not None) == ok
    assert len(web.requests) == 1  # no redirect was followed


async def test_why_there_is_no_answer() -> None:
    async def said(url: str, **fields: object) -> str:
        seen = await once("shop", Http.model_validate({"url": url, **fields}), clock)
        assert (seen.ok, seen.value) == (False, None)
        return seen.text

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(silent, "127.0.0.1", 0) as closes,
        await asyncio.start_server(babble, "127.0.0.1", 0) as babbles,
    ):
        port = closes.sockets[0].getsockname()[1]
        assert "disconnected" in await said(f"http://127.0.0.1:{port}/")
        assert await said(f"http://127.0.0.1:{babbles.sockets[0].getsockname()[1]}/")
    assert await said(f"http://127.0.0.1:{port}/") == "connection refused"
    assert (await said("http://no.such.name.invalid/")).startswith("name not resolved")
    nowhere = await said("https://127.0.0.1:1/", ca_file="/nowhere")
    assert nowhere == "/nowhere: no such file"


async def test_certificates_must_be_trusted(tmp_path: Path) -> None:
    certificate, context = self_signed(tmp_path)
    async with serving(well, tls=context) as web:
        url = f"https://127.0.0.1:{web.port}/"
        distrusted = await once("shop", Http(url=url), clock)
        trusted = await once("shop", Http(url=url, ca_file=certificate), clock)
        ignored = await once("shop", Http(url=url, verify=False), clock)
    assert distrusted.text.startswith("certificate not trusted")
    assert [row.text for row in (trusted, ignored)] == ["status 200"] * 2


def self_signed(where: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that vouches for itself, and a server that has it."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path, private = where / "cert.pem", where / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, private)
    return path, context


def files_open() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_nothing_is_left_open_whenever_it_is_cancelled() -> None:
    async def answer(_method: str, _path: str) -> tuple[int, str]:
        await asyncio.sleep(0.03)
        return 200, "x" * 100_000

    async def held(web: Web) -> int:
        for _ in range(200):  # the server hears of it a little later
            if not web.open:
                break
            await asyncio.sleep(0.01)
        return len(web.open)

    await watched(Http(url="http://127.0.0.1:1/"), 0.1)  # loads what stays
    tasks, files = asyncio.all_tasks(), files_open()
    async with serving(answer) as web:
        for seconds in (0.05, 0.06, 0.17):
            await watched(
                Http(url=web.url, rate=200, timeout=Duration.parse("40ms")), seconds, settle=0
            )
            assert await held(web) == 0
    assert asyncio.all_tasks() == tasks
    assert files_open() == files


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "shop:8080"}, "is not a URL"),
        ({"url": "ftp://shop/"}, "is not a URL"),
        ({"url": "http://me:pw@shop/"}, "a scenario holds no password"),
        ({"url": "http://shop/", "rate": 0}, "greater than or equal to 0.1"),
        ({"url": "http://shop/", "interval": "1s"}, "write rate"),
        ({"url": "http://shop/", "retries": 1}, "hides its failures"),
        ({"url": "http://shop/", "rate": 1000, "timeout": "30s"}, "more than 10000"),
        ({"url": "http://shop/", "body_matches": "("}, "not a regular expression"),
        ({"url": "http://shop/", "headers": {"a": "b\r\nc: d"}}, "printable ASCII"),
        ({"url": "http://shop/", "expect_status": [7]}, "greater than or equal to 100"),
    ],
)
def test_parameters_that_make_no_sense(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Http.model_validate(fields)


def test_the_host_it_talks_to() -> None:
    assert Http(url="http://shop:80/x").hosts() == ("shop",)
    assert Http(url="https://[fd00::1]:8443/").hosts() == ("fd00::1",)
