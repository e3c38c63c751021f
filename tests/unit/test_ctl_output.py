"""What came over the wire reaches the terminal as text on one line, in every form of output."""

from __future__ import annotations

import json

import pytest

from chaos_core.errors import ChaosError
from chaosctl import output

HOSTILE = "x\nerror: forged \x1b[2J\x9b31m\u202e\x7f😀\U000e0041"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    text = (out + err).removesuffix("\n")
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    return text


def test_fields_and_lines_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.fields([("reason", HOSTILE)])
    assert "\n" not in shown(capsys)
    output.table(("REASON",), [(HOSTILE,)])
    assert not any(line.startswith("error") for line in shown(capsys).split("\n"))


def test_json_says_the_same_and_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (output.line, output.document):
        show({"reason": HOSTILE, HOSTILE: ["ü"]})
        text = shown(capsys)
        assert json.loads(text) == {"reason": HOSTILE, HOSTILE: ["ü"]}
        assert "ü" in text


@pytest.mark.parametrize("as_json", [False, True])
def test_errors(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    output.error(ChaosError("\x1b[2Jwhat", hint="do this"), as_json=as_json)
    assert "do this" in shown(capsys)
