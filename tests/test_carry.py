"""A run carried to another task list."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from relabel.cli.app import run_app
from relabel.errors import DataError, UsageError
from relabel.evaluation.gold import asked
from relabel.importing import TO_ASK, carry_run
from relabel.manifest import Counts, read_manifest
from relabel.run import Run, open_run
from relabel.sources.fetch import sha256_of
from relabel.task import task_table
from run_builders import MakeRun, a_label, a_run, answered, one_sided_rubric

A = "11-1011.00"
YES = {"strict": True, "with-tools": True}
NO = {"strict": False, "with-tools": False}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return partial(answered, tmp_path / "a-run")


def tasks(path: Path, **texts: str) -> str:
    rows = [{"task_id": key[1:], "onet_soc_code": A, "title": "Somebody", "text": text} for key, text in texts.items()]
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def lists(tmp_path: Path) -> tuple[str, str]:
    old = tasks(tmp_path / "old.csv", t1="Stay.", t2="Say.", t3="End.")
    return old, tasks(tmp_path / "new.csv", t1="Stay.", t2="Say it.", t4="Begin.")


def test_labels_of_unchanged_tasks_keep_their_trace_and_the_rest_is_listed(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): YES, (A, "2"): NO, (A, "3"): YES})
    done = carry_run(run, lists[1], tmp_path / "carried", old=lists[0])
    assert (done.carried, done.filled, done.to_ask, done.tasks) == (2, 0, 2, 3)
    carried = open_run(str(tmp_path / "carried"))
    assert set(carried.labels["task_id"]) == {"1"}
    before = run.labels[run.labels["task_id"] == "1"].reset_index(drop=True)
    traced = ["setting", "label", "rationale", "request_key", "model_returned", "created_at", "cost_usd"]
    pd.testing.assert_frame_equal(carried.labels[traced], before[traced])
    assert carried.labels["from_store"].all()
    assert carried.manifest.status == "incomplete"
    assert (carried.manifest.counts.asked, carried.manifest.counts.from_store, carried.manifest.counts.failed) == (
        6,
        2,
        4,
    )
    (origin,) = carried.manifest.parameters["carried_from"]
    assert run.folder is not None
    assert origin["run"] == "a-run"
    assert origin["labels_sha256"] == sha256_of(run.folder / "labels.parquet")
    ask = task_table(str(tmp_path / "carried" / TO_ASK))
    assert ask[["task_id", "text"]].to_numpy().tolist() == [["2", "Say it."], ["4", "Begin."]]


def test_the_list_of_what_is_left_runs_no_formula_and_reads_back_as_it_was(make_run: MakeRun, tmp_path: Path) -> None:
    texts = {"t1": "Stay.", "t'-2": "=cmd|' /C calc'!A0", "t'-3": "- Dig."}
    old, new = tasks(tmp_path / "old.csv", t1="Stay."), tasks(tmp_path / "new.csv", **texts)
    carry_run(make_run({(A, "1"): YES}), new, tmp_path / "carried", old=old)
    written = (tmp_path / "carried" / TO_ASK).read_text(encoding="utf-8")
    assert not any(cell.startswith(("=", "-")) for line in written.splitlines() for cell in line.split(","))
    ask = task_table(str(tmp_path / "carried" / TO_ASK))
    assert ask[["task_id", "text"]].to_numpy().tolist() == [["-2", texts["t'-2"]], ["-3", "- Dig."]]


def test_a_second_run_fills_what_was_asked_again_and_nothing_else(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): YES, (A, "2"): NO, (A, "3"): YES})
    fresh = answered(tmp_path / "fresh", {(A, "1"): NO, (A, "2"): YES, (A, "4"): YES})
    done = carry_run(run, lists[1], tmp_path / "carried", old=lists[0], fill=fresh)
    assert (done.carried, done.filled, done.to_ask) == (2, 4, 0)
    carried = open_run(str(tmp_path / "carried"))
    assert carried.manifest.status == "complete"
    assert carried.coded()["code"].tolist() == ["E1", "E1", "E1"]
    assert [origin["run"] for origin in carried.manifest.parameters["carried_from"]] == ["a-run", "fresh"]


def test_a_task_with_some_of_its_labels_is_asked_again_and_filled_setting_by_setting(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): {"strict": True}, (A, "2"): NO})
    fresh = answered(tmp_path / "fresh", {(A, "1"): NO})
    assert carry_run(run, lists[1], tmp_path / "carried", old=lists[0]).to_ask == 3
    done = carry_run(run, lists[1], tmp_path / "carried", old=lists[0], fill=fresh)
    assert (done.carried, done.filled, done.to_ask) == (1, 1, 2)
    labels = open_run(str(tmp_path / "carried")).labels
    assert dict(zip(labels["setting"], labels["label"], strict=True)) == {
        "strict": "exposed",
        "with-tools": "not-exposed",
    }


def repeated(folder: Path, *tasks: str, samples: int = 3, first: int = 0, **changes: Any) -> Run:
    """A run that asked the 2023 question several times."""
    labels = [
        a_label(task, "three-way", "E0", sample, code=A) for task in tasks for sample in range(first, first + samples)
    ]
    return a_run(folder, labels, rubric="eloundou", parameters={"samples": samples} | changes)


def asked_of(folder: Path) -> tuple[int, int]:
    """Tasks that a run was asked about, and those without a label, as the evaluation tells them."""
    total, unanswered = asked(open_run(str(folder)))
    return total, max(unanswered.values())


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_with_repeats_that_is_carried_whole_lacks_nothing(
    lists: tuple[str, str], tmp_path: Path, first: int
) -> None:
    done = carry_run(repeated(tmp_path / "r", "1", "2", "3", first=first), lists[0], tmp_path / "carried", old=lists[0])
    manifest = read_manifest(tmp_path / "carried")
    assert (done.to_ask, manifest.parameters["samples"]) == (0, 3)
    assert (manifest.status, manifest.counts) == ("complete", Counts(asked=9, from_store=9))
    assert asked_of(tmp_path / "carried") == (3, 0)


def test_a_task_that_lacks_some_labels_counts_once_among_the_tasks_asked(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): {"strict": True}, (A, "2"): NO, (A, "3"): YES})
    assert carry_run(run, lists[0], tmp_path / "carried", old=lists[0]).to_ask == 1
    assert read_manifest(tmp_path / "carried").counts == Counts(asked=6, from_store=5, failed=1)
    assert asked_of(tmp_path / "carried") == (3, 1)


def test_repeats_are_filled_one_by_one_and_never_beyond_those_of_the_run(
    lists: tuple[str, str], tmp_path: Path
) -> None:
    run = repeated(tmp_path / "r", "1", "2", samples=2)
    fresh = repeated(tmp_path / "fresh", "1", "2", samples=4)
    done = carry_run(run, lists[1], tmp_path / "carried", old=lists[0], fill=fresh)
    assert (done.carried, done.filled, done.to_ask) == (2, 2, 1)
    labels = open_run(str(tmp_path / "carried")).labels
    assert sorted(zip(labels["task_id"], labels["sample"], strict=True)) == [("1", 0), ("1", 1), ("2", 0), ("2", 1)]
    assert read_manifest(tmp_path / "carried").counts == Counts(asked=6, from_store=4, failed=2)


def test_an_empty_run_cannot_be_carried(make_run: MakeRun, lists: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no labels to carry; finish it with the same `relabel run`"):
        carry_run(make_run({}), lists[1], tmp_path / "carried", old=lists[0])


def test_a_carried_run_is_never_written_over_another_run(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): YES})
    assert run.folder is not None
    with pytest.raises(UsageError, match="holds a run that was not carried"):
        carry_run(run, lists[1], run.folder, old=lists[0])
    assert read_manifest(run.folder).engine != "carry"
    for _ in range(2):  # an earlier carried run may be renewed
        carry_run(run, lists[1], tmp_path / "carried", old=lists[0])


def test_runs_under_different_rubrics_are_not_mixed(make_run: MakeRun, lists: tuple[str, str], tmp_path: Path) -> None:
    run = make_run({(A, "1"): YES})
    other = answered(
        tmp_path / "other", {(A, "2"): {"three-way": "E0"}}, rubric=one_sided_rubric(tmp_path, without="E1")
    )
    with pytest.raises(UsageError, match="different rubrics; fill with a run under the rubric exposure"):
        carry_run(run, lists[1], tmp_path / "carried", old=lists[0], fill=other)


def test_a_run_on_quite_another_list_cannot_be_carried(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "77"): YES})
    with pytest.raises(DataError, match=r"no label of .* belongs to a task that is unchanged"):
        carry_run(run, lists[1], tmp_path / "carried", old=lists[0])
    assert not (tmp_path / "carried").exists()


@pytest.mark.mirror
def test_the_labels_of_2023_are_carried_to_a_release_of_today(tmp_path: Path) -> None:
    done = carry_run(open_run("eloundou-2023:gpt4"), "onet-30.2", tmp_path / "carried")
    assert (done.carried, done.to_ask, done.tasks) == (18_681, 115, 18_796)
    carried = open_run(str(tmp_path / "carried"))
    assert (carried.manifest.status, carried.manifest.tasks) == ("incomplete", "onet-30.2")
    assert {use.source for use in carried.manifest.sources} == {"eloundou-2023", "onet-30.2"}
    published = open_run("eloundou-2023:gpt4").labels
    both = carried.labels.merge(published, on=["onet_soc_code", "task_id", "setting", "sample"])
    assert (len(both), (both["label_x"] == both["label_y"]).all()) == (18_681, True)


def test_a_fill_that_labelled_another_statement_under_an_id_fills_nothing_there(
    make_run: MakeRun, lists: tuple[str, str], tmp_path: Path
) -> None:
    run = make_run({(A, "1"): YES, (A, "2"): NO})
    other = tasks(tmp_path / "other.csv", t2="Say it.", t4="Feed the penguins of the zoo.")
    fresh = answered(tmp_path / "fresh", {(A, "2"): YES, (A, "4"): YES}, tasks=other)
    done = carry_run(run, lists[1], tmp_path / "carried", old=lists[0], fill=fresh)
    assert (done.carried, done.filled, done.to_ask) == (2, 2, 1)
    assert open_run(str(tmp_path / "carried")).coded()["task_id"].tolist() == ["1", "2"]


@pytest.mark.mirror
def test_the_next_step_names_the_rubric_without_which_the_paid_answers_could_not_fill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["tasks", "carry", "eloundou-2023:gpt4", "--to", "onet-30.2", "--out", str(tmp_path / "c")]) == 0
    assert "next: relabel run --model MODEL --rubric eloundou --tasks" in capsys.readouterr().err
