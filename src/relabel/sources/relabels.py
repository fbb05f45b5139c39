"""Label sets that others made with newer models under the 2023 rubric.

`relabel import relabels-2026:MODEL` turns one into a run; the file itself imports the same way with `--map E3=E2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from relabel.errors import DataError
from relabel.sources.fetch import locate
from relabel.sources.frames import TASK_ID, missing, plain_task_id, read_columns, schema, text, validated
from relabel.sources.registry import get_source
from relabel.sources.tables import ONET_SOC

SOURCE = "relabels-2026"
MAP: Mapping[str, str] = {"E3": "E2"}
"""What labels become that the three codes do not have: image capability counts as E2."""

RELABELS = schema(
    {
        "task_id": text(TASK_ID, unique=True),
        "onet_soc_code": text(ONET_SOC, nullable=True),
        "label": text(among=("E0", "E1", "E2", "E3")),
        "eloundou_label": text(among=("E0", "E1", "E2"), nullable=True),
        "explanation": text(r"\S"),
    }
)


def models() -> list[str]:
    """The models whose labels can be read.

    Returns:
        Names for `read_relabels`, in the order of the registry.
    """
    return [file.name.removesuffix(".csv") for file in get_source(SOURCE).files if file.name.endswith(".csv")]


def locate_file(ref: str) -> Path:
    """The verified file of a set.

    Args:
        ref: `relabels-2026:MODEL`.

    Raises:
        DataError: There is no set of that model, or its file is not to be had or not the registered one.
    """
    model = ref.partition(":")[2]
    if model not in models():
        raise DataError(f"source {SOURCE!r} has no labels by {model!r}; it has {', '.join(models())}")
    return locate(SOURCE, f"{model}.csv")


def read_relabels(model: str) -> pd.DataFrame:
    """The labels of one model under the 2023 rubric, as published.

    Args:
        model: One of `models()`, such as `gpt-5`.

    Returns:
        One row a task: `task_id, onet_soc_code` (missing in the set of `gpt-4-0613`), `label` (`E0` to `E3`, where `E3`
        means exposed with image capabilities, which the 2023 set counts as `E2`), `eloundou_label` (the published label
        that the authors compared with, missing where they had none), `explanation`. 18,686 rows for `gpt-4-0613` and
        1,014 for each of the others.

    Raises:
        DataError: There is no set of that model, or its file is not to be had, not the registered one, or breaks its
            schema.
    """
    path = locate_file(f"{SOURCE}:{model}")
    columns = {"task_id": "task_id", "label": "label", "explanation": "explanation"}
    optional = {"soc_code": "onet_soc_code", "eloundou_label": "eloundou_label"}
    frame = read_columns(path, columns, optional=optional)
    frame = missing(frame.assign(task_id=plain_task_id(frame["task_id"])), list(optional.values()))
    return validated(path, frame[list(RELABELS.columns)], RELABELS)
