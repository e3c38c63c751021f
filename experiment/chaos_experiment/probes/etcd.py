"""``etcd``: whether a member is well, and how often its leader changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from chaos_experiment.probes import Context, Probe, Seen
from chaos_experiment.probes._web import Url, get, get_json, host_of

_CHANGES = re.compile(r"^etcd_server_leader_changes_seen_total (\S+)$", re.MULTILINE)


class Etcd(Probe):
    """Well when /health says so: the member serves and knows a leader. The value is the
    number of changes of leader that this member has seen since its start."""

    kind = "etcd"
    summary = "a member's health, and its changes of leader"
    example: ClassVar[Mapping[str, Any]] = {"url": "http://etcd-1:2379"}

    url: Url = Field(description="of the member, for clients or for metrics")
    verify: bool = Field(default=True, description="whether the certificate must be trusted")
    ca_file: Path | None = Field(default=None, description="whom to trust, if not the system's")

    def hosts(self) -> tuple[str, ...]:
        return (host_of(self.url),)

    async def measure(self, context: Context) -> Seen:
        del context
        base = self.url.rstrip("/")
        status, health = await get_json(f"{base}/health", {}, self.verify, self.ca_file)
        if not isinstance(health, dict) or health.get("health") != "true":
            why = health.get("reason") if isinstance(health, dict) else ""
            return Seen(False, None, f"unhealthy: {why or f'status {status}'}")
        _, metrics = await get(f"{base}/metrics", {}, self.verify, self.ca_file)
        changes = _CHANGES.search(metrics.decode(errors="replace"))
        if changes is None:
            return Seen(True, None, "healthy; it does not count changes of leader here")
        return Seen(True, float(changes[1]), f"healthy, {float(changes[1]):g} changes of leader")
