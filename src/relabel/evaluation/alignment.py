"""Aligns runs and a gold by task; documents, gates, comparisons and reports all use this alignment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import statistics as metrics
from relabel.evaluation.document import SCALES, ReplacedText, SettingName, UnmatchedReason
from relabel.evaluation.gold import COLUMNS, Gold, asked_tasks, coded_table, full_codes, positions, run_settings
from relabel.evaluation.statistics import Array, Draws, Figure, Ints, Sums
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, mean_measures, measures_of
from relabel.sources.tables import is_table_file
from relabel.task import TASK_KEY, local_tasks, replaced, task_table, text_similarity

# Column of the gold, which is always the last; the columns 0, 1, ... are the runs in the order given.
GOLD = -1
# Settings, most informative first.
MAIN: tuple[SettingName, ...] = ("three-way", "automation", "with-tools", "strict")
# The setting that must be available to compare a measure.
_NEEDS: Mapping[Measure, SettingName] = {"alpha": "strict", "beta": "three-way", "gamma": "with-tools"}
SAYS_NOTHING = "if one is a copy of the other, their agreement says nothing."
# Fewest tasks from which full agreement, or agreement by chance only, is a reason to doubt that run and gold are what they seem.
MANY = 20


@dataclass(frozen=True)
class Pair:
    """Labels or values of two raters, on the n tasks that both labelled.

    Attributes:
        tasks: Positions of the tasks in the alignment, shape (n,); a gold that keeps several labels of a task has several.
        gold: The gold's labels as positions on the scale, or its values (0-1), shape (n,).
        run: The same for the run.
        weight: Weight of each task, shape (n,); the mean is 1, so that weighted counts add up to n.
        draws: Bootstrap draws for these tasks; None for no intervals.
        scale: The k labels, in order of exposure; empty for values.
        numbers: Number of the task at each position, shape (n,); by default each has its own.
        same: For values, whether the labels behind them have the same value, shape (n,); by default whether they are equal.
    """

    tasks: Ints
    gold: npt.NDArray[Any]
    run: npt.NDArray[Any]
    weight: Array
    draws: Draws | None
    scale: tuple[str, ...] = ()
    numbers: Ints | None = None
    same: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def task(self) -> Ints:
        """Number of the task of each label, shape (n,)."""
        return self.tasks if self.numbers is None else self.numbers

    @cached_property
    def n(self) -> int:
        """Number of tasks; `len` is that of labels, of which a gold may have several for a task."""
        return len(np.unique(self.task))

    def same_labels(self, run: str, gold: str) -> list[str]:
        """A warning if all of many labels are equal: one side may be a copy of the other."""
        if self.n < MANY or len(np.unique(self.gold)) < 2 or (self.gold != self.run).any():
            return []
        return [f"{run} and the gold {gold} have the same label on all {self.n:,} tasks: {SAYS_NOTHING}"]

    @cached_property
    def sums(self) -> Sums:
        """The terms that figures are computed from, by task.

        For labels, shape (n, k, k): for each task, a confusion matrix (rows gold, columns run) whose only entry is the
        task's weight. For values, shape (n, 7): their weighted moments.
        """
        # All labels of a task together count as one task, which matters to Krippendorff's alpha.
        of_task = self.n / max(len(self), 1)
        weight = of_task * self.weight
        if not self.scale:
            ends = metrics.task_values([0, 0, 1, 1], [0, 1, 0, 1])
            terms = metrics.task_values(self.gold, self.run)
            if self.same is not None:
                terms[:, -1] = self.same
            return Sums(terms * weight[:, None], self.draws, of_task * ends)
        size = len(self.scale)
        terms = metrics.pairs(self.gold, self.run, size) * weight[:, None, None]
        return Sums(terms, self.draws, of_task * np.eye(size * size).reshape(-1, size, size))

    def figure(self, name: str) -> Figure:
        """Compute a figure by its name in `metrics.figure_formula`; with draws it has an interval."""
        # If no label differs, that of few tasks still proves little: the interval allows for tasks not seen.
        if name == "difference" and (differ := self.occupations(self.gold != self.run)):
            return metrics.change(self.figure("gold_mean"), self.figure("mean"), differ)
        figure = self._figures(self.sums, name)[0]
        # With two tasks, the correlation is 1 or -1 whatever their values.
        value = math.nan if name == "pearson" and self.n < 3 else figure.value
        return replace(figure, value=value, n=self.n)

    def _figures(self, sums: Sums, name: str) -> list[Figure]:
        kind = name.partition(":")[0]
        share = kind in {"accuracy", "macro_f1", "agreement", "mean", "gold_mean", *metrics.BY_LABEL}
        return sums.figures(metrics.figure_formula(name, self.scale), metrics.SHARE if share else metrics.CORRELATION)

    def with_ci95(self, names: Iterable[str]) -> dict[str, Any]:
        """Figures with their 95% intervals, for a document; see `statistics.with_ci95`."""
        return metrics.with_ci95({name: self.figure(name) for name in names}, self.draws)

    def with_ci95_by_group(self, group: Ints, groups: int, names: Iterable[str]) -> list[tuple[int, dict[str, Any]]]:
        """Number of tasks and figures of each group of tasks; `pearson` is not supported.

        Args:
            group: Group of each task, shape (n,).
            groups: Number of groups.
            names: Names of the figures.
        """
        weight = np.bincount(group, self.weight, groups) / np.maximum(np.bincount(group, minlength=groups), 1)
        terms = (self.sums.terms.T / weight[group]).T
        sums = replace(self.sums, terms=terms, group=group, groups=groups)
        by_name = {name: self._figures(sums, name) for name in names}
        tasks = np.bincount(group[np.unique(self.task, return_index=True)[1]], minlength=groups)
        return [
            (n, metrics.with_ci95({name: figures[index] for name, figures in by_name.items()}, self.draws))
            for index, n in enumerate(tasks.tolist())
        ]

    def part(self, keep: npt.ArrayLike) -> Pair:
        """A pair of labels restricted to some of the tasks, by a mask, shape (n,)."""
        mask = np.asarray(keep)
        draws = self.draws and self.draws.of(mask)
        weight = mean_one(self.weight[mask])
        rows = (self.tasks[mask], self.gold[mask], self.run[mask])
        return Pair(*rows, weight, draws, scale=self.scale, numbers=self.task[mask])

    def differ(self, other: Pair) -> int:
        """Number of occupations in which another pair on the same tasks differs."""
        return self.occupations((self.gold != other.gold) | (self.run != other.run))

    def occupations(self, mask: npt.NDArray[np.bool_]) -> int:
        """Number of occupations of some of the tasks, by a mask, shape (n,); 0 without draws."""
        return 0 if self.draws is None else len(np.unique(self.draws.occupation[mask]))


@dataclass(frozen=True)
class AlignedLabels:
    """Labels of the n tasks that all runs labelled, and of a gold, which may lack some.

    Attributes:
        names: The runs, as the user named them.
        tasks: Columns `onet_soc_code, task_id`, the gold's `weight` (1 if it has none) and `stratum`; indexed by position.
        labels: By setting that all runs have: labels as positions on the setting's scale, shape (n, raters), -1 if missing;
            the gold is the last column.
        values: By measure: values (0-1), for several samples of a task their mean; shape (n, raters), NaN if missing.
        voted: The same of the most frequent labels.
        only: For each run, the number of its tasks that are not compared.
        unmatched: Number of tasks of the first run or the gold that are not compared, by reason.
        warnings: Warnings about the alignment with the gold, to be shown first.
        text_changed: Number of tasks whose text differs between run and gold; None if the texts are unknown.
        texts_replaced: Tasks left out because the same id stands for another task in the gold or another run.
        draws: Bootstrap draws for the tasks; None for no intervals.
        weights: With several golds, the weight of each task for each rater, shape (n, raters); otherwise None.
    """

    names: tuple[str, ...]
    tasks: pd.DataFrame
    labels: Mapping[SettingName, Ints]
    values: Mapping[Measure, Array]
    voted: Mapping[Measure, Array] = field(default_factory=dict[Measure, Array])
    only: tuple[int, ...] = ()
    unmatched: Mapping[UnmatchedReason, int] | None = None
    warnings: tuple[str, ...] = ()
    text_changed: int | None = None
    texts_replaced: tuple[ReplacedText, ...] = ()
    draws: Draws | None = None
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def codes(self) -> npt.NDArray[np.object_]:
        """O*NET-SOC code of each task."""
        return self.tasks["onet_soc_code"].to_numpy(dtype=object)

    @property
    def occupations(self) -> int:
        """Number of occupations of the tasks."""
        return self.tasks["onet_soc_code"].nunique()

    @property
    def few_occupations(self) -> str | None:
        """A warning if the tasks with a label in the main setting are of too few occupations for useful intervals."""
        return metrics.few_occupations(len(set(self.codes[self.labelled(self.main, *range(len(self.names)))])))

    @property
    def weight(self) -> Array:
        """The gold's weight of each task, shape (n,)."""
        return self.tasks["weight"].to_numpy(dtype=np.float64)

    @property
    def main(self) -> SettingName:
        """The most informative setting: the three-way code if there is one."""
        return next(s for s in MAIN if s in self.labels)

    @property
    def main_measure(self) -> Measure | None:
        """The most informative measure: beta if both settings are known."""
        return next((m for m in ("beta", "gamma", "alpha") if m in self.values), None)

    def index(self) -> pd.MultiIndex:
        """Code and id of each task."""
        return pd.MultiIndex.from_frame(self.tasks[TASK_KEY])

    @cached_property
    def numbers(self) -> Ints:
        """A number for each task, by position; shape (n,)."""
        return pd.factorize(self.index())[0]

    @cached_property
    def unique_tasks(self) -> AlignedLabels:
        """The alignment with one row per task, for figures without the gold, which may have several labels of a task."""
        return self.part(~self.index().duplicated())

    def words(self, setting: SettingName, rater: int) -> pd.Series:
        """A rater's labels in a setting, as text; indexed by position."""
        scale = np.array([*SCALES[setting], None], dtype=object)
        return pd.Series(scale[self.labels[setting][:, rater]], index=self.tasks.index, dtype=object)

    def table(self, about: SettingName | Measure) -> npt.NDArray[Any]:
        """Labels in a setting, or values of a measure, shape (n, raters); negative or NaN if missing."""
        return {**self.labels, **self.values}[about]

    def labelled(self, about: SettingName | Measure, *raters: int) -> npt.NDArray[np.bool_]:
        """Mask of the tasks with a label or value of all given raters, by default of all raters."""
        labelled = self.table(about) >= 0
        return np.all(labelled[:, list(raters)] if raters else labelled, axis=1)

    def pair(
        self,
        about: SettingName | Measure,
        run: int = 0,
        other: int = GOLD,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        weighted: bool = True,
    ) -> Pair:
        """Labels in a setting, or values of a measure, of two raters.

        Args:
            about: The setting or measure.
            run: Column of a rater.
            other: Column of the rater that it is compared with.
            keep: Mask of tasks to keep; by default all that both labelled.
            weighted: Whether to use the weights of the gold or, with several golds, of the other rater.
        """
        tasks = np.flatnonzero(self.labelled(about, run, other) if keep is None else keep)
        table = self.table(about)
        scale = SCALES.get(about, ())  # pyright: ignore[reportArgumentType,reportCallIssue]  a measure has no scale
        weights = self.weight if self.weights is None else self.weights[:, other]
        weight = mean_one(weights[tasks]) if weighted else np.ones(len(tasks))
        draws = self.draws and self.draws.of(tasks)
        voted = self.voted.get(about)  # pyright: ignore[reportArgumentType,reportCallIssue]  a setting has no values
        same = None if voted is None else voted[tasks, other] == voted[tasks, run]
        both = table[tasks, other], table[tasks, run]
        return Pair(tasks, *both, weight, draws, scale=scale, numbers=self.numbers[tasks], same=same)

    def with_draws(self, draws: int = metrics.DRAWS, seed: int = 0) -> AlignedLabels:
        """The alignment with bootstrap draws of its occupations; 0 for none."""
        return replace(self, draws=metrics.occupation_draws(self.codes, draws, seed) if draws else None)

    def part(self, keep: npt.NDArray[np.bool_]) -> AlignedLabels:
        """The alignment restricted to some of the tasks, by a mask."""
        return replace(
            self,
            tasks=self.tasks[keep].reset_index(drop=True),
            labels={s: table[keep] for s, table in self.labels.items()},
            values={m: table[keep] for m, table in self.values.items()},
            voted={m: table[keep] for m, table in self.voted.items()},
            draws=None if self.draws is None else self.draws.of(keep),
        )


def align(runs: Sequence[Run], gold: Gold | None = None) -> AlignedLabels:
    """Align runs on the tasks that are in all of them, by occupation code and task id.

    A gold without occupation codes is matched by task id alone. The code of a task is used only if both settings are known:
    `strict` alone can only determine the code E1, so the codes of half-labelled tasks would be biased towards E1.

    Args:
        runs: One or more runs; for several samples of a task, the most frequent label is used.
        gold: A gold; it may lack tasks.

    Raises:
        DataError: The runs share no task or no setting, or the first shares no task with the gold; or the gold has no
            occupation codes and one of its ids belongs to tasks of several occupations.
    """
    tables = [coded_table(run) for run in runs]
    index = tables[0].index
    changed, replaced_texts = None, ()
    for run, table in zip(runs[1:], tables[1:], strict=True):
        index = index.intersection(table.index, sort=False)
        if not len(index):
            raise DataError(
                f"{runs[0].ref} ({runs[0].list_name}) and {run.ref} ({run.list_name}) share no task; compare runs of the "
                "same list, --sample, --seed and --occupation"
            )
        _, other = _changed_texts(index, runs[0].manifest.tasks, run.manifest.tasks, None)
        index = index.difference(_task_index(other), sort=False)
        replaced_texts += other
    settings: list[SettingName] = [s for s in SCALES if all(s in run_settings(run) for run in runs)]
    if not settings:
        settings_text = "; ".join(f"{run.ref}: {', '.join(run_settings(run))}" for run in runs)
        raise DataError(f"the runs share no setting ({settings_text}); compare runs of the same settings")
    rubrics = [run.rubric for run in runs]
    unmatched: Mapping[UnmatchedReason, int] | None = None
    warnings: tuple[str, ...] = ()
    gold_rows = pd.DataFrame(index=index, columns=["weight", "stratum"], dtype="string")
    if gold is not None:
        asked = asked_tasks(runs[0], tables[0].index).to_frame(index=False)
        gold_table = gold_on_tasks(gold, asked)
        shared = tables[0].index.intersection(gold_table.index, sort=False)
        changed, other = _changed_texts(shared, runs[0].manifest.tasks, gold.tasks, gold_table["text"])
        _refuse_other_ids(other, len(gold_table), runs[0], gold)
        gold_table = gold_table[~gold_table.index.isin(_task_index(other))].drop(columns="text")
        unmatched = _unmatched(runs[0], tables[0], gold_table, gold)
        warnings = _other_codes(asked, gold_table.index, gold)
        if other:
            unmatched |= {"other-text": len(other), "not-in-gold": unmatched["not-in-gold"] - len(other)}
        replaced_texts += other
        # A gold that keeps several labels of a task has one row for each.
        gold_rows = pd.DataFrame(index=index).join(gold_table)
        rubrics.append(runs[0].rubric)
    design = gold_rows[["weight", "stratum"]].assign(weight=gold_rows["weight"].astype("float64").fillna(1.0))
    sides = [*(table.reindex(gold_rows.index) for table in tables), *([gold_rows] if gold is not None else [])]
    # Both readings must be nullable booleans, even if a side has no values at all in one of them.
    sides = [side.astype({"strict": "boolean", "with_tools": "boolean"}) for side in sides]
    labels = {s: np.stack([positions(side[COLUMNS[s]], s) for side in sides], axis=1) for s in settings}
    common: list[SettingName] = [s for s in settings if (labels[s][:, : len(runs)] >= 0).all(axis=1).any()]
    values, voted = dict[Measure, Array](), dict[Measure, Array]()
    by_vote = [measures_of(r, side[["strict", "with_tools"]]) for r, side in zip(rubrics, sides, strict=True)]
    makers = zip(by_vote, [*runs, gold.run] if gold else runs, strict=True)
    means = [
        side if run is None else mean_measures(run).reindex(side.index).where(side.notna()) for side, run in makers
    ]
    for measure in MEASURES:
        if _NEEDS[measure] in common:
            values[measure], voted[measure] = (
                np.stack([side[measure].to_numpy(dtype=np.float64) for side in tables], axis=1)
                for tables in (means, by_vote)
            )
    return AlignedLabels(
        names=tuple(run.ref for run in runs),
        tasks=design.reset_index(),
        labels={s: labels[s] for s in common or settings},
        values=values,
        voted=voted,
        only=tuple(len(table) - len(index) for table in tables),
        unmatched=unmatched,
        warnings=warnings,
        text_changed=changed,
        texts_replaced=replaced_texts,
    )


def match(run: Run, gold: Gold) -> AlignedLabels:
    """Align a run with a gold, on the tasks and settings with labels of both.

    Raises:
        DataError: As for `align`; or they share no setting or no task with a label on both sides.
    """
    aligned = align([run], gold)
    settings: dict[SettingName, Ints] = {s: table for s, table in aligned.labels.items() if aligned.labelled(s).any()}
    usable = np.any([aligned.labelled(s) for s in settings], axis=0)
    values = {m: table for m, table in aligned.values.items() if _NEEDS[m] in settings}
    return replace(aligned, labels=settings, values=values).part(usable)


def align_all(runs: Mapping[str, Run], golds: Sequence[Gold] = ()) -> AlignedLabels:
    """Align runs and golds on all tasks that any run labelled. Runs come first; measures are not computed."""
    tables = [coded_table(run) for run in runs.values()]
    tasks = reduce(pd.Index.union, (table.index for table in tables)).sort_values().to_frame(index=False)
    sides = [*tables, *(gold_on_tasks(gold, tasks) for gold in golds)]
    sides = [side.reindex(pd.MultiIndex.from_frame(tasks)) for side in sides]
    weights = [np.asarray(side["weight"].astype("float64").fillna(1.0), dtype=np.float64) for side in sides]
    return AlignedLabels(
        names=(*runs, *(gold.name for gold in golds)),
        tasks=tasks.assign(weight=1.0, stratum=None),
        labels={s: np.stack([positions(side[column], s) for side in sides], axis=1) for s, column in COLUMNS.items()},
        values={},
        weights=np.stack(weights, axis=1),
    )


def task_details(run: Run, named: str | None = None) -> pd.DataFrame | None:
    """The task list of a run, schema `relabel.task.task_schema`; None if it is not on this machine, or has changed.

    Args:
        run: The run; its own list is not downloaded.
        named: A list to use instead.

    Raises:
        UsageError: A list is named, but the run rates occupations.
        DataError: The named list cannot be read, or lacks a task of the run. The run's own list may lack tasks, because
            imported labels may include others.
    """
    if named is None:
        own = run.own_task_list() if run.rubric.unit == "task" else None
        return None if own is None else task_table(own) if is_table_file(own) else local_tasks(own)
    run.require_tasks()
    table = task_table(named)
    if run.is_own_list(Path(named)) or (named == run.manifest.tasks and not is_table_file(named)):
        return table
    wanted = asked_tasks(run, pd.MultiIndex.from_frame(run.labels[TASK_KEY]).unique())
    if len(lacking := wanted.difference(pd.MultiIndex.from_frame(table[TASK_KEY]))):
        code, task = lacking[0]
        raise DataError(
            f"{named} is not the list that {run.ref} labelled: it lacks {len(lacking):,} of the run's {len(wanted):,} tasks, "
            f"such as {task!r} of {code}; give the list that the run was made from, {run.list_name}"
        )
    return table


class TaskTexts:
    """Statements of tasks and titles of their occupations; empty if unknown."""

    def __init__(self, details: pd.DataFrame | None) -> None:
        tasks = pd.DataFrame(columns=[*TASK_KEY, "title", "text"]) if details is None else details
        self._texts: dict[tuple[str, str], str] = tasks.set_index(TASK_KEY)["text"].to_dict()  # pyright: ignore[reportAttributeAccessIssue]  keys are pairs
        self._titles = dict(zip(tasks["onet_soc_code"], tasks["title"], strict=True))

    def title(self, code: str) -> str:
        """Title of an occupation."""
        return self._titles.get(code, "")

    def about(self, code: str, task_id: str) -> dict[str, str]:
        """Code, id, occupation title and statement of a task, as in `NamedTask`."""
        text = self._texts.get((code, task_id), "")
        return {"onet_soc_code": code, "task_id": task_id, "title": self.title(code), "text": text}


def rationales(run: Run, tasks: pd.Index, name: str = "") -> pd.Series:
    """A run's rationales for some tasks, by code and id: one line per setting, which starts with `name` and the setting."""
    labels = run.labels.reindex(columns=[*TASK_KEY, "setting", "sample", "rationale"])
    labels = labels[(labels["sample"] == 0) & labels["rationale"].notna()]
    labels = labels[pd.MultiIndex.from_frame(labels[TASK_KEY]).isin(tasks)]
    several = len(run.rubric.settings) > 1
    prefix = labels["setting"].map(lambda setting: ", ".join(filter(None, (name, str(setting) if several else ""))))
    lines = (prefix + ": ").where(prefix != "", "") + labels["rationale"].astype(str)
    return lines.groupby([labels[column] for column in TASK_KEY], sort=False).agg("\n".join)


def mean_one(weight: Array) -> Array:
    """Weights scaled to a mean of 1, so that weighted counts add up to the number of tasks."""
    return weight / weight.mean() if len(weight) else weight


def gold_on_tasks(gold: Gold, tasks: pd.DataFrame) -> pd.DataFrame:
    """The gold's table by code and id; a gold without codes gets those of the `tasks` (`TASK_KEY`) with the same ids.

    Raises:
        DataError: The gold has no codes, and one of its ids belongs to several of these tasks.
    """
    table = gold.table.assign(code=full_codes(gold.table))
    if table["onet_soc_code"].notna().any():
        return table.set_index(TASK_KEY)
    ambiguous = tasks[tasks["task_id"].duplicated() & tasks["task_id"].isin(table["task_id"])]
    if len(ambiguous):
        raise DataError(
            f"the task id {ambiguous['task_id'].iloc[0]!r} stands for several occupations of the run; "
            f"add a column onet_soc_code to the gold {gold.name}"
        )
    return table.drop(columns="onet_soc_code").merge(tasks, on="task_id", how="left").set_index(TASK_KEY)


def _changed_texts(
    index: pd.Index, first: str, second: str, own: pd.Series | None
) -> tuple[int | None, tuple[ReplacedText, ...]]:
    """Number of tasks whose text differs between two lists, and the tasks whose id was given to another task.

    Args:
        index: Code and id of the tasks.
        first: Name of a task list.
        second: Name of the other.
        own: The second side's own texts, by code and id, if it has any.

    Returns:
        None and no tasks if a list is not on this machine; nothing is downloaded.
    """
    own_texts = [own] if own is not None and own.notna().any() else []
    if first == second and not own_texts:
        return 0, ()
    lists = [local_tasks(name) for name in ([first] if own_texts else [first, second])]
    sides = [*(table.set_index(TASK_KEY)["text"] for table in lists if table is not None), *own_texts]
    if len(sides) < 2:
        return None, ()
    texts, others = (side[~side.index.duplicated()].reindex(index) for side in sides)
    alike = text_similarity(others, texts)
    scores = alike[replaced(alike)].sort_values(kind="stable")
    rows = tuple(
        ReplacedText(task_id=task, onet_soc_code=code, similarity=score, run=texts[code, task], gold=others[code, task])
        for (code, task), score in cast("Iterable[tuple[tuple[str, str], float]]", scores.items())
    )
    return int((alike < 1).sum()), rows


def _task_index(rows: Iterable[ReplacedText]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples([(row.onet_soc_code, row.task_id) for row in rows], names=TASK_KEY)


def _refuse_other_ids(others: Sequence[ReplacedText], tasks: int, run: Run, gold: Gold) -> None:
    """Refuse a gold in which most ids belong to other tasks than in the run."""
    if len(others) > tasks / 2:
        first = others[0]
        raise DataError(
            f"the ids of the gold {gold.name} are not those of the run's tasks: {len(others):,} of {tasks:,} have another "
            f"text, such as {first.task_id!r}, {first.gold[:60]!r} in the gold and {first.run[:60]!r} in "
            f"{run.manifest.tasks}; give the gold the ids of these tasks"
        )


def _other_codes(asked: pd.DataFrame, gold_tasks: pd.Index, gold: Gold) -> tuple[str, ...]:
    """A warning about tasks whose id has another occupation code in the gold, from another taxonomy or truncated."""
    index = pd.MultiIndex.from_frame(asked)
    unused = gold_tasks[~gold_tasks.isin(index)].to_frame(index=False).drop_duplicates("task_id")
    tasks = asked[~index.isin(gold_tasks)].merge(unused, on="task_id", suffixes=("", "_gold"))
    if tasks.empty:
        return ()
    code, task, gold_code = tasks.iloc[0]
    return (
        f"{len(tasks):,} of {len(asked):,} tasks of the run have the id of a task of the gold {gold.name}, but another "
        f"occupation code ({task} is of {code} in the run, of {gold_code} in the gold): they are not compared. Use "
        "O*NET-SOC 2019 codes in both.",
    )


def _unmatched(run: Run, run_table: pd.DataFrame, gold_table: pd.DataFrame, gold: Gold) -> dict[UnmatchedReason, int]:
    """Tasks that are not compared, by reason.

    Raises:
        DataError: No task can be compared.
    """
    asked = asked_tasks(run, run_table.index)
    if gold_table.index.has_duplicates:  # a gold with several annotators has several rows per task
        gold_table = gold_table.groupby(level=TASK_KEY, sort=False, dropna=False).first()
    shared = asked.intersection(gold_table.index)
    if not len(shared):
        raise DataError(
            f"no task of the run is in the gold {gold.name}: these tasks are {run.manifest.tasks} "
            f"({_example(run_table.reset_index())}), the gold has others ({_example(gold.table)}); "
            "use a gold for these tasks with --gold"
        )
    settings: list[SettingName] = [s for s in run_settings(run) if gold_table[COLUMNS[s]].notna().any()]
    columns = [COLUMNS[s] for s in settings]
    first, second = (side.reindex(shared)[columns].notna().to_numpy(dtype=bool) for side in (run_table, gold_table))
    usable, has_run = (first & second).any(axis=1), first.any(axis=1)
    unmatched: dict[UnmatchedReason, int] = {
        "not-in-gold": len(asked) - len(shared),
        "not-in-run": len(gold_table) - len(shared),
        "no-label-in-run": int((~usable & ~has_run).sum()),
        # All other shared tasks: the gold has no label in any setting in which the run has one.
        "no-label-in-gold": int((~usable & has_run).sum()),
    }
    if not usable.any():
        raise DataError(
            f"no task has a label both in the run ({', '.join(run_settings(run))}) and in the gold {gold.name}; complete "
            "the run or the gold, or use another --gold"
        )
    return unmatched


def _example(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    code = first["onet_soc_code"]
    return f"such as {first['task_id']!r}" + ("" if pd.isna(code) else f" of {code}")
