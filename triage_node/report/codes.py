"""Every coded concept that we write, in one frozen table: code, where it was found, and when that was checked.

No code is composed or guessed (public code is full of invented ones). Sources: "pydicom" is the DICOM concept tables of
pydicom 3.0.2 (generated from PS3.16), with the context group; "OHDSI" and "Athena" are public SNOMED CT vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydicom.sr.coding import Code

from triage_node.domain import Laterality, Priority


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    meaning: str
    value: str
    scheme: str
    source: str
    checked: str
    """ISO date on which `source` was looked up."""


class Concept(Enum):
    """The table. `.code` is what goes into an object."""

    # findings
    INTRACRANIAL_HEMORRHAGE = Row("Intracranial hemorrhage", "1386000", "SCT", "pydicom; OHDSI", "2026-11-20")
    EPIDURAL_HEMORRHAGE = Row("Epidural intracranial hemorrhage", "82999001", "SCT", "Athena", "2026-11-20")
    SUBDURAL_HEMORRHAGE = Row("Subdural intracranial hemorrhage", "35486000", "SCT", "Athena", "2026-11-20")
    SUBARACHNOID_HEMORRHAGE = Row("Subarachnoid intracranial hemorrhage", "21454007", "SCT", "OHDSI", "2026-11-20")
    CEREBRAL_HEMORRHAGE = Row("Cerebral hemorrhage", "274100004", "SCT", "OHDSI", "2026-11-20")
    HEMORRHAGE = Row("Hemorrhage", "50960005", "SCT", "pydicom, CID 7159", "2026-11-20")
    MORPHOLOGICALLY_ABNORMAL = Row(
        "Morphologically Abnormal Structure", "49755003", "SCT", "pydicom, CID 7150", "2026-11-20"
    )
    # sites
    BRAIN = Row("Brain", "12738006", "SCT", "pydicom", "2026-11-20")
    BRAIN_VENTRICLE = Row("Brain ventricle", "35764002", "SCT", "pydicom, CID 7192", "2026-11-20")
    CRANIAL_SUBARACHNOID_SPACE = Row("Cranial Subarachnoid Space", "33930006", "SCT", "pydicom, CID 7140", "2026-11-20")
    INTRACRANIAL = Row("Intracranial structure", "128319008", "SCT", "pydicom, CID 7140", "2026-11-20")
    LEFT = Row("Left", "7771000", "SCT", "pydicom, CID 244", "2026-11-21")
    RIGHT = Row("Right", "24028007", "SCT", "pydicom, CID 244", "2026-11-21")
    BILATERAL = Row("Bilateral", "51440002", "SCT", "pydicom, CID 244", "2026-11-21")
    BOUNDED_BY = Row("Bounded by", "75958009", "SCT", "pydicom, CID 219", "2026-11-21")
    # answers
    PRESENT = Row("Present", "52101004", "SCT", "pydicom, CID 240", "2026-11-20")
    ABSENT = Row("Absent", "272519000", "SCT", "pydicom, CID 240", "2026-11-20")
    NOT_EVALUATED = Row("Not Evaluated", "373121007", "SCT", "pydicom, CID 3703", "2026-11-21")
    # priority
    PRIORITY = Row("Priority", "260870009", "SCT", "pydicom", "2026-11-20")
    EMERGENT = Row("Emergent Procedure", "25876001", "SCT", "pydicom, CID 3414", "2026-11-20")
    URGENT = Row("Urgent Procedure", "103391001", "SCT", "pydicom, CID 3414", "2026-11-20")
    ROUTINE = Row("Routine procedure", "373113001", "SCT", "pydicom", "2026-11-20")
    FINDING_CATEGORY = Row("Finding category", "276214006", "SCT", "pydicom", "2026-11-20")
    ACR_CATEGORY_1 = Row("ACR Category 1 Actionable Finding", "RID49480", "RADLEX", "pydicom, CID 7035", "2026-11-20")
    ACR_CATEGORY_2 = Row("ACR Category 2 Actionable Finding", "RID49481", "RADLEX", "pydicom, CID 7035", "2026-11-20")
    ACR_CATEGORY_3 = Row("ACR Category 3 Actionable Finding", "RID49482", "RADLEX", "pydicom, CID 7035", "2026-11-20")
    # measurements
    PROBABILITY = Row("Probability", "122157", "DCM", "pydicom", "2026-11-20")
    VOLUME = Row("Volume", "118565006", "SCT", "pydicom, CID 7469", "2026-11-20")
    NO_UNITS = Row("no units", "1", "UCUM", "PS3.16 CID 82", "2026-11-20")
    CUBIC_CENTIMETER = Row("cubic centimeter", "cm3", "UCUM", "pydicom, CID 7462", "2026-11-20")
    # document
    COMMENT = Row("Comment", "121106", "DCM", "pydicom", "2026-11-21")
    QUALITY_ASSESSMENT = Row("Quality Assessment", "111050", "DCM", "pydicom", "2026-11-21")
    OF_INTEREST = Row("Of Interest", "113000", "DCM", "pydicom, CID 7010", "2026-11-22")
    CT_PROCEDURE = Row("CT unspecified body region", "25045-6", "LN", "pydicom, CID 100", "2026-11-20")
    ARTIFICIAL_INTELLIGENCE = Row("Artificial Intelligence", "123110", "DCM", "pydicom, CID 7162", "2026-11-20")
    ACQUISITION_EQUIPMENT = Row("Acquisition Equipment", "109101", "DCM", "pydicom, CID 7005", "2026-11-21")
    PROCESSING_EQUIPMENT = Row("Processing Equipment", "109102", "DCM", "pydicom, CID 7005", "2026-11-21")

    @property
    def code(self) -> Code:
        """(value, scheme, meaning) as highdicom and pydicom take it."""
        return Code(self.value.value, self.value.scheme, self.value.meaning)


@dataclass(frozen=True, kw_only=True)
class Coded:
    """How one class of hemorrhage is coded."""

    label: str
    """For people: "Subdural"."""
    finding: Concept
    site: Concept


SUBTYPE_CODES: Final[Mapping[str, Coded]] = {
    "epidural": Coded(label="Epidural", finding=Concept.EPIDURAL_HEMORRHAGE, site=Concept.INTRACRANIAL),
    "intraparenchymal": Coded(label="Intraparenchymal", finding=Concept.CEREBRAL_HEMORRHAGE, site=Concept.BRAIN),
    # No confirmed SNOMED CT code says "intraventricular hemorrhage" whatever its cause (425957003 is the
    # non-traumatic one only): post-coordinated as hemorrhage in the brain ventricle.
    "intraventricular": Coded(label="Intraventricular", finding=Concept.HEMORRHAGE, site=Concept.BRAIN_VENTRICLE),
    "subarachnoid": Coded(
        label="Subarachnoid", finding=Concept.SUBARACHNOID_HEMORRHAGE, site=Concept.CRANIAL_SUBARACHNOID_SPACE
    ),
    "subdural": Coded(label="Subdural", finding=Concept.SUBDURAL_HEMORRHAGE, site=Concept.INTRACRANIAL),
}

LATERALITY_CODES: Final[Mapping[Laterality | None, Concept]] = {
    Laterality.LEFT: Concept.LEFT,
    Laterality.RIGHT: Concept.RIGHT,
    Laterality.BILATERAL: Concept.BILATERAL,
}
"""Of a Finding Site (CID 244, which has none for the midline: that is only said in words)."""

PRIORITY_CODES: Final[Mapping[Priority, Concept]] = {
    Priority.STAT: Concept.EMERGENT,
    Priority.HIGH: Concept.URGENT,
    Priority.ROUTINE: Concept.ROUTINE,
}

ACTIONABLE_CODES: Final[Mapping[Priority, Concept]] = {
    Priority.STAT: Concept.ACR_CATEGORY_1,  # communicate within minutes
    Priority.HIGH: Concept.ACR_CATEGORY_2,  # within hours
    Priority.ROUTINE: Concept.ACR_CATEGORY_3,  # within days
}
"""Category of a suspected finding by its priority (ACR Actionable Reporting Work Group); a negative has none."""
