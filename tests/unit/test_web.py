"""The pages without a browser: who comes in, what every answer carries, what rows say, what a hostile name can do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.arrivals import Clock
from tests.studies import arrive, end, failed, found, not_analyzed
from triage_node import config as configuration
from triage_node.domain import COLORS, Patient, Priority, RequestedProcedure
from triage_node.spool import Spool
from triage_node.store import access, opinions, requested, worklist
from triage_node.store.database import open_database
from triage_node.web import Site, create_app
from triage_node.web.access import Throttle, hash_password

PASSWORD = "correct horse battery"
HOSTILE = '<script>alert("x")</script>' + "\u05d0" * 40 + "W" * 10_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    database = open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    yield Site(config=configuration.Config(), database=database, spool=Spool(tmp_path), clock=clock)
    database.close()


@pytest.fixture(scope="module")
def users() -> tuple[configuration.User, ...]:
    return tuple(
        configuration.User(name=name, role=role, password=hash_password(PASSWORD))
        for name, role in (("ann", "reader"), ("bea", "lead"))
    )


Open = Callable[[], TestClient]


@pytest.fixture
def come_in(site: Site) -> Open:
    """A browser of this machine, let in by a link."""

    def let_in() -> TestClient:
        client = TestClient(create_app(site), base_url="http://127.0.0.1:8080")
        token = access.make_link(site.database, now=site.clock())
        assert client.get(f"/enter?key={token}").status_code == 200
        return client

    return let_in


def csrf(client: TestClient, path: str = "/") -> str:
    held = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert held
    return held[1]


def trail(site: Site) -> list[tuple[str, str, int | None]]:
    return [(trace.user, trace.action, trace.study_id) for trace in reversed(access.trail(site.database))]


# ---------------------------------------------------------------- who comes in


PATHS = ["/", "/worklist.json", "/worklist/rows", "/events", "/study/1", "/status.json", "/figures", "/figures.json"]


@pytest.mark.parametrize("path", [*PATHS, "/system", "/system.json", "/system/parts", "/try", f"/try/{'0' * 32}"])
def test_nobody_sees_anything_without_a_session(site: Site, path: str) -> None:
    client = TestClient(create_app(site), follow_redirects=False)
    answer = client.get(path)
    assert answer.status_code in (303, 401)
    assert answer.headers.get("location", "/login") == "/login"
    assert "Worklist" not in answer.text


FORMS = ["/login", "/logout", "/search", "/system/again", "/study/1/opinion", f"/try/{'0' * 32}/remove"]


@pytest.mark.parametrize("path", FORMS)
def test_nobody_sends_more_than_a_form_holds(site: Site, path: str) -> None:
    """Forms are parsed before it is known who sends them; nothing of this length is kept on the disk."""
    client = TestClient(create_app(site), follow_redirects=False)
    answer = client.post(path, files={"a": ("a", b"x" * 200_000)})
    assert answer.status_code == 413


def test_health_needs_no_session_and_names_nobody(site: Site) -> None:
    answer = TestClient(create_app(site)).get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"roles": []})


def test_a_link_lets_one_browser_in_once_with_a_cookie_that_scripts_and_other_sites_do_not_get(site: Site) -> None:
    client = TestClient(create_app(site), base_url="http://127.0.0.1:8080", follow_redirects=False)
    token = access.make_link(site.database, now=site.clock())
    answer = client.get(f"/enter?key={token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    again = TestClient(create_app(site)).get(f"/enter?key={token}")
    assert again.status_code == 403
    assert "triage-node link" in again.text


def test_with_users_a_password_lets_in_and_a_link_does_not(site: Site, users: tuple[configuration.User, ...]) -> None:
    with_users = replace(site, config=replace(site.config, users=users, web=configuration.Web(https_proxy=True)))
    client = TestClient(create_app(with_users), base_url="https://node.example", follow_redirects=False)
    token = access.make_link(site.database, now=site.clock())
    assert client.get(f"/enter?key={token}").status_code == 403
    assert client.post("/login", data={"name": "ann", "password": "wrong"}).status_code == 403
    assert client.post("/login", data={"name": "nobody", "password": PASSWORD}).status_code == 403
    answer = client.post("/login", data={"name": "ann", "password": PASSWORD})
    assert answer.status_code == 303
    assert "Secure" in answer.headers["set-cookie"].split("; ")
    assert client.get("/").status_code == 200
    assert client.post("/logout", data={"csrf": csrf(client)}).status_code == 303
    assert client.get("/").status_code == 303
    assert [action for _, action, _ in trail(site)] == ["login", "worklist", "worklist", "logout"]


def test_who_guesses_waits_longer_and_longer_and_others_do_not(
    site: Site, clock: Clock, users: tuple[configuration.User, ...]
) -> None:
    app = create_app(replace(site, config=replace(site.config, users=users)))
    client = TestClient(app, follow_redirects=False)
    codes = [client.post("/login", data={"name": "ann", "password": "x"}).status_code for _ in range(4)]
    assert codes == [403, 403, 403, 429]
    assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 429, "not even then"
    assert client.post("/login", data={"name": "bea", "password": PASSWORD}).status_code == 303
    clock.advance(1.5)
    assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 303


def test_waiting_doubles_to_a_quarter_of_an_hour_and_the_list_of_names_stays_short(clock: Clock) -> None:
    throttle, who = Throttle(remembered=5), ("ann", "10.0.0.1")
    waits = []
    for _ in range(16):
        throttle.failed(who, clock())
        waits.append(throttle.wait_s(who, clock()))
    assert waits[:6] == [0, 0, 1, 2, 4, 8]
    assert waits[-1] == 900
    for number in range(50):
        throttle.failed((f"u{number}", "10.0.0.1"), clock())
    assert len(throttle._failures) == 5


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/study/1/acknowledge", {}),
        ("/study/1/read", {}),
        ("/study/1/opinion", {"finding": "any", "present": "true"}),
        ("/search", {"text": "doe"}),
        ("/logout", {}),
    ],
)
def test_nothing_changes_by_a_form_of_another_site(
    site: Site, clock: Clock, come_in: Open, path: str, data: dict[str, str]
) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT))
    client = come_in()
    before = trail(site)
    for forged in ("", "guessed"):
        assert client.post(path, data=data | {"csrf": forged}, follow_redirects=False).status_code == 403
    assert trail(site) == before
    assert opinions.of_study(site.database, 1) == []
    row = worklist.row(site.database, 1)
    assert row is not None
    assert (row.acknowledged_by, row.read_by) == (None, None)


@pytest.mark.parametrize("path", ["/", "/login", "/worklist.json", "/static/style.css", "/nowhere"])
def test_every_answer_forbids_what_no_page_needs(come_in: Open, path: str) -> None:
    headers = come_in().get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "http" not in headers["content-security-policy"], "no outside host"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_pages_load_nothing_from_elsewhere() -> None:
    folder = Path(configuration.__file__).parent / "web"
    ours = [path for path in folder.glob("static/*.js") if not path.name.startswith("niivue-")]
    for path in [*folder.glob("templates/*.html"), *ours]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert not re.search(r"\son\w+=|style=", text), f"{path}: inline code or style"


# ---------------------------------------------------------------- what rows say


def test_rows_say_in_plain_words_what_was_found_or_why_nothing_is_known(
    site: Site, clock: Clock, come_in: Open
) -> None:
    for study, report in (
        ("1", found(Priority.STAT, volume_ml=23.2)),
        ("2", found(Priority.HIGH, volume_ml=0.44)),
        ("3", found(Priority.ROUTINE)),
        ("4", not_analyzed("INCOMPLETE")),
        ("5", failed()),
    ):
        end(site.database, clock, arrive(site.database, clock, study), report)
    arrive(site.database, clock, "6", images=12)
    clock.advance(3700)
    client = come_in()
    told = client.get("/worklist.json").json()
    assert told["disclaimer"] == "Research software. Not for primary diagnosis."
    assert [(each["flag"], each["finding"], each["late"]) for each in told["studies"]] == [
        ("STAT", "Subdural, 23 mL, left", True),
        ("HIGH", "Subdural, 0.4 mL, left", True),
        ("NOT_ANALYZED", "Not analysed: slices are missing", True),
        ("FAILED", "The analysis failed (ValueError)", True),
        ("OPEN", "Receiving images (12 so far)", True),
        ("ROUTINE", "No hemorrhage detected", False),
    ]
    assert told["studies"][0]["ago"] == "1 h 01 min"
    assert told["studies"][0]["confidence"] == "0.97"
    for each in told["studies"]:
        assert escape(each["finding"]) in client.get(f"/study/{each['id']}").text, "each has its page"


def test_what_is_suspected_without_a_subtype_says_so_whatever_its_priority(
    site: Site, clock: Clock, come_in: Open
) -> None:
    report = found(Priority.ROUTINE)
    unsure = {**report.result, "probabilities": {**report.result["probabilities"], "any": 0.6}}
    end(site.database, clock, arrive(site.database, clock, "1"), replace(report, result=unsure))
    (told,) = come_in().get("/worklist.json").json()["studies"]
    assert told["finding"].startswith("Hemorrhage suspected")


def test_a_row_that_has_a_result_says_that_new_images_came(site: Site, clock: Clock, come_in: Open) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT, volume_ml=23.2))
    arrive(site.database, clock, "1", series="2", images=4)
    (told,) = come_in().get("/worklist.json").json()["studies"]
    assert told["finding"] == "Subdural, 23 mL, left. New images came: receiving images (4 so far)"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DOE^JANE^ANN^Dr", "DOE, JANE ANN"),
        ("Yamada^Tarou=山田^太郎", "Yamada, Tarou · 山田, 太郎"),
        ("MADONNA", "MADONNA"),
        ("", "(no name)"),
        ("^^", "(no name)"),
    ],
)
def test_names_are_shown_as_people_write_them(site: Site, clock: Clock, come_in: Open, name: str, shown: str) -> None:
    patient = Patient(patient_name=name, birth_date="19500117", patient_id="7", sex="F")
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT), patient=patient)
    (told,) = come_in().get("/worklist.json").json()["studies"]
    assert (told["patient"], told["patient_facts"]) == (shown, "7 · born 1950-01-17 · F")


def test_the_list_says_what_was_ordered_and_where_the_patient_is(site: Site, clock: Clock, come_in: Open) -> None:
    for study in ("1.2.1", "1.2.2"):
        arrive(site.database, clock, study)
    order = RequestedProcedure(
        study_uid="1.2.1",
        patient_id="7",
        accession_number="ACC",
        requested_priority="STAT",
        patient_location=HOSTILE[:64],
        referring_physician="Who^Doctor",
    )
    for answer, problem in ((order, None), (None, "no such order")):
        due = requested.next_due(site.database, now=clock(), since=clock())
        assert due is not None
        requested.note(site.database, due, now=clock(), answer=answer, problem=problem)
    first, second = come_in().get("/worklist.json").json()["studies"]
    assert first["order"] == {
        "priority": "STAT",
        "location": HOSTILE[:64],
        "referring_physician": "Who, Doctor",
        "accession_number": "ACC",
    }
    assert (first["accession_number"], first["flag"]) == ("ACC", "OPEN")
    assert (second["order"], second["no_order"]) == ({}, "No such order")
    listed, alone, without = (come_in().get(path).text for path in ("/", "/study/1", "/study/2"))
    assert "ordered <bdi>STAT</bdi>" in listed
    assert "&lt;script&gt;alert" in listed
    assert "referring physician: <bdi>Who, Doctor</bdi>" in alone
    assert "<script>alert" not in listed + alone
    assert "No such order" in without
    end(site.database, clock, "1.2.1.1", found(Priority.STAT), patient=Patient(patient_id="8", accession_number="ACC"))
    shown = [each for each in come_in().get("/worklist.json").json()["studies"] if each["id"] == 1]
    assert shown[0]["order"] == {}


def test_a_hostile_name_is_only_text_and_stands_in_no_url(site: Site, clock: Clock, come_in: Open) -> None:
    patient = Patient(patient_name=HOSTILE, patient_id="'\"><img src=x>", description="{{ 7 * 7 }}")
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT), patient=patient)
    client = come_in()
    for path in ("/", "/worklist/rows", "/study/1"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "<img src=x>" not in page
        assert "{{ 7 * 7 }}" in page
        assert not [url for url in re.findall(r'(?:href|src|action)="([^"]*)"', page) if "script" in url.lower()[8:]]


def test_a_searched_name_stands_in_no_url(site: Site, clock: Clock, come_in: Open) -> None:
    for number, name in enumerate(("DOE^ANN", "ROE^BEA"), start=1):
        patient = Patient(patient_name=name)
        end(site.database, clock, arrive(site.database, clock, str(number)), found(Priority.STAT), patient=patient)
    client = come_in()
    answer = client.post("/search", data={"text": "doe", "csrf": csrf(client)})
    assert [str(each.url) for each in answer.history] == ["http://127.0.0.1:8080/search"]
    assert re.fullmatch(r"http://127.0.0.1:8080/\?search=[0-9a-f]{16}", str(answer.url))
    assert "DOE, ANN" in answer.text
    assert "ROE, BEA" not in answer.text
    assert client.get("/?search=0123456789abcdef").status_code == 404, "a forgotten search must not show everything"


def test_pages_of_many_rows(site: Site, clock: Clock, come_in: Open) -> None:
    for number in range(worklist.PAGE + 1):
        arrive(site.database, clock, f"1.{number}")
    client = come_in()
    assert 'href="/?page=2"' in client.get("/").text
    assert client.get("/?page=2").text.count('<tr id="study-') == 1
    assert client.get("/?page=0").status_code == 422
    assert client.get("/?show=DROP").status_code == 422


# ---------------------------------------------------------------- one study


def test_a_study_tells_findings_events_and_who_looked(site: Site, clock: Clock, come_in: Open) -> None:
    series_uid = arrive(site.database, clock, "1")
    end(site.database, clock, series_uid, found(Priority.STAT, volume_ml=23.2), to=["pacs"])
    client = come_in()
    assert client.get("/study/1").status_code == 200
    told = client.get("/study/1.json").json()
    assert [each["name"] for each in told["findings"] if each["suspected"]] == ["any", "subdural"]
    assert told["result"]["volumes_ml"]["subdural"] == 23.2
    assert any("STAT" in each["text"] for each in told["events"])
    assert [(each["user"], each["action"]) for each in told["trail"]] == [("this-machine", "study")] * 2
    assert client.get("/study/2").status_code == 404


def test_readers_acknowledge_read_and_disagree(site: Site, clock: Clock, come_in: Open) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT, volume_ml=23.2))
    client = come_in()
    token = csrf(client, "/study/1")
    page = client.post("/study/1/acknowledge", data={"csrf": token}).text
    assert "seen by this-machine" in page
    said = {"csrf": token, "finding": "subdural", "present": "false", "comment": "<b>motion</b>"}
    page = client.post("/study/1/opinion", data=said).text
    assert "subdural not present (disagrees)" in re.sub(r"\s+", " ", page)
    assert "<b>motion" not in page
    assert client.post("/study/1/opinion", data=said | {"finding": "toe"}).status_code == 400
    client.post("/study/1/read", data={"csrf": token})
    assert client.get("/worklist.json").json()["total"] == 0
    assert client.get("/worklist.json?read=true").json()["studies"][0]["read_by"] == "this-machine"
    assert [action for _, action, study in trail(site) if study][:3] == ["study", "acknowledge", "study"]


def test_files_of_a_study_are_those_of_its_shown_revision_and_no_others(
    site: Site, clock: Clock, come_in: Open
) -> None:
    series_uid = arrive(site.database, clock, "1")
    end(site.database, clock, series_uid, found(Priority.STAT))
    site.spool.keep_view(series_uid, 1, {"thumbnail.png": b"PNG", "about.json": b"{}"})
    client = come_in()
    assert client.get("/study/1/file/thumbnail.png").content == b"PNG"
    assert client.get("/worklist.json").json()["studies"][0]["has_picture"]
    for name in ("about.json", "picture.png", "..%2f..%2fdb.sqlite3", "%2e%2e"):
        assert client.get(f"/study/1/file/{name}").status_code == 404
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT))
    assert client.get("/study/1/file/thumbnail.png").status_code == 404, "that was the picture of an older revision"


def test_who_opened_pictures_and_slices_is_written_down(site: Site, clock: Clock, come_in: Open) -> None:
    series_uid = arrive(site.database, clock, "1")
    end(site.database, clock, series_uid, found(Priority.STAT))
    site.spool.keep_view(series_uid, 1, dict.fromkeys(("thumbnail.png", "picture.png", "ct.nii.gz"), b"data"))
    client = come_in()
    for name in ("thumbnail.png", "picture.png", "ct.nii.gz"):
        client.get(f"/study/1/file/{name}")
    assert [action for _, action, study in trail(site) if study] == ["picture", "ct"]


def test_a_flag_that_nobody_acknowledges_is_in_the_title(site: Site, clock: Clock, come_in: Open) -> None:
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT))
    client = come_in()
    assert "<title>(1) Worklist</title>" in client.get("/").text
    clock.advance(700)
    opinions.escalate(site.database, before=clock(), now=clock())
    page = client.get("/").text
    assert "<title>! (1) Worklist</title>" in page
    assert "not acknowledged" in page


def test_the_colours_of_the_pages_are_those_of_every_result() -> None:
    style = (Path(configuration.__file__).parent / "web" / "static" / "style.css").read_text()
    told = {int(label): rgb for label, rgb in re.findall(r"\.c(\d) \{ background: rgb\(([\d ]+)\)", style)}
    assert told == {index: " ".join(map(str, rgb)) for index, rgb in enumerate(COLORS.values(), start=1)}


def test_an_error_of_a_page_says_nothing_of_the_patient(
    site: Site, clock: Clock, come_in: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    patient = Patient(patient_name="DOE^JANE")
    end(site.database, clock, arrive(site.database, clock, "1"), found(Priority.STAT), patient=patient)
    client = come_in()
    with site.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE revision SET result = 'no JSON of DOE^JANE'")
    sober = TestClient(client.app, base_url=client.base_url, raise_server_exceptions=False)
    sober.cookies = client.cookies
    answers = [sober.get(path) for path in ("/", "/worklist.json", "/study/1")]
    assert [answer.status_code for answer in answers] == [500, 500, 500]
    assert "the log of the node says more" in answers[0].text
    told = capfd.readouterr().err
    assert "page failed" in told
    assert not [text for text in (told, *(answer.text for answer in answers)) if "DOE" in text]
