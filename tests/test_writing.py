"""Files that commands write: looked at before the work, whole or not at all; and both ways to ask for JSON."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relabel.cli._options import require_file, write
from relabel.cli.app import run_app
from relabel.errors import DataError
from relabel.files import replacing
from server import judged, provider


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "option", "name"),
    [
        (["eval", "sample"], "--out", "there"),
        (["eval", "sample"], "--html", "there"),
        (["eval", "--paper"], "--out", "there"),
        (["eval", "sample", "--suite", "none"], "--junit", "there"),
        (["eval", "sample", "--suite", "none"], "--markdown", "there"),
        (["compare", "sample", "sample"], "--out", "there"),
        (["compare", "sample", "sample"], "--html", "there"),
        (["compare", "sample", "sample", "--scores"], "--out", "there"),
        (["explain", "sample", "1121"], "--out", "there"),
        (["review", "sample"], "--out", "there"),
        (["score", "sample"], "--out", "there.csv"),
        (["score", "sample", "--multiverse"], "--out", "there.json"),
        (["resilience", "sample"], "--out", "there.csv"),
        (["tasks", "diff", "sample", "sample"], "--out", "there"),
    ],
)
def test_a_folder_in_place_of_a_file_is_refused_before_any_work(
    words: list[str], option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    assert run_app([*words, option, name]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"relabel: {option} {name} is a folder; name a file in it")
    assert shown.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_a_long_comparison_does_not_begin_before_its_page_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relabel.run.open_run", lambda _: pytest.fail("a run was read"))
    Path("none").write_text("")
    for words in (["eval", "sample"], ["compare", "sample", "sample"]):
        assert run_app([*words, "--html", "none/report.html"]) == 3
        assert "cannot write none/report.html" in capsys.readouterr().err


def test_a_file_below_a_file_is_refused_and_looking_makes_no_folder(tmp_path: Path) -> None:
    require_file("none/deep/scores.csv", "--out")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write file/scores\.csv \(Not a directory\); give --out another"):
        require_file("file/scores.csv", "--out")
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


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space.*r\.html'"), replacing(tmp_path / "r.html"):
        raise OSError(errno.ENOSPC, "No space left on device")


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


def test_a_json_file_of_earlier_versions_is_written_and_its_new_spelling_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_app(["tasks", "diff", "sample", "sample", "--json", "d.json"]) == 0
    assert "--json d.json is now --out d.json" in capsys.readouterr().err
    assert json.loads(Path("d.json").read_text())


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["eval", "sample", "--no-intervals"], []),
        (["eval", "sample"], ["--no-intervals"]),
        (["compare", "sample", "sample", "--draws", "200"], []),
        (["explain", "sample", "1121", "--draws", "0"], []),
        (["tasks", "diff", "sample", "sample"], []),
    ],
)
def test_json_is_printed_wherever_it_stands(
    words: list[str], after: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown: list[str] = []
    for spelling in ([*words, "--json", *after], [*words, *after, "--json", "--out", "made/r.json"]):
        assert run_app(spelling) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == (tmp_path / "made/r.json").read_text()
    assert json.loads(shown[0])


WITHOUT_UNIX = """
import signal, sys
for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGQUIT", "SIGKILL"):
    delattr(signal, name)
"""
"""Windows has none of these."""


@pytest.mark.slow
def test_relabel_works_on_a_system_without_the_modules_of_unix(tmp_path: Path) -> None:
    code = (
        WITHOUT_UNIX
        + """
from pathlib import Path
from relabel.cli.app import run_app
from relabel.errors import DataError
from relabel.files import writing
ask = ["run", "--model", "m", "--base-url", sys.argv[1], "--tasks", "sample", "--out", "r", "--quiet"]
for words in (
    ask,
    [*ask, "--engine", "replay"],
    ["eval", "r", "--gold", "sample", "--html", "r.html"],
    ["score", "r", "--out", "scores.csv"],
    ["explain", "r", "1121"],
    ["export", "r", "--out", "e"],
    ["site", "e", "--out", "s"],
    ["store", "verify"],
    ["store", "pack", "a.gz"],
    ["store", "unpack", "a.gz"],
):
    assert run_app(words) == 0, words
folder = Path("held")
folder.mkdir()
with writing(folder):
    try:
        with writing(folder):
            raise SystemExit("held twice")
    except DataError as error:
        assert "another process is writing" in str(error)
with writing(folder):
    pass
"""
    )
    environment = {**os.environ, "OPENAI_API_KEY": "sk-planted-0123456789abcdef"}
    with provider(lambda _: judged()) as fake:
        done = subprocess.run(
            [sys.executable, "-c", code, fake.base_url],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(fake.seen) >= 120
