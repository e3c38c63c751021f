"""Which nftables tables exist. They are only looked at, never changed."""

from __future__ import annotations

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETTABLE, NFTSocket

_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def tables() -> list[str]:
    """``family name`` of each table; none when the kernel has no nftables."""
    try:
        with NFTSocket(nfgen_family=0) as socket:
            return sorted(
                f"{_FAMILIES.get(table['nfgen_family'], '?')} {table.get_attr('NFTA_TABLE_NAME')}"
                for table in socket.request_get(nfgen_msg(), NFT_MSG_GETTABLE)
            )
    except (NetlinkError, OSError):
        return []
