"""Data sets from outside: what is in them, one series or picture of one at a time, and shards of them. Nothing is
trained here.

case        entries and what is loaded of one; what a reader is
truth       masks and tables to what is known of each slice
tables      CSV files; pairs: NIfTI images and their masks
rsna        RSNA 2019, with the converter of its labels
physionet   CT-ICH 1.3.1; kaggle: the same as pictures
cq500       CQ500; bhsd: BHSD; instance22: INSTANCE 2022
pictures    PNG and JPEG with labels.csv; volumes: NIfTI and DICOM with masks: our own layouts
splits      by patient
shards      a data set as shards; as cases for evaluation
clean       corrupt and repeated images
"""

from collections.abc import Mapping
from typing import Final

from triage_node.learn.data import bhsd, cq500, instance22, kaggle, physionet, pictures, rsna, volumes
from triage_node.learn.data.case import Entry, Layout, Loaded

__all__ = ["LAYOUTS", "Entry", "Layout", "Loaded"]

LAYOUTS: Final[Mapping[str, Layout]] = {
    "rsna": rsna,
    "physionet": physionet,
    "kaggle": kaggle,
    "cq500": cq500,
    "bhsd": bhsd,
    "instance22": instance22,
    "pictures": pictures,
    "volumes": volumes,
}
"""Readers by the name that commands know them by."""
