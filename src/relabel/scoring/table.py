"""The score table: one row a code of a taxonomy, scored or with the reason why not, and how it is written down."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as pyarrow_lib
import pyarrow.parquet as pq

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES
from relabel.run import Run, SourceUse
from relabel.scoring.bridges import Bridge, codes_of, make_bridge
from relabel.scoring.measures import coded_tasks, default_tasks, labelled_tasks, occupation_scores
from relabel.scoring.options import SAMPLE, SAMPLE_NOTE, Method, Taxonomy, Weights
from relabel.scoring.pay import Pay, file_use, read_pay, source_use
from relabel.settings import asset_dir
from relabel.sources import eloundou, onet

COLUMNS = (
    "code",
    "title",
    "alpha",
    "beta",
    "gamma",
    "strict_10",
    "with_tools_10",
    "tasks",
    "coverage",
    "status",
    "employees",
    "median_pay_gbp",
    "wage_exposure_alpha_gbp",
    "wage_exposure_gamma_gbp",
    "percentile_alpha",
    "percentile_gamma",
    "pay_source",
    "note",
)
"""Columns of a score table, in order; the last two are extras beyond the contract."""

_CLEAN = 12
_TOLERANCE = 1e-9
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _share():
    return pa.Column("float64", pa.Check.in_range(0, 1 + _TOLERANCE), nullable=True)


def _in_order(frame: pd.DataFrame) -> bool:
    scored = frame[frame["alpha"].notna()]
    return bool(((scored["alpha"] <= scored["beta"]) & (scored["beta"] <= scored["gamma"])).all())


SCORES = pa.DataFrameSchema(
    {
        "code": pa.Column("str", unique=True),
        "title": pa.Column("str"),
        "alpha": _share(),
        "beta": _share(),
        "gamma": _share(),
        "strict_10": pa.Column("float64", pa.Check.in_range(0, 10), nullable=True),
        "with_tools_10": pa.Column("float64", pa.Check.in_range(0, 10), nullable=True),
        "tasks": pa.Column("int64", pa.Check.ge(0)),
        "coverage": pa.Column("float64", pa.Check.in_range(0, 1 + _TOLERANCE)),
        "status": pa.Column("str"),
        "employees": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "median_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "wage_exposure_alpha_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "wage_exposure_gamma_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "percentile_alpha": pa.Column("Int64", pa.Check.in_range(0, 100), nullable=True),
        "percentile_gamma": pa.Column("Int64", pa.Check.in_range(0, 100), nullable=True),
        "pay_source": pa.Column("str", nullable=True),
        "note": pa.Column("str", nullable=True),
    },
    checks=[
        pa.Check(_in_order, error="alpha <= beta <= gamma"),
        pa.Check(lambda f: bool((f["alpha"].isna() == f["gamma"].isna()).all()), error="all measures or none"),
    ],
    strict=True,
    ordered=True,
)
"""The score table, sorted by code.

`coverage` is the share (0-1) of all that a code stands for which the labels reach. By O*NET-SOC: labelled tasks as a
share of the task weight of the occupation. In every other taxonomy: that share, averaged with the weights of the bridge
over everything that is linked to the code, where a linked code without task statements or without a score counts as 0
(detailed O*NET-SOC codes without task statements are not counted).
"""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all codes of a taxonomy, with what they were made from.

    Attributes:
        frame: The table, schema `SCORES`.
        run: Name of the run.
        model: Model, or label set, that the labels come from.
        method: Method.
        taxonomy: Taxonomy of the codes.
        weights: How tasks weigh within their occupation.
        tasks: Task list that gave types and importance.
        pay: Source of pay; None in taxonomies without one.
        sample: True when made from the built-in sample.
        partial: True when the run has not labelled all that it was asked to.
        bridge: The bridge.
        shares: Which part of a code each O*NET-SOC code stands for: columns `code, onet_soc_code, share`.
        occupations: Scores by O*NET-SOC code, schema `measures.OCCUPATIONS`.
        task_values: Tasks with labels and weights, schema `measures.TASKS`.
        occupation_titles: Titles by O*NET-SOC code.
        labels_unmatched: Labelled tasks of the run that are not in the task list, and so in no score.
        sources: Files that the scores and the run were made from.
    """

    frame: pd.DataFrame
    run: str
    model: str
    method: Method
    taxonomy: Taxonomy
    weights: Weights
    tasks: str
    pay: str | None
    sample: bool
    partial: bool
    bridge: Bridge
    shares: pd.DataFrame
    occupations: pd.DataFrame
    task_values: pd.DataFrame
    occupation_titles: Mapping[str, str]
    labels_unmatched: int
    sources: tuple[SourceUse, ...]

    @property
    def scored(self) -> int:
        """Number of codes with a score."""
        return int(self.frame["alpha"].notna().sum())

    @property
    def note(self) -> str | None:
        """What every reader of the table must know; None where there is nothing."""
        return _note(sample=self.sample, partial=self.partial)

    def describe(self) -> dict[str, Any]:
        """All but the rows, as plain values: what was scored, how, from what, and how many."""
        labelled = int(self.task_values["labelled"].sum())
        return {
            "run": self.run,
            "model": self.model,
            "method": self.method,
            "taxonomy": self.taxonomy,
            "weights": self.weights,
            "tasks": self.tasks,
            "pay": self.pay,
            "sample": self.sample,
            "partial": self.partial,
            "note": self.note,
            "counts": {
                "groups": len(self.frame),
                "scored": self.scored,
                "unscored": len(self.frame) - self.scored,
                "tasks_listed": len(self.task_values),
                "tasks_labelled": labelled,
                "labels_unmatched": self.labels_unmatched,
                "incoherent": int(self.task_values["incoherent"].sum()),
            },
            "sources": [use.model_dump(mode="json", exclude_none=True) for use in self.sources],
        }


def run_name(run: Run) -> str:
    """Name of a run, the same on every machine: its folder's name, or the name of a published set."""
    return run.ref if run.folder is None else run.folder.resolve().name


def is_partial(run: Run) -> bool:
    """Whether the run has not labelled all that it was asked to."""
    return run.manifest.status not in {"complete", "published"}


def score_table(
    run: Run,
    *,
    method: Method = "bridge",
    taxonomy: Taxonomy = "uk-soc2020",
    weights: Weights = "importance",
    tasks: str | None = None,
    pay: str | None = None,
) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels.

    Under `site-2026` the columns alpha, beta and gamma hold shares rounded to two decimals, as the site publishes them;
    under `bridge` they are not rounded. A percentile is the position of a group by its share, ties in the order of the
    codes: number of groups before it, of 100 scored groups.

    Args:
        run: The run.
        method: `site-2026` (as published in 2026, faults included) or `bridge`.
        taxonomy: Classification of the codes.
        weights: How tasks weigh within their occupation.
        tasks: Task list that gives types and importance; by default `measures.default_tasks`.
        pay: Source of pay, as for `pay.read_pay`; by default ASHE 2024, and the sample's own for the sample.

    Returns:
        The scores of all codes of the taxonomy.

    Raises:
        UsageError: The choices do not go together.
        DataError: Labels or sources are missing or malformed.
    """
    task_list = tasks if tasks is not None else default_tasks(run, weights)
    if pay is not None and taxonomy != "uk-soc2020":
        raise UsageError(f"there is pay for uk-soc2020 only, not for {taxonomy}; leave --pay out")
    values = labelled_tasks(run, task_list, weights, unrated="one" if method == "site-2026" else "mean")
    by_occupation = occupation_scores(values)
    occupations, files = _occupations(task_list, values)
    bridge = make_bridge(method, taxonomy, task_list, occupations)
    listed = codes_of(by_occupation.reset_index(), "onet_soc_code")
    labelled = codes_of(by_occupation[by_occupation["tasks"] > 0].reset_index(), "onet_soc_code")
    shares = bridge.shares(labelled)
    frame = _frame(bridge, shares, by_occupation, listed, rounded=method == "site-2026")
    money = None
    if taxonomy == "uk-soc2020":
        default = SAMPLE if task_list == SAMPLE else "ons-ashe-2024"
        money = read_pay(pay if pay is not None else default, frozenset(codes_of(bridge.titles)))
    frame = _with_pay(frame, money)
    sample, partial = task_list == SAMPLE, is_partial(run)
    if sample:
        frame["status"] += " (SAMPLE)"
    frame["note"] = pd.Series(_note(sample=sample, partial=partial), index=frame.index, dtype="str")
    uses = [*run.manifest.sources, *(source_use(*file) for file in [*files, *bridge.files])]
    if sample:
        uses += _sample_uses(taxonomy)
    if money is not None:
        uses += money.sources
    return ScoreTable(
        frame=SCORES.validate(frame[list(COLUMNS)]),
        run=run_name(run),
        model=run.manifest.model,
        method=method,
        taxonomy=taxonomy,
        weights=weights,
        tasks=task_list if not task_list.lower().endswith(".csv") else Path(task_list).name,
        pay=None if money is None else money.name,
        sample=sample,
        partial=partial,
        bridge=bridge,
        shares=shares,
        occupations=by_occupation,
        task_values=values,
        occupation_titles=dict(zip(occupations["onet_soc_code"], occupations["title"], strict=True)),
        labels_unmatched=len(coded_tasks(run)) - int(values["labelled"].sum()),
        sources=_once(uses),
    )


def _sample_uses(taxonomy: Taxonomy) -> list[SourceUse]:
    names = ["tasks.csv"] if taxonomy == "onet-soc" else ["tasks.csv", "bridge.csv"]
    return [file_use(asset_dir("data") / SAMPLE / name, SAMPLE) for name in names]


def _once(uses: list[SourceUse]) -> tuple[SourceUse, ...]:
    kept: dict[tuple[str, str, str], SourceUse] = {}
    for use in uses:
        # A later entry knows more about the copy than a run's manifest does.
        kept[use.source, use.file, use.sha256] = use
    return tuple(kept[key] for key in sorted(kept))


def _note(*, sample: bool, partial: bool) -> str | None:
    notes = [SAMPLE_NOTE] if sample else []
    if partial:
        notes.append("PARTIAL: the run is incomplete, some labels are missing")
    return "; ".join(notes) or None


def _occupations(tasks: str, values: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Codes and titles that have a place in a table by O*NET-SOC, and the files that they and the tasks come from."""
    own = values[["onet_soc_code", "title"]].drop_duplicates("onet_soc_code")
    if tasks in {"onet-30.2", "onet-29.1"}:
        files = [(tasks, "tasks"), (tasks, "occupations")]
        if values["importance"].notna().any():
            files.append((tasks, "task-ratings"))
        return onet.read_occupations(tasks)[["onet_soc_code", "title"]], files
    if tasks == "eloundou-2023":
        known = eloundou.read_occupations()[["onet_soc_code", "title"]]
        return known, [("eloundou-2023", "labels"), ("eloundou-2023", "occupation-scores")]
    return own.sort_values("onet_soc_code", ignore_index=True), []


def _frame(
    bridge: Bridge, shares: pd.DataFrame, occupations: pd.DataFrame, listed: list[str], *, rounded: bool
) -> pd.DataFrame:
    frame = bridge.titles.astype({"code": "str", "title": "str"}).copy()
    codes = pd.Index(frame["code"])
    at = codes.get_indexer(pd.Index(shares["code"]))
    behind = occupations.loc[shares["onet_soc_code"]]
    share = shares["share"].to_numpy()
    reached = np.bincount(at, minlength=len(codes)) > 0
    for measure in MEASURES:
        # Plain sums in one order for all measures: alpha <= beta <= gamma then holds to the last bit.
        summed = np.bincount(at, weights=share * behind[measure].to_numpy(), minlength=len(codes))
        value = pd.Series(np.where(reached, summed, np.nan), index=frame.index)
        frame[measure] = value.map(_places(2)) if rounded else value.clip(upper=1.0)
    for name, measure in (("strict_10", "alpha"), ("with_tools_10", "gamma")):
        frame[name] = (10 * frame[measure]).map(_places(1))
    frame["tasks"] = np.bincount(at, weights=behind["tasks"].to_numpy(), minlength=len(codes)).astype("int64")
    reach = bridge.reach(listed)
    covered = reach["share"].to_numpy() * occupations.loc[reach["onet_soc_code"], "coverage"].to_numpy()
    there = codes.get_indexer(pd.Index(reach["code"]))
    frame["coverage"] = np.minimum(np.bincount(there, weights=covered, minlength=len(codes)), 1.0).round(_CLEAN)
    known = set(listed)
    frame["status"] = [
        "scored" if done else "unscored: " + bridge.why_unscored(code, known)
        for code, done in zip(codes_of(frame), reached, strict=True)
    ]
    frame["status"] = frame["status"].astype("str")
    for name, measure in (("percentile_alpha", "alpha"), ("percentile_gamma", "gamma")):
        frame[name] = percentiles(frame[measure], frame["code"])
    return frame


def _with_pay(frame: pd.DataFrame, pay: Pay | None) -> pd.DataFrame:
    if pay is None:
        frame["employees"] = pd.array([None] * len(frame), dtype="Int64")
        frame["median_pay_gbp"] = np.nan
        frame["pay_source"] = pd.Series(None, index=frame.index, dtype="str")
    else:
        frame = frame.merge(pay.frame, how="left", on="code", validate="1:1")
    jobs = frame["employees"].astype("float64")
    for measure in ("alpha", "gamma"):
        pounds = (frame[measure] * jobs * frame["median_pay_gbp"]).tolist()
        # Python's round, unlike NumPy's, gives the float nearest to the pence.
        frame[f"wage_exposure_{measure}_gbp"] = [round(float(value), 2) for value in pounds]
    return frame


def half_up(value: float, places: int) -> float:
    """Round half up, as people do; noise of binary fractions beyond twelve places does not decide.

    Args:
        value: A finite number.
        places: Decimal places to keep.
    """
    exact = Decimal(repr(round(float(value), _CLEAN)))
    return float(exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def _places(places: int) -> Callable[[float], float]:
    return lambda value: value if math.isnan(value) else half_up(value, places)


def percentiles(values: pd.Series, codes: pd.Series) -> pd.Series:
    """Position of each value among those that are not missing, ties in the order of the codes.

    Args:
        values: Shares.
        codes: Their codes.

    Returns:
        Number of values before it / number of values x 100, rounded half up to a whole number; missing stays missing.
    """
    order = pd.DataFrame({"value": values.round(_CLEAN), "code": codes}).dropna(subset="value")
    order = order.sort_values(["value", "code"], kind="stable")
    place = [int(half_up(100 * before / len(order), 0)) for before in range(len(order))]
    return pd.Series(place, index=order.index, dtype="Int64").reindex(values.index)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values that JSON can hold; missing values are None."""
    columns = {name: [_plain(value) for value in frame[name].tolist()] for name in map(str, frame.columns)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def table_json(table: ScoreTable) -> dict[str, Any]:
    """The table as one JSON document: `ScoreTable.describe` with the rows under `rows`."""
    return table.describe() | {"rows": records(table.frame)}


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as CSV in UTF-8 with LF line ends.

    A text cell that a spreadsheet would run as a formula (`=`, `+`, `-`, `@`, tab or carriage return in front) gets a
    leading apostrophe; other carriage returns become line feeds. Missing values are empty cells.
    """
    safe = frame.copy()
    for name in safe.columns:
        if not (pd.api.types.is_numeric_dtype(safe[name]) or pd.api.types.is_bool_dtype(safe[name])):
            safe[name] = safe[name].astype("object").map(_safe_cell)
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = f"'{value}" if value.startswith(_FORMULA) else value
    # With LF line ends a bare CR would stand unquoted and break the row for some readers.
    return shown.replace("\r\n", "\n").replace("\r", "\n")


def json_bytes(document: Any, *, indent: int | None = 2) -> bytes:
    """A document as JSON in UTF-8 with sorted keys, so that the same content is the same bytes."""
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, indent=indent, allow_nan=False)
    return (text + "\n").encode("utf-8")


def parquet_bytes(frame: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """A frame as Parquet; the same frame gives the same bytes.

    Args:
        frame: The table.
        about: What is kept in the file's own metadata, as JSON under the key `relabel`.
    """
    table = pyarrow_lib.Table.from_pandas(frame, preserve_index=False)
    # pandas' own metadata would tie the bytes to its version.
    metadata = {"relabel": json.dumps(about, ensure_ascii=False, sort_keys=True, allow_nan=False)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(cast("dict[str | bytes, str | bytes]", metadata)), sink)
    return sink.getvalue()


def require_suffix(path: Path) -> str:
    """The kind of table that a file name asks for: `csv`, `parquet` or `json`.

    Raises:
        UsageError: The suffix is none of these.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"csv", "parquet", "json"}:
        raise UsageError(f"cannot tell what to write to {path}; end the name of --out in .csv, .parquet or .json")
    return kind


def write_table(table: ScoreTable, path: Path) -> None:
    """Write a score table as the suffix says: `.csv`, `.parquet` or `.json`; at once or not at all.

    Raises:
        UsageError: The suffix is none of these.
        DataError: The file cannot be written.
    """
    kind = require_suffix(path)
    if kind == "csv":
        content = csv_bytes(table.frame)
    elif kind == "parquet":
        content = parquet_bytes(table.frame, table.describe())
    else:
        content = json_bytes(table_json(table))
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}); give another file to --out") from error
