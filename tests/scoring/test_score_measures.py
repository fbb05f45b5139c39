"""Values and weights of tasks, on small runs of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest
from score_builders import TaskFile, by_code

from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.options import Method, Unrated, Weights
from relabel.scoring.table import score_table
from relabel.sources.fetch import sha256_of
from run_builders import MakeRun, one_sided_rubric

A, B = "11-1011.00", "15-1252.00"
E0 = {"strict": False, "with-tools": False}
E1 = {"strict": True, "with-tools": True}
E2 = {"strict": False, "with-tools": True}


def test_importance_weighs_the_mean(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 4},
            {"task_id": "2", "onet_soc_code": A, "importance": 2},
            {"task_id": "3", "onet_soc_code": A, "importance": 2},
        ]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E2, (A, "3"): E0})
    (row,) = score_table(run, taxonomy="onet-soc", tasks=tasks).frame.to_dict("records")
    assert (row["alpha"], row["beta"], row["gamma"]) == pytest.approx((4 / 8, 5 / 8, 6 / 8))
    assert (row["tasks"], row["coverage"], row["status"]) == (3, 1.0, "scored")


@pytest.mark.parametrize(("method", "alpha"), [("bridge", 3 / 9), ("site-2026", 0.14)])
def test_an_unrated_task_weighs_its_occupation_s_mean_or_one_by_method(
    make_run: MakeRun, task_file: TaskFile, method: Method, alpha: float
) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 4},
            {"task_id": "2", "onet_soc_code": A, "importance": 2},
            {"task_id": "3", "onet_soc_code": A, "importance": None},
        ]
    )
    run = make_run({(A, "1"): E0, (A, "2"): E0, (A, "3"): E1})
    table = score_table(run, method=method, taxonomy="onet-soc", tasks=tasks)
    assert table.frame["alpha"].item() == pytest.approx(alpha)


@pytest.mark.parametrize(("unrated", "alpha", "beta_tasks"), [("one", 1 / 7, 3), ("mean", 3 / 9, 3), ("drop", 0.0, 2)])
def test_the_rule_for_unrated_tasks_is_an_option(
    make_run: MakeRun, task_file: TaskFile, unrated: Unrated, alpha: float, beta_tasks: int
) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 4},
            {"task_id": "2", "onet_soc_code": A, "importance": 2},
            {"task_id": "3", "onet_soc_code": A, "importance": None},
            {"task_id": "4", "onet_soc_code": B, "importance": None},
        ]
    )
    run = make_run({(A, "1"): E0, (A, "2"): E0, (A, "3"): E1, (B, "4"): E1})
    table = score_table(run, taxonomy="onet-soc", tasks=tasks, unrated=unrated)
    rows = by_code(table.frame)
    assert (rows[A]["alpha"], rows[A]["tasks"]) == (pytest.approx(alpha), beta_tasks)
    assert table.describe()["unrated"] == unrated
    if unrated == "drop":  # an occupation without any rated task has nothing left to score it by
        assert rows[B]["alpha"] is None
        assert rows[B]["status"].startswith("unscored: no ")
    else:
        assert rows[B]["alpha"] == 1.0


def test_options_that_do_not_go_together_are_refused(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    run = make_run({(A, "1"): E1})
    with pytest.raises(UsageError, match="--weights equal uses no ratings"):
        score_table(run, taxonomy="onet-soc", tasks=tasks, weights="equal", unrated="drop")
    with pytest.raises(UsageError, match="--links does not apply to --method site-2026"):
        score_table(run, taxonomy="onet-soc", tasks=tasks, method="site-2026", links="index")
    with pytest.raises(UsageError, match="--links does not apply to --taxonomy soc2018"):
        score_table(run, taxonomy="soc2018", tasks=tasks, links="employment")


def test_new_and_reworded_tasks_are_counted_against_the_list_that_was_labelled(
    make_run: MakeRun, task_file: TaskFile, tmp_path: Path
) -> None:
    before = tmp_path / "before.csv"
    before.write_text(f"task_id,onet_soc_code,title,text\n1,{A},S,Do it.\n2,{A},S,Say it.\n")
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "text": "Do  it."},
            {"task_id": "2", "onet_soc_code": A, "text": "Tell it."},
            {"task_id": "3", "onet_soc_code": A, "text": "Begin."},
        ]
    )
    counts = score_table(
        make_run({(A, "1"): E1, (A, "2"): E0}, tasks=str(before)), taxonomy="onet-soc", tasks=tasks
    ).describe()["counts"]
    assert (counts["tasks_new"], counts["tasks_reworded"], counts["tasks_emerging"]) == (1, 1, None)
    gone = make_run({(A, "1"): E1}, tasks="gone.csv")
    counts = score_table(gone, taxonomy="onet-soc", tasks=tasks).describe()["counts"]
    assert (counts["tasks_new"], counts["tasks_reworded"]) == (None, None)


def test_an_occupation_without_any_rating_weighs_its_tasks_alike(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": None},
            {"task_id": "2", "onet_soc_code": A, "importance": None},
            {"task_id": "3", "onet_soc_code": B, "importance": 5},
        ]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E0, (B, "3"): E0})
    assert by_code(score_table(run, taxonomy="onet-soc", tasks=tasks).frame)[A]["alpha"] == 0.5


@pytest.mark.parametrize(("weights", "alpha"), [("core", 2 / 4), ("equal", 1 / 3)])
def test_core_and_equal_weights(make_run: MakeRun, task_file: TaskFile, weights: Weights, alpha: float) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "task_type": "Core"},
            {"task_id": "2", "onet_soc_code": A, "task_type": "Supplemental"},
            {"task_id": "3", "onet_soc_code": A, "task_type": None},
        ]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E0, (A, "3"): E0})
    table = score_table(run, taxonomy="onet-soc", weights=weights, tasks=tasks)
    assert table.frame["alpha"].item() == pytest.approx(alpha)


def test_partial_labels_show_in_coverage_and_status(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 1},
            {"task_id": "2", "onet_soc_code": A, "importance": 3},
            {"task_id": "3", "onet_soc_code": B, "importance": 3},
        ]
    )
    run = make_run({(A, "1"): E1}, status="incomplete")
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    rows = by_code(table.frame)
    assert (rows[A]["alpha"], rows[A]["tasks"], rows[A]["coverage"]) == (1.0, 1, 0.25)
    assert rows[A]["status"] == "thin: 25% of the group's task weight has labels"
    assert rows[B]["status"] == f"unscored: no labelled tasks for O*NET-SOC 2019 {B}"
    assert table.partial
    assert table.frame["note"].str.startswith("PARTIAL").all()


def test_a_task_with_one_reading_only_does_not_tilt_the_mean(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in (1, 2, 3)])
    run = make_run({(A, "1"): {"strict": True}, (A, "2"): {"strict": False}, (A, "3"): E0}, status="interrupted")
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    assert table.frame[["alpha", "tasks"]].iloc[0].tolist() == [0.0, 1]


@pytest.mark.parametrize(
    ("setting", "given", "gone", "ten"),
    [
        ("strict", "alpha", ["beta", "gamma"], "strict_10"),
        ("with-tools", "gamma", ["alpha", "beta"], "with_tools_10"),
    ],
)
def test_a_run_of_one_setting_gives_one_measure_and_says_why(
    make_run: MakeRun, task_file: TaskFile, setting: str, given: str, gone: list[str], ten: str
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in (1, 2, 3, 4)])
    run = make_run({(A, str(n)): {setting: n == 1} for n in (1, 2, 3, 4)}, settings=[setting])
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    (row,) = by_code(table.frame).values()
    assert (row[given], row[ten], row["status"], row[f"percentile_{given}"]) == (0.25, 2.5, "scored", 100)
    assert [row[measure] for measure in gone] == [None, None]
    lacks = "with-tools" if setting == "strict" else "strict"
    assert row["note"] == f"no {' or '.join(gone)}: the run has no labels for the setting {lacks}"
    assert (table.partial, table.scored) == (False, 1)


@pytest.mark.parametrize("without", ["E2", "E1"])
def test_a_rubric_without_a_code_never_repeats_one_measure_as_another(
    make_run: MakeRun, task_file: TaskFile, tmp_path: Path, without: str
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in (1, 2)])
    rubric = one_sided_rubric(tmp_path, without=without)
    other = "E1" if without == "E2" else "E2"
    run = make_run({(A, "1"): {"three-way": other}, (A, "2"): {"three-way": "E0"}}, rubric=rubric)
    (row,) = by_code(score_table(run, taxonomy="onet-soc", tasks=tasks).frame).values()
    found = {measure: row[measure] for measure in ("alpha", "beta", "gamma")}
    given = "alpha" if without == "E2" else "gamma"
    assert found == dict.fromkeys(found) | {given: 0.5}
    assert f"the rubric one-sided has no code {without}" in row["note"]


def test_a_run_without_any_label_has_nothing_to_score(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    with pytest.raises(DataError, match="gives no measure to score: the run has no labels"):
        score_table(make_run({}), taxonomy="onet-soc", tasks=tasks)


def many(count: int) -> list[dict[str, object]]:
    return [{"task_id": str(n), "onet_soc_code": A if n < count // 2 else B} for n in range(count)]


def test_a_complete_run_over_a_sample_of_tasks_is_partial_and_its_groups_thin(
    make_run: MakeRun, task_file: TaskFile
) -> None:
    tasks = task_file(many(200))
    run = make_run({(A, "1"): E1, (A, "2"): E0, (A, "3"): E0}, parameters={"sample": 3})
    assert run.manifest.status == "complete"
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    row = by_code(table.frame)[A]
    assert row["alpha"] == pytest.approx(1 / 3)
    assert row["status"] == "thin: 3.0% of the group's task weight has labels"
    assert (row["percentile_alpha"], row["percentile_gamma"]) == (None, None)
    assert table.note == "PARTIAL: rests on 3 of 200 tasks"
    assert table.frame["note"].eq(table.note).all()
    counts = table.describe()["counts"]
    assert (counts["scored"], counts["thin"], counts["unscored"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("labelled", "status"), [(50, "scored"), (49, "thin: 49% of the group's task weight has labels")]
)
@pytest.mark.parametrize("method", ["bridge", "site-2026"])
def test_half_of_the_weight_is_enough(
    make_run: MakeRun, task_file: TaskFile, labelled: int, status: str, method: Method
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in range(100)])
    run = make_run({(A, str(n)): E0 for n in range(labelled)})
    (row,) = by_code(score_table(run, taxonomy="onet-soc", tasks=tasks, method=method).frame).values()
    assert row["status"] == status
    assert (row["percentile_alpha"] is None) == (status != "scored")


def test_a_coverage_below_one_percent_is_not_called_nought(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in range(300)])
    (row,) = by_code(score_table(make_run({(A, "1"): E0}), taxonomy="onet-soc", tasks=tasks).frame).values()
    assert row["status"] == "thin: under 1% of the group's task weight has labels"


@pytest.mark.parametrize(("labelled", "partial"), [(100, False), (99, True)])
def test_a_table_with_a_task_without_a_label_is_partial(
    make_run: MakeRun, task_file: TaskFile, labelled: int, partial: bool
) -> None:
    tasks = task_file(many(100))
    run = make_run({(A if n < 50 else B, str(n)): E0 for n in range(labelled)})
    assert score_table(run, taxonomy="onet-soc", tasks=tasks).partial == partial


def test_tasks_with_some_of_their_labels_are_counted(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in (1, 2, 3)])
    run = make_run({(A, "1"): E0, (A, "2"): {"strict": True}, (A, "9"): {"strict": True}})
    counts = score_table(run, taxonomy="onet-soc", tasks=tasks).describe()["counts"]
    assert (counts["tasks_labelled"], counts["tasks_half_labelled"]) == (1, 1)


def test_the_files_behind_a_score_by_a_task_file_are_recorded(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    (use,) = score_table(make_run({(A, "1"): E1}), taxonomy="onet-soc", tasks=tasks).sources
    assert (use.source, use.file, use.sha256) == ("task-file", "tasks.csv", sha256_of(Path(tasks)))


def test_labels_of_another_list_are_refused(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    with pytest.raises(DataError, match="none of the 1 labelled tasks"):
        score_table(make_run({(B, "1"): E1}), taxonomy="onet-soc", tasks=tasks)


def test_labels_outside_the_list_are_counted(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    table = score_table(make_run({(A, "1"): E1, (B, "9"): E1}), taxonomy="onet-soc", tasks=tasks)
    assert table.labels_unmatched == 1


def test_an_incoherent_pair_counts_as_e1(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    table = score_table(make_run({(A, "1"): {"strict": True, "with-tools": False}}), taxonomy="onet-soc", tasks=tasks)
    assert table.frame[["alpha", "gamma"]].iloc[0].tolist() == [1.0, 1.0]
    assert table.describe()["counts"]["incoherent"] == 1


def test_a_list_without_any_rating_refuses_importance(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A, "importance": None}])
    with pytest.raises(
        UsageError, match="no values of importance, which --weights importance needs; choose other --weights"
    ):
        score_table(make_run({(A, "1"): E1}), taxonomy="onet-soc", tasks=tasks)


def test_the_sample_is_not_mixed_with_other_lists(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="built-in sample cannot be mixed with other lists"):
        score_table(open_run("sample"), tasks="onet-30.2")
    with pytest.raises(UsageError, match="built-in sample cannot be mixed with other lists"):
        score_table(make_run({(A, "1"): E1}), tasks="sample")
