"""The tables. Invariants stand here as constraints, so that no code path can break them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware datetime, kept as seconds since 1970 UTC: compares and sorts the same in every database."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> float | None:
        """Aware datetime -> seconds."""
        if value is not None and value.tzinfo is None:
            raise ValueError("naive datetime")
        return None if value is None else value.timestamp()

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:
        """Seconds -> aware datetime."""
        return None if value is None else datetime.fromtimestamp(value, UTC)


instance = sa.Table(
    "instance",
    metadata,
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("series_uid", sa.String(64), nullable=False, index=True),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("along_normal_mm", sa.Double),  # ImagePositionPatient . slice normal
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("source_address", sa.String(64), nullable=False),
    sa.Column("association", sa.String(32), nullable=False),
    sa.Column("received_at", Moment, nullable=False, index=True),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("removed_at", Moment),  # its file is gone
    sa.Index(
        "loose_objects",
        "received_at",
        sqlite_where=sa.text("outcome <> 'SERIES' AND removed_at IS NULL"),
        postgresql_where=sa.text("outcome <> 'SERIES' AND removed_at IS NULL"),
    ),
)

series = sa.Table(
    "series",
    metadata,
    sa.Column("series_uid", sa.String(64), primary_key=True),
    sa.Column("study_uid", sa.String(64), nullable=False, index=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("association", sa.String(32), nullable=False, index=True),  # that brought the last image
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("first_image_at", Moment, nullable=False),
    sa.Column("last_image_at", Moment, nullable=False),
    sa.Column("released_at", Moment),
    sa.Column("removal_at", Moment),  # it was decided that its images go
    sa.Column("removed_at", Moment),  # they are gone
    sa.Index(
        "removal_under_way",
        "series_uid",
        sqlite_where=sa.text("removal_at IS NOT NULL AND removed_at IS NULL"),
        postgresql_where=sa.text("removal_at IS NOT NULL AND removed_at IS NULL"),
    ),
)

OPEN_STATES = ("RECEIVING", "READY", "ANALYZING")

revision = sa.Table(
    "revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("series_uid", sa.String(64), sa.ForeignKey("series.series_uid"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("ready_because", sa.String(128)),
    sa.Column("ready_at", Moment),
    sa.Column("claimed_at", Moment),  # the clock of the results: set once, at the first claim
    sa.Column("not_before", Moment),  # the next try after a failure
    sa.Column("token", sa.String(32)),
    sa.Column("lease_until", Moment),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.String(64)),
    sa.Column("detail", sa.String(400)),
    sa.Column("priority", sa.String(16)),
    sa.Column("result", sa.JSON),  # the public result.json
    sa.Column("reported_at", Moment),
    sa.Column("delivered_at", Moment),
    sa.UniqueConstraint("series_uid", "revision"),
    sa.Index("revision_by_state", "state", "ready_at"),
    sa.Index("revision_reported", "reported_at", "outcome"),
    sa.Index(
        "one_open_revision_per_series",
        "series_uid",
        unique=True,
        sqlite_where=sa.text("state IN ('RECEIVING', 'READY', 'ANALYZING')"),
        postgresql_where=sa.text("state IN ('RECEIVING', 'READY', 'ANALYZING')"),
    ),
)

result = sa.Table(
    "result",
    metadata,
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("revision_id", sa.Integer, sa.ForeignKey("revision.id"), nullable=False, index=True),
    sa.Column("study_uid", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("result_series_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.String(400), nullable=False),  # relative to the spool
    sa.Column("sha256", sa.String(64), nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sop_uid", sa.String(64), sa.ForeignKey("result.sop_uid"), nullable=False),
    sa.Column("destination", sa.String(32), nullable=False),
    sa.Column("revision_id", sa.Integer, sa.ForeignKey("revision.id"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("urgency", sa.Integer, nullable=False),  # 0 first
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", Moment, nullable=False),
    sa.Column("token", sa.String(32)),
    sa.Column("lease_until", Moment),
    sa.Column("status", sa.Integer),  # DIMSE status of the last try
    sa.Column("error", sa.String(400)),
    sa.Column("tried_at", Moment),  # the last try began
    sa.Column("sent_at", Moment),
    sa.Column("commitment", sa.String(64)),  # the transaction that asks for it now
    sa.Column("commitment_due", Moment),  # ask (again) from then on; null where SENT is the end
    sa.Column("commitment_asks", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("proof", sa.String(16)),  # what the destination says of it: domain.Proof; null: nothing
    sa.UniqueConstraint("sop_uid", "destination"),
    sa.Index("outbox_due", "destination", "state", "not_before"),
    sa.Index("outbox_sent", "destination", "sent_at"),
    sa.Index(
        "outbox_faults",
        "destination",
        "tried_at",
        sqlite_where=sa.text("error IS NOT NULL"),
        postgresql_where=sa.text("error IS NOT NULL"),
    ),
    sa.Index(
        "outbox_uncommitted",
        "destination",
        "commitment_due",
        sqlite_where=sa.text("commitment_due IS NOT NULL"),
        postgresql_where=sa.text("commitment_due IS NOT NULL"),
    ),
)

commitment = sa.Table(
    "commitment",
    metadata,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(32), nullable=False),
    sa.Column("requested_at", Moment, nullable=False),
    sa.Column("answered_at", Moment),
)

quarantined = sa.Table(
    "quarantined",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sop_uid", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("received_at", Moment, nullable=False),
    sa.UniqueConstraint("sop_uid", "sha256"),
)

promise = sa.Table(
    "promise",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),  # who asked whether we keep its images
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("objects", sa.JSON, nullable=False),  # [[SOP Class UID, SOP Instance UID], ...]
    sa.Column("asked_at", Moment, nullable=False),
    sa.Column("report_at", Moment),  # (again) from then on; null when it was reported, or given up
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("calling_ae", "transaction_uid"),
    sa.Index("promise_due", "calling_ae", "report_at"),
)

not_taken = sa.Table(
    "not_taken",
    metadata,
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),  # DIMSE status of the last answer
    sa.Column("reason", sa.String(200), nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", Moment, nullable=False),
    sa.Column("last_at", Moment, nullable=False, index=True),
)

role = sa.Table(
    "role",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),  # such as "listen@host:1234"
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("port", sa.Integer),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("until", Moment, nullable=False),
)

refusal = sa.Table(
    "refusal",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),
    sa.Column("called_ae", sa.String(16), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("reason", sa.String(128), nullable=False),
    sa.Column("advice", sa.String(1000), nullable=False),  # the line of the configuration that would admit the caller
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", Moment, nullable=False),
    sa.Column("last_at", Moment, nullable=False, index=True),
    sa.UniqueConstraint("calling_ae", "called_ae", "address", "reason"),
)

study = sa.Table(
    "study",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # what a page's URL names: no UID, no patient
    sa.Column("study_uid", sa.String(64), nullable=False, unique=True),
    sa.Column("calling_ae", sa.String(16), nullable=False),  # that brought its first image
    sa.Column("first_image_at", Moment, nullable=False),
    sa.Column("last_image_at", Moment, nullable=False),
    sa.Column("patient_name", sa.String(400)),  # as in DICOM: FAMILY^GIVEN
    sa.Column("patient_id", sa.String(64)),
    sa.Column("birth_date", sa.String(16)),
    sa.Column("sex", sa.String(16)),
    sa.Column("accession_number", sa.String(64)),
    sa.Column("description", sa.String(400)),
    sa.Column("searched", sa.Text, nullable=False, server_default=""),  # store.worklist.searchable
    sa.Column("rank", sa.Integer, nullable=False),  # 0 is read first; store.worklist.RANK
    sa.Column("revision_id", sa.Integer, sa.ForeignKey("revision.id")),  # whose result is shown
    sa.Column("outcome", sa.String(16)),
    sa.Column("reason", sa.String(64)),
    sa.Column("priority", sa.String(16)),
    sa.Column("acknowledged_at", Moment),
    sa.Column("acknowledged_by", sa.String(64)),
    sa.Column("escalated_at", Moment),  # nobody acknowledged it in time
    sa.Column("read_at", Moment),
    sa.Column("read_by", sa.String(64)),
    sa.Index("worklist_order", "rank", "last_image_at", "id"),
    sa.Index("study_age", "last_image_at"),
)

requested_procedure = sa.Table(
    "requested_procedure",
    metadata,
    sa.Column("study_uid", sa.String(64), primary_key=True),
    sa.Column("asks", sa.Integer, nullable=False),  # of the modality worklist
    sa.Column("asked_at", Moment, nullable=False, index=True),  # last
    sa.Column("not_before", Moment),  # the next time; null: it is asked no more
    sa.Column(
        "answer", sa.JSON(none_as_null=True)
    ),  # the fields of domain.RequestedProcedure; null where there is none that counts
    sa.Column("problem", sa.String(400)),  # why there is none
)

opinion = sa.Table(
    "opinion",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False, index=True),
    sa.Column("revision_id", sa.Integer, sa.ForeignKey("revision.id"), nullable=False),  # of whose result
    sa.Column("at", Moment, nullable=False),
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("finding", sa.String(32), nullable=False),  # a class of CLASSES
    sa.Column("present", sa.Boolean, nullable=False),  # what the reader says, whatever the node said
    sa.Column("said", sa.Boolean),  # what the node said; null where the bundle does not tell this class
    sa.Column("comment", sa.String(1000), nullable=False),
)

workitem = sa.Table(
    "workitem",
    metadata,
    sa.Column("uid", sa.String(64), primary_key=True),  # SOP Instance UID
    sa.Column("revision_id", sa.Integer, sa.ForeignKey("revision.id"), nullable=False),  # of whose result
    sa.Column("number", sa.Integer, nullable=False),  # of the workitems of this result, from 0
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("calling_ae", sa.String(16), nullable=False),  # that claimed it
    sa.Column("claimed_at", Moment, nullable=False),
    sa.Column("ended_at", Moment),
    sa.Column("performed", sa.JSON),  # what it set, DICOM JSON (PS3.18 F)
    sa.UniqueConstraint("revision_id", "number"),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("began_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
)

entry_link = sa.Table(
    "entry_link",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("made_at", Moment, nullable=False),
)

search = sa.Table(
    "search",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # stands in the URL for the text, which may be a patient's name
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("text", sa.String(100), nullable=False),
    sa.Column("made_at", Moment, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), index=True),
)

trial = sa.Table(
    "trial",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),  # random: it stands in the URL
    sa.Column("user", sa.String(64), nullable=False),
    sa.Column("made_at", Moment, nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("files", sa.Integer, nullable=False),  # that are used
    sa.Column("passed_over", sa.Integer, nullable=False),  # that were of no use
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(64)),  # how far it is, in words
    sa.Column("started_at", Moment),
    sa.Column("token", sa.String(32)),
    sa.Column("lease_until", Moment),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("detail", sa.String(400)),  # why it failed
    sa.Column("result", sa.JSON),  # a list: result.json of each series, less its objects
    sa.Column("ended_at", Moment),
)
