"""Readers on small files of the tests' own: what is missing or wrong, and layouts that the mirror does not have."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from source_builders import Workshop, sha256

from relabel.errors import ColumnError, DataError, UsageError
from relabel.sources import bls, eloundou, onet, ons
from relabel.sources.tables import numbers

STATEMENTS = (
    "O*NET-SOC Code\tTask ID\tTask\tTask Type\tIncumbents Responding\tDate\tDomain Source\r\n"
    '11-1011.00\t8823\t"Lead" the firm\'s work.\tCore\t95\t08/2023\tIncumbent\r\n'
    "11-1011.00\t8824\tNA\tn/a\tn/a\t08/2023\tAnalyst\r\n"
)
OCCUPATIONS = "O*NET-SOC Code\tTitle\tDescription\n11-1011.00\tNone\tLead.\n"
RATINGS = (
    "O*NET-SOC Code\tTask ID\tScale ID\tCategory\tData Value\tN\tStandard Error\tLower CI Bound\tUpper CI Bound\t"
    "Recommend Suppress\tDate\tDomain Source\n"
    "11-1011.00\t8823\tFT\t1\t5.92\t92\t2.8\t1.1\t9.2\tN\t08/2023\tIncumbent\n"
    "11-1011.00\t8823\tIM\tn/a\t4.52\t94\t0.09\t4.3\t4.7\tN\t08/2023\tIncumbent\n"
    "11-1011.00\t8823\tRT\tn/a\t95.00\t95\t2.1\t88\t98\tN\t08/2023\tIncumbent\n"
)
LABELS = (
    "\tO*NET-SOC Code\tTask ID\tTask\tTask Type\tTitle\thuman_exposure_agg\tgpt4_exposure\tgpt4_exposure_alt_rubric\n"
    "0\t11-1011.00\t8823.0\tLead.\t\tChief Executives\tE0\tE2\tE1\n"
)


def register_onet(job_builders: Workshop, release: str = "onet-9.9", **texts: str) -> None:
    roles = {"tasks": STATEMENTS, "occupations": OCCUPATIONS, "task-ratings": RATINGS} | {
        name.replace("_", "-"): text for name, text in texts.items()
    }
    files = [{"name": f"{role}.txt", "role": role, "sha256": sha256(text.encode())} for role, text in roles.items()]
    job_builders.register(release, *files)
    for role, text in roles.items():
        job_builders.put(release, f"{role}.txt", text.encode())


def workbook(sheets: dict[str, list[list[Any]]]) -> bytes:
    book = openpyxl.Workbook()
    for number, (name, rows) in enumerate(sheets.items()):
        sheet = book.active if number == 0 else book.create_sheet()
        assert sheet is not None
        sheet.title = name
        for row in rows:
            sheet.append(row)  # pyright: ignore[reportAttributeAccessIssue]  # a chart sheet has none; this is no chart
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def test_a_newer_release_is_an_entry_in_the_users_own_file(job_builders: Workshop) -> None:
    register_onet(job_builders, "onet-31.0")

    assert onet.read_tasks("onet-31.0")["task_id"].tolist() == ["8823", "8824"]


def test_importance_is_taken_from_its_own_scale_of_the_official_layout(job_builders: Workshop) -> None:
    register_onet(job_builders)

    tasks = onet.read_tasks("onet-9.9")

    assert tasks["importance"].iloc[0] == 4.52
    assert pd.isna(tasks["importance"].iloc[1])


def test_words_that_look_like_gaps_stay_words(job_builders: Workshop) -> None:
    register_onet(job_builders)

    tasks = onet.read_tasks("onet-9.9")

    assert tasks["text"].tolist() == ['"Lead" the firm\'s work.', "NA"]
    assert set(tasks["title"]) == {"None"}
    assert tasks["task_type"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("column", "read", "texts"),
    [
        ("Task ID", onet.read_tasks, {"tasks": STATEMENTS.replace("Task ID", "Number")}),
        ("Scale ID", onet.read_tasks, {"task_ratings": RATINGS.replace("Scale ID", "Scale")}),
        ("Title", onet.read_occupations, {"occupations": OCCUPATIONS.replace("Title", "Name")}),
    ],
)
def test_a_missing_column_is_named(
    job_builders: Workshop, column: str, read: Callable[[str], pd.DataFrame], texts: dict[str, str]
) -> None:
    register_onet(job_builders, **texts)

    with pytest.raises(ColumnError, match=f"has no column '{column}'") as caught:
        read("onet-9.9")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            {"tasks": STATEMENTS.replace("Core", "Kern")},
            r"column 'task_type': 'Kern' in row 1 .* not one of Core",
        ),
        ({"tasks": STATEMENTS.replace("11-1011.00\t8824", "11-1011\t8824")}, r"column 'onet_soc_code': '11-1011'"),
        ({"tasks": STATEMENTS.replace("8824", "8823")}, r"column 'task_id': '8823' occurs more than once"),
        ({"tasks": STATEMENTS.splitlines()[0]}, r"the table does not have at least one row"),
        ({"occupations": OCCUPATIONS.replace("11-1011", "11-1012")}, r"column 'title': a value is missing in row 1"),
        ({"task_ratings": RATINGS.replace("4.52", "7.5")}, r"column 'importance': 7\.5 .* is not from 1 to 5"),
        ({"task_ratings": RATINGS.replace("4.52", "high")}, r"column 'Data Value': 'high' is not a number"),
        (
            {"tasks": STATEMENTS.removesuffix("\n").rpartition("\t")[0]},
            r"has a row of \d cells where the header has \d",
        ),
        ({"tasks": ""}, r"tasks\.txt has no column 'Task ID' \(it has none\)"),
    ],
)
def test_a_bad_value_is_named_with_file_and_column(job_builders: Workshop, texts: dict[str, str], said: str) -> None:
    register_onet(job_builders, **texts)

    with pytest.raises(DataError, match=said) as caught:
        onet.read_tasks("onet-9.9")
    assert ".txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float_task_ids_lose_their_tail(job_builders: Workshop) -> None:
    job_builders.give("eloundou-2023", "labels", "l.tsv", LABELS.encode())

    labels = eloundou.read_labels()

    assert labels.iloc[0].drop("task_type").tolist() == [
        *("8823", "11-1011.00", "Chief Executives", "Lead.", "E2", "E1", "E0")
    ]
    assert labels["task_type"].isna().all()


def test_a_label_outside_the_rubric_is_refused(job_builders: Workshop) -> None:
    job_builders.give("eloundou-2023", "labels", "l.tsv", LABELS.replace("E2", "E7").encode())

    with pytest.raises(DataError, match=r"l\.tsv, column 'gpt4': 'E7' in row 1 of the table is not one of E0, E1, E2"):
        eloundou.read_labels()


def test_a_workbook_without_the_sheet_is_named(job_builders: Workshop) -> None:
    job_builders.give("bls-soc2010-soc2018", "crosswalk", "c.xlsx", workbook({"Other": [["x"]]}))

    with pytest.raises(DataError, match=r"c\.xlsx .*Worksheet named 'Sorted by 2010' not found"):
        bls.read_soc2010_soc2018()


def test_a_workbook_without_the_column_is_named(job_builders: Workshop) -> None:
    rows = [["U.S. Bureau"], ["2010 SOC Code", "2010 SOC Title", "2018 SOC Code"], ["11-1011", "A", "11-1011"]]
    job_builders.give("bls-soc2010-soc2018", "crosswalk", "c.xlsx", workbook({"Sorted by 2010": rows}))

    with pytest.raises(ColumnError, match=r"c\.xlsx has no column '2018 SOC Title' \(it has '2010 SOC Code'"):
        bls.read_soc2010_soc2018()


@pytest.mark.parametrize("name", ["c.xlsx", "c.xls"])
def test_a_file_that_is_no_workbook_is_named(job_builders: Workshop, name: str) -> None:
    job_builders.give("bls-isco08-soc2010", "crosswalk", name, b"<html>not found</html>")

    with pytest.raises(DataError, match=rf"{name} cannot be read as a workbook"):
        bls.read_isco08_soc2010()


def test_projections_of_other_years_name_their_columns_by_those_years(job_builders: Workshop) -> None:
    head = [
        *("2025 National Employment Matrix title", "2025 National Employment Matrix code", "Occupation type"),
        *("Employment, 2025", "Employment, 2035", "Employment change, numeric, 2025–35"),
        *("Employment change, percent, 2025–35", "Percent self employed, 2025"),
        *("Occupational openings, 2025–35 annual average", "Median annual wage, dollars, 2025[1]"),
        *("Typical education needed for entry", "Work experience in a related occupation"),
        "Typical on-the-job training needed to attain competency in the occupation",
    ]
    rows = [
        ["Table 1.2"],
        head,
        ["  Surgeons", "29-1240", "Line item", 9.5, 10, 0.5, 5, "—", 0.2, ">=$239,200", "Degree", "None", "—"],
        ["Footnotes:"],
    ]
    job_builders.give("bls-ep-2025-35", "projections", "occupation.xlsx", workbook({"Table 1.2": rows}))

    (row,) = bls.read_projections("bls-ep-2025-35").to_dict("records")

    assert (row["title"], row["employment_2025_thousands"], row["employment_2035_thousands"]) == ("Surgeons", 9.5, 10)
    assert (row["experience"], pd.isna(row["training"])) == ("None", True)


def test_leading_zeros_that_a_workbook_drops_come_back(job_builders: Workshop) -> None:
    head = ["UNIQUE ID", "D", "SOC_2020", "SOC_2020_ext", "INDEXOCC", "ADD", "IND", "SEE"]
    head += ["ISCO-08 code based on SOC2020", "INDEXOCC-natural_word_order"]
    rows = [
        head,
        ["a", None, 1161, "1161/00", "Officer, army", None, None, None, 110, "Army officer"],
        ["b", None, "}}}}", "}}}}/}}", "Advisor", None, None, "see Adviser", "}}}}", "Advisor"],
    ]
    job_builders.give("ons-soc2020", "coding-index", "index.xlsx", workbook({"SOC2020 coding index": rows}))

    index = ons.read_coding_index()

    assert index["isco08"].iloc[0] == "0110"
    assert index[["soc2020", "isco08"]].isna().to_numpy().tolist() == [[False] * 2, [True] * 2]


def ashe_sheet(*rows: list[Any]) -> bytes:
    head = ["Description", "Code", "(thousand)", "Median", "change", "Mean", "change"]
    head += ["10", "20", "25", "30", "40", "60", "70", "75", "80", "90"]
    footnote = ["a  Employees on adult rates"]
    return workbook({"All": [["Table 14.7"], head, *rows, footnote]})


def give_ashe(job_builders: Workshop, pay: bytes, quality: bytes) -> None:
    files = {"a.xlsx": ("pay", pay), "b.xlsx": ("pay-quality", quality)}
    job_builders.register(
        "ons-ashe-2026",
        *({"name": name, "role": role, "sha256": sha256(content)} for name, (role, content) in files.items()),
    )
    for name, (_, content) in files.items():
        job_builders.put("ons-ashe-2026", name, content)


def test_ashe_marks_become_reasons_and_variation_becomes_words(job_builders: Workshop) -> None:
    rest = [None] * 4
    pay = ashe_sheet(
        ["   Makers", "1121", 5, 30_000, None, 31_000],
        ["   Bakers", "1123", 6, "x", None, ".."],
        ["   Menders", "1122", "-", *rest],
    )
    quality = ashe_sheet(
        ["   Makers", "1121", 5, 5.1, ".", 10.1],
        ["   Bakers", "1123", 20, 20.1, ".", "x"],
        ["   Menders", "1122", "x", *rest],
    )
    give_ashe(job_builders, pay, quality)

    makers, bakers, menders = ons.read_ashe("ons-ashe-2026").to_dict("records")

    assert (makers["jobs"], makers["median_pay_gbp"]) == (5_000, 30_000)
    assert [group[f"{stem}_quality"] for group in (makers, bakers) for stem in ("jobs", "median", "mean")][:5] == [
        *("precise", "reasonably precise", "acceptable", "acceptable", "unreliable")
    ]
    assert pd.isna(bakers["mean_quality"])
    assert (bakers["median_flag"], bakers["mean_flag"]) == ("unreliable", "disclosive")
    assert (menders["jobs_flag"], menders["median_flag"]) == ("nil-or-negligible", "nil-or-negligible")
    assert pd.isna(menders["jobs"])


def test_ashe_files_of_two_releases_are_not_mixed(job_builders: Workshop) -> None:
    row = ["   Makers", "1121", *[1] * 15]
    give_ashe(job_builders, ashe_sheet(row), ashe_sheet(["   Makers", "1129", *[1] * 15]))

    with pytest.raises(DataError, match="do not list the same groups; take both from one release"):
        ons.read_ashe("ons-ashe-2026")


def test_quartiles_without_a_key_name_it(job_builders: Workshop) -> None:
    document = json.dumps({"1121": {"description": "Makers", "p25": 1, "p75": None}})
    job_builders.give("ons-ashe-2025-medians", "quartiles", "q.json", document.encode())

    with pytest.raises(DataError, match="the median p50 of each group"):
        ons.read_ashe_medians()


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_quartiles_that_are_no_json_object_are_named(job_builders: Workshop, content: bytes) -> None:
    job_builders.give("ons-ashe-2025-medians", "quartiles", "q.json", content)

    with pytest.raises(DataError, match=r"q\.json"):
        ons.read_ashe_medians()


def test_an_unknown_set_of_newer_labels_is_an_error() -> None:
    with pytest.raises(DataError, match="has no labels by 'gpt-9'; it has gpt-4-0613"):
        eloundou.locate_relabels("relabels-2026:gpt-9")


def test_the_csv_and_excel_editions_of_onet_are_read_as_the_text_edition(job_builders: Workshop) -> None:
    register_onet(job_builders)
    wanted = onet.read_tasks("onet-9.9")
    tables = {
        "tasks": ("Task Statements", STATEMENTS),
        "occupations": ("Occupation Data", OCCUPATIONS),
        "task-ratings": ("Task Ratings", RATINGS),
    }
    cells = {role: [line.split("\t") for line in text.splitlines()] for role, (_, text) in tables.items()}
    for role in ("tasks", "task-ratings"):
        at = cells[role][0].index("Task ID")
        cells[role] = [cells[role][0], *([*row[:at], f"{row[at]}.0", *row[at + 1 :]] for row in cells[role][1:])]
    csv_files, excel = {}, {}
    for role, (name, _) in tables.items():
        out = io.StringIO()
        csv.writer(out).writerows(cells[role])
        csv_files[role] = (f"{name.lower().replace(' ', '_')}.csv", out.getvalue().encode())
        excel[role] = (f"{name}.xlsx", workbook({name: cells[role]}))
    for release, files in (("onet-31.0", csv_files), ("onet-31.1", excel)):
        job_builders.register(release, *({"name": name, "role": role} for role, (name, _) in files.items()))
        for name, content in files.values():
            job_builders.put(release, name, content)
        pd.testing.assert_frame_equal(onet.read_tasks(release), wanted)


def test_releases_of_the_bls_come_from_the_registry_under_their_own_year(
    job_builders: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(r.source, r.suffix) for r in bls.wage_releases()] == [("bls-oews-2024", ""), ("bls-oews-2023", "_2023")]
    assert bls.projection_release() == bls.ProjectionRelease("bls-ep-2024-34", 2024, 2034)
    job_builders.register("bls-oews-2025", {"name": "w.xlsx", "role": "wages"}, release="May 2025")
    job_builders.register("bls-ep-2025-35", {"name": "p.xlsx", "role": "projections"}, release="2025-35")
    assert [(r.source, r.period, r.suffix) for r in bls.wage_releases()] == [
        ("bls-oews-2025", "May 2025", ""),
        ("bls-oews-2024", "May 2024", "_2024"),
        ("bls-oews-2023", "May 2023", "_2023"),
    ]
    assert bls.projection_release() == bls.ProjectionRelease("bls-ep-2025-35", 2025, 2035)
    monkeypatch.setenv("RELABEL_US_RELEASES", "bls-oews-2023, bls-ep-2024-34")
    assert [(r.source, r.suffix) for r in bls.wage_releases()] == [
        ("bls-oews-2023", ""),
        ("bls-oews-2025", "_2025"),
        ("bls-oews-2024", "_2024"),
    ]
    assert bls.projection_release().source == "bls-ep-2024-34"
    monkeypatch.setenv("RELABEL_US_RELEASES", "onet-30.2")
    with pytest.raises(
        UsageError, match=r"'onet-30\.2', which has no US jobs or projections; choose from bls-ep-2024-34"
    ):
        bls.wage_releases()
    monkeypatch.setenv("RELABEL_US_RELEASES", "bls-oews-2023,bls-oews-2024")
    with pytest.raises(UsageError, match="names several sources of wages; name one of them"):
        bls.wage_releases()
    monkeypatch.delenv("RELABEL_US_RELEASES")
    job_builders.register("wages-of-mine", {"name": "w.xlsx", "role": "wages"})
    with pytest.raises(DataError, match="wages-of-mine has the role wages but names no year"):
        bls.wage_releases()


@pytest.mark.parametrize("group", ["O_GROUP", "OCC_GROUP", "occ_group"])
def test_wages_are_read_under_the_headers_of_newer_and_older_releases(job_builders: Workshop, group: str) -> None:
    header = ["OCC_CODE", "OCC_TITLE", group, "TOT_EMP", "HOURLY"]
    header += ["A_MEAN", "A_PCT10", "A_PCT25", "A_MEDIAN", "A_PCT75", "A_PCT90"]
    row = ["11-1011", "Chief Executives", "detailed", 195530, None, 200140, 68410, 112880, 189600, "#", "#"]
    job_builders.give("bls-oews-2018", "wages", "national_M2018_dl.xlsx", workbook({"national_dl": [header, row]}))

    wages = bls.read_wages("bls-oews-2018")
    assert (wages["group"].tolist(), wages["employment"].tolist()) == (["detailed"], [195_530])
    assert wages["annual_p90_flag"].tolist() == ["top-coded"]
    assert bls.read_wage_cap("bls-oews-2018")["annual_usd"].isna().all()  # the workbook does not describe its fields


def test_commas_between_thousands_are_read_and_others_refused() -> None:
    path = Path("w.xlsx")
    read = numbers(path, pd.Series(["154,187,380", "1,000.5", "7", "**", ""]), "TOT_EMP", ("", "**"))
    assert read.tolist()[:3] == [154_187_380, 1000.5, 7]
    assert read.isna().tolist() == [False, False, False, True, True]
    assert numbers(path, pd.Series([None, None], dtype="object"), "TOT_EMP").isna().all()
    for wrong in ("1,5", "12,34", "1,000,00"):
        with pytest.raises(DataError, match=f"'{wrong}' is not a number"):
            numbers(path, pd.Series([wrong]), "TOT_EMP")
