"""What must be known before figures are read: cached repeats, several models, several annotators, changed rubrics and texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from relabel.cli.app import run_app
from relabel.errors import DataError
from relabel.evaluation.alignment import match
from relabel.evaluation.compare import compare
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gates import judge
from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.evaluation.suite import Suite
from relabel.labels import Answer, Usage, fingerprint
from relabel.run import Run, is_cached_repeat
from relabel.task import REPLACED_BELOW, load_tasks, text_similarity
from run_builders import MakeRun

WriteGold = Callable[[str | bytes], Path]
A, B = "11-1011.00", "53-7065.00"


def _samples(*rows: tuple[str, int, str, str | None]) -> pd.DataFrame:
    """Labels by task, sample, label and id of the answer, all of one occupation and setting."""
    table = pd.DataFrame(rows, columns=["task_id", "sample", "label", "answer_id"])
    keys = table["task_id"] + "-" + table["sample"].astype(str)
    return table.assign(onet_soc_code=A, setting="strict", request_key=keys)


def test_samples_with_one_answer_are_no_repeats() -> None:
    labels = _samples(
        ("1", 0, "x", "a"), ("1", 1, "x", "a"), ("1", 2, "x", "b"), ("2", 0, "x", "c"), ("2", 1, "y", "d")
    )
    assert is_cached_repeat(labels).tolist() == [False, True, False, False, False]


def test_an_id_that_a_server_gives_to_different_questions_says_nothing() -> None:
    labels = _samples(*((task, sample, "x", "same") for task in "12" for sample in (0, 1)))
    assert not is_cached_repeat(labels).any()
    # Two tasks with one text are one question: they share the request, and its answers.
    shared = labels.assign(request_key=["k0", "k1", "k0", "k1"])
    assert is_cached_repeat(shared).tolist() == [False, True, False, True]


def test_the_same_words_from_before_they_were_asked_for_are_no_repeats_whatever_their_ids() -> None:
    rows = [
        ("1", 0, "x", "a-w1"),
        ("1", 1, "x", "b-w1-old"),
        ("1", 2, "x", "c-w2"),
        ("2", 0, "x", "d-w3"),
        ("2", 1, "x", "e"),
    ]
    assert is_cached_repeat(_samples(*rows)).tolist() == [False, True, False, False, False]
    # Words that other questions got in that second, too, say nothing.
    assert not is_cached_repeat(_samples(*rows, ("3", 0, "x", "f-w1"))).any()


def test_the_same_words_in_the_second_of_the_question_are_repeats_of_their_own() -> None:
    """A model at temperature 0 says the same to each sample; its ids differ."""
    assert not is_cached_repeat(_samples(*(("1", sample, "x", f"{sample}-w1") for sample in range(3)))).any()
    # The answer that was stored may be of a later sample: of several in flight any may be the first.
    turned = _samples(("1", 0, "x", "a-w1-old"), ("1", 1, "x", "b-w1"))
    assert is_cached_repeat(turned).tolist() == [True, False]


def _answer(text: str, **raw: Any) -> str:
    usage = Usage()
    return fingerprint(
        Answer(
            request_key="k",
            content=text,
            finish_reason="stop",
            model_returned="m",
            usage=usage,
            attempts=1,
            latency_s=1,
            created_at="2026-11-01T00:00:00Z",
            cost_usd=None,
            raw=raw,
        )
    )


def test_an_answer_is_known_by_its_id_and_by_its_words_and_time() -> None:
    long = '{"rationale": "Most of the work is done with the hands.", "label": "E0"}'
    sent = 1_793_491_199  # a second before 2026-11-01, as the answer took one
    first, other_id = (_answer(long, id=name, created=1_760_000_000).split("-") for name in "ab")
    assert first[2:] == ["old"]
    assert (
        len(_answer(long, id="a", created=sent - 1).split("-")) == 2
    )  # a time in whole seconds is up to one too early
    assert _answer(long, id="a", created=sent - 2).endswith("-old")
    assert first[0] != other_id[0]
    assert first[1] == other_id[1]
    assert _answer(long, id="a", created=1_760_000_001).split("-")[1] != first[1]
    # A bare label is the same by chance, and 1 is not the time.
    assert "-" not in _answer('{"label": "E0"}', id="a", created=1_760_000_000)
    assert "-" not in _answer(long, id="a", created=1)


def test_labels_without_ids_are_taken_as_they_are() -> None:
    labels = _samples(("1", 0, "x", None), ("1", 1, "x", None))
    assert not is_cached_repeat(labels).any()
    assert not is_cached_repeat(labels.drop(columns="answer_id")).any()


def _two_models(make_run: MakeRun) -> Run:
    """Model m-1 is right on 20 tasks, m-2 wrong on 10."""
    run = make_run({(A, str(i)): {"three-way": "E1"} for i in range(30)}, rubric="eloundou")
    return replace(
        run, labels=run.labels.assign(model_returned=np.where(run.labels["task_id"].astype(int) < 20, "m-1", "m-2"))
    )


def test_two_models_that_answered_one_run_are_counted_said_first_and_told_apart(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    run = _two_models(make_run)
    gold = read_gold_csv(
        write_gold("task_id,onet_soc_code,code\n" + "".join(f"{i},{A},{'E1' if i < 20 else 'E0'}\n" for i in range(30)))
    )
    document = evaluate(run, gold, draws=200, yardsticks=False, by_model=True)
    assert document.models == {"m-1": 20, "m-2": 10}
    assert document.verdict.splitlines()[0].startswith("2 models answered this run (labels by model: m-1: 20, m-2: 10)")
    assert document.by_model is not None
    assert {m: of["three-way"].accuracy for m, of in document.by_model.items()} == {"m-1": 1.0, "m-2": 0.0}
    assert evaluate(run, gold, draws=200, yardsticks=False).by_model is None


ANNOTATED = """task_id,onet_soc_code,label,annotator
1,{A},E1,ann
1,{A},E1,bob
1,{A},E0,cem
2,{A},E0,ann
2,{A},E0,bob
2,{A},E0,cem
3,{A},E2,ann
3,{A},E0,bob
"""


def test_several_annotators_make_a_gold_by_majority_or_by_their_shares(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    path = write_gold(ANNOTATED.replace("{A}", A))
    run = make_run({(A, str(i)): {"three-way": c} for i, c in ((1, "E1"), (2, "E0"), (3, "E2"))}, rubric="eloundou")
    majority = read_gold_csv(path)
    assert majority.table.set_index("task_id")["code"].fillna("-").to_dict() == {"1": "E1", "2": "E0", "3": "-"}
    assert majority.table.set_index("task_id")["strict"].tolist()[:2] == [True, False]
    assert majority.tied == 1
    document = evaluate(run, majority, draws=0, yardsticks=False)
    assert (document.matched, document.settings["three-way"].accuracy) == (2, 1.0)
    assert document.verdict.startswith("The gold's annotators tie on 1 of its tasks, which are left out")
    shares = evaluate(run, read_gold_csv(path, "distribution"), draws=0, yardsticks=False)
    # Two of three, three of three, and one of two annotators agree with the run.
    assert (shares.matched, shares.settings["three-way"].accuracy) == (3, pytest.approx((2 / 3 + 1 + 1 / 2) / 3))
    assert "tie" not in shares.verdict
    # Of the pairs of values, 5/18 differ; of those by chance, from 17/6 E0, 10/6 E1 and 9/6 E2, 826/1080.
    assert shares.settings["three-way"].krippendorff_nominal == pytest.approx(1 - (5 / 18) / (826 / 1080))
    # There are eight labels, but figures rest on three tasks.
    assert {shares.settings["three-way"].n, *(part.n for part in shares.slices["major-group"])} == {3}
    assert shares.slices["major-group"][0].settings["three-way"].n == 3
    gate = {"id": "g", "setting": "three-way", "metric": "accuracy", "min": 0.1}
    suite = Suite.model_validate({"name": "s", "gates": [gate]})
    assert judge(suite, run, read_gold_csv(path, "distribution"), None).results[0].n == 3


def test_annotators_may_give_codes_for_some_tasks_and_readings_for_others(write_gold: WriteGold) -> None:
    rows = ("1,{A},E2,,ann", "1,{A},E2,,bob", "2,{A},,exposed,ann", "2,{A},,exposed,bob", "3,{A},,not-exposed,ann")
    path = write_gold("\n".join(("task_id,onet_soc_code,code,strict,annotator", *rows)).replace("{A}", A) + "\n")
    table = read_gold_csv(path).table.set_index("task_id")
    assert table["strict"].to_dict() == {"1": False, "2": True, "3": False}
    assert table["code"].fillna("-").to_dict() == {"1": "E2", "2": "-", "3": "-"}


def test_a_gold_whose_annotators_all_tie_has_no_label(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"three-way": "E1"}}, rubric="eloundou")
    path = write_gold(f"task_id,onet_soc_code,label,annotator\n1,{A},E1,ann\n1,{A},E0,bob\n")
    with pytest.raises(DataError, match="no task has a label both in the run"):
        evaluate(run, read_gold_csv(path), draws=0, yardsticks=False)
    assert evaluate(run, read_gold_csv(path, "distribution"), draws=0, yardsticks=False).matched == 1


def test_the_annotators_agreement_stands_beside_the_runs(make_run: MakeRun, write_gold: WriteGold) -> None:
    """Four annotators of 200 tasks in 20 occupations, each right with a chance of .8; the run is right with one of .9."""
    rng = np.random.default_rng(3)
    codes = [f"11-{1000 + i}.00" for i in range(20)]
    tasks = [(codes[i % 20], str(i)) for i in range(200)]
    truth = rng.integers(0, 3, 200)
    names = np.array(["E0", "E2", "E1"])

    def said(chance: float) -> np.ndarray:
        return np.where(rng.random(200) < chance, truth, (truth + rng.integers(1, 3, 200)) % 3)

    votes = {who: said(0.8) for who in "abcd"}
    lines = [f"{t},{c},{names[v[i]]},{who}" for who, v in votes.items() for i, (c, t) in enumerate(tasks)]
    gold = read_gold_csv(write_gold("task_id,onet_soc_code,label,annotator\n" + "\n".join(lines) + "\n"))
    mine = said(0.9)
    run = make_run({key: {"three-way": names[mine[i]]} for i, key in enumerate(tasks)}, rubric="eloundou")
    found = evaluate(run, gold, draws=300).yardsticks.annotators
    assert found is not None
    assert (found.count, found.tasks) == (4, 200)
    of = found.settings["three-way"]
    pairs = [(votes[a] == votes[b]).mean() for a in "abcd" for b in "abcd" if a < b]
    with_run = [(votes[a] == mine).mean() for a in "abcd"]
    assert of.accuracy == pytest.approx(np.mean(pairs))
    assert of.accuracy_difference == pytest.approx(np.mean(with_run) - np.mean(pairs))
    low, high = of.ci95["accuracy"] or (1, 0)
    # Two annotators agree where both are right, or wrong in the same of two ways.
    assert low < 0.8**2 + 0.2**2 / 2 < high
    assert found.krippendorff_nominal["three-way"] == pytest.approx(0.49, abs=0.1)
    assert "to a single annotator as the gold's annotators are to" in evaluate(run, gold, draws=300).verdict


def test_a_difference_from_annotators_rests_on_the_occupations_that_show_one(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    # Ten occupations of a task; both annotators agree throughout, and the run differs from them in one.
    tasks = [(f"11-{1000 + i}.00", str(i)) for i in range(10)]
    agreed = ["E0", "E1"] * 5
    lines = [f"{t},{c},{agreed[i]},{who}" for who in "ab" for i, (c, t) in enumerate(tasks)]
    gold = read_gold_csv(write_gold("task_id,onet_soc_code,label,annotator\n" + "\n".join(lines) + "\n"))
    run = make_run({key: {"three-way": agreed[max(i, 1)]} for i, key in enumerate(tasks)}, rubric="eloundou")
    found = evaluate(run, gold, draws=5000).yardsticks.annotators
    assert found is not None
    of = found.settings["three-way"]
    assert of.accuracy_difference == pytest.approx(-0.1)
    # By hand: occupation 1 is drawn c times of ten, c binomial, so the error of -c / 10 is sqrt(.9) / 10; with a single
    # occupation to go by, t has one degree of freedom (12.7062), on the logit of (-.1 + 1) / 2 = .45.
    reach = 12.7062 * 0.9**0.5 / 10 / 2 / (0.45 * 0.55)
    middle = np.log(0.45 / 0.55)
    ends = [2 / (1 + np.exp(-(middle + way * reach))) - 1 for way in (-1, 1)]
    assert of.ci95["accuracy_difference"] == pytest.approx(ends, abs=0.02)


def test_a_run_can_be_a_gold(make_run: MakeRun) -> None:
    first = make_run(
        {(A, str(i)): {"three-way": "E1"} for i in range(4)}, name="first", rubric="eloundou", engine="online"
    )
    second = make_run(
        {(A, str(i)): {"three-way": "E1" if i else "E0"} for i in range(4)}, name="second", rubric="eloundou"
    )
    gold = load_gold(str(first.folder))
    document = evaluate(second, gold, draws=0)
    assert document.settings["three-way"].accuracy == 0.75
    assert (document.sources.gold[0].source, document.debiased) == ("run", None)


def _under(run: Run, sha256: str) -> Run:
    return replace(run, manifest=run.manifest.model_copy(update={"rubric_sha256": sha256}))


def test_a_rubric_that_was_changed_under_its_old_version_is_said_first(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    labels = {(A, str(i)): {"three-way": "E1"} for i in range(4)}
    first, second = (make_run(labels, name=name, rubric="eloundou") for name in ("first", "second"))
    other = _under(second, "f" * 64)
    said = compare(first, other, draws=200).verdict.splitlines()[0]
    assert said.startswith("The rubric eloundou was changed under its old version")
    assert "ffffffffffff" in said
    assert "rubric eloundou was changed" not in compare(first, second, draws=200).verdict
    gold = load_gold(str(first.folder))
    assert evaluate(other, gold, draws=0, yardsticks=False).warnings[0].startswith("The rubric eloundou was changed")
    # Against a file there is only the rubric that is shipped under this id and version to compare with.
    file = read_gold_csv(write_gold(f"task_id,onet_soc_code,code\n1,{A},E1\n2,{A},E0\n"))
    against_file = evaluate(other, file, draws=0, yardsticks=False).verdict.splitlines()[0]
    assert "its text is ffffffffffff in " in against_file
    assert "in relabel itself" in against_file
    suite = Suite.model_validate(
        {
            "name": "s",
            "baseline": {"run": "b"},
            "gates": [{"id": "k", "setting": "three-way", "metric": "accuracy", "max_drop": 0}],
        }
    )
    assert judge(suite, other, gold, first).warnings[0].startswith("The rubric eloundou was changed")
    assert not any("rubric" in said for said in judge(suite, second, gold, first).warnings)


def test_the_terminal_says_of_a_suite_first_that_the_rubric_was_changed(
    make_run: MakeRun, write_gold: WriteGold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {(A, str(i)): {"three-way": "E1"} for i in range(4)}
    first, second = (make_run(labels, name=name, rubric="eloundou") for name in ("first", "second"))
    assert second.folder is not None
    manifest = second.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(first.manifest.rubric_sha256, "f" * 64))
    gold = write_gold(f"task_id,onet_soc_code,code\n1,{A},E1\n2,{A},E0\n")
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"name: s\ngold: {gold}\nbaseline: {{run: {first.folder}}}\n"
        "gates: [{id: k, setting: three-way, metric: accuracy, max_drop: 0}]\n"
    )
    run_app(["eval", str(second.folder), "--suite", str(suite), "--out", str(tmp_path / "eval.json")])
    capsys.readouterr()
    run_app(["eval", str(second.folder), "--suite", str(suite)])
    said = " ".join(capsys.readouterr().out.split())
    assert "Verdict The rubric eloundou was changed under its old version" in said
    assert json.loads((tmp_path / "eval.json").read_text())["warnings"][0].startswith("The rubric eloundou was changed")


def test_a_gold_with_strata_but_no_weights_is_warned_about(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, str(i)): {"three-way": "E1"} for i in range(4)}, rubric="eloundou")
    gold = read_gold_csv(write_gold(f"task_id,onet_soc_code,code,stratum\n1,{A},E1,rare\n2,{A},E0,common\n"))
    assert (
        evaluate(run, gold, draws=0, yardsticks=False)
        .verdict.splitlines()[0]
        .startswith("The gold has strata but no weights")
    )
    weighted = f"task_id,onet_soc_code,code,stratum,weight\n1,{A},E1,rare,1\n2,{A},E0,common,4\n"
    assert not evaluate(run, read_gold_csv(write_gold(weighted)), draws=0, yardsticks=False).warnings


def test_rewordings_are_told_from_other_tasks_by_their_words() -> None:
    old = pd.Series(
        ["Care for children who are disabled or who have sick parents.", "Inspect boilers.", None, "Teach art."]
    )
    new = pd.Series(
        ["Care for children with disabilities or sick parents.", "Write press releases.", "x", "Teach art."]
    )
    found = text_similarity(old, new)
    assert found[0] > REPLACED_BELOW > found[1]
    assert np.isnan(found[2])
    assert found[3] == 1


@pytest.mark.mirror
def test_tasks_whose_text_was_replaced_under_their_id_are_left_out_and_listed(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    from relabel.task import task_table

    tasks = task_table("onet-30.2").head(40)
    keys = list(zip(tasks["onet_soc_code"], tasks["task_id"], strict=True))
    run = make_run({key: {"three-way": "E0"} for key in keys}, rubric="eloundou", tasks="onet-30.2")

    def gold(replaced: int) -> str:
        texts = ["Knit jumpers for penguins." if i < replaced else text for i, text in enumerate(tasks["text"])]
        rows = zip(keys, texts, strict=True)
        return "task_id,onet_soc_code,code,text\n" + "".join(f'{t},{c},E0,"{x}"\n' for (c, t), x in rows)

    document = evaluate(run, read_gold_csv(write_gold(gold(5))), draws=0, yardsticks=False)
    assert (document.matched, document.unmatched["other-text"]) == (35, 5)
    assert {row.task_id for row in document.texts_replaced} == {task for _, task in keys[:5]}
    assert document.texts_replaced[0].gold == "Knit jumpers for penguins."
    with pytest.raises(DataError, match="are not those of the run's tasks: 30 of 40 have another text"):
        match(run, read_gold_csv(write_gold(gold(30))))


@pytest.mark.mirror
def test_a_gold_without_codes_that_agrees_by_chance_only_is_doubted(write_gold: WriteGold) -> None:
    from relabel.run import open_run

    run = open_run("eloundou-2023:gpt4")
    ids = run.labels["task_id"].drop_duplicates().sample(300, random_state=1)
    rng = np.random.default_rng(1)
    rows = "".join(f"{task},{label}\n" for task, label in zip(ids, rng.choice(["E0", "E1", "E2"], 300), strict=True))
    document = evaluate(run, read_gold_csv(write_gold("task_id,code\n" + rows)), draws=0, yardsticks=False)
    assert "agree with the run's by chance only" in document.verdict.splitlines()[0]


@pytest.mark.mirror
@pytest.mark.parametrize("column", ["statement", "Task", "task_text"])
def test_statements_of_a_gold_are_compared_under_each_usual_name_of_their_column(
    make_run: MakeRun, write_gold: WriteGold, column: str
) -> None:
    from relabel.task import task_table

    tasks = task_table("onet-30.2").head(20)
    keys = list(zip(tasks["onet_soc_code"], tasks["task_id"], strict=True))
    run = make_run({key: {"three-way": "E0"} for key in keys}, rubric="eloundou", tasks="onet-30.2")
    texts = ["Knit jumpers for penguins." if i < 4 else text for i, text in enumerate(tasks["text"])]
    rows = "".join(f'{t},{c},E0,"{x}"\n' for (c, t), x in zip(keys, texts, strict=True))
    gold = read_gold_csv(write_gold(f"task_id,onet_soc_code,code,{column}\n{rows}"))
    document = evaluate(run, gold, draws=0, yardsticks=False)
    assert (document.matched, document.unmatched["other-text"]) == (16, 4)


def test_a_task_with_several_annotators_counts_once_in_its_occupation_and_is_no_repeated_text(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    sample = load_tasks("sample")
    code = sample[0].onet_soc_code
    first, second = [task.task_id for task in sample if task.onet_soc_code == code][:2]
    run = make_run({(code, task): {"three-way": "E0"} for task in (first, second)}, rubric="eloundou", tasks="sample")
    lines = [f"{first},{code},E1,{who}\n" for who in ("ann", "bob", "cem")] + [f"{second},{code},E0,ann\n"]
    gold = read_gold_csv(write_gold("task_id,onet_soc_code,label,annotator\n" + "".join(lines)), "distribution")
    document = evaluate(run, gold, draws=0)
    assert document.occupations.alpha is not None
    assert document.occupations.alpha.mean_abs_difference == 0.5  # the mean of 1 and 0, not of 1, 1, 1 and 0
    assert document.yardsticks.consistency is None
