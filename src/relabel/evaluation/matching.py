"""Bringing a run and a gold together, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from relabel.errors import DataError
from relabel.evaluation.document import SCALES, SettingName, UnmatchedReason
from relabel.evaluation.gold import Gold, labelled, labels_of
from relabel.rubric import AUTOMATION, CODES
from relabel.run import PUBLISHED, Run
from relabel.sources import fetch, registry
from relabel.task import TASK_KEY, is_onet_release, task_table

COLUMNS: Mapping[SettingName, str] = {
    "strict": "strict",
    "with-tools": "with_tools",
    "three-way": "code",
    "automation": "automation",
}
"""Column of a setting's label in a coded table."""


@dataclass(frozen=True)
class Match:
    """Tasks that run and gold share.

    Attributes:
        table: One row a task with a label on both sides in at least one setting: `onet_soc_code, task_id`, and
            `strict, with_tools, code, automation` of the run with the ending `_run`, of the gold with the ending `_gold`;
            the gold's `weight` (1 where it has none) and `stratum`.
        settings: Settings that both sides have, in the order of the eval document.
        unmatched: All other tasks of either side, by reason.
    """

    table: pd.DataFrame
    settings: tuple[SettingName, ...]
    unmatched: Mapping[UnmatchedReason, int]


def run_settings(run: Run) -> tuple[SettingName, ...]:
    """Settings that a run can be compared in.

    A rubric with two questions gives those that were asked, and the code when both were. A rubric with one question
    gives its codes, and what they say about each setting.
    """
    rubric = run.rubric
    found: set[SettingName]
    if AUTOMATION in rubric.settings:
        found = {"automation"}
    elif {"strict", "with-tools"} <= set(rubric.settings):
        found = {s for s in ("strict", "with-tools") if s in run.manifest.settings}
        if len(found) == 2:
            found.add("three-way")
    elif set(rubric.codes) == set(CODES):
        found = {"strict", "with-tools", "three-way"}
    else:
        # E0 and E1 alone tell nothing about tools, E0 and E2 alone nothing about the model by itself.
        found = {"strict"} if "E1" in rubric.codes else {"with-tools"}
    return tuple(s for s in SCALES if s in found)


def match(run: Run, gold: Gold) -> Match:
    """Match a run's tasks with a gold's by occupation code and task id, or by id alone when the gold has no codes.

    A task's code counts only when both settings are known: strict exposed already means E1, so that codes of tasks
    with one answer missing would be E1 without exception.

    Args:
        run: The run.
        gold: The gold.

    Returns:
        The shared tasks, and the count of all others by reason.

    Raises:
        DataError: They share no task or no setting, or the gold has no occupation codes and one of its ids stands for
            tasks of several occupations.
    """
    ours = _of_run(run).drop(columns=["weight", "stratum", "text"])
    keys = TASK_KEY if gold.table["onet_soc_code"].notna().any() else ["task_id"]
    theirs = gold.table.assign(code=_full_codes(gold.table)).drop(columns="text")
    if keys == ["task_id"]:
        theirs = theirs.drop(columns="onet_soc_code")
        _refuse_ambiguous(ours, theirs, gold)
    both = ours.merge(theirs, on=keys, how="outer", suffixes=("_run", "_gold"), indicator="side", validate="one_to_one")
    shared = both["side"] == "both"
    if not shared.any():
        raise DataError(
            f"no task of the run is in the gold {gold.name}: these tasks are {run.manifest.tasks} ({_such_as(ours)}), "
            f"the gold is about others ({_such_as(gold.table)}); give --gold one for these tasks"
        )
    settings: tuple[SettingName, ...] = tuple(s for s in run_settings(run) if theirs[COLUMNS[s]].notna().any())
    if not settings:
        raise DataError(
            f"the gold {gold.name} has no label for the settings of the run ({', '.join(run_settings(run))})"
            f"{_other_question(run, gold)}; give --gold another, or run the labelling in a setting that it has"
        )
    has_run, has_gold, usable = (pd.Series(False, index=both.index) for _ in range(3))
    for setting in settings:
        said_run, said_gold = both[f"{COLUMNS[setting]}_run"].notna(), both[f"{COLUMNS[setting]}_gold"].notna()
        has_run |= said_run
        has_gold |= said_gold
        usable |= said_run & said_gold
    unmatched: dict[UnmatchedReason, int] = {
        "not-in-gold": int((both["side"] == "left_only").sum()),
        "not-in-run": int((both["side"] == "right_only").sum()),
        "no-label-in-run": int((shared & ~usable & ~has_run).sum()),
        # The rest: the gold has no label, or none in a setting that the run has one in.
        "no-label-in-gold": int((shared & ~usable & has_run).sum()),
    }
    if not usable.any():
        raise DataError(
            f"no task has a label both in the run and in the gold {gold.name}: {unmatched['no-label-in-run']:,} shared "
            f"tasks lack one in the run, {unmatched['no-label-in-gold']:,} in the gold; complete the run or the gold"
        )
    table = both[usable].drop(columns="side").reset_index(drop=True)
    return Match(table.assign(weight=table["weight"].fillna(1.0)), settings, unmatched)


def sides(table: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """Labels of the tasks that both sides have one for.

    Args:
        table: As `Match.table`.
        setting: The setting.

    Returns:
        Columns `gold` and `run`, labels of the setting's scale; index of the table, which has positions for an index.
    """
    both = table[[f"{COLUMNS[setting]}_gold", f"{COLUMNS[setting]}_run"]].set_axis(["gold", "run"], axis=1).dropna()
    return both.apply(in_words, setting=setting)


def in_words(column: pd.Series, setting: SettingName) -> pd.Series:
    """The labels of a coded table's column, as words of the setting's scale; missing where there is none."""
    scale, labels = SCALES[setting], column.astype("object")
    return labels if len(scale) > 2 else labels.map(dict(zip((False, True), scale, strict=True)))


def asked(run: Run) -> tuple[int, Mapping[SettingName, int]]:
    """How many tasks the run was asked to label, and how many of them have no label, by setting.

    Tasks that no one got to, because the run was stopped, are known by the manifest's count alone.
    """
    table = _of_run(run)
    repeats = [int(run.manifest.parameters.get(name) or 1) for name in ("samples", "variants")]
    labels = len(run.manifest.settings) * repeats[0] * repeats[1]
    total = max(len(table), -(-run.manifest.counts.asked // labels) if labels else 0)
    return total, {s: total - int(table[COLUMNS[s]].notna().sum()) for s in run_settings(run)}


def text_changed(run: Run, gold: Gold, table: pd.DataFrame) -> int | None:
    """Matched tasks whose text in the run's task list is not the one that the gold was labelled by.

    Args:
        run: The run.
        gold: The gold.
        table: As `Match.table`.

    Returns:
        The count; None where the texts are not at hand, as for files of a user's own. Nothing is fetched for it.
    """
    lists = run.manifest.tasks, "eloundou-2023" if gold.name in PUBLISHED else gold.name
    if lists[0] == lists[1]:
        return 0
    if not all(is_at_hand(name) for name in lists):
        return None
    texts = [task_table(name).set_index(TASK_KEY)["text"].str.split().str.join(" ") for name in lists]
    keys = pd.MultiIndex.from_frame(table[TASK_KEY])
    ours, theirs = (text.reindex(keys).to_numpy() for text in texts)
    return int(((ours != theirs) & pd.notna(ours) & pd.notna(theirs)).sum())


def is_at_hand(tasks: str) -> bool:
    """Whether a task list can be read without fetching anything.

    Args:
        tasks: What a manifest calls the list; files of a user's own are not read again.
    """
    if tasks == "sample":
        return True
    roles = {"labels"} if tasks == "eloundou-2023" else {"tasks", "occupations", "task-ratings"}
    if tasks != "eloundou-2023" and not is_onet_release(tasks):
        return False
    needed = {file.name for file in registry.get_source(tasks).files if file.role in roles}
    return all(check.state == "ok" for check in fetch.verify([tasks]) if check.file in needed)


def gold_list(gold: Gold, run: Run) -> str:
    """The task list that a gold's ids belong to; those of a file of a user's own belong to the run's."""
    if gold.name in PUBLISHED:
        return "eloundou-2023"
    return "sample" if gold.name == "sample" else run.manifest.tasks


def _of_run(run: Run) -> pd.DataFrame:
    """The run's coded tasks, and the tasks that it has no label for, in the columns of a gold."""
    table = labelled(labels_of(run), f"the run {run.ref}")
    known = run_settings(run)
    for setting, column in COLUMNS.items():
        if setting not in known:
            table[column] = table[column].where(pd.Series(False, index=table.index))
    if "three-way" in known:
        table["code"] = _full_codes(table)
    labelled_keys = set(zip(table["onet_soc_code"], table["task_id"], strict=True))
    failed = sorted({(f.onet_soc_code, f.task_id) for f in run.failures()} - labelled_keys)
    missing = pd.DataFrame(failed, columns=TASK_KEY).reindex(columns=table.columns).astype(table.dtypes.to_dict())
    return pd.concat([table, missing], ignore_index=True) if failed else table


def _other_question(run: Run, gold: Gold) -> str:
    if (AUTOMATION in run.rubric.settings) == bool(gold.table[AUTOMATION].notna().any()):
        return ""
    return ", for automation asks what a model does by itself, exposure what a worker gains from it"


def _full_codes(table: pd.DataFrame) -> pd.Series:
    return table["code"].where(table["strict"].notna() & table["with_tools"].notna())


def _refuse_ambiguous(ours: pd.DataFrame, theirs: pd.DataFrame, gold: Gold) -> None:
    doubled = ours[ours["task_id"].duplicated() & ours["task_id"].isin(theirs["task_id"])]
    if len(doubled):
        raise DataError(
            f"the task id {doubled['task_id'].iloc[0]!r} stands for several occupations of the run; "
            f"add a column onet_soc_code to the gold {gold.name}"
        )


def _such_as(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    code = first["onet_soc_code"]
    return f"such as {first['task_id']!r}" + ("" if pd.isna(code) else f" of {code}")
