"""What the kernel says about links and filters, as values; and Netem in the kernel's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaos_core.effects import Netem

EGRESS = 0xFFFFFFF3  # clsact's egress hook as a filter's parent
INGRESS = 0xFFFFFFF2
ACTION_TAG = 0x63680000  # "ch" in the upper half of the action's index
CLAIM = "chaos clsact="  # a link's alias, before the ifindex
U32 = 2**32 - 1
_INDEX_MASK = 0xFFFF
_TICKS_PER_US = 15.625  # the kernel's psched clock: 64 ns a tick, fixed since 2.6.31
_IFF_UP = 1
_IFF_LOOPBACK = 8


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. ``clsact_of`` is the ifindex whose clsact this link claims, or 0."""

    index: int
    name: str
    kind: str
    up: bool
    loopback: bool
    clsact_of: int = 0


@dataclass(frozen=True, slots=True)
class Redirect:
    """An fw filter on clsact egress that redirects to ``target`` (an ifindex, 0 if it is gone)."""

    device: int
    pref: int
    mark: int
    mask: int
    target: int
    action: int
    protocol: int

    @property
    def ours(self) -> bool:
        return self.action & ~_INDEX_MASK == ACTION_TAG


def action_index(link_index: int) -> int:
    """The index that tags the redirect to one of our links."""
    return ACTION_TAG | link_index & _INDEX_MASK


def in_ticks(netem: Netem) -> dict[str, int]:
    """A Netem as the kernel keeps it: ticks of 64 ns, shares of 2^32 - 1, packets."""
    return {
        "delay": round(netem.delay * _TICKS_PER_US),
        "jitter": round(netem.jitter * _TICKS_PER_US),
        "delay_corr": _share(netem.correlation) if netem.jitter else 0,
        "loss": _share(netem.loss),
        "limit": netem.limit,
    }


def _share(ppm: int) -> int:
    return round(ppm * U32 / 1_000_000)


def read_link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    alias = message.get_attr("IFLA_IFALIAS") or ""
    claimed = alias.removeprefix(CLAIM) if alias.startswith(CLAIM) else ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
        up=bool(message["flags"] & _IFF_UP),
        loopback=bool(message["flags"] & _IFF_LOOPBACK),
        clsact_of=int(claimed) if claimed.isdigit() else 0,
    )


def read_redirect(message: Any) -> Redirect | None:
    """The message as a Redirect; None for filters of any other make."""
    options = message.get_attr("TCA_OPTIONS")
    if message.get_attr("TCA_KIND") != "fw" or not options or not message["handle"]:
        return None
    actions = options.get_attr("TCA_FW_ACT")
    action = actions.get_attr("TCA_ACT_PRIO_1") if actions else None
    if action is None or action.get_attr("TCA_ACT_KIND") != "mirred":
        return None
    parms = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    if parms["eaction"] != 1:  # egress redirect
        return None
    mask = options.get_attr("TCA_FW_MASK")
    return Redirect(
        device=message["index"],
        pref=message["info"] >> 16,
        mark=message["handle"],
        mask=U32 if mask is None else mask,
        target=parms["ifindex"],
        action=parms["index"],
        protocol=message["info"] & 0xFFFF,
    )
