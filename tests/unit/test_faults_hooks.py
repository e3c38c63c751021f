"""Hooks: what root has listed, by name, and nothing that came over the wire."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from chaos_agent.config import parse as parse_config
from chaos_core import effects, envelope, faults
from chaos_core.effects import Run, UndoTimer
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import Hook, NodeView
from chaos_core.units import SECOND

GC = Hook("gc", ("/usr/bin/jcmd", "app", "GC.run"), (), "app", 2_000_000)
NODE = replace(NodeView.example(), boot="b-1", hook=GC)
TOML = """
[hooks.gc]
run = ["/usr/bin/jcmd", "app", "GC.run"]
user = "app"
timeout = "2s"
[hooks.drain-queue]
run = ["/usr/local/bin/drain"]
undo = ["/usr/local/bin/fill", "--all"]
user = "queue"
"""


def test_a_hook_is_run_as_the_file_says() -> None:
    fault = faults.parse("gc.pressure", {})
    assert fault.asks().hook == "gc"
    (run,) = fault.compile(NODE, "0123abcd")
    assert run == Run("chs-0123abcd-hook", "gc", GC.run, (), "app", 2_000_000, "b-1")
    assert effects.is_ours("chs-0123abcd-hook")
    assert effects.from_text(effects.to_text(run)) == run
    assert "jcmd app GC.run" in effects.describe(run)


def test_a_cache_is_flushed_by_a_hook_of_its_own() -> None:
    fault = faults.parse("cache.flush", {"hook": "gc"})
    assert fault.asks().hook == "gc"
    assert fault.compile(NODE, "0123abcd") == faults.parse("hook.run", {"hook": "gc"}).compile(
        NODE, "0123abcd"
    )
    with pytest.raises(Refused, match=r"cache\.flush: hook: gc is not on the list"):
        fault.compile(replace(NODE, hook=None), "0123abcd")
    with pytest.raises(InvalidInput, match="one cache at a time"):
        faults.parse("cache.flush", {"hook": "gc", "redis": "sessions"})


def test_what_can_be_undone_is_run_under_a_timer() -> None:
    node = replace(NODE, hook=replace(GC, name="x", undo=("/bin/undo",)))
    timer, run = faults.parse("hook.run", {"hook": "x"}).compile(node, "0123abcd")
    assert timer == UndoTimer("chs-0123abcd", (effects.to_text(run),))
    assert effects.changes((run,)) == {"hook x"}
    with pytest.raises(Refused, match="no systemd"):
        faults.parse("hook.run", {"hook": "x"}).compile(replace(node, systemd=False), "0123abcd")


def test_a_hook_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(Refused, match=r"hook: gc is not on the list.*\n.*\[hooks\.gc\]"):
        faults.parse("hook.run", {"hook": "gc"}).compile(replace(NODE, hook=None), "0123abcd")


@pytest.mark.parametrize("name", ["", "a b", "../x", "A", "x" * 33, "/bin/sh"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="hook"):
        faults.parse("hook.run", {"hook": name})
    with pytest.raises(InvalidInput, match="unknown parameter 'argv'"):
        faults.parse("hook.run", {"hook": "gc", "argv": "/bin/sh"})


def test_hooks_are_allowed_in_every_profile() -> None:
    for profile in envelope.PROFILES.values():
        envelope.check(profile, faults.parse("gc.pressure", {}).draw(), SECOND)


def test_the_list_is_read_from_the_nodes_file() -> None:
    hooks = parse_config(TOML, "agent.toml").hooks
    assert hooks["gc"] == GC
    assert hooks["drain-queue"] == Hook(
        "drain-queue",
        ("/usr/local/bin/drain",),
        ("/usr/local/bin/fill", "--all"),
        "queue",
        5_000_000,
    )
    assert parse_config("", "agent.toml").hooks == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hooks.gc]\nuser = 'a'", "a command is a list"),
        ("[hooks.gc]\nrun = 'jcmd GC'\nuser = 'a'", "a command is a list"),
        ("[hooks.gc]\nrun = []\nuser = 'a'", "a command is a list"),
        ("[hooks.gc]\nrun = ['jcmd']\nuser = 'a'", "not the absolute path"),
        ("[hooks.gc]\nrun = ['/a', 1]\nuser = 'a'", "not text"),
        ("[hooks.gc]\nrun = ['/a']", "not text"),
        ("[hooks.gc]\nrun = ['/a']\nuser = 'a'\ntimeout = '11s'", "timeout is up to 10s"),
        ("[hooks.gc]\nrun = ['/a']\nuser = 'a'\ntimeout = 5", "not text"),
        ("[hooks.gc]\nrun = ['/a']\nuser = 'a'\nshell = true", "it may say run"),
        ("[hooks.GC]\nrun = ['/a']\nuser = 'a'", "use 1 to 32"),
        ("[hooks]\ngc = ['/a']", "it may say run"),
        ("hooks = 1", "hooks are tables"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)) as caught:
        parse_config(text, "agent.toml")
    assert caught.value.where.startswith("agent.toml")
