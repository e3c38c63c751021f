"""The options of an xtables extension, as both layouts of struct xt_option_entry have them."""

from __future__ import annotations

import ctypes

import pytest

from chaos_agent.linux.xtrules import entry_size, option

_OLD = 48  # bytes of an entry before iptables 1.8.10


class Entry(ctypes.Structure):
    """Its first field, and room for the others."""

    _fields_ = (("name", ctypes.c_char_p), ("id", ctypes.c_uint), ("rest", ctypes.c_byte * 36))


@pytest.mark.parametrize("size", [_OLD, _OLD + 8])
def test_each_option_is_found_in_either_layout(size: int) -> None:
    names = [b"source-ports", b"sports", b"dports"]
    memory = ctypes.create_string_buffer(size * (len(names) + 1))  # zeros end it
    start = ctypes.addressof(memory)
    for number, name in enumerate(names):
        Entry.from_address(start + number * size).name = name
        Entry.from_address(start + number * size).id = number + 1
    assert entry_size(start, _OLD) == size
    assert [option(Entry, start, size, name).id for name in names] == [1, 2, 3]
    assert option(Entry, start, size, b"none") is None
