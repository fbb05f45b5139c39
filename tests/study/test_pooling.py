"""Pooling of raters, on simulated raters whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.errors import DataError
from relabel.study.pooling import corrected_outcomes, latent_classes, pooled_mean, variance_components

SCALE = 3


def simulated(seed: int, tasks: int, quality: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, labels of raters who are right by chance `quality` and else guess, and clusters with shares of their own."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 15, tasks)
    shares = rng.dirichlet([3, 2, 1], 15)
    truth = np.array([rng.choice(SCALE, p=shares[c]) for c in cluster])
    guesses = rng.integers(0, SCALE, (tasks, len(quality)))
    labels = np.where(rng.random(guesses.shape) < np.array(quality), truth[:, None], guesses)
    return truth, labels, cluster


def test_latent_classes_find_how_good_each_rater_is() -> None:
    quality = (0.4, 0.6, 0.7, 0.9)
    truth, labels, cluster = simulated(1, 6000, quality)
    found = latent_classes(labels, SCALE, cluster)
    assert found.converged
    for rater, part in enumerate(quality):
        true = np.eye(SCALE) * part + (1 - part) / SCALE
        assert np.abs(found.confusion[rater] - true).max() < 0.05
    share = np.bincount(truth) / len(truth)
    assert np.abs(found.posterior.mean(axis=0) - share).max() < 0.03
    counts = (labels[:, :, None] == np.arange(SCALE)).sum(axis=1)
    assert (found.posterior.argmax(axis=1) == truth).mean() > (counts.argmax(axis=1) == truth).mean() + 0.02


def test_latent_classes_take_missing_labels() -> None:
    truth, labels, cluster = simulated(2, 6000, (0.7, 0.8, 0.9))
    labels[np.random.default_rng(3).random(labels.shape) < 0.3] = -1
    found = latent_classes(labels, SCALE, cluster)
    assert (found.posterior.argmax(axis=1) == truth).mean() > 0.85


def test_two_raters_cannot_tell_who_errs() -> None:
    with pytest.raises(DataError, match="needs 3 raters"):
        latent_classes(np.zeros((10, 2), dtype=int), SCALE)


def test_copies_of_one_rater_are_trusted_too_much() -> None:
    """What the documentation warns of: errors that raters share look like truth."""
    truth, labels, _ = simulated(4, 4000, (0.5, 0.5, 0.9))
    labels[:, 1] = labels[:, 0]
    found = latent_classes(labels, SCALE)
    assert np.diag(found.confusion[0]).mean() > 0.9
    assert (labels[:, 0] == truth).mean() < 0.7


def test_components_are_those_of_the_simulation() -> None:
    rng = np.random.default_rng(5)
    tasks, raters = 20_000, 8
    task, rater, both = 0.4, 0.2, 0.3
    levels = rng.normal(0, rater, raters)
    y = 0.5 + rng.normal(0, task, tasks)[:, None] + levels + rng.normal(0, both, (tasks, raters))
    scatter = np.full(y.shape, np.nan)
    found = {
        part.source: part
        for part in variance_components(y, scatter, rng.integers(0, 400, tasks).astype(str), draws=200)
    }
    truth = {"task": task**2, "rater": levels.var(ddof=1), "rater by task": both**2}
    for source, variance in truth.items():
        assert found[source].share == pytest.approx(variance / sum(truth.values()), abs=0.01)
        low, high = found[source].interval or (1, 0)
        assert low <= found[source].share <= high
    assert sum(part.share for part in found.values()) == pytest.approx(1)


def test_repeats_are_told_from_disagreement() -> None:
    rng = np.random.default_rng(6)
    samples = 0.5 + rng.normal(0, 0.4, (5000, 1, 1)) + rng.normal(0, 0.3, (5000, 4, 3))
    y, scatter = samples.mean(axis=2), samples.var(axis=2, ddof=1) / 3
    found = {part.source: part.share for part in variance_components(y, scatter, np.arange(5000).astype(str), draws=0)}
    assert found["rater by task"] < 0.02
    assert found["repeat"] == pytest.approx(0.03 / (0.16 + 0.03), abs=0.02)


@pytest.mark.slow
def test_the_interval_of_the_pooled_mean_covers_the_mean_of_all_raters() -> None:
    """Raters and occupations are both drawn: 95% of intervals hold the mean over all of either."""
    rng = np.random.default_rng(7)
    inside, trials = 0, 400
    for trial in range(trials):
        raters, occupations = 4, 60
        lean = rng.normal(0, 0.06, raters)
        level = np.clip(rng.normal(0.45, 0.15, occupations), 0.02, 0.98)
        codes = np.repeat(np.arange(occupations), 8)
        chance = np.clip(level[codes][:, None] + lean, 0, 1)
        y = (rng.random(chance.shape) < chance).astype(float)
        low, high = pooled_mean(y, codes.astype(str), draws=200, seed=trial).interval or (1, 0)
        inside += low <= 0.45 <= high
    assert 0.92 <= inside / trials <= 0.99


def test_corrected_outcomes_are_right_on_average_whatever_the_errors() -> None:
    rng = np.random.default_rng(8)
    truth = rng.random(4000)
    wrong = np.clip(truth + 0.2 * (truth > 0.5), 0, 1)  # errs more where more is exposed
    x = truth + rng.normal(0, 0.1, len(truth))
    chance = np.where(truth > 0.5, 0.2, 0.05)
    slopes: list[float] = []
    for _ in range(200):
        gold = np.where(rng.random(len(truth)) < chance, truth, np.nan)
        slopes.append(float(np.polyfit(x, corrected_outcomes(wrong, gold, chance), 1)[0]))
    true, naive = (float(np.polyfit(x, y, 1)[0]) for y in (truth, wrong))
    assert np.mean(slopes) == pytest.approx(true, abs=4 * np.std(slopes) / 200**0.5)
    assert abs(naive - true) > 10 * abs(np.mean(slopes) - true)


def test_a_mean_without_spread_or_labels_has_no_interval() -> None:
    codes = np.array(["a", "b"])
    assert pooled_mean(np.array([[np.nan], [np.nan]]), codes, draws=100, seed=0).tasks == 0
    assert pooled_mean(np.array([[1.0], [np.nan]]), codes, draws=100, seed=0).interval is None


def test_a_rater_s_own_mean_has_the_interval_of_the_evaluation() -> None:
    # Each of three occupations has one task: the standard error is s / sqrt(n) = .3 / sqrt(3), t with 2 degrees is 4.3027.
    codes, values = np.array(["a", "b", "c"]), np.array([[0.2], [0.5], [0.8]])
    error = 0.3 / 3**0.5
    reach = 4.302653 * error / 0.25  # on the logit at .5
    ends = [1 / (1 + np.exp(reach)), 1 / (1 + np.exp(-reach))]
    assert pooled_mean(values, codes, draws=20_000, seed=0).interval == pytest.approx(ends, abs=0.01)
    # None of four occupations is exposed: another may be, by the exact bound of Clopper and Pearson.
    nothing = pooled_mean(np.zeros((6, 1)), np.array(["a", "a", "b", "b", "c", "d"]), draws=500, seed=0)
    assert nothing.interval == pytest.approx((0, 1 - 0.025**0.25))


def test_the_pooled_mean_of_a_few_occupations_allows_for_their_number() -> None:
    # Raters agree on the mean, so only occupations spread: as above, with the same t.
    codes, values = np.array(["a", "b", "c"]), np.array([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]])
    assert pooled_mean(values, codes, draws=20_000, seed=0).interval == pytest.approx(
        pooled_mean(values[:, :1], codes, draws=20_000, seed=0).interval
    )
    assert pooled_mean(values, np.array(["a"] * 3), draws=500, seed=0).interval is None
