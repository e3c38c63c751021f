"""Before and after: everything that a fault could have left, listed by the system's own tools."""

from __future__ import annotations

import re
from collections import Counter

from chaos_lab.drill.context import Drill

# A root qdisc with a class, a set, and rules in three tables.
_USERS_OWN = tuple(
    tuple(line.split())
    for line in """
tc qdisc replace dev eth0 root handle 77: htb default 10
tc class add dev eth0 parent 77: classid 77:10 htb rate 10gbit ceil 10gbit
ipset create users-own hash:ip
ipset add users-own 192.0.2.1
iptables -A INPUT -m set --match-set users-own src -j DROP
iptables -t mangle -A OUTPUT -d 192.0.2.2 -j MARK --set-xmark 0x4000/0x4000
ip6tables -A INPUT -s 2001:db8::1 -j DROP
""".strip().splitlines()
)

_LISTING = r"""
set -e
for table in raw mangle filter nat; do
  for family in iptables ip6tables; do
    echo "== $family $table"; $family-save -t $table | grep -v '^#' | sed 's/\[[0-9:]*\]//'
  done
done
echo "== sets"; ipset save | sed 's/ initval [^ ]*//'
echo "== links"; ip -o link show | sed 's/^[0-9]*: //; s/ *link\/.*//'
echo "== qdiscs"; tc qdisc show | sed 's/ direct_packets_stat [0-9]*//'
for dev in $(ls /sys/class/net); do
  echo "== filters $dev"; tc class show dev $dev; tc filter show dev $dev
  tc filter show dev $dev egress 2>/dev/null || true
  tc filter show dev $dev ingress 2>/dev/null || true
done
echo "== cgroups"; find /sys/fs/cgroup -type d -name 'chs-*'
echo "== processes"; pgrep -c -f "chaos_agent[/.](holder|workers)" || true
echo "== files"
find /etc/chaos /run/chaos /var/lib/chaos-agent /run/systemd/system -printf '%y %m %u %p\n' |
  grep -v -E 'journal|epoch' | sort
echo "== units"
systemctl list-units --all --no-legend --plain 'chaos*' 'chs*' | awk '{print $1, $3, $4}'
"""


def give(drill: Drill, node: str) -> None:
    """Give a node things of its user's own, which must survive everything."""
    for argv in _USERS_OWN:
        drill.fleet.exec(node, list(argv))


def listing(drill: Drill, node: str) -> list[str]:
    """All that a fault could leave on a node, one thing a line, without counters."""
    text = drill.fleet.exec(node, ["sh", "-c", _LISTING]).stdout
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]


def difference(before: list[str], now: list[str]) -> list[str]:
    """``-line`` for what is gone, ``+line`` for what is new; empty when the listings are equal."""
    old, new = Counter(before), Counter(now)
    return [
        *(f"-{line}" for line in sorted((old - new).elements())),
        *(f"+{line}" for line in sorted((new - old).elements())),
    ]


def residue(drill: Drill, before: dict[str, list[str]]) -> None:
    """Every node equals its listing from before the drill."""
    differences = [
        f"{node}: {line}"
        for node, lines in before.items()
        for line in difference(lines, listing(drill, node))
    ]
    drill.check(
        "residue.none",
        "P6, P7",
        "nodes equal their snapshots, user's own kept",
        f"{len(differences)} differences" + "".join(f"; {line}" for line in differences[:4]),
        "",
        not differences,
    )
