"""The page cache is dropped, which the kernel counts. In the guest: the host's is not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux import caches
from chaos_agent.linux.host import Host
from chaos_core.effects import Flush

pytestmark = pytest.mark.guest


def cached_pages() -> int:
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(lines["nr_active_file"]) + int(lines["nr_inactive_file"])


def test_what_was_cached_is_not(node: Any) -> None:
    """What this very program has been read from, by and large."""
    pages, slab = caches.flushes()
    before = cached_pages()
    fault = node.apply("cache.flush", what="both", seconds=20)
    node.await_in_force(fault)
    assert cached_pages() < before - 1_000
    assert caches.flushes() == (pages + 1, slab + 1)
    node.supervisor.end_all("shutdown", 0)
    assert node.status(fault).clean


def test_what_the_kernel_has_not_counted_is_not_in_force(host: Host) -> None:
    pages, slab = caches.flushes()
    assert ops(Flush("pagecache", pages, slab)).verify(host, Flush("pagecache", pages, slab))
    done = Flush("pagecache", pages - 1, slab)
    assert ops(done).verify(host, done) is None
    half = Flush("both", pages - 1, slab)
    assert ops(half).verify(host, half)
