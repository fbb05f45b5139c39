"""What a run must beat, and how steady it is: figures of other ways to label the same tasks, beside the run's own.

Labels cost money. A run that does no better than always giving one answer, or than a word count trained on a few thousand
labels, adds nothing; one that agrees with the gold as people and GPT-4 agree with each other can hardly do better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import krippendorff
import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation import document as doc
from relabel.evaluation import intervals, metrics
from relabel.evaluation.alignment import COLUMNS, AlignedLabels, Pair, gold_list, is_local, match, places
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import Gold, load_gold
from relabel.evaluation.intervals import Array, Draws, Figure, Places, change, occupation_draws, setting_figure
from relabel.run import Run
from relabel.task import TASK_KEY, task_table

FOLDS = 5
TRAINED_ON = 2000
"""Labels that the classifier is trained on: as many as a small study could afford, the same for every gold."""
FEWEST_TRAINED_ON = 200
"""Fewer labels give no classifier worth the name."""
RATERS = ("eloundou-2023:gpt4", "eloundou-2023:human")


def majority_class(pair: Pair, codes: npt.ArrayLike) -> doc.MajorityClass:
    """What always answering the gold's most frequent label would reach.

    Args:
        pair: Labels of both sides, of at least one task.
        codes: Occupation of each aligned task.
    """
    shares = np.bincount(pair.gold, weights=pair.weight, minlength=len(pair.scale)) / len(pair)
    label = int(shares.argmax())
    constant = replace(pair, run=np.full(len(pair), label, dtype=np.intp))
    # Paired by task: where both are right or both wrong, the task says nothing about the difference.
    ahead = pair.weight * ((pair.run == pair.gold).astype(float) - (pair.gold == label).astype(float))
    lead = change(constant.figure("accuracy"), pair.figure("accuracy"), pair.differ(constant))
    return doc.MajorityClass(
        label=pair.scale[label],
        accuracy=float(shares[label]),
        kappa=None if shares[label] == 1 else 0.0,
        difference=float(ahead.mean()),
        difference_se=metrics.clustered_se(ahead, np.asarray(codes)[pair.tasks]),
        ci95={} if pair.draws is None else {"difference": lead.interval()},
    )


def yardstick(pair: Pair, labels: Places, against: Places | None = None) -> doc.Yardstick:
    """What other labels of the same tasks reach, and how far the run is ahead of them.

    Args:
        pair: Labels of run and gold.
        labels: The other labels, as places on the scale, shape (n,).
        against: What they are compared with, by default the gold; the run is always compared with the gold.
    """
    other = replace(pair, run=labels, gold=pair.gold if against is None else against)
    found: dict[str, Figure] = {}
    for name in ("accuracy", "kappa"):
        found[name] = other.figure(name)
        found[f"{name}_difference"] = change(other.figure(name), pair.figure(name), pair.differ(other))
    ci95 = {} if pair.draws is None else {name: figure.interval() for name, figure in found.items()}
    return doc.Yardstick(n=len(pair), **{name: metrics.known(x.value) for name, x in found.items()}, ci95=ci95)


def text_classifier(
    run: Run, gold: Gold, aligned: AlignedLabels, settings: Mapping[SettingName, Pair], *, seed: int = 0
) -> doc.TextClassifier:
    """What a linear classifier (SVM) of TF-IDF weighted words reaches.

    It sees words and pairs of words of the task's statement and of its occupation's title. Occupations are put into groups
    at random; the tasks of each are labelled by a classifier that was trained on gold of other occupations. The gold may
    hold more tasks than the run: all of them may serve for training.

    Args:
        run: The run.
        gold: The gold.
        aligned: Run and gold.
        settings: Labels of both sides by setting.
        seed: Seed of groups and training sets.

    Returns:
        The yardstick; with a note and no figures where the texts are unknown or the gold is too small.
    """
    nothing = doc.TextClassifier(trained_on=0, folds=FOLDS, seed=seed, settings={})
    name = gold_list(gold, run)
    if not is_local(name):
        return nothing.model_copy(update={"note": "the texts of the tasks are not on this machine"})
    tasks = task_table(name).set_index(TASK_KEY)
    texts = (tasks["title"] + ": " + tasks["text"]).rename("text")
    pool = _with_codes(gold.table, aligned.tasks).merge(texts.reset_index(), on=TASK_KEY, suffixes=("_gold", ""))
    matched = texts.reindex(aligned.index())
    codes = sorted(set(pool["onet_soc_code"]) | set(aligned.codes))
    if len(codes) < FOLDS or matched.isna().any():
        return nothing.model_copy(update={"note": f"the gold has fewer than {FOLDS} occupations with texts"})
    fold_of = dict(zip(np.random.default_rng(seed).permutation(codes), np.arange(len(codes)) % FOLDS, strict=True))
    pool = pool.assign(fold=pool["onet_soc_code"].map(fold_of))
    mine = np.array([fold_of[code] for code in aligned.codes])
    # The code settles both readings; apart, each would cost a training of its own and could contradict the others.
    asked: list[SettingName] = ["three-way"] if "three-way" in settings else list(settings)
    predicted = {s: _predict(_labelled(pool, s), matched.to_numpy(dtype=object), mine, seed) for s in asked}
    if (labels := predicted.get("three-way")) is not None:
        for setting, exposed in (("strict", ["E1"]), ("with-tools", ["E1", "E2"])):
            codes_of = np.array(doc.SCALES["three-way"])[labels]
            predicted[setting] = np.isin(codes_of, exposed).astype(np.intp)
    found: dict[SettingName, doc.Yardstick] = {}
    for setting, side in settings.items():
        labels = predicted.get(setting)
        if labels is not None and len(side):
            found[setting] = yardstick(side, labels[side.tasks])
    if not found:
        few = f"the gold has fewer than {FEWEST_TRAINED_ON} labels of other occupations, or only one kind of label"
        return nothing.model_copy(update={"note": few})
    least = min(TRAINED_ON, *(int((pool["fold"] != fold).sum()) for fold in range(FOLDS)))
    return doc.TextClassifier(trained_on=least, folds=FOLDS, seed=seed, settings=found)


def raters(run: Run, gold: Gold, aligned: AlignedLabels, settings: Mapping[SettingName, Pair]) -> doc.Raters:
    """How far the annotators of 2023 agree with GPT-4's labels of 2023 on the compared tasks; arguments as above."""
    if {run.ref, gold.name} == set(RATERS):
        return doc.Raters(settings={}, note="the run and the gold are the two themselves")
    if not is_local("eloundou-2023"):
        return doc.Raters(settings={}, note="the labels of 2023 are not on this machine")
    gpt4, human = (load_gold(name).table.set_index(TASK_KEY).reindex(aligned.index()) for name in RATERS)
    found: dict[SettingName, doc.Yardstick] = {}
    for setting, pair in settings.items():
        first, second = (places(rater[COLUMNS[setting]], setting)[pair.tasks] for rater in (human, gpt4))
        known = (first >= 0) & (second >= 0)
        if known.any():
            found[setting] = yardstick(pair.part(known), first[known], second[known])
    note = None if found else "none of the compared tasks was labelled in 2023 for this question"
    return doc.Raters(settings=found, note=note)


def annotators(run: Run, gold: Gold, votes: pd.DataFrame, *, draws: int, seed: int) -> doc.Annotators:
    """How far the annotators of a gold agree among each other, and the run with them, on all tasks that the run labelled.

    Both figures are of two labels drawn at random: of two annotators of a task, or of one of them and the run.
    """
    aligned = match(run, replace(gold, table=votes.drop(columns="annotator"))).with_draws(draws, seed)
    tasks = aligned.tasks.reset_index(names="at").drop_duplicates(TASK_KEY)
    keys = TASK_KEY if votes["onet_soc_code"].notna().any() else ["task_id"]
    votes = votes.merge(tasks[[*TASK_KEY, "at"]], on=keys, suffixes=("_gold", ""))
    found: dict[SettingName, doc.Yardstick] = {}
    alphas: dict[SettingName, float | None] = {}
    several = 0
    for setting in aligned.labels:
        scale = doc.SCALES[setting]
        rows = votes.assign(label=places(votes[COLUMNS[setting]], setting)).query("label >= 0")
        counts = np.zeros((len(aligned), len(scale)))
        np.add.at(counts, (rows["at"].to_numpy(dtype=np.intp), rows["label"].to_numpy(dtype=np.intp)), 1)
        own = aligned.labels[setting][:, 0]
        at = np.flatnonzero((counts.sum(axis=1) >= 2) & (own >= 0))
        if not len(at):
            continue
        several, votes_of, size = max(several, len(at)), counts[at], counts[at].sum(axis=1)[:, None, None]
        # All ordered pairs of two different annotators of a task, together weighing 1.
        among = votes_of[:, :, None] * votes_of[:, None, :] - votes_of[:, :, None] * np.eye(len(scale))
        among = among / (size * (size - 1))
        with_run = votes_of[:, :, None] / size * np.eye(len(scale))[own[at]][:, None, :]
        figures: dict[str, Figure] = {}
        drawn = None if aligned.draws is None else aligned.draws.of(at)
        empty = np.zeros((0, len(scale), len(scale)))
        for name in ("accuracy", "kappa"):
            theirs, mine = (
                setting_figure(
                    name, x, empty if drawn is None else drawn.sum(x), scale, drawn.occupations if drawn else 0
                )
                for x in (among, with_run)
            )
            figures |= {name: theirs, f"{name}_difference": change(theirs, mine, theirs.occupations)}
        ci95 = {} if drawn is None else {name: figure.interval() for name, figure in figures.items()}
        known = {name: metrics.known(figure.value) for name, figure in figures.items()}
        found[setting] = doc.Yardstick(n=len(at), **known, ci95=ci95)
        used = (votes_of.sum(axis=0) > 0).sum() > 1
        alphas[setting] = (
            float(krippendorff.alpha(value_counts=votes_of.astype(int), level_of_measurement="nominal"))
            if used
            else None
        )
    return doc.Annotators(
        count=int(votes["annotator"].nunique()),
        tasks=several,
        tied=gold.tied,
        rule=gold.rule,
        settings=found,
        krippendorff_nominal=alphas,
    )


def consistency(
    texts: pd.Series, settings: Mapping[SettingName, Pair], *, draws: int | None, seed: int
) -> doc.Consistency:
    """How often tasks with one text get one label.

    Args:
        texts: Text of each compared task, missing where it is unknown; positions as index.
        settings: Labels of both sides by setting.
        draws: Bootstrap draws; None leaves the intervals out. Texts are drawn, as each stands in several occupations.
        seed: Seed of the draws.
    """
    plain = texts.dropna().str.split().str.join(" ").str.casefold()
    repeated = plain[plain.duplicated(keep=False)]
    if repeated.empty:
        why = "no text occurs twice among the compared tasks" if len(plain) else "the texts are unknown"
        return doc.Consistency(texts=0, tasks=0, settings={}, note=why)
    found: dict[SettingName, doc.PairAgreement] = {}
    for setting, side in settings.items():
        part = side.part(np.isin(side.tasks, repeated.index))
        group = pd.factorize(repeated.reindex(part.tasks))[0]
        found[setting] = _pair_agreement(group, {"run": part.run, "gold": part.gold}, group, draws, seed)
    return doc.Consistency(texts=int(repeated.nunique()), tasks=len(repeated), settings=found)


def self_agreement(run: Run, *, draws: int | None, seed: int) -> doc.SelfAgreement:
    """How often repeats of one question get one label.

    Args:
        run: The run.
        draws: Bootstrap draws; None leaves the intervals out.
        seed: Seed of the draws.
    """
    labels = run.answers()
    samples = int(labels.groupby([*TASK_KEY, "setting"]).size().max()) if len(labels) else 0
    if samples < 2:
        note = "each question was asked once; `relabel run --samples K` asks it K times"
        return doc.SelfAgreement(samples=samples, settings={}, note=note)
    found: dict[str, doc.PairAgreement] = {}
    for setting, part in labels.groupby("setting"):
        group = np.asarray(part.groupby(TASK_KEY, sort=False).ngroup(), dtype=np.intp)
        said = {"run": pd.factorize(part["label"])[0]}
        found[str(setting)] = _pair_agreement(group, said, part["onet_soc_code"].to_numpy(), draws, seed)
    return doc.SelfAgreement(samples=samples, settings=found)


def _pair_agreement(
    group: npt.NDArray[np.intp],
    labels: Mapping[str, npt.NDArray[np.intp]],
    clusters: npt.ArrayLike,
    draws: int | None,
    seed: int,
) -> doc.PairAgreement:
    """Share of pairs within a group that have one label; groups lie within clusters."""
    size = np.bincount(group)
    pairs = size * (size - 1) / 2
    total = float(pairs.sum())
    if not total:
        return doc.PairAgreement(pairs=0, run=None)
    equal: dict[str, Array] = {}
    for name, said in labels.items():
        counts = np.zeros((len(size), int(said.max()) + 1))
        np.add.at(counts, (group, said), 1)
        equal[name] = (counts * (counts - 1) / 2).sum(axis=1)
    first = np.unique(group, return_index=True)[1]
    drawn = None if draws is None else occupation_draws(np.asarray(clusters)[first], draws, seed)

    shares: dict[str, float | None] = {name: float(x.sum()) / total for name, x in equal.items()}

    def samples(of: Draws) -> dict[str, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: of.sum(x) / of.sum(pairs) for name, x in equal.items()}

    ci95 = intervals.intervals(drawn, shares, samples)
    return doc.PairAgreement(pairs=int(total), run=shares["run"], gold=shares.get("gold"), ci95=ci95)


def _with_codes(gold: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The gold's tasks with an occupation, taken from the matched tasks where the gold itself has none."""
    if gold["onet_soc_code"].notna().any():
        return gold.drop(columns="text")
    return gold.drop(columns=["text", "onet_soc_code"]).merge(table[TASK_KEY], on="task_id")


def _labelled(pool: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """The tasks of the pool that have a label in a setting, with its place on the scale."""
    table = pool.assign(label=places(pool[COLUMNS[setting]], setting))
    return table[table["label"] >= 0]


def _predict(
    labelled: pd.DataFrame, texts: npt.NDArray[np.object_], folds: npt.NDArray[np.intp], seed: int
) -> Places | None:
    """Labels of the texts, each by a classifier trained on labels of the other folds; None where one cannot be trained."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  takes half a second, and few need it
    from sklearn.svm import LinearSVC  # noqa: PLC0415  as heavy

    found = np.zeros(len(texts), dtype=np.intp)
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
        model.fit(words.fit_transform(rows["text"]), rows["label"].to_numpy())
        found[mine] = model.predict(words.transform(texts[mine]))
    return found
