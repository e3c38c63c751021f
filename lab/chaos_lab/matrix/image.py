"""Disk images of the matrix: a Debian release as it is, and a second disk with the project.

Promise: an image depends on nothing but its cache key, and a half-built one is never used.
Added to a release are the agent of ``inside.py``, and Python 3.11 where the release has none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chaos_lab import guest
from chaos_lab.image import Progress, _atomic, _key, package
from chaos_lab.layout import LabDir
from chaos_lab.matrix import initrd, releases
from chaos_lab.matrix.releases import PYTHON_FROM, Release
from chaos_lab.process import run
from chaos_lab.state import locked

_AGENT = Path(__file__).with_name("inside.py")
_DISK = "4G"
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_HOME = Path("opt/python3.11/lib")
_LOADER = "ld-linux-x86-64.so.2"
_C_LIBRARY = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1")
_NEEDED = (
    *("libz.so.1", "libexpat.so.1", "libffi.so.8", "libssl.so.3", "libcrypto.so.3"),
    *("libbz2.so.1.0", "liblzma.so.5", "libuuid.so.1", "libsqlite3.so.0"),
)
"""What Python 3.11 and its standard library are linked with."""

_TREES = (
    *("agent", "core", "experiment", "proto", "lab", "ctl", "controller", "toolkit"),
    *("tests", "systemd", ".venv", "pyproject.toml"),
)
"""What of the project is on its disk."""


@dataclass(frozen=True)
class Image:
    """A release's disk, kernel and initial RAM disk. None is ever written to."""

    release: Release
    directory: Path

    @property
    def disk(self) -> Path:
        """Sparse ext4 file."""
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        """The release's unmodified kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Of ``initrd.py``."""
        return self.directory / "initrd.img"


def build(lab: LabDir, release: Release, say: Progress, *, neighbours: bool = True) -> Image:
    """The image of a release, from the cache if it has been built before.

    ``neighbours`` says whether Docker and the others are on it. Raises LabError.
    """
    lab.cache.mkdir(parents=True, exist_ok=True)
    with locked(lab.cache / "lock", timeout=1800):
        root = _root(lab.cache, release, neighbours, say)
        python = None
        if release is not PYTHON_FROM:
            python = _root(lab.cache, PYTHON_FROM, False, say)
        directory = lab.cache / root.name.replace("debian-", "matrix-", 1)
        key = _key(root.name, python and python.name, *_sources(), _DISK)
        directory = directory.with_name(f"matrix-{release.name}-{key}")
        if not directory.is_dir():
            say(f"{release.name}: building the disk image")
            with _atomic(directory) as new:
                _assemble(new, root, python)
        os.utime(directory)
        return Image(release, directory)


def project_disk(lab: LabDir, to: Path) -> None:
    """A disk with the project's source, its Python environment and its .deb, as they are now."""
    deb = package(lab)
    with tempfile.TemporaryDirectory(prefix="project-", dir=lab.cache) as temporary:
        stage = Path(temporary, "project")
        stage.mkdir()
        for name in _TREES:
            run(["cp", "-a", "--reflink=auto", str(lab.root / name), str(stage / name)])
        (stage / "dist").mkdir()
        shutil.copy2(deb, stage / "dist")
        python = stage / ".venv/bin/python"
        python.unlink()
        python.symlink_to(releases.PYTHON)
        _make_disk(stage, to, "1500M", "project")


def _root(cache: Path, release: Release, neighbours: bool, say: Progress) -> Path:
    """An unpacked Debian, made by mmdebstrap."""
    packages = [*releases.BASE, release.kernel]
    if release is PYTHON_FROM:
        packages.append("python3")
    if neighbours:
        packages += [*releases.NEIGHBOURS, *release.more]
    key = _key(release.suite, packages, releases.EXCLUDED, releases.PRESET)
    directory = cache / f"debian-{release.name}-{key}"
    if directory.is_dir():
        os.utime(directory)
        return directory
    say(f"{release.name}: building the root file system (once, 1–3 min)")
    with _atomic(directory) as new:
        run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
            + [f"--dpkgopt=path-exclude={path}" for path in releases.EXCLUDED]
            + [f"--include={','.join(packages)}", release.suite, str(new)]
        )
        preset = new / "etc/systemd/system-preset/00-matrix.preset"
        preset.parent.mkdir(parents=True, exist_ok=True)
        preset.write_text(releases.PRESET)
        wants = new / "etc/systemd/system"
        for link in [*wants.rglob("*")]:  # a name alone is looked for behind the link, on this host
            if link.is_symlink() and link.name in releases.DISABLED:
                link.unlink()
        new.chmod(0o755)
    return directory


def _assemble(new: Path, root: Path, python: Path | None) -> None:
    stage = new / "stage"
    run(["cp", "-a", "--reflink=auto", str(root), str(stage)])
    (kernel,) = (stage / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, new / "vmlinuz")
    initrd.build(stage, new / "initrd.img")
    for name in guest.MASKED:
        mask = stage / "etc/systemd/system" / name
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    if python is not None:
        _bring_python(stage, python)
    agent = stage / "usr/local/sbin/matrix-agent"
    shutil.copyfile(_AGENT, agent)
    unit = stage / "etc/systemd/system/matrix-agent.service"
    unit.write_text(releases.UNIT.format(python=releases.PYTHON))
    wants = unit.parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"../{unit.name}")
    (stage / "etc/fstab").write_text("")
    # Without one it is the first boot, at which systemd enables every unit that there is.
    (stage / "etc/machine-id").unlink(missing_ok=True)
    (stage / "etc/machine-id").write_text(f"{_key(stage.parent.name):0<32}\n")
    (stage / "etc/hostname").write_text("node\n")
    _make_disk(stage, new / "disk.img", _DISK, "root")
    shutil.rmtree(stage)


def _bring_python(stage: Path, source: Path) -> None:
    """Python 3.11 of ``source``, with the libraries that it needs in a directory of its own.

    The C library comes along where the release's is older, and then so does its loader: only
    this interpreter uses them. libxtables, libiptc and libnftables remain the release's.
    """
    libraries = stage / _HOME
    libraries.mkdir(parents=True)
    binary = stage / releases.PYTHON.lstrip("/")
    shutil.copy2(source / "usr/bin/python3.11", binary)
    run(["cp", "-a", str(source / "usr/lib/python3.11"), str(stage / "usr/lib/python3.11")])
    older = _c_library(stage) < _c_library(source)
    for name in (*_NEEDED, *((*_C_LIBRARY, _LOADER) if older else ())):
        shutil.copy2((source / _LIBRARIES / name).resolve(), libraries / name)
    where = ["--force-rpath", "--set-rpath", f"/{_HOME}"]
    if older:
        where += ["--set-interpreter", f"/{_HOME / _LOADER}"]
    run(["patchelf", *where, str(binary)])


def _sources() -> list[str]:
    """What an image is made of besides packages."""
    parts = (_AGENT, Path(__file__), Path(initrd.__file__), Path(releases.__file__))
    return [*(path.read_text() for path in parts), *guest.MASKED]


def _c_library(root: Path) -> tuple[int, ...]:
    """The version of a root file system's C library, as in (2, 36)."""
    banner = run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-f", "${Version}", "-W", "libc6"]
    )
    return tuple(int(part) for part in banner.split("-")[0].split("."))


def _make_disk(stage: Path, disk: Path, size: str, label: str) -> None:
    run(
        [
            *("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", label, "-d", str(stage)),
            *("-E", "root_owner=0:0,lazy_itable_init=0", str(disk), size),
        ]
    )


def prune(cache: Path, keep: Iterable[Path]) -> None:
    """Delete images and root file systems of the matrix that are no longer current."""
    kept = set(keep)
    for pattern in ("matrix-debian*", "debian-debian*"):
        for old in cache.glob(pattern):
            if old not in kept:
                shutil.rmtree(old)
