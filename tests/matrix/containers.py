"""What Docker's and podman's tests share: one container with a published port, and the faults.

Each fault is aimed at the host outside. It has to hit the container's traffic as it does the
node's own, or be refused; in force and without effect is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PUBLISHED, INNER = 8080, 80

FAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "loss out": ("network.loss", {"percent": "100%", "direction": "out"}),
    "loss in": ("network.loss", {"percent": "100%", "direction": "in"}),
    "partition": ("network.partition", {}),
    "partition in": ("network.partition", {"direction": "in"}),
    "partition reject": ("network.partition", {"action": "reject"}),
    "blackhole of the published port": ("network.blackhole", {"local_ports": str(PUBLISHED)}),
}
CALLED, CALLING = "called from outside", "calling outside"
CASES = [
    (fault, call)
    for fault in FAULTS
    for call in (CALLED, CALLING)
    if call == CALLED or "published" not in fault
]


def image(run: Callable[..., str], tool: str, at: Path) -> None:
    """Import an image ``box`` that is one static busybox."""
    tree = at / "tree"
    (tree / "bin").mkdir(parents=True)
    run("cp", "/bin/busybox", str(tree / "bin/busybox"))
    (tree / "index.html").write_text("here\n")
    run("tar", "-C", str(tree), "-cf", str(at / "box.tar"), ".")
    run(tool, "import", str(at / "box.tar"), "box:local")


def serve(run: Callable[..., str], tool: str) -> None:
    """Run the container ``web``; its page is published. It may ping, which podman's may not."""
    serving = ("/bin/busybox", "httpd", "-f", "-p", str(INNER), "-h", "/")
    publish = ("-d", "--name", "web", "--cap-add", "NET_RAW", "-p", f"{PUBLISHED}:{INNER}")
    run(tool, "run", *publish, "box:local", *serving)


def works(run: Callable[..., str], tool: str, outside: Any, call: str) -> bool:
    """Whether the call goes through."""
    if call == CALLED:
        return bool(outside.fetches(PUBLISHED))
    ping = ("/bin/busybox", "ping", "-c", "2", "-W", "1", outside.address)
    return " bytes from" in run(tool, "exec", "web", *ping, check=False)


def is_hit_or_refused(
    run: Callable[..., str],
    tool: str,
    outside: Any,
    made: Any,
    ends: Callable[[Any, str], None],
    refusal: Callable[[Any, str], bool],
    name: str,
    call: str,
) -> None:
    """One fault on one call, from before it to after it."""
    kind, params = FAULTS[name]
    wait_until(lambda: works(run, tool, outside, call), f"{call} does not work without a fault")
    fault = made.apply(kind, peers=outside.address, **params)
    if not refusal(made, fault):
        made.await_in_force(fault)
        went = works(run, tool, outside, call)
        status = made.status(fault)
        ends(made, fault)
        assert not went, f"{name}: {status.state}, and {call} goes on"
    assert works(run, tool, outside, call)


def wait_until(met: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)
