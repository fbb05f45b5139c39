"""Builds the pages of job families from the figures of their occupations.

Exposure comes from a score table; jobs, pay and projections come from the BLS; human advantage comes from a run of
ratings, if given. Occupations are weighted by US jobs. If several O*NET codes share one published figure for jobs, it is
split evenly among them, so that no job is counted twice, nor in a family that it does not belong to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from relabel.careers import pages
from relabel.errors import UsageError
from relabel.rubric import MEASURES
from relabel.run import Run
from relabel.scoring.explain import READING_LABELS, answers_by_task
from relabel.scoring.measures import READING_MEASURES
from relabel.scoring.table import MIN_COVERAGE, ScoreTable, is_covered
from relabel.scoring.us import us_figures, us_files
from relabel.sources import bls, onet
from relabel.sources.bls import RATES
from relabel.sources.fetch import SourceUse, source_use
from relabel.sources.registry import load_registry
from relabel.tabular import listed_names, records

RELATED_FAMILIES = 3
RELATED_CAREERS = 8
# Minimum similarity (cosine, 0-1) of related families and occupations on a page.
MIN_SIMILARITY = 0.05
# Source of job zones and activities if the task list is not an O*NET release that has them.
_RELEASE = "onet-30.2"
_ONET_ROLES = ("job-zones", "tasks-to-dwas", "dwas")
# Bounds of the sum of the ratings, which cut-points and pages assume.
LOWEST, HIGHEST = 5, 25
# Column of the sum.
TOTAL = "total"


def occupation_ratings(run: Run) -> pd.DataFrame:
    """The ratings of occupations, from a run that rates them.

    Repeated answers are averaged, so ratings may be fractional. Occupations without a rating on every dimension are left
    out, because their sums would not be comparable.

    Args:
        run: A run of a rubric with the unit `occupation` whose sums are between `LOWEST` and `HIGHEST`.

    Returns:
        Indexed by O*NET-SOC code, sorted: one float64 column per dimension, in the rubric's order, and `total`.

    Raises:
        UsageError: The run labelled tasks, or the sums of its ratings have another scale.
    """
    rubric = run.rubric
    rated = [int(label) for label in rubric.labels] if rubric.unit == "occupation" else [0]
    if [len(rubric.settings) * bound for bound in (min(rated), max(rated))] != [LOWEST, HIGHEST]:
        raise UsageError(
            f"the run {run.ref} (rubric {rubric.id}) does not rate occupations with sums from {LOWEST} to {HIGHEST}; give a run of "
            "`relabel run --rubric epoch` to --epoch"
        )
    labels = run.labels.assign(rating=run.labels["label"].astype("float64"))
    wide = labels.pivot_table(index="onet_soc_code", columns="setting", values="rating", aggfunc="mean")
    whole = wide.reindex(columns=list(rubric.settings)).dropna().sort_index()
    whole.columns.name = None
    return whole.assign(**{TOTAL: whole.sum(axis=1)})


# Tasks that a page shows as key responsibilities.
RESPONSIBILITIES = 8

_PERCENTILES = ("p10", "p25", "median", "p75", "p90")
_NEEDS = ("education", "experience", "training")
_MAX_NAMED = 6
_SPLIT = "figures that several occupations share are split evenly among them"


@dataclass(frozen=True)
class FamilyData:
    """The data behind the pages of all families.

    Attributes:
        table: A score table of any taxonomy; only its scores by O*NET-SOC code are used.
        us: BLS figures for all O*NET-SOC codes of the table, schema `us_schema`; None for the sample.
        ratings: Ratings of human advantage by O*NET-SOC code and dimension, with their sum as `TOTAL`; None without a run
            of ratings.
        job_zones: Job zone (1-5) by O*NET-SOC code, where known.
        request_keys: Request keys of the answers, by O*NET-SOC code and task id.
    """

    table: ScoreTable
    us: pd.DataFrame | None
    ratings: Mapping[str, Mapping[str, float]] | None
    job_zones: Mapping[str, int]
    request_keys: Mapping[tuple[str, str], tuple[str, ...]]

    @cached_property
    def wages(self) -> tuple[bls.WageRelease, ...]:
        """Releases of pay and jobs, see `bls.wage_releases`."""
        return bls.wage_releases()

    @cached_property
    def projection(self) -> bls.ProjectionRelease:
        """The release of the projections."""
        return bls.projection_release()

    def outlook(self, status: str, **figures: float | None) -> pages.Outlook:
        """An outlook for the years of the projections."""
        return pages.Outlook(**asdict(self.projection), status=status, **figures)  # pyright: ignore[reportArgumentType]  checked there

    @cached_property
    def us_rows(self) -> dict[str, dict[str, Any]]:
        """BLS figures by code, as dicts; None where missing."""
        return {} if self.us is None else {row["code"]: row for row in records(self.us)}

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores by O*NET-SOC code, as dicts."""
        none = dict.fromkeys(MEASURES) | {"tasks": 0, "listed": 0, "coverage": 0.0}
        return {code: self.table.occupation_rows.get(code, none) for code in self.table.occupation_titles}

    @cached_property
    def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """Tasks by O*NET-SOC code, most important first, unrated last."""
        columns = ["task_id", "onet_soc_code", "text", "task_type", "importance", "strict", "with_tools"]
        tasks_by_code: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(records(self.table.task_values[columns]), key=_by_importance):
            tasks_by_code.setdefault(row["onet_soc_code"], []).append(row)
        return tasks_by_code


def _by_importance(task: Mapping[str, Any]) -> tuple[float, bool]:
    return -(task["importance"] or 0.0), task["task_type"] != "Core"


class FamilyFigures:
    """The figures of one family.

    Args:
        inputs: The data behind all pages.
        codes: Its O*NET-SOC codes, at least one, all in the table.
    """

    def __init__(self, inputs: FamilyData, codes: Sequence[str]) -> None:
        self._data = inputs
        jobs = {code: self._own_part(code, "employment_us", "wage_shared_by") for code in codes}
        self._jobs = {code: count for code, count in jobs.items() if count is not None}
        # Largest first, so that tables and lists start with the most common occupation.
        self.codes = sorted(codes, key=lambda code: (-self._jobs.get(code, 0.0), code))

    def _own_part(self, code: str, figure: str, shared_by: str) -> float | None:
        """A published figure divided by the number of O*NET-SOC codes that it covers; None if it is missing."""
        row = self._data.us_rows.get(code)
        if row is None or row[figure] is None:
            return None
        return row[figure] / row[shared_by]

    @cached_property
    def _weights(self) -> dict[str, float]:
        return self._jobs or dict.fromkeys(self.codes, 1.0)

    @cached_property
    def _weighting(self) -> str:
        if not self._jobs:
            return "occupations have equal weight, because their US jobs are unknown"
        return f"occupations are weighted by US jobs (OEWS, {self._data.wages[0].period})"

    def _mean(self, values: Mapping[str, float]) -> float | None:
        """Weighted mean over occupations with a value; None if they have less than `MIN_COVERAGE` of the weight."""
        have = {code: weight for code, weight in self._weights.items() if code in values}
        if not have or sum(have.values()) < MIN_COVERAGE * sum(self._weights.values()):
            return None
        return math.fsum(weight * values[code] for code, weight in have.items()) / math.fsum(have.values())

    @cached_property
    def _scored(self) -> set[str]:
        """Codes with enough labels to interpret their scores."""
        scores = self._data.scores
        return {code for code in self.codes if scores[code]["tasks"] > 0 and is_covered(scores[code]["coverage"])}

    def exposure(self) -> pages.FamilyExposure:
        """Share of exposed tasks under both readings."""
        shares: dict[str, float | None] = {}
        for reading, measure in READING_MEASURES.items():
            values = {code: self._data.scores[code][measure] for code in self._scored}
            shares[reading] = self._mean({code: value for code, value in values.items() if value is not None})
        counted = [code for code in self.codes if code in self._scored and code in self._weights]
        notes = [f"mean over {len(counted)} of {len(self.codes)} occupations; {self._weighting}"]
        if without := [code for code in self.codes if code not in self._scored]:
            notes.append(f"left out for lack of labels: {listed_names(without, _MAX_NAMED)}")
        if without := [code for code in self.codes if code not in self._weights]:
            notes.append(f"without known jobs, and so without weight: {listed_names(without, _MAX_NAMED)}")
        if self._scored and shares["strict"] is None and shares["with_tools"] is None:
            notes.append("no mean, because the labelled occupations hold less than half of the family")
        notes += [f"no {m}: {reason}" for m, reason in self._data.table.missing_measures.items() if m != "beta"]
        return pages.FamilyExposure(**shares, occupations=len(counted), words="; ".join(notes))

    def outlook(self) -> pages.Outlook:
        """Projected employment, summed over the occupations."""
        columns = {
            "start": f"projected_employment_{self._data.projection.start}",
            "end": f"projected_employment_{self._data.projection.end}",
            "openings": "projected_openings_a_year",
        }
        parts = {
            name: {c: self._own_part(c, column, "projection_shared_by") for c in self.codes}
            for name, column in columns.items()
        }
        have = [c for c in self.codes if parts["start"][c] is not None and parts["end"][c] is not None]
        sums = {name: math.fsum(values[c] or 0.0 for c in have) for name, values in parts.items()}
        if not have or sums["start"] == 0:
            reason = "the sample is invented" if self._data.table.sample else "the BLS projects none of its occupations"
            return self._data.outlook(f"no projection, because {reason}")
        words = f"sum over {len(have)} of {len(self.codes)} occupations (BLS; {_SPLIT})"
        if without := [code for code in self.codes if code not in have]:
            words += f"; not projected: {listed_names(without, _MAX_NAMED)}"
        return self._data.outlook(
            words,
            employment_start=round(sums["start"]),
            employment_end=round(sums["end"]),
            change_percent=100 * (sums["end"] / sums["start"] - 1),
            openings_a_year=round(sums["openings"]),
        )

    def pay(self) -> tuple[pages.FamilyPay, ...]:
        """Pay by release, latest first."""
        return tuple(self._pay(release.source, release.period, release.suffix) for release in self._data.wages)

    def _pay(self, source: str, period: str, suffix: str) -> pages.FamilyPay:
        jobs, shared = f"employment_us{suffix}", f"wage_shared_by{suffix}"
        counted = {c: count for c in self.codes if (count := self._own_part(c, jobs, shared))}
        weighted: dict[str, float | None] = {}
        for rate in _PERCENTILES:
            wages = {c: row[f"{rate}_wage_usd{suffix}"] for c in counted if (row := self._data.us_rows[c])}
            # Capped figures are missing, which would bias a mean downwards: require the figure of every occupation.
            whole = bool(wages) and all(value is not None for value in wages.values())
            total = math.fsum(counted.values())
            weighted[rate] = math.fsum(counted[c] * v for c, v in wages.items()) / total if whole else None
        medians = [m for c in counted if (m := self._data.us_rows[c][f"median_wage_usd{suffix}"]) is not None]
        capped = [c for c in counted if "median" in (self._data.us_rows[c][f"capped_wages{suffix}"] or "").split()]
        without = [c for c in self.codes if c not in counted]
        notes = [f"medians of {len(medians)} of {len(self.codes)} occupations (OEWS, {period})"]
        if any(weighted[rate] is not None for rate in _PERCENTILES):
            notes.append(f"means weighted by jobs; {_SPLIT}; a mean of medians is not the median of the family")
        if capped:
            notes.append(f"median published only as a lower bound: {listed_names(capped, _MAX_NAMED)}")
        if gaps := [rate for rate in _PERCENTILES if weighted[rate] is None and counted]:
            notes.append(f"no mean of {', '.join(gaps)}, because an occupation lacks it")
        if without:
            notes.append(
                "no figures, because the sample is invented"
                if self._data.table.sample
                else f"no jobs: {listed_names(without, _MAX_NAMED)}"
            )
        return pages.FamilyPay(
            period=period,
            source=source,
            employment=round(math.fsum(counted.values())) if counted else None,
            lowest_median=min(medians, default=None),
            # A capped median is above all known ones, so the highest is unknown.
            highest_median=None if capped else max(medians, default=None),
            weighted=weighted,
            words="; ".join(notes),
        )

    def preparation(self) -> pages.FamilyPreparation:
        """Typical preparation by share of projected employment, or unweighted if no occupation has a projection."""
        start = f"projected_employment_{self._data.projection.start}"
        jobs = {c: self._own_part(c, start, "projection_shared_by") for c in self.codes}
        weights = {c: count for c, count in jobs.items() if count} or dict.fromkeys(self.codes, 1.0)
        rows = self._data.us_rows
        return pages.FamilyPreparation(
            **{need: _level_shares(weights, {c: rows[c][need] for c in weights if c in rows}) for need in _NEEDS},
            job_zones=_level_shares(
                weights, {c: f"Job zone {self._data.job_zones[c]}" for c in weights if c in self._data.job_zones}
            ),
        )

    def epoch(self) -> tuple[pages.EpochScore | None, str]:
        """Ratings of human advantage, or None with the reason."""
        ratings = self._data.ratings
        if ratings is None:
            return None, "the occupations are not rated yet (rate them with `relabel careers rate`)"
        rated = {code: ratings[code] for code in self.codes if code in ratings}
        if not rated:
            return None, f"none of its {len(self.codes)} occupations is rated"
        means: dict[str, float] = {}
        for name in next(iter(rated.values())):
            mean = self._mean({code: by_dimension[name] for code, by_dimension in rated.items()})
            if mean is None:
                reason = f"only {len(rated)} of its {len(self.codes)} occupations are rated, less than half of its jobs"
                return None, reason
            means[name] = mean
        note = f"mean over {len(rated)} of {len(self.codes)} occupations; {self._weighting}"
        return _epoch(means, len(rated), note), ""

    def responsibilities(self) -> tuple[pages.Responsibility, ...]:
        """The most important tasks, taken from the occupations in turn, largest occupation first, without duplicates."""
        turns = itertools.zip_longest(*(self._data.tasks.get(code, []) for code in self.codes))
        chosen: dict[str, dict[str, Any]] = {}
        for task in itertools.chain.from_iterable(turns):
            if task is not None and len(chosen) < RESPONSIBILITIES:
                chosen.setdefault(task["text"], task)
        return tuple(
            pages.Responsibility(
                **{name: task[name] for name in ("task_id", "onet_soc_code", "text", "importance")},
                title=self._data.table.occupation_titles[task["onet_soc_code"]],
                strict=READING_LABELS.get(task["strict"]),
                with_tools=READING_LABELS.get(task["with_tools"]),
                request_keys=self._data.request_keys.get((task["onet_soc_code"], task["task_id"]), ()),
            )
            for task in sorted(chosen.values(), key=_by_importance)
        )

    def roles(self) -> tuple[pages.Role, ...]:
        """The occupations, largest first."""
        total = math.fsum(weight for code, weight in self._weights.items() if code in self._scored)
        return tuple(self._role(code, total) for code in self.codes)

    def _role(self, code: str, total: float) -> pages.Role:
        score, row, rated = self._data.scores[code], self._data.us_rows.get(code), (self._data.ratings or {}).get(code)
        outlook = self._data.outlook("no projection, because the sample is invented")
        if row is not None:
            outlook = self._data.outlook(
                row["projection_status"],
                employment_start=row[f"projected_employment_{outlook.start}"],
                employment_end=row[f"projected_employment_{outlook.end}"],
                change_percent=row["projected_change_percent"],
                openings_a_year=row["projected_openings_a_year"],
            )
        counts = code in self._scored and code in self._weights and total
        return pages.Role(
            onet_soc_code=code,
            title=self._data.table.occupation_titles[code],
            soc2018=code[:7],
            strict=score["alpha"],
            with_tools=score["gamma"],
            tasks=score["tasks"],
            coverage=score["coverage"],
            share=self._weights[code] / total if counts else None,
            pay=() if row is None else tuple(_wages(row, r.source, r.period, r.suffix) for r in self._data.wages),
            outlook=outlook,
            preparation=pages.Preparation(
                **{need: None if row is None else row[need] for need in _NEEDS},
                job_zone=self._data.job_zones.get(code),
            ),
            epoch=None if rated is None else _epoch(rated, 1, f"its own ratings, of {HIGHEST}"),
        )


def _epoch(ratings: Mapping[str, float], occupations: int, words: str) -> pages.EpochScore:
    dimensions = {name: value for name, value in ratings.items() if name != TOTAL}
    return pages.EpochScore(dimensions=dimensions, total=ratings[TOTAL], occupations=occupations, words=words)


def _wages(row: Mapping[str, Any], source: str, period: str, suffix: str) -> pages.Wages:
    capped, cap = (row[f"capped_wages{suffix}"] or "").split(), row[f"wage_cap_usd{suffix}"]
    return pages.Wages(
        period=period,
        source=source,
        employment=row[f"employment_us{suffix}"],
        **{rate: row[f"{rate}_wage_usd{suffix}"] for rate in RATES},
        floor={} if cap is None else dict.fromkeys(capped, cap),
        status=row[f"wage_status{suffix}"],
    )


def _level_shares(weights: Mapping[str, float], levels: Mapping[str, str | None]) -> tuple[pages.Level, ...]:
    level_by_code = {code: level for code, level in levels.items() if level is not None}
    total = math.fsum(weights[code] for code in level_by_code)
    sums: dict[str, float] = {}
    for code, level in level_by_code.items():
        sums[level] = sums.get(level, 0.0) + weights[code] / total
    return tuple(
        pages.Level(level=level, share=share)
        for level, share in sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    )


def family_pages(
    table: ScoreTable,
    run: Run,
    epoch_run: Run | None = None,
    *,
    families: Sequence[pages.Family] | None = None,
    cuts: pages.CutPoints | None = None,
) -> list[pages.FamilyPage]:
    """Build the pages of job families.

    Args:
        table: A score table of any taxonomy; only its scores by O*NET-SOC code are used.
        run: The run behind the table, used to link tasks to answers.
        epoch_run: A run that rates occupations by the rubric `epoch`; without it, human advantage is missing.
        families: The families; by default the built-in ones.
        cuts: Cut-points of resilience; by default the built-in ones.

    Returns:
        A page for each family with an occupation in the table, in the order of the families.

    Raises:
        UsageError: `epoch_run` rates no occupations, or only one of table and `epoch_run` is of the sample, or the table
            is not based on O*NET-SOC codes.
        DataError: A source file cannot be obtained.
    """
    if table.has_own_codes:
        raise UsageError(
            f"job families are groups of O*NET-SOC codes, and the codes of {table.tasks} are of another classification"
        )
    chosen = pages.load_families() if families is None else families
    cuts = cuts or pages.load_cut_points()
    if epoch_run is not None and (epoch_run.manifest.tasks == "sample") != table.sample:
        raise UsageError(
            f"the run {epoch_run.ref} rates {epoch_run.manifest.tasks} and the scores are of {table.tasks}: the built-in "
            "sample cannot be mixed with other lists; use another --epoch"
        )
    # Codes without tasks are included: they have jobs, too, and share published figures with other codes, as in a score table.
    codes = sorted(table.occupation_titles)
    members = {family.id: family.members(codes) for family in chosen}
    with_tasks = set(table.occupations.index)
    members = {name: own for name, own in members.items() if with_tasks & set(own)}
    source = load_registry().get(table.tasks)
    release = table.tasks if source is not None and all(source.find_role(role) for role in _ONET_ROLES) else _RELEASE
    # The sample's tasks are invented, so published figures about real occupations do not apply to them.
    real = not table.sample
    zones = onet.read_job_zones(release) if real else None
    inputs = FamilyData(
        table=table,
        us=us_figures(codes) if real else None,
        ratings=None if epoch_run is None else occupation_ratings(epoch_run).to_dict("index"),  # pyright: ignore[reportArgumentType]  codes are text
        job_zones={} if zones is None else dict(zip(zones["onet_soc_code"], map(int, zones["job_zone"]), strict=True)),
        request_keys={
            task: tuple(dict.fromkeys(answer["request_key"] for answer in answers if answer["request_key"] is not None))
            for task, answers in answers_by_task(run, set(itertools.chain.from_iterable(members.values()))).items()
        },
    )
    related = _related_pages(chosen, members, table, release) if real else {}
    uses = (*table.sources, *_sources(release, epoch_run, real=real))
    return [
        _page(family, FamilyFigures(inputs, members[family.id]), table, epoch_run, cuts, related, uses)
        for family in chosen
        if family.id in members
    ]


def _page(
    family: pages.Family,
    figures: FamilyFigures,
    table: ScoreTable,
    epoch_run: Run | None,
    cuts: pages.CutPoints,
    related: Mapping[str, tuple[tuple[pages.Related, ...], tuple[pages.Related, ...]]],
    sources: tuple[SourceUse, ...],
) -> pages.FamilyPage:
    exposure, outlook = figures.exposure(), figures.outlook()
    epoch, no_epoch = figures.epoch()
    near, careers = related.get(family.id, ((), ()))
    score = pages.resilience(
        cuts,
        exposure=exposure.strict if cuts.low_exposure.reading == "strict" else exposure.with_tools,
        change_percent=outlook.change_percent,
        ratings=None if epoch is None else epoch.total,
        span=f"from {outlook.start} to {outlook.end}",
        why_missing={"low-exposure": exposure.words, "growing-demand": outlook.status, "human-advantage": no_epoch},
    )
    return pages.FamilyPage(
        **family.model_dump(exclude={"codes"}),
        **{name: getattr(table, name) for name in ("run", "model", "tasks", "sample", "partial", "note")},
        epoch_run=None if epoch_run is None else epoch_run.name,
        exposure=exposure,
        outlook=outlook,
        pay=figures.pay(),
        preparation=figures.preparation(),
        epoch=epoch,
        resilience=score,
        responsibilities=figures.responsibilities(),
        roles=figures.roles(),
        related_families=near,
        related_careers=careers,
        sources=sources,
    )


def _related_pages(
    families: Sequence[pages.Family], members: Mapping[str, Sequence[str]], table: ScoreTable, release: str
) -> dict[str, tuple[tuple[pages.Related, ...], tuple[pages.Related, ...]]]:
    """For each family, the most similar other families, and the most similar occupations outside it."""
    titles = table.occupation_titles
    codes = [str(code) for code in table.occupations.index]
    groups = {family.id: members[family.id] for family in families if family.id in members}
    occupations = {code: [code] for code in codes}
    cosines = activity_similarity(groups, {**groups, **occupations}, onet.read_dwas(release))
    alike = cast("dict[str, dict[str, float]]", cosines.to_dict("index"))
    names = {family.id: family.name for family in families} | {code: titles[code] for code in codes}

    def nearest(family: str, among: Sequence[str], most: int) -> tuple[pages.Related, ...]:
        near = [name for name in among if alike[family][name] >= MIN_SIMILARITY]
        near.sort(key=lambda name: (-alike[family][name], name))
        return tuple(pages.Related(id=name, name=names[name], similarity=alike[family][name]) for name in near[:most])

    return {
        family: (
            nearest(family, [other for other in groups if other != family], RELATED_FAMILIES),
            nearest(family, sorted(set(codes).difference(own)), RELATED_CAREERS),
        )
        for family, own in groups.items()
    }


def _sources(release: str, epoch_run: Run | None, *, real: bool) -> list[SourceUse]:
    uses = list(epoch_run.manifest.sources) if epoch_run is not None else []
    if real:
        uses += [source_use(*file) for file in us_files()]
        uses += [source_use(release, role) for role in _ONET_ROLES]
    return uses


def activity_similarity(
    groups: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], activities: pd.DataFrame
) -> pd.DataFrame:
    """Cosine similarity between groups of occupations, by the work activities of their tasks.

    An occupation is a unit vector over O*NET's detailed work activities: the number of its tasks with each activity, times
    the activity's inverse document frequency among occupations (TF-IDF). A group is the mean of its occupations.

    Args:
        groups: O*NET-SOC codes by name of the group; the rows.
        others: O*NET-SOC codes by name of the group; the columns.
        activities: Columns `onet_soc_code, dwa_id`, one row per task and activity.

    Returns:
        Cosines, 0-1; 0 for a group without activities.
    """
    counts = activities.value_counts(["onet_soc_code", "dwa_id"]).unstack(fill_value=0)
    vectors = _normalise((counts * np.log(len(counts) / (counts > 0).sum())).to_numpy())
    place = {str(code): row for row, code in enumerate(counts.index)}

    def means(named: Mapping[str, Sequence[str]]) -> np.ndarray:
        rows = [[place[code] for code in codes if code in place] for codes in named.values()]
        centroids = [vectors[row].mean(axis=0) if row else np.zeros(vectors.shape[1]) for row in rows]
        return _normalise(np.array(centroids).reshape(len(named), vectors.shape[1]))

    cosine = np.clip(means(groups) @ means(others).T, 0.0, 1.0)
    return pd.DataFrame(cosine, index=list(groups), columns=list(others))


def _normalise(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
