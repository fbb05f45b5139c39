"""Ratings of occupations made elsewhere become a run that resilience can take."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.careers.families import occupation_ratings
from relabel.cli.app import run_app
from relabel.errors import ColumnError, DataError
from relabel.importing import Columns, Imported, import_labels
from relabel.rubric import load_rubric
from relabel.run import open_run

WIDE = "onet_soc_code,empathy,presence,opinion,creativity,hope\n"
NURSES, WEB = "29-1141.00", "15-1254.00"


def imported(tmp_path: Path, text: str, columns: Columns | None = None) -> Imported:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    return import_labels(
        path, model="them", rubric=load_rubric("epoch"), out=tmp_path / "run", tasks="sample", columns=columns
    )


def test_a_column_a_dimension_is_understood_without_being_told(tmp_path: Path) -> None:
    done = imported(tmp_path, f"{WIDE}{NURSES},5,5,4,2,4\n{WEB},1,1,2,3,1\n")
    assert (done.labels, done.tasks, done.not_in_list) == (10, 2, 0)
    run = open_run(str(done.folder))
    assert run.rubric.unit == "occupation"
    assert set(run.labels["task_id"]) == {NURSES, WEB}
    assert occupation_ratings(run)["total"].to_dict() == {WEB: 8.0, NURSES: 20.0}
    assert [use.file for use in run.manifest.sources] == ["ratings.csv", "occupations.csv"]


def test_a_line_a_rating_and_repeats_are_read_too(tmp_path: Path) -> None:
    names = ("empathy", "presence", "opinion", "creativity", "hope")
    lines = [f"{WEB},{name},{1 + sample},{sample}" for name in names for sample in range(2)]
    done = imported(tmp_path, "onet_soc_code,setting,label,sample\n" + "\n".join(lines) + "\n")
    assert occupation_ratings(open_run(str(done.folder)))["total"].to_dict() == {WEB: 7.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{WIDE}{WEB},1,1,2,3,6\n", "line 2: label must be one of 1, 2, 3, 4, 5, not '6'"),
        (f"{WIDE}{WEB},1,1,2,3,\n", "line 2: label must be one of 1, 2, 3, 4, 5, not ''"),
        (f"{WIDE}{WEB},1,1,2,3,3.5\n", "line 2: label must be one of 1, 2, 3, 4, 5, not '3.5'"),
        (f"{WIDE}15-1254,1,1,2,3,1\n", "line 2: '15-1254' is not an O.NET-SOC code; write it in full"),
        (f"{WIDE}{WEB},1,1,2,3,1\n{WEB},1,1,2,3,1\n", "line 3 repeats"),
    ],
)
def test_a_bad_rating_is_refused_by_its_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        imported(tmp_path, text)
    assert not (tmp_path / "run").exists()


def test_a_missing_dimension_asks_for_its_column(tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match="no column 'label'"):
        imported(tmp_path, f"{WIDE.replace(',hope', '')}{WEB},1,1,2,3\n")


def test_the_command_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(f"{WIDE}{WEB},1,1,2,3,1\n")
    words = [
        "import",
        str(path),
        "--model",
        "them",
        "--rubric",
        "epoch",
        "--tasks",
        "sample",
        "--out",
        str(tmp_path / "r"),
    ]
    assert run_app(words) == 0
    said = capsys.readouterr()
    assert "5 labels imported (occupations: 1, list: sample)" in said.out
    assert f"next: relabel resilience RUN --epoch {tmp_path / 'r'}" in said.err
    assert run_app(["resilience", "sample", "--epoch", str(tmp_path / "r"), "software-and-data"]) == 0
