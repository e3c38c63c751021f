"""netem and tbf in the kernel's own units, both ways, and as a netlink message.

pyroute2 knows no loss models and no delay tables, and its percentages are floats. So
netem's options are made and read here, from integers, and verify can ask for equality.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_netem

from chaos_core import distributions
from chaos_core.effects import Netem, Tbf

_ALL = 2**32 - 1  # a share of one
_TICKS_PER_US = 15.625  # the kernel's psched clock: 64 ns a tick, fixed since 2.6.31
_PLAIN = ("delay", "limit", "loss", "gap", "duplicate", "jitter")
_NESTED = {
    "TCA_NETEM_CORR": ("delay_corr", "loss_corr", "dup_corr"),
    "TCA_NETEM_REORDER": ("prob_reorder", "corr_reorder"),
    "TCA_NETEM_CORRUPT": ("prob_corrupt", "corr_corrupt"),
    "TCA_NETEM_RATE": ("rate", "packet_overhead", "cell_size", "cell_overhead"),
}
_BURSTS = ("p", "r", "h", "k1")


def in_ticks(netem: Netem) -> dict[str, int]:
    """A Netem as the kernel keeps it: ticks of 64 ns, shares of 2^32 - 1, packets."""
    bursts = netem.bursts
    asked = {
        "delay": round(netem.delay * _TICKS_PER_US),
        "jitter": round(netem.jitter * _TICKS_PER_US),
        "delay_corr": _share(netem.correlation) if netem.jitter else 0,
        "loss": _share(netem.loss),
        "limit": netem.limit,
        "duplicate": _share(netem.duplicate),
        "gap": 1 if netem.reorder else 0,
        "prob_reorder": _share(netem.reorder),
        "corr_reorder": _share(netem.reorder_correlation),
        "prob_corrupt": _share(netem.corrupt),
        # h is the share that the bad state lets through
        "p": _share(bursts.to_bad) if bursts else 0,
        "r": _share(bursts.to_good) if bursts else 0,
        "h": _ALL - _share(bursts.loss_in_bad) if bursts else 0,
        "k1": _share(bursts.loss_in_good) if bursts else 0,
    }
    return (
        dict.fromkeys((*_PLAIN, *(name for part in _NESTED.values() for name in part)), 0) | asked
    )


def _share(ppm: int) -> int:
    return round(ppm * _ALL / 1_000_000)


def read_netem(options: Any) -> dict[str, int]:
    """The same from the kernel's message. The table of a distribution is not in it."""
    found = {name: int(options[name]) for name in _PLAIN}
    for attribute, names in _NESTED.items():
        part = options.get_attr(attribute)
        found |= {name: int(part[name]) if part else 0 for name in names}
    model = options.get_attr("TCA_NETEM_LOSS")
    bursts = model.get_attr("NETEM_LOSS_GE") if model else None
    return found | {name: int(bursts[name]) if bursts else 0 for name in _BURSTS}


def tbf_in_ticks(tbf: Tbf) -> dict[str, int]:
    """A Tbf as the kernel keeps it: bytes a second, bytes, and the burst's time in ticks."""
    buffer = round(tbf.burst * _TICKS_PER_US * 1_000_000 / tbf.rate)
    return {"rate": tbf.rate, "limit": tbf.limit, "buffer": buffer}


class _Netem:
    """The plug-in by which pyroute2 writes and reads a netem qdisc."""

    parent: ClassVar = TC_H_ROOT

    class options(sched_netem.options):  # type: ignore[misc]  # noqa: N801 - pyroute2's names
        nla_map = (
            ("TCA_NETEM_UNSPEC", "none"),
            ("TCA_NETEM_CORR", "netem_corr"),
            ("TCA_NETEM_DELAY_DIST", "cdata"),
            ("TCA_NETEM_REORDER", "netem_reorder"),
            ("TCA_NETEM_CORRUPT", "netem_corrupt"),
            ("TCA_NETEM_LOSS", "netem_loss"),
            ("TCA_NETEM_RATE", "netem_rate"),
        )

        class netem_loss(nla):  # type: ignore[misc]  # noqa: N801
            nla_map = (
                ("NETEM_LOSS_UNSPEC", "none"),
                ("NETEM_LOSS_GI", "hex"),
                ("NETEM_LOSS_GE", "gemodel"),
            )

            class gemodel(nla):  # type: ignore[misc]  # noqa: N801
                fields = tuple((name, "I") for name in _BURSTS)

    @staticmethod
    def get_parameters(request: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, int] = request["values"]
        attributes: list[Any] = [
            [attribute, {name: values[name] for name in names}]
            for attribute, names in _NESTED.items()
            if any(values[name] for name in names)
        ]
        if values["p"]:
            model = {name: values[name] for name in _BURSTS}
            attributes.append(["TCA_NETEM_LOSS", {"attrs": [["NETEM_LOSS_GE", model]]}])
        if table := distributions.table(request["distribution"]):
            attributes.append(["TCA_NETEM_DELAY_DIST", struct.pack(f"={len(table)}h", *table)])
        return {**{name: values[name] for name in _PLAIN}, "attrs": attributes}

    @staticmethod
    def fix_request(request: dict[str, Any]) -> None:
        del request["values"], request["distribution"]


plugins["netem"] = _Netem
