"""The labels of Eloundou et al. (2023): tasks, occupations, automation; and label sets of newer models under their rubric.

The columns `alpha`, `beta` and `gamma` of the label file are not read: `scoring` computes them from the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from relabel.errors import DataError
from relabel.sources.fetch import cached, locate
from relabel.sources.onet import LABELS_OF_2023, TASKS, statements
from relabel.sources.registry import get_source
from relabel.sources.tables import ONET_SOC, Column, Schema, header_names, read_columns, validated

_EXPOSURE = ("E0", "E1", "E2")
_AUTOMATION = ("T0", "T1", "T2", "T3", "T4")

LABELS: Schema = {
    **TASKS,
    "gpt4": Column(among=_EXPOSURE, header="gpt4_exposure"),
    "gpt4_alt": Column(among=_EXPOSURE, header="gpt4_exposure_alt_rubric"),
    "human": Column(among=_EXPOSURE, header="human_exposure_agg"),
}
AUTOMATION: Schema = {
    **TASKS,
    "gpt4": Column(among=_AUTOMATION, header="gpt4_automation"),
    "human": Column(among=_AUTOMATION, nullable=True, header="human_automation", gaps=("",)),
}
OCCUPATIONS: Schema = {
    "onet_soc_code": Column(ONET_SOC, unique=True, header="O*NET-SOC Code"),
    "title": Column(r"\S", header="Title"),
    **{
        f"{rater}_{measure}": Column(bounds=(0, 1), header=f"{header}_{measure}")
        for rater, header in (("gpt4", "dv_rating"), ("human", "human_rating"))
        for measure in ("alpha", "beta", "gamma")
    },
}


@cached("labels", source=LABELS_OF_2023)
def read_labels(path: Path) -> pd.DataFrame:
    """The published task labels of 2023.

    Returns:
        One row per task, 19,265 of 923 O*NET-SOC 2019 codes: `task_id, onet_soc_code, title, text, task_type` (`Core`,
        `Supplemental`, missing for 1,312), and the labels `gpt4` (published), `gpt4_alt` (a second wording of the
        rubric) and `human` (annotators, aggregated), each `E0`, `E1` or `E2`.
    """
    return _tasks(path, LABELS)


@cached("automation-labels", source=LABELS_OF_2023)
def read_automation(path: Path) -> pd.DataFrame:
    """The published automation labels of 2023, from `T0` (none) to `T4` (full).

    Returns:
        One row per task, 19,265: `task_id, onet_soc_code, title, text, task_type`, and the labels `gpt4` and `human`
        (missing except for the 100 tasks that people labelled).
    """
    return _tasks(path, AUTOMATION)


@cached("occupation-scores", source=LABELS_OF_2023)
def read_occupations(path: Path) -> pd.DataFrame:
    """The published scores of occupations of 2023.

    Returns:
        One row per code, 923: `onet_soc_code, title, gpt4_alpha, gpt4_beta, gpt4_gamma, human_alpha, human_beta,
        human_gamma` (0-1); the file calls GPT-4's scores `dv_rating_*`.
    """
    return validated(path, read_columns(path, header_names(OCCUPATIONS)), OCCUPATIONS)


def _tasks(path: Path, schema: Schema) -> pd.DataFrame:
    frame = pd.DataFrame(statements(path, {"Title": "title", **header_names(schema)}), dtype="str")
    return validated(path, frame, schema)


# Source of label sets that others made with newer models under the rubric of 2023, one file each.
RELABELS = "relabels-2026"
# Mapping of labels in `RELABELS` beyond E0, E1 and E2: E3 (image capabilities) counts as E2.
RELABEL_MAP: Mapping[str, str] = {"E3": "E2"}


def relabel_models() -> list[str]:
    """The models with labels in `RELABELS`, in the order of the registry."""
    return [file.name.removesuffix(".csv") for file in get_source(RELABELS).files if file.name.endswith(".csv")]


def locate_relabels(ref: str) -> Path:
    """The verified file of a label set.

    Args:
        ref: `relabels-2026:MODEL`.

    Raises:
        DataError: There is no label set of that model, or its file is missing or not the registered one.
    """
    model = ref.partition(":")[2]
    if model not in relabel_models():
        raise DataError(f"source {RELABELS!r} has no labels by {model!r}; it has {', '.join(relabel_models())}")
    return locate(RELABELS, f"{model}.csv")
