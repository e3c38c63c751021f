"""Runs the matrix: each node is booted once for all its cases, several of them at a time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos_core.errors import LabError
from chaos_lab.image import Progress
from chaos_lab.layout import LabDir
from chaos_lab.matrix import image
from chaos_lab.matrix.machine import Machine
from chaos_lab.matrix.releases import Release
from chaos_lab.matrix.report import HostReport, Report, Row
from chaos_lab.process import run as command

_SILENCE_S = 900.0
"""How long a test may say nothing, on a machine that has other things to do as well."""

_ENVIRONMENT = {
    "CHAOS_GUEST": "matrix",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONUNBUFFERED": "1",
}

_VERSIONS = {
    "kernel": "uname -r",
    "systemd": "systemctl --version | head -n 1 | cut -d' ' -f2",
    "iptables": "iptables --version | cut -d' ' -f2-",
    "nft": "nft --version | cut -d' ' -f2",
    "iproute2": "ip -V | sed 's/.*iproute2-//'",
    "python": ".venv/bin/python -c 'import platform; print(*platform.libc_ver(), "
    "platform.python_version())'",
}


def run(
    lab: LabDir,
    chosen: Sequence[Release],
    files: Sequence[str],
    *,
    neighbours: bool,
    jobs: int,
    say: Progress,
    tell: Callable[[HostReport], None],
) -> Report:
    """Every release, ``jobs`` at a time; ``tell`` gets a host after each of its cases.

    A node that breaks down is reported and does not end the others.
    """
    lab.cache.mkdir(parents=True, exist_ok=True)
    commit = command(["git", "-C", str(lab.root), "rev-parse", "--short", "HEAD"]).strip()
    if command(["git", "-C", str(lab.root), "status", "--porcelain"]).strip():
        commit += " with changes"
    with tempfile.TemporaryDirectory(prefix="matrix-", dir=lab.cache) as temporary:
        project = Path(temporary, "project.img")
        say("packing the project")
        image.project_disk(lab, project)
        images = [image.build(lab, release, say, neighbours=neighbours) for release in chosen]

        machines = [Machine(lab, built, project, _logs(lab)) for built in images]

        def one(machine: Machine) -> HostReport:
            say(f"{machine.name}: booting")
            return _host(machine, files, commit, say, tell)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                return Report(tuple(pool.map(one, machines)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for machine in machines:
                    machine.close()
                raise


def _logs(lab: LabDir) -> Path:
    return lab.home / "matrix" / "logs"


def _host(
    machine: Machine,
    files: Sequence[str],
    commit: str,
    say: Progress,
    tell: Callable[[HostReport], None],
) -> HostReport:
    rows: list[Row] = []
    versions: dict[str, str] = {}
    log = machine.console.with_suffix(".pytest.log")
    try:
        with machine, log.open("w") as kept:
            versions = {
                name: machine.exec(["sh", "-c", shell]).stdout.strip()
                for name, shell in _VERSIONS.items()
            }
            say(f"{machine.name}: up, kernel {versions['kernel']}, systemd {versions['systemd']}")
            seen = Reports(
                machine.name,
                commit,
                rows,
                lambda: tell(HostReport(machine.name, versions, tuple(rows))),
            )

            def hear(line: str) -> None:
                if not seen.take(line):
                    kept.write(line + "\n")
                    kept.flush()

            words = [".venv/bin/python", "-B", "-m", "pytest", "-p", "no:cacheprovider", "-qs"]
            words += ["-p", "pytest_asyncio.plugin"]  # the others' imports take a minute here
            ended = machine.exec(
                [*words, *files],
                env=_ENVIRONMENT,
                timeout=_SILENCE_S,
                check=False,
                tell=hear,
            )
            if ended.returncode not in (0, 1):
                raise LabError(f"pytest ended with {ended.returncode}", where=str(log))
    except LabError as error:
        return HostReport(machine.name, versions, tuple(rows), str(error))
    return HostReport(machine.name, versions, tuple(rows))


class Reports:
    """Makes rows of pytest's reports: one for each test, when it is over."""

    def __init__(self, host: str, commit: str, rows: list[Row], tell: Callable[[], object]) -> None:
        self._host, self._commit, self._rows, self._tell = host, commit, rows, tell
        self._failed: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._hits: dict[str, str] = {}

    def take(self, line: str) -> bool:
        """Whether the line was a report."""
        if not line.startswith("report {"):
            return False
        found: dict[str, Any] = json.loads(line.removeprefix("report "))
        case = found["nodeid"]
        if found["outcome"] != "passed":
            self._failed.setdefault(case, _why(found.get("longrepr")))
        for name, value in found.get("user_properties", ()):
            if name == "refused":
                self._refused[case] = value
            elif name == "hits":
                self._hits[case] = value
        if found["when"] == "teardown":
            if case in self._failed:
                row = Row(self._host, case, "failed", self._failed[case])
            elif case in self._refused:
                row = Row(self._host, case, "refused", self._refused[case])
            else:
                row = Row(self._host, case, "ok", hits=self._hits.get(case, ""))
            today = f"{datetime.now(UTC):%Y-%m-%d}"
            row = replace(row, commit=self._commit, date=today)
            self._rows.append(row)
            self._tell()
        return True


def _why(longrepr: Any) -> str:
    """The last line of what pytest says, which is the complaint itself."""
    if isinstance(longrepr, dict):
        crash = longrepr.get("reprcrash") or {}
        return str(crash.get("message", longrepr))[:600]
    return str(longrepr)[-600:]
