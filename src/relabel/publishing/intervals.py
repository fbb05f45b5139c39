"""Intervals as an export shows them: columns of the table, and words that say what they are intervals for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from relabel.publishing.words import model_name
from relabel.run import Run
from relabel.scoring.table import ScoreTable
from relabel.scoring.uncertainty import Intervals, intervals

_SEED = 0
_BRIEF: Mapping[str, str] = {
    "repeats": "with repeated answers",
    "confusion": "with labels from people",
    "raters": "with other raters",
}
_LONG: Mapping[str, str] = {
    "repeats": "If {model} were asked again many times, this score would be about",
    "confusion": "With labels from people instead of {model}, this score would be about",
    "raters": "With the labels of several raters taken together, this score would be about",
}
_READ: Mapping[str, str] = {
    "repeats": "A model asked twice does not always answer alike. The range says where the score would come to lie if the "
    "model were asked again and again. It is the scatter of its answers, and says nothing of whether they are right.",
    "confusion": "The scores shown come from the labels of {model}. People labelled some of the same tasks and often chose "
    "otherwise. What is known about these differences is used to estimate the score that labels from people would give, and "
    "the range that holds it in 95 of 100 cases. The range belongs to that estimate and not to the score shown, which may lie "
    "outside it: where it does, {model} and people differ by more than chance.",
    "raters": "Several raters labelled the tasks. The range says where the mean score of such raters would come to lie.",
}
_SAMPLE = "the sample's own labels"


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A score table with the columns of its intervals.

    Attributes:
        table: The table; without those columns where no intervals were asked for.
        found: The intervals; None where none were asked for.
    """

    table: ScoreTable
    found: Intervals | None

    @classmethod
    def of(cls, table: ScoreTable, run: Run, draws: int) -> Bounded:
        """Simulate label noise, the same way each time.

        Args:
            table: A score table of the run.
            run: The run.
            draws: Number of draws, at least 100.

        Raises:
            UsageError: Too few draws.
        """
        found = intervals(table, run, draws=draws, seed=_SEED)
        bounds = found.frame.drop(columns="code").set_axis(table.frame.index)
        return cls(dataclasses.replace(table, frame=pd.concat([table.frame, bounds], axis=1)), found)

    def brief(self) -> str | None:
        """What a bound on a page spans, in a few words; None where there are no bounds."""
        return self._said(_BRIEF)

    def sentence(self) -> str | None:
        """The start of a sentence that an estimate and its range complete; None where there are no bounds."""
        return self._said(_LONG)

    def _said(self, words: Mapping[str, str]) -> str | None:
        if self.found is None or self.found.noise is None:
            return None
        said = words[self.found.noise]
        if self.table.sample:
            said = said.replace("labels from people", _SAMPLE)
        return said.format(model=model_name(self.table.model).split(",")[0])

    def describe(self) -> dict[str, Any] | None:
        """What a methodology says about the intervals; None where none were asked for."""
        if self.found is None:
            return None
        return {
            "noise": self.found.noise,
            "note": self.found.note,
            "words": self.brief(),
            "how_to_read": self._said(_READ),
            "draws": self.found.draws,
            "seed": self.found.seed,
            "totals": {name: dict(bounds) for name, bounds in self.found.totals.items()},
        }
