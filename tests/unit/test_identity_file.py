"""An identity on disk survives a crash at any step of its replacement: the old one or the new."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chaos_core.errors import InvalidInput
from chaos_proto import pki
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity

# Replaces the identity in argv[1] by the one in argv[2], again and again: the nth time the
# process dies before the nth line that it runs in files.py. Prints how many there are.
CRASH = """
import os, sys
from pathlib import Path
from chaos_proto import files
from chaos_proto.credentials import Credentials

home, new = map(Path, sys.argv[1:])
old, after = (Credentials.read(home), Credentials.read(new))

def dying(n):
    def trace(frame, event, _):
        nonlocal n
        if frame.f_code.co_filename != files.__file__:
            return trace
        if event == "line":
            n -= 1
            if n == 0:
                os._exit(9)
        return trace
    return trace

n = 0
while True:
    n += 1
    old.write(home)
    child = os.fork()
    if child == 0:
        sys.settrace(dying(n))
        after.write(home)
        sys.settrace(None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, "new" if Credentials.read(home).key == after.key else "old", flush=True)
    sys.stdin.readline()  # whoever started us looks at the file now
    if code == 0:
        break
"""


@pytest.fixture(scope="module")
def ca() -> pki.CA:
    return pki.CA.create()


def made(ca: pki.CA, home: Path) -> Path:
    key, request = pki.new_key_and_csr()
    certificate = ca.sign_request(request, Identity("agent", "n1"))
    home.mkdir(exist_ok=True)
    Credentials(key, certificate, ca.pem).write(home)
    return home


def test_a_crash_at_any_step_leaves_the_old_identity_or_the_new_one(
    ca: pki.CA, tmp_path: Path
) -> None:
    home, new = made(ca, tmp_path / "old"), made(ca, tmp_path / "new")
    seen: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, str(home), str(new)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            Credentials.read(home).check()  # key and certificate of one pair, whichever
            assert (home / "identity.pem").stat().st_mode & 0o777 == 0o600
            seen.append(line.strip())
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    assert seen[-1] == "0 new"
    assert {"9 old", "9 new"} <= set(seen)
    assert len(seen) > 8


def test_whoever_reads_while_it_is_replaced_sees_one_pair(ca: pki.CA, tmp_path: Path) -> None:
    home = made(ca, tmp_path / "home")
    both = [Credentials.read(made(ca, tmp_path / name)) for name in ("a", "b")]
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for one in both:
                one.write(home)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(50):
            Credentials.read(home).check()
    finally:
        stop.set()
        writer.join()


def test_an_identity_that_cannot_be_written_leaves_the_old_one(
    ca: pki.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, new = made(ca, tmp_path / "old"), Credentials.read(made(ca, tmp_path / "new"))
    before = (home / "identity.pem").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("chaos_proto.files.os.fsync", full)
    with pytest.raises(InvalidInput, match="No space left"):
        new.write(home)
    assert [path.read_bytes() for path in home.iterdir()] == [before]
    with pytest.raises(InvalidInput, match="No such file"):
        new.write(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "names nothing"), ("a b\n", r"controller\.names:1"), ("c\n\nü.example\n", ":3")],
)
def test_names_of_a_controller_that_are_none(tmp_path: Path, text: str, says: str) -> None:
    pki.init(tmp_path, names=["c.example", "10.0.0.1"])
    assert pki.read_names(tmp_path) == ("c.example", "10.0.0.1")
    (tmp_path / "controller.names").write_text(text)
    with pytest.raises(InvalidInput, match=says):
        pki.read_names(tmp_path)


def test_an_operator_can_be_made_beside_the_ca_when_none_is_left(tmp_path: Path) -> None:
    first = pki.init(tmp_path, names=["c"]).operator
    before = (first / "identity.pem").read_bytes()
    with pytest.raises(InvalidInput, match="never overwritten"):
        pki.issue_operator(tmp_path, "admin")
    assert (first / "identity.pem").read_bytes() == before
    assert pki.issue_operator(tmp_path, "admin", replace=True) == first
    assert (first / "identity.pem").read_bytes() != before
    other = pki.issue_operator(tmp_path, "ann")
    assert str(Credentials.read(other).check().identity) == "operator/ann"
