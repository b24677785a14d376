"""kill -9 of each role at each step, and a restart: nothing acknowledged is lost, no result exists twice.

Every named step is in tests/acceptance/test_kills_at_every_step.py, some hundred times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, require_all_is_well
from triage_node.testing import DemoPacs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("kills")
    with DemoPacs(folder / "pacs", ae_title="PACS") as pacs:
        made = Cluster(folder, pacs)
        yield made
        made.node.stop()


@pytest.mark.parametrize("step", ["spooled", "entered"])
def test_a_listener_killed_while_receiving_loses_nothing_it_acknowledged(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("listen", "tests.killable", "listen", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=30) == -9
    cluster.replace("listen", "listen")
    acknowledged |= cluster.send(folder)
    assert len(acknowledged) == 28
    require_all_is_well(cluster, series_uid, folder, acknowledged)


def test_a_listener_killed_after_an_image_was_acknowledged_keeps_it(cluster: Cluster) -> None:
    series_uid, folder = cluster.new_series()
    acknowledged = cluster.send(folder)
    cluster.replace("listen", "listen")
    require_all_is_well(cluster, series_uid, folder, acknowledged)


@pytest.mark.parametrize("step", ["claimed", "analyzed", "kept", "published"])
def test_a_worker_killed_in_flight_is_replaced_and_the_result_exists_once(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("work", "tests.killable", "work", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace("work", "work")
    require_all_is_well(cluster, series_uid, folder, acknowledged)


@pytest.mark.parametrize("step", ["parcels claimed", "answered", "noted"])
def test_a_sender_killed_in_flight_sends_the_same_objects_again(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("deliver", "tests.killable", "deliver", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace("deliver", "deliver")
    require_all_is_well(cluster, series_uid, folder, acknowledged)
