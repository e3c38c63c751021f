"""Which nftables tables exist. They are only looked at, never changed."""

from __future__ import annotations

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def tables() -> list[str]:
    """``family name`` of each table; none when the kernel has no nftables."""
    try:
        with NFTables(nfgen_family=0) as socket:
            return sorted(
                f"{_FAMILIES.get(table['nfgen_family'], '?')} {table.get_attr('NFTA_TABLE_NAME')}"
                for table in socket.get_tables()
            )
    except (NetlinkError, OSError):
        return []
