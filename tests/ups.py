"""A worklist client: DICOM UPS as pynetdicom speaks it, also as a process of its own.

`python -m tests.ups PORT COMMAND [UID TRANSACTION_UID]` prints JSON: what `find` returns, or the status of an action.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.association import Association

from triage_node.peers.association import CallingAE
from triage_node.peers.ups import PULL, PUSH, QUERY, WATCH
from triage_node.peers.workitem import dataset

KEYS: Final = (
    "SOPInstanceUID",
    "ProcedureStepState",
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "WorklistLabel",
    "PatientName",
    "CommentsOnTheScheduledProcedureStep",
    "ReferencedRequestSequence",
)


class Client:
    """One that is called `ae_title`."""

    def __init__(self, association: Association) -> None:
        self.association = association

    def find(self, *, model: str = PULL, **keys: Any) -> list[Dataset]:
        """What matches, in the order in which it came."""
        query = dataset(**dict.fromkeys(KEYS) | keys)
        answers = list(self.association.send_c_find(query, model))
        assert answers[-1][0].Status == 0x0000, hex(answers[-1][0].Status)
        return [found for _, found in answers[:-1] if found is not None]

    def get(self, uid: str, *keywords: str, model: str = PULL) -> tuple[int, Dataset]:
        """N-GET: status and attributes."""
        answer, found = self.association.send_n_get([Tag(each) for each in keywords], PUSH, uid, meta_uid=model)
        return answer.Status, found or Dataset()

    def change(self, uid: str, state: str, transaction_uid: str = "1.2.3") -> int:
        """N-ACTION change state: the status."""
        request = dataset(ProcedureStepState=state, TransactionUID=transaction_uid or None)
        return int(self.association.send_n_action(request, 1, PUSH, uid, meta_uid=PULL)[0].Status)

    def act(self, uid: str, action_type: int, **information: Any) -> int:
        """Any other N-ACTION, over UPS Watch: the status."""
        said = dataset(**information) if information else None
        return int(self.association.send_n_action(said, action_type, PUSH, uid, meta_uid=WATCH)[0].Status)

    def set(self, uid: str, transaction_uid: str = "1.2.3", **attributes: Any) -> int:
        """N-SET: the status."""
        modified = dataset(TransactionUID=transaction_uid, **attributes)
        return int(self.association.send_n_set(modified, PUSH, uid, meta_uid=PULL)[0].Status)


@contextmanager
def calling(port: int, ae_title: str = "READER") -> Iterator[Client]:
    """A client with an open association to a node on this machine."""
    ae = CallingAE(ae_title=ae_title)
    for sop_class in (PULL, WATCH, QUERY):
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", port, ae_title="TRIAGE")
    assert association.is_established
    try:
        yield Client(association)
    finally:
        association.release()


def main() -> None:
    """One request, in a process of its own."""
    port, command, *words = sys.argv[1:]
    with calling(int(port)) as client:
        if command == "find":
            answers = client.find(ProcedureStepState="SCHEDULED")
            print(json.dumps([[each.SOPInstanceUID, each.ScheduledProcedureStepPriority] for each in answers]))
        else:
            print(json.dumps(client.change(words[0], command, words[1])))


if __name__ == "__main__":
    main()
