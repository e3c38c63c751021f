"""What it means when the kernel says no: an errno as an error with a hint, in one place."""

from __future__ import annotations

import errno
import os

from chaos_agent.linux.distribution import module_hint
from chaos_core.errors import ChaosError, KernelRefused

_PERMISSION = (
    "the agent takes CAP_NET_ADMIN in the host's own namespaces; a security module or a"
    " container's seal may forbid it as well"
)
_HINTS = {
    errno.EPERM: _PERMISSION,
    errno.EACCES: _PERMISSION,
    errno.EEXIST: "something else is already in that place; docs/coexistence.md says what"
    " goes together",
    errno.EBUSY: "another program uses it; try again, or find out which",
    errno.ENOSPC: "the kernel has no room for more of these: end other faults, or raise its limit",
    errno.ENOMEM: "the kernel has no memory for it",
    errno.ENOBUFS: "the kernel has no memory for it",
    errno.ENODEV: "the interface is gone; `ip link` lists those that there are",
    errno.ENXIO: "the interface is gone; `ip link` lists those that there are",
    errno.ENETDOWN: "the interface is down",
    errno.EAGAIN: "another program changed the same thing at the same time; try again",
    errno.EINTR: "another program changed the same thing at the same time; try again",
}
_LACKING = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS)


def refusal(what: str, code: int, said: str = "", where: str = "") -> ChaosError:
    """The error for ``what`` the kernel refused with the errno ``code``. ``said`` are its words.

    An errno that can only be a defect here (EINVAL, EFAULT) gives a plain ChaosError.
    """
    code = abs(code)
    name = errno.errorcode.get(code, str(code))
    text = f"the kernel refused to {what}: {said or os.strerror(code)} ({name})"
    if code in _LACKING:
        return KernelRefused(text, where=where, hint=module_hint())
    hint = _HINTS.get(code)
    return KernelRefused(text, where=where, hint=hint) if hint else ChaosError(text, where=where)


def code_of(text: str) -> int:
    """The errno whose words ``text`` ends with, as tools print it; 0 when there is none."""
    return next((code for code in errno.errorcode if text.endswith(os.strerror(code))), 0)
