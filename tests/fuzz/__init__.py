"""Hostile peers, files and parameters, made up without end: ``make fuzz``.

Each module has one target: something of the product that takes what others wrote, real
but for what would need a kernel of its own, and a judge that looks at the outcome
without asking the code under test whether it is right.

- ``keeper_messages``  a taken-over link's messages, against Supervisor and Engine
- ``fault_params``     parameters of every kind, from parse to compiled effects
- ``agent_files``      journal, state and configuration files, damaged anywhere
- ``record_files``     records of experiments, and the reports that are made of them
- ``controller_wire``  agents, operators and strangers, against a controller over mTLS
- ``floods``           connections, calls, handshakes, messages: much at once
- ``link_wire``        a controller with a valid certificate, against a link

A taken-over link against the keeper as a process, on this machine's kernel, is
``tests/kernel/test_hostile_link.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.harness import Target


def targets() -> tuple[Target, ...]:
    """All targets that need nothing but this process."""
    from tests.fuzz import (
        agent_files,
        controller_wire,
        fault_params,
        keeper_messages,
        link_wire,
        record_files,
    )

    return (
        fault_params.TARGET,
        keeper_messages.TARGET,
        agent_files.TARGET,
        record_files.TARGET,
        controller_wire.TARGET,
        link_wire.TARGET,
    )
