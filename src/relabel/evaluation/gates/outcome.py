"""The outcome of a suite: one entry a threshold, each with its figure, interval and one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from relabel.evaluation import figures
from relabel.evaluation.figures import Figure
from relabel.evaluation.frozen import Frozen
from relabel.evaluation.gates.suite import Gate
from relabel.evaluation.verdict import figure as shown

Kind = Literal["min", "max", "max_drop"]


class GateResult(Frozen):
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


class SuiteResult(Frozen):
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


@dataclass(frozen=True)
class Counted:
    """A share (0-1) that was counted over n tasks, not estimated."""

    value: float
    n: int


@dataclass(frozen=True)
class Drop:
    """A gate against the baseline that waits for its level.

    Attributes:
        gate: The gate.
        baseline: The baseline's figure; None where no task has it.
        run: The run's figure on the same tasks and draws.
        occupations: Occupations with a task whose label or value changed.
    """

    gate: Gate
    baseline: Figure | None
    run: Figure | None
    occupations: int

    @cached_property
    def change(self) -> Figure | None:
        """The paired change; None where one of the figures is missing."""
        if self.baseline is None or self.run is None:
            return None
        return figures.change(self.baseline, self.run, self.occupations)

    @property
    def allowed(self) -> float:
        """The drop that is allowed."""
        return self.gate.max_drop or 0.0

    @cached_property
    def p(self) -> float:
        """One-sided p-value of a fall by more than that; 1 where there is too little to go by."""
        return 1.0 if self.change is None else self.change.p_below(-self.allowed)

    def result(self, level: float) -> GateResult:
        """The outcome, judged by an interval of this level."""
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


def bounds_of(gate: Gate, found: Figure | Counted | None, level: float) -> Iterator[GateResult]:
    """Outcomes of a gate's `min` and `max`.

    Args:
        gate: The gate.
        found: Its figure; None where the data cannot give it.
        level: Level of the interval that must clear them.
    """
    if gate.min is not None:
        yield _bounded(gate, "min", gate.min, found, level)
    if gate.max is not None:
        yield _bounded(gate, "max", gate.max, found, level)


def _bounded(
    gate: Gate, kind: Literal["min", "max"], threshold: float, found: Figure | Counted | None, level: float
) -> GateResult:
    if found is None:
        return _unjudged(gate, kind, threshold, None)
    what = _what(gate)
    if isinstance(found, Counted):
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


def gate_error(failures: Iterable[GateResult]) -> str:
    """What the command says when gates failed: the first of them, and how many more."""
    first, *rest = failures
    more = f" (and {len(rest)} more)" if rest else ""
    why = f"; {first.why.rstrip('.')}" if first.why else ""
    return f"gate {first.id} failed{more}: {first.message}{why}"
