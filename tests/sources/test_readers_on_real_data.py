"""Counts and figures of the real files; they change when a release or a reader does."""

from __future__ import annotations

import pandas as pd
import pytest

from relabel.sources import bls, eloundou, onet, ons

pytestmark = pytest.mark.mirror


def counts(series: pd.Series) -> dict[str, int]:
    return {str(key): int(count) for key, count in series.value_counts().items()}


def test_onet_tasks_have_string_ids_and_gaps_where_nothing_is_known(tasks: pd.DataFrame) -> None:
    assert list(tasks.columns) == ["task_id", "onet_soc_code", "title", "text", "task_type", "importance"]
    assert len(tasks) == 18_796
    assert tasks["onet_soc_code"].nunique() == 923
    assert tasks["task_id"].str.fullmatch(r"\d+").all()
    assert counts(tasks["task_type"]) == {"Core": 13_643, "Supplemental": 4_308}
    assert tasks["importance"].notna().sum() == 17_951
    assert tasks.loc[tasks["importance"].isna(), "task_type"].isna().all()
    first = tasks.iloc[0]
    assert (first["task_id"], first["title"], first["importance"]) == ("8823", "Chief Executives", 4.52)


def test_quotes_in_onet_texts_are_plain_characters(tasks: pd.DataFrame) -> None:
    text = tasks.loc[tasks["task_id"] == "15287", "text"].item()

    assert text == 'Conduct "head counts" to help predict the outcome of upcoming votes.'


def test_a_release_without_ratings_has_no_importance() -> None:
    tasks = onet.read_tasks("onet-29.1")

    assert len(tasks) == 18_796
    assert counts(tasks["task_type"]) == {"Core": 13_417, "Supplemental": 4_222}
    assert tasks["importance"].isna().all()


@pytest.mark.parametrize(("release", "rows"), [("onet-30.2", 328), ("onet-29.1", 240)])
def test_emerging_tasks_are_counted(release: str, rows: int) -> None:
    assert onet.count_emerging_tasks(release) == rows


def test_onet_side_tables_have_their_rows() -> None:
    assert len(onet.read_occupations()) == 1_016
    assert counts(onet.read_job_zones()["job_zone"]) == {"2": 331, "4": 225, "3": 213, "5": 154}
    activities = onet.read_dwas()
    assert len(activities) == 23_850
    assert activities["dwa_title"].notna().all()


def test_taxonomy_crosswalks_cover_every_code() -> None:
    to_soc = onet.read_onet_to_soc2018()
    assert len(to_soc) == 1_016
    # An O*NET-SOC 2019 code is its SOC 2018 code with a suffix.
    assert (to_soc["onet_soc_code"].str[:7] == to_soc["soc2018"]).all()


def test_the_2023_labels_are_the_published_ones(labels: pd.DataFrame) -> None:
    assert len(labels) == 19_265
    assert labels["task_id"].is_unique
    assert not labels["task_id"].str.contains(".", regex=False).any()
    assert counts(labels["gpt4"]) == {"E0": 8_561, "E2": 8_002, "E1": 2_702}
    assert counts(labels["gpt4_alt"]) == {"E0": 11_230, "E2": 5_713, "E1": 2_322}
    assert counts(labels["human"]) == {"E0": 10_256, "E2": 6_147, "E1": 2_862}
    assert labels["task_type"].isna().sum() == 1_312
    assert round(float((labels["gpt4"] == labels["human"]).mean()), 4) == 0.6564


def test_the_2023_labels_join_with_the_current_tasks(labels: pd.DataFrame, tasks: pd.DataFrame) -> None:
    both = labels.merge(tasks, on=["task_id", "onet_soc_code"])

    assert len(both) > 17_000


def test_occupation_scores_follow_from_the_labels(labels: pd.DataFrame) -> None:
    published = eloundou.read_occupations().set_index("onet_soc_code")
    weight = labels["task_type"].eq("Core") + 1.0
    exposed = weight * labels["gpt4"].eq("E1")
    rebuilt = exposed.groupby(labels["onet_soc_code"]).sum() / weight.groupby(labels["onet_soc_code"]).sum()

    assert len(published) == 923
    assert float((published["gpt4_alpha"] - rebuilt).abs().max()) < 1e-12


def test_automation_labels_have_a_hundred_human_ones() -> None:
    automation = eloundou.read_automation()

    assert len(automation) == 19_265
    assert counts(automation["human"]) == {"T1": 28, "T2": 26, "T0": 25, "T3": 17, "T4": 4}


def test_isco_crosswalk_codes_are_clean() -> None:
    crosswalk = bls.read_isco08_soc2010()

    assert len(crosswalk) == 1_125
    assert crosswalk["isco08"].iloc[0] == "0110"
    assert sorted(crosswalk.loc[crosswalk["isco08"].str.len() == 3, "isco08"]) == ["211", "315"]


def test_soc_crosswalk_titles_carry_no_marks() -> None:
    crosswalk = bls.read_soc2010_soc2018()

    assert len(crosswalk) == 900
    assert (crosswalk["soc2010"].nunique(), crosswalk["soc2018"].nunique()) == (840, 867)
    assert not crosswalk["soc2018_title"].str.contains("#").any()


def test_projections_keep_the_word_none() -> None:
    projections = bls.read_projections()

    assert counts(projections["kind"]) == {"line-item": 832, "summary": 281}
    total = projections.set_index("soc2018").loc["00-0000"]
    assert (total["employment_2024_thousands"], total["employment_2034_thousands"]) == (169_956.1, 175_167.9)
    assert counts(projections["training"])["None"] == 322
    assert projections["training"].isna().sum() == 281


def test_wages_flag_what_is_not_published(wages: pd.DataFrame) -> None:
    assert counts(wages["group"]) == {"detailed": 831, "broad": 455, "minor": 94, "major": 22, "total": 1}
    assert counts(wages["annual_median_flag"]) == {"top-coded": 19, "not-available": 7}
    assert wages["annual_median_usd"].isna().sum() == 26
    assert wages.set_index("group").loc["total", "employment"] == 154_187_380
    assert wages["hourly_only"].sum() == 7


def test_the_wages_of_the_year_before_read_the_same() -> None:
    assert bls.read_wages("bls-oews-2023").set_index("group").loc["total", "annual_median_usd"] == 48_060


def test_the_coding_index_keeps_every_row_and_leaves_references_uncoded(coding_index: pd.DataFrame) -> None:
    assert len(coding_index) == 32_376
    assert coding_index["soc2020"].isna().sum() == 231
    assert coding_index["isco08"].isna().sum() == 234
    assert coding_index["soc2020"].nunique() == 412
    assert coding_index["isco08"].dropna().min() == "0110"


def test_unit_groups_are_those_of_the_coding_index(coding_index: pd.DataFrame) -> None:
    groups = ons.read_unit_groups()

    assert len(groups) == 412
    assert set(groups["soc2020"]) == set(coding_index["soc2020"].dropna())
    assert groups["job_titles"].iloc[0].splitlines()[0] == "Chairman"
    assert counts(ons.read_groups()["level"]) == {"unit": 412, "minor": 104, "sub-major": 26, "major": 9}


def test_ashe_counts_jobs_in_persons_and_pay_in_pounds(ashe: pd.DataFrame) -> None:
    assert counts(ashe["level"])["unit"] == 412
    makers = ashe.set_index("code").loc["1121"]
    assert (makers["jobs"], makers["median_pay_gbp"], makers["mean_pay_gbp"]) == (535_000, 49_791, 62_822)
    assert (makers["median_cv"], makers["median_quality"]) == (2.7, "precise")
    total = ashe[ashe["level"] == "all"].iloc[0]
    assert (total["jobs"], total["median_pay_gbp"]) == (23_385_000, 31_602)


def test_ashe_says_why_a_figure_is_missing(ashe: pd.DataFrame) -> None:
    assert counts(ashe["jobs_flag"]) == {"unreliable": 82, "not-applicable": 3, "disclosive": 2}
    for value, stem in (("jobs", "jobs"), ("median_pay_gbp", "median"), ("mean_pay_gbp", "mean")):
        assert ashe[value].isna().tolist() == ashe[f"{stem}_flag"].notna().tolist()
    (elected,) = ashe[ashe["code"] == "1112"].to_dict("records")
    assert (elected["jobs"], pd.isna(elected["median_pay_gbp"])) == (9_000, True)
    assert (elected["median_cv"], elected["median_quality"]) == (35, "unreliable")


def test_ashe_quality_words_agree_with_what_is_withheld(ashe: pd.DataFrame) -> None:
    shown = ashe[ashe["median_pay_gbp"].notna()]

    assert "unreliable" not in set(shown["median_quality"])
    assert counts(ashe["median_quality"]) == {
        "precise": 244,
        "reasonably precise": 159,
        "acceptable": 83,
        "unreliable": 51,
    }


def test_quartiles_of_2025_have_gaps_where_withheld() -> None:
    quartiles = ons.read_ashe_medians()

    assert len(quartiles) == 412
    assert quartiles["median_pay_gbp"].isna().sum() == 49
    assert quartiles.set_index("soc2020").loc["1121", "median_pay_gbp"] == 52_885
