"""Run folders and published sets, read as one kind of thing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from relabel import manifest
from relabel.errors import DataError
from relabel.files import make_private_dir, replacing, writing
from relabel.manifest import task_sources, write_run
from relabel.run import LABELS, open_run
from run_builders import a_failure, a_label, a_run


@pytest.mark.parametrize(
    ("rubric", "good", "setting", "label", "words"),
    [
        ("exposure", ("strict", "exposed"), "strict", "maybe", r"the task b of 11-1011\.00 'maybe'"),
        ("exposure", ("strict", "exposed"), "Strict", "exposed", r"task b of .* in the setting 'Strict'"),
        (
            "eloundou",
            ("three-way", "E1"),
            "three-way",
            "E3",
            r"'E3' .* which the rubric eloundou does not have \(labels E1, E2, E0",
        ),
        ("automation", ("automation", "T4"), "automation", "E1", r"'E1' .* which the rubric automation does not have"),
        ("epoch", ("hope", "5"), "hope", "6", r"the occupation 11-1011\.00 '6' in the setting 'hope'"),
    ],
)
def test_a_label_that_the_rubric_does_not_know_is_named_not_counted(
    rubric: str, good: tuple[str, str], setting: str, label: str, words: str, tmp_path: Path
) -> None:
    fine = a_label("a", *good)
    assert len(a_run(tmp_path, [fine], rubric=rubric).labels) == 1
    with pytest.raises(DataError, match=words) as said:
        a_run(tmp_path, [fine, a_label("b", setting, label)], rubric=rubric)
    assert str(tmp_path / "labels.parquet") in str(said.value)


def open_everything(folder: Path) -> None:
    open_run(str(folder)).failures()
    with writing(folder):
        pass


@pytest.mark.parametrize("name", [".lock", "manifest.json", "labels.parquet", "failures.jsonl"])
def test_a_link_in_a_strangers_run_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine"
    a_run(folder, [a_label("a", "strict", "exposed")], [a_failure("x", "b", "strict")])
    mine.write_bytes((folder / name).read_bytes() if name != ".lock" else b"precious")
    before = mine.read_bytes()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(mine)
    with pytest.raises(DataError, match="symbolic link"):
        open_everything(folder)
    assert mine.read_bytes() == before


def test_a_new_file_never_goes_through_a_link(tmp_path: Path) -> None:
    mine, target = tmp_path / "mine", tmp_path / "labels.parquet"
    mine.write_text("precious")
    target.symlink_to(mine)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert (target.read_text(), target.is_symlink(), mine.read_text()) == ("new", False, "precious")


def test_folders_are_private_under_any_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_dir(tmp_path / "home" / "store" / "deep")
    finally:
        os.umask(before)
    for folder in ("home", "home/store", "home/store/deep"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


def test_failures_come_back(tmp_path: Path) -> None:
    run = a_run(tmp_path, [])
    failure = a_failure("x", "a", "strict")
    write_run(tmp_path, run.manifest, [], [failure])
    assert open_run(str(tmp_path)).failures() == [failure]


def test_a_failure_comes_back_whatever_line_breaks_its_message_holds(tmp_path: Path) -> None:
    said = "no\u2028never\u2029at\x85all\x0b\x0c\x1c\r\nend"
    failures = [a_failure("x", task, "strict").model_copy(update={"message": said}) for task in "ab"]
    assert a_run(tmp_path, [], failures).failures() == failures


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"garbage", r"line 2 .*Invalid JSON"),
        (b'{"task_id": "cut', r"line 2 .*Invalid JSON"),
        (b"\xff\xfe", r"line 2 .*Invalid JSON"),
        (b"[]", r"line 2 .*object"),
        (b'{"task_id": "b"}', r"line 2 .*onet_soc_code: is missing"),
    ],
)
def test_a_damaged_line_of_the_failures_is_named(line: bytes, words: str, tmp_path: Path) -> None:
    run = a_run(tmp_path, [], [a_failure("x", "a", "strict")])
    with (tmp_path / "failures.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match=words):
        run.failures()


def test_a_name_is_looked_up_under_runs(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "mine", [])
    assert open_run("mine", runs_dir=tmp_path / "runs").manifest.model == "m"


def test_no_part_file_is_left(tmp_path: Path) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failures.jsonl", "labels.parquet", "manifest.json"]


def test_a_run_has_the_same_bytes_on_systems_that_end_lines_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def windows(path: Path, mode: str = "r", *args: Any, newline: str | None = None, **more: Any) -> Any:
        newline = "\r\n" if newline is None and mode == "w" else newline
        return opened(path, mode, *args, newline=newline, **more)

    for name in ("here", "there"):
        a_run(tmp_path / name, [a_label("1", "strict", "exposed")], [a_failure("11-1011.00", "2", "strict")])
        monkeypatch.setattr(Path, "open", windows)
    monkeypatch.undo()
    for file in ("manifest.json", "failures.jsonl"):
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = [a_label(str(n), "strict", "exposed") for n in range(20)]
    a_run(tmp_path / "a", labels)
    a_run(tmp_path / "b", labels[::-1])
    assert (tmp_path / "a" / "labels.parquet").read_bytes() == (tmp_path / "b" / "labels.parquet").read_bytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "is not a run, which is a folder with a manifest.json"),
        (lambda d: (d / "manifest.json").write_text("{"), "is not a run manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), "is not a run manifest .*dictionary"),
        (lambda d: (d / "manifest.json").write_text("[" * 200_000), "is not a run manifest"),
        (lambda d: (d / "manifest.json").write_bytes(b"\xff"), "is not a run manifest"),
        (lambda d: (d / "manifest.json").write_text("{}"), "is not a run manifest .status: is missing"),
        (lambda d: (d / "manifest.json").write_text('{"format_version": "2"}'), "is not a run manifest"),
        (lambda d: (d / "manifest.json").write_text(json.dumps({"format_version": 99})), "written by a newer relabel"),
        (lambda d: (d / "labels.parquet").unlink(), "lost its labels.parquet"),
        (lambda d: (d / "labels.parquet").write_bytes(b"PAR1 no"), "is damaged"),
        (lambda d: (d / "labels.parquet").write_bytes(b""), "is damaged"),
        (lambda d: (d / "labels.parquet").write_bytes((d / "labels.parquet").read_bytes()[:-9]), "is damaged"),
        (lambda d: _columns_named_alike(d / "labels.parquet"), "the column 'label' more than once"),
        (lambda d: _not_utf_8(d / "labels.parquet"), "is damaged"),
        (lambda d: _with_parameter("samples", d), "parameters: samples is not a whole number"),
        (lambda d: _with_parameter("seed", d), "parameters: seed is not a whole number"),
    ],
)
def test_a_damaged_folder_is_said_in_a_sentence(damage: Any, words: str, tmp_path: Path) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed")])
    damage(tmp_path)
    with pytest.raises(DataError, match=words) as said:
        open_run(str(tmp_path))
    assert "\n" not in str(said.value)


def _with_parameter(name: str, folder: Path) -> None:
    written = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(written | {"parameters": {name: ["x"]}}))


def _columns_named_alike(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", table["label"]), path)


def _not_utf_8(path: Path) -> None:
    table = pq.read_table(path)
    text = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [*pyarrow.array(["ab"]).buffers()[:2], pyarrow.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(table.set_column(table.column_names.index("rationale"), "rationale", text), path)


def test_a_table_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed"), a_label("b", "strict", "exposed")])
    monkeypatch.setattr(manifest, "_MOST_LABELS", 1)
    with pytest.raises(DataError, match=r"is damaged .it has more than 1 labels"):
        open_run(str(tmp_path))


def test_a_task_labelled_twice_is_named(tmp_path: Path) -> None:
    a_run(tmp_path, [a_label("a", "strict", "exposed"), a_label("b", "strict", "exposed")])
    table = pq.read_table(tmp_path / "labels.parquet")
    pq.write_table(pyarrow.concat_tables([table, table.slice(1)]), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"the task b of 11-1011\.00 has two labels in the setting strict as sample 0"):
        open_run(str(tmp_path))


def test_columns_that_a_table_of_labels_may_lack_are_read_as_missing(tmp_path: Path) -> None:
    path, whole = tmp_path / "labels.parquet", a_run(tmp_path, [a_label("a", "strict", "exposed")]).labels
    whole[list(LABELS)].assign(note="of a colleague").to_parquet(path)
    bare = open_run(str(tmp_path)).labels
    assert list(bare) == list(whole)
    assert bare[list(LABELS)].equals(whole[list(LABELS)])
    assert bare.drop(columns=[*LABELS, "variant", "repaired", "unwrapped", "reasoning_tokens"]).isna().all(axis=None)
    assert list(bare["variant"]) == [0]  # a table from before there were orders has one
    assert bare["probability"].dtype == "float64"
    assert bare["rationale"].dtype == whole["rationale"].dtype


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probability": "high"}, "its column probability holds no double"),
        ({"probability": float("inf")}, "its column probability holds inf, which is not from 0 to 1"),
        ({"probability": -0.5}, "its column probability holds -0.5, which is not from 0 to 1"),
        ({"attempts": 1.5}, "its column attempts holds no int32"),
        ({"task_id": 1}, "its column task_id holds int64, not text"),
        ({"label": None}, "its column label is empty in 1 of 1 rows"),
        ({"sample": "first"}, "its column sample holds no int32"),
        ({"sample": 0.5}, "its column sample holds no int32"),
        ({"sample": None}, "its column sample is empty in 1 of 1 rows"),
        ({"sample": -1}, "its column sample holds -1, which is below 0"),
    ],
)
def test_a_column_of_the_wrong_kind_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    whole = a_run(tmp_path, [a_label("a", "strict", "exposed")]).labels
    whole.assign(**change).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=words) as said:
        open_run(str(tmp_path))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("column", ["task_id", "onet_soc_code", "setting", "sample", "label", "request_key"])
def test_a_table_of_labels_without_a_column_that_all_rests_on_is_refused(column: str, tmp_path: Path) -> None:
    whole = a_run(tmp_path, [a_label("a", "strict", "exposed")]).labels
    whole.drop(columns=column).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=f"has no column '{column}'"):
        open_run(str(tmp_path))


@pytest.mark.parametrize("ref", ["eloundou-2023:gpt5", ""])
def test_an_unknown_run_is_answered_with_the_known_ones(ref: str) -> None:
    with pytest.raises(DataError, match="eloundou-2023:gpt4"):
        open_run(ref)


def test_no_folder_is_taken_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path, [])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="run '' was not found"):
        open_run("")


def test_a_file_is_no_run(tmp_path: Path) -> None:
    a_run(tmp_path, [])
    with pytest.raises(DataError, match="is not a run, which is a folder"):
        open_run(str(tmp_path / "manifest.json"))


def test_the_samples_gold_is_a_run() -> None:
    coded = open_run("sample").coded()
    assert coded["code"].value_counts().to_dict() == {"E2": 23, "E0": 20, "E1": 17}
    assert not coded["incoherent"].any()


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


def test_a_task_file_is_recorded_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("task_id,onet_soc_code,title,text\n1,11-1011.00,T,Do.\n")
    (use,) = task_sources(str(path))
    assert (use.source, use.file) == ("task-file", "mine.csv")
    assert len(use.sha256) == 64
    assert str(tmp_path) not in use.model_dump_json()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "figures.txt"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["figures.txt"]
