"""Score the codes of a taxonomy from a run's labels: choices are checked, values weighed and bridged, pay is joined on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relabel.errors import UsageError
from relabel.rubric import MEASURES, Measure
from relabel.run import TASK_FILE, Run, SourceUse, task_sources
from relabel.scoring.bridges import Bridge, codes_of, make_bridge, read_bridge
from relabel.scoring.columns import COLUMNS, ENOUGH, SCORES
from relabel.scoring.measures import (
    coded_tasks,
    default_tasks,
    half_labelled,
    labelled_tasks,
    occupation_scores,
)
from relabel.scoring.options import (
    DEFAULT_LINKS,
    ONE_WAY,
    SAMPLE,
    SAMPLE_NOTE,
    Choices,
    Method,
    Taxonomy,
    Unrated,
    Wage,
    check_links,
)
from relabel.scoring.pay import ASHE, Pay, file_use, read_pay, source_use
from relabel.scoring.ranking import CLEAN, percentiles, to_places
from relabel.scoring.table import ScoreTable
from relabel.settings import asset_dir
from relabel.sources import eloundou, onet
from relabel.sources.tables import is_table_file
from relabel.task import disputed_titles, is_onet_release


def is_partial(run: Run) -> bool:
    """Whether the run has not labelled all that it was asked to."""
    return run.manifest.status not in {"complete", "published"}


def score_table(run: Run, **choices: Any) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels.

    Under `site-2026` the columns alpha, beta and gamma hold shares rounded to two decimals, as the site publishes them;
    under `bridge` they are not rounded. A percentile is the share of scored groups below a group, in percent; under
    `site-2026` it is the position of the group, counted from 1, ties in the order of the codes, as published. Measures that
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
    return score_by(run, Choices(**choices))


def score_by(run: Run, choices: Choices) -> ScoreTable:
    """Score the codes of a taxonomy from a run's labels; `score_table` with its choices in one.

    Raises:
        UsageError: The choices do not go with the run.
        DataError: Labels or sources are missing or malformed.
    """
    method, taxonomy, weights = choices.method, choices.taxonomy, choices.weights
    task_list = choices.tasks if choices.tasks is not None else default_tasks(run, weights, taxonomy)
    check_links(choices.links, method, taxonomy, task_list)
    rule: Unrated = choices.unrated or ("one" if method == "site-2026" else "mean")
    one_way = method == "site-2026" or taxonomy in ONE_WAY or task_list == SAMPLE or choices.bridge is not None
    chosen = None if one_way else choices.links or DEFAULT_LINKS
    values = labelled_tasks(run, task_list, weights, unrated=rule, repeats=choices.repeats)
    by_occupation = occupation_scores(values)
    occupations, uses = _occupations(task_list, values)
    listed = codes_of(by_occupation.reset_index(), "onet_soc_code")
    if choices.bridge is not None:
        bridge = read_bridge(Path(choices.bridge), codes_of(occupations, "onet_soc_code"))
    else:
        bridge = make_bridge(method, taxonomy, task_list, occupations, links=chosen, lenders=listed)
    labelled = codes_of(by_occupation[by_occupation["tasks"] > 0].reset_index(), "onet_soc_code")
    shares = bridge.shares(labelled)
    frame = _frame(bridge, shares, by_occupation, listed, method)
    money = None
    if taxonomy == "uk-soc2020":
        default = SAMPLE if task_list == SAMPLE else ASHE
        money = read_pay(choices.pay if choices.pay is not None else default, frozenset(codes_of(bridge.titles)))
    frame = _with_pay(frame, money, choices.wage)
    sample, partial = task_list == SAMPLE, is_partial(run) or not bool(values["labelled"].all())
    if sample:
        frame["status"] += " (SAMPLE)"
    lacks = run.missing_measures()
    notes = tuple(_notes(run, values, lacks, sample=sample, partial=partial))
    if is_table_file(task_list) and (disputed := disputed_titles(values)):
        notes = (*notes, _disputed(disputed))
    frame["note"] = pd.Series("; ".join(notes) or None, index=frame.index, dtype="str")
    uses = [*run.manifest.sources, *uses, *(source_use(*file) for file in bridge.files)]
    if choices.bridge is not None:
        uses.append(file_use(Path(choices.bridge), "bridge-file"))
    if sample:
        uses += _sample_uses(taxonomy)
    if money is not None:
        uses += money.sources
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
        missing_measures=lacks,
        half_labelled=half_labelled(run, values),
        bridge=bridge,
        shares=shares,
        occupations=by_occupation,
        task_values=values,
        occupation_titles=dict(zip(occupations["onet_soc_code"], occupations["title"], strict=True)),
        value_range={
            measure: (min(worth), max(worth))
            for measure in MEASURES
            if (worth := [float(run.rubric.measures[measure][code]) for code in run.rubric.codes])
        },
        labels_unmatched=len(coded_tasks(run, "majority")) - int(values["labelled"].sum()),
        labelled_list=run.manifest.tasks,
        sources=_once(uses),
    )


def _notes(run: Run, values: pd.DataFrame, lacks: Mapping[Measure, str], *, sample: bool, partial: bool) -> list[str]:
    notes = [SAMPLE_NOTE] if sample else []
    if partial:
        incomplete = "the run is incomplete, some labels are missing; " if is_partial(run) else ""
        rests = f"rests on {int(values['labelled'].sum()):,} of {len(values):,} tasks"
        notes.append(f"PARTIAL: {incomplete}{rests}")
    for why in dict.fromkeys(lacks.values()):
        notes.append(f"no {' or '.join(m for m in MEASURES if lacks.get(m) == why)}: {why}")
    return notes


def _disputed(titles: Sequence[tuple[str, str, str]]) -> str:
    """Codes of a user's list that O*NET gives to another occupation: jobs and pay follow the code."""
    named = "; ".join(f"{code} is {ours!r} in the list, {theirs!r} in O*NET" for code, ours, theirs in titles[:3])
    more = f"; and {len(titles) - 3:,} more" if len(titles) > 3 else ""
    return f"titles that disagree with their code, by which jobs and pay are joined: {named}{more}"


def _sample_uses(taxonomy: Taxonomy) -> list[SourceUse]:
    if taxonomy == "onet-soc":
        return []
    return [file_use(asset_dir("data") / SAMPLE / "bridge.csv", SAMPLE)]


def _once(uses: list[SourceUse]) -> tuple[SourceUse, ...]:
    kept: dict[tuple[str, str, str], SourceUse] = {}
    for use in uses:
        if is_table_file(use.source):
            # An earlier relabel named a task file by its path.
            use = use.model_copy(update={"source": TASK_FILE})  # noqa: PLW2901  the cleaned entry takes the place of the old one
        # A later entry knows more about the copy than a run's manifest does.
        kept[use.source, use.file, use.sha256] = use
    return tuple(kept[key] for key in sorted(kept))


def _occupations(tasks: str, values: pd.DataFrame) -> tuple[pd.DataFrame, list[SourceUse]]:
    """Codes and titles that have a place in a table by O*NET-SOC, and the files that they and the tasks come from."""
    uses = list(task_sources(tasks))
    if tasks == "eloundou-2023":
        known = eloundou.read_occupations()[["onet_soc_code", "title"]]
        return known, [*uses, source_use("eloundou-2023", "occupation-scores")]
    if is_onet_release(tasks):
        return onet.read_occupations(tasks)[["onet_soc_code", "title"]], uses
    own = values[["onet_soc_code", "title"]].drop_duplicates("onet_soc_code")
    return own.sort_values("onet_soc_code", ignore_index=True), uses


def _frame(
    bridge: Bridge, shares: pd.DataFrame, occupations: pd.DataFrame, listed: list[str], method: Method
) -> pd.DataFrame:
    published = method == "site-2026"
    frame = bridge.titles.astype({"code": "str", "title": "str"}).copy()
    codes = pd.Index(frame["code"])

    def summed(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return np.bincount(codes.get_indexer(pd.Index(table["code"])), weights=weights, minlength=len(codes))

    behind = occupations.loc[shares["onet_soc_code"]]
    tasks = summed(shares, behind["tasks"].to_numpy())
    reached = tasks > 0
    for measure in MEASURES:
        # Plain sums in one order for all measures: alpha <= beta <= gamma then holds to the last bit.
        mean = summed(shares, shares["share"].to_numpy() * behind[measure].to_numpy())
        value = pd.Series(np.where(reached, mean, np.nan), index=frame.index)
        frame[measure] = value.map(to_places(2)) if published else value.clip(upper=1.0)
    for name, measure in (("strict_10", "alpha"), ("with_tools_10", "gamma")):
        frame[name] = (10 * frame[measure]).map(to_places(1))
    frame["tasks"] = tasks.astype("int64")
    reach = bridge.reach(listed)
    linked = summed(reach, reach["share"].to_numpy())
    covered = summed(reach, reach["share"].to_numpy() * occupations.loc[reach["onet_soc_code"], "coverage"].to_numpy())
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
    return f"{math.floor(100 * round(part, CLEAN))} %" if part >= 0.01 else "under 1 %"


def _with_pay(frame: pd.DataFrame, pay: Pay | None, wage: Wage) -> pd.DataFrame:
    if pay is None:
        frame["employees"] = pd.array([None] * len(frame), dtype="Int64")
        for column in ("median_pay_gbp", "mean_pay_gbp", "employees_cv", "median_pay_cv"):
            frame[column] = np.nan
        for column in ("employees_quality", "median_pay_quality", "pay_source", "pay_status"):
            frame[column] = pd.Series(None, index=frame.index, dtype="str")
    else:
        given = frame["code"].isin(pay.frame["code"])
        frame = frame.merge(pay.frame, how="left", on="code", validate="1:1")
        frame["pay_status"] = frame["pay_status"].where(given, f"jobs and median pay: no row in {pay.name}")
        if wage == "mean" and frame["mean_pay_gbp"].isna().all():
            raise UsageError(f"{pay.name} has no mean pay; add a column mean_pay_gbp, or remove --wage mean")
    jobs = frame["employees"].astype("float64")
    for measure in MEASURES:
        pounds = (frame[measure] * jobs * frame[f"{wage}_pay_gbp"]).tolist()
        # Python's round, unlike NumPy's, gives the float nearest to the pence.
        frame[f"wage_exposure_{measure}_gbp"] = [round(float(value), 2) for value in pounds]
    return frame
