"""`relabel site` from the outside, on the sample."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import UsageError


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["site"])


@pytest.mark.slow
def test_an_export_becomes_a_site(app: typer.Typer, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["export", "sample", "--draws", "0", "--out", str(tmp_path / "export")]).exit_code == 0
    result = run(app, ["site", str(tmp_path / "export"), "--out", str(tmp_path / "site")])
    assert result.exit_code == 0, result.output
    assert re.search(r"\d+ pages, \d+ files \(\d\.\d MB\) in ", result.output)
    assert (tmp_path / "site/index.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["site", "export"], "name the output folder"),
        (["site", "export", "other", "--out", "x"], "unexpected second folder"),
        (["site", "serve"], "name the folder of a site"),
        (["site", "serve", "nowhere"], "holds no index.html"),
    ],
)
def test_wrong_words_are_told_in_a_sentence(app: typer.Typer, words: list[str], says: str) -> None:
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)


@pytest.mark.slow
def test_an_export_called_serve_can_be_given_by_its_path(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["export", "sample", "--draws", "0", "--out", "serve"]).exit_code == 0
    result = CliRunner().invoke(app, ["site", "./serve", "--out", "site"])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_site_is_shown_until_interrupted(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>", encoding="utf-8")
    words = [sys.executable, "-m", "relabel", "site", "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as shown:
        assert shown.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", shown.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as answer:
            assert answer.read() == b"<p>here</p>"
        shown.send_signal(signal.SIGINT)
        assert "stopped" in shown.stdout.read()
