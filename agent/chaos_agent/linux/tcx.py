"""BPF programs that a device asks before any filter of tc: TCX, Linux 6.6 and later.

rtnetlink does not list them; bpf(2) does, by its command BPF_PROG_QUERY, which changes
nothing and takes CAP_NET_ADMIN.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from typing import Literal

Side = Literal["ingress", "egress"]

_CALL = {"x86_64": 321, "aarch64": 280}  # __NR_bpf
_PROG_QUERY = 16  # enum bpf_cmd, linux/bpf.h
_ATTACH_TYPE: dict[Side, int] = {"ingress": 46, "egress": 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_NO_TCX = (
    errno.EINVAL,
    errno.ENOENT,
    errno.ENODEV,
    errno.ENOSYS,
)  # it has none
_libc = ctypes.CDLL(None, use_errno=True)


class _Query(ctypes.Structure):
    """union bpf_attr as BPF_PROG_QUERY reads it; without an array it tells how many there are."""

    _fields_ = (
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    )


def programs(index: int, side: Side) -> int | None:
    """How many TCX programs the device of that ifindex has on that side.

    0 where the kernel has no TCX; None where it does not let us ask, so nobody knows.
    """
    number = _CALL.get(platform.machine())
    if number is None:
        return None
    query = _Query(target_ifindex=index, attach_type=_ATTACH_TYPE[side])
    if _libc.syscall(number, _PROG_QUERY, ctypes.byref(query), ctypes.sizeof(query)) == 0:
        return int(query.count)
    return 0 if ctypes.get_errno() in _NO_TCX else None


def obstacle(index: int, name: str, side: Side) -> str:
    """Why our filter may see no packets on that side of the device; empty if none is known.

    A program answers before tc is asked, and most that are met in the field answer for good.
    """
    if not programs(index, side):
        return ""
    return (
        f"a BPF program (TCX) at the {side} of {name} is asked before any filter and may take"
        " the packets"
    )
