"""What is worth a person's look, and the way back from the filled file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.review import register
from relabel.errors import DataError, UsageError
from relabel.evaluation.gold import read_gold_csv
from relabel.evaluation.review import COLUMNS, review, review_csv
from relabel.rubric import load_rubric
from relabel.run import TASK_FILE, Run, task_sources
from run_workshop import MakeRun, a_label, a_run

CODE = "11-1011.00"


def reasons(run: Run, **more: Any) -> dict[str, str]:
    table = review(run, **more).table
    return dict(zip(table["task_id"], table["reasons"], strict=True))


def test_each_kind_of_doubt_is_said_in_words(make_run: MakeRun) -> None:
    answers = {(CODE, str(n)): {"strict": n == 1, "with-tools": False} for n in range(1, 4)}
    run = make_run(answers, failed=[(CODE, "9", "strict")])
    said = reasons(run)
    assert said["1"].startswith("exposed by the model alone, yet not with tools")
    assert said["9"] == "no label: refusal in strict"
    assert set(said) == {"1", "9"}


def test_repeats_that_disagree_and_low_probabilities_are_listed(tmp_path: Path) -> None:
    labels = [
        *(a_label("1", "three-way", code, sample) for sample, code in enumerate(("E0", "E0", "E1"))),
        a_label("2", "three-way", "E0", probability=0.55),
        a_label("3", "three-way", "E0", probability=0.99),
    ]
    said = reasons(a_run(tmp_path / "r", labels, rubric="eloundou"))
    assert said == {
        "2": "probability 0.55",
        "1": "repeats disagree in three-way (2 of 3 say the same)",
    }


def test_gold_and_other_raters_count_as_opinions(make_run: MakeRun, tmp_path: Path) -> None:
    def labelled(codes: str, name: str) -> Run:
        answers = {(CODE, str(n)): {"three-way": code} for n, code in enumerate(codes.split(), 1)}
        return make_run(answers, name=name, rubric="eloundou")

    (tmp_path / "g.csv").write_text("task_id,code\n1,E0\n2,E2\n3,E1\n")
    run = labelled("E0 E1 E1 E2", "a")
    found = review(run, read_gold_csv(tmp_path / "g.csv"), [labelled("E0 E0 E1 E2", "b"), labelled("E0 E1 E1 E0", "c")])
    said = dict(zip(found.table["task_id"], found.table["reasons"], strict=True))
    assert said == {
        "2": "the gold says E2, the run E1; 1 of 2 other raters disagree",
        "4": "1 of 2 other raters disagree",
    }
    assert list(found.table["task_id"]) == ["2", "4"]
    assert found.table["gold_code"].iloc[0] == "E2"


def test_a_task_weighs_less_among_many_of_its_occupation(make_run: MakeRun) -> None:
    few = {("11-1011.00", "a"): {"strict": True, "with-tools": False}}
    many = {("11-1011.03", str(n)): {"strict": n == 0, "with-tools": False} for n in range(20)}
    table = review(make_run(few | many)).table
    assert list(table["task_id"]) == ["a", "0"]
    assert table["priority"].iloc[0] == pytest.approx(20 * table["priority"].iloc[1])


def test_a_run_without_doubt_has_nothing_to_review(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match=r"nothing in .* calls for a review"):
        review(make_run({(CODE, "1"): {"strict": False, "with-tools": True}}))


def test_a_cell_that_a_spreadsheet_would_run_is_made_text(tmp_path: Path) -> None:
    wild = ['=HYPERLINK("http://x","y")', "+1+1", "-2", "@SUM(A1)", "\tx", "fine\nand, long"]
    labels = [
        label
        for n, words in enumerate(wild)
        for label in (
            a_label(str(n), "strict", "exposed", rationale=words),
            a_label(str(n), "with-tools", "not-exposed", rationale=words),
        )
    ]
    single = [a_label(str(n), "three-way", "E0", rationale=w, probability=0.5) for n, w in enumerate(wild)]
    for run in (a_run(tmp_path / "a", labels), a_run(tmp_path / "b", single, rubric="eloundou")):
        rows = list(csv.reader(io.StringIO(review_csv(review(run)), newline="")))
        assert tuple(rows[0]) == COLUMNS
        assert len(rows) == len(wild) + 1
        cells = [cell for row in rows[1:] for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert any("fine\nand, long" in cell for cell in cells)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()

    @app.callback()
    def main() -> None:  # pyright: ignore[reportUnusedFunction]  typer then keeps `review` as a subcommand
        pass

    register(app)
    return app


def test_the_filled_file_comes_back_as_gold_with_who_and_when(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    answers = {(CODE, str(n)): {"strict": True, "with-tools": False} for n in range(1, 5)}
    run, path = make_run(answers), tmp_path / "review.csv"
    result = CliRunner().invoke(app, ["review", str(run.folder), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert "4 of 4 tasks in doubt" in result.stderr
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(sheet.columns) == list(COLUMNS)
    sheet.loc[sheet["task_id"].isin(["1", "3"]), ["label", "reviewer", "reviewed_at"]] = ["E2", "Ada", "2026-03-01"]
    sheet.loc[sheet["task_id"] == "2", ["label", "reviewer", "reviewed_at"]] = ["E0", "Grace", "2026-02-01"]
    sheet.to_csv(path, index=False)
    gold = read_gold_csv(path)
    assert dict(zip(gold.table["task_id"], gold.table["code"], strict=True)) == {"1": "E2", "2": "E0", "3": "E2"}
    assert gold.human
    assert gold.source.model_extra == {
        "reviewers": ["Ada", "Grace"],
        "reviewed_at": ["2026-02-01", "2026-03-01"],
        "rows_reviewed": 3,
        "rows_not_filled_in": 1,
    }


def test_a_file_that_nobody_filled_is_no_gold(app: typer.Typer, make_run: MakeRun, tmp_path: Path) -> None:
    run, path = make_run({(CODE, "1"): {"strict": True, "with-tools": False}}), tmp_path / "review.csv"
    CliRunner().invoke(app, ["review", str(run.folder), "--out", str(path)])
    with pytest.raises(DataError, match="no row with a label"):
        read_gold_csv(path)


OWN_LIST = (
    f"task_id,onet_soc_code,title,text\n1,{CODE},Plant boss,Draft the report.\n2,{CODE},Plant boss,Greet guests.\n"
)


def own_list(path: Path, content: str = OWN_LIST) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def over(make_run: MakeRun, tasks: Path) -> Run:
    """A run over a user's own task file, one task of which contradicts itself."""
    answers = {(CODE, "1"): {"strict": True, "with-tools": False}, (CODE, "2"): {"strict": False, "with-tools": False}}
    return make_run(answers, tasks=str(tasks), sources=task_sources(str(tasks)))


def reviewed(app: typer.Typer, run: Run, *options: str) -> tuple[list[tuple[str, str]], str]:
    """Titles and texts of the file, and what was said beside it."""
    result = CliRunner().invoke(app, ["review", str(run.folder), "--out", "-", *options], catch_exceptions=False)
    rows = csv.DictReader(io.StringIO(result.stdout, newline=""))
    return [(row["title"], row["text"]) for row in rows], result.stderr


def test_titles_and_texts_of_an_own_task_file_come_without_being_asked(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    cells, said = reviewed(app, over(make_run, own_list(tmp_path / "mine.csv")))
    assert cells == [("Plant boss", "Draft the report.")]
    assert "empty" not in said


def test_a_task_file_that_has_changed_or_moved_is_named_as_missing(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    mine = own_list(tmp_path / "mine.csv")
    run = over(make_run, mine)
    own_list(mine, OWN_LIST.replace("Draft the report.", "Draft another report."))
    cells, said = reviewed(app, run)
    assert cells == [("", "")]
    assert f"the task list {mine} is not at hand as the run labelled it; name it with --tasks" in said
    cells, said = reviewed(app, run, "--tasks", str(mine))
    assert cells == [("Plant boss", "Draft another report.")]
    assert "not the very file that the run labelled" in said
    own_list(tmp_path / "moved.csv")
    cells, said = reviewed(app, run, "--tasks", str(tmp_path / "moved.csv"))
    assert cells == [("Plant boss", "Draft the report.")]
    assert "very file" not in said


def test_a_list_of_other_tasks_is_refused_with_the_name_of_the_right_one(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    run = over(make_run, own_list(tmp_path / "mine.csv"))
    part = own_list(tmp_path / "part.csv", OWN_LIST.replace(f"2,{CODE}", "2,11-1021.00"))
    with pytest.raises(DataError, match=r"lacks 1 of the run's 2 tasks, such as '2' of 11-1011.00; .*mine\.csv"):
        reviewed(app, run, "--tasks", str(part))
    with pytest.raises(DataError, match="lacks 2 of the run's 2 tasks"):
        reviewed(app, run, "--tasks", "sample")
    with pytest.raises(DataError, match="there is no task file"):
        reviewed(app, run, "--tasks", str(tmp_path / "none.csv"))


def test_imported_labels_find_their_task_file_by_its_name(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = own_list(tmp_path / "mine.csv")
    run = make_run(
        {(CODE, "1"): {"strict": True, "with-tools": False}}, tasks=TASK_FILE, sources=task_sources(str(mine))
    )
    monkeypatch.chdir(tmp_path)
    assert reviewed(app, run)[0] == [("Plant boss", "Draft the report.")]
    mine.unlink()
    assert "the task list mine.csv is not at hand" in reviewed(app, run)[1]


def test_ratings_of_occupations_are_refused_whatever_their_list(app: typer.Typer, tmp_path: Path) -> None:
    listed = own_list(tmp_path / "occupations.csv", f"onet_soc_code,title,description\n{CODE},Chief,Runs it.\n")
    ratings = [a_label(CODE, setting, "1") for setting in load_rubric("epoch").settings]
    sources = task_sources(str(listed), "occupation")
    run = a_run(tmp_path / "r", ratings, rubric="epoch", tasks=str(listed), sources=sources)
    for options in ((), ("--tasks", str(listed))):
        with pytest.raises(UsageError, match="rates occupations"):
            reviewed(app, run, *options)


@pytest.mark.mirror
def test_jobs_weigh_where_they_are_at_hand(make_run: MakeRun) -> None:
    answers = {(code, "1"): {"strict": True, "with-tools": False} for code in ("11-1021.00", "11-1031.00")}
    found = review(make_run(answers))
    assert found.jobs_from == "bls-oews-2024"
    # General managers are many; legislators few.
    assert list(found.table["onet_soc_code"]) == ["11-1021.00", "11-1031.00"]
    assert found.table["jobs"].iloc[0] > 1e6
