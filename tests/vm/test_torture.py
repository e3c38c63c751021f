"""A sample of the kill matrix: twenty ways to hit something, a kind of each way in which leases are
held. All of it: ``make torture``.

Its bounds are those that are promised, so ``make test-vm`` runs it alone on the machine.
"""

from __future__ import annotations

from chaos_lab.drill.context import Drill
from chaos_lab.torture import campaign
from chaos_lab.torture.cases import KINDS
from chaos_lab.torture.report import Result

# Sets that time out, outwards, inwards and pulsed; holders; workers; undo timers; hooks.
SAMPLE = (
    *("network.latency", "network.partition", "network.flap"),
    *("cpu.stress", "disk.fill", "http.fault"),
    *("unit.stop", "cpu.throttle", "clock.skew", "hook.run"),
)


def test_whatever_dies_and_when_the_fault_is_gone_and_leaves_nothing(system: Drill) -> None:
    system.set_profile("lab", *system.fleet.nodes)

    def tell(result: Result) -> None:
        print(result.line, result.why)

    sample = [kind for kind in KINDS if kind.name in SAMPLE]
    report = campaign.run(system.fleet, seed=2, drawn=20, kinds=sample, say=print, tell=tell)
    system.set_profile("staging", *system.fleet.nodes)
    assert report.passed, report.as_markdown()
    assert len({result.case.hit for result in report.results}) == 20
    assert {result.case.kind for result in report.results} == set(sample)
    assert any(result.case.step and result.case.step.stage == "end" for result in report.results)
