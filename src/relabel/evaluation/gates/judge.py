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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import figures
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.document import SCALES
from relabel.evaluation.figures import Figure
from relabel.evaluation.gates.family import family_levels, in_words
from relabel.evaluation.gates.outcome import Counted, Drop, GateResult, SuiteResult, bounds_of
from relabel.evaluation.gates.suite import Gate, Slice, Suite
from relabel.evaluation.gold import Gold, labels_of, make_gold
from relabel.evaluation.matching import asked
from relabel.evaluation.side_by_side import GOLD, Raters, occupations_of, side_by_side
from relabel.manifest import SourceUse
from relabel.run import Run


def labels_sha256(run: Run) -> str:
    """Hash of a run's labels, the same as that of a gold made of them: what a suite pins a baseline by."""
    return make_gold(run.ref, labels_of(run), SourceUse(source="run", file=run.ref, sha256="")).sha256


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
    of_itself = run.folder is None and run.ref == gold.name
    bounded = {
        gate.id: tuple(bounds_of(gate, _figure(gate, run, alone, of_itself=of_itself), suite.level))
        for gate in suite.gates
    }
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
        family=in_words(suite, len(drops)),
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
        Drop(gate, bench.figure(gate, 1), bench.figure(gate, 0), bench.changed(gate))
        for gate in suite.gates
        if gate.max_drop is not None
    ]
    levels = family_levels([drop.p for drop in drops], suite.level, suite.family)
    return {drop.gate.id: drop.result(level) for drop, level in zip(drops, levels, strict=True)}


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


def _figure(gate: Gate, run: Run, bench: _Bench, *, of_itself: bool) -> Figure | Counted | None:
    if gate.min is None and gate.max is None:
        return None
    figure = _own_figure(gate, run, bench)
    # A gold read as a run is no sample of anything: that it agrees with itself is known.
    return replace(figure, otherwise=None) if of_itself and isinstance(figure, Figure) else figure


def _own_figure(gate: Gate, run: Run, bench: _Bench) -> Figure | Counted | None:
    if gate.metric == "coverage":
        total, unanswered = asked(run)
        setting = gate.setting or bench.raters.main
        return Counted(1 - unanswered[setting] / total, total) if total and setting in unanswered else None
    if gate.metric == "incoherent":
        coded = run.coded()
        both = coded["strict"].notna() & coded["with_tools"].notna()
        return Counted(float((coded["incoherent"] & both).sum() / both.sum()), int(both.sum())) if both.any() else None
    return bench.figure(gate, 0)


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
