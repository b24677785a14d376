"""What the modality worklist says of the order behind a study.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "requested_procedure",
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False, index=True),
        sa.Column("not_before", sa.Double()),
        sa.Column("answer", sa.JSON()),
        sa.Column("problem", sa.String(400)),
    )
