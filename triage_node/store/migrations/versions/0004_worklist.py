"""The worklist: a row for each study, what readers say of it, who may look at it, and who did.

Studies that are there already get their row; names and numbers of their patients come with the next revision.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and fill the one of the studies."""
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("first_image_at", sa.Double(), nullable=False),
        sa.Column("last_image_at", sa.Double(), nullable=False),
        sa.Column("patient_name", sa.String(400)),
        sa.Column("patient_id", sa.String(64)),
        sa.Column("birth_date", sa.String(16)),
        sa.Column("sex", sa.String(16)),
        sa.Column("accession_number", sa.String(64)),
        sa.Column("description", sa.String(400)),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), sa.ForeignKey("revision.id")),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.String(64)),
        sa.Column("priority", sa.String(16)),
        sa.Column("acknowledged_at", sa.Double()),
        sa.Column("acknowledged_by", sa.String(64)),
        sa.Column("escalated_at", sa.Double()),
        sa.Column("read_at", sa.Double()),
        sa.Column("read_by", sa.String(64)),
    )
    op.create_index("worklist_order", "study", ["rank", "last_image_at", "id"])
    op.create_index("study_age", "study", ["last_image_at"])
    op.create_table(
        "opinion",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False, index=True),
        sa.Column("revision_id", sa.Integer(), sa.ForeignKey("revision.id"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("finding", sa.String(32), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("said", sa.Boolean()),
        sa.Column("comment", sa.String(1000), nullable=False),
    )
    op.create_table(
        "session",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("began_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "entry_link",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("made_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "search",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("text", sa.String(100), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), index=True),
    )
    op.execute(_STUDIES)
    op.execute(_SHOWN)
    op.execute(_RANKED)


_STUDIES = """
INSERT INTO study (study_uid, calling_ae, first_image_at, last_image_at, rank)
SELECT study_uid, MIN(calling_ae), MIN(first_image_at), MAX(last_image_at), 2 FROM series GROUP BY study_uid
"""
# The newest ended revision of each series; of those of a study the one that is analysed and most urgent.
_SHOWN = """
UPDATE study SET revision_id = (
    SELECT r.id FROM revision r JOIN series s ON s.series_uid = r.series_uid
    WHERE s.study_uid = study.study_uid AND r.outcome IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM revision n WHERE n.series_uid = r.series_uid AND n.revision > r.revision AND n.outcome IS NOT NULL
    )
    ORDER BY CASE r.outcome WHEN 'ANALYZED' THEN 0 WHEN 'FAILED' THEN 1 ELSE 2 END,
             CASE r.priority WHEN 'STAT' THEN 0 WHEN 'HIGH' THEN 1 ELSE 2 END, r.id
    LIMIT 1
)
"""
_RANKED = """
UPDATE study SET
    outcome = (SELECT outcome FROM revision WHERE id = study.revision_id),
    reason = (SELECT reason FROM revision WHERE id = study.revision_id),
    priority = (SELECT priority FROM revision WHERE id = study.revision_id),
    rank = COALESCE((SELECT CASE priority WHEN 'STAT' THEN 0 WHEN 'HIGH' THEN 1 WHEN 'ROUTINE' THEN 3 ELSE 2 END
                     FROM revision WHERE id = study.revision_id), 2)
"""
