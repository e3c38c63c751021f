"""What a fault hit, with the event that tells of it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("run_events", sa.Column("hits", sa.Text, nullable=False, server_default=""))
