"""O*NET: tasks with their importance, occupations, job zones, work activities, taxonomy crosswalks.

Task lists, including that of the labels of 2023, are also available as plain columns, so that a run need not import pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import DataError
from relabel.sources.fetch import cached, locate_role
from relabel.sources.registry import get_source
from relabel.sources.tables import (
    MISSING_MARKS,
    ONET_SOC,
    SOC,
    TASK_ID,
    TASK_TYPES,
    Column,
    Schema,
    category,
    header_names,
    plain_id,
    read_columns,
    require_columns,
    require_values,
    text_columns,
    validated,
)

if TYPE_CHECKING:
    import pandas as pd

LABELS_OF_2023 = "eloundou-2023"

TASKS: Schema = {
    "task_id": Column(TASK_ID, unique=True),
    "onet_soc_code": Column(ONET_SOC),
    "title": Column(r"\S"),
    "text": Column(r"\S"),
    "task_type": Column(among=TASK_TYPES, nullable=True),
}
_RATINGS: Schema = {
    "onet_soc_code": Column(ONET_SOC, header="O*NET-SOC Code"),
    "task_id": Column(TASK_ID, header="Task ID"),
    "scale": Column(header="Scale ID"),
    "importance": Column(bounds=(1, 5), header="Data Value"),
}
OCCUPATIONS: Schema = {
    "onet_soc_code": Column(ONET_SOC, unique=True, header="O*NET-SOC Code"),
    "title": Column(r"\S", header="Title"),
    "description": Column(r"\S", header="Description"),
}
JOB_ZONES: Schema = {
    "onet_soc_code": Column(ONET_SOC, unique=True, header="O*NET-SOC Code"),
    "job_zone": Column(bounds=(1, 5), header="Job Zone"),
}
DWAS: Schema = {
    "task_id": Column(TASK_ID, header="Task ID"),
    "onet_soc_code": Column(ONET_SOC, header="O*NET-SOC Code"),
    "dwa_id": Column(r"^\d\.[A-Z]\.", header="DWA ID"),
    "dwa_title": Column(r"\S"),
}
TO_SOC2018: Schema = {
    "onet_soc_code": Column(ONET_SOC, unique=True, header="O*NET-SOC 2019 Code"),
    "title": Column(r"\S", header="O*NET-SOC 2019 Title"),
    "soc2018": Column(SOC, header="2018 SOC Code"),
    "soc2018_title": Column(r"\S", header="2018 SOC Title"),
}


def statements(path: Path, others: dict[str, str]) -> dict[str, list[Any]]:
    """Task statements of a file, with normalised ids and types, and other columns; not validated."""
    names = {"Task ID": "task_id", "O*NET-SOC Code": "onet_soc_code", "Task": "text", "Task Type": "task_type"}
    columns = text_columns(path, names | others)
    kinds = {
        kind: None if kind in MISSING_MARKS else category(kind, TASK_TYPES) or kind
        for kind in set(columns["task_type"])
    }
    plain = {"task_id": [*map(plain_id, columns["task_id"])], "task_type": [kinds[k] for k in columns["task_type"]]}
    return {**columns, **plain}


def task_columns(release: str) -> dict[str, list[Any]]:
    """Task statements with their importance, in the order of the release.

    Args:
        release: Id of an O*NET source, or `LABELS_OF_2023`.

    Returns:
        `task_id, onet_soc_code, title, text, task_type` (`Core`, `Supplemental` or None) and `importance` (1 to 5; None if
        the task is not rated or the release is registered without ratings). 18,796 tasks of 923 codes in 30.2 and 29.1.

    Raises:
        DataError: A file is missing, is not the registered one, or violates the schema.
    """
    of_2023 = release == LABELS_OF_2023
    path = locate_role(release, "labels" if of_2023 else "tasks")
    columns = statements(path, {"Title": "title"} if of_2023 else {})
    rated: dict[tuple[str, str], float] = {}
    if not of_2023:
        occupations = occupation_columns(release)
        titles = dict(zip(occupations["onet_soc_code"], occupations["title"], strict=True))
        columns["title"] = [titles.get(code) for code in columns["onet_soc_code"]]
        rated = importance(release)
    require_columns(path, columns, TASKS)
    keys = zip(columns["onet_soc_code"], columns["task_id"], strict=True)
    return {**{name: columns[name] for name in TASKS}, "importance": [rated.get(key) for key in keys]}


def importance(release: str) -> dict[tuple[str, str], float]:
    """Importance ratings (scale IM, 1 to 5) by code and task id; empty if the release has no file of ratings."""
    if get_source(release).find_role("task-ratings") is None:
        return {}
    path = locate_role(release, "task-ratings")
    rows = zip(*text_columns(path, header_names(_RATINGS)).values(), strict=True)
    rated = [
        (code, plain_id(task), scale, _float(path, value))
        for code, task, scale, value in rows
        if scale.upper() == "IM" and value not in MISSING_MARKS
    ]
    require_columns(path, {name: [row[index] for row in rated] for index, name in enumerate(_RATINGS)}, _RATINGS)
    require_values(path, "onet_soc_code task_id", [f"{code} {task}" for code, task, *_ in rated], Column(unique=True))
    return {(code, task): value for code, task, _, value in rated}


def occupation_columns(release: str) -> dict[str, list[str]]:
    """All occupations of a release, including those without tasks: `onet_soc_code, title, description`; 1,016 rows."""
    path = locate_role(release, "occupations")
    columns = text_columns(path, header_names(OCCUPATIONS))
    require_columns(path, columns, OCCUPATIONS)
    return columns


def _float(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(
            f"{path}, column 'Data Value': {text!r} is not a number; check that it is the right file"
        ) from error


@cached("tasks", "occupations", "task-ratings", "labels", source="onet-30.2")
def read_tasks(_path: Path, release: str) -> pd.DataFrame:
    """`task_columns` as a frame: texts, and `importance` as float; missing values are NaN."""
    import pandas as pd

    columns = task_columns(release)
    return pd.DataFrame(columns).astype(dict.fromkeys(columns, "str") | {"importance": "float64"})


def count_emerging_tasks(release: str = "onet-30.2") -> int:
    """Number of emerging tasks, which O*NET has not yet included and given an id: 328 in 30.2, 240 in 29.1.

    Args:
        release: Id of an O*NET source.
    """
    return len(text_columns(locate_role(release, "emerging-tasks"), {"Task": "text"})["text"])


@cached("occupations", source="onet-30.2")
def read_occupations(_path: Path, release: str) -> pd.DataFrame:
    """All occupations of a release, including those without tasks.

    Returns:
        One row per code: `onet_soc_code, title, description`; 1,016 rows.
    """
    import pandas as pd

    return pd.DataFrame(occupation_columns(release), dtype="str")


@cached("job-zones", source="onet-30.2")
def read_job_zones(path: Path) -> pd.DataFrame:
    """Job zones: how much preparation an occupation needs.

    Returns:
        One row per code: `onet_soc_code, job_zone` (int, 1 little to 5 extensive preparation); 923 rows.
    """
    return validated(path, read_columns(path, header_names(JOB_ZONES)), JOB_ZONES).astype({"job_zone": "int64"})


@cached("tasks-to-dwas", "dwas", source="onet-30.2")
def read_dwas(path: Path, release: str) -> pd.DataFrame:
    """Detailed work activities of tasks.

    Returns:
        One row per task and activity: `task_id, onet_soc_code, dwa_id, dwa_title`; 23,850 rows in 30.2.
    """
    links = read_columns(path, header_names(DWAS))
    links = links.assign(task_id=links["task_id"].map(plain_id))
    titles = read_columns(locate_role(release, "dwas"), {"DWA ID": "dwa_id", "DWA Title": "dwa_title"})
    return validated(path, links.merge(titles, how="left", on="dwa_id"), DWAS, unique=["task_id", "dwa_id"])


@cached("2019-to-soc2018", source="onet-taxonomy")
def read_onet_to_soc2018(path: Path) -> pd.DataFrame:
    """The crosswalk from O*NET-SOC 2019 to SOC 2018.

    Returns:
        One row per O*NET-SOC 2019 code: `onet_soc_code, title, soc2018, soc2018_title`; 1,016 rows.
    """
    return validated(path, read_columns(path, header_names(TO_SOC2018)), TO_SOC2018)
