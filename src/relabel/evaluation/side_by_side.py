"""Several raters of the same tasks: runs side by side, and a gold beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.coding import measures_of
from relabel.errors import DataError
from relabel.evaluation.document import SCALES, SettingName
from relabel.evaluation.gold import Gold, labelled, labels_of
from relabel.evaluation.matching import COLUMNS, in_words, is_at_hand, match, run_settings
from relabel.evaluation.sides import NEEDS
from relabel.rubric import MEASURES, Measure, Rubric
from relabel.run import TASK_FILE, Run
from relabel.sources.fetch import sha256_of
from relabel.sources.tables import is_table_file
from relabel.task import TASK_KEY, task_table

GOLD = -1
"""Column of the gold's labels; runs have the columns 0, 1, ... in the order in which they were given."""


@dataclass(frozen=True)
class Raters:
    """Labels of the tasks that all runs have labelled.

    Attributes:
        names: The runs, as the user named them.
        labels: By setting that all runs have, one row a common task with the index (`onet_soc_code`, `task_id`), one
            column a rater: its label, missing where it has none.
        values: The same by measure: its value, 0-1.
        common: Tasks that all runs hold.
        alone: By run, tasks that not all others hold.
        weight: Weight that the gold gives to each task, shape (n_tasks,); 1 where it gives none.
    """

    names: tuple[str, ...]
    labels: Mapping[SettingName, pd.DataFrame]
    values: Mapping[Measure, pd.DataFrame]
    common: int
    alone: tuple[int, ...]
    weight: npt.NDArray[np.float64]

    @property
    def main(self) -> SettingName:
        """The setting that says most: the three-way code where there is one."""
        return next(s for s in ("three-way", "automation", "with-tools", "strict") if s in self.labels)

    @property
    def main_measure(self) -> Measure | None:
        """The measure that says most: beta where both settings are known."""
        return next((m for m in ("beta", "gamma", "alpha") if m in self.values), None)


def side_by_side(runs: Sequence[Run], gold: Gold | None = None) -> Raters:
    """Bring runs together on the tasks that all of them hold, by occupation code and task id.

    Args:
        runs: One or more runs; of several samples of a task the most frequent label counts.
        gold: A gold; it need not hold all tasks.

    Raises:
        DataError: The runs share no task or no setting, or the first shares no task with the gold.
    """
    tables = [_indexed(run) for run in runs]
    index = tables[0].index
    for run, table in zip(runs[1:], tables[1:], strict=True):
        index = index.intersection(table.index, sort=False)
        if not len(index):
            raise DataError(_no_common_task(runs[0], run))
    settings: list[SettingName] = [s for s in SCALES if all(s in run_settings(run) for run in runs)]
    if not settings:
        asked = "; ".join(f"{run.ref}: {', '.join(run_settings(run))}" for run in runs)
        raise DataError(f"the runs share no setting ({asked}); compare runs of the same settings")
    sides = {place: table.reindex(index) for place, table in enumerate(tables)}
    rubrics = {place: run.rubric for place, run in enumerate(runs)}
    weight = np.ones(len(index))
    if gold is not None:
        sides[GOLD] = _gold_side(runs[0], gold).reindex(index)
        weight = sides[GOLD]["weight"].fillna(1.0).to_numpy(dtype=np.float64)
        rubrics[GOLD] = runs[0].rubric
    # Both readings as nullable booleans, also where a side lacks one throughout.
    sides = {place: side.astype({"strict": "boolean", "with_tools": "boolean"}) for place, side in sides.items()}
    labels: dict[SettingName, pd.DataFrame] = {
        s: pd.DataFrame({place: in_words(side[COLUMNS[s]], s) for place, side in sides.items()}) for s in settings
    }
    return Raters(
        names=tuple(run.ref for run in runs),
        labels=labels,
        values=_values(sides, rubrics, settings),
        common=len(index),
        alone=tuple(len(table) - len(index) for table in tables),
        weight=weight,
    )


def occupations_of(index: pd.Index) -> pd.Series:
    """O*NET-SOC code of each task of an index (`onet_soc_code`, `task_id`)."""
    return pd.Series(cast(pd.MultiIndex, index).get_level_values(0), index=index)


def task_details(run: Run) -> pd.DataFrame | None:
    """What a run was asked about, schema `relabel.task.TASKS`; None where it is not at hand, or no task.

    Nothing is fetched. A user's own file is read again only if it is still the file that the run was made from: under the
    path that the run was given, or under its name alone, which is all that a run of imported labels keeps.
    """
    name = run.manifest.tasks
    if run.rubric.unit != "task":
        return None
    if is_at_hand(name):
        return task_table(name)
    return next((task_table(str(path)) for path in (Path(name), Path(list_name(run))) if is_own_list(run, path)), None)


def is_own_list(run: Run, path: Path) -> bool:
    """Whether a file is, byte for byte, the user's own task list that a run was made from."""
    known = {use.sha256 for use in run.manifest.sources if use.source == TASK_FILE}
    return is_table_file(path) and path.is_file() and sha256_of(path) in known


def list_name(run: Run) -> str:
    """What the task list of a run is called; for a user's own file its name where the manifest keeps no path."""
    if run.manifest.tasks != TASK_FILE:
        return run.manifest.tasks
    return next((use.file for use in run.manifest.sources if use.source == TASK_FILE), TASK_FILE)


def task_details_from(run: Run, tasks: str) -> pd.DataFrame:
    """What a run was asked about, from a list that the user names, schema `relabel.task.TASKS`.

    Args:
        run: The run.
        tasks: A list, as for `relabel.task.load_tasks`.

    Raises:
        UsageError: The run rates occupations.
        DataError: The list cannot be read, or is not the run's: it lacks a task that the run was asked about. A list
            that the run itself names may lack some, for imported labels may reach beyond their list.
    """
    run.require_tasks()
    table = task_table(tasks)
    is_file = is_table_file(tasks)
    if is_own_list(run, Path(tasks)) or (tasks == run.manifest.tasks and not is_file):
        return table
    asked = {(str(code), str(task)) for code, task in run.labels[TASK_KEY].itertuples(index=False)}
    asked |= {(failure.onet_soc_code, failure.task_id) for failure in run.failures()}
    lacking = sorted(asked - set(table[TASK_KEY].itertuples(index=False, name=None)))
    if lacking:
        code, task = lacking[0]
        raise DataError(
            f"{tasks} is not the list that {run.ref} labelled: it lacks {len(lacking):,} of the run's {len(asked):,} tasks, "
            f"such as {task!r} of {code}; give the list that the run was made from, {list_name(run)}"
        )
    return table


def _indexed(run: Run) -> pd.DataFrame:
    table = labelled(labels_of(run), f"the run {run.ref}").set_index(TASK_KEY)
    # Strict exposed already means E1, so that codes of half-answered tasks would all be E1.
    return table.assign(code=table["code"].where(table["strict"].notna() & table["with_tools"].notna()))


def _no_common_task(first: Run, second: Run) -> str:
    lists = [
        (list_name(run), {u.sha256 for u in run.manifest.sources if u.source == TASK_FILE}) for run in (first, second)
    ]
    if lists[0] != lists[1]:
        return (
            f"{first.ref} (tasks {lists[0][0]}) and {second.ref} (tasks {lists[1][0]}) share no task; compare runs on the "
            "same task list"
        )
    same = f"{first.ref} and {second.ref} share no task, though both are on {lists[0][0]}"
    drawn = [_drawn(run) for run in (first, second)]
    if drawn[0] == drawn[1]:
        return f"{same}: they hold other tasks of it; compare runs of the same tasks"
    return (
        f"{same}: their samples differ ({drawn[0]}; {drawn[1]}); label both with the same --sample and --seed, and the same "
        "--occupation if there is one"
    )


def _drawn(run: Run) -> str:
    """The options that say which tasks of its list a run asked about."""
    said = run.manifest.parameters
    parts = [f"--occupation {code}" for code in said.get("occupations") or ()]
    parts += [f"--sample {said['sample']} --seed {said.get('seed') or 0}"] if said.get("sample") else []
    return " ".join(parts) or "the whole list"


def _gold_side(run: Run, gold: Gold) -> pd.DataFrame:
    columns = {f"{column}_gold": column for column in COLUMNS.values()} | {"weight": "weight"}
    return match(run, gold).table.set_index(TASK_KEY)[list(columns)].rename(columns=columns)


def _values(
    sides: Mapping[int, pd.DataFrame], rubrics: Mapping[int, Rubric], settings: Sequence[SettingName]
) -> dict[Measure, pd.DataFrame]:
    found = {place: measures_of(rubrics[place], side[["strict", "with_tools"]]) for place, side in sides.items()}
    values: dict[Measure, pd.DataFrame] = {}
    for measure in MEASURES:
        table = pd.DataFrame({place: side[measure] for place, side in found.items()})
        if NEEDS[measure] in settings and table.drop(columns=GOLD, errors="ignore").notna().any().all():
            values[measure] = table
    return values
