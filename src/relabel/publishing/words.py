"""Words for scores: bands with their cut-points, which are data, and what a page says about each of them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from relabel.manifest import PUBLISHED
from relabel.scoring.table import ScoreTable
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


_OWN_BRIEF = "95% interval"
_OWN_READ = {
    "repeats": "A model asked twice does not always answer alike. The 95% interval of a score holds what the score would be if the "
    "model were asked about all tasks again and again.",
    "single": "The 95% interval of a score holds what the score would be if {model} were asked about all tasks again and again. Each "
    "task was asked once, so how much answers vary cannot be seen: it is taken at its largest, and the interval is rather "
    "too wide than too narrow.",
    "raters": "The labels are those of several raters, pooled. The 95% interval of a score holds the mean score over raters like "
    "these, the drawing of tasks included.",
}
_RIGHT = "It says nothing about whether the answers are right."
_OTHER_BRIEF = {"gold": "with {labels}", "pooled": "mean over raters"}
_OTHER_LONG = {
    "gold": "With {labels} instead of {model}, this score would be about",
    "pooled": "With the labels of several raters taken together, this score would be about",
}
_OTHER_READ = {
    "gold": "A separate figure says what the score would be with {labels}. They were given to some of the same tasks and often differ from "
    "those of {model}. What is known about these differences is used to estimate that score, with a range that holds it in 95 of "
    "100 cases. The score shown may lie outside that range: then the two differ by more than chance.",
    "pooled": "A separate figure is the mean score over several raters, with a range for the mean of such raters.",
}


def brief(table: ScoreTable) -> str | None:
    """What the separate estimate is, in a few words; None where there is none."""
    return _said(table, _OTHER_BRIEF)


def sentence(table: ScoreTable) -> str | None:
    """The start of a sentence that the separate estimate and its range complete; None where there is none."""
    return _said(table, _OTHER_LONG)


def _said(table: ScoreTable, words: dict[str, str]) -> str | None:
    found = table.intervals
    if found is None or found.other is None:
        return None
    known = {"eloundou-2023:human": "labels from people", "sample": "the sample's own labels"}
    of = found.other.of or ""
    labels = known.get(of, f"labels from {model_name(of)}")
    return words[found.other.name].format(model=_model(table), labels=labels)


def _model(table: ScoreTable) -> str:
    return model_name(table.model).split(",")[0]


def describe(table: ScoreTable) -> dict[str, Any] | None:
    """What a methodology says about the intervals; None where none were asked for."""
    found = table.intervals
    if found is None:
        return None
    document = found.describe()
    document["own"] |= {
        "words": _OWN_BRIEF,
        "how_to_read": f"{_OWN_READ[found.own.noise].format(model=_model(table))} {_RIGHT}",
    }
    if found.other is not None:
        document["other"] |= {"words": brief(table), "how_to_read": _said(table, _OTHER_READ)}
    return document
