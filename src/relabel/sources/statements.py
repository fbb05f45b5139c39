"""Task lists of O*NET and of the labels of 2023 as plain columns: a run needs them, and no table library beside them."""

from __future__ import annotations

from relabel.errors import DataError
from relabel.sources.fetch import locate_role
from relabel.sources.registry import get_source
from relabel.sources.tables import (
    NOT_GIVEN,
    ONET_SOC,
    TASK_ID,
    TASK_TYPES,
    category,
    plain_id,
    require_values,
    text_columns,
)

LABELS_OF_2023 = "eloundou-2023"

_TASK = {"Task ID": "task_id", "O*NET-SOC Code": "onet_soc_code", "Task": "text", "Task Type": "task_type"}
_IMPORTANCE = "IM"


def task_columns(release: str) -> dict[str, list[str] | list[str | None] | list[float | None]]:
    """Task statements with their importance, in the order of the release.

    Args:
        release: Id of an O*NET source, or `LABELS_OF_2023`.

    Returns:
        `task_id, onet_soc_code, title, text, task_type` (`Core`, `Supplemental` or None) and `importance` (1 to 5; None where
        the task is not rated or the release is registered without ratings). 18,796 tasks of 923 codes in 30.2 and 29.1.

    Raises:
        DataError: A file is missing, is not the registered one, or breaks these rules.
    """
    of_2023 = release == LABELS_OF_2023
    path = locate_role(release, "labels" if of_2023 else "tasks")
    columns = text_columns(path, _TASK | ({"Title": "title"} if of_2023 else {}))
    ids, codes, texts = [plain_id(task) for task in columns["task_id"]], columns["onet_soc_code"], columns["text"]
    kinds = {
        kind: None if kind in NOT_GIVEN else category(kind, TASK_TYPES) or kind for kind in set(columns["task_type"])
    }
    types = [kinds[kind] for kind in columns["task_type"]]
    if of_2023:
        titles: list[str | None] = [*columns["title"]]
    else:
        known = occupation_columns(release)
        by_code = dict(zip(known["onet_soc_code"], known["title"], strict=True))
        titles = [by_code.get(code) for code in codes]
    rated = {} if of_2023 else importance(release)
    require_values(path, "task_id", ids, pattern=TASK_ID, unique=True)
    require_values(path, "onet_soc_code", codes, pattern=ONET_SOC)
    require_values(path, "title", titles, pattern=r"\S")
    require_values(path, "text", texts, pattern=r"\S")
    require_values(path, "task_type", types, among=TASK_TYPES, nullable=True)
    return {
        "task_id": ids,
        "onet_soc_code": codes,
        "title": titles,
        "text": texts,
        "task_type": types,
        "importance": [rated.get(key) for key in zip(codes, ids, strict=True)],
    }


def importance(release: str) -> dict[tuple[str, str], float]:
    """Importance ratings (1 to 5) by code and task id: the scale IM of a file that may have others; empty without a file."""
    if get_source(release).find_role("task-ratings") is None:
        return {}
    path = locate_role(release, "task-ratings")
    names = {"O*NET-SOC Code": "code", "Task ID": "task_id", "Scale ID": "scale", "Data Value": "value"}
    columns = text_columns(path, names)
    rows = [
        row for row in zip(*columns.values(), strict=True) if row[2].upper() == _IMPORTANCE and row[3] not in NOT_GIVEN
    ]
    codes, ids, values = (
        [row[0] for row in rows],
        [plain_id(row[1]) for row in rows],
        [_float(path, row[3]) for row in rows],
    )
    keys = list(zip(codes, ids, strict=True))
    require_values(path, "onet_soc_code", codes, pattern=ONET_SOC)
    require_values(path, "task_id", ids, pattern=TASK_ID)
    require_values(path, "importance", values, bounds=(1, 5))
    require_values(path, "task_id", [f"{task} of {code}" for code, task in keys], unique=True)
    return dict(zip(keys, values, strict=True))


def occupation_columns(release: str) -> dict[str, list[str]]:
    """All occupations of an O*NET release, those without tasks included: `onet_soc_code, title, description`; 1,016 rows."""
    path = locate_role(release, "occupations")
    columns = text_columns(path, {"O*NET-SOC Code": "onet_soc_code", "Title": "title", "Description": "description"})
    require_values(path, "onet_soc_code", columns["onet_soc_code"], pattern=ONET_SOC, unique=True)
    for name in ("title", "description"):
        require_values(path, name, columns[name], pattern=r"\S")
    return columns


def _float(path: object, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(
            f"{path}, column 'Data Value': {text!r} is not a number; check that it is the right file"
        ) from error
