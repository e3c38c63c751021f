"""What a node has for faults to hurt: a service, a second network with a resolver, a database,
hooks."""

from __future__ import annotations

from chaos_lab import provision
from chaos_lab.catalogue import databases
from chaos_lab.fleet import Fleet
from chaos_lab.torture.cases import (
    DATABASE,
    FAR_IP,
    HOOKED,
    NEAR,
    NEAR_IP,
    PORT,
    TASKS_MAX,
    VICTIM,
    Kind,
)

_PROGRAM = "/usr/local/lib/victim.py"
_ANSWERS = f"""
import asyncio
async def answer(reader, writer):
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except (OSError, EOFError): pass
    finally: writer.close()
async def main():
    await (await asyncio.start_server(answer, "0.0.0.0", {PORT})).serve_forever()
asyncio.run(main())
"""
_UNIT = f"""
[Service]
ExecStart=/usr/bin/python3 -S {_PROGRAM}
Restart=always
RestartSec=100ms
TasksMax={TASKS_MAX}
IOAccounting=yes
[Unit]
StartLimitIntervalSec=0
[Install]
WantedBy=multi-user.target
"""
# The far end answers every lookup, with the question. Numbers are fixed, since listings show them.
_FAR, _RESOLVER = "far.service", "/usr/local/lib/resolver.py"
_ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
    resolver.bind(("", 53))
    while True:
        resolver.sendto(*resolver.recvfrom(512))
"""
_FAR_UNIT = f"""
[Service]
Type=exec
ExecStartPre=/sbin/ip netns add far
ExecStartPre=/sbin/ip link add {NEAR} index 90 type veth peer name far index 91
ExecStartPre=/sbin/ip link set far netns far
ExecStartPre=/sbin/ip addr add {NEAR_IP}/24 dev {NEAR}
ExecStartPre=/sbin/ip link set {NEAR} up
ExecStartPre=/sbin/ip -n far addr add {FAR_IP}/24 dev far
ExecStartPre=/sbin/ip -n far link set far up
ExecStart=/sbin/ip netns exec far /usr/bin/python3 -S {_RESOLVER}
ExecStopPost=/sbin/ip link delete {NEAR}
ExecStopPost=/sbin/ip netns delete far
[Install]
WantedBy=multi-user.target
"""
_HOOKS = f"""
[hooks.mark]
run = ["/usr/bin/touch", "{HOOKED}"]
undo = ["/bin/rm", "-f", "{HOOKED}"]
user = "nobody"
[hooks.gc]
run = ["/bin/true"]
user = "nobody"
"""
_FILES = {
    _PROGRAM: _ANSWERS,
    _RESOLVER: _ECHO,
    f"/etc/systemd/system/{VICTIM}": _UNIT,
    f"/etc/systemd/system/{_FAR}": _FAR_UNIT,
}


def give(fleet: Fleet, node: str) -> None:
    """Install all of it. The agent must be started anew afterwards."""
    for path, text in _FILES.items():
        fleet.put(node, path, text)
    fleet.exec(node, ["systemctl", "daemon-reload"], timeout=60)
    fleet.exec(node, ["systemctl", "enable", "--now", VICTIM, _FAR])
    databases.stock(fleet, node, DATABASE)
    fleet.exec(node, ["systemctl", "stop", DATABASE], timeout=60)  # until it is needed
    provision.write_config(fleet, node, "lab", databases.LISTED + _HOOKS)


def ready(fleet: Fleet, node: str, kind: Kind) -> None:
    """Start what a kind needs beside it. Idempotent."""
    if kind.beside:
        fleet.exec(node, ["systemctl", "start", kind.beside], timeout=60)


def take(fleet: Fleet, node: str) -> None:
    """Take it away again. The agent must be started anew afterwards."""
    provision.write_config(fleet, node, "lab")
    fleet.exec(node, ["systemctl", "stop", DATABASE], timeout=60)
    fleet.exec(node, ["systemctl", "disable", "--now", VICTIM, _FAR])
    fleet.exec(node, ["rm", *_FILES])
