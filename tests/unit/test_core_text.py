"""Text from outside is one printable line of bounded length, wherever it is kept or shown."""

from __future__ import annotations

import io
import logging

import pytest

from chaos_core.log import Log
from chaos_core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ü and 漢字", "plain, with ü and 漢字"),
        ("a\nerror  forged", "a error  forged"),
        ("\x1b[2J\x9b31m\x7f\x00", "�[2J�31m��"),
        ("\u202egnp.exe\u2028\ud800", "�gnp.exe �"),
    ],
)
def test_what_cannot_be_seen_does_not_get_through(text: str, shown: str) -> None:
    assert printable(text, 100) == shown


@pytest.mark.parametrize("letter", ["x", "ü", "漢", "😀"])
def test_a_long_text_is_cut_between_letters(letter: str) -> None:
    cut = printable(letter * 1_000, 100)
    assert 90 < len(cut.encode()) <= 100
    assert cut.rstrip("…").replace(letter, "") == ""


def test_a_log_line_is_one_line_whatever_its_values_hold() -> None:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    Log(logger).warning("refused", why="x\ninfo    in force  node=n1\x1b[1m" + "y" * 10_000)
    line = stream.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert len(line) < 2_100
