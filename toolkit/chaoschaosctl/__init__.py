"""Chaos Toolkit's extension: ``chaos run`` drives this system, with its leases.

Nothing of the safety is here: whoever asks, the controller and the agents decide what is
allowed and when it ends. docs/chaos-toolkit.md shows how to use it.
"""

from __future__ import annotations

from importlib.metadata import version

from chaoslib.discovery.discover import (
    discover_actions,
    discover_probes,
    initialize_discovery_result,
)
from chaoslib.types import Discovery

__all__ = ["discover"]
__version__ = version("chaosctl")


def discover(discover_system: bool = True) -> Discovery:
    """All that the toolkit can call here. The fleet itself is `chaosctl nodes`'s to tell."""
    del discover_system
    found = initialize_discovery_result("chaosctl", __version__, "chaosctl")
    found["activities"] += discover_actions(f"{__name__}.actions")
    found["activities"] += discover_probes(f"{__name__}.probes")
    return found
