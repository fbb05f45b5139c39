"""Gates: they stop what is worse, and are not stopped by noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from relabel.errors import DataError
from relabel.evaluation.alignment import AlignedLabels, Pair, align
from relabel.evaluation.compare import compare
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gates import (
    Swaps,
    against_baseline,
    gold_size,
    joint_p,
    judge,
    labels_sha256,
    size_needed,
)
from relabel.evaluation.gold import Gold, make_gold
from relabel.evaluation.statistics import Figure, change, occupation_draws
from relabel.evaluation.suite import (
    GateResult,
    Suite,
    SuiteResult,
    gate_error,
    github_annotations,
    junit_xml,
    markdown,
)
from relabel.manifest import Manifest
from relabel.rubric import load_rubric
from relabel.run import Run
from relabel.sources.fetch import SourceUse

TASKS, OCCUPATIONS = 720, 60
SCALE = np.array(["E0", "E2", "E1"])
SOURCE = SourceUse(source="test", file="test", sha256="")
RUBRIC = load_rubric("eloundou")
Codes = npt.NDArray[np.str_]

OCCUPATION = np.array([f"{11 + 2 * (i % 6)}-{1000 + i % OCCUPATIONS}.00" for i in range(TASKS)])
IDS = np.array([str(i) for i in range(TASKS)])


def truth(seed: int = 99) -> Codes:
    """Labels that hang together within an occupation, as real ones do."""
    rng = np.random.default_rng(seed)
    lean = dict(zip(np.unique(OCCUPATION), rng.dirichlet([1.5, 1.2, 0.8], OCCUPATIONS), strict=True))
    return np.array([rng.choice(SCALE, p=lean[code]) for code in OCCUPATION])


def noisy(labels: Codes, seed: int, wrong: float = 0.25, only: npt.NDArray[np.bool_] | None = None) -> Codes:
    """The labels with some of them drawn anew, more in some occupations than in others."""
    rng = np.random.default_rng(seed)
    rate = dict(zip(np.unique(OCCUPATION), rng.beta(2, 2 / wrong - 2, OCCUPATIONS), strict=True))
    hit = rng.random(TASKS) < np.array([rate[code] for code in OCCUPATION])
    if only is not None:
        hit &= only
    return np.where(hit, rng.choice(SCALE, TASKS), labels)


def run_of(labels: Codes, name: str = "run") -> Run:
    table = pd.DataFrame(
        {
            "task_id": IDS,
            "onet_soc_code": OCCUPATION,
            "setting": "three-way",
            "sample": 0,
            "label": labels,
            "request_key": None,
        }
    )
    manifest = Manifest(
        status="complete",
        package_version="0",
        model=name,
        rubric=RUBRIC,
        rubric_sha256=RUBRIC.sha256,
        tasks="t.csv",
        settings=("three-way",),
    )
    return Run(name, None, manifest, table)


GOLD = make_gold("gold", run_of(truth()).coded(), SOURCE)


def suite(*gates: dict[str, Any], **more: Any) -> Suite:
    return Suite.model_validate(
        {"name": "s", "gold": "gold", "baseline": {"run": "base"}, "draws": 300, "gates": gates, **more}
    )


SLICES = {f"group-{major}": {"soc_major": [str(major)]} for major in (11, 13, 15, 17, 19, 21)}
KAPPA: dict[str, Any] = {"setting": "three-way", "metric": "kappa", "max_drop": 0}
MANY: list[dict[str, Any]] = [
    {"id": "kappa", **KAPPA},
    {"id": "f1-rare", "setting": "three-way", "metric": "f1:E1", "max_drop": 0},
    {"id": "beta", "measure": "beta", "metric": "pearson", "max_drop": 0},
    *({"id": f"kappa-{name}", **KAPPA, "slice": name} for name in SLICES),
]


def failed(result: SuiteResult) -> set[str]:
    return {gate.id for gate in result.failures}


def _pair(run: Codes, baseline: Codes, gold: Codes) -> AlignedLabels:
    """What `align` makes of two runs and a gold; a test holds it to that."""
    tasks = pd.DataFrame({"onet_soc_code": OCCUPATION, "task_id": IDS, "weight": 1.0, "stratum": None})
    place = {label: at for at, label in enumerate(SCALE)}
    codes = np.array([[place[label] for label in side] for side in (run, baseline, gold)]).T
    return AlignedLabels(("run", "base"), tasks, {"three-way": codes}, {"beta": codes / 2})


@pytest.mark.slow
def test_the_pairs_of_the_simulation_are_those_of_real_runs() -> None:
    run, base, labels = noisy(truth(), 1), noisy(truth(), 2), truth()
    ours, real = _pair(run, base, labels), align([run_of(run), run_of(base)], GOLD)
    order = np.array([ours.index().get_loc(key) for key in real.index()])
    assert (ours.labels["three-way"][order] == real.labels["three-way"]).all()
    assert (ours.values["beta"][order] == real.values["beta"]).all()


@pytest.fixture(scope="module")
def on_noise() -> list[dict[str, GateResult]]:
    """Outcomes of one hundred runs that are as good as their baselines, all of them noisy."""
    labels, judged = truth(), suite(*MANY, slices=SLICES)
    return [
        against_baseline(judged, _pair(noisy(labels, seed), noisy(labels, 10_000 + seed), labels))
        for seed in range(100)
    ]


def _fires_alone(gate: GateResult) -> bool:
    """What the gate would do alone: its own two-sided 95% interval, and the lower side of it counts."""
    assert gate.p is not None
    return gate.p < 0.025


@pytest.mark.slow
def test_each_gate_fires_on_noise_in_at_most_five_of_a_hundred_runs(on_noise: list[dict[str, GateResult]]) -> None:
    fired = {gate["id"]: sum(_fires_alone(result[gate["id"]]) for result in on_noise) for gate in MANY}
    assert max(fired.values()) <= 5, fired


@pytest.mark.slow
def test_a_suite_of_nine_gates_fires_on_noise_in_at_most_five_of_a_hundred_runs(
    on_noise: list[dict[str, GateResult]],
) -> None:
    assert sum(not all(gate.passed for gate in result.values()) for result in on_noise) <= 5


@pytest.mark.slow
def test_without_a_joint_test_the_same_suite_would_flap(on_noise: list[dict[str, GateResult]]) -> None:
    assert sum(any(_fires_alone(gate) for gate in result.values()) for result in on_noise) > 5


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_regression_is_stopped_and_named(seed: int) -> None:
    labels = truth()
    result = judge(
        suite(*MANY, slices=SLICES),
        run_of(noisy(labels, seed, wrong=0.45)),
        GOLD,
        run_of(noisy(labels, 10_000 + seed)),
    )
    assert "kappa" in failed(result)
    gate = result.results[0]
    assert gate.value is not None
    assert gate.high is not None
    assert gate.high < 0
    assert f"{gate.value:+.3f}" in gate.message
    assert f"{gate.high:+.3f}" in gate.message


def test_a_regression_in_one_slice_fires_there_and_in_no_other_slice() -> None:
    labels = truth()
    base = noisy(labels, 1)
    there = np.char.startswith(OCCUPATION, "15")
    result = judge(suite(*MANY, slices=SLICES), run_of(noisy(base, 2, 0.7, only=there)), GOLD, run_of(base))
    assert "kappa-group-15" in failed(result)
    assert not {f"kappa-group-{n}" for n in (11, 13, 17, 19, 21)} & failed(result)


def test_the_baseline_itself_passes_every_gate_against_it() -> None:
    base = run_of(noisy(truth(), 1))
    result = judge(suite(*MANY, slices=SLICES), base, GOLD, base)
    assert result.passed
    assert {gate.value for gate in result.results} == {0}


def _rights(
    rng: np.random.Generator, n: int, churn: float, drop: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Occupation of each task, and whether baseline and run have it right: alike but for the churn, and the run worse by `drop`.

    Each task has a chance to be right that hangs together within its occupation, of 20 tasks. Both sides draw it anew for a
    share of the tasks, so that which is which says nothing.
    """
    codes = np.arange(n) // 20
    chance = rng.beta(7, 3, n // 20)[codes]
    shared = rng.random(n) < chance
    base, run = (np.where(rng.random(n) < churn, rng.random(n) < chance, shared) for _ in range(2))
    # A fall hits whole occupations more than others: its rate varies by occupation.
    lost = run & (rng.random(n) < np.minimum(rng.gamma(1, 1, n // 20)[codes] * drop / 0.7, 1))
    return codes, base.astype(float), (run & ~lost).astype(float)


def _swaps(codes: np.ndarray, base: np.ndarray, run: np.ndarray, allowed: float = 0.0) -> Swaps:
    sums = [np.stack([np.bincount(codes, x), np.bincount(codes)], axis=1, dtype=np.float64) for x in (base, run)]
    share = np.bincount(codes) / len(codes)
    return Swaps(sums[0], sums[1], lambda of: of[..., 0] / of[..., 1], share, allowed)


def _p(codes: np.ndarray, base: np.ndarray, run: np.ndarray, allowed: float = 0.0) -> float:
    return joint_p([_swaps(codes, base, run, allowed)], seed=1)[0]


@pytest.mark.parametrize("churn", [0.005, 0.02, pytest.param(0.1, marks=pytest.mark.slow)])
def test_gates_judged_together_fire_on_noise_no_more_often_than_one(churn: float) -> None:
    """Four figures: two unrelated ones, a third that mixes them, and a slice of the first, which has the fewest tasks."""
    fired = 0
    for seed in range(300):
        (codes, *first), (_, *second) = (_rights(np.random.default_rng([seed, i]), 600, churn) for i in (0, 1))
        mixed = [np.where(codes % 2, *sides) for sides in zip(first, second, strict=True)]
        part = [side * (codes < 8) for side in first]
        found = joint_p([_swaps(codes, base, run) for base, run in (first, second, mixed, part)], seed=1)
        fired += min(found) < 0.025
    # Seven or eight are expected at most; more than fifteen come by chance in less than one of a hundred.
    assert fired <= 15


@pytest.mark.slow
def test_a_real_fall_makes_the_other_gates_fire_on_noise_no_more_often() -> None:
    fired = found = 0
    for seed in range(300):
        (codes, *worse), (_, *alike) = (
            _rights(np.random.default_rng([seed, i]), 600, 0.1, drop) for i, drop in enumerate((0.2, 0.0))
        )
        p = joint_p([_swaps(codes, base, run) for base, run in (worse, alike)], seed=1)
        found, fired = found + (p[0] < 0.025), fired + (p[1] < 0.025)
    assert found > 290
    assert fired <= 15


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("churn", [0.001, 0.02, 0.1])
def test_a_drop_gate_fires_on_pure_noise_no_more_often_than_it_says(n: int, churn: float) -> None:
    fired = sum(_p(*_rights(np.random.default_rng(seed), n, churn)) < 0.025 for seed in range(200))
    # Five are expected at most; more than eleven come by chance in one of a hundred.
    assert fired <= 11


@pytest.mark.slow
@pytest.mark.parametrize("churn", [0.001, 0.02, 0.1])
def test_a_drop_gate_keeps_its_level_on_a_gold_of_5000(churn: float) -> None:
    assert sum(_p(*_rights(np.random.default_rng(seed), 5000, churn)) < 0.025 for seed in range(200)) <= 11


@pytest.mark.slow
@pytest.mark.parametrize("churn", [0.0, 0.05])
def test_a_fall_of_just_what_is_allowed_fires_no_more_often_than_it_says(churn: float) -> None:
    fired = sum(
        _p(*_rights(np.random.default_rng(seed), 1000, churn, 0.05), allowed=0.05) < 0.025 for seed in range(400)
    )
    # Ten are expected; more than twenty come by chance in less than one of a hundred.
    assert fired <= 20


@pytest.mark.slow
def test_power_grows_with_the_gold_and_the_size_that_a_suite_names_finds_three_points() -> None:
    churn = 0.06

    def power(n: int) -> float:
        return float(
            np.mean([_p(*_rights(np.random.default_rng(seed), n, churn, 0.03)) < 0.025 for seed in range(200)])
        )

    small, middle, large = (power(n) for n in (200, 1000, 5000))
    assert small < 0.35
    assert small < middle < large
    assert large > 0.97
    changed = np.concatenate([np.subtract(*_rights(np.random.default_rng(s), 5000, churn, 0.03)[1:]) for s in range(5)])
    named = gold_size(0.95, float(np.abs(changed).mean()))
    assert power(round(named / 20) * 20) == pytest.approx(0.8, abs=0.12)


def test_one_corrected_label_passes_and_is_judged() -> None:
    labels = truth()
    base = noisy(labels, 1)
    run = base.copy()
    wrong = int(np.flatnonzero(base != labels)[0])
    run[wrong] = labels[wrong]
    result = judge(suite({"id": "k", **KAPPA}), run_of(run), GOLD, run_of(base))
    assert (result.passed, result.results[0].judged, result.results[0].p) == (True, True, 1.0)
    broken = base.copy()
    right = int(np.flatnonzero(base == labels)[0])
    broken[right] = SCALE[(list(SCALE).index(str(labels[right])) + 1) % 3]
    result = judge(suite({"id": "k", **KAPPA}), run_of(broken), GOLD, run_of(base))
    # One occupation that fell could as well have risen.
    assert (result.passed, result.results[0].judged, result.results[0].p) == (True, True, 0.5)


def test_six_of_sixty_occupations_wholly_broken_are_stopped() -> None:
    labels = truth()
    base = noisy(labels, 1)
    hit = np.isin(OCCUPATION, np.unique(OCCUPATION)[:6])
    run = np.where(hit, np.roll(SCALE, 1)[[list(SCALE).index(label) for label in labels]], base)
    accuracy = {"setting": "three-way", "metric": "accuracy"}
    gates = [{"id": f"a{i}", **accuracy, "max_drop": drop} for i, drop in enumerate((0, 0.02))]
    result = judge(suite(*gates), run_of(run), GOLD, run_of(base))
    assert failed(result) == {"a0", "a1"}
    # Each of the six fell: one way of 64.
    assert result.results[0].p == pytest.approx(1 / 64)


TWO_GATES = ({"id": "kappa", **KAPPA}, {"id": "accuracy", "setting": "three-way", "metric": "accuracy", "max_drop": 0})


def _broken(base: Codes, labels: Codes, occupations: int) -> Codes:
    """The baseline with every label of some occupations wrong."""
    hit = np.isin(OCCUPATION, np.unique(OCCUPATION)[:occupations])
    return np.where(hit, np.roll(SCALE, 1)[[list(SCALE).index(label) for label in labels]], base)


@pytest.mark.parametrize("gates", [TWO_GATES, (*TWO_GATES, *MANY[1:])])
def test_six_broken_occupations_are_stopped_by_many_gates_as_by_one(gates: tuple[dict[str, Any], ...]) -> None:
    labels = truth()
    base = noisy(labels, 1)
    result = judge(suite(*gates, slices=SLICES), run_of(_broken(base, labels, 6)), GOLD, run_of(base))
    assert {"kappa", "accuracy"} <= failed(result)
    first = result.results[0]
    assert (first.p, first.p_adjusted) == (1 / 64, 1 / 64)
    # Five can never be told from chance.
    assert judge(suite(*gates, slices=SLICES), run_of(_broken(base, labels, 5)), GOLD, run_of(base)).passed


@pytest.mark.parametrize("corrected", [True, False])
def test_one_changed_label_passes_two_gates_and_its_interval_is_not_widened_by_their_number(corrected: bool) -> None:
    labels = truth()
    base = noisy(labels, 1)
    run = base.copy()
    place = int(np.flatnonzero((base == labels) != corrected)[0])
    run[place] = labels[place] if corrected else next(label for label in SCALE if label != labels[place])
    both = judge(suite(*TWO_GATES), run_of(run), GOLD, run_of(base))
    assert both.passed
    alone = judge(suite(TWO_GATES[1]), run_of(run), GOLD, run_of(base)).results[0]
    assert (both.results[1].low, both.results[1].high) == (alone.low, alone.high)


def test_few_occupations_behind_a_gold_or_a_slice_are_said_first() -> None:
    base = run_of(truth())
    keep = np.isin(OCCUPATION, np.unique(OCCUPATION)[:6])
    few = replace(base, labels=base.labels[keep].reset_index(drop=True))
    told = markdown(judge(suite(*TWO_GATES), few, GOLD, few))
    assert "**Few occupations: the tasks belong to 6 occupations only: intervals are wide, and say little.**" in told
    sliced = suite({"id": "k", **KAPPA, "slice": "one"}, slices={"one": {"soc_major": ["11"], "importance": 4}})
    kinds = np.where(keep, 4.5, 2.0)
    details = pd.DataFrame({"onet_soc_code": OCCUPATION, "task_id": IDS, "task_type": "Core", "importance": kinds})
    assert (
        judge(sliced, base, GOLD, base, details)
        .warnings[0]
        .startswith("Few occupations in the slice one: the tasks belong to 6 occupations only")
    )
    assert not judge(suite(*TWO_GATES), base, GOLD, base).warnings


def test_all_ways_to_swap_are_tried_where_they_are_few_and_drawn_where_they_are_many() -> None:
    rng = np.random.default_rng(0)
    few = _rights(rng, 240, 0.3)
    d = np.bincount(few[0], few[2] - few[1])
    d = d[d != 0]
    signs = np.array(np.meshgrid(*[[1, -1]] * len(d))).reshape(len(d), -1)
    assert _p(*few) == pytest.approx(float((d @ signs <= d.sum() + 1e-9).mean()))
    many = _rights(rng, 2000, 0.3)
    d = np.bincount(many[0], many[2] - many[1])
    assert _p(*many) == pytest.approx(stats.norm.cdf(d.sum() / np.sqrt((d**2).sum())), abs=0.02)


def test_a_suite_says_what_size_of_gold_a_fall_of_three_points_needs() -> None:
    labels = truth()
    base = noisy(labels, 1)
    aligned = _pair(noisy(base, 2, 0.3), base, labels)
    said = size_needed(aligned, suite({"id": "k", **KAPPA})) or ""
    assert "To find a fall of 3 points in accuracy in 80% of runs, the gold needs about" in said
    assert "tasks; it has 720 (" in said
    assert size_needed(aligned, suite({"id": "k", "setting": "three-way", "metric": "kappa", "min": 0.1})) is None
    assert gold_size(0.95, 0.1) < gold_size(0.99, 0.1) < gold_size(0.99, 0.2)


@pytest.mark.slow
def test_document_gate_and_comparison_say_one_and_the_same_of_a_figure() -> None:
    """At few occupations and at many: the eval of a run against another, a gate on it, and their comparison."""
    for occupations in (2, 6, 9, 60):
        keep = np.isin(OCCUPATION, np.unique(OCCUPATION)[:occupations])
        first, second = truth(), noisy(truth(), 4)
        runs = [
            replace(run_of(x, n), labels=run_of(x, n).labels[keep].reset_index(drop=True))
            for x, n in ((first, "a"), (second, "b"))
        ]
        gold = make_gold("a", runs[0].coded(), SOURCE)
        document = evaluate(runs[1], gold, draws=300, yardsticks=False)
        gates = [
            {"id": m.replace("_", "-"), "setting": "three-way", "metric": m, "min": 0.1} for m in ("accuracy", "kappa")
        ]
        gates += [{"id": "mean", "measure": "beta", "metric": "mean", "max": 0.9}]
        judged = {r.id: (r.value, (r.low, r.high)) for r in judge(suite(*gates), runs[1], gold, None).results}
        compared = compare(runs[0], runs[1], draws=300).settings["three-way"]
        found = document.settings["three-way"]
        assert found.ci95["accuracy"] is not None
        assert judged["accuracy"] == (found.accuracy, found.ci95["accuracy"])
        assert judged["kappa"] == (found.kappa, found.ci95["kappa"])
        assert judged["mean"] == (document.measures["beta"].mean, document.measures["beta"].ci95["mean"])
        assert (compared.agreement, compared.agreement_ci95) == judged["accuracy"]
        assert (compared.kappa, compared.kappa_ci95) == judged["kappa"]
        assert document.intervals is not None
        few = f"the tasks belong to {occupations} occupations only" if occupations < 10 else None
        assert (document.intervals.note or "").partition(":")[0] == (few or "")
        change_of = compare(runs[0], runs[1], gold, draws=300).against_gold["three-way"].metrics["kappa"]
        drop = judge(suite({"id": "k", **KAPPA}), runs[1], gold, runs[0]).results[0]
        assert (drop.low, drop.high) == change_of.ci95


def test_a_handful_of_changed_tasks_is_no_regression() -> None:
    base = truth()
    run = base.copy()
    for place in (0, 1, 2, 3):  # four occupations, each with one label now wrong
        run[place] = "E0" if base[place] != "E0" else "E1"
    assert judge(suite({"id": "k", **KAPPA}), run_of(run), GOLD, run_of(base)).passed


def test_an_allowed_drop_is_allowed() -> None:
    labels = truth()
    run, base = run_of(noisy(labels, 3, 0.45)), run_of(noisy(labels, 4))
    gates = [{"id": f"k{i}", **KAPPA, "max_drop": drop} for i, drop in enumerate((0.0, 0.9))]
    assert failed(judge(suite(*gates), run, GOLD, base)) == {"k0"}


def test_a_threshold_is_held_to_the_lower_bound_not_to_the_figure() -> None:
    run = run_of(noisy(truth(), 5))
    first = judge(suite({"id": "k", "setting": "three-way", "metric": "kappa", "min": 0.1}), run, GOLD, run).results[0]
    assert first.value is not None
    assert first.low is not None
    for threshold, holds in ((first.low - 1e-6, True), (first.low + 1e-6, False), (first.value, False)):
        gate = {"id": "k", "setting": "three-way", "metric": "kappa", "min": threshold}
        assert judge(suite(gate), run, GOLD, run).passed is holds


def test_a_maximum_is_held_to_the_upper_bound() -> None:
    run = run_of(noisy(truth(), 5))
    gate = {"id": "m", "measure": "beta", "metric": "mean_difference", "min": -0.2, "max": 0.2}
    low, high = judge(suite(gate), run, GOLD, run).results
    assert (low.kind, high.kind, low.passed, high.passed) == ("min", "max", True, True)
    assert high.high is not None
    assert not judge(suite({**gate, "max": high.high - 1e-6}), run, GOLD, run).passed


def test_a_gate_that_nothing_can_be_said_about_has_not_passed() -> None:
    run = run_of(noisy(truth(), 5))
    slices = {"nobody": {"soc_major": ["55"]}}
    result = judge(suite({"id": "k", **KAPPA, "min": 0.1, "slice": "nobody"}, slices=slices), run, GOLD, run)
    assert [gate.judged for gate in result.results] == [False, False]
    assert "cannot be judged" in gate_error(result.failures)


def test_an_error_as_large_as_the_figures_range_cannot_be_judged() -> None:
    """Two occupations, one all right and one all wrong: a bound within the range would only look like evidence."""
    base = truth()
    few = np.flatnonzero(np.isin(OCCUPATION, np.unique(OCCUPATION)[:2]))
    rows = run_of(base).labels.iloc[few]
    wrong = np.where(rows["label"] == "E0", "E1", "E0")
    half = rows.assign(label=np.where(rows["onet_soc_code"] == OCCUPATION[few[0]], rows["label"], wrong))
    run, same = replace(run_of(base), labels=half), replace(run_of(base), labels=rows)
    gates = [
        {"id": "low", "setting": "three-way", "metric": "accuracy", "min": 0.0001},
        {"id": "drop", "setting": "three-way", "metric": "accuracy", "max_drop": 0},
    ]
    low, drop = judge(suite(*gates), run, GOLD, same).results
    for result in (low, drop):
        assert (result.judged, result.passed) == (False, False)
        assert "cannot be judged" in result.message
    assert judge(suite(gates[1]), same, GOLD, same).passed


@pytest.mark.slow
def test_the_interval_of_a_drop_never_contradicts_the_test_that_decides() -> None:
    """Whatever the occupations that fell, an interval wholly below zero stands beside a fall only."""
    for broken in range(1, 12):
        codes = np.unique(OCCUPATION)[:broken]
        hit = np.isin(OCCUPATION, codes)
        run = np.where(hit & (np.arange(TASKS) % 3 > 0), np.where(truth() == "E0", "E1", "E0"), truth())
        result = judge(suite({"id": "k", **KAPPA}), run_of(run), GOLD, run_of(truth())).results[0]
        fell = "falls" in result.message
        assert fell is not result.passed
        assert result.high is None or (result.high < 0) is fell


def test_a_single_occupation_is_no_certainty() -> None:
    # All draws of one occupation are alike: their lack of spread is no evidence.
    one = Figure(0.9, np.full(200, 0.9), 40, 1)
    assert one.interval() is None
    assert change(one, Figure(0.7, np.full(200, 0.7), 40, 1), 1).interval() is None
    assert change(one, one, 0).interval() == (0.0, 0.0)
    assert change(one, one, 1).interval() is None  # what changed there cancels out


def _agreeing(occupations: int, each: int = 1) -> dict[str, Figure]:
    """Figures of a run that says what the gold says of all tasks."""
    codes = np.repeat([f"11-{1000 + i}.00" for i in range(occupations)], each)
    gold = np.arange(len(codes)) % 3
    tasks, weight, draws = np.arange(len(codes)), np.ones(len(codes)), occupation_draws(codes, 300)
    labels = Pair(tasks, gold, gold, weight, draws, scale=tuple(SCALE))
    values = Pair(tasks, gold / 2, gold / 2, weight, draws)
    return {m: labels.figure(m) for m in ("accuracy", "kappa", "macro_f1", "f1:E1")} | {
        m: values.figure(m) for m in ("agreement", "difference", "pearson")
    }


def test_all_right_on_few_tasks_is_not_surely_all_right() -> None:
    bounds = {name: found.interval() for name, found in _agreeing(15).items()}
    # Clopper and Pearson's bound for 15 of 15.
    assert bounds["accuracy"] == (pytest.approx(0.7820, abs=1e-4), 1)
    assert bounds["agreement"] == (pytest.approx(0.7820, abs=1e-4), 1)
    assert bounds["difference"] == (pytest.approx(-0.2180, abs=1e-4), pytest.approx(0.2180, abs=1e-4))
    more = _agreeing(60)
    for name in ("kappa", "macro_f1", "f1:E1", "pearson"):
        low, high = more[name].interval() or (1, 0)
        # As if 1 - .025^(1/60), or 6%, of the labels were wrong, and all in the same way.
        assert 0.8 < low < 0.95
        assert high == pytest.approx(1)
        assert (more[name].interval(0.999) or (1, 0))[0] < low


def test_a_draw_of_one_label_leaves_a_steady_kappa_its_bound() -> None:
    found = _agreeing(15)["kappa"]
    gappy = replace(found, draws=np.append(found.draws, np.nan))
    assert gappy.interval() == found.interval()
    assert (gappy.interval() or (1, 0))[0] < 0.7
    assert replace(found, draws=np.append(found.draws, [np.nan] * 100)).interval() is None


def test_tasks_of_one_occupation_count_but_once_towards_certainty() -> None:
    many, few = (_agreeing(15, each)["accuracy"].interval() for each in (40, 1))
    assert many == pytest.approx(few)


def test_a_threshold_is_passed_on_luck_in_at_most_five_of_a_hundred_samples() -> None:
    """2,000 samples of 15 occupations, in each of which all is right with a chance of .85."""
    rng, passed = np.random.default_rng(1), 0
    codes = np.array([f"11-{1000 + i}.00" for i in range(15)])
    draws = occupation_draws(codes, 300)
    for _ in range(2000):
        run = np.where(rng.random(15) < 0.85, 2, 0)
        found = Pair(np.arange(15), np.full(15, 2), run, np.ones(15), draws, scale=tuple(SCALE)).figure("accuracy")
        passed += (found.interval() or (0, 0))[0] >= 0.85
    # Samples without an error alone are 8.7% of them.
    assert passed / 2000 <= 0.05


def test_a_gate_on_a_run_without_an_error_says_what_it_may_still_hide() -> None:
    gate = {"id": "a", "setting": "three-way", "metric": "accuracy", "min": 0.95}
    result = judge(suite(gate), run_of(truth()), GOLD, run_of(truth())).results[0]
    assert (result.passed, result.value, result.high) == (False, 1, 1)
    assert result.low == pytest.approx(0.025 ** (1 / OCCUPATIONS))
    assert "interval .940 to 1.000, 720 tasks): not shown to be at least .950" in result.message
    # The gold read as a run is no sample: that it agrees with itself is known.
    itself = judge(suite(gate), run_of(truth(), "gold"), GOLD, run_of(truth())).results[0]
    assert (itself.passed, itself.value, itself.low) == (True, 1, None)


def test_a_slice_by_task_type_without_the_task_list_is_refused() -> None:
    run = run_of(truth())
    wanted = suite({"id": "k", **KAPPA, "slice": "core"}, slices={"core": {"task_type": ["Core"]}})
    with pytest.raises(DataError, match="slice core needs the run's task list"):
        judge(wanted, run, GOLD, run)
    kinds = np.where(np.arange(TASKS) % 2, "Core", "Supplemental")
    details = pd.DataFrame({"onet_soc_code": OCCUPATION, "task_id": IDS, "task_type": kinds, "importance": 4.0})
    assert judge(wanted, run, GOLD, run, details).results[0].n == TASKS // 2


def test_a_pinned_gold_or_baseline_that_changed_is_refused_with_its_new_hash() -> None:
    run, other = run_of(truth()), run_of(noisy(truth(), 1))
    gate = {"id": "k", **KAPPA}
    pinned = suite(gate, baseline={"run": "base", "labels_sha256": labels_sha256(run)})
    assert judge(pinned, other, GOLD, run).baseline_sha256 == labels_sha256(run)
    with pytest.raises(DataError, match=labels_sha256(other)):
        judge(pinned, run, GOLD, other)
    with pytest.raises(DataError, match=GOLD.sha256):
        judge(suite(gate, gold_sha256="0" * 64), run, GOLD, run)


def test_the_pin_of_a_baseline_knows_levels_of_automation() -> None:
    rubric = load_rubric("automation")

    def rated(level: str) -> Run:
        table = pd.DataFrame(
            {
                "task_id": IDS,
                "onet_soc_code": OCCUPATION,
                "setting": "automation",
                "sample": 0,
                "label": level,
                "request_key": None,
            }
        )
        manifest = Manifest(
            status="complete",
            package_version="0",
            model="m",
            rubric=rubric,
            rubric_sha256=rubric.sha256,
            tasks="t.csv",
            settings=("automation",),
        )
        return Run("rated", None, manifest, table)

    assert labels_sha256(rated("T0")) != labels_sha256(rated("T3"))
    # Runs without such levels keep the hash that suites have pinned.
    assert labels_sha256(run_of(truth())) == GOLD.sha256


def test_coverage_is_counted_and_not_estimated() -> None:
    run = run_of(truth())
    gate = judge(suite({"id": "c", "metric": "coverage", "min": 1}), run, GOLD, run).results[0]
    assert (gate.passed, gate.value, gate.low) == (True, 1.0, None)


def test_the_joint_p_steps_down_and_is_that_of_all_swaps() -> None:
    """Two gates that move apart, against the rule written out: by their ranks over all 2^8 swaps."""
    rng = np.random.default_rng(5)
    moved = np.array([[-3, -2, -2, -2, -1, -1, -1, 1.0], rng.normal(size=8)])
    gates = [Swaps(np.zeros(8), side, lambda of: of / 8, np.full(8, 1 / 8)) for side in moved]
    signs = np.array(np.meshgrid(*[[1, -1]] * 8, indexing="ij")).reshape(8, -1)
    falls = moved @ signs
    ranks = np.array([[(side <= fall + 1e-9).mean() for fall in side] for side in falls])
    first = float((ranks.min(axis=0) <= ranks[0, 0]).mean())
    assert ranks[0, 0] < first < 2 * ranks[0, 0] + 1e-9
    assert joint_p(gates) == pytest.approx([first, max(first, ranks[1, 0])])
    # A gate and its copy cost nothing; one without a change neither.
    still = Swaps(np.ones(8), np.ones(8), lambda of: of / 8, np.full(8, 1 / 8))
    assert joint_p([gates[0], gates[0], still]) == pytest.approx([ranks[0, 0], ranks[0, 0], 1])


def _result(**changes: Any) -> SuiteResult:
    gate: dict[str, Any] = {
        "id": "kappa",
        "what": "kappa of three-way",
        "kind": "max_drop",
        "passed": False,
        "judged": True,
        "threshold": 0.0,
        "value": -0.05,
        "low": -0.08,
        "high": -0.02,
        "level": 0.975,
        "run": 0.55,
        "baseline": 0.6,
        "n": 1200,
        "message": "kappa falls by 5%\nfrom <b>x</b>",
        "why": None,
    }
    fine = {**gate, "id": "fine", "kind": "min", "passed": True, "value": 0.5, "low": 0.4, "high": 0.6, "level": 0.95}
    unknown = {**gate, "id": "odd", "judged": False, "value": None, "low": None, "high": None, "level": None}
    values: dict[str, Any] = {
        "suite": "nightly",
        "title": "t",
        "run": "run|<script>@all",
        "gold": "g\x00g",
        "gold_sha256": "a" * 64,
        "baseline": "b",
        "baseline_sha256": "b" * 64,
        "family": "rule",
        "passed": False,
        "results": [gate, fine, unknown],
    }
    return SuiteResult.model_validate({**values, **changes})


def test_junit_xml_counts_failures_and_errors_and_holds_any_text() -> None:
    root = ET.fromstring(junit_xml(_result()))
    found = root.find("testsuite")
    assert found is not None
    assert (found.get("tests"), found.get("failures"), found.get("errors")) == ("3", "1", "1")
    failure = found.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "kappa falls by 5%\nfrom <b>x</b>"
    assert [case.get("name") for case in found.findall("testcase")] == ["kappa max drop", "fine min", "odd max drop"]


def test_the_summary_puts_failures_first_and_lets_nothing_become_markup() -> None:
    text = markdown(_result(), verdict="It is <i>so</i>.")
    assert text.splitlines()[0] == "## ❌ nightly: 2 of 3 gates failed"
    assert "<script>" not in text
    assert "<i>" not in text
    assert "@all" not in text
    assert r"run\|&lt;script&gt;&#64;all" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace(r"\|", "").count("|") == 8 for line in rows)
    assert "-0.080 to -0.020 (97.5%)" in rows[1]


def test_annotations_are_one_line_each() -> None:
    first, second = github_annotations(_result())
    assert first == "::error title=relabel nightly%3A kappa::kappa falls by 5%25%0Afrom <b>x</b>"
    assert second.startswith("::error title=relabel nightly%3A odd::")
    passed = _result(passed=True, results=[_result().results[1]])
    assert github_annotations(passed) == ["::notice title=relabel nightly::1 gate passed for run|<script>@all"]


def test_the_error_names_gate_figure_and_interval() -> None:
    labels = truth()
    result = judge(suite({"id": "k", **KAPPA}), run_of(noisy(labels, 3, 0.5)), GOLD, run_of(noisy(labels, 4)))
    said = gate_error(result.failures)
    assert said.startswith("gate k failed: kappa of three-way falls from .")
    assert "95% interval -" in said


def test_gold_is_not_changed_by_judging() -> None:
    before = GOLD.sha256
    judge(suite({"id": "k", **KAPPA}), run_of(truth()), GOLD, run_of(truth()))
    assert make_gold("gold", GOLD.table, SOURCE).sha256 == before
    assert isinstance(GOLD, Gold)
