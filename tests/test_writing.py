"""Files that commands write: looked at before the work, whole or not at all; and both ways to ask for JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.cli.writing import require_file, write
from relabel.errors import DataError
from relabel.files import replacing

PLAN = ["plan", "--model", "gpt-4o-mini", "--tasks", "sample"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "option", "name"),
    [
        (["eval", "sample"], "--json", "there"),
        (["eval", "sample"], "--html", "there"),
        (["eval", "--paper"], "--json", "there"),
        (["eval", "sample", "--suite", "none"], "--junit", "there"),
        (["eval", "sample", "--suite", "none"], "--markdown", "there"),
        (["compare", "sample", "sample"], "--json", "there"),
        (["compare", "sample", "sample"], "--html", "there"),
        (["compare", "sample", "sample", "--scores"], "--json", "there"),
        (["explain", "sample", "1121"], "--json", "there"),
        (["review", "sample"], "--out", "there"),
        (["score", "sample"], "--out", "there.csv"),
        (["score", "sample", "--multiverse"], "--out", "there.json"),
        (["resilience", "sample"], "--out", "there.csv"),
        (["tasks", "diff", "sample", "sample"], "--json", "there"),
        (PLAN, "--json", "there"),
    ],
)
def test_a_folder_in_place_of_a_file_is_refused_before_any_work(
    words: list[str], option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    assert run_app([*words, option, name]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"relabel: {option} {name} is a folder; name a file, such as {name}/")
    assert shown.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_a_long_comparison_does_not_begin_before_its_page_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relabel.run.open_run", lambda _: pytest.fail("a run was read"))
    for words in (["eval", "sample"], ["compare", "sample", "sample"]):
        assert run_app([*words, "--html", "none/report.html"]) == 3
        assert "cannot write none/report.html" in capsys.readouterr().err


def test_a_file_in_a_folder_that_is_not_there_is_refused_unless_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot write none/r\.html \(No such file or directory\); give --html another"
    ):
        require_file("none/r.html", "--html")
    require_file("none/deep/scores.csv", "--out", make_folder=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write file/scores\.csv \(Not a directory\)"):
        require_file("file/scores.csv", "--out", make_folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_looking_leaves_an_earlier_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("earlier")
    require_file(tmp_path / "r.html", "--html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_what_cannot_be_put_in_its_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    with pytest.raises(OSError, match="directory"), replacing(tmp_path / "r.html") as temporary:
        temporary.write_text("page")
    with pytest.raises(DataError, match=r"cannot write .*r\.html"):
        write(tmp_path / "r.html", "page", "--html")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        require_file(pipe, "--json")
        write(pipe, "é", "--json")
        assert os.read(reader, 10) == "é".encode()
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["eval", "sample", "--no-intervals"], []),
        (["eval", "sample"], ["--no-intervals"]),
        (["compare", "sample", "sample", "--draws", "200"], []),
        (["explain", "sample", "1121", "--draws", "0"], []),
        (["tasks", "diff", "sample", "sample"], []),
        (PLAN, ["--rpm", "500"]),
    ],
)
def test_json_without_a_file_is_printed(words: list[str], after: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    for spelling in (["--json"], ["--json", "-"]):
        assert run_app([*words, *spelling, *after]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert json.loads(shown[0])


def test_json_with_a_file_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([*PLAN, "--json", "plan.json"]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "plan.json").read_text())["labels"] == 120


def test_a_file_behind_a_json_that_only_prints_is_answered_with_how_to_write_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_app(["score", "sample", "--json", "out.json"]) == 2
    said = capsys.readouterr().err
    assert "(out.json); --json of relabel score prints, and takes no file: write > out.json behind it; see" in said
    assert run_app(["score", "sample", "more", "--json"]) == 2
    assert "takes no file" not in capsys.readouterr().err
