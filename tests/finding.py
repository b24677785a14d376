"""A peer that can be asked what it has, for what no Orthanc would answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from triage_node.testing import serve

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
Answers = Iterator[tuple[int, Dataset | None]]


@contextmanager
def find_scp(on_find: Callable[[evt.Event], Answers]) -> Iterator[int]:
    """A Study Root C-FIND SCP; yields its port."""
    ae = AE(ae_title="QR")
    ae.add_supported_context(FIND)
    try:
        yield serve(ae, [(evt.EVT_C_FIND, on_find)])
    finally:
        ae.shutdown()


def match(level: str, **elements: object) -> tuple[int, Dataset]:
    """One pending answer."""
    found = Dataset()
    found.QueryRetrieveLevel = level
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    return 0xFF00, found
