"""Gates: what a run must reach, judged by intervals so that noise alone does not stop a change.

Two kinds of gate differ in what must be shown:

- `min` and `max` ask for evidence that the run is good enough: the interval's near bound must clear the threshold. All of
  them must hold, so a bad run passes a suite no more easily for having many gates, and nothing is adjusted.
- `max_drop` asks for evidence that the run is worse than the baseline: the whole interval of the paired change must lie
  below the allowed drop. Each such gate can fire on noise, so that a suite of many would flap: by default their levels are
  adjusted together after Holm 1979, and a suite fires on pure noise in at most one of forty runs (2.5 %: at level 0.95 an
  interval misses on either side, and one side alone counts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from relabel.errors import DataError
from relabel.evaluation import figures
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.document import SCALES
from relabel.evaluation.figures import Figure
from relabel.evaluation.gold import Gold, make_gold
from relabel.evaluation.matching import asked
from relabel.evaluation.raters import GOLD, Raters, occupations_of, side_by_side
from relabel.evaluation.suite import Gate, Slice, Suite
from relabel.evaluation.verdict import figure as shown
from relabel.manifest import SourceUse
from relabel.run import Run

Kind = Literal["min", "max", "max_drop"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GateResult(_Part):
    """The outcome of one condition of a gate.

    Attributes:
        id: The gate's id.
        what: The figure in words, such as `kappa of three-way, slice core`.
        kind: Which of the gate's thresholds.
        passed: Whether it holds.
        judged: False where the data cannot give the figure or its interval; such a gate has not passed.
        threshold: The threshold.
        value: The figure; for `max_drop` its paired change.
        low: Lower bound of its interval; null for plain counts.
        high: Upper bound.
        level: Level of that interval, after adjustment.
        run: The run's own figure, for `max_drop`.
        baseline: The baseline's figure on the same tasks, for `max_drop`.
        p: One-sided p-value of a fall by more than the threshold, for `max_drop`, before adjustment.
        n: Tasks behind it.
        message: The outcome in one sentence.
        why: The suite's own words on the gate.
    """

    id: str
    what: str
    kind: Kind
    passed: bool
    judged: bool
    threshold: float
    value: float | None
    low: float | None
    high: float | None
    level: float | None
    run: float | None
    baseline: float | None
    p: float | None = None
    n: int
    message: str
    why: str | None


class SuiteResult(_Part):
    """The outcome of a suite.

    Attributes:
        suite: The suite's name.
        title: Its title.
        run: The run, as the user named it.
        gold: The gold's name.
        gold_sha256: Hash of the gold's labels.
        baseline: The baseline, as the suite names it.
        baseline_sha256: Hash of its labels.
        family: What was done about many gates, in words.
        passed: Whether all gates hold.
        results: One entry a threshold, in the suite's order.
    """

    suite: str
    title: str
    run: str
    gold: str
    gold_sha256: str
    baseline: str | None
    baseline_sha256: str | None
    family: str
    passed: bool
    results: tuple[GateResult, ...]

    @property
    def failures(self) -> tuple[GateResult, ...]:
        """The conditions that do not hold."""
        return tuple(result for result in self.results if not result.passed)


def labels_sha256(run: Run) -> str:
    """Hash of a run's labels, the same as that of a gold made of them: what a suite pins a baseline by."""
    return make_gold(run.ref, run.coded(), SourceUse(source="run", file=run.ref, sha256="")).sha256


def judge(suite: Suite, run: Run, gold: Gold, baseline: Run | None, details: pd.DataFrame | None = None) -> SuiteResult:
    """Judge a run by a suite.

    Args:
        suite: The suite.
        run: The run.
        gold: The suite's gold.
        baseline: The suite's baseline, where it names one.
        details: The run's task table (`relabel.task.TASKS`), for slices by task type or importance.

    Returns:
        The outcome of all gates.

    Raises:
        DataError: Gold or baseline are not the pinned ones, a slice needs tasks that are not at hand, or the runs and
            the gold share no task.
    """
    pin = None if baseline is None else labels_sha256(baseline)
    _check_pins(suite, gold, pin)
    alone = _Bench(side_by_side([run], gold), suite, details)
    bounded = {gate.id: tuple(_bounds(gate, _figure(gate, run, alone), suite.level)) for gate in suite.gates}
    drops: Mapping[str, GateResult] = {}
    if baseline is not None and any(gate.max_drop is not None for gate in suite.gates):
        drops = against_baseline(suite, side_by_side([run, baseline], gold), details)
    results = tuple(
        result
        for gate in suite.gates
        for result in (*bounded[gate.id], *([drops[gate.id]] if gate.id in drops else []))
    )
    return SuiteResult(
        suite=suite.name,
        title=suite.title,
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        baseline=None if suite.baseline is None else suite.baseline.run,
        baseline_sha256=pin,
        family=_family(suite, len(drops)),
        passed=all(result.passed for result in results),
        results=results,
    )


def against_baseline(suite: Suite, raters: Raters, details: pd.DataFrame | None = None) -> dict[str, GateResult]:
    """Judge the `max_drop` gates of a suite together.

    Args:
        suite: The suite.
        raters: The run and the baseline, in this order, beside the gold.
        details: As for `judge`.

    Returns:
        The outcome by the gate's id.
    """
    bench = _Bench(raters, suite, details)
    drops = [
        _Drop(gate, bench.figure(gate, 1), bench.figure(gate, 0), bench.changed(gate))
        for gate in suite.gates
        if gate.max_drop is not None
    ]
    levels = family_levels([drop.p for drop in drops], suite.level, suite.family)
    return {drop.gate.id: drop.result(level) for drop, level in zip(drops, levels, strict=True)}


def family_levels(p_values: Sequence[float], level: float, family: str) -> list[float]:
    """The level of each gate's interval when several gates are judged together.

    Args:
        p_values: One-sided p-values, one a gate.
        level: Level of a single gate's two-sided interval.
        family: `holm`, `bonferroni` or `none`.

    Returns:
        Levels in the order of the p-values. A gate fires when its interval at that level excludes the allowed change,
        which for `holm` is the step-down procedure: the smallest p is held to a level for all gates, the next to one for
        all but one, and after the first that does not fire all others keep its level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    count, miss = len(p_values), 1 - level
    if family != "holm" or count < 2:
        return [1 - (miss / max(count, 1) if family == "bonferroni" else miss)] * count
    levels, share, stopped = [0.0] * count, miss / count, False
    for done, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        if not stopped:
            share = miss / (count - done)
        levels[place] = 1 - share
        stopped = stopped or p_values[place] >= share / 2
    return levels


@dataclass(frozen=True)
class _Bench:
    """Runs and gold side by side, with draws, and what the suite's slices keep of them."""

    raters: Raters
    suite: Suite
    details: pd.DataFrame | None

    @cached_property
    def draws(self) -> Draws:
        codes = occupations_of(self.index).to_numpy()
        return occupation_draws(codes, self.suite.draws, self.suite.seed)

    @cached_property
    def index(self) -> pd.Index:
        return next(iter(self.raters.labels.values())).index

    def figure(self, gate: Gate, rater: int) -> Figure | None:
        """The gate's figure of one run; None where no task has it."""
        found = self._told(gate)
        if found is None or not found[1].any():
            return None
        table, told = found
        draws, gold, run = self.draws.of(told), table.loc[told, GOLD], table.loc[told, rater]
        weight = self.raters.weight[told]
        if gate.setting is not None:
            scale = SCALES[gate.setting]
            return figures.of_setting(gate.metric, gold.to_numpy(), run.to_numpy(), scale, draws, weight)
        return figures.of_measure(gate.metric, gold, run, draws, weight)

    def changed(self, gate: Gate) -> int:
        found = self._told(gate)
        if found is None:
            return 0
        table, told = found
        return figures.changed_occupations(table.loc[told, 0], table.loc[told, 1])

    def _told(self, gate: Gate) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]] | None:
        """Labels or values that a gate is about, and the tasks that count: in its slice, known on all sides."""
        key = (gate.setting, gate.measure, gate.slice)
        if key not in self._kept:
            self._kept[key] = self._find(gate)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[tuple[str | None, ...], tuple[pd.DataFrame, npt.NDArray[np.bool_]] | None]:
        return {}

    def _find(self, gate: Gate) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]] | None:
        table = self.raters.labels.get(gate.setting) if gate.setting else None
        table = self.raters.values.get(gate.measure) if gate.measure else table
        if table is None:
            return None
        return table, table.notna().all(axis=1).to_numpy() & self._mask(gate.slice)

    def _mask(self, name: str | None) -> npt.NDArray[np.bool_]:
        if name is None:
            return np.ones(len(self.index), dtype=bool)
        return in_slice(self.suite.slices[name], name, self.index, self.details)


def in_slice(part: Slice, name: str, index: pd.Index, details: pd.DataFrame | None) -> npt.NDArray[np.bool_]:
    """Which tasks a slice keeps.

    Args:
        part: The slice.
        name: Its name, for errors.
        index: Tasks, levels `onet_soc_code` and `task_id`.
        details: Task table with `task_type` and `importance`.

    Returns:
        A mask, shape (n_tasks,). A task of unknown type or importance is in no slice that asks for it.

    Raises:
        DataError: The slice needs a task table, and there is none.
    """
    keep = np.ones(len(index), dtype=bool)
    if part.soc_major:
        keep &= occupations_of(index).str[:2].isin(part.soc_major).to_numpy()
    if not part.needs_tasks:
        return keep
    if details is None:
        raise DataError(
            f"the slice {name} needs the run's task list, which is not at hand; fetch it with `relabel data pull`, "
            "or slice by soc_major"
        )
    told = details.set_index(["onet_soc_code", "task_id"])[["task_type", "importance"]].reindex(index)
    if part.task_type:
        keep &= told["task_type"].isin(part.task_type).to_numpy()
    if part.importance is not None:
        keep &= (told["importance"] >= part.importance).to_numpy()
    if part.max_importance is not None:
        keep &= (told["importance"] < part.max_importance).to_numpy()
    return keep


@dataclass(frozen=True)
class _Drop:
    """A gate against the baseline that waits for its level."""

    gate: Gate
    baseline: Figure | None
    run: Figure | None
    occupations: int

    @cached_property
    def change(self) -> Figure | None:
        if self.baseline is None or self.run is None:
            return None
        return figures.change(self.baseline, self.run, self.occupations)

    @property
    def allowed(self) -> float:
        return self.gate.max_drop or 0.0

    @cached_property
    def p(self) -> float:
        return 1.0 if self.change is None else self.change.p_below(-self.allowed)

    def result(self, level: float) -> GateResult:
        what = _what(self.gate)
        bounds = None if self.change is None else self.change.wald(level)
        if self.change is None or self.run is None or self.baseline is None or bounds is None:
            return _unjudged(self.gate, "max_drop", self.allowed, self.change)
        fell = bounds[1] < -self.allowed
        by = (
            f"from {shown(self.baseline.value)} to {shown(self.run.value)}, change {self.change.value:+.3f} "
            f"({_percent(level)} interval {bounds[0]:+.3f} to {bounds[1]:+.3f}, {self.run.n:,} tasks)"
        )
        allowed = f"; a drop of {shown(self.allowed)} is allowed" if self.allowed else ""
        said = f"{what} falls {by}{allowed}" if fell else f"{what} goes {by}: no sure fall{allowed}"
        return GateResult(
            id=self.gate.id,
            what=what,
            kind="max_drop",
            passed=not fell,
            judged=True,
            threshold=self.allowed,
            value=self.change.value,
            low=bounds[0],
            high=bounds[1],
            level=level,
            run=self.run.value,
            baseline=self.baseline.value,
            p=self.p,
            n=self.run.n,
            message=said,
            why=self.gate.why,
        )


@dataclass(frozen=True)
class _Counted:
    """A share that was counted, not estimated."""

    value: float
    n: int


def _figure(gate: Gate, run: Run, bench: _Bench) -> Figure | _Counted | None:
    if gate.min is None and gate.max is None:
        return None
    if gate.metric == "coverage":
        total, unanswered = asked(run)
        setting = gate.setting or bench.raters.main
        return _Counted(1 - unanswered[setting] / total, total) if total and setting in unanswered else None
    if gate.metric == "incoherent":
        coded = run.coded()
        both = coded["strict"].notna() & coded["with_tools"].notna()
        return _Counted(float((coded["incoherent"] & both).sum() / both.sum()), int(both.sum())) if both.any() else None
    return bench.figure(gate, 0)


def _bounds(gate: Gate, found: Figure | _Counted | None, level: float) -> Iterator[GateResult]:
    if gate.min is not None:
        yield _bounded(gate, "min", gate.min, found, level)
    if gate.max is not None:
        yield _bounded(gate, "max", gate.max, found, level)


def _bounded(
    gate: Gate, kind: Literal["min", "max"], threshold: float, found: Figure | _Counted | None, level: float
) -> GateResult:
    if found is None:
        return _unjudged(gate, kind, threshold, None)
    what = _what(gate)
    if isinstance(found, _Counted):
        bounds, near = None, found.value
        interval = f"counted over {found.n:,} tasks"
    else:
        bounds = found.bounds(level) if math.isfinite(found.value) else None
        if bounds is None:
            return _unjudged(gate, kind, threshold, found)
        near = bounds[0] if kind == "min" else bounds[1]
        interval = f"{_percent(level)} interval {shown(bounds[0])} to {shown(bounds[1])}, {found.n:,} tasks"
    holds = near >= threshold if kind == "min" else near <= threshold
    word = "at least" if kind == "min" else "at most"
    surely = "" if bounds is None else "surely "
    said = f"{what} is {shown(found.value)} ({interval}), "
    said += f"{surely}{word} {shown(threshold)}" if holds else f"not {surely}{word} {shown(threshold)}"
    return GateResult(
        id=gate.id,
        what=what,
        kind=kind,
        passed=holds,
        judged=True,
        threshold=threshold,
        value=found.value,
        low=None if bounds is None else bounds[0],
        high=None if bounds is None else bounds[1],
        level=None if bounds is None else level,
        run=None,
        baseline=None,
        n=found.n,
        message=said,
        why=gate.why,
    )


def _unjudged(gate: Gate, kind: Kind, threshold: float, found: Figure | None) -> GateResult:
    value = None if found is None or not math.isfinite(found.value) else found.value
    n = 0 if found is None else found.n
    reason = f"{n:,} tasks in too few occupations for an interval" if n else "no task has this figure"
    return GateResult(
        id=gate.id,
        what=_what(gate),
        kind=kind,
        passed=False,
        judged=False,
        threshold=threshold,
        value=value,
        low=None,
        high=None,
        level=None,
        run=None,
        baseline=None,
        n=n,
        message=f"{_what(gate)} cannot be judged: {reason}",
        why=gate.why,
    )


def _what(gate: Gate) -> str:
    about = gate.setting or gate.measure
    said = gate.metric if about is None else f"{gate.metric} of {about}"
    return said if gate.slice is None else f"{said}, slice {gate.slice}"


def _percent(level: float) -> str:
    return f"{100 * level:.4g} %"


def _check_pins(suite: Suite, gold: Gold, pin: str | None) -> None:
    if suite.gold_sha256 is not None and suite.gold_sha256 != gold.sha256:
        raise DataError(
            f"{suite.path}: gold_sha256: the gold {gold.name} has labels with the hash {gold.sha256}, not the pinned "
            "one; restore the gold, or pin the new hash if the change is meant"
        )
    wanted = None if suite.baseline is None else suite.baseline.labels_sha256
    if wanted is not None and wanted != pin:
        raise DataError(
            f"{suite.path}: baseline.labels_sha256: the baseline {suite.baseline and suite.baseline.run} has labels with "
            f"the hash {pin}, not the pinned one; restore the run, or pin the new hash if the change is meant"
        )


def _family(suite: Suite, drops: int) -> str:
    if not drops:
        return "No gate is against a baseline; gates that ask for evidence need no adjustment for their number."
    noise = 100 * (1 - suite.level) / 2
    if suite.family == "none":
        return f"Each of the {drops} gates against the baseline fires on pure noise in at most {noise:.3g} % of runs."
    if drops == 1:
        return f"The gate against the baseline fires on pure noise in at most {noise:.3g} % of runs."
    rule = {"holm": "Holm's", "bonferroni": "Bonferroni's"}[suite.family]
    return (
        f"The {drops} gates against the baseline are judged by {rule} rule: on pure noise any of them fires in at most "
        f"{noise:.3g} % of runs."
    )


def gate_error(failures: Iterable[GateResult]) -> str:
    """What the command says when gates failed: the first of them, and how many more."""
    first, *rest = failures
    more = f" (and {len(rest)} more)" if rest else ""
    why = f"; {first.why.rstrip('.')}" if first.why else ""
    return f"gate {first.id} failed{more}: {first.message}{why}"
