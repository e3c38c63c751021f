"""The lab's network: a namespace with two bridges, a tap a VM on each, partitions on the taps.

Promise: nothing outside the namespace is configured, reached or reachable; the
namespace has no link to the outside. Partitions are made on the host's side,
so no process and no rule inside a VM can see or undo them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from chaos_lab.layout import HOST_IP, HOST_IP6, PREFIX_LEN, PREFIX_LEN6, Seat
from chaos_lab.process import run

BRIDGE, SIDE = "lab0", "lab1"  # every VM's first interface, and its second


class Network:
    """The namespace ``name`` and what is in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name

    @property
    def exists(self) -> bool:
        """Whether the namespace is there."""
        return self.path.exists()

    def create(self) -> None:
        """Make the namespace and its bridges, the first with the host's addresses; idempotent."""
        if self.exists:
            return
        run(["ip", "netns", "add", self.name])
        self._ip(
            *(
                f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
                for bridge in (BRIDGE, SIDE)
            ),
            f"addr add {HOST_IP}/{PREFIX_LEN} dev {BRIDGE}",
            f"addr add {HOST_IP6}/{PREFIX_LEN6} dev {BRIDGE} nodad",
            f"link set {BRIDGE} up",
            f"link set {SIDE} up",
            "link set lo up",
        )

    def plug(self, seats: Iterable[Seat]) -> None:
        """Add each seat's taps to the bridges, ready for partitions; idempotent."""
        there = self.links()
        for seat in seats:
            for tap, bridge in ((seat.tap, BRIDGE), (seat.side_tap, SIDE)):
                if tap in there:
                    continue
                self._ip(f"tuntap add dev {tap} mode tap", f"link set {tap} master {bridge} up")
                self._tc("qdisc", "add", "dev", tap, "clsact")

    def destroy(self) -> None:
        """Remove the namespace with everything in it; idempotent."""
        if self.exists:
            run(["ip", "netns", "delete", self.name])

    def links(self) -> set[str]:
        """Names of the links inside the namespace."""
        listing = run(self.enter(["ip", "-brief", "link"]))
        return {line.split()[0].partition("@")[0] for line in listing.splitlines()}

    def enter(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as a command that runs on the host, inside the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def cut(self, a: Seat, b: Seat) -> None:
        """Drop every frame between two VMs, both ways, of all families, silently.

        By source MAC on the way out of each tap, so broadcasts (ARP, ND) are
        dropped too. A classic BPF program whose own verdict is "drop" needs no
        action module, hence works on every kernel that has clsact.
        """
        for tap, mac, number in (
            *((a.tap, b.mac, b.number), (b.tap, a.mac, a.number)),
            *((a.side_tap, b.side_mac, b.number), (b.side_tap, a.side_mac, a.number)),
        ):
            tail = int(mac.replace(":", "")[-8:], 16)
            # load 4 bytes at 8 (end of the source MAC); equal? TC_ACT_SHOT (2) : TC_ACT_UNSPEC (-1)
            program = f"4,32 0 0 8,21 0 1 {tail},6 0 0 2,6 0 0 {0xFFFFFFFF}"
            where = ("dev", tap, "egress", "protocol", "all", "prio", str(number))
            self._tc("filter", "replace", *where, "handle", "1", "bpf", "da", "bytecode", program)

    def heal(self, seats: Iterable[Seat]) -> None:
        """Undo every cut at the given seats' taps; idempotent."""
        for seat in seats:
            for tap in (seat.tap, seat.side_tap):
                self._tc("filter", "delete", "dev", tap, "egress")

    def _ip(self, *lines: str) -> None:
        run(self.enter(["ip", "-batch", "-"]), stdin="\n".join(lines) + "\n")

    def _tc(self, *argv: str) -> None:
        run(self.enter(["tc", *argv]))
