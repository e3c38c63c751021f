"""Which tests a node of the matrix runs, and which kernel tests it does not, with the reason.

Data only. All of them are pytest's, run inside the node by the pytest of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KERNEL = (
    *("test_leased_set", "test_chain", "test_netfilter", "test_nft", "test_pipe", "test_netem"),
    *("test_ingress", "test_dns", "test_routes", "test_coexistence", "test_foreign_change"),
    *("test_sweep", "test_recover", "test_snapshot", "test_process_pause", "test_unit_limits"),
    *("test_cache_flush", "test_journal", "test_keeper", "test_process_repeat", "test_processes"),
    *("test_supervisor", "test_tamper", "test_worker", "test_doctor", "test_hostile_link"),
    *("test_composition", "test_hits", "test_rerouted", "test_forwarded", "test_access"),
    *("test_reasons", "test_netlink", "test_slow_host"),
)
"""Of ``tests/kernel``: their files. They take hours there, so they are run when asked for."""

MATRIX = (
    *("test_kinds", "test_undo", "test_rule_sets", "test_routing", "test_docker", "test_podman"),
    *("test_firewalld", "test_ufw", "test_ssh", "test_system"),
)
"""Of ``tests/matrix``: their files."""

_KINDS = "tests/matrix/test_kinds.py::test_a_kind_bites_and_leaves_nothing"
SAMPLE = (
    "tests/matrix/test_undo.py",
    *(f"{_KINDS}[{fault}-nft]" for fault in ("latency", "loss out", "partition drop", "dns")),
    *(f"{_KINDS}[{fault}-xtables]" for fault in ("latency", "latency in", "loss in")),
)
"""What is run where there are only minutes."""

LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "test_cache_services": "needs PostgreSQL, Redis and Memcached, which the images have not",
        "test_clock": "moves the clock, on which an emulated node's timers depend",
        "test_holder": "measures shares of a CPU, which an emulated one cannot tell",
        "test_holders": "measures shares of a CPU, which an emulated one cannot tell",
        "test_postgres": "needs PostgreSQL, which the images have not",
        "test_reboot": "pretends its boots, so the kernel does not matter",
    }
)
"""Files of ``tests/kernel`` that could not prove anything here, and why."""


def chosen(*, sample: bool = False, kernel: bool = False) -> tuple[str, ...]:
    """What to run, below the project's root: the matrix's own tests, or ``kernel`` tests."""
    if sample:
        return SAMPLE
    folder, names = ("kernel", KERNEL) if kernel else ("matrix", MATRIX)
    return tuple(f"tests/{folder}/{name}.py" for name in names)
