"""The SCPs: images come in by C-STORE, callers are checked, sockets are hardened."""

from triage_node.receive.listener import Listener, file_header
from triage_node.receive.syntaxes import TRANSFER_SYNTAXES

__all__ = ["TRANSFER_SYNTAXES", "Listener", "file_header"]
