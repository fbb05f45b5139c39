"""Multiverse analysis: the same scores under every combination of a researcher's choices.

A universe is one combination of choices: rater and rubric (a set of labels), task weights, the rule for tasks without a
rating, the bridge with its links, and whether "above one half" includes one half. All universes share a task list and a
source of pay.

First-order shares show which choice matters most: the variance of the mean outcome given the choice, as a share of the
total variance over universes. If choices are fully crossed, the shares sum to at most 1; interactions make up the rest.
Rater and rubric are seldom crossed (raters rarely answer every rubric), so their shares can overlap. The choice `labels`
combines the two, and its share overlaps with no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import UsageError
from relabel.rubric import MEASURES
from relabel.run import Run, open_run
from relabel.scoring.bridges import Bridge, make_bridge
from relabel.scoring.measures import Floats, occupation_scores, task_weights
from relabel.scoring.options import SAMPLE, UNWEIGHTED, Links, Method, Unrated, Weights
from relabel.scoring.table import ScoreTable, covered_parts, insert_columns, is_covered
from relabel.tabular import CLEAN, records

CHOICES = ("rater", "rubric", "weights", "unrated", "bridge", "comparison")
# Headline figures over the scored groups: means weighted by jobs (0-1), wage exposure (pounds a year), and the share of
# jobs (0-1) in groups with a score above one half. In taxonomies without pay, means are unweighted and the others are missing.
OUTCOMES = (
    *(f"mean_{measure}" for measure in MEASURES),
    *(f"wage_exposure_{measure}_gbp" for measure in MEASURES),
    *(f"jobs_above_half_{measure}" for measure in MEASURES),
)
_WEIGHTS: Sequence[Weights] = ("importance", "core", "equal")
_UNRATED: Sequence[Unrated] = ("mean", "one", "drop")
_BRIDGES: Sequence[tuple[Method, Links | None]] = (
    ("bridge", "index"),
    ("bridge", "equal"),
    ("bridge", "employment"),
    ("site-2026", None),
)
_COMPARISONS = {">": np.greater, ">=": np.greater_equal}
# Rater and rubric of the published label sets that answer the question of exposure.
_PUBLISHED = {
    "eloundou-2023:gpt4": ("GPT-4", "2023"),
    "eloundou-2023:gpt4-alt": ("GPT-4", "2023, alternative"),
    "eloundou-2023:human": ("human", "2023"),
}


@dataclass(frozen=True)
class Multiverse:
    """Scores and headline figures in all universes.

    Attributes:
        universes: One row per universe: `CHOICES`, `labels`, `scored` (groups scored, without thin ones) and
            `OUTCOMES`, which are over these groups, as in a score table.
        occupations: One row per code of the taxonomy: `code, title`, and for each measure `X` (the score of the table),
            `X_min, X_max` and `X_range` over universes (0-1; missing if no universe scores the code), `X_most` (the choice
            with the largest first-order share), and `scored_in` (share of universes that score the code, 0-1).
        effects: One row per outcome or measure and choice: `outcome, choice, first_order` (0-1; missing if the outcome
            never varies). For a measure, this is the mean share over groups, weighted by their variance.
        headline: One row per outcome: `outcome, chosen` (in the table's own universe), `min, max, most`.
        left_out: Choices that could not be included, with the reason.
    """

    universes: pd.DataFrame
    occupations: pd.DataFrame
    effects: pd.DataFrame
    headline: pd.DataFrame
    left_out: tuple[str, ...]


def default_raters(run: Run) -> list[Run]:
    """The default raters: the published label sets, except the run itself; none for a run on the sample."""
    return [] if run.manifest.tasks == SAMPLE else [open_run(ref) for ref in _PUBLISHED if ref != run.ref]


def multiverse(table: ScoreTable, run: Run, raters: Sequence[Run]) -> Multiverse:
    """Score under all combinations of choices.

    Scores are exact, including those of `site-2026`, whose tables are rounded. Under core and equal weights the rule for
    unrated tasks has no effect; these universes are included so that choices are fully crossed.

    Args:
        table: A score table of the run; its task list, taxonomy and pay are used throughout.
        run: The run.
        raters: Other runs or label sets on the same tasks.

    Returns:
        The multiverse.

    Raises:
        UsageError: A rater is given twice, or only one of rater and run labelled the sample.
        DataError: A rater labelled none of the tasks, or the files of a bridge cannot be obtained.
    """
    labelled = table.tasks_by_rater(run, raters)
    bridges, left_out = _bridges(table), list[str]()
    weights = list(_WEIGHTS)
    if table.task_values["importance"].isna().all():
        weights.remove("importance")
        left_out.append(f"importance weights: {table.tasks} has no importance ratings")
    scores: dict[tuple[str, Weights, Unrated, str], tuple[Floats, npt.NDArray[np.bool_]]] = {}
    rows: list[tuple[object, ...]] = []
    for rater, weight, rule, bridge in itertools.product((run, *raters), weights, _UNRATED, bridges):
        key = (rater.name, weight, rule if weight == "importance" else _UNRATED[0], bridge)
        if key not in scores:
            tasks = labelled[rater.name]
            tasks = tasks.assign(weight=task_weights(tasks, weight, unrated=key[2]))
            mapped = table.map_of(tasks, bridges[bridge])
            coverage = occupation_scores(tasks, mapped)["coverage"]
            covered, linked = covered_parts(bridges[bridge], mapped.codes, mapped.occupations, coverage)
            if bridge == "site-2026":  # judged as published, see `SCORES`
                covered = _safe_divide(covered, linked)
            scores[key] = mapped.scores(tasks), is_covered(covered)
        named = _PUBLISHED.get(rater.ref, (rater.manifest.model, f"{rater.rubric.id} {rater.rubric.version}"))
        rows.append((rater.name, *named, weight, rule, bridge, *scores[key]))
    base = pd.DataFrame(rows, columns=["labels", "rater", "rubric", "weights", "unrated", "bridge", "scores", "enough"])
    cube, enough = (np.stack(base.pop(name).tolist()) for name in ("scores", "enough"))
    universes = _universes(base, np.where(enough[:, None], cube, np.nan), table)
    effects = _effects(universes, base, cube)
    own = _is_own_universe(universes, table, run.name)
    return Multiverse(
        universes=universes,
        occupations=_occupations(table, base, cube),
        effects=effects,
        headline=_headline(universes, effects, own),
        left_out=tuple(left_out),
    )


def _bridge_name(method: Method, links: Links | None) -> str:
    return method if links is None else f"{method}, {links}"


def _bridges(table: ScoreTable) -> dict[str, Bridge]:
    """The bridges to the table's taxonomy by name, its own first."""
    bridges = {_bridge_name(table.method, table.links): table.bridge}
    if table.sample or table.taxonomy in UNWEIGHTED:
        return bridges  # there is only one bridge
    others = (which for which in _BRIDGES if _bridge_name(*which) not in bridges)
    return bridges | {_bridge_name(*which): _bridge(table, *which) for which in others}


def _bridge(table: ScoreTable, method: Method, links: Links | None) -> Bridge:
    titles = pd.DataFrame(sorted(table.occupation_titles.items()), columns=["onet_soc_code", "title"])
    return make_bridge(method, table.taxonomy, table.tasks, titles, links=links, donors=table.occupations.index)


_SPREAD_LINKS: Sequence[Links] = ("index", "employment", "equal", "split")


def with_spread(table: ScoreTable) -> ScoreTable:
    """Add to a score table the lowest and highest score of each group over bridges with different link weights.

    Args:
        table: A score table of the method `bridge` by UK SOC 2020 or ISCO-08. Its own bridge, public or the user's, is one
            of those compared.

    Returns:
        The table with `alpha_bridges_low, alpha_bridges_high` after `alpha`, and so on, and with `ScoreTable.spread`.

    Raises:
        UsageError: There is no other bridge.
    """
    if table.sample or table.method != "bridge" or table.taxonomy in UNWEIGHTED:
        raise UsageError(
            "--spread needs several bridges: give --method bridge and --taxonomy uk-soc2020 or isco08, or remove it"
        )
    bridges = {table.links or table.bridge.name: table.bridge} | {
        links: _bridge(table, "bridge", links) for links in _SPREAD_LINKS if links != table.links
    }
    parts: list[pd.DataFrame] = []
    for name, bridge in bridges.items():
        scores = table.map_of(table.task_values, bridge).scores(table.task_values)
        parts.append(
            pd.DataFrame({"code": table.frame["code"], "bridge": name, **dict(zip(MEASURES, scores, strict=True))})
        )
    spread = pd.concat(parts, ignore_index=True)
    ends = spread.groupby("code", sort=False)[list(MEASURES)].agg(["min", "max"])
    added: dict[str, pd.Series] = {}
    for measure, (end, pick) in itertools.product(MEASURES, (("low", min), ("high", max))):
        own = table.frame[measure]
        # The score itself is one of those compared; floating-point noise must not put it outside the bounds.
        bound = table.frame["code"].map(ends[measure, pick.__name__]).where(own.notna())
        added[f"{measure}_bridges_{end}"] = bound.combine(own, pick)
    return replace(table, frame=insert_columns(table.frame, added), spread=spread)


def spread_summary(table: ScoreTable) -> pd.DataFrame:
    """How far scores under each other bridge differ from those of the table.

    Args:
        table: As `with_spread` returns it.

    Returns:
        Columns `bridge, measure, moved` (number of groups that differ by more than .1), `most` (the largest difference)
        and `code` (the group with that difference).
    """
    assert table.spread is not None
    scores = table.spread.pivot(index="code", columns="bridge", values=list(MEASURES))
    own, *others = table.spread["bridge"].unique()
    rows: list[dict[str, object]] = []
    for other, measure in itertools.product(others, MEASURES):
        gaps = (scores[measure, other] - scores[measure, own]).abs().dropna()
        if len(gaps):
            moved = int((gaps > 0.1).sum())
            rows.append(
                {"bridge": other, "measure": measure, "moved": moved, "most": gaps.max(), "code": gaps.idxmax()}
            )
    return pd.DataFrame(rows, columns=["bridge", "measure", "moved", "most", "code"])


def _universes(base: pd.DataFrame, cube: Floats, table: ScoreTable) -> pd.DataFrame:
    """One row per universe with its headline figures.

    Args:
        base: Choices except the comparison; one row per slice of the cube.
        cube: Scores, missing for groups that do not count as scored; universes x measures x groups.
        table: Provides jobs and pay.
    """
    jobs = table.frame["employees"].astype("float64").to_numpy()
    pay, given, filled = table.wage_bill.to_numpy(), ~np.isnan(cube), np.nan_to_num(cube)
    jobless = bool(np.isnan(jobs).all())
    weight = np.ones_like(jobs) if jobless else np.nan_to_num(jobs)
    mass = (given * weight).sum(axis=2)
    means = _safe_divide((filled * weight).sum(axis=2), mass)
    paid = given & ~np.isnan(pay)
    wages = np.where(paid.any(axis=2), (filled * np.nan_to_num(pay)).sum(axis=2), np.nan)
    parts: list[pd.DataFrame] = []
    for comparison, beyond in _COMPARISONS.items():
        above = ((beyond(filled.round(CLEAN), 0.5) & given) * weight).sum(axis=2)
        halves = np.full_like(mass, np.nan) if jobless else _safe_divide(above, mass)
        figures = zip(OUTCOMES, np.concatenate([means, wages, halves], axis=1).T, strict=True)
        parts.append(base.assign(scored=given.any(axis=1).sum(axis=1), comparison=comparison, **dict(figures)))
    return pd.concat(parts, ignore_index=True)[["labels", *CHOICES, "scored", *OUTCOMES]]


def _safe_divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _sums_of_squares(values: Floats, levels: pd.Series) -> tuple[Floats, Floats]:
    """Sum of squares between levels, and total; NaN is ignored.

    Args:
        values: Universes x anything.
        levels: The choice of each universe.
    """
    present = ~np.isnan(values)
    filled = np.nan_to_num(values)
    grand = _safe_divide(filled.sum(axis=0), present.sum(axis=0).astype("float64"))
    total = (np.where(present, values - grand, 0.0) ** 2).sum(axis=0)
    between = np.zeros_like(total)
    for level in levels.unique():
        in_level = (levels == level).to_numpy()
        count = present[in_level].sum(axis=0).astype("float64")
        mean = _safe_divide(filled[in_level].sum(axis=0), count)
        between += count * np.nan_to_num(mean - grand) ** 2
    return between, total


def _effects(universes: pd.DataFrame, base: pd.DataFrame, cube: Floats) -> pd.DataFrame:
    asked = [(outcome, universes[[outcome]].to_numpy(dtype="float64"), universes, CHOICES) for outcome in OUTCOMES]
    asked += [(measure, cube[:, number], base, CHOICES[:-1]) for number, measure in enumerate(MEASURES)]
    rows: list[dict[str, object]] = []
    for outcome, values, chosen, choices in asked:
        for choice in ("labels", *choices):
            between, total = (float(squares.sum()) for squares in _sums_of_squares(values, chosen[choice]))
            # Smaller variation is floating-point noise.
            part = between / total if total > 1e-18 else float("nan")
            rows.append({"outcome": outcome, "choice": choice, "first_order": part})
    return pd.DataFrame(rows)


def _occupations(table: ScoreTable, base: pd.DataFrame, cube: Floats) -> pd.DataFrame:
    frame = table.frame[["code", "title"]].reset_index(drop=True)
    scored = ~np.isnan(cube)
    for number, measure in enumerate(MEASURES):
        values = cube[:, number]
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # missing where no universe has a score
        frame[measure] = table.frame[measure].to_numpy()
        frame[f"{measure}_min"], frame[f"{measure}_max"], frame[f"{measure}_range"] = low, high, high - low
        between = np.stack([_sums_of_squares(values, base[choice])[0] for choice in CHOICES[:-1]])
        most = np.array(CHOICES[:-1])[between.argmax(axis=0)]
        frame[f"{measure}_most"] = pd.Series(np.where(between.max(axis=0) > 1e-18, most, ""), dtype="str")
    frame["scored_in"] = scored.any(axis=1).mean(axis=0)
    return frame


def _is_own_universe(universes: pd.DataFrame, table: ScoreTable, name: str) -> pd.Series:
    """Whether each universe has the choices of the table; its comparison is `>`."""
    own = {
        "labels": name,
        "weights": table.weights,
        "unrated": table.unrated or _UNRATED[0],
        "bridge": _bridge_name(table.method, table.links),
        "comparison": ">",
    }
    return (universes[list(own)] == pd.Series(own)).all(axis=1)


def _headline(universes: pd.DataFrame, effects: pd.DataFrame, own: pd.Series) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for outcome in OUTCOMES:
        values = universes[outcome]
        shares = effects[(effects["outcome"] == outcome) & effects["choice"].isin(CHOICES)].dropna()
        most = "" if shares.empty else str(shares.sort_values("first_order", ascending=False)["choice"].iloc[0])
        chosen = values[own].iloc[0] if own.any() else float("nan")
        rows.append({"outcome": outcome, "chosen": chosen, "min": values.min(), "max": values.max(), "most": most})
    return pd.DataFrame(rows)


def multiverse_document(multiverse: Multiverse) -> Mapping[str, object]:
    """The multiverse as a JSON document."""
    tables = {name: getattr(multiverse, name) for name in ("headline", "effects", "occupations", "universes")}
    return {name: records(frame) for name, frame in tables.items()} | {"left_out": list(multiverse.left_out)}
