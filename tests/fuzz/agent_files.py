"""Journal, state files and configurations, damaged anywhere or replaced by nonsense.

What must hold: a clear error or a working object, never another exception; every intent
that stands in an undamaged line is found; what cannot be read is counted, unless it is
the end of the file, which only a crash in the middle of writing can have torn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target
from tests.fuzz.pretend import VIEW

from chaos_agent import config as agent_config
from chaos_agent.journal import Journal, epoch_file, quarantine_file, read_quarantine
from chaos_controller import config as controller_config
from chaos_core.envelope import PROFILES
from chaos_core.errors import ChaosError, Refused
from chaos_core.faults import kinds, parse

_PARAMS: dict[str, dict[str, Any]] = {
    "cpu.stress": {"percent": "5%"},
    "network.latency": {"peers": "10.0.0.2,fd00::2", "delay": "5ms"},
    "network.partition": {"peers": "10.0.0.2"},
}
_AGENT = """
[node]
name = "n1"
[controller]
address = "127.0.0.1:7400"
[envelope]
profile = "staging"
latency = "20ms"
cpu = "10%"
runs = 1
duration_loss = "30s"
[network]
mark_mask = 0x0f000000
ssh_ports = [22, 2222]
protected = ["192.0.2.0/24", "fd00::/8"]
"""
_CONTROLLER = """
listen = "127.0.0.1"
port = 7400
enrolment_port = 7401
pki = "/etc/chaos/pki"
database = "sqlite+aiosqlite:////var/lib/chaos/controller.db"
ttl = "3s"
"""
_VALUES = (
    *('"30s"', '"31s"', '"-1s"', '"90%"', '"lab"', "true", "-1", "0x1", "[]", "{}", "nan", "1e999"),
    *('[1, "a"]', "2024-01-01", '"\\u0000"', '"\\u202e"', "[" * 2_000, '"127.0.0.1:99999"', "[[]]"),
)
Example = tuple[str, Any]


def _make(dice: Dice) -> Example:
    what = dice.choice(("journal", "journal", "journal", "epoch", "quarantine", "agent", "control"))
    match what:
        case "journal":
            faults = [(f"{n:08x}", dice.one_in(2)) for n in range(dice.randrange(1, 5))]
            how = dice.choice(("flip", "flip", "cut", "block", "bytes", "none"))
            return what, (faults, how, dice.random(), dice.randrange(256))
        case "agent" | "control":
            return what, _toml(dice, _AGENT if what == "agent" else _CONTROLLER)
        case _:
            return what, dice.choice(
                (
                    dumped(dice.value()).encode(),
                    dice.randbytes(9),
                    dice.nested().encode(),
                    dice.damaged(b'["fault 0a1b2c3d: + links: chs-0a1b2c3d-0"]'),
                    dice.damaged(b"1234567"),
                    b"",
                )
            )


def _toml(dice: Dice, text: str) -> bytes:
    lines = text.splitlines()
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(lines))
        key = lines[at].partition(" = ")[0]
        lines[at] = dice.choice((f"{key} = {dice.choice(_VALUES)}", "", lines[at] * 2, f"x{key}"))
    data = "\n".join(lines).encode()
    return dice.damaged(data) if dice.one_in(3) else data


@contextmanager
def _open() -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checks: dict[str, Callable[[Path, Any], None]] = {
            "journal": _journal,
            "epoch": _epoch,
            "quarantine": _quarantine,
            "agent": _agent,
            "control": _control,
        }

        def check(example: Example) -> None:
            for path in directory.iterdir():
                path.unlink()
            checks[example[0]](directory, example[1])

        yield check


def _journal(directory: Path, what: tuple[list[tuple[str, bool]], str, float, int]) -> None:
    faults, how, where, byte = what
    journal = Journal(directory)
    for number, (fault, done) in enumerate(faults):
        kind = sorted(_PARAMS)[number % len(_PARAMS)]
        effects = parse(kind, _PARAMS[kind]).compile(VIEW, fault)
        journal.intent(number, fault=fault, run="r-1", kind=kind, to_apply=effects, before={})
        if done:
            journal.done(number, fault=fault, reason="duration", difference=[])
    journal.close()
    whole = journal.path.read_bytes()
    damaged = _damaged(whole, how, int(where * len(whole)), byte)
    journal.path.write_bytes(damaged)
    before = _open_in(whole.split(b"\n"))
    kept = set(whole.split(b"\n")) & set(damaged.split(b"\n"))
    lost = [line for line in whole.split(b"\n") if line not in kept]
    again = Journal(directory)
    found = {intent.fault for intent in again.open_intents()}
    must = {fault for fault in before if any(_is_intent(line, fault) for line in kept)}
    assert must <= found, f"lost {must - found}"
    torn = b"" if damaged.endswith(b"\n") else damaged.rpartition(b"\n")[2]
    if how == "flip" and not torn and lost:
        assert again.damaged, "a damaged line was passed over in silence"
    again.intent(9, fault="ffffffff", run="r", kind="k", to_apply=(), before={})
    assert "ffffffff" in {intent.fault for intent in again.open_intents()}
    again.set_aside()
    assert (again.open_intents(), again.damaged) == ([], 0)
    again.close()


def _damaged(whole: bytes, how: str, at: int, byte: int) -> bytes:
    match how:
        case "flip":
            return whole[:at] + bytes([whole[at] ^ (1 << byte % 8)]) + whole[at + 1 :]
        case "cut":
            return whole[:at]
        case "block":
            return whole[:at] + b"\0" * len(whole[at : at + 512]) + whole[at + 512 :]
        case "bytes":
            return whole[:at] + bytes([byte]) * 3 + whole[at:]
        case _:
            return whole


def _open_in(lines: list[bytes]) -> set[str]:
    """Faults without an end, by the text of the lines alone."""
    ids = {f"{n:08x}" for n in range(8)}
    begun = {fault for fault in ids if any(_is_intent(line, fault) for line in lines)}
    done = {f for f in ids for line in lines if b'"done"' in line and f'"{f}"'.encode() in line}
    return begun - done


def _is_intent(line: bytes, fault: str) -> bool:
    return b'"entry": "intent"' in line and f'"fault": "{fault}"'.encode() in line


def _epoch(directory: Path, data: bytes) -> None:
    file = epoch_file(directory)
    file.path.write_bytes(data)
    try:
        value = file.read(0)
    except Refused:
        file.write(7)
        value = file.read(0)
    assert type(value) is int
    assert 0 <= value < 2**63


def _quarantine(directory: Path, data: bytes) -> None:
    file = quarantine_file(directory)
    file.path.write_bytes(data)
    lines = read_quarantine(directory)
    assert all(type(line) is str for line in lines)
    try:
        file.read([])
    except Refused:
        assert lines, "a quarantine that cannot be read is none"


def _agent(directory: Path, data: bytes) -> None:
    path = directory / "agent.toml"
    path.write_bytes(data)
    path.chmod(0o644)
    try:
        made = agent_config.load(path)
    except ChaosError as problem:
        _names(path, problem)
        return
    top = PROFILES[made.envelope.profile]
    for name in ("latency", "loss", "cpu", "memory", "runs", "duration_cpu", "duration_loss"):
        assert getattr(made.envelope, name) <= getattr(top, name), name
    assert made.envelope.destructive is top.destructive
    made.protected.networks()


def _names(path: Path, problem: ChaosError) -> None:
    assert path.name in str(problem), f"no file named: {problem}"


def _control(directory: Path, data: bytes) -> None:
    path = directory / "controller.toml"
    path.write_bytes(data)
    try:
        made = controller_config.load(path)
    except ChaosError as problem:
        _names(path, problem)
        return
    assert 1_000_000 < made.ttl <= 4_000_000


TARGET = Target("agent_files", _make, _open)
assert set(_PARAMS) <= set(kinds())
