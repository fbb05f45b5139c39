"""Baselines for a run's agreement with a gold, and measures of consistency.

A run that does no better than a constant label, or than a simple classifier trained on 2,000 labels, is not worth its cost;
one that agrees with the gold as much as people and GPT-4 agree with each other can hardly do better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation import document as doc
from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import GOLD, AlignedLabels, Pair, gold_on_tasks, match, mean_one
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import COLUMNS, Gold, load_gold, positions
from relabel.evaluation.statistics import Array, Draws, Figure, Ints, Sums, change, ci95, with_ci95
from relabel.run import Run
from relabel.settings import settings as app_settings
from relabel.sources.fetch import cached_frame
from relabel.task import TASK_KEY, is_local, local_tasks

FOLDS = 5
# Number of labels to train the classifier on: what a small study could afford, the same for every gold.
TRAINED_ON = 2000
# Minimum number of labels to train the classifier.
FEWEST_TRAINED_ON = 200
# Number of bins of the reliability curve, of equal width from 0 to 1.
BINS = 10
RATERS = ("eloundou-2023:gpt4", "eloundou-2023:human")


def mean_of(sums: Array) -> Array:
    """The first of two sums divided by the second, shape (..., 2) to (...)."""
    return metrics.ratio(sums[..., 0], sums[..., 1])


def majority_class(pair: Pair) -> doc.MajorityClass:
    """The baseline of always giving the gold's most frequent label; `pair` has at least one task."""
    shares = np.bincount(pair.gold, weights=pair.weight, minlength=len(pair.scale)) / len(pair)
    label = int(shares.argmax())
    constant = replace(pair, run=np.full(len(pair), label, dtype=np.intp))
    lead = change(constant.figure("accuracy"), pair.figure("accuracy"), pair.differ(constant))
    return doc.MajorityClass(
        label=pair.scale[label],
        accuracy=float(shares[label]),
        kappa=None if shares[label] == 1 else 0.0,
        difference=lead.value,
        ci95=ci95({"difference": lead}, pair.draws),
    )


def yardstick(pair: Pair, labels: Ints, against: Ints | None = None) -> doc.Yardstick:
    """Agreement of other labels of the same tasks, and the run's lead over it.

    Args:
        pair: Labels of run and gold.
        labels: The other labels, as positions on the scale, shape (n,).
        against: Labels that they are compared with, by default the gold's; the run is always compared with the gold.
    """
    other = replace(pair, run=labels, gold=pair.gold if against is None else against)
    figures: dict[str, Figure] = {}
    for name in ("accuracy", "kappa"):
        figures[name] = other.figure(name)
        figures[f"{name}_difference"] = change(other.figure(name), pair.figure(name), pair.differ(other))
    return doc.Yardstick(n=pair.n, **with_ci95(figures, pair.draws))


def all_yardsticks(
    run: Run,
    gold: Gold,
    aligned: AlignedLabels,
    settings: Mapping[SettingName, Pair],
    texts: pd.Series,
    *,
    seed: int,
    majority_only: bool,
) -> doc.Yardsticks:
    """All baselines, or with `majority_only` only the majority class; `texts` are those of the compared tasks, missing if unknown."""
    parts: dict[str, Any] = {"majority": {s: majority_class(pair) for s, pair in settings.items()}}
    # A comparison with the full agreement of a gold with itself is meaningless.
    if not majority_only and not gold.is_run(run):
        parts |= {
            "text_classifier": text_classifier(run, gold, aligned, settings, seed=seed),
            "raters": raters(run, gold, aligned, settings),
            "consistency": consistency(texts[~aligned.index().duplicated()], settings),
            "self_agreement": self_agreement(run, aligned.draws),
        }
    if not majority_only and gold.votes is not None:
        parts["annotators"] = annotators(run, gold, gold.votes, aligned.draws)
    return doc.Yardsticks(**parts)


def text_classifier(
    run: Run, gold: Gold, aligned: AlignedLabels, settings: Mapping[SettingName, Pair], *, seed: int = 0
) -> doc.TextClassifier | None:
    """Agreement of a linear classifier (SVM) with TF-IDF features.

    Features are words and pairs of words of the task's statement and its occupation's title. Occupations are divided into random
    folds; the tasks of each fold are labelled by a classifier trained on the gold of the other folds. The predictions depend
    only on the gold, and are cached.

    Args:
        run: The run.
        gold: The gold.
        aligned: Run and gold.
        settings: Labels of both sides by setting.
        seed: Seed of folds and training sets.

    Returns:
        The baseline; None if the texts are not on this machine or the gold is too small.
    """
    if (tasks := local_tasks(gold.task_list(run))) is None:
        return None
    tasks = tasks.set_index(TASK_KEY)
    texts = (tasks["title"] + ": " + tasks["text"]).rename("text")
    pool = gold_on_tasks(gold, aligned.tasks[TASK_KEY].drop_duplicates()).drop(columns="text")
    pool = pool.reset_index().merge(texts.reset_index(), on=TASK_KEY)
    codes = sorted(set(pool["onet_soc_code"]))
    index = pd.MultiIndex.from_frame(pool[TASK_KEY])
    once = ~index.duplicated()
    row_of_task = index[once].get_indexer(aligned.index())
    if len(codes) < FOLDS or (row_of_task < 0).any():
        return None
    fold_of = dict(zip(np.random.default_rng(seed).permutation(codes), np.arange(len(codes)) % FOLDS, strict=True))
    pool = pool.assign(fold=pool["onet_soc_code"].map(fold_of))
    # Predict only the code, which determines both readings: separate models would be slower and could contradict each other.
    wanted: list[SettingName] = ["three-way"] if "three-way" in settings else list(settings)
    labels: dict[SettingName, Ints] = {s: positions(pool[COLUMNS[s]], s) for s in wanted}
    predictions = cached_predictions(pool, labels, seed)
    predicted: dict[SettingName, Ints] = {s: predictions[s][once][row_of_task] for s in wanted if s in predictions}
    if "three-way" in predicted:
        codes_of = np.array(doc.SCALES["three-way"])[predicted["three-way"]]
        predicted["strict"] = (codes_of == "E1").astype(np.intp)
        predicted["with-tools"] = (codes_of != "E0").astype(np.intp)
    yardsticks: dict[SettingName, doc.Yardstick] = {
        s: yardstick(side, predicted[s][side.tasks]) for s, side in settings.items() if s in predicted
    }
    if not yardsticks:
        return None
    least = min(TRAINED_ON, *(int((pool["fold"] != fold).sum()) for fold in range(FOLDS)))
    return doc.TextClassifier(trained_on=least, folds=FOLDS, seed=seed, settings=yardsticks)


def cached_predictions(pool: pd.DataFrame, labels: Mapping[SettingName, Ints], seed: int) -> dict[SettingName, Ints]:
    """The labels that `_predict` gives to all texts, by setting; cached under a hash of everything that they depend on."""
    inputs = [pool["text"].tolist(), pool["fold"].tolist(), {s: ranks.tolist() for s, ranks in labels.items()}]
    method = [1, version("scikit-learn"), seed, FOLDS, TRAINED_ON, FEWEST_TRAINED_ON]
    key = hashlib.sha256(json.dumps([method, *inputs]).encode()).hexdigest()
    path = app_settings().download_dir / "word-counts" / f"{key}.parquet"
    texts, folds = pool["text"].to_numpy(dtype=object), pool["fold"].to_numpy(dtype=np.intp)
    frame = cached_frame(path, lambda: pd.DataFrame(_predict(texts, folds, labels, seed)))
    return {s: frame[s].to_numpy(dtype=np.intp) for s in labels if s in frame}


def raters(run: Run, gold: Gold, aligned: AlignedLabels, settings: Mapping[SettingName, Pair]) -> doc.Raters | None:
    """Agreement of the annotators of 2023 with GPT-4's labels of 2023; arguments as for `text_classifier`.

    None if run and gold are the two themselves, or the labels of 2023 are not on this machine.
    """
    if {run.ref, gold.name} == set(RATERS) or not is_local("eloundou-2023"):
        return None
    golds = (gold if gold.name == name else load_gold(name) for name in RATERS)
    gpt4, human = (side.table.drop_duplicates(TASK_KEY).set_index(TASK_KEY).reindex(aligned.index()) for side in golds)
    yardsticks: dict[SettingName, doc.Yardstick] = {}
    for setting, pair in settings.items():
        first, second = (positions(rater[COLUMNS[setting]], setting)[pair.tasks] for rater in (human, gpt4))
        common = (first >= 0) & (second >= 0)
        if common.any():
            yardsticks[setting] = yardstick(pair.part(common), first[common], second[common])
    return doc.Raters(settings=yardsticks) if yardsticks else None


def annotators(run: Run, gold: Gold, votes: pd.DataFrame, draws: Draws | None) -> doc.Annotators:
    """Agreement among the annotators of a gold, and of the run with them, on all tasks that the run labelled.

    Both figures are for two random labels of a task: of two annotators, or of one annotator and the run.
    """
    aligned = match(run, replace(gold, table=votes.drop(columns="annotator")))
    aligned = aligned if draws is None else aligned.with_draws(len(draws.counts), draws.seed)
    tasks = aligned.tasks.reset_index(names="position").drop_duplicates(TASK_KEY)
    keys = TASK_KEY if votes["onet_soc_code"].notna().any() else ["task_id"]
    votes = votes.merge(tasks[[*TASK_KEY, "position"]], on=keys, suffixes=("_gold", ""))
    yardsticks: dict[SettingName, doc.Yardstick] = {}
    alphas: dict[SettingName, float | None] = {}
    several = 0
    for setting in aligned.labels:
        scale = doc.SCALES[setting]
        rows = votes.assign(label=positions(votes[COLUMNS[setting]], setting)).query("label >= 0")
        counts = np.zeros((len(aligned), len(scale)))
        np.add.at(counts, (rows["position"].to_numpy(dtype=np.intp), rows["label"].to_numpy(dtype=np.intp)), 1)
        run_labels = aligned.labels[setting][:, 0]
        index = np.flatnonzero((counts.sum(axis=1) >= 2) & (run_labels >= 0))
        if not len(index):
            continue
        several, votes_of, size = max(several, len(index)), counts[index], counts[index].sum(axis=1)[:, None, None]
        # All ordered pairs of different annotators of a task, with a total weight of 1.
        among = votes_of[:, :, None] * votes_of[:, None, :] - votes_of[:, :, None] * np.eye(len(scale))
        among = among / (size * (size - 1))
        with_run = votes_of[:, :, None] / size * np.eye(len(scale))[run_labels[index]][:, None, :]
        drawn = None if aligned.draws is None else aligned.draws.of(index)
        corners = np.eye(len(scale) ** 2).reshape(-1, len(scale), len(scale))
        differ = (among != with_run).any(axis=(1, 2))
        moved = 0 if drawn is None else len(np.unique(drawn.occupation[differ]))
        figures: dict[str, Figure] = {}
        for name in ("accuracy", "kappa"):
            span = metrics.SHARE if name == "accuracy" else metrics.CORRELATION
            peer, own = (Sums(x, drawn, corners).figure(metrics.FIGURES[name], span) for x in (among, with_run))
            figures |= {name: peer, f"{name}_difference": change(peer, own, moved)}
        yardsticks[setting] = doc.Yardstick(n=len(index), **with_ci95(figures, drawn))
        alphas[setting] = metrics.krippendorff_several(votes_of.astype(int), "nominal")
    return doc.Annotators(
        count=int(votes["annotator"].nunique()),
        tasks=several,
        tied=gold.tied,
        rule=gold.rule,
        settings=yardsticks,
        krippendorff_nominal=alphas,
    )


def consistency(texts: pd.Series, settings: Mapping[SettingName, Pair]) -> doc.Consistency | None:
    """How often tasks with the same text have the same label; draws resample texts, which occur in several occupations.

    Args:
        texts: Text of each compared task, missing if unknown; indexed by position.
        settings: Labels of both sides by setting.

    Returns:
        The shares; None if no text occurs twice.
    """
    plain = texts.dropna().str.split().str.join(" ").str.casefold()
    repeated = plain[plain.duplicated(keep=False)]
    if repeated.empty:
        return None
    agreement: dict[SettingName, doc.PairAgreement] = {}
    for setting, side in settings.items():
        part = side.part(np.isin(side.tasks, repeated.index))
        group = pd.factorize(repeated.reindex(part.tasks))[0]
        agreement[setting] = _pair_agreement(group, {"run": part.run, "gold": part.gold}, group, side.draws)
    return doc.Consistency(texts=int(repeated.nunique()), tasks=len(repeated), settings=agreement)


def self_agreement(run: Run, draws: Draws | None) -> doc.SelfAgreement | None:
    """How often repeats of a question have the same label; intervals resample the run's occupations. None without repeats."""
    labels = run.answers()
    samples = int(labels.groupby([*TASK_KEY, "setting"]).size().max()) if len(labels) else 0
    if samples < 2:
        return None
    agreement: dict[str, doc.PairAgreement] = {}
    for setting, part in labels.groupby("setting"):
        group = np.asarray(part.groupby(TASK_KEY, sort=False).ngroup(), dtype=np.intp)
        codes = {"run": pd.factorize(part["label"])[0]}
        agreement[str(setting)] = _pair_agreement(group, codes, part["onet_soc_code"].to_numpy(), draws)
    return doc.SelfAgreement(samples=samples, settings=agreement)


def _pair_agreement(
    group: npt.NDArray[np.intp],
    labels: Mapping[str, npt.NDArray[np.intp]],
    clusters: npt.ArrayLike,
    draws: Draws | None,
) -> doc.PairAgreement:
    """Share of pairs within a group with equal labels; intervals resample clusters of groups, with the settings of `draws`."""
    size = np.bincount(group)
    pairs = size * (size - 1) / 2
    total = float(pairs.sum())
    if not total:
        return doc.PairAgreement(pairs=0, run=None)
    equal: dict[str, Array] = {}
    for name, codes in labels.items():
        counts = pd.crosstab(group, codes).to_numpy()
        equal[name] = (counts * (counts - 1) / 2).sum(axis=1)
    first = np.unique(group, return_index=True)[1]
    drawn = draws and metrics.occupation_draws(np.asarray(clusters)[first], len(draws.counts), draws.seed)

    shares = {name: Sums(np.stack([x, pairs], axis=1), drawn).figure(mean_of) for name, x in equal.items()}
    return doc.PairAgreement(pairs=int(total), **with_ci95(shares, drawn))


def _predict(
    texts: npt.NDArray[np.object_], folds: Ints, labels: Mapping[SettingName, Ints], seed: int
) -> dict[SettingName, Ints]:
    """Predict the label of each text by a classifier trained on the other folds; settings with too few labels are left out.

    Args:
        texts: Texts, shape (n,).
        folds: Fold of each text, shape (n,).
        labels: By setting, the position of each label on the scale; -1 if missing.
        seed: Seed of the training sets.
    """
    if all((gold >= 0).sum() < FEWEST_TRAINED_ON for gold in labels.values()):
        return {}  # without loading scikit-learn
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    words: Any = {"ngram_range": (1, 2), "stop_words": "english", "sublinear_tf": True}
    predicted: dict[SettingName, Ints] = {}
    for setting, gold in labels.items():
        labelled = np.flatnonzero(gold >= 0)
        order = labelled[np.random.default_rng(seed).permutation(len(labelled))]
        predictions = np.zeros(len(texts), dtype=np.intp)
        for fold in range(FOLDS):
            rows = order[folds[order] != fold][:TRAINED_ON]
            if len(rows) < FEWEST_TRAINED_ON or len(np.unique(gold[rows])) < 2:
                break
            model: Any = make_pipeline(TfidfVectorizer(**words), LinearSVC(class_weight="balanced", random_state=seed))
            model.fit(texts[rows], gold[rows])
            predictions[folds == fold] = model.predict(texts[folds == fold])
        else:
            predicted[setting] = predictions
    return predicted


def calibration(run: Run, aligned: AlignedLabels) -> dict[SettingName, doc.Calibration] | None:
    """Calibration of the probabilities of a run's labels, with the gold as the truth.

    For several samples of a task, each label counts.

    Args:
        run: The run.
        aligned: The run and its gold.

    Returns:
        Figures by setting that the rubric asks about; None if the run has no probabilities for compared tasks.

    Source: Brier 1950; expected calibration error as in Naeini, Cooper and Hauskrecht 2015, with bins of equal width.
    """
    answers = run.answers()
    labels = answers[answers["probability"].notna()] if "probability" in answers else answers.iloc[:0]
    calibrations: dict[SettingName, doc.Calibration] = {}
    for setting in aligned.labels:
        truth = aligned.tasks.assign(truth=aligned.words(setting, GOLD))[aligned.labelled(setting)]
        rows = labels[labels["setting"] == setting].reset_index(names="answer").merge(truth, on=TASK_KEY)
        if len(rows):
            draws = aligned.draws
            calibrations[setting] = reliability(
                rows["probability"].to_numpy(dtype=np.float64),
                (rows["label"] == rows["truth"]).to_numpy(),
                rows["weight"].to_numpy(dtype=np.float64),
                draws and metrics.occupation_draws(rows["onet_soc_code"].to_numpy(), len(draws.counts), draws.seed),
                ~rows["answer"].duplicated().to_numpy(),
            )
    return calibrations or None


def reliability(
    probability: Array, right: np.ndarray, weight: Array, draws: Draws | None, counted: np.ndarray | None = None
) -> doc.Calibration:
    """Figures of a set of labels.

    Args:
        probability: Probability of each label, 0-1, shape (n,), n at least 1.
        right: Whether it is right, shape (n,).
        weight: Weight of each label, shape (n,).
        draws: Draws for the labels; None for no intervals.
        counted: Mask of one row per label, shape (n,), if the gold has several labels of a task; by default all.
    """
    weight, hit = mean_one(weight), right.astype(np.float64)
    # A bin includes its upper bound, so that a probability of 1 is in the last bin.
    bin_of = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)

    shares = {"brier": (probability - hit) ** 2, "probability": probability, "accuracy": hit}
    terms = {name: np.stack([weight * values, weight], axis=1) for name, values in shares.items()}
    figures = {name: Sums(term, draws).figure(mean_of) for name, term in terms.items()}
    # For each label, in the column of its bin, probability minus outcome; in the last column, the weight.
    gaps = np.zeros((len(hit), BINS + 1))
    gaps[np.arange(len(hit)), bin_of], gaps[:, BINS] = weight * (probability - hit), weight
    figures["ece"] = Sums(gaps, draws).figure(
        lambda sums: metrics.ratio(np.abs(sums[..., :BINS]).sum(axis=-1), sums[..., BINS])
    )
    binned = (
        Sums(terms[name], draws, group=bin_of, groups=BINS).figures(mean_of) for name in ("probability", "accuracy")
    )
    labels = np.bincount(bin_of if counted is None else bin_of[counted], minlength=BINS).tolist()
    curve = tuple(
        doc.ReliabilityBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            n=labels[place],
            probability=mean.value,
            accuracy=share.value,
            ci95=ci95({"accuracy": share}, draws),
        )
        for place, (mean, share) in enumerate(zip(*binned, strict=True))
        if share.n
    )
    return doc.Calibration(n=sum(labels), bins=curve, **with_ci95(figures, draws))
