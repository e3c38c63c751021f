"""chaosctl without a controller: start-up, dry runs, bad input, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos_core import effects, faults
from chaos_core.errors import Exit
from chaosctl import output
from chaosctl.main import main, wants_json

LATENCY = ["inject", "network.latency", "-n", "n1", "peers=10.0.0.2", "delay=50ms", "--for", "60s"]


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator without any configuration; gives the directory that would hold it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("CHAOSCTL_CONTROLLER", "CHAOSCTL_PKI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "chaosctl"


# ── start-up ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("argv", [["--help"], ["inject", "--help"], ["lab"], ["--version"]])
def test_nothing_heavy_is_imported_before_a_command_needs_it(argv: list[str]) -> None:
    code = (
        "import sys; from chaosctl.main import main; code = main(sys.argv[1:]);"
        "heavy = {'grpc', 'google', 'pydantic', 'rich', 'cryptography'};"
        "print('HEAVY', *sorted({m.partition('.')[0] for m in sys.modules} & heavy));"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = set(done.stdout.splitlines()[-1].split()[1:])
    if argv != ["--help"]:
        heavy -= {"pydantic"}  # typer's own, for arguments
    assert heavy <= ({"rich"} if argv == ["lab"] else set())


def test_help_lists_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    names = [
        "nodes",
        "faults",
        "inject",
        "validate",
        "scenario",
        "watch",
        "abort",
        "resume",
        "runs",
        "pki",
        "lab",
    ]
    for name in names:
        assert f"\n  {name} " in shown
    for code in Exit:
        assert f"\n    {int(code)}  " in shown
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_the_installed_script_starts_and_completes_in_a_shell() -> None:
    script = Path(sys.executable).with_name("chaosctl")
    environment = {
        **os.environ,
        "_CHAOSCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "chaosctl faults network.l",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([script], env=environment, capture_output=True, text=True)
    expected = [kind for kind in faults.kinds() if kind.startswith("network.l")]
    assert done.stdout.split() == expected
    assert len(expected) > 1


# ── faults ────────────────────────────────────────────────────────────────────────────────


def test_faults_are_listed_and_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults"]) == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in faults.kinds())
    assert "risky" in shown
    for kind in faults.kinds():
        assert main(["faults", kind]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in faults.lookup(kind).model_fields)
        assert faults.lookup(kind).lease_holder in shown
        assert all(need in shown for need in faults.lookup(kind).needs)
        prose = ("ended", "doctor", "example")
        table = [line for line in shown.splitlines() if not line.startswith(prose)]
        assert max(map(len, table)) <= 80


def test_the_ceilings_of_a_fault_are_those_of_the_profiles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["faults", "network.latency", "-o", "json"])
    limits = json.loads(capsys.readouterr().out)["ceilings"]
    assert [limits[name]["latency"] for name in ("production", "staging", "lab")] == [
        "50ms",
        "500ms",
        "30s",
    ]
    main(["faults", "network.partition", "-o", "json"])
    limits = json.loads(capsys.readouterr().out)["ceilings"]
    assert [row["allowed"] for row in limits.values()] == ["refused", "allowed", "allowed"]


# ── dry runs ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", faults.kinds())
def test_a_dry_run_shows_the_exact_effects(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inject", kind, *faults.lookup(kind).example.split(), "--for", "60s", "--dry-run"]
    assert main([*words, "--profile", "lab"]) == 0
    shown = capsys.readouterr().out
    assert faults.lookup(kind).lease_holder in shown
    assert main([*words, "--profile", "lab", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["allowed"]
    assert plan["effects"]
    for effect in plan["effects"]:
        for line in effects.describe(effects.from_json(effect)).splitlines():
            assert line in shown


@pytest.mark.parametrize(
    ("change", "ceiling"),
    [
        (["network.latency", "peers=10.0.0.2", "delay=51ms", "--for", "60s"], "50ms"),
        (["network.latency", "peers=10.0.0.2", "delay=50ms", "--for", "301s"], "5m"),
        (["network.loss", "peers=10.0.0.2", "percent=1.1%", "--for", "60s"], "1%"),
        (["network.loss", "peers=10.0.0.2", "percent=1%", "--for", "61s"], "60s"),
        (["cpu.stress", "percent=16%", "--for", "60s"], "15%"),
        (["memory.stress", "percent=11%", "--for", "60s"], "10%"),
        (["network.partition", "peers=10.0.0.2", "--for", "60s"], "refused in profile"),
        (["cpu.stress", "percent=1%", "-n", "a", "-n", "b", "--for", "60s"], "2 nodes at once"),
        (["cpu.stress", "percent=1%", "--for", "0s"], "above zero"),
    ],
)
def test_a_dry_run_beyond_production_is_refused_with_3(
    change: list[str], ceiling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inject", *change, "--dry-run"]) == Exit.REFUSED
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert ceiling in shown.err
    assert "chs-00000000" in shown.out  # the plan is shown all the same
    assert main(["inject", *change, "--dry-run", "-o", "json"]) == Exit.REFUSED
    shown = capsys.readouterr()
    assert json.loads(shown.out)["allowed"] is False
    assert json.loads(shown.err)["exit"] == 3


def test_a_dry_run_takes_an_interface_that_only_the_real_node_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*LATENCY, "interface=ens5", "--dry-run"]) == 0
    assert "ens5 mark" in capsys.readouterr().out


# ── bad input ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["inject", "network.latenc", "--for", "5s"], "did you mean 'network.latency'"),
        ([*LATENCY, "dely=5ms"], "did you mean 'delay'"),
        ([*LATENCY[:4], "peers=10.0.0.2", "delay=50", "--for", "5s"], "'50' has no unit"),
        ([*LATENCY[:4], "delay=50ms", "--for", "5s"], "'peers' is required"),
        (["inject", "cpu.stress", "percent=101%", "--for", "5s"], "at most 100%"),
        (["inject", "cpu.stress", "percent", "--for", "5s"], "'percent' is not a parameter"),
        (["inject", "cpu.stress", "percent=1%", "percent=2%", "--for", "5s"], "given twice"),
        (["inject", "cpu.stress", "percent=1%", "-n", "a"], "--for is required"),
        (["inject", "cpu.stress", "percent=1%", "-n", "a", "--for", "60"], "--for: '60' has no"),
        (["inject", "cpu.stress", "percent=1%", "--for", "5s"], "no node is named"),
        ([*LATENCY, "--profile", "lab"], "goes with --dry-run"),
        ([*LATENCY, "--dry-run", "--profile", "labb"], "did you mean 'lab'"),
        (LATENCY, "no controller is named"),
        (["nodes"], "no controller is named"),
        (["nodes", "--controller", "h:99999"], "is not an address"),
        (["nodes", "--controller", "h", "--pki", "/nonexistent"], "enrol this machine first"),
        (["resume"], "--reason"),
        (["faults", "cpu.stres"], "did you mean 'cpu.stress'"),
        (["bogus"], "bogus"),
        (["nodes", "-o", "yaml"], "yaml"),
        (["pki", "init"], "at least one name"),
        (["pki", "token", "root/x"], "unknown role"),
        (["pki", "token", "controller"], "does not enrol"),
        (["pki", "token", "agent/n1", "--ttl", "5"], "has no unit"),
        (["runs", "--limit", "3", "list"], "options go after"),
        (
            ["inject", "network.partition", *LATENCY[2:5], "--for", "5s", "--controller", "h"],
            "add --yes",
        ),
    ],
)
def test_bad_input_is_one_clear_message_and_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if argv == ["pki", "init"]:
        argv = [*argv, "--dir", str(tmp_path / "pki")]
    assert main(argv) == Exit.INVALID
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.startswith("error: ")
    assert len(shown.err.splitlines()) <= 2
    assert not shown.out
    if "yaml" not in argv:
        assert main([*argv, "-o", "json"]) == Exit.INVALID
        body = json.loads(capsys.readouterr().err)
        assert says in body["error"] + body.get("hint", "")
        assert (body["code"], body["exit"]) == ("invalid", 2)


# ── configuration ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('controller = "h"\n\ncontroler = "h"\n', "config.toml:3: unknown field 'controler'"),
        ("controller = 7400\n", "config.toml:1: controller: 7400 is not a text"),
        ('controller = "h"\npki = \n', "config.toml:2: not TOML"),
        ('controller = "h\n', "config.toml:1: not TOML"),
    ],
)
def test_a_wrong_config_file_is_named_with_the_line(
    text: str, says: str, nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody.mkdir()
    (nobody / "config.toml").write_text(text)
    assert main(["nodes"]) == Exit.INVALID
    assert says in capsys.readouterr().err


def test_option_before_environment_before_file(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody.mkdir()
    (nobody / "config.toml").write_text('controller = "file"\npki = "/from-file"\n')
    assert main(["nodes"]) == Exit.INVALID
    assert "/from-file/identity.pem" in capsys.readouterr().err
    monkeypatch.setenv("CHAOSCTL_PKI", "/from-environment")
    main(["nodes"])
    assert "/from-environment/identity.pem" in capsys.readouterr().err
    main(["nodes", "--pki", "/from-option"])
    assert "/from-option/identity.pem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["nodes", "-o", "json"], True),
        (["nodes", "--output=json"], True),
        (["nodes", "-ojson"], True),
        (["nodes", "-o", "table"], False),
        (["lab", "exec", "n1", "--", "cmd", "-o", "json"], False),
        ([], False),
    ],
)
def test_json_errors_are_asked_for(argv: list[str], expected: bool) -> None:
    assert wants_json(argv) is expected


def test_words_from_the_wire_cannot_drive_the_terminal() -> None:
    assert output.clean("a\x1b[2Jb\rc") == "a�[2Jb c"
