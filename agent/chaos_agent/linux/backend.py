"""Which firewall keeps our sets and rules: the one that this host really uses.

Both work side by side in the kernel. But the first legacy rule on a host of nftables
loads modules and makes every ``iptables`` there warn of it, and a kernel without legacy
tables has nothing else to offer.
"""

from __future__ import annotations

from chaos_agent.linux.host import Host
from chaos_agent.linux.xtables import FAMILIES
from chaos_core.effects import Backend, is_ours
from chaos_core.errors import Unsupported


def choose(host: Host) -> Backend:
    """nftables where it alone is in use, or where there is nothing else."""
    if any(host.xtables.tables(family) for family in FAMILIES):
        return "xtables"
    try:
        in_use = any(not is_ours(name) for _, name in host.nft.tables())
    except Unsupported:
        return "xtables"
    return "nft" if in_use or not host.xtables.works() else "xtables"
