"""`relabel families` and `relabel resilience` as people meet them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from run_builders import a_label, a_run
from server import judged, provider

DIMENSIONS = ("empathy", "presence", "opinion", "creativity", "hope")
OWN = '[[family]]\nid = "web"\nname = "Web"\ndescription = "Make sites."\ncodes = ["15-1254.00"]\n'


def test_families_are_listed_and_those_of_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["families"]) == 0
    assert "production-professionals" in capsys.readouterr().out
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    assert run_app(["families", "--families", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"id": "web", "name": "Web", "description": "Make sites.", "codes": ["15-1254.00"]}
    ]
    path.write_text("family = []\n")
    assert run_app(["families", "--families", str(path)]) == 3
    assert "has no [[family]] entry" in capsys.readouterr().err


def test_resilience_of_the_sample_is_shown_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["resilience", "sample"]) == 0
    said = capsys.readouterr().out
    assert "SAMPLE: invented tasks" in said
    assert "Exposure is the weighted share of tasks exposed with tools" in " ".join(said.split())
    assert "Jobs are those of employees" in " ".join(said.split())
    assert "Growing demand is missing: no projection, because the sample is invented" in said
    assert "Human advantage is missing: the occupations are not rated yet" in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_score_with_a_part_missing_reads_so_far_wherever_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["resilience", "sample", "--out", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    table = dict(re.findall(r"^(\S.*?)  +(\d of \d so far)", said, re.MULTILINE))
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(table) == set(rows)
    for name, shown in table.items():
        assert shown == f"{rows[name]['points_so_far']} of {rows[name]['points_of']} so far"
        assert rows[name]["words"].startswith(f"{shown}. ")
        assert rows[name]["resilience"] == ""
    assert "a complete score is out of 6" in " ".join(said.split())


def test_ratings_are_made_in_one_step_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a key for tests")
    with provider(lambda seen: judged("4")) as fake:
        words = ["careers", "rate", "--model", "m", "--tasks", "sample", "--base-url", fake.base_url, "--quiet"]
        assert run_app([*words, "--rubric", "exposure"]) == 2
        assert not fake.seen
        assert run_app(words) == 0
    assert "next: relabel resilience" in capsys.readouterr().err
    assert run_app(["resilience", "sample", "nursing"]) == 0
    said = capsys.readouterr()
    assert "ratings of human advantage: runs/epoch, by m" in said.err
    assert "Human advantage gives 2 of 2" in said.out
    assert run_app(["export", "sample", "--draws", "0", "--out", "export"]) == 0
    page = json.loads(Path("export/families/nursing.json").read_text("utf-8"))
    assert (page["epoch_run"], page["resilience"]["so_far"], page["resilience"]["of"]) == ("epoch", 3, 4)


@pytest.mark.slow
@pytest.mark.mirror
def test_rating_asks_about_the_occupations_of_families_and_gives_a_whole_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a key for tests")
    with provider(lambda seen: judged("2")) as fake:
        assert run_app(["careers", "rate", "--model", "m", "--base-url", fake.base_url, "--quiet"]) == 0
    capsys.readouterr()
    assert run_app(["resilience", "eloundou-2023:gpt4"]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"\d of 6 ", said)) == 26
    assert "so far" not in said


@pytest.mark.slow
@pytest.mark.mirror
def test_jobs_that_change_by_a_hair_stay_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["resilience", "eloundou-2023:gpt4"]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("Production Professionals")]
    assert "level  0" in line
    assert "2 of 4 so far" in line
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.slow
def test_a_rated_family_is_explained_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    families = tmp_path / "mine.toml"
    families.write_text(OWN)
    labels = [a_label("15-1254.00", name, "4", code="15-1254.00") for name in DIMENSIONS]
    a_run(tmp_path / "rated", labels, rubric="epoch", tasks="sample")
    words = ["resilience", "sample", "web", "--epoch", str(tmp_path / "rated"), "--families", str(families)]
    assert run_app([*words, "--out", str(tmp_path / "pages.json")]) == 0
    said = capsys.readouterr().out
    assert "Human advantage gives 2 of 2: the ratings of human advantage add up to 20.0 of 25" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 100
    document = json.loads((tmp_path / "pages.json").read_text())
    assert document["epoch_run"] == "rated"
    assert document["cut_points"]["human-advantage"] == {"one_from": 12.0, "two_from": 19.0}
    assert document["families"][0]["resilience"]["score"] is None
    assert run_app([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert run_app([*words, "--out", str(tmp_path / "table.csv")]) == 0
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["resilience"], row["human_advantage"], row["epoch"]) == ("web", "", "2", "20.0")
    assert run_app([*words, "--out", str(tmp_path / "table.parquet")]) == 0


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["resilience", "sample", "produktion"], 2, "unknown job family 'produktion'"),
        (["resilience", "sample", "--out", "x.txt"], 2, "end the name of --out in .csv, .parquet or .json"),
        (
            ["resilience", "sample", "--epoch", "sample"],
            2,
            "(rubric exposure) does not rate occupations with sums from 5 to 25",
        ),
        (["resilience", "sample", "--cuts", "none.toml"], 3, "none.toml cannot be read"),
        (["families", "--families", "none.toml"], 3, "none.toml cannot be read"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(words) == code
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said


def test_a_run_that_rates_occupations_has_no_exposure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [a_label("15-1254.00", "hope", "4", code="15-1254.00")]
    a_run(tmp_path / "rated", labels, rubric="epoch", tasks="sample")
    assert run_app(["resilience", str(tmp_path / "rated")]) == 2
    assert "rates occupations (rubric epoch) and has no labels of tasks" in capsys.readouterr().err
