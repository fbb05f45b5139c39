"""The score table: one row per code of a taxonomy, with its score or the reason for having none, and its metadata."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from relabel.scoring.pay import ASHE, PAY, QUALITY, Pay, read_pay, wage_totals
from relabel.settings import asset_dir
from relabel.sources.fetch import SourceUse, file_use, source_use
from relabel.sources.tables import is_table_file
from relabel.tabular import CLEAN, half_up_all, listed_names, records
from relabel.task import TASK_KEY, disputed_titles

if TYPE_CHECKING:  # import scipy only when intervals are requested
    from relabel.scoring.uncertainty import Intervals


def percentiles(values: pd.Series, codes: pd.Series, *, ties: Literal["shared", "by-code"]) -> pd.Series:
    """Percentile of each value: its position, counted from 1, divided by the number of values that are not missing.

    Args:
        values: Shares.
        codes: Their codes.
        ties: `shared`: equal values all have the position of the first. `by-code`: they are numbered by code, as on the
            site of 2026.

    Returns:
        Percent, rounded half up to a whole number; missing stays missing.
    """
    order = pd.DataFrame({"value": values.round(CLEAN), "code": codes}).dropna(subset="value")
    order = order.sort_values(["value", "code"], kind="stable")
    positions = order["value"].rank(method="min" if ties == "shared" else "first")
    place = half_up_all(100 * positions.to_numpy(dtype="float64") / max(len(order), 1), 0)
    return pd.Series(place, index=order.index, dtype="Int64").reindex(values.index)


# Smallest share (0-1) of a group's task weight that must be labelled; below it, the score is thin and has no percentile.
MIN_COVERAGE = 0.5


def is_covered(part: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether this share (0-1) of labelled weight is enough to interpret a score; otherwise the score is thin."""
    return np.asarray(part).round(CLEAN) >= MIN_COVERAGE


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


# The score table, sorted by code; columns after the percentiles are extras beyond the contract.
#
# `coverage` is how much of a code is labelled (0-1). By O*NET-SOC: the labelled share of the occupation's task weight. In
# other taxonomies: the mean of that share over everything linked to the code, weighted by the bridge; linked codes without
# task statements or without a score count as 0, but detailed O*NET-SOC codes without task statements are ignored.
# `weight_labelled` is the labelled share (0-1) of the weight of the tasks linked to the code; missing without such tasks.
#
# `status` is `scored` if the coverage is at least `MIN_COVERAGE`. Below that it is `thin` with the reason: there is a score,
# but no percentile, and the group does not count as scored. The method `site-2026` is judged by the labelled share of what
# its bridge reaches, because it was published with the gaps of that bridge.
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


# Columns of a score table, in order.
COLUMNS = tuple(map(str, SCORES.columns))

# Smallest share (0-1) of listed tasks that must be labelled; a table with less is exported only on request.
MIN_EXPORT_COVERAGE = 0.9

# Metadata of a table, in the order of its JSON document.
_ABOUT = (
    *("run", "model", "method", "taxonomy", "weights", "weights_note", "links", "links_note", "us_jobs", "bridge"),
    *("unrated", "unrated_note", "tasks", "repeats", "pay", "pay_population", "wage", "sample", "partial", "note"),
    *("missing_measures", "totals", "sources"),
)


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all codes of a taxonomy, with the options and data that they were computed from.

    Attributes:
        frame: The table, schema `SCORES`.
        run: Name of the run.
        model: Model, or published label set, that the labels come from.
        method: Method.
        taxonomy: Taxonomy of the codes.
        weights: How tasks are weighted within their occupation.
        links: How the bridge weights the sources of a code; None if there is no choice (`site-2026`, O*NET-SOC, SOC 2018,
            the sample, a user's bridge).
        unrated: Weight of a task without an importance rating; None unless `weights` is `importance`.
        tasks: Task list, which provides types and importance.
        repeats: Value of a task that was asked several times.
        pay: Source of pay; None in taxonomies without pay.
        population: Whose jobs and pay these are; None if unknown.
        wage: Pay that wage exposure is computed from.
        workforce: All jobs, including those outside the table's groups; None if unknown.
        sample: Whether it is computed from the built-in sample.
        partial: Whether a task of the list has no label, or the run is incomplete.
        notes: Caveats that every reader of the table must know.
        missing_measures: Measures that the run cannot give, with the reason.
        half_labelled: Number of tasks with only some of the run's labels, which count as unlabelled.
        bridge: The bridge.
        map: The map from task values to scores.
        occupations: Scores by O*NET-SOC code, schema `measures.OCCUPATIONS`.
        task_values: Tasks with labels and weights, schema `measures.TASKS`.
        occupation_titles: Titles by O*NET-SOC code.
        value_range: Lowest and highest value that a task can have, by measure.
        labels_unmatched: Number of labelled tasks that are not in the task list and therefore not used.
        labelled_list: Task list that the run labelled.
        sources: Source files of the scores and of the run.
        intervals: What the interval columns of `frame` estimate; None without such columns.
        spread: Scores under other bridges (`code, bridge, alpha, beta, gamma`); None if not requested.
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
        """The share of each O*NET-SOC code in each code: columns `code, onet_soc_code, share`."""
        codes = (self.map.codes[self.map.group], self.map.occupations[self.map.source])
        return pd.DataFrame({"code": codes[0], "onet_soc_code": codes[1], "share": self.map.share})

    @cached_property
    def full_map(self) -> measures.ScoreMap:
        """The map as if all tasks of the list were labelled."""
        return self.map_of(self.task_values.assign(labelled=True))

    def map_of(self, tasks: pd.DataFrame, bridge: Bridge | None = None) -> measures.ScoreMap:
        """The map for other labels or weights of the same tasks, or another bridge to the same groups."""
        shares = (bridge or self.bridge).shares(measures.scored_codes(tasks))
        return measures.score_map(tasks, shares, self.map.codes)

    def tasks_by_rater(self, run: Run, others: Sequence[Run]) -> dict[str, pd.DataFrame]:
        """The tasks with the labels of the table's run and of each other run, by run name.

        Raises:
            UsageError: A run is given twice, or only one of two labelled the sample.
            DataError: A run labelled none of the tasks.
        """
        tasks = {run.name: self.task_values}
        for other in others:
            if (other.manifest.tasks == options.SAMPLE) != self.sample:
                raise UsageError(
                    f"{other.ref} and {run.ref} labelled different task lists, and the sample can only be combined with the sample"
                )
            if other.name in tasks:
                raise UsageError(f"the rater {other.ref} is given twice, or is the run itself; name each once")
            tasks[other.name] = measures.with_labels_of(self.task_values, other, self.repeats, by_id=self.by_id)
        return tasks

    @cached_property
    def occupation_rows(self) -> dict[str, dict[str, Any]]:
        """Scores by O*NET-SOC code with its title, as plain values."""
        rows = records(self.occupations.reset_index())
        return {(code := row["onet_soc_code"]): row | {"title": self.occupation_titles.get(code)} for row in rows}

    @property
    def wage_bill(self) -> pd.Series:
        """Jobs x pay of each group (pounds a year); wage exposure is the score times this. NaN if either is missing."""
        return self.frame["employees"].astype("float64") * self.frame[f"{self.wage}_pay_gbp"]

    def flipped(self, measure: Measure, score: float | Floats, part: Floats) -> Floats:
        """The score if the reading of one task were reversed, for each task; NaN if score or label is missing.

        Args:
            measure: `alpha` or `gamma`.
            score: The exact score (0-1), by task or the same for all.
            part: Weight of each task in the score (0-1).
        """
        low, high = self.value_range[measure]
        values = self.task_values[measure].to_numpy(dtype="float64")
        return np.clip(score + part * (low + high - 2 * values), 0.0, 1.0)

    @property
    def us_jobs(self) -> str | None:
        """The release of US jobs that links are weighted by; None if they are not."""
        return next((source for source, role in self.bridge.files if role == "wages"), None)

    @property
    def has_own_codes(self) -> bool:
        """Whether the codes come from a user's task list in a classification other than O*NET-SOC."""
        return self.taxonomy == "onet-soc" and not _are_onet_codes(codes_of(self.frame))

    @property
    def taxonomy_name(self) -> str:
        """Name of the classification."""
        return "own classification" if self.has_own_codes else options.SYSTEM_NAMES[self.taxonomy]

    @property
    def bridge_file(self) -> str | None:
        """Name of the user's bridge file; None for a built-in bridge."""
        return next((use.file for use in self.sources if use.source == "bridge-file"), None)

    def has_status(self, status: str) -> npt.NDArray[np.bool_]:
        """Which codes have a status: `scored`, `thin` or `unscored`."""
        return self.frame["status"].str.startswith(status).to_numpy(dtype=bool)

    @property
    def scored(self) -> int:
        """Number of codes with enough coverage."""
        return int(self.has_status("scored").sum())

    @property
    def thin(self) -> int:
        """Number of codes with a score but too little coverage."""
        return int(self.has_status("thin").sum())

    @property
    def unrated_occupations(self) -> int:
        """Number of O*NET-SOC codes of the list without any importance rating."""
        return int(self.task_values["importance"].isna().groupby(self.task_values["onet_soc_code"]).all().sum())

    @cached_property
    def totals(self) -> dict[str, float | int | None] | None:
        """Total wage exposure and its coverage of the workforce, see `wage_totals`; None without pay."""
        return None if self.pay is None else wage_totals(self.frame, self.workforce)

    @cached_property
    def release_counts(self) -> dict[str, int | None]:
        """Differences between the labelled and the scored task list, see `measures.changed_tasks`.

        New tasks are unlabelled. Reworded tasks (the same task in other words) keep their label. Replaced tasks (another
        task under the same id) count as unlabelled, unless `by_id`. Emerging tasks are never scored.
        """
        return measures.changed_tasks(self.task_values, self.tasks)

    @property
    def by_id(self) -> bool:
        """Whether labels are matched by task id alone, as in the published method."""
        return self.method == "site-2026"

    @cached_property
    def without_own_label(self) -> frozenset[tuple[str, str]]:
        """Code and id of tasks whose only label in the run is of another statement, and is ignored."""
        ignored = self.task_values[self.task_values["replaced"] & ~self.task_values["labelled"]]
        return frozenset(ignored[TASK_KEY].itertuples(index=False, name=None))

    @property
    def note(self) -> str | None:
        """Caveats that every reader of the table must know, in one text; None if there are none."""
        return "; ".join(self.notes) or None

    def _repr_html_(self) -> str:
        """For notebooks: the first 20 groups with their scores."""
        columns = ["code", "title", *MEASURES, "strict_10", "with_tools_10", "tasks", "status"]
        return self.frame[columns].head(20).to_html(index=False, float_format="{:.3f}".format, na_rep="-")

    def describe(self) -> dict[str, Any]:
        """All metadata as plain values: `about`, counts, and replaced task statements."""
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
        """What was scored, how, and from which sources."""
        description = {name: getattr(self, name, None) for name in _ABOUT}
        return description | {
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
        `by_rater`: the scores by each rater alone, and their mean.
    """
    document = table.describe() | {"rows": records(table.frame)}
    if table.intervals is not None:
        document |= {"intervals": table.intervals.describe(), "by_rater": list(table.intervals.by_rater)}
    return document


def insert_columns(frame: pd.DataFrame, added: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Insert columns into a score table, each after the column that its name starts with."""
    columns: dict[str, pd.Series] = {}
    for name in map(str, frame.columns):
        columns[name] = frame[name]
        columns |= {other: column for other, column in added.items() if other.startswith(f"{name}_")}
    return pd.DataFrame(columns)


def is_partial(run: Run) -> bool:
    """Whether the run has labels missing."""
    return run.manifest.status not in {"complete", "published"}


def score_table(run: Run, **choices: Any) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels.

    Under `site-2026` the columns alpha, beta and gamma are rounded to two decimals, as the site published them; under
    `bridge` they are not rounded. A percentile is the position of a group, counted from 1, in percent of the number of
    scored groups; equal scores share it, except under `site-2026`, which numbers them by code. Measures that the run cannot
    give (only one setting, or a rubric without one of the codes) are missing, and `note` says why.

    Args:
        run: The run.
        **choices: Attributes of `options.Choices`: `method, taxonomy, weights, links, unrated, tasks, pay, bridge, repeats,
            wage`.

    Returns:
        The scores of all codes of the taxonomy.

    Raises:
        UsageError: The choices cannot be combined.
        DataError: Labels or sources are missing or malformed.
    """
    return score_by(run, options.Choices(**choices))


def _are_onet_codes(codes: Iterable[str]) -> bool:
    """Whether codes are O*NET-SOC codes, not those of another classification."""
    return all(re.match(r"\d{2}-\d{4}", code) for code in codes)


def score_by(run: Run, choices: options.Choices) -> ScoreTable:
    """Like `score_table`, with the choices as one object.

    Raises:
        UsageError: The choices do not fit the run.
        DataError: Labels or sources are missing or malformed.
    """
    method, taxonomy, weights = choices.method, choices.taxonomy, choices.weights
    task_list = choices.tasks if choices.tasks is not None else measures.default_tasks(run, weights, taxonomy)
    options.check_links(choices.links, method, taxonomy, task_list)
    rule: options.Unrated = choices.unrated or ("one" if method == "site-2026" else "mean")
    sample, by_id = task_list == options.SAMPLE, method == "site-2026"
    unweighted = by_id or taxonomy in options.UNWEIGHTED or sample or choices.bridge is not None
    chosen = None if unweighted else choices.links or options.DEFAULT_LINKS
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
    mapped = measures.score_map(values, bridge.shares(measures.scored_codes(values)), pd.Index(bridge.titles["code"]))
    by_occupation = measures.occupation_scores(values, mapped)
    frame = _frame(bridge, mapped, by_occupation, listed, method)
    pay = None
    if taxonomy == "uk-soc2020":
        asked = choices.pay if choices.pay is not None else options.SAMPLE if sample else ASHE
        pay = read_pay(asked, dict(zip(codes_of(bridge.titles), codes_of(bridge.titles, "title"), strict=True)))
    frame = _with_pay(frame, pay, choices.wage)
    half, unmatched = measures.count_left_out(run, values)
    values_by_code = {m: [run.rubric.measures[m][code] for code in run.rubric.codes] for m in MEASURES}
    partial = is_partial(run) or not bool(values["labelled"].all())
    if sample:
        frame["status"] += " (SAMPLE)"
    notes = tuple(_notes(run, task_list, values, bridge, partial=partial, by_id=by_id))
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
        pay=None if pay is None else pay.name,
        population=None if pay is None else pay.population,
        wage=choices.wage,
        workforce=None if pay is None else pay.workforce,
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
        value_range={m: (float(min(values_by_code[m])), float(max(values_by_code[m]))) for m in MEASURES},
        labels_unmatched=unmatched,
        labelled_list=run.manifest.tasks,
        sources=_sources(run, choices, task_list, bridge, pay),
    )


def _notes(run: Run, task_list: str, values: pd.DataFrame, bridge: Bridge, *, partial: bool, by_id: bool) -> list[str]:
    notes, lacks = [options.SAMPLE_NOTE] if task_list == options.SAMPLE else [], run.missing_measures()
    if partial:
        incomplete = "the run is incomplete, some labels are missing; " if is_partial(run) else ""
        rests = f"rests on {int(values['labelled'].sum()):,} of {len(values):,} tasks"
        notes.append(f"PARTIAL: {incomplete}{rests}")
    known = bridge.steps[0].links["source"] if bridge.steps else values["onet_soc_code"]
    lost = values.loc[~values["onet_soc_code"].isin(known), "onet_soc_code"]
    if len(lost):
        codes = listed_names(sorted({*lost}), 3)
        notes.append(f"{len(lost):,} tasks are in no score, because the crosswalk lacks their codes ({codes})")
    if others := measures.replaced_texts(values):
        first = ", ".join(row["task_id"] for row in others[:3]) + (" and others" if len(others) > 3 else "")
        then = "keep their label, as in the published method" if by_id else "count as unlabelled"
        kind = "tasks are other statements" if len(others) > 1 else "task is another statement"
        notes.append(f"{len(others):,} {kind} than the run labelled under the same id ({first}) and {then}")
    for reason in dict.fromkeys(lacks.values()):
        notes.append(f"no {' or '.join(m for m in MEASURES if lacks.get(m) == reason)}: {reason}")
    notes += [f"{sentence[0].lower()}{sentence[1:].rstrip('.')}" for sentence in run.warnings()]
    if is_table_file(task_list):
        notes.append(disputed_titles(zip(values["onet_soc_code"], values["title"], strict=True)))
    return [*filter(None, notes)]


def _sources(
    run: Run, choices: options.Choices, task_list: str, bridge: Bridge, pay: Pay | None
) -> tuple[SourceUse, ...]:
    """The source files of a table, without duplicates."""
    uses = [*run.manifest.sources, *task_sources(task_list), *(source_use(*file) for file in bridge.files)]
    if task_list == "eloundou-2023":
        uses.append(source_use(task_list, "occupation-scores"))
    if choices.bridge is not None:
        uses.append(file_use(Path(choices.bridge), "bridge-file"))
    if task_list == options.SAMPLE and choices.taxonomy != "onet-soc":
        uses.append(file_use(asset_dir("data") / options.SAMPLE / "bridge.csv", options.SAMPLE))
    if pay is not None:
        uses += pay.sources
    # Earlier versions of relabel recorded a task file under its path.
    named = (use.model_copy(update={"source": TASK_FILE}) if is_table_file(use.source) else use for use in uses)
    # Of equal entries keep the last, which has more details than that in the run's manifest.
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
        value = mapped.group_scores(occupations[measure].to_numpy())
        frame[measure] = half_up_all(value, 2) if published else np.minimum(value, 1.0)
    for reading, measure in measures.READING_MEASURES.items():
        frame[f"{reading}_10"] = half_up_all(10 * frame[measure].to_numpy(), 1)
    frame["tasks"] = tasks.astype("int64")
    covered, linked = covered_parts(bridge, codes, listed, occupations["coverage"])
    frame["coverage"] = np.minimum(covered, 1.0).round(CLEAN)
    with_tasks = np.divide(covered, linked, out=np.full(len(codes), np.nan), where=linked > 0)
    frame["weight_labelled"] = np.minimum(with_tasks, 1.0).round(CLEAN)
    groups = zip(codes_of(frame), reached.tolist(), covered.tolist(), linked.tolist(), strict=True)
    statuses = [
        _status(*parts, published=published)
        if has_score and parts[1]
        else bridge.status_without(code, listed, borrowed=has_score)
        for code, has_score, *parts in groups
    ]
    frame["status"] = pd.Series(statuses, index=frame.index, dtype="str")
    scored = frame["status"] == "scored"
    for measure in measures.READING_MEASURES.values():
        ties = "by-code" if published else "shared"
        frame[f"percentile_{measure}"] = percentiles(frame[measure].where(scored), frame["code"], ties=ties)
        ranks = frame[measure].where(scored).round(CLEAN).rank(ascending=False, method="min")
        frame[f"rank_{measure}"] = ranks.astype("Int64")
    return frame


def covered_parts(
    bridge: Bridge, codes: pd.Index, listed: Collection[str], coverage: pd.Series
) -> tuple[Floats, Floats]:
    """The shares (0-1) of everything linked to each group that have labels, and that have task statements.

    Args:
        bridge: The bridge.
        codes: Codes of the groups.
        listed: O*NET-SOC codes that have tasks, labelled or not.
        coverage: Labelled share of the task weight, by O*NET-SOC code.
    """
    reach = bridge.reach(listed)
    index, share = codes.get_indexer(pd.Index(reach["code"])), reach["share"].to_numpy()
    labelled = share * coverage.reindex(reach["onet_soc_code"]).to_numpy()
    covered, linked = (np.bincount(index, weights=part, minlength=len(codes)) for part in (labelled, share))
    return covered.astype("float64"), linked.astype("float64")


def _status(covered: float, linked: float, *, published: bool) -> str:
    """`scored`, or `thin` with the reason, for a group with labelled tasks.

    Args:
        covered: Labelled share (0-1) of what is linked to the group.
        linked: Share (0-1) of what is linked to the group that has task statements.
        published: Whether to judge as the site of 2026 did, by the labelled share of what its bridge reaches.
    """
    part = covered / linked if published else covered
    if is_covered(part):
        return "scored"
    status = f"thin: {_percent(part)} of the group's task weight has labels"
    if not published and linked < MIN_COVERAGE:
        status += f", because only {_percent(linked)} of what is linked to it has task statements"
    return status


def _percent(part: float) -> str:
    if part < 0.1:
        return f"{100 * part:.1f}%" if part >= 0.01 else "under 1%"
    # Round down, so that 49.9% is not shown as 50%.
    return f"{math.floor(100 * round(part, CLEAN))}%"


def _with_pay(frame: pd.DataFrame, pay: Pay | None, wage: options.Wage) -> pd.DataFrame:
    kinds = {name: str(kind) for name, kind in PAY.dtypes.items()}
    paid = pd.DataFrame(columns=list(kinds)).astype(kinds) if pay is None else pay.frame
    has_row = frame["code"].isin(paid["code"])
    frame = frame.merge(paid, how="left", on="code", validate="1:1")
    if pay is not None:
        frame["pay_status"] = frame["pay_status"].where(has_row, f"jobs and median pay: no row in {pay.name}")
        if wage == "mean" and frame["mean_pay_gbp"].isna().all():
            raise UsageError(f"{pay.name} has no mean pay; add a column mean_pay_gbp, or remove --wage mean")
    jobs = frame["employees"].astype("float64")
    for measure in MEASURES:
        pounds = (frame[measure] * jobs * frame[f"{wage}_pay_gbp"]).tolist()
        # Python's round, unlike NumPy's, returns the float nearest to the rounded value.
        frame[f"wage_exposure_{measure}_gbp"] = [round(float(value), 2) for value in pounds]
    return frame
