"""Storage commitment: what waits for it, and the transactions that were asked for.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rows that were SENT before stay as they are: nothing is due for them."""
    op.add_column("outbox", sa.Column("commitment", sa.String(length=64), nullable=True))
    op.add_column("outbox", sa.Column("commitment_due", sa.Double(), nullable=True))
    op.add_column("outbox", sa.Column("commitment_asks", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(
        "outbox_uncommitted",
        "outbox",
        ["destination", "commitment_due"],
        unique=False,
        sqlite_where=sa.text("commitment_due IS NOT NULL"),
        postgresql_where=sa.text("commitment_due IS NOT NULL"),
    )
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("answered_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid"),
    )
