"""The same plumbing by the system's own tools: what a fault's effects are as commands.

Two ways to fork them: a command for each thing, as a script would, and batches,
the least that one can do with these tools.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chaos_agent.linux.tcvalues import action_index
from chaos_core.effects import Chain, Effect, LeasedSet, Pipe, Rule

Verb = Literal["apply", "revert"]
_LINK = 9000  # the ifb's index: known beforehand, since the filter's action carries it
_BATCH = {"ipset": ("restore",), "ip": ("-batch", "-"), "tc": ("-batch", "-")}


@dataclass(slots=True)
class Plan:
    """Commands, in order."""

    apply: list[list[str]] = field(default_factory=list)
    revert: list[list[str]] = field(default_factory=list)

    def run(self, verb: Verb) -> None:
        """Fork a process for each command."""
        for words in getattr(self, verb):
            call(words)

    def batches(self, verb: Verb) -> list[tuple[list[str], str]]:
        """Neighbouring commands of one tool as one command and its standard input."""
        found: list[tuple[list[str], list[str]]] = []
        for tool, *words in getattr(self, verb):
            if not found or found[-1][0][0] != tool:
                found.append(([tool, *_BATCH.get(tool, ())], []))
            found[-1][1].append(shlex.join(words))
        return [_finished(words, lines) for words, lines in found]


def _finished(words: list[str], lines: list[str]) -> tuple[list[str], str]:
    if "tables" not in words[0]:
        return words, "\n".join(lines) + "\n"
    rules = [line.removeprefix("-t mangle ").removeprefix("-t filter ") for line in lines]
    table = lines[0].split()[1]
    return [f"{words[0]}-restore", "--noflush"], "\n".join([f"*{table}", *rules, "COMMIT\n"])


def run_batches(batches: Iterable[tuple[list[str], str]]) -> None:
    """Fork a process for each batch."""
    for words, stdin in batches:
        call(words, stdin)


def call(words: Sequence[str], stdin: str = "") -> str:
    """Run one command; what it complains of ends the measurement."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


def plan(effects: Sequence[Effect], timeout_s: int, device_index: int) -> Plan:
    """``effects`` as commands, with their revert in the opposite order."""
    found = Plan()
    for effect in effects:
        match effect:
            case LeasedSet():
                apply, revert = _set(effect, timeout_s)
            case Pipe():
                apply, revert = _pipe(effect, device_index)
            case Chain():
                apply, revert = _chain(effect)
            case _:
                raise NotImplementedError(type(effect).__name__)
        found.apply += map(shlex.split, apply)
        found.revert = [*map(shlex.split, revert), *found.revert]
    return found


def _set(effect: LeasedSet, timeout_s: int) -> tuple[list[str], list[str]]:
    family = "inet" if effect.family == 4 else "inet6"
    entries = [f"ipset add {effect.name} {entry} timeout {timeout_s}" for entry in effect.entries]
    create = f"ipset create {effect.name} hash:net family {family} timeout 1"
    return [create, *entries], [f"ipset destroy {effect.name}"]


def _pipe(effect: Pipe, device_index: int) -> tuple[list[str], list[str]]:
    assert effect.netem is not None
    netem = f"delay {effect.netem.delay}us limit {effect.netem.limit}"
    on = f"dev {effect.device} egress"
    index = action_index(_LINK, claim=True)
    match = f"protocol all pref {effect.pref} handle {effect.mark:#x}/{effect.mask:#x} fw"
    apply = [
        f"ip link add {effect.link} index {_LINK} type ifb",
        f"ip link set {effect.link} up alias 'chaos clsact={device_index}'",
        f"tc qdisc add dev {effect.link} root handle 1: netem {netem}",
        f"tc qdisc add dev {effect.device} clsact",
        f"tc filter add {on} {match} action mirred egress redirect index {index} dev {effect.link}",
    ]
    revert = [
        f"tc filter del {on} pref {effect.pref}",
        f"tc qdisc del dev {effect.device} clsact",
        f"ip link del {effect.link}",
    ]
    return apply, revert


def _chain(effect: Chain) -> tuple[list[str], list[str]]:
    tool = f"{'iptables' if effect.family == 4 else 'ip6tables'}-legacy -t {effect.table}"
    apply = [
        f"{tool} -N {effect.name}",
        *(f"{tool} -A {effect.name} {_rule(rule)}" for rule in effect.rules),
        f"{tool} -I {effect.hook} 1 -j {effect.name}",
    ]
    revert = [
        f"{tool} -D {effect.hook} -j {effect.name}",
        f"{tool} -F {effect.name}",
        f"{tool} -X {effect.name}",
    ]
    return apply, revert


def _rule(rule: Rule) -> str:
    parts = [f"-p {rule.protocol}"] if rule.protocol else []
    for flag, value in (("-s", rule.source), ("-d", rule.destination)):
        parts += [f"{flag} {value}"] if value else []
    for flag, value in (("-i", rule.in_device), ("-o", rule.out_device)):
        parts += [f"{flag} {value}"] if value else []
    for flag, ports in (("--sports", rule.source_ports), ("--dports", rule.destination_ports)):
        parts += [f"-m multiport {flag} {','.join(ports)}"] if ports else []
    if rule.match_set:
        parts.append(f"-m set --match-set {rule.match_set} {rule.set_side}")
    parts.append(f"-j {rule.target}")
    if rule.target == "MARK":
        parts.append(f"--set-xmark {rule.mark:#x}/{rule.mask:#x}")
    return " ".join(parts)
