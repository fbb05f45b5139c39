"""Task lists by name and by file, and draws that can grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relabel.errors import DataError
from relabel.task import disputed_titles, load_tasks, task_table

HEAD = "task_id,onet_soc_code,title,text,task_type,importance\n"


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_the_sample_has_sixty_tasks() -> None:
    tasks = load_tasks("sample")
    assert len(tasks) == 60
    assert sum(t.importance is None for t in tasks) == 2


def test_a_draw_is_seeded_and_a_smaller_one_is_part_of_a_larger_one() -> None:
    small, large = (load_tasks("sample", sample=n, seed=7) for n in (10, 30))
    assert load_tasks("sample", sample=10, seed=7) == small
    assert {t.task_id for t in small} < {t.task_id for t in large}
    assert {t.task_id for t in load_tasks("sample", sample=10, seed=8)} != {t.task_id for t in small}


def test_a_draw_keeps_the_order_of_the_list() -> None:
    ids = [t.task_id for t in load_tasks("sample", sample=20, seed=1)]
    assert ids == sorted(ids)


def test_an_occupation_is_chosen_by_full_or_six_digit_code() -> None:
    assert {t.onet_soc_code for t in load_tasks("sample", occupations=["11-3051"])} == {"11-3051.00"}
    assert len(load_tasks("sample", occupations=["11-3051.00", "51-1011.00"])) == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"occupations": ["11-3052.00"]}, "codes look like 11-3051.00"),
        ({"sample": 61}, "holds 60 that fit"),
    ],
)
def test_what_is_not_in_the_list_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_tasks("sample", **options)


def test_a_users_file_needs_four_columns_only(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\ufefftask_id,onet_soc_code,title,text\r\n007,11-1011.00,None,NA\r\n")
    (task,) = load_tasks(path)
    assert (task.task_id, task.title, task.text, task.importance) == ("007", "None", "NA", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"t\.csv is empty; write a first line with the names of the columns, and one line for each task"),
        (HEAD, "has a header but no row below it"),
        (HEAD + "\n \n", "has a header but no row below it"),
        (HEAD + "1,11-1011.00,T,Do.,Core\n", "line 2 has 5 cells where the header has 6"),
        (HEAD + "1,11-1011.00,T,Do this, then that.,Core,3\n", "line 2 has 7 cells"),
        ("task_id,onet_soc_code,title,text,text\n1,11-1011.00,T,A,B\n", "column 'text' more than once"),
        (
            HEAD + "1,../../../etc/x,T,Do.,Core,3\n",
            "line 2: '../../../etc/x' is not an O.NET-SOC code; write it in full",
        ),
        (
            HEAD + "1,11-1011.00,T,Do.,Core,3\n2,11-1011,T,Do.,Core,3\n",
            "line 3: '11-1011' is not an O.NET-SOC code; write it in full",
        ),
        (HEAD + '1,"11-10\n11.00",T,Do.,Core,3\n', "line 2: .* is not an O.NET-SOC code"),
        (HEAD + "1,１１-1011.00,T,Do.,Core,3\n", "line 2: '１１-1011.00' is not"),
        (HEAD + "1,11-1011.00,T,Do.,Core,3_0\n", "line 2: importance must be a number"),
        (HEAD + '1,11-1011.00,T,"Do.,Core,3\n', "line 2 is not CSV"),
        ("task_id,onet_soc_code,title\n1,2,3\n", "no column 'text'"),
        (
            "ID,task_id,job\n1,2,3\n",
            r"no columns 'onet_soc_code', 'title' and 'text' \(it has 'ID', 'task_id', 'job'\); its first line must name "
            "task_id, onet_soc_code, title, text",
        ),
        (HEAD + "1,11-1011.00,T,Do.,Core,6\n", "line 2: importance must be a number over 0, from 1 to 5"),
        (HEAD + "1,11-1011.00,T,Do.,Core,high\n", "line 2: importance must be a number"),
        (HEAD + "1,11-1011.00,T,Do.,,\n1,11-1011.00,T,Do it.,,\n", "line 3 repeats the task id '1'"),
        (HEAD + "1,11-1011.00,T,,,\n", "line 2 has no task_id or no text"),
        (HEAD + "1,11-1011.00,T,nan,,\n", "line 2 has no task_id or no text, or a mark such as nan"),
        (HEAD + "1,11-1011.00,T,#REF!,,\n", "line 2 has no task_id or no text, or a mark such as nan"),
    ],
)
def test_a_bad_file_is_refused_by_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load_tasks(write(tmp_path / "t.csv", text))


@pytest.mark.parametrize(
    ("ref", "words"), [("onet-30.3", "use one of onet-30.2, onet-29.1"), ("no/such.csv", "task file .* was not found")]
)
def test_an_unknown_list_is_said(ref: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_tasks(ref)


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("ref", "rows", "unrated"),
    [("onet-30.2", 18796, 845), ("onet-29.1", 18796, 18796), ("eloundou-2023", 19265, 19265)],
)
def test_real_lists_are_whole(ref: str, rows: int, unrated: int) -> None:
    table = task_table(ref)
    assert len(table) == rows
    assert int(table["importance"].isna().sum()) == unrated
    assert not table["task_id"].str.contains(".", regex=False).any()


@pytest.mark.parametrize(("written", "kind"), [("core", "Core"), ("CORE", "Core"), ("Core ", "Core"), ("n/a", None)])
def test_task_types_and_onets_own_names_are_read(written: str, kind: str | None, tmp_path: Path) -> None:
    text = f"Task ID,O*NET-SOC Code,Title,Task,Task Type\n8823.0,11-1011.00,Chief Executives,Lead.,{written}\n"
    (task,) = load_tasks(write(tmp_path / "t.csv", text))
    assert (task.task_id, task.onet_soc_code, task.text, task.task_type) == ("8823", "11-1011.00", "Lead.", kind)


def test_a_task_type_that_is_none_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: task_type 'x' is not one of Core, Supplemental"):
        load_tasks(write(tmp_path / "t.csv", HEAD + "1,11-1011.00,T,Do.,x,3\n"))


@pytest.mark.mirror
def test_titles_that_disagree_with_their_code_are_named(tmp_path: Path) -> None:
    rows = ("11-1011.00", "Agricultural advisers"), ("11-1021.00", "Operations manager"), ("99-9999.00", "Nothing")
    assert "11-1011.00 is 'Agricultural advisers' in the list, 'Chief Executives' in O*NET" in disputed_titles(rows)
    assert "11-1021.00" not in disputed_titles(rows)


@pytest.mark.mirror
def test_onets_own_titles_of_2023_agree_with_todays() -> None:
    table = task_table("eloundou-2023")
    assert not disputed_titles(zip(table["onet_soc_code"], table["title"], strict=True))
