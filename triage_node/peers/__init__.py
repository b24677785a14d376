"""SCU primitives: echo, store, storage commitment, find."""

from triage_node.peers.association import Peer, echo, require_accepted
from triage_node.peers.commitment import (
    STORAGE_COMMITMENT,
    report_commitment,
    request_commitment,
    status_of_report,
    status_of_request,
)
from triage_node.peers.find import MODALITY_WORKLIST_FIND, STUDY_ROOT_FIND, count_instances, find_matches, querying
from triage_node.peers.folder import SendReport, send_folder
from triage_node.peers.store import OutgoingObject, StoreResult, raise_for_status, store

__all__ = [
    "MODALITY_WORKLIST_FIND",
    "STORAGE_COMMITMENT",
    "STUDY_ROOT_FIND",
    "OutgoingObject",
    "Peer",
    "SendReport",
    "StoreResult",
    "count_instances",
    "echo",
    "find_matches",
    "querying",
    "raise_for_status",
    "report_commitment",
    "request_commitment",
    "require_accepted",
    "send_folder",
    "status_of_report",
    "status_of_request",
    "store",
]
