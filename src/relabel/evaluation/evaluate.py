"""Holding a run against a gold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import bootstrap, metrics
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.calibration import calibration
from relabel.evaluation.document import (
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
from relabel.evaluation.matching import asked, gold_list, is_at_hand, match, text_changed
from relabel.evaluation.ppi import debiased
from relabel.evaluation.sides import Sides, TaskValues, compare_measures, compare_setting, intervals
from relabel.evaluation.slices import slices, task_facts
from relabel.evaluation.verdict import verdict
from relabel.evaluation.yardsticks import consistency, majority_class, raters, self_agreement, text_classifier
from relabel.rubric import Measure
from relabel.run import Run
from relabel.task import task_table


def evaluate(
    run: Run, gold: Gold, *, draws: int = bootstrap.DRAWS, seed: int = 0, yardsticks: bool = True
) -> EvalDocument:
    """Hold a run against a gold.

    Args:
        run: The run; of several samples of a task the most frequent label counts.
        gold: The gold, taken as the truth.
        draws: Bootstrap draws behind the intervals; 0 leaves the intervals out.
        seed: Seed of the draws, and of the yardstick that is trained.
        yardsticks: False leaves out what is trained or read to hold the run against; the majority class stays.

    Returns:
        The eval document: shares on 0-1, unrounded.

    Raises:
        DataError: Run and gold share no task, no setting or no label; or the model was shown a task of the gold as a
            worked example.
    """
    refuse_worked_examples(run, gold)
    matched = match(run, gold)
    table, codes = matched.table, matched.table["onet_soc_code"].to_numpy()
    drawn = occupation_draws(codes, draws, seed) if draws else None
    compared: dict[SettingName, Sides] = {s: compare_setting(table, s, drawn) for s in matched.settings}
    values = compare_measures(table, run.rubric, compared, drawn)
    settings: dict[SettingName, SettingMetrics] = {s: _setting_metrics(side) for s, side in compared.items()}
    filled: dict[SettingName, Sides] = {s: side for s, side in compared.items() if len(side)}
    majority: dict[SettingName, MajorityClass] = {s: majority_class(side, codes) for s, side in filled.items()}
    facts = task_facts(run, gold, table)
    is_gold = run.folder is None and run.ref == gold.name
    if is_gold or not yardsticks:
        # Full agreement with itself is no achievement that another labelling could be held against.
        beside = Yardsticks(majority=majority)
    else:
        texts = facts["text"] if "text" in facts else pd.Series(None, index=table.index, dtype="str")
        beside = Yardsticks(
            majority=majority,
            text_classifier=text_classifier(run, gold, table, filled, seed=seed),
            raters=raters(run, gold, table, filled),
            consistency=consistency(texts, filled, draws=draws or None, seed=seed),
            self_agreement=self_agreement(run, draws=draws or None, seed=seed),
        )
    total, unanswered = asked(run)
    coherence = _coherence(run)
    return EvalDocument(
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        matched=len(table),
        unmatched=matched.unmatched,
        asked=total,
        unanswered=unanswered,
        text_changed=text_changed(run, gold, table),
        settings=settings,
        measures={m: _measure_agreement(v) for m, v in values.items()},
        occupations=_occupations(codes, values),
        coherence=coherence,
        yardsticks=beside,
        model=run.manifest.model,
        weighted=gold.weighted,
        selected=gold.selected,
        intervals=None if drawn is None else _interval_method(drawn),
        slices=slices(facts, filled, values),
        debiased=debiased(run, gold, table, matched.settings),
        calibration=calibration(run, table, matched.settings, draws=draws or None, seed=seed),
        sources=Sources(run=run.manifest.sources, gold=(gold.source,)),
        verdict=verdict(
            settings,
            beside.majority,
            model=run.manifest.model,
            is_gold=is_gold,
            unanswered={s: count / total for s, count in unanswered.items() if count},
            yardsticks=beside,
            coherence=coherence,
            selected=gold.selected,
        ),
    )


def refuse_worked_examples(run: Run, gold: Gold) -> None:
    """Make sure that no task of the gold is a worked example of the run's rubric: the model was shown its label.

    Tasks are compared by text, blanks, case and punctuation aside: that of the gold's file, or of the task list that its
    ids belong to.

    Raises:
        DataError: One is.
    """
    examples = {_plain(example.task) for example in run.rubric.examples if example.task}
    texts = gold.table["text"]
    name = gold_list(gold, run)
    if texts.isna().all() and is_at_hand(name):
        known = task_table(name)
        by_id = known.drop_duplicates("task_id").set_index("task_id")["text"]
        texts = gold.table["task_id"].map(by_id)
    shown = texts.dropna().map(_plain).isin(examples)
    if examples and shown.any():
        first = shown[shown].index[0]
        raise DataError(
            f"the task {gold.table['task_id'][first]!r} of the gold {gold.name} is a worked example of the rubric "
            f"{run.rubric.id}, so the model was shown its label; take it out of the gold, or label with another rubric"
        )


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


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


def _setting_metrics(side: Sides) -> SettingMetrics:
    pairs = side.pairs()
    weighted = side.weighted(pairs)
    return metrics.setting_metrics(
        pairs.sum(axis=0),
        side.scale,
        weighted=weighted.sum(axis=0),
        drawn=None if side.drawn is None else side.drawn.sum(weighted),
        occupations=None if side.drawn is None else side.drawn.occupations,
    )


def _measure_agreement(values: TaskValues) -> MeasureAgreement:
    if not len(values):
        return MeasureAgreement(agreement=None, pearson=None, mean=None, gold_mean=None)
    run, gold, weight = values.run, values.gold, values.weight
    columns = {"agreement": run == gold, "mean": run, "gold_mean": gold, "difference": run - gold}
    stacked = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)

    def samples(of: Draws) -> dict[str, bootstrap.Array]:
        by_name = dict(zip(columns, bootstrap.means(of, stacked, weight).T, strict=True))
        return by_name | {"pearson": bootstrap.pearson(of, run, gold, weight)}

    found = dict(zip(columns, np.average(stacked, axis=0, weights=weight), strict=True))
    return MeasureAgreement(
        agreement=float(found["agreement"]),
        pearson=metrics.pearson(run, gold, weight),
        mean=float(found["mean"]),
        gold_mean=float(found["gold_mean"]),
        difference=float(found["difference"]),
        ci95=intervals(values.drawn, samples),
    )


def _occupations(codes: metrics.Codes, values: Mapping[Measure, TaskValues]) -> Occupations:
    found = {measure: _occupation_agreement(codes[side.tasks], side) for measure, side in values.items()}
    return Occupations(
        n=len(np.unique(codes)), alpha=found.get("alpha"), beta=found.get("beta"), gamma=found.get("gamma")
    )


def _occupation_agreement(codes: metrics.Codes, values: TaskValues) -> OccupationAgreement:
    means = pd.DataFrame({"run": values.run, "gold": values.gold}).groupby(codes).mean()
    run, gold = means["run"].to_numpy(), means["gold"].to_numpy()
    ranks = means.rank()

    def samples(of: Draws) -> dict[str, bootstrap.Array]:
        # Occupations that a measure knows nothing of drop out; the codes of the rest are sorted as in `means`.
        counts = of.counts[:, np.unique(of.place)]
        return {
            "pearson": bootstrap.occupation_pearson(counts, run, gold),
            "spearman": bootstrap.occupation_spearman(counts, run, gold),
            "mean_abs_difference": counts @ np.abs(run - gold) / counts.sum(axis=1),
        }

    return OccupationAgreement(
        pearson=metrics.pearson(run, gold),
        spearman=metrics.pearson(ranks["run"].to_numpy(), ranks["gold"].to_numpy()),
        mean_abs_difference=float(np.abs(run - gold).mean()) if len(means) else None,
        ci95=intervals(values.drawn, samples),
    )


def _coherence(run: Run) -> Coherence:
    if run.rubric.incoherent is None:
        return Coherence(incoherent=0, of=0)
    coded = run.coded()
    both = coded["strict"].notna() & coded["with_tools"].notna()
    return Coherence(incoherent=int((coded["incoherent"] & both).sum()), of=int(both.sum()))
