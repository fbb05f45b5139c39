"""Values and weights of tasks, on small runs of the tests' own."""

from __future__ import annotations

import pytest
from score_workshop import MakeRun, TaskFile, by_code

from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.table import score_table

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
    make_run: MakeRun, task_file: TaskFile, method: str, alpha: float
) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 4},
            {"task_id": "2", "onet_soc_code": A, "importance": 2},
            {"task_id": "3", "onet_soc_code": A, "importance": None},
        ]
    )
    run = make_run({(A, "1"): E0, (A, "2"): E0, (A, "3"): E1})
    table = score_table(run, method=method, taxonomy="onet-soc", tasks=tasks)  # type: ignore[arg-type]
    assert table.frame["alpha"].item() == pytest.approx(alpha)


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
def test_core_and_equal_weights(make_run: MakeRun, task_file: TaskFile, weights: str, alpha: float) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "task_type": "Core"},
            {"task_id": "2", "onet_soc_code": A, "task_type": "Supplemental"},
            {"task_id": "3", "onet_soc_code": A, "task_type": None},
        ]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E0, (A, "3"): E0})
    table = score_table(run, taxonomy="onet-soc", weights=weights, tasks=tasks)  # type: ignore[arg-type]
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
    assert rows[B]["status"] == f"unscored: no labelled tasks for O*NET-SOC 2019 {B}"
    assert table.partial
    assert table.frame["note"].str.startswith("PARTIAL").all()


def test_a_task_with_one_reading_only_does_not_tilt_the_mean(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in (1, 2, 3)])
    run = make_run({(A, "1"): {"strict": True}, (A, "2"): {"strict": False}, (A, "3"): E0}, status="interrupted")
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    assert table.frame[["alpha", "tasks"]].iloc[0].tolist() == [0.0, 1]


def test_a_missing_setting_is_named(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    run = make_run({(A, "1"): {"strict": True}}, settings=["strict"])
    with pytest.raises(DataError, match="no labels for the setting with-tools"):
        score_table(run, taxonomy="onet-soc", tasks=tasks)


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
    with pytest.raises(UsageError, match="no importance ratings; choose --weights core or equal"):
        score_table(make_run({(A, "1"): E1}), taxonomy="onet-soc", tasks=tasks)


def test_the_sample_goes_with_the_sample_only(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="sample goes with the sample only"):
        score_table(open_run("sample"), tasks="onet-30.2")
    with pytest.raises(UsageError, match="sample goes with the sample only"):
        score_table(make_run({(A, "1"): E1}), tasks="sample")
