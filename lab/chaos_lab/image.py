"""The VMs' disk image: Debian, the lab's few files, and the project's own .deb.

Promise: an image depends on nothing but its cache key (packages, kernel,
guest files, the package's inputs), and a half-built one is never used.
Nothing in it is chaos-specific beyond ``dpkg -i``, as on any user's VM.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos_lab import guest, uml
from chaos_lab.layout import LabDir
from chaos_lab.process import run
from chaos_lab.state import locked

Progress = Callable[[str], None]

DISK_SIZE = "2G"
KEEP = 5
"""Images (and root file systems) kept in the cache, newest first."""


@dataclass(frozen=True)
class Image:
    """A built image: its disk is never written, VMs keep their changes beside it."""

    directory: Path

    @property
    def key(self) -> str:
        """What the image was built from, as a short hash."""
        return self.directory.name.removeprefix("image-")

    @property
    def disk(self) -> Path:
        """Sparse ext4 file, the backing store of every VM's disk."""
        return self.directory / "disk.img"

    @property
    def ssh_key(self) -> Path:
        """Private key that every VM of this image accepts for root."""
        return self.directory / "id_ed25519"

    @property
    def host_key(self) -> str:
        """Public host key of every VM of this image, as in known_hosts."""
        return (self.directory / "ssh_host_ed25519_key.pub").read_text().strip()


def build(lab: LabDir, say: Progress) -> Image:
    """The image for the present source, from the cache if it has been built before.

    One build at a time: labs that share the cache wait for each other.
    """
    with locked(lab.cache / "lock", timeout=600):
        return _build(lab, say)


def package(lab: LabDir) -> Path:
    """The .deb of the present source, built if it has changed. Raises LabError."""
    return Path(run([sys.executable, str(lab.root / "packaging/build_deb.py")]).split()[-1])


def _build(lab: LabDir, say: Progress) -> Image:
    kernel = uml.version()
    rootfs = _rootfs(lab.cache, kernel, say)
    say("packaging chaosctl")
    deb = package(lab)
    inputs = run(["dpkg-deb", "--field", str(deb), "Inputs"]).strip()
    files = {name: list(spec) for name, spec in guest.FILES.items()}
    key = _key(rootfs.name, inputs, files, guest.ENABLED, guest.MASKED, DISK_SIZE)
    directory = lab.cache / f"image-{key}"
    if not directory.is_dir():
        say("building the VM image")
        with _atomic(directory) as new:
            _assemble(new, rootfs, deb)
    os.utime(directory)
    _prune(lab.cache)
    return Image(directory)


def _rootfs(cache: Path, kernel: str, say: Progress) -> Path:
    """An unpacked Debian with the kernel's modules, made by mmdebstrap."""
    what = (guest.PACKAGES, guest.EXCLUDED)
    key = _key(guest.SUITE, what, kernel, guest.MODULE_TREES, guest.SETUP)
    directory = cache / f"rootfs-{key}"
    if directory.is_dir():
        os.utime(directory)
        return directory
    say("building the Debian root file system (once, 20–60 s)")
    with _atomic(directory) as new:
        run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
            + [f"--dpkgopt=path-exclude={path}" for path in guest.EXCLUDED]
            + [f"--include={','.join(guest.PACKAGES)}", guest.SUITE, str(new)]
        )
        modules = new / "usr/lib/modules" / kernel
        for tree in guest.MODULE_TREES:
            shutil.copytree(uml.MODULES / kernel / "kernel" / tree, modules / "kernel" / tree)
        for index in (uml.MODULES / kernel).glob("modules.*"):
            shutil.copy2(index, modules)
        run(["chroot", str(new), "depmod", kernel])
        for command in guest.SETUP:
            run(["chroot", str(new), *command])
        new.chmod(0o755)
    return directory


def _assemble(new: Path, rootfs: Path, deb: Path) -> None:
    stage = new / "stage"
    run(["cp", "-a", "--reflink=auto", str(rootfs), str(stage)])
    for name, (text, mode) in guest.FILES.items():
        path = stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for old in (stage / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    for key in (new / "ssh_host_ed25519_key", new / "id_ed25519"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "chaos-lab", "-f", str(key)])
    for suffix in ("", ".pub"):
        shutil.copy2(new / f"ssh_host_ed25519_key{suffix}", stage / "etc/ssh")
    authorized = stage / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(new / "id_ed25519.pub", authorized)
    inside = ["chroot", str(stage)]
    run([*inside, "systemctl", "--quiet", "mask", *guest.MASKED])
    run([*inside, "systemctl", "--quiet", "enable", *guest.ENABLED])
    # Not `dpkg --root`: it looks up the stage's users and groups among the host's.
    shutil.copy(deb, stage / "chaosctl.deb")
    run([*inside, "dpkg", "--force-unsafe-io", "--install", "/chaosctl.deb"])
    (stage / "chaosctl.deb").unlink()
    run(
        [
            *("mke2fs", "-q", "-t", "ext4", "-m", "0", "-i", "32768", "-d", str(stage)),
            *("-E", "root_owner=0:0,lazy_itable_init=0", str(new / "disk.img"), DISK_SIZE),
        ]
    )
    shutil.rmtree(stage)


def _key(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def _atomic(directory: Path) -> Iterator[Path]:
    """A directory that gets its name only when it is complete."""
    new = Path(tempfile.mkdtemp(prefix="new-", dir=directory.parent))
    try:
        yield new
        new.rename(directory)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _prune(cache: Path) -> None:
    for kind in ("rootfs", "image"):
        named = [p for p in cache.glob(f"{kind}-*") if re.fullmatch(rf"{kind}-[0-9a-f]+", p.name)]
        for old in sorted(named, key=lambda p: p.stat().st_mtime, reverse=True)[KEEP:]:
            shutil.rmtree(old)
