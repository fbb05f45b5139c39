"""Holding a run against a gold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from relabel.evaluation import bootstrap, metrics
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.document import (
    SCALES,
    Coherence,
    EvalDocument,
    IntervalMethod,
    MajorityClass,
    MeasureAgreement,
    OccupationAgreement,
    Occupations,
    SettingMetrics,
    SettingName,
    Sources,
    Yardsticks,
)
from relabel.evaluation.gold import Gold
from relabel.evaluation.matching import COLUMNS, Match, asked, match, text_changed
from relabel.evaluation.verdict import verdict
from relabel.rubric import MEASURES, Measure, Rubric
from relabel.run import Run, measures_of

_NEEDS: Mapping[Measure, SettingName] = {"alpha": "strict", "beta": "three-way", "gamma": "with-tools"}


def evaluate(run: Run, gold: Gold, *, draws: int = bootstrap.DRAWS, seed: int = 0) -> EvalDocument:
    """Hold a run against a gold.

    Args:
        run: The run; of several samples of a task the most frequent label counts.
        gold: The gold, taken as the truth.
        draws: Bootstrap draws behind the intervals; 0 leaves the intervals out.
        seed: Seed of the draws.

    Returns:
        The eval document: shares on 0-1, unrounded.

    Raises:
        DataError: Run and gold share no task, no setting or no label.
    """
    matched = match(run, gold)
    drawn = occupation_draws(matched.table["onet_soc_code"].to_numpy(), draws, seed) if draws else None
    settings: dict[SettingName, SettingMetrics] = {
        s: _setting_metrics(matched.table, s, drawn) for s in matched.settings
    }
    majority: dict[SettingName, MajorityClass] = {
        s: _majority(found, matched.table, s, drawn) for s, found in settings.items() if found.n
    }
    by_measure = _task_values(matched.table, run.rubric)
    values: dict[Measure, pd.DataFrame] = {m: by_measure[m] for m in MEASURES if _NEEDS[m] in settings}
    total, unanswered = asked(run)
    is_gold = run.folder is None and run.ref == gold.name
    return EvalDocument(
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        matched=len(matched.table),
        unmatched=matched.unmatched,
        asked=total,
        unanswered=unanswered,
        text_changed=text_changed(run, gold, matched.table),
        settings=settings,
        measures={m: _measure_agreement(v, drawn) for m, v in values.items()},
        occupations=_occupations(matched, values, drawn),
        coherence=_coherence(run),
        yardsticks=Yardsticks(majority=majority),
        model=run.manifest.model,
        intervals=None if drawn is None else _interval_method(drawn),
        sources=Sources(run=run.manifest.sources, gold=(gold.source,)),
        verdict=verdict(
            settings,
            majority,
            model=run.manifest.model,
            is_gold=is_gold,
            unanswered={s: count / total for s, count in unanswered.items() if count},
        ),
    )


def _interval_method(drawn: Draws) -> IntervalMethod:
    units = drawn.occupations
    few = (
        f"the tasks belong to {units} occupations only; below {bootstrap.FEWEST_OCCUPATIONS} no interval can be trusted"
    )
    return IntervalMethod(
        draws=len(drawn.counts),
        seed=drawn.seed,
        units=units,
        note=few if units < bootstrap.FEWEST_OCCUPATIONS else None,
    )


def _setting_metrics(table: pd.DataFrame, setting: SettingName, drawn: Draws | None) -> SettingMetrics:
    scale = SCALES[setting]
    sides = _sides(table, setting)
    pairs = metrics.pairs(sides["gold"].to_numpy(), sides["run"].to_numpy(), scale)
    of = None if drawn is None else drawn.of(sides.index)
    return metrics.setting_metrics(
        pairs.sum(axis=0),
        scale,
        drawn=None if of is None else of.sum(pairs),
        occupations=None if of is None else of.occupations,
    )


def _sides(table: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """Labels of tasks that both sides have one for, columns `gold` and `run`, index of the table."""
    scale = SCALES[setting]
    sides = table[[f"{COLUMNS[setting]}_gold", f"{COLUMNS[setting]}_run"]].set_axis(["gold", "run"], axis=1).dropna()
    if setting == "three-way":
        return sides
    return sides.apply(lambda side: side.map({False: scale[0], True: scale[1]}))


def _majority(found: SettingMetrics, table: pd.DataFrame, setting: SettingName, drawn: Draws | None) -> MajorityClass:
    label = max(found.prevalence.gold, key=lambda name: found.prevalence.gold[name])
    share = found.prevalence.gold[label]
    sides = _sides(table, setting)
    # Paired by task: where both are right or both wrong, the task says nothing about the difference.
    ahead = (sides["run"] == sides["gold"]).to_numpy().astype(float) - (sides["gold"] == label).to_numpy().astype(float)
    return MajorityClass(
        label=label,
        accuracy=share,
        kappa=None if share == 1 else 0.0,
        difference=float(ahead.mean()),
        difference_se=metrics.clustered_se(ahead, table.loc[sides.index, "onet_soc_code"].to_numpy()),
        ci95=_intervals(drawn, sides.index, lambda of: {"difference": bootstrap.means(of, ahead)}),
    )


def _task_values(table: pd.DataFrame, rubric: Rubric) -> dict[Measure, pd.DataFrame]:
    """Values of tasks known on both sides by measure, columns `run` and `gold`, index of the table.

    Both sides take the values that the run's rubric gives to codes.
    """
    sides = {
        side: measures_of(
            rubric, table[[f"strict_{side}", f"with_tools_{side}"]].set_axis(["strict", "with_tools"], axis=1)
        )
        for side in ("run", "gold")
    }
    return {m: pd.DataFrame({side: values[m] for side, values in sides.items()}).dropna() for m in MEASURES}


def _measure_agreement(values: pd.DataFrame, drawn: Draws | None) -> MeasureAgreement:
    if values.empty:
        return MeasureAgreement(agreement=None, pearson=None, mean=None, gold_mean=None)
    run, gold = values["run"].to_numpy(), values["gold"].to_numpy()
    columns = {"agreement": run == gold, "mean": run, "gold_mean": gold, "difference": run - gold}
    stacked = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)

    def samples(of: Draws) -> dict[str, bootstrap.Array]:
        by_name = dict(zip(columns, bootstrap.means(of, stacked).T, strict=True))
        return by_name | {"pearson": bootstrap.pearson(of, run, gold)}

    found = dict(zip(columns, stacked.mean(axis=0), strict=True))
    return MeasureAgreement(
        agreement=float(found["agreement"]),
        pearson=metrics.pearson(run, gold),
        mean=float(found["mean"]),
        gold_mean=float(found["gold_mean"]),
        difference=float(found["difference"]),
        ci95=_intervals(drawn, values.index, samples),
    )


def _occupations(matched: Match, values: Mapping[Measure, pd.DataFrame], drawn: Draws | None) -> Occupations:
    found: dict[Measure, OccupationAgreement] = {}
    for measure, tasks in values.items():
        codes = matched.table.loc[tasks.index, "onet_soc_code"]
        means = tasks.groupby(codes).mean()
        run, gold = means["run"].to_numpy(), means["gold"].to_numpy()
        ranks = means.rank()

        def samples(of: Draws, run: metrics.Values = run, gold: metrics.Values = gold) -> dict[str, bootstrap.Array]:
            # Occupations that a measure knows nothing of drop out; the codes of the rest are sorted as in `means`.
            counts = of.counts[:, np.unique(of.place)]
            return {
                "pearson": bootstrap.occupation_pearson(counts, run, gold),
                "spearman": bootstrap.occupation_spearman(counts, run, gold),
                "mean_abs_difference": counts @ np.abs(run - gold) / counts.sum(axis=1),
            }

        found[measure] = OccupationAgreement(
            pearson=metrics.pearson(run, gold),
            spearman=metrics.pearson(ranks["run"].to_numpy(), ranks["gold"].to_numpy()),
            mean_abs_difference=float(np.abs(run - gold).mean()) if len(means) else None,
            ci95=_intervals(drawn, tasks.index, samples),
        )
    return Occupations(
        n=int(matched.table["onet_soc_code"].nunique()),
        alpha=found.get("alpha"),
        beta=found.get("beta"),
        gamma=found.get("gamma"),
    )


def _intervals(
    drawn: Draws | None, tasks: pd.Index, samples: Callable[[Draws], Mapping[str, bootstrap.Array]]
) -> dict[str, tuple[float, float] | None]:
    """Intervals of what some tasks give in each draw; none without draws or tasks."""
    if drawn is None or tasks.empty:
        return {}
    of = drawn.of(tasks)
    return {name: bootstrap.interval(x, occupations=of.occupations) for name, x in samples(of).items()}


def _coherence(run: Run) -> Coherence:
    if run.rubric.incoherent is None:
        return Coherence(incoherent=0, of=0)
    coded = run.coded()
    both = coded["strict"].notna() & coded["with_tools"].notna()
    return Coherence(incoherent=int((coded["incoherent"] & both).sum()), of=int(both.sum()))
