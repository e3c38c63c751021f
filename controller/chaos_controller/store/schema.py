"""The tables. Migrations make them; this is what the code speaks to.

Moments are RFC 3339 text in UTC of fixed width, so that they compare as text on
every database.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

# The newest revision in migrations/versions; a test keeps the two together.
HEAD: Final = "0004"

metadata = sa.MetaData()

# One row: the epoch of the controller that started last.
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("envelope", sa.Text, nullable=False),
    sa.Column("seen", sa.String(24), nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("nodes", sa.Text, nullable=False),
    sa.Column("duration_us", sa.BigInteger, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("started", sa.String(24), nullable=False, index=True),
    sa.Column("finished", sa.String(24), nullable=False, default=""),
)

run_events = sa.Table(
    "run_events",
    metadata,
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("time", sa.String(24), nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    # chaos_core's Hits as JSON; empty where an event has none.
    sa.Column("hits", sa.Text, nullable=False, server_default=""),
)

# What is known of an experiment: chaos_experiment's Record as JSON.
records = sa.Table(
    "records",
    metadata,
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("record", sa.Text, nullable=False),
)

# Which nodes may carry a fault of which run, until they are known not to.
occupancy = sa.Table(
    "occupancy",
    metadata,
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("node", sa.String(32), primary_key=True),
    sa.Column("fault", sa.String(8), nullable=False),
)

# One row while an abort is in force, else none.
latch = sa.Table(
    "latch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.String(24), nullable=False),
)

# The sha256 of each join token; the token itself is nowhere.
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("expires", sa.String(24), nullable=False),
    sa.Column("used", sa.String(24), nullable=False, default=""),
    sa.Column("actor", sa.Text, nullable=False, server_default=""),
)

# Every certificate that was issued here or has been seen here, by its serial number (hex).
certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("serial", sa.String(40), primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("issued", sa.String(24), nullable=False),
    sa.Column("expires", sa.String(24), nullable=False),
)

# What is revoked: a serial number, or an identity with all that it had been issued by then.
revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("subject", sa.String(48), primary_key=True),
    sa.Column("at", sa.String(24), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

# Append-only; each row's hash covers the one before.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.String(24), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
