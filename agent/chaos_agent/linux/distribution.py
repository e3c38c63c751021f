"""Which distribution this is, and what it calls the package of the kernel's rarer modules."""

from __future__ import annotations

import platform
from functools import cache

_DOCTOR = "`chaos-agent doctor` lists what is missing"
# By ID or ID_LIKE of os-release(5), the first that is known.
_PACKAGES = {
    "rhel": "dnf install kernel-modules-extra-$(uname -r)",
    "fedora": "dnf install kernel-modules-extra-$(uname -r)",
    "centos": "dnf install kernel-modules-extra-$(uname -r)",
    "ubuntu": "apt-get install linux-modules-extra-$(uname -r)",
    "debian": "apt-get install linux-image-amd64, whose kernel has all of them, and boot it",
    "suse": "zypper install kernel-default in the place of kernel-default-base, and boot it",
}


def module_hint() -> str:
    """What to do about a module that this kernel has not, on this distribution."""
    system = _release()
    for name in (system.get("ID", ""), *system.get("ID_LIKE", "").split()):
        if name in _PACKAGES:
            return f"on {system.get('PRETTY_NAME', name)}: {_PACKAGES[name]}; {_DOCTOR}"
    return f"load or build the module: {_DOCTOR}"


@cache
def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
