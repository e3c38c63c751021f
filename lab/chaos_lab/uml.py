"""User-Mode Linux as Debian packages it: which version there is, and how it is called here."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from chaos_core.errors import MissingPrerequisite
from chaos_lab.layout import LabDir
from chaos_lab.process import run

PROGRAM = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
_SOURCE = Path(__file__).with_suffix(".c")


def version() -> str:
    """The kernel's version, which is its modules' directory too. Raises MissingPrerequisite."""
    versions = sorted(path.name for path in MODULES.glob("*")) if MODULES.is_dir() else []
    if not versions or shutil.which(PROGRAM) is None:
        raise MissingPrerequisite("user-mode-linux is not installed", hint="run tools/bootstrap.sh")
    return versions[-1]


def command(lab: LabDir, cpu: int) -> list[str]:
    """The argv of a kernel on one CPU of this host, of whatever make; its own words come behind.

    A kernel that the host moves between CPUs is four times slower than one it does not: to hand
    over to an idle CPU takes long. What UML gets wrong on its host ``uml.c`` puts right, which
    is built into the lab's cache the first time. UML's helper threads have a stack of one page, of
    which to look up a function of libc's when it is first called takes four fifths where there is
    AVX-512: hence all are looked up at the start. Raises MissingPrerequisite without a C compiler.
    """
    source = _SOURCE.read_bytes()
    library = lab.cache / f"uml-{hashlib.sha256(source).hexdigest()[:12]}.so"
    if not library.exists():
        lab.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new-", dir=lab.cache) as place:
            built = Path(place, library.name)
            run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(built), str(_SOURCE)])
            built.rename(library)
    return ["taskset", "-c", str(cpu), "env", "LD_BIND_NOW=1", f"LD_PRELOAD={library}", PROGRAM]
