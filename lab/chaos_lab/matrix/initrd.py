"""The initial RAM disk of a node: four modules and a busybox.

The release's own probes for hardware that is not there, which is most of an emulated boot.
What it hands over to is the release's own kernel, modules and systemd.
"""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from chaos_lab.process import run

_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
_INIT = """\
#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /dev /root
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod "$module"; done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do busybox sleep 0.1; done
busybox mount -t ext4 /dev/vda /root
busybox mount -o move /dev /root/dev
exec busybox switch_root /root /lib/systemd/systemd
"""


def build(root: Path, to: Path) -> None:
    """Write the initial RAM disk for the kernel of the root file system ``root`` to ``to``."""
    stage = root / "matrix-initrd"
    (stage / "bin").mkdir(parents=True)
    (stage / "modules").mkdir()
    shutil.copy2(root / "bin/busybox", stage / "bin/busybox")
    for number, module in enumerate(_with_needs(root)):
        name = module.name.removesuffix(".xz")
        data = module.read_bytes()
        plain = lzma.decompress(data) if name != module.name else data
        (stage / f"modules/{number:02}-{name}").write_bytes(plain)
    (stage / "init").write_text(_INIT)
    (stage / "init").chmod(0o755)
    pack = "cd /matrix-initrd && find . | cpio --quiet -o -H newc > /matrix.cpio"
    run(["chroot", str(root), "sh", "-c", pack])
    shutil.move(root / "matrix.cpio", to)
    shutil.rmtree(stage)


def _with_needs(root: Path) -> list[Path]:
    """The modules' files, each behind those that it needs."""
    (base,) = (root / "usr/lib/modules").glob("*") if (root / "lib").is_symlink() else (
        root / "lib/modules"
    ).glob("*")  # fmt: skip
    needs: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    built_in = {
        Path(line).stem.replace("-", "_")
        for line in (base / "modules.builtin").read_text().splitlines()
    }
    order: list[str] = []
    for name in _MODULES:
        if name not in built_in:
            order += [*reversed(needs[by_name[name]]), by_name[name]]
    return [base / path for path in dict.fromkeys(order)]
