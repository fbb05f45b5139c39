"""Gold: published sets, the sample, and files of the user's own, hostile ones included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from relabel.errors import ColumnError, DataError, UsageError
from relabel.evaluation.gold import load_gold, read_gold_csv
from run_builders import MakeRun

FROZEN = "5193b0da09d291cdd946ae75b7e69b5f10e96fdc3965d816e1931f40dda7feca"
WriteGold = Callable[[str | bytes], Path]


def rows(table: pd.DataFrame) -> list[list[object]]:
    shown = table[["onet_soc_code", "task_id", "code", "strict", "with_tools"]].astype(object)
    return shown.where(shown.notna(), None).to_numpy().tolist()


def test_code_gives_both_settings(write_gold: WriteGold) -> None:
    gold = read_gold_csv(write_gold("task_id,onet_soc_code,code\n1,11-1011.00,E0\n2,11-1011.00,E1\n3,11-1011.00,E2\n"))
    assert rows(gold.table) == [
        ["11-1011.00", "1", "E0", False, False],
        ["11-1011.00", "2", "E1", True, True],
        ["11-1011.00", "3", "E2", False, True],
    ]


def test_both_settings_give_the_code_and_an_incoherent_pair_is_e1(write_gold: WriteGold) -> None:
    pairs = ["exposed,exposed", "not-exposed,exposed", "not-exposed,not-exposed", "exposed,not-exposed"]
    lines = [f"{i},{pair}" for i, pair in enumerate(pairs)]
    gold = read_gold_csv(write_gold("\n".join(["task_id,strict,with_tools", *lines])))
    assert gold.table["code"].tolist() == ["E1", "E2", "E0", "E1"]
    assert gold.table["with_tools"].tolist() == [True, True, False, False]
    assert gold.table["onet_soc_code"].isna().all()


def test_one_setting_alone_gives_no_code(write_gold: WriteGold) -> None:
    gold = read_gold_csv(write_gold("task_id,strict\n1,exposed\n2,not-exposed\n3,\n"))
    assert gold.table["code"].isna().all()
    assert rows(gold.table)[2] == [None, "3", None, None, None]


def test_byte_order_mark_windows_line_ends_blank_lines_and_other_columns_are_taken(write_gold: WriteGold) -> None:
    text = '\ufefftask_id,note,with-tools\r\n1,"two\r\nlines, =1+1",exposed\r\n\r\n2,,not-exposed\r\n'
    gold = read_gold_csv(write_gold(text))
    assert gold.table["with_tools"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task_id,code\n1,E0\n2,E3\n", "line 3: code must be E0, E1, E2 or empty, not 'E3'"),
        ("task_id,code\n1,e0\n", "line 2: code must be .*, not 'e0'"),
        ("task_id,code\n1,=E0\n", "line 2: code must be .*, not '=E0'"),
        ("task_id,strict\n1,exposed\n2,yes\n", "line 3: strict must be exposed, not-exposed or empty, not 'yes'"),
        ("task_id,strict,with_tools\n1,exposed,True\n", "line 2: with_tools must be .*, not 'True'"),
        ("task_id,code\n1,E0\n2,E1\n1,E0\n", "line 4 repeats task_id 1 of line 2"),
        (
            "task_id,onet_soc_code,code\n1,11-1011.00,E0\n1,11-1021.00,E0\n1,11-1011.00,E1\n",
            "line 4 repeats onet_soc_code 11-1011.00, task_id 1 of line 2",
        ),
        ("task_id,code\n,E0\n", "line 2 has no task_id"),
        ("task_id,onet_soc_code,code\n1,,E0\n", "line 2: '' is not an O.NET-SOC code"),
        ("task_id,code\n=1+1,E0\n", "line 2: task_id '=1\\+1' is a formula"),
        ("task_id,code\n@SUM(A1),E0\n", "is a formula"),
        ("task_id,code\n1\n", "line 2 has 1 cell where the header has 2"),
        ("task_id,code\n1,E0,x\n", "line 2 has 3 cells"),
        ('task_id,code,note\n1,E0,"a\nb"\n2,E9,\n', "line 4: code must be .*, not 'E9'"),
        ('task_id,code\n1,"E0\n', "line 2 is not CSV"),
        (
            "task_id,code,strict\n1,E0,exposed\n",
            "line 2: code must be the code that strict and with_tools give, not 'E0'",
        ),
        ("task_id,code,code\n1,E0,E0\n", "the column 'code' more than once"),
        ("task_id,answer,notes\n1,E0,\n", "no column of labels; it needs"),
        ("task_id,code,weight\n1,E0,2\n2,E1,0\n", "line 3: weight must be a number above 0, not '0'"),
        ("task_id,code,weight\n1,E0,2\n2,E1,\n", "line 3: weight must be a number above 0 on each line"),
        (
            "task_id,code,weight,reviewer\n1,,,\n2,,,\n3,E1,2,a\n4,E0,,a\n",
            "line 5: weight must be a number above 0 on each line",
        ),
        ("id,label\n1,T0\n2,E1\n", "line 3: automation must be T0, T1, T2, T3, T4 or empty, not 'E1'"),
        ("id,label,automation\n1,T0,T1\n", "has the columns 'automation' and 'label'; remove one"),
        ("task_id,code\n", "a header but no row below it; write one line for each labelled task"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(write_gold: WriteGold, text: str, said: str) -> None:
    path = write_gold(text)
    with pytest.raises(DataError, match=said) as caught:
        read_gold_csv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["number,code\n1,E0\n", "id_of_task,code\n1,E0\n"])
def test_a_file_without_ids_is_refused_with_the_columns_it_has(write_gold: WriteGold, text: str) -> None:
    with pytest.raises(ColumnError, match="no column 'task_id'"):
        read_gold_csv(write_gold(text))


def test_a_file_in_another_encoding_is_refused(write_gold: WriteGold) -> None:
    with pytest.raises(DataError, match="not in UTF-8"):
        read_gold_csv(write_gold("task_id,code,note\n1,E0,\u00e9\n".encode("cp1252")))


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_gold(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="unknown gold 'eloundou'; give one of eloundou-2023:gpt4"):
        load_gold("eloundou")


def test_hash_stands_for_the_labels_not_for_the_layout(write_gold: WriteGold) -> None:
    first = read_gold_csv(write_gold("task_id,code\n1,E0\n2,E1\n"))
    turned = read_gold_csv(
        write_gold("note,strict,with_tools,task_id\r\nx,exposed,exposed,2\r\n,not-exposed,not-exposed,1\r\n")
    )
    changed = read_gold_csv(write_gold("task_id,code\n1,E0\n2,E2\n"))
    assert first.sha256 == turned.sha256 != changed.sha256
    assert first.source.sha256 != turned.source.sha256


def test_weights_and_strata_are_part_of_the_frozen_hash(write_gold: WriteGold) -> None:
    plain = read_gold_csv(write_gold("id,label\n1,E0\n2,E1\n"))
    weighted = read_gold_csv(write_gold("id,label,weight,stratum\n1,E0,1.5,a\n2,E1,3,b\n"))
    assert weighted.table[["weight", "stratum"]].to_numpy().tolist() == [[1.5, "a"], [3.0, "b"]]
    assert (plain.weighted, weighted.weighted) == (False, True)
    assert plain.sha256 != weighted.sha256


@pytest.mark.parametrize(
    ("lines", "maker"),
    [
        ("id,label\n1,E0\n", "unknown"),
        ("id,label,annotator\n1,E0,ada\n1,E0,gpt-5\n", "unknown"),
        ("id,label,made_by\n1,E0,people\n2,E1,\n", "people"),
        ("id,label,Made By\n1,E0,Human\n", "people"),
        ("id,label,made_by\n1,E0,model\n", "model"),
        ("id,label,reviewer\n1,E0,Ada\n", "people"),
        ("id,label,reviewer,made_by\n1,E0,gpt-5,model\n", "model"),
    ],
)
def test_a_gold_s_labels_are_people_s_only_where_it_says_so(write_gold: WriteGold, lines: str, maker: str) -> None:
    gold = read_gold_csv(write_gold(lines))
    assert (gold.made_by, gold.human) == (maker, maker == "people")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("id,label,made_by\n1,E0,gpt\n", "line 2: made_by must be people, model or unknown"),
        ("id,label,made_by\n1,E0,people\n2,E1,model\n", "line 3: made_by must be .* the same on each line"),
    ],
)
def test_a_gold_by_several_makers_is_refused(write_gold: WriteGold, lines: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_gold_csv(write_gold(lines))


def test_who_made_a_gold_can_be_said_but_not_against_what_is_known(write_gold: WriteGold, make_run: MakeRun) -> None:
    path = str(write_gold("id,label\n1,E0\n"))
    assert load_gold(path, made_by="people").human
    assert load_gold("sample").made_by == "unknown"
    run = make_run({("11-1011.00", "1"): {"strict": True, "with-tools": True}})
    assert load_gold(str(run.folder)).made_by in ("model", "unknown")
    with pytest.raises(UsageError, match="was made by a model; remove --gold-by people"):
        load_gold(str(write_gold("id,label,made_by\n1,E0,model\n")), made_by="people")


def test_labels_of_automation_are_no_codes_of_exposure(write_gold: WriteGold) -> None:
    gold = read_gold_csv(write_gold("id,label\n1,T0\n2,T4\n"))
    assert gold.table["automation"].tolist() == ["T0", "T4"]
    assert gold.table["code"].isna().all()


def test_sample_gold_holds_sixty_labelled_tasks() -> None:
    gold = load_gold("sample")
    assert len(gold.table) == 60
    assert gold.table["code"].value_counts().to_dict() == {"E2": 23, "E0": 20, "E1": 17}
    assert gold.source.file == "gold.csv"


@pytest.mark.mirror
def test_published_automation_labels_are_gold_too() -> None:
    gpt4, human = (load_gold(f"eloundou-2023:{who}-automation") for who in ("gpt4", "human"))
    assert gpt4.table["automation"].value_counts().to_dict() == {
        "T2": 7796,
        "T0": 5528,
        "T1": 2937,
        "T3": 2646,
        "T4": 358,
    }
    assert len(human.table) == 100
    assert (gpt4.human, human.human) == (False, True)
    assert gpt4.source.file == "automation_gpt4_human_labels.tsv"


@pytest.mark.mirror
def test_the_hash_of_a_published_gold_is_frozen() -> None:
    assert load_gold("eloundou-2023:gpt4").sha256 == FROZEN


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("eloundou-2023:gpt4", {"E0": 8561, "E2": 8002, "E1": 2702}),
        ("eloundou-2023:gpt4-alt", {"E0": 11230, "E2": 5713, "E1": 2322}),
        ("eloundou-2023:human", {"E0": 10256, "E2": 6147, "E1": 2862}),
    ],
)
def test_published_gold_holds_all_labels_of_2023(name: str, codes: dict[str, int]) -> None:
    assert load_gold(name).table["code"].value_counts().to_dict() == codes


def test_ids_that_a_spreadsheet_gave_a_decimal_part_are_the_same_ids(tmp_path: Path) -> None:
    path = tmp_path / "gold.csv"
    path.write_text("task_id,code\n8823.0,E0\n8824,E1\n", encoding="utf-8")
    assert read_gold_csv(path).table["task_id"].tolist() == ["8823", "8824"]
    path.write_text("task_id,code\n8823.0,E0\n8823,E1\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 3 repeats task_id 8823 of line 2"):
        read_gold_csv(path)
