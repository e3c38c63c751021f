"""The error tree: one code and one exit each, and the same error after crossing the wire."""

from __future__ import annotations

import pytest

from chaos_core import errors
from chaos_core.errors import ChaosError, Exit


def tree(cls: type[ChaosError] = ChaosError) -> list[type[ChaosError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in tree(child))]


# Only what this module defines: other packages may add to the tree.
TREE = [cls for cls in tree() if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", TREE)
def test_an_error_crosses_the_wire_as_itself(cls: type[ChaosError]) -> None:
    back = errors.from_code(cls.code, "what", where="n1", hint="do this")
    assert type(back) is cls
    assert str(back) == "n1: what\n  → do this"


def test_codes_are_unique_and_an_unknown_one_is_plain() -> None:
    assert len({cls.code for cls in TREE}) == len(TREE)
    assert type(errors.from_code("new", "what")) is ChaosError


@pytest.mark.parametrize("cls", TREE[1:])
def test_the_tree_drawn_in_the_docstring_is_the_tree(cls: type[ChaosError]) -> None:
    line = next(
        line for line in (errors.__doc__ or "").splitlines() if f"─ {cls.__name__} " in line
    )
    assert f" {int(cls.exit)} " in line
    assert cls.exit in Exit
