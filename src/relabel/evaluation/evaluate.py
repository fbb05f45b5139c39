"""Holding a run against a gold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from relabel.evaluation import metrics
from relabel.evaluation.document import (
    SCALES,
    Coherence,
    EvalDocument,
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
from relabel.evaluation.matching import COLUMNS, Match, match
from relabel.evaluation.verdict import verdict
from relabel.rubric import MEASURES, Measure
from relabel.run import Run

_NEEDS: Mapping[Measure, SettingName] = {"alpha": "strict", "beta": "three-way", "gamma": "with-tools"}


def evaluate(run: Run, gold: Gold) -> EvalDocument:
    """Hold a run against a gold.

    Args:
        run: The run; of several samples of a task the most frequent label counts.
        gold: The gold, taken as the truth.

    Returns:
        The eval document: shares on 0-1, unrounded.

    Raises:
        DataError: Run and gold share no task, no setting or no label.
    """
    matched = match(run, gold)
    settings: dict[SettingName, SettingMetrics] = {s: _setting_metrics(matched.table, s) for s in matched.settings}
    majority: dict[SettingName, MajorityClass] = {s: _majority(found) for s, found in settings.items() if found.n}
    values: dict[Measure, pd.DataFrame] = {m: _task_values(matched.table, m) for m in MEASURES if _NEEDS[m] in settings}
    is_gold = run.folder is None and run.ref == gold.name
    return EvalDocument(
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        matched=len(matched.table),
        unmatched=matched.unmatched,
        settings=settings,
        measures={m: _measure_agreement(v) for m, v in values.items()},
        occupations=_occupations(matched, values),
        coherence=_coherence(run),
        yardsticks=Yardsticks(majority=majority),
        sources=Sources(run=run.manifest.sources, gold=(gold.source,)),
        verdict=verdict(settings, majority, model=run.manifest.model, is_gold=is_gold),
    )


def _setting_metrics(table: pd.DataFrame, setting: SettingName) -> SettingMetrics:
    scale = SCALES[setting]
    sides = table[[f"{COLUMNS[setting]}_gold", f"{COLUMNS[setting]}_run"]].dropna()
    gold, run = (sides[column] for column in sides.columns)
    if setting != "three-way":
        gold, run = (side.map({False: scale[0], True: scale[1]}) for side in (gold, run))
    return metrics.setting_metrics(metrics.confusion_matrix(gold.to_numpy(), run.to_numpy(), scale), scale)


def _majority(found: SettingMetrics) -> MajorityClass:
    label = max(found.prevalence.gold, key=lambda name: found.prevalence.gold[name])
    share = found.prevalence.gold[label]
    return MajorityClass(label=label, accuracy=share, kappa=None if share == 1 else 0.0)


def _task_values(table: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Values (0, 0.5, 1) of tasks known on both sides, columns `run` and `gold`, index of the table.

    They are those of the published codes: strict exposure gives alpha, and since strict exposed means E1, an incoherent
    pair has gamma 1; beta is the mean of both.
    """
    sides: dict[str, pd.Series] = {}
    for side in ("run", "gold"):
        strict, with_tools = table[f"strict_{side}"], table[f"with_tools_{side}"]
        alpha = strict.astype("Float64")
        gamma = (with_tools | strict.fillna(False)).where(with_tools.notna()).astype("Float64")
        sides[side] = {"alpha": alpha, "beta": (alpha + gamma) / 2, "gamma": gamma}[measure]
    return pd.DataFrame(sides).dropna().astype("float64")


def _measure_agreement(values: pd.DataFrame) -> MeasureAgreement:
    if values.empty:
        return MeasureAgreement(agreement=None, pearson=None, mean=None, gold_mean=None)
    run, gold = values["run"].to_numpy(), values["gold"].to_numpy()
    return MeasureAgreement(
        agreement=float(np.mean(run == gold)),
        pearson=metrics.pearson(run, gold),
        mean=float(run.mean()),
        gold_mean=float(gold.mean()),
    )


def _occupations(matched: Match, values: Mapping[Measure, pd.DataFrame]) -> Occupations:
    found: dict[Measure, OccupationAgreement] = {}
    for measure, tasks in values.items():
        means = tasks.groupby(matched.table.loc[tasks.index, "onet_soc_code"]).mean()
        run, gold = means["run"].to_numpy(), means["gold"].to_numpy()
        ranks = means.rank()
        found[measure] = OccupationAgreement(
            pearson=metrics.pearson(run, gold),
            spearman=metrics.pearson(ranks["run"].to_numpy(), ranks["gold"].to_numpy()),
            mean_abs_difference=float(np.abs(run - gold).mean()) if len(means) else None,
        )
    return Occupations(
        n=int(matched.table["onet_soc_code"].nunique()),
        alpha=found.get("alpha"),
        beta=found.get("beta"),
        gamma=found.get("gamma"),
    )


def _coherence(run: Run) -> Coherence:
    if run.rubric.incoherent is None:
        return Coherence(incoherent=0, of=0)
    coded = run.coded()
    both = coded["strict"].notna() & coded["with_tools"].notna()
    return Coherence(incoherent=int((coded["incoherent"] & both).sum()), of=int(both.sum()))
