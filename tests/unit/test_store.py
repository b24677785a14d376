"""States in the database: revisions, claims, outbox. Real SQLite and PostgreSQL, several connections."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.arrivals import Clock
from tests.studies import image
from tests.together import together
from triage_node.domain import (
    OUTBOX_TRANSITIONS,
    TRANSITIONS,
    CommitmentReport,
    ObjectKind,
    OutboxState,
    Outcome,
    Priority,
    Proof,
    ResultObject,
    SeriesState,
    delivery_text,
    require_transition,
)
from triage_node.errors import ConfigError, LeaseLost, StateError
from triage_node.store import board, claims, commitments, ledger, not_taken, outbox, schema, worklist
from triage_node.store.database import Database, open_database
from triage_node.store.publication import Publication, Report, publish
from triage_node.store.receipts import receipts
from triage_node.store.schema import metadata, revision

STUDY = "1.2.3"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def arrived(clock: Clock, number: int, *, series: str = "1.2.3.4") -> ledger.Arrived:
    return ledger.Arrived(instance=image(STUDY, series, number, clock))


def arrive(database: Database, clock: Clock, number: int, *, series: str = "1.2.3.4") -> None:
    ledger.record(database, [arrived(clock, number, series=series)])


def make_ready(database: Database, clock: Clock) -> None:
    for waiting in claims.receiving(database):
        assert claims.set_ready(database, waiting, "test", clock())


def claim(database: Database, clock: Clock) -> claims.Claim:
    held = claims.claim(database, now=clock(), lease_s=60)
    assert held is not None
    return held


def report(
    name: str, *, outcome: Outcome = Outcome.ANALYZED, clock: Clock, wait_s: float = 0, to: str = "pacs"
) -> Report:
    made = ResultObject(
        kind=ObjectKind.SR,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_uid=f"2.25.{name}",
        series_uid="2.25.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        data=b"bytes",
    )
    return Report(
        outcome=outcome,
        reason=None,
        detail="said",
        priority=Priority.STAT if outcome == Outcome.ANALYZED else Priority.NONE,
        result={"outcome": outcome.value},
        objects=[(made, f"results/{name}.dcm")],
        deliveries=[(made.sop_uid, to)],
        not_before=clock() + timedelta(seconds=wait_s),
    )


def states(database: Database) -> list[tuple[int, str]]:
    with database.reading() as connection:
        query = sa.select(revision.c.revision, revision.c.state).order_by(revision.c.id)
        return [(row.revision, row.state) for row in connection.execute(query)]


# ---------------------------------------------------------------- ledger


def test_an_object_that_the_database_cannot_take_is_refused_alone(database: Database, clock: Clock) -> None:
    poison = arrived(clock, 1)
    poison = replace(poison, instance=replace(poison.instance, study_uid="\ud800"))  # no UTF-8 for SQLite's driver
    writer = ledger.LedgerWriter(database)
    answers: dict[int, str] = {}

    def enter(number: int, one: ledger.Arrived) -> None:
        try:
            writer.enter(one)
            answers[number] = "entered"
        except OSError:
            answers[number] = "refused"

    coming = [arrived(clock, 2), poison, *(arrived(clock, number) for number in range(3, 9))]
    with database.transaction():  # holds the first one up, so that all others come in one batch
        threads = [threading.Thread(target=enter, args=pair) for pair in enumerate(coming)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(timeout=10)
    assert answers == dict.fromkeys(range(8), "entered") | {1: "refused"}


def test_what_was_refused_is_in_the_ledger_until_it_is_taken(database: Database, clock: Clock) -> None:
    taken = arrived(clock, 1).instance.sop_uid
    for seconds, reason in ((0, "no resources"), (60, "No space left on device")):
        clock.advance(seconds)
        told = [refused(uid, clock, reason=reason) for uid in (taken, "1.2.9")]
        not_taken.record(database, told)
    arrive(database, clock, 1)
    found = {one.sop_uid: (one.outcome, one.reason) for one in receipts(database)}
    assert found == {taken: ("RECEIVING", None), "1.2.9": ("REFUSED", "0xA700 No space left on device")}
    with database.reading() as connection:
        assert set(connection.execute(sa.select(schema.not_taken.c.count)).scalars()) == {2}
    assert [one.sop_uid for one in receipts(database, since=clock(), sop_uid="1.2.9")] == ["1.2.9"]
    assert [one.outcome for one in receipts(database, study_uid=STUDY)] == ["RECEIVING"]


def refused(sop_uid: str, clock: Clock, *, reason: str) -> not_taken.NotTaken:
    return not_taken.NotTaken(
        sop_uid=sop_uid, calling_ae="CT1", status=0xA700, reason=reason, count=1, first_at=clock(), last_at=clock()
    )


# ---------------------------------------------------------------- schema


def test_the_migrations_give_the_schema_of_the_code(database: Database) -> None:
    inspector = sa.inspect(database.engine)
    assert set(inspector.get_table_names()) == {*metadata.tables, "alembic_version"}
    for name, table in metadata.tables.items():
        assert {column["name"] for column in inspector.get_columns(name)} == {column.name for column in table.columns}
        made = {index["name"] for index in inspector.get_indexes(name) if "duplicates_constraint" not in index}
        assert made == {index.name for index in table.indexes}


def migrate_to(database: Database, version: str) -> None:
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, version)


def test_a_database_of_the_first_schema_keeps_its_rows_and_gets_the_schema_of_the_code(
    empty_url: str, clock: Clock
) -> None:
    old = Database(empty_url)
    migrate_to(old, "0001")
    moment = clock().timestamp()
    with old.transaction() as connection:
        for statement in FIRST_SCHEMA_ROWS:
            connection.execute(sa.text(statement), {"moment": moment})
    old.close()
    database = open_database(empty_url)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        row = connection.execute(sa.select(schema.outbox)).one()
        assert (row.state, row.commitment_due, row.commitment_asks) == ("SENT", None, 0)
    assert not commitments.has_due(database, "pacs", now=clock())
    assert states(database) == [(1, "DELIVERED")]
    database.close()


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_the_migrations_are_sql_of_either_database(dialect: str) -> None:
    said = StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": said, "target_metadata": None}
    )
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with Operations.context(context):
        for script in reversed(list(ScriptDirectory.from_config(settings).walk_revisions())):
            script.module.upgrade()
    assert "ALTER TABLE outbox ADD COLUMN commitment_due" in said.getvalue()
    assert "WHERE commitment_due IS NOT NULL" in said.getvalue()


FIRST_SCHEMA_ROWS = [
    "INSERT INTO series VALUES ('1.2', '1', 'CT1', 'a', 1, :moment, :moment, NULL)",
    "INSERT INTO revision (id, series_uid, revision, state, attempts, outcome) "
    "VALUES (1, '1.2', 1, 'DELIVERED', 1, 'ANALYZED')",
    "INSERT INTO result VALUES ('2.25.1', 1, '1', 'SR', '1.3', '1.4', '2.25.2', 'results/a.dcm', 'ab')",
    "INSERT INTO outbox (id, sop_uid, destination, revision_id, state, urgency, attempts, not_before, sent_at) "
    "VALUES (1, '2.25.1', 'pacs', 1, 'SENT', 0, 1, :moment, :moment)",
]


def test_four_processes_may_migrate_at_once(empty_url: str) -> None:
    together(*[lambda: open_database(empty_url).close()] * 4)


def test_a_database_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'triage-node\[postgresql\]'"):
        open_database("postgresql+pg8000://node:secret@db/triage")


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="check its URL and rights") as raised:
        open_database(f"postgresql+psycopg://node:secret@/triage?host={tmp_path}")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(SeriesState, SeriesState)))
def test_only_the_listed_transitions_are_legal(old: SeriesState, new: SeriesState) -> None:
    if new in TRANSITIONS[old]:
        require_transition(old, new)
    else:
        with pytest.raises(StateError):
            require_transition(old, new)


def test_a_series_cannot_have_two_open_revisions(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    with pytest.raises(sa.exc.IntegrityError), database.transaction() as connection:
        values = {"series_uid": "1.2.3.4", "revision": 2, "state": "READY", "attempts": 0}
        connection.execute(revision.insert().values(**values))


# ---------------------------------------------------------------- claims


def test_a_ready_series_is_claimed_once(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    assert claim(database, clock).attempts == 1
    assert claims.claim(database, now=clock(), lease_s=60) is None


def test_many_workers_never_claim_the_same_series(database: Database, clock: Clock) -> None:
    for number in range(12):
        arrive(database, clock, 1, series=f"1.2.3.{number}")
    make_ready(database, clock)
    taken: list[str] = []

    def work() -> None:
        while (held := claims.claim(database, now=clock(), lease_s=60)) is not None:
            taken.append(held.series_uid)

    together(*[work] * 4)
    assert len(taken) == len(set(taken)) == 12


def test_many_senders_never_claim_the_same_parcel(database: Database, clock: Clock) -> None:
    for number in range(12):
        publish_series(database, clock, f"1.2.3.{number}", str(number), Outcome.ANALYZED)
    taken: list[str] = []

    def send() -> None:
        while parcels := outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60, limit=2):
            taken.extend(parcel.sop_uid for parcel in parcels)

    together(*[send] * 4)
    assert sorted(taken) == sorted(f"2.25.{number}" for number in range(12))


def test_two_series_of_one_study_are_published_at_once_and_its_row_shows_the_urgent_one(
    database: Database, clock: Clock
) -> None:
    ends = [Outcome.ANALYZED, Outcome.NOT_ANALYZED]
    for turn in range(4):
        held = []
        for end in ends:
            arrive(database, clock, 1, series=f"1.2.{turn}.{end}")
            make_ready(database, clock)
            held.append(claim(database, clock))
        made = [report(f"{turn}{number}", outcome=end, clock=clock) for number, end in enumerate(ends)]
        ended = together(
            lambda held=held, made=made: publish(database, held[0], made[0], now=clock()),
            lambda held=held, made=made: publish(database, held[1], made[1], now=clock()),
        )
        assert ended == [Publication.PUBLISHED] * 2
        (row,) = worklist.page(database, worklist.Wanted()).rows
        assert (row.outcome, row.priority) == ("ANALYZED", "STAT")
        assert sent_uids(database, clock) == [f"2.25.{turn}0"], "and nobody is told that it was not analysed"


def test_two_listeners_that_record_the_same_studies_do_not_lock_each_other_out(
    database: Database, clock: Clock
) -> None:
    def record(*pairs: tuple[str, str]) -> None:
        for number in range(20):
            images = [image(study, series, number, clock) for study, series in pairs]
            ledger.record(database, [ledger.Arrived(instance=each) for each in images])

    together(lambda: record(("1.1", "1.1.1"), ("1.2", "1.2.2")), lambda: record(("1.2", "1.1.3"), ("1.1", "1.2.4")))
    assert [row.open_images for row in worklist.page(database, worklist.Wanted()).rows] == [40, 40]


def test_an_image_after_ready_opens_the_revision_again(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    arrive(database, clock, 2)
    assert states(database) == [(1, "RECEIVING")]


def test_an_image_that_comes_between_reading_and_ready_keeps_it_receiving(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    (waiting,) = claims.receiving(database)
    arrive(database, clock, 2)
    assert not claims.set_ready(database, waiting, "test", clock())


def test_an_image_during_analysis_withholds_the_result(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    held = claim(database, clock)
    arrive(database, clock, 2)
    assert publish(database, held, report("1", clock=clock), now=clock()) is Publication.GREW
    assert states(database) == [(1, "RECEIVING")]
    assert outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60) == []


def test_a_lease_that_ran_out_goes_to_another_and_the_first_cannot_finish(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    first = claim(database, clock)
    clock.advance(61)
    second = claim(database, clock)
    assert second.attempts == 2
    assert second.claimed_at == first.claimed_at
    with pytest.raises(LeaseLost):
        publish(database, first, report("1", clock=clock), now=clock())
    assert publish(database, second, report("1", clock=clock), now=clock()) is Publication.PUBLISHED
    assert states(database) == [(1, "REPORTED")]


def test_a_heartbeat_keeps_the_claim(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    held = claim(database, clock)
    clock.advance(50)
    claims.heartbeat(database, held, now=clock(), lease_s=60)
    clock.advance(50)
    assert claims.claim(database, now=clock(), lease_s=60) is None


def test_a_late_slice_opens_the_next_revision_which_supersedes(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    make_ready(database, clock)
    assert publish(database, claim(database, clock), report("1", clock=clock), now=clock()) is Publication.PUBLISHED
    arrive(database, clock, 2)
    assert states(database) == [(1, "REPORTED"), (2, "RECEIVING")]
    make_ready(database, clock)
    held = claim(database, clock)
    assert claims.previous_sr(database, held) == ("1.2.840.10008.5.1.4.1.1.88.34", "2.25.1")
    assert publish(database, held, report("2", clock=clock), now=clock()) is Publication.PUBLISHED
    parcels = outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)
    assert [parcel.sop_uid for parcel in parcels] == ["2.25.2"]


def test_what_was_under_way_when_it_was_superseded_is_not_tried_again(database: Database, clock: Clock) -> None:
    publish_series(database, clock, "1.2.3.4", "1", Outcome.ANALYZED)
    (old,) = outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)
    arrive(database, clock, 2)
    make_ready(database, clock)
    assert publish(database, claim(database, clock), report("2", clock=clock), now=clock()) is Publication.PUBLISHED
    outbox.mark_failed(database, old, status=None, error="no answer", not_before=clock())
    assert sent_uids(database, clock) == ["2.25.2"]
    assert board.status(database, now=clock())["outbox"] == {"pacs": {"CANCELLED": 1, "SENDING": 1}}
    outbox.mark_sent(database, old, status=0, now=clock())  # should it have arrived after all, that is known
    assert board.status(database, now=clock())["outbox"] == {"pacs": {"SENDING": 1, "SENT": 1}}
    assert states(database) == [(1, "DELIVERED"), (2, "REPORTED")]


def test_a_study_whose_newest_revision_was_not_analysed_hears_so(database: Database, clock: Clock) -> None:
    publish_series(database, clock, "1.2.3.4", "1", Outcome.ANALYZED)
    arrive(database, clock, 2)
    make_ready(database, clock)
    made = report("2", outcome=Outcome.NOT_ANALYZED, clock=clock)
    assert publish(database, claim(database, clock), made, now=clock()) is Publication.PUBLISHED
    assert sent_uids(database, clock) == ["2.25.2"]


def test_the_age_of_a_study_is_that_on_arrival_unless_it_came_from_the_spool(database: Database, clock: Clock) -> None:
    arrive(database, clock, 1)
    came_at = clock()
    rebuilt = arrived(clock, 1, series="1.2.3.5")
    ledger.record(database, [replace(rebuilt, instance=replace(rebuilt.instance, association=""))])
    make_ready(database, clock)
    clock.advance(48 * 3600)
    assert claim(database, clock).received_at == came_at
    assert claim(database, clock).received_at == clock()


# ---------------------------------------------------------------- notices


def publish_series(database: Database, clock: Clock, series: str, name: str, outcome: Outcome) -> None:
    arrive(database, clock, 1, series=series)
    make_ready(database, clock)
    wait_s = 180 if outcome == Outcome.NOT_ANALYZED else 0
    made = report(name, outcome=outcome, clock=clock, wait_s=wait_s)
    assert publish(database, claim(database, clock), made, now=clock()) is Publication.PUBLISHED


def sent_uids(database: Database, clock: Clock) -> list[str]:
    return [parcel.sop_uid for parcel in outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)]


@pytest.mark.parametrize("first", [Outcome.ANALYZED, Outcome.NOT_ANALYZED])
def test_not_analysed_is_not_said_of_a_study_that_was_analysed(
    database: Database, clock: Clock, first: Outcome
) -> None:
    names = {Outcome.ANALYZED: "1", Outcome.NOT_ANALYZED: "2"}
    second = Outcome.NOT_ANALYZED if first == Outcome.ANALYZED else Outcome.ANALYZED
    publish_series(database, clock, "1.2.3.4", names[first], first)
    publish_series(database, clock, "1.2.3.5", names[second], second)
    clock.advance(200)
    assert sent_uids(database, clock) == ["2.25.1"]


def test_not_analysed_is_said_once_the_study_had_its_time(database: Database, clock: Clock) -> None:
    publish_series(database, clock, "1.2.3.4", "2", Outcome.NOT_ANALYZED)
    assert sent_uids(database, clock) == []
    clock.advance(181)
    assert sent_uids(database, clock) == ["2.25.2"]


# ---------------------------------------------------------------- outbox


def published(database: Database, clock: Clock) -> outbox.Parcel:
    publish_series(database, clock, "1.2.3.4", "1", Outcome.ANALYZED)
    (parcel,) = outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)
    return parcel


def test_the_last_object_sent_makes_the_revision_delivered(database: Database, clock: Clock) -> None:
    outbox.mark_sent(database, published(database, clock), status=0, now=clock())
    assert states(database) == [(1, "DELIVERED")]


def test_destinations_that_end_at_the_same_moment_leave_no_revision_open(database: Database, clock: Clock) -> None:
    for number in range(1, 7):
        arrive(database, clock, number, series=f"1.2.3.{number}")
        make_ready(database, clock)
        made = report(str(number), clock=clock)
        made = replace(made, deliveries=[(f"2.25.{number}", to) for to in ("pacs", "ris")])
        publish(database, claim(database, clock), made, now=clock())
        parcels = [outbox.claim_parcels(database, to, now=clock(), lease_s=60)[0] for to in ("pacs", "ris")]
        together(*(partial(outbox.mark_sent, database, parcel, status=0, now=clock()) for parcel in parcels))
    assert states(database) == [(1, "DELIVERED")] * 6


def test_a_failed_object_waits_for_its_backoff(database: Database, clock: Clock) -> None:
    parcel = published(database, clock)
    later = clock() + timedelta(seconds=4)
    outbox.mark_failed(database, parcel, status=0xA700, error="full", not_before=later)
    assert outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60) == []
    clock.advance(5)
    (again,) = outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)
    assert (again.sop_uid, again.attempts) == (parcel.sop_uid, 2)


def test_a_dead_letter_is_shown_and_can_be_retried(database: Database, clock: Clock) -> None:
    outbox.mark_dead(database, published(database, clock), status=0x0122, error="SOP class not supported")
    assert states(database) == [(1, "REPORTED")]
    (letter,) = board.status(database, now=clock())["dead_letters"]
    assert (letter["status"], letter["error"]) == ("0x0122", "SOP class not supported")
    assert outbox.retry_dead(database, destination=None, now=clock()) == 1
    assert len(outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)) == 1


def test_the_ledger_has_words_for_every_state_of_an_object() -> None:
    for state in OutboxState:
        assert all(delivery_text(state, proof) for proof in (None, *Proof))


def test_what_was_superseded_meanwhile_brings_nothing_in_its_place(database: Database, clock: Clock) -> None:
    parcel = published(database, clock)
    supersede(database, clock)
    state = outbox.mark_not_accepted(database, parcel, instead="SR", status=None, error="no such class", now=clock())
    assert state is OutboxState.CANCELLED
    assert outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60) == []
    assert outbox.dead_letters(database) == 0


def test_a_killed_sender_loses_its_rows_after_the_lease_and_cannot_mark_them(database: Database, clock: Clock) -> None:
    dead = published(database, clock)
    clock.advance(61)
    (alive,) = outbox.claim_parcels(database, "pacs", now=clock(), lease_s=60)
    outbox.mark_dead(database, dead, status=None, error="late")
    outbox.mark_sent(database, alive, status=0, now=clock())
    assert states(database) == [(1, "DELIVERED")]


def test_stat_goes_before_routine(database: Database, clock: Clock) -> None:
    for number, priority in enumerate([Priority.ROUTINE, Priority.NONE, Priority.STAT, Priority.HIGH]):
        series = f"1.2.3.{number}"
        arrive(database, clock, 1, series=series)
        make_ready(database, clock)
        made = report(str(number), clock=clock)
        urgent = Report(**{**vars(made), "priority": priority})
        assert publish(database, claim(database, clock), urgent, now=clock()) is Publication.PUBLISHED
    assert sent_uids(database, clock) == ["2.25.2", "2.25.3", "2.25.1", "2.25.0"]


def note(database: Database, clock: Clock, parcel: outbox.Parcel, *, kept: bool) -> None:
    report = CommitmentReport(
        transaction_uid="2.25.7",
        committed=frozenset({parcel.sop_uid} if kept else ()),
        failed={} if kept else {parcel.sop_uid: 0x0110},
    )
    commitments.note_report(
        database, report, destinations=["pacs"], now=clock(), attempts=9, send_again_at=lambda _: clock()
    )


def supersede(database: Database, clock: Clock) -> None:
    arrive(database, clock, next(NUMBERS))
    make_ready(database, clock)
    made = report(f"9{next(NUMBERS)}", clock=clock, to="other")
    assert publish(database, claim(database, clock), made, now=clock()) is Publication.PUBLISHED


NUMBERS = itertools.count(100)
OPERATIONS: dict[str, Callable[[Database, Clock, outbox.Parcel], object]] = {
    "claim": lambda db, clock, _: outbox.claim_parcels(db, "pacs", now=clock(), lease_s=60),
    "sent": lambda db, clock, parcel: outbox.mark_sent(db, parcel, status=0, now=clock()),
    "failed": lambda db, clock, parcel: outbox.mark_failed(db, parcel, status=0, error="", not_before=clock()),
    "dead": lambda db, clock, parcel: outbox.mark_dead(db, parcel, status=0, error=""),
    "not accepted": lambda db, clock, parcel: outbox.mark_not_accepted(
        db, parcel, instead=None, status=None, error="", now=clock()
    ),
    "retry": lambda db, clock, _: outbox.retry_dead(db, destination=None, now=clock()),
    "kept": lambda db, clock, parcel: note(db, clock, parcel, kept=True),
    "not kept": lambda db, clock, parcel: note(db, clock, parcel, kept=False),
    "given up": lambda db, clock, _: commitments.give_up(db, "pacs", now=clock(), attempts=1),
    "forgone": lambda db, clock, _: commitments.forgo(db, "pacs", now=clock()),
    "superseded": lambda db, clock, _: supersede(db, clock),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_takes_an_outbox_row_where_it_may_not_go(database: Database, clock: Clock, operation: str) -> None:
    parcel = published(database, clock)
    with database.transaction() as connection:
        values = {"transaction_uid": "2.25.7", "destination": "pacs", "requested_at": clock()}
        connection.execute(schema.commitment.insert().values(**values))
    row = schema.outbox.c.id == parcel.id
    moved = set()
    for old in OutboxState:
        with database.transaction() as connection:
            values = {"state": old.value, "token": parcel.token, "lease_until": clock() - timedelta(seconds=1)}
            asked = {"commitment": "2.25.7", "commitment_due": clock(), "commitment_asks": 1}
            connection.execute(schema.outbox.update().where(row).values(**values, **asked))
        OPERATIONS[operation](database, clock, parcel)
        with database.reading() as connection:
            new = OutboxState(connection.execute(sa.select(schema.outbox.c.state).where(row)).scalar_one())
        assert new == old or new in OUTBOX_TRANSITIONS[old], (old, new)
        moved |= {(old, new)} if new != old else set()
    assert moved or operation == "forgone"


# ---------------------------------------------------------------- roles and leases


def test_of_many_who_want_a_free_lease_at_once_one_gets_it(database: Database, clock: Clock) -> None:
    def take(token: str) -> bool:
        return board.hold_lease(database, "deliver", token, now=clock(), lease_s=10)

    for _ in range(10):
        assert sorted(together(*[partial(take, str(number)) for number in range(4)])) == [False, False, False, True]
        clock.advance(11)


def test_one_holder_at_a_time(database: Database, clock: Clock) -> None:
    assert board.hold_lease(database, "deliver", "a", now=clock(), lease_s=10)
    assert not board.hold_lease(database, "deliver", "b", now=clock(), lease_s=10)
    clock.advance(11)
    assert board.hold_lease(database, "deliver", "b", now=clock(), lease_s=10)
    assert not board.hold_lease(database, "deliver", "a", now=clock(), lease_s=10)


def test_status_shows_no_uid(database: Database, clock: Clock) -> None:
    publish_series(database, clock, "1.2.3.4", "1", Outcome.ANALYZED)
    assert "1.2.3.4" not in str(board.status(database, now=clock()))
