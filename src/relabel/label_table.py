"""The table of a run's labels: its columns and their types, what every such table must hold, its file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from itertools import islice
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as pyarrow_lib
import pyarrow.parquet as pq

from relabel.errors import ColumnError, DataError
from relabel.label import Label
from relabel.rubric import Rubric

_COLUMNS = tuple(field.name for field in fields(Label))
_PARQUET = pyarrow_lib.schema(
    [
        ("task_id", pyarrow_lib.string()),
        ("onet_soc_code", pyarrow_lib.string()),
        ("setting", pyarrow_lib.string()),
        ("sample", pyarrow_lib.int32()),
        ("label", pyarrow_lib.string()),
        ("rationale", pyarrow_lib.string()),
        ("probability", pyarrow_lib.float64()),
        ("request_key", pyarrow_lib.string()),
        ("model_returned", pyarrow_lib.string()),
        ("finish_reason", pyarrow_lib.string()),
        ("attempts", pyarrow_lib.int32()),
        ("prompt_tokens", pyarrow_lib.int64()),
        ("cached_tokens", pyarrow_lib.int64()),
        ("completion_tokens", pyarrow_lib.int64()),
        ("cost_usd", pyarrow_lib.float64()),
        ("latency_s", pyarrow_lib.float64()),
        ("created_at", pyarrow_lib.string()),
        ("from_store", pyarrow_lib.bool_()),
        ("variant", pyarrow_lib.int32()),
        ("origin", pyarrow_lib.string()),
        ("repaired", pyarrow_lib.bool_()),
        ("unwrapped", pyarrow_lib.bool_()),
        ("reasoning_tokens", pyarrow_lib.int64()),
        ("upstream", pyarrow_lib.string()),
        ("answer_id", pyarrow_lib.string()),
    ]
)

_OF_OLD = {"variant": 0, "repaired": False, "unwrapped": False, "reasoning_tokens": 0}
"""What columns hold that a run was made before."""
_ROWS_AT_ONCE = 20_000
"""Labels that are turned into a table in one go."""

LABELS = pa.DataFrameSchema(
    {
        "task_id": pa.Column(str),
        "onet_soc_code": pa.Column(str),
        "setting": pa.Column(str),
        "sample": pa.Column(int, pa.Check.ge(0), coerce=True),
        "label": pa.Column(str),
        "request_key": pa.Column(str, nullable=True),
    },
    unique=["onet_soc_code", "task_id", "setting", "sample"],
    strict=False,
)
"""What every label table must hold; other columns of `Label` may be missing values."""


def read_label_table(path: Path, rubric: Rubric) -> pd.DataFrame:
    """Read a file of labels.

    Args:
        path: The file.
        rubric: The rubric that the labels were given under.

    Returns:
        One row a label, the columns of `Label`; what the file lacks beside the columns of `LABELS` is missing.

    Raises:
        DataError: It is damaged or no table of labels, or holds a label or setting that the rubric lacks.
    """
    try:
        table = pq.read_table(path)
    except (pyarrow_lib.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} is damaged ({reason}); run the labelling again, answers come from the store"
        ) from error
    return _checked(_whole(table, path), rubric, path)


def label_table(labels: pd.DataFrame, rubric: Rubric, name: str) -> pd.DataFrame:
    """Labels that lie in no run folder, as `read_label_table` gives those that do.

    Args:
        labels: One row a label, with the columns of `LABELS` but `request_key`, and any others of `Label`.
        rubric: The rubric that the labels were given under.
        name: What to call them in an error.

    Raises:
        DataError: They break `LABELS`, or hold a label or setting that the rubric lacks.
    """
    of_old = {name: value for name, value in _OF_OLD.items() if name not in labels}
    labels = labels.assign(**of_old).reindex(columns=list(_COLUMNS))
    # By way of the file's own schema, so that the types are the very ones of a run that was read.
    table = pyarrow_lib.Table.from_pandas(
        labels.astype(object).where(labels.notna(), None), schema=_PARQUET, preserve_index=False
    )
    return _checked(table.to_pandas(), rubric, name)


def write_label_table(path: Path, labels: Iterable[Label]) -> None:
    """Write a file of labels in their order, without holding them whole.

    Raises:
        OSError: The file cannot be written.
    """
    rows = iter(labels)
    with pq.ParquetWriter(path, _PARQUET) as table:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            columns = {name: [getattr(x, name) for x in some] for name in _COLUMNS}
            table.write_table(pyarrow_lib.table(columns, schema=_PARQUET))


def _whole(table: pyarrow_lib.Table, path: Path) -> pd.DataFrame:
    """The columns of `Label`, of the types that a run is written with; those that `LABELS` does not ask for may lack."""
    columns: dict[str, pyarrow_lib.ChunkedArray | pyarrow_lib.Array] = {}
    for field in _PARQUET:
        name, asked = field.name, LABELS.columns.get(field.name)
        if name not in table.column_names:
            if asked is not None:
                raise ColumnError(path, name, table.column_names)
            of_old = _OF_OLD.get(name)
            nulls = pyarrow_lib.nulls(len(table), field.type)
            columns[name] = nulls if of_old is None else pyarrow_lib.repeat(of_old, len(table)).cast(field.type)
            continue
        columns[name] = table[name]
        if asked is not None and not asked.nullable and table[name].null_count:
            raise DataError(
                _no_table(path, f"its column {name} is empty in {table[name].null_count} of {len(table)} rows")
            )
        # Texts that all rests on are taken as they are: an id that became a number would match no task.
        if asked is None or field.type != pyarrow_lib.string():
            try:
                columns[name] = table[name].cast(field.type)
            except pyarrow_lib.ArrowException as error:
                raise DataError(
                    _no_table(path, f"its column {name} holds no {field.type} ({str(error).splitlines()[0]})")
                ) from error
    return pyarrow_lib.table(columns).to_pandas()


def _checked(labels: pd.DataFrame, rubric: Rubric, where: Path | str) -> pd.DataFrame:
    try:
        labels = LABELS.validate(labels)
    except pa.errors.SchemaError as error:
        reason = str(error).splitlines()[0].removesuffix(":")
        twice = labels[labels.duplicated(LABELS.unique)]
        if len(twice):
            row = twice.iloc[0]
            reason = f"{_unit(row, rubric)} has two labels in the setting {row['setting']} as sample {row['sample']}"
        raise DataError(_no_table(where, reason)) from error
    # What reads labels asks whether they are the ones it knows: all else would count as their opposite.
    known = labels["label"].isin(list(rubric.labels)) & labels["setting"].isin(list(rubric.settings))
    if not known.all():
        raise DataError(_unknown(labels[~known].iloc[0], rubric, where))
    return labels


def _unknown(row: pd.Series, rubric: Rubric, where: Path | str) -> str:
    setting, unit = row["setting"], _unit(row, rubric)
    if setting in rubric.settings:
        said = f"labels {unit} {row['label']!r} in the setting {setting}, which is no label"
        known = ", ".join(rubric.labels)
    else:
        said = f"labels {unit} in the setting {setting!r}, which is no setting"
        known = ", ".join(rubric.settings)
    return f"{where} {said} of the rubric {rubric.id} ({known}); mend the file or make the run again"


def _unit(row: pd.Series, rubric: Rubric) -> str:
    code = row["onet_soc_code"]
    return f"the task {row['task_id']} of {code}" if rubric.unit == "task" else f"the occupation {code}"


def _no_table(where: Path | str, why: str) -> str:
    return f"{where} is no table of labels: {why}; mend the file or make the run again"
