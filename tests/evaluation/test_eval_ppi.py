"""Prediction-powered means: equal to the library's, right on average, with intervals that cover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

from relabel.evaluation.alignment import match
from relabel.evaluation.document import Maker
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.evaluation.ppi import debiased, powered_mean
from relabel.run import open_run
from run_builders import MakeRun

WriteGold = Callable[[str | bytes], Path]


def drawn(seed: int, n: int = 150, m: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n + m) < 0.4
    said = np.where(rng.random(n + m) < 0.85, truth, ~truth).astype(float)
    return truth[:n].astype(float), said[:n], said[n:]


@pytest.mark.parametrize("seed", range(5))
def test_estimates_from_equal_chances_are_those_of_the_library(seed: int) -> None:
    """The library is given the tasks without a gold label, we all tasks of the run: the estimate is the same."""
    gold, predicted, rest = drawn(seed)
    everything = np.concatenate([predicted, rest])
    found = powered_mean(gold, predicted, everything)
    assert 0 < found.power < 1
    assert found.mean == pytest.approx(np.squeeze(ppi_mean_pointestimate(gold, predicted, rest)), abs=1e-12)
    assert found.variance is not None
    # The library's interval is for the endlessly many from which all tasks, too, were drawn; ours for these tasks. The
    # variance between the two is that of a mean of all tasks. The library divides by n, we by n - 1.
    low, high = (float(np.squeeze(x)) for x in ppi_mean_ci(gold, predicted, rest, alpha=0.05))
    beyond = gold.var() / len(everything)
    assert 2 * 1.96 * (found.variance + beyond) ** 0.5 == pytest.approx(high - low, rel=0.01)
    assert 2 * 1.96 * found.variance**0.5 < 0.98 * (high - low)


@pytest.mark.parametrize("seed", range(5))
def test_estimates_from_unlike_chances_are_those_of_the_library_given_all_tasks(seed: int) -> None:
    """The rest of the tasks is no fair sample of them all, so the library, too, must be given them all."""
    gold, predicted, rest = drawn(seed, m=20_000)
    weight = np.random.default_rng(seed).uniform(0.5, 2, len(gold))
    everything = np.concatenate([predicted, rest])
    found = powered_mean(gold, predicted, everything, weight=weight)
    theirs = ppi_mean_pointestimate(gold, predicted, everything, w=weight, lam=found.power)
    assert found.mean == pytest.approx(np.squeeze(theirs), abs=1e-12)
    # The library's interval leaves out that unlike weights widen it; a jackknife does not.
    error = gold - found.power * predicted
    without = [np.average(np.delete(error, i), weights=np.delete(weight, i)) for i in range(len(gold))]
    assert found.variance == pytest.approx((len(gold) - 1) * np.var(without), rel=0.03)


@pytest.mark.parametrize(("in_doubtful", "in_rest"), [(80, 80), (30, 200)])
def test_a_gold_drawn_with_unlike_chances_is_right_on_average_and_its_interval_covers(
    in_doubtful: int, in_rest: int
) -> None:
    """A tenth of the tasks is doubtful, mostly exposed, and much likelier to be drawn than the others."""
    rng = np.random.default_rng(7)
    size = (100, 900)
    truth = np.concatenate([rng.random(100) < 0.8, rng.random(900) < 0.1]).astype(float)
    said = np.where(rng.random(1000) < 0.9, truth, 1 - truth)
    taken = (in_doubtful, in_rest)
    weight = np.repeat([of / n for of, n in zip(size, taken, strict=True)], taken)
    strata = np.repeat(["doubtful", "rest"], taken)
    estimates, gold_alone, covered = [], [], 0
    for _ in range(400):
        at = np.concatenate(
            [rng.choice(100, in_doubtful, replace=False), 100 + rng.choice(900, in_rest, replace=False)]
        )
        found = powered_mean(truth[at], said[at], said, weight=weight, strata=strata)
        estimates.append(found.mean)
        gold_alone.append(np.average(truth[at], weights=weight))
        low, high = found.bounds() or (1, 0)
        covered += low <= truth.mean() <= high
    # The mean of 400 estimates has an error of a twentieth of the spread of one.
    assert abs(np.mean(estimates) - truth.mean()) < 0.2 * np.std(estimates)
    assert np.std(estimates) < np.std(gold_alone)
    assert 0.92 <= covered / 400 <= 0.985


def test_a_gold_of_nearly_all_tasks_leaves_nearly_no_error() -> None:
    gold, predicted, rest = drawn(2, n=1000, m=20)
    few = powered_mean(gold[:50], predicted[:50], np.concatenate([predicted, rest]))
    most = powered_mean(gold, predicted, np.concatenate([predicted, rest]))
    assert few.variance is not None
    assert most.variance is not None
    # 20 times the labels, and but a fiftieth of the tasks left to chance.
    assert most.variance < few.variance / 20 / 20


def test_a_stratum_taken_whole_adds_no_error() -> None:
    gold, predicted, rest = drawn(3)
    strata = np.repeat(["whole", "drawn"], [50, 100])
    weight = np.repeat([1.0, 13.0], [50, 100])  # 50 of 50, and 100 of 1,300
    everything = np.concatenate([predicted, rest])
    found = powered_mean(gold, predicted, everything, weight=weight, strata=strata, power=0.5)
    error = gold - 0.5 * predicted
    by_hand = (1300 / 1350) ** 2 * (1 - 100 / 1300) * np.var(error[50:], ddof=1) / 100
    assert found.variance == pytest.approx(by_hand, rel=1e-9)
    assert found.clusters == 100


def test_labels_without_any_spread_are_no_certainty() -> None:
    said = np.zeros(500)
    found = powered_mean(np.zeros(30), said[:30], said)
    assert (found.mean, found.bounds()) == (0, None)


def test_no_power_leaves_the_gold_s_mean_and_a_useless_run_gets_none() -> None:
    gold, predicted, rest = drawn(1)
    everything = np.concatenate([predicted, rest])
    assert powered_mean(gold, predicted, everything, power=0).mean == pytest.approx(gold.mean())
    noise = np.random.default_rng(9).permutation(predicted)
    assert powered_mean(gold, noise, everything).power < 0.15
    assert powered_mean(gold, np.zeros(len(gold)), np.zeros(len(everything))).power == 0


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
            said.ravel().astype(float),
            clusters=names[pick].ravel(),
        )
        low, high = found.bounds() or (1, 0)
        covered += low <= target <= high
        widths.append(high - low)
        alone.append(truth[pick].mean())
    assert 0.92 <= covered / 300 <= 0.985
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


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        ("people", "The estimates are means of people's labels."),
        (None, "its maker is unknown, so they do not count as people's."),
        ("model", None),
    ],
)
def test_who_made_the_gold_is_said_of_what_it_corrects(
    make_run: MakeRun, write_gold: WriteGold, maker: Maker | None, said: str | None
) -> None:
    answers = {(f"{11 + i % 13 * 2}-1011.00", str(i)): {"three-way": "E1" if i % 2 else "E0"} for i in range(200)}
    run = make_run(answers, rubric="eloundou")
    lines = [f"{task},{code},{'E1' if int(task) % 4 == 1 else 'E0'}" for code, task in list(answers)[:60]]
    gold = load_gold(str(write_gold("\n".join(["id,onet_soc_code,label", *lines]))), made_by=maker)
    document = evaluate(run, gold, draws=0)
    assert document.gold_by == (maker or "unknown")
    if said is None:
        assert document.debiased is None
    else:
        assert document.debiased is not None
        assert said in document.debiased.note


def test_a_gold_puts_a_run_right(make_run: MakeRun, write_gold: WriteGold) -> None:
    answers = {(f"{11 + i % 13 * 2}-1011.00", str(i)): {"three-way": "E1" if i % 2 else "E0"} for i in range(200)}
    run = make_run(answers, rubric="eloundou")
    lines = [f"{task},{code},{'E1' if int(task) % 4 == 1 else 'E0'}" for code, task in list(answers)[:60]]
    gold = read_gold_csv(write_gold("\n".join(["id,onet_soc_code,label", *lines])))
    matched = match(run, gold)
    found = debiased(run, gold, matched)
    assert found is not None
    whole = found.measures["alpha"][0]
    assert (whole.n_gold, whole.n_run, whole.naive) == (60, 200, pytest.approx(0.5))
    assert whole.gold == pytest.approx(0.25)
    assert whole.ppi == pytest.approx(0.25, abs=0.02)
    assert whole.ci95["ppi"] is not None
    few = found.measures["alpha"][1]
    assert few.ppi is None
    assert "fewer than 20" in str(few.note)


def test_weights_of_a_gold_do_not_skew_what_is_taken_from_the_run(make_run: MakeRun, write_gold: WriteGold) -> None:
    """The gold holds most tasks that the run calls exposed, and few others: what it leaves over is hardly exposed."""
    said = ["E1" if i < 60 else "E0" for i in range(240)]
    answers = {(f"{11 + i % 13 * 2}-1011.00", str(i)): {"three-way": code} for i, code in enumerate(said)}
    run = make_run(answers, rubric="eloundou")
    lines = [f"{i},{'E0' if i % 5 == 0 else 'E1'},1.2" for i in range(50)]
    lines += [f"{i},{'E1' if i % 20 == 0 else 'E0'},4.5" for i in range(60, 100)]
    gold = read_gold_csv(write_gold("\n".join(["id,label,weight", *lines])))
    matched = match(run, gold)
    found = debiased(run, gold, matched)
    assert found is not None
    whole = found.measures["alpha"][0]
    # Four in five of the 60 tasks, and one in twenty of the 180: the gold says so by its weights, and the run adds
    # nothing to it but 60 of 240, which the gold's weights know too.
    assert whole.gold == pytest.approx((0.8 * 60 + 0.05 * 180) / 240)
    assert whole.ppi == pytest.approx((0.8 * 60 + 0.05 * 180) / 240)
    assert whole.ci95["naive"] is None
    assert "chances of one over their weights" in found.note


@pytest.mark.mirror
def test_a_sample_of_people_s_labels_puts_gpt_4_right(tmp_path: Path) -> None:
    human = load_gold("eloundou-2023:human").table
    sample = human.sample(1500, random_state=4)
    path = tmp_path / "people.csv"
    sample[["task_id", "onet_soc_code", "code"]].to_csv(path, index=False)
    run, gold = open_run("eloundou-2023:gpt4"), read_gold_csv(path)
    matched = match(run, gold)
    found = debiased(run, gold, matched)
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
    whole = (debiased(run, full, matched) or found).measures["gamma"][0]
    assert whole.ppi is None
    assert "holds every task" in str(whole.note)
    assert debiased(run, load_gold("eloundou-2023:gpt4-alt"), matched) is None
