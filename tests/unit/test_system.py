"""The pages of the lead and the administrator: who may open which, what they tell, what is sent again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from scipy.stats import binomtest

from tests.arrivals import Clock
from tests.studies import arrive, end, failed, found, not_analyzed
from triage_node import config as configuration
from triage_node.domain import Patient, Priority
from triage_node.receive.callers import CALLING_AE_NOT_RECOGNISED, Caller, Refusal, rights_of
from triage_node.service.refusals import DIFFERENT, RefusalCounts
from triage_node.spool import Spool
from triage_node.store import access, board, opinions, outbox, refusals, system, worklist
from triage_node.store.database import open_database
from triage_node.web import Site, create_app
from triage_node.web.figures import share

PACS, ARCHIVE = (
    configuration.Destination(name=name, ae_title=name.upper(), host="10.1.2.3", port=104)
    for name in ("pacs", "archive")
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    database = open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    config = configuration.Config(destinations=(PACS, ARCHIVE))
    yield Site(config=config, database=database, spool=Spool(tmp_path), clock=clock)
    database.close()


Open = Callable[..., TestClient]


@pytest.fixture
def come_in(site: Site) -> Open:
    """A browser of somebody with a role."""

    def let_in(role: str = "admin", at: Site = site) -> TestClient:
        client = TestClient(create_app(at), base_url="http://127.0.0.1:8080")
        token = access.begin(at.database, user=f"the-{role}", role=role, now=at.clock(), idle=timedelta(hours=1))
        client.cookies.set("triage-node-8080", token)
        return client

    return let_in


def csrf(client: TestClient) -> str:
    held = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
    assert held
    return held[1]


# ---------------------------------------------------------------- roles


@pytest.mark.parametrize("role", configuration.ROLES)
def test_each_role_opens_its_pages_and_sees_only_those_in_the_navigation(come_in: Open, role: str) -> None:
    needed = {"/": "reader", "/try": "reader", "/figures": "lead", "/system": "admin"}
    twins = {"/": "/worklist.json", "/try": "/try.json", "/figures": "/figures.json", "/system": "/system.json"}
    client = come_in(role)
    rank = configuration.ROLES.index
    open_to = {path for path, least in needed.items() if rank(least) <= rank(role)}
    for path, twin in [*twins.items(), ("/system", "/system/parts"), ("/system", "/status.json")]:
        expected = 200 if path in open_to else 403
        assert (client.get(path).status_code, client.get(twin).status_code) == (expected, expected), (path, twin)
    navigation = client.get("/").text.partition("<nav")[2].partition("</nav>")[0]
    assert set(re.findall(r'href="([^"]+)"', navigation)) == open_to


def test_who_may_not_is_told_in_plain_words(come_in: Open) -> None:
    client = come_in("reader")
    said = "this page is for the role admin; yours is reader"
    assert said in client.get("/system").text
    assert client.get("/system.json").json() == {"error": said}


def test_only_an_admin_sends_again_and_only_by_a_form_of_the_session(site: Site, clock: Clock, come_in: Open) -> None:
    letter, *_ = die(site, clock, "pacs")
    for role in ("reader", "lead", "admin"):
        client = come_in(role)
        token = csrf(client) if role != "admin" else "guessed"
        for path in ("", "/destination/pacs", f"/letter/{letter}"):
            assert client.post(f"/system/again{path}", data={"csrf": token}).status_code == 403
        assert client.post("/system/give-up/letter/1", data={"csrf": token}).status_code == 403
    assert outbox.dead_letters(site.database) == 1
    assert [trace.action for trace in access.trail(site.database)] == ["worklist", "worklist"]


# ---------------------------------------------------------------- dead letters


def die(site: Site, clock: Clock, *destinations: str, study: str = "1") -> list[int]:
    """A study whose result each of these destinations refused; the ids of its dead letters."""
    patient = Patient(patient_name="DOE^JANE", patient_id="PID7", accession_number="ACC9")
    series_uid = arrive(site.database, clock, study)
    end(site.database, clock, series_uid, found(Priority.STAT), patient=patient, to=destinations)
    for name in destinations:
        for parcel in outbox.claim_parcels(site.database, name, now=clock(), lease_s=60):
            outbox.mark_dead(site.database, parcel, status=0xA700, error="<b>Out of Resources</b>")
    return sorted(letter.id for letter in system.letters(site.database))


def waiting(site: Site) -> dict[str, int]:
    return {each.destination: each.waiting for each in system.traffic(site.database, ["pacs", "archive"])}


@pytest.mark.parametrize(
    ("path", "again", "noted"),
    [
        ("", {"pacs": 2, "archive": 1}, ("send again: all", None)),
        ("/destination/pacs", {"pacs": 2, "archive": 0}, ("send again: destination", None)),
        ("/letter/1", {"pacs": 1, "archive": 0}, ("send again: one", 1)),
    ],
)
def test_dead_letters_are_sent_again_all_of_a_destination_or_one_and_it_is_written_down(
    site: Site, clock: Clock, come_in: Open, path: str, again: dict[str, int], noted: tuple[str, int | None]
) -> None:
    die(site, clock, "pacs", "archive")
    die(site, clock, "pacs", study="2")
    client = come_in()
    page = client.post(f"/system/again{path}", data={"csrf": csrf(client)})
    assert waiting(site) == again
    count = sum(again.values())
    assert ("One dead letter" if count == 1 else f"{count} dead letters") + " will be sent again." in page.text
    newest = access.trail(site.database)[0]
    assert (newest.user, newest.action, newest.study_id) == ("the-admin", *noted)


@pytest.mark.parametrize("destination", ["pacs", "old-pacs"])
def test_a_dead_letter_that_nobody_can_mend_is_given_up_and_it_is_written_down(
    site: Site, clock: Clock, come_in: Open, destination: str
) -> None:
    (letter,) = die(site, clock, destination)
    client = come_in()
    form = {"csrf": csrf(client)}
    assert "One dead letter was given up." in client.post(f"/system/give-up/letter/{letter}", data=form).text
    assert client.post(f"/system/give-up/letter/{letter}", data=form).status_code == 404
    assert outbox.dead_letters(site.database) == 0
    newest = access.trail(site.database)[0]
    assert (newest.user, newest.action, newest.study_id) == ("the-admin", "give up", 1)


def test_what_has_nowhere_to_go_stays_a_dead_letter(site: Site, clock: Clock, come_in: Open) -> None:
    """Else it would wait for ever, where nobody sees it."""
    (gone,) = die(site, clock, "old-pacs")
    die(site, clock, "pacs", study="2")
    client = come_in()
    form = {"csrf": csrf(client)}
    assert "One dead letter will be sent again." in client.post("/system/again", data=form).text
    assert client.post(f"/system/again/letter/{gone}", data=form).status_code == 404
    assert [letter.destination for letter in system.letters(site.database)] == ["old-pacs"]


def test_a_destination_that_is_told_is_shown_by_kind_and_host_and_without_what_may_be_secret(
    site: Site, come_in: Open
) -> None:
    ris = configuration.Hl7Destination(name="ris", host="10.1.2.9", port=2575)
    hook = configuration.WebhookDestination(name="pager", url="https://pager:8443/in/token?k=v", secret="env:PAGER")
    client = come_in(at=replace(site, config=replace(site.config, destinations=(PACS, ris, hook))))
    shown, page = client.get("/system.json").json()["destinations"], client.get("/system").text
    assert [(each["kind"], each["ae_title"], each["address"], each["commitment"]) for each in shown] == [
        ("dicom", "PACS", "10.1.2.3:104", False),
        ("hl7", None, "10.1.2.9:2575", False),
        ("webhook", None, "pager:8443", False),
    ]
    assert "hl7<small>10.1.2.9:2575" in page
    assert "token" not in page.replace("csrf", "")


def test_what_is_no_dead_letter_is_not_sent_again(site: Site, clock: Clock, come_in: Open) -> None:
    (letter,) = die(site, clock, "pacs")
    client = come_in()
    form = {"csrf": csrf(client)}
    assert client.post(f"/system/again/letter/{letter}", data=form).status_code == 200
    for path in (f"/letter/{letter}", "/letter/99", "/destination/nowhere", "/letter/x"):
        assert client.post(f"/system/again{path}", data=form).status_code in (404, 422)
    assert waiting(site) == {"pacs": 1, "archive": 0}


def test_a_dead_letter_is_shown_with_its_study_and_nothing_of_the_patient(
    site: Site, clock: Clock, come_in: Open
) -> None:
    (letter,) = die(site, clock, "pacs")
    client = come_in()
    page, told = client.get("/system").text, client.get("/system.json").json()
    assert 'href="/study/1"' in page
    assert "&lt;b&gt;Out of Resources" in page
    (shown,) = told["letters"]
    assert (shown["id"], shown["study_id"], shown["kind"], shown["attempts"]) == (letter, 1, "SR", 1)
    assert shown["tried_at"] == clock().isoformat()
    for text in (page, str(told)):
        assert not re.search("DOE|JANE|PID7|ACC9|1\\.1\\.1", text)


# ---------------------------------------------------------------- destinations, processes, queue, disk


def test_each_destination_tells_what_waits_what_went_and_what_stops_the_rest(
    site: Site, clock: Clock, come_in: Open
) -> None:
    for study in ("1", "2", "3"):
        end(site.database, clock, arrive(site.database, clock, study), found(Priority.HIGH), to=["pacs", "gone"])
    parcels = outbox.claim_parcels(site.database, "pacs", now=clock(), lease_s=60)
    sent_at = clock()
    outbox.mark_sent(site.database, parcels[0], status=0, now=sent_at)
    outbox.mark_failed(site.database, parcels[1], status=None, error="no answer", not_before=clock())
    told = {each["destination"]: each for each in come_in().get("/system.json").json()["destinations"]}
    pacs, archive, gone = told["pacs"], told["archive"], told["gone"]
    assert (pacs["waiting"], pacs["sent"], pacs["dead"], pacs["address"]) == (2, 1, 0, "10.1.2.3:104")
    assert (pacs["last_sent_at"], pacs["error"], pacs["said"]) == (sent_at.isoformat(), "no answer", "trying again")
    assert (archive["said"], archive["mood"]) == ("nothing was sent yet", "good")
    assert (gone["waiting"], gone["said"], gone["mood"]) == (
        3, "not in the configuration: nothing is sent there", "bad"
    )  # fmt: skip


def test_a_destination_is_asked_for_nothing_more_once_everything_is_there(site: Site, clock: Clock) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.HIGH), to=["gone"])
    for parcel in outbox.claim_parcels(site.database, "gone", now=clock(), lease_s=60):
        outbox.mark_sent(site.database, parcel, status=0, now=clock())
    assert [each.destination for each in system.traffic(site.database, ["pacs"])] == ["pacs"]


def test_a_process_that_is_missing_is_said_with_what_that_means(site: Site, clock: Clock, come_in: Open) -> None:
    for kind, port in (("listen", 11112), ("work", None), ("deliver", None)):
        report = board.RoleInfo(name=f"{kind}@host:1", kind=kind, pid=1, port=port, started_at=clock(), seen_at=clock())
        board.report_role(site.database, report)
    client = come_in()
    assert client.get("/system.json").json()["missing"] == []
    page = client.get("/system").text
    assert "port 11112, AE title TRIAGE" in page
    clock.advance(120)
    board.report_role(site.database, replace(report, seen_at=clock()))
    said = client.get("/system.json").json()["missing"]
    assert said == [
        "No listener runs: no image is received. Last seen 2 min ago.",
        "No worker runs: series wait and are not analysed. Last seen 2 min ago.",
    ]
    assert '<p class="bad">No listener runs' in client.get("/system").text


def test_the_queue_tells_how_long_the_oldest_waits_and_how_the_last_day_ended(
    site: Site, clock: Clock, come_in: Open
) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT))
    clock.advance(90_000)
    end(site.database, clock, arrive(site.database, clock, "2"), not_analyzed("INCOMPLETE"))
    end(site.database, clock, arrive(site.database, clock, "3"), failed())
    first = clock()
    arrive(site.database, clock, "4")
    clock.advance(60)
    arrive(site.database, clock, "5")
    told = come_in().get("/system.json").json()
    assert told["queue"]["RECEIVING"] == {"series": 2, "since": first.isoformat()}
    assert told["queue"]["READY"] == {"series": 0, "since": None}
    assert told["outcomes"] == {"ANALYZED": 0, "NOT_ANALYZED": 1, "FAILED": 1}
    assert told["bundle"]["name"] == "test"


@pytest.mark.parametrize(
    ("refuse_below_mb", "remove_below_mb", "said", "mood"),
    [
        (0, 0, "Enough: below 0 MB (node.min_free_mb) images are refused.", "good"),
        (0, 10**9, "The oldest delivered series are removed early now", "waiting"),
        (10**9, 10**9, "Images are refused now", "bad"),
    ],
)
def test_the_disk_tells_what_happens_below_which_mark(
    site: Site, come_in: Open, refuse_below_mb: int, remove_below_mb: int, said: str, mood: str
) -> None:
    node = configuration.Node(min_free_mb=refuse_below_mb)
    retention = configuration.Retention(free_mb=remove_below_mb)
    full = replace(site, config=replace(site.config, node=node, retention=retention))
    told = come_in(at=full).get("/system.json").json()["disk"]
    assert (told["said"][: len(said)], told["mood"]) == (said, mood)


# ---------------------------------------------------------------- refused callers

UNKNOWN = Refusal(code=CALLING_AE_NOT_RECOGNISED, reason="unknown", advice="add it")


def test_a_refused_caller_is_counted_with_the_line_that_would_admit_it(site: Site, clock: Clock, come_in: Open) -> None:
    counts, first_at = RefusalCounts(clock), clock()
    caller = Caller(calling_ae="<script>x()</scr", called_ae='A"\\\nB', address="10.9.8.7")
    refusal = rights_of(caller, site.config)
    assert isinstance(refusal, Refusal)
    for _ in range(3):
        counts.note(caller, refusal)
        counts.write(site.database)
        counts.write(site.database)
        clock.advance(10)
    (kept,) = refusals.recent(site.database)
    assert (kept.count, kept.first_at, kept.last_at) == (3, first_at, clock() - timedelta(seconds=10))
    assert kept.called_ae == "A???B"
    page = come_in().get("/system").text
    assert "<script>x()" not in page
    assert "[[source]] ae_title = &#34;&lt;script&gt;x()&lt;/scr&#34; hosts = [&#34;10.9.8.7&#34;]" in page
    assert come_in().get("/system.json").json()["refusals"][0]["calling_ae"] == "<script>x()</scr"


def test_who_tries_names_at_random_fills_neither_memory_nor_disk(site: Site, clock: Clock, come_in: Open) -> None:
    counts = RefusalCounts(clock)
    for number in range(DIFFERENT + 70):
        clock.advance(1)
        counts.note(Caller(calling_ae=f"GUESS{number}", called_ae="X", address="10.9.8.7"), UNKNOWN)
    counts.write(site.database)
    kept = refusals.recent(site.database)
    assert len(kept) == refusals.KEPT
    assert (kept[0].calling_ae, kept[0].count) == ("", 70)
    assert kept[1].calling_ae == f"GUESS{DIFFERENT - 1}"
    assert "(others)" in come_in().get("/system").text
    counts.note(Caller(calling_ae="GUESS0", called_ae="X", address="10.9.8.7"), UNKNOWN)
    counts.write(site.database)
    assert refusals.recent(site.database)[0].count == 1, "after a write there is room again"


# ---------------------------------------------------------------- figures


def judge(site: Site, clock: Clock, study: int, *, said: bool, present: bool, finding: str = "subdural") -> None:
    if worklist.row(site.database, study) is None:
        end(site.database, clock, arrive(site.database, clock, str(study)), found(Priority.STAT))
    row = worklist.row(site.database, study)
    assert row is not None
    assert row.revision_id is not None
    words = {"user": "ann", "comment": "", "now": clock()}
    opinions.say(
        site.database, study, row.revision_id, finding=finding, present=present, said=said, **words  # type: ignore[arg-type]
    )  # fmt: skip


def test_figures_are_of_the_last_opinions_with_their_counts(site: Site, clock: Clock, come_in: Open) -> None:
    judge(site, clock, 1, said=True, present=False)
    for study, (said, present) in enumerate([(True, True), (True, True), (True, False), (False, True)], start=1):
        judge(site, clock, study, said=said, present=present)
    end(site.database, clock, arrive(site.database, clock, "5"), found(Priority.ROUTINE))
    told = come_in("lead").get("/figures.json").json()
    (subdural,) = told["classes"]
    assert [subdural[name] for name in ("both", "only_node", "only_reader", "neither")] == [2, 1, 1, 0]
    assert (subdural["sensitivity"]["count"], subdural["sensitivity"]["of"]) == (2, 3)
    assert (subdural["ppv"]["count"], subdural["ppv"]["of"]) == (2, 3)
    assert (subdural["agreement"]["count"], subdural["agreement"]["of"]) == (2, 4)
    assert (told["studies"], told["analyzed"], told["bundles"]) == (4, 5, ["test 1"])
    page = re.sub(r"\s+", " ", come_in("lead").get("/figures").text)
    assert "opinion on 4 studies in the last 90 days. In that time 5 studies came in and were analysed." in page
    assert '<b>67 %</b> (21 to 94 %) <small>2 of 3: <span class="warning">few</span>' in page
    assert "That is no sample" in page


def test_figures_of_nothing_are_no_figures(site: Site, clock: Clock, come_in: Open) -> None:
    client = come_in("lead")
    assert "Nobody gave an opinion" in client.get("/figures").text
    judge(site, clock, 1, said=False, present=False)
    (told,) = client.get("/figures.json").json()["classes"]
    assert (told["sensitivity"]["value"], told["ppv"]["value"], told["agreement"]["value"]) == (None, None, 1.0)
    assert client.get("/figures").text.count("none to judge") == 2


def test_figures_are_of_the_asked_period(site: Site, clock: Clock, come_in: Open) -> None:
    for study, days in ((1, 300), (2, 60), (3, 0)):
        judge(site, clock, study, said=True, present=True)
        clock.advance(86400 * days)
    judge(site, clock, 4, said=True, present=True, finding="any")
    client = come_in("lead")
    seen = {days: client.get(f"/figures.json?days={days}").json()["studies"] for days in ("30", "90", "365", "all")}
    assert seen == {"30": 2, "90": 3, "365": 4, "all": 4}
    assert client.get("/figures.json").json()["studies"] == 3
    assert client.get("/figures?days=7").status_code == 422
    assert 'href="/figures?days=all"' in client.get("/figures").text


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 40), (3, 7), (38, 40), (20, 20)])
def test_intervals_are_those_of_wilson(count: int, of: int) -> None:
    told, expected = share(count, of), binomtest(count, of).proportion_ci(method="wilson")
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert told.few == (of < 20)
