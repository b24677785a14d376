"""Retention: which images are removed, and that they were.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LOOSE = sa.text("outcome <> 'SERIES' AND removed_at IS NULL")
_UNDER_WAY = sa.text("removal_at IS NOT NULL AND removed_at IS NULL")


def upgrade() -> None:
    """Add the columns and their partial indexes."""
    op.add_column("instance", sa.Column("removed_at", sa.Double(), nullable=True))
    op.add_column("series", sa.Column("removal_at", sa.Double(), nullable=True))
    op.add_column("series", sa.Column("removed_at", sa.Double(), nullable=True))
    op.create_index("loose_objects", "instance", ["received_at"], sqlite_where=_LOOSE, postgresql_where=_LOOSE)
    op.create_index("removal_under_way", "series", ["series_uid"], sqlite_where=_UNDER_WAY, postgresql_where=_UNDER_WAY)
