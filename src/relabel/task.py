"""A task: one O*NET task statement, and the task lists that ship or can be fetched."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict

from relabel.errors import ColumnError, DataError
from relabel.settings import asset_dir
from relabel.sources import eloundou, onet, registry

TASK_COLUMNS = ("task_id", "onet_soc_code", "title", "text", "task_type", "importance")
"""Columns of a task table; `importance` is IM on 1-5, missing where a task is unrated."""

TASK_LISTS = ("onet-30.2", "onet-29.1", "eloundou-2023", "sample")
"""Task lists that go by name; a release of O*NET in a user's own registry joins them."""


class Task(BaseModel):
    """One task statement of one occupation.

    Attributes:
        task_id: Identifier within its list, a string without a decimal part.
        onet_soc_code: O*NET-SOC code of the occupation, such as `11-3051.00`.
        title: Title of the occupation.
        text: The statement.
        task_type: `Core` or `Supplemental`; None where the source has none.
        importance: Mean importance rating (IM), 1-5; None where unrated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    onet_soc_code: str
    title: str
    text: str
    task_type: str | None = None
    importance: float | None = None


def task_table(ref: str) -> pd.DataFrame:
    """Read a task list as a table.

    Args:
        ref: A name from `TASK_LISTS`, or the path of a CSV file with the columns of `TASK_COLUMNS`
            (`task_type` and `importance` may be left out).

    Returns:
        One row a task, columns `TASK_COLUMNS`, in the order of the source.

    Raises:
        DataError: The list is unknown, or its file is missing or malformed.
    """
    if ref == "sample":
        table = _read_csv(asset_dir("data") / "sample" / "tasks.csv")
    elif Path(ref).suffix.lower() == ".csv":
        table = _read_csv(Path(ref))
    elif ref == "eloundou-2023":
        table = eloundou.read_labels().assign(importance=float("nan"))
    elif _is_onet_release(ref):
        table = onet.read_tasks(ref)
    else:
        near = difflib.get_close_matches(ref, TASK_LISTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(TASK_LISTS)}, or the path of a CSV file"
        raise DataError(f"there is no task list {ref!r}; {hint}")
    return table.loc[:, list(TASK_COLUMNS)]


def load_tasks(ref: str, *, occupations: Sequence[str] = (), sample: int | None = None, seed: int = 0) -> list[Task]:
    """Load the tasks of a run.

    A sample is the first `sample` tasks in the order of a hash of seed, code and id. It does not depend on the order
    of the file, and with one seed a smaller sample is part of each larger one: growing it wastes no paid answer.

    Args:
        ref: A task list, as for `task_table`.
        occupations: O*NET-SOC codes to keep (`11-3051.00`, or `11-3051` for all of its detailed codes); none keeps all.
        sample: Number of tasks to draw, uniformly without replacement.
        seed: Seed of the draw.

    Returns:
        The tasks, in the order of the source.

    Raises:
        DataError: The list cannot be read, an occupation is not in it, or it holds fewer tasks than asked for.
    """
    tasks = list(_from_table(task_table(ref)))
    if occupations:
        codes = {t.onet_soc_code for t in tasks}
        keep: set[str] = set()
        for wanted in occupations:
            found = {c for c in codes if c == wanted or c.split(".")[0] == wanted}
            if not found:
                near = difflib.get_close_matches(wanted, sorted(codes), n=3)
                hint = f"nearest: {', '.join(near)}" if near else "codes look like 11-3051.00"
                raise DataError(f"no task of {ref} belongs to the occupation code {wanted!r}; {hint}")
            keep |= found
        tasks = [t for t in tasks if t.onet_soc_code in keep]
    if sample is not None:
        if sample > len(tasks):
            raise DataError(f"cannot draw {sample} tasks: {ref} holds {len(tasks)} that fit; ask for at most that many")
        chosen = {id(t) for t in sorted(tasks, key=lambda t: _draw(t, seed))[:sample]}
        tasks = [t for t in tasks if id(t) in chosen]
    return tasks


def _is_onet_release(ref: str) -> bool:
    source = registry.load_registry().get(ref)
    return source is not None and source.find_role("tasks") is not None


def _draw(task: Task, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}|{task.onet_soc_code}|{task.task_id}".encode()).digest()


def _from_table(table: pd.DataFrame) -> Iterable[Task]:
    columns = [table[column].astype(object).where(table[column].notna(), None) for column in TASK_COLUMNS]
    for values in zip(*columns, strict=True):
        yield Task(**dict(zip(TASK_COLUMNS, values, strict=True)))


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(
            f"there is no task file {path}; give the path of a CSV file with the columns task_id, onet_soc_code, title, text"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it again as one") from error
    for column in TASK_COLUMNS[:4]:
        if column not in table.columns:
            raise ColumnError(path, column, list(table.columns))
    for column in TASK_COLUMNS[4:]:
        if column not in table.columns:
            table[column] = ""
    empty = table[(table["task_id"].str.strip() == "") | (table["text"].str.strip() == "")]
    if len(empty):
        raise DataError(
            f"{path} line {int(empty.index[0]) + 2} has no task_id or no text; fill both or remove the line"
        )
    doubled = table[table.duplicated(["onet_soc_code", "task_id"])]
    if len(doubled):
        line = int(doubled.index[0]) + 2
        raise DataError(
            f"{path} line {line} repeats the task id {doubled.iloc[0]['task_id']!r}; ids must be unique within an occupation"
        )
    importance = pd.to_numeric(table["importance"].replace("", None), errors="coerce")
    bad = table[(importance.isna() & (table["importance"] != "")) | (importance < 1) | (importance > 5)]
    if len(bad):
        raise DataError(
            f"{path} line {int(bad.index[0]) + 2}: importance must be a number from 1 to 5 or empty, not {bad.iloc[0]['importance']!r}"
        )
    table["importance"] = importance.astype(float)
    table["task_type"] = table["task_type"].where(table["task_type"] != "", None)
    return table
