"""Intervals of a score table: two things under two names.

The score itself has an interval that contains it (`alpha_low`, `alpha_high`): what the run would score, had it asked all
tasks again and again (`noise.Answers`). Separately, where a gold or several raters are known, the table says what *their*
labels would give, with the interval of that estimate (`alpha_gold`, `alpha_gold_low`, `alpha_gold_high`; or `alpha_pooled`
and so on). The score may lie outside the latter: then the run and the gold differ by more than chance.

An interval holds the middle 95% of the draws of a noise model. Bounds of figures that follow from a share (10-point scores,
wage exposure) follow from the share's bounds; those of ranks and percentiles come from ranking all groups again in each draw.
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
import pyarrow as pyarrow_lib
import pyarrow.parquet as pq

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, open_run
from relabel.scoring.measures import relabelled
from relabel.scoring.options import SAMPLE
from relabel.scoring.options import Noise as NoiseChoice
from relabel.scoring.table import ScoreTable, beside, half_up_all
from relabel.settings import settings
from relabel.sources.frames import keep
from relabel.tabular import CLEAN
from relabel.task import TASK_KEY

if TYPE_CHECKING:
    from relabel.scoring.noise import Confusion, Noise, Raters

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DRAWS = 1000
_FEWEST_DRAWS = 100
PEOPLE = "eloundou-2023:human"
"""The labels of people that are the gold where no other is given."""

_TENTHS: Mapping[str, Measure] = {"strict_10": "alpha", "with_tools_10": "gamma"}
_RANKED: tuple[Measure, ...] = ("alpha", "gamma")
ESTIMATED = (*MEASURES, *_TENTHS, *(f"wage_exposure_{measure}_gbp" for measure in MEASURES))
"""Figures that are also estimated for a gold or for all raters."""
BOUNDED = (
    *ESTIMATED,
    *(f"percentile_{measure}" for measure in _RANKED),
    *(f"rank_{measure}" for measure in _RANKED),
)
"""Figures with an interval of their own: each has the columns `_low` and `_high`."""
_WHOLE = ("percentile_", "rank_")


POOLED = "pooled"
"""Engine of a run whose samples are the labels of several raters."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What some interval columns are for.

    Attributes:
        name: Suffix of the columns: `gold` or `pooled`; empty for the score's own interval.
        noise: Name of the noise model: `single`, `repeats`, `confusion` or `raters`.
        of: Whose labels are estimated: a gold, or raters; None for the score's own interval.
        note: What the figures are, in words.
        totals: For `wage_exposure_alpha_gbp` and its like, over the scored groups with pay: `low, mid, high` in pounds a
            year; a measure that the run cannot give is left out.
    """

    name: Literal["", "gold", "pooled"]
    noise: str
    of: str | None
    note: str
    totals: Mapping[str, Mapping[str, float]]

    @property
    def whose(self) -> Literal["mean", "people", "gold"]:
        """What a heading calls it."""
        return "mean" if self.name == "pooled" else "people" if self.of == PEOPLE else "gold"

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "noise": self.noise,
            "of": self.of,
            "note": self.note,
            "totals": {k: dict(v) for k, v in self.totals.items()},
        }


@dataclasses.dataclass(frozen=True)
class Intervals:
    """What the interval columns of a score table are for.

    Attributes:
        own: The score's own interval.
        other: What a gold's labels, or those of all raters, would give; None where nothing is known of either.
        why_no_other: Why there is no other estimate; empty where there is one, or where none was asked for.
        draws: Number of draws.
        seed: Seed of the draws.
        by_rater: For several raters: `code, rater, alpha, beta, gamma`, with the mean over them as the rater `pooled`; else
            empty.
    """

    own: Estimate
    other: Estimate | None
    why_no_other: str
    draws: int
    seed: int
    by_rater: pd.DataFrame

    @property
    def notes(self) -> tuple[str, ...]:
        """What every reader of the table must know."""
        return tuple(filter(None, (self.own.note, self.other and self.other.note, self.why_no_other)))

    def describe(self) -> dict[str, Any]:
        """All but the bounds of single groups, as plain values."""
        return {
            "level": LEVEL,
            "draws": self.draws,
            "seed": self.seed,
            "own": self.own.describe(),
            "other": None if self.other is None else {"columns": self.other.name, **self.other.describe()},
            "why_no_other": self.why_no_other,
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
    """Simulate label noise and carry it to every figure.

    Args:
        table: A score table of the run.
        run: The run.
        noise: What to estimate beside the score. `confusion`: what the labels of a gold would give; `raters`: the mean over
            several raters; `repeats`: nothing, for a run with several samples. `auto` takes `raters` where raters are given;
            else `confusion`, by default against the human labels of 2023 or the sample's own gold, and nothing, with the
            reason, where that does not fit.
        gold: For `confusion`.
        raters: For `raters`: other runs; the run itself is one more.
        draws: Number of draws, at least 100.
        seed: Seed of the draws, 0 or more; the same seed gives the same intervals.

    Returns:
        The table with the bounds of each figure of `BOUNDED` beside it, and each figure of `ESTIMATED` with its bounds for a
        gold or for all raters beside those.

    Raises:
        UsageError: The choices do not go together.
        DataError: The labels do not suffice for the model.
    """
    if draws < _FEWEST_DRAWS:
        raise UsageError(f"{draws} draws are too few for a 95% interval; give --draws {_FEWEST_DRAWS} or more")
    if seed < 0:
        raise UsageError(f"the seed {seed} is below 0; give a whole number of 0 or more with --seed")
    others = [*filter(None, [gold]), *raters]
    if not others and noise in ("auto", "confusion"):
        with contextlib.suppress(DataError, UsageError):  # `_simulated` says why there is none
            others = [_default_gold(run)]
    kept = _cache_path(table, [run, *others], [noise, gold is not None, draws, seed])
    found = _read_cache(kept, table)
    if found is not None:
        return _beside(table, *found)
    found = _simulated(table, run, noise, gold, raters, draws, seed)
    wide = _beside(table, *found)
    _check(wide.frame, found[1])
    _keep(kept, *found)
    return wide


_VERSION = 3
"""Counts up when intervals are made in another way, so that no earlier ones are taken from the cache."""


def _cache_path(table: ScoreTable, runs: Sequence[Run], choices: Sequence[object]) -> Path:
    """Where the intervals of a table are kept: under the hash of all that they depend on."""
    about = [
        [run.ref, run.manifest.tasks, run.manifest.model, run.rubric.sha256, is_random_sample(run)] for run in runs
    ]
    made_by = [table.method, table.taxonomy, table.links, table.repeats, table.wage, table.spread is not None]
    text = json.dumps([_VERSION, version("numpy"), about, choices, made_by, sorted(table.missing_measures)])
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


def _read_cache(path: Path, table: ScoreTable) -> tuple[dict[str, pd.Series], Intervals] | None:
    """Intervals that were made before; None where there are none, or where their file is damaged."""
    try:
        held = pq.read_table(path, page_checksum_verification=True)
        about = json.loads((held.schema.metadata or {})[b"relabel"])
        own, other = (None if about[name] is None else Estimate(**about[name]) for name in ("own", "other"))
        by_rater = pd.DataFrame(about["by_rater"], columns=["code", "rater", *MEASURES])
    except (pyarrow_lib.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    if own is None or held.num_rows != len(table.frame):
        return None
    frame = held.to_pandas().set_axis(table.frame.index)
    whole = {name: "Int64" for name in frame.columns if name.startswith(_WHOLE)}
    frame = frame.astype(whole)
    return {str(name): frame[name] for name in frame.columns}, Intervals(
        own, other, about["why"], about["draws"], about["seed"], by_rater
    )


def _keep(path: Path, added: Mapping[str, pd.Series], found: Intervals) -> None:
    about = {
        "own": dataclasses.asdict(found.own),
        "other": found.other and dataclasses.asdict(found.other),
        "why": found.why_no_other,
        "draws": found.draws,
        "seed": found.seed,
        "by_rater": found.by_rater.astype(object).where(found.by_rater.notna(), None).to_numpy().tolist(),
    }
    made = pyarrow_lib.Table.from_pandas(pd.DataFrame(dict(added)), preserve_index=False)
    keep(path, made.replace_schema_metadata({"relabel": json.dumps(about)}))


def _simulated(
    table: ScoreTable,
    run: Run,
    noise: NoiseChoice,
    gold: Run | None,
    raters: Sequence[Run],
    draws: int,
    seed: int,
) -> tuple[dict[str, pd.Series], Intervals]:
    """The columns of the intervals by name, and what they are for."""
    from relabel.scoring.noise import Answers, Raters, sampling_error

    if run.manifest.engine == POOLED:
        model = _raters(table, run, raters)
        bounds, totals = _own_bounds(table, _drawn(model, table, draws, seed), None)
        note = f"intervals hold 95% of {draws:,} draws of {model.estimand}, drawing of tasks included"
        own = Estimate("", model.name, None, note, totals)
        return bounds, Intervals(own, None, "", draws, seed, _by_rater(table, model))
    answers = Answers(run, table.task_values)
    if noise == "repeats" and not answers.repeated:
        again = (
            "switch the gateway's cache off and label again" if run.repeats_from_cache else "run it with --samples 5"
        )
        counts = " that counts, as the others are from a cache" if run.repeats_from_cache else ""
        raise UsageError(
            f"{run.name} has one answer a task{counts}, so it shows no scatter; {again}, or remove --noise"
        )
    why = ""
    try:
        other = _other(table, run, noise, gold, raters)
    except (DataError, UsageError) as error:
        if noise != "auto" or gold is not None or raters:
            raise
        other, why = None, f"no estimate of what people's labels would give: {error}"
    error = sampling_error(table) if is_random_sample(run) else None
    own_bounds, totals = _own_bounds(table, _drawn(answers, table, draws, seed), error)
    note = f"intervals hold 95% of {draws:,} draws of {answers.estimand}"
    if error is not None:
        note += "; they are at least as wide as the sampling error of tasks drawn at random within their occupations"
    if table.spread is not None:
        note += "; the spread over bridges is added to those of scores and wage exposure"
    own = Estimate("", answers.name, None, note, totals)
    added, estimate = own_bounds, None
    if other is not None:
        drawn = _drawn(other, table, draws, seed)
        bounds, totals = _estimates(table, drawn, other.pooled if isinstance(other, Raters) else drawn.mean(axis=2))
        name: Literal["gold", "pooled"] = "pooled" if isinstance(other, Raters) else "gold"
        note = f"columns _{name}: {other.estimand}, with intervals that the score shown may lie outside of"
        estimate = Estimate(name, other.name, other.of, note, totals)
        added |= {f"{figure}_{name}{end}": column for (figure, end), column in bounds.items()}
    by_rater = _by_rater(table, other) if isinstance(other, Raters) else _by_rater(table, None)
    return added, Intervals(own, estimate, why, draws, seed, by_rater)


def _beside(table: ScoreTable, added: Mapping[str, pd.Series], found: Intervals) -> ScoreTable:
    """The table with each added column behind the figure that it belongs to."""
    notes = (*table.notes, *found.notes)
    frame = table.frame.assign(note=pd.Series("; ".join(notes), index=table.frame.index, dtype="str"))
    return dataclasses.replace(table, frame=beside(frame, added), notes=notes, intervals=found)


def _check(frame: pd.DataFrame, found: Intervals) -> None:
    """Make sure that every interval contains its figure."""
    others = [f"{name}_{found.other.name}" for name in ESTIMATED] if found.other is not None else []
    for name in (*BOUNDED, *others):
        rows = frame[[f"{name}_low", name, f"{name}_high"]].dropna().to_numpy(dtype="float64")
        assert (np.diff(rows, axis=1) >= 0).all(), name


def _drawn(model: Noise, table: ScoreTable, draws: int, seed: int) -> Floats:
    """Draws of the scores of all groups that the table scores: measures by groups by draws."""
    drawn = model.draw(table.full_map, draws, seed)
    for number, measure in enumerate(MEASURES):
        if measure in table.missing_measures:
            drawn[number] = np.nan
    drawn[:, table.frame[list(MEASURES)].isna().all(axis=1).to_numpy(dtype=bool)] = np.nan
    return drawn


def _other(
    table: ScoreTable, run: Run, noise: NoiseChoice, gold: Run | None, raters: Sequence[Run]
) -> Confusion | Raters | None:
    if gold is not None and noise not in ("auto", "confusion"):
        raise UsageError(f"--gold does not apply to --noise {noise}; remove it, or give --noise confusion")
    if raters and noise not in ("auto", "raters"):
        raise UsageError(f"--rater does not apply to --noise {noise}; remove it, or give --noise raters")
    if gold is not None and raters:
        raise UsageError("--rater and --gold estimate two different figures; remove one of them")
    if noise == "repeats":
        return None
    if noise == "raters" or raters:
        return _raters(table, run, raters)
    from relabel.scoring.noise import Confusion

    return Confusion(run, gold or _default_gold(run), table.task_values)


def _default_gold(run: Run) -> Run:
    gold = SAMPLE if run.manifest.tasks == SAMPLE else PEOPLE
    if run.ref == gold:
        raise UsageError(f"{gold} is its own gold; name another with --gold, or raters with --rater")
    return open_run(gold)


def _raters(table: ScoreTable, run: Run, others: Sequence[Run]) -> Raters:
    from relabel.scoring.noise import Raters, sampling_error

    pooled = run.manifest.engine == POOLED
    rows = _scores_by(table, run, others)
    names, scores = list(rows)[pooled:], list(rows.values())[pooled:]
    return Raters(names, np.stack(scores) if scores else np.empty(0), sampling_error(table) if pooled else None)


def _scores_by(table: ScoreTable, run: Run, others: Sequence[Run]) -> dict[str, Floats]:
    """Scores (measures by groups) of a run and of others on its tasks, by name."""
    scores = {run.name: table.map.scores(table.task_values)}
    for other in others:
        if (other.manifest.tasks == SAMPLE) != table.sample:
            raise UsageError(
                f"{other.ref} and {run.ref} labelled different task lists, and the sample can only be combined with the sample"
            )
        if other.name in scores:
            raise UsageError(f"the rater {other.ref} is given twice; name each once")
        tasks = relabelled(table.task_values, other, table.repeats, by_id=table.by_id)
        scores[other.name] = table.map_of(tasks).scores(tasks)
    return scores


def _seed(run: Run) -> int:
    return int(run.manifest.parameters.get("seed") or 0)


def rater_draws(table: ScoreTable, run: Run, raters: Sequence[Run], draws: int) -> Floats:
    """The draws behind the intervals of `with_raters`: measures by groups by draws."""
    return _drawn(_raters(table, run, raters), table, draws, _seed(run))


def with_raters(table: ScoreTable, run: Run, raters: Sequence[Run], draws: int = DRAWS) -> ScoreTable:
    """The table of a pooled run with what each of its raters alone would give; the seed of draws is the run's.

    Returns:
        The table with `alpha_models_low, alpha_models_high` behind `alpha`, and so on: the lowest and the highest score by
        any of the raters; and, from three raters on, with intervals that hold the spread of raters and the drawing of tasks.
    """
    from relabel.scoring.noise import LEAST_RATERS

    if draws and len(raters) >= LEAST_RATERS:
        table = with_intervals(table, run, noise="raters", raters=raters, draws=draws, seed=_seed(run))
    _, *scores = _scores_by(table, run, raters).values()
    added = {
        f"{measure}_models_{end}": pd.Series(bounds, index=table.frame.index).where(table.frame[measure].notna())
        for end, pick in (("low", np.fmin), ("high", np.fmax))
        for measure, bounds in zip(MEASURES, pick.reduce(scores), strict=True)
    }
    return dataclasses.replace(table, frame=beside(table.frame, added))


def is_random_sample(run: Run) -> bool:
    """Whether the run labelled tasks that were drawn at random from all of its list."""
    chosen = run.manifest.parameters
    return bool(chosen.get("sample")) and not chosen.get("occupations")


def _rounded(table: ScoreTable, shares: Floats) -> Floats:
    # As the site's shares: everything else follows from shares of two decimals.
    return half_up_all(shares, 2) if table.method == "site-2026" else shares


def _following(table: ScoreTable, share: Mapping[Measure, Floats]) -> dict[str, Floats]:
    """The figures of `ESTIMATED` that shares lead to; shares are anything by groups."""
    pay = table.wage_bill.to_numpy(dtype="float64")
    return (
        dict(share)
        | {name: half_up_all(10 * share[measure], 1) for name, measure in _TENTHS.items()}
        | {f"wage_exposure_{measure}_gbp": (share[measure] * pay).round(2) for measure in MEASURES}
    )


def _own_bounds(
    table: ScoreTable, drawn: Floats, error: Floats | None
) -> tuple[dict[str, pd.Series], dict[str, dict[str, float]]]:
    """Bounds of all figures, each wide enough to contain its figure, and of the totals.

    The draws are centred on what is likely given all occupations, which lies a little inwards of a score near 0 or 1.
    """
    shown = {measure: table.frame[measure].to_numpy(dtype="float64") for measure in MEASURES}
    share: dict[Measure, Floats] = {}
    for number, (measure, draws) in enumerate(zip(MEASURES, drawn, strict=True)):
        bounds = _containing(_quantiles(draws), shown[measure])
        if error is not None:
            half = 1.96 * error[number]
            low, high = shown[measure] - half, shown[measure] + half
            bounds = np.clip([np.minimum(bounds[0], low), np.maximum(bounds[1], high)], 0, 1)
        if table.spread is not None:
            others = table.frame[[f"{measure}_bridges_low", f"{measure}_bridges_high"]].to_numpy(dtype="float64").T
            bounds = np.clip(bounds + others - shown[measure], 0, 1)
        share[measure] = _rounded(table, bounds)
    found = _following(table, share)
    scored = (table.frame["status"].str.startswith("scored")).to_numpy(dtype=bool)
    for measure in _RANKED:
        best, below = _ranks(drawn[MEASURES.index(measure)], scored)
        found[f"rank_{measure}"] = half_up_all(_quantiles(best), 0)
        found[f"percentile_{measure}"] = half_up_all(_quantiles(100 * (below + 1) / max(int(scored.sum()), 1)), 0)
    columns: dict[str, pd.Series] = {}
    for name in BOUNDED:
        values = np.asarray(table.frame[name].astype("float64"), dtype=np.float64)
        for end, bound in zip(("low", "high"), _containing(found[name], values), strict=True):
            column = pd.Series(bound, index=table.frame.index)
            columns[f"{name}_{end}"] = column.astype("Int64") if name.startswith(_WHOLE) else column
    totals = _totals(table, drawn)
    for name, known in totals.items():
        value = float((table.totals or {}).get(name) or known["mid"])
        known |= {"low": min(known["low"], value), "high": max(known["high"], value)}
    return columns, totals


def _containing(bounds: Floats, shown: Floats) -> Floats:
    """Bounds (2 by groups) that contain the figures shown; missing where there is no figure."""
    low, high = np.fmin(bounds[0], shown), np.fmax(bounds[1], shown)
    missing = np.isnan(shown) | np.isnan(bounds).any(axis=0)
    return np.where(missing, np.nan, np.stack([low, high]))


def _estimates(
    table: ScoreTable, drawn: Floats, centre: Floats
) -> tuple[dict[tuple[str, str], pd.Series], dict[str, dict[str, float]]]:
    """Estimates with their bounds, by figure and end (empty for the estimate), and those of the totals."""
    ends = ("", "_low", "_high")
    share: dict[Measure, Floats] = {
        measure: _rounded(table, np.stack([centre[number], *_containing(_quantiles(drawn[number]), centre[number])]))
        for number, measure in enumerate(MEASURES)
    }
    found = _following(table, share)
    columns = {
        (name, end): pd.Series(row, index=table.frame.index)
        for name in ESTIMATED
        for end, row in zip(ends, found[name], strict=True)
    }
    return columns, _totals(table, drawn)


def _totals(table: ScoreTable, drawn: Floats) -> dict[str, dict[str, float]]:
    pay = table.wage_bill.to_numpy(dtype="float64")
    scored = (table.frame["status"].str.startswith("scored")).to_numpy(dtype=bool)
    totals: dict[str, dict[str, float]] = {}
    for measure, draws in zip(MEASURES, drawn, strict=True):
        counted = scored & ~np.isnan(pay) & ~np.isnan(draws).any(axis=1)
        if counted.any():
            total = pay[counted] @ draws[counted]
            low, high = (float(bound) for bound in np.quantile(total, _ENDS))
            totals[f"wage_exposure_{measure}_gbp"] = {"low": low, "mid": float(total.mean()), "high": high}
    return totals


def _quantiles(draws: Floats) -> Floats:
    """Low and high of each group: 2 by groups."""
    bounds = np.full((2, len(draws)), np.nan)
    known = ~np.isnan(draws).any(axis=1)
    bounds[:, known] = np.quantile(draws[known], _ENDS, axis=1)
    return bounds


def _ranks(draws: Floats, scored: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Place of each group in each draw among the scored groups (1 is the most exposed), and the number below it."""
    best, below = np.full(draws.shape, np.nan), np.full(draws.shape, np.nan)
    if scored.any() and not np.isnan(draws[scored]).any():
        # Groups behind which stand the same tasks are equal but for noise of the sums.
        clean = draws[scored].round(CLEAN // 2)
        ordered = np.sort(clean, axis=0)
        for column in range(clean.shape[1]):
            below[scored, column] = np.searchsorted(ordered[:, column], clean[:, column], side="left")
            best[scored, column] = len(clean) + 1 - np.searchsorted(ordered[:, column], clean[:, column], side="right")
    return best, below


def _by_rater(table: ScoreTable, model: Raters | None) -> pd.DataFrame:
    if model is None:
        return pd.DataFrame({name: [] for name in ("code", "rater", *MEASURES)})
    parts = [
        pd.DataFrame({"code": table.frame["code"], "rater": name, **dict(zip(MEASURES, scores, strict=True))})
        for name, scores in [*zip(model.names, model.scores, strict=True), ("pooled", model.pooled)]
    ]
    return pd.concat(parts, ignore_index=True)
