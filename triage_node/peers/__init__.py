"""SCU primitives: echo, store, storage commitment, find."""

from triage_node.peers.association import Peer, echo
from triage_node.peers.commitment import STORAGE_COMMITMENT, request_commitment, status_of_report
from triage_node.peers.find import count_instances
from triage_node.peers.folder import SendReport, send_folder
from triage_node.peers.store import OutgoingObject, StoreResult, raise_for_status, store

__all__ = [
    "STORAGE_COMMITMENT",
    "OutgoingObject",
    "Peer",
    "SendReport",
    "StoreResult",
    "count_instances",
    "echo",
    "raise_for_status",
    "request_commitment",
    "send_folder",
    "status_of_report",
    "store",
]
