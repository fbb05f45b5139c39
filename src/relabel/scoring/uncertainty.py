"""Intervals: how far label noise alone could have moved the figures of a score table.

An interval holds the middle 95 % of the draws of a noise model (`relabel.scoring.noise`), which says what it is an
interval for. Bounds of figures that follow from a share (10-point scores, wage exposure) follow from the share's bounds;
those of ranks and percentiles come from ranking all groups anew in each draw.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
from scipy.stats import rankdata

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, open_run
from relabel.scoring.linear import map_of, relabelled, score_map, task_scores
from relabel.scoring.noise import Confusion, Noise, Raters, Repeats
from relabel.scoring.options import SAMPLE
from relabel.scoring.options import Noise as NoiseChoice
from relabel.scoring.ranking import CLEAN, half_up, to_places
from relabel.scoring.table import ScoreTable

LEVEL = 0.95
DRAWS = 1000
_FEWEST_DRAWS = 100
_PUBLISHED_GOLD = "eloundou-2023:human"

_TENTHS: Mapping[str, Measure] = {"strict_10": "alpha", "with_tools_10": "gamma"}
_RANKED: tuple[Measure, ...] = ("alpha", "gamma")
BOUNDED = (
    *MEASURES,
    *_TENTHS,
    *(f"wage_exposure_{measure}_gbp" for measure in MEASURES),
    *(f"percentile_{measure}" for measure in _RANKED),
    *(f"rank_{measure}" for measure in _RANKED),
)
"""Figures with an interval: each has the columns `_low` and `_high`."""
CENTRES = tuple(f"{measure}_mid" for measure in MEASURES)
"""Means of the draws: where the intervals are centred, which need not be the score shown."""

_WHOLE = ("percentile_", "rank_")


def _columns() -> dict[str, Any]:
    columns: dict[str, Any] = {"code": pa.Column("str", unique=True)}
    for name in BOUNDED:
        for end in ("low", "high"):
            kind = "Int64" if name.startswith(_WHOLE) else "float64"
            columns[f"{name}_{end}"] = pa.Column(kind, pa.Check.ge(0), nullable=True)
    return columns | {name: pa.Column("float64", pa.Check.in_range(0, 1), nullable=True) for name in CENTRES}


def _in_order(frame: pd.DataFrame) -> bool:
    return all(bool((frame[f"{name}_low"].dropna() <= frame[f"{name}_high"].dropna()).all()) for name in BOUNDED)


INTERVALS = pa.DataFrameSchema(_columns(), checks=pa.Check(_in_order, error="low <= high"), strict=True, ordered=True)
"""Intervals by code. Shares 0-1, scores 0-10, pounds a year, percentiles 0-100; rank 1 is the most exposed scored group,
and equal scores share the better rank."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Intervals of all figures of a score table.

    Attributes:
        frame: Table of schema `INTERVALS`, in the order of the score table.
        noise: Name of the noise model; None where none fits, and all intervals are missing.
        note: What the intervals are intervals for, or why there are none.
        draws: Number of draws.
        seed: Seed of the draws.
        totals: For `wage_exposure_alpha_gbp` and its like, the sum in pounds a year over the groups with a score and
            pay: `low, mid, high`; a measure that the run cannot give is left out.
        by_rater: For the model `raters`: `code, rater, alpha, beta, gamma`, the pooled score under the rater `pooled`;
            else empty.
    """

    frame: pd.DataFrame
    noise: str | None
    note: str
    draws: int
    seed: int
    totals: Mapping[str, Mapping[str, float]]
    by_rater: pd.DataFrame

    def describe(self) -> dict[str, Any]:
        """All but the bounds of single groups, as plain values: what the intervals are for, and those of the totals."""
        return {
            "noise": self.noise,
            "note": self.note,
            "level": LEVEL,
            "draws": self.draws,
            "seed": self.seed,
            "totals": {name: dict(bounds) for name, bounds in self.totals.items()},
        }


def with_intervals(
    table: ScoreTable,
    run: Run,
    *,
    noise: NoiseChoice = "auto",
    gold: Run | None = None,
    raters: Sequence[Run] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> ScoreTable:
    """A score table with intervals: those of `intervals`, put in by `bounded`."""
    found = intervals(table, run, noise=noise, gold=gold, raters=raters, draws=draws, seed=seed)
    return bounded(table, found)


def bounded(table: ScoreTable, found: Intervals) -> ScoreTable:
    """Put intervals into the score table that they were made for.

    Args:
        table: The score table.
        found: Its intervals.

    Returns:
        The table with the columns of `INTERVALS` after its own, and with a note that names the noise model.
    """
    notes = (*table.notes, found.note)
    frame = table.frame.assign(note=pd.Series("; ".join(notes), index=table.frame.index, dtype="str"))
    bounds = found.frame.drop(columns="code").set_axis(frame.index)
    return dataclasses.replace(table, frame=pd.concat([frame, bounds], axis=1), notes=notes)


def intervals(
    table: ScoreTable,
    run: Run,
    *,
    noise: NoiseChoice = "auto",
    gold: Run | None = None,
    raters: Sequence[Run] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """Simulate label noise and carry it to every figure.

    Args:
        table: A score table of the run.
        run: The run.
        noise: The model. `auto` takes `raters` where raters are given; else `confusion` where a gold is given; else
            `repeats` where the run has several samples; else `confusion` against the human labels of 2023, or the
            sample's own gold; and gives missing intervals, with the reason, where nothing fits.
        gold: For `confusion`; by default as under `auto`.
        raters: For `raters`: other runs; the run itself is one more.
        draws: Number of draws, at least 100.
        seed: Seed of the draws, 0 or more; the same seed gives the same intervals.

    Returns:
        The intervals.

    Raises:
        UsageError: The choices do not go together.
        DataError: The labels do not suffice for the model.
    """
    if draws < _FEWEST_DRAWS:
        raise UsageError(f"{draws} draws give no 95 % interval; ask for {_FEWEST_DRAWS} or more with --draws")
    if seed < 0:
        raise UsageError(f"the seed {seed} is below 0; give a whole number of 0 or more with --seed")
    try:
        model = _model(table, run, noise, gold, raters)
    except (DataError, UsageError) as error:
        if noise != "auto" or gold is not None or raters:
            raise
        return _none(table, str(error), draws, seed)
    mapped = score_map(table)
    drawn = model.draw(mapped, draws, seed)
    for number, measure in enumerate(MEASURES):
        if measure in table.missing_measures:
            drawn[number] = np.nan
    frame, totals = _bounds(table, drawn)
    note = f"intervals hold 95 % of {draws:,} draws of label noise ({model.name}): {model.estimand}"
    by_rater = _by_rater(table, model) if isinstance(model, Raters) else _no_raters()
    return Intervals(frame, model.name, note, draws, seed, totals, by_rater)


def _model(table: ScoreTable, run: Run, noise: NoiseChoice, gold: Run | None, raters: Sequence[Run]) -> Noise:
    if gold is not None and noise not in ("auto", "confusion"):
        raise UsageError(
            f"a gold says nothing to the noise model {noise}; leave --gold out, or choose --noise confusion"
        )
    if raters and noise not in ("auto", "raters"):
        raise UsageError(f"raters say nothing to the noise model {noise}; leave --rater out, or choose --noise raters")
    if gold is not None and raters:
        raise UsageError("raters and a gold are two models of noise; leave either --rater or --gold out")
    if noise == "raters" or raters:
        return _raters(table, run, raters)
    if noise == "confusion" or gold is not None:
        return Confusion(run, gold or _default_gold(run), table.task_values)
    if noise == "repeats" or run.answers()["sample"].nunique() > 1:
        return Repeats(run, table.task_values)
    return Confusion(run, _default_gold(run), table.task_values)


def _default_gold(run: Run) -> Run:
    gold = SAMPLE if run.manifest.tasks == SAMPLE else _PUBLISHED_GOLD
    if run.ref == gold:
        raise UsageError(
            f"{gold} has one label a task and is its own gold; name raters with --rater RUN, or a gold with --gold G"
        )
    return open_run(gold)


def _raters(table: ScoreTable, run: Run, others: Sequence[Run]) -> Raters:
    names, scores = [run.name], [task_scores(score_map(table), table.task_values)]
    for other in others:
        if (other.manifest.tasks == SAMPLE) != table.sample:
            raise UsageError(
                f"{other.ref} and {run.ref} labelled other task lists: the sample goes with the sample only"
            )
        if other.name in names:
            raise UsageError(f"the rater {other.ref} is given twice; name each once")
        tasks = relabelled(table.task_values, other)
        mapped = map_of(tasks, table.bridge, pd.Index(table.frame["code"]))
        names.append(other.name)
        scores.append(task_scores(mapped, tasks))
    return Raters(names, np.stack(scores))


def _bounds(table: ScoreTable, drawn: npt.NDArray[np.float64]) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Intervals of all figures, and of the totals.

    Args:
        table: The score table.
        drawn: Measures by groups by draws.
    """
    frame = pd.DataFrame({"code": table.frame["code"].astype("str")})
    share = {measure: _quantiles(drawn[number]) for number, measure in enumerate(MEASURES)}
    centre = drawn.mean(axis=2)
    if table.method == "site-2026":
        # As the site's shares: everything else follows from shares of two decimals.
        share = {measure: np.vectorize(to_places(2), otypes=[float])(found) for measure, found in share.items()}
        centre = np.vectorize(to_places(2), otypes=[float])(centre)
    pay = (table.frame["employees"].astype("float64") * table.frame["median_pay_gbp"]).to_numpy(dtype="float64")
    scored = table.frame["status"].str.startswith("scored").to_numpy(dtype=bool)
    found: dict[str, npt.NDArray[np.float64]] = dict(share)
    found |= {name: np.vectorize(to_places(1), otypes=[float])(10 * share[m]) for name, m in _TENTHS.items()}
    totals: dict[str, dict[str, float]] = {}
    number = int(scored.sum())
    for measure, draws in zip(MEASURES, drawn, strict=True):
        name = f"wage_exposure_{measure}_gbp"
        found[name] = (share[measure] * pay).round(2)
        counted = ~np.isnan(pay) & ~np.isnan(draws).any(axis=1)
        if counted.any():
            total = pay[counted] @ draws[counted]
            low, high = (float(bound) for bound in np.quantile(total, _levels()))
            totals[name] = {"low": low, "mid": float(total.mean()), "high": high}
        if measure in _RANKED:
            of = _ranks(draws, scored)
            found[f"rank_{measure}"] = _whole(_quantiles(of["best"]))
            found[f"percentile_{measure}"] = _whole(_quantiles(100 * of["below"] / max(number, 1)))
    for name in BOUNDED:
        for row, end in enumerate(("low", "high")):
            bound = pd.Series(found[name][row])
            frame[f"{name}_{end}"] = bound.astype("Int64") if name.startswith(_WHOLE) else bound
    for name, means in zip(CENTRES, centre, strict=True):
        frame[name] = means
    return INTERVALS.validate(frame), totals


def _levels() -> list[float]:
    return [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


def _quantiles(draws: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Low and high of each group: 2 by groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group without a score has missing draws alone
        return (
            np.nanquantile(draws, _levels(), axis=1) if np.isnan(draws).any() else np.quantile(draws, _levels(), axis=1)
        )


def _whole(bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.vectorize(lambda value: value if np.isnan(value) else half_up(value, 0), otypes=[float])(bounds)


def _ranks(draws: npt.NDArray[np.float64], scored: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.float64]]:
    """Place of each group in each draw among the scored groups: `best` (1 is the most exposed), and number `below`."""
    missing = np.full(draws.shape, np.nan)
    places = {"best": missing, "below": missing.copy()}
    if np.isnan(draws[scored]).any() or not scored.any():
        return places
    # Groups behind which stand the same tasks are equal but for noise of the sums.
    clean = draws[scored].round(CLEAN // 2)
    places["best"][scored] = rankdata(-clean, method="min", axis=0)
    places["below"][scored] = rankdata(clean, method="min", axis=0) - 1
    return places


def _by_rater(table: ScoreTable, model: Raters) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"code": table.frame["code"], "rater": name, **dict(zip(MEASURES, scores, strict=True))})
        for name, scores in [*zip(model.names, model.scores, strict=True), ("pooled", model.pooled)]
    ]
    return pd.concat(parts, ignore_index=True)


def _no_raters() -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in ("code", "rater", *MEASURES)})


def _none(table: ScoreTable, why: str, draws: int, seed: int) -> Intervals:
    frame, _ = _bounds(table, np.full((len(MEASURES), len(table.frame), 1), np.nan))
    return Intervals(frame, None, f"no intervals: {why}", draws, seed, {}, _no_raters())
