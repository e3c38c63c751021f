"""``chaos-controller``: one command, run by systemd."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from chaos_core.errors import ChaosError

app = typer.Typer(
    help="Coordinates chaos runs: agents and operators dial in.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Keeps ``run`` a command of its own."""


@app.command("run")
def serve(
    config: Annotated[
        Path | None, typer.Option(help="instead of /etc/chaos/controller.toml")
    ] = None,
    epoch_at_least: Annotated[
        int, typer.Option(min=0, help="take over nodes that obeyed another controller")
    ] = 0,
) -> None:
    """Serve until SIGTERM."""
    asyncio.run(_serve(config, epoch_at_least))


async def _serve(path: Path | None, epoch_at_least: int) -> None:
    from chaos_controller.config import load
    from chaos_controller.notify import notify
    from chaos_controller.server import Controller
    from chaos_core.log import Log

    log = Log.to_stderr("chaos-controller")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    controller = await Controller.start(load(path), log, epoch_at_least=epoch_at_least)
    async with controller:
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
        log.info("stopping")


def run() -> None:
    """Entry point: an error of ours is one clear message and its documented exit code."""
    try:
        app()
    except ChaosError as error:
        print(f"chaos-controller: {error}", file=sys.stderr)
        sys.exit(error.exit)
