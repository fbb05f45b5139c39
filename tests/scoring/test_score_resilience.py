"""The resilience score: what gives points, what is missing, and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relabel.careers.pages import CutPoints, load_cut_points, resilience, resilience_order, shown_percent
from relabel.errors import DataError
from relabel.settings import asset_dir

GOOD = (asset_dir("data") / "resilience.toml").read_text()
CUTS = load_cut_points()


def test_little_exposure_with_falling_demand_and_little_human_advantage_is_two_of_six() -> None:
    found = resilience(CUTS, exposure=0.10, change_percent=-14.0, ratings=9, span="from 2024 to 2034")
    assert (found.score, found.words) == (2, "2 of 6")
    assert [part.points for part in found.parts] == [2, 0, 0]
    assert [part.words for part in found.parts] == [
        "Low exposure gives 2 of 2: 10.0% of the tasks, by weight, are exposed to the model with tools (2 points up to 30%, 1 up to 80%)",
        "Growing demand gives 0 of 2: jobs are projected to fall by 14.0% from 2024 to 2034 (1 point from 0.1%, 2 from 3.1%)",
        "Human advantage gives 0 of 2: the ratings of human advantage add up to 9.0 of 25 (1 point from 12, 2 from 19)",
    ]


@pytest.mark.parametrize(
    ("exposure", "change", "ratings", "points"),
    [
        (0.0, 99.0, 25, (2, 2, 2)),
        (0.30, 3.1, 19, (2, 2, 2)),
        (0.301, 3.0, 18.9, (1, 1, 1)),
        (0.80, 0.1, 12, (1, 1, 1)),
        (0.80, 0.0, 12, (1, 0, 1)),
        (0.801, -0.1, 11.9, (0, 0, 0)),
        (1.0, -99.0, 5, (0, 0, 0)),
        # One decimal decides: 30.04 counts as 30.0, -0.04 as 0.0.
        (0.3004, -0.04, 11.96, (2, 0, 1)),
    ],
)
def test_the_bounds_themselves_count(exposure: float, change: float, ratings: float, points: tuple[int, ...]) -> None:
    found = resilience(CUTS, exposure=exposure, change_percent=change, ratings=ratings)
    assert tuple(part.points for part in found.parts) == points
    assert found.score == found.so_far == sum(points)
    assert not re.search(r"-0\.0(?!\d)", " ".join(part.words for part in found.parts))


def test_jobs_that_stay_level_earn_no_point_for_growing_demand() -> None:
    found = resilience(CUTS, exposure=0.1, change_percent=-0.0355, ratings=None, span="from 2024 to 2034")
    assert (found.parts[1].figure, found.parts[1].points) == (0.0, 0)
    assert found.parts[1].words == (
        "Growing demand gives 0 of 2: jobs are projected to stay level from 2024 to 2034 (1 point from 0.1%, 2 from 3.1%)"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.14, "+3.1%"),
        (-14, "-14.0%"),
        (-0.0355, "level"),
        (0.004, "level"),
        (0, "level"),
        (-1e-9, "level"),
        (-0.06, "-0.1%"),
    ],
)
def test_a_change_of_jobs_has_one_decimal_or_is_level(value: float, shown: str) -> None:
    assert shown_percent(value) == shown


def test_scores_so_far_are_ranked_after_whole_ones_and_among_their_like() -> None:
    figures = [(0.1, 5, 25), (0.1, 5, None), (0.9, -9, 5), (0.9, 5, None), (0.1, None, None), (None, None, None)]
    found = [resilience(CUTS, exposure=e, change_percent=c, ratings=r) for e, c, r in reversed(figures)]
    assert [score.brief for score in sorted(found, key=resilience_order)] == [
        "6 of 6", "0 of 6", "4 of 4 so far", "2 of 4 so far", "2 of 2 so far", "not known",
    ]  # fmt: skip
    assert all(score.words.startswith(score.brief) for score in found)


def test_a_missing_part_is_named_and_never_filled_in() -> None:
    found = resilience(
        CUTS, exposure=0.1, change_percent=5, ratings=None, why_missing={"human-advantage": "nobody was asked"}
    )
    assert found.score is None
    assert (found.so_far, found.of) == (4, 4)
    assert found.words == "4 of 4 so far. Human advantage is missing: nobody was asked"
    assert found.parts[2].points is found.parts[2].figure is None


def test_without_any_figure_there_is_no_score() -> None:
    found = resilience(CUTS, exposure=None, change_percent=float("nan"), ratings=None)
    assert (found.score, found.of) == (None, 0)
    assert found.words.startswith("not known. Low exposure is missing")


def test_cut_points_of_a_user_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('"with-tools"', '"strict"').replace("two_from = 30.0", "two_from = 6.0"))
    found = resilience(load_cut_points(path), exposure=0.10, change_percent=0, ratings=12)
    assert found.parts[0].points == 1
    assert "exposed to the model alone" in found.parts[0].words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("two_from = 30.0", "two_from = 90.0", "low-exposure: two_from must lie below one_from"),
        ("two_from = 3.1", "two_from = -3.1", "growing-demand: two_from must lie above one_from"),
        ("two_from = 19.0", "", "human-advantage.two_from: is missing"),
        ("two_from = 19.0", "two_from = nan", "human-advantage.two_from: "),
        ('"with-tools"', '"without"', "low-exposure.reading: "),
        ("[human-advantage]", "[human]", "human-advantage: is missing"),
        ("[human-advantage]", "[human-advantage", "not valid TOML"),
    ],
)
def test_faulty_cut_points_are_refused_with_the_reason(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(DataError) as caught:
        load_cut_points(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_cut_points_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_cut_points(tmp_path / "none.toml")


def test_cut_points_name_every_part() -> None:
    assert {field.alias for field in CutPoints.model_fields.values()} == {
        "low-exposure",
        "growing-demand",
        "human-advantage",
    }
