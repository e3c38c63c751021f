"""A staging fleet: one controller VM and some node VMs on the lab's network.

    fleet = Fleet()
    fleet.up(nodes=3)
    fleet.exec("n1", ["ping", "-c1", "n2"])
    fleet.down()

Promise: ``down`` leaves no process, device, namespace or socket of the lab
behind, and nothing that the lab did not start is ever signalled.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from chaos_core.errors import InvalidInput, LabError, MissingPrerequisite
from chaos_lab import image as images
from chaos_lab.image import Image, Progress
from chaos_lab.layout import CONTROLLER, LabDir, Seat, seats
from chaos_lab.network import Network
from chaos_lab.remote import Remote, Result
from chaos_lab.state import State, exclusive
from chaos_lab.vm import VM


@dataclass(frozen=True)
class VMStatus:
    """One VM as seen from the host; ``pid`` is None while it has no power."""

    name: str
    ip: str
    ip6: str
    memory_mib: int
    running: bool
    pid: int | None
    console: str


def _quiet(_: str) -> None:
    """Report no progress."""


class Fleet:
    """The fleet of one lab directory, running or not.

    An object made while the fleet runs (also by another command) is connected
    to it. Every method that takes a VM's name raises InvalidInput, with the
    nearest name, for an unknown one.
    """

    def __init__(self, lab: LabDir | None = None, *, say: Progress = _quiet) -> None:
        self.lab = lab or LabDir.find()
        self.network = Network(self.lab.netns)
        self._remote = Remote(self.lab, self.network)
        self._say = say
        self._state: State | None = None
        self._vms: dict[str, VM] = {}
        self._load()

    # -- the fleet as a whole ------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether a fleet is up; single VMs may be without power all the same."""
        return self._state is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all VMs, the controller first."""
        return tuple(self._vms)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the node VMs."""
        return tuple(name for name in self._vms if name != CONTROLLER)

    @property
    def image(self) -> Image:
        """What the running fleet was booted from; LabError if none is up."""
        if self._state is None:
            raise LabError("no fleet is up", hint="run `chaosctl lab up`")
        return Image(self._state.image)

    def up(self, nodes: int = 3) -> None:
        """Bring up a controller and ``nodes`` nodes from the present source; idempotent.

        A fleet that runs already is kept, and VMs without power are started on
        their disks; but a fleet of another size or of older source is replaced.
        """
        require_root()
        wanted = seats(nodes)
        with exclusive(self.lab):
            self._load()
            image = images.build(self.lab, self._say)
            if self._state and (self._state.nodes, self._state.image) != (nodes, image.directory):
                self._say("replacing the running fleet, which is of another size or build")
                self._down()
            if self._state is None:
                self._down()
                self._vms = {seat.name: VM(self.lab, seat) for seat in wanted}
                self._state = State(image.directory, nodes)
                self._state.save(self.lab)
                self.network.create()
                self.network.plug(wanted)
                self._remote.configure(image, wanted)
            missing = [vm for vm in self._vms.values() if not vm.running]
            if missing:
                self._say(f"booting {', '.join(vm.seat.name for vm in missing)}")
            for vm in missing:
                self._start(vm, image)
            for vm in missing:
                vm.wait_ready()
                self._say(f"{vm.seat.name} is up")

    def down(self) -> None:
        """End the fleet and delete its disks; idempotent."""
        require_root()
        with exclusive(self.lab):
            self._load()
            self._down()

    def status(self) -> list[VMStatus]:
        """Each VM of the running fleet; empty when there is none."""
        return [
            VMStatus(
                name=vm.seat.name,
                ip=vm.seat.ip,
                ip6=vm.seat.ip6,
                memory_mib=vm.seat.memory_mib,
                running=vm.running,
                pid=vm.process.pid if vm.process and vm.running else None,
                console=str(vm.console),
            )
            for vm in self._vms.values()
        ]

    def seat(self, name: str) -> Seat:
        """A VM's addresses and size."""
        return self._vm(name).seat

    # -- commands and files --------------------------------------------------------------

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002 - as in subprocess.run
        timeout: float = 60.0,
        check: bool = True,
    ) -> Result:
        """Run a command on a VM to its end; see ``Remote.exec``."""
        vm = self._powered(name)
        try:
            return self._remote.exec(name, argv, input=input, timeout=timeout, check=check)
        except LabError:
            if vm.running:
                raise
            raise vm.ended() from None

    def popen(self, name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a long-running command on a VM; see ``Remote.popen``."""
        self._powered(name)
        return self._remote.popen(name, argv)

    def shell_command(self, name: str, argv: Sequence[str] = (), *options: str) -> list[str]:
        """The host command behind ``exec``; without ``argv``, a login shell."""
        self._powered(name)
        return self._remote.command(name, argv, *options)

    def put(self, name: str, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file on a VM in one atomic step."""
        self._powered(name)
        self._remote.put(name, path, content, mode)

    def get(self, name: str, path: str) -> bytes:
        """Read a file of a VM."""
        self._powered(name)
        return self._remote.get(name, path)

    def in_netns(self, argv: Sequence[str]) -> list[str]:
        """A host command, rewritten to run inside the lab's network."""
        return self.network.enter(argv)

    # -- accidents -----------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Partition two VMs from each other, outside both; in force on return."""
        self.network.cut(self.seat(a), self.seat(b))

    def heal(self) -> None:
        """Undo every ``cut``; idempotent."""
        self.network.heal(vm.seat for vm in self._vms.values())

    def power_cut(self, name: str) -> None:
        """Pull a VM's plug: its kernel ends at once, without a sync."""
        vm = self._vm(name)
        with exclusive(self.lab):
            vm.power_cut()
            self._remote.disconnect(name)
            self._record()

    def start(self, name: str) -> str:
        """Switch a VM on again, on the disk it had, and wait for it; return the boot id."""
        vm = self._vm(name)
        with exclusive(self.lab):
            if vm.running:
                raise LabError("it is running", where=name)
            self._start(vm, self.image)
        return vm.wait_ready()

    def reboot(self, name: str) -> str:
        """Shut a VM down in good order, switch it on again, wait for it; return the boot id.

        (A kernel that restarts itself panics now and then, in the thread of its disk.)
        """
        vm = self._powered(name)
        self.exec(name, ["systemctl", "poweroff", "--no-block"])
        vm.wait_off()
        self._remote.disconnect(name)
        return self.start(name)

    def boot_id(self, name: str) -> str:
        """Which boot a VM is in."""
        return self.exec(name, ["cat", "/proc/sys/kernel/random/boot_id"]).stdout.strip()

    # -- inside --------------------------------------------------------------------------

    def _load(self) -> None:
        self._state = State.load(self.lab)
        if self._state is not None and not self.network.exists:
            self._state = None  # a lab without its network is wreckage: `up` and `down` clear it
        known = self._state.processes if self._state else {}
        wanted = seats(self._state.nodes) if self._state else ()
        self._vms = {seat.name: VM(self.lab, seat, known.get(seat.name)) for seat in wanted}

    def _start(self, vm: VM, image: Image) -> None:
        vm.start(image, self.network)
        self._record()

    def _record(self) -> None:
        if self._state is not None:
            self._state.processes = {
                name: vm.process for name, vm in self._vms.items() if vm.process is not None
            }
            self._state.save(self.lab)

    def _down(self) -> None:
        recorded = State.load(self.lab)
        if recorded is not None:
            for process in recorded.processes.values():
                process.kill_group()
            for seat in seats(recorded.nodes):
                self._remote.disconnect(seat.name)
        self.network.destroy()
        for directory in (self.lab.vms, self.lab.run):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.lab.ssh_config, self.lab.home / "known_hosts", self.lab.state):
            file.unlink(missing_ok=True)
        self._state, self._vms = None, {}

    def _powered(self, name: str) -> VM:
        vm = self._vm(name)
        if not vm.running:
            raise LabError("it has no power", where=name, hint="`chaosctl lab up` starts it again")
        return vm

    def _vm(self, name: str) -> VM:
        if not self._vms:
            raise LabError("no fleet is up", hint="run `chaosctl lab up`")
        if name not in self._vms:
            near = difflib.get_close_matches(name, self._vms, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._vms)}"
            raise InvalidInput(f"no VM is called {name!r}", hint=hint)
        return self._vms[name]


def require_root() -> None:
    """MissingPrerequisite unless we are root on Linux x86-64."""
    machine = os.uname()
    if sys.platform != "linux" or machine.machine != "x86_64":
        raise MissingPrerequisite(
            f"the lab needs Linux on x86-64, this is {machine.sysname} on {machine.machine}"
        )
    if os.geteuid() != 0:
        raise MissingPrerequisite("the lab needs root, for its network namespace and its VMs")
