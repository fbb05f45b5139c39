"""Gates: they stop what is worse, and are not stopped by noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from relabel.errors import DataError
from relabel.evaluation.bootstrap import occupation_draws
from relabel.evaluation.figures import Figure, change, of_measure, of_setting
from relabel.evaluation.gates.family import family_levels
from relabel.evaluation.gates.judge import against_baseline, judge, labels_sha256
from relabel.evaluation.gates.junit import junit_xml
from relabel.evaluation.gates.outcome import GateResult, SuiteResult, gate_error
from relabel.evaluation.gates.suite import Suite
from relabel.evaluation.gates.summary import github_annotations, markdown
from relabel.evaluation.gold import Gold, make_gold
from relabel.evaluation.side_by_side import GOLD as RATER_GOLD
from relabel.evaluation.side_by_side import Raters, side_by_side
from relabel.manifest import Manifest, SourceUse
from relabel.rubric import load_rubric
from relabel.run import Run

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


def _pair(run: Codes, baseline: Codes, gold: Codes) -> Raters:
    """What `side_by_side` makes of two runs and a gold; a test holds it to that."""
    index = pd.MultiIndex.from_arrays([OCCUPATION, IDS], names=["onet_soc_code", "task_id"])
    codes = pd.DataFrame({0: run, 1: baseline, RATER_GOLD: gold}, index=index, dtype=object)
    return Raters(
        names=("run", "base"),
        labels={"three-way": codes},
        values={"beta": codes.apply(lambda side: side.map({"E0": 0.0, "E2": 0.5, "E1": 1.0}))},
        common=TASKS,
        alone=(0, 0),
        weight=np.ones(TASKS),
    )


def test_the_pairs_of_the_simulation_are_those_of_real_runs() -> None:
    run, base, labels = noisy(truth(), 1), noisy(truth(), 2), truth()
    ours, real = _pair(run, base, labels), side_by_side([run_of(run), run_of(base)], GOLD)
    pd.testing.assert_frame_equal(ours.labels["three-way"].sort_index(), real.labels["three-way"].sort_index())
    pd.testing.assert_frame_equal(ours.values["beta"].sort_index(), real.values["beta"].sort_index())


@pytest.fixture(scope="module")
def on_noise() -> list[dict[str, GateResult]]:
    """Outcomes of one hundred runs that are as good as their baselines, all of them noisy."""
    labels, judged = truth(), suite(*MANY, slices=SLICES)
    return [
        against_baseline(judged, _pair(noisy(labels, seed), noisy(labels, 10_000 + seed), labels))
        for seed in range(100)
    ]


def _fires_alone(gate: GateResult) -> bool:
    """What the gate would do by the rule `none`: its own two-sided 95 % interval, and the lower side of it counts."""
    assert gate.p is not None
    return gate.p < 0.025


def test_each_gate_fires_on_noise_in_at_most_five_of_a_hundred_runs(on_noise: list[dict[str, GateResult]]) -> None:
    fired = {gate["id"]: sum(_fires_alone(result[gate["id"]]) for result in on_noise) for gate in MANY}
    assert max(fired.values()) <= 5, fired


def test_a_suite_of_nine_gates_fires_on_noise_in_at_most_five_of_a_hundred_runs(
    on_noise: list[dict[str, GateResult]],
) -> None:
    assert sum(not all(gate.passed for gate in result.values()) for result in on_noise) <= 5


def test_without_a_family_rule_the_same_suite_would_flap(on_noise: list[dict[str, GateResult]]) -> None:
    assert sum(any(_fires_alone(gate) for gate in result.values()) for result in on_noise) > 5


def test_the_rule_none_holds_each_gate_to_its_own_interval() -> None:
    labels = truth()
    pair = _pair(noisy(labels, 3, 0.4), noisy(labels, 4), labels)
    results = against_baseline(suite(*MANY, slices=SLICES, family="none"), pair).values()
    assert {gate.level for gate in results} == {0.95}
    assert [not gate.passed for gate in results] == [_fires_alone(gate) for gate in results]


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


def test_a_single_occupation_is_no_certainty() -> None:
    # All draws of one occupation are alike: their lack of spread is no evidence.
    one = Figure(0.9, np.full(200, 0.9), 40, 1)
    assert one.bounds() is None
    assert one.wald() is None
    assert change(one, Figure(0.7, np.full(200, 0.7), 40, 1), 1).p_below(0.0) == 1.0
    assert change(one, one, 0).wald() == (0.0, 0.0)


def _agreeing(occupations: int, each: int = 1) -> dict[str, Figure]:
    """Figures of a run that says what the gold says of all tasks."""
    codes = np.repeat([f"11-{1000 + i}.00" for i in range(occupations)], each)
    gold = np.tile(SCALE, len(codes))[: len(codes)]
    draws = occupation_draws(codes, 300)
    found = {m: of_setting(m, gold, gold, tuple(SCALE), draws) for m in ("accuracy", "kappa", "macro_f1", "f1:E1")}
    values = np.tile([0.0, 0.5, 1.0], len(codes))[: len(codes)]
    return found | {m: of_measure(m, values, values, draws) for m in ("agreement", "mean_difference", "pearson")}


def test_all_right_on_few_tasks_is_not_surely_all_right() -> None:
    bounds = {name: found.bounds() for name, found in _agreeing(15).items()}
    # Clopper and Pearson's bound for 15 of 15.
    assert bounds["accuracy"] == (pytest.approx(0.7820, abs=1e-4), 1)
    assert bounds["agreement"] == (pytest.approx(0.7820, abs=1e-4), 1)
    assert bounds["mean_difference"] == (pytest.approx(-0.2180, abs=1e-4), pytest.approx(0.2180, abs=1e-4))
    more = _agreeing(60)
    for name in ("kappa", "macro_f1", "f1:E1", "pearson"):
        low, high = more[name].bounds() or (1, 0)
        # As if 1 - .025^(1/60), or 6 %, of the labels were wrong, and all in the same way.
        assert 0.8 < low < 0.95
        assert high == pytest.approx(1)
        assert (more[name].bounds(0.999) or (1, 0))[0] < low


def test_a_draw_of_one_label_leaves_a_steady_kappa_its_bound() -> None:
    found = _agreeing(15)["kappa"]
    gappy = replace(found, draws=np.append(found.draws, np.nan))
    assert gappy.bounds() == found.bounds()
    assert (gappy.bounds() or (1, 0))[0] < 0.7
    assert replace(found, draws=np.append(found.draws, [np.nan] * 100)).bounds() is None
    # A change needs all of its draws.
    assert replace(gappy, otherwise=None).bounds() is None


def test_tasks_of_one_occupation_count_but_once_towards_certainty() -> None:
    many, few = (_agreeing(15, each)["accuracy"].bounds() for each in (40, 1))
    assert many == pytest.approx(few)


def test_a_threshold_is_passed_on_luck_in_at_most_five_of_a_hundred_samples() -> None:
    """2,000 samples of 15 occupations, in each of which all is right with a chance of .85."""
    rng, passed = np.random.default_rng(1), 0
    codes = np.array([f"11-{1000 + i}.00" for i in range(15)])
    draws = occupation_draws(codes, 300)
    for _ in range(2000):
        run = np.where(rng.random(15) < 0.85, "E1", "E0")
        found = of_setting("accuracy", np.full(15, "E1"), run, tuple(SCALE), draws)
        passed += (found.bounds() or (0, 0))[0] >= 0.85
    # Samples without an error alone are 8.7 % of them.
    assert passed / 2000 <= 0.05


def test_a_gate_on_a_run_without_an_error_says_what_it_may_still_hide() -> None:
    gate = {"id": "a", "setting": "three-way", "metric": "accuracy", "min": 0.95}
    result = judge(suite(gate), run_of(truth()), GOLD, run_of(truth())).results[0]
    assert (result.passed, result.value, result.high) == (False, 1, 1)
    assert result.low == pytest.approx(0.025 ** (1 / OCCUPATIONS))
    assert "interval .940 to 1.000, 720 tasks), not surely at least .950" in result.message
    # The gold read as a run is no sample: that it agrees with itself is known.
    itself = judge(suite(gate), run_of(truth(), "gold"), GOLD, run_of(truth())).results[0]
    assert (itself.passed, itself.low) == (True, 1)


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


def test_holm_steps_down_and_bonferroni_does_not() -> None:
    ps = [0.001, 0.04, 0.007]
    assert family_levels(ps, 0.95, "none") == pytest.approx([0.95] * 3)
    assert family_levels(ps, 0.95, "bonferroni") == pytest.approx([1 - 0.05 / 3] * 3)
    # .001 < .05/6 goes, .007 < .05/4 goes, .04 > .05/2 stays.
    assert family_levels(ps, 0.95, "holm") == pytest.approx([1 - 0.05 / 3, 0.95, 1 - 0.05 / 2])
    # After the first that stays, none is held to an easier level.
    assert family_levels([0.02, 0.024, 0.5], 0.95, "holm") == pytest.approx([1 - 0.05 / 3] * 3)


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
        "message": "kappa falls by 5 %\nfrom <b>x</b>",
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
    assert failure.get("message") == "kappa falls by 5 %\nfrom <b>x</b>"
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
    assert "-0.080 to -0.020 (97.5 %)" in rows[1]


def test_annotations_are_one_line_each() -> None:
    first, second = github_annotations(_result())
    assert first == "::error title=relabel nightly%3A kappa::kappa falls by 5 %25%0Afrom <b>x</b>"
    assert second.startswith("::error title=relabel nightly%3A odd::")
    passed = _result(passed=True, results=[_result().results[1]])
    assert github_annotations(passed) == ["::notice title=relabel nightly::1 gate passed for run|<script>@all"]


def test_the_error_names_gate_figure_and_interval() -> None:
    labels = truth()
    result = judge(suite({"id": "k", **KAPPA}), run_of(noisy(labels, 3, 0.5)), GOLD, run_of(noisy(labels, 4)))
    said = gate_error(result.failures)
    assert said.startswith("gate k failed: kappa of three-way falls from .")
    assert "95 % interval -" in said


def test_gold_is_not_changed_by_judging() -> None:
    before = GOLD.sha256
    judge(suite({"id": "k", **KAPPA}), run_of(truth()), GOLD, run_of(truth()))
    assert make_gold("gold", GOLD.table, SOURCE).sha256 == before
    assert isinstance(GOLD, Gold)
