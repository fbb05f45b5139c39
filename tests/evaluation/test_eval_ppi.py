"""Prediction-powered means: equal to the library's, right on average, with intervals that cover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.evaluation.matching import match
from relabel.evaluation.ppi import debiased, powered_mean
from relabel.run import open_run
from run_workshop import MakeRun

WriteGold = Callable[[str | bytes], Path]


def drawn(seed: int, n: int = 150, m: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n + m) < 0.4
    said = np.where(rng.random(n + m) < 0.85, truth, ~truth).astype(float)
    return truth[:n].astype(float), said[:n], said[n:]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_those_of_the_library(seed: int, weighted: bool) -> None:
    gold, predicted, rest = drawn(seed)
    weight = np.random.default_rng(seed).uniform(0.5, 2, len(gold)) if weighted else None
    found = powered_mean(gold, predicted, rest, weight=weight)
    assert found.mean == pytest.approx(np.squeeze(ppi_mean_pointestimate(gold, predicted, rest, w=weight)), abs=1e-12)
    assert found.variance is not None
    if not weighted:
        low, high = (float(np.squeeze(x)) for x in ppi_mean_ci(gold, predicted, rest, alpha=0.05))
        # The library divides by n, we by n - 1.
        assert 2 * 1.96 * found.variance**0.5 == pytest.approx(high - low, rel=0.01)
        return
    # The library's interval leaves out that unlike weights widen it; a jackknife does not.
    assert weight is not None
    power = found.power
    error = gold - power * predicted
    without = [np.average(np.delete(error, i), weights=np.delete(weight, i)) for i in range(len(gold))]
    jackknife = (len(gold) - 1) * np.var(without) + power**2 * rest.var() / len(rest)
    assert found.variance == pytest.approx(jackknife, rel=0.03)


def test_no_power_leaves_the_gold_s_mean_and_a_useless_run_gets_none() -> None:
    gold, predicted, rest = drawn(1)
    assert powered_mean(gold, predicted, rest, power=0).mean == pytest.approx(gold.mean())
    noise = np.random.default_rng(9).permutation(predicted)
    assert powered_mean(gold, noise, rest).power < 0.15
    assert powered_mean(gold, np.zeros(len(gold)), np.zeros(len(rest))).power == 0


def test_intervals_cover_though_the_naive_mean_is_wrong() -> None:
    """300 samples of 25 occupations of 200; the run calls too much exposed, more so in some occupations."""
    rng = np.random.default_rng(3)
    size, clusters = 30, 200
    lean = rng.beta(2, 3, clusters)
    truth = rng.random((clusters, size)) < lean[:, None]
    said = np.where(truth, rng.random(truth.shape) < 0.9, rng.random(truth.shape) < rng.beta(1, 3, clusters)[:, None])
    target, naive = truth.mean(), said.mean()
    assert naive - target > 0.05
    names = np.repeat(np.arange(clusters), size).reshape(clusters, size)
    covered, widths, alone = 0, [], []
    for _ in range(300):
        pick = np.zeros(clusters, dtype=bool)
        pick[rng.choice(clusters, 25, replace=False)] = True
        found = powered_mean(
            truth[pick].ravel().astype(float),
            said[pick].ravel().astype(float),
            said[~pick].ravel().astype(float),
            clusters=names[pick].ravel(),
            unlabelled_clusters=names[~pick].ravel(),
        )
        low, high = found.bounds() or (1, 0)
        covered += low <= target <= high
        widths.append(high - low)
        alone.append(truth[pick].mean())
    # Draws without replacement vary a little less than the interval allows for.
    assert 0.92 <= covered / 300 <= 0.995
    assert np.mean(widths) < 4 * np.std(alone) * 1.1


def test_strata_take_the_difference_between_strata_out_of_the_error() -> None:
    rng = np.random.default_rng(2)
    strata = np.repeat(["low", "high"], 100)
    gold = (rng.random(200) < np.where(strata == "low", 0.1, 0.9)).astype(float)
    flat = np.full(200, 0.5)
    plain = powered_mean(gold, flat, np.full(500, 0.5))
    by_stratum = powered_mean(gold, flat, np.full(500, 0.5), strata=strata)
    assert by_stratum.mean == plain.mean
    assert by_stratum.variance is not None
    assert plain.variance is not None
    assert by_stratum.variance < 0.5 * plain.variance


def test_only_people_s_labels_put_a_run_right(make_run: MakeRun, write_gold: WriteGold) -> None:
    answers = {(f"{11 + i % 13 * 2}-1011.00", str(i)): {"three-way": "E1" if i % 2 else "E0"} for i in range(200)}
    run = make_run(answers, rubric="eloundou")
    lines = [f"{i},{'E1' if i % 4 == 1 else 'E0'}" for i in range(60)]
    gold = read_gold_csv(write_gold("\n".join(["id,label", *lines])))
    matched = match(run, gold)
    found = debiased(run, gold, matched.table, matched.settings)
    assert found is not None
    whole = found.measures["alpha"][0]
    assert (whole.n_gold, whole.n_run, whole.naive) == (60, 200, pytest.approx(0.5))
    assert whole.gold == pytest.approx(0.25)
    assert whole.ppi == pytest.approx(0.25, abs=0.02)
    assert whole.ci95["ppi"] is not None
    few = found.measures["alpha"][1]
    assert few.ppi is None
    assert "fewer than 20" in str(few.note)


@pytest.mark.mirror
def test_a_sample_of_people_s_labels_puts_gpt_4_right(tmp_path: Path) -> None:
    human = load_gold("eloundou-2023:human").table
    sample = human.sample(1500, random_state=4)
    path = tmp_path / "people.csv"
    sample[["task_id", "onet_soc_code", "code"]].to_csv(path, index=False)
    run, gold = open_run("eloundou-2023:gpt4"), read_gold_csv(path)
    matched = match(run, gold)
    found = debiased(run, gold, matched.table, matched.settings)
    assert found is not None
    truth = float((human["code"] != "E0").mean())
    whole = found.measures["gamma"][0]
    low, high = whole.ci95["ppi"] or (1, 0)
    assert low < truth < high
    assert whole.naive is not None
    assert whole.naive - truth > 0.08
    gold_low, gold_high = whole.ci95["gold"] or (0, 0)
    assert high - low < 0.9 * (gold_high - gold_low)
    full = load_gold("eloundou-2023:human")
    matched = match(run, full)
    whole = (debiased(run, full, matched.table, matched.settings) or found).measures["gamma"][0]
    assert whole.ppi is None
    assert "holds every task" in str(whole.note)
    assert debiased(run, load_gold("eloundou-2023:gpt4-alt"), matched.table, matched.settings) is None
