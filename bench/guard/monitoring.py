"""A real Prometheus and a real Alertmanager (Debian's) beside the controller, for one app."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Final

from bench.guard.ground import CTL, NODE, Ground, wait_for

_PROMETHEUS: Final = """\
global: {{scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}}
rule_files: [{name}-rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{ip}:{alerts}"]}}]}}]}}
scrape_configs:
  - {{job_name: app, static_configs: [{{targets: ["{node}:{app}"]}}]}}
"""
_RULES: Final = """\
groups:
  - name: app
    rules:
      - {alert: AppDown, expr: up == 0, labels: {severity: P1}}
"""
_ALERTMANAGER: Final = """\
route: {receiver: nobody, group_wait: 1s}
receivers: [{name: nobody}]
"""
_READY_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Where the two are, and Prometheus' process."""

    prometheus: str
    alertmanager: str
    server: subprocess.Popen[bytes]


def monitoring(ground: Ground, name: str, app: int, port: int) -> Monitoring:
    """Both, watching the app on port ``app`` of the node, until the ground is closed.

    Prometheus listens on ``port``, Alertmanager on the next. An app that cannot be scraped is an
    alert of severity P1.
    """
    home = ground.home
    settings = _PROMETHEUS.format(name=name, ip=CTL, alerts=port + 1, node=NODE, app=app)
    (home / f"{name}-prometheus.yml").write_text(settings)
    (home / f"{name}-rules.yml").write_text(_RULES)
    (home / f"{name}-alertmanager.yml").write_text(_ALERTMANAGER)
    ground.start(
        "ctl",
        [
            "/usr/bin/prometheus-alertmanager",
            f"--config.file={home}/{name}-alertmanager.yml",
            f"--storage.path={home}/{name}-alerts",
            f"--web.listen-address={CTL}:{port + 1}",
            "--cluster.listen-address=",
        ],
        f"{name}-alertmanager.log",
    )
    server = ground.start(
        "ctl",
        [
            "/usr/bin/prometheus",
            f"--config.file={home}/{name}-prometheus.yml",
            f"--storage.tsdb.path={home}/{name}-data",
            f"--web.listen-address={CTL}:{port}",
        ],
        f"{name}-prometheus.log",
    )
    found = Monitoring(f"http://{CTL}:{port}", f"http://{CTL}:{port + 1}", server)
    for url in (found.prometheus, found.alertmanager):
        wait_for(lambda url=url: asked(ground, f"{url}/-/ready"), url, _READY_S)
    return found


def asked(ground: Ground, url: str) -> str:
    """What is answered there; nothing when nobody does."""
    argv = ground.at("ctl", ["curl", "-fsS", "-m", "2", url])
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
