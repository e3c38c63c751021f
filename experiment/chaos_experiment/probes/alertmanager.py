"""``alertmanager``: how bad the worst active alert is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from chaos_core.errors import InvalidInput
from chaos_core.text import printable
from chaos_core.units import SECOND
from chaos_experiment.probes import Context, Probe, Seen
from chaos_experiment.probes._web import Url, get_json, host_of

# What the label ``severity`` says, as an incident P0 to P4.
SEVERITIES: Final[Mapping[str, int]] = {
    **{f"p{number}": number for number in range(5)},
    "critical": 0,
    "error": 1,
    "warning": 2,
    "info": 3,
    "none": 4,
}


class Alertmanager(Probe):
    """The value is 0 for P0 to 4 for P4, of the worst alert that is active, not silenced and
    not inhibited; without one there is no value, and that is well. The label
    ``severity`` is P0 to P4, or else critical (P0), error (P1), warning (P2), info (P3) or none
    (P4). Without it, or with another word, an alert counts as P0: it may be one."""

    kind = "alertmanager"
    summary = "the worst active alert, as P0 to P4"
    example: ClassVar[Mapping[str, Any]] = {
        "url": "http://alertmanager:9093",
        "filter": ["team=shop"],
    }

    url: Url = Field(description="of the Alertmanager")
    filter: tuple[str, ...] = Field(
        default=(), max_length=20, description="matchers that an alert must meet"
    )
    verify: bool = Field(default=True, description="whether the certificate must be trusted")
    ca_file: Path | None = Field(default=None, description="whom to trust, if not the system's")

    def hosts(self) -> tuple[str, ...]:
        return (host_of(self.url),)

    async def measure(self, context: Context) -> Seen:
        del context
        status, answer = await self._ask()
        if status != 200 or not isinstance(answer, list):
            why = answer if isinstance(answer, str) else f"status {status}"
            return Seen(False, None, f"no answer of Alertmanager: {why}")
        try:
            labels = [alert["labels"] for alert in answer if alert["status"]["state"] == "active"]
            alerts = sorted((_severity(each), str(each.get("alertname", "?"))) for each in labels)
        except (KeyError, TypeError, AttributeError):
            return Seen(False, None, "no answer of Alertmanager: it cannot be read")
        if not alerts:
            return Seen(True, None, "no alert")
        names = dict.fromkeys(f"{name} (P{severity})" for severity, name in alerts)
        return Seen(True, float(alerts[0][0]), ", ".join(names))

    async def check(self, context: Context) -> None:
        del context
        try:
            async with asyncio.timeout(self.timeout / SECOND):
                status, answer = await self._ask()
        except Exception:  # that nobody answers is for preflight to say
            return
        if status == 400:
            raise InvalidInput(f"Alertmanager says: {printable(answer, 300)}", where="filter")

    async def _ask(self) -> tuple[int, Any]:
        ask: dict[str, str | list[str]] = {
            "active": "true",
            "silenced": "false",
            "inhibited": "false",
            "filter": list(self.filter),
        }
        url = f"{self.url.rstrip('/')}/api/v2/alerts"
        return await get_json(url, ask, self.verify, self.ca_file)


def _severity(labels: Mapping[str, str]) -> int:
    return SEVERITIES.get(labels.get("severity", "").lower(), 0)
