"""What moved since a baseline, as an export lists it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from relabel.run import Run
from relabel.scoring.decomposition import PARTS, Moved, what_moved
from relabel.scoring.score import is_partial
from relabel.scoring.table import ScoreTable

_FIGURES = {
    "score_10": {"alpha": "strict_10", "gamma": "with_tools_10"},
    "percentile": {"alpha": "percentile_alpha", "gamma": "percentile_gamma"},
    "wage_exposure_gbp": {m: f"wage_exposure_{m}_gbp" for m in ("alpha", "beta", "gamma")},
}
"""Figures of a score table that follow from each measure."""
_MOST = 1e-12
"""Changes below this are noise of binary fractions."""


def changes_frame(before: ScoreTable, after: ScoreTable) -> tuple[pd.DataFrame, Moved]:
    """Every score of two tables with its change, and what moved it.

    Args:
        before: The baseline's table.
        after: The table of the export.

    Returns:
        One row a group and measure that either table has, by code: `code, title, measure, before, after, change` (0-1),
        the parts of the change (`labels, tasks, weights, bridge, rounding, undivided`, which add up to it), then before
        and after of the figures that follow (`score_10, percentile, wage_exposure_gbp`), `reason` (why a score is missing
        on one side) and `note`. And what moved, as the decomposition found it.

    Raises:
        UsageError: The tables cannot be compared.
    """
    moved = what_moved(before, after)
    frame = moved.frame.copy()
    frame["reason"] = pd.Series(None, index=frame.index, dtype="str")
    measures = [str(m) for m in frame["measure"].unique()]
    for alone, side, table in ((moved.appeared, "after", after), (moved.disappeared, "before", before)):
        scores = table.frame.set_index("code")
        for code, title, reason in alone.itertuples(index=False):
            rows = [
                {"code": code, "title": title, "measure": m, side: float(scores.loc[code, m]), "reason": reason}  # pyright: ignore[reportArgumentType]  one cell
                for m in measures
            ]
            frame = pd.concat([frame, pd.DataFrame(rows)], ignore_index=True)
    parts = ["change", *PARTS]
    frame[parts] = frame[parts].mask(frame[parts].abs() < _MOST, 0.0)
    for figure, by_measure in _FIGURES.items():
        for side, table in (("before", before), ("after", after)):
            scores = table.frame.set_index("code")
            frame[f"{figure}_{side}"] = float("nan")
            for measure, column in by_measure.items():
                if column in scores:
                    of_measure = frame["measure"] == measure
                    values = frame.loc[of_measure, "code"].map(scores[column].astype("float64"))
                    frame.loc[of_measure, f"{figure}_{side}"] = values
    frame["note"] = pd.Series(after.note, index=frame.index, dtype="str")
    order = {"alpha": 0, "beta": 1, "gamma": 2}
    frame["order"] = frame["measure"].map(order)
    frame = frame.sort_values(["code", "order"], ignore_index=True).drop(columns="order")
    last = ["reason", "note"]
    return frame[[*(c for c in frame.columns if c not in last), *last]], moved


def describe_baseline(run: Run, table: ScoreTable, moved: Moved, frame: pd.DataFrame) -> dict[str, Any]:
    """What a methodology says about the baseline."""
    changed = frame[frame["change"].fillna(0) != 0]
    return {
        "run": table.run,
        "model": table.model,
        "tasks": table.tasks,
        "note": table.note,
        "partial": table.partial or is_partial(run),
        "missing_measures": dict(moved.missing),
        "counts": {
            "compared": int(moved.frame["code"].nunique()),
            "changed": int(changed["code"].nunique()),
            "appeared": len(moved.appeared),
            "disappeared": len(moved.disappeared),
        },
    }
