"""One xtables rule, both ways: built from a ``Rule``, and read back as a value.

The kernel hands rules out as C structures. ``Entry`` keeps their bytes without
what changes by itself (counters, offsets of jumps, kernel pointers), so that two
rules are equal exactly when they mean the same.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from chaos_core.effects import Family, Rule
from chaos_core.errors import Unsupported

# struct ipt_ip and ip6t_ip6, then nfcache, target_offset, next_offset, comefrom and counters.
_HEADER: dict[Family, tuple[int, int]] = {4: (84, 112), 6: (136, 168)}
_EXTENSION_HEADER = 32  # struct xt_entry_match and xt_entry_target: size, name, revision
_STANDARD = ("ACCEPT", "DROP", "RETURN", "QUEUE")
_EXTENSIONS = ("usr/lib/*/xtables", "usr/lib*/xtables", "lib/*/xtables")
_SONAMES = {  # the ABI that python-iptables knows; the same on every distribution since 2018
    "c": "libc.so.6",
    "xtables": "libxtables.so.12",
    "ip4tc": "libip4tc.so.2",
    "ip6tc": "libip6tc.so.2",
}


def iptc() -> Any:
    """python-iptables, imported when first needed.

    As it comes, its import searches for libraries by running ldconfig, gcc and ld
    a dozen times. So it is told where they are; and how the options of extensions lie in
    memory, which iptables has changed since.
    """
    if "iptc" in sys.modules:
        return sys.modules["iptc"]
    if "XTABLES_LIBDIR" not in os.environ:
        found = (path for pattern in _EXTENSIONS for path in Path("/").glob(pattern))
        path = next(found, None)
        if path is not None:
            os.environ["XTABLES_LIBDIR"] = str(path)
    search = ctypes.util.find_library
    ctypes.util.find_library = _find_library
    try:
        found = importlib.import_module("iptc")
    finally:
        ctypes.util.find_library = search
    _read_options_as_they_are()
    return found


def _read_options_as_they_are() -> None:
    """Find each option of an extension, also with iptables 1.8.10 and later.

    Since then struct xt_option_entry has one more field, ``base``, and 56 bytes in place of 48.
    The library's version has not changed with it, and python-iptables 1.2.0 finds an extension's
    first option alone. Where the second of multiport's begins tells the two apart: its first has
    zeros at the end. Up to there the fields are where they were, and nothing behind is read here.
    """
    module = importlib.import_module("iptc.xtables")
    entry = module.xt_option_entry
    library = module.xtables
    multiport = library(module.NFPROTO_IPV4).find_match("multiport")
    size = ctypes.sizeof(entry)
    if multiport:
        first = ctypes.cast(multiport[0].x6_options, ctypes.c_void_p).value or 0
        size = entry_size(first, size)

    def lookup(_: Any, entries: Any, name: bytes) -> Any:
        return option(entry, ctypes.cast(entries, ctypes.c_void_p).value or 0, size, name)

    library._option_lookup = lookup


def entry_size(first: int, size: int) -> int:
    """How many bytes lie between the options at the address ``first``: ``size``, or 8 more.

    The first option must end in zeros, and a second one follow.
    """
    return size if ctypes.c_void_p.from_address(first + size).value else size + 8


def option(kind: Any, first: int, size: int, name: bytes) -> Any:
    """The option of that name, a ``kind`` at its own address; None without it."""
    at = first
    while (found := kind.from_address(at)).name:
        if found.name == name:
            return found
        at += size
    return None


def _find_library(name: str) -> str | None:
    """What ``ctypes.util.find_library`` does, for the few libraries in question, unforked."""
    if name == "xtwrapper":
        spec = importlib.util.find_spec("libxtwrapper")
        return spec.origin if spec else None
    return _SONAMES.get(name)


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule as a value. ``target`` names the verdict, chain or extension it ends in.

    ``data`` is the kernel's, without counters and what it left behind the ends of names.
    """

    target: str
    data: bytes
    family: Family
    matches: tuple[str, ...] = ()
    parameters_at: int = 0
    packets: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        """For people."""
        return _text(self.data, self.family, self.matches, self.target)

    @property
    def parameters(self) -> bytes:
        """The target's own."""
        return self.data[self.parameters_at :]

    @classmethod
    def read(cls, raw: bytes, family: Family, target: str) -> Entry:
        """From the kernel's bytes; ``target`` is libiptc's name for a verdict or a chain."""
        data = bytearray(raw)
        ip_size, header = _HEADER[family]
        packets = int.from_bytes(data[header - 16 : header - 8], "little")
        target_at = int.from_bytes(data[ip_size + 4 : ip_size + 6], "little")
        data[ip_size : ip_size + 4] = bytes(4)  # nfcache
        data[ip_size + 8 : header] = bytes(header - ip_size - 8)  # comefrom, counters
        name = _clean_name(data, target_at)
        if name in ("", "standard", *_STANDARD):  # a verdict or a jump: an offset
            name = target or name
            data[target_at + 2 :] = name.encode().ljust(len(data) - target_at - 2, b"\0")
        matches = []
        at = header
        while at < target_at:
            size = int.from_bytes(data[at : at + 2], "little")
            matches.append(_clean_name(data, at))
            at += max(size, _EXTENSION_HEADER)
        parameters_at = target_at + _EXTENSION_HEADER
        return cls(name, bytes(data), family, tuple(matches), parameters_at, packets)

    def writes_mark(self, mask: int) -> bool:
        """Whether this rule may change bits of ``mask`` in a packet's mark, or keep them for

        later packets of its connection.
        """
        words = [
            int.from_bytes(self.parameters[at : at + 4], "little")
            for at in range(0, len(self.parameters) - 3, 4)
        ]
        match self.target, words:
            case "MARK", [value, bits, *_]:
                return bool((value | bits) & mask)
            case "CONNMARK", [_, connection, packet, _, *_]:
                only_sets = not any(self.parameters[12:15])  # the mode, wherever a revision has it
                return not only_sets and bool((packet | connection) & mask)
        return False


def _clean_name(data: bytearray, at: int) -> str:
    """The extension's name; what the kernel left behind its end is zeroed."""
    name = bytes(data[at + 2 : at + 31]).split(b"\0")[0]
    data[at + 2 : at + 31] = name.ljust(29, b"\0")
    return name.decode(errors="replace")


def _text(data: bytes, family: Family, matches: Sequence[str], target: str) -> str:
    """For people: addresses, devices, protocol, names of matches, target, and a digest."""
    size = 4 if family == 4 else 16
    source, destination, source_mask, destination_mask = (
        data[index * size : (index + 1) * size] for index in range(4)
    )
    names = data[4 * size : 4 * size + 32]
    protocol = int.from_bytes(data[4 * size + 64 : 4 * size + 66], "little")
    parts = []
    for flag, address, mask in (("-s", source, source_mask), ("-d", destination, destination_mask)):
        if any(mask):
            af = socket.AF_INET if family == 4 else socket.AF_INET6
            bits = int.from_bytes(mask, "big").bit_count()
            parts.append(f"{flag} {socket.inet_ntop(af, address)}/{bits}")
    for flag, raw in (("-i", names[:16]), ("-o", names[16:])):
        device = raw.split(b"\0")[0].decode(errors="replace")
        if device:
            parts.append(f"{flag} {device}")
    if protocol:
        parts.append(f"-p {protocol}")
    parts += [f"-m {name}" for name in matches]
    parts.append(f"-j {target}")
    return f"{' '.join(parts)} #{hashlib.sha256(data).hexdigest()[:12]}"


def build_rule(table: Any, family: Family, rule: Rule) -> Any:
    """A python-iptables rule.

    Raises Unsupported when an extension is not installed, or refuses its parameters,
    as xt_set does for a set that does not exist.
    """
    try:
        built = _build(_new(table, family), rule)
    except (iptc().XTablesError, ValueError, AttributeError) as error:
        raise Unsupported(
            f"iptables cannot build the rule {rule}: {error}",
            where=f"table {table.name} (IPv{family})",
            hint="the set it names must exist, and its extensions be installed",
        ) from None
    if family == 6:
        _compare_whole_names(built, rule)
    return built


def _compare_whole_names(built: Any, rule: Rule) -> None:
    """Let devices be compared by all bits of their names, with the zero that ends them.

    python-iptables 1.2.0 asks for one bit of each character for IPv6, so that ``-o lo`` is also
    ``-o bond0``, ``tun0`` and ``virbr0``, and ``eth0`` is ``eth2``.
    """
    packet = built.entry.ipv6
    if rule.in_device:
        packet.iniface_mask = b"\xff" * (len(rule.in_device) + 1)
    if rule.out_device:
        packet.outiface_mask = b"\xff" * (len(rule.out_device) + 1)


def _build(built: Any, rule: Rule) -> Any:
    """Parameters are set right after each match is made: all matches of one kind share

    libxtables' pointer to the one made last.
    """
    if rule.protocol:
        built.protocol = rule.protocol
    if rule.source:
        built.src = rule.source
    if rule.destination:
        built.dst = rule.destination
    if rule.in_device:
        built.in_interface = rule.in_device
    if rule.out_device:
        built.out_interface = rule.out_device
    if rule.source_ports:
        _match(built, "multiport", ("sports", ",".join(rule.source_ports)))
    if rule.destination_ports:
        _match(built, "multiport", ("dports", ",".join(rule.destination_ports)))
    if rule.syn:
        _match(built, "tcp", ("tcp-flags", ["FIN,SYN,RST,ACK", "SYN"]))
    if rule.uid is not None:
        _match(built, "owner", ("uid-owner", str(rule.uid)))
    if rule.cgroup:
        _match(built, "cgroup", ("path", rule.cgroup))
    if rule.icmpv6_type:
        _match(built, "icmp6", ("icmpv6-type", rule.icmpv6_type))
    if rule.match_set:
        _match(built, "set", ("match-set", [rule.match_set, rule.set_side]))
    if rule.text:
        text = ("hex-string", f"|{rule.text}|")
        _match(built, "string", ("algo", "kmp"), text, ("icase", ""))
    if rule.probability:
        share = f"{rule.probability / 1_000_000:.6f}"
        _match(built, "statistic", ("mode", "random"), ("probability", share))
    if rule.every:  # xtables counts from 0
        last = str(rule.every - 1)
        _match(built, "statistic", ("mode", "nth"), ("every", str(rule.every)), ("packet", last))
    if rule.per_day:
        _match(built, "limit", ("limit", f"{rule.per_day}/day"), ("limit-burst", str(rule.burst)))
    if rule.own:
        _match(built, "addrtype", (f"{rule.own}-type", "LOCAL"))
    if rule.original_ports:
        (ports,) = rule.original_ports
        way = "ORIGINAL" if rule.original_side == "dst" else "REPLY"
        of_dnat = ("ctstate", "DNAT"), ("ctorigdstport", ports), ("ctdir", way)
        _match(built, "conntrack", *of_dnat)
    if rule.target == "REDIRECT":
        _load_nat(built.nfproto)
    if rule.target in ("SEEN", "EXPOSED"):  # the packet goes on: a rule without a target
        built.create_target("ACCEPT").standard_target = ""
        return built
    target = built.create_target(rule.target)
    if rule.target == "MARK":
        target.set_parameter("set-xmark", f"{rule.mark:#x}/{rule.mark:#x}")
    if rule.target == "REJECT" and rule.reject_with:
        target.set_parameter("reject-with", rule.reject_with)
    if rule.target == "CT":
        target.set_parameter("zone", str(rule.zone))
    if rule.target == "NFQUEUE":
        target.set_parameter("queue-num", str(rule.queue))
        target.set_parameter("queue-bypass", "")
    if rule.target == "REDIRECT":
        target.set_parameter("to-ports", str(rule.to_port))
        target._final_check()  # completes it; the public way diverts stdout for a while
    return built


@cache
def _load_nat(family: int) -> None:
    """Make the targets of libxt_NAT known for one family; before iptables 1.8.8 one has its own.

    libxtables registers of a library only what is of the family that it is first loaded
    for, which is made for tools that serve one. So each family gets a copy of its own.
    """
    place = Path(os.environ["XTABLES_LIBDIR"])
    older = f"lib{'ipt' if family == socket.AF_INET else 'ip6t'}_REDIRECT.so"
    library = next((one for one in (place / "libxt_NAT.so", place / older) if one.exists()), None)
    if library is None:
        raise Unsupported(f"iptables has no NAT targets: no libxt_NAT.so in {place}")
    data = library.read_bytes()
    iptc().xtables.xtables._xtables_set_nfproto(family)
    descriptor = os.memfd_create(library.name)
    with os.fdopen(descriptor, "wb") as copy:
        copy.write(data)
        copy.flush()
        ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def build_jump(table: Any, family: Family, chain: str) -> Any:
    """An unconditional jump to ``chain``, which must exist in ``table``."""
    built = _new(table, family)
    built.create_target(chain)
    return built


def entry_of(built: Any, family: Family) -> Entry:
    """A built rule as the kernel will hand it back: private parts of extensions are zero."""
    raw, mask = (int.from_bytes(bytes(one), "little") for one in (built.rule, built.mask))
    masked = (raw & mask).to_bytes(len(bytes(built.rule)), "little")
    target = built.target.name
    return Entry.read(masked, family, target if target in _STANDARD else "")


def _match(built: Any, name: str, *parameters: tuple[str, str | list[str]]) -> None:
    _load_match(built.nfproto, name)
    match = built.create_match(name)
    for parameter, value in parameters:
        match.set_parameter(parameter, value)


@cache
def _load_match(family: int, name: str) -> None:
    """Let libxtables choose a match's revision for one family.

    It warns on stderr of those older ones that the kernel has not, which is no problem.
    """
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    try:
        iptc().xtables.xtables(family).find_match(name)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _new(table: Any, family: Family) -> Any:
    """A rule that knows one table. As it comes, python-iptables opens all five to look for

    a chain's name, which loads the nat, raw and security modules.
    """
    lib = iptc()
    base = lib.Rule if family == 4 else lib.Rule6
    return type(base.__name__, (base,), {"tables": (table,)})()
