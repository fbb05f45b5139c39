"""Gates: conditions on a run, tested so that noise alone does not fail a suite.

There are two kinds:

- `min` and `max` require evidence that the run is good enough: the nearer bound of the interval must reach the threshold. All
  of them must hold, so more gates do not make it easier for a bad run to pass, and no correction is needed.
- `max_drop` requires evidence that the run is worse than the baseline, from an exact permutation test: run and baseline are
  swapped occupation by occupation, and the observed fall must be rare among the falls of all swaps. With many such gates, some
  would fail by chance: they are tested together on the same swaps, and a suite fails by chance in at most one of
  forty runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import GOLD, AlignedLabels, Pair, align, match
from relabel.evaluation.document import Bounds
from relabel.evaluation.gold import Gold, asked, incoherent_pairs, labelled, labels_hash, labels_of
from relabel.evaluation.statistics import Array, Figure, Formula, change, few_occupations
from relabel.evaluation.suite import Gate, GateResult, Kind, Slice, Suite, SuiteResult
from relabel.run import Run, changed_rubrics
from relabel.tabular import counted
from relabel.tabular import figure as shown
from relabel.task import TASK_KEY

# Maximum number of occupations for which all swaps are tried; with more, `SWAPS` random ones.
ALL_SWAPS = 12
SWAPS = 4999
POWER = 0.8
# The fall in accuracy, and the power to detect it, for the size of the gold that a suite reports.
DROP = 0.03
# Minimum share of labels that is assumed to change from right to wrong or back.
_USUAL_CHURN = 0.05
# Assumed design effect (tasks of one occupation change together), if too few labels changed to estimate it.
_USUAL_CLUSTERING = 1.5


def labels_sha256(run: Run) -> str:
    """Hash of a run's labels, equal to that of a gold made from them; used to pin a baseline."""
    return labels_hash(labelled(labels_of(run)))


def judge(suite: Suite, run: Run, gold: Gold, baseline: Run | None, details: pd.DataFrame | None = None) -> SuiteResult:
    """Judge a run by a suite.

    Args:
        suite: The suite.
        run: The run.
        gold: The suite's gold.
        baseline: The suite's baseline, if it has one.
        details: The run's task table (`relabel.task.task_schema`), for slices by task type or importance.

    Returns:
        The outcome of all gates.

    Raises:
        DataError: Gold or baseline are not the pinned ones, a slice needs a task list that is not on this machine, or the
            runs and the gold share no task.
    """
    pin = None if baseline is None else labels_sha256(baseline)
    _check_pins(suite, gold, pin)
    alone = match(run, gold).with_draws(suite.draws, suite.seed)
    drops: Mapping[str, GateResult] = {}
    size = None
    if baseline is not None and any(gate.max_drop is not None for gate in suite.gates):
        pair = align([run, baseline], gold)
        drops, size = against_baseline(suite, pair, details), size_needed(pair, suite)
    results: list[GateResult] = []
    for gate in suite.gates:
        figure = _figure(gate, suite, run, alone, details)
        if figure is not None and gold.is_run(run) and math.isfinite(figure.value):
            # A gold used as a run agrees with itself exactly; there is no sampling error.
            figure = replace(figure, draws=np.empty(0))
        results += [*_bounds_of(gate, figure, suite.level), *([drops[gate.id]] if gate.id in drops else [])]
    return SuiteResult(
        suite=suite.name,
        title=suite.title,
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        baseline=None if suite.baseline is None else suite.baseline.run,
        baseline_sha256=pin,
        family=family_in_words(suite, len(drops)),
        size=size,
        warnings=(*changed_rubrics(gold.run, baseline, run), *_few_occupations(suite, alone, details), *run.warnings()),
        passed=all(result.passed for result in results),
        results=tuple(results),
    )


def _few_occupations(suite: Suite, aligned: AlignedLabels, details: pd.DataFrame | None) -> list[str]:
    """Warnings about few occupations: one for all tasks, otherwise one per slice."""
    if few := aligned.few_occupations:
        return [f"Few occupations: {few}."]
    parts = {gate.slice: gate for gate in suite.gates if gate.slice is not None}
    pairs = {name: _pair(gate, suite, aligned, 0, details) for name, gate in parts.items()}
    return [
        f"Few occupations in the slice {name}: {few}."
        for name, pair in pairs.items()
        if pair is not None and pair.draws is not None and (few := few_occupations(pair.draws.occupations))
    ]


def against_baseline(
    suite: Suite, aligned: AlignedLabels, details: pd.DataFrame | None = None
) -> dict[str, GateResult]:
    """Judge the `max_drop` gates of a suite together; outcomes by id of the gate.

    Args:
        suite: The suite.
        aligned: The run and the baseline, in this order, and the gold.
        details: As for `judge`.
    """
    aligned = aligned.with_draws(suite.draws, suite.seed)
    falls = [_Fall.from_gate(gate, suite, aligned, details) for gate in suite.gates if gate.max_drop is not None]
    adjusted = [fall.p for fall in falls]
    swaps = {place: fall.swaps for place, fall in enumerate(falls) if fall.swaps is not None}
    if len(swaps) > 1:
        for place, p in zip(swaps, joint_p(list(swaps.values()), seed=suite.seed), strict=True):
            # Where its own test tries all swaps and the joint one draws them, the gate's own p-value is the exact one.
            adjusted[place] = max(adjusted[place], p)
    return {fall.gate.id: fall.result(suite.level, p) for fall, p in zip(falls, adjusted, strict=True)}


def family_in_words(suite: Suite, drops: int) -> str:
    """How a suite corrects for the number of its gates against the baseline, which is `drops`."""
    if not drops:
        return "No gate is against a baseline; gates that ask for evidence need no adjustment for their number."
    noise = f"in at most {100 * (1 - suite.level) / 2:.3g}% of runs."
    if drops == 1:
        return f"The gate against the baseline fires on pure noise {noise}"
    return f"The {drops} gates against the baseline are judged together: on pure noise any of them fires {noise}"


@dataclass(frozen=True)
class Swaps:
    """Run and baseline, to be swapped occupation by occupation.

    Attributes:
        baseline: Sums by occupation from which the baseline's figure is computed, shape (n_occupations, ...).
        run: The same for the run.
        formula: Computes the figure from the total of the sums.
        share: Share of the tasks in each occupation, shape (n_occupations,).
        allowed: The fall that is allowed, 0 or more.
    """

    baseline: Array
    run: Array
    formula: Formula
    share: Array
    allowed: float = 0.0

    @property
    def moves(self) -> npt.NDArray[np.bool_]:
        """Occupations whose swap changes the fall, shape (n_occupations,)."""
        if self.allowed:
            return self.share > 0
        return np.abs(self.run - self.baseline).reshape(len(self.run), -1).max(axis=1, initial=0) > 0

    def falls(self, signs: Array, moves: npt.NDArray[np.bool_]) -> Array:
        """The run's figure minus the baseline's, plus the allowed fall, after each swap, shape (swaps,).

        Args:
            signs: -1 for each occupation that is swapped, otherwise 1, shape (swaps, count).
            moves: Mask of the occupations that `signs` are for, at least all of `self.moves`, shape (n_occupations,).
        """
        shape, flat = self.baseline.shape[1:], [side.reshape(len(side), -1) for side in (self.baseline, self.run)]
        fixed, shift = (flat[0] + flat[1]).sum(axis=0) / 2, signs @ ((flat[1] - flat[0]) / 2)[moves]
        after, before = (self.formula((fixed + sign * shift).reshape(len(signs), *shape)) for sign in (1, -1))
        # Swaps that leave a figure undefined count against the fall.
        return np.nan_to_num(after - before, nan=-np.inf) + self.allowed * (signs @ self.share[moves])


def _signs(count: int, seed: int) -> Array:
    """Sign vectors of swaps: all of them, or a random sample; the first swaps nothing."""
    if count <= ALL_SWAPS:
        return 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    signs = np.ones((SWAPS + 1, count))
    signs[1:] -= 2 * np.random.default_rng(seed).integers(0, 2, size=(SWAPS, count), dtype=np.int8)
    return signs


def joint_p(gates: Sequence[Swaps], seed: int = 0) -> list[float]:
    """One-sided p-values of a fall by more than is allowed, from a permutation test that swaps whole occupations.

    For a mean over tasks this is the sign-flip test of the occupations' changes, with the allowed fall added in proportion
    to their tasks. If no fall is allowed, the test is exact: only the n occupations with a change count, and no p-value is
    below 1 / 2^n.

    With several gates, p-values are adjusted by the step-down minimum p over the same swaps. In each swap, every gate has a
    p-value: the rank of its fall among all swaps. The smallest observed p-value is adjusted to the share of swaps in which any
    gate has one as small; the next likewise among the remaining gates, and is never below the one before. Correlated gates
    therefore cost little power, and gates with too few changes cost none.

    Args:
        gates: Run and baseline, by gate.
        seed: Seed of the swaps, if they are a random sample.

    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010, doi:10.2202/1544-6115.1585; Westfall and
    Young 1993, Resampling-Based Multiple Testing, section 2.6.
    """
    moves = np.any([gate.moves for gate in gates], axis=0)
    signs = _signs(int(moves.sum()), seed)
    by_swap = np.empty((len(signs), len(gates)))
    for place, gate in enumerate(gates):
        falls = gate.falls(signs, moves)
        by_swap[:, place] = np.searchsorted(np.sort(falls), falls + 1e-12, side="right") / len(signs)
    order = np.argsort(by_swap[0], kind="stable")
    smallest = np.minimum.accumulate(by_swap[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(len(gates))
    adjusted[order] = np.maximum.accumulate((smallest <= by_swap[0, order]).mean(axis=0))
    return adjusted.tolist()


def size_needed(aligned: AlignedLabels, suite: Suite) -> str | None:
    """A sentence on the size of gold that detects a fall of 3 points in accuracy in four of five runs; None without gates on falls."""
    setting = aligned.main
    keep = aligned.labelled(setting)
    pairs = [aligned.pair(setting, rater, keep=keep, weighted=False) for rater in (0, 1)]
    n = len(pairs[0])
    drops = sum(gate.max_drop is not None for gate in suite.gates)
    if not n or not drops:
        return None
    moved = (pairs[0].run == pairs[0].gold).astype(float) - (pairs[1].run == pairs[1].gold)
    by_occupation = pd.Series(moved - moved.mean()).groupby(aligned.codes[pairs[0].tasks]).sum()
    alone, churn = float(moved.var()) * n, float(np.abs(moved).mean())
    enough = int((moved != 0).sum()) >= 2 * ALL_SWAPS
    clustering = max(float((by_occupation**2).sum()) / alone, 1.0) if enough and alone else _USUAL_CLUSTERING
    level = 1 - (1 - suite.level) / drops
    tasks = pairs[0].n  # fewer than labels, if the gold has several of a task
    needed = gold_size(level, max(churn, _USUAL_CHURN), clustering) * tasks / n
    digits = 10 ** max(math.floor(math.log10(max(needed, 1))) - 1, 0)
    return (
        f"To find a fall of {100 * DROP:.0f} points in accuracy in {100 * POWER:.0f}% of runs, the gold needs about "
        f"{math.ceil(needed / digits) * digits:,} tasks; it has {tasks:,} ({100 * churn:.1f}% of the labels went from right "
        "to wrong or back)."
    )


def gold_size(level: float, churn: float, clustering: float = _USUAL_CLUSTERING) -> float:
    """Number of tasks in a gold to detect a fall of `DROP` in accuracy in four of five runs.

    Args:
        level: Level of the gate: it fails by chance in (1 - level) / 2 of runs.
        churn: Share of tasks whose label changes from right to wrong or back.
        clustering: Design effect, because tasks of one occupation change together; at least 1.
    """
    quantiles = NormalDist().inv_cdf(1 - (1 - level) / 2) + NormalDist().inv_cdf(POWER)
    return quantiles**2 * (max(churn, DROP) - DROP**2) * clustering / DROP**2


def _pair(gate: Gate, suite: Suite, aligned: AlignedLabels, rater: int, details: pd.DataFrame | None) -> Pair | None:
    """Labels of a rater and the gold for a gate's figure; None if no task has both."""
    about = gate.about
    if about is None or (about not in aligned.labels and about not in aligned.values):
        return None
    keep = aligned.labelled(about)
    if gate.slice is not None:
        keep &= in_slice(suite.slices[gate.slice], gate.slice, aligned.index(), details)
    return aligned.pair(about, rater, GOLD, keep=keep) if keep.any() else None


def _metric(gate: Gate) -> str:
    return "difference" if gate.metric == "mean_difference" else gate.metric


def in_slice(part: Slice, name: str, index: pd.MultiIndex, details: pd.DataFrame | None) -> npt.NDArray[np.bool_]:
    """Select the tasks of a slice.

    Args:
        part: The slice.
        name: Its name, for errors.
        index: Tasks, levels `onet_soc_code` and `task_id`.
        details: Task table with `task_type` and `importance`.

    Returns:
        A mask, shape (n_tasks,). A task of unknown type or importance is in no slice with that condition.

    Raises:
        DataError: The slice needs a task table, and there is none.
    """
    keep = np.ones(len(index), dtype=bool)
    if part.soc_major:
        keep &= index.get_level_values(0).str[:2].isin(part.soc_major)
    if not part.needs_tasks:
        return keep
    if details is None:
        raise DataError(
            f"the slice {name} needs the run's task list, which is not on this machine; fetch it with `relabel data pull`, "
            "or slice by soc_major"
        )
    facts = details.set_index(TASK_KEY)[["task_type", "importance"]].reindex(index)
    if part.task_type:
        keep &= facts["task_type"].isin(part.task_type).to_numpy()
    if part.importance is not None or part.max_importance is not None:
        low, high = part.importance or 0.0, part.max_importance or math.inf
        keep &= facts["importance"].between(low, high, inclusive="left").to_numpy()
    return keep


def _figure(gate: Gate, suite: Suite, run: Run, aligned: AlignedLabels, details: pd.DataFrame | None) -> Figure | None:
    if gate.min is None and gate.max is None:
        return None
    if gate.metric == "coverage":
        total, unanswered = asked(run)
        setting = gate.setting or aligned.main
        return Figure(1 - unanswered[setting] / total, np.empty(0), total) if total and setting in unanswered else None
    if gate.metric == "incoherent":
        count, n = incoherent_pairs(run)
        return Figure(count / n, np.empty(0), n) if n else None
    pair = _pair(gate, suite, aligned, 0, details)
    return None if pair is None else pair.figure(_metric(gate))


def _check_pins(suite: Suite, gold: Gold, pin: str | None) -> None:
    pins = [("gold_sha256", f"gold {gold.name}", suite.gold_sha256, gold.sha256)]
    if (baseline := suite.baseline) is not None:
        pins.append(("baseline.labels_sha256", f"baseline {baseline.run}", baseline.labels_sha256, pin or ""))
    for key, name, wanted, actual in pins:
        if wanted not in (None, actual):
            advice = "restore it, or pin the new hash if the change is meant"
            raise DataError(
                f"{suite.path}: {key}: the {name} has labels with the hash {actual}, not the pinned one; {advice}"
            )


@dataclass(frozen=True)
class _Fall:
    """A `max_drop` gate, before p-values are adjusted for the other gates.

    Attributes:
        gate: The gate.
        moved: The paired change; None if no task has the figure.
        figures: The change, and the figures of run and baseline.
        p: One-sided p-value of a fall by more than is allowed; 1 if it cannot be tested.
        swaps: Data of the test; None if it cannot be tested.
    """

    gate: Gate
    moved: Figure | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    p: float = 1.0
    swaps: Swaps | None = None

    @classmethod
    def from_gate(cls, gate: Gate, suite: Suite, aligned: AlignedLabels, details: pd.DataFrame | None) -> _Fall:
        run, baseline = (_pair(gate, suite, aligned, rater, details) for rater in (0, 1))
        if run is None or baseline is None or run.draws is None:
            return cls(gate)
        after, before = (pair.figure(_metric(gate)) for pair in (run, baseline))
        moved = change(before, after, run.differ(baseline))
        if not math.isfinite(moved.value):
            return cls(gate, moved)
        old, new = (run.draws.by_occupation(pair.sums.terms) for pair in (baseline, run))
        share = run.draws.by_occupation(run.weight) / len(run)
        swaps = Swaps(old, new, metrics.figure_formula(_metric(gate), run.scale), share, gate.max_drop or 0.0)
        figures = {"value": moved.value, "run": after.value, "baseline": before.value}
        return cls(gate, moved, figures, joint_p([swaps], suite.seed)[0], swaps)

    def result(self, level: float, adjusted: float) -> GateResult:
        """The outcome at this level, by the adjusted p-value."""
        allowed, moved, fell = self.gate.max_drop or 0.0, self.moved, adjusted < (1 - level) / 2
        if moved is None or self.swaps is None or (not fell and moved.is_uninformative(level)):
            return _unjudged(self.gate, "max_drop", moved, level)
        bounds = moved.interval(level)
        if bounds is not None and fell != (bounds[1] < -allowed):
            bounds = None  # the test decides; over few occupations the interval may contradict it, and is left out
        interval = "" if bounds is None else f"{_percent(level)} interval {bounds[0]:+.3f} to {bounds[1]:+.3f}, "
        alone, together = ("under .001" if p < 0.001 else shown(p) for p in (self.p, adjusted))
        outcome = (
            f"{'falls' if fell else 'goes'} from {shown(self.figures['baseline'])} to {shown(self.figures['run'])}, change {moved.value:+.3f} "
            f"({interval}{counted(moved.n, 'task')}; sign-flip test by occupation p {alone}"
            f"{'' if together == alone else f', with all gates {together}'}){'' if fell else ': no significant fall'}"
            f"{f'; a drop of {shown(allowed)} is allowed' if allowed else ''}"
        )
        figures = {**self.figures, "p": self.p, "p_adjusted": adjusted}
        return _result(self.gate, "max_drop", moved.n, outcome, bounds, level, passed=not fell, **figures)


def _bounds_of(gate: Gate, figure: Figure | None, level: float) -> Iterator[GateResult]:
    """Outcomes of a gate's `min` and `max`, by an interval of this level."""
    conditions: tuple[tuple[Kind, float | None], ...] = (("min", gate.min), ("max", gate.max))
    for kind, threshold in conditions:
        if threshold is None:
            continue
        bounds = None if figure is None else figure.interval(level)
        if figure is None or (len(figure.draws) and (bounds is None or figure.is_uninformative(level))):
            yield _unjudged(gate, kind, figure, level)
            continue
        near = figure.value if bounds is None else bounds[0 if kind == "min" else 1]
        holds = near >= threshold if kind == "min" else near <= threshold
        word = f"at {'least' if kind == 'min' else 'most'} {shown(threshold)}"
        if bounds is None:
            outcome = (
                f"is {shown(figure.value)} (counted over {counted(figure.n, 'task')}), {'' if holds else 'not '}{word}"
            )
        else:
            interval = f"{_percent(level)} interval {shown(bounds[0])} to {shown(bounds[1])}"
            outcome = f"is {shown(figure.value)} ({interval}, {counted(figure.n, 'task')})"
            outcome += f": {word}" if holds else f": not shown to be {word}"
        yield _result(gate, kind, figure.n, outcome, bounds, bounds and level, passed=holds, value=figure.value)


def _unjudged(gate: Gate, kind: Kind, figure: Figure | None, level: float) -> GateResult:
    n, value, bounds = 0, None, None
    reason = "no task has this figure"
    if figure is not None:
        n, value, bounds = figure.n, metrics.or_none(figure.value), figure.interval(level)
        over = f"{counted(n, 'task')} of {counted(figure.occupations, 'occupation')}"
        reason = f"on {over} it is undefined, or its error is as large as its range; use a larger gold"
    outcome = f"cannot be judged: {reason}"
    return _result(gate, kind, n, outcome, bounds, bounds and level, passed=False, judged=False, value=value)


def _result(
    gate: Gate, kind: Kind, n: int, outcome: str, bounds: Bounds | None, level: float | None, **more: Any
) -> GateResult:
    low, high = bounds or (None, None)
    about = {"id": gate.id, "what": _subject(gate), "kind": kind, "threshold": getattr(gate, kind), "why": gate.why}
    ends = {"low": low, "high": high, "level": level}
    return GateResult.model_validate({**about, **ends, "n": n, "message": f"{_subject(gate)} {outcome}", **more})


def _subject(gate: Gate) -> str:
    subject = gate.metric if gate.about is None else f"{gate.metric} of {gate.about}"
    return subject if gate.slice is None else f"{subject}, slice {gate.slice}"


def _percent(level: float) -> str:
    return f"{100 * level:.4g}%"
