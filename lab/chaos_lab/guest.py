"""What makes a Debian root file system a lab VM: packages, files, masked units.

Data only. Anything here is part of the image's cache key, so an edit rebuilds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from chaos_lab.layout import CONTROLLER, HOST_IP, HOST_IP6, MAX_NODES, seats

SUITE = "bookworm"

PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iperf3",
    "iproute2",
    "ipset",
    "iptables",
    "iputils-ping",
    "kmod",
    "memcached",
    "nginx",
    "openssh-server",
    "postgresql",
    "procps",
    "python3",
    "python3-psycopg",
    "python3-redis",
    "redis-server",
    "systemd",
    "systemd-sysv",
    "tcpdump",
    "udev",
)

EXCLUDED = (
    *("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"),
    # PostgreSQL's compiler: a third of the image, and PostgreSQL does without.
    *("/usr/lib/postgresql/*/lib/bitcode/*", "/usr/lib/postgresql/*/lib/llvmjit*"),
    *("/usr/lib/*/libLLVM*", "/usr/lib/llvm-*", "/usr/lib/*/libz3*"),
)
"""Paths of packages that no VM needs."""

SERVICES = ("memcached", "nginx", "postgresql", "redis-server")
"""What faults are tried on. None runs unless a test starts it."""

MODULE_TREES = ("block", "crypto", "drivers/net", "lib", "net")
"""Parts of the kernel's module tree that the image carries: the network, not the drivers."""

SETUP = (
    ("update-alternatives", "--quiet", "--set", "iptables", "/usr/sbin/iptables-legacy"),
    ("update-alternatives", "--quiet", "--set", "ip6tables", "/usr/sbin/ip6tables-legacy"),
    # sshd runs every command through root's shell, and dash starts in half of bash's time.
    ("usermod", "--shell", "/bin/sh", "root"),
    ("systemctl", "--quiet", "disable", *SERVICES),
    # It would only start what is not to run, at each boot: `systemctl start postgresql@15-main`.
    ("mkdir", "-p", "/etc/systemd/system-generators"),
    ("ln", "-s", "/dev/null", "/etc/systemd/system-generators/postgresql-generator"),
)
"""Commands run once inside the root file system. The kernel has no nft ip family, hence legacy."""

MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty@tty1.service",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)

ENABLED = ("ssh.service", "lab-net.service", "lab-ready.service")

READY = "LAB-READY"
"""What a VM prints on its console, followed by its boot id, when systemd has booted it."""

_NET = """\
#!/bin/sh -e
# Gives the VM the address on its kernel command line. The second interface stays down and bare.
for word in $(cat /proc/cmdline); do
    case $word in
        labip=*) ip=${word#labip=} ;;
        labip6=*) ip6=${word#labip6=} ;;
    esac
done
modprobe ipv6
ip -batch - <<END
link set lo up
link set vec0 name eth0
link set vec1 name eth1
addr add $ip dev eth0
addr add $ip6 dev eth0 nodad
link set eth0 up
route add default via HOST
END
""".replace("HOST", HOST_IP)

# A rebooting UML kernel executes itself anew and inherits its open tap, which then refuses to
# be opened again: let go of it first. Run by systemd-shutdown as its last step.
_UNPLUG = """\
#!/bin/sh
ip link set eth1 down
exec ip link set eth0 down
"""

_NET_UNIT = """\
[Unit]
Description=Lab network address from the kernel command line
DefaultDependencies=no
Before=network-pre.target network.target ssh.service shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-net

[Install]
WantedBy=sysinit.target
"""

_READY_UNIT = f"""\
[Unit]
Description=Tell the lab that this VM has booted
DefaultDependencies=no
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "{READY} $(cat /proc/sys/kernel/random/boot_id)" > /dev/console'

[Install]
WantedBy=multi-user.target
"""

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
MaxSessions 1000
MaxStartups 100
PrintMotd no
UseDNS no
UsePAM no
"""

_JOURNALD = """\
[Journal]
Storage=persistent
SystemMaxUse=32M
RateLimitIntervalSec=0
"""


# Coldplugging every tty took half of the boot; the VM's real devices are a disk and a NIC.
_COLDPLUG = """\
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=net
"""

# The configuration is known to be valid: no `sshd -t` before each start.
_SSH_UNIT = """\
[Service]
ExecStartPre=
"""


def _hosts() -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost", f"{HOST_IP} lab-host", f"{HOST_IP6} lab-host"]
    lines += [f"{seat.ip} {seat.name}\n{seat.ip6} {seat.name}" for seat in seats(MAX_NODES)]
    return "\n".join(lines) + "\n"


FILES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "etc/fstab": ("", 0o644),
        "etc/hostname": (f"{CONTROLLER}\n", 0o644),
        "etc/hosts": (_hosts(), 0o644),
        # Present and empty: the id is on the kernel command line, and no boot is a "first boot".
        "etc/machine-id": ("", 0o444),
        "etc/resolv.conf": ("", 0o644),
        "etc/ssh/sshd_config.d/lab.conf": (_SSHD, 0o644),
        "etc/systemd/journald.conf.d/lab.conf": (_JOURNALD, 0o644),
        "etc/systemd/system/ssh.service.d/lab.conf": (_SSH_UNIT, 0o644),
        "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": (_COLDPLUG, 0o644),
        "etc/systemd/system/lab-net.service": (_NET_UNIT, 0o644),
        "etc/systemd/system/lab-ready.service": (_READY_UNIT, 0o644),
        "usr/lib/systemd/system-shutdown/lab-unplug": (_UNPLUG, 0o755),
        "usr/local/sbin/lab-net": (_NET, 0o755),
    }
)
