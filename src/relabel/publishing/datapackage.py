"""The Frictionless data package of an export: what each file holds, column by column, and under which licence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from relabel.rubric import MEASURES
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED

PROFILE = "https://datapackage.org/profiles/2.0/datapackage.json"

_LICENCES: Mapping[str, Mapping[str, str]] = {
    "MIT": {"name": "MIT", "title": "MIT Licence", "path": "https://opensource.org/licenses/MIT"},
    "CC BY 4.0": {
        "name": "CC-BY-4.0",
        "title": "Creative Commons Attribution 4.0",
        "path": "https://creativecommons.org/licenses/by/4.0/",
    },
    "OGL v3": {
        "name": "OGL-UK-3.0",
        "title": "Open Government Licence v3.0",
        "path": "https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/",
    },
    "US public domain": {"name": "other-pd", "title": "Public domain (US government work)"},
}

_MEDIA = {"csv": "text/csv", "json": "application/json", "parquet": "application/vnd.apache.parquet"}


class Column(NamedTuple):
    """What a column means. `unit` and the bounds are None where there is none."""

    type: str
    title: str
    description: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    enum: tuple[str, ...] | None = None


_NOTE = Column("string", "Note", "SAMPLE, PARTIAL or a missing measure and what it means; else empty.")
_SHARE = "share (0-1)"

_SCORE_COLUMNS: Mapping[str, Column] = {
    "code": Column("string", "Code", "Code of the group in the taxonomy of the export.", required=True),
    "title": Column("string", "Title", "Title of the group in that taxonomy.", required=True),
    "alpha": Column(
        "number", "Alpha", "Strict exposure: E1. Empty where unscored or not asked; the note says.", _SHARE, 0, 1
    ),
    "beta": Column("number", "Beta", "Mean of alpha and gamma: E1 and half of E2.", _SHARE, 0, 1),
    "gamma": Column("number", "Gamma", "Exposure with tools: E1 and E2.", _SHARE, 0, 1),
    "strict_10": Column("number", "Strict score", "10 x alpha, one decimal, half up.", "score (0-10)", 0, 10),
    "with_tools_10": Column("number", "Score with tools", "10 x gamma, one decimal, half up.", "score (0-10)", 0, 10),
    "tasks": Column("integer", "Tasks", "Labelled tasks behind the score.", "tasks", 0, required=True),
    "coverage": Column(
        "number",
        "Coverage",
        "Share of all that the group stands for which the labels reach: labelled share of the task weight of each "
        "O*NET-SOC code, averaged with the weights of the bridge, linked codes without a score counting as 0.",
        _SHARE,
        0,
        1,
        required=True,
    ),
    "status": Column(
        "string",
        "Status",
        "scored; or thin with the reason, where less than half of the task weight has labels: the score stands, but has no "
        "percentile and no band; or unscored with the reason.",
        required=True,
    ),
    "employees": Column("integer", "Jobs", "Number of employee jobs; empty where suppressed or unknown.", "jobs", 0),
    "median_pay_gbp": Column(
        "number", "Median pay", "Median gross annual pay; empty where suppressed or unknown.", "GBP a year", 0
    ),
    "wage_exposure_alpha_gbp": Column(
        "number", "Wage exposure, strict", "alpha x jobs x median pay, to the pence.", "GBP a year", 0
    ),
    "wage_exposure_gamma_gbp": Column(
        "number", "Wage exposure, with tools", "gamma x jobs x median pay, to the pence.", "GBP a year", 0
    ),
    "percentile_alpha": Column(
        "integer",
        "Percentile, strict",
        "Position of the group by alpha, counted from 1, over the number of scored groups; equal scores share it, but under "
        "site-2026 go by code. Empty where the status is not scored.",
        "percent",
        0,
        100,
    ),
    "percentile_gamma": Column("integer", "Percentile, with tools", "The same by gamma.", "percent", 0, 100),
    "rank_alpha": Column(
        "integer", "Rank, strict", "Rank by alpha among the scored groups; 1 is the most exposed.", "rank", 1
    ),
    "rank_gamma": Column("integer", "Rank, with tools", "The same by gamma.", "rank", 1),
    "weight_labelled": Column(
        "number",
        "Weight labelled",
        "Share of the weight of the tasks linked to the group which has labels.",
        _SHARE,
        0,
        1,
    ),
    "wage_exposure_beta_gbp": Column(
        "number", "Wage exposure, mean", "beta x jobs x median pay, to the pence.", "GBP a year", 0
    ),
    "mean_pay_gbp": Column(
        "number", "Mean pay", "Mean gross annual pay; empty where suppressed or unknown.", "GBP a year", 0
    ),
    "employees_cv": Column(
        "number", "Error of jobs", "Coefficient of variation of the jobs; empty where not given.", "percent", 0
    ),
    "employees_quality": Column(
        "string", "Quality of jobs", "The publisher's word for that error; empty where not given."
    ),
    "median_pay_cv": Column(
        "number", "Error of median pay", "Coefficient of variation of the median; empty where not given.", "percent", 0
    ),
    "median_pay_quality": Column(
        "string", "Quality of median pay", "The publisher's word for that error; empty where not given."
    ),
    "pay_source": Column("string", "Source of pay", "Where jobs and pay of this row come from."),
    "pay_status": Column("string", "Gaps of pay", "Why jobs or median pay are missing; empty where neither is."),
    "note": _NOTE,
}


_ENDS = (("low", "Lower", "lowest"), ("high", "Upper", "highest"))
_OTHERS = (
    ("gold", "by gold", "the labels of a gold, such as people's,"),
    ("pooled", "mean over raters", "the mean over several raters"),
)


def _bounds() -> dict[str, Column]:
    """Columns of intervals; methodology.json says what they are intervals for."""
    found: dict[str, Column] = {}
    for name, column in _SCORE_COLUMNS.items():
        told: dict[str, tuple[str, str]] = {}
        for end, word, most in _ENDS:
            if name in BOUNDED:
                text = f"{word} bound of the 95% interval of {name}, which contains it: what it would be if all tasks were asked again and again."
                told[end] = end, text
            if name in MEASURES:
                by_rater = f"{most.capitalize()} {name} by any of the raters whose labels are pooled."
                told[f"models_{end}"] = f"{most} by rater", by_rater
                told[f"bridges_{end}"] = f"{end} over bridges", f"{word} end of {name} over several bridges."
        for other, title, whose in _OTHERS if name in ESTIMATED else ():
            text = f"Estimate of what {whose} would give for {name}; a figure apart, which {name} may differ from."
            told[other] = title, text
            for end, word, _ in _ENDS:
                told[f"{other}_{end}"] = f"{title}, {end}", f"{word} bound of the 95% interval of {name}_{other}."
        for suffix, (title, text) in told.items():
            found[f"{name}_{suffix}"] = column._replace(title=f"{column.title}, {title}", description=text)
    return found


OCCUPATION_COLUMNS: Mapping[str, Column] = {**_SCORE_COLUMNS, **_bounds()}
"""What the columns of a score table mean, those of its intervals included."""

_READINGS = ("exposed", "not-exposed")

TASK_COLUMNS: Mapping[str, Column] = {
    "task_id": Column("string", "Task id", "Identifier of the task in its list.", required=True),
    "onet_soc_code": Column("string", "O*NET-SOC code", "Occupation that the task belongs to.", required=True),
    "title": Column("string", "Occupation", "Title of that occupation."),
    "text": Column("string", "Task", "The task statement.", required=True),
    "task_type": Column("string", "Type", "Core or Supplemental; empty where the source has none."),
    "importance": Column("number", "Importance", "O*NET importance rating (IM); empty where unrated.", "1-5", 1, 5),
    "weight": Column("number", "Weight", "Weight of the task within its occupation, in the method's unit.", None, 0),
    "code": Column("string", "Code", "Published code; empty where unlabelled.", enum=("E0", "E1", "E2")),
    "strict": Column("string", "Strict reading", "Answer for the model alone.", enum=_READINGS),
    "with_tools": Column("string", "Reading with tools", "Answer for the model with software.", enum=_READINGS),
    "incoherent": Column("boolean", "Incoherent", "Exposed alone but not with tools; taken as E1.", required=True),
    "request_keys": Column("string", "Request keys", "Keys of the answers behind the code, separated by spaces."),
    "note": _NOTE,
}


_PART = "part of the change (0-1)"
_PARTS = {
    "labels": "other labels",
    "tasks": "another list of tasks, types or ratings",
    "weights": "another rule for weights",
    "bridge": "another bridge",
    "rounding": "rounding of the published shares",
    "undivided": "what cannot be told apart",
}


def _sides(name: str, title: str, unit: str, top: float | None = None) -> dict[str, Column]:
    return {
        f"{name}_{side}": Column("number", f"{title}, {side}", f"{title} {words}.", unit, 0, top)
        for side, words in (("before", "by the baseline"), ("after", "in this export"))
    }


CHANGE_COLUMNS: Mapping[str, Column] = {
    "code": OCCUPATION_COLUMNS["code"],
    "title": OCCUPATION_COLUMNS["title"],
    "measure": Column("string", "Measure", "Measure that changed.", required=True, enum=("alpha", "beta", "gamma")),
    "before": Column("number", "Before", "Share by the baseline; empty where it has none.", _SHARE, 0, 1),
    "after": Column("number", "After", "Share in this export; empty where it has none.", _SHARE, 0, 1),
    "change": Column("number", "Change", "After less before; empty where one is missing.", _SHARE, -1, 1),
    **{
        name: Column("number", name.capitalize(), f"Part that comes from {words}.", _PART)
        for name, words in _PARTS.items()
    },
    **_sides("score_10", "Score", "score (0-10)", 10),
    **_sides("percentile", "Percentile", "percent", 100),
    **_sides("wage_exposure_gbp", "Wage exposure", "GBP a year"),
    "reason": Column("string", "Reason", "Why a score is missing on one side; else empty."),
    "note": _NOTE,
}
"""What the columns of the changes against a baseline mean; the parts add up to the change."""

_POINTS = "0, 1 or 2 points; empty while the figure is not known."
FAMILY_COLUMNS: Mapping[str, Column] = {
    "id": Column("string", "Id", "Short name of the job family.", required=True),
    "name": Column("string", "Name", "Name of the job family.", required=True),
    "resilience": Column(
        "integer", "Resilience", "Sum of the points of three parts; empty while one is missing.", "points", 0, 6
    ),
    "points_so_far": Column("integer", "Points so far", "Sum of the points of the known parts.", "points", 0, 6),
    "points_of": Column("integer", "Points of", "Most points that the known parts can give.", "points", 0, 6),
    "low_exposure": Column("integer", "Low exposure", _POINTS, "points", 0, 2),
    "growing_demand": Column("integer", "Growing demand", _POINTS, "points", 0, 2),
    "human_advantage": Column("integer", "Human advantage", _POINTS, "points", 0, 2),
    "strict": Column("number", "Exposed, strict", "Share of the tasks exposed to the model alone.", _SHARE, 0, 1),
    "with_tools": Column("number", "Exposed, with tools", "Share exposed to the model with tools.", _SHARE, 0, 1),
    "change_percent": Column("number", "Projected change", "Projected change of employment (BLS).", "percent"),
    "epoch": Column("number", "EPOCH score", "Sum of the ratings of human advantage.", "points", 5, 25),
    "occupations": Column("integer", "Occupations", "Occupations of the family in the table.", "occupations", 0),
    "employment_us": Column("number", "US jobs", "Jobs of the family (OEWS).", "jobs", 0),
    "median_wage_usd": Column(
        "number",
        "Median pay, weighted",
        "Mean of its roles' medians weighted by jobs; no median of the family.",
        "USD a year",
        0,
    ),
    "lowest_median_wage_usd": Column("number", "Lowest median", "Lowest median among its roles.", "USD a year", 0),
    "highest_median_wage_usd": Column("number", "Highest median", "Highest known one.", "USD a year", 0),
    "wage_source": Column("string", "Source of jobs and pay", "Release of OEWS that US jobs and medians are from."),
    "words": Column("string", "Words", "The resilience score in a line, with what is missing."),
    "note": _NOTE,
}
"""What the columns of the table of job families mean."""


def table_schema(frame: pd.DataFrame, columns: Mapping[str, Column], key: Sequence[str]) -> dict[str, Any]:
    """The Table Schema of a frame.

    Args:
        frame: The table; every column of it must be described.
        columns: What the columns mean.
        key: Columns that identify a row.
    """
    fields = [_field(str(name), columns[str(name)]) for name in frame.columns]
    return {"fields": fields, "primaryKey": list(key), "missingValues": [""]}


def _field(name: str, column: Column) -> dict[str, Any]:
    bounds = {"minimum": column.minimum, "maximum": column.maximum, "enum": column.enum and list(column.enum)}
    constraints: dict[str, Any] = {key: value for key, value in bounds.items() if value is not None}
    if column.required:
        constraints["required"] = True
    field: dict[str, Any] = {
        "name": name,
        "type": column.type,
        "title": column.title,
        "description": column.description,
    }
    if column.unit is not None:
        field["unit"] = column.unit
    if constraints:
        field["constraints"] = constraints
    return field


def resource(path: str, content: bytes, title: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The entry of one file.

    Args:
        path: Path inside the export, with forward slashes.
        content: The file.
        title: What it is, in a line.
        schema: Its Table Schema, where it is a table; a JSON or Parquet table points to the CSV file of the same name.
    """
    stem, kind = path.rsplit(".", 1)
    entry: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", f"{stem}-{kind}".lower()),
        "path": path,
        "title": title,
        "format": kind,
        "mediatype": _MEDIA[kind],
        "encoding": "utf-8",
        "bytes": len(content),
        "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }
    # Only CSV has readers of Table Schema that agree with each other: what the columns of the others mean is said once,
    # there, because a validator takes an empty cell of a Parquet file for a number out of bounds.
    if kind == "parquet":
        del entry["encoding"]
        entry["type"] = "file"
    elif kind == "json":
        entry["type"] = "json"
    if schema is not None and kind == "csv":
        entry |= {"type": "table", "schema": dict(schema)}
    elif schema is not None:
        entry["columnsAsIn"] = f"{stem}.csv"
    return entry


def licence(text: str) -> dict[str, str]:
    """A registry's licence as the data package wants it: a name, and a path where the licence has one."""
    for known, entry in _LICENCES.items():
        if text.startswith(known):
            return dict(entry)
    return {"name": re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "unknown", "title": text}


def data_package(
    *,
    name: str,
    title: str,
    description: str,
    version: str,
    created: str | None,
    sources: Sequence[Mapping[str, Any]],
    resources: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The descriptor of an export.

    Args:
        name: Machine-readable name.
        title: What the package is.
        description: What a reader must know first.
        version: Of the package: changes when the layout or the labels do.
        created: When the run ended, ISO 8601; None where the run does not say.
        sources: As `publishing.export` writes them to `sources.json`: `title, licence, homepage` each.
        resources: Entries of all files.
        about: Kept under the key `relabel`: format of the export, sample, partial, counts.
    """
    licences = {entry["name"]: entry for entry in (licence(str(source["licence"])) for source in sources)}
    package: dict[str, Any] = {
        "$schema": PROFILE,
        "name": re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-"),
        "title": title,
        "description": description,
        "version": version,
        "licenses": [licences[key] for key in sorted(licences)],
        "sources": [
            {"title": source["title"]} | ({"path": source["homepage"]} if source["homepage"] else {})
            for source in sources
        ],
        "resources": list(resources),
        "relabel": dict(about),
    }
    if created is not None:
        package["created"] = created
    return package
