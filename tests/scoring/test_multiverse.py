"""Scores under all choices: the universes, their ranges, and which choice matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from score_builders import Scored, TaskFile, by_code
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import UsageError
from relabel.run import open_run
from relabel.scoring.multiverse import CHOICES, Multiverse, default_raters, multiverse
from relabel.scoring.table import score_table
from run_builders import MakeRun, answered

A, B = "11-1011.00", "15-1252.00"
E0 = {"strict": False, "with-tools": False}
E1 = {"strict": True, "with-tools": True}
E2 = {"strict": False, "with-tools": True}


def _share(found: Multiverse, outcome: str, choice: str) -> float:
    (value,) = found.effects.query("outcome == @outcome and choice == @choice")["first_order"]
    return value


def test_every_combination_is_there_and_the_table_s_own_among_them(
    tmp_path: Path, task_file: TaskFile, make_run: MakeRun
) -> None:
    tasks = task_file(
        [
            {"task_id": "1", "onet_soc_code": A, "importance": 5, "task_type": "Core"},
            {"task_id": "2", "onet_soc_code": A, "importance": None, "task_type": "Supplemental"},
            {"task_id": "3", "onet_soc_code": A, "importance": 1, "task_type": "Supplemental"},
        ]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E2, (A, "3"): E0})
    other = answered(tmp_path / "other", {(A, "1"): E0, (A, "2"): E2, (A, "3"): E0}, model="m-2")
    found = multiverse(score_table(run, taxonomy="onet-soc", tasks=tasks), run, [other])
    assert len(found.universes) == 2 * 3 * 3 * 1 * 2
    assert not found.universes[["labels", *CHOICES]].duplicated().any()
    row = by_code(found.occupations)[A]
    # By hand: m-1 under importance with the unrated one dropped is 5 / 6, m-2 never sees strict exposure.
    assert (row["alpha"], row["alpha_min"], row["alpha_max"]) == pytest.approx((5 / 9, 0.0, 5 / 6))
    assert row["alpha_most"] == "rater"
    own = found.headline.set_index("outcome")
    assert own["chosen"]["mean_alpha"] == pytest.approx(5 / 9)
    assert np.isnan(own["chosen"]["wage_exposure_alpha_gbp"])


def test_a_choice_that_alone_decides_accounts_for_all_of_the_variance(
    tmp_path: Path, task_file: TaskFile, make_run: MakeRun
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A, "importance": 3, "task_type": "Core"} for n in (1, 2)])
    run = make_run({(A, "1"): E1, (A, "2"): E0})
    other = answered(tmp_path / "other", {(A, "1"): E0, (A, "2"): E0}, model="m-2")
    found = multiverse(score_table(run, taxonomy="onet-soc", tasks=tasks), run, [other])
    assert _share(found, "mean_alpha", "rater") == pytest.approx(1.0)
    assert _share(found, "mean_alpha", "weights") == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(_share(found, "mean_alpha", "comparison")) or _share(found, "mean_alpha", "comparison") < 1e-12


def test_thin_groups_are_in_no_headline_figure(tmp_path: Path, task_file: TaskFile, make_run: MakeRun) -> None:
    parts = [(A, "1", 4), (A, "2", 1), (B, "3", 3), (B, "4", 5)]
    tasks = task_file(
        [{"task_id": n, "onet_soc_code": code, "importance": im, "task_type": "Core"} for code, n, im in parts]
    )
    run = make_run({(A, "1"): E1, (A, "2"): E0, (B, "3"): E0})
    whole = answered(tmp_path / "other", {(code, n): E1 for code, n, _ in parts}, model="m-2")
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    found = multiverse(table, run, [whole])
    # By hand: under importance B has labels for 3 / 8 of its weight, under equal weights for 1 / 2.
    by = found.universes.query("labels == @run.name and unrated == 'mean' and comparison == '>'").set_index("weights")
    assert by["scored"].to_dict() == {"importance": 1, "core": 2, "equal": 2}
    assert by["mean_alpha"].to_dict() == pytest.approx({"importance": 4 / 5, "core": 1 / 4, "equal": 1 / 4})
    assert found.universes.query("labels == @whole.name")["scored"].eq(2).all()
    assert found.headline.set_index("outcome")["chosen"]["mean_alpha"] == pytest.approx(4 / 5)
    # The groups' own ranges keep what each universe makes of them.
    assert by_code(found.occupations)[B]["alpha_min"] == 0.0


def test_a_rater_given_twice_is_refused(task_file: TaskFile, make_run: MakeRun) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}])
    run = make_run({(A, "1"): E1})
    with pytest.raises(UsageError, match="given twice"):
        multiverse(score_table(run, taxonomy="onet-soc", tasks=tasks), run, [run])


def test_one_half_counts_as_above_by_one_comparison_only() -> None:
    run = open_run("sample")
    table = score_table(run)
    found = multiverse(table, run, default_raters(run))
    by = found.universes.groupby("comparison")["jobs_above_half_gamma"]
    assert (by.max()[">="] >= by.max()[">"]).all()
    own = found.headline.set_index("outcome")["chosen"]
    totals = table.totals
    assert totals is not None
    for measure in ("alpha", "beta", "gamma"):
        name = f"wage_exposure_{measure}_gbp"
        assert own[name] == pytest.approx(totals[name], abs=1)


def test_the_command_writes_the_whole_and_the_ranges(tmp_path: Path) -> None:
    out = tmp_path / "ranges.csv"
    done = CliRunner().invoke(command_line(), ["score", "sample", "--multiverse", "--no-us", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "universes on sample" in done.output
    assert {"alpha_min", "gamma_max", "gamma_most"} <= set(pd.read_csv(out).columns)
    assert all(len(line) <= 100 for line in done.output.splitlines() if not line.startswith("written"))


@pytest.mark.mirror
def test_the_multiverse_of_the_published_labels_holds_both_methods(scored: Scored) -> None:
    run = open_run("eloundou-2023:gpt4")
    table = scored()
    found = multiverse(table, run, default_raters(run))
    assert len(found.universes) == 3 * 3 * 3 * 4 * 2
    assert found.universes.query("bridge == 'site-2026'")["scored"].max() == 379
    ranges = found.occupations.set_index("code")
    for measure in ("alpha", "beta", "gamma"):
        inside = table.frame.set_index("code")[measure].dropna()
        assert (inside >= ranges.loc[inside.index, f"{measure}_min"] - 1e-9).all()
        assert (inside <= ranges.loc[inside.index, f"{measure}_max"] + 1e-9).all()
    chosen, totals = found.headline.set_index("outcome")["chosen"], table.totals
    assert totals is not None
    # A thin group with jobs and pay, 9222, is in neither.
    assert chosen["wage_exposure_gamma_gbp"] == pytest.approx(totals["wage_exposure_gamma_gbp"], abs=10)
    assert found.universes["scored"].iloc[0] == table.scored == 409
    assert _share(found, "mean_gamma", "labels") > 0.9
