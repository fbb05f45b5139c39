"""O*NET: tasks with their importance, occupations, job zones, work activities, taxonomy crosswalks."""

from __future__ import annotations

import pandas as pd

from relabel.sources.fetch import locate_role
from relabel.sources.frames import cached, number, numbers, plain_task_id, read_columns, schema, text, validated
from relabel.sources.statements import occupation_columns, task_columns
from relabel.sources.tables import ONET_SOC, SOC, TASK_ID, text_columns

JOB_ZONES = schema(
    {"onet_soc_code": text(ONET_SOC, unique=True), "job_zone": number(1, 5, nullable=False, dtype="int64")}
)
DWAS = schema(
    {
        "task_id": text(TASK_ID),
        "onet_soc_code": text(ONET_SOC),
        "dwa_id": text(r"^\d\.[A-Z]\."),
        "dwa_title": text(r"\S"),
    },
    unique=["task_id", "dwa_id"],
)
TO_SOC2018 = schema(
    {
        "onet_soc_code": text(ONET_SOC, unique=True),
        "title": text(r"\S"),
        "soc2018": text(SOC),
        "soc2018_title": text(r"\S"),
    }
)


@cached("tasks", "occupations", "task-ratings")
def read_tasks(release: str = "onet-30.2") -> pd.DataFrame:
    """Task statements with their importance.

    Args:
        release: Id of an O*NET source.

    Returns:
        One row a task, in the order of the release: `task_id, onet_soc_code, title, text, task_type` (`Core`,
        `Supplemental`, or missing) and `importance` (float, 1 to 5; missing where the task is not rated or the release
        is registered without ratings). 30.2 and 29.1 have 18,796 tasks of 923 codes each.
    """
    columns = task_columns(release)
    return pd.DataFrame(columns).astype(dict.fromkeys(columns, "str") | {"importance": "float64"})


def count_emerging_tasks(release: str = "onet-30.2") -> int:
    """Number of tasks that O*NET has found but not yet taken in, which have no id: 328 in 30.2, 240 in 29.1.

    Args:
        release: Id of an O*NET source.
    """
    return len(text_columns(locate_role(release, "emerging-tasks"), {"Task": "text"})["text"])


@cached("occupations")
def read_occupations(release: str = "onet-30.2") -> pd.DataFrame:
    """All occupations of a release, those without tasks included.

    Args:
        release: Id of an O*NET source.

    Returns:
        One row a code: `onet_soc_code, title, description`; 1,016 rows.
    """
    return pd.DataFrame(occupation_columns(release), dtype="str")


@cached("job-zones")
def read_job_zones(release: str = "onet-30.2") -> pd.DataFrame:
    """Job zones: how much preparation an occupation needs.

    Args:
        release: Id of an O*NET source.

    Returns:
        One row a code: `onet_soc_code, job_zone` (int, 1 little to 5 extensive preparation); 923 rows.
    """
    path = locate_role(release, "job-zones")
    zones = read_columns(path, {"O*NET-SOC Code": "onet_soc_code", "Job Zone": "job_zone"})
    zones = zones.assign(job_zone=numbers(path, zones["job_zone"], "Job Zone", ()).astype("int64"))
    return validated(path, zones, JOB_ZONES)


@cached("tasks-to-dwas", "dwas")
def read_dwas(release: str = "onet-30.2") -> pd.DataFrame:
    """Detailed work activities of tasks.

    Args:
        release: Id of an O*NET source.

    Returns:
        One row a task and activity: `task_id, onet_soc_code, dwa_id, dwa_title`; 23,850 rows in 30.2.
    """
    path = locate_role(release, "tasks-to-dwas")
    columns = {"Task ID": "task_id", "O*NET-SOC Code": "onet_soc_code", "DWA ID": "dwa_id"}
    links = read_columns(path, columns)
    links = links.assign(task_id=plain_task_id(links["task_id"]))
    names = {"DWA ID": "dwa_id", "DWA Title": "dwa_title"}
    titles = read_columns(locate_role(release, "dwas"), names)
    return validated(path, links.merge(titles, how="left", on="dwa_id"), DWAS)


@cached("2019-to-soc2018", source="onet-taxonomy")
def read_onet_to_soc2018() -> pd.DataFrame:
    """From O*NET-SOC 2019 to SOC 2018.

    Returns:
        One row an O*NET-SOC 2019 code: `onet_soc_code, title, soc2018, soc2018_title`; 1,016 rows.
    """
    path = locate_role("onet-taxonomy", "2019-to-soc2018")
    columns = {
        "O*NET-SOC 2019 Code": "onet_soc_code",
        "O*NET-SOC 2019 Title": "title",
        "2018 SOC Code": "soc2018",
        "2018 SOC Title": "soc2018_title",
    }
    return validated(path, read_columns(path, columns), TO_SOC2018)
