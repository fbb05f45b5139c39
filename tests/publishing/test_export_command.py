"""`relabel export` from the outside, on the sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import UsageError
from run_builders import MakeRun


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["export"])


@pytest.mark.slow
def test_the_command_says_where_files_lie_and_how_many_groups_are_scored(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", "sample", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"26 files (0.2 MB) in {out}" in result.output
    assert "6 of 6 codes scored from 60 of 60 tasks" in result.output
    assert "SAMPLE" in result.output
    assert f"next: relabel site {out} --out DIR" in result.stderr
    assert (out / "datapackage.json").exists()


@pytest.mark.slow
def test_a_partial_export_must_be_asked_for(app: typer.Typer, sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run(status="interrupted")
    words = ["export", str(run.folder), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code != 0
    result = CliRunner().invoke(app, [*words, "--allow-partial"])
    assert result.exit_code == 0, result.output
    assert "PARTIAL" in result.output


def test_the_folder_is_a_must(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["export", "sample"]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--links equal", "--links does not apply to the sample"),
        ("--no-families --epoch sample", "--epoch has no effect with --no-families"),
        ("--tasks mine.csv --families", "--families needs a task list of O.NET"),
        ("--tasks mine.csv --epoch sample", "--epoch needs a task list of O.NET"),
    ],
)
def test_an_option_without_effect_is_refused(app: typer.Typer, tmp_path: Path, options: str, said: str) -> None:
    words = ["export", "sample", "--out", str(tmp_path / "out"), *options.split()]
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "out").exists()
