"""Crosswalks with a missing, doubled or circular row, and pay with suppressed cells: copies of the real files, altered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from relabel.errors import DataError
from relabel.scoring.bridges import Bridge, make_bridge
from relabel.scoring.pay import read_pay
from relabel.sources import onet, ons
from relabel.sources.fetch import locate_role, sha256_of
from relabel.sources.registry import get_source
from relabel.sources.tables import Rows, read_rows

pytestmark = pytest.mark.mirror

Alter = Callable[..., None]


@pytest.fixture
def alter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alter:
    """Put an altered copy of one sheet into a mirror of the test's own, under the checksum that it then has."""
    real = Path(os.environ["RELABEL_DATA_MIRROR"])
    mirror = tmp_path / "mirror"

    def change(source_id: str, role: str, sheet: str, edit: Callable[[Rows], Rows]) -> None:
        rows = edit(read_rows(locate_role(source_id, role), sheet))
        for folder in real.iterdir():
            if folder.is_dir():
                (mirror / folder.name).mkdir(parents=True)
                for file in folder.iterdir():
                    (mirror / folder.name / file.name).symlink_to(file)
        book = openpyxl.Workbook()
        leaf: Any = book.active
        leaf.title = sheet
        for row in rows:
            leaf.append(row)
        path = mirror / source_id / "altered.xlsx"
        book.save(path)
        source = get_source(source_id).model_dump(mode="json", exclude_none=True, by_alias=True)
        lines = ["[[source]]", *(f"{k} = {json.dumps(v)}" for k, v in source.items() if k != "file")]
        for file in source["file"]:
            if file.get("role") == role:
                about: dict[str, Any] = {"name": path.name, "role": role, "sha256": sha256_of(path)}
            else:
                about = file
            lines += ["[[source.file]]", *(f"{k} = {json.dumps(v)}" for k, v in about.items())]
        (tmp_path / "mine.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.setenv("RELABEL_SOURCES", str(tmp_path / "mine.toml"))
        monkeypatch.setenv("RELABEL_DATA_MIRROR", str(mirror))

    return change


def isco_bridge() -> Bridge:
    return make_bridge("bridge", "isco08", "onet-30.2", pd.DataFrame())


def isco(alter: Alter, edit: Callable[[Rows], Rows]) -> None:
    alter("bls-isco08-soc2010", "crosswalk", "ISCO-08 to 2010 SOC", edit)


def holding(*cells: str) -> Callable[[list[Any]], bool]:
    return lambda row: set(cells) <= {str(cell).strip() for cell in row}


@pytest.mark.slow
def test_a_missing_row_takes_its_link_away_and_the_group_says_so(alter: Alter) -> None:
    listed = set(onet.read_tasks()["onet_soc_code"])
    assert "1321" in set(isco_bridge().shares(listed)["code"])
    gone = holding("1321", "11-3051")
    isco(alter, lambda rows: [row for row in rows if not gone(row)])
    bridge = isco_bridge()
    assert "1321" not in set(bridge.shares(listed)["code"])
    assert bridge.shares(listed).groupby("code")["share"].sum().to_numpy() == pytest.approx(1)


def test_a_doubled_row_is_refused_by_file_and_row(alter: Alter) -> None:
    double = holding("1321", "11-3051")
    isco(alter, lambda rows: [*rows, *(row for row in rows if double(row))])
    with pytest.raises(DataError, match=r"altered\.xlsx.*occurs more than once"):
        isco_bridge()


def test_a_row_without_a_code_is_refused(alter: Alter) -> None:
    first = holding("1321", "11-3051")
    isco(alter, lambda rows: [[None if cell == "11-3051" else cell for cell in r] if first(r) else r for r in rows])
    with pytest.raises(DataError, match=r"altered\.xlsx, column 'soc2010'"):
        isco_bridge()


def test_a_row_that_leads_back_into_its_own_classification_is_refused(alter: Alter) -> None:
    first = holding("1321", "11-3051")
    isco(alter, lambda rows: [["1321" if cell == "11-3051" else cell for cell in r] if first(r) else r for r in rows])
    with pytest.raises(DataError, match=r"altered\.xlsx, column 'soc2010': '1321'"):
        isco_bridge()


def test_rows_in_a_circle_between_two_releases_end_all_the_same(alter: Alter) -> None:
    """11-1011 leads to 11-1021 and 11-1021 to 11-1011: the codes of two classifications, so no way is walked twice."""

    def circle(rows: Rows) -> Rows:
        one, two = (next(r for r in rows if holding(code)(r)) for code in ("11-1011", "11-1021"))
        at = [str(cell).strip() for cell in one]
        second = len(at) - 1 - at[::-1].index("11-1011")
        crossed = [list(one), list(two)]
        crossed[0][second], crossed[1][second] = two[second], one[second]
        return [*rows, *crossed]

    alter("bls-soc2010-soc2018", "crosswalk", "Sorted by 2010", circle)
    listed = set(onet.read_tasks()["onet_soc_code"])
    shares = isco_bridge().shares(listed)
    assert shares.groupby("code")["share"].sum().to_numpy() == pytest.approx(1)
    assert isco_bridge().reach(listed).groupby("code")["share"].sum().max() <= 1 + 1e-9


@pytest.mark.slow
def test_suppressed_cells_of_pay_stay_missing_with_their_reason(alter: Alter) -> None:
    marks = {"1121": "x", "1122": "..", "1123": ":", "1131": "-"}

    def suppress(rows: Rows) -> Rows:
        head = next(row for row in rows if holding("Code", "Median")(row))
        at = [" ".join(str(cell).split()) for cell in head]
        jobs, median = at.index("(thousand)"), at.index("Median")
        out: Rows = []
        for row in rows:
            code = next((str(cell).strip() for cell in row if str(cell).strip() in marks), None)
            new = list(row)
            if code is not None:
                new[jobs] = new[median] = marks[code]
            out.append(new)
        return out

    alter("ons-ashe-2024", "pay", "All", suppress)
    groups = dict.fromkeys(ons.read_unit_groups()["soc2020"], "")
    frame = read_pay("ons-ashe-2024", groups).frame.set_index("code").loc[list(marks)]
    assert frame["employees"].isna().all()
    assert frame["median_pay_gbp"].isna().all()
    reasons = ["withheld as unreliable", "withheld as disclosive", "not applicable", "nil or negligible"]
    assert frame["pay_status"].tolist() == [f"jobs: {why}; median pay: {why}" for why in reasons]
