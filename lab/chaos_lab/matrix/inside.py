"""Inside a node of the matrix: runs one command after the other, as asked over a virtio port.

A request and an answer are a line of JSON each. ``{"argv": […], "env": {…}, "cwd": "…"}`` is
answered by ``{"out": "…"}`` for every line that the command prints, then ``{"ended": status}``.
The project's disk is mounted read-only where the project is on the host, because a Python
environment knows its own path. Uses the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

_DISK = "/dev/vdb"
_PORT = "/dev/vport0p1"


def main() -> None:
    """Mount, say that the node is up, and serve until it is switched off."""
    words = dict(
        word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word
    )
    root = words["project"]
    Path(root).mkdir(parents=True, exist_ok=True)
    subprocess.run(["/bin/mount", "-o", "ro", _DISK, root], check=True)
    with Path(_PORT).open("r+b", buffering=0) as port:
        _say(port, {"up": os.uname().release})
        buffer = b""
        while True:
            while b"\n" not in buffer:
                buffer += port.read(4096) or b""
            line, _, buffer = buffer.partition(b"\n")
            _serve(port, json.loads(line), root)


def _serve(port: BinaryIO, asked: dict[str, Any], root: str) -> None:
    env = {
        "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        **asked.get("env", {}),
    }
    try:
        child = subprocess.Popen(
            asked["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=asked.get("cwd") or root,
        )
    except OSError as error:
        _say(port, {"out": str(error)})
        _say(port, {"ended": 127})
        return
    assert child.stdout is not None
    for line in child.stdout:
        _say(port, {"out": line.decode(errors="replace").rstrip("\n")})
    _say(port, {"ended": child.wait()})


def _say(port: BinaryIO, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[port.write(data) or 0 :]


if __name__ == "__main__":
    main()
