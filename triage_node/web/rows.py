"""A study as the pages and their JSON twins show it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from triage_node.domain import NotAnalyzedReason, Priority
from triage_node.store.worklist import Row
from triage_node.web import words
from triage_node.web.site import Site


def shown(site: Site, row: Row, now: datetime) -> dict[str, Any]:
    """One row; plain values."""
    flag = words.flag(row)
    prior = row.reason == NotAnalyzedReason.PRIOR_STUDY
    waiting = flag != Priority.ROUTINE and not prior and row.read_at is None
    folder = view_folder(site, row)
    order = words.order(row)
    return {
        "id": row.id,
        "flag": flag,
        "priority": row.priority,
        "outcome": row.outcome,
        "reason": row.reason,
        "finding": words.finding(row),
        "confidence": words.confidence(row),
        "patient": words.patient_name(row.patient),
        "patient_facts": words.patient_facts(row.patient),
        "accession_number": row.patient.accession_number or order.get("accession_number", ""),
        "description": row.patient.description or "",
        "order": order,
        "no_order": words.sentence(row.no_order or ""),
        "source": row.source,
        "last_image_at": row.last_image_at.isoformat(),
        "ago": words.ago(row.last_image_at, now),
        "late": waiting and now - row.last_image_at > timedelta(minutes=site.config.web.read_within_min),
        "delivery": words.delivery(row),
        "warnings": list(row.result.get("warnings") or ()),
        "acknowledged_by": row.acknowledged_by,
        "escalated": row.escalated_at is not None and row.acknowledged_at is None,
        "read_by": row.read_by,
        "has_picture": folder is not None and (folder / "thumbnail.png").is_file(),
    }


def view_folder(site: Site, row: Row) -> Path | None:
    """Where the worker leaves what the pages show of the row's series."""
    if row.series_uid is None or row.revision is None:
        return None
    return site.spool.view_folder(row.series_uid, row.revision)
