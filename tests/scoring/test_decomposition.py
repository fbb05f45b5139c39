"""What moved between two score tables: parts that add up, and parts that fall where they belong."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from score_builders import Scored, TaskFile

from relabel.errors import UsageError
from relabel.rubric import MEASURES
from relabel.run import open_run
from relabel.scoring.decomposition import FACTORS, PARTS, Decomposition, State, decompose, split_by_order
from relabel.scoring.table import ScoreTable, score_table
from run_builders import MakeRun, answered

A, B = "11-1011.00", "15-1252.00"
E0 = {"strict": False, "with-tools": False}
E1 = {"strict": True, "with-tools": True}
E2 = {"strict": False, "with-tools": True}


def _parts(moved: Decomposition, code: str, measure: str) -> dict[str, float]:
    (row,) = moved.frame[(moved.frame["code"] == code) & (moved.frame["measure"] == measure)].to_dict("records")
    return {part: row[part] for part in ("change", *PARTS)}


def test_the_split_averages_over_all_orders() -> None:
    # Labels and weights only: f(labels, weights) with a product of the two; the joint effect is halved.
    states: dict[State, np.ndarray] = {
        s: np.array([3.0 * s[0] + 1.0 * s[2] + 2.0 * s[0] * s[2]]) for s in itertools.product((0, 1), repeat=4)
    }
    assert split_by_order(states).ravel().tolist() == pytest.approx([4.0, 0.0, 2.0, 0.0])


def test_orders_that_pass_a_missing_state_are_left_out() -> None:
    states: dict[State, np.ndarray] = {
        s: np.array([float(3 * s[0] + s[1] + 4 * s[0] * s[1])]) for s in itertools.product((0, 1), repeat=4)
    }
    for state, value in states.items():
        if state[:2] == (1, 0):
            value[:] = np.nan  # so the task list comes before the labels in every order that counts
    assert split_by_order(states).ravel().tolist() == pytest.approx([7.0, 1.0, 0.0, 0.0])


@pytest.mark.slow
def test_each_way_alone_carries_the_whole_change(tmp_path: Path, task_file: TaskFile, make_run: MakeRun) -> None:
    rows = [
        {"task_id": str(n), "onet_soc_code": A, "importance": 1 + n, "task_type": "Core" if n % 2 else "Supplemental"}
        for n in range(4)
    ]
    tasks = task_file(rows)
    fewer = tmp_path / "fewer.csv"
    pd.read_csv(tasks).iloc[:3].to_csv(fewer, index=False)
    run = make_run({(A, "0"): E1, (A, "1"): E2, (A, "2"): E0, (A, "3"): E2})
    other = answered(tmp_path / "other", {(A, "0"): E0, (A, "1"): E2, (A, "2"): E1, (A, "3"): E1})
    first = score_table(run, taxonomy="onet-soc", tasks=tasks)
    for way, second in (
        ("labels", score_table(other, taxonomy="onet-soc", tasks=tasks)),
        ("tasks", score_table(run, taxonomy="onet-soc", tasks=str(fewer))),
        ("weights", score_table(run, taxonomy="onet-soc", tasks=tasks, weights="core")),
    ):
        moved = decompose(first, second)
        for measure in MEASURES:
            parts = _parts(moved, A, measure)
            if measure == "beta":
                assert abs(parts["change"]) > 0.01
            assert parts[way] == pytest.approx(parts["change"], abs=1e-12)
            assert sum(abs(parts[part]) for part in PARTS if part != way) == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_told_apart_stands_undivided(tmp_path: Path, task_file: TaskFile, make_run: MakeRun) -> None:
    # Each run labels the one task that has a rating in its list; no label is on a task that weighs in the other's.
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A, "importance": 3 if n == 1 else None} for n in (1, 2)])
    turned = tmp_path / "turned.csv"
    pd.read_csv(tasks).assign(importance=[float("nan"), 3]).to_csv(turned, index=False)
    run, other = make_run({(A, "1"): E0}), answered(tmp_path / "other", {(A, "2"): E1})
    before = score_table(run, taxonomy="onet-soc", tasks=tasks, unrated="drop")
    after = score_table(other, taxonomy="onet-soc", tasks=str(turned), unrated="drop")
    moved = decompose(before, after)
    parts = _parts(moved, A, "alpha")
    assert (parts["change"], parts["undivided"]) == (1.0, 1.0)
    assert all(parts[way] == 0 for way in FACTORS)
    carriers = moved.task_contributions(A, "alpha")
    assert carriers["change"].sum() == pytest.approx(1.0)
    assert carriers[list(FACTORS)].isna().all(axis=None)


@pytest.mark.slow
def test_groups_scored_once_are_listed_with_the_reason(tmp_path: Path, task_file: TaskFile, make_run: MakeRun) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}, {"task_id": "2", "onet_soc_code": B}])
    before = score_table(make_run({(A, "1"): E1}), taxonomy="onet-soc", tasks=tasks)
    after = score_table(answered(tmp_path / "other", {(B, "2"): E1}), taxonomy="onet-soc", tasks=tasks)
    moved = decompose(before, after)
    assert moved.frame.empty
    assert moved.appeared[["code", "reason"]].to_numpy().tolist() == [[B, f"no labelled tasks for O*NET-SOC 2019 {B}"]]
    assert moved.disappeared["code"].tolist() == [A]
    with pytest.raises(UsageError, match="no change of alpha"):
        moved.task_contributions(A, "alpha")


@pytest.mark.slow
def test_tables_of_two_taxonomies_are_not_compared() -> None:
    sample = open_run("sample")
    with pytest.raises(UsageError, match="same --taxonomy"):
        decompose(score_table(sample), score_table(sample, taxonomy="onet-soc"))


@pytest.fixture(scope="module")
def pair(scored: Scored) -> tuple[ScoreTable, ScoreTable]:
    """Tables that differ in all four ways."""
    return scored(method="site-2026"), scored("eloundou-2023:human", weights="core", tasks="eloundou-2023")


@pytest.fixture(scope="module")
def moved(pair: tuple[ScoreTable, ScoreTable]) -> Decomposition:
    return decompose(*pair)


@pytest.mark.slow
@pytest.mark.mirror
def test_the_parts_add_up_to_the_change_of_every_published_score(
    moved: Decomposition, pair: tuple[ScoreTable, ScoreTable]
) -> None:
    frame = moved.frame
    assert len(frame) == 3 * 379
    assert (frame[list(PARTS)].sum(axis=1) - frame["change"]).abs().max() < 1e-9
    for way in (*FACTORS, "rounding"):
        assert frame[way].abs().max() > 1e-4
    shown = [table.frame.set_index("code") for table in pair]
    for measure, rows in frame.groupby("measure"):
        for column, table in (("before", shown[0]), ("after", shown[1])):
            assert (rows[column].to_numpy() == table.loc[rows["code"], str(measure)].to_numpy()).all()
    assert "2133" in set(moved.appeared["code"])


@pytest.mark.mirror
def test_the_split_turns_round_with_the_tables(moved: Decomposition, pair: tuple[ScoreTable, ScoreTable]) -> None:
    back = decompose(pair[1], pair[0]).frame
    columns = ["change", *PARTS]
    assert np.allclose(back[columns].to_numpy(), -moved.frame[columns].to_numpy(), atol=1e-12)


@pytest.mark.mirror
def test_the_tasks_that_carry_a_change_add_up_to_its_parts(moved: Decomposition) -> None:
    parts = _parts(moved, "1121", "gamma")
    carriers = moved.task_contributions("1121", "gamma")
    for way in FACTORS:
        assert carriers[way].sum() == pytest.approx(parts[way], abs=1e-9)
    assert carriers["change"].sum() == pytest.approx(sum(parts[way] for way in FACTORS), abs=1e-9)
    assert carriers["change"].abs().is_monotonic_decreasing
    assert carriers["part_before"].sum() <= 1 + 1e-9


@pytest.mark.mirror
def test_a_table_does_not_move_against_itself(pair: tuple[ScoreTable, ScoreTable]) -> None:
    same = decompose(pair[0], dataclasses.replace(pair[0]))
    assert (same.frame[["change", *PARTS]] == 0).all(axis=None)
    assert same.appeared.empty
    assert same.task_contributions("1121", "beta").empty
