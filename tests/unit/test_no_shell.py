"""No shell and no code from data, anywhere that runs on a node or on the controller."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("agent", "controller", "proto/chaos_proto", "core", "ctl", "experiment")
FILES = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
SHELLS = {"sh", "bash", "dash", "zsh", "/bin/sh", "/bin/bash", "/usr/bin/env"}
CALLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "pty.spawn"),
    *("eval", "exec", "compile", "pickle.loads", "pickle.load", "marshal.loads"),
}


def offences(source: str) -> Iterator[str]:
    """What in a module would run a shell, or text as code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield f"line {node.lineno}: {name}()"
            for keyword in node.keywords:
                if keyword.arg == "shell" and ast.unparse(keyword.value) != "False":
                    yield f"line {node.lineno}: shell={ast.unparse(keyword.value)}"
        elif isinstance(node, ast.List | ast.Tuple) and node.elts:
            first = node.elts[0]
            if isinstance(first, ast.Constant) and first.value in SHELLS:
                yield f"line {node.lineno}: {first.value!r} heads a command"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_a_shell(path: Path) -> None:
    assert list(offences(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(x, shell=True)",
        "subprocess.run(['sh', '-c', x])",
        "os.system(x)",
        "run(('/bin/bash', x))",
        "eval(x)",
        "await asyncio.create_subprocess_shell(x)",
    ],
)
def test_a_shell_would_be_found(source: str) -> None:
    assert list(offences(source))


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 90
