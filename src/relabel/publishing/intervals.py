"""Intervals as an export shows them: words that say what they are intervals for."""

from __future__ import annotations

from typing import Any

from relabel.publishing.words import model_name
from relabel.scoring.table import ScoreTable

_OWN_BRIEF = "95 % interval"
_OWN_READ = {
    "repeats": "A model asked twice does not always answer alike. The 95 % interval of a score holds what the score would be if the "
    "model were asked about all tasks again and again.",
    "single": "The 95 % interval of a score holds what the score would be if {model} were asked about all tasks again and again. Each "
    "task was asked once, so how much answers vary cannot be seen: it is taken at its largest, and the interval is rather "
    "too wide than too narrow.",
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
