"""`relabel score` from the outside, on the sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from score_workshop import TaskFile
from typer.testing import CliRunner

from relabel.cli import score
from relabel.errors import UsageError
from run_workshop import MakeRun


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


def test_thin_groups_are_counted_apart(app: typer.Typer, make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(10)])
    run = make_run({("11-1011.00", "1"): {"strict": True, "with-tools": True}})
    words = ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "0 of 1 codes scored and 1 thin from 1 of 10 tasks of tasks.csv" in result.output
    assert "PARTIAL: rests on 1 of 10 tasks" in result.output
    assert "thin: 11-1011.00 (the column status says why)" in result.output


def test_a_run_of_one_setting_is_shown_with_dashes(app: typer.Typer, make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": "11-1011.00"}])
    run = make_run({("11-1011.00", "1"): {"strict": True}}, settings=["strict"])
    result = CliRunner().invoke(app, ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc"])
    assert "11-1011.00   1.000      -      -" in result.output


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
