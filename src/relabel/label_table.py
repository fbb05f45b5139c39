"""Label tables: reading and checking them, deciding between samples, and the published code of each task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow

from relabel.errors import ColumnError, DataError
from relabel.labels import cached_repeats
from relabel.manifest import LABEL_COLUMNS, parquet_schema
from relabel.rubric import MEASURES, Measure, Rubric

_OF_OLD = {"variant": 0, "repaired": False, "unwrapped": False, "reasoning_tokens": 0}
"""What columns hold that a run was made before."""


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


def checked_label_table(table: pyarrow.Table, rubric: Rubric, path: Path) -> pd.DataFrame:
    """Labels of a run folder as a table.

    Args:
        table: The labels as they stand in the file.
        rubric: The rubric that they were given under.
        path: The file, for messages.

    Returns:
        One row a label, the columns of `Label`; what the file lacks beside the columns of `LABELS` is missing.

    Raises:
        DataError: It is not a table of labels, or holds a label or setting that the rubric lacks.
    """
    return _checked(_whole(table, path), rubric, path)


def label_table(labels: pd.DataFrame, rubric: Rubric, name: str) -> pd.DataFrame:
    """Labels that lie in no run folder, as `checked_label_table` gives those that do.

    Args:
        labels: One row a label, with the columns of `LABELS` but `request_key`, and any others of `Label`.
        rubric: The rubric that the labels were given under.
        name: What to call them in an error.

    Raises:
        DataError: They break `LABELS`, or hold a label or setting that the rubric lacks.
    """
    of_old = {name: value for name, value in _OF_OLD.items() if name not in labels}
    labels = labels.assign(**of_old).reindex(columns=list(LABEL_COLUMNS))
    # By way of the file's own schema, so that the types are the very ones of a run that was read.
    table = pyarrow.Table.from_pandas(
        labels.astype(object).where(labels.notna(), None), schema=parquet_schema(), preserve_index=False
    )
    return _checked(table.to_pandas(), rubric, name)


def _whole(table: pyarrow.Table, path: Path) -> pd.DataFrame:
    """The columns of `Label`, of the types that a run is written with; those that `LABELS` does not ask for may lack."""
    columns: dict[str, pyarrow.ChunkedArray | pyarrow.Array] = {}
    for field in parquet_schema():
        name, asked = field.name, LABELS.columns.get(field.name)
        if name not in table.column_names:
            if asked is not None:
                raise ColumnError(path, name, table.column_names)
            of_old = _OF_OLD.get(name)
            nulls = pyarrow.nulls(len(table), field.type)
            columns[name] = nulls if of_old is None else pyarrow.repeat(of_old, len(table)).cast(field.type)
            continue
        columns[name] = table[name]
        if asked is not None and not asked.nullable and table[name].null_count:
            raise DataError(
                _no_table(path, f"its column {name} is empty in {table[name].null_count} of {len(table)} rows")
            )
        # Texts that all rests on are taken as they are: an id that became a number would match no task.
        if asked is None or field.type != pyarrow.string():
            try:
                columns[name] = table[name].cast(field.type)
            except pyarrow.ArrowException as error:
                raise DataError(
                    _no_table(path, f"its column {name} holds no {field.type} ({str(error).splitlines()[0]})")
                ) from error
    return pyarrow.table(columns).to_pandas()


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
        said = f"labels {unit} {row['label']!r} in the setting {setting}, which is not a label"
        known = ", ".join(rubric.labels)
    else:
        said = f"labels {unit} in the setting {setting!r}, which is not a setting"
        known = ", ".join(rubric.settings)
    return f"{where} {said} of the rubric {rubric.id} ({known}); fix the file or run the labelling again"


def _unit(row: pd.Series, rubric: Rubric) -> str:
    code = row["onet_soc_code"]
    return f"the task {row['task_id']} of {code}" if rubric.unit == "task" else f"the occupation {code}"


def _no_table(where: Path | str, why: str) -> str:
    return f"{where} is not a label table: {why}; fix the file or run the labelling again"


_READINGS = {"strict": "strict", "with_tools": "with-tools"}


_NEEDS: Mapping[Measure, set[str]] = {"alpha": {"E1"}, "beta": {"E1", "E2"}, "gamma": {"E2"}}
"""Codes that a rubric must have for a measure to say anything: without E2, gamma would repeat alpha."""


def is_cached_repeat(labels: pd.DataFrame) -> pd.Series:
    """Samples of a question that a gateway's cache answered with an earlier one of them.

    See `relabel.labels.cached_repeats`.

    Args:
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        True for each such sample but the first, index of the table.
    """
    if "answer_id" not in labels or labels["answer_id"].isna().all() or not (labels["sample"] > 0).any():
        return pd.Series(False, index=labels.index)
    answers = labels["answer_id"].astype(object).where(labels["answer_id"].notna(), None)
    questions = zip(labels["onet_soc_code"], labels["task_id"], labels["setting"], strict=True)
    samples = list(zip(questions, labels["sample"], labels["request_key"], answers, strict=True))
    return pd.Series(cached_repeats(samples), index=labels.index, dtype=bool)


def decided(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """One label per task and setting: the most frequent over samples.

    A tie takes the label that comes later in the rubric, which is the less exposed one.

    Args:
        rubric: The rubric that the labels were given under.
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        Columns `task_id, onet_soc_code`, and one column a setting with its label, missing where there is none.
    """
    order = {label: rank for rank, label in enumerate(rubric.labels)}
    keys = ["onet_soc_code", "task_id", "setting"]
    votes = labels.groupby([*keys, "label"], sort=False).size().rename("votes").reset_index()
    votes["rank"] = votes["label"].map(order)
    # A label without a rank, in tables that were put together by hand, wins no tie.
    best = votes.sort_values([*keys, "votes", "rank"], na_position="first").drop_duplicates(keys, keep="last")
    wide = best.pivot(index=keys[:2], columns="setting", values="label")
    wide = wide.reindex(columns=list(rubric.settings))
    wide.columns.name = None
    return wide.reset_index()


def coded(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """The published code of each task, and both readings of it.

    Args:
        rubric: The rubric that the labels were given under; it labels tasks.
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        One row a task, sorted by code and id: `task_id, onet_soc_code, code` (E0, E1, E2; missing while any of the
        rubric's settings has no label, because codes of half-answered tasks would all be E1), `strict` and
        `with_tools` (nullable booleans; those of the answers themselves, so that an incoherent pair shows; a
        rubric without the code E2 gives no `with_tools`, one without E1 no `strict`), `incoherent` (bool).
    """
    table = decided(rubric, labels)
    answers = table[list(rubric.settings)].astype(object).where(table[list(rubric.settings)].notna(), None)
    rows = [{str(k): str(v) for k, v in row.items() if v is not None} for row in answers.to_dict("records")]
    whole = len(rubric.settings)
    code = pd.Series(
        [rubric.code(row) if len(row) == whole else None for row in rows], index=table.index, dtype="string"
    )
    out = table[["task_id", "onet_soc_code"]].assign(code=code)
    if {"strict", "with-tools"} <= set(rubric.settings):
        for column, setting in _READINGS.items():
            out[column] = (table[setting] == "exposed").astype("boolean").where(table[setting].notna())
    else:
        # Without E2 among its codes a rubric says nothing about tools, without E1 nothing about the model alone.
        known = {
            "strict": code.notna() & ("E1" in rubric.codes),
            "with_tools": code.notna() & ("E2" in rubric.codes),
        }
        out["strict"] = (code == "E1").astype("boolean").where(known["strict"])
        out["with_tools"] = code.isin(["E1", "E2"]).astype("boolean").where(known["with_tools"])
    clash = rubric.incoherent
    out["incoherent"] = [clash is not None and dict(clash) == row for row in rows]
    return out.sort_values(["onet_soc_code", "task_id"], ignore_index=True)


def missing_measures(rubric: Rubric, answered: Collection[str]) -> dict[Measure, str]:
    """The measures that labels cannot give for any task, each with the reason in words.

    Args:
        rubric: The rubric; it labels tasks.
        answered: Settings that have labels.
    """
    unasked = [setting for setting in rubric.settings if setting not in answered]
    missing: dict[Measure, str] = {}
    for code, about in (("E1", "the model alone"), ("E2", "the model with tools")):
        if code not in rubric.codes:
            why = f"the rubric {rubric.id} has no code {code}, so it says nothing about {about}"
            missing |= {m: why for m in MEASURES if code in _NEEDS[m] and m not in missing}
    if unasked:
        # What one setting alone settles, whatever the other answers would be.
        settled = measures_of(rubric, _lone_readings(rubric, answered)).notna().all()
        why = f"the run has no labels for the setting {' or '.join(unasked)}"
        missing |= {measure: why for measure in MEASURES if measure not in missing and not settled[measure]}
    return missing


def measures_of(rubric: Rubric, table: pd.DataFrame) -> pd.DataFrame:
    """The values (0-1) of the measures by task, as the rubric gives them to codes.

    Both readings make a code, and an incoherent pair is E1. One reading alone settles a measure where all coherent codes
    that share the reading have one value: the strict reading alpha, the reading with tools gamma.

    Args:
        rubric: The rubric.
        table: Nullable booleans `strict` and `with_tools`.

    Returns:
        Columns `alpha, beta, gamma`, float64, missing where the readings do not settle them; index of the table.
    """
    strict, tools = table["strict"].astype("boolean"), table["with_tools"].astype("boolean")
    code = pd.Series("E0", index=table.index, dtype="object")
    code = code.mask(tools.fillna(False), "E2").mask(strict.fillna(False), "E1").where(strict.notna() & tools.notna())
    alone: Mapping[Measure, tuple[pd.Series, str, str]] = {
        "alpha": (strict, "E1", "E0 E2"),
        "gamma": (tools, "E1 E2", "E0"),
    }
    values: dict[str, pd.Series] = {}
    for measure in MEASURES:
        if not _NEEDS[measure] <= set(rubric.codes):
            values[measure] = pd.Series(float("nan"), index=table.index)
            continue
        by_code = {str(c): float(rubric.measures[measure][c]) for c in rubric.codes}
        values[measure] = code.map(by_code).astype("float64")
        if measure in alone:
            reading, if_exposed, if_not = alone[measure]
            worth = [{by_code[c] for c in codes.split() if c in by_code} for codes in (if_exposed, if_not)]
            if all(len(value) == 1 for value in worth):
                yes, no = (value.pop() for value in worth)
                values[measure] = values[measure].fillna(reading.astype("object").map({True: yes, False: no}))
    return pd.DataFrame(values).astype("float64")


def _lone_readings(rubric: Rubric, answered: Collection[str]) -> pd.DataFrame:
    """Both answers to the one setting that was asked; no reading where none or another was."""
    known = {name: setting in answered and setting in rubric.settings for name, setting in _READINGS.items()}
    return pd.DataFrame(
        {name: pd.array([True, False] if there else [None, None], dtype="boolean") for name, there in known.items()}
    )
