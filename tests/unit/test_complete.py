"""When a series counts as complete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from triage_node.complete import Arrivals, complete_because, is_contiguous_head

START = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = [5.0 * index for index in range(30)]


def because(
    *,
    positions: Sequence[float] = HEAD,
    multi_frame: bool = False,
    released: float | None = 3.0,
    last: float = 2.0,
    now: float = 3.1,
    expected: int | None = None,
    awaited: bool = False,
) -> str | None:
    arrivals = Arrivals(
        images=len(positions),
        open_since=START,
        last_image_at=START + timedelta(seconds=last),
        released_at=None if released is None else START + timedelta(seconds=released),
        positions_mm=positions,
        multi_frame=multi_frame,
        expected=expected,
        awaited=awaited,
    )
    return complete_because(arrivals, now=START + timedelta(seconds=now), quiet_s=10, cap_s=120)


def test_a_released_contiguous_head_is_complete_at_once() -> None:
    assert because() == "association released, contiguous over a head"


def test_release_alone_is_not_enough() -> None:
    assert because(positions=HEAD[:10]) is None


def test_a_contiguous_head_whose_association_is_open_is_not_complete() -> None:
    assert because(released=None) is None


def test_an_image_after_the_release_waits_again() -> None:
    assert because(released=1.0, last=2.0) is None


def test_a_multi_frame_image_is_complete_with_its_release_and_not_before() -> None:
    assert because(positions=[], multi_frame=True) == "association released, multi-frame"
    assert because(positions=[], multi_frame=True, released=None) is None
    assert because(positions=[], multi_frame=True, released=1.0, last=2.0) is None


def test_the_quiet_period_ends_any_series() -> None:
    assert because(positions=[], released=None, last=2.0, now=12.0) == "no image for 10 s"


def test_the_cap_ends_a_series_that_never_rests() -> None:
    assert because(positions=[], released=None, last=119.0, now=120.0) == "still growing after 120 s"


def test_as_many_as_the_source_says_is_complete_whatever_the_positions() -> None:
    assert because(positions=[0.0, 40.0, 41.0], released=None, expected=3) == "the source says 3 images"


def test_fewer_than_the_source_says_is_not_complete_though_contiguous() -> None:
    assert because(expected=31) is None


def test_a_source_that_is_being_asked_is_waited_for_and_the_quiet_period_ends_that() -> None:
    assert because(awaited=True) is None
    assert because(awaited=True, now=12.0) == "no image for 10 s"


def test_what_never_came_is_named_when_the_quiet_period_or_the_cap_ends_the_series() -> None:
    assert because(expected=33, now=12.0) == "no image for 10 s, but the source has 3 more"
    assert because(expected=33, last=119.0, now=120.0) == "still growing after 120 s, but the source has 3 more"


def test_a_count_that_was_overtaken_says_nothing() -> None:
    assert because(expected=29) == "association released, contiguous over a head"
    assert because(positions=HEAD[:10], expected=9) is None


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (HEAD, True),
        (HEAD[::-1], True),
        (HEAD + HEAD, True),
        ([z for z in HEAD if z != 50.0], False),
        (HEAD[:20], False),
        ([4.2 * i for i in range(15)] + [58.8 + 7.4 * i for i in range(1, 14)], True),
        ([0.5 * i for i in range(300)], True),
        ([12.0 * i for i in range(14)], False),
        ([], False),
    ],
    ids=["even", "reversed", "two kernels", "one missing", "short", "thin then thick", "thin", "wide gaps", "none"],
)
def test_contiguous_over_a_head(positions: list[float], expected: bool) -> None:
    assert is_contiguous_head(positions) is expected
