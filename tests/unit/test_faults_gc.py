"""gc.pressure: a hook, a signal that nobody dies of, or memory that is churned under caps."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from chaos_core import effects, envelope, faults
from chaos_core.effects import Holder, Kill
from chaos_core.envelope import PROFILES
from chaos_core.errors import EnvelopeExceeded, InvalidInput, Refused, Unsupported
from chaos_core.faults import Fault
from chaos_core.node import NodeView, ProcessFacts, UnitFacts
from chaos_core.units import SECOND, Percent

USR1 = 1 << (signal.SIGUSR1 - 1)
MAIN = ProcessFacts(70, 100, "java", "app.service", caught=USR1)
CHILD = ProcessFacts(71, 110, "helper", "app.service")
APP = UnitFacts("app.service", active=True, main=70)
NODE = replace(NodeView.example(), units={"app.service": APP}, processes=(CHILD, MAIN))


def signalled(**given: str) -> Fault:
    return faults.parse("gc.pressure", {"unit": "app", "signal": "USR1", **given})


def churn(**given: str) -> Fault:
    return faults.parse("gc.pressure", {"churn": "64MiB", **given})


def test_the_main_process_alone_is_signalled_and_only_if_it_handles_that() -> None:
    (kill,) = signalled().compile(NODE, "0123abcd")
    assert kill == Kill(((70, 100),), "SIGUSR1", fatal=False, handled=True)
    assert effects.from_text(effects.to_text(kill)) == kill


@pytest.mark.parametrize("caught", [0, ~USR1, 1 << (signal.SIGUSR2 - 1)])
def test_a_process_that_would_die_of_it_is_not_signalled(caught: int) -> None:
    node = replace(NODE, processes=(CHILD, replace(MAIN, caught=caught)))
    with pytest.raises(Refused, match="does not handle SIGUSR1, and would die"):
        signalled().compile(node, "0123abcd")


@pytest.mark.parametrize(
    ("node", "unit", "said"),
    [
        (replace(NODE, processes=(CHILD,)), "app", "no main process"),
        (replace(NODE, units={"app.service": replace(APP, main=0)}), "app", "no main process"),
        (replace(NODE, units={"app.service": replace(APP, active=False)}), "app", "not running"),
        (NODE, "nosuch", "there is no nosuch"),
        (replace(NODE, units={"ssh.service": replace(APP, id="ssh.service")}), "ssh", "protected"),
        (replace(NODE, unable={"kill": "kill: no CAP_KILL"}), "app", "no CAP_KILL"),
    ],
)
def test_a_unit_that_may_not_be_signalled_is_refused(node: NodeView, unit: str, said: str) -> None:
    with pytest.raises((InvalidInput, Refused, Unsupported), match=said):
        signalled(unit=unit).compile(node, "0123abcd")


def test_in_production_only_what_root_has_listed_is_done_to_a_service() -> None:
    with pytest.raises(EnvelopeExceeded, match="refused in profile production"):
        envelope.check(PROFILES["production"], signalled().draw(), SECOND)
    envelope.check(PROFILES["staging"], signalled().draw(), SECOND)


@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP", "SIGUSR1", "10", ""])
def test_no_other_signal_is_known(name: str) -> None:
    with pytest.raises(InvalidInput, match="signal"):
        signalled(signal=name)


def test_what_is_churned_is_under_two_caps_that_are_drawn() -> None:
    fault = churn(cpu="10%")
    (holder,) = fault.compile(NODE, "0123abcd")
    assert isinstance(holder, Holder)
    assert (holder.work, holder.rate, holder.cpu_quota) == ("churn", 64 * 2**20, 40_000)
    draw = fault.draw().on(NODE.memory_total)
    assert draw.cpu == Percent.parse("10%")
    assert draw.memory * NODE.memory_total // 1_000_000 >= holder.memory_max
    envelope.check(PROFILES["production"], draw, SECOND)
    with pytest.raises(EnvelopeExceeded, match="cpu 16%"):
        envelope.check(PROFILES["production"], churn(cpu="16%").draw(), SECOND)
    with pytest.raises(InvalidInput, match="less than a quota"):
        churn(cpu="0.1%").compile(NODE, "0123abcd")


@pytest.mark.parametrize("rate", ["1023KiB", "17GiB", "64", "-1MiB"])
def test_other_rates_are_refused(rate: str) -> None:
    with pytest.raises(InvalidInput, match="churn"):
        churn(churn=rate)


@pytest.mark.parametrize(
    "given",
    [
        {"hook": "gc", "churn": "64MiB"},
        {"hook": "gc", "unit": "app", "signal": "USR1"},
        {"unit": "app", "signal": "USR1", "churn": "64MiB"},
        {"unit": "app"},
        {"signal": "USR1"},
    ],
)
def test_it_is_one_of_three(given: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"one of hook, signal|goes with unit"):
        faults.parse("gc.pressure", given)
