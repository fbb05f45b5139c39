"""`relabel export` from the outside, on the sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from relabel.cli import export
from run_workshop import MakeRun


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.callback()(lambda: None)
    export.register(made)
    return made


def test_the_command_says_where_files_lie_and_how_many_groups_are_scored(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", "sample", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"26 files (0.2 MB) in {out}" in result.output
    assert "6 of 6 codes scored from 60 of 60 tasks" in result.output
    assert "SAMPLE" in result.output
    assert (out / "datapackage.json").exists()


def test_a_partial_export_must_be_asked_for(app: typer.Typer, sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run(status="interrupted")
    words = ["export", str(run.folder), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code != 0
    result = CliRunner().invoke(app, [*words, "--allow-partial"])
    assert result.exit_code == 0, result.output
    assert "PARTIAL" in result.output


def test_the_folder_is_a_must(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["export", "sample"]).exit_code == 2
