"""One column that a search looks through.

Revision ID: 0007
"""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and fill it, in Python: SQLite folds the case of nothing but ASCII."""
    op.add_column("study", sa.Column("searched", sa.Text(), nullable=False, server_default=""))
    if op.get_context().as_sql:  # written down only, with no rows to read
        return
    connection = op.get_bind()
    texts = ("calling_ae", "patient_name", "patient_id", "accession_number")
    study = sa.table("study", *(sa.column(name) for name in ("id", "searched", *texts)))
    found = connection.execute(sa.select(study)).all()
    filled = [{"row": row.id, "text": _folded([getattr(row, name) for name in texts])} for row in found]
    if filled:
        statement = study.update().where(study.c.id == sa.bindparam("row")).values(searched=sa.bindparam("text"))
        connection.execute(statement, filled)


def _folded(texts: list[str | None]) -> str:
    return unicodedata.normalize("NFKC", "\n".join(text for text in texts if text)).casefold()
