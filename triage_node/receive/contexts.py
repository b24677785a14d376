"""The presentation contexts we accept, by what a caller may do (PS3.8 7.1.1.13)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import register_uid
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    StorageCommitmentPresentationContexts,
    VerificationPresentationContexts,
)
from pynetdicom.service_class import StorageServiceClass

from triage_node.peers.ups import PULL, QUERY, WATCH
from triage_node.receive.callers import Rights
from triage_node.receive.syntaxes import TRANSFER_SYNTAXES

VERIFICATION: Final = tuple(str(context.abstract_syntax) for context in VerificationPresentationContexts)
STORAGE: Final = tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
STORAGE_COMMITMENT: Final = tuple(str(context.abstract_syntax) for context in StorageCommitmentPresentationContexts)
WORKITEMS: Final = (PULL, WATCH, QUERY)
UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@lru_cache(maxsize=64)
def supported_contexts(rights: Rights) -> list[PresentationContext]:
    """What is accepted of a caller with these rights. The list is shared: negotiation reads it only."""
    contexts = [_context(uid, TRANSFER_SYNTAXES) for uid in VERIFICATION]
    if rights.store:
        contexts += [_context(uid, TRANSFER_SYNTAXES) for uid in STORAGE]
        contexts += [_context(uid, UNCOMPRESSED) for uid in rights.accept_classes if uid not in STORAGE]
    if rights.worklist:
        contexts += [_context(uid, UNCOMPRESSED) for uid in WORKITEMS]
    if rights.commits_for or rights.asks_commitment:
        contexts += [_context(uid, UNCOMPRESSED, either_role=True) for uid in STORAGE_COMMITMENT]
    return contexts


def register_private(sop_class_uids: Iterable[str]) -> None:
    """Tell pynetdicom that these are storage classes: it serves no class that it does not know."""
    for uid in sorted(set(sop_class_uids) - set(STORAGE)):
        register_uid(uid, f"Private_{uid.replace('.', '_')}", StorageServiceClass)


def _context(sop_class_uid: str, syntaxes: Iterable[str], *, either_role: bool = False) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = sop_class_uid
    for syntax in syntaxes:
        context.add_transfer_syntax(syntax)
    if either_role:  # who reports is the SCP of an association that it opens: role selection, PS3.7 D.3.3.4
        context.scu_role = context.scp_role = True
    return context
