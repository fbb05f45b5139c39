"""The labels of Eloundou et al. (2023): tasks, occupations, automation; and label sets of newer models under their rubric.

The columns `alpha`, `beta` and `gamma` of the label file follow from its GPT-4 labels and are left to `scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from relabel.errors import DataError
from relabel.sources.fetch import locate, locate_role
from relabel.sources.frames import (
    cached,
    missing,
    number,
    numbers,
    plain_task_id,
    read_columns,
    schema,
    text,
    validated,
)
from relabel.sources.registry import get_source
from relabel.sources.statements import LABELS_OF_2023
from relabel.sources.tables import ONET_SOC, TASK_ID, TASK_TYPES

SOURCE = LABELS_OF_2023

_EXPOSURE = ("E0", "E1", "E2")
_AUTOMATION = ("T0", "T1", "T2", "T3", "T4")
_TASK = {
    "Task ID": "task_id",
    "O*NET-SOC Code": "onet_soc_code",
    "Title": "title",
    "Task": "text",
    "Task Type": "task_type",
}
_TASK_SCHEMA = {
    "task_id": text(TASK_ID, unique=True),
    "onet_soc_code": text(ONET_SOC),
    "title": text(r"\S"),
    "text": text(r"\S"),
    "task_type": text(among=TASK_TYPES, nullable=True),
}
_SCORES = [f"{who}_{measure}" for who in ("gpt4", "human") for measure in ("alpha", "beta", "gamma")]

LABELS = schema(_TASK_SCHEMA | {name: text(among=_EXPOSURE) for name in ("gpt4", "gpt4_alt", "human")})
AUTOMATION = schema(_TASK_SCHEMA | {"gpt4": text(among=_AUTOMATION), "human": text(among=_AUTOMATION, nullable=True)})
OCCUPATIONS = schema(
    {"onet_soc_code": text(ONET_SOC, unique=True), "title": text(r"\S")}
    | {name: number(0, 1, nullable=False) for name in _SCORES}
)


@cached("labels", source=SOURCE)
def read_labels() -> pd.DataFrame:
    """The published task labels of 2023.

    Returns:
        One row a task, 19,265 of 923 O*NET-SOC 2019 codes: `task_id, onet_soc_code, title, text, task_type` (`Core`,
        `Supplemental`, missing for 1,312), and the labels `gpt4` (published), `gpt4_alt` (a second wording of the
        rubric) and `human` (annotators, aggregated), each `E0`, `E1` or `E2`.
    """
    path = locate_role(SOURCE, "labels")
    columns = _TASK | {"gpt4_exposure": "gpt4", "gpt4_exposure_alt_rubric": "gpt4_alt", "human_exposure_agg": "human"}
    return validated(path, _tasks(read_columns(path, columns)), LABELS)


@cached("automation-labels", source=SOURCE)
def read_automation() -> pd.DataFrame:
    """The published automation labels of 2023, from `T0` (none) to `T4` (full).

    Returns:
        One row a task, 19,265: `task_id, onet_soc_code, title, text, task_type`, and the labels `gpt4` and `human`;
        people labelled 100 tasks only, elsewhere `human` is missing.
    """
    path = locate_role(SOURCE, "automation-labels")
    columns = _TASK | {"gpt4_automation": "gpt4", "human_automation": "human"}
    tasks = missing(_tasks(read_columns(path, columns)), ["human"])
    return validated(path, tasks, AUTOMATION)


@cached("occupation-scores", source=SOURCE)
def read_occupations() -> pd.DataFrame:
    """The published scores of occupations of 2023.

    Returns:
        One row a code, 923: `onet_soc_code, title, gpt4_alpha, gpt4_beta, gpt4_gamma, human_alpha, human_beta,
        human_gamma`, shares from 0 to 1; the file calls GPT-4's scores `dv_rating_*`.
    """
    path = locate_role(SOURCE, "occupation-scores")
    published = {name: name.replace("gpt4", "dv_rating").replace("human", "human_rating") for name in _SCORES}
    columns = {"O*NET-SOC Code": "onet_soc_code", "Title": "title"} | {old: new for new, old in published.items()}
    frame = read_columns(path, columns)
    frame = frame.assign(**{name: numbers(path, frame[name], published[name], ()) for name in _SCORES})
    return validated(path, frame, OCCUPATIONS)


def _tasks(frame: pd.DataFrame) -> pd.DataFrame:
    return missing(frame.assign(task_id=plain_task_id(frame["task_id"])), ["task_type"])


RELABELS = "relabels-2026"
"""Label sets that others made with newer models under the rubric of 2023, each a file of the source."""
RELABEL_MAP: Mapping[str, str] = {"E3": "E2"}
"""What labels of `RELABELS` become that the three codes do not have: image capability counts as E2."""


def relabel_models() -> list[str]:
    """The models with labels in `RELABELS`, in the order of the registry."""
    return [file.name.removesuffix(".csv") for file in get_source(RELABELS).files if file.name.endswith(".csv")]


def locate_relabels(ref: str) -> Path:
    """The verified file of a set.

    Args:
        ref: `relabels-2026:MODEL`.

    Raises:
        DataError: There is no set of that model, or its file is missing or not the registered one.
    """
    model = ref.partition(":")[2]
    if model not in relabel_models():
        raise DataError(f"source {RELABELS!r} has no labels by {model!r}; it has {', '.join(relabel_models())}")
    return locate(RELABELS, f"{model}.csv")
