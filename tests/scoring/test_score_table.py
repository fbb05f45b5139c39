"""The score table: rounding, percentiles, pay files, the sample, and what is written to files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_builders import by_code

from relabel.cli.app import run_app
from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.options import Taxonomy
from relabel.scoring.pay import read_pay
from relabel.scoring.table import COLUMNS, percentiles, score_table, table_json
from relabel.tabular import csv_bytes, half_up, json_bytes

KNOWN = {"1121": "Production managers", "8160": "Plant operatives"}
Ties = Literal["shared", "by-code"]


@pytest.mark.parametrize(
    ("value", "places", "rounded"),
    [(0.125, 2, 0.13), (0.145, 2, 0.15), (0.115, 2, 0.12), (2.5, 0, 3), (0.285 - 1e-16, 2, 0.29), (0.284999, 2, 0.28)],
)
def test_halves_go_up_whatever_the_binary_fraction(value: float, places: int, rounded: float) -> None:
    assert half_up(value, places) == rounded


@given(st.integers(0, 10_000))
def test_half_up_is_the_rounding_of_the_decimal(thousandths: int) -> None:
    assert half_up(thousandths / 1000, 2) == (thousandths + 5) // 10 / 100


@pytest.mark.parametrize(
    ("ties", "places"), [("by-code", [75, pd.NA, 25, 50, 100]), ("shared", [50, pd.NA, 25, 50, 100])]
)
def test_percentiles_number_ties_by_code_or_give_them_one_place(ties: Ties, places: list[object]) -> None:
    values = pd.Series([0.2, None, 0.1, 0.2, 0.9])
    codes = pd.Series(["b", "x", "c", "a", "d"])
    assert percentiles(values, codes, ties=ties).tolist() == places


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40), st.sampled_from(["by-code", "shared"]))
def test_percentiles_follow_the_values(values: list[float | None], ties: Ties) -> None:
    frame = pd.DataFrame({"value": pd.Series(values, dtype="float64")})
    frame["code"] = [f"{n:03}" for n in range(len(frame))]
    frame["percentile"] = percentiles(frame["value"], frame["code"], ties=ties)
    done = frame.dropna(subset="value").sort_values(["value", "code"])
    assert (frame["percentile"].isna() == frame["value"].isna()).all()
    # Values that differ beyond twelve places only are ties.
    apart = done["value"].diff().fillna(1) > 1e-11
    assert (done["percentile"].diff().fillna(0)[apart] >= 0).all()


def pay_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "pay.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_user_s_pay_file_is_read_with_gaps(tmp_path: Path) -> None:
    ref = pay_file(
        tmp_path,
        "uk_soc2020,title,employees,median_pay_gbp\n1121,Production manager,479000,\n8160,Operatives of plants,,35092.5\n",
    )
    pay = read_pay(ref, KNOWN)
    assert pay.frame["employees"].tolist() == [479000, pd.NA]
    assert pay.frame["median_pay_gbp"].isna().tolist() == [True, False]
    assert pay.name == "pay.csv"
    assert pay.frame["pay_status"].tolist() == ["median pay: left empty in the file", "jobs: left empty in the file"]
    assert len(pay.sources[0].sha256) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,employees,median_pay_gbp\n1121,1,2\n112,1,2\n", "line 3, column code: '112' is not a group"),
        ("code,employees,median_pay_gbp\n1121,1,2\n1121,1,2\n", "line 3, column code: 1121 is given twice"),
        ("code,employees,median_pay_gbp\n1121,many,2\n", "line 2, column employees: 'many'"),
        ("code,employees,median_pay_gbp\n1121,1.5,2\n", "line 2, column employees: '1.5'"),
        ("code,employees,median_pay_gbp\n1121,1,-2\n", "line 2, column median_pay_gbp: '-2'"),
        ('code,employees,median_pay_gbp\n1121,"479,000",2\n', "write plain digits"),
        ("code,employees,median_pay_gbp\n1121,1,inf\n", "line 2, column median_pay_gbp: 'inf'"),
        ("code,median_pay_gbp\n1121,2\n", "no column 'employees'"),
        ("group,employees,median_pay_gbp\n1121,1,2\n", "no column 'code'"),
        ("", r"pay\.csv is empty; write a first line"),
        ("code,employees,median_pay_gbp\n", "has a header but no row below it; write one line for each group"),
        (
            "code,employees,median_pay_gbp\n1121,479,000,52885\n",
            "line 2 has 4 cells where the header has 3; correct the line",
        ),
        ("code,employees,median_pay_gbp\n1121,479000\n", "line 2 has 2 cells"),
        ("code,employees,employees,median_pay_gbp\n1121,1,2,3\n", "line 1 has the column 'employees' more than once"),
        ("code,employees,median_pay_gbp\n1121,479_000,2\n", "line 2, column employees: '479_000'"),
        ("code,employees,median_pay_gbp\n1121,+5,2\n", "line 2, column employees: '.5'"),
        ("code,employees,median_pay_gbp\n1121,1e5,2\n", "line 2, column employees: '1e5'"),
        ("code,employees,median_pay_gbp\n1121,٤٧٩,2\n", "line 2, column employees"),
        ("code,employees,median_pay_gbp\n1121,99999999999999999999,2\n", "line 2, column employees"),
        ('code,employees,median_pay_gbp\n1121,1,"2\n', "line 2 is not CSV"),
        (
            "code,title,employees,median_pay_gbp\n1121,Plant operatives,30000,20000\n8160,Production managers,40000,30000\n",
            r"the titles of 2 of 2 groups are not those of their codes, such as 'Plant operatives' for 1121 \(Production managers\)",
        ),
    ],
)
def test_a_bad_pay_file_is_refused_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pay(pay_file(tmp_path, text), KNOWN)


def test_unknown_pay_is_a_usage_error_and_a_missing_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown source of pay 'ashe'"):
        read_pay("ashe", KNOWN)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_pay(str(tmp_path / "none.csv"), KNOWN)


def test_the_sample_uses_its_own_bridge_and_pay_and_says_so() -> None:
    table = score_table(open_run("sample"))
    rows = by_code(table.frame)
    assert list(table.frame.columns) == list(COLUMNS)
    assert table.frame["status"].tolist() == ["scored (SAMPLE)"] * 6
    assert table.frame["note"].str.startswith("SAMPLE").all()
    assert (table.pay, table.tasks, table.sample) == ("sample", "sample", True)
    assert rows["1121"]["employees"] == 100_000
    # Its pay is left empty on purpose.
    assert rows["5250"]["wage_exposure_gamma_gbp"] is None
    assert rows["5250"]["alpha"] == rows["8160"]["alpha"]
    occupations = by_code(score_table(open_run("sample"), taxonomy="onet-soc").frame)
    mixed = 0.711 * occupations["15-1252.00"]["alpha"] + 0.289 * occupations["15-1254.00"]["alpha"]
    assert rows["2134"]["alpha"] == pytest.approx(mixed)
    assert {use.file for use in table.sources} >= {"tasks.csv", "bridge.csv", "pay.csv"}


@pytest.mark.parametrize("taxonomy", ["soc2018", "isco08"])
def test_the_sample_has_no_other_bridge(taxonomy: Taxonomy) -> None:
    with pytest.raises(UsageError, match="choose --taxonomy onet-soc or uk-soc2020"):
        score_table(open_run("sample"), taxonomy=taxonomy)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_of_a_csv_runs_as_a_formula(first: str) -> None:
    frame = pd.DataFrame({"title": [f"{first}1+1", "plain"], "alpha": [-0.5, 1.0]})
    rows = list(csv.reader(io.StringIO(csv_bytes(frame).decode("utf-8"), newline="")))
    assert rows[1][0] == f"'{first}1+1".replace("\r", "\n")
    assert rows[1][1] == "-0.5"
    assert rows[2][0] == "plain"


def test_the_three_kinds_of_file_hold_the_same_table(tmp_path: Path) -> None:
    for suffix in ("csv", "json", "parquet"):
        assert run_app(["score", "sample", "--out", str(tmp_path / f"deep/scores.{suffix}")]) == 0
    from_csv = pd.read_csv(tmp_path / "deep/scores.csv", dtype={"code": str})
    document = json.loads((tmp_path / "deep/scores.json").read_text(encoding="utf-8"))
    parquet = pq.read_table(tmp_path / "deep/scores.parquet")
    assert from_csv.columns.tolist() == parquet.column_names == list(COLUMNS)
    assert from_csv["alpha"].tolist() == [row["alpha"] for row in document["rows"]] == parquet["alpha"].to_pylist()
    assert document["counts"]["scored"] == 6
    assert document["rows"][3]["median_pay_gbp"] is None
    assert json.loads((parquet.schema.metadata or {})[b"relabel"])["sample"] is True
    assert not [p for p in (tmp_path / "deep").iterdir() if p.name.startswith(".")]


def test_the_same_run_gives_the_same_bytes() -> None:
    first, second = (score_table(open_run("sample")) for _ in range(2))
    assert json_bytes(table_json(first)) == json_bytes(table_json(second))
    assert csv_bytes(first.frame) == csv_bytes(second.frame)


def test_a_file_that_cannot_be_written_is_a_data_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_app(["score", "sample", "--out", str(tmp_path / "file" / "scores.csv")]) == 3
    assert "cannot write" in capsys.readouterr().err
    assert run_app(["score", "sample", "--out", str(tmp_path / "scores.xlsx")]) == 2
    assert "end the name of --out in .csv, .parquet or .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "row", "jobs", "pounds"),
    [
        ("employees,median_pay_gbp", "479000,52885", 479_000, 52_885),
        ("employees_persons,median_annual_pay_gbp", "12,900", 12, 900),
        ("employees_thousands,median_weekly_pay_gbp", "479,1017", 479_000, 52_884),
        ("Jobs (thousand),median_monthly_pay_gbp", "479.5,4400", 479_500, 52_800),
    ],
)
def test_a_pay_file_declares_its_units_by_its_columns(
    tmp_path: Path, head: str, row: str, jobs: int, pounds: float
) -> None:
    frame = read_pay(pay_file(tmp_path, f"code,{head}\n1121.0,{row}\n"), KNOWN).frame
    assert frame[["code", "employees", "median_pay_gbp"]].to_numpy().tolist() == [["1121", jobs, pounds]]
    assert ("employees_thousands x 1000, median_weekly_pay_gbp x 52" in frame["pay_source"][0]) == ("weekly" in head)


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("employees,median_pay_gbp", "479,52885", "1121: 479 cannot be persons .* 2,000 to 2,000,000 for each group"),
        ("employees,median_pay_gbp", "479000,1017.02", "1121: 1,017 cannot be pounds a year"),
        ("employees,median_pay_gbp", "479000,4400", "1121: 4,400 cannot be pounds a year .*median_monthly_pay_gbp"),
        ("employees,median_pay_gbp", "479000000,52885", "479,000,000 cannot be persons"),
        ("employees,median_pay_gbp", "479000,6500000", "plausible: 10,000 to 200,000"),
        (
            "employees,median_pay_gbp,mean_pay_gbp",
            "479000,52885,4900",
            "mean_pay_gbp: 1121: 4,900 cannot .*mean_weekly",
        ),
        # Declared, and yet impossible.
        ("employees_thousands,median_pay_gbp", "479000,52885", "479,000,000 cannot be persons"),
        ("employees,median_weekly_pay_gbp", "479000,52885", "1121: 2,750,020 cannot be pounds a year"),
        (
            "employees,median_pay_usd",
            "479000,52885",
            "no column 'median_pay_gbp' .* convert other units and currencies",
        ),
        ("employees,Median (€)", "479000,52885", "in €; convert it to pounds a year"),
        ("employees,median_hourly_pay_gbp", "479000,26", "no column 'median_pay_gbp'"),
        ("jobs,employees_thousands,median_pay_gbp", "479,479,52885", "columns jobs and employees_thousands"),
    ],
)
def test_pay_in_other_units_is_refused_with_the_plausible_range(tmp_path: Path, head: str, row: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_pay(pay_file(tmp_path, f"code,{head}\n1121,{row}\n"), KNOWN)


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("column", "codes", "factor", "said"),
    [
        (None, (), 1, ""),
        # In thousands, with one group so large that the largest figure alone would pass.
        ("employees", None, 0.001, "cannot be persons"),
        ("employees", ("2134", "1121"), 0.001, r"1121: \d+, 2134: \d+ cannot be persons"),
        ("median_pay_gbp", ("1121",), 1 / 12, "1121: 4,149 cannot be pounds a year"),
        ("median_pay_gbp", ("9232",), 1 / 12, "9232: 341 cannot be pounds a year"),
        ("median_pay_gbp", ("7111",), 1 / 12, "7111: .* cannot be pounds a year"),
        ("median_pay_gbp", None, 1 / 12, "and 3.. more cannot be pounds a year"),
        ("median_pay_gbp", None, 4.9, "cannot be pounds a year"),
    ],
)
def test_every_row_of_a_pay_file_is_judged_and_the_odd_ones_are_named(
    tmp_path: Path, column: str | None, codes: tuple[str, ...] | None, factor: float, said: str
) -> None:
    frame = read_pay("ons-ashe-2024", {}).frame
    columns = ["code", "employees", "median_pay_gbp"]
    frame = frame[columns].astype({"employees": "float64"})
    if column == "employees" and codes is None:
        frame.loc[frame["code"] == "7111", "employees"] = 1_200_000
    if column is not None:
        rows = frame["code"].isin(codes) if codes else frame["code"].notna()
        frame.loc[rows, column] = (frame.loc[rows, column] * factor).round()
    frame["employees"] = frame["employees"].astype("Int64")
    path = pay_file(tmp_path, frame.to_csv(index=False))
    if said:
        with pytest.raises(DataError, match=said):
            read_pay(path, dict.fromkeys(frame["code"], ""))
    else:
        assert len(read_pay(path, dict.fromkeys(frame["code"], "")).frame) == 412
