"""The labels of Eloundou et al. (2023): tasks, occupations, automation; and label sets of newer models under their rubric.

The columns `alpha`, `beta` and `gamma` of the label file follow from its GPT-4 labels and are left to `scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from relabel.errors import DataError
from relabel.sources.fetch import locate, locate_role
from relabel.sources.frames import cached, missing, numbers, read_columns, validated
from relabel.sources.onet import LABELS_OF_2023, TASKS, statements
from relabel.sources.registry import get_source
from relabel.sources.tables import ONET_SOC, TEXT, Column, Schema

_EXPOSURE = Column(among=("E0", "E1", "E2"))
_AUTOMATION = ("T0", "T1", "T2", "T3", "T4")
_SCORES = [f"{who}_{measure}" for who in ("gpt4", "human") for measure in ("alpha", "beta", "gamma")]

LABELS: Schema = {**TASKS, **dict.fromkeys(("gpt4", "gpt4_alt", "human"), _EXPOSURE)}
AUTOMATION: Schema = {**TASKS, "gpt4": Column(among=_AUTOMATION), "human": Column(among=_AUTOMATION, nullable=True)}
OCCUPATIONS: Schema = {
    "onet_soc_code": Column(ONET_SOC, unique=True),
    "title": TEXT,
    **dict.fromkeys(_SCORES, Column(bounds=(0, 1))),
}


@cached("labels", source=LABELS_OF_2023)
def read_labels() -> pd.DataFrame:
    """The published task labels of 2023.

    Returns:
        One row a task, 19,265 of 923 O*NET-SOC 2019 codes: `task_id, onet_soc_code, title, text, task_type` (`Core`,
        `Supplemental`, missing for 1,312), and the labels `gpt4` (published), `gpt4_alt` (a second wording of the
        rubric) and `human` (annotators, aggregated), each `E0`, `E1` or `E2`.
    """
    path = locate_role(LABELS_OF_2023, "labels")
    columns = {"gpt4_exposure": "gpt4", "gpt4_exposure_alt_rubric": "gpt4_alt", "human_exposure_agg": "human"}
    return validated(path, _tasks(path, columns), LABELS)


@cached("automation-labels", source=LABELS_OF_2023)
def read_automation() -> pd.DataFrame:
    """The published automation labels of 2023, from `T0` (none) to `T4` (full).

    Returns:
        One row a task, 19,265: `task_id, onet_soc_code, title, text, task_type`, and the labels `gpt4` and `human`;
        people labelled 100 tasks only, elsewhere `human` is missing.
    """
    path = locate_role(LABELS_OF_2023, "automation-labels")
    tasks = _tasks(path, {"gpt4_automation": "gpt4", "human_automation": "human"})
    return validated(path, missing(tasks, ["human"]), AUTOMATION)


@cached("occupation-scores", source=LABELS_OF_2023)
def read_occupations() -> pd.DataFrame:
    """The published scores of occupations of 2023.

    Returns:
        One row a code, 923: `onet_soc_code, title, gpt4_alpha, gpt4_beta, gpt4_gamma, human_alpha, human_beta,
        human_gamma`, shares from 0 to 1; the file calls GPT-4's scores `dv_rating_*`.
    """
    path = locate_role(LABELS_OF_2023, "occupation-scores")
    published = {name: name.replace("gpt4", "dv_rating").replace("human", "human_rating") for name in _SCORES}
    columns = {"O*NET-SOC Code": "onet_soc_code", "Title": "title"} | {old: new for new, old in published.items()}
    frame = read_columns(path, columns)
    frame = frame.assign(**{name: numbers(path, frame[name], published[name], ()) for name in _SCORES})
    return validated(path, frame, OCCUPATIONS)


def _tasks(path: Path, labels: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(statements(path, {"Title": "title", **labels}), dtype="str")


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
