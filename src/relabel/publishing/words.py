"""Words for scores: bands with their cut-points, which are data, and what a page says about each of them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from relabel.run import PUBLISHED
from relabel.settings import Frozen

Reading = Literal["strict", "with_tools"]

READING_NAMES: dict[Reading, str] = {"strict": "Model alone", "with_tools": "Model with tools"}
"""The two readings as pages call them."""

CAUTION = (
    "Exposed means that a language model could help an experienced worker do a task in at most half the time at equal "
    "quality. It does not say that the task will be automated, that employers will choose to do so, or that jobs will be lost."
)


def model_name(model: str) -> str:
    """Who labelled, in words for readers: a published label set by what made it, any other model as it is called."""
    return PUBLISHED[model][1] if model in PUBLISHED else model


class ReadingWords(Frozen):
    """What a page says about a band under one reading.

    Attributes:
        meaning: What the score means.
        now: What someone in the role can do now, one sentence each.
    """

    meaning: str
    now: tuple[str, ...]


class Band(Frozen):
    """A band of scores.

    Attributes:
        start: Lowest score (0-10) in it.
        low: Whether pages also name the tasks that matter most, and whether they still need a person.
    """

    id: str
    start: float = Field(alias="from", ge=0, le=10)
    label: str
    low: bool
    strict: ReadingWords
    with_tools: ReadingWords


class Bands(Frozen):
    """All bands, lowest first."""

    version: int
    bands: tuple[Band, ...]

    @model_validator(mode="after")
    def _cover_all_scores(self) -> Bands:
        starts = [band.start for band in self.bands]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError("bands must begin at 0 and rise")
        return self

    def of(self, score_10: float) -> Band:
        """The band of a score (0-10)."""
        return next(band for band in reversed(self.bands) if score_10 >= band.start)

    def cut_points(self) -> list[dict[str, Any]]:
        """The bands without their texts, as an export lists them: `id, label, from, below`."""
        ends = [*(band.start for band in self.bands[1:]), None]
        return [
            {"id": band.id, "label": band.label, "from": band.start, "below": end}
            for band, end in zip(self.bands, ends, strict=True)
        ]


@cache
def load_bands() -> Bands:
    """The bands that come with the package."""
    text = resources.files("relabel.publishing").joinpath("bands.yaml").read_text(encoding="utf-8")
    return Bands.model_validate(yaml.safe_load(text))
