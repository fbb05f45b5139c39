"""The score table: one row a code of a taxonomy, scored or with the reason why not, and what it says of itself."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from relabel.errors import UsageError
from relabel.manifest import TASK_FILE, task_sources
from relabel.rubric import MEASURES, Measure
from relabel.run import Run
from relabel.scoring import measures, options
from relabel.scoring.bridges import Bridge, codes_of, make_bridge, onet_occupations, read_bridge
from relabel.scoring.measures import Floats
from relabel.scoring.pay import ASHE, PAY, QUALITY, Pay, file_use, read_pay, wage_totals
from relabel.settings import asset_dir
from relabel.sources.fetch import SourceUse, source_use
from relabel.sources.tables import is_table_file
from relabel.tabular import CLEAN, half_up_all, records
from relabel.task import TASK_KEY, disputed_titles

if TYPE_CHECKING:  # scipy waits until intervals are asked for
    from relabel.scoring.uncertainty import Intervals


def percentiles(values: pd.Series, codes: pd.Series, *, ties: Literal["shared", "by-code"]) -> pd.Series:
    """Percentile of each value among those that are not missing: its position, counted from 1, over their number.

    Args:
        values: Shares.
        codes: Their codes.
        ties: `shared`: equal values have the position of the first of them. `by-code`: they are numbered in the order of
            their codes, as the site did in 2026.

    Returns:
        Percent, rounded half up to a whole number; missing stays missing.
    """
    order = pd.DataFrame({"value": values.round(CLEAN), "code": codes}).dropna(subset="value")
    order = order.sort_values(["value", "code"], kind="stable")
    positions = order["value"].rank(method="min" if ties == "shared" else "first")
    place = half_up_all(100 * positions.to_numpy(dtype="float64") / max(len(order), 1), 0)
    return pd.Series(place, index=order.index, dtype="Int64").reindex(values.index)


ENOUGH = 0.5
"""Least part (0-1) of a group's task weight that must have labels; with less its score is thin: no percentile."""

_TOLERANCE = 1e-9


def _figure(most: float | None = None, *, kind: str = "float64", least: int = 0, nullable: bool = True) -> pa.Column:
    inside = pa.Check.ge(least) if most is None else pa.Check.in_range(least, most)
    return pa.Column(kind, inside, nullable=nullable)


def _in_order(frame: pd.DataFrame) -> bool:
    values = [frame[measure].dropna() for measure in MEASURES if frame[measure].notna().any()]
    return all(bool((low <= high).all()) for low, high in itertools.pairwise(values))


def _same_gaps(frame: pd.DataFrame) -> bool:
    gaps = [frame[measure].isna() for measure in MEASURES if frame[measure].notna().any()]
    return all(bool((gap == gaps[0]).all()) for gap in gaps)


SCORES = pa.DataFrameSchema(
    {
        "code": pa.Column("str", unique=True),
        "title": pa.Column("str"),
        **{measure: _figure(1 + _TOLERANCE) for measure in MEASURES},
        **{score: _figure(10) for score in ("strict_10", "with_tools_10")},
        "tasks": _figure(kind="int64", nullable=False),
        "coverage": _figure(1 + _TOLERANCE, nullable=False),
        "status": pa.Column("str", pa.Check.str_matches(r"^(scored|thin: .+|unscored: .+)( \(SAMPLE\))?$")),
        "employees": PAY.columns["employees"],
        "median_pay_gbp": PAY.columns["median_pay_gbp"],
        **{f"wage_exposure_{measure}_gbp": _figure() for measure in ("alpha", "gamma")},
        **{f"percentile_{measure}": _figure(100, kind="Int64") for measure in ("alpha", "gamma")},
        **{f"rank_{measure}": _figure(kind="Int64", least=1) for measure in ("alpha", "gamma")},
        "weight_labelled": _figure(1 + _TOLERANCE),
        "wage_exposure_beta_gbp": _figure(),
        **{name: PAY.columns[name] for name in ("mean_pay_gbp", *QUALITY)},
        **{name: pa.Column("str", nullable=True) for name in ("pay_source", "pay_status", "note")},
    },
    checks=[
        pa.Check(_same_gaps, error="a measure for all reached groups or for none"),
        pa.Check(_in_order, error="alpha <= beta <= gamma"),
    ],
    strict=True,
    ordered=True,
)
"""The score table, sorted by code; columns after the percentiles are extras beyond the contract.

`coverage` is the share (0-1) of all that a code stands for which the labels reach. By O*NET-SOC: labelled tasks as a
share of the task weight of the occupation. In every other taxonomy: that share, averaged with the weights of the bridge
over everything that is linked to the code, where a linked code without task statements or without a score counts as 0
(detailed O*NET-SOC codes without task statements are not counted). `weight_labelled` is the share (0-1) of the weight of
those tasks that are linked to the code which has labels, missing where no task is.

`status` is `scored` where the coverage is at least `ENOUGH`. Below that it is `thin` with the reason: the score stands,
but has no percentile and counts as no scored group. The method `site-2026` is judged by labels alone, as a part of what
its bridge reaches: the gaps of that bridge are faults that it was published with.
"""


COLUMNS = tuple(map(str, SCORES.columns))
"""Columns of a score table, in order."""

WHOLE = 0.9
"""Least part (0-1) of the listed tasks that must have labels; a table with less is exported on request only."""

_ABOUT = (
    *("run", "model", "method", "taxonomy", "weights", "weights_note", "links", "links_note", "us_jobs", "bridge"),
    *("unrated", "unrated_note", "tasks", "repeats", "pay", "pay_population", "wage", "sample", "partial", "note"),
    *("missing_measures", "totals", "sources"),
)
"""What a table says of itself, in the order of its document."""


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
        links: How the bridge weighs the sources of a code; None where it has no such choice: under `site-2026`, by
            O*NET-SOC code and SOC 2018, and for the sample.
        unrated: What a task without an importance rating weighs; None under other weights.
        tasks: Task list that gave types and importance.
        repeats: Value of a task that was asked several times.
        pay: Source of pay; None in taxonomies without one.
        population: Whose jobs and pay these are; None where that is not known.
        wage: Pay that wage exposure is made of.
        workforce: All jobs that the groups are a part of; None where the source of pay does not say.
        sample: True when made from the built-in sample.
        partial: True when a task of the list has no label, or the run is incomplete.
        notes: What every reader of the table must know, one remark each.
        missing_measures: Measures that the run cannot give, with the reason.
        half_labelled: Tasks of the list with some of the run's labels but not all, which count as unlabelled.
        bridge: The bridge.
        map: The map from task values to scores.
        occupations: Scores by O*NET-SOC code, schema `measures.OCCUPATIONS`.
        task_values: Tasks with labels and weights, schema `measures.TASKS`.
        occupation_titles: Titles by O*NET-SOC code.
        value_range: Least and greatest value that a task can have, by measure that the rubric gives.
        labels_unmatched: Labelled tasks of the run that are not in the task list, and so in no score.
        labelled_list: Task list that the run labelled.
        sources: Files that the scores and the run were made from.
        intervals: What the interval columns of the frame are for; None where it has none.
        spread: Scores over other bridges (`code, bridge, alpha, beta, gamma`); None where they were not asked for.
    """

    frame: pd.DataFrame
    run: str
    model: str
    method: options.Method
    taxonomy: options.Taxonomy
    weights: options.Weights
    links: options.Links | None
    unrated: options.Unrated | None
    tasks: str
    repeats: options.Repeats
    pay: str | None
    population: str | None
    wage: options.Wage
    workforce: int | None
    sample: bool
    partial: bool
    notes: tuple[str, ...]
    missing_measures: Mapping[Measure, str]
    half_labelled: int
    bridge: Bridge
    map: measures.ScoreMap
    occupations: pd.DataFrame
    task_values: pd.DataFrame
    occupation_titles: Mapping[str, str]
    value_range: Mapping[Measure, tuple[float, float]]
    labels_unmatched: int
    labelled_list: str
    sources: tuple[SourceUse, ...]
    intervals: Intervals | None = None
    spread: pd.DataFrame | None = None

    @cached_property
    def shares(self) -> pd.DataFrame:
        """Which part of a code each O*NET-SOC code stands for: columns `code, onet_soc_code, share`."""
        codes = (self.map.codes[self.map.group], self.map.occupations[self.map.source])
        return pd.DataFrame({"code": codes[0], "onet_soc_code": codes[1], "share": self.map.share})

    @cached_property
    def full_map(self) -> measures.ScoreMap:
        """The map that the table would have, were all tasks of its list labelled."""
        return self.map_of(self.task_values.assign(labelled=True))

    def map_of(self, tasks: pd.DataFrame) -> measures.ScoreMap:
        """The map that other labels or weights of the same tasks lead to."""
        return measures.score_map(tasks, self.bridge.shares(measures.counted(tasks)), self.map.codes)

    def labelled_by(self, run: Run, others: Sequence[Run]) -> dict[str, pd.DataFrame]:
        """The tasks with the labels of the table's run, and of others, by name.

        Raises:
            UsageError: A run is given twice, or one labelled the sample where the other did not.
            DataError: A run labelled none of the tasks.
        """
        found = {run.name: self.task_values}
        for other in others:
            if (other.manifest.tasks == options.SAMPLE) != self.sample:
                raise UsageError(
                    f"{other.ref} and {run.ref} labelled different task lists, and the sample can only be combined with the sample"
                )
            if other.name in found:
                raise UsageError(f"the rater {other.ref} is given twice, or is the run itself; name each once")
            found[other.name] = measures.relabelled(self.task_values, other, self.repeats, by_id=self.by_id)
        return found

    @property
    def wage_bill(self) -> pd.Series:
        """Jobs x pay (pounds a year) of each group, which its score is multiplied with; missing where either is."""
        return self.frame["employees"].astype("float64") * self.frame[f"{self.wage}_pay_gbp"]

    def flipped(self, measure: Measure, score: float | Floats, part: Floats) -> Floats:
        """A score with the answers to one task the other way round; tasks, missing where score or label is.

        Args:
            measure: `alpha` or `gamma`.
            score: The exact score, by task or the same for all.
            part: Part of the score that each task stands for.
        """
        low, high = self.value_range[measure]
        values = self.task_values[measure].to_numpy(dtype="float64")
        return np.clip(score + part * (low + high - 2 * values), 0.0, 1.0)

    @property
    def us_jobs(self) -> str | None:
        """The release of US jobs that links weigh by; None where they do not."""
        return next((source for source, role in self.bridge.files if role == "wages"), None)

    @property
    def own_codes(self) -> bool:
        """Whether its codes are those of a task list of the user's, in a classification that is not O*NET's."""
        return self.taxonomy == "onet-soc" and not _are_onet_codes(codes_of(self.frame))

    @property
    def taxonomy_name(self) -> str:
        """Its classification in words."""
        return "own classification" if self.own_codes else options.SYSTEM_NAMES[self.taxonomy]

    @property
    def bridge_file(self) -> str | None:
        """Name of the user's file that the bridge was read from; None for a bridge of ours."""
        return next((use.file for use in self.sources if use.source == "bridge-file"), None)

    def of_status(self, status: str) -> npt.NDArray[np.bool_]:
        """Which codes are `scored`, `thin` or `unscored`."""
        return self.frame["status"].str.startswith(status).to_numpy(dtype=bool)

    @property
    def scored(self) -> int:
        """Number of codes with a score that rests on enough."""
        return int(self.of_status("scored").sum())

    @property
    def thin(self) -> int:
        """Number of codes with a score that rests on too little."""
        return int(self.of_status("thin").sum())

    @property
    def unrated_occupations(self) -> int:
        """Number of O*NET-SOC codes of the list without any importance rating."""
        return int(self.task_values["importance"].isna().groupby(self.task_values["onet_soc_code"]).all().sum())

    @cached_property
    def totals(self) -> dict[str, float | int | None] | None:
        """Wage exposure over all groups with pay, and how much of the workforce that is; None without pay."""
        return None if self.pay is None else wage_totals(self.frame, self.workforce)

    @cached_property
    def release_counts(self) -> dict[str, int | None]:
        """How the tasks that the run labelled differ from those that are scored; None where a list cannot be read.

        New tasks count in no mean. Reworded ones, the same task in other words, keep their label; replaced ones, another task
        under the same id, count as unlabelled, but for `by_id`. Emerging ones are never scored.
        """
        return measures.changed_tasks(self.task_values, self.tasks)

    @property
    def by_id(self) -> bool:
        """Whether labels go by task id alone, as the published method has it."""
        return self.method == "site-2026"

    @cached_property
    def without_own_label(self) -> frozenset[tuple[str, str]]:
        """Code and id of the tasks whose label in the run is of another statement and does not count."""
        gone = self.task_values[self.task_values["replaced"] & ~self.task_values["labelled"]]
        return frozenset(gone[TASK_KEY].itertuples(index=False, name=None))

    @property
    def note(self) -> str | None:
        """What every reader of the table must know; None where there is nothing."""
        return "; ".join(self.notes) or None

    def _repr_html_(self) -> str:
        """For notebooks: the first groups with their scores."""
        columns = ["code", "title", *MEASURES, "strict_10", "with_tools_10", "tasks", "status"]
        return self.frame[columns].head(20).to_html(index=False, float_format="{:.3f}".format, na_rep="-")

    def describe(self) -> dict[str, Any]:
        """All but the rows, as plain values: what was scored, how, from what, and how many."""
        return self.about() | {
            "texts_replaced": measures.replaced_texts(self.task_values),
            "counts": {
                "groups": len(self.frame),
                "scored": self.scored,
                "thin": self.thin,
                "unscored": len(self.frame) - self.scored - self.thin,
                "tasks_listed": len(self.task_values),
                "tasks_labelled": int(self.task_values["labelled"].sum()),
                "tasks_half_labelled": self.half_labelled,
                "tasks_unrated": int(self.task_values["importance"].isna().sum()),
                **self.release_counts,
                "labels_unmatched": self.labels_unmatched,
                "incoherent": int(self.task_values["incoherent"].sum()),
            },
        }

    def about(self) -> dict[str, Any]:
        """What was scored, how, and from what."""
        told = {name: getattr(self, name, None) for name in _ABOUT}
        return told | {
            "weights_note": options.WEIGHT_NOTES[self.weights],
            "links_note": None if self.links is None else options.LINK_NOTES[self.links],
            "bridge": self.bridge_file,
            "unrated_note": None if self.unrated is None else options.UNRATED_NOTES[self.unrated],
            "pay_population": self.population,
            "missing_measures": dict(self.missing_measures),
            "sources": [use.model_dump(mode="json", exclude_none=True) for use in self.sources],
        }


def table_json(table: ScoreTable) -> dict[str, Any]:
    """The table as one JSON document.

    Returns:
        `ScoreTable.describe` with the rows under `rows`; with intervals also `intervals` (`Intervals.describe`) and
        `by_rater`: what each rater alone would score, and the mean over them.
    """
    document = table.describe() | {"rows": records(table.frame)}
    if table.intervals is not None:
        document |= {"intervals": table.intervals.describe(), "by_rater": records(table.intervals.by_rater)}
    return document


def beside(frame: pd.DataFrame, added: Mapping[str, pd.Series]) -> pd.DataFrame:
    """A score table with further columns, each behind the figure that its name begins with."""
    columns: dict[str, pd.Series] = {}
    for name in map(str, frame.columns):
        columns[name] = frame[name]
        columns |= {other: column for other, column in added.items() if other.startswith(f"{name}_")}
    return pd.DataFrame(columns)


def is_partial(run: Run) -> bool:
    """Whether the run has not labelled all that it was asked to."""
    return run.manifest.status not in {"complete", "published"}


def score_table(run: Run, **choices: Any) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels.

    Under `site-2026` the columns alpha, beta and gamma hold shares rounded to two decimals, as the site publishes them;
    under `bridge` they are not rounded. A percentile is the position of the group, counted from 1, over the number of scored
    groups, in percent; groups of equal scores share it, but are numbered by code under `site-2026`, as published. Measures that
    the run cannot give (one setting alone, or a rubric without one of the codes) are missing, and `note` says why.

    Args:
        run: The run.
        **choices: Attributes of `options.Choices`: `method, taxonomy, weights, links, unrated, tasks, pay, bridge, repeats,
            wage`.

    Returns:
        The scores of all codes of the taxonomy.

    Raises:
        UsageError: The choices do not go together.
        DataError: Labels or sources are missing or malformed.
    """
    return score_by(run, options.Choices(**choices))


def _are_onet_codes(codes: Iterable[str]) -> bool:
    """Whether codes are O*NET's, not those of a task list in another classification."""
    return all(re.match(r"\d{2}-\d{4}", code) for code in codes)


def score_by(run: Run, choices: options.Choices) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels; `score_table` with its choices in one.

    Raises:
        UsageError: The choices do not go with the run.
        DataError: Labels or sources are missing or malformed.
    """
    method, taxonomy, weights = choices.method, choices.taxonomy, choices.weights
    task_list = choices.tasks if choices.tasks is not None else measures.default_tasks(run, weights, taxonomy)
    options.check_links(choices.links, method, taxonomy, task_list)
    rule: options.Unrated = choices.unrated or ("one" if method == "site-2026" else "mean")
    sample, by_id = task_list == options.SAMPLE, method == "site-2026"
    one_way = by_id or taxonomy in options.ONE_WAY or sample or choices.bridge is not None
    chosen = None if one_way else choices.links or options.DEFAULT_LINKS
    values = measures.labelled_tasks(run, task_list, weights, unrated=rule, repeats=choices.repeats, by_id=by_id)
    occupations = onet_occupations(task_list, values)
    listed = sorted(set(values["onet_soc_code"]))
    if taxonomy != "onet-soc" and choices.bridge is None and not _are_onet_codes(listed):
        raise UsageError(
            f"the codes of {task_list} are not O*NET-SOC codes, from which the way to {options.SYSTEM_NAMES[taxonomy]} leads; use "
            "--taxonomy onet-soc to score the codes as they are, or --bridge FILE.csv with a crosswalk of yours"
        )
    if choices.bridge is not None:
        bridge = read_bridge(Path(choices.bridge), codes_of(occupations, "onet_soc_code"))
    else:
        bridge = make_bridge(method, taxonomy, task_list, occupations, links=chosen, donors=listed)
    mapped = measures.score_map(values, bridge.shares(measures.counted(values)), pd.Index(bridge.titles["code"]))
    by_occupation = measures.occupation_scores(values, mapped)
    frame = _frame(bridge, mapped, by_occupation, listed, method)
    money = None
    if taxonomy == "uk-soc2020":
        asked = choices.pay if choices.pay is not None else options.SAMPLE if sample else ASHE
        money = read_pay(asked, frozenset(codes_of(bridge.titles)))
    frame = _with_pay(frame, money, choices.wage)
    half, unmatched = measures.left_out(run, values)
    worth = {m: [run.rubric.measures[m][code] for code in run.rubric.codes] for m in MEASURES}
    partial = is_partial(run) or not bool(values["labelled"].all())
    if sample:
        frame["status"] += " (SAMPLE)"
    notes = tuple(_notes(run, task_list, values, partial=partial, by_id=by_id))
    frame["note"] = pd.Series("; ".join(notes) or None, index=frame.index, dtype="str")
    return ScoreTable(
        frame=SCORES.validate(frame[list(COLUMNS)]),
        run=run.name,
        model=run.manifest.model,
        method=method,
        taxonomy=taxonomy,
        weights=weights,
        links=chosen,
        unrated=rule if weights == "importance" else None,
        tasks=Path(task_list).name if is_table_file(task_list) else task_list,
        repeats=choices.repeats,
        pay=None if money is None else money.name,
        population=None if money is None else money.population,
        wage=choices.wage,
        workforce=None if money is None else money.workforce,
        sample=sample,
        partial=partial,
        notes=notes,
        missing_measures=run.missing_measures(),
        half_labelled=half,
        bridge=bridge,
        map=mapped,
        occupations=by_occupation,
        task_values=values,
        occupation_titles=dict(zip(occupations["onet_soc_code"], occupations["title"], strict=True)),
        value_range={m: (float(min(worth[m])), float(max(worth[m]))) for m in MEASURES},
        labels_unmatched=unmatched,
        labelled_list=run.manifest.tasks,
        sources=_sources(run, choices, task_list, bridge, money),
    )


def _notes(run: Run, task_list: str, values: pd.DataFrame, *, partial: bool, by_id: bool) -> list[str]:
    notes, lacks = [options.SAMPLE_NOTE] if task_list == options.SAMPLE else [], run.missing_measures()
    if partial:
        incomplete = "the run is incomplete, some labels are missing; " if is_partial(run) else ""
        rests = f"rests on {int(values['labelled'].sum()):,} of {len(values):,} tasks"
        notes.append(f"PARTIAL: {incomplete}{rests}")
    if others := measures.replaced_texts(values):
        first = ", ".join(row["task_id"] for row in others[:3]) + (" and others" if len(others) > 3 else "")
        then = "keep their label, as in the published method" if by_id else "count as unlabelled"
        kind = "tasks are other statements" if len(others) > 1 else "task is another statement"
        notes.append(f"{len(others):,} {kind} than the run labelled under the same id ({first}) and {then}")
    for why in dict.fromkeys(lacks.values()):
        notes.append(f"no {' or '.join(m for m in MEASURES if lacks.get(m) == why)}: {why}")
    notes += [sentence.rstrip(".") for sentence in run.warnings()]
    if is_table_file(task_list):
        notes.append(disputed_titles(zip(values["onet_soc_code"], values["title"], strict=True)))
    return [*filter(None, notes)]


def _sources(
    run: Run, choices: options.Choices, task_list: str, bridge: Bridge, money: Pay | None
) -> tuple[SourceUse, ...]:
    """The files behind a table, each once."""
    uses = [*run.manifest.sources, *task_sources(task_list), *(source_use(*file) for file in bridge.files)]
    if task_list == "eloundou-2023":
        uses.append(source_use(task_list, "occupation-scores"))
    if choices.bridge is not None:
        uses.append(file_use(Path(choices.bridge), "bridge-file"))
    if task_list == options.SAMPLE and choices.taxonomy != "onet-soc":
        uses.append(file_use(asset_dir("data") / options.SAMPLE / "bridge.csv", options.SAMPLE))
    if money is not None:
        uses += money.sources
    # An earlier relabel named a task file by its path.
    named = (use.model_copy(update={"source": TASK_FILE}) if is_table_file(use.source) else use for use in uses)
    # A later entry knows more about the copy than a run's manifest does.
    kept = {(use.source, use.file, use.sha256): use for use in named}
    return tuple(kept[key] for key in sorted(kept))


def _frame(
    bridge: Bridge, mapped: measures.ScoreMap, occupations: pd.DataFrame, listed: list[str], method: options.Method
) -> pd.DataFrame:
    published = method == "site-2026"
    frame = bridge.titles.astype({"code": "str", "title": "str"}).copy()
    codes, reached = mapped.codes, mapped.reached
    tasks = np.bincount(mapped.group, weights=occupations["tasks"].to_numpy()[mapped.source], minlength=len(codes))
    for measure in MEASURES:
        value = mapped.carried(occupations[measure].to_numpy())
        frame[measure] = half_up_all(value, 2) if published else np.minimum(value, 1.0)
    for name, measure in (("strict_10", "alpha"), ("with_tools_10", "gamma")):
        frame[name] = half_up_all(10 * frame[measure].to_numpy(), 1)
    frame["tasks"] = tasks.astype("int64")
    reach = bridge.reach(listed)
    at, share = codes.get_indexer(pd.Index(reach["code"])), reach["share"].to_numpy()
    linked = np.bincount(at, weights=share, minlength=len(codes))
    labelled = share * occupations["coverage"].reindex(reach["onet_soc_code"]).to_numpy()
    covered = np.bincount(at, weights=labelled, minlength=len(codes))
    frame["coverage"] = np.minimum(covered, 1.0).round(CLEAN)
    with_tasks = np.divide(covered, linked, out=np.full(len(codes), np.nan), where=linked > 0)
    frame["weight_labelled"] = np.minimum(with_tasks, 1.0).round(CLEAN)
    known = set(listed)
    statuses = [
        _status(*parts, published=published) if done and parts[1] else bridge.status_without(code, known, borrowed=done)
        for code, done, parts in zip(
            codes_of(frame), reached.tolist(), zip(covered.tolist(), linked.tolist(), strict=True), strict=True
        )
    ]
    frame["status"] = pd.Series(statuses, index=frame.index, dtype="str")
    scored = frame["status"] == "scored"
    for name, measure in (("percentile_alpha", "alpha"), ("percentile_gamma", "gamma")):
        ties = "by-code" if published else "shared"
        frame[name] = percentiles(frame[measure].where(scored), frame["code"], ties=ties)
        ranks = frame[measure].where(scored).round(CLEAN).rank(ascending=False, method="min")
        frame[f"rank_{measure}"] = ranks.astype("Int64")
    return frame


def _status(covered: float, linked: float, *, published: bool) -> str:
    """`scored`, or `thin` with the reason, of a group that labelled tasks lead to.

    Args:
        covered: Part of all that is linked to the group which has labels.
        linked: Part of all that is linked to the group which has task statements.
        published: Judge as the site did: by labels, whatever its bridge does not reach.
    """
    part = covered / linked if published else covered
    if round(part, CLEAN) >= ENOUGH:
        return "scored"
    status = f"thin: {_percent(part)} of the group's task weight has labels"
    if not published and linked < ENOUGH:
        status += f", because only {_percent(linked)} of what is linked to it has task statements"
    return status


def _percent(part: float) -> str:
    # Rounded down, so that less than a half never reads as one.
    return f"{math.floor(100 * round(part, CLEAN))}%" if part >= 0.01 else "under 1%"


def _with_pay(frame: pd.DataFrame, pay: Pay | None, wage: options.Wage) -> pd.DataFrame:
    kinds = {name: str(kind) for name, kind in PAY.dtypes.items()}
    paid = pd.DataFrame(columns=list(kinds)).astype(kinds) if pay is None else pay.frame
    given = frame["code"].isin(paid["code"])
    frame = frame.merge(paid, how="left", on="code", validate="1:1")
    if pay is not None:
        frame["pay_status"] = frame["pay_status"].where(given, f"jobs and median pay: no row in {pay.name}")
        if wage == "mean" and frame["mean_pay_gbp"].isna().all():
            raise UsageError(f"{pay.name} has no mean pay; add a column mean_pay_gbp, or remove --wage mean")
    jobs = frame["employees"].astype("float64")
    for measure in MEASURES:
        pounds = (frame[measure] * jobs * frame[f"{wage}_pay_gbp"]).tolist()
        # Python's round, unlike NumPy's, gives the float nearest to the pence.
        frame[f"wage_exposure_{measure}_gbp"] = [round(float(value), 2) for value in pounds]
    return frame
