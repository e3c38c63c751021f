"""What /proc/self/mountinfo says, in whatever way somebody has mounted things."""

from __future__ import annotations

from pathlib import Path

from chaos_agent.linux import mounts

TEXT = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 22 0:36 / /x rw,relatime shared:22 - tmpfs  rw,size=4k
41 22 0:37 / /a\\040b rw,relatime - tmpfs none rw
"""


def test_a_mount_without_a_source_is_read_like_any_other() -> None:
    found = {mount.point: mount for mount in mounts.read(TEXT)}
    assert found["/x"] == mounts.Mount("/x", "tmpfs", "", "rw,size=4k")
    assert found["/sys/fs/cgroup"].kind == "cgroup2"
    assert found["/a b"].source == "none"


def test_what_the_kernel_says_here_is_read() -> None:
    assert any(mount.point == "/" for mount in mounts.read())
    assert len(mounts.read()) == len(Path("/proc/self/mountinfo").read_text().splitlines())
