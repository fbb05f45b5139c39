"""`relabel eval`: what is printed where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.cli.terminal import Table
from relabel.errors import DataError
from run_builders import MakeRun

WriteGold = Callable[[str | bytes], Path]


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["eval"])


@pytest.fixture
def arguments(coded_run: MakeRun, write_gold: WriteGold) -> list[str]:
    run = coded_run("E0 E1 E2 E0 E0 E2")
    gold = write_gold("task_id,code\n1,E0\n2,E1\n3,E0\n4,E0\n5,E2\n7,E1\n")
    return ["eval", str(run.folder), "--gold", str(gold)]


def test_people_get_the_verdict_before_the_figures_within_100_columns(app: typer.Typer, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "against the gold" in " ".join(result.stdout.split())  # the path before it may be long
    assert "5 tasks matched" in lines
    assert "1 in the run but not in the gold" in lines
    assert "1 in the gold but not in the run" in lines
    agreement, measures = (next(n for n, x in enumerate(lines) if x.startswith(w)) for w in ("Agreement", "Values of"))
    assert lines.index("Verdict") < agreement < measures
    assert [line for line in lines[lines.index("Verdict") :] if len(line) > 100] == []
    assert "The figures are rough: they rest on 5 tasks." in result.stdout
    assert result.stderr.startswith("next: relabel eval ")


def test_names_in_front_wrap_where_a_table_would_run_over_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    figures, ranges = [0.5] * 3, [(0.4, 0.6)] * 3
    row = [cell for pair in zip(figures, ranges, strict=True) for cell in pair]
    columns = ["figure", "strict", "95%", "with-tools", "95%", "three-way", "95%"]
    Table("", columns, [["Krippendorff, " * 2 + name, *row] for name in ("nominal", "ordinal")]).show()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    Table("", columns[:3], [["Krippendorff, ordinal", *row[:2]]]).show()
    assert "Krippendorff, ordinal " in capsys.readouterr().out


def test_json_to_stdout_is_the_document_and_nothing_else(app: typer.Typer, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    document = json.loads(result.stdout)
    assert document["settings"]["three-way"]["accuracy"] == pytest.approx(0.6)
    assert document["settings"]["strict"]["accuracy"] == 1.0
    assert result.stderr == ""


def test_a_file_for_the_document_leaves_the_figures_on_stdout(
    app: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "eval.json"
    result = CliRunner().invoke(app, [*arguments, "--out", str(path)])
    assert json.loads(path.read_text())["matched"] == 5
    assert "Verdict" in result.stdout
    assert str(path) in result.stderr


def test_a_file_that_cannot_be_written_is_an_error_in_one_sentence(
    app: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "none").write_text("")
    path = tmp_path / "none" / "eval.json"
    result = CliRunner().invoke(app, [*arguments, "--out", str(path)])
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == f"cannot write {path} (Not a directory); give --out another path"


def test_names_are_not_read_as_markup(app: typer.Typer, coded_run: MakeRun, write_gold: WriteGold) -> None:
    run = coded_run("E0 E1", name="[red]run")
    result = CliRunner().invoke(app, ["eval", str(run.folder), "--gold", str(write_gold("task_id,code\n1,E0\n"))])
    assert "[red]run" in result.stdout.replace("\n", "")


def test_a_strict_only_run_is_shown_without_the_other_settings(
    app: typer.Typer, make_run: MakeRun, write_gold: WriteGold
) -> None:
    run = make_run({("11-1011.00", "1"): {"strict": "exposed"}}, settings=["strict"])
    result = CliRunner().invoke(app, ["eval", str(run.folder), "--gold", str(write_gold("task_id,code\n1,E1\n"))])
    assert result.exit_code == 0
    assert "three-way" not in result.stdout
    assert "beta" not in result.stdout


def test_errors_reach_the_caller_as_errors_of_relabel(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["eval", "no-such-run"])
    assert isinstance(result.exception, DataError)


def test_sample_run_is_held_against_the_sample_by_default(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["eval", "sample"])
    assert result.exit_code == 0
    assert "sample against the gold sample" in result.stdout


@pytest.mark.slow
@pytest.mark.mirror
def test_a_published_set_is_held_against_another_by_name(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["eval", "eloundou-2023:gpt4", "--gold", "eloundou-2023:human"])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["accuracy", ".808", ".798-.818", ".821", ".813-.829", ".656", ".644-.668"] in lines
    assert {line[0]: line[5] for line in lines if line[:1] in (["kappa"], ["AC1"])} == {"kappa": ".437", "AC1": ".507"}


def test_tables_go_to_files_and_charts_to_a_folder(
    app: typer.Typer, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--latex", "t.tex", "--markdown", "t.md", "--csv", "t.csv", "--figures", "charts"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    assert "Verdict" in result.stdout
    tex = Path("t.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == Path("t.md").read_text().count("| --- |")
    rows = pd.read_csv("t.csv")
    accuracy = rows[(rows["row"] == "accuracy") & (rows["figure"] == "three-way")].iloc[0]
    assert accuracy["value"] == pytest.approx(0.6)
    drawn = {path.name for path in Path("charts").iterdir()}
    assert {"confusion-three-way.svg", "confusion-three-way.pdf"} <= drawn
    assert Path("charts/confusion-three-way.pdf").read_bytes().startswith(b"%PDF")
    assert "currentColor" not in Path("charts/confusion-three-way.svg").read_text()


def test_a_table_can_be_printed_alone(app: typer.Typer, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--csv", "-"])
    assert result.stdout.startswith("table,row,figure,value,low,high\n")
    assert "Verdict" not in result.stdout


def test_occupations_without_a_label_in_a_setting_are_no_basis_of_its_figures(
    app: typer.Typer, make_run: MakeRun, write_gold: WriteGold, tmp_path: Path
) -> None:
    answers = {(f"11-{1000 + n}.00", str(n)): {"strict": n % 2 == 0} for n in range(12)}
    for key in list(answers)[:3]:
        answers[key]["with-tools"] = True
    run = make_run(answers)
    rows = [f"{n},11-{1000 + n}.00,{'E1' if n % 3 else 'E2'}" for n in range(12)]
    gold = write_gold("\n".join(["task_id,onet_soc_code,code", *rows, ""]))
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["eval", str(run.folder), "--gold", str(gold), "--html", str(page)])
    assert result.exit_code == 0, result.exception
    said = " ".join(result.stdout.split())
    assert "draws of at most 12 occupations" in said
    assert "Means of at most 12 occupations" in said
    assert "Few occupations: the tasks belong to 3 occupations only" in said
    assert "draws of at most 12 occupations, seed" in page.read_text(encoding="utf-8")


def test_missing_answers_are_shown_to_people(app: typer.Typer, make_run: MakeRun, write_gold: WriteGold) -> None:
    answers = {
        ("11-1011.00", str(n)): {"strict": n == 1} | ({"with-tools": True} if n < 3 else {}) for n in range(1, 5)
    }
    run = make_run(answers, status="incomplete")
    result = CliRunner().invoke(
        app, ["eval", str(run.folder), "--gold", str(write_gold("task_id,code\n1,E1\n2,E2\n3,E0\n4,E0\n"))]
    )
    lines = result.stdout.splitlines()
    assert "Of the 4 tasks asked, 2 (50%) have no with-tools label" in lines[lines.index("Verdict") + 1]
