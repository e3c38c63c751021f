"""What this node offers: its facts, its kinds of faults, and whether it can do them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos_agent import __version__
from chaos_agent.config import AgentConfig
from chaos_agent.doctor import Ability, examine
from chaos_agent.journal import boot_id
from chaos_agent.linux import directories, processes
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import RUNNING
from chaos_core import envelope
from chaos_core.faults import Fault, kinds, problems
from chaos_core.messages import MAX_ADDRESSES, Hello
from chaos_core.node import Device, NodeView, Route, UnitFacts


def node_view(config: AgentConfig, host: Host, fault: Fault) -> NodeView:
    """What the fault must know of this node, read afresh."""
    asks = fault.asks()
    units = {name: found for name in asks.units if (found := _unit(host, name))}
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
        profile=config.envelope.profile,
        systemd=RUNNING.is_dir(),
        backend=host.backend,
        units=units,
        processes=tuple(processes.find(asks.processes)) if asks.processes else (),
        directory=directories.find(asks.directory, config.state) if asks.directory else None,
        files=processes.file_limits(),
    )


def _unit(host: Host, name: str) -> UnitFacts | None:
    found = host.systemd.state(name)
    if found is None:
        return None
    active = found.active in ("active", "reloading")
    return UnitFacts(
        id=found.id,
        active=active,
        frozen=found.freezer != "running",
        invocation=found.invocation,
        dependents=tuple(host.systemd.at_work(found.stopped_with)),
    )


def memory_total() -> int:
    """MemTotal in bytes."""
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemTotal")


def examine_host(host: Host) -> dict[str, Any]:
    """What doctor found, as JSON data: abilities, firewall, each kind with its verdict.

    ``problems`` are the kinds of others that cannot be had.
    """
    report = examine(host)
    abilities = {ability.name: ability for ability in report.abilities}
    return {
        "firewall": report.firewall,
        "abilities": [
            {"name": ability.name, "ok": ability.ok, "why": ability.why}
            for ability in report.abilities
        ],
        "kinds": {kind: _offer(cls, abilities) for kind, cls in kinds().items()},
        "problems": list(problems()),
    }


def _offer(cls: type[Fault], abilities: Mapping[str, Ability]) -> dict[str, Any]:
    missing = [abilities[need].why for need in cls.needs if not abilities[need].ok]
    other_family = [abilities[name] for need in cls.needs if (name := f"{need}-ipv6") in abilities]
    if not missing and not all(ability.ok for ability in other_family):
        why = "IPv4 only: " + "; ".join(ability.why for ability in other_family if not ability.ok)
    else:
        why = "; ".join(missing)
    return {
        "summary": cls.summary,
        "lease_holder": cls.lease_holder,
        "risky": cls.risky,
        "ok": not missing,
        "why": why,
        "schema": cls.model_json_schema(),
    }


def addresses(host: Host) -> tuple[str, ...]:
    """This node's own, by which others may reach it: on this host or on this link is none."""
    found = (text for device in host.routes.devices() for text in device.addresses)
    parsed = map(ipaddress.ip_address, found)
    return tuple(str(one) for one in parsed if not (one.is_loopback or one.is_link_local))


def hello(config: AgentConfig, host: Host, epoch: int, offers: dict[str, Any]) -> Hello:
    """Who this node is and what it can and may do. ``offers`` are examine_host()'s kinds."""
    return Hello(
        node=config.node,
        version=__version__,
        boot_id=boot_id(),
        epoch=epoch,
        envelope=envelope.as_json(config.envelope),
        kinds=offers,
        addresses=addresses(host)[:MAX_ADDRESSES],
        labels=config.labels,
    )
