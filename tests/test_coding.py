"""What labels mean: decided over repeats, coded by pairs, measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relabel.run import measures_of, open_run
from run_builders import a_label, a_run, one_sided_rubric


def test_all_four_pairs_are_coded_and_the_incoherent_one_is_marked(tmp_path: Path) -> None:
    pairs = {
        "a": ("exposed", "exposed"),
        "b": ("not-exposed", "exposed"),
        "c": ("not-exposed", "not-exposed"),
        "d": ("exposed", "not-exposed"),
    }
    labels = [
        a_label(t, s, x) for t, pair in pairs.items() for s, x in zip(("strict", "with-tools"), pair, strict=True)
    ]
    coded = a_run(tmp_path, labels).coded().set_index("task_id")
    assert coded["code"].to_dict() == {"a": "E1", "b": "E2", "c": "E0", "d": "E1"}
    assert coded["incoherent"].to_dict() == {"a": False, "b": False, "c": False, "d": True}
    assert coded["with_tools"].to_dict() == {"a": True, "b": True, "c": False, "d": False}


def test_a_task_with_a_missing_answer_has_no_code(tmp_path: Path) -> None:
    coded = (
        a_run(tmp_path, [a_label("a", "with-tools", "exposed"), a_label("b", "strict", "exposed")])
        .coded()
        .set_index("task_id")
    )
    assert coded["code"].isna()["a"]
    assert coded["strict"].isna()["a"]
    assert coded["code"].isna()["b"]  # strict exposed means E1, but counting only such tasks would count no E0
    assert coded["strict"]["b"]
    assert coded["with_tools"].isna()["b"]


def test_a_one_question_run_has_its_settings_derived(tmp_path: Path) -> None:
    labels = [a_label(t, "three-way", c) for t, c in (("a", "E0"), ("b", "E1"), ("c", "E2"))]
    coded = a_run(tmp_path, labels, rubric="eloundou").coded().set_index("task_id")
    assert coded["strict"].to_dict() == {"a": False, "b": True, "c": False}
    assert coded["with_tools"].to_dict() == {"a": False, "b": True, "c": True}


def test_repeats_are_decided_by_majority_and_a_tie_is_the_lower_exposure(tmp_path: Path) -> None:
    votes = {"a": ["exposed", "exposed", "not-exposed"], "b": ["exposed", "not-exposed"]}
    labels = [a_label(t, "strict", x, n) for t, row in votes.items() for n, x in enumerate(row)]
    decided = a_run(tmp_path, labels).decided().set_index("task_id")
    assert decided["strict"].to_dict() == {"a": "exposed", "b": "not-exposed"}


def test_a_label_unknown_to_the_rubric_wins_no_tie_in_a_table_put_together_by_hand(tmp_path: Path) -> None:
    run = a_run(tmp_path, [a_label("a", "strict", "exposed"), a_label("a", "strict", "not-exposed", 1)])
    by_hand = replace(run, labels=run.labels.assign(label=["exposed", "maybe"]))
    assert by_hand.decided()["strict"].tolist() == ["exposed"]


def test_repeats_of_codes_tie_to_the_lower_code(tmp_path: Path) -> None:
    votes = {"a": ["E0", "E1"], "b": ["E2", "E0"], "c": ["E1", "E2"], "d": ["E1", "E0", "E1"]}
    labels = [a_label(t, "three-way", x, n) for t, row in votes.items() for n, x in enumerate(row)]
    coded = a_run(tmp_path, labels, rubric="eloundou").coded().set_index("task_id")
    assert coded["code"].to_dict() == {"a": "E0", "b": "E0", "c": "E2", "d": "E1"}


@pytest.mark.parametrize(
    ("without", "missing"), [("E2", {"with_tools": ["beta", "gamma"]}), ("E1", {"strict": ["alpha", "beta"]})]
)
def test_a_rubric_without_a_code_gives_no_reading_that_the_code_stands_for(
    without: str, missing: dict[str, list[str]], tmp_path: Path
) -> None:
    rubric = one_sided_rubric(tmp_path, without=without)
    other = "E1" if without == "E2" else "E2"
    labels = [a_label("a", "three-way", "E0"), a_label("b", "three-way", other)]
    run = a_run(tmp_path / "run", labels, rubric=rubric)
    ((reading, measures),) = missing.items()
    coded = run.coded()
    assert coded[reading].isna().all()
    assert coded.drop(columns=reading).notna().all().all()
    assert sorted(run.missing_measures()) == measures
    assert all(f"has no code {without}" in why for why in run.missing_measures().values())
    values = measures_of(rubric, coded)
    assert values[measures].isna().all().all()
    assert values.drop(columns=measures).iloc[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("setting", "given", "lacks"), [("strict", "alpha", "with-tools"), ("with-tools", "gamma", "strict")]
)
def test_one_setting_alone_settles_one_measure(setting: str, given: str, lacks: str, tmp_path: Path) -> None:
    run = a_run(tmp_path, [a_label("a", setting, "exposed"), a_label("b", setting, "not-exposed")], settings=(setting,))
    values = measures_of(run.rubric, run.coded())
    assert values[given].tolist() == [1, 0]
    why = f"the run has no labels for the setting {lacks}"
    assert run.missing_measures() == {measure: why for measure in ("alpha", "beta", "gamma") if measure != given}


def test_whole_runs_miss_no_measure() -> None:
    run = open_run("sample")
    assert run.missing_measures() == {}
    values = measures_of(run.rubric, run.coded())
    assert values.sum().tolist() == [17, 17 + 23 / 2, 17 + 23]
