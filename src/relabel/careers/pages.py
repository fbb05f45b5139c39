"""Data models of job families and their pages, as `families.family_pages` returns them and a site shows them.

Families are defined in `data/families.toml` or in a user's file. On a page, shares are 0-1, changes are in percent, money is
in US dollars a year, jobs are persons. Unknown figures are None, never imputed, and a note or a status says why.

This module also computes the resilience score: low exposure, growing demand and human advantage, 0 to 2 points each. If a
part is missing, the score is `n of 4 so far`. The cut-points are in `data/resilience.toml` or in a user's file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from pydantic import ConfigDict, Field, computed_field, model_validator

from relabel.errors import DataError, model_errors
from relabel.files import read_user_entries, read_user_toml
from relabel.scoring.table import is_covered
from relabel.settings import Frozen, asset_dir
from relabel.sources.fetch import SourceUse

_CODE = re.compile(r"\d{2}-\d{4}(\.\d{2})?", re.ASCII)


class Family(Frozen):
    """A job family.

    Attributes:
        id: Short name, usable as a file name.
        name: Its name on a page.
        description: One sentence on what people in it do.
        codes: O*NET-SOC codes (`51-4121.00`), or six-digit codes that include all their detailed codes.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    codes: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_codes(self) -> Self:
        for code in self.codes:
            if not _CODE.fullmatch(code):
                raise ValueError(
                    f"codes: {code!r} is not an O*NET-SOC code; write it like 51-4121.00, or 51-4121 for all"
                )
        return self

    def members(self, codes: Sequence[str]) -> list[str]:
        """The given O*NET-SOC codes that belong to the family, in the same order."""
        wanted = set(self.codes)
        return [code for code in codes if code in wanted or code[:7] in wanted]


def load_families(path: Path | None = None) -> tuple[Family, ...]:
    """Read job families.

    Args:
        path: A TOML file in the format of `data/families.toml`; by default that file.

    Raises:
        DataError: The file is missing, empty or not TOML, an entry lacks a key or has a bad value, or an id or a code
            occurs twice.
    """
    path = path or asset_dir("data") / "families.toml"
    families = tuple(read_user_entries(path, "family", Family, "data/families.toml").values())
    if not families:
        raise DataError(f"{path} has no [[family]] entry; write one in the form of data/families.toml")
    owner: dict[str, str] = {}
    for family, code in ((entry, code) for entry in families for code in entry.codes):
        # A six-digit code includes its detailed codes, so with both, an occupation would count twice.
        clash = next((c for c in owner if c == code or c == code[:7] or c[:7] == code), None)
        if clash is not None:
            raise DataError(
                f"the job families {path} have {code} twice, in {owner[clash]!r} and in {family.id!r}; an occupation "
                "belongs to one family, so keep one"
            )
        owner[code] = family.id
    return families


class ResiliencePart(Frozen):
    """One of the three parts of a resilience score.

    Attributes:
        id: `low-exposure`, `growing-demand` or `human-advantage`.
        name: The part in words.
        points: 0, 1 or 2; None if the figure is unknown.
        figure: The figure that determines the points, rounded to one decimal: percent of exposed tasks, percent change, or
            the EPOCH sum (5-25).
        unit: `percent` or `points of 25`.
        one_from: Cut-point for one point.
        two_from: Cut-point for two points.
        words: An explanation with the figure, the cut-points and the points, or why there are none.
    """

    id: str
    name: str
    points: int | None
    figure: float | None
    unit: str
    one_from: float
    two_from: float
    words: str


class Resilience(Frozen):
    """A resilience score with its parts.

    Attributes:
        score: Sum of the points, 0-6; None if a part is missing.
        so_far: Sum of the points of the known parts.
        of: Maximum points of the known parts: 6, or less if parts are missing.
        words: The score in one line, such as `2 of 6`, or `2 of 4 so far` with the reason.
        parts: The three parts.
    """

    score: int | None
    so_far: int
    of: int
    words: str
    parts: tuple[ResiliencePart, ...]

    model_config = ConfigDict(extra="ignore")  # computed fields are written to JSON, and ignored when read

    @computed_field
    @property
    def brief(self) -> str:
        """The score without reasons: `2 of 6`, `2 of 4 so far`, `not known`."""
        if self.of == 0:
            return "not known"
        return f"{self.so_far} of {self.of}{' so far' if self.score is None else ''}"


class Wages(Frozen):
    """Pay of one occupation in one year, US dollars a year.

    Attributes:
        period: For example `May 2024`.
        employment: Jobs.
        floor: Lower bounds of figures that the publisher caps, by name of the figure; the figures themselves are None.
        status: Where the figures come from, and why any are missing.
    """

    period: str
    source: str
    employment: float | None
    mean: float | None
    p10: float | None
    p25: float | None
    median: float | None
    p75: float | None
    p90: float | None
    floor: Mapping[str, float]
    status: str


class Outlook(Frozen):
    """Projected employment.

    Attributes:
        start: First year.
        end: Last year.
        employment_start: Jobs in the first year.
        employment_end: Jobs in the last year.
        change_percent: Change between them in percent.
        openings_a_year: Annual average of job openings.
        status: Where the figures come from, and what is missing.
    """

    source: str
    start: int
    end: int
    employment_start: float | None = None
    employment_end: float | None = None
    change_percent: float | None = None
    openings_a_year: float | None = None
    status: str


class Preparation(Frozen):
    """Typical requirements for entry, in the publishers' words.

    Attributes:
        job_zone: O*NET's job zone, 1 (little preparation) to 5 (extensive).
    """

    education: str | None
    experience: str | None
    training: str | None
    job_zone: int | None


class EpochScore(Frozen):
    """Ratings of human advantage, each 1-5, and their sum, 5-25; for a family, means over its occupations.

    Attributes:
        dimensions: Rating by name of the dimension.
        total: Their sum.
        occupations: Number of occupations with all ratings.
        words: The basis of the figures.
    """

    dimensions: Mapping[str, float]
    total: float
    occupations: int
    words: str


class Role(Frozen):
    """An occupation of a family: a row of its table of specialised roles.

    Attributes:
        onet_soc_code: Its O*NET code.
        soc2018: The SOC 2018 code that the BLS figures are for.
        strict: Share of its tasks exposed to the model alone.
        with_tools: Share exposed to the model with tools.
        tasks: Number of labelled tasks.
        coverage: Labelled share of its task weight, 0-1.
        share: Its weight in the family's exposure, 0-1; None if it does not count.
        pay: By release, latest first.
    """

    onet_soc_code: str
    title: str
    soc2018: str
    strict: float | None
    with_tools: float | None
    tasks: int
    coverage: float
    share: float | None
    pay: tuple[Wages, ...]
    outlook: Outlook
    preparation: Preparation
    epoch: EpochScore | None

    model_config = ConfigDict(extra="ignore")  # see `Resilience`

    @computed_field
    @property
    def thin(self) -> bool:
        """Whether less than half of its task weight is labelled, too little to interpret its exposure."""
        return self.tasks > 0 and not is_covered(self.coverage)


class Responsibility(Frozen):
    """One of the most important tasks of a family.

    Attributes:
        importance: O*NET's importance rating, 1-5.
        strict: `exposed`, `not-exposed`, or None if unlabelled; likewise `with_tools`.
        request_keys: Request keys of the answers behind the readings.
    """

    task_id: str
    onet_soc_code: str
    title: str
    text: str
    importance: float | None
    strict: str | None
    with_tools: str | None
    request_keys: tuple[str, ...]


class FamilyExposure(Frozen):
    """Share of a family's tasks that are exposed, under both readings.

    Attributes:
        strict: To the model alone.
        with_tools: To the model with tools.
        occupations: Number of occupations with a score.
        words: How occupations are weighted, and which are left out.
    """

    strict: float | None
    with_tools: float | None
    occupations: int
    words: str


class FamilyPay(Frozen):
    """Pay of a family in one year, US dollars a year.

    Attributes:
        employment: Jobs, each counted once.
        lowest_median: The lowest median among its roles.
        highest_median: The highest median; None if a median is capped.
        weighted: Means of the roles' figures weighted by jobs, by name of the figure (`p10, p25, median, p75, p90`). The
            mean of medians is not the median of the family, which is not published.
        words: The basis of the figures.
    """

    period: str
    source: str
    employment: float | None
    lowest_median: float | None
    highest_median: float | None
    weighted: Mapping[str, float | None]
    words: str


class Level(Frozen):
    """The share (0-1) of a family's employment with a level of education, experience or training, or a job zone."""

    level: str
    share: float


class FamilyPreparation(Frozen):
    """Typical requirements for entry into a family's roles, by share of its projected employment, largest first."""

    education: tuple[Level, ...]
    experience: tuple[Level, ...]
    training: tuple[Level, ...]
    job_zones: tuple[Level, ...]


class Related(Frozen):
    """A family or an occupation with similar work activities.

    Attributes:
        id: The family's id, or the O*NET-SOC code.
        similarity: Cosine similarity by O*NET's detailed work activities, 0-1; see `families.activity_similarity`.
    """

    id: str
    name: str
    similarity: float


class FamilyPage(Frozen):
    """The content of the career page of a job family.

    Attributes:
        run: The run behind the exposure.
        epoch_run: The run behind the ratings of human advantage; None without one.
        sample: Whether it is of the built-in sample.
        partial: Whether the run is incomplete.
        note: Caveats that every reader must know; None if there are none.
        pay: By release, latest first.
        related_families: Most similar first.
        related_careers: Occupations outside the family, most similar first.
        sources: The source files of the page.
    """

    id: str
    name: str
    description: str
    run: str
    model: str
    tasks: str
    epoch_run: str | None
    sample: bool
    partial: bool
    note: str | None
    exposure: FamilyExposure
    outlook: Outlook
    pay: tuple[FamilyPay, ...]
    preparation: FamilyPreparation
    epoch: EpochScore | None
    resilience: Resilience
    responsibilities: tuple[Responsibility, ...]
    roles: tuple[Role, ...]
    related_families: tuple[Related, ...]
    related_careers: tuple[Related, ...]
    sources: tuple[SourceUse, ...]


# Columns of `family_frame`: their type, and how to get them from a page.
FRAME_COLUMNS: Mapping[str, tuple[str, Callable[[FamilyPage], Any]]] = {
    "id": ("str", lambda page: page.id),
    "name": ("str", lambda page: page.name),
    "resilience": ("Int64", lambda page: page.resilience.score),
    "points_so_far": ("Int64", lambda page: page.resilience.so_far),
    "points_of": ("Int64", lambda page: page.resilience.of),
    "low_exposure": ("Int64", lambda page: page.resilience.parts[0].points),
    "growing_demand": ("Int64", lambda page: page.resilience.parts[1].points),
    "human_advantage": ("Int64", lambda page: page.resilience.parts[2].points),
    "strict": ("float64", lambda page: page.exposure.strict),
    "with_tools": ("float64", lambda page: page.exposure.with_tools),
    "change_percent": ("float64", lambda page: page.outlook.change_percent),
    "epoch": ("float64", lambda page: page.epoch and page.epoch.total),
    "occupations": ("Int64", lambda page: len(page.roles)),
    "employment_us": ("float64", lambda page: page.pay[0].employment),
    "median_wage_usd": ("float64", lambda page: page.pay[0].weighted["median"]),
    "lowest_median_wage_usd": ("float64", lambda page: page.pay[0].lowest_median),
    "highest_median_wage_usd": ("float64", lambda page: page.pay[0].highest_median),
    "wage_source": ("str", lambda page: f"OEWS {page.pay[0].period}"),
    "words": ("str", lambda page: page.resilience.words),
}


def family_frame(pages: Sequence[FamilyPage]) -> pd.DataFrame:
    """The figures of pages as a table, one row per family.

    Returns:
        Columns `id, name, resilience` (0-6; missing if a part is), `points_so_far, points_of`, the points of the parts,
        `strict, with_tools` (shares, 0-1), `change_percent`, `epoch` (5-25), `occupations`, and of the latest release
        `employment_us` (jobs), `median_wage_usd` (mean of the medians weighted by jobs), `lowest_median_wage_usd,
        highest_median_wage_usd, wage_source` (such as `OEWS May 2024`); `words` says what is missing.
    """
    columns = {
        name: pd.Series([getter(page) for page in pages], dtype=kind) for name, (kind, getter) in FRAME_COLUMNS.items()
    }
    return pd.DataFrame(columns)


Reading = Literal["strict", "with-tools"]
PartId = Literal["low-exposure", "growing-demand", "human-advantage"]

# Names of the parts, in the order in which they are shown.
PARTS: Mapping[PartId, str] = {
    "low-exposure": "Low exposure",
    "growing-demand": "Growing demand",
    "human-advantage": "Human advantage",
}

# Maximum points of a part.
MAX_POINTS = 2

_READINGS: Mapping[Reading, str] = {"strict": "the model alone", "with-tools": "the model with tools"}


class Cutoffs(Frozen):
    """The values from which a part gets one or two points, inclusive."""

    one_from: float
    two_from: float


class ExposureCutoffs(Cutoffs):
    """Cut-points of exposure, in percent of the tasks, and the reading that they apply to."""

    reading: Reading


class CutPoints(Frozen):
    """Cut-points of the three parts.

    Attributes:
        low_exposure: Percent of tasks exposed; lower gives more points.
        growing_demand: Projected percent change of employment; higher gives more points.
        human_advantage: Sum of ratings, 5-25; higher gives more points.
    """

    low_exposure: ExposureCutoffs = Field(alias="low-exposure")
    growing_demand: Cutoffs = Field(alias="growing-demand")
    human_advantage: Cutoffs = Field(alias="human-advantage")

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
        path: A TOML file in the format of `data/resilience.toml`; by default that file.

    Raises:
        DataError: The file is missing or not TOML, lacks a key or has a bad value.
    """
    path = path or asset_dir("data") / "resilience.toml"
    with model_errors(f"the cut-points {path}: ", "; correct the file"):
        return CutPoints.model_validate(read_user_toml(path, "data/resilience.toml"))


def resilience(
    cuts: CutPoints,
    *,
    exposure: float | None,
    change_percent: float | None,
    ratings: float | None,
    span: str = "",
    why_missing: Mapping[PartId, str] | None = None,
) -> Resilience:
    """Compute the resilience score.

    Args:
        cuts: The cut-points.
        exposure: Share (0-1) of tasks exposed, under the reading of the cut-points.
        change_percent: Projected percent change of employment.
        ratings: Sum of the five ratings of human advantage, 5-25.
        span: The years of the projection in words, such as `from 2024 to 2034`.
        why_missing: For figures that are None, the reason in words.
    """
    share = None if exposure is None else 100 * exposure
    reading = f"{{}}% of the tasks, by weight, are exposed to {_READINGS[cuts.low_exposure.reading]}"
    demand = f"jobs are projected to {{}}{' ' + span if span else ''}"
    advantage = "the ratings of human advantage add up to {} of 25"
    reasons = why_missing or {}
    parts = (
        _part("low-exposure", share, cuts.low_exposure, reading, reasons),
        _part("growing-demand", change_percent, cuts.growing_demand, demand, reasons),
        _part("human-advantage", ratings, cuts.human_advantage, advantage, reasons),
    )
    points = [part.points for part in parts if part.points is not None]
    so_far, maximum = sum(points), MAX_POINTS * len(points)
    complete = len(points) == len(parts)
    gaps = "; ".join(part.words for part in parts if part.points is None)
    result = Resilience(score=so_far if complete else None, so_far=so_far, of=maximum, words="", parts=parts)
    words = result.brief if complete else f"{result.brief}. {gaps}"
    return result.model_copy(update={"words": words})


def resilience_order(score: Resilience) -> tuple[int, int]:
    """Sort key: the most resilient first, scores with missing parts after complete ones.

    A score of 4 of 4 so far may become anything from 4 to 6 of 6, so it cannot be ranked among complete scores.
    """
    return -score.of, -score.so_far


def shown_percent(value: float) -> str:
    """A projected change with sign and one decimal, such as `+3.1%`, or `level` if it rounds to zero."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}%" if rounded else "level"


def _part(
    part: PartId, value: float | None, cuts: Cutoffs, figure_words: str, reasons: Mapping[PartId, str]
) -> ResiliencePart:
    name, points, figure = PARTS[part], None, None
    unit, sign = ("points of 25", "") if part == "human-advantage" else ("percent", "%")
    words = f"{name} is missing: {reasons.get(part, 'its figure is not known')}"
    if value is not None and not math.isnan(value):
        figure = round(value, 1) + 0.0  # points depend on the rounded figure; adding 0.0 turns -0.0 into 0.0
        figure_text = f"{figure}"
        if part == "growing-demand":
            figure_text = f"{'grow' if figure > 0 else 'fall'} by {abs(figure)}%" if figure else "stay level"
        one, two = f"{cuts.one_from:g}{sign}", f"{cuts.two_from:g}{sign}"
        if part == "low-exposure":
            points = (figure <= cuts.one_from) + (figure <= cuts.two_from)
            shown = f"2 points up to {two}, 1 up to {one}"
        else:
            points = (figure >= cuts.one_from) + (figure >= cuts.two_from)
            shown = f"1 point from {one}, 2 from {two}"
        words = f"{name} gives {points} of {MAX_POINTS}: {figure_words.format(figure_text)} ({shown})"
    bounds = {"one_from": cuts.one_from, "two_from": cuts.two_from}
    return ResiliencePart(id=part, name=name, points=points, figure=figure, unit=unit, **bounds, words=words)
