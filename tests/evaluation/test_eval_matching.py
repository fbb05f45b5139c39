"""Matching: which tasks are compared, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.errors import DataError
from relabel.evaluation.alignment import GOLD, AlignedLabels, match
from relabel.evaluation.compare import compare, compare_several
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gold import default_gold, read_gold_csv, run_settings
from relabel.evaluation.review import review
from run_builders import MakeRun

WriteGold = Callable[[str | bytes], Path]
A, B = "11-1011.00", "53-7065.00"
YES, NO = "exposed", "not-exposed"


def rows(found: AlignedLabels) -> list[list[str]]:
    """Code, id, the run's label and the gold's."""
    words = {name: found.words("three-way", rater) for name, rater in (("run", 0), ("gold", GOLD))}
    return found.tasks[["onet_soc_code", "task_id"]].assign(**words).to_numpy().tolist()


def test_tasks_match_by_occupation_and_id(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"three-way": "E0"}, (B, "1"): {"three-way": "E1"}}, rubric="eloundou")
    gold = read_gold_csv(write_gold(f"task_id,onet_soc_code,code\n1,{B},E2\n1,{A},E0\n"))
    assert rows(match(run, gold)) == [[A, "1", "E0", "E0"], [B, "1", "E1", "E2"]]


def test_a_gold_without_occupations_matches_by_id(coded_run: MakeRun, write_gold: WriteGold) -> None:
    found = match(coded_run("E0 E1 E2"), read_gold_csv(write_gold("task_id,code\n3,E2\n1,E1\n")))
    assert rows(found) == [[A, "1", "E0", "E1"], [A, "3", "E2", "E2"]]


def test_an_id_of_several_occupations_needs_a_gold_with_occupations(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"three-way": "E0"}, (B, "1"): {"three-way": "E1"}}, rubric="eloundou")
    with pytest.raises(DataError, match="'1' stands for several occupations of the run; add a column onet_soc_code"):
        match(run, read_gold_csv(write_gold("task_id,code\n1,E0\n")))


def test_each_task_left_out_is_counted_once_with_its_reason(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run(
        {(A, str(i)): {"strict": NO, "with-tools": YES} for i in (1, 2, 3)},
        failed=[(A, "4", "strict"), (A, "4", "with-tools"), (A, "5", "strict"), (A, "5", "with-tools")],
    )
    gold = read_gold_csv(write_gold("task_id,code\n1,E2\n2,\n4,E0\n7,E0\n8,E1\n9,\n"))
    found = match(run, gold)
    assert len(found) == 1
    assert (found.unmatched or {}) == {
        "not-in-gold": 2,  # 3, and 5, which the run lost as well
        "not-in-run": 3,
        "no-label-in-run": 1,
        "no-label-in-gold": 1,
    }
    assert len(found) + sum((found.unmatched or {}).values()) == 8


def test_a_task_with_one_answer_missing_counts_in_the_other_setting_only(
    make_run: MakeRun, write_gold: WriteGold
) -> None:
    """Strict exposed alone already means E1: counting such codes would favour E1."""
    run = make_run(
        {(A, "1"): {"strict": YES, "with-tools": YES}, (A, "2"): {"strict": YES}, (A, "3"): {"strict": NO}},
        failed=[(A, "2", "with-tools"), (A, "3", "with-tools")],
    )
    found = match(run, read_gold_csv(write_gold("task_id,code\n1,E1\n2,E1\n3,E0\n")))
    assert found.words("strict", 0).tolist() == [YES, YES, NO]
    assert found.words("with-tools", 0).tolist() == [YES, None, None]
    assert found.words("three-way", 0).tolist() == ["E1", None, None]


def test_a_run_of_one_setting_is_compared_in_that_setting_only(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"strict": YES}, (A, "2"): {"strict": NO}}, settings=["strict"])
    found = match(run, read_gold_csv(write_gold("task_id,code\n1,E1\n2,E1\n")))
    assert list(found.labels) == ["strict"]
    assert list(found.values) == ["alpha"]


def test_a_one_question_rubric_gives_all_settings(coded_run: MakeRun) -> None:
    assert run_settings(coded_run("E0")) == ("strict", "with-tools", "three-way")


def test_a_gold_about_other_tasks_is_refused(coded_run: MakeRun, write_gold: WriteGold) -> None:
    gold = read_gold_csv(write_gold("task_id,code\nX1,E1\n"))
    with pytest.raises(
        DataError, match=r"no task of the run is in the gold .*: these tasks are tasks.csv \(such as '1' of 11-"
    ):
        match(coded_run("E0 E1"), gold)


def test_a_gold_without_the_setting_of_the_run_is_refused(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"strict": YES}}, settings=["strict"])
    with pytest.raises(DataError, match=r"no task has a label both in the run \(strict\) and in the gold"):
        match(run, read_gold_csv(write_gold("task_id,with_tools\n1,exposed\n")))


def test_shared_tasks_without_a_label_on_both_sides_are_refused(coded_run: MakeRun, write_gold: WriteGold) -> None:
    gold = read_gold_csv(write_gold("task_id,code\n1,\n2,\n8,E0\n"))
    with pytest.raises(DataError, match=r"no task has a label both in the run .* and in the gold"):
        match(coded_run("E0 E1"), gold)


def test_a_run_without_a_label_for_any_task_of_the_gold_is_refused(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "2"): {"strict": NO}}, failed=[(A, "1", "strict"), (A, "1", "with-tools")])
    with pytest.raises(DataError, match=r"no task has a label both in the run .* and in the gold"):
        match(run, read_gold_csv(write_gold("task_id,code\n1,E0\n")))


def test_runs_on_the_sample_have_the_sample_as_gold(coded_run: MakeRun) -> None:
    assert default_gold(coded_run("E0", tasks="sample")) == "sample"
    assert default_gold(coded_run("E0", tasks="onet-30.2", name="other")) == "eloundou-2023:gpt4"


def test_a_run_without_a_single_label_is_refused_in_one_sentence(make_run: MakeRun, write_gold: WriteGold) -> None:
    refused = make_run({}, failed=[(A, "1", "strict"), (A, "1", "with-tools")])
    stopped = make_run({}, name="stopped", status="interrupted", counts={"asked": 20})
    other = make_run({(A, "1"): {"strict": NO, "with-tools": YES}}, name="other")
    gold = read_gold_csv(write_gold("task_id,code\n1,E0\n"))
    for run in (refused, stopped):
        ways: list[Callable[[], object]] = [
            lambda run=run: evaluate(run, gold, draws=0, yardsticks=False),
            lambda run=run: compare(other, run),
            lambda run=run: compare_several([other, other, run]),
            lambda run=run: review(run),
            lambda run=run: review(other, raters=[run]),
        ]
        for way in ways:
            with pytest.raises(DataError, match="has no labels; finish it with the same `relabel run`"):
                way()


def test_ids_that_the_gold_has_under_another_code_are_said_first(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"three-way": "E0"}, (A, "2"): {"three-way": "E1"}}, rubric="eloundou")
    gold = read_gold_csv(write_gold(f"task_id,onet_soc_code,code\n1,{A},E0\n2,{B},E1\n"))
    first = evaluate(run, gold, draws=0, yardsticks=False).verdict.splitlines()[0]
    assert first.startswith("1 of 2 tasks of the run have the id of a task of the gold")
    assert f"2 is of {A} in the run, of {B} in the gold" in first
    same = read_gold_csv(write_gold(f"task_id,onet_soc_code,code\n1,{A},E0\n2,{A},E1\n"))
    assert "occupation code" not in evaluate(run, same, draws=0, yardsticks=False).verdict
