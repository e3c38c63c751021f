"""``prometheus`` and ``alertmanager`` beside the real ones: scrape, query, alert, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from tests.services.looks import look, look_until
from tests.services.private import free_port, running

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.probes import Context
from chaos_experiment.probes.alertmanager import Alertmanager
from chaos_experiment.probes.prometheus import Prometheus

_CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alerts}"]}}]}}]}}
scrape_configs: [{{job_name: shop, static_configs: [{{targets: ["127.0.0.1:{target}"]}}]}}]
"""
_RULES = """
groups:
  - name: shop
    rules:
      - {alert: ShopSlow, expr: shop_queue > 100, labels: {severity: warning, team: shop}}
      - {alert: ShopDown, expr: shop_queue > 1000, labels: {severity: P0, team: shop}}
      - {alert: Odd, expr: shop_queue > 10000, labels: {severity: purple, team: other}}
"""
_ALERTS = """
route: {receiver: nobody, group_wait: 1s}
receivers: [{name: nobody}]
"""


class Shop:
    """What is scraped."""

    queue = 7
    prometheus = ""
    alertmanager = ""

    def __init__(self) -> None:
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f'shop_queue {shop.queue}\nparts{{a="1"}} 1\nparts{{a="2"}} 2\n'.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    where = tmp_path_factory.mktemp("prometheus")
    shop = Shop()
    alerts, queries = free_port(), free_port()
    target = shop.server.server_address[1]
    (where / "prometheus.yml").write_text(_CONFIG.format(alerts=alerts, target=target))
    (where / "rules.yml").write_text(_RULES)
    (where / "alertmanager.yml").write_text(_ALERTS)
    shop.prometheus = f"http://127.0.0.1:{queries}"
    shop.alertmanager = f"http://127.0.0.1:{alerts}"
    Thread(target=shop.server.serve_forever, daemon=True).start()
    with (
        running(_alertmanager(where, alerts), alerts, where / "alertmanager.log"),
        running(_prometheus(where, queries), queries, where / "prometheus.log"),
    ):
        yield shop
    shop.server.shutdown()
    shop.server.server_close()


def _alertmanager(where: Path, port: int) -> list[str]:
    return [
        "/usr/bin/prometheus-alertmanager",
        f"--config.file={where}/alertmanager.yml",
        f"--storage.path={where}/alerts",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]


def _prometheus(where: Path, port: int) -> list[str]:
    return [
        "/usr/bin/prometheus",
        f"--config.file={where}/prometheus.yml",
        f"--storage.tsdb.path={where}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


async def test_a_query_gives_what_was_scraped(shop: Shop) -> None:
    probe = Prometheus(url=shop.prometheus, query="shop_queue")
    seen = await look_until(probe, lambda row: row.ok)
    assert (seen.ok, seen.value, seen.text) == (True, 7.0, "7")
    scalar = await look(Prometheus(url=shop.prometheus, query="scalar(shop_queue) * 2"))
    assert scalar.value == 14
    over = Prometheus(url=shop.prometheus, query="shop_queue", range=Duration.parse("10s"))
    ranged = await look_until(over, lambda row: row.ok)
    assert ranged.value == 7


async def test_what_cannot_be_told_has_failed(shop: Shop) -> None:
    async def said(query: str) -> str:
        seen = await look(Prometheus(url=shop.prometheus, query=query))
        assert (seen.ok, seen.value) == (False, None)
        return seen.text

    await look_until(Prometheus(url=shop.prometheus, query="sum(parts)"), lambda row: row.ok)
    assert await said("parts") == "2 series, not one: aggregate them, as by sum()"
    assert (await said("no_such_metric")).startswith("no data")
    assert "no figure" in await said("scalar(no_such_metric)")
    assert "parse error" in await said("sum(")


async def test_promql_is_checked_before_anything_is_hurt(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="parse error: unclosed left parenthesis"):
        await Prometheus(url=shop.prometheus, query="sum(").check(Context())
    await Prometheus(url=shop.prometheus, query="no_such_metric").check(Context())
    await Prometheus(url=f"http://127.0.0.1:{free_port()}", query="sum(").check(Context())
    with pytest.raises(InvalidInput, match="Alertmanager says"):
        await Alertmanager(url=shop.alertmanager, filter=("=",)).check(Context())


async def test_nobody_there(shop: Shop) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert (await look(Prometheus(url=nowhere, query="up"))).text == "connection refused"
    assert (await look(Alertmanager(url=nowhere))).text == "connection refused"
    other = Prometheus(url=shop.alertmanager, query="up")
    assert (await look(other)).text == "no answer of Prometheus: status 404"
    assert (await look(Alertmanager(url=shop.prometheus))).text.startswith("no answer of")


async def test_a_rule_that_fires_is_seen_and_a_silenced_one_is_not(shop: Shop) -> None:
    every = Alertmanager(url=shop.alertmanager)
    team = Alertmanager(url=shop.alertmanager, filter=("team=shop",))
    shop.queue = 7
    quiet = await look_until(every, lambda row: row.ok)
    assert (quiet.ok, quiet.value, quiet.text) == (True, None, "no alert")

    shop.queue = 500
    warned = await look_until(every, lambda row: row.value is not None)
    assert (warned.value, warned.text) == (2.0, "ShopSlow (P2)")

    shop.queue = 50_000
    down = await look_until(every, lambda row: row.text.count("(") == 3)
    assert down.value == 0
    assert down.text == "Odd (P0), ShopDown (P0), ShopSlow (P2)"
    mine = await look(team)
    assert mine.text == "ShopDown (P0), ShopSlow (P2)"

    await asyncio.to_thread(_silence, shop.alertmanager, "ShopDown")
    left = await look_until(team, lambda row: row.value == 2)
    assert (left.value, left.text) == (2.0, "ShopSlow (P2)")


def _silence(url: str, alert: str) -> None:
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "alertname", "value": alert, "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
        "createdBy": "test",
        "comment": "test",
    }
    httpx.post(f"{url}/api/v2/silences", json=silence, trust_env=False).raise_for_status()
