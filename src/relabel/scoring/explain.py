"""One score taken apart: the way of its codes, and each task with its label, its reasons and what it weighs."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.rubric import MEASURES, Measure
from relabel.run import Run
from relabel.scoring.bridges import codes_of, path_in
from relabel.scoring.files import records
from relabel.scoring.options import SYSTEM_NAMES, Taxonomy
from relabel.scoring.table import ScoreTable, half_up
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED, Estimate
from relabel.settings import Frozen

_NEAR = 4
_INTERVAL = re.compile("_(low|high|gold|pooled)$")
_READING = {True: "exposed", False: "not-exposed"}
_TAXONOMY: Sequence[tuple[str, Taxonomy]] = (
    (r"\d{2}-\d{4}\.\d{2}", "onet-soc"),
    (r"\d{2}-\d{4}", "soc2018"),
    (r"\d{4}", "uk-soc2020"),
)


class Given(Frozen):
    """A label as it was given, with what it can be traced by."""

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
        part: What part of the score the task stands for (0-1); the parts of all tasks sum to 1.
        alpha_if_flipped: The exact alpha (0-1) of the group if the task's strict reading were the other one.
        gamma_if_flipped: The exact gamma if its reading with tools were the other one.
        given: Its labels, by setting and sample; of a published set without rationale and key.
        missing: Why labels are missing, as the run folder says.
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
    given: tuple[Given, ...]
    missing: tuple[str, ...]


class ExplainedOccupation(Frozen):
    """An O*NET-SOC code behind a score; `share` is its part of the score, the rest its own figures."""

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
    """A link on the way back from the group.

    Attributes:
        system: Classification of the code that the link comes from.
        weight: Weight of the link.
        part: What the code counts among the codes of its target (0-1); None where no task statements lead to it.
        share: What the group owes to the link (0-1).
    """

    system: str
    code: str
    title: str | None
    target: str
    weight: float
    part: float | None
    share: float | None


class Explanation(Frozen):
    """A score and all that it was made from.

    Attributes:
        score: Row of the score table.
        exact: Scores before any rounding.
        intervals: Low and high by figure, which contain the figure; empty where the table has none.
        estimates: What other labels would give, with low and high, by figure; empty where nothing is known of it.
        estimates_of: Whose labels these are: a gold, or several raters.
        estimates_name: What a heading calls them: `people`, `gold`, or `mean` of raters.
        borrowed: Whether no task statements lead to the group, and it stands on the codes of its neighbours.
        steps: Where the links of each step of the bridge come from.
        path: Links back from the group, nearest step first.
        occupations: O*NET-SOC codes, largest share first.
        tasks: All their tasks, those that weigh most first.
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
        """A share (0-1) as the 10-point score that the table would show; `site-2026` rounds shares to two decimals first."""
        return half_up(10 * (half_up(share, 2) if self.about["method"] == "site-2026" else share), 1)


def taxonomy_of(code: str) -> Taxonomy | None:
    """The taxonomy that a code looks like: `11-3051.00`, `11-3051` or `1121` (UK; ISCO-08 codes look the same)."""
    return next((taxonomy for form, taxonomy in _TAXONOMY if re.fullmatch(form, code)), None)


def explain(table: ScoreTable, run: Run, code: str) -> Explanation:
    """Take one score apart.

    Args:
        table: A score table of the run, with or without intervals.
        run: The run.
        code: A code of the table, scored or not.

    Returns:
        The score, its way, and its tasks.

    Raises:
        DataError: The table has no such code.
    """
    rows = records(table.frame[table.frame["code"] == code])
    if not rows:
        raise DataError(_unknown(table, code))
    row = rows[0]
    other = table.intervals and table.intervals.other
    scores = table.map.scores(table.task_values)[:, table.map.codes.get_loc(code)]
    exact: dict[Measure, float | None] = {m: _number(score) for m, score in zip(MEASURES, scores, strict=True)}
    known = pd.DataFrame(sorted(table.occupation_titles.items()), columns=["onet_soc_code", "title"])
    listed = [str(c) for c in table.occupations.index[table.occupations["listed"] > 0]]
    way = path_in(table.bridge, code, listed, known, sample=table.sample or not table.bridge.steps)
    own = table.shares[table.shares["code"] == code]
    behind = dict(zip(codes_of(own, "onet_soc_code"), own["share"].tolist(), strict=True))
    # Codes that are linked but have no labels yet belong to the picture too.
    linked = set(codes_of(way.forward[way.forward["code"] == code], "onet_soc_code")) | set(behind)
    return Explanation(
        code=code,
        title=row["title"],
        taxonomy=table.taxonomy,
        status=row["status"],
        score={name: value for name, value in row.items() if not _INTERVAL.search(name)},
        exact=exact,
        intervals={
            name: (row[f"{name}_low"], row[f"{name}_high"]) for name in BOUNDED if row.get(f"{name}_low") is not None
        },
        estimates=_estimates(other, row),
        estimates_of=other and other.of,
        estimates_name=other and other.whose,
        note=table.note,
        borrowed=way.borrowed,
        steps=tuple(f"{SYSTEM_NAMES[s.source]} to {SYSTEM_NAMES[s.target]}: {s.origin}" for s in table.bridge.steps),
        path=tuple(
            Link(
                system=SYSTEM_NAMES[link["system"]],
                code=link["code"],
                title=link["title"],
                target=link["target"],
                weight=link["weight"],
                part=_number(link["part"]),
                share=_number(link["share"]),
            )
            for link in records(way.back)
        ),
        occupations=_occupations(table, behind, linked),
        tasks=_tasks(table, run, linked, table.map.row(code), exact),
        about=table.about(),
    )


def _estimates(other: Estimate | None, row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    if other is None:
        return {}
    found = {name: [row[f"{name}_{other.name}{end}"] for end in ("", "_low", "_high")] for name in ESTIMATED}
    return {name: (low, mid, high) for name, (low, mid, high) in found.items() if low is not None}


def _unknown(table: ScoreTable, code: str) -> str:
    titles = dict(zip(codes_of(table.frame), codes_of(table.frame, "title"), strict=True))
    near = difflib.get_close_matches(code, list(titles), n=_NEAR, cutoff=0.5)
    words = code.casefold()
    near = near or [known for known, title in titles.items() if words in title.casefold()][:_NEAR]
    shown = near or list(titles)[:1]
    kind = "near codes are" if near else "codes look like"
    listed = ", ".join(f"{known} ({titles[known]})" for known in shown)
    return f"{code!r} is not a code of {table.taxonomy_name}; {kind} {listed}"


def _occupations(table: ScoreTable, behind: Mapping[str, float], linked: set[str]) -> tuple[ExplainedOccupation, ...]:
    inside = table.occupations[table.occupations.index.isin(linked)]
    own = {row["onet_soc_code"]: row for row in records(inside.reset_index())}
    order = sorted(linked & set(own), key=lambda code: (-behind.get(code, 0.0), code))
    return tuple(
        ExplainedOccupation(title=table.occupation_titles.get(code), share=behind.get(code, 0.0), **own[code])
        for code in order
    )


def _tasks(
    table: ScoreTable,
    run: Run,
    linked: set[str],
    parts: np.ndarray[Any, np.dtype[np.float64]],
    exact: Mapping[Measure, float | None],
) -> tuple[ExplainedTask, ...]:
    values = table.task_values.assign(part=parts)
    values = values[values["onet_soc_code"].isin(linked)].sort_values(
        ["part", "onet_soc_code", "task_id"], ascending=[False, True, True]
    )
    labels = run.labels[run.labels["onet_soc_code"].isin(linked)]
    given: dict[tuple[str, str], list[Given]] = defaultdict(list)
    for row in records(labels[["onet_soc_code", "task_id", *Given.model_fields]].sort_values(["setting", "sample"])):
        given[row.pop("onet_soc_code"), row.pop("task_id")].append(Given(**row))
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in table.without_own_label:
        given.pop(key, None)
        missing[key].append("the run labelled another statement under this id")
    for failure in run.failures():
        missing[failure.onet_soc_code, failure.task_id].append(f"{failure.setting}: {failure.kind}, {failure.message}")

    wanted = ["onet_soc_code", "task_id", "text", "task_type", "importance", "code", "incoherent", "part"]
    found: list[ExplainedTask] = []
    for row in records(values[[*wanted, "strict", "with_tools", "alpha", "gamma"]]):
        key = (row["onet_soc_code"], row["task_id"])
        found.append(
            ExplainedTask(
                **{name: row[name] for name in wanted},
                strict=_READING.get(row["strict"]),
                with_tools=_READING.get(row["with_tools"]),
                alpha_if_flipped=table.flipped("alpha", exact["alpha"], row["part"], row["alpha"]),
                gamma_if_flipped=table.flipped("gamma", exact["gamma"], row["part"], row["gamma"]),
                given=tuple(given[key]),
                missing=tuple(missing[key]),
            )
        )
    return tuple(found)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
