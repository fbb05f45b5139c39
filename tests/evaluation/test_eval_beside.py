"""What stands beside a run's figures: slices, yardsticks, weights, worked examples, calibration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss

from relabel.errors import DataError
from relabel.evaluation.compare import compare
from relabel.evaluation.document import EvalDocument, SettingName
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.evaluation.yardsticks import FOLDS, cached_predictions, reliability, self_agreement
from relabel.rubric import Rubric, load_rubric
from relabel.run import open_run
from relabel.task import task_table
from run_builders import MakeRun, a_label, a_run

WriteGold = Callable[[str | bytes], Path]
briefly = partial(evaluate, draws=0, yardsticks=False)
CODES = [f"{major}-1011.00" for major in range(11, 37, 2)]


@pytest.fixture(scope="module")
def published() -> EvalDocument:
    """GPT-4 against people on all tasks of 2023, whole."""
    return evaluate(open_run("eloundou-2023:gpt4"), load_gold("eloundou-2023:human"), draws=400)


@pytest.fixture(scope="module")
def alternative() -> EvalDocument:
    """GPT-4's second labels against its first on 50 draws: the classifier is trained on GPT-4's labels."""
    return evaluate(open_run("eloundou-2023:gpt4-alt"), load_gold("eloundou-2023:gpt4"), draws=50)


def test_a_worked_example_in_the_gold_is_refused(coded_run: MakeRun, write_gold: WriteGold) -> None:
    example = load_rubric("eloundou").examples[0].task
    assert example is not None
    gold = read_gold_csv(write_gold(f'task_id,code,text\n1,E0,Anything.\n2,E1,"  {example.upper()} "\n'))
    with pytest.raises(DataError, match=r"task '2' of the gold .* is a worked example of the rubric eloundou"):
        briefly(coded_run("E0 E1"), gold)


@pytest.mark.parametrize(
    "written",
    [
        "Count the stock (daily), and  e-mail it.",
        "count the stock daily and email it",
        "Count the stock daily—and	e-mail it…",
    ],
)
def test_a_worked_example_is_found_however_it_is_punctuated(
    make_run: MakeRun, write_gold: WriteGold, written: str
) -> None:
    rubric = load_rubric("eloundou")
    example = rubric.examples[0].model_copy(update={"task": "Count the stock daily, and e-mail it."})
    changed = Rubric.model_validate(rubric.model_dump() | {"examples": [example.model_dump()]})
    run = make_run({("11-1011.00", "1"): {"three-way": "E0"}}, rubric=changed)
    with pytest.raises(DataError, match="is a worked example of the rubric eloundou"):
        briefly(run, read_gold_csv(write_gold(f'task_id,code,text\n1,E0,"{written}"\n')))


def test_a_worked_example_is_found_by_its_id_where_the_gold_has_no_texts(make_run: MakeRun) -> None:
    shown = task_table("sample").iloc[3]
    rubric = load_rubric("eloundou")
    example = rubric.examples[0].model_copy(update={"task": shown["text"]})
    changed = Rubric.model_validate(rubric.model_dump() | {"examples": [example.model_dump()]})
    key = (shown["onet_soc_code"], shown["task_id"])
    run = make_run({key: {"three-way": "E0"}}, rubric=changed, tasks="sample")
    with pytest.raises(DataError, match=f"the task '{shown['task_id']}' of the gold sample is a worked example"):
        briefly(run, load_gold("sample"))


def test_weights_of_the_gold_count_in_figures_but_not_in_counts(coded_run: MakeRun, write_gold: WriteGold) -> None:
    run = coded_run("E0 E1 E0")
    plain = briefly(run, read_gold_csv(write_gold("id,label\n1,E0\n2,E1\n3,E1\n")))
    weighted = briefly(run, read_gold_csv(write_gold("id,label,weight\n1,E0,1\n2,E1,1\n3,E1,8\n")))
    assert (plain.weighted, weighted.weighted) == (False, True)
    one, other = plain.settings["three-way"], weighted.settings["three-way"]
    assert one.accuracy == pytest.approx(2 / 3)
    assert other.accuracy == pytest.approx(0.2)
    assert other.confusion == one.confusion
    assert weighted.measures["alpha"].gold_mean == pytest.approx(0.9)
    assert weighted.yardsticks.majority["three-way"].accuracy == pytest.approx(0.9)
    assert weighted.yardsticks.majority["three-way"].difference == pytest.approx(0.2 - 0.9)


def test_repeats_are_compared_with_each_other(tmp_path: Path) -> None:
    answers = {"1": ["E0", "E0", "E0"], "2": ["E0", "E1", "E1"]}
    labels = [
        a_label(task, "three-way", label, sample) for task, said in answers.items() for sample, label in enumerate(said)
    ]
    run = a_run(tmp_path / "run", labels, rubric="eloundou", parameters={"samples": 3})
    found = self_agreement(run, None)
    assert found is not None
    assert found.samples == 3
    # Three pairs of the first task agree, one of three of the second.
    assert found.settings["three-way"].model_dump(include={"pairs", "run"}) == {"pairs": 6, "run": pytest.approx(4 / 6)}


def test_yardsticks_that_the_data_do_not_allow_are_null(coded_run: MakeRun, write_gold: WriteGold) -> None:
    found = evaluate(coded_run("E0 E1"), read_gold_csv(write_gold("id,label\n1,E0\n2,E1\n")), draws=0)
    beside = found.yardsticks
    assert (beside.text_classifier, beside.consistency, beside.self_agreement) == (None, None, None)
    assert list(found.slices) == ["major-group"]
    assert found.intervals is None
    assert found.calibration is None


def test_figures_of_a_perfectly_calibrated_and_of_a_boastful_set() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0, 1, 4000)
    right = rng.random(4000) < probability
    fair = reliability(probability, right, np.ones(4000), None)
    assert fair.brier == pytest.approx(brier_score_loss(right, probability))
    assert fair.ece < 0.03
    assert [b.n for b in fair.bins] == np.histogram(probability, np.linspace(0, 1, 11))[0].tolist()
    boast = reliability(np.full(10, 1.0), np.arange(10) < 6, np.ones(10), None)
    assert (boast.brier, boast.ece, boast.accuracy) == (pytest.approx(0.4), pytest.approx(0.4), pytest.approx(0.6))
    assert [(b.low, b.high, b.n) for b in boast.bins] == [(0.9, 1.0, 10)]


def test_a_label_counts_once_although_two_annotators_judge_it() -> None:
    twice = reliability(np.array([0.9, 0.9, 0.2]), np.array([1, 0, 1]), np.ones(3), None, np.array([True, False, True]))
    assert (twice.n, [part.n for part in twice.bins]) == (2, [1, 1])


def test_probabilities_of_a_run_are_held_against_the_gold(tmp_path: Path, write_gold: WriteGold) -> None:
    labels = [a_label(str(i), "three-way", "E0", code=code, probability=0.8) for i, code in enumerate(CODES)]
    run = a_run(tmp_path / "run", labels, rubric="eloundou")
    lines = [f"{i},{code},{'E0' if i % 2 else 'E1'}" for i, code in enumerate(CODES)]
    document = evaluate(run, read_gold_csv(write_gold("\n".join(["id,onet_soc_code,label", *lines]))), draws=300)
    assert document.calibration is not None
    found = document.calibration["three-way"]
    assert (found.n, found.probability, found.accuracy) == (13, pytest.approx(0.8), pytest.approx(6 / 13))
    assert found.ece == pytest.approx(0.8 - 6 / 13)
    low, high = found.ci95["accuracy"] or (1, 0)
    assert low < 6 / 13 < high


@pytest.mark.mirror
def test_slices_part_the_tasks_and_add_up(published: EvalDocument) -> None:
    assert list(published.slices) == ["major-group", "task-type", "importance", "text-length"]
    for parts in published.slices.values():
        assert sum(part.n for part in parts) == 19265
        found = [(part.n, part.settings["three-way"]) for part in parts]
        assert sum(n * (of.accuracy or 0) for n, of in found) / 19265 == pytest.approx(0.6564, abs=5e-5)
        for of in (of for _, of in found if of.ci95["accuracy"] is not None):
            low, high = of.ci95["accuracy"] or (1, 0)
            assert low <= (of.accuracy or -1) <= high
    groups = {part.value: part for part in published.slices["major-group"]}
    assert groups["15"].title == "Computing and mathematics"
    assert groups["15"].n == 771
    assert groups["23"].occupations == 7
    low, high = groups["23"].settings["three-way"].ci95["accuracy"] or (0, 0)
    assert 0.1 < high - low < 0.5  # seven occupations give an interval, and a wide one
    assert published.slices["task-type"][2].n == 1312


@pytest.mark.mirror
def test_every_figure_of_the_settings_has_its_interval_around_it(published: EvalDocument) -> None:
    for found in published.settings.values():
        for name in ("accuracy", "kappa", "kappa_quadratic", "krippendorff_nominal", "ac1", "macro_f1"):
            low, high = found.ci95[name] or (1, 0)
            assert low < getattr(found, name) < high
    low, high = published.settings["three-way"].ci95["accuracy"] or (1, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.006, rel=0.12)
    alpha = published.occupations.alpha
    assert alpha is not None
    low, high = alpha.ci95["spearman"] or (1, 0)
    assert low < (alpha.spearman or -2) < high


@pytest.mark.mirror
def test_texts_that_repeat_are_labelled_alike_nearly_always(published: EvalDocument) -> None:
    found = published.yardsticks.consistency
    assert found is not None
    assert found.texts == 408
    three = found.settings["three-way"]
    assert three.run == pytest.approx(0.91, abs=0.005)
    assert three.gold == pytest.approx(0.89, abs=0.005)
    assert published.yardsticks.raters is None  # the run and the gold are the two themselves


@pytest.mark.mirror
def test_a_word_count_reaches_what_it_is_known_to_reach(alternative: EvalDocument) -> None:
    classifier = alternative.yardsticks.text_classifier
    assert classifier is not None
    assert (classifier.trained_on, classifier.folds, classifier.seed) == (2000, 5, 0)
    three = classifier.settings["three-way"]
    assert three.n == 19265
    assert three.accuracy == pytest.approx(0.766, abs=0.01)
    assert three.kappa == pytest.approx(0.61, abs=0.015)
    # .760 and .601 of the run itself: the verdict must not call that better.
    assert "about as close to the gold as a word count trained on 2,000 gold labels" in alternative.verdict


@pytest.mark.mirror
def test_the_raters_of_2023_stand_beside_a_run(alternative: EvalDocument) -> None:
    found = alternative.yardsticks.raters
    assert found is not None
    assert found.settings["three-way"].kappa == pytest.approx(0.4367, abs=5e-5)
    assert "closer to the gold than the annotators and GPT-4 of 2023 are to each other" in alternative.verdict


@pytest.mark.mirror
@pytest.mark.parametrize(("setting", "column"), [("strict", "strict"), ("with-tools", "with_tools")])
def test_a_word_count_stands_beside_a_run_of_one_setting(make_run: MakeRun, setting: SettingName, column: str) -> None:
    said = open_run("eloundou-2023:gpt4").coded().sample(400, random_state=0)
    answers = {
        (code, task): {setting: bool(label)}
        for code, task, label in said[["onet_soc_code", "task_id", column]].itertuples(index=False)
    }
    run = make_run(answers, settings=[setting], tasks="eloundou-2023")
    beside = evaluate(run, load_gold("eloundou-2023:human"), draws=0).yardsticks
    assert beside.text_classifier is not None
    assert beside.text_classifier.trained_on == 2000
    assert list(beside.text_classifier.settings) == [setting]
    found = beside.text_classifier.settings[setting]
    assert found.n == 400
    assert 0.1 < (found.kappa or 0) < 0.7  # better than chance, and words do not tell all
    assert beside.raters is not None
    assert beside.raters.settings[setting].kappa_difference == pytest.approx(0)


def test_labels_of_the_word_count_are_kept_and_made_anew_where_they_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path))
    texts = [f"{'write code' if n % 2 else 'lift boxes'} number {n}" for n in range(300)]
    pool = pd.DataFrame({"text": texts, "fold": [n % FOLDS for n in range(300)]})
    labels: dict[SettingName, np.ndarray] = {"strict": np.arange(300) % 2}
    made = cached_predictions(pool, labels, 0)["strict"]
    assert made.tolist() == labels["strict"].tolist()
    (kept,) = (tmp_path / "data" / "word-counts").iterdir()
    again = cached_predictions(pool, labels, 0)["strict"]
    assert again.tolist() == made.tolist()
    kept.write_bytes(b"not a table")
    assert cached_predictions(pool, labels, 0)["strict"].tolist() == made.tolist()
    cached_predictions(pool, labels, 1)
    assert len(list(kept.parent.iterdir())) == 2


def test_the_means_of_a_run_with_repeats_are_those_that_score_gives(tmp_path: Path) -> None:
    answers = {"1": "E1 E0", "2": "E0 E0", "3": "E1 E1", "4": "E2 E0"}
    labels = [a_label(t, "three-way", label, n) for t, said in answers.items() for n, label in enumerate(said.split())]
    run = a_run(tmp_path / "run", labels, rubric="eloundou", parameters={"samples": 2})
    once = a_run(tmp_path / "once", [a_label(t, "three-way", answers[t][:2]) for t in answers], rubric="eloundou")
    found = briefly(run, load_gold(str(once.folder)))
    assert {m: x.mean for m, x in found.measures.items()} == {"alpha": 0.375, "beta": 0.4375, "gamma": 0.5}
    # The labels are still those of the majority, where a tie is the less exposed label.
    assert found.measures["alpha"].agreement == found.settings["strict"].accuracy == 0.75
    assert briefly(once, load_gold(str(run.folder))).measures["gamma"].gold_mean == 0.5
    moved = compare(run, once, draws=0)
    assert moved.measures["gamma"].difference == pytest.approx(0.75 - 0.5)
    assert [flip.task_id for flip in moved.flips] == ["1", "4"]
    for verdict in (found.verdict, moved.verdict):
        assert "2 labels of run are ties between a task's answers and count as the less exposed label" in verdict
    assert "ties" not in briefly(once, load_gold(str(once.folder))).verdict
