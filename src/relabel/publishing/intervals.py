"""Intervals as an export shows them: columns of the table, and words that say what they are intervals for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from relabel.run import Run
from relabel.scoring.table import ScoreTable
from relabel.scoring.uncertainty import Intervals, intervals

_SEED = 0
_WORDS: Mapping[str, str] = {
    "repeats": "Range with repeated answers of the same model",
    "confusion": "Range with labels by the reference raters",
    "raters": "Range with other raters",
}
"""What the bounds of a noise model span, on a page; the method says it at length."""


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

    def words(self) -> str | None:
        """What a bound on a page spans; None where there are no bounds."""
        return None if self.found is None or self.found.noise is None else _WORDS[self.found.noise]

    def describe(self) -> dict[str, Any] | None:
        """What a methodology says about the intervals; None where none were asked for."""
        if self.found is None:
            return None
        return {
            "noise": self.found.noise,
            "note": self.found.note,
            "words": self.words(),
            "draws": self.found.draws,
            "seed": self.found.seed,
            "totals": {name: dict(bounds) for name, bounds in self.found.totals.items()},
        }
