"""What is worth a person's look, and the way back from the filled file."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import DataError, UsageError
from relabel.evaluation.alignment import match
from relabel.evaluation.compare import compare, compare_several
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gold import SELECTED, Gold, read_gold_csv
from relabel.evaluation.ppi import debiased, powered_mean
from relabel.evaluation.review import (
    COLUMNS,
    RANDOM_COLUMNS,
    Review,
    labels_for,
    random_review,
    review,
    review_csv,
)
from relabel.manifest import TASK_FILE, task_sources
from relabel.rubric import load_rubric
from relabel.run import Run
from report_builders import page_of
from run_builders import MakeRun, a_label, a_run

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
    with pytest.raises(DataError, match=r"no task of .* needs a review"):
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
    return command_line(["review"])


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


CODES = ("E0", "E2", "E1")


def erring(make_run: MakeRun, size: int = 600) -> tuple[Run, Run, dict[str, str]]:
    """A run that errs, another that errs apart from it, and the truth by task id: 40 occupations, unlike in exposure."""
    rng = np.random.default_rng(11)
    places = [(f"{11 + 2 * (i % 8)}-{1000 + i % 40}.00", str(i)) for i in range(size)]
    lean = {code: rng.dirichlet([1.5, 1.5, 0.8]) for code in sorted({code for code, _ in places})}
    truth = {key: str(rng.choice(CODES, p=lean[key[0]])) for key in places}
    # Where the truth is E0, the run often says E2.
    said = {
        key: {"three-way": "E2" if code == "E0" and rng.random() < 0.4 else code if rng.random() < 0.85 else "E1"}
        for key, code in truth.items()
    }
    other = {key: {"three-way": str(rng.choice(CODES)) if rng.random() < 0.3 else code} for key, code in truth.items()}
    runs = [make_run(labels, name=name, rubric="eloundou") for name, labels in (("a", said), ("b", other))]
    return runs[0], runs[1], {task: code for (_, task), code in truth.items()}


def filled(found: Review, truth: dict[str, str], path: Path, rows: int | None = None) -> Gold:
    """The gold that a reviewer who is always right makes of a file, or of its first rows."""
    table = found.table.copy()
    at = table.index[:rows]
    table.loc[at, "label"] = table.loc[at, "task_id"].map(truth)
    table.loc[at, "reviewer"] = "Ada"
    path.write_text("\ufeff" + review_csv(replace(found, table=table)), encoding="utf-8")
    return read_gold_csv(path)


def test_doubtful_tasks_are_said_to_speak_for_no_others(make_run: MakeRun, tmp_path: Path) -> None:
    run, other, truth = erring(make_run)
    gold = filled(review(run, None, [other], most=80), truth, tmp_path / "filled.csv")
    assert gold.selected
    found = evaluate(run, gold, draws=200)
    assert found.selected
    assert found.debiased is None
    assert found.verdict.splitlines()[0] == SELECTED
    assert "the run as a whole" in SELECTED
    page = page_of(found, run, gold)
    assert ", on tasks chosen because they were doubtful</h1>" in page
    assert SELECTED.replace("'", "&#39;") in page
    assert "They describe doubtful tasks only, not the run as a whole." in page
    for runs in ([run, other], [run, other, run]):
        beside = (
            compare(runs[0], runs[1], gold, draws=200) if len(runs) == 2 else compare_several(runs, gold, draws=200)
        )
        assert beside.verdict.splitlines()[0] == SELECTED
    # Rows that stand in the file for another reason, as those of a user's own, are as good as before.
    (tmp_path / "own.csv").write_text("task_id,label,priority\n1,E0,\n2,E1,\n3,,high\n")
    assert not read_gold_csv(tmp_path / "own.csv").selected


def test_the_command_says_so_before_any_figure(make_run: MakeRun, tmp_path: Path) -> None:
    run, other, truth = erring(make_run)
    filled(review(run, None, [other], most=80), truth, tmp_path / "filled.csv")
    words = ["eval", str(run.folder), "--gold", str(tmp_path / "filled.csv"), "--draws", "200"]
    shown = " ".join(CliRunner().invoke(command_line(["eval"]), words, catch_exceptions=False).stdout.split())
    assert "on tasks chosen because they were doubtful" in shown.partition("tasks matched")[0]
    assert SELECTED in shown.partition("Agreement")[0]
    assert "not the run as a whole" in shown
    assert "PPI++" not in shown


@pytest.mark.slow
def test_tasks_drawn_at_random_give_the_truth_of_the_run_as_a_whole(make_run: MakeRun, tmp_path: Path) -> None:
    """100 files of 120 tasks, the first 100 of them filled: accuracy, mean and interval against the known truth."""
    run, _, codes = erring(make_run)
    coded = run.coded().set_index("task_id")["code"].astype(str)
    truth = pd.Series(codes).reindex(coded.index)
    exposed, called = ((side != "E0").astype("float64") for side in (truth, coded))
    estimates, accuracies, covered = [], [], 0
    for seed in range(100):
        table = random_review(run, 120, seed=seed).table[:100]
        at, weight = table["task_id"].to_numpy(), np.asarray(table["weight"], dtype=np.float64)
        found = powered_mean(
            np.asarray(exposed[at], dtype=np.float64),
            np.asarray(called[at], dtype=np.float64),
            np.asarray(called, dtype=np.float64),
            weight=weight,
            clusters=table["onet_soc_code"].to_numpy(),
        )
        low, high = found.bounds() or (1, 0)
        covered += low <= exposed.mean() <= high
        estimates.append(found.mean)
        accuracies.append(np.average(coded[at] == truth[at], weights=weight))
    assert abs(np.mean(estimates) - exposed.mean()) < 0.3 * np.std(estimates)
    assert abs(np.mean(accuracies) - (coded == truth).mean()) < 0.3 * np.std(accuracies)
    assert 0.9 <= covered / 100 <= 0.99
    # The run's own mean is far off.
    assert called.mean() - exposed.mean() > 4 * np.std(estimates)
    # By way of the filled file the evaluation comes to the same.
    gold = filled(random_review(run, 120, seed=99), codes, tmp_path / "filled.csv", rows=100)
    matched = match(run, gold)
    whole = debiased(run, gold, matched)
    assert whole is not None
    assert whole.measures["gamma"][0].ppi == pytest.approx(estimates[-1])


def test_a_random_file_shows_no_answer_and_knows_the_chances(make_run: MakeRun, tmp_path: Path) -> None:
    run, other, truth = erring(make_run)
    found = random_review(run, 40, seed=3)
    assert tuple(found.table.columns) == RANDOM_COLUMNS
    assert found.of == 600
    assert set(found.table["weight"]) == {"15"}
    assert found.table["task_id"].is_unique
    assert list(found.table["task_id"]) != sorted(found.table["task_id"])
    # The draw is one of tasks, whatever their labels.
    pd.testing.assert_frame_equal(found.table, random_review(other, 40, seed=3).table)
    assert list(random_review(run, 40, seed=4).table["task_id"]) != list(found.table["task_id"])
    gold = filled(found, truth, tmp_path / "filled.csv")
    assert (gold.weighted, gold.selected) == (True, False)
    document = evaluate(run, gold, draws=200)
    assert document.debiased is not None
    assert "doubtful" not in document.verdict
    assert set(random_review(run, 1000).table["weight"]) == {"1"}


def test_the_command_draws_at_random_and_refuses_what_has_no_effect_then(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    run, _, _ = erring(make_run)
    path = tmp_path / "random.csv"
    words = ["review", str(run.folder), "--out", str(path), "--random", "--n", "50", "--seed", "2"]
    said = CliRunner().invoke(app, words, catch_exceptions=False).stderr
    assert f"written: {path}: 50 of 600 tasks, drawn at random with seed 2" in said
    assert "in this order" in said
    assert len(pd.read_csv(path)) == 50
    for more in (["--gold", "sample"], ["--rater", "sample"]):
        with pytest.raises(UsageError, match=f"{more[0]} has no effect with --random; remove it"):
            CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
    with pytest.raises(UsageError, match="--seed has no effect without --random"):
        CliRunner().invoke(app, ["review", str(run.folder), "--seed", "2"], catch_exceptions=False)


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
    assert f"the task list {mine} is not on this machine as the run labelled it; name it with --tasks" in said
    cells, said = reviewed(app, run, "--tasks", str(mine))
    assert cells == [("Plant boss", "Draft another report.")]
    assert "differs from the file that the run labelled" in said
    own_list(tmp_path / "moved.csv")
    cells, said = reviewed(app, run, "--tasks", str(tmp_path / "moved.csv"))
    assert cells == [("Plant boss", "Draft the report.")]
    assert "differs from the file" not in said


def test_a_list_of_other_tasks_is_refused_with_the_name_of_the_right_one(
    app: typer.Typer, make_run: MakeRun, tmp_path: Path
) -> None:
    run = over(make_run, own_list(tmp_path / "mine.csv"))
    part = own_list(tmp_path / "part.csv", OWN_LIST.replace(f"2,{CODE}", "2,11-1021.00"))
    with pytest.raises(DataError, match=r"lacks 1 of the run's 2 tasks, such as '2' of 11-1011.00; .*mine\.csv"):
        reviewed(app, run, "--tasks", str(part))
    with pytest.raises(DataError, match="lacks 2 of the run's 2 tasks"):
        reviewed(app, run, "--tasks", "sample")
    with pytest.raises(DataError, match=r"task file .* was not found"):
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
    assert "the task list mine.csv is not on this machine" in reviewed(app, run)[1]


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


@pytest.mark.slow
@pytest.mark.parametrize("pilot", [False, True])
def test_the_labels_for_a_width_give_intervals_of_that_width(pilot: bool, make_run: MakeRun, tmp_path: Path) -> None:
    """Drawn again and again from a population whose labels are known, the intervals are as wide as asked, and hold the mean."""
    rng = np.random.default_rng(3)
    keys = [(f"11-{1000 + i % 40}.00", str(i)) for i in range(2000)]
    truth = rng.choice(["E0", "E2", "E1"], len(keys), p=[0.4, 0.3, 0.3])
    said = np.where(rng.random(len(keys)) < 0.85, truth, "E0")
    run = make_run({key: {"three-way": str(label)} for key, label in zip(keys, said, strict=True)}, rubric="eloundou")
    worth = np.vectorize({"E0": 0.0, "E2": 0.5, "E1": 1.0}.__getitem__)
    values, predicted = worth(truth), worth(said)
    gold = None
    if pilot:
        rows = [f"{task},{code},{truth[i]}\n" for i, (code, task) in enumerate(keys[:300])]
        (tmp_path / "pilot.csv").write_text("task_id,onet_soc_code,code\n" + "".join(rows))
        gold = read_gold_csv(tmp_path / "pilot.csv")
    count = labels_for(run, 0.08, gold)
    assert count == labels_for(run, 0.08, gold) < len(keys)
    assert not pilot or count < labels_for(run, 0.08) / 1.5
    widths: list[float] = []
    held = 0
    for _ in range(2000):
        at = rng.choice(len(keys), count, replace=False)
        found = powered_mean(values[at], predicted[at], predicted, power=None if pilot else 0.0)
        low, high = found.bounds() or (0.0, 1.0)
        widths.append(high - low)
        held += low <= values.mean() <= high
    assert np.mean(widths) < 0.08 * 1.1
    assert np.mean(widths) > 0.08 * 0.6
    # Seldom errors that all go one way are foreseen a little too surely: see docs/method.md.
    assert held >= (0.93 if pilot else 0.95) * 2000
