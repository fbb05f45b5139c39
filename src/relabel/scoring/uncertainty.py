"""Intervals of a score table, of two kinds.

The score's own interval always contains it (`alpha_low`, `alpha_high`): the expected score if the run asked all tasks again
and again (`noise.ResponseNoise`). If there is a gold or several raters, the table also estimates the score that *their*
labels would give, with an interval (`alpha_gold`, `alpha_gold_low`, `alpha_gold_high`; or `alpha_pooled` and so on). The
run's score may be outside that interval: then the run and the gold differ by more than chance.

An interval is the central 95% of the draws of a noise model. Bounds of figures derived from a share (10-point scores, wage
exposure) are derived from its bounds; for ranks and percentiles, all groups are ranked again in each draw.

`sampling_error` and `major_groups` are for tasks that were sampled at random.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, open_run
from relabel.scoring.measures import READING_MEASURES, Floats
from relabel.scoring.options import SAMPLE
from relabel.scoring.options import Noise as NoiseChoice
from relabel.scoring.table import MIN_COVERAGE, ScoreTable, insert_columns
from relabel.settings import Frozen, settings
from relabel.sources.fetch import cached_frame
from relabel.tabular import CLEAN, half_up_all, records
from relabel.task import TASK_KEY

if TYPE_CHECKING:
    from relabel.scoring.noise import Confusion, Noise, Raters


LEVEL = 0.95
_QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DRAWS = 1000
_MIN_DRAWS = 100
# The default gold: human labels.
HUMAN_GOLD = "eloundou-2023:human"

_TEN_POINT: Mapping[str, Measure] = {f"{reading}_10": measure for reading, measure in READING_MEASURES.items()}
_RANKED = tuple(READING_MEASURES.values())
# Figures that are also estimated for a gold or for all raters, with an interval.
ESTIMATED = (*MEASURES, *_TEN_POINT, *(f"wage_exposure_{measure}_gbp" for measure in MEASURES))
# Figures with an interval of their own: each has the columns `_low` and `_high`.
BOUNDED = (
    *ESTIMATED,
    *(f"percentile_{measure}" for measure in _RANKED),
    *(f"rank_{measure}" for measure in _RANKED),
)
_Totals = dict[str, dict[str, float]]


class Estimate(Frozen):
    """What a set of interval columns estimates.

    Attributes:
        name: Suffix of the columns: `gold` or `pooled`; empty for the score's own interval.
        noise: Name of the noise model: `single`, `repeats`, `confusion` or `raters`.
        of: Whose labels are estimated: a gold, or raters; None for the score's own interval.
        note: What the figures are, in words.
        totals: `low, mid, high` (pounds a year) of `wage_exposure_alpha_gbp` and so on, over the scored groups with pay;
            measures that the run cannot give are left out.
    """

    name: Literal["", "gold", "pooled"]
    noise: str
    of: str | None
    note: str
    totals: Mapping[str, Mapping[str, float]]

    @property
    def whose(self) -> Literal["mean", "people", "gold"]:
        """Its name in a heading."""
        return "mean" if self.name == "pooled" else "people" if self.of == HUMAN_GOLD else "gold"

    def describe(self) -> dict[str, Any]:
        """As plain values; `name` is called `columns`, and omitted if empty."""
        document = self.model_dump()
        name = document.pop("name")
        return {"columns": name} | document if name else document


class Intervals(Frozen):
    """What the interval columns of a score table estimate.

    Attributes:
        draws: Number of draws.
        seed: Seed of the draws.
        own: The score's own interval.
        other: The estimate for a gold, or for all raters; None if there is none.
        why_no_other: Why there is no other estimate; empty if there is one, or none was requested.
        by_rater: For several raters, rows of `code, rater, alpha, beta, gamma`, with their mean as the rater `pooled`;
            otherwise empty.
    """

    draws: int
    seed: int
    own: Estimate
    other: Estimate | None
    why_no_other: str
    by_rater: tuple[dict[str, Any], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Caveats that every reader of the table must know."""
        return tuple(filter(None, (self.own.note, self.other and self.other.note, self.why_no_other)))

    def describe(self) -> dict[str, Any]:
        """Everything except the bounds of single groups, as plain values."""
        document = {"level": LEVEL} | self.model_dump(exclude={"by_rater"})
        return document | {"own": self.own.describe(), "other": self.other and self.other.describe()}


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
    """Add intervals to a score table, by simulating label noise.

    Args:
        table: A score table of the run.
        run: The run.
        noise: What to estimate besides the score. `confusion`: the score by the labels of a gold; `raters`: the mean over
            several raters; `repeats`: nothing, for a run with several samples. `auto` is `raters` if raters are given,
            otherwise `confusion`; if the default gold does not fit, there is no estimate but a reason.
        gold: For `confusion`; by default the human labels of 2023, or the gold of the sample.
        raters: For `raters`: other runs, in addition to the run itself.
        draws: Number of draws, at least 100.
        seed: Seed of the draws, 0 or more; the same seed gives the same intervals.

    Returns:
        The table with bounds after each figure in `BOUNDED`, followed by estimates and bounds for a gold or for all raters
        of each figure in `ESTIMATED`.

    Raises:
        UsageError: The choices cannot be combined.
        DataError: There are too few labels for the model.
    """
    if draws < _MIN_DRAWS:
        raise UsageError(f"{draws} draws are too few for a 95% interval; give --draws {_MIN_DRAWS} or more")
    if seed < 0:
        raise UsageError(f"the seed {seed} is below 0; give a whole number of 0 or more with --seed")
    other_runs = [*filter(None, [gold]), *raters]
    if not other_runs and noise in ("auto", "confusion"):
        with contextlib.suppress(DataError, UsageError):  # `_simulate` says why there is none
            other_runs = [_default_gold(run)]
    path = _cache_path(table, [run, *other_runs], [noise, gold is not None, draws, seed])

    def make() -> pd.DataFrame:
        added, about = _simulate(table, run, noise, gold, raters, draws, seed)
        return pd.DataFrame(added).assign(about=about.model_dump_json())

    added = cached_frame(path, make).set_axis(table.frame.index)
    intervals = Intervals.model_validate_json(added.pop("about").iloc[0])
    notes = (*table.notes, *intervals.notes)
    frame = table.frame.assign(note=pd.Series("; ".join(notes), index=table.frame.index, dtype="str"))
    return dataclasses.replace(
        table, frame=insert_columns(frame, {str(name): added[name] for name in added}), notes=notes, intervals=intervals
    )


# Increased when the computation of intervals changes, so that earlier cache entries are ignored.
_CACHE_VERSION = 12


def _cache_path(table: ScoreTable, runs: Sequence[Run], choices: Sequence[object]) -> Path:
    """Path of cached intervals, named by a hash of everything that they depend on."""
    about = [
        [run.ref, run.manifest.tasks, run.manifest.model, run.rubric.sha256, is_random_sample(run)] for run in runs
    ]
    made_by = [table.method, table.taxonomy, table.links, table.repeats, table.wage, table.spread is not None]
    text = json.dumps([_CACHE_VERSION, version("numpy"), about, choices, made_by, sorted(table.missing_measures)])
    key = hashlib.sha256(text.encode())
    labels = (run.labels[[*TASK_KEY, "setting", "sample", "label"]] for run in runs)
    parts = [
        table.frame.drop(columns="note"),
        table.task_values[[*TASK_KEY, "text", "labelled", "weight", *MEASURES]],
        *labels,
    ]
    for part in parts:
        key.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
    full = table.full_map
    for array in (full.group, full.source, full.share, full.weight):
        key.update(np.ascontiguousarray(array).tobytes())
    return settings().download_dir / "intervals" / f"{key.hexdigest()}.parquet"


def _simulate(
    table: ScoreTable,
    run: Run,
    noise: NoiseChoice,
    gold: Run | None,
    raters: Sequence[Run],
    draws: int,
    seed: int,
) -> tuple[dict[str, pd.Series], Intervals]:
    """Compute interval columns, by name, and what they estimate."""
    from relabel.scoring.noise import Raters, ResponseNoise

    other, error, reason = None, None, ""
    if run.is_pooled:
        model = _raters(table, run, raters)
        note = f"intervals cover 95% of {draws:,} draws of {model.estimand}; they include the sampling of tasks"
        lacking = np.isnan(model.pooled[:, table.has_status("scored")])
        if (lacking.any(axis=1) & ~lacking.all(axis=1)).any():
            note += "; groups that not every rater scores have none, and neither have totals with such groups"
    else:
        model = ResponseNoise(run, table.task_values)
        if noise == "repeats" and not model.repeated:
            raise UsageError(
                f"{run.name} has one answer a task (others from a gateway's cache do not count), so it shows no scatter; run it "
                "with --samples 5, or remove --noise"
            )
        try:
            other = _other_model(table, run, noise, gold, raters)
        except (DataError, UsageError) as failed:
            if noise != "auto" or gold is not None or raters:
                raise
            reason = f"no estimate of what people's labels would give: {failed}"
        note = f"intervals cover 95% of {draws:,} draws of {model.estimand}"
        if is_random_sample(run):
            error = sampling_error(table)
            note += (
                "; they are at least as wide as the sampling error of tasks drawn at random within their occupations"
            )
        if table.spread is not None:
            note += "; the spread over bridges is added to those of scores and wage exposure"
    added, totals = _own_bounds(table, model, _draw(model, table, draws, seed), error)
    own, estimate = Estimate(name="", noise=model.name, of=None, note=note, totals=totals), None
    if other is not None:
        drawn = _draw(other, table, draws, seed)
        suffix, centre = ("pooled", other.pooled) if isinstance(other, Raters) else ("gold", drawn.mean(axis=2))
        columns, totals = _estimates(table, other, drawn, centre, suffix)
        added |= columns
        measured = "" if isinstance(other, Raters) else _measured_totals(table, run, other.gold)
        note = f"columns _{suffix}: {other.estimand}; the score shown may lie outside their intervals{measured}"
        estimate = Estimate(name=suffix, noise=other.name, of=other.labels_of, note=note, totals=totals)
    by_rater = [
        pd.DataFrame({"code": table.frame["code"], "rater": name, **dict(zip(MEASURES, scores, strict=True))})
        for source in (model, other)
        if isinstance(source, Raters)
        for name, scores in [*zip(source.names, source.scores, strict=True), ("pooled", source.pooled)]
    ]
    rated = tuple(row for frame in by_rater for row in records(frame))
    return added, Intervals(draws=draws, seed=seed, own=own, other=estimate, why_no_other=reason, by_rater=rated)


def _measured_totals(table: ScoreTable, run: Run, gold: Run) -> str:
    """What the labels of a gold give themselves, if it labelled each task that the run did; otherwise empty."""
    _, tasks = table.tasks_by_rater(run, [gold]).values() if gold.name != run.name else (None, None)
    counted = table.has_status("scored") & table.wage_bill.notna().to_numpy(dtype=bool)
    if tasks is None or not tasks.loc[table.task_values["labelled"], "labelled"].all() or not counted.any():
        return ""
    scores = dict(zip(MEASURES, table.map_of(tasks).scores(tasks), strict=True))
    figures = _derived_figures(table, scores)
    sums = {m: np.nansum(figures[f"wage_exposure_{m}_gbp"][counted]) for m in MEASURES if not np.isnan(scores[m]).all()}
    totals = ", ".join(f"{measure} GBP {total / 1e9:.1f}bn" for measure, total in sums.items())
    return f"; {gold.name} labelled all these tasks itself: by its own labels, wage exposure is {totals}"


def _draw(model: Noise, table: ScoreTable, draws: int, seed: int) -> Floats:
    """Draws of scores, measures x groups x draws; NaN for groups and measures without a score in the table."""
    drawn = model.draw(table.full_map, draws, seed)
    drawn[[measure in table.missing_measures for measure in MEASURES]] = np.nan
    drawn[:, table.frame[list(MEASURES)].isna().all(axis=1).to_numpy(dtype=bool)] = np.nan
    return drawn


def _other_model(
    table: ScoreTable, run: Run, noise: NoiseChoice, gold: Run | None, raters: Sequence[Run]
) -> Confusion | Raters | None:
    fitting = {"confusion"} if gold is not None else {"raters"} if raters else {noise}
    if noise not in fitting | {"auto"} or (gold is not None and raters):
        raise UsageError("--gold goes with --noise confusion, --rater with --noise raters; remove what does not fit")
    if noise == "repeats":
        return None
    if noise == "raters" or raters:
        return _raters(table, run, raters)
    from relabel.scoring.noise import Confusion

    return Confusion(run, gold or _default_gold(run), table.task_values)


def _default_gold(run: Run) -> Run:
    gold = SAMPLE if run.manifest.tasks == SAMPLE else HUMAN_GOLD
    if run.ref == gold:
        raise UsageError(f"{gold} is its own gold; name another with --gold, or raters with --rater")
    return open_run(gold)


def _raters(table: ScoreTable, run: Run, others: Sequence[Run], *, joint: bool = False) -> Raters:
    from relabel.scoring.noise import Raters

    rows = _scores_by_run(table, run, others)
    names, scores = list(rows)[run.is_pooled :], list(rows.values())[run.is_pooled :]
    return Raters(
        names,
        np.stack(scores) if scores else np.empty(0),
        sampling_error(table) if run.is_pooled else None,
        joint=joint,
    )


def _scores_by_run(table: ScoreTable, run: Run, others: Sequence[Run]) -> dict[str, Floats]:
    """Scores (measures x groups) of a run and of others on its tasks, by run name.

    NaN where labels cover less than half of what the run's cover: a score from a few tasks would pass for a difference of raters.
    """
    tasks_by_rater, whole = table.tasks_by_rater(run, others), table.full_map
    maps = {name: table.map_of(tasks) for name, tasks in tasks_by_rater.items()}
    covered = {name: whole.shares @ (mapped.mass / np.maximum(whole.mass, 1e-12)) for name, mapped in maps.items()}
    least = MIN_COVERAGE * covered[run.name] - 1e-9
    return {n: np.where(covered[n] >= least, maps[n].scores(tasks), np.nan) for n, tasks in tasks_by_rater.items()}


def _seed(run: Run) -> int:
    return int(run.manifest.parameters.get("seed") or 0)


def rater_draws(table: ScoreTable, run: Run, raters: Sequence[Run], draws: int) -> Floats:
    """Draws of the scores over raters, jointly for all groups; measures x groups x draws."""
    return _draw(_raters(table, run, raters, joint=True), table, draws, _seed(run))


def with_raters(table: ScoreTable, run: Run, raters: Sequence[Run], draws: int = DRAWS) -> ScoreTable:
    """Add the range of scores over its raters to the table of a pooled run; the seed of draws is the run's.

    Returns:
        The table with `alpha_models_low, alpha_models_high` after `alpha`, and so on: the lowest and the highest score by
        a single rater. With three raters or more it also has intervals, which cover differences between raters and task
        sampling.
    """
    from relabel.scoring.noise import MIN_RATERS

    if draws and len(raters) >= MIN_RATERS:
        table = with_intervals(table, run, noise="raters", raters=raters, draws=draws, seed=_seed(run))
    _, *scores = _scores_by_run(table, run, raters).values()
    added = {
        f"{measure}_models_{end}": pd.Series(bounds, index=table.frame.index).where(table.frame[measure].notna())
        for end, pick in (("low", np.fmin), ("high", np.fmax))
        for measure, bounds in zip(MEASURES, pick.reduce(scores), strict=True)
    }
    return dataclasses.replace(table, frame=insert_columns(table.frame, added))


def _derived_figures(table: ScoreTable, share: Mapping[Measure, Floats]) -> dict[str, Floats]:
    """The figures in `ESTIMATED`, derived from scores (0-1, anything x groups)."""
    pay = table.wage_bill.to_numpy(dtype="float64")
    if table.method == "site-2026":  # the site derived all other figures from scores rounded to two decimals
        share = {measure: half_up_all(values, 2) for measure, values in share.items()}
    return (
        dict(share)
        | {name: half_up_all(10 * share[measure], 1) for name, measure in _TEN_POINT.items()}
        | {f"wage_exposure_{measure}_gbp": (share[measure] * pay).round(2) for measure in MEASURES}
    )


def _own_bounds(
    table: ScoreTable, model: Noise, drawn: Floats, error: Floats | None
) -> tuple[dict[str, pd.Series], _Totals]:
    """Bounds of all figures, widened to contain them, and of the totals.

    Widening is needed because draws are centred on a shrunken score, slightly further from 0 or 1 than the score itself.
    """
    share: dict[Measure, Floats] = {}
    for number, measure in enumerate(MEASURES):
        shown = table.frame[measure].to_numpy(dtype="float64")
        bounds = _widen_to_contain(_quantiles(drawn[number]), shown)
        if error is not None:
            half = 1.96 * error[number]
            bounds = np.clip([np.minimum(bounds[0], shown - half), np.maximum(bounds[1], shown + half)], 0, 1)
        if table.spread is not None:
            others = table.frame[[f"{measure}_bridges_low", f"{measure}_bridges_high"]].to_numpy(dtype="float64").T
            bounds = np.clip(bounds + others - shown, 0, 1)
        share[measure] = bounds
    figures = _derived_figures(table, share)
    scored = table.has_status("scored")
    for measure in _RANKED:
        best, below = _ranks(drawn[MEASURES.index(measure)], scored)
        figures[f"rank_{measure}"] = half_up_all(_quantiles(best), 0)
        figures[f"percentile_{measure}"] = half_up_all(_quantiles(100 * (below + 1) / max(int(scored.sum()), 1)), 0)
    columns: dict[str, pd.Series] = {}
    for name in BOUNDED:
        values = np.asarray(table.frame[name].astype("float64"), dtype=np.float64)
        for end, bound in zip(("low", "high"), _widen_to_contain(figures[name], values), strict=True):
            column = pd.Series(bound, index=table.frame.index)
            columns[f"{name}_{end}"] = column.astype("Int64") if name.startswith(("percentile_", "rank_")) else column
    return columns, _totals(table, model, drawn, table.frame[list(MEASURES)].to_numpy(dtype="float64").T)


def _widen_to_contain(bounds: Floats, shown: Floats) -> Floats:
    """Widen bounds (2 x groups) to contain the figures shown; NaN where there is no figure."""
    low, high = np.fmin(bounds[0], shown), np.fmax(bounds[1], shown)
    missing = np.isnan(shown) | np.isnan(bounds).any(axis=0)
    return np.where(missing, np.nan, np.stack([low, high]))


def _estimates(
    table: ScoreTable, model: Noise, drawn: Floats, centre: Floats, suffix: str
) -> tuple[dict[str, pd.Series], _Totals]:
    """Estimates with their bounds, as columns with a suffix, and the totals with theirs."""
    share: dict[Measure, Floats] = {
        measure: np.stack([centre[number], *_widen_to_contain(_quantiles(drawn[number]), centre[number])])
        for number, measure in enumerate(MEASURES)
    }
    figures = _derived_figures(table, share)
    columns = {
        f"{name}_{suffix}{end}": pd.Series(row, index=table.frame.index)
        for name in ESTIMATED
        for end, row in zip(("", "_low", "_high"), figures[name], strict=True)
    }
    return columns, _totals(table, model, drawn, centre)


def _totals(table: ScoreTable, model: Noise, drawn: Floats, centre: Floats) -> _Totals:
    """Totals of the centre (measures x groups), with intervals around it: draws that are cut off at 0 or 1 have another mean.

    There is none unless each scored group with pay has draws. Over raters it is the t interval of their own totals: what their draws add by group, independently, cancels out in a sum.
    """
    from relabel.scoring.noise import Raters

    pay, scored = table.wage_bill.to_numpy(dtype="float64"), table.has_status("scored")
    totals: _Totals = {}
    for number, (measure, draws, middle) in enumerate(zip(MEASURES, drawn, centre, strict=True)):
        counted = scored & ~np.isnan(pay)
        # Where a rater has no score for some group, a total over the others is not that of the table.
        if counted.any() and not np.isnan(draws[counted]).any():
            total, mid = pay[counted] @ draws[counted], float(pay[counted] @ middle[counted])
            bounds = np.quantile(total - total.mean() + mid, _QUANTILES)
            if isinstance(model, Raters):
                weights = np.where(counted, pay, 0.0)
                error = 0.0 if model.error is None else sampling_error(table, weights)[number, 0]
                bounds = mid + np.array([-1, 1]) * model.half_width(weights, number, error)
            low, high = np.clip(bounds, 0, pay[counted].sum()).tolist()
            totals[f"wage_exposure_{measure}_gbp"] = {"low": min(low, mid), "mid": mid, "high": max(high, mid)}
    return totals


def _quantiles(draws: Floats) -> Floats:
    """Lower and upper quantile of each group; 2 x groups."""
    bounds = np.full((2, len(draws)), np.nan)
    complete = ~np.isnan(draws).any(axis=1)
    bounds[:, complete] = np.quantile(draws[complete], _QUANTILES, axis=1)
    return bounds


def _ranks(draws: Floats, scored: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Rank of each group among the scored groups (1 is the most exposed), and the number of groups below; groups x draws."""
    best, below = np.full(draws.shape, np.nan), np.full(draws.shape, np.nan)
    if scored.any() and not np.isnan(draws[scored]).any():
        # Groups with the same tasks have equal scores except for floating-point noise.
        clean = pd.DataFrame(draws[scored].round(CLEAN // 2))
        best[scored] = clean.rank(ascending=False, method="min")
        below[scored] = clean.rank(method="min") - 1
    return best, below


def is_random_sample(run: Run) -> bool:
    """Whether the run labelled a random sample of its whole task list."""
    chosen = run.manifest.parameters
    return bool(chosen.get("sample")) and not chosen.get("occupations")


def sampling_error(table: ScoreTable, weights: Floats | None = None) -> Floats:
    """Design-based standard errors of the scores (measures x groups), for tasks sampled at random.

    With `weights` of the groups, those of the weighted sum of all scores (measures x 1).

    Each occupation is a stratum of a finite population of tasks: its weighted mean has the linearised variance of a ratio,
    times the share of its tasks without a label. An occupation with fewer than two labels uses the variance of the tasks
    of its major group (collapsed strata), as if it had one label.
    """
    full, tasks = table.full_map, table.task_values
    major, majors = pd.factorize(full.occupations.str[:2])
    drawn = tasks["labelled"].to_numpy(dtype=bool) & (full.weight > 0)
    weight = full.weight * drawn

    def summed(weights: npt.NDArray[Any]) -> Floats:
        return np.bincount(full.occupation, weights=weights, minlength=len(full.occupations)).astype("float64")

    labelled, mass = summed(drawn), np.maximum(summed(weight), 1e-12)
    fpc = 1 - labelled / np.maximum(summed(full.weight > 0), 1)
    shares = full.shares if weights is None else weights[None] @ full.shares
    rows: list[Floats] = []
    for measure in MEASURES:
        values = np.nan_to_num(tasks[measure].to_numpy(dtype="float64"))
        mean = summed(weight * values) / mass
        own = summed((weight * (values - mean[full.occupation])) ** 2) / mass**2
        own *= labelled / np.maximum(labelled - 1, 1)
        of_major = major[full.occupation][drawn]
        count = np.maximum(np.bincount(of_major, minlength=len(majors)), 1)
        first, second = (
            np.bincount(of_major, weights=values[drawn] ** power, minlength=len(majors)) / count for power in (1, 2)
        )
        # Of equal values, rounding leaves less than nothing.
        variance = np.where(labelled > 1, own, np.maximum(second - first**2, 0)[major])
        rows.append(np.sqrt(shares**2 @ (fpc * variance)))
    return np.stack(rows)


# Characters of a code that name its major group.
_MAJOR_GROUP_LENGTH: Mapping[str, int] = {"uk-soc2020": 1, "isco08": 1, "soc2018": 2, "onet-soc": 2}
_MEAN_COLUMNS = ("", "_se", "_low", "_high")


def major_groups(table: ScoreTable) -> pd.DataFrame:
    """Estimate the mean score by major group, and overall, from a random sample of tasks.

    The design is simple random sampling from the task list: a ratio estimator with linearised variance and finite
    population correction, and the interval of Korn and Graubard (Clopper-Pearson with the effective number of tasks),
    which stays within 0 and 1 and keeps a width if all labels are equal.

    Args:
        table: The score table of a run for which `is_random_sample` is true.

    Returns:
        Columns `major_group`, `groups` and `tasks` (numbers), and for each measure `X` the unweighted mean `X` over the groups
        (0-1), its standard error `X_se` and 95% interval `X_low, X_high`; the last row is `all`.
    """
    full = table.full_map
    codes, reached = table.frame["code"].str[: _MAJOR_GROUP_LENGTH[table.taxonomy]].to_numpy(), full.reached
    tasks = table.task_values
    drawn = tasks["labelled"].to_numpy(dtype=bool)
    fpc = 1 - drawn.mean()
    rows: list[dict[str, Any]] = []
    for name in [*sorted(set(codes[reached])), "all"]:
        inside = reached & ((codes == name) | (name == "all"))
        weights = (full.shares[inside].sum(axis=0)[full.occupation] * full.part)[drawn]
        used = weights > 0
        row: dict[str, Any] = {"major_group": name, "groups": int(inside.sum()), "tasks": int(used.sum())}
        for measure in MEASURES:
            values = tasks[measure].to_numpy(dtype="float64")[drawn]
            for end, figure in zip(_MEAN_COLUMNS, _ratio(weights[used], values[used], fpc), strict=True):
                row[f"{measure}{end}"] = figure
        rows.append(row)
    return pd.DataFrame(rows).astype({"major_group": "str"})


def _ratio(weight: Floats, values: Floats, fpc: float) -> tuple[float, float, float, float]:
    """Weighted mean of a random sample, its standard error and interval; `fpc` is the finite population correction."""
    from scipy.special import betaincinv

    number = len(values)
    if number < 2 or np.isnan(values).any():
        return float("nan"), float("nan"), float("nan"), float("nan")
    mean = min(1.0, float(weight @ values / weight.sum()))  # the sum of weights is rounded
    residuals = weight * (values - mean) / weight.sum()
    variance = float(fpc * number / (number - 1) * (residuals**2).sum())
    # Equal labels have no variance; use Kish's effective number, so that they do not seem certain.
    kish = float(weight.sum() ** 2 / (weight**2).sum())
    effective = min(mean * (1 - mean) / variance, number / max(fpc, 1e-9)) if variance > 0 else kish / max(fpc, 1e-9)
    low = float(betaincinv(mean * effective, (1 - mean) * effective + 1, 0.025)) if mean > 0 else 0.0
    high = float(betaincinv(mean * effective + 1, (1 - mean) * effective, 0.975)) if mean < 1 else 1.0
    return mean, variance**0.5, low, high
