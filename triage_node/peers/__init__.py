"""SCU primitives: echo and store, for destinations, `check`, `send` and the demo."""

from triage_node.peers.association import Peer, echo
from triage_node.peers.folder import SendReport, send_folder
from triage_node.peers.store import OutgoingObject, StoreResult, raise_for_status, store

__all__ = ["OutgoingObject", "Peer", "SendReport", "StoreResult", "echo", "raise_for_status", "send_folder", "store"]
