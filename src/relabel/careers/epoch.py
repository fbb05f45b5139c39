"""Ratings of human advantage by occupation, from a run of a rubric that rates occupations such as `epoch`."""

from __future__ import annotations

import pandas as pd

from relabel.errors import UsageError
from relabel.run import Run

LOWEST, HIGHEST = 5, 25
"""Bounds of the sum of the ratings, on which cut-points and pages rest."""
TOTAL = "total"
"""Column of the sum."""


def occupation_ratings(run: Run) -> pd.DataFrame:
    """The ratings of each occupation that has all of them.

    Repeats of a question are averaged, so that a rating may lie between two labels. An occupation that lacks a dimension
    is left out: a sum over four is no sum over five.

    Args:
        run: A run of a rubric of the unit `occupation` whose sums lie between `LOWEST` and `HIGHEST`.

    Returns:
        Indexed by O*NET-SOC code, sorted: one float64 column a dimension, in the rubric's order, and `total`.

    Raises:
        UsageError: The run labelled tasks, or its ratings add up on another scale.
    """
    rubric = run.rubric
    if rubric.unit != "occupation":
        raise UsageError(
            f"the run {run.ref} labels tasks (rubric {rubric.id}) and rates no occupations; give a run of "
            "`relabel run --rubric epoch` to --epoch"
        )
    scale = [len(rubric.settings) * bound(int(label) for label in rubric.labels) for bound in (min, max)]
    if scale != [LOWEST, HIGHEST]:
        raise UsageError(
            f"the ratings of the rubric {rubric.id} add up to {scale[0]} to {scale[1]}, and resilience is scored on "
            f"{LOWEST} to {HIGHEST}; give a run of the rubric epoch to --epoch"
        )
    labels = run.labels.assign(rating=run.labels["label"].astype("float64"))
    wide = labels.pivot_table(index="onet_soc_code", columns="setting", values="rating", aggfunc="mean")
    whole = wide.reindex(columns=list(rubric.settings)).dropna().sort_index()
    whole.columns.name = None
    return whole.assign(**{TOTAL: whole.sum(axis=1)})
