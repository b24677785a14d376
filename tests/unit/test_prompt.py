"""What is told to pynetdicom's threads instead of being looked for, and what is sent without its general encoder."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from triage_node.receive.prompt import PromptDIMSE


def answer(status: int, sop_uid: str) -> C_STORE:
    response = C_STORE()
    response.MessageIDBeingRespondedTo = 513
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = CTImageStorage, UID(sop_uid)
    response.Status = status
    return response


@pytest.mark.parametrize("status", [0x0000, 0xA700])
@pytest.mark.parametrize("sop_uid", ["1.2.34", "1.2.345"])
def test_an_answer_is_encoded_as_pynetdicom_does(status: int, sop_uid: str) -> None:
    association = Association(AE(), "acceptor")
    association.requestor.maximum_length = 16384
    for dimse in (DIMSEServiceProvider(association), PromptDIMSE(association, maximum_bytes=1000)):
        dimse.send_msg(answer(status, sop_uid), 3)
    sent = [cast(P_DATA, association.dul.to_provider_queue.get_nowait()) for _ in range(2)]
    theirs, ours = [[tuple(cast(Any, pdv)) for pdv in one.presentation_data_value_list] for one in sent]
    assert ours == theirs


def test_a_peer_with_tiny_pdus_gets_its_answer_in_pieces() -> None:
    association = Association(AE(), "acceptor")
    association.requestor.maximum_length = 64
    PromptDIMSE(association, maximum_bytes=1000).send_msg(answer(0x0000, "1.2.34"), 3)
    assert association.dul.to_provider_queue.qsize() > 1
