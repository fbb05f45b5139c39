"""Tasks and lists of tasks. A task is one O*NET task statement, or for rubrics that rate occupations, one occupation."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from relabel.errors import DataError
from relabel.rubric import Unit
from relabel.settings import Settings, asset_dir, settings
from relabel.sources import fetch, registry
from relabel.sources.onet import LABELS_OF_2023, occupation_columns, task_columns
from relabel.sources.tables import MISSING_MARKS, OCCUPATION_CODE, TASK_TYPES, Table, is_table_file, read_table
from relabel.tabular import spreadsheet_safe

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

# Columns that together identify a task: one id may occur in several occupations. A list, because pandas accepts nothing else.
TASK_KEY = ["onet_soc_code", "task_id"]

# Columns of a task table; `importance` is IM (1-5), or on the positive scale that a user's file declares; missing if unrated.
TASK_COLUMNS = ("task_id", "onet_soc_code", "title", "text", "task_type", "importance")

# Columns of a list of occupations.
OCCUPATION_COLUMNS = ("onet_soc_code", "title", "description")

# Task lists that are known by name, in addition to releases of O*NET in a user's own registry.
TASK_LISTS = ("onet-30.2", "onet-29.1", "eloundou-2023", "sample")

_IM = (1.0, 5.0)
# Name of an importance column that declares a scale other than O*NET's, such as `importance 0-100`.
_SCALE = re.compile(r"importance[\s_(]*(\d+(?:\.\d+)?)\s*(?:-|–|_|to)\s*(\d+(?:\.\d+)?)\)?", re.IGNORECASE)

# A table as a mapping from column names to columns.
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task statement of one occupation; if occupations are rated, the occupation itself.

    An occupation has its O*NET-SOC code as `task_id` and its description as `text`.

    Attributes:
        task_id: Identifier within its list, a string without a decimal part.
        onet_soc_code: O*NET-SOC code of the occupation, such as `11-3051.00`; in a user's list possibly a code of another
            classification.
        title: Title of the occupation.
        text: The statement.
        task_type: `Core` or `Supplemental`; None if the source has none.
        importance: Mean importance rating (IM), 1-5, or on the scale of the user's list; None if unrated.
    """

    # Not a pydantic model: 19,000 of them are created from columns that have already been checked.
    task_id: str
    onet_soc_code: str
    title: str
    text: str
    task_type: str | None = None
    importance: float | None = None


@cache
def task_schema() -> pa.DataFrameSchema:
    """Schema of a task list as a table: columns `TASK_COLUMNS`, unique in `TASK_KEY`, at least one row."""
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {
            "task_id": pa.Column("str", pa.Check.str_matches(r"\S")),
            "onet_soc_code": pa.Column("str", pa.Check.str_matches(OCCUPATION_CODE)),
            "title": pa.Column("str"),
            "text": pa.Column("str"),
            "task_type": pa.Column("str", nullable=True),
            "importance": pa.Column("float64", pa.Check.gt(0), nullable=True),
        },
        checks=pa.Check(lambda table: len(table) > 0, error="at least one task"),
        unique=TASK_KEY,
        strict=True,
        ordered=True,
    )


def task_table(ref: str, unit: Unit = "task") -> pd.DataFrame:
    """Read a task list as a table, or a list of occupations if those are labelled.

    Args:
        ref: For tasks, a registered name (see `TASK_LISTS`), or the path of a CSV or Excel file with the columns of
            `TASK_COLUMNS` (`task_type` and `importance` may be left out). For occupations, a release of O*NET, `sample`,
            or the path of such a file with the columns of `OCCUPATION_COLUMNS`.
        unit: What is labelled. An occupation has its code as `task_id` and its description as `text`.

    Returns:
        One row per task or occupation, schema `task_schema`, in the order of the source.

    Raises:
        DataError: The list is unknown, or its file is missing or malformed.
    """
    import pandas as pd

    if unit == "task" and (ref == LABELS_OF_2023 or is_onet_release(ref)):
        from relabel.sources import onet

        return onet.read_tasks(ref)
    types = dict.fromkeys(TASK_COLUMNS, "str") | {"importance": "float64"}
    return task_schema().validate(pd.DataFrame(_columns(ref, unit), columns=list(TASK_COLUMNS)).astype(types))


def _columns(ref: str, unit: Unit) -> Columns:
    """`task_table` without pandas, which is slow to import."""
    if ref == "sample":
        ref = str(asset_dir("data") / "sample" / ("tasks.csv" if unit == "task" else "occupations.csv"))
    if is_table_file(ref):
        return _read_list(Path(ref), unit)
    if unit == "task":
        if ref == LABELS_OF_2023 or is_onet_release(ref):
            return task_columns(ref)
        raise DataError(
            f"unknown task list {ref!r}; use one of {', '.join(TASK_LISTS)}, or the path of a .csv, .tsv, .txt or .xlsx file"
        )
    if not is_onet_release(ref):
        problem = "has no descriptions of occupations" if ref in TASK_LISTS else "is unknown"
        files = f"sample, or a CSV file with the columns {', '.join(OCCUPATION_COLUMNS)}"
        raise DataError(f"the list {ref!r} {problem}; give a release of O*NET such as onet-30.2, {files}")
    codes, title, text = occupation_columns(ref).values()
    unrated = dict.fromkeys(TASK_COLUMNS[4:], [None] * len(codes))
    return {"task_id": codes, "onet_soc_code": codes, "title": title, "text": text, **unrated}


def load_tasks(
    ref: str, *, unit: Unit = "task", occupations: Sequence[str] = (), sample: int | None = None, seed: int = 0
) -> list[Task]:
    """Load the tasks of a run, or the occupations if those are rated.

    A sample consists of the first `sample` tasks in the order of a hash of seed, code and id. It does not depend on the order
    of the file, and with the same seed, a smaller sample is part of every larger one, so that enlarging it wastes no paid answer.

    Args:
        ref: A list, as for `task_table`.
        unit: What the run's rubric labels.
        occupations: O*NET-SOC codes to keep (`11-3051.00`, or `11-3051` for all of its detailed codes); empty keeps all.
        sample: Number of tasks to draw, uniformly without replacement; None takes all.
        seed: Seed of the draw.

    Returns:
        The tasks, in the order of the source.

    Raises:
        DataError: The list cannot be read, an occupation is not in it, or it holds fewer tasks than the sample.
    """
    columns = _columns(ref, unit)
    rows = zip(*(columns[name] for name in TASK_COLUMNS), strict=True)
    tasks = [Task(task_id=i, onet_soc_code=c, title=t, text=x, task_type=k, importance=m) for i, c, t, x, k, m in rows]
    if occupations:
        codes = {t.onet_soc_code for t in tasks}
        keep: set[str] = set()
        for wanted in occupations:
            matches = {c for c in codes if c == wanted or c.split(".")[0] == wanted}
            if not matches:
                raise DataError(
                    f"no {unit} of {ref} belongs to the occupation code {wanted!r}; codes look like 11-3051.00"
                )
            keep |= matches
        tasks = [t for t in tasks if t.onet_soc_code in keep]
    if sample is not None:
        if sample > len(tasks):
            raise DataError(f"cannot draw {sample} {unit}s: {ref} holds {len(tasks)} that fit; draw at most that many")
        tasks = draw_sample(tasks, sample, seed)
    return tasks


def draw_sample(tasks: Sequence[Task], sample: int, seed: int) -> list[Task]:
    """The first `sample` tasks in the order of a hash of seed, code and id, returned in their given order; see `load_tasks`."""
    digests = [hashlib.sha256(f"{seed}|{t.onet_soc_code}|{t.task_id}".encode()).digest() for t in tasks]
    chosen = sorted(range(len(tasks)), key=digests.__getitem__)[:sample]
    return [tasks[place] for place in sorted(chosen)]


def is_onet_release(ref: str) -> bool:
    """Whether a name is a registered release of O*NET, in relabel's registry or in the user's own."""
    source = registry.load_registry().get(ref)
    return source is not None and all(source.find_role(role) is not None for role in ("tasks", "occupations"))


def is_local(ref: str) -> bool:
    """Whether a task list, named as in a manifest, can be read without fetching anything; False for a user's own file."""
    if ref == "sample":
        return True
    roles = {"labels"} if ref == LABELS_OF_2023 else {"tasks", "occupations", "task-ratings"}
    if ref != LABELS_OF_2023 and not is_onet_release(ref):
        return False
    return all(check.state == "ok" for check in fetch.verify([ref], roles))


def local_tasks(ref: str) -> pd.DataFrame | None:
    """A task list as a table if nothing needs to be fetched (`is_local`), else None. The table is cached: do not change it."""
    return _read_once(ref, settings()) if is_local(ref) else None  # pyright: ignore[reportArgumentType]  frozen models have a hash


@lru_cache(maxsize=4)
def _read_once(ref: str, _where: Settings) -> pd.DataFrame:
    return task_table(ref)


def onet_releases() -> list[str]:
    """All registered releases of O*NET, those in the user's own registry last."""
    return [source for source in registry.load_registry() if is_onet_release(source)]


def disputed_titles(occupations: Iterable[tuple[str, str]]) -> str:
    """Name the occupations of a user's list whose title has no word in common with O*NET's title of the same code.

    Args:
        occupations: O*NET-SOC codes with the list's titles.

    Returns:
        The first three in a sentence; empty if there are none, or if O*NET 30.2 is not on this machine. Codes that O*NET
        does not have are skipped.
    """
    if not fetch.is_available("onet-30.2", "occupations"):
        return ""
    onet = occupation_columns("onet-30.2")
    titles = dict(zip(onet["onet_soc_code"], onet["title"], strict=True))
    wrong = {code: ours for code, ours in dict.fromkeys(occupations) if is_other_title(ours, titles.get(code, ""))}
    disputed = [f"{code} is {ours!r} in the list, {titles[code]!r} in O*NET" for code, ours in wrong.items()]
    if not disputed:
        return ""
    more = f"; and {len(disputed) - 3:,} more" if len(disputed) > 3 else ""
    named = "; ".join(disputed[:3])
    return f"titles disagree with their codes, by which jobs and pay are joined: {named}{more}"


def is_other_title(one: str, other: str) -> bool:
    """Whether two titles have no word in common, and so are probably not of the same occupation."""
    return all(stems := (_stems(one), _stems(other))) and stems[0].isdisjoint(stems[1])


def _stems(title: str) -> set[str]:
    """The first four letters of a title's words, so that singular and plural, noun and adjective are the same."""
    return {word[:4] for word in re.findall(r"\b(?!(?:and|the|all|for)\b|othe|exce|with)\w{3,}", title.casefold())}


def _read_list(path: Path, unit: Unit) -> Columns:
    """Read a user's list of tasks, or of occupations; an occupation has its code as id and its description as text."""
    by_code = unit == "occupation"
    needed = OCCUPATION_COLUMNS if by_code else TASK_COLUMNS[:4]
    required = ("title", "description") if by_code else ("task_id", "text")
    advice = f"give a CSV or Excel file with the columns {', '.join(needed)}"
    if not path.is_file():
        raise DataError(f"{unit} file {path} {'is a folder' if path.is_dir() else 'was not found'}; {advice}")
    file = read_table(path, rows_are=f"each {unit}", advice=advice)
    has_own_codes = not by_code and file.column("onet_soc_code") is None and file.column("code") is not None
    code_in = "code" if has_own_codes else "onet_soc_code"
    wanted = [code_in if name == "onet_soc_code" else name for name in needed]
    columns = file.columns(*wanted, optional=() if by_code else TASK_COLUMNS[4:])
    scale, rated_in = _scale_of(file)
    if rated_in is not None and not by_code:
        columns["importance"] = rated_in
    seen: dict[tuple[str, str], int] = {}
    rows: list[dict[str, object]] = []
    for line, cells in file.rows:
        row = {holds: cells[column] for holds, column in columns.items()}
        if any(row[name].strip().lower() in MISSING_MARKS for name in required):
            lacking = f"{' or no '.join(required)}, or a mark such as nan or #REF! in its place"
            raise file.fault(line, f" has no {lacking}; fill both or remove the line")
        # Files of an export are named after codes, so other text must be refused.
        code = (file.occupation_code if has_own_codes else file.onet_soc_code)(line, row[code_in])
        task_id = code if by_code else file.task_id(line, row["task_id"])
        if (first := seen.setdefault((code, task_id), line)) != line:
            again = f"code {code}" if by_code else f"task id {task_id!r}"
            raise file.fault(line, f" repeats the {again} of line {first}; remove one of the lines")
        written = row.get("importance", "").strip()
        importance = file.number(written) if written else None
        if written and (importance is None or importance <= 0 or not scale[0] <= importance <= scale[1]):
            scale_text = f"a number over 0, from {scale[0]:g} to {scale[1]:g}, or empty, not {written[:40]!r}"
            advice = "another scale is declared in the column's name, such as `importance 0-100`"
            raise file.fault(line, f": importance must be {scale_text}; {advice}")
        kind = file.category(line, columns.get("task_type", "task_type"), row.get("task_type", ""), TASK_TYPES)
        text = row[required[1]]
        if spreadsheet_safe(text[1:]) == text:  # an apostrophe put there against formulas
            text = text[1:]
        fields = {"task_id": task_id, "onet_soc_code": code, "text": text}
        rows.append({**row, **fields, "task_type": kind, "importance": importance})
    return {name: [row.get(name) for row in rows] for name in TASK_COLUMNS}


def _scale_of(file: Table) -> tuple[tuple[float, float], str | None]:
    """The scale of importance, and the column that declares it; without such a column, O*NET's scale and None."""
    for name in file.header:
        if match := _SCALE.fullmatch(name.strip()):
            scale = float(match[1]), float(match[2])
            if scale[0] >= scale[1]:
                raise DataError(f"{file.path}: the scale in {name!r} does not rise; write it like `importance 0-100`")
            return scale, name
    return _IM, None


Change = Literal["unchanged", "reworded", "moved", "new", "dropped"]
CHANGES: tuple[Change, ...] = get_args(Change)
CHANGE_NOTES: Mapping[Change, str] = {
    "unchanged": "same id, occupation code and statement",
    "reworded": "same id and occupation code, another statement",
    "moved": "same id under another occupation code, or same statement under another id",
    "new": "in the newer list only",
    "dropped": "in the older list only",
}

_TASK_FIELDS = ("task_id", "onet_soc_code", "title", "text")


class TaskChange(NamedTuple):
    """A task of either list or both. `retitled`: it is in both, and the title of its occupation differs."""

    change: Change
    old: Task | None
    new: Task | None
    retitled: bool = False


@dataclass(frozen=True)
class TaskDiff:
    """The difference between two task lists.

    Attributes:
        old: Name of the older list.
        new: Name of the newer list.
        tasks: In the order of the newer list, then the dropped tasks.
    """

    old: str
    new: str
    tasks: tuple[TaskChange, ...]

    @property
    def counts(self) -> dict[Change, int]:
        """Number of tasks by change."""
        counts = Counter(task.change for task in self.tasks)
        return {change: counts[change] for change in CHANGES}

    @property
    def retitled(self) -> int:
        """Number of unchanged tasks whose occupation has another title; the model is shown the title too."""
        return sum(task.retitled and task.change == "unchanged" for task in self.tasks)

    def describe(self) -> dict[str, Any]:
        """The names of both lists, counts, and every task that changed, as plain values."""
        rows = [
            {"change": task.change}
            | {f"{name}_old": getattr(task.old, name, None) for name in _TASK_FIELDS}
            | {f"{name}_new": getattr(task.new, name, None) for name in _TASK_FIELDS}
            | {"retitled": task.retitled}
            for task in self.tasks
            if task.change != "unchanged"
        ]
        about = {"counts": dict(self.counts), "retitled": self.retitled, "notes": dict(CHANGE_NOTES)}
        return {"old": self.old, "new": self.new, **about, "tasks": rows}


def diff_lists(old: str, new: str) -> TaskDiff:
    """Compare two task lists by name or path, as for `task_table`.

    Raises:
        DataError: A list is unknown, missing or malformed.
    """
    return TaskDiff(old, new, diff_tasks(load_tasks(old), load_tasks(new)))


def diff_tasks(old: Sequence[Task], new: Sequence[Task]) -> tuple[TaskChange, ...]:
    """Compare two task lists.

    Tasks are matched first by occupation code and id, then by id alone, then by occupation code and statement, then by
    statement alone. Each task is matched at most once, in the order of the lists. In statements, several white-space
    characters in a row count as one space.
    """
    match: dict[int, int] = {}
    free_old, free_new = dict.fromkeys(range(len(old))), dict.fromkeys(range(len(new)))
    for key in _MATCHED_BY:
        places: dict[object, deque[int]] = {}
        for index in free_old:
            places.setdefault(key(old[index]), deque()).append(index)
        for index in list(free_new):
            if same := places.get(key(new[index])):
                match[index] = same.popleft()
                del free_old[match[index]], free_new[index]
    changes = [_change(old[match[index]] if index in match else None, task) for index, task in enumerate(new)]
    return (*changes, *(TaskChange("dropped", old[index], None) for index in free_old))


def _change(old: Task | None, new: Task) -> TaskChange:
    if old is None:
        return TaskChange("new", None, new)
    change: Change = "moved"
    if (old.onet_soc_code, old.task_id) == (new.onet_soc_code, new.task_id):
        change = "unchanged" if _plain(old.text) == _plain(new.text) else "reworded"
    return TaskChange(change, old, new, _plain(old.title) != _plain(new.title))


def _plain(text: str) -> str:
    return " ".join(text.split())


_MATCHED_BY: tuple[Callable[[Task], object], ...] = (
    lambda task: (task.onet_soc_code, task.task_id),
    lambda task: task.task_id,
    lambda task: (task.onet_soc_code, _plain(task.text)),
    lambda task: _plain(task.text),
)


# Similarity below which a statement under an old id is another task. All 58 rewordings from 2023 to O*NET 30.2 lie at .40
# or above; 99 of 100 pairs of unrelated statements lie below .24.
REPLACED_BELOW = 0.35


def replaced(alike: pd.Series) -> pd.Series:
    """Whether each statement is another task under an old id, by its `text_similarity`; a reworded task keeps its label."""
    return alike < REPLACED_BELOW


def other_statements(tasks: pd.DataFrame, other: str) -> pd.DataFrame:
    """The statements that another list has under the same codes and ids.

    Args:
        tasks: Columns `onet_soc_code, task_id, text`.
        other: The other list, as for `task_table`.

    Returns:
        Columns `text` and `similarity` (see `text_similarity`) in the order of the tasks; missing if the other list lacks
        the task, and in every row if that list can no longer be read.
    """
    import pandas as pd

    try:
        before = task_table(other).set_index(TASK_KEY)["text"]
    except DataError:
        before = pd.Series(dtype="str", index=pd.MultiIndex.from_arrays([[], []], names=TASK_KEY))
    texts = before.reindex(pd.MultiIndex.from_frame(tasks[TASK_KEY])).set_axis(tasks.index)
    return pd.DataFrame({"text": texts, "similarity": text_similarity(texts, tasks["text"])})


def text_similarity(old: pd.Series, new: pd.Series) -> pd.Series:
    """Similarity of statements word by word, 0-1: 1 if they are equal, 0 without a common word, NaN if either is missing.

    Args:
        old: Statements.
        new: Statements of the same tasks, same index.
    """
    import pandas as pd

    similarity = pd.Series(1.0, index=old.index).mask(old.isna() | new.isna())
    differ = similarity.notna() & (old != new)
    words = (side[differ].str.casefold().str.split() for side in (old, new))
    alike = [SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in zip(*words, strict=True)]
    similarity.loc[differ] = pd.array(alike, dtype="float64")
    return similarity
