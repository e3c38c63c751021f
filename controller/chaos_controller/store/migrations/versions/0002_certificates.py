"""Certificates, revocations, and who made a token."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("issued", sa.String(24), nullable=False),
        sa.Column("expires", sa.String(24), nullable=False),
    )
    op.create_table(
        "revocations",
        sa.Column("subject", sa.String(48), primary_key=True),
        sa.Column("at", sa.String(24), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.add_column("tokens", sa.Column("actor", sa.Text, nullable=False, server_default=""))
