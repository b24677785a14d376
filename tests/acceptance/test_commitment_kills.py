"""kill -9 while storage commitment is asked for or answered: every result ends as CONFIRMED, none exists twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, require_all_is_well
from triage_node.testing import Commitment, DemoPacs

ANSWERS = Commitment()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("commitment-kills")
    with DemoPacs(folder / "pacs", ae_title="PACS", commitment=ANSWERS) as pacs:
        made = Cluster(folder, pacs, commitment=True)
        yield made
        made.node.stop()


@pytest.mark.parametrize("step", ["answered", "noted", "commitment written down", "commitment requested"])
@pytest.mark.parametrize("over", ["the same association", "a new association"])
def test_a_sender_killed_while_it_asks_leaves_nothing_unconfirmed(cluster: Cluster, step: str, over: str) -> None:
    ANSWERS.call_back = None if over == "the same association" else ("TRIAGE", "127.0.0.1", cluster.node.port())
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("deliver", "tests.killable", "deliver", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace("deliver", "deliver")
    require_all_is_well(cluster, series_uid, folder, acknowledged)


@pytest.mark.parametrize(("role", "over"), [("deliver", "the same association"), ("listen", "a new association")])
def test_a_role_killed_while_it_notes_a_report_leaves_nothing_unconfirmed(
    cluster: Cluster, role: str, over: str
) -> None:
    ANSWERS.call_back = None
    series_uid, folder = cluster.new_series()
    dying = cluster.replace(role, "tests.killable", role, "commitment noted")
    if over == "a new association":
        ANSWERS.call_back = ("TRIAGE", "127.0.0.1", cluster.node.port())
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace(role, role)
    if over == "a new association":
        ANSWERS.call_back = ("TRIAGE", "127.0.0.1", cluster.node.port())
    require_all_is_well(cluster, series_uid, folder, acknowledged)
