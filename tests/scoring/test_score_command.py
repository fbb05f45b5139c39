"""`relabel score` from the outside, on the sample."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from score_builders import TaskFile
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import UsageError
from relabel.evaluation.gold import load_gold
from relabel.publishing.methodology import caveats
from relabel.publishing.site.views import warning
from relabel.scoring.table import score_table
from relabel.task import task_table
from run_builders import MakeRun, answered


@pytest.fixture
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["score"])


def test_the_headline_names_method_and_counts(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    result = CliRunner().invoke(app, ["score", "sample", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "method bridge, UK SOC 2020: 6 of 6 codes scored from 60 of 60 tasks" in " ".join(result.output.split())
    assert "SAMPLE" in result.output
    assert f"written: {out}" in result.output
    assert out.exists()


def test_thin_groups_are_counted_apart(app: typer.Typer, make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(10)])
    run = make_run({("11-1011.00", "1"): {"strict": True, "with-tools": True}})
    words = ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc", "--no-us"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "0 of 1 codes scored and 1 thin from 1 of 10 tasks of tasks.csv" in " ".join(result.output.split())
    assert "PARTIAL: rests on 1 of 10 tasks" in result.output
    assert "thin: 11-1011.00 (the column status says why)" in result.output
    assert f"next: relabel explain {run.folder} CODE, with the same options" in result.stderr


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_a_table_for_a_paper_says_how_many_tasks_it_rests_on_and_which_scores_are_thin(
    app: typer.Typer, make_run: MakeRun, task_file: TaskFile, form: str
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(10)])
    run = make_run({("11-1011.00", "1"): {"strict": True, "with-tools": True}})
    words = ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc", "--no-us", f"--{form}", "-"]
    result = CliRunner().invoke(app, words)
    assert "on 1 of 10 tasks of tasks.csv" in result.stdout
    assert "(thin)" in result.stdout
    assert ("PARTIAL: rests on 1 of 10 tasks. thin: labels" in " ".join(result.stdout.split())) == (form != "csv")


def test_compared_scores_say_how_many_tasks_they_rest_on_and_which_are_thin(
    tmp_path: Path, task_file: TaskFile
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(10)])
    all_tasks = {("11-1011.00", str(n)): {"strict": False, "with-tools": True} for n in range(10)}
    answered(tmp_path / "all", all_tasks)
    answered(tmp_path / "one", {("11-1011.00", "1"): {"strict": True, "with-tools": True}})
    chosen = [word for side in ("before", "after") for word in (f"--{side}", "taxonomy=onet-soc")]
    chosen += [word for side in ("before", "after") for word in (f"--{side}", f"tasks={tasks}")]
    words = ["compare", str(tmp_path / "all"), str(tmp_path / "one"), "--scores", *chosen]
    shown = CliRunner().invoke(command_line(["compare"]), words).stdout
    assert shown.count("PARTIAL: rests on 1 of 10 tasks") == 1
    assert "Scores alpha (0-1): 1 of 1 groups moved; 1 is thin" in shown
    assert "11-1011.00 (thin)" in shown


def test_a_run_of_one_setting_is_shown_with_dashes(app: typer.Typer, make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": "1", "onet_soc_code": "11-1011.00"}])
    run = make_run({("11-1011.00", "1"): {"strict": True}}, settings=["strict"])
    words = ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc", "--no-us"]
    result = CliRunner().invoke(app, words)
    line = next(line for line in result.output.splitlines() if line.startswith("11-1011.00"))
    assert line.split()[-5:-2] == ["1.000", "-", "-"]


def test_json_is_one_document_and_nothing_else(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["score", "sample", "--json", "--out", str(tmp_path / "s.parquet")])
    document = json.loads(result.stdout)
    assert [row["code"] for row in document["rows"]] == ["1121", "2134", "2237", "5250", "5315", "8160"]
    assert (tmp_path / "s.parquet").exists()


@pytest.fixture
def opposed(make_run: MakeRun, task_file: TaskFile, tmp_path: Path) -> tuple[list[str], str]:
    """A run that says yes to every second task, and one that says the opposite."""
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(40)])
    keys = [("11-1011.00", str(n)) for n in range(40)]
    run = make_run({key: {"strict": False, "with-tools": n % 2 == 0} for n, key in enumerate(keys)})
    opposite = {key: {"strict": False, "with-tools": n % 2 == 1} for n, key in enumerate(keys)}
    other = answered(tmp_path / "other-run", opposite)
    return ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc", "--no-us", "--draws", "200"], str(
        other.folder
    )


@pytest.mark.usefixtures("wide_terminal")
def test_with_draws_scores_are_shown_with_their_intervals(app: typer.Typer, opposed: tuple[list[str], str]) -> None:
    words, other = opposed
    result = CliRunner().invoke(app, [*words, "--gold", other])
    assert result.exit_code == 0, result.output
    assert "gold: what the gold's would give" in result.output
    line = next(line for line in result.output.splitlines() if line.startswith("11-1011.00"))
    alpha, within, _, _, gamma, around, by_gold, of_gold = line.split()[-8:]
    assert (alpha, gamma) == (".000", ".500")
    for value, interval in ((alpha, within), (gamma, around), (by_gold, of_gold)):
        low, high = map(float, interval.split("-"))
        assert low <= float(value) <= high
        assert low < high


@pytest.mark.usefixtures("wide_terminal")
def test_intervals_of_a_run_of_one_setting_are_shown_with_dashes(
    app: typer.Typer, make_run: MakeRun, task_file: TaskFile
) -> None:
    keys = [("11-1011.00", str(n)) for n in range(40)]
    tasks = task_file([{"task_id": task, "onet_soc_code": code} for code, task in keys])
    run = make_run({key: {"strict": n % 2 == 0} for n, key in enumerate(keys)}, settings=["strict"])
    words = ["score", str(run.folder), "--tasks", tasks, "--taxonomy", "onet-soc", "--no-us"]
    result = CliRunner().invoke(app, [*words, "--draws", "100", "--gold", str(run.folder)])
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("11-1011.00"))
    assert line.split()[-8] == ".500"
    assert line.split()[-4:-2] == ["-", "-"]


def test_each_rater_stands_beside_the_pooled_score(
    app: typer.Typer, opposed: tuple[list[str], str], tmp_path: Path
) -> None:
    words, other = opposed
    with pytest.raises(UsageError, match="3 or more"):
        CliRunner().invoke(app, [*words, "--rater", other], catch_exceptions=False)
    third = shutil.copytree(other, tmp_path / "third-run")
    words += ["--rater", other, "--rater", str(third)]
    shown = CliRunner().invoke(app, words).output
    assert [line.split()[0] for line in shown.partition("by rater")[2].splitlines()[3:7]] == [
        "a-run",
        "other-run",
        "third-run",
        "pooled",
    ]
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [(row["rater"], round(row["gamma"], 12)) for row in document["by_rater"]] == [
        ("a-run", 0.5),
        ("other-run", 0.5),
        ("third-run", 0.5),
        ("pooled", 0.5),
    ]
    assert (document["intervals"]["other"]["noise"], document["intervals"]["draws"]) == ("raters", 200)
    (row,) = document["rows"]
    assert row["gamma_low"] <= row["gamma"] <= row["gamma_high"]
    assert row["gamma_pooled_low"] <= row["gamma_pooled"] <= row["gamma_pooled_high"]


def test_a_seed_below_zero_is_wrong_usage(app: typer.Typer, opposed: tuple[list[str], str]) -> None:
    words, other = opposed
    with pytest.raises(UsageError, match="the seed -1 is below 0"):
        CliRunner().invoke(app, [*words, "--gold", other, "--seed", "-1"], catch_exceptions=False)


def test_totals_are_shown_with_their_intervals(app: typer.Typer, tmp_path: Path) -> None:
    tasks = task_table("sample")[["onet_soc_code", "task_id"]].itertuples(index=False)
    answers = {(code, task): {"strict": False, "with-tools": n % 2 == 0} for n, (code, task) in enumerate(tasks)}
    run = answered(tmp_path / "a-run", answers, tasks="sample")
    out = tmp_path / "scores.json"
    words = ["score", str(run.folder), "--draws", "100", "--gold", "sample", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "gold: what the gold's would give (sample)." in result.output
    document = json.loads(out.read_text(encoding="utf-8"))
    for part in ("own", "other"):
        totals = document["intervals"][part]["totals"]
        assert list(totals) == [f"wage_exposure_{measure}_gbp" for measure in ("alpha", "beta", "gamma")]
    for name, bounds in document["intervals"]["own"]["totals"].items():
        assert bounds["low"] <= document["totals"][name] <= bounds["high"]


def test_an_unknown_suffix_is_refused_before_anything_is_scored(app: typer.Typer) -> None:
    with pytest.raises(UsageError, match="end the name of --out"):
        CliRunner().invoke(app, ["score", "no-such-run", "--out", "scores.doc"], catch_exceptions=False)


def test_an_unknown_method_is_wrong_usage(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["score", "sample", "--method", "mean"]).exit_code == 2


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = "{'pandas', 'pandera', 'pyarrow', 'numpy', 'openpyxl', 'jinja2'}"
    code = f"import sys, relabel.cli.app as a; a.command_line(); print(sorted({heavy} & set(sys.modules)))"
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--links equal", "--links does not apply to the sample"),
        ("--seed 3", "--seed has no effect without --draws"),
        ("--noise repeats", "--noise has no effect without --draws"),
        ("--gold sample", "--gold has no effect without --draws"),
        ("--rater sample", "--rater has no effect without --draws"),
        ("--multiverse --seed 3", "--seed cannot be combined with --multiverse"),
        ("--multiverse --gold sample", "--gold cannot be combined with --multiverse"),
        ("--multiverse --noise repeats", "--noise cannot be combined with --multiverse"),
        ("--multiverse --draws 200", "--draws cannot be combined with --multiverse"),
        ("--multiverse --us", "--us cannot be combined with --multiverse"),
    ],
)
def test_an_option_without_effect_is_refused(app: typer.Typer, options: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(app, ["score", "sample", *options.split()], catch_exceptions=False)


def test_scores_are_written_for_a_paper(app: typer.Typer, tmp_path: Path) -> None:
    words = ["score", "sample", "--draws", "100", "--latex", str(tmp_path / "t.tex"), "--csv", str(tmp_path / "t.csv")]
    result = CliRunner().invoke(app, [*words, "--markdown", "-"], catch_exceptions=False)
    assert "| 2134" in result.output
    assert "\\toprule" in (tmp_path / "t.tex").read_text()
    assert (tmp_path / "t.csv").read_text().startswith("table,row,figure,value,low,high")
    assert "code  " not in result.output


def test_a_run_that_two_models_answered_says_so_in_every_row(make_run: MakeRun, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(4)])
    run = make_run({("11-1011.00", str(n)): {"strict": False, "with-tools": True} for n in range(4)})
    models = ["acme/big", "acme/mini"] * (len(run.labels) // 2)
    mixed = dataclasses.replace(run, labels=run.labels.assign(model_returned=models))
    frame = score_table(mixed, taxonomy="onet-soc", tasks=tasks).frame
    assert frame["note"].str.contains("2 models answered this run").all()


@pytest.mark.parametrize(("model", "embedded"), [("local", True), ("local/smol", False), ("localai-large", False)])
def test_only_the_embedded_model_is_called_no_better_than_guessing(
    make_run: MakeRun, task_file: TaskFile, model: str, embedded: bool
) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": "11-1011.00"} for n in range(4)])
    answers = {("11-1011.00", str(n)): {"strict": False, "with-tools": True} for n in range(4)}
    run = make_run(answers, model=model)
    said = "The embedded model only tests the pipeline: its labels are no better than guessing"
    table = score_table(run, taxonomy="onet-soc", tasks=tasks)
    assert (table.frame["note"] == said.replace("The", "the")).all() == embedded
    assert (f"{said}." in caveats(table)) == embedded
    assert (warning(table.note) == f"{said}.") == embedded
    verdict = run.evaluate(dataclasses.replace(load_gold(str(run.folder)), name="other")).verdict
    assert verdict.startswith(said) == embedded


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("options", ["", "--draws 100"])
def test_no_line_runs_over_the_terminal(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, columns: int, options: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = CliRunner().invoke(app, ["score", "sample", *options.split()], catch_exceptions=False)
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= columns or (columns == 80 and options)
    assert not re.search(r"\d…", result.output)  # rather a long line than a figure that is cut
    # A long title is cut, and only where it must be.
    cut = ["…" in line for line in lines if line.startswith("2134")]
    assert cut
    assert any(cut) == (columns == 80 or options == "--draws 100")


@pytest.mark.slow
@pytest.mark.mirror
@pytest.mark.parametrize("columns", [80, 100])
def test_no_line_of_a_published_set_runs_over_the_terminal(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = ["score", "eloundou-2023:gpt4", "--taxonomy", "soc2018", "--draws", "100"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert max(map(len, result.output.splitlines())) <= max(columns, 98)  # the figures of this table need 98
    assert not re.search(r"\d…", result.output)
    assert "526 labelled tasks of the run are not in onet-30.2; they are left out" in result.output
