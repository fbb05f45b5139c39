"""Run folders and published sets, read as one kind of thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relabel.errors import DataError
from relabel.label import Failure, Label
from relabel.rubric import load_rubric
from relabel.run import Manifest, Run, open_run, write_run


def a_label(task: str, setting: str, label: str, sample: int = 0) -> Label:
    return Label(
        task_id=task,
        onet_soc_code="11-1011.00",
        setting=setting,
        sample=sample,
        label=label,
        rationale="r",
        probability=None,
        request_key="0" * 64,
        model_returned="m",
        finish_reason="stop",
        attempts=1,
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        cost_usd=None,
        latency_s=0.1,
        created_at="2026-01-01T00:00:00+00:00",
        from_store=False,
    )


def a_run(folder: Path, labels: list[Label], rubric: str = "exposure", **changes: Any) -> Run:
    loaded = load_rubric(rubric)
    values: dict[str, Any] = {
        "status": "complete",
        "package_version": "0",
        "model": "m",
        "rubric": loaded,
        "rubric_sha256": loaded.sha256,
        "tasks": "made-up",
        "settings": tuple(loaded.settings),
    }
    write_run(folder, Manifest(**{**values, **changes}), labels, [])
    return open_run(str(folder))


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
    coded = a_run(tmp_path, labels, "eloundou").coded().set_index("task_id")
    assert coded["strict"].to_dict() == {"a": False, "b": True, "c": False}
    assert coded["with_tools"].to_dict() == {"a": False, "b": True, "c": True}


def test_repeats_are_decided_by_majority_and_a_tie_is_the_lower_exposure(tmp_path: Path) -> None:
    votes = {"a": ["exposed", "exposed", "not-exposed"], "b": ["exposed", "not-exposed"]}
    labels = [a_label(t, "strict", x, n) for t, row in votes.items() for n, x in enumerate(row)]
    decided = a_run(tmp_path, labels).decided().set_index("task_id")
    assert decided["strict"].to_dict() == {"a": "exposed", "b": "not-exposed"}


def test_failures_come_back(tmp_path: Path) -> None:
    run = a_run(tmp_path, [])
    failure = Failure(
        task_id="a",
        onet_soc_code="x",
        setting="strict",
        sample=0,
        kind="refusal",
        message="no\nnever",
        attempts=1,
        request_key="k",
    )
    write_run(tmp_path, run.manifest, [], [failure])
    assert open_run(str(tmp_path)).failures() == [failure]


def test_a_name_is_looked_up_under_runs(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "mine", [])
    assert open_run("mine", runs_dir=tmp_path / "runs").manifest.model == "m"


def test_no_part_file_is_left(tmp_path: Path) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failures.jsonl", "labels.parquet", "manifest.json"]


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = [a_label(str(n), "strict", "exposed") for n in range(20)]
    a_run(tmp_path / "a", labels)
    a_run(tmp_path / "b", labels[::-1])
    assert (tmp_path / "a" / "labels.parquet").read_bytes() == (tmp_path / "b" / "labels.parquet").read_bytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda d: (d / "manifest.json").write_text("{"), "is no run manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), "is no run manifest"),
        (lambda d: (d / "manifest.json").write_text(json.dumps({"format_version": 99})), "written by a newer relabel"),
        (lambda d: (d / "labels.parquet").unlink(), "lost its labels.parquet"),
        (lambda d: (d / "labels.parquet").write_bytes(b"PAR1 no"), "is damaged"),
    ],
)
def test_a_damaged_folder_is_said_in_a_sentence(damage: Any, words: str, tmp_path: Path) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed")])
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        open_run(str(tmp_path))


def test_an_unknown_run_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="eloundou-2023:gpt4"):
        open_run("eloundou-2023:gpt5")


def test_the_samples_gold_is_a_run() -> None:
    coded = open_run("sample").coded()
    assert coded["code"].value_counts().to_dict() == {"E2": 23, "E0": 20, "E1": 17}
    assert not coded["incoherent"].any()


def test_repeats_of_codes_tie_to_the_lower_code(tmp_path: Path) -> None:
    votes = {"a": ["E0", "E1"], "b": ["E2", "E0"], "c": ["E1", "E2"], "d": ["E1", "E0", "E1"]}
    labels = [a_label(t, "three-way", x, n) for t, row in votes.items() for n, x in enumerate(row)]
    coded = a_run(tmp_path, labels, "eloundou").coded().set_index("task_id")
    assert coded["code"].to_dict() == {"a": "E0", "b": "E0", "c": "E2", "d": "E1"}


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("ref", "counts"),
    [
        ("eloundou-2023:gpt4", {"E0": 8561, "E2": 8002, "E1": 2702}),
        ("eloundou-2023:gpt4-alt", {"E0": 11230, "E2": 5713, "E1": 2322}),
        ("eloundou-2023:human", {"E0": 10256, "E2": 6147, "E1": 2862}),
    ],
)
def test_published_sets_are_runs(ref: str, counts: dict[str, int]) -> None:
    run = open_run(ref)
    assert run.coded()["code"].value_counts().to_dict() == counts
    assert run.manifest.sources[0].sha256.startswith("094378905e1f")
