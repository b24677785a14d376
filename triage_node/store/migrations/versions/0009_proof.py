"""Proof of delivery, the objects that were refused, and what sources asked us to keep.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and the column; what was CONFIRMED before was so by storage commitment."""
    op.create_table(
        "not_taken",
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False, index=True),
    )
    op.create_table(
        "promise",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("objects", sa.JSON(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("report_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.UniqueConstraint("calling_ae", "transaction_uid"),
    )
    op.create_index("promise_due", "promise", ["calling_ae", "report_at"])
    op.add_column("outbox", sa.Column("proof", sa.String(16), nullable=True))
    outbox = sa.table("outbox", sa.column("state"), sa.column("proof"))
    op.execute(outbox.update().where(outbox.c.state == "CONFIRMED").values(proof="COMMITTED"))
