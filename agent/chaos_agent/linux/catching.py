"""tc's classifier ``basic`` with matches by set (em_ipset), as a netlink message, both ways.

pyroute2 writes such matches and cannot read them. Here the list of matches is bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.tcmsg import cls_basic, plugins
from pyroute2.netlink.rtnl.tcmsg.common_act import get_tca_action

_HEADER = struct.Struct("=HH")  # nlattr: length, type (the match's place, from 1)
_MATCH = struct.Struct("=HHHH")  # tcf_ematch_hdr: id, kind, flags, padding
_SET = struct.Struct("=HBB")  # xt_set_info: index, dimensions, a bit for each that is a source
_IPSET = 8  # TCF_EM_IPSET
_AND, _OR, _INVERT = 1, 2, 4  # TCF_EM_REL_*, TCF_EM_INVERT


@dataclass(frozen=True, slots=True)
class SetMatch:
    """That a packet is in a set, or, ``inverted``, is not.

    ``index`` is the kernel's number of the set, ``sides`` what of the packet each of its
    dimensions is compared with (``src``, ``src,dst``).
    """

    index: int
    sides: str
    inverted: bool = False


def matched_sets(options: Any) -> tuple[SetMatch, ...]:
    """What a basic filter asks, all of it; what is not of a set is one without a number."""
    tree = options.get_attr("TCA_BASIC_EMATCHES")
    return tuple(_read((tree.get_attr("TCA_EMATCH_TREE_LIST") if tree else None) or b""))


def _read(data: bytes) -> Iterator[SetMatch]:
    while len(data) >= _HEADER.size + _MATCH.size:
        length, _ = _HEADER.unpack_from(data)
        _, kind, flags, _ = _MATCH.unpack_from(data, _HEADER.size)
        if kind == _IPSET and not flags & _OR:
            index, dimensions, sources = _SET.unpack_from(data, _HEADER.size + _MATCH.size)
            sides = ("src" if sources >> n & 2 else "dst" for n in range(dimensions))
            yield SetMatch(index, ",".join(sides), bool(flags & _INVERT))
        else:
            yield SetMatch(-1, "")
        data = data[max(length + 3 & ~3, _HEADER.size) :]


def _written(asked: Sequence[SetMatch]) -> bytes:
    parts = []
    for place, one in enumerate(asked, 1):
        sides = one.sides.split(",")
        sources = sum(2 << n for n, side in enumerate(sides) if side == "src")
        flags = (_AND if place < len(asked) else 0) | (_INVERT if one.inverted else 0)
        body = _MATCH.pack(0, _IPSET, flags, 0) + _SET.pack(one.index, len(sides), sources)
        parts.append(_HEADER.pack(_HEADER.size + len(body), place) + body)
    return b"".join(parts)


class _Basic:
    """The plug-in by which pyroute2 writes and reads a basic filter."""

    fix_request: ClassVar = staticmethod(cls_basic.fix_request)

    class options(cls_basic.options):  # type: ignore[misc]  # noqa: N801 - pyroute2's names
        class parse_basic_ematch_tree(nla):  # type: ignore[misc]  # noqa: N801
            nla_map = (
                ("TCA_EMATCH_TREE_UNSPEC", "none"),
                ("TCA_EMATCH_TREE_HDR", "ematch_header"),
                ("TCA_EMATCH_TREE_LIST", "cdata"),
            )

            class ematch_header(nla):  # type: ignore[misc]  # noqa: N801
                fields = (("nmatches", "H"), ("progid", "H"))

    @staticmethod
    def get_parameters(request: dict[str, Any]) -> dict[str, Any]:
        asked: Sequence[SetMatch] = request["match"]
        tree = [
            ["TCA_EMATCH_TREE_HDR", {"nmatches": len(asked), "progid": 0}],
            ["TCA_EMATCH_TREE_LIST", _written(asked)],
        ]
        return {
            "attrs": [
                ["TCA_BASIC_EMATCHES", {"attrs": tree}],
                ["TCA_BASIC_ACT", get_tca_action(request)],
            ]
        }


plugins["basic"] = _Basic
