"""A real service on the lab's VMs, for experiments to be tried on.

::

    controller ──probes──▶ n1 nginx ─┬▶ n1 app ─┬▶ n3 PostgreSQL
                                     └▶ n2 app ─┴▶ n3 Redis

Everything but the application (``app.py``) is Debian's. The manner says how it is built:
``sturdy`` or ``fragile``, on both levels (nginx' retries and time-outs, and the application's).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from chaos_lab import provision
from chaos_lab.fleet import Fleet

Manner = Literal["sturdy", "fragile"]

FRONT: Final = "n1"
APPS: Final = ("n1", "n2")
STORE: Final = "n3"
LABELS: Final = {
    "n1": ("role=front", "role=app", "critical=2"),
    "n2": ("role=app", "critical=1"),
    "n3": ("role=db", "role=cache", "critical=3"),
}
APP_PORT: Final = 8000
_SLOW_S: Final = 300.0  # starting PostgreSQL, on VMs of a machine that is busy

_UNIT: Final = """\
[Unit]
Description=The lab's shop
After=network.target

[Service]
ExecStart=/usr/bin/python3 /opt/shop/app.py
Environment=SHOP_MANNER={manner} SHOP_CACHE=redis://{store}:6379/0
Environment="SHOP_DATABASE=host={store} dbname=shop user=shop password=shop"
User=www-data
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

_NGINX: Final = """\
upstream shop {{
{servers}
    keepalive 16;
}}
server {{
    listen 80 default_server;
    listen [::]:80 default_server;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
{manner}
    location / {{
        proxy_pass http://shop;
    }}
}}
"""

# What faults may use, as root lists it in a node's agent.toml.
_LISTED: Final = """
[hooks.flush-cache]
run = ["/usr/bin/redis-cli", "flushall"]
user = "redis"

[hooks.gc]
run = ["/usr/bin/true"]
user = "nobody"

[postgres.shop]
dsn = "postgresql://shop@{store}:5432/shop"
password_file = "/etc/chaos/shop.password"

[redis.shop]
url = "redis://{store}:6379/0"
"""

_MANNERS: Final[dict[Manner, str]] = {
    "sturdy": """\
proxy_connect_timeout 300ms;
proxy_read_timeout 1s;
proxy_next_upstream error timeout http_429 http_500 http_502 http_503;
proxy_next_upstream_tries 2;
location /order/ {
    proxy_pass http://shop;
    proxy_read_timeout 8s;
}
""",
    "fragile": """\
proxy_next_upstream off;
""",
}


def open_up(
    fleet: Fleet, manner: Manner, *, profile: str = "staging", say: Callable[[str], None]
) -> None:
    """Set the shop up in this manner, also where it is open already; waits until it sells.

    Its nodes get labels, ``profile``, and the lists of what faults may use.
    """
    say(f"{', '.join(LABELS)}: labels, hooks, databases")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: _tell_agent(fleet, node, profile), LABELS))
    provision.wait_connected(fleet, timeout=_SLOW_S)
    say(f"{STORE}: PostgreSQL and Redis")
    _store(fleet)
    say(f"{', '.join(APPS)}: the application, {manner}; {FRONT}: nginx")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: _app(fleet, node, manner), APPS))
    _front(fleet, manner)
    _wait(fleet)


def restart(fleet: Fleet) -> None:
    """Start the application anew, as one does with what cannot help itself."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: _systemctl(fleet, node, "restart", "shop"), APPS))
    _wait(fleet)


def _systemctl(fleet: Fleet, node: str, *words: str) -> None:
    fleet.exec(node, ["systemctl", "--quiet", *words], timeout=_SLOW_S)


def _wait(fleet: Fleet) -> None:
    """Until it sells."""
    fleet.exec(FRONT, ["curl", "-fsS", "--retry", "40", "--retry-delay", "1",
                       "--retry-all-errors", "http://127.0.0.1/item/1"], timeout=90)  # fmt: skip


def _tell_agent(fleet: Fleet, node: str, profile: str) -> None:
    listed = _LISTED.format(store=fleet.seat(STORE).ip)
    fleet.put(node, "/etc/chaos/shop.password", "shop\n", 0o600)
    provision.write_config(fleet, node, profile, listed, LABELS[node])
    _systemctl(fleet, node, "restart", provision.KEEPER_UNIT, provision.LINK_UNIT)


def _store(fleet: Fleet) -> None:
    network = f"{fleet.seat(STORE).ip.rsplit('.', 1)[0]}.0/24"
    script = Path(__file__).with_name("store.sh").read_text()
    fleet.exec(STORE, ["bash", "-c", script, "store", network], timeout=_SLOW_S)


def _app(fleet: Fleet, node: str, manner: Manner) -> None:
    fleet.exec(node, ["mkdir", "-p", "/opt/shop"])
    fleet.put(node, "/opt/shop/app.py", Path(__file__).with_name("app.py").read_bytes())
    unit = _UNIT.format(manner=manner, store=fleet.seat(STORE).ip)
    fleet.put(node, "/etc/systemd/system/shop.service", unit)
    _systemctl(fleet, node, "daemon-reload")
    _systemctl(fleet, node, "enable", "shop")
    _systemctl(fleet, node, "restart", "shop")


def _front(fleet: Fleet, manner: Manner) -> None:
    servers = "\n".join(
        f"    server {fleet.seat(node).ip}:{APP_PORT} max_fails=0;" for node in APPS
    )
    told = textwrap.indent(_MANNERS[manner], " " * 4).rstrip()
    text = _NGINX.format(servers=servers, manner=told)
    fleet.put(FRONT, "/etc/nginx/sites-available/default", text)
    _systemctl(fleet, FRONT, "enable", "nginx")
    _systemctl(fleet, FRONT, "restart", "nginx")
