"""Trials in the store and on their pages, without a browser and without a model."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from tests.arrivals import Clock
from tests.together import together
from tests.uploads import CONTENT_TYPE, ct_images, field, file, form, zipped
from triage_node import config as configuration
from triage_node import log
from triage_node.admit import no_step
from triage_node.domain import TrialKind, TrialState
from triage_node.errors import LeaseLost
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.retention import remove_old
from triage_node.spool import Spool
from triage_node.store import access, trials
from triage_node.store.database import Database, open_database
from triage_node.store.schema import instance, metadata, trial
from triage_node.web import Site, create_app
from triage_node.web.trying import DRAINED_BYTES

ID = "0123456789abcdef" * 2
WEB = configuration.Web(try_mb=1, try_files=20)
RESULT: dict[str, Any] = {
    "outcome": "ANALYZED",
    "reason": None,
    "detail": "subdural hemorrhage suspected",
    "priority": "STAT",
    "probabilities": {"any": 0.9, "subdural": 0.9},
    "volumes_ml": {"any": 3.0, "subdural": 3.0},
    "findings": ["subdural"],
    "slices": [],
    "warnings": [],
    "bundle": None,
}
HOSTILE = "<script>alert('x')</script>.dcm"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    database = open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    config = configuration.Config(web=WEB, node=configuration.Node(min_free_mb=0))
    yield Site(config=config, database=database, spool=Spool(tmp_path / "spool"), clock=clock)
    database.close()


def add(database: Database, clock: Clock, trial_id: str, *, user: str = "ann") -> bool:
    return trials.add(
        database,
        trial_id,
        user=user,
        kind=TrialKind.SERIES,
        files=32,
        passed_over=1,
        size_bytes=17_000_000,
        now=clock(),
    )


def claim(database: Database, clock: Clock) -> trials.Claim:
    held = trials.claim(database, now=clock(), lease_s=60)
    assert held is not None
    return held


def state(database: Database, trial_id: str) -> TrialState:
    found = trials.get(database, trial_id)
    assert found is not None
    return found.state


def come_in(site: Site, user: str = "ann", role: str = "reader") -> TestClient:
    client = TestClient(create_app(site), base_url="http://127.0.0.1:8080", follow_redirects=False)
    token = access.begin(site.database, user=user, role=role, now=site.clock(), idle=timedelta(hours=1))
    client.cookies.set("triage-node-8080", token)
    return client


def csrf(client: TestClient) -> str:
    held = re.search(r'name="csrf" value="([^"]+)"', client.get("/try").text)
    assert held
    return held[1]


def give(client: TestClient, *files: bytes, to: str = "/try", token: str | None = None) -> Any:
    data = form(field("csrf", csrf(client) if token is None else token), *(file(each, HOSTILE) for each in files))
    return client.post(to, content=data, headers={"content-type": CONTENT_TYPE})


def rows(site: Site) -> dict[str, int]:
    """How many rows the tables have."""
    with site.database.reading() as connection:
        counted = {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }
    return {name: count for name, count in counted.items() if count}


def left(site: Site) -> list[str]:
    return [path.name for path in (site.spool.root / "trials").iterdir()]


# ---------------------------------------------------------------- the store


def test_the_oldest_trial_is_claimed_once(database: Database, clock: Clock) -> None:
    add(database, clock, "a", user="ann")
    clock.advance(1)
    add(database, clock, "b", user="bea")
    first, second = claim(database, clock), claim(database, clock)
    assert [first.id, second.id] == ["a", "b"]
    assert not trials.has_claimable(database, now=clock())
    assert trials.claim(database, now=clock(), lease_s=60) is None


def test_a_trial_whose_worker_died_goes_to_another_and_the_first_cannot_end_it(
    database: Database, clock: Clock
) -> None:
    add(database, clock, "a")
    first = claim(database, clock)
    clock.advance(50)
    trials.heartbeat(database, first, now=clock(), lease_s=60)
    clock.advance(50)
    assert not trials.has_claimable(database, now=clock()), "it was alive"
    clock.advance(20)
    second = claim(database, clock)
    assert second.attempts == 2
    for late in (
        lambda: trials.finish(database, first, [{}], now=clock()),
        lambda: trials.fail(database, first, "said", now=clock()),
        lambda: trials.note_stage(database, first, "said"),
        lambda: trials.heartbeat(database, first, now=clock(), lease_s=60),
    ):
        with pytest.raises(LeaseLost):
            late()
    trials.finish(database, second, [{"outcome": "ANALYZED"}], now=clock())
    assert state(database, "a") is TrialState.DONE
    assert trials.result(database, "a") == [{"outcome": "ANALYZED"}]


def test_a_removed_trial_is_lost_to_its_worker(site: Site, clock: Clock) -> None:
    database = site.database
    add(database, clock, "a")
    held = claim(database, clock)
    trials.remove(database, "a")
    with pytest.raises(LeaseLost):
        trials.finish(database, held, [], now=clock())
    assert trials.get(database, "a") is None
    with pytest.raises(OSError):
        site.spool.keep_trial_view("a", 1, {"picture.png": b"PNG"})


def test_nobody_has_more_than_three_that_have_not_ended(database: Database, clock: Clock) -> None:
    assert [add(database, clock, name) for name in "abcd"] == [True, True, True, False]
    assert not trials.may_add(database, "ann")
    assert add(database, clock, "e", user="bea")
    held = claim(database, clock)
    trials.fail(database, held, "said", now=clock())
    assert add(database, clock, "d")


def test_of_many_given_at_once_three_are_taken(database: Database, clock: Clock) -> None:
    given = together(*[partial(add, database, clock, name) for name in "abcdef"])
    assert sum(given) == len(trials.of_user(database, "ann")) == trials.WAITING_AT_MOST


def test_what_was_tried_goes_a_day_after_its_end_and_what_has_no_row_after_an_hour(site: Site, clock: Clock) -> None:
    for name in ("old", "new", "lost", "coming"):
        (site.spool.trial_folder(name) / "images").mkdir(parents=True)
    for name in ("old", "new"):
        add(site.database, clock, name)
        trials.finish(site.database, claim(site.database, clock), [], now=clock())
        clock.advance(23 * 3600 if name == "old" else 0)
    for name, age_s in (("lost", 3700), ("coming", 60), ("new", 10 * 3600)):
        for path in (site.spool.trial_folder(name), site.spool.trial_folder(name) / "images"):
            os.utime(path, (clock().timestamp() + 3601 - age_s,) * 2)
    clock.advance(3601)
    keep_house(site)
    assert sorted(left(site)) == ["coming", "new"]
    assert trials.ids(site.database) == {"new"}


def test_what_no_worker_took_within_a_day_says_so_for_another_day(site: Site, clock: Clock) -> None:
    for name in ("running", "waiting"):
        (site.spool.trial_folder(name) / "images").mkdir(parents=True)
        add(site.database, clock, name)
        clock.advance(1)
    held = claim(site.database, clock)
    clock.advance(24 * 3600)
    trials.heartbeat(site.database, held, now=clock(), lease_s=60)
    keep_house(site)
    assert state(site.database, "running") is TrialState.RUNNING
    waited = trials.get(site.database, "waiting")
    assert waited is not None
    assert (waited.state, waited.detail) == (TrialState.FAILED, "No worker took it. Is one running?")
    assert not (site.spool.trial_folder("waiting") / "images").exists()
    clock.advance(24 * 3600 + 1)
    trials.heartbeat(site.database, held, now=clock(), lease_s=60)
    keep_house(site)
    assert trials.ids(site.database) == {"running"}


def keep_house(site: Site) -> None:
    remove_old(Parts(config=site.config, database=site.database, spool=site.spool, clock=site.clock, step=no_step))


# ---------------------------------------------------------------- giving


def test_what_is_given_waits_for_a_worker_and_enters_no_other_table(site: Site, tmp_path: Path) -> None:
    client = come_in(site)
    images = ct_images(tmp_path / "ct", 3)
    answer = give(client, zipped({"a": images[0], "b": images[1]}), images[2], b"text")
    assert answer.status_code == 303
    page = client.get(answer.headers["location"])
    assert "waiting for a worker" in page.text
    assert 'http-equiv="refresh"' in page.text, "without scripts, too"
    told = client.get(f"{answer.headers['location']}.json").json()
    assert (told["state"], told["what"]) == ("WAITING", "3 CT images, less than 1 MB (1 file was no CT image)")
    assert answer.headers["location"] in client.get("/try").text
    assert HOSTILE not in str(list(site.spool.root.rglob("*")))
    assert set(rows(site)) == {"session", "audit", "trial"}
    tried = log.ref(answer.headers["location"].rpartition("/")[2])
    trail = [trace.action for trace in reversed(access.trail(site.database))]
    assert trail == [f"try given {tried}", f"try {tried}"]


def test_a_script_gets_the_address_and_words_as_json(site: Site, tmp_path: Path) -> None:
    client = come_in(site)
    answer = give(client, *ct_images(tmp_path / "ct", 1), to="/try.json")
    assert answer.status_code == 201
    assert re.fullmatch(r"/try/[0-9a-f]{32}", answer.json()["path"])
    refused = give(client, b"text", to="/try.json")
    assert (refused.status_code, refused.json()) == (415, {"error": "The file is no DICOM CT image, PNG or JPEG."})
    assert [each["id"] for each in client.get("/try.json").json()["trials"]] == [answer.json()["id"]]


@pytest.mark.parametrize("path", ["/try", "/try.json"])
@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ([], 415, "No file was chosen"),
        ([b"text"], 415, "The file is no DICOM CT image"),
        ([bytes(2_000_000)], 413, "more than 1 MB"),
        ([b"x"] * 21, 413, "more than 20 files"),
    ],
)
def test_what_is_refused_is_refused_in_words_and_nothing_of_it_stays(
    site: Site, path: str, files: list[bytes], code: int, said: str
) -> None:
    answer = give(come_in(site), *files, to=path)
    assert answer.status_code == code
    assert said in answer.text
    assert left(site) == []
    assert "trial" not in rows(site)


def test_a_forged_form_and_a_stranger_write_nothing(site: Site, tmp_path: Path) -> None:
    (image,) = ct_images(tmp_path / "ct", 1)
    client = come_in(site)
    for forged in ("", "guessed"):
        assert give(client, image, token=forged).status_code == 403
    token = csrf(client)
    client.cookies.clear()
    assert give(client, image, token=token).status_code == 401
    assert left(site) == []
    assert "trial" not in rows(site)


def test_a_fourth_trial_waits_for_its_turn_to_be_given(site: Site, tmp_path: Path) -> None:
    client, images = come_in(site), ct_images(tmp_path / "ct", 4)
    codes = [give(client, image).status_code for image in images]
    assert codes == [303, 303, 303, 429]
    assert len(left(site)) == 3


@pytest.mark.parametrize("section", ["node", "retention"])
def test_a_full_disk_takes_nothing(site: Site, tmp_path: Path, section: str) -> None:
    """Nor one so full that studies are removed early, to make room."""
    free = {"node": configuration.Node(min_free_mb=10**9), "retention": configuration.Retention(free_mb=10**9)}
    full = replace(site, config=replace(site.config, **{section: free[section]}))  # type: ignore[arg-type]
    answer = give(come_in(full), *ct_images(tmp_path / "ct", 1))
    assert answer.status_code == 507
    assert left(site) == []


def test_of_a_user_one_upload_at_a_time_is_taken(site: Site, tmp_path: Path) -> None:
    client = come_in(site)
    uploading = client.app.state.uploading  # type: ignore[attr-defined]
    uploading.add("ann")
    images = ct_images(tmp_path / "ct", 1)
    assert give(client, *images).status_code == 429
    uploading.clear()
    assert give(client, *images).status_code == 303
    assert uploading == set()


def test_what_is_unknown_is_shown_before_what_was_found_negative(site: Site, clock: Clock) -> None:
    results = [
        {**RESULT, "outcome": outcome, "priority": priority, "detail": detail, "findings": [], "probabilities": {}}
        for outcome, priority, detail in (
            ("NOT_ANALYZED", "NONE", "a localizer"), ("ANALYZED", "ROUTINE", "nothing"), ("FAILED", "NONE", "it broke")
        )
    ]  # fmt: skip
    add(site.database, clock, ID)
    trials.finish(site.database, claim(site.database, clock), results, now=clock())
    header = come_in(site).get(f"/try/{ID}").text.partition('<header class="study">')[2].partition("</header>")[0]
    assert 'class="flag FAILED"' in header


def test_no_more_is_read_of_an_endless_form_than_it_may_have(site: Site) -> None:
    """And of a stranger's nothing: driven as a server drives it, since a test client sends all at once."""
    client = come_in(site)
    start = field("csrf", csrf(client)) + file(b"")[:-2]
    cookie = f"triage-node-8080={client.cookies['triage-node-8080']}"
    code, read = asyncio.run(_endless(site, start, cookie))
    assert code == 413
    assert read < DRAINED_BYTES + 2_000_000
    assert asyncio.run(_endless(site, start, "triage-node-8080=guessed")) == (401, 0)
    assert left(site) == []


async def _endless(site: Site, start: bytes, cookie: str) -> tuple[int, int]:
    """Status, and how many bytes of the body were asked for."""
    read, codes = [0], []

    async def chunks() -> AsyncIterator[bytes]:
        yield start
        for _ in range(1000):
            yield bytes(100_000)

    body = chunks()

    async def receive() -> dict[str, Any]:
        chunk = await anext(body)
        read[0] += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    headers = {"content-type": CONTENT_TYPE, "cookie": cookie, "host": "127.0.0.1:8080"}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/try",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await create_app(site)(scope, receive, send)
    return codes[0], read[0]


# ---------------------------------------------------------------- looking


def test_only_who_gave_it_and_admins_see_a_trial_or_remove_it(site: Site, clock: Clock) -> None:
    add(site.database, clock, ID, user="ann")
    trials.finish(site.database, claim(site.database, clock), [RESULT], now=clock())
    site.spool.trial_folder(ID).mkdir()
    site.spool.keep_trial_view(ID, 1, {"picture.png": b"PNG", "about.json": b'{"slices": 1, "per": 1, "shown": 0}'})
    bea, admin = come_in(site, "bea", "lead"), come_in(site, "root", "admin")
    for path in (f"/try/{ID}", f"/try/{ID}.json", f"/try/{ID}/file/1/picture.png"):
        assert bea.get(path).status_code == 404
        assert admin.get(path).status_code == 200
    assert bea.get("/try.json").json()["trials"] == []
    assert bea.post(f"/try/{ID}/remove", data={"csrf": csrf(bea)}).status_code == 404
    ann = come_in(site)
    assert ann.post(f"/try/{ID}/remove", data={"csrf": "guessed"}).status_code == 403
    assert ann.get(f"/try/{ID}/file/1/picture.png").content == b"PNG"
    for path in ("1/about.json", "1/..%2f..%2f..%2fdb.sqlite3", "2/picture.png", "../1/picture.png"):
        assert ann.get(f"/try/{ID}/file/{path}").status_code == 404
    assert ann.post(f"/try/{ID}/remove", data={"csrf": csrf(ann)}).headers["location"] == "/try"
    assert ann.get(f"/try/{ID}").status_code == 404
    assert left(site) == []
    looked = {(trace.user, trace.action) for trace in access.trail(site.database)}
    tried = log.ref(ID)
    assert looked == {("root", f"try {tried}"), ("ann", f"try {tried}"), ("ann", f"try removed {tried}")}


@pytest.mark.parametrize("wrong", ["..%2f..%2fdb", "x" * 32, ID[:-1], ID + "0"])
def test_an_id_that_is_none_of_ours_leads_nowhere(site: Site, wrong: str) -> None:
    assert come_in(site).get(f"/try/{wrong}").status_code in (404, 422)


def test_a_trial_says_who_is_before_it_and_how_far_it_is(site: Site, clock: Clock) -> None:
    for trial_id, user in (("a" * 32, "bea"), (ID, "ann")):
        add(site.database, clock, trial_id, user=user)
        clock.advance(1)
    client = come_in(site)

    def said() -> str:
        return str(client.get(f"/try/{ID}.json").json()["said"])

    assert said() == "waiting behind 1 other"
    trials.finish(site.database, claim(site.database, clock), [], now=clock())
    held = claim(site.database, clock)
    trials.note_stage(site.database, held, "series 2 of 3")
    clock.advance(9)
    assert said() == "series 2 of 3"
    assert 'for <span id="elapsed">9 s</span>' in client.get(f"/try/{ID}").text
    trials.fail(site.database, held, "The analysis failed: <b>no</b> model.", now=clock())
    assert "The analysis failed: &lt;b&gt;no&lt;/b&gt; model." in client.get(f"/try/{ID}").text


def test_the_trail_has_a_line_for_what_was_seen_and_none_for_every_second_of_waiting(site: Site, clock: Clock) -> None:
    add(site.database, clock, ID)
    client = come_in(site)
    for _ in range(3):
        client.get(f"/try/{ID}.json")
    assert access.trail(site.database) == []
    trials.finish(site.database, claim(site.database, clock), [], now=clock())
    client.get(f"/try/{ID}.json")
    assert [trace.action for trace in access.trail(site.database)] == [f"try {log.ref(ID)}"]


def test_no_table_points_to_a_trial_and_a_trial_points_to_none() -> None:
    assert not trial.foreign_keys
    assert [key for table in metadata.tables.values() for key in table.foreign_keys if key.column.table is trial] == []
    assert instance.foreign_keys == set()
