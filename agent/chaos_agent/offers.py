"""What this node offers: its facts for compiling, its kinds of faults and whether it can do them."""

from __future__ import annotations

import os
from typing import Any

from chaos_agent import __version__
from chaos_agent.config import AgentConfig
from chaos_agent.doctor import examine
from chaos_agent.journal import boot_id
from chaos_agent.linux.host import Host
from chaos_core import envelope
from chaos_core.effects import Pipe
from chaos_core.faults import Fault, kinds
from chaos_core.messages import Hello
from chaos_core.node import Device, NodeView, Route


def node_view(config: AgentConfig, host: Host) -> NodeView:
    """This node's facts, read afresh."""
    return NodeView(
        name=config.node,
        cpus=os.cpu_count() or 1,
        memory_total=memory_total(),
        devices=tuple(
            Device(device.name, device.addresses, device.loopback, device.prefs)
            for device in host.routes.devices()
        ),
        routes=tuple(
            Route(route.destination, route.device, route.metric) for route in host.routes.routes()
        ),
        protected=config.protected,
        mark_mask=config.mark_mask,
    )


def memory_total() -> int:
    """MemTotal in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemTotal")
