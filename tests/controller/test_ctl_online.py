"""chaosctl against a scripted controller over mutual TLS: what is shown, and the exit codes."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from chaos_controller.config import Config
from chaos_controller.server import Controller
from chaos_core import errors
from chaos_core.errors import ChaosError, Exit
from chaos_core.log import Log
from chaos_proto import channel, pki
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc
from chaosctl.commands import control
from chaosctl.main import main

import grpc  # isort: skip

THEN, LATER = "2026-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z"
LATENCY = ["inject", "network.latency", "-n", "n1", "peers=10.0.0.2", "delay=50ms", "--for", "60s"]


class Scripted(rpc.OperatorServicer):
    """Answers as a test has told it to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: ChaosError | None = None
        self.events: list[pb.RunEvent] = []
        self.aborts: list[pb.AbortEvent] = []
        self.nodes = pb.ListNodesResponse()
        self.nodes_before: list[pb.ListNodesResponse] = []
        self.certificates = [
            pb.Certificate(identity="agent/n1", serial="5e" * 20, issued=THEN, expires=LATER),
            pb.Certificate(
                identity="operator/eve",
                serial="ab" * 20,
                issued=THEN,
                expires=LATER,
                revoked=THEN,
                revoked_by="operator/ann",
                reason="lost",
            ),
        ]
        self.pause = 0.0
        self.watched: list[Any] = []  # if not the same as for those who began it
        self.record = ""
        self.hang = threading.Event()
        self.hang.set()

    def _ask(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        if self.error is not None:
            status, details, metadata = channel.status_of(self.error)
            context.set_trailing_metadata(metadata)
            context.abort(status, details)

    def ListNodes(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return self.nodes_before.pop(0) if self.nodes_before else self.nodes

    def Inject(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        yield from self.events
        self.hang.wait(10)
        time.sleep(self.pause)

    def Experiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        yield from self.events
        self.hang.wait(10)

    def End(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.EndResponse()

    def GetRecord(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        for start in range(0, len(self.record), 10_000):
            yield pb.RecordPart(json=self.record[start : start + 10_000])

    def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        yield from self.watched or self.events

    def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        yield from self.aborts

    def Resume(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.ResumeResponse(was=pb.Latch(set=True, actor="operator/ann", reason="smoke"))

    def ListRuns(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.ListRunsResponse(runs=[RUN])

    def GetRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.GetRunResponse(run=RUN, events=story("held"))

    def CreateToken(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.CreateTokenResponse(token="t0ken", ca_hash="sha256:00", expires="later")

    def ReleaseNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.ReleaseNodeResponse(was=["fault 0a1b2c3d: + links: chs-x"])

    def ForgetNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.ForgetNodeResponse(seen="2026-01-01T00:00:00.000Z")

    def ListCertificates(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.ListCertificatesResponse(certificates=self.certificates)

    def Revoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        return pb.RevokeResponse(subject="agent/n1", certificates=self.certificates[:1], ended=1)

    def ListAudit(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._ask(request, context)
        yield from ()


RUN = pb.Run(
    id="r-1",
    kind="cpu.stress",
    params='{"percent":"5%"}',
    nodes=["n1"],
    duration_us=60_000_000,
    phase="verdict",
    verdict="held",
    actor="operator/ann",
    started="2026-01-01T00:00:00Z",
)


def story(verdict: str) -> list[pb.RunEvent]:
    lines = [("created", "", "created"), ("phase", "inject", "applying to n1")]
    lines += [("phase", "observe", "in force, read back from the kernel")]
    told = [
        pb.RunEvent(run="r-1", number=n, at_us=n * 65_000_000, event=event, phase=phase, text=text)
        for n, (event, phase, text) in enumerate(lines)
    ]
    if verdict:
        told.append(pb.RunEvent(run="r-1", number=9, event="verdict", text="why", verdict=verdict))
    return told


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> pki.Initialised:
    directory = tmp_path_factory.mktemp("controller") / "pki"
    return pki.init(directory, names=["localhost", "127.0.0.1"])


@pytest.fixture
def controller(
    identity: pki.Initialised, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Scripted]:
    """A scripted controller that chaosctl finds through its environment."""
    script = Scripted()
    server = grpc.server(ThreadPoolExecutor(4))
    home = identity.directory
    ca = pki.CA.load(home)
    pair = ca.controller(["localhost", "127.0.0.1"])
    credentials = grpc.ssl_server_credentials([pair], ca.pem, require_client_auth=True)
    rpc.add_OperatorServicer_to_server(script, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CHAOSCTL_CONTROLLER", f"127.0.0.1:{port}")
    monkeypatch.setenv("CHAOSCTL_PKI", str(identity.operator))
    yield script
    script.hang.set()
    server.stop(0).wait()


Capture = pytest.CaptureFixture[str]


# ── inject ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        ("held", Exit.DONE),
        ("failed", Exit.FAILED),
        ("interrupted", Exit.FAILED),
        ("refused", Exit.REFUSED),
        ("aborted", Exit.ABORTED),
        ("no_effect", Exit.NO_EFFECT),
        ("unheard-of", Exit.FAILED),
    ],
)
def test_the_exit_code_is_the_verdict(
    verdict: str, code: Exit, controller: Scripted, capsys: Capture
) -> None:
    controller.events = story(verdict)
    assert main(LATENCY) == code
    shown = capsys.readouterr().out
    assert "T+1:05  inject " in shown
    assert shown.splitlines()[-1] == f"run r-1: {verdict}"


def test_what_is_sent_is_canonical(controller: Scripted) -> None:
    controller.events = story("held")
    main([*LATENCY, "-n", "n2", "-n", "n1", "--reason", "game day"])
    (request,) = controller.asked
    assert request.kind == "network.latency"
    assert request.params == '{"delay":"50ms","peers":["10.0.0.2/32"]}'
    assert list(request.nodes) == ["n1", "n2"]
    assert (request.duration_us, request.reason) == (60_000_000, "game day")


def test_json_is_one_event_a_line(controller: Scripted, capsys: Capture) -> None:
    controller.events = story("failed")
    assert main([*LATENCY, "-o", "json"]) == Exit.FAILED
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["phase"] for event in events] == ["", "inject", "observe", ""]
    assert events[-1]["verdict"] == "failed"


def test_a_risky_kind_starts_with_yes(controller: Scripted) -> None:
    controller.events = story("held")
    words = ["inject", "network.partition", "-n", "n1", "peers=10.0.0.2", "--for", "5s"]
    assert main(words) == Exit.INVALID
    assert not controller.asked
    assert main([*words, "--yes"]) == Exit.DONE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EnvelopeExceeded("2 nodes at once"), Exit.REFUSED),
        (errors.Latched("an abort is in force", hint="chaosctl resume"), Exit.REFUSED),
        (errors.NotPermitted("viewer/bob may not"), Exit.REFUSED),
        (errors.InvalidInput("unknown node 'n9'", hint="did you mean 'n1'?"), Exit.INVALID),
        (errors.NodeUnreachable("no session with n1"), Exit.NODE_UNREACHABLE),
    ],
)
def test_an_error_of_the_controller_is_ours_with_its_exit_code(
    error: ChaosError, code: Exit, controller: Scripted, capsys: Capture
) -> None:
    controller.error = error
    assert main(LATENCY) == code
    assert capsys.readouterr().err == f"error: {error}\n"
    assert main([*LATENCY, "-o", "json"]) == code
    assert json.loads(capsys.readouterr().err)["error"] == error.what


def test_a_controller_that_is_lost_before_the_verdict_is_5(
    controller: Scripted, capsys: Capture
) -> None:
    controller.events = story("")
    assert main(LATENCY) == Exit.CONTROLLER_UNREACHABLE
    shown = capsys.readouterr().err
    assert "lost before the verdict of run r-1" in shown
    assert "ends by its lease" in shown


def test_ctrl_c_ends_nothing_and_says_so(controller: Scripted) -> None:
    controller.events = story("")
    controller.hang.clear()
    code = "import sys; from chaosctl.main import run; run()"
    client = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *LATENCY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert client.stdout is not None
    for line in client.stdout:
        if "observe" in line:
            break
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=10)
    assert client.returncode == 130
    assert "Run r-1 goes on until its duration is over" in said
    assert "chaosctl abort" in said
    assert "Traceback" not in said


def on_a_terminal(words: list[str], typed: bytes = b"", **environment: str) -> tuple[int, str]:
    """Run chaosctl with a terminal for its three streams; exit code and what was shown."""
    ours, theirs = pty.openpty()
    code = "from chaosctl.main import run; run()"
    client = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),  # type: ignore[call-overload]
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody is left
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    return client.wait(10), shown.decode()


def test_a_terminal_shows_a_countdown_and_how_to_end_it(controller: Scripted) -> None:
    controller.events = story("")
    controller.pause = 0.5
    code, shown = on_a_terminal(LATENCY)
    assert code == Exit.CONTROLLER_UNREACHABLE
    assert "in force, 1:00 to go" in shown
    assert "chaosctl abort" in shown
    controller.events = story("held")
    code, shown = on_a_terminal(LATENCY, NO_COLOR="1")
    assert code == Exit.DONE
    assert "held" in shown
    assert "\x1b[32m" not in shown


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", Exit.DONE), (b"n\n", Exit.REFUSED)])
def test_a_risky_kind_asks_on_a_terminal(answer: bytes, code: Exit, controller: Scripted) -> None:
    controller.events = story("held")
    words = ["inject", "network.partition", "-n", "n1", "peers=10.0.0.2", "--for", "5s"]
    got, shown = on_a_terminal(words, answer)
    assert "cut the node from chosen peers. Start it? [y/N]" in shown
    assert got == code
    assert bool(controller.asked) == (code == Exit.DONE)


def test_what_cannot_be_taken_back_asks_on_a_terminal(controller: Scripted) -> None:
    code, shown = on_a_terminal(["pki", "revoke", "agent/n1", "--reason", "lost"], b"n\n")
    assert "Revoke agent/n1? [y/N]" in shown
    assert code == Exit.REFUSED
    assert not controller.asked


@pytest.mark.parametrize("words", [["pki", "revoke", "agent/n1"], ["node", "forget", "n1"]])
def test_without_a_terminal_it_needs_yes(
    words: list[str], controller: Scripted, capsys: Capture
) -> None:
    assert main([*words, "--reason", "gone"]) == Exit.INVALID
    assert "add --yes" in capsys.readouterr().err
    assert not controller.asked
    assert main([*words, "--yes"]) == Exit.INVALID  # without a reason
    assert not controller.asked
    capsys.readouterr()
    assert main([*words, "--reason", "gone", "--yes"]) == Exit.DONE
    shown = capsys.readouterr().out
    assert "n1 is revoked" in shown or "n1 is forgotten" in shown
    assert controller.asked[0].reason == "gone"
    assert main([*words, "--reason", "gone", "--yes", "-o", "json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)


def test_the_nodes_show_certificates_that_were_not_renewed(
    controller: Scripted, capsys: Capture
) -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=9, hours=1)
    node = pb.Node(name="n1", state="connected", certificate_expires=f"{soon:%Y-%m-%dT%H:%M:%SZ}")
    controller.nodes = pb.ListNodesResponse(nodes=[node])
    assert main(["nodes"]) == Exit.DONE
    assert "certificate" not in capsys.readouterr().out
    node.certificate_old = True
    expired = pb.Node(name="n2", state="unreachable", certificate_old=True)
    controller.nodes = pb.ListNodesResponse(
        nodes=[node, expired], renew_before=f"{soon:%Y-%m-%dT%H:%M:%SZ}"
    )
    assert main(["nodes"]) == Exit.DONE
    shown = capsys.readouterr()
    assert "n1 has not renewed its certificate, which expires in 9 days" in shown.out
    assert "n2 has no certificate that holds" in shown.out
    assert "Your own certificate expires in 9 days: chaosctl pki renew" in shown.err


# ── abort and resume ──────────────────────────────────────────────────────────────────────

CLEAN = pb.AbortEvent(
    node="n1",
    clean_after_us=420_000,
    confirmed=True,
    carried_fault=True,
    detail="clean, read back",
)
LAPSED = pb.AbortEvent(node="n2", clean_after_us=4_000_000, carried_fault=True)
TOTAL = pb.AbortEvent(clean_after_us=4_000_000, detail="nothing starts until: chaosctl resume")


def test_an_abort_shows_each_node_and_the_total(controller: Scripted, capsys: Capture) -> None:
    controller.aborts = [CLEAN, LAPSED, TOTAL]
    controller.nodes = pb.ListNodesResponse(
        nodes=[
            pb.Node(name="n1", state="connected"),
            pb.Node(name="n2", state="unreachable", faults=[pb.FaultStatus(state="in_force")]),
        ]
    )
    assert main(["abort", "--reason", "smoke"]) == Exit.DONE
    assert controller.asked[0].reason == "smoke"
    shown = capsys.readouterr().out
    assert "0.42 s  n1                clean, read back" in shown
    assert "4.00 s  n2                its lease has run out" in shown
    assert "2 nodes carried a fault; the slowest took 4.00 s." in shown
    assert "nothing starts until" in shown


CARRIED = pb.FaultStatus(fault="5f", kind="network.loss", state="reverting")
CARRIES = pb.Node(name="n1", state="connected", faults=[CARRIED])


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (pb.Node(name="n1", state="quarantined", quarantine=["qdisc left"]), "qdisc left"),
        (CARRIES, "it still reports network.loss 5f (reverting)"),
    ],
)
def test_an_abort_after_which_a_node_is_not_clean_is_1(
    node: pb.Node,
    why: str,
    controller: Scripted,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "_CATCH_UP_S", 0.5)
    controller.aborts = [CLEAN, TOTAL]
    controller.nodes = pb.ListNodesResponse(nodes=[node])
    assert main(["abort"]) == Exit.FAILED
    assert f"n1 is NOT clean: {why}" in capsys.readouterr().err
    assert main(["abort", "-o", "json"]) == Exit.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["node"] for line in lines] == ["n1", ""]


def test_a_node_that_reads_itself_back_a_little_later_is_clean(
    controller: Scripted, capsys: Capture
) -> None:
    """Starved, it was out of reach until its lease had run out, and is heard again since."""
    controller.aborts = [LAPSED, TOTAL]
    controller.nodes_before = [pb.ListNodesResponse(nodes=[CARRIES])] * 2
    controller.nodes = pb.ListNodesResponse(nodes=[pb.Node(name="n1", state="connected")])
    assert main(["abort"]) == Exit.DONE
    told = capsys.readouterr().err
    assert told.count("Waiting for n1 to be read back") == 1
    assert "NOT clean" not in told


def test_an_abort_that_reaches_no_controller_says_what_to_do(
    identity: pki.Initialised, capsys: Capture
) -> None:
    where = ["--controller", "127.0.0.1:1", "--pki", str(identity.operator)]
    assert main(["abort", *where]) == Exit.CONTROLLER_UNREACHABLE
    assert "stop chaos-controller on its host" in capsys.readouterr().err


def test_resume_needs_a_reason_and_says_what_it_lifted(
    controller: Scripted, capsys: Capture
) -> None:
    assert main(["resume"]) == Exit.INVALID
    assert main(["resume", "--reason", "fixed"]) == Exit.DONE
    assert "Aborted by operator/ann" in capsys.readouterr().out
    assert controller.asked[0].reason == "fixed"


# ── looking ───────────────────────────────────────────────────────────────────────────────


def test_nodes_fit_80_columns_and_say_why_one_is_quarantined(
    controller: Scripted, capsys: Capture
) -> None:
    held = pb.FaultStatus(kind="network.latency", state="in_force")
    over = pb.FaultStatus(kind="cpu.stress", state="ended")
    controller.nodes = pb.ListNodesResponse(
        nodes=[
            pb.Node(
                name="a" * 32,
                state="quarantined",
                profile="production",
                heartbeat_age_s=0.4,
                faults=[held, over],
                quarantine=["qdisc left on \x1b[31meth0"],
            ),
            pb.Node(name="n2", state="unreachable", profile="lab", heartbeat_age_s=-1),
        ],
        latch=pb.Latch(set=True, actor="operator/ann", reason="smoke", since="now"),
    )
    assert main(["nodes"]) == Exit.DONE
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("0.4 s", "network.latency", "qdisc left on �[31meth0", "operator/ann", "resume"):
        assert text in shown
    assert "cpu.stress" not in shown
    assert "\x1b" not in shown
    assert "network.latency\n  (hits are not counted for it)" in shown, "and not a zero"
    held.hits.CopyFrom(pb.Hits(count=12, unit="packets", seen=9000, note="3 of them dropped"))
    controller.nodes.nodes[0].faults[0].CopyFrom(held)
    assert main(["nodes"]) == Exit.DONE
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "network.latency" in shown
    assert "network.latency\n  hit 12 of 9000 packets (3 of them dropped)" in shown
    assert main(["nodes", "-o", "json"]) == Exit.DONE
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert nodes[1]["state"] == "unreachable"
    hit, uncounted = nodes[0]["faults"]
    assert hit["hits"] == {
        "count": 12, "unit": "packets", "seen": 9000, "asked": None, "note": "3 of them dropped",
    }  # fmt: skip
    assert uncounted["hits"] is None


@pytest.mark.parametrize("argv", [["runs"], ["runs", "list"]])
def test_runs_are_listed(argv: list[str], controller: Scripted, capsys: Capture) -> None:
    assert main([*argv, "--limit", "3"]) == Exit.DONE
    assert "r-1  2026-01-01T00:00:00  cpu.stress  n1     held" in capsys.readouterr().out
    assert controller.asked[0].limit == 3
    assert main([*argv, "-o", "json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["runs"][0]["params"] == {"percent": "5%"}


@pytest.mark.usefixtures("controller")
def test_a_run_is_shown_with_its_timeline(capsys: Capture) -> None:
    assert main(["runs", "show", "r-1"]) == Exit.DONE
    shown = capsys.readouterr().out
    assert "duration  60s" in shown
    assert "T+2:10  observe " in shown


def test_watching_a_run_ends_with_its_verdict(controller: Scripted, capsys: Capture) -> None:
    controller.events = story("aborted")
    assert main(["watch", "r-1"]) == Exit.ABORTED
    assert controller.asked[0].run == "r-1"
    assert "run r-1: aborted" in capsys.readouterr().out
    assert main(["watch", "-o", "json"]) == Exit.CONTROLLER_UNREACHABLE  # the stream just ended


@pytest.mark.parametrize("argv", [["nodes"], ["runs"], ["watch"], LATENCY])
def test_no_controller_is_5(argv: list[str], identity: pki.Initialised, capsys: Capture) -> None:
    where = ["--controller", "127.0.0.1:1", "--pki", str(identity.operator)]
    assert main([*argv, *where]) == Exit.CONTROLLER_UNREACHABLE
    shown = capsys.readouterr().err
    assert "the controller does not answer" in shown
    assert len(shown.splitlines()) <= 2


# ── pki ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "line"),
    [
        ("agent/n1", "chaos-agent enrol 127.0.0.1:7401 --token t0ken --ca-hash sha256:00"),
        ("viewer/bob", "chaosctl pki enrol 127.0.0.1:7401 --token t0ken --ca-hash sha256:00"),
    ],
)
def test_a_token_comes_with_the_line_to_paste(
    who: str, line: str, controller: Scripted, capsys: Capture
) -> None:
    assert main(["pki", "token", who, "--ttl", "10m"]) == Exit.DONE
    assert f"\n  {line}\n" in capsys.readouterr().out
    assert (controller.asked[0].identity, controller.asked[0].ttl_s) == (who, 600)
    assert main(["pki", "token", who, "-o", "json"]) == Exit.DONE
    body = json.loads(capsys.readouterr().out)
    assert (body["token"], body["ca_hash"], body["command"]) == ("t0ken", "sha256:00", line)


def test_pki_init_makes_an_identity_and_overwrites_nothing(tmp_path: Path, capsys: Capture) -> None:
    words = ["pki", "init", "--dir", str(tmp_path / "pki"), "--name", "localhost"]
    assert main([*words, "-o", "json"]) == Exit.DONE
    made = json.loads(capsys.readouterr().out)
    assert (Path(made["operator"]) / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert made["ca_hash"].startswith("sha256:")
    assert main(words) == Exit.INVALID
    assert "never overwritten" in capsys.readouterr().err


# ── the real controller ───────────────────────────────────────────────────────────────────


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[int, int, pki.Initialised]]:
    """A controller as it is installed, without nodes: its ports and its PKI."""
    made = pki.init(tmp_path / "pki", names=["127.0.0.1"])
    settings = Config(
        *("127.0.0.1", 0, 0), made.directory, f"sqlite+aiosqlite:///{tmp_path}/controller.db"
    )
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()
    ports: Queue[tuple[int, int]] = Queue()

    async def serve() -> None:
        async with await Controller.start(settings, Log.to_stderr("test")) as running:
            ports.put((running.port, running.enrolment_port))
            await stopping.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    yield (*ports.get(timeout=20), made)
    loop.call_soon_threadsafe(stopping.set)
    thread.join(20)
    loop.close()


def test_the_real_controller_understands_every_command(
    real: tuple[int, int, pki.Initialised], tmp_path: Path, capsys: Capture
) -> None:
    port, enrolment, made = real
    admin = ["--controller", f"127.0.0.1:{port}", "--pki", str(made.operator)]
    assert main(["nodes", *admin]) == Exit.DONE
    assert "No node has ever connected" in capsys.readouterr().out
    assert main([*LATENCY, *admin]) in (Exit.INVALID, Exit.NODE_UNREACHABLE)
    capsys.readouterr()

    assert main(["pki", "token", "viewer/bob", "-o", "json", *admin]) == Exit.DONE
    token = json.loads(capsys.readouterr().out)
    secret = ["--token", token["token"], "--ca-hash", token["ca_hash"]]
    words = ["pki", "enrol", f"127.0.0.1:{enrolment}", *secret, "--dir"]
    assert main([*words, str(tmp_path / "bob")]) == Exit.DONE
    assert "Enrolled as viewer/bob" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "again")]) != Exit.DONE  # a token is good for once

    viewer = [*admin[:3], str(tmp_path / "bob")]
    assert main(["runs", *viewer]) == Exit.DONE
    assert main(["abort", *viewer]) == Exit.REFUSED
    capsys.readouterr()

    assert main(["abort", "--reason", "smoke", *admin]) == Exit.DONE
    assert "Aborted. No node carried a fault" in capsys.readouterr().out
    assert main(["nodes", *viewer]) == Exit.DONE
    assert "Aborted by operator/admin" in capsys.readouterr().out
    assert main(["resume", "--reason", "fixed", *admin]) == Exit.DONE
    assert main(["runs", "show", "r-none", *admin]) == Exit.INVALID
    assert main(["watch", "r-none", *admin]) == Exit.INVALID
    assert main(["node", "release", "n1", "--reason", "looked", *admin]) == Exit.INVALID
    assert main(["node", "forget", "n1", "--reason", "gone", "--yes", *admin]) == Exit.INVALID
    capsys.readouterr()

    before = (tmp_path / "bob" / "identity.pem").read_bytes()
    assert main(["pki", "renew", "-o", "json", *viewer]) == Exit.DONE
    renewed = json.loads(capsys.readouterr().out)
    assert renewed["identity"] == "viewer/bob"
    assert (tmp_path / "bob" / "identity.pem").read_bytes() != before
    assert main(["pki", "list", *viewer]) == Exit.DONE
    assert renewed["serial"][:12] in capsys.readouterr().out
    revoke = ["pki", "revoke", "bob", "--reason", "left us", "--yes"]
    assert main([*revoke, *viewer]) == Exit.REFUSED
    assert main([*revoke, *admin]) == Exit.DONE
    assert "viewer/bob is revoked" in capsys.readouterr().out
    assert main(["nodes", *viewer]) == Exit.REFUSED
    assert "revoked by operator/admin" in capsys.readouterr().err
    assert main(["pki", "revoke", "admin", "--reason", "x", "--yes", *admin]) == Exit.REFUSED
    assert "calling with" in capsys.readouterr().err
    assert main(["pki", "list", *admin]) == Exit.DONE
    assert "viewer/bob" not in capsys.readouterr().out
    assert main(["pki", "list", "--all", *admin]) == Exit.DONE
    assert "operator/admin: left us" in " ".join(capsys.readouterr().out.split())


def test_the_audit_log_is_shown_and_its_tampering_found(
    real: tuple[int, int, pki.Initialised], tmp_path: Path, capsys: Capture
) -> None:
    port, _, made = real
    admin = ["--controller", f"127.0.0.1:{port}", "--pki", str(made.operator)]
    assert main(["abort", "--reason", "smoke", *admin]) == Exit.DONE
    assert main(["resume", "--reason", "fixed", *admin]) == Exit.DONE
    capsys.readouterr()
    assert main(["audit", "list", "-o", "json", *admin]) == Exit.DONE
    actions = [entry["action"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    assert actions == ["abort", "resume"]
    assert main(["audit", "verify", "-o", "json", *admin]) == Exit.DONE
    intact = json.loads(capsys.readouterr().out)
    head = ["--head", f"{intact['entries']}:{intact['head']}"]
    assert main(["audit", "verify", *head, *admin]) == Exit.DONE
    assert main(["audit", "verify", "--head", "nonsense", *admin]) == Exit.INVALID
    with sqlite3.connect(tmp_path / "controller.db") as database:
        database.execute("DELETE FROM audit WHERE number = 2")
    assert main(["audit", "verify", *admin]) == Exit.DONE  # its end was cut off
    assert main(["audit", "verify", *head, *admin]) == Exit.FAILED
    with sqlite3.connect(tmp_path / "controller.db") as database:
        database.execute("UPDATE audit SET actor = 'operator/mallory' WHERE number = 1")
    assert main(["audit", "verify", *admin]) == Exit.FAILED
    assert "entry 1 was edited" in capsys.readouterr().out
