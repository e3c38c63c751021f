"""The store, the configuration and the start: what is kept, and what is said when it cannot be."""

from __future__ import annotations

import datetime as dt
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from chaos_controller import clock
from chaos_controller.config import Config, load, parse
from chaos_controller.grants import Authority, renewable
from chaos_controller.limits import Bucket
from chaos_controller.server import Controller
from chaos_controller.store import LatchRow, NewRun, Store
from chaos_controller.store.schema import HEAD, metadata
from chaos_core.audit import verify
from chaos_core.errors import InvalidInput, Latched
from chaos_core.log import Log
from chaos_core.units import Duration
from chaos_proto import pki
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Rig


def url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory}/x.db"


async def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = await Store.open(url(tmp_path))
    await store.close()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
    with engine.connect() as db:
        context = MigrationContext.configure(db)
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_sqlite_is_set_to_survive_a_power_cut(tmp_path: Path) -> None:
    store = await Store.open(url(tmp_path))
    async with store._engine.connect() as db:
        pragmas = [
            (await db.execute(sa.text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    await store.close()


async def test_each_start_has_a_higher_epoch(tmp_path: Path) -> None:
    last = 0
    for at_least in (0, 0, 9_000_009, 3):
        store = await Store.open(url(tmp_path))
        epoch = await store.next_epoch(at_least)
        assert epoch > last
        assert epoch >= at_least
        assert await store.epoch() == epoch
        last = epoch
        await store.close()


async def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    store = await Store.open(url(tmp_path))
    await store.set_latch(LatchRow("operator/a", "x", "now"))

    def check(latch: LatchRow | None, _: object) -> None:
        assert latch is not None
        raise Latched("no")

    with pytest.raises(Latched):
        await store.begin_run(NewRun("r-1", 1, "k", "{}", 1, "a", {"n": "0" * 8}), "{}", check)
    assert await store.runs(1) == []
    assert await store.occupied() == []
    await store.close()


async def test_a_changed_or_missing_audit_entry_is_found(tmp_path: Path) -> None:
    store = await Store.open(url(tmp_path))
    for number in range(4):
        await store.audit(actor="a", action="x", request=str(number), decision="accepted")
    entries = [dict(entry) for entry in await store.audit_entries()]
    await store.close()
    assert verify(entries) is None
    assert verify([*entries[:1], *entries[2:]]) == 2
    assert verify([entries[0], entries[2], entries[1], entries[3]]) == 2
    entries[2]["request"] = "nothing to see"
    assert verify(entries) == 3


async def test_a_database_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"/proc/x\.db.*unable to open"):
        await Store.open("sqlite+aiosqlite:////proc/x.db")
    with pytest.raises(InvalidInput, match="foo"):
        await Store.open("foo://x")


async def test_a_second_controller_by_mistake_changes_nothing(rig: Rig) -> None:
    taken = Config(
        listen="127.0.0.1",
        port=rig.controller.port,
        enrolment_port=0,
        pki=rig.config.pki,
        database=rig.config.database,
    )
    with pytest.raises(InvalidInput, match="cannot listen there"):
        await Controller.start(taken, Log.to_stderr("second"))
    assert await rig.controller.store.epoch() == rig.controller.authority.epoch


async def test_a_missing_pki_says_how_to_make_one(tmp_path: Path) -> None:
    config = Config(pki=tmp_path, database=url(tmp_path))
    with pytest.raises(InvalidInput, match="chaosctl pki init"):
        await Controller.start(config, Log.to_stderr("none"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ca.pem", "No such file"),
        ("ca.key", "does not belong to ca.pem"),
        ("ca.key", "everybody on this machine"),
        ("ca.pem", "expired on"),
        ("controller.names", "No such file"),
        ("controller.names", "neither a DNS name nor an IP address"),
    ],
)
async def test_a_pki_that_cannot_be_used_keeps_the_controller_from_starting(
    tmp_path: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "expired" in says:
        monkeypatch.setattr(pki, "CA_VALIDITY", dt.timedelta(seconds=-1))
        monkeypatch.setattr(pki, "check_validity", lambda *_: None)
    pki.init(tmp_path, names=["127.0.0.1"])
    monkeypatch.undo()
    path = tmp_path / name
    if "belong" in says:
        path.write_bytes((pki.init(tmp_path / "x", names=["c"]).directory / "ca.key").read_bytes())
    elif "everybody" in says:
        path.chmod(0o644)
    elif "neither" in says:
        path.write_text("not a name\n")
    elif "No such" in says:
        path.unlink()
    with pytest.raises(InvalidInput, match=says) as caught:
        await Controller.start(
            Config(pki=tmp_path, database=url(tmp_path)), Log.to_stderr("spoilt")
        )
    assert caught.value.where.startswith(str(path))
    assert caught.value.hint or "belong" in says


async def test_a_database_of_the_version_before_is_migrated_with_what_it_holds(
    tmp_path: Path,
) -> None:
    store = await Store.open(url(tmp_path))
    await store.add_token("operator/ann", "d" * 64, "agent/n1", "2999-01-01T00:00:00.000Z")
    await store.close()
    with sqlite3.connect(tmp_path / "x.db") as database:
        for statement in (
            "DROP TABLE records",
            "DROP TABLE certificates",
            "DROP TABLE revocations",
            "ALTER TABLE tokens DROP COLUMN actor",
            "ALTER TABLE run_events DROP COLUMN hits",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            database.execute(statement)
    store = await Store.open(url(tmp_path))
    leaf, _ = await store.spend_token("d" * 64, lambda who: (leaf_of(who), b""), "peer")
    assert await store.certificates(leaf.issued) == [leaf]
    await store.close()


def leaf_of(who: Identity) -> pki.Leaf:
    now = clock.utc().replace(microsecond=0)
    return pki.Leaf(who, "5e", now, now + dt.timedelta(days=1))


@pytest.mark.parametrize("text", ["1s", "0s", "9000h", "90d", "soon"])
def test_lives_of_certificates_that_are_none(text: str) -> None:
    assert parse('certificate_life = "720h"').certificate_life == Duration.parse("720h")
    with pytest.raises(InvalidInput, match=r"controller\.toml:1.*certificate_life"):
        parse(f'certificate_life = "{text}"')


def test_what_probes_may_use_is_in_the_file() -> None:
    probes = parse(
        """
        [probes]
        secrets = "/srv/secrets"
        protected = ["10.9.0.0/16", "2001:db8::1"]
        [probes.commands]
        queue-depth = ["/usr/bin/queue", "--depth"]
        """
    ).probes
    assert probes.context.commands == {"queue-depth": ("/usr/bin/queue", "--depth")}
    assert probes.context.secrets == Path("/srv/secrets")
    assert [str(each) for each in probes.protected] == ["10.9.0.0/16", "2001:db8::1/128"]


def test_an_empty_file_is_a_configuration() -> None:
    assert parse("") == Config()
    assert parse('ttl = "2s"\nlisten = "10.0.0.1"').ttl == Duration.parse("2s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = = 1", r"c\.toml:1: not TOML"),
        ('\n\ntt1 = "3s"', r"c\.toml:3: unknown field 'tt1'\n.*did you mean 'ttl'"),
        ('port = "80"', r"c\.toml:1: port: '80' is not a port"),
        ("port = true", "not a port"),
        ('ttl = "3"', "ttl: '3' has no unit"),
        ('ttl = "4500ms"', "above the abort bound"),
        ('listen = "everywhere"', "not an IP address"),
        ("pki = 3", "put it in quotes"),
        ("[ttl]\nx = 1", r"c\.toml:1: ttl"),
        ('site = "site.yaml"', "site: 'site.yaml' is not an absolute path"),
        ("probes = 1", r"c\.toml:1: probes: not a table"),
        ('[probes]\nsecret = "/x"', r"c\.toml:2: unknown field 'probes.secret'\n.*'secrets'"),
        ('[probes]\nprotected = ["10.0.0.1/8"]', r"c\.toml:2: probes.protected: .*host bits"),
        ('[probes]\nprotected = "10.0.0.0/8"', r"c\.toml:2: .* is not a list"),
        ('[probes.commands]\nA-b = ["/x"]', r"c\.toml:2: probes.commands: 'A-b' is not a name"),
        ('[probes.commands]\na = "/x"', r"c\.toml:2: probes.commands: a: not a list"),
        ('[probes.commands]\na = ["x"]', r"c\.toml:2: .* a: 'x' is not an absolute path"),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(text, "c.toml")


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        load(tmp_path / "controller.toml")


def test_who_may_renew() -> None:
    faults = [
        pb.FaultStatus(run="r-a", state="in_force"),
        pb.FaultStatus(run="r-b", state="applying"),
        pb.FaultStatus(run="r-c", state="ended"),
        pb.FaultStatus(run="r-d", state="reverting"),
        pb.FaultStatus(run="r-unknown", state="in_force"),
    ]
    holding = {"r-a", "r-b", "r-c", "r-d", "r-elsewhere"}
    authority = Authority(epoch=1, ttl=3_000_000)
    assert renewable(authority, faults, holding) == ("r-a", "r-b")
    assert renewable(authority, faults, set()) == ()
    authority.latch = LatchRow("operator/a", "x", "now")
    assert renewable(authority, faults, holding) == ()


def test_a_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = Bucket(rate=10, burst=5)
    start = 10**12
    assert [bucket.take(start) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.take(start + 100_000)
    assert not bucket.take(start + 100_000)
