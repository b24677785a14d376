"""Result objects: same bytes for the same input, identity kept, nothing invented, readable by people."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from itertools import product
from pathlib import Path

import highdicom.sr as hdsr
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from tests import report_cases as cases
from triage_node.domain import (
    CLASSES,
    COLORS,
    DISCLAIMER,
    SUBTYPES,
    Decision,
    Laterality,
    Location,
    ObjectKind,
    Outcome,
    Prediction,
    Priority,
    ResultObject,
    SeenBox,
    Volume,
)
from triage_node.errors import ReportError
from triage_node.report import ResultUids, build_notice
from triage_node.report.codes import SUBTYPE_CODES, Concept
from triage_node.report.findings import reported_findings
from triage_node.report.key_image import brain_window, draw_key_image, legend_line
from triage_node.report.regions import boxes

UIDS = ResultUids(node="TRIAGE", series_uid=cases.SERIES_UID, revision=1)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return cases.volume_of(cases.write_ct(tmp_path))


@pytest.fixture
def positive(volume: Volume) -> Prediction:
    return cases.prediction_of(volume, cases.mask_of(volume))


def parsed(made: ResultObject) -> Dataset:
    return dcmread(BytesIO(made.data))


def kinds(results: tuple[ResultObject, ...]) -> list[str]:
    return [made.kind.value for made in results]


def notice(source: Path, outcome: Outcome = Outcome.NOT_ANALYZED) -> tuple[ResultObject, ...]:
    return build_notice(
        source=source,
        outcome=outcome,
        reason="TOO_FEW_SLICES",
        detail="The series has 6 images — too few to cover a head.",
        producer=cases.PRODUCER,
        uids=UIDS,
        created_at=cases.CREATED_AT,
    )


def of_kind(results: tuple[ResultObject, ...], kind: ObjectKind) -> Dataset:
    return parsed(next(made for made in results if made.kind == kind))


def groups(document: Dataset) -> dict[str, Dataset]:
    """Measurement groups of an SR by Tracking Identifier."""
    measurements = next(i for i in document.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return {item(group, "112039").TextValue: group for group in measurements.ContentSequence}


def items(group: Dataset, code: str) -> list[Dataset]:
    return [i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code]


def item(group: Dataset, code: str) -> Dataset:
    (only,) = items(group, code)
    return only


def texts(document: Dataset) -> list[str]:
    return [str(element.TextValue) for element in walk_items(document) if "TextValue" in element]


def walk_items(dataset: Dataset) -> list[Dataset]:
    found = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            found += [inner for outer in element.value for inner in walk_items(outer)]
    return found


# ---------------------------------------------------------------- sameness


def test_the_same_input_gives_the_same_bytes(volume: Volume, positive: Prediction) -> None:
    first, second = cases.results_of(volume, positive), cases.results_of(volume, positive)
    assert set(kinds(first)) == {"SEG", "SR", "KEY_IMAGE", "LABELMAP", "GSPS", "KOS"}
    assert [made.sha256 for made in first] == [made.sha256 for made in second]
    source = volume.paths[0]
    assert [made.sha256 for made in notice(source)] == [made.sha256 for made in notice(source)]


def test_no_clock_is_read_and_no_uid_drawn(volume: Volume, positive: Prediction) -> None:
    """Fails when a library puts in a date or a random UID of its own, whatever the time of day."""
    ours = {uid for kind in ObjectKind for uid in (UIDS.series(kind), *(UIDS.sop(kind, n) for n in range(3)))}
    ours |= {UIDS.tracking(f"{name}{box}") for name in CLASSES for box in ("", " box 1")}
    ours |= {UIDS.device(), UIDS.dimension_organization()}
    for made in (*cases.results_of(volume, positive), *notice(volume.paths[0])):
        for dataset in walk_items(parsed(made)):
            for element in dataset:
                if element.VR == "UI":
                    known = str(element.value).startswith(("1.2.840.10008.", "1.2.3.4"))
                    assert known or element.value in ours, element
                if element.VR == "DA" and element.value:
                    assert element.value in ("20010203", "19500102"), element
                if element.VR == "TM" and element.value:
                    assert element.value in ("040506", "040000"), element
                assert element.VR != "DT", element


def test_uids_are_valid_and_differ_by_node_series_revision_kind_and_index() -> None:
    scopes = product(("A", "B"), ("1.2.3", "1.2.4"), (1, 2))
    found = []
    for node, series, revision in scopes:
        uids = ResultUids(node=node, series_uid=series, revision=revision)
        for kind in ObjectKind:
            found += [uids.series(kind), *(uids.sop(kind, index) for index in range(3))]
    assert len(found) == len(set(found)) == 8 * len(ObjectKind) * 4
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in found)


def test_a_region_is_tracked_under_one_uid_through_all_revisions() -> None:
    assert UIDS.tracking("subdural") == replace(UIDS, revision=2).tracking("subdural")
    assert UIDS.tracking("subdural") != UIDS.tracking("epidural")


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(("character_set", "name"), cases.NAMES)
def test_names_survive_in_every_character_set(tmp_path: Path, character_set: str | list[str], name: str) -> None:
    paths = cases.write_ct(
        tmp_path, elements={"SpecificCharacterSet": character_set, "PatientName": name, "ReferringPhysicianName": name}
    )
    volume = cases.volume_of(paths)
    sent = dcmread(paths[0])
    raw_name = sent.get_item("PatientName").value
    for made in (*cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), *notice(paths[0])):
        read = parsed(made)
        assert read.get_item("PatientName").value == raw_name
        assert str(read.PatientName) == name == str(read.ReferringPhysicianName)
        assert read.SpecificCharacterSet == sent.SpecificCharacterSet


def redeclared(paths: list[Path], declared: str, actual: str) -> None:
    """Change what the files say of their character set, and nothing else; "" takes it out."""
    for path in paths:
        old = b"\x08\x00\x05\x00CS" + len(declared).to_bytes(2, "little") + declared.encode()
        new = b"\x08\x00\x05\x00CS" + len(actual).to_bytes(2, "little") + actual.encode() if actual else b""
        data = path.read_bytes()
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("declared", "text", "actual"),
    [
        ("ISO_IR 192", "Müller", "ISO_IR 100"),
        ("ISO_IR 192", "頭部", "GB18030 "),
        ("ISO_IR 192", "頭部", "\\ISO 2022 IR 87 "),
        ("ISO_IR 192", "頭部", ""),
        ("ISO_IR 100", "Müller", "ISO_IR 192"),  # its bytes are no UTF-8: to decode them is to lose them
        ("ISO_IR 100", "Müller", ""),
        ("ISO_IR 144", "Иван", "ISO_IR 999"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_no_byte_is_lost_under_a_wrong_or_missing_character_set(
    tmp_path: Path, declared: str, text: str, actual: str
) -> None:
    procedure, other = Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "X1", "99LOCAL", text
    other.PatientID, other.IssuerOfPatientID = "2", text
    elements = {
        "SpecificCharacterSet": declared, "PatientName": text, "StudyDescription": text, "Manufacturer": text,
        "ManufacturerModelName": text, "ProcedureCodeSequence": [procedure], "OtherPatientIDsSequence": [other],
    }  # fmt: skip
    paths = cases.write_ct(tmp_path, elements=elements)
    redeclared(paths, declared, actual)
    volume = cases.volume_of(paths)
    sent = dcmread(paths[0])
    for made in (*cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), *notice(paths[0])):
        read = parsed(made)
        for keyword in ("PatientName", "StudyDescription"):
            assert read.get_item(keyword).value == sent.get_item(keyword).value, made.kind
        for sequence, keyword in (
            ("ProcedureCodeSequence", "CodeMeaning"),
            ("OtherPatientIDsSequence", "IssuerOfPatientID"),
        ):
            assert read[sequence][0].get_item(keyword).value == sent[sequence][0].get_item(keyword).value, made.kind
        scanner = read.ContributingEquipmentSequence[0]
        for keyword in ("Manufacturer", "ManufacturerModelName"):
            assert scanner.get_item(keyword).value == sent.get_item(keyword).value, made.kind


def test_a_name_in_another_character_set_than_declared_keeps_its_bytes(tmp_path: Path) -> None:
    paths = cases.write_ct(tmp_path, elements={"SpecificCharacterSet": "ISO_IR 192", "PatientName": "A^B"})
    for path in paths:  # Latin-1 bytes under a UTF-8 label, as real archives hold
        path.write_bytes(path.read_bytes().replace(b"PN\x04\x00A^B ", b"PN\x04\x00\xc4^\xd6 "))
    for made in (*cases.results_of(cases.volume_of(paths), cases.prediction_of(cases.volume_of(paths), None)),):
        assert parsed(made).get_item("PatientName").value == b"\xc4^\xd6 "
    assert all(parsed(made).get_item("PatientName").value == b"\xc4^\xd6 " for made in notice(paths[0]))


def test_an_unknown_character_set_is_copied_without_a_warning(tmp_path: Path) -> None:
    paths = cases.write_ct(tmp_path, elements={"SpecificCharacterSet": "ISO_IR 100"})
    volume = cases.volume_of(paths)
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"CS\x0a\x00ISO_IR 100", b"CS\x0a\x00ISO_IR 999"))
    for made in (*cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), *notice(paths[0])):
        assert b"CS\x0a\x00ISO_IR 999" in made.data
        assert b"Doe^Jane" in made.data


def test_results_belong_to_the_received_study(volume: Volume, positive: Prediction) -> None:
    source = dcmread(volume.paths[0])
    for made in (*cases.results_of(volume, positive), *notice(volume.paths[0])):
        read = parsed(made)
        for keyword in (
            "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber",
            "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        ):  # fmt: skip
            assert read[keyword].value == source[keyword].value, (made.kind, keyword)
        assert read.SeriesInstanceUID not in (source.SeriesInstanceUID, "")
        assert "TimezoneOffsetFromUTC" not in read


def test_an_old_scanner_that_leaves_out_what_it_must_give_is_reported_all_the_same(tmp_path: Path) -> None:
    missing = (
        "PatientBirthDate", "StudyID", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName",
        "SliceThickness", "FrameOfReferenceUID", "PositionReferenceIndicator", "Manufacturer",
    )  # fmt: skip
    paths = cases.write_ct(
        tmp_path, elements={"PatientSex": "W"}, leave_out=missing, transfer_syntax=ImplicitVRLittleEndian
    )
    volume = cases.volume_of(paths)
    for made in cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))):
        read = parsed(made)
        assert read.PatientBirthDate == "" and read.AccessionNumber == ""
        assert read.PatientSex == "W"


def test_times_follow_the_zone_of_the_source_where_it_names_one(tmp_path: Path) -> None:
    paths = cases.write_ct(tmp_path, elements={"TimezoneOffsetFromUTC": "+0900"})
    volume = cases.volume_of(paths)
    made = cases.results_of(volume, cases.prediction_of(volume, None), cases.NEGATIVE)[0]
    assert parsed(made).ContentTime == "130506"
    assert parsed(made).TimezoneOffsetFromUTC == "+0900"


# ---------------------------------------------------------------- SEG


def test_the_segmentation_holds_exactly_the_mask_on_the_native_slices(volume: Volume, positive: Prediction) -> None:
    seg = of_kind(cases.results_of(volume, positive), ObjectKind.SEG)
    assert positive.mask is not None
    found = np.zeros_like(positive.mask)
    labels = [1 + SUBTYPES.index(name) for name in ("subdural", "intraventricular")]
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        index = volume.sop_uids.index(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx(list(volume.positions_mm[index]))
        found[index][frame > 0] = labels[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
    assert np.array_equal(found, positive.mask)
    assert seg.NumberOfFrames == 4  # empty frames are left out
    assert seg.FrameOfReferenceUID == "1.2.3.4.9"


def test_slices_of_several_thicknesses_keep_theirs_in_the_segmentation(tmp_path: Path) -> None:
    paths = cases.write_ct(tmp_path)
    for path, thickness in zip(paths, [2.5, 2.5, 7.5, 7.5, 7.5, 7.5], strict=True):
        image = dcmread(path)
        image.SliceThickness = thickness
        image.save_as(path)
    volume = cases.volume_of(paths)
    prediction = cases.prediction_of(volume, cases.mask_of(volume))
    seg = of_kind(cases.results_of(volume, prediction), ObjectKind.SEG)
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]
    told = {
        str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID): float(
            frame.PixelMeasuresSequence[0].SliceThickness
        )
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert told == {volume.sop_uids[1]: 2.5, volume.sop_uids[2]: 7.5, volume.sop_uids[3]: 7.5}


@pytest.mark.filterwarnings("ignore:The value length")
def test_what_a_header_spells_freely_stops_no_report(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "X1", "99LOCAL", "CT of the head " * 6
    paths = cases.write_ct(tmp_path, elements={"ProcedureCodeSequence": [code], "SliceThickness": "0"})
    volume = cases.volume_of(paths)
    results = cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume)))
    assert kinds(results) == ["SEG", "SR", "KEY_IMAGE", "LABELMAP", "GSPS", "KOS"]


def test_a_single_voxel_of_a_single_subtype_is_written(volume: Volume, positive: Prediction) -> None:
    """What is the same for all frames moves to the shared functional groups; with one frame, that is much."""
    mask = np.zeros(volume.hu.shape, np.uint8)
    mask[2, 30, 31] = 1
    seg = of_kind(cases.results_of(volume, replace(positive, mask=mask)), ObjectKind.SEG)
    assert seg.NumberOfFrames == 1
    assert np.argwhere(seg.pixel_array).tolist() == [[30, 31]]


def test_only_subtypes_that_are_there_become_segments(volume: Volume, positive: Prediction) -> None:
    seg = of_kind(cases.results_of(volume, positive), ObjectKind.SEG)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Subdural hemorrhage", "Intraventricular hemorrhage"]


def test_a_negative_has_a_report_but_no_segmentation_and_no_key_image(volume: Volume, positive: Prediction) -> None:
    empty = replace(positive, mask=np.zeros(volume.hu.shape, np.uint8))
    assert kinds(cases.results_of(volume, empty, cases.NEGATIVE)) == ["SR"]
    assert kinds(cases.results_of(volume, positive, cases.NEGATIVE)) == ["SR"]  # stray voxels do not look like findings
    assert set(kinds(cases.results_of(volume, empty))) == {
        "SR",
        "KEY_IMAGE",
        "GSPS",
        "KOS",
    }  # positive by probability alone


def test_nothing_segmented_is_hidden_in_a_positive_study(volume: Volume, positive: Prediction) -> None:
    decision = replace(cases.POSITIVE, findings=("subdural",))
    results = cases.results_of(volume, positive, decision)
    assert len(of_kind(results, ObjectKind.SEG).SegmentSequence) == 2
    group = groups(of_kind(results, ObjectKind.SR))["ICH-IVH"]
    assert "segmented, but its probability is below the operating point" in texts(group)


# ---------------------------------------------------------------- SR


def test_the_report_carries_probabilities_and_volumes_with_units(volume: Volume, positive: Prediction) -> None:
    found = groups(of_kind(cases.results_of(volume, positive), ObjectKind.SR))
    assert [identifier for identifier in found if "BOX" not in identifier] == ["ICH-ANY", "ICH-SDH", "ICH-IVH"]
    for name, probability, volume_ml in (("ANY", 0.98, 12.5), ("SDH", 0.97, 12.0), ("IVH", 0.7, 0.5)):
        group = found[f"ICH-{name}"]
        for code, value, unit in (("122157", probability, "1"), ("118565006", volume_ml, "cm3")):
            measured = item(group, code).MeasuredValueSequence[0]
            assert float(measured.NumericValue) == value
            assert measured.MeasurementUnitsCodeSequence[0].CodeValue == unit


def test_regions_have_the_same_tracking_identity_in_report_and_segmentation(
    volume: Volume, positive: Prediction
) -> None:
    results = cases.results_of(volume, positive)
    seg, sr = of_kind(results, ObjectKind.SEG), of_kind(results, ObjectKind.SR)
    in_seg = {(s.SegmentNumber, s.TrackingID, s.TrackingUID) for s in seg.SegmentSequence}
    in_sr = set()
    for identifier, group in groups(sr).items():
        for reference in items(group, "121191"):
            (instance,) = reference.ReferencedSOPSequence
            assert instance.ReferencedSOPInstanceUID == seg.SOPInstanceUID
            in_sr.add((instance.ReferencedSegmentNumber, identifier, item(group, "112040").UID))
    assert in_sr == in_seg


def test_side_and_slices_of_each_finding_stand_in_the_report(volume: Volume, positive: Prediction) -> None:
    """The mask lies at columns 48 to 51 of rows that run to the patient's left; the head's middle is column 32."""
    found = groups(of_kind(cases.results_of(volume, positive), ObjectKind.SR))
    for identifier in ("ICH-SDH", "ICH-SDH-BOX-1"):
        site = item(found[identifier], "363698007")
        assert item(site, "272741003").ConceptCodeSequence[0].CodeValue == Concept.LEFT.code.value
    middle = item(found["ICH-IVH"], "363698007")
    assert "ContentSequence" not in middle  # the context group has no code for the midline
    where = "Left. Slice 2-4 of 6 from the feet, InstanceNumber 2-4, z -26.4 to -16."
    assert any(text.startswith(where) for text in texts(found["ICH-SDH"]))
    assert any(text.startswith("Midline. Slice 4 of 6") for text in texts(found["ICH-IVH"]))


def test_boxes_are_image_regions_that_any_reader_finds(volume: Volume, positive: Prediction) -> None:
    """Edges of whole pixels: the first pixel spans 0 to 1 (PS3.3 C.18.6.1.1)."""
    made = next(m for m in cases.results_of(volume, positive) if m.kind == ObjectKind.SR)
    content = hdsr.srread(BytesIO(made.data)).content
    planar = content.get_planar_roi_measurement_groups()
    found = {box.tracking_identifier: (box.finding_type, box.roi) for box in planar}
    assert set(found) == {"ICH-SDH-BOX-1", "ICH-IVH-BOX-1"}
    for identifier, subtype, (left, top, right, bottom) in (
        ("ICH-SDH-BOX-1", "subdural", (48, 22, 52, 44)),
        ("ICH-IVH-BOX-1", "intraventricular", (30, 30, 33, 33)),
    ):
        finding, region = found[identifier]
        assert finding == SUBTYPE_CODES[subtype].finding.code
        closed = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        assert region.value.tolist() == closed
        assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == volume.sop_uids[3]
    assert len(content.get_volumetric_roi_measurement_groups()) == 2
    assert len(content.get_image_measurement_groups()) == 1


def test_boxes_of_the_model_itself_are_image_regions_too(volume: Volume) -> None:
    drawn = (
        SeenBox(slice_index=1, subtype="subdural", probability=0.9, left=40.4, top=10.0, right=50.0, bottom=29.6),
        SeenBox(slice_index=2, subtype="subdural", probability=0.8, left=1.0, top=1.0, right=9.0, bottom=9.0),
    )
    results = cases.results_of(volume, cases.prediction_of(volume, None, boxes=drawn))
    content = hdsr.srread(BytesIO(next(m for m in results if m.kind == ObjectKind.SR).data)).content
    (group,) = content.get_planar_roi_measurement_groups()
    assert group.tracking_identifier == "ICH-SDH-BOX-1"
    assert group.roi.value.tolist() == [[40, 10], [50, 10], [50, 30], [40, 30], [40, 10]]
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == volume.sop_uids[1]


def test_islands_of_a_finding_have_boxes_of_their_own_the_largest_first() -> None:
    region = np.zeros((20, 30), bool)
    region[1, 1] = region[4:6, 3:9] = region[10:15, 20:26] = True
    found = [(box.left, box.top, box.right, box.bottom) for box in boxes(region, pixel_mm2=2.0)]
    assert found == [(20, 10, 26, 15), (3, 4, 9, 6)]  # a single pixel is too small
    assert len(boxes(region, pixel_mm2=20.0)) == 3
    only = np.zeros_like(region)
    only[1, 1] = True
    assert len(boxes(only, pixel_mm2=0.1)) == 1  # but if it is all there is
    assert boxes(np.zeros_like(region), pixel_mm2=1.0) == ()


def test_what_the_model_does_not_output_is_left_out_never_zero(volume: Volume) -> None:
    probabilities = dict.fromkeys(CLASSES) | {"any": 0.98, "subdural": 0.97}
    prediction = cases.prediction_of(volume, None, probabilities=probabilities, volumes_ml=dict.fromkeys(CLASSES))
    results = cases.results_of(volume, prediction)
    assert kinds(results) == ["SR", "KEY_IMAGE", "KEY_IMAGE", "GSPS", "KOS"]
    found = groups(of_kind(results, ObjectKind.SR))
    assert all(not items(group, "118565006") for group in found.values())
    assert not items(found["ICH-IVH"], "122157")
    assert items(found["ICH-SDH"], "122157")


@pytest.mark.parametrize(
    ("decision", "present", "urgency", "category"),
    [
        (cases.POSITIVE, "52101004", "25876001", "RID49480"),
        (replace(cases.POSITIVE, priority=Priority.HIGH), "52101004", "103391001", "RID49481"),
        (replace(cases.POSITIVE, priority=Priority.ROUTINE), "52101004", "373113001", "RID49482"),
        (cases.NEGATIVE, "272519000", "373113001", None),
    ],
)
def test_presence_and_priority_are_coded(
    volume: Volume, positive: Prediction, decision: Decision, present: str, urgency: str, category: str | None
) -> None:
    group = groups(of_kind(cases.results_of(volume, positive, decision), ObjectKind.SR))["ICH-ANY"]
    assert item(group, "1386000").ConceptCodeSequence[0].CodeValue == present
    assert item(group, "260870009").ConceptCodeSequence[0].CodeValue == urgency
    categories = [i.ConceptCodeSequence[0].CodeValue for i in items(group, "276214006")]
    assert categories == ([category] if category else [])
    assert bool(items(group, "121071")) == (category is not None)  # a negative carries no Finding item


def test_a_negative_of_a_part_of_a_head_is_no_answer_for_the_whole(volume: Volume, positive: Prediction) -> None:
    part = replace(volume, partial="Only a part of the head was analysed: 45 mm of brain.")
    (made,) = cases.results_of(part, positive, cases.NEGATIVE)
    report = parsed(made)
    assert report.SeriesDescription == "AI ROUTINE: part of head, no ICH detected"
    assert not items(groups(report)["ICH-ANY"], Concept.INTRACRANIAL_HEMORRHAGE.code.value)
    found = cases.results_of(part, positive)
    assert {parsed(made).SeriesDescription for made in found} == {"AI STAT: ICH suspected"}


def test_the_report_is_preliminary_unverified_research_and_says_so(volume: Volume, positive: Prediction) -> None:
    results = cases.results_of(volume, positive)
    sr = of_kind(results, ObjectKind.SR)
    assert (sr.CompletionFlag, sr.PreliminaryFlag, sr.VerificationFlag) == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert {DISCLAIMER, f"STAT: {cases.POSITIVE.reason}", "Gantry tilt of 10 degrees."} <= set(texts(sr))
    for made in results:
        read = parsed(made)
        assert read.ContentQualification == "RESEARCH"
        model = read.ContributingEquipmentSequence[1]
        assert (model.ManufacturerModelName, model.SoftwareVersions) == ("tiny", "1.2.3")
        assert cases.BUNDLE.sha256 in model.ContributionDescription


def test_the_report_names_all_analysed_images_and_shows_only_key_slices(volume: Volume, positive: Prediction) -> None:
    sr = of_kind(cases.results_of(volume, positive), ObjectKind.SR)
    evidence = {
        instance.ReferencedSOPInstanceUID
        for series in sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert evidence == {*volume.sop_uids, UIDS.sop(ObjectKind.SEG)}
    library = next(i for i in sr.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111028")
    (shown,) = library.ContentSequence[0].ContentSequence
    assert shown.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == volume.sop_uids[3]


def test_a_later_revision_names_the_report_it_supersedes(volume: Volume, positive: Prediction) -> None:
    first = next(made for made in cases.results_of(volume, positive) if made.kind == ObjectKind.SR)
    second = cases.results_of(volume, positive, revision=2, predecessor_sr=(first.sop_class_uid, first.sop_uid))
    (study,) = of_kind(second, ObjectKind.SR).PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.series_uid
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_uid
    assert {made.series_uid for made in second}.isdisjoint({first.series_uid})


# ---------------------------------------------------------------- key image


def test_key_images_say_what_they_are(volume: Volume, positive: Prediction) -> None:
    image = of_kind(cases.results_of(volume, positive), ObjectKind.KEY_IMAGE)
    assert image.BurnedInAnnotation == "YES"
    assert list(image.ImageType) == ["DERIVED", "SECONDARY"]
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == volume.sop_uids[3]
    assert image.pixel_array.shape[1:] == (640, 3)


def test_each_finding_gets_the_slice_with_most_of_it(volume: Volume, positive: Prediction) -> None:
    mask = cases.mask_of(volume)
    mask[0, 20:30, 20:30] = 1 + SUBTYPES.index("intraventricular")
    results = cases.results_of(volume, replace(positive, mask=mask))
    sources = [
        parsed(made).SourceImageSequence[0].ReferencedSOPInstanceUID
        for made in results
        if made.kind == ObjectKind.KEY_IMAGE
    ]
    assert sources == [volume.sop_uids[3], volume.sop_uids[0]]


def picture(volume: Volume, prediction: Prediction, index: int = 3) -> np.ndarray:
    findings = reported_findings(volume, prediction, cases.POSITIVE, {})
    drawn = draw_key_image(
        volume=volume, prediction=prediction, decision=cases.POSITIVE, findings=findings, index=index
    )
    return drawn[104 : 104 + 512, 64 : 64 + 512].astype(int)


def colored(drawn: np.ndarray, name: str) -> np.ndarray:
    return np.argwhere(np.abs(drawn - COLORS[name]).max(axis=2) < 40)


def test_a_finding_is_outlined_and_boxed_where_it_is(volume: Volume, positive: Prediction) -> None:
    drawn = picture(volume, positive)
    marks = colored(drawn, "subdural")
    scale = 512 / cases.SIZE
    box = np.array([[22, 48], [44, 52]]) * scale
    assert marks.min(axis=0) == pytest.approx(box[0] - 7, abs=14)  # the label stands on the box
    assert marks.max(axis=0) == pytest.approx(box[1] + 7, abs=3)
    inside = drawn[int(24 * scale) : int(42 * scale), int(48.5 * scale) : int(51.5 * scale)]
    assert (inside.max(axis=2) == inside.min(axis=2)).all()  # nothing covers the lesion itself


@pytest.mark.parametrize("orientation", [[[1.0, 0, 0], [0, 1, 0]], [[-1.0, 0, 0], [0, 1, 0]], [[0.0, 1, 0], [1, 0, 0]]])
def test_a_box_of_the_model_is_drawn_where_a_region_there_would_have_its_own(
    volume: Volume, orientation: list[list[float]]
) -> None:
    turned, mask = replace(volume, orientation=np.array(orientation)), np.zeros(volume.hu.shape, np.uint8)
    mask[3, 22:44, 44:52] = 1 + SUBTYPES.index("subdural")
    box = SeenBox(slice_index=3, subtype="subdural", probability=0.9, left=44, top=22, right=52, bottom=44)
    of_model, of_mask = (
        colored(picture(turned, cases.prediction_of(turned, seen, boxes=(box,))), "subdural") for seen in (None, mask)
    )
    assert np.array_equal(of_model.min(axis=0), of_mask.min(axis=0))
    assert np.array_equal(of_model.max(axis=0), of_mask.max(axis=0))


def test_nothing_but_the_findings_is_drawn_on_the_brain(volume: Volume, positive: Prediction) -> None:
    drawn = picture(volume, replace(positive, mask=None))
    assert (drawn.max(axis=2) == drawn.min(axis=2)).all()


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        ([[-1.0, 0, 0], [0, 1, 0]], (slice(None), slice(None), slice(None, None, -1))),
        ([[1.0, 0, 0], [0, -1, 0]], (slice(None), slice(None, None, -1))),
    ],
)
def test_the_patients_right_is_on_the_left_however_the_slices_are_stored(
    volume: Volume, positive: Prediction, orientation: list[list[float]], turn: tuple[slice, ...]
) -> None:
    upright = picture(volume, positive)
    assert positive.mask is not None
    turned = replace(volume, hu=volume.hu[turn], orientation=np.array(orientation))
    assert np.array_equal(picture(turned, replace(positive, mask=positive.mask[turn])), upright)


def test_slices_stored_sideways_are_turned_upright(volume: Volume, positive: Prediction) -> None:
    assert positive.mask is not None
    sideways = replace(volume, hu=volume.hu.swapaxes(1, 2), orientation=np.array([[0.0, 1, 0], [1, 0, 0]]))
    turned = replace(positive, mask=positive.mask.swapaxes(1, 2))
    assert np.array_equal(picture(sideways, turned), picture(volume, positive))


def test_the_brain_window_is_80_around_40() -> None:
    assert list(brain_window(np.array([-1000, 0, 40, 80, 3000], np.int16))) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("probability", "volume_ml", "suspected", "line"),
    [
        (0.97, 23.4, True, "Subdural 23 mL, p 0.97"),
        (0.97, 2.34, True, "Subdural 2.3 mL, p 0.97"),
        (0.97, 0.02, True, "Subdural <0.1 mL, p 0.97"),
        (0.97, None, True, "Subdural, p 0.97"),
        (None, 2.34, True, "Subdural 2.3 mL"),
        (0.3, 2.34, False, "Subdural 2.3 mL, p 0.30 (below threshold)"),
    ],
)
def test_the_legend_says_in_one_line_what_was_found(
    volume: Volume, probability: float | None, volume_ml: float | None, suspected: bool, line: str
) -> None:
    prediction = cases.prediction_of(volume, None)
    (finding, _) = reported_findings(volume, prediction, cases.POSITIVE, {})
    changed = replace(finding, probability=probability, volume_ml=volume_ml, suspected=suspected)
    assert legend_line(changed) == line


@pytest.mark.parametrize(
    ("laterality", "slices", "line"),
    [
        (Laterality.LEFT, (1, 3), "Subdural 12 mL, left, slices 2-4, p 0.97"),
        (Laterality.BILATERAL, (1, 3), "Subdural 12 mL, both sides, slices 2-4, p 0.97"),
        (None, (3, 3), "Subdural 12 mL, slice 4, p 0.97"),
    ],
)
def test_the_legend_says_where_it_is(
    volume: Volume, positive: Prediction, laterality: Laterality | None, slices: tuple[int, int], line: str
) -> None:
    location = Location(laterality=laterality, slices=slices, z_mm=(0.0, 0.0), instance_numbers=None)
    (finding, _) = reported_findings(volume, positive, cases.POSITIVE, {"subdural": location})
    assert legend_line(finding) == line


# ---------------------------------------------------------------- series, notice


@pytest.mark.parametrize(
    ("decision", "description"),
    [
        (cases.POSITIVE, "AI STAT: ICH suspected"),
        (Decision(priority=Priority.HIGH, reason="r", findings=(), suspected=True), "AI HIGH: ICH suspected"),
        (Decision(priority=Priority.ROUTINE, reason="r", findings=(), suspected=True), "AI ROUTINE: ICH suspected"),
        (cases.NEGATIVE, "AI ROUTINE: no ICH detected"),
    ],
)
def test_the_priority_stands_in_every_series_description(
    volume: Volume, positive: Prediction, decision: Decision, description: str
) -> None:
    results = cases.results_of(volume, positive, decision)
    assert {parsed(made).SeriesDescription for made in results} == {description}
    numbers = {made.kind: parsed(made).SeriesNumber for made in results}
    assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize(
    ("outcome", "headline", "description"),
    [
        (Outcome.NOT_ANALYZED, "NOT ANALYSED", "AI NONE: not analysed"),
        (Outcome.FAILED, "ANALYSIS FAILED", "AI NONE: analysis failed"),
    ],
)
def test_a_notice_cannot_be_taken_for_a_negative(
    volume: Volume, outcome: Outcome, headline: str, description: str
) -> None:
    made = notice(volume.paths[0], outcome)
    assert kinds(made) == ["NOTICE_SR", "NOTICE_IMAGE"]
    sr, page = parsed(made[0]), parsed(made[1])
    sentence = (
        f"{headline} - because the series has 6 images - too few to cover a head. "
        "Read as usual; this is not a negative result."
    )
    assert sentence in texts(sr)
    assert DISCLAIMER in texts(sr)
    assert item(sr, "1386000").ConceptCodeSequence[0].CodeMeaning == "Not Evaluated"
    assert sr.SeriesDescription == page.SeriesDescription == description
    assert page.BurnedInAnnotation == "YES"


# ---------------------------------------------------------------- errors


def test_what_does_not_fit_together_is_refused(volume: Volume, positive: Prediction, tmp_path: Path) -> None:
    small = replace(positive, mask=np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(ReportError, match="slices"):
        cases.results_of(volume, small)
    with pytest.raises(ReportError, match="aware"):
        cases.results_of(volume, positive, created_at=datetime(2001, 2, 3))  # noqa: DTZ001
    with pytest.raises(ReportError, match="revision"):
        cases.results_of(volume, positive, revision=2, uids=UIDS)
    with pytest.raises(ReportError, match="priority"):
        cases.results_of(volume, positive, replace(cases.POSITIVE, priority=Priority.NONE))
    with pytest.raises(ReportError, match="ANALYZED"):
        notice(volume.paths[0], Outcome.ANALYZED)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no DICOM")
    with pytest.raises(ReportError, match="cannot be read"):
        notice(broken)


def test_a_zone_of_the_clock_does_not_change_the_moment(volume: Volume, positive: Prediction) -> None:
    tokyo = cases.CREATED_AT.astimezone(timezone(timedelta(hours=9)))
    assert parsed(cases.results_of(volume, positive, created_at=tokyo)[0]).ContentTime == "130506"


# ---------------------------------------------------------------- codes

VERHOEFF_PRODUCT = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
    [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
    [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]
VERHOEFF_PERMUTATION = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def verhoeff_holds(code: str) -> bool:
    """Whether the last digit of a SNOMED CT identifier is its check digit."""
    check = 0
    for place, character in enumerate(reversed(code)):
        digit = int(character)
        for _ in range(place % 8):
            digit = VERHOEFF_PERMUTATION[digit]
        check = VERHOEFF_PRODUCT[check][digit]
    return check == 0


@pytest.mark.parametrize("concept", [c for c in Concept if c.value.scheme == "SCT"], ids=lambda c: c.name)
def test_every_snomed_code_has_its_check_digit(concept: Concept) -> None:
    assert verhoeff_holds(concept.code.value)


@pytest.mark.parametrize("invented", ["83329005", "62414007", "262052002", "274110009"])
def test_codes_invented_elsewhere_fail_the_check_digit(invented: str) -> None:
    assert not verhoeff_holds(invented)


def test_every_code_says_where_it_comes_from_and_stands_once() -> None:
    codes = [(concept.code.scheme_designator, concept.code.value) for concept in Concept]
    assert len(codes) == len(set(codes)) == len(Concept.__members__)
    assert all(c.value.source and datetime.fromisoformat(c.value.checked) for c in Concept)
    assert all(len(c.value.meaning) <= 64 and len(c.value.value) <= 16 for c in Concept)
    assert set(SUBTYPE_CODES) == set(SUBTYPES) == set(COLORS)
