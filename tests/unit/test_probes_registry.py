"""What holds for every kind of probe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos_experiment.probes import kinds
from chaos_experiment.probes._page import page

KINDS = {
    *("http", "tcp", "dns", "grpc", "prometheus", "alertmanager", "postgres", "redis", "etcd"),
    *("file", "command", "host", "process"),
}


def test_which_kinds_there_are() -> None:
    assert set(kinds()) == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_shows_itself(kind: str) -> None:
    probe = kinds()[kind].model_validate(kinds()[kind].example)
    assert probe.kind == kind
    assert 0 < len(probe.summary) <= 57
    assert all(isinstance(host, str) and host for host in probe.hosts())
    assert probe.due(0) == 0 < probe.due(1)
    assert probe.unit in ("duration", "percent", "")
    assert probe.unit == "duration" or not probe.latency
    for name, field in type(probe).model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"address": "shop"}, "write it like shop:80"),
        ({"address": "fd00::1:80x"}, "write it like shop:80"),
        ({"address": "shop:80", "interval": "10ms"}, "not between 100ms and 60m"),
        ({"address": "shop:80", "timeout": "0s"}, "not between 1ms and 60s"),
        ({"address": "shop:80", "odd": 1}, "Extra inputs are not permitted"),
    ],
)
def test_parameters_of_all_kinds(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kinds()["tcp"].model_validate(fields)


def test_checking_a_scenario_loads_no_library() -> None:
    code = (
        "import sys; from chaos_experiment.probes import kinds; kinds();"
        "names = ('httpx', 'anyio', 'psycopg', 'grpc', 'dns', 'psutil');"
        "print([m for m in names if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout == "[]\n"


def test_the_page_of_probes_is_as_they_are() -> None:
    """`tools/probes-page.py` writes it."""
    assert (Path(__file__).parents[2] / "docs/probes.md").read_text() == page()
