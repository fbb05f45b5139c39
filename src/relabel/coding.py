"""What labels mean: one label a task and setting, the published code of the pair, and the values of the measures."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from relabel.rubric import MEASURES, Measure, Rubric

_READINGS = {"strict": "strict", "with_tools": "with-tools"}

_NEEDS: Mapping[Measure, set[str]] = {"alpha": {"E1"}, "beta": {"E1", "E2"}, "gamma": {"E2"}}
"""Codes that a rubric must have for a measure to say anything: without E2, gamma would repeat alpha."""


def is_cached_repeat(labels: pd.DataFrame) -> pd.Series:
    """Samples of a question that a gateway's cache answered with an earlier one of them.

    They carry the answer of the first: the same completion id, or the same reply with the same time where the provider gives
    no id. A server that gives one id to different questions tells nothing by it, so that its ids do not count.

    Args:
        labels: Table of labels, `relabel.label_table.LABELS`.

    Returns:
        True for each such sample but the first, index of the table.
    """
    none = pd.Series(False, index=labels.index)
    if "answer_id" not in labels or labels["answer_id"].isna().all() or not (labels["sample"] > 0).any():
        return none
    question = ["onet_soc_code", "task_id", "setting"]
    known = labels[labels["answer_id"].notna()]
    # Tasks with one and the same question share its answer, by the request's key.
    asked = known.drop_duplicates(["request_key", "answer_id"]).drop_duplicates([*question, "answer_id"])
    shared = asked["answer_id"][asked["answer_id"].duplicated()]
    known = known[~known["answer_id"].isin(shared)].sort_values("sample", kind="stable")
    repeated = known.duplicated([*question, "answer_id"])
    return none | repeated.reindex(labels.index, fill_value=False)


def decided(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """One label per task and setting: the most frequent over samples.

    A tie takes the label that comes later in the rubric, which is the less exposed one.

    Args:
        rubric: The rubric that the labels were given under.
        labels: Table of labels, `relabel.label_table.LABELS`.

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
        labels: Table of labels, `relabel.label_table.LABELS`.

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
