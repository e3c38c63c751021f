"""What a host needs to stay reachable: no fault stops, pauses or limits any of it.

One table, by systemd's names, each group with its reason. ``units.protected`` in a node's
agent.toml adds to it; nothing takes away. docs/hardening.md shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Programs that let people in, as the kernel names their processes (comm, 15 characters).
# "sshd-session" and "sshd-auth" are OpenSSH's from 9.8 and 10.0 on.
SSH_SERVERS = ("sshd", "sshd-session", "sshd-auth", "dropbear", "tinysshd", "teleport")
# Socket units of theirs, for which systemd listens.
SSH_SOCKETS = ("ssh.socket", "sshd.socket", "dropbear.socket")
CONFIGURED = "units.protected in agent.toml"


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are protected for one reason. ``patterns`` are names, or have ``*``."""

    reason: str
    patterns: tuple[str, ...]


ESSENTIAL = (
    Group("the chaos agent itself", ("chaos-*", "chs-*")),
    Group(
        "the service manager and what starts with it",
        ("systemd-*", "dbus*", "init.scope", "initrd-*", "emergency*", "rescue*", "elogind*"),
    ),
    Group(
        "an SSH server or a login",
        (
            *("ssh.service", "ssh@*", "sshd*", "dropbear*", "tinysshd*", "teleport*"),
            *("getty@*", "serial-getty@*", "console-getty*", "container-getty@*", "autovt@*"),
            *("user@*", "user-runtime-dir@*", "session-*.scope"),
        ),
    ),
    Group(
        "the network's set-up",
        (
            *("NetworkManager*", "networking*", "network.service", "ifup@*", "wpa_supplicant*"),
            *("iwd.service", "dhclient*", "dhcpcd*", "connman*", "wicked*", "netplan*"),
            *("cloud-*", "openvswitch*", "ovs-*", "ovsdb-server*", "teamd@*", "ifplugd*"),
        ),
    ),
    Group(
        "routing",
        (
            "bird.service",
            "bird6.service",
            "frr*",
            "quagga*",
            "zebra*",
            "bgpd*",
            "ospfd*",
            "gobgpd*",
        ),
    ),
    Group(
        "the host's firewall",
        (
            *("nftables*", "iptables*", "ip6tables*", "ipset*", "ebtables*", "netfilter-*"),
            *("firewalld*", "ufw*", "shorewall*", "ferm.service", "firehol*", "csf.service"),
            *("lfd.service", "arno-iptables-firewall*", "fail2ban*", "crowdsec*", "sshguard*"),
        ),
    ),
    Group(
        "a VPN",
        (
            *("wg-quick@*", "wireguard*", "openvpn*", "strongswan*", "ipsec*", "libreswan*"),
            *("tailscaled*", "zerotier-one*", "nebula.service", "nebula@*", "tinc.service"),
            *("tinc@*", "netbird*", "netclient*", "cloudflared*", "openconnect*", "vpnc*"),
        ),
    ),
    Group(
        "identity: who may log in",
        (
            *("polkit*", "sssd*", "winbind*", "nslcd*", "nscd*", "unscd*", "oddjobd*"),
            *("autofs*", "realmd*", "gssproxy*", "accounts-daemon*"),
        ),
    ),
    Group(
        "storage that file systems hang on",
        (
            *("iscsi*", "open-iscsi*", "multipath*", "lvm2*", "dm-event*", "blk-availability*"),
            *("rpcbind*", "nfs-client*", "nfs-idmapd*", "nfs-blkmap*", "rpc-statd*", "rpc-gssd*"),
            *("zfs*", "mdmonitor*", "mdadm*", "drbd*", "nvmf-*", "nbd@*"),
        ),
    ),
    Group(
        "the hypervisor's or the cloud's agent",
        (
            *("*guest-agent*", "amazon-ssm-agent*", "walinuxagent*", "waagent*", "vmtoolsd*"),
            *("open-vm-tools*", "hv-kvp*", "hv-vss*", "hv-fcopy*", "hypervkvpd*", "xe-daemon*"),
            *("ec2-instance-connect*", "google-startup-scripts*"),
        ),
    ),
)


def protection(unit: str, configured: Sequence[str] = ()) -> str:
    """Why a unit is protected, with the pattern that says so; empty when it is not."""
    for group in (*ESSENTIAL, Group(CONFIGURED, tuple(configured))):
        for pattern in group.patterns:
            if fnmatchcase(unit, pattern):
                return f"{pattern}: {group.reason}"
    return ""
