"""Every error this project raises on purpose, in one tree.

::

    ChaosError                 exit  what it means to the operator
    ├── InvalidInput             2   the request itself is wrong; nothing was done
    ├── Refused                  3   understood, and not allowed here or now
    │   ├── EnvelopeExceeded     3   a ceiling, a profile or a sum of ceilings
    │   ├── Latched              3   an abort is in force until `chaosctl resume`
    │   ├── NotPermitted         3   the certificate's role does not allow it
    │   ├── Revoked              3   the certificate was revoked: by whom, when, why
    │   ├── KernelRefused        3   the kernel does not let it be done here, and why
    │   └── Fenced               3   a command of a lower controller epoch
    ├── Unsupported              3   this host cannot do it, and why
    ├── Busy                     1   another program holds it or does not answer; try again
    ├── NotInForce               1   applied, but not there when read back
    ├── Residue                  6   reverted, but the node differs from its snapshot
    ├── ControllerUnreachable    5   no answer from the controller
    ├── NodeUnreachable          6   no session with the node, or it is quarantined
    ├── LabError                 1   the staging lab could not do as told
    └── MissingPrerequisite      2   not root, not Linux, a package is missing

Each carries what happened, where (node, file:line or field) and what to do
next, and prints as one or two lines. Anything else that escapes is a defect.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command, as documented in the README."""

    DONE = 0
    FAILED = 1
    INVALID = 2
    REFUSED = 3
    ABORTED = 4
    CONTROLLER_UNREACHABLE = 5
    NODE_UNREACHABLE = 6
    NO_EFFECT = 7


class ChaosError(Exception):
    """Base of the tree. ``code`` names it on the wire, ``exit`` ends a command."""

    code: str = "error"
    exit: Exit = Exit.FAILED

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.hint}" if self.hint else text


class InvalidInput(ChaosError):
    """The request is malformed; nothing was done."""

    code = "invalid"
    exit = Exit.INVALID


class Refused(ChaosError):
    """The request is well-formed and is not allowed here or now."""

    code = "refused"
    exit = Exit.REFUSED


class EnvelopeExceeded(Refused):
    """The node's envelope does not allow this fault, alone or in sum."""

    code = "envelope"


class Latched(Refused):
    """An abort is in force; nothing starts before ``chaosctl resume``."""

    code = "latched"


class NotPermitted(Refused):
    """The certificate's role does not allow this call."""

    code = "role"


class Revoked(Refused):
    """The certificate was revoked; its holder may enrol again if somebody vouches for it."""

    code = "revoked"


class Fenced(Refused):
    """The command carries a lower epoch than one this node has obeyed."""

    code = "fenced"


class KernelRefused(Refused):
    """The kernel was asked and said no: no right, no room, something else in the place.

    Not ``Unsupported``, which reverts pass over: what a kernel cannot have, it has none of.
    """

    code = "kernel"


class Unsupported(ChaosError):
    """This host cannot do it; the text says what is missing."""

    code = "unsupported"
    exit = Exit.REFUSED


class Busy(ChaosError):
    """Another program holds what is needed, or does not answer in time: to be tried again."""

    code = "busy"


class NotInForce(ChaosError):
    """An effect was applied and is not there when read back from the kernel."""

    code = "not_in_force"


class Residue(ChaosError):
    """After the revert the node differs from its snapshot; it is quarantined."""

    code = "residue"
    exit = Exit.NODE_UNREACHABLE


class ControllerUnreachable(ChaosError):
    """The controller does not answer."""

    code = "controller_unreachable"
    exit = Exit.CONTROLLER_UNREACHABLE


class NodeUnreachable(ChaosError):
    """The controller has no session with the node, or the node is quarantined."""

    code = "node_unreachable"
    exit = Exit.NODE_UNREACHABLE


class LabError(ChaosError):
    """The staging lab could not be built, started or reached."""

    code = "lab"


class MissingPrerequisite(ChaosError):
    """Not root, not Linux on x86-64, or a package is missing."""

    code = "prerequisite"
    exit = Exit.INVALID


def _subclasses(cls: type[ChaosError]) -> list[type[ChaosError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _subclasses(child))]


def from_code(code: str, what: str, *, where: str = "", hint: str = "") -> ChaosError:
    """Rebuild an error that crossed the wire; an unknown code gives a plain ChaosError."""
    for cls in _subclasses(ChaosError):
        if cls.code == code:
            return cls(what, where=where, hint=hint)
    return ChaosError(what, where=where, hint=hint)
