"""A task list of a user's own: codes of another classification, importance on another scale, a rubric of one's own."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from relabel.cli.app import run_app
from relabel.errors import DataError, RubricError
from relabel.rubric import load_rubric, new_rubric, rubric_path
from relabel.run import open_run
from relabel.task import load_tasks
from server import judged, provider

HEAD = "task_id,code,title,text,importance 0-100\n"
LIST = (
    HEAD + "1,2512,Developers,Write programs.,80\n2,2512,Developers,Fix printers.,20\n3,F-8322,Drivers,Drive people.,\n"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "store"))
    Path("own.csv").write_text(LIST)


def label_own() -> str:
    with provider(lambda seen: judged("exposed" if "Write" in seen.prompt else "not-exposed")) as server:
        words = ["run", "--model", "m", "--base-url", server.base_url, "--tasks", "own.csv", "--out", "r", "--quiet"]
        assert run_app(words) == 0
        return server.base_url


def test_ratings_on_a_declared_scale_weigh_tasks_by_codes_of_another_classification(
    capsys: pytest.CaptureFixture[str],
) -> None:
    label_own()
    capsys.readouterr()
    assert run_app(["score", "r", "--taxonomy", "onet-soc", "--json"]) == 0
    rows = {row["code"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["2512"]["alpha"] == pytest.approx(0.8)
    assert rows["F-8322"]["alpha"] == 0
    assert rows["2512"]["title"] == "Developers"


def test_tables_and_pages_of_such_a_list_do_not_call_it_onets(capsys: pytest.CaptureFixture[str]) -> None:
    label_own()
    assert run_app(["score", "r", "--taxonomy", "onet-soc"]) == 0
    assert "r, method bridge, own classification: 2 of 2 codes scored" in capsys.readouterr().out
    assert run_app(["export", "r", "--taxonomy", "onet-soc", "--draws", "0", "--out", "t"]) == 0
    assert run_app(["site", "t", "--out", "p"]) == 0
    package = json.loads(Path("t/datapackage.json").read_text("utf-8"))
    assert "(own classification)" in package["title"]
    tasks = next(entry for entry in package["resources"] if entry["path"] == "tasks.csv")
    field = next(field for field in tasks["schema"]["fields"] if field["name"] == "importance")
    assert field["constraints"] == {"minimum": 0}  # a rating of 80 is within them
    for page in ("index", "method", "occupations/2512", "onet/2512", "compare"):
        assert "O*NET" not in Path(f"p/{page}.html").read_text("utf-8"), page


@pytest.mark.parametrize("command", [["score"], ["score", "--taxonomy", "soc2018"], ["export", "--out", "t"]])
def test_codes_of_another_classification_reach_no_other_without_a_crosswalk(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    label_own()
    assert run_app([command[0], "r", *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "the codes of own.csv are not O*NET-SOC codes" in said
    assert "--taxonomy onet-soc" in said
    assert "--bridge FILE.csv" in said
    assert not Path("t").exists()


def test_codes_of_another_classification_have_no_job_families(capsys: pytest.CaptureFixture[str]) -> None:
    label_own()
    assert run_app(["resilience", "r"]) == 2
    assert "job families are groups of O*NET-SOC codes" in capsys.readouterr().err


def test_the_next_command_of_such_a_run_names_a_gold(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged("exposed")) as server:
        words = ["run", "--model", "m", "--base-url", server.base_url, "--out", "n", "--tasks"]
        assert run_app([*words, "own.csv"]) == 0
        assert "next: relabel eval n --gold GOLD" in capsys.readouterr().err
        assert run_app([*words[:-2], "m", "--tasks", "sample", "--sample", "2"]) == 0
        assert capsys.readouterr().err.rstrip().endswith("next: relabel eval m")


@pytest.mark.mirror
def test_a_crosswalk_of_ones_own_leads_to_uk_groups(capsys: pytest.CaptureFixture[str]) -> None:
    label_own()
    Path("x.csv").write_text("code,uk_soc2020\n2512,2134\nF-8322,8213\n")
    capsys.readouterr()
    assert run_app(["score", "r", "--bridge", "x.csv", "--json"]) == 0
    rows = {row["code"]: row for row in json.loads(capsys.readouterr().out)["rows"] if row["status"] == "scored"}
    assert set(rows) == {"2134", "8213"}
    assert rows["2134"]["alpha"] == pytest.approx(0.8)


def test_the_scale_of_onet_needs_no_declaration_and_stays_as_it_was() -> None:
    Path("own.csv").write_text("task_id,onet_soc_code,title,text,importance\n1,11-1011.00,Chiefs,Lead.,4.5\n")
    assert [task.importance for task in load_tasks("own.csv")] == [4.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "1,2512,T,Do.,101\n", "line 2: importance must be a number over 0, from 0 to 100"),
        (HEAD + "1,2512,T,Do.,0\n", "line 2: importance must be a number over 0"),
        (HEAD.replace("0-100", "7-1") + "1,2512,T,Do.,3\n", "the scale in .* does not rise"),
        (HEAD + "1,../x,T,Do.,3\n", "line 2: '../x' is not a code"),
        (HEAD + '1,"2,512",T,Do.,3\n', "line 2: '2,512' is not a code"),
        (HEAD + "1,,T,Do.,3\n", "line 2: '' is not a code"),
        (HEAD + "1,Nov-11,T,Do.,3\n", "line 2: 'Nov-11' is not a code; .* and not as a date or number"),
        (HEAD.replace("code", "onet_soc_code") + "1,2512,T,Do.,3\n", "'2512' is not an O\\*NET-SOC code"),
    ],
)
def test_what_is_wrong_in_such_a_list_is_named_with_its_line(text: str, said: str) -> None:
    Path("own.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load_tasks("own.csv")


def test_a_replay_under_another_address_says_which_one_holds_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    url = label_own()
    capsys.readouterr()
    words = ["run", "--model", "m", "--tasks", "own.csv", "--engine", "replay", "--out", "none", "--quiet"]
    assert run_app([*words, "--base-url", "https://api.example.org/v1"]) == 5
    assert f"the store has answers to these questions for --base-url {url}" in capsys.readouterr().err
    assert run_app([*words[:-2], "again", "--quiet", "--base-url", url]) == 0
    assert run_app([*words[:-2], "other", "--quiet", "--base-url", url, "--prompt", "task", "--samples", "3"]) == 5
    assert "under --base-url" not in capsys.readouterr().err


def test_what_is_to_be_asked_after_a_carry_is_asked_as_the_run_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(new_rubric("mine"))
    with provider(lambda _: judged()) as server:
        words = ["run", "--model", "m", "--base-url", server.base_url, "--tasks", "own.csv", "--rubric", "mine.yaml"]
        assert run_app([*words, "--setting", "strict", "--samples", "2", "--out", "r", "--quiet"]) == 0
        Path("newer.csv").write_text(LIST + "4,2512,Developers,Read the news.,50\n")
        capsys.readouterr()
        assert run_app(["tasks", "carry", "r", "--to", "newer.csv", "--out", "carried"]) == 0
        said = capsys.readouterr().err
        command = said.split("next: relabel ")[1].split("\n")[0]
        assert run_app([*shlex.split(command), "--quiet"]) == 0
    asked, run = open_run("ASKED"), open_run("r")
    assert len(asked.labels) == 2
    assert asked.manifest.rubric_sha256 == run.manifest.rubric_sha256
    assert (asked.manifest.model, asked.manifest.settings) == ("m", ("strict",))
    assert run_app(["tasks", "carry", "r", "--to", "newer.csv", "--out", "whole", "--fill", "ASKED"]) == 0
    assert open_run("whole").manifest.status == "complete"


def test_a_review_of_a_list_with_codes_of_its_own_is_a_gold_of_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda _: judged()) as server:
        words = ["run", "--model", "m", "--base-url", server.base_url, "--tasks", "own.csv", "--out", "r", "--quiet"]
        assert run_app(words) == 0
    assert run_app(["review", "r", "--random", "--n", "3", "--out", "review.csv"]) == 0
    review = pd.read_csv("review.csv", dtype="str")
    review.assign(label="E1", reviewer="Ann").to_csv("review.csv", index=False)
    capsys.readouterr()
    assert run_app(["eval", "r", "--gold", "review.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matched"] == 3


def test_a_new_rubric_is_a_copy_under_its_own_name_without_what_trials_have_shown() -> None:
    assert run_app(["rubric", "new", "mine", "--from", "exposure"]) == 0
    mine, ours = load_rubric("mine.yaml"), load_rubric("exposure")
    assert (mine.id, mine.version, mine.tried) == ("mine", 1, False)
    same = {"labels", "settings", "examples", "definition", "measures", "codes"}
    assert mine.model_dump(include=same) == ours.model_dump(include=same)
    assert run_app(["rubric", "new", "mine"]) == 2
    assert run_app(["rubric", "new", "exposure"]) == 2
    assert run_app(["rubric", "check", "mine.yaml"]) == 0


def test_another_text_under_an_id_and_version_of_ours_is_refused() -> None:
    text = rubric_path("exposure").read_text()
    Path("copy.yaml").write_text(text)
    assert load_rubric("copy.yaml").sha256 == load_rubric("exposure").sha256
    Path("copy.yaml").write_text(text.replace("half the usual", "a third of the usual"))
    with pytest.raises(RubricError, match="has the id exposure and the version 2 of a rubric of relabel with another"):
        load_rubric("copy.yaml")
    Path("copy.yaml").write_text(
        text.replace("half the usual", "a third of the usual").replace("version: 2", "version: 9")
    )
    assert load_rubric("copy.yaml").version == 9


def test_labels_are_not_written_under_the_name_of_another_format(capsys: pytest.CaptureFixture[str]) -> None:
    label_own()
    assert run_app(["labels", "r", "--out", "l.xlsx"]) == 2
    assert "end its name in .csv, .dta or .parquet, or add --format" in capsys.readouterr().err
    assert run_app(["labels", "r", "--out", "l.txt", "--format", "csv"]) == 0
    assert Path("l.txt").exists()


@pytest.mark.parametrize("form", ["csv", "dta", "parquet"])
@pytest.mark.parametrize("wide", [True, False])
def test_labels_are_written_for_other_programs_and_read_back(form: str, wide: bool) -> None:
    label_own()
    words = ["labels", "r", "--out", f"l.{form}", *(["--wide"] if wide else [])]
    assert run_app(words) == 0
    read = {"csv": lambda f: pd.read_csv(f, dtype={"task_id": str}), "dta": pd.read_stata, "parquet": pd.read_parquet}
    table = read[form](f"l.{form}").sort_values("task_id")
    if wide:
        assert table["task_id"].tolist() == ["1", "2", "3"]
        assert table["strict"].tolist() == ["exposed", "not-exposed", "not-exposed"]
        assert table["code"].tolist() == ["E1", "E0", "E0"]
    else:
        labels = open_run("r").labels
        assert len(table) == len(labels) == 6
        assert set(table.columns) == set(labels.columns)
        assert sorted(table["label"]) == sorted(labels["label"])


def test_a_cell_that_looks_like_a_formula_is_written_so_that_no_spreadsheet_runs_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with provider(lambda _: judged(rationale="=cmd|' /C calc'!A0")) as server:
        words = ["run", "--model", "m", "--base-url", server.base_url, "--tasks", "own.csv", "--out", "r", "--quiet"]
        assert run_app(words) == 0
    capsys.readouterr()
    assert run_app(["labels", "r"]) == 0
    assert ",'=cmd|" in capsys.readouterr().out


def test_what_to_cite_names_data_with_licence_model_rubric_and_software(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["cite", "sample"]) == 0
    assert "Data: none is named" in capsys.readouterr().out
    label_own()
    capsys.readouterr()
    assert run_app(["cite", "r", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["files"][0]["file"] == "own.csv"
    assert (about["model"]["asked"], about["rubric"]["id"]) == ("m", "exposure")


@pytest.mark.mirror
def test_the_labels_of_2023_are_cited_with_their_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["cite", "eloundou-2023:gpt4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Eloundou, T., Manning, S., Mishkin, P. and Rock, D." in said
    assert "Licence: MIT" in said
