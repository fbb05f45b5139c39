"""One score taken apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from score_builders import BoundsOf, TaskFile
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.explain import explain, taxonomy_of
from relabel.scoring.table import score_table
from run_builders import MakeRun, answered

A, B = "11-1011.00", "15-1252.00"
E0 = {"strict": False, "with-tools": False}
E1 = {"strict": True, "with-tools": True}
E2 = {"strict": False, "with-tools": True}


@pytest.mark.parametrize(
    ("code", "taxonomy"),
    [
        ("1121", "uk-soc2020"),
        ("11-1011", "soc2018"),
        ("11-1011.00", "onet-soc"),
        ("11-1011.0", "onet-soc"),
        ("managers", None),
    ],
)
def test_the_taxonomy_follows_from_the_form_of_a_code(code: str, taxonomy: str | None) -> None:
    assert taxonomy_of(code) == taxonomy


@pytest.mark.slow
def test_parts_sum_to_one_and_a_flip_gives_the_score_that_the_flipped_label_would(
    tmp_path: Path, task_file: TaskFile, make_run: MakeRun
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A, "importance": n} for n in (1, 2, 3, 4)])
    answers = {(A, "1"): E1, (A, "2"): E2, (A, "3"): E0, (A, "4"): E2}
    run = make_run(answers)
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    explained = explain(table, run, A)
    assert [task.task_id for task in explained.tasks] == ["4", "3", "2", "1"]
    assert sum(task.part for task in explained.tasks) == pytest.approx(1.0)
    for number, task in enumerate(explained.tasks):
        for reading, setting, measure in (
            ("alpha_if_flipped", "strict", "alpha"),
            ("gamma_if_flipped", "with-tools", "gamma"),
        ):
            said = answers[A, task.task_id]
            if measure == "gamma" and said == E1:
                continue  # strict exposed without tools exposed is incoherent and stays E1
            turned = {**said, setting: not said[setting]}
            if measure == "alpha" and turned["strict"]:
                turned["with-tools"] = True
            other = answered(tmp_path / f"{number}-{measure}", {**answers, (A, task.task_id): turned})
            scored = score_table(other, taxonomy="onet-soc", tasks=tasks).frame[measure].item()
            assert getattr(task, reading) == pytest.approx(scored)
    first = explained.tasks[0].given[0]
    assert (first.rationale, first.request_key) == ("because of 4", "key-4-strict")


def test_an_unscored_code_says_why_and_which_answers_are_missing(task_file: TaskFile, make_run: MakeRun) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": A}, {"task_id": "2", "onet_soc_code": B}])
    run = make_run({(A, "1"): E1}, failed=[(B, "2", "strict")])
    explained = explain(score_table(run, taxonomy="onet-soc", tasks=tasks), run, B)
    assert explained.status == f"unscored: no labelled tasks for O*NET-SOC 2019 {B}"
    assert explained.exact["alpha"] is None
    (task,) = explained.tasks
    assert task.part == 0
    assert task.alpha_if_flipped is None
    assert task.missing[0].startswith("strict: refusal")


def test_an_unknown_code_is_one_sentence_with_an_example() -> None:
    run = open_run("sample")
    with pytest.raises(DataError, match=r"'1122' is not a code of UK SOC 2020, whose codes look like 1121") as caught:
        explain(score_table(run), run, "1122")
    assert "\n" not in str(caught.value)


def test_text_fits_the_page_and_json_holds_all(tmp_path: Path) -> None:
    out = tmp_path / "explained.json"
    done = CliRunner().invoke(command_line(), ["explain", "sample", "1121", "--show", "3", "--out", str(out)])
    assert done.exit_code == 0, done.output
    shown = [line for line in done.output.splitlines() if str(out) not in line]
    assert max(map(len, shown)) <= 100
    assert "if flipped: alpha" in done.output
    data = json.loads(out.read_text(encoding="utf-8"))
    assert len(data["tasks"]) == 10
    assert sum(task["part"] for task in data["tasks"]) == pytest.approx(1.0)
    assert {link["system"] for link in data["path"]} == {"O*NET-SOC 2019"}
    for options, said in (
        ("--draws 0 --gold sample", "--gold has no effect without --draws"),
        ("--draws 0 --rater sample", "--rater has no effect without --draws"),
        ("--draws 0 --seed 1", "--seed has no effect without --draws"),
        ("--json --show 3", "--show has no effect with --json"),
        ("--links equal", "--links does not apply to the sample"),
    ):
        with pytest.raises(UsageError, match=said):
            CliRunner().invoke(command_line(), ["explain", "sample", "1121", *options.split()], catch_exceptions=False)


@pytest.mark.mirror
def test_the_three_largest_sources_are_named() -> None:
    done = CliRunner().invoke(command_line(), ["explain", "eloundou-2023:gpt4", "1121", "--show", "0", "--draws", "0"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert (
        "It depends most on Quality Control Systems Managers (16.5%), Industrial Production Managers (16.5%), "
        "Biomass Power Plant Managers (16.5%) and 3 more with the same share." in said
    )


@pytest.mark.slow
@pytest.mark.mirror
def test_a_published_score_is_explained_with_its_interval_and_its_way(bounds_of: BoundsOf) -> None:
    run = open_run("eloundou-2023:gpt4")
    table = bounds_of("site-2026")
    explained = explain(table, run, "1121")
    assert (explained.score["strict_10"], explained.score["with_tools_10"]) == (0.7, 7.3)
    low, high = explained.intervals["gamma"]
    assert low is not None
    assert high is not None
    assert low < explained.score["gamma"] < high
    estimate, low, high = explained.estimates["gamma"]
    assert (low < estimate < high, explained.estimates_of) == (True, "eloundou-2023:human")
    assert explained.estimates_name == "people"
    assert explained.score["gamma"] == 0.73
    assert high == pytest.approx(0.73, abs=0.021)
    assert "alpha_low" not in explained.score
    assert sum(one.share for one in explained.occupations) == pytest.approx(1.0)
    assert sum(task.part for task in explained.tasks) == pytest.approx(1.0)
    assert {(link.system, link.code) for link in explained.path} >= {("ISCO-08", "1321"), ("US SOC 2018", "11-3051")}
    lost = explain(table, run, "2133")
    assert lost.status.startswith("unscored: no O*NET-SOC 2019 code leads to")
    assert lost.tasks == ()


@pytest.mark.slow
@pytest.mark.mirror
def test_a_score_is_explained_with_the_options_of_its_table() -> None:
    words = ["explain", "eloundou-2023:gpt4", "1121", "--draws", "0", "--wage", "mean", "--json"]
    done = CliRunner().invoke(command_line(), words)
    assert done.exit_code == 0, done.output
    row = score_table(open_run("eloundou-2023:gpt4"), wage="mean").frame.set_index("code").loc["1121"]
    assert json.loads(done.stdout)["score"]["wage_exposure_gamma_gbp"] == row["wage_exposure_gamma_gbp"]
