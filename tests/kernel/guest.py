"""Init of the quick test kernel: mounts, modules, then one pytest run. Also its modprobe.

The root is the host's file system, read-only, so everything writable is a tmpfs,
except the exchange directory that is named on the kernel's command line. Modules
come from the user-mode-linux package, without kmod, which a host may not have.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_PRELOADED = (
    "veth sch_netem sch_htb sch_ingress cls_fw cls_u32 act_mirred act_gact act_skbedit ipv6"
    " ip_tables iptable_mangle iptable_filter ip6_tables ip6table_mangle ip6table_filter"
    " ip_set_hash_net ip_set_hash_ip xt_set xt_statistic xt_mark xt_multiport xt_tcpudp"
    " ipt_REJECT ip6t_REJECT xt_comment"
    " xt_owner xt_cgroup xt_limit xt_string ts_kmp"
    " xt_NFQUEUE nfnetlink_queue iptable_security ip6table_security"
    " cls_basic em_ipset ip_set_hash_netport"
    " iptable_nat ip6table_nat xt_nat xt_MASQUERADE xt_conntrack xt_addrtype"
    " sch_tbf sch_prio sch_fq_codel cls_flower cls_matchall xt_connmark 8021q bridge vrf bonding"
)
_FINIT_MODULE = 313  # x86-64
_POWER_OFF = 0x4321FEDC
_EXCHANGE = Path("/run/exchange")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}")


class Modules:
    """The modules of the running kernel, by name, with what they depend on."""

    def __init__(self) -> None:
        self._base = Path("/usr/lib/uml/modules") / os.uname().release
        self._needs: dict[str, tuple[str, list[str]]] = {}
        for line in (self._base / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._needs[Path(path).stem.replace("-", "_")] = (path, needs.split())

    def load(self, name: str, parameters: str = "") -> None:
        path, needs = self._needs[name]
        for part in (*reversed(needs), path):
            with (self._base / part).open("rb") as file:
                words = parameters.encode() if part == path else b""
                _libc.syscall(_FINIT_MODULE, file.fileno(), words, 0)  # again is EEXIST


def main() -> None:
    if sys.argv[1:2] == ["modprobe"]:  # the kernel calls: modprobe -q -- rtnl-link-dummy
        Modules().load(sys.argv[-1].removeprefix("rtnl-link-"))
        return
    for source, target, kind in (
        ("proc", "/proc", "proc"),
        ("sys", "/sys", "sysfs"),
        ("run", "/run", "tmpfs"),
        ("cgroup", "/sys/fs/cgroup", "cgroup2"),
    ):
        mount(source, target, kind)
    words = dict(
        word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word
    )
    temporary = Path("/run/tmp")  # not /tmp, where the project itself may be
    temporary.mkdir()
    _EXCHANGE.mkdir()
    mount("none", str(_EXCHANGE), "hostfs", words["exchange"])
    modules = Modules()
    for name in _PRELOADED.split():
        modules.load(name)
    modules.load("loop", "max_loop=4")
    modules.load("ifb", "numifbs=0")
    modules.load("dummy", "numdummies=0")
    modules.load("bonding", "max_bonds=0")
    helper = Path("/run/modprobe")  # for the test that asks for it
    helper.write_text(f'#!/bin/sh\nexec {sys.executable} -B {__file__} modprobe "$@"\n')
    helper.chmod(0o700)
    # A kernel with bpfilter calls modprobe on every use of iptables, which takes time.
    Path("/proc/sys/kernel/modprobe").write_text("\n")
    subprocess.run(
        (_EXCHANGE / "command").read_text().split("\0"),
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/run",
            "CHAOS_GUEST": "1",
            "TMPDIR": str(temporary),
        },
        cwd=words["cwd"],
        check=False,
    )
    _libc.sync()
    _libc.reboot(_POWER_OFF)


if __name__ == "__main__":
    main()
