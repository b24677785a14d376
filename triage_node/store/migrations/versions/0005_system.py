"""The system page: who was refused, when a result was last tried, and indexes for what the page asks.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FAULTS = sa.text("error IS NOT NULL")


def upgrade() -> None:
    """Add the table, the column and the indexes."""
    op.create_table(
        "refusal",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("called_ae", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(128), nullable=False),
        sa.Column("advice", sa.String(1000), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False, index=True),
        sa.UniqueConstraint("calling_ae", "called_ae", "address", "reason"),
    )
    op.add_column("outbox", sa.Column("tried_at", sa.Double(), nullable=True))
    op.create_index(
        "outbox_faults", "outbox", ["destination", "tried_at"], sqlite_where=_FAULTS, postgresql_where=_FAULTS
    )
    op.create_index("outbox_sent", "outbox", ["destination", "sent_at"])
    op.create_index("revision_reported", "revision", ["reported_at", "outcome"])
