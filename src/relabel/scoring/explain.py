"""Explain one score: the codes it was bridged from, and each task with its labels, rationales and weight."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from relabel.errors import DataError
from relabel.rubric import MEASURES, Measure
from relabel.run import Run
from relabel.scoring.bridges import Bridge, codes_of, same_broad_group
from relabel.scoring.measures import Floats
from relabel.scoring.options import SYSTEM_NAMES, System, Taxonomy
from relabel.scoring.table import ScoreTable
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED, Estimate
from relabel.settings import Frozen
from relabel.sources import bls, onet
from relabel.tabular import half_up, records
from relabel.task import TASK_KEY

_INTERVAL = re.compile("_(low|high|gold|pooled)$")
# A reading (exposed or not) in words.
READING_LABELS = {True: "exposed", False: "not-exposed"}
# O*NET-SOC code and id of a task.
TaskKey = tuple[str, str]
_TAXONOMY: Sequence[tuple[str, Taxonomy]] = (
    (r"\d{2}-\d{4}\.\d*", "onet-soc"),
    (r"\d{2}-\d{4}", "soc2018"),
    (r"\d{4}", "uk-soc2020"),
)


class GivenLabel(Frozen):
    """One label with its rationale and the key of its request."""

    setting: str
    sample: int
    label: str
    rationale: str | None
    request_key: str | None
    model_returned: str | None


class ExplainedTask(Frozen):
    """A task behind a score.

    Attributes:
        code: E0, E1 or E2; None while unlabelled.
        strict: `exposed` or `not-exposed`; None while unlabelled.
        with_tools: The same with tools.
        part: Weight of the task in the score (0-1); the weights of all tasks sum to 1.
        alpha_if_flipped: The exact alpha (0-1) of the group if the task's strict reading were reversed.
        gamma_if_flipped: The exact gamma if its reading with tools were reversed.
        given: Its labels, by setting and sample; those of published sets have no rationale or key.
        missing: Why labels are missing, from the run folder.
    """

    onet_soc_code: str
    task_id: str
    text: str
    task_type: str | None
    importance: float | None
    code: str | None
    strict: str | None
    with_tools: str | None
    incoherent: bool
    part: float
    alpha_if_flipped: float | None
    gamma_if_flipped: float | None
    given: tuple[GivenLabel, ...]
    missing: tuple[str, ...]


class ExplainedOccupation(Frozen):
    """An O*NET-SOC code behind a score: `share` is its weight in the score (0-1), the rest are its own figures."""

    onet_soc_code: str
    title: str | None
    share: float
    alpha: float | None
    beta: float | None
    gamma: float | None
    tasks: int
    listed: int
    coverage: float


class Link(Frozen):
    """A link of the bridge behind a group.

    Attributes:
        system: Classification of the source code.
        weight: Weight of the link, in the unit of its table.
        part: Weight of the code among the codes of its target (0-1); None if no task statements are linked to the code.
        share: Weight of the link in the group's score (0-1).
    """

    system: str
    code: str
    title: str | None
    target: str
    weight: float
    part: float | None
    share: float | None


class Explanation(Frozen):
    """A score and everything that it was computed from.

    Attributes:
        score: Row of the score table.
        exact: Scores before rounding.
        intervals: Low and high by figure, which contain the figure; empty if the table has no intervals.
        estimates: Estimate, low and high by the labels of a gold or of several raters, by figure; may be empty.
        estimates_of: Whose labels these are: a gold, or several raters.
        estimates_name: Their name in a heading: `people`, `gold`, or `mean` (of raters).
        borrowed: Whether the group has no task statements of its own, and borrows from its broad group.
        steps: The origin of the links of each step of the bridge.
        path: Links of the bridge, from the group backwards.
        occupations: O*NET-SOC codes, largest share first; among ties, most tasks first.
        tasks: All their tasks, largest weight first.
        about: How the table was made.
    """

    code: str
    title: str
    taxonomy: Taxonomy
    status: str
    score: Mapping[str, Any]
    exact: Mapping[Measure, float | None]
    intervals: Mapping[str, tuple[float | None, float | None]]
    estimates: Mapping[str, tuple[float, float, float]]
    estimates_of: str | None
    estimates_name: str | None
    note: str | None
    borrowed: bool
    steps: tuple[str, ...]
    path: tuple[Link, ...]
    occupations: tuple[ExplainedOccupation, ...]
    tasks: tuple[ExplainedTask, ...]
    about: Mapping[str, Any]

    def ten(self, share: float) -> float:
        """A score from 0 to 1 as the table shows it out of 10; `site-2026` rounds to two decimals first."""
        return half_up(10 * (half_up(share, 2) if self.about["method"] == "site-2026" else share), 1)


def taxonomy_of(code: str) -> Taxonomy | None:
    """The taxonomy that a code looks like: `11-3051.00`, `11-3051` or `1121` (UK; ISCO-08 codes look the same)."""
    return next((taxonomy for form, taxonomy in _TAXONOMY if re.fullmatch(form, code)), None)


def explain(table: ScoreTable, run: Run, code: str) -> Explanation:
    """Explain one score.

    Args:
        table: A score table of the run, with or without intervals.
        run: The run.
        code: A code of the table, scored or not.

    Returns:
        The score, its bridge, and its tasks.

    Raises:
        DataError: The table has no such code.
    """
    rows = records(table.frame[table.frame["code"] == code])
    if not rows:
        raise DataError(
            f"{code!r} is not a code of {table.taxonomy_name}, whose codes look like {table.frame['code'].iloc[0]}; "
            f"`relabel score --taxonomy {table.taxonomy}` lists them with their titles"
        )
    row = rows[0]
    other = table.intervals and table.intervals.other
    of_group = table.map.scores(table.task_values)[:, table.map.codes.get_loc(code)]
    scores: dict[Measure, float] = dict(zip(MEASURES, map(float, of_group), strict=True))
    listed = [str(c) for c in table.occupations.index[table.occupations["listed"] > 0]]
    titles = _titles(table.bridge, table.occupation_titles)
    links, borrowed, occupations = _trace_back(table.bridge, code, listed, titles)
    own = table.shares[table.shares["code"] == code]
    behind = dict(zip(codes_of(own, "onet_soc_code"), own["share"].tolist(), strict=True))
    # Linked codes without labels are shown too.
    linked = occupations | set(behind)
    return Explanation(
        code=code,
        title=row["title"],
        taxonomy=table.taxonomy,
        status=row["status"],
        score={name: value for name, value in row.items() if not _INTERVAL.search(name)},
        exact={measure: None if math.isnan(score) else score for measure, score in scores.items()},
        intervals={
            name: (row[f"{name}_low"], row[f"{name}_high"]) for name in BOUNDED if row.get(f"{name}_low") is not None
        },
        estimates=_estimates(other, row),
        estimates_of=other and other.of,
        estimates_name=other and other.whose,
        note=table.note,
        borrowed=borrowed,
        steps=tuple(f"{SYSTEM_NAMES[s.source]} to {SYSTEM_NAMES[s.target]}: {s.origin}" for s in table.bridge.steps),
        path=tuple(links),
        occupations=_occupations(table, behind, linked),
        tasks=_tasks(table, run, linked, table.map.task_parts(code), scores),
        about=table.about(),
    )


def groups_of(table: ScoreTable, onet_soc_code: str) -> list[dict[str, Any]]:
    """The codes of a table whose scores an O*NET-SOC code counts in, largest share first.

    Returns:
        Rows with `code, title, share`; the share (0-1) is the weight of the O*NET-SOC code in the score of `code`.
    """
    own = table.shares[table.shares["onet_soc_code"] == onet_soc_code].merge(table.frame[["code", "title"]], on="code")
    return records(own.sort_values(["share", "code"], ascending=[False, True])[["code", "title", "share"]])


def _estimates(other: Estimate | None, row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    if other is None:
        return {}
    figures = {name: [row[f"{name}_{other.name}{end}"] for end in ("", "_low", "_high")] for name in ESTIMATED}
    return {name: (mid, low, high) for name, (mid, low, high) in figures.items() if mid is not None}


def _occupations(table: ScoreTable, behind: Mapping[str, float], linked: set[str]) -> tuple[ExplainedOccupation, ...]:
    own = table.occupation_rows
    order = sorted(linked & set(own), key=lambda code: (-round(behind.get(code, 0.0), 6), -own[code]["tasks"], code))
    return tuple(ExplainedOccupation(share=behind.get(code, 0.0), **own[code]) for code in order)


def _tasks(
    table: ScoreTable, run: Run, linked: set[str], parts: Floats, scores: Mapping[Measure, float]
) -> tuple[ExplainedTask, ...]:
    values = table.task_values.assign(
        part=parts,
        alpha_if_flipped=table.flipped("alpha", scores["alpha"], parts),
        gamma_if_flipped=table.flipped("gamma", scores["gamma"], parts),
    )
    values = values[values["onet_soc_code"].isin(linked)].sort_values(
        ["part", "onet_soc_code", "task_id"], ascending=[False, True, True]
    )
    given = answers_by_task(run, linked)
    missing: dict[TaskKey, list[str]] = defaultdict(list)
    for key in table.without_own_label:
        given.pop(key, None)
        missing[key].append("the run labelled another statement under this id")
    for failure in run.failures():
        missing[failure.onet_soc_code, failure.task_id].append(f"{failure.setting}: {failure.kind}, {failure.message}")
    explained: list[ExplainedTask] = []
    for row in records(values[[name for name in ExplainedTask.model_fields if name not in ("given", "missing")]]):
        key = (row["onet_soc_code"], row["task_id"])
        row |= {reading: READING_LABELS.get(row[reading]) for reading in ("strict", "with_tools")}
        labels = tuple(GivenLabel(**label) for label in given.get(key, ()))
        explained.append(ExplainedTask(**row, given=labels, missing=tuple(missing[key])))
    return tuple(explained)


def answers_by_task(run: Run, codes: Collection[str] | None = None) -> dict[TaskKey, list[dict[str, Any]]]:
    """A run's labels, with rationales and request keys.

    Args:
        run: The run.
        codes: O*NET-SOC codes; by default all.

    Returns:
        For each task its labels, in the order of settings and samples, as dicts with the fields of `GivenLabel`; None
        where the run lacks a value.
    """
    order = {setting: rank for rank, setting in enumerate(run.rubric.settings)}
    labels = run.labels if codes is None else run.labels[run.labels["onet_soc_code"].isin(codes)]
    labels = labels.assign(rank=labels["setting"].map(order)).sort_values([*TASK_KEY, "rank", "sample"], kind="stable")
    answers: dict[TaskKey, list[dict[str, Any]]] = defaultdict(list)
    for row in records(labels[[*TASK_KEY, *GivenLabel.model_fields]]):
        answers[row.pop("onet_soc_code"), row.pop("task_id")].append(row)
    return dict(answers)


def _trace_back(
    bridge: Bridge, code: str, listed: Collection[str], titles: Mapping[System, Mapping[str, str]]
) -> tuple[list[Link], bool, set[str]]:
    """The links behind a group, from the last step to the first; whether it borrows; its O*NET-SOC codes with tasks."""
    tables = [step.links for step in bridge.steps]
    borrows = bool(bridge.donors) and code not in _codes_with_tasks(tables, bridge.donors)[-1]
    if borrows:
        tables[0] = pd.concat([tables[0], same_broad_group(tables[0], bridge.donors)], ignore_index=True)
    reached = _codes_with_tasks(tables, listed)
    shares = {code: 1.0}
    path: list[Link] = []
    for step, links, with_tasks in reversed(list(zip(bridge.steps, tables, reached[:-1], strict=True))):
        own = links[links["target"].isin(shares)].rename(columns={"source": "code"})
        counted = own["weight"].where(own["code"].isin(with_tasks))
        own["part"] = counted / counted.groupby(own["target"]).transform("sum")
        own["share"] = own["part"] * own["target"].map(shares).astype("float64")
        own = own.assign(system=SYSTEM_NAMES[step.source], title=own["code"].map(titles[step.source]))
        path += [Link(**row) for row in records(own.sort_values(["share", "code"], ascending=[False, True]))]
        shares = {str(source): float(share) for source, share in own.groupby("code")["share"].sum().items()}
    return path, borrows and code in reached[-1], set(shares) & reached[0]


def _codes_with_tasks(tables: Sequence[pd.DataFrame], listed: Collection[str]) -> list[set[str]]:
    """The codes reached from O*NET-SOC codes with tasks, before each step and after the last."""
    reached = [set(listed)]
    for links in tables:
        pairs = zip(links["source"].tolist(), links["target"].tolist(), strict=True)
        reached.append({target for source, target in pairs if source in reached[-1]})
    return reached


_CROSSWALKS: Mapping[System, Callable[[], pd.DataFrame]] = {
    "soc2018": onet.read_onet_to_soc2018,
    "soc2010": bls.read_soc2010_soc2018,
    "isco08": bls.read_isco08_soc2010,
}


def _titles(bridge: Bridge, occupations: Mapping[str, str]) -> dict[System, Mapping[str, str]]:
    """Titles of the codes of all classifications in a bridge."""
    titles: dict[System, Mapping[str, str]] = {"onet-soc": occupations}
    for step in bridge.steps[:-1]:
        titles[step.target] = _by_code(_CROSSWALKS[step.target](), step.target, f"{step.target}_title")
    titles[bridge.target] = _by_code(bridge.titles, "code", "title")
    return titles


def _by_code(table: pd.DataFrame, code: str, title: str) -> dict[str, str]:
    return dict(zip(codes_of(table, code), codes_of(table, title), strict=True))
