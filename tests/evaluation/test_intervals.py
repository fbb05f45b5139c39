"""Intervals: what a draw holds, agreement with a bootstrap written a second time, coverage, and when there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sk

from relabel.evaluation import statistics as intervals
from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import GOLD, AlignedLabels, match
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import load_gold
from relabel.evaluation.statistics import Figure, Sums, drawn_ranks, occupation_draws, on_scale
from relabel.run import open_run


@pytest.fixture
def few() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, gold and run (0-2) of 300 tasks in 15 occupations that differ in how well they are labelled."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 15, 300)
    gold = rng.integers(0, 3, 300)
    right = rng.random(300) < rng.uniform(0.2, 0.9, 15)[codes]
    return codes, gold, np.where(right, gold, rng.integers(0, 3, 300))


def rows_of(draws: intervals.Draws, draw: int) -> np.ndarray:
    """Tasks of a draw by index, each as often as the draw holds its occupation."""
    held = draws.counts[draw].astype(int)[draws.occupation]
    return np.repeat(np.arange(len(held)), held)


def test_a_draw_s_sums_are_those_of_the_tasks_it_holds(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 20, 3)
    drawn = draws.sum(metrics.pairs(gold, run, 3))[0]
    assert draws.counts.sum(axis=1).tolist() == [15] * 20
    for i in (0, 19):
        rows = rows_of(draws, i)
        assert drawn[i].tolist() == sk.confusion_matrix(gold[rows], run[rows]).tolist()
        weight = codes + 1.0
        expected = np.average(run[rows], weights=weight[rows])
        mean = Sums(np.stack([run * weight, weight], axis=1), draws).figure(lambda sums: sums[..., 0] / sums[..., 1])
        assert mean.draws[i] == pytest.approx(expected)


def test_correlations_of_a_draw_are_those_of_the_tasks_or_occupations_it_holds(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 20, 3)
    size = draws.by_occupation(np.ones(len(codes)))
    by_gold, by_run = (np.round(draws.by_occupation(side) / size, 1) for side in (gold, run))  # rounded: with ties
    for i in (0, 19):
        rows = rows_of(draws, i)
        held = np.repeat(np.arange(15), draws.counts[i].astype(int))
        ours = Sums(metrics.moments(gold, run), draws).figure(metrics.correlation).draws[i]
        assert ours == pytest.approx(np.corrcoef(gold[rows], run[rows])[0, 1])
        ranks = np.stack([drawn_ranks(draws.counts, side)[i] for side in (by_gold, by_run)])[:, held]
        assert ranks + 8 == pytest.approx(stats.rankdata([by_gold[held], by_run[held]], axis=1))


def test_draws_depend_on_the_seed_and_the_occupations_not_on_the_order_of_tasks() -> None:
    codes = np.array(["b", "a", "c", "a"])
    first, turned = occupation_draws(codes, 50, 1), occupation_draws(codes[::-1], 50, 1)
    assert (first.counts == turned.counts).all()
    assert (first.occupation == turned.occupation[::-1]).all()
    assert (first.counts != occupation_draws(codes, 50, 2).counts).any()


def test_the_same_draws_serve_a_part_of_the_tasks(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, _ = few
    draws, part = occupation_draws(codes, 30, 0), gold > 0
    assert (draws.of(part).sum(gold[part]) == draws.sum(np.where(part, gold, 0))).all()


def test_equal_runs_differ_by_exactly_nothing_in_each_draw(few: tuple[np.ndarray, ...]) -> None:
    codes, gold, run = few
    draws = occupation_draws(codes, 30, 0)
    one, other = (draws.sum(metrics.pairs(gold, side, 3))[0] for side in (run, run.copy()))
    assert (metrics.kappa(one) - metrics.kappa(other) == 0).all()


def test_constant_values_have_no_correlation() -> None:
    draws = occupation_draws(np.arange(40) % 12, 25, 0)
    for steady in (np.full(40, 0.1), np.full(40, 0.3)):
        assert np.isnan(Sums(metrics.moments(steady, np.arange(40.0)), draws).figure(metrics.correlation).draws).all()


def figure(draws: np.ndarray, value: float = 0.5, occupations: int = 50, **more: Any) -> Figure:
    return Figure(value, draws, 100, occupations, **more)


def test_there_is_no_interval_where_draws_cannot_tell() -> None:
    samples = np.linspace(0, 1, 1000)
    assert figure(samples, occupations=2).interval() is not None
    assert figure(samples, occupations=1).interval() is None
    assert figure(np.full(1000, np.nan)).interval() is None
    assert figure(np.array([])).interval() is None
    assert figure(samples, value=float("nan")).interval() is None
    assert figure(np.where(np.arange(1000) < 51, np.nan, samples)).interval() is None
    assert figure(np.where(np.arange(1000) < 50, np.nan, samples)).interval() is not None


def test_the_interval_is_students_t_on_the_logit_of_the_range() -> None:
    samples = np.random.default_rng(0).normal(0.5, 0.02, 20_000)
    for n in (2, 6, 10, 50, 923):
        reach = stats.t.ppf(0.975, n - 1) * samples.std(ddof=1) * (n / (n - 1)) ** 0.5
        low, high = figure(samples, occupations=n).interval() or (0, 0)
        assert (special.logit(low), special.logit(high)) == pytest.approx((-4 * reach, 4 * reach))
    # Of a correlation it is Fisher's z.
    low, high = figure(samples, value=0.5, span=(-1, 1)).interval() or (0, 0)
    reach = stats.t.ppf(0.975, 49) * samples.std(ddof=1) * (50 / 49) ** 0.5
    assert np.arctanh(high) - np.arctanh(0.5) == pytest.approx(reach / (1 - 0.25))
    assert np.arctanh(0.5) - np.arctanh(low) == pytest.approx(reach / (1 - 0.25))


@given(
    value=st.floats(-1, 1),
    reach=st.floats(0, 1e6),
    span=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0)]),
)
def test_no_interval_leaves_the_range_of_its_figure(value: float, reach: float, span: tuple[float, float]) -> None:
    low, high = on_scale(value, reach, span)
    assert span[0] <= low <= high <= span[1]
    if span[0] <= value <= span[1]:
        assert low <= value <= high


def population(seed: int, occupations: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, gold and run (0-2) of occupations of unlike size that differ in their labels and in how well they are labelled."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(occupations), rng.integers(5, 35, occupations))
    lean = rng.dirichlet([2.5, 1.6, 0.7], occupations)[codes]
    gold = (rng.random((len(codes), 1)) > lean.cumsum(axis=1)[:, :2]).sum(axis=1)
    right = rng.random(len(codes)) < rng.beta(4, 2, occupations)[codes]
    return codes, gold, np.where(right, gold, rng.integers(0, 3, len(codes)))


def aligned_labels(codes: np.ndarray, gold: np.ndarray, run: np.ndarray) -> AlignedLabels:
    names = np.array([f"11-{1000 + code}.00" for code in codes])
    tasks = pd.DataFrame({"onet_soc_code": names, "task_id": np.arange(len(codes)).astype(str), "weight": 1.0})
    both = np.stack([run, gold], axis=1)
    exposed = (both > 0).astype(np.intp)
    labels: dict[SettingName, Any] = {
        "strict": (both == 2).astype(np.intp),
        "with-tools": exposed,
        "three-way": both.astype(np.intp),
    }
    return AlignedLabels(("run",), tasks.assign(stratum=None), labels, {"beta": both / 2})


NAMED = ("accuracy", "kappa", "kappa_quadratic", "krippendorff_ordinal", "ac1", "macro_f1", "f1:E2", "run:E1")
MEASURE = ("agreement", "pearson", "mean", "difference")


@pytest.mark.slow
@pytest.mark.parametrize("occupations", [3, 6, 10, 40])
def test_every_named_interval_covers_the_truth_about_as_often_as_it_says(occupations: int) -> None:
    """The truth is the figure over endlessly many occupations; 400 samples of them."""
    codes, gold, run = population(1, 8000)
    whole = aligned_labels(codes, gold, run)
    truth = {m: whole.pair("three-way").figure(m).value for m in NAMED}
    truth |= {m: whole.pair("beta").figure(m).value for m in MEASURE}
    firsts = np.flatnonzero(np.diff(codes, prepend=-1))
    ends = np.append(firsts[1:], len(codes))
    rng, trials = np.random.default_rng(7), 400
    covered = dict.fromkeys(truth, 0)
    for trial in range(trials):
        at = np.concatenate(
            [np.arange(int(firsts[o]), int(ends[o])) for o in rng.choice(len(firsts), occupations, replace=False)]
        )
        sample = aligned_labels(codes[at], gold[at], run[at]).with_draws(400, trial)
        found = sample.pair("three-way").with_ci95(NAMED)["ci95"] | sample.pair("beta").with_ci95(MEASURE)["ci95"]
        for name, bounds in found.items():
            # Where there is no interval nothing wrong is said.
            covered[name] += bounds is None or bounds[0] <= truth[name] <= bounds[1]
    shares = {name: count / trials for name, count in covered.items()}
    assert min(shares.values()) >= 0.95 - 0.045, shares
    assert max(shares[name] for name in ("accuracy", "kappa", "mean")) <= 0.95 + 0.033, shares


@pytest.mark.slow
def test_the_interval_of_a_change_covers_it_at_low_and_high_churn() -> None:
    """A second run keeps the first one's labels but for a share of them, and is worse by a known amount."""
    codes, gold, run = population(2, 4000)
    rng = np.random.default_rng(3)
    for churn in (0.002, 0.02, 0.2):
        worse = np.where(rng.random(len(codes)) < churn, rng.integers(0, 3, len(codes)), run)
        truth = float((worse == gold).mean() - (run == gold).mean())
        firsts = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))
        covered = 0
        for trial in range(200):
            some = rng.choice(4000, 40, replace=False)
            at = np.concatenate([np.arange(int(firsts[o]), int(firsts[o + 1])) for o in some])
            first, second = (
                aligned_labels(codes[at], gold[at], side[at]).with_draws(400, trial).pair("three-way")
                for side in (run, worse)
            )
            moved = intervals.change(first.figure("accuracy"), second.figure("accuracy"), first.differ(second))
            low, high = moved.interval() or (1, 0)
            # Where nothing changed in the sample, that is what it says.
            covered += low <= truth <= high or low == high == 0
        assert covered / 200 >= 0.91, churn


@pytest.mark.slow
@pytest.mark.mirror
def test_real_intervals_match_a_bootstrap_by_index_with_scikit_learn() -> None:
    aligned = match(open_run("eloundou-2023:gpt4"), load_gold("eloundou-2023:human"))
    table = aligned.tasks
    draws = occupation_draws(aligned.codes)
    run, gold = (aligned.labels["three-way"][:, rater] for rater in (0, GOLD))
    drawn = draws.sum(metrics.pairs(gold, run, 3))[0]
    ours = {name: formula(drawn) for name, formula in metrics.FIGURES.items()}
    assert ours["accuracy"].std() == pytest.approx(0.0060, abs=1e-4)

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
        # The standard error of a standard deviation from 150 draws is 6%.
        assert ours[name].std() == pytest.approx(spread, rel=0.2), name
