"""Two runs, and several: what changed, checked against figures computed another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.metrics import accuracy_score, cohen_kappa_score
from typer.testing import CliRunner

from relabel.cli.app import command_line, run_app
from relabel.errors import DataError, UsageError
from relabel.evaluation.compare import compare, compare_several
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.evaluation.statistics import occupation_draws
from relabel.run import Run, open_run
from relabel.task import task_table
from run_builders import Answers, MakeRun
from snapshots.make import SAMPLE_GOLD

CODES = ("E0", "E2", "E1")
VALUE = {"E0": 0.0, "E2": 0.5, "E1": 1.0}
MakeCodes = Callable[..., Run]


def labels_of(seed: int, count: int = 240, occupations: int = 12) -> Answers:
    rng = np.random.default_rng(seed)
    return {(f"11-{1000 + i % occupations}.00", str(i)): {"three-way": str(rng.choice(CODES))} for i in range(count)}


def changed(answers: Answers, seed: int, share: float = 0.3) -> Answers:
    rng = np.random.default_rng(seed)
    return {
        key: {"three-way": str(rng.choice(CODES))} if rng.random() < share else said for key, said in answers.items()
    }


def frame(answers: Answers) -> pd.Series:
    return pd.Series({key: str(said["three-way"]) for key, said in answers.items()})


@pytest.fixture
def pair(make_run: MakeRun) -> tuple[Run, Run, Answers, Answers]:
    first = labels_of(1)
    second = changed(first, 2)
    made = [make_run(side, name=name, rubric="eloundou") for side, name in ((first, "a"), (second, "b"))]
    return made[0], made[1], first, second


def test_transitions_changes_and_kappa_are_those_of_a_plain_count(pair: tuple[Run, Run, Answers, Answers]) -> None:
    a, b, first, second = pair
    found = compare(a, b, draws=200).settings["three-way"]
    said = pd.DataFrame({"a": frame(first), "b": frame(second)})
    counted = said.groupby(["a", "b"]).size()
    for one in CODES:
        for other in CODES:
            assert found.transitions[one][other] == counted.get((one, other), 0)
    assert found.changed == int((said["a"] != said["b"]).sum())
    assert found.kappa == pytest.approx(cohen_kappa_score(said["a"], said["b"]))
    assert found.prevalence["E1"].difference == pytest.approx(
        float((said["b"] == "E1").mean() - (said["a"] == "E1").mean())
    )


def test_the_paired_interval_is_that_of_resampling_occupations_by_hand(
    pair: tuple[Run, Run, Answers, Answers],
) -> None:
    a, b, first, second = pair
    found = compare(a, b, draws=1000, seed=3).measures["beta"]
    change = frame(second).map(VALUE) - frame(first).map(VALUE)
    codes = np.array([code for code, _ in change.index])
    names = np.unique(codes)
    counts = occupation_draws(codes, 1000, 3).counts
    drawn = []
    for count in counts[:1000]:
        picked = np.concatenate(
            [np.tile(change.to_numpy()[codes == name], int(n)) for name, n in zip(names, count, strict=True)]
        )
        drawn.append(picked.mean())
    assert found.difference == pytest.approx(float(change.mean()))
    assert found.ci95 is not None
    # Twelve occupations: the percentiles lie outside the plain ones, and not far.
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.ci95[0] < low < high < found.ci95[1]
    against = evaluate(b, load_gold(str(a.folder)), draws=1000, seed=3, yardsticks=False).measures["beta"]
    assert (against.n, against.ci95["difference"]) == (len(change), found.ci95)
    assert np.min(drawn) <= found.ci95[0]
    assert found.ci95[1] <= np.max(drawn)


def test_a_paired_interval_is_narrower_than_two_apart(pair: tuple[Run, Run, Answers, Answers]) -> None:
    a, b, first, _ = pair
    small = compare(a, b, draws=400).measures["beta"].ci95
    codes = np.array([code for code, _ in frame(first).index])
    spread = pd.Series(frame(first).map(VALUE).to_numpy()).groupby(codes).mean().std() / np.sqrt(12)
    assert small is not None
    assert small[1] - small[0] < 2 * 1.96 * np.sqrt(2) * spread * 1.5


def test_flips_are_listed_by_their_effect_on_the_occupation(make_run: MakeRun) -> None:
    few = {("11-1011.00", "1"): "E0", ("11-1011.00", "2"): "E0"}
    many = {("13-1011.00", str(n)): "E0" for n in range(10, 20)}
    first = {key: {"three-way": code} for key, code in (few | many).items()}
    second = first | {
        ("13-1011.00", "10"): {"three-way": "E1"},  # a tenth of its occupation, wholly
        ("11-1011.00", "1"): {"three-way": "E2"},  # half of its occupation, by half
    }
    document = compare(make_run(first, name="a", rubric="eloundou"), make_run(second, name="b", rubric="eloundou"))
    assert [(flip.task_id, flip.effect) for flip in document.flips] == [
        ("1", pytest.approx(0.25)),
        ("10", pytest.approx(0.1)),
    ]
    assert document.flips[0].change == {"alpha": 0.0, "beta": 0.5, "gamma": 1.0}
    assert [(move.onet_soc_code, move.flips) for move in document.occupations] == [("11-1011.00", 1), ("13-1011.00", 1)]
    assert document.occupations[0].measures["gamma"] == (0.0, 0.5)


def test_a_run_against_itself_has_not_changed(pair: tuple[Run, Run, Answers, Answers]) -> None:
    document = compare(pair[0], pair[0], draws=200)
    assert document.flips == ()
    assert document.measures["beta"].difference == 0
    assert document.measures["beta"].ci95 == (0, 0)


def test_only_common_tasks_count(make_run: MakeRun) -> None:
    first = labels_of(1, 40)
    second = dict(list(first.items())[10:]) | {("11-1000.00", "x"): {"three-way": "E1"}}
    document = compare(make_run(first, name="a", rubric="eloundou"), make_run(second, name="b", rubric="eloundou"))
    assert (document.common, document.only) == (30, (10, 1))
    with pytest.raises(
        DataError, match=r"share no task; compare runs of the same list, --sample, --seed and --occupation"
    ):
        compare(
            make_run(first, name="c", rubric="eloundou"),
            make_run({("11-9999.00", "1"): {"three-way": "E0"}}, name="d", rubric="eloundou"),
        )


def test_runs_of_both_rubrics_meet_in_what_they_share(make_run: MakeRun) -> None:
    keys = [("11-1011.00", str(n)) for n in range(4)]
    two = {key: {"strict": n < 1, "with-tools": n < 3} for n, key in enumerate(keys)}
    one = {key: {"three-way": code} for key, code in zip(keys, ("E1", "E2", "E0", "E0"), strict=True)}
    document = compare(make_run(two, name="a"), make_run(one, name="b", rubric="eloundou"), draws=200)
    assert document.verdict.startswith("The rubrics differ: exposure version 2 in ")
    assert document.settings["three-way"].changed == 1
    assert document.settings["strict"].changed == 0
    assert document.settings["with-tools"].changed == 1


def test_a_gold_tells_what_became_better_and_what_worse(make_run: MakeRun, write_gold: Callable[[str], Path]) -> None:
    keys = [("11-1011.00", str(n)) for n in range(1, 5)]
    sides = [dict(zip(keys, codes, strict=True)) for codes in (("E0", "E1", "E2", "E0"), ("E0", "E2", "E1", "E0"))]
    runs = [
        make_run({k: {"three-way": c} for k, c in side.items()}, name=name, rubric="eloundou")
        for side, name in zip(sides, "ab", strict=True)
    ]
    gold = read_gold_csv(write_gold("task_id,code\n1,E0\n2,E2\n3,E1\n4,E2\n"))
    against = compare(runs[0], runs[1], gold, draws=200).against_gold["three-way"]
    assert (against.n, against.better, against.worse) == (4, 2, 0)
    assert against.metrics["accuracy"].difference == pytest.approx(0.5)


def test_several_runs_are_held_against_each_other_and_their_majority(make_run: MakeRun) -> None:
    first = labels_of(1)
    runs = [make_run(changed(first, seed), name=f"r{seed}", rubric="eloundou") for seed in (11, 12, 13)]
    said = pd.DataFrame({n: frame(changed(first, seed)) for n, seed in enumerate((11, 12, 13))})
    document = compare_several(runs, draws=200)
    found = document.settings["three-way"]
    assert [(p.first, p.second) for p in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in found.pairs:
        assert pair.kappa == pytest.approx(cohen_kappa_score(said[pair.first], said[pair.second]))
    votes = pd.DataFrame({code: (said == code).sum(axis=1) for code in CODES})
    tied = votes.eq(votes.max(axis=1), axis=0).sum(axis=1) > 1
    assert found.majority.tied == int(tied.sum())
    assert found.majority.labels == {code: int((votes.idxmax(axis=1)[~tied] == code).sum()) for code in CODES}
    assert found.majority.unanimous == pytest.approx(float((said.nunique(axis=1) == 1).mean()))
    spreads = [task.spread for task in document.disputed]
    assert len(spreads) == int((said.nunique(axis=1) > 1).sum())
    assert all(a >= b for a, b in pairwise(spreads))


def test_among_several_runs_too_each_task_counts_by_the_weight_of_the_gold(make_run: MakeRun, tmp_path: Path) -> None:
    first = labels_of(1)
    sides = [changed(first, seed) for seed in (11, 12, 13)]
    runs = [make_run(side, name=f"r{n}", rubric="eloundou") for n, side in enumerate(sides)]
    # The gold knows two of three tasks, and weighs those of one label heavily.
    known = {key: said["three-way"] for n, (key, said) in enumerate(changed(first, 14).items()) if n % 3}
    weight = [5.0 if code == "E1" else 0.5 for code in known.values()]
    rows = [(task, code, said, by) for ((code, task), said), by in zip(known.items(), weight, strict=True)]
    columns = ["task_id", "onet_soc_code", "code", "weight"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "g.csv", index=False)
    gold = read_gold_csv(tmp_path / "g.csv")
    several = compare_several(runs, gold, draws=200).settings["three-way"]
    truth = list(known.values())
    said = pd.DataFrame({n: frame(side).loc[list(known)] for n, side in enumerate(sides)})
    for n, standing in enumerate(several.runs):
        assert standing.gold_accuracy == pytest.approx(accuracy_score(truth, said[n], sample_weight=weight))
        assert standing.gold_kappa == pytest.approx(cohen_kappa_score(truth, said[n], sample_weight=weight))
    two = compare(runs[0], runs[1], gold, draws=200).against_gold["three-way"].metrics["accuracy"]
    assert (two.first, two.second) == pytest.approx([standing.gold_accuracy for standing in several.runs[:2]])
    most = said.mode(axis=1)
    voted = most[0].where(most.notna().sum(axis=1) == 1)
    right = np.average(voted == truth, weights=weight)
    assert several.majority.gold_accuracy == pytest.approx(right)
    assert right != pytest.approx(float((voted == truth).mean()), abs=0.02)


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["compare"])


def test_json_and_html_go_where_they_are_told(
    app: typer.Typer, pair: tuple[Run, Run, Answers, Answers], tmp_path: Path
) -> None:
    runs = [str(run.folder) for run in pair[:2]]
    page = tmp_path / "c.html"
    result = CliRunner().invoke(app, ["compare", *runs, "--json", "--html", str(page), "--draws", "200"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == "pair"
    assert page.read_text().startswith("<!doctype html>")
    assert str(page) in result.stderr


def test_people_see_the_verdict_first_within_100_columns(
    app: typer.Typer, pair: tuple[Run, Run, Answers, Answers]
) -> None:
    result = CliRunner().invoke(app, ["compare", *(str(run.folder) for run in pair[:2]), "--draws", "200"])
    lines = result.stdout.splitlines()
    assert "Verdict" in lines[:4]
    assert max(map(len, lines[1:])) <= 100


def test_three_runs_are_shown_in_pairs(app: typer.Typer, pair: tuple[Run, Run, Answers, Answers]) -> None:
    runs = [str(run.folder) for run in (*pair[:2], pair[0])]
    result = CliRunner().invoke(app, ["compare", *runs, "--draws", "200"])
    assert result.exit_code == 0, result.output
    assert "1 and 3" in result.stdout
    assert "Tasks with most disagreement" in result.stdout


def test_identical_runs_are_said_to_be_identical(make_run: MakeRun) -> None:
    first = labels_of(1)
    runs = [make_run(first, name=name, rubric="eloundou") for name in "abc"]
    assert "The runs are identical" in compare(runs[0], runs[1], draws=200).verdict
    assert "may be chance" not in compare(runs[0], runs[1], draws=200).verdict
    assert "the runs are identical" in compare_several(runs, draws=200).verdict


def test_changed_tasks_and_occupations_are_shown_with_their_words(app: typer.Typer, tmp_path: Path) -> None:
    rows = [line.split(",") for line in SAMPLE_GOLD.read_text(encoding="utf-8").splitlines()]
    at = [rows[0].index(name) for name in ("task_id", "onet_soc_code")]
    (tmp_path / "o.csv").write_text(
        "task_id,onet_soc_code,label\n" + "".join(f"{row[at[0]]},{row[at[1]]},E0\n" for row in rows[1:])
    )
    assert run_app(["import", str(tmp_path / "o.csv"), "--model", "m", "--rubric", "eloundou", "--tasks", "sample",
                    "--out", str(tmp_path / "other")]) == 0  # fmt: skip
    result = CliRunner().invoke(app, ["compare", "sample", str(tmp_path / "other"), "--draws", "200"])
    assert "Software Developers" in result.stdout
    changed = result.stdout.split("Changed tasks that move")[1]
    texts = task_table("sample")["text"]
    assert any(text[:20] in changed for text in texts)


def test_one_run_is_not_enough(app: typer.Typer) -> None:
    assert isinstance(CliRunner().invoke(app, ["compare", "sample"]).exception, UsageError)


@pytest.mark.mirror
def test_the_published_sets_compare_to_their_known_figures() -> None:
    runs = [open_run(f"eloundou-2023:{name}") for name in ("gpt4", "human")]
    document = compare(
        runs[0], runs[1], load_gold("eloundou-2023:gpt4"), details=task_table("eloundou-2023"), draws=300
    )
    found = document.settings["three-way"]
    assert (found.n, found.changed) == (19265, 6620)
    assert found.agreement == pytest.approx(0.6564, abs=5e-5)
    assert found.kappa == pytest.approx(0.4367, abs=5e-5)
    assert found.agreement_ci95 is not None
    # The standard error clustered by occupation is .0059.
    assert found.agreement_ci95[1] - found.agreement_ci95[0] == pytest.approx(2 * 1.96 * 0.0059, rel=0.12)
    accuracy = document.against_gold["three-way"].metrics["accuracy"]
    assert (accuracy.first, accuracy.difference) == (1.0, pytest.approx(0.6564 - 1, abs=5e-5))
    assert sum(part.n for part in document.slices["soc_major"].values()) == 19265
    assert set(document.slices["task_type"]) == {"Core", "Supplemental", "not stated"}


def test_several_annotators_of_a_task_do_not_count_it_several_times_for_the_runs(
    pair: tuple[Run, Run, Answers, Answers], make_run: MakeRun, write_gold: Callable[[str], Path]
) -> None:
    """With `--gold-rule distribution` the gold has a row per annotator; figures of the runs alone must not change."""
    a, b, first, _ = pair
    lines = [
        f"{task},{code},{label},{who}" for code, task in list(first)[:60] for label, who in (("E0", "x"), ("E1", "y"))
    ]
    path = write_gold("task_id,onet_soc_code,label,annotator\n" + "\n".join(lines) + "\n")
    gold = read_gold_csv(path, "distribution")
    without, with_gold = (compare(a, b, reference, draws=200) for reference in (None, gold))
    alone = {"settings", "measures", "only", "common", "slices", "occupations", "flips"}
    assert with_gold.model_dump(include=alone) == without.model_dump(include=alone)
    assert with_gold.against_gold["three-way"].n == 60
    c = make_run(labels_of(3), name="c", rubric="eloundou")
    several, judged = (compare_several([a, b, c], reference, draws=200) for reference in (None, gold))
    assert judged.alone == several.alone == (0, 0, 0)
    assert judged.settings["three-way"].pairs == several.settings["three-way"].pairs
    assert judged.settings["three-way"].majority.tied == several.settings["three-way"].majority.tied
    # Each task has a label E0 and a label E1, of half the weight each.
    shares = frame(first).head(60).isin(["E0", "E1"]).mean() / 2
    assert judged.settings["three-way"].runs[0].gold_accuracy == pytest.approx(shares)


def test_a_run_that_was_stopped_in_its_first_setting_is_compared_in_that_one(make_run: MakeRun) -> None:
    tasks = [(f"11-{1000 + i}.00", str(i)) for i in range(24)]
    whole = {key: {"strict": i % 2 == 0, "with-tools": True} for i, key in enumerate(tasks)}
    begun = {key: {"strict": i % 3 == 0} for i, key in enumerate(tasks[:12])}
    stopped = make_run(begun, name="stopped", failed=[(*key, "with-tools") for key in tasks])
    runs = [stopped, *(make_run(whole, name=name) for name in ("a", "b"))]
    found = compare(runs[0], runs[1], draws=200)
    assert (found.main_setting, list(found.settings)) == ("strict", ["strict"])
    assert "the runs agree on 50.0% of 12 tasks" in found.verdict
    missing = "Of the 24 tasks asked in stopped, 12 (50%) have no strict label, 24 (100%) have no with-tools label"
    assert missing in found.verdict
    assert missing in compare_several(runs, draws=200).verdict
    assert "50.0% of 12 tasks have one label in all 3 runs" in compare_several(runs, draws=200).verdict
    nothing = make_run({tasks[0]: {"with-tools": True}}, name="n", failed=[(*tasks[0], "strict")])
    assert "No task has a label in both runs." in compare(stopped, nothing, draws=200).verdict
