"""``prometheus``: the figure that a PromQL query gives."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from chaos_core.errors import InvalidInput
from chaos_core.text import printable
from chaos_core.units import SECOND, Duration
from chaos_experiment.probes import Context, Probe, Seen
from chaos_experiment.probes._web import Url, get_json, host_of

_POINTS = 60  # of a range, at most one a second


class Prometheus(Probe):
    """The query must give one series: several, or none, are failures that say so, since
    what cannot be told must not pass for well."""

    kind = "prometheus"
    summary = "the figure that a PromQL query gives"
    example: ClassVar[Mapping[str, Any]] = {
        "url": "http://prometheus:9090",
        "query": "sum(rate(http_requests_total{code=~'5..'}[1m]))",
    }

    url: Url = Field(description="of the Prometheus server")
    query: str = Field(min_length=1, max_length=4096, description="PromQL that gives one figure")
    range: Duration | None = Field(default=None, description="over the time just gone, not now")
    of: Literal["max", "min", "mean", "last"] = Field(
        default="max", description="the figure of a range"
    )
    verify: bool = Field(default=True, description="whether the certificate must be trusted")
    ca_file: Path | None = Field(default=None, description="whom to trust, if not the system's")

    def hosts(self) -> tuple[str, ...]:
        return (host_of(self.url),)

    async def measure(self, context: Context) -> Seen:
        del context
        status, answer = await self._ask()
        if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
            return Seen(False, None, f"no answer of Prometheus: status {status}")
        if answer["status"] == "error":
            return Seen(False, None, str(answer.get("error")))
        try:
            return self._read(answer["data"])
        except (KeyError, IndexError, TypeError, ValueError):
            return Seen(False, None, "no answer of Prometheus: it cannot be read")

    async def check(self, context: Context) -> None:
        del context
        try:
            async with asyncio.timeout(self.timeout / SECOND):
                _, answer = await self._ask()
        except Exception:  # that nobody answers is for preflight to say
            return
        if isinstance(answer, dict) and answer.get("errorType") == "bad_data":
            raise InvalidInput(
                f"Prometheus says: {printable(answer.get('error'), 300)}", where="query"
            )

    async def _ask(self) -> tuple[int, Any]:
        ask = {"query": self.query}
        path = "query"
        if self.range is not None:
            path, end = "query_range", time.time()
            length = self.range / SECOND
            step = max(1.0, length / _POINTS)
            ask |= {"start": f"{end - length:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        url = f"{self.url.rstrip('/')}/api/v1/{path}"
        return await get_json(url, ask, self.verify, self.ca_file)

    def _read(self, data: dict[str, Any]) -> Seen:
        kind, result = data["resultType"], data["result"]
        if kind == "string":
            return Seen(True, None, str(result[1]))
        if kind == "scalar":
            return _figure([result], self.of)
        if not result:
            return Seen(False, None, "no data: add `or vector(0)` if nothing is well")
        if len(result) > 1:
            return Seen(False, None, f"{len(result)} series, not one: aggregate them, as by sum()")
        return _figure(result[0].get("values") or [result[0]["value"]], self.of)


def _figure(points: list[tuple[float, str]], of: str) -> Seen:
    values = [float(text) for _, text in points]
    value = {
        "max": max(values),
        "min": min(values),
        "mean": math.fsum(values) / len(values),
        "last": values[-1],
    }[of]
    if not all(math.isfinite(each) for each in values):
        return Seen(False, None, f"the query gave {value}, which is no figure")
    return Seen(True, value, f"{value:.6g}")
