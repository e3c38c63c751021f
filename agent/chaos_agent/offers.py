"""What this node offers: its facts, its kinds of faults, and whether it can do them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos_agent import __version__
from chaos_agent.config import AgentConfig
from chaos_agent.doctor import Ability, examine, lacking, translates
from chaos_agent.linux import caches, clock, directories, limits, processes, sshd
from chaos_agent.linux.boottime import boot_id, now_us
from chaos_agent.linux.cgroupfs import unified_id
from chaos_agent.linux.host import Host
from chaos_agent.linux.sockets import connections_to
from chaos_agent.linux.systemd import RUNNING
from chaos_core import envelope
from chaos_core.addresses import network
from chaos_core.faults import Fault, kinds, problems
from chaos_core.messages import MAX_ADDRESSES, Hello, Survived
from chaos_core.node import Device, NodeView, Protected, UnitFacts

_LISTED = {"database": "postgres", "redis": "redis", "memcached": "memcached"}  # by field


def node_view(config: AgentConfig, host: Host, fault: Fault) -> NodeView:
    """What the fault must know of this node, read afresh."""
    asks = fault.asks()
    units = {name: found for name in asks.units if (found := _unit(host, name, asks.limits))}
    protected = _protected(config, host) if asks.ssh_ports else config.protected
    groups = [*asks.cgroups, *(unit.cgroup.path for unit in units.values() if unit.cgroup)]
    ssh = tuple(connections_to(protected.ssh_ports)) if asks.ssh else ()
    kept = [*protected.controllers, *(far for _, far in ssh)] if asks.ssh else []
    towards = dict.fromkeys((*asks.towards, *(str(network(text)) for text in kept)))
    return NodeView(
        name=config.node,
        cpus=os.cpu_count() or 1,
        memory_total=memory_total(),
        devices=tuple(
            Device(
                *(device.name, device.addresses, device.loopback, device.prefs),
                *(device.vrf, device.egress_taken, device.ingress_taken),
            )
            for device in host.devices.all()
        ),
        ways=host.ways.towards(towards, asks.interface),
        protected=protected,
        mark_mask=config.mark_mask,
        profile=config.envelope.profile,
        systemd=RUNNING.is_dir(),
        backend=host.backend,
        units=units,
        processes=tuple(processes.find(asks.processes)) if asks.processes else (),
        cgroups={path: inode for path in groups if (inode := unified_id(path))},
        ssh=ssh,
        now=now_us(),
        block=limits.block_of(asks.block_of) if asks.block_of else "",
        clock=clock.facts() if asks.clock else None,
        hook=config.hooks.get(asks.hook),
        services=frozenset(config.services),
        boot=boot_id(),
        flushes=caches.flushes() if asks.flushes else (0, 0),
        directory=directories.find(asks.directory, config.state) if asks.directory else None,
        files=processes.file_limits(),
        unable=lacking(host, asks.abilities) if asks.abilities else {},
        translates=asks.translation and translates(host),
    )


def _protected(config: AgentConfig, host: Host) -> Protected:
    """What the file says, and where SSH servers are found: never less than the file."""
    found = {one.port for one in sshd.find(host.systemd)}
    ports = tuple(sorted(found.union(config.protected.ssh_ports)))
    return replace(config.protected, ssh_ports=ports)


def ssh_ports(config: AgentConfig, host: Host) -> list[dict[str, Any]]:
    """Each protected SSH port as JSON data: why it is protected, and what to look at.

    Raises Unsupported when this kernel does not list sockets.
    """
    found = {one.port: one.who for one in sshd.find(host.systemd)}
    listed = config.protected.ssh_ports
    return [
        {
            "port": port,
            "configured": port in listed,
            "found": found.get(port, ""),
            "warning": _ssh_warning(port in listed, found.get(port, "")),
        }
        for port in sorted({*found, *listed})
    ]


def _ssh_warning(configured: bool, found: str) -> str:
    if configured and not found:
        return "no SSH server is seen to listen there: check network.ssh_ports"
    if found and not configured:
        return "only found, not configured: add it to network.ssh_ports in agent.toml"
    return ""


def _unit(host: Host, name: str, files: Sequence[str]) -> UnitFacts | None:
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
        cgroup=limits.facts(host.systemd.control_group(found.id), files) if active else None,
        main=host.systemd.main_pid(found.id) if active else 0,
    )


def memory_total() -> int:
    """MemTotal in bytes."""
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo has no MemTotal")


def examine_host(
    host: Host, hooks: Collection[str] = (), services: Collection[str] = ()
) -> dict[str, Any]:
    """What doctor found, as JSON data: abilities, firewall, each kind with its verdict.

    ``problems`` are the kinds of others that cannot be had.
    """
    report = examine(host, hooks, services)
    lists = {"hook": sorted(hooks)}
    for field, kind in _LISTED.items():
        lists[field] = sorted(
            name.partition(".")[2] for name in services if name.startswith(f"{kind}.")
        )
    abilities = {ability.name: ability for ability in report.abilities}
    return {
        "firewall": report.firewall,
        "abilities": [
            {"name": ability.name, "ok": ability.ok, "why": ability.why}
            for ability in report.abilities
        ],
        "kinds": {kind: _offer(cls, abilities, lists) for kind, cls in kinds().items()},
        "problems": list(problems()),
    }


def _offer(
    cls: type[Fault], abilities: Mapping[str, Ability], lists: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """One kind. ``lists`` are the names that some fields may have here."""
    missing = [abilities[need].why for need in cls.needs if not abilities[need].ok]
    other_family = [abilities[name] for need in cls.needs if (name := f"{need}-ipv6") in abilities]
    if not missing and not all(ability.ok for ability in other_family):
        why = "IPv4 only: " + "; ".join(ability.why for ability in other_family if not ability.ok)
    else:
        why = "; ".join(missing)
    schema = cls.model_json_schema()
    for field, names in lists.items():
        if found := schema["properties"].get(field):
            optional = found.get("default") == ""
            found["enum"] = ["", *names] if optional else list(names)
    return {
        "summary": cls.summary,
        "lease_holder": cls.lease_holder,
        "risky": cls.risky,
        "ok": not missing,
        "why": why,
        "schema": schema,
    }


def addresses(host: Host) -> tuple[str, ...]:
    """This node's own, by which others may reach it: on this host or on this link is none."""
    found = (text for device in host.devices.all() for text in device.addresses)
    parsed = map(ipaddress.ip_address, found)
    return tuple(str(one) for one in parsed if not (one.is_loopback or one.is_link_local))


def hello(
    config: AgentConfig,
    host: Host,
    epoch: int,
    offers: dict[str, Any],
    survived: tuple[Survived, ...] = (),
) -> Hello:
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
        survived=survived,
    )
