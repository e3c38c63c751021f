"""A sample of the kill matrix, twenty ways to hit something. All of it: ``make torture``.

Runs after test_system.py, on the fleet that it provisioned.
"""

from __future__ import annotations

from chaos_lab.drill.context import Drill
from chaos_lab.torture import campaign
from chaos_lab.torture.cases import KINDS
from chaos_lab.torture.report import Result


def test_whatever_dies_and_when_the_fault_is_gone_and_leaves_nothing(system: Drill) -> None:
    system.set_profile("lab", *system.fleet.nodes)

    def tell(result: Result) -> None:
        print(result.line, result.why)

    report = campaign.run(system.fleet, seed=2, drawn=20, say=print, tell=tell)
    system.set_profile("staging", *system.fleet.nodes)
    assert report.passed, report.as_markdown()
    assert len({result.case.hit for result in report.results}) == 20
    assert {result.case.kind for result in report.results} == set(KINDS)
    assert any(result.case.step and result.case.step.stage == "end" for result in report.results)
