"""What there is to inject: kinds of others, the page, and the schema for editors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chaos_core import catalogue, faults

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_PLUGIN = '''
from chaos_core.effects import LeasedSet
from chaos_core.faults.network_latency import NetworkLatency

class Uplink(NetworkLatency):
    """The uplink is slow."""
    kind = "acme.uplink"
    summary = "slow down the uplink"

class Clumsy(NetworkLatency):
    kind = "acme.clumsy"
    def compile(self, node, fault_id):
        return 1 / 0

class Thief(NetworkLatency):
    kind = "acme.thief"
    def compile(self, node, fault_id):
        return (LeasedSet("users-own", 4, ()),)

class Impostor(NetworkLatency):
    kind = "network.latency"

class Nameless(NetworkLatency):
    kind = "uplink"
'''
_ENTRIES = """[chaos.faults]
uplink = acme:Uplink
clumsy = acme:Clumsy
thief = acme:Thief
impostor = acme:Impostor
nameless = acme:Nameless
function = acme:print
nowhere = acme.nowhere:Fault
"""


def _wheel(directory: Path) -> Path:
    """Somebody's distribution, as they would publish it."""
    path, info = directory / "acme_chaos-1-py3-none-any.whl", "acme_chaos-1.dist-info"
    files = {
        "acme.py": _PLUGIN,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: acme-chaos\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": _ENTRIES,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def chaosctl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """chaosctl, with that distribution installed beside it."""
    here, place = tmp_path_factory.mktemp("acme"), tmp_path_factory.mktemp("site")
    uv = shutil.which("uv") or str(ROOT / ".lab/tools/bin/uv")
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-cache"]
    install += ["--python", sys.executable, "--target", str(place), str(_wheel(here))]
    subprocess.run(install, check=True)

    def run(*words: str) -> tuple[int, str, str]:
        script = Path(sys.executable).with_name("chaosctl")
        environment = {**os.environ, "PYTHONPATH": str(place)}
        done = subprocess.run([script, *words], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_kind_of_somebody_elses_is_one_of_ours(chaosctl: Any) -> None:
    code, out, _ = chaosctl("faults", "-o", "json")
    assert (code, "acme.uplink" in [kind["kind"] for kind in json.loads(out)]) == (0, True)
    words = ("inject", "acme.uplink", "peers=10.0.0.2", "--for", "5s", "--dry-run")
    code, out, _ = chaosctl(*words, "delay=50ms", "-o", "json")
    assert (code, json.loads(out)["allowed"]) == (0, True)
    code, _, err = chaosctl(*words, "delay=51ms")
    assert (code, "50ms in profile production" in err) == (3, True), err


def test_what_cannot_be_had_is_told_and_replaces_nothing(chaosctl: Any) -> None:
    code, out, err = chaosctl("faults")
    assert code == 0
    for name, why in (
        ("impostor", "network.latency is there already"),
        ("nameless", "'uplink' is not like vendor.fault"),
        ("function", "acme"),
        ("nowhere", "No module named 'acme.nowhere'"),
    ):
        (line,) = [line for line in err.splitlines() if line.startswith(f"plug-in {name} ")]
        assert why in line
    assert out.count("network.latency") == 1


@pytest.mark.parametrize(
    ("kind", "why"), [("acme.clumsy", "ZeroDivisionError"), ("acme.thief", "'users-own'")]
)
def test_an_error_of_somebody_elses_refuses_their_fault(chaosctl: Any, kind: str, why: str) -> None:
    code, _, err = chaosctl(
        "inject", kind, "peers=10.0.0.2", "delay=1ms", "--for", "5s", "--dry-run"
    )
    assert (code, kind in err, why in err, "Traceback" in err) == (3, True, True, False), err


def test_the_page_in_docs_is_that_of_the_definitions() -> None:
    """`make catalogue` writes it; so does tools/faults-page.py, without measuring anew."""
    assert (DOCS / "faults.md").read_text() == catalogue.page(
        json.loads((DOCS / "catalogue.json").read_text())
    )


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("network.reject", {"out": ["filter OUTPUT", "filter FORWARD"],
                            "in": ["filter INPUT", "filter FORWARD"]}),
        ("network.latency", {"out": ["tc egress", "mangle POSTROUTING"], "in": ["tc ingress"]}),
        ("http.fault", {"": ["nat PREROUTING"]}),
        ("cpu.stress", {}),
    ],
)  # fmt: skip
def test_a_kind_says_where_packets_meet_it(kind: str, where: dict[str, list[str]]) -> None:
    assert catalogue.hooks(faults.lookup(kind)) == where


def test_the_page_has_all_of_every_kind() -> None:
    page = catalogue.page([])
    for kind, cls in faults.kinds().items():
        section = page.split(f"\n## {kind}\n")[1].split("\n## ")[0]
        assert all(f"`{name}`" in section for name in cls.model_fields)
        assert cls.lease_holder in section


def test_the_schema_stands_alone() -> None:
    """Each kind is one alternative, and nothing refers to what is not in it."""
    schema = faults.json_schema()
    assert [one["properties"]["kind"]["const"] for one in schema["oneOf"]] == list(faults.kinds())
    assert "$ref" not in json.dumps(schema)
