"""US figures: each code with its own row, with that of a combined code, or with the reason why it has none."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from score_builders import Scored, by_code

from relabel.cli.app import run_app
from relabel.errors import UsageError
from relabel.run import open_run
from relabel.scoring.table import score_table
from relabel.scoring.us import us_figures, with_us_figures
from relabel.sources import bls, onet
from relabel.sources.bls import RATES, match_codes

KNOWN = frozenset({"13-1021", "13-1022", "13-1031", "25-2051", "25-2055", "25-2056", "45-3031"})


@pytest.mark.parametrize(
    ("rows", "code", "expected"),
    [
        ({"13-1031": "Adjusters"}, "13-1031", ("13-1031", "figures of SOC 13-1031")),
        ({"13-1020": "Buyers"}, "13-1022", ("13-1020", "combined code 13-1020 (Buyers) for 13-1021, 13-1022 together")),
        (
            {"25-2051": "Preschool", "25-2052": "Early"},
            "25-2055",
            ("25-2052", "combined code 25-2052 (Early) for 25-2055, 25-2056 together"),
        ),
        ({"13-1020": "Buyers", "13-1022": "Retail"}, "13-1022", ("13-1022", "figures of SOC 13-1022")),
        ({"13-1020": "Buyers", "13-1029": "Others"}, "13-1021", None),
        ({"13-1020": "Buyers"}, "45-3031", None),
        ({}, "45-3031", None),
    ],
)
def test_a_code_takes_its_own_row_or_the_only_combined_one_of_its_broad_group(
    rows: dict[str, str], code: str, expected: tuple[str, str] | None
) -> None:
    assert match_codes([code], rows, KNOWN).get(code) == expected


@pytest.fixture(scope="module")
def soc() -> pd.DataFrame:
    return us_figures(sorted(set(onet.read_onet_to_soc2018()["soc2018"])))


@pytest.fixture(scope="module")
def detailed() -> pd.DataFrame:
    return us_figures(list(onet.read_onet_to_soc2018()["onet_soc_code"]))


@pytest.mark.mirror
def test_the_48_and_47_codes_without_a_row_of_their_own_are_marked(soc: pd.DataFrame) -> None:
    assert len(soc) == 867
    for status, combined, none in (
        ("wage_status", 28, 20),
        ("wage_status_2023", 28, 20),
        ("projection_status", 28, 19),
    ):
        said = soc[status].str.split().str[0].value_counts()
        assert said["combined"] == combined
        assert said["none:"] == none
        assert said["figures"] == 867 - combined - none
    military = soc["soc2018"].str.startswith("55-")
    assert soc.loc[military, "wage_status"].str.contains("armed forces").all()
    assert soc.set_index("code").at["45-3031", "projection_status"] == "figures of SOC 45-3031"


@pytest.mark.mirror
def test_jobs_are_counted_once_however_the_codes_share_them(soc: pd.DataFrame, detailed: pd.DataFrame) -> None:
    wages = bls.read_wages("bls-oews-2024")
    total = wages.loc[wages["group"] == "detailed", "employment"].sum()
    outlook = bls.read_projections()
    jobs = 1000 * outlook.loc[outlook["kind"] == "line-item", "employment_2024_thousands"].sum()
    for frame in (soc, detailed):
        assert (frame["employment_us"] / frame["wage_shared_by"]).sum() == pytest.approx(total, abs=1)
        assert (frame["projected_employment_2024"] / frame["projection_shared_by"]).sum() == pytest.approx(jobs, abs=1)
    assert detailed["employment_us"].sum() > 1.2 * total  # what a plain sum would claim


@pytest.mark.mirror
def test_the_medians_of_may_2023_are_those_that_are_published(soc: pd.DataFrame) -> None:
    medians = soc.set_index("code")["median_wage_usd_2023"]
    codes = ["51-4192", "51-4111", "51-4121", "51-4194", "51-4122"]
    assert [int(medians[code]) for code in codes] == [62270, 61490, 48940, 46410, 45350]
    row = by_code(soc)["51-4192"]
    assert (row["wage_source"], row["wage_source_2023"]) == ("OEWS May 2024", "OEWS May 2023")


@pytest.mark.mirror
def test_a_capped_wage_stays_missing_with_its_bound_and_an_hourly_one_with_its_reason(soc: pd.DataFrame) -> None:
    rows = by_code(soc)
    chiefs, actors, surgeons = rows["11-1011"], rows["27-2011"], rows["29-1243"]
    assert (chiefs["p75_wage_usd"], chiefs["wage_cap_usd"], chiefs["capped_wages"]) == (None, 239200, "p75 p90")
    assert chiefs["median_wage_usd"] == 206420
    assert chiefs["wage_status"].endswith("p75, p90 published only as at least 239,200")
    assert all(actors[f"{rate}_wage_usd"] is None for rate in RATES)
    assert actors["wage_cap_usd"] is None
    assert actors["wage_status"].endswith("the publisher gives hourly pay only")
    assert actors["employment_us"] > 0
    assert surgeons["capped_wages"] == "p25 median p75 p90"
    capped = soc["capped_wages"].notna()
    assert (soc["wage_cap_usd"].notna() == capped).all()
    for rate in RATES:
        named = (
            soc["capped_wages"].str.split().apply(lambda words, rate=rate: isinstance(words, list) and rate in words)
        )
        assert soc.loc[named, f"{rate}_wage_usd"].isna().all()


@pytest.mark.mirror
def test_projections_are_those_of_the_workbook(soc: pd.DataFrame) -> None:
    row = by_code(soc)["51-4111"]
    assert (row["projected_employment_2024"], row["projected_employment_2034"]) == (55200, 49300)
    assert row["projected_change_percent"] == -10.8
    # The publisher's `None` says that nothing is needed; a program that reads the table must not take it for a gap.
    assert (row["experience"], by_code(soc)["11-1011"]["training"]) == ("none needed", "none needed")
    assert not soc[["education", "experience", "training"]].isin(["None"]).any(axis=None)


@pytest.mark.mirror
def test_a_score_table_keeps_its_columns_and_gets_those_of_the_bls(scored: Scored) -> None:
    for taxonomy, rows in (("onet-soc", 1016), ("soc2018", 867)):
        plain = scored(taxonomy=taxonomy)
        table = with_us_figures(plain)
        assert len(table.frame) == len(plain.frame) == rows
        assert list(table.frame.columns)[: len(plain.frame.columns)] == list(plain.frame.columns)
        assert {"bls-oews-2023", "bls-oews-2024", "bls-ep-2024-34"} <= {use.source for use in table.sources}
    with pytest.raises(UsageError, match="onet-soc and soc2018 only, not for other classifications"):
        with_us_figures(scored(taxonomy="isco08"))


def test_the_sample_says_nothing_about_us_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    table = score_table(open_run("sample"), taxonomy="onet-soc")
    with pytest.raises(UsageError, match="and the invented sample"):
        with_us_figures(table)
    assert run_app(["score", "sample", "--taxonomy", "onet-soc"]) == 0
    capsys.readouterr()


@pytest.mark.mirror
def test_the_command_adds_us_figures_unless_told_not_to(tmp_path: Path) -> None:
    for extra, there in (([], True), (["--no-us"], False)):
        out = tmp_path / f"{there}.csv"
        words = ["score", "eloundou-2023:gpt4", "--taxonomy", "soc2018", "--out", str(out), *extra]
        assert run_app(words) == 0
        with out.open(encoding="utf-8") as file:
            rows = {row["code"]: row for row in csv.DictReader(file)}
        assert ("employment_us" in rows["51-4111"]) is there
    assert run_app(["score", "eloundou-2023:gpt4", "--us"]) == 2


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave sources out of the mirror, and say of one that it is fetched by hand, so that nothing asks the network."""

    def leave_out(*sources: str, by_hand: str = "") -> None:
        mirror = tmp_path / "mirror"
        mirror.mkdir()
        for folder in Path(os.environ["RELABEL_DATA_MIRROR"]).iterdir():
            if folder.is_dir() and folder.name not in sources:
                (mirror / folder.name).symlink_to(folder.resolve())
        monkeypatch.setenv("RELABEL_DATA_MIRROR", str(mirror))
        if by_hand:
            about = "".join(f'{key} = "x"\n' for key in ("title", "publisher", "release", "licence", "citation"))
            registry = tmp_path / "own.toml"
            registry.write_text(
                f'[[source]]\nid = "{by_hand}"\n{about}homepage = "https://example.org"\n'
                '[[source.file]]\nname = "pay.xlsx"\nrole = "wages"\ndownload = "page"\nurl = "https://example.org/pay"\n'
            )
            monkeypatch.setenv("RELABEL_SOURCES", str(registry))

    return leave_out


BY_HAND = ("onet-taxonomy", "ons-soc2020", "ons-ashe-2024", "ons-ashe-2025-medians", "relabels-2026")


@pytest.mark.mirror
def test_scores_by_onet_code_and_job_families_need_no_file_that_is_fetched_by_hand(
    without: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without(*BY_HAND)
    out = tmp_path / "scores.csv"
    assert run_app(["score", "eloundou-2023:gpt4", "--taxonomy", "onet-soc", "--out", str(out)]) == 0
    assert "employment_us" in out.read_text(encoding="utf-8").partition("\n")[0]
    assert run_app(["resilience", "eloundou-2023:gpt4"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"written: {out}"
    assert run_app(["score", "eloundou-2023:gpt4"]) == 3
    said = capsys.readouterr().err
    assert (
        "2019_to_SOC_Crosswalk.xlsx cannot be fetched automatically: get it by hand, see https://www.onetcenter.org"
        in said
    )
    assert "or score by O*NET code, which does not need it: --taxonomy onet-soc" in said
    export = ["export", "eloundou-2023:gpt4", "--draws", "0", "--out", str(tmp_path / "export")]
    assert run_app(export) == 3
    assert "which does not need it: --taxonomy onet-soc" in capsys.readouterr().err
    moved = ["compare", "eloundou-2023:gpt4", "eloundou-2023:human", "--scores"]
    by_code = ["--before", "taxonomy=onet-soc", "--after", "taxonomy=onet-soc"]
    assert run_app(moved) == 3
    assert f"which does not need it: {' '.join(by_code)}" in capsys.readouterr().err
    assert run_app([*moved, *by_code]) == 0


@pytest.mark.mirror
def test_without_a_file_of_the_bls_the_us_columns_are_left_out_and_said_so_unless_they_were_asked_for(
    without: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("bls-oews-2024", by_hand="bls-oews-2024")
    out = tmp_path / "scores.csv"
    words = ["score", "eloundou-2023:gpt4", "--taxonomy", "onet-soc", "--out", str(out)]
    assert run_app(words) == 0
    assert "employment_us" not in out.read_text(encoding="utf-8").partition("\n")[0]
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("scored without US columns: bls-oews-2024/pay.xlsx")
    assert "https://example.org/pay" in said
    assert run_app([*words, "--us"]) == 3
    assert "bls-oews-2024/pay.xlsx" in capsys.readouterr().err
    export = ["export", "eloundou-2023:gpt4", "--taxonomy", "onet-soc", "--draws", "0", "--out", str(tmp_path / "e")]
    assert run_app(export) == 3
    assert "or use --no-families" in capsys.readouterr().err


@pytest.mark.mirror
def test_a_damaged_file_of_the_bls_is_an_error_even_where_nobody_asked_for_it(
    without: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("bls-oews-2024")
    damaged = tmp_path / "mirror" / "bls-oews-2024" / "national_M2024_dl.xlsx"
    damaged.parent.mkdir()
    damaged.write_bytes(b"cut short")
    assert run_app(["score", "eloundou-2023:gpt4", "--taxonomy", "onet-soc"]) == 3
    assert "national_M2024_dl.xlsx" in capsys.readouterr().err


@pytest.mark.mirror
def test_both_crosswalks_name_the_same_codes_of_soc_2018() -> None:
    # The figures take them from the one that can be fetched.
    assert set(bls.read_soc2010_soc2018()["soc2018"]) == set(onet.read_onet_to_soc2018()["soc2018"])
