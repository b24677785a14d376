"""The worklist in the database: what a row shows, and in which order. Real SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from tests.arrivals import Clock
from tests.studies import arrive, end, failed, found, not_analyzed
from tests.unit.test_store import migrate_to
from triage_node.domain import Patient, Priority
from triage_node.store import access, opinions, outbox, worklist
from triage_node.store.database import Database, open_database
from triage_node.store.schema import study
from triage_node.store.worklist import Wanted


@pytest.fixture
def clock() -> Clock:
    return Clock()


def listed(database: Database, **wanted: object) -> list[str]:
    return [row.study_uid for row in worklist.page(database, Wanted(**wanted)).rows]  # type: ignore[arg-type]


def test_what_is_urgent_comes_first_then_who_waits_longest_and_the_unknown_before_the_negative(
    database: Database, clock: Clock
) -> None:
    for name, report in (
        ("1", found(Priority.ROUTINE)),
        ("2", found(Priority.STAT, volume_ml=23)),
        ("3", not_analyzed("INCOMPLETE")),
        ("4", found(Priority.HIGH)),
        ("5", failed()),
        ("6", found(Priority.STAT, volume_ml=2)),
        ("7", not_analyzed("PRIOR_STUDY")),
    ):
        end(database, clock, arrive(database, clock, name), report)
        clock.advance(10)
    arrive(database, clock, "8")
    assert listed(database) == ["2", "6", "4", "3", "5", "8", "1", "7"]
    assert worklist.counts(database, None) == {
        "STAT": 2, "HIGH": 1, "ROUTINE": 1, "NOT_ANALYZED": 2, "FAILED": 1, "OPEN": 1
    }  # fmt: skip


def test_a_study_is_on_the_list_from_its_first_image_on(database: Database, clock: Clock) -> None:
    arrive(database, clock, "1", images=12)
    (row,) = worklist.page(database, Wanted()).rows
    assert (row.outcome, row.open_state, row.open_images, row.source) == (None, "RECEIVING", 12, "CT1")
    clock.advance(5)
    arrive(database, clock, "1", images=3)
    arrive(database, clock, "2")
    row, other = worklist.page(database, Wanted()).rows
    assert (row.id, other.id) == (1, 2), "no number is used up by an image that comes"
    assert (row.open_images, (row.last_image_at - row.first_image_at).total_seconds()) == (15, 5.0)


def test_a_row_shows_the_most_urgent_result_of_its_study_and_a_duplicate_changes_nothing(
    database: Database, clock: Clock
) -> None:
    end(database, clock, arrive(database, clock, "1", series="1"), not_analyzed("LOCALIZER"))
    assert worklist.page(database, Wanted()).rows[0].reason == "LOCALIZER"
    end(database, clock, arrive(database, clock, "1", series="2"), found(Priority.HIGH))
    end(database, clock, arrive(database, clock, "1", series="3"), not_analyzed("BONE_ONLY"))
    (row,) = worklist.page(database, Wanted()).rows
    assert (row.outcome, row.priority, row.series_uid) == ("ANALYZED", "HIGH", "1.2")


def test_a_revision_replaces_what_its_row_says_and_asks_for_eyes_again_only_where_it_is_worse(
    database: Database, clock: Clock
) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.HIGH))
    opinions.acknowledge(database, 1, user="ann", now=clock())
    end(database, clock, arrive(database, clock, "1"), found(Priority.HIGH, volume_ml=0.4))
    row = worklist.row(database, 1)
    assert row is not None
    assert (row.revision, row.result["volumes_ml"]["subdural"], row.acknowledged_by) == (2, 0.4, "ann")
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT, volume_ml=30))
    row = worklist.row(database, 1)
    assert row is not None
    assert (row.priority, row.acknowledged_by) == ("STAT", None)


def test_rows_are_found_by_name_id_accession_and_source_and_signs_of_the_search_are_only_text(
    database: Database, clock: Clock
) -> None:
    ann = Patient(patient_name="DOE^ANN", patient_id="100%", accession_number="ACC7")
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT), patient=ann)
    end(database, clock, arrive(database, clock, "2"), found(Priority.STAT), patient=Patient(patient_name="ROE^BEA"))
    strange = Patient(patient_name="Müller^Jörg", patient_id="Ｐ9")
    end(database, clock, arrive(database, clock, "3"), found(Priority.STAT), patient=strange)
    arrive(database, clock, "4")
    for text in ("doe", "ANN", "100%", "acc7"):
        assert listed(database, text=text) == ["1"]
    for text in ("MÜLLER", "jörg", "p9"):
        assert listed(database, text=text) == ["3"]
    assert listed(database, text="ct1") == ["1", "2", "3", "4"]
    assert listed(database, text="%") == ["1"]
    assert listed(database, text="_") == []


def test_filters_pages_and_age(database: Database, clock: Clock) -> None:
    for number in range(worklist.PAGE + 3):
        end(database, clock, arrive(database, clock, f"1.{number}"), found(Priority.ROUTINE))
        clock.advance(60)
    page = worklist.page(database, Wanted(page=1))
    assert (len(page.rows), page.total) == (3, worklist.PAGE + 3)
    assert len(listed(database, since=clock() - timedelta(minutes=10))) == 10
    assert listed(database, show="STAT") == []
    assert worklist.page(database, Wanted(show="ROUTINE")).total == worklist.PAGE + 3


def test_a_read_study_leaves_the_list_and_comes_back_when_asked(database: Database, clock: Clock) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT))
    opinions.mark_read(database, 1, user="ann", now=clock())
    assert listed(database) == []
    assert listed(database, read=True) == ["1"]
    row = worklist.row(database, 1)
    assert row is not None
    assert (row.read_by, row.acknowledged_by) == ("ann", "ann")
    opinions.mark_read(database, 1, user=None, now=clock())
    assert listed(database) == ["1"]


def test_a_row_tells_what_became_of_its_results(database: Database, clock: Clock) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT), to=["pacs", "archive"])
    for name in ("pacs", "archive"):
        (parcel,) = outbox.claim_parcels(database, name, now=clock(), lease_s=60)
        if name == "pacs":
            outbox.mark_sent(database, parcel, status=0, now=clock())
        else:
            outbox.mark_dead(database, parcel, status=0xA700, error="Out of Resources")
    (row,) = worklist.page(database, Wanted()).rows
    told = {one.destination: (dict(one.states), one.error) for one in row.deliveries}
    assert told == {"pacs": ({"SENT": 1}, None), "archive": ({"DEAD": 1}, "Out of Resources")}
    assert any("sr sent to pacs" in event.text for event in worklist.events(database, "1"))


def test_a_stat_result_that_nobody_acknowledges_is_escalated_once(database: Database, clock: Clock) -> None:
    seen = arrive(database, clock, "1")
    end(database, clock, seen, found(Priority.STAT))
    end(database, clock, waits := arrive(database, clock, "2"), found(Priority.STAT))
    end(database, clock, arrive(database, clock, "3"), found(Priority.HIGH))
    opinions.acknowledge(database, 1, user="ann", now=clock())
    assert opinions.escalate(database, before=clock(), now=clock()) == []
    clock.advance(700)
    before = clock() - timedelta(minutes=10)
    assert opinions.escalate(database, before=before, now=clock()) == [waits]
    assert opinions.escalate(database, before=before, now=clock()) == []


def test_what_readers_say_sums_up_by_class_and_the_last_word_counts(database: Database, clock: Clock) -> None:
    for number, (said, present) in enumerate([(True, True), (True, False), (False, True), (True, True)], start=1):
        end(database, clock, arrive(database, clock, str(number)), found(Priority.STAT))
        row = worklist.row(database, number)
        assert row is not None
        assert row.revision_id is not None
        words = {"user": "ann", "finding": "any", "said": said, "comment": "", "now": clock()}
        opinions.say(database, number, row.revision_id, present=not present, **words)  # type: ignore[arg-type]
        opinions.say(database, number, row.revision_id, present=present, **words)  # type: ignore[arg-type]
    told = opinions.agreement(database)
    assert told.classes == {"any": {"both": 2, "only_node": 1, "only_reader": 1, "neither": 0}}
    assert (told.studies, told.bundles) == (4, ["test 1"])
    assert len(opinions.of_study(database, 1)) == 2


def test_studies_of_an_older_node_get_their_rows(empty_url: str, clock: Clock) -> None:
    old = Database(empty_url)
    migrate_to(old, "0003")
    with old.transaction() as connection:
        for number, (outcome, priority) in enumerate([("ANALYZED", "HIGH"), ("NOT_ANALYZED", "NONE")], start=1):
            values = {"uid": f"1.{number}", "at": clock().timestamp(), "outcome": outcome, "priority": priority}
            connection.execute(
                sa.text(
                    "INSERT INTO series (series_uid, study_uid, calling_ae, association, images, first_image_at, "
                    "last_image_at) VALUES (:uid, '1', 'CT1', 'a', 1, :at, :at)"
                ),
                values,
            )
            connection.execute(
                sa.text(
                    "INSERT INTO revision (series_uid, revision, state, attempts, outcome, priority) "
                    "VALUES (:uid, 1, 'DELIVERED', 1, :outcome, :priority)"
                ),
                values,
            )
    old.close()
    database = open_database(empty_url)
    with database.reading() as connection:
        (row,) = connection.execute(sa.select(study)).all()
    assert (row.study_uid, row.outcome, row.priority, row.rank, row.revision_id) == ("1", "ANALYZED", "HIGH", 1, 1)
    database.close()


def test_studies_of_an_older_node_are_found_by_name(empty_url: str) -> None:
    old = Database(empty_url)
    migrate_to(old, "0006")
    with old.transaction() as connection:
        row = "(1, '1.2', 'CT1', 1e9, 1e9, 'MÜLLER^JÖRG', 3)"
        columns = "id, study_uid, calling_ae, first_image_at, last_image_at, patient_name, rank"
        connection.execute(sa.text(f"INSERT INTO study ({columns}) VALUES {row}"))
    old.close()
    database = open_database(empty_url)
    assert listed(database, text="müller") == ["1.2"]
    assert listed(database, text="ct1") == ["1.2"]
    assert listed(database, text="ct1müller") == []
    database.close()


# ---------------------------------------------------------------- who may look


def test_a_link_lets_in_once_and_not_for_ever(database: Database, clock: Clock) -> None:
    token = access.make_link(database, now=clock())
    assert not access.use_link(database, "guessed", now=clock())
    assert access.use_link(database, token, now=clock())
    assert not access.use_link(database, token, now=clock())
    late = access.make_link(database, now=clock())
    assert not access.use_link(database, late, now=clock() + access.LINK_FOR + timedelta(seconds=1))


def test_a_session_ends_by_idling_by_logging_out_and_when_its_user_is_gone(database: Database, clock: Clock) -> None:
    idle = timedelta(hours=1)
    tokens = [
        access.begin(database, user=name, role="reader", now=clock(), idle=idle) for name in ("ann", "bea", "cem")
    ]
    assert [access.visitor(database, each, now=clock(), idle=idle) is not None for each in tokens] == [True] * 3
    access.end(database, tokens[0])
    access.end_all_but(database, {"ann": "reader", "bea": "reader"})
    known = [access.visitor(database, each, now=clock(), idle=idle) for each in tokens]
    assert [each.user if each else None for each in known] == [None, "bea", None]
    clock.advance(1800)
    assert access.visitor(database, tokens[1], now=clock(), idle=idle)
    clock.advance(3000)
    assert access.visitor(database, tokens[1], now=clock(), idle=idle), "it was used half an hour ago"
    clock.advance(3700)
    assert access.visitor(database, tokens[1], now=clock(), idle=idle) is None
    with database.reading() as connection:
        held = connection.execute(sa.text("SELECT token_sha256 FROM session")).scalars().all()
    assert not set(held) & set(tokens), "the tokens themselves are not in the database"
