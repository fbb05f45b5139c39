"""The resilience score of career pages: low exposure, growing demand and human advantage, 0 to 2 points each.

Where a figure is not known its part is missing, and the score says `n of 4 so far`; a missing part is never filled in. The
cut-points are data, in `data/resilience.toml` or in a file of the user's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from relabel.careers.pages import Resilience, ResiliencePart
from relabel.errors import DataError, first_error
from relabel.files import read_user_toml
from relabel.settings import Frozen, asset_dir

Reading = Literal["strict", "with-tools"]
PartId = Literal["low-exposure", "growing-demand", "human-advantage"]

PARTS: Mapping[PartId, str] = {
    "low-exposure": "Low exposure",
    "growing-demand": "Growing demand",
    "human-advantage": "Human advantage",
}
"""The parts in the order in which they are shown."""

MOST = 2
"""Points of a part at most."""

_READINGS: Mapping[Reading, str] = {"strict": "the model alone", "with-tools": "the model with tools"}


class Cuts(Frozen):
    """Where the points of a part begin; the bounds themselves count."""

    one_from: float
    two_from: float


class ExposureCuts(Cuts):
    """Cut-points of exposure, in percent of the tasks, and the reading that they are for."""

    reading: Reading


class CutPoints(Frozen):
    """Cut-points of the three parts.

    Attributes:
        low_exposure: In percent of exposed tasks; fewer give more points.
        growing_demand: In percent of projected change of employment; more gives more points.
        human_advantage: In points of the sum of ratings, 5-25; more gives more points.
    """

    low_exposure: ExposureCuts = Field(alias="low-exposure")
    growing_demand: Cuts = Field(alias="growing-demand")
    human_advantage: Cuts = Field(alias="human-advantage")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low_exposure.two_from >= self.low_exposure.one_from:
            raise ValueError("low-exposure: two_from must lie below one_from, because less exposure gives more points")
        for name, cuts in (("growing-demand", self.growing_demand), ("human-advantage", self.human_advantage)):
            if cuts.two_from <= cuts.one_from:
                raise ValueError(f"{name}: two_from must lie above one_from")
        return self


def load_cut_points(path: Path | None = None) -> CutPoints:
    """Read cut-points.

    Args:
        path: A TOML file in the form of `data/resilience.toml`; by default that file.

    Raises:
        DataError: The file is missing, is not TOML, lacks a key or holds a bad value.
    """
    path = path or asset_dir("data") / "resilience.toml"
    try:
        return CutPoints.model_validate(read_user_toml(path, "data/resilience.toml"))
    except ValidationError as error:
        raise DataError(f"the cut-points {path}: {first_error(error)}; correct the file") from error


def resilience(
    cuts: CutPoints,
    *,
    exposure: float | None,
    change_percent: float | None,
    ratings: float | None,
    span: str = "",
    why_missing: Mapping[PartId, str] | None = None,
) -> Resilience:
    """Score resilience.

    Args:
        cuts: Where points begin.
        exposure: Share (0-1) of tasks that are exposed under the reading that the cut-points name.
        change_percent: Projected change of employment, in percent.
        ratings: Sum of the five ratings of human advantage, 5-25.
        span: The years of the projection in words, such as `from 2024 to 2034`.
        why_missing: Why a figure that is None is not known, in words.

    Returns:
        The score: `words` is such as `2 of 6`, or `2 of 4 so far` while a part is missing.
    """
    reading = _READINGS[cuts.low_exposure.reading]
    why = why_missing or {}
    parts = (
        _part(
            "low-exposure",
            None if exposure is None else 100 * exposure,
            cuts.low_exposure,
            "percent",
            f"{{}}% of the tasks are exposed to {reading}",
            "2 points up to {two}%, 1 up to {one}%",
            why,
        ),
        _part(
            "growing-demand",
            change_percent,
            cuts.growing_demand,
            "percent",
            f"employment is projected to change by {{}}%{' ' + span if span else ''}",
            "1 point from {one}%, 2 from {two}%",
            why,
        ),
        _part(
            "human-advantage",
            ratings,
            cuts.human_advantage,
            "points of 25",
            "the ratings of human advantage add up to {} of 25",
            "1 point from {one}, 2 from {two}",
            why,
        ),
    )
    known = [part.points for part in parts if part.points is not None]
    so_far, of = sum(known), MOST * len(known)
    complete = len(known) == len(parts)
    gaps = "; ".join(part.words for part in parts if part.points is None)
    found = Resilience(score=so_far if complete else None, so_far=so_far, of=of, words="", parts=parts)
    words = found.brief if complete else f"{found.brief}. {gaps}"
    return found.model_copy(update={"words": words})


def rank(score: Resilience) -> tuple[int, int]:
    """Sorts the most resilient first, and scores with parts missing after whole ones, among their like.

    4 of 4 so far can become anything from 4 to 6 of 6, so it has no place among whole scores.
    """
    return -score.of, -score.so_far


def shown_percent(value: float) -> str:
    """A projected change of jobs with its sign and one decimal, `+3.1%`; `level` where that is 0.0, as no point is given for it."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}%" if rounded else "level"


def points_of(part: PartId, figure: float, cuts: Cuts) -> int:
    """Points of a figure: 0, 1 or 2; the bounds themselves count, and for exposure less is better."""
    if part == "low-exposure":
        return (figure <= cuts.one_from) + (figure <= cuts.two_from)
    return (figure >= cuts.one_from) + (figure >= cuts.two_from)


def _part(
    part: PartId,
    value: float | None,
    cuts: Cuts,
    unit: str,
    figure_words: str,
    cut_words: str,
    why: Mapping[PartId, str],
) -> ResiliencePart:
    bounds = {"one_from": cuts.one_from, "two_from": cuts.two_from}
    name = PARTS[part]
    if value is None or math.isnan(value):
        reason = why.get(part, "its figure is not known")
        return ResiliencePart(
            id=part, name=name, points=None, figure=None, unit=unit, **bounds, words=f"{name} is missing: {reason}"
        )
    figure = round(value, 1) + 0.0  # one decimal decides, and there is no -0.0
    said = f"{figure}"
    if part == "growing-demand" and figure == 0:
        figure_words = f"jobs are projected to stay level{figure_words.partition('%')[2]}"
    points = points_of(part, figure, cuts)
    shown = cut_words.format(one=f"{cuts.one_from:g}", two=f"{cuts.two_from:g}")
    return ResiliencePart(
        id=part,
        name=name,
        points=points,
        figure=figure,
        unit=unit,
        **bounds,
        words=f"{name} gives {points} of {MOST}: {figure_words.format(said)} ({shown})",
    )
