"""Intervals: what a draw holds, agreement with a bootstrap written a second time, coverage, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from relabel.evaluation import bootstrap, metrics
from relabel.evaluation.bootstrap import interval, occupation_draws
from relabel.evaluation.gold import load_gold
from relabel.evaluation.matching import match
from relabel.run import open_run


@pytest.fixture
def few() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, gold and run (0-2) of 300 tasks in 15 occupations that differ in how well they are labelled."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 15, 300)
    gold = rng.integers(0, 3, 300)
    right = rng.random(300) < rng.uniform(0.2, 0.9, 15)[codes]
    return codes, gold, np.where(right, gold, rng.integers(0, 3, 300))


def rows_of(draws: bootstrap.Draws, draw: int) -> np.ndarray:
    """Tasks of a draw by index, each as often as the draw holds its occupation."""
    held = draws.counts[draw].astype(int)[draws.place]
    return np.repeat(np.arange(len(held)), held)


def test_a_draw_s_sums_are_those_of_the_tasks_it_holds(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 20, 3)
    names = ("0", "1", "2")
    drawn = draws.sum(metrics.pairs(gold.astype(str), run.astype(str), names))
    assert draws.counts.sum(axis=1).tolist() == [15] * 20
    for i in (0, 19):
        rows = rows_of(draws, i)
        assert drawn[i].tolist() == sk.confusion_matrix(gold[rows], run[rows]).tolist()
        weight = codes + 1.0
        expected = np.average(run[rows], weights=weight[rows])
        assert bootstrap.means(draws, run, weight)[i] == pytest.approx(expected)


def test_correlations_of_a_draw_are_those_of_the_tasks_or_occupations_it_holds(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 20, 3)
    size = draws.by_occupation(np.ones(len(codes)))
    by_gold, by_run = (np.round(draws.by_occupation(side) / size, 1) for side in (gold, run))  # rounded: with ties
    for i in (0, 19):
        rows = rows_of(draws, i)
        held = np.repeat(np.arange(15), draws.counts[i].astype(int))
        assert bootstrap.pearson(draws, gold, run)[i] == pytest.approx(np.corrcoef(gold[rows], run[rows])[0, 1])
        ours = bootstrap.occupation_pearson(draws.counts, by_gold, by_run)[i]
        assert ours == pytest.approx(stats.pearsonr(by_gold[held], by_run[held])[0])
        ours = bootstrap.occupation_spearman(draws.counts, by_gold, by_run)[i]
        assert ours == pytest.approx(stats.spearmanr(by_gold[held], by_run[held])[0])


def test_draws_depend_on_the_seed_and_the_occupations_not_on_the_order_of_tasks() -> None:
    codes = np.array(["b", "a", "c", "a"])
    first, turned = occupation_draws(codes, 50, 1), occupation_draws(codes[::-1], 50, 1)
    assert (first.counts == turned.counts).all()
    assert (first.place == turned.place[::-1]).all()
    assert (first.counts != occupation_draws(codes, 50, 2).counts).any()


def test_the_same_draws_serve_a_part_of_the_tasks(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, _ = few
    draws, part = occupation_draws(codes, 30, 0), gold > 0
    assert (draws.of(part).sum(gold[part]) == draws.sum(np.where(part, gold, 0))).all()


def test_equal_runs_differ_by_exactly_nothing_in_each_draw(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 30, 0)
    scale = ("0", "1", "2")
    one, other = (draws.sum(metrics.pairs(gold.astype(str), side.astype(str), scale)) for side in (run, run.copy()))
    assert (metrics.kappa(one) - metrics.kappa(other) == 0).all()


def test_constant_values_have_no_correlation() -> None:
    draws = occupation_draws(np.arange(40) % 12, 25, 0)
    steady, varied = np.full(40, 0.1), np.arange(40.0)
    assert np.isnan(bootstrap.pearson(draws, steady, varied)).all()
    assert np.isnan(bootstrap.occupation_pearson(draws.counts, np.full(12, 0.3), np.arange(12.0))).all()
    assert np.isnan(bootstrap.occupation_spearman(draws.counts, np.full(12, 0.3), np.arange(12.0))).all()


def test_there_is_no_interval_where_draws_cannot_tell() -> None:
    samples = np.linspace(0, 1, 1000)
    assert interval(samples, occupations=9) is None
    assert interval(samples, occupations=10) is not None
    assert interval(np.ones(1000), occupations=50) is None
    assert interval(np.full(1000, np.nan)) is None
    assert interval(np.array([])) is None
    assert interval(np.where(np.arange(1000) < 51, np.nan, samples)) is None
    assert interval(np.where(np.arange(1000) < 50, np.nan, samples)) is not None


def test_plain_percentiles_without_a_number_of_occupations_and_wider_ones_for_few() -> None:
    samples = np.random.default_rng(0).normal(size=4000)
    low, high = interval(samples) or (0, 0)
    assert (low, high) == pytest.approx(tuple(np.quantile(samples, (0.025, 0.975))))
    widths = [np.ptp(interval(samples, occupations=n) or (0, 0)) for n in (10, 20, 50, 923)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(high - low, rel=0.01)
    # Student's t with 9 degrees of freedom, spread times the square root of 10 / 9.
    assert widths[0] == pytest.approx(2 * 2.262 * (10 / 9) ** 0.5, rel=0.06)


@pytest.mark.parametrize("occupations", [12, 40])
def test_intervals_cover_the_truth_about_as_often_as_they_say(occupations: int) -> None:
    """Shares of right labels that vary by occupation; occupations of unlike size, as in O*NET."""
    rng = np.random.default_rng(11)
    covered, plain, trials = 0, 0, 400
    for trial in range(trials):
        sizes = rng.integers(5, 35, occupations)
        codes = np.repeat(np.arange(occupations), sizes)
        right = rng.random(len(codes)) < rng.beta(4, 2, occupations)[codes]
        draws = occupation_draws(codes, 400, trial)
        samples = bootstrap.means(draws, right)
        low, high = interval(samples, occupations=occupations) or (1, 0)
        covered += low <= 4 / 6 <= high
        low, high = interval(samples) or (1, 0)
        plain += low <= 4 / 6 <= high
    # Three standard errors of a share of .95 in 400 trials are .033.
    assert 0.95 - 0.035 <= covered / trials <= 0.95 + 0.033
    assert plain < covered


@pytest.mark.mirror
def test_real_intervals_match_a_bootstrap_by_index_with_scikit_learn() -> None:
    table = match(open_run("eloundou-2023:gpt4"), load_gold("eloundou-2023:human")).table
    scale = ("E0", "E2", "E1")
    draws = occupation_draws(table["onet_soc_code"].to_numpy())
    drawn = draws.sum(metrics.pairs(table["code_gold"], table["code_run"], scale))
    ours = {name: formula(drawn) for name, formula in metrics.FIGURES.items()}
    assert ours["accuracy"].std() == pytest.approx(0.0060, abs=1e-4)

    gold, run = (table[f"code_{side}"].map({c: i for i, c in enumerate(scale)}).to_numpy() for side in ("gold", "run"))
    rows = [np.flatnonzero(table["onet_soc_code"] == code) for code in table["onet_soc_code"].unique()]
    rng = np.random.default_rng(2026)
    theirs = {"accuracy": [], "kappa": [], "kappa_quadratic": [], "macro_f1": []}
    for _ in range(150):
        at = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        theirs["accuracy"].append(sk.accuracy_score(gold[at], run[at]))
        theirs["kappa"].append(sk.cohen_kappa_score(gold[at], run[at]))
        theirs["kappa_quadratic"].append(sk.cohen_kappa_score(gold[at], run[at], weights="quadratic"))
        theirs["macro_f1"].append(sk.f1_score(gold[at], run[at], average="macro"))
    for name, samples in theirs.items():
        spread = np.std(samples, ddof=1)
        assert ours[name].mean() == pytest.approx(np.mean(samples), abs=4 * spread / 150**0.5), name
        # The standard error of a standard deviation from 150 draws is 6 %.
        assert ours[name].std() == pytest.approx(spread, rel=0.2), name
