"""What a run must beat, and how steady it is: figures of other ways to label the same tasks, beside the run's own.

Labels cost money. A run that does no better than always giving one answer, or than a word count trained on a few thousand
labels, adds nothing; one that agrees with the gold as people and GPT-4 agree with each other can hardly do better.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation import bootstrap, metrics
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.document import (
    Consistency,
    Intervals95,
    MajorityClass,
    PairAgreement,
    Raters,
    SelfAgreement,
    SettingName,
    TextClassifier,
    Yardstick,
)
from relabel.evaluation.gold import Gold, load_gold
from relabel.evaluation.matching import COLUMNS, gold_list, in_words, is_at_hand
from relabel.evaluation.sides import Places, Sides, intervals, one_hot
from relabel.run import Run
from relabel.task import TASK_KEY, task_table

FOLDS = 5
TRAINED_ON = 2000
"""Labels that the classifier is trained on: as many as a small study could afford, the same for every gold."""
FEWEST_TRAINED_ON = 200
"""Fewer labels give no classifier worth the name."""
RATERS = ("eloundou-2023:gpt4", "eloundou-2023:human")


def majority_class(side: Sides, codes: npt.ArrayLike) -> MajorityClass:
    """What always answering the gold's most frequent label would reach.

    Args:
        side: Labels of both sides, of at least one task.
        codes: Occupation of each matched task, in the order of the table of matched tasks.
    """
    shares = np.bincount(side.gold, weights=side.weight, minlength=len(side.scale)) / len(side)
    label = int(shares.argmax())
    # Paired by task: where both are right or both wrong, the task says nothing about the difference.
    ahead = side.weight * ((side.run == side.gold).astype(float) - (side.gold == label).astype(float))
    return MajorityClass(
        label=side.scale[label],
        accuracy=float(shares[label]),
        kappa=None if shares[label] == 1 else 0.0,
        difference=float(ahead.mean()),
        difference_se=metrics.clustered_se(ahead, np.asarray(codes)[side.tasks]),
        ci95=intervals(side.drawn, lambda of: {"difference": of.sum(ahead) / of.sum(side.weight)}),
    )


def yardstick(side: Sides, labels: Places, against: Places | None = None) -> Yardstick:
    """What other labels of the same tasks reach, and how far the run is ahead of them.

    Args:
        side: Labels of run and gold.
        labels: The other labels, as places on the scale, shape (n,).
        against: What they are held against, by default the gold; the run is always held against the gold.
    """
    run = side.weighted(side.pairs())
    other = side.weighted(one_hot(side.gold if against is None else against, labels, len(side.scale)))

    def figures(mine: bootstrap.Array, theirs: bootstrap.Array) -> dict[str, bootstrap.Array]:
        accuracy, kappa = metrics.accuracy(theirs), metrics.kappa(theirs)
        return {
            "accuracy": accuracy,
            "kappa": kappa,
            "accuracy_difference": metrics.accuracy(mine) - accuracy,
            "kappa_difference": metrics.kappa(mine) - kappa,
        }

    found = {name: metrics.known(x) for name, x in figures(run.sum(axis=0), other.sum(axis=0)).items()}
    ci95 = intervals(side.drawn, lambda of: figures(of.sum(run), of.sum(other)))
    return Yardstick(n=len(side), **found, ci95=ci95)


def text_classifier(
    run: Run, gold: Gold, table: pd.DataFrame, settings: Mapping[SettingName, Sides], *, seed: int = 0
) -> TextClassifier:
    """What a linear classifier (SVM) of TF-IDF weighted words reaches.

    It sees words and pairs of words of the task's statement and of its occupation's title. Occupations are put into groups
    at random; the tasks of each are labelled by a classifier that was trained on gold of other occupations. The gold may
    hold more tasks than the run: all of them may serve for training.

    Args:
        run: The run.
        gold: The gold.
        table: As `Match.table`.
        settings: Labels of both sides by setting.
        seed: Seed of groups and training sets.

    Returns:
        The yardstick; with a note and no figures where the texts are not at hand or the gold is too small.
    """
    nothing = TextClassifier(trained_on=0, folds=FOLDS, seed=seed, settings={})
    name = gold_list(gold, run)
    if not is_at_hand(name):
        return nothing.model_copy(update={"note": "the texts of the tasks are not at hand"})
    tasks = task_table(name).set_index(TASK_KEY)
    texts = (tasks["title"] + ": " + tasks["text"]).rename("text")
    pool = _with_codes(gold.table, table).merge(texts.reset_index(), on=TASK_KEY, suffixes=("_gold", ""))
    matched = texts.reindex(pd.MultiIndex.from_frame(table[TASK_KEY]))
    codes = sorted(set(pool["onet_soc_code"]) | set(table["onet_soc_code"]))
    if len(codes) < FOLDS or matched.isna().any():
        return nothing.model_copy(update={"note": f"the gold has fewer than {FOLDS} occupations with texts"})
    fold_of = dict(zip(np.random.default_rng(seed).permutation(codes), np.arange(len(codes)) % FOLDS, strict=True))
    pool, mine = pool.assign(fold=pool["onet_soc_code"].map(fold_of)), table["onet_soc_code"].map(fold_of).to_numpy()
    # The code settles both readings; apart, each would cost a training of its own and could contradict the others.
    asked: list[SettingName] = ["three-way"] if "three-way" in settings else list(settings)
    predicted = {s: _predict(_labelled(pool, s), matched.to_numpy(dtype=object), mine, seed) for s in asked}
    if (labels := predicted.get("three-way")) is not None:
        for setting, exposed in (("strict", ["E1"]), ("with-tools", ["E1", "E2"])):
            predicted[setting] = np.where(np.isin(labels, exposed), "exposed", "not-exposed")
    found: dict[SettingName, Yardstick] = {}
    for setting, side in settings.items():
        labels = predicted.get(setting)
        if labels is not None and len(side):
            found[setting] = yardstick(side, _places(labels[side.tasks], side.scale))
    if not found:
        few = f"the gold has fewer than {FEWEST_TRAINED_ON} labels of other occupations, or only one kind of label"
        return nothing.model_copy(update={"note": few})
    least = min(TRAINED_ON, *(int((pool["fold"] != fold).sum()) for fold in range(FOLDS)))
    return TextClassifier(trained_on=least, folds=FOLDS, seed=seed, settings=found)


def raters(run: Run, gold: Gold, table: pd.DataFrame, settings: Mapping[SettingName, Sides]) -> Raters:
    """How far the annotators of 2023 agree with GPT-4's labels of 2023 on the compared tasks.

    Args:
        run: The run.
        gold: The gold.
        table: As `Match.table`.
        settings: Labels of both sides by setting.
    """
    if {run.ref, gold.name} == set(RATERS):
        return Raters(settings={}, note="the run and the gold are the two themselves")
    if not is_at_hand("eloundou-2023"):
        return Raters(settings={}, note="the labels of 2023 are not at hand")
    keys = pd.MultiIndex.from_frame(table[TASK_KEY])
    gpt4, human = (load_gold(name).table.set_index(TASK_KEY).reindex(keys) for name in RATERS)
    found: dict[SettingName, Yardstick] = {}
    for setting, side in settings.items():
        said = [in_words(rater[COLUMNS[setting]], setting) for rater in (human, gpt4)]
        known = (said[0].notna() & said[1].notna()).to_numpy()[side.tasks]
        theirs = [rater.to_numpy(dtype=object)[side.tasks] for rater in said]
        if not known.any():
            continue
        part = side.part(known)
        first, second = (_places(rater[known], side.scale) for rater in theirs)
        found[setting] = yardstick(part, first, second)
    note = None if found else "none of the compared tasks was labelled in 2023 for this question"
    return Raters(settings=found, note=note)


def consistency(
    texts: pd.Series, settings: Mapping[SettingName, Sides], *, draws: int | None, seed: int
) -> Consistency:
    """How often tasks with one text get one label.

    Args:
        texts: Text of each compared task, missing where it is not at hand; index of the matched table.
        settings: Labels of both sides by setting.
        draws: Bootstrap draws; None leaves the intervals out. Texts are drawn, as each stands in several occupations.
        seed: Seed of the draws.
    """
    plain = texts.dropna().str.split().str.join(" ").str.casefold()
    repeated = plain[plain.duplicated(keep=False)]
    if repeated.empty:
        why = "no text occurs twice among the compared tasks" if len(plain) else "the texts are not at hand"
        return Consistency(texts=0, tasks=0, settings={}, note=why)
    found: dict[SettingName, PairAgreement] = {}
    for setting, side in settings.items():
        part = side.part(np.isin(side.tasks, repeated.index))
        group = pd.factorize(repeated.reindex(part.tasks))[0]
        found[setting] = _pair_agreement(group, {"run": part.run, "gold": part.gold}, group, draws, seed)
    return Consistency(texts=int(repeated.nunique()), tasks=len(repeated), settings=found)


def self_agreement(run: Run, *, draws: int | None, seed: int) -> SelfAgreement:
    """How often repeats of one question get one label.

    Args:
        run: The run.
        draws: Bootstrap draws; None leaves the intervals out.
        seed: Seed of the draws.
    """
    labels = run.labels
    samples = int(labels.groupby([*TASK_KEY, "setting"]).size().max()) if len(labels) else 0
    if samples < 2:
        note = "each question was asked once; `relabel run --samples K` asks it K times"
        return SelfAgreement(samples=samples, settings={}, note=note)
    found: dict[str, PairAgreement] = {}
    for setting, part in labels.groupby("setting"):
        group = np.asarray(part.groupby(TASK_KEY, sort=False).ngroup(), dtype=np.intp)
        said = {"run": pd.factorize(part["label"])[0]}
        found[str(setting)] = _pair_agreement(group, said, part["onet_soc_code"].to_numpy(), draws, seed)
    return SelfAgreement(samples=samples, settings=found)


def _pair_agreement(
    group: npt.NDArray[np.intp],
    labels: Mapping[str, npt.NDArray[np.intp]],
    clusters: npt.ArrayLike,
    draws: int | None,
    seed: int,
) -> PairAgreement:
    """Share of pairs within a group that have one label; groups lie within clusters."""
    size = np.bincount(group)
    pairs = size * (size - 1) / 2
    total = float(pairs.sum())
    if not total:
        return PairAgreement(pairs=0, run=None)
    equal: dict[str, bootstrap.Array] = {}
    for name, said in labels.items():
        counts = np.zeros((len(size), int(said.max()) + 1))
        np.add.at(counts, (group, said), 1)
        equal[name] = (counts * (counts - 1) / 2).sum(axis=1)
    first = np.unique(group, return_index=True)[1]
    drawn = None if draws is None else occupation_draws(np.asarray(clusters)[first], draws, seed)

    def samples(of: Draws) -> dict[str, bootstrap.Array]:
        return {name: _share(of.sum(x), of.sum(pairs)) for name, x in equal.items()}

    shares = {name: float(x.sum()) / total for name, x in equal.items()}
    ci95: Intervals95 = intervals(drawn, samples)
    return PairAgreement(pairs=int(total), run=shares["run"], gold=shares.get("gold"), ci95=ci95)


def _share(part: bootstrap.Array, whole: bootstrap.Array) -> bootstrap.Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return part / whole


def _with_codes(gold: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The gold's tasks with an occupation, taken from the matched tasks where the gold itself has none."""
    if gold["onet_soc_code"].notna().any():
        return gold.drop(columns="text")
    return gold.drop(columns=["text", "onet_soc_code"]).merge(table[TASK_KEY], on="task_id")


def _labelled(pool: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """The tasks of the pool that have a label in a setting, with that label in words."""
    return pool.assign(label=in_words(pool[COLUMNS[setting]], setting)).dropna(subset="label")


def _predict(
    labelled: pd.DataFrame, texts: npt.NDArray[np.object_], folds: npt.NDArray[np.intp], seed: int
) -> npt.NDArray[np.object_] | None:
    """Labels of the texts, each by a classifier trained on labels of the other folds; None where one cannot be trained."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  takes half a second, and few need it
    from sklearn.svm import LinearSVC  # noqa: PLC0415  as heavy

    found = np.empty(len(texts), dtype=object)
    order = np.random.default_rng(seed).permutation(len(labelled))
    for fold in range(FOLDS):
        mine = folds == fold
        if not mine.any():
            continue
        usable = (labelled["fold"] != fold).to_numpy()
        rows = labelled.iloc[order[usable[order]][:TRAINED_ON]]
        if len(rows) < FEWEST_TRAINED_ON or rows["label"].nunique() < 2:
            return None
        words = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True)
        model = LinearSVC(class_weight="balanced", random_state=seed)
        model.fit(words.fit_transform(rows["text"]), rows["label"].to_numpy(dtype=object))
        found[mine] = model.predict(words.transform(texts[mine]))
    return found


def _places(labels: npt.NDArray[np.object_], scale: tuple[str, ...]) -> Places:
    place = {label: index for index, label in enumerate(scale)}
    return np.array([place[label] for label in labels], dtype=np.intp)
