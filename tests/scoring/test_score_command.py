"""`relabel score` from the outside, on the sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from relabel.cli import score
from relabel.errors import UsageError


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.callback()(lambda: None)
    score.register(made)
    return made


def test_the_headline_names_method_and_counts(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    result = CliRunner().invoke(app, ["score", "sample", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "method bridge, UK SOC 2020: 6 of 6 codes scored from 60 of 60 tasks" in result.output
    assert "SAMPLE" in result.output
    assert f"written: {out}" in result.output
    assert out.exists()


def test_json_is_one_document_and_nothing_else(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["score", "sample", "--json", "--out", str(tmp_path / "s.parquet")])
    document = json.loads(result.stdout)
    assert [row["code"] for row in document["rows"]] == ["1121", "2134", "2237", "5250", "5315", "8160"]
    assert (tmp_path / "s.parquet").exists()


def test_an_unknown_suffix_is_refused_before_anything_is_scored(app: typer.Typer) -> None:
    with pytest.raises(UsageError, match="end the name of --out"):
        CliRunner().invoke(app, ["score", "no-such-run", "--out", "scores.doc"], catch_exceptions=False)


def test_an_unknown_method_is_wrong_usage(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["score", "sample", "--method", "mean"]).exit_code == 2


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = "{'pandas', 'pandera', 'pyarrow', 'numpy', 'openpyxl', 'jinja2'}"
    code = f"import sys, relabel.cli.score, relabel.cli.export; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoring_imports_no_neighbour_and_no_terminal() -> None:
    code = (
        "import sys, relabel.scoring.table; "
        "print(sorted(m for m in sys.modules if m.startswith(('relabel.evaluation', 'relabel.labelling', "
        "'relabel.publishing', 'relabel.cli')) or m in {'typer', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
