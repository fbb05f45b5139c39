"""The published figures, from the real data."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from score_builders import Scored, by_code

from relabel.errors import UsageError
from relabel.run import open_run
from relabel.scoring.bridges import index_entries, most_frequent, us_jobs
from relabel.scoring.table import score_table
from relabel.sources import bls, eloundou, onet, ons
from relabel.sources.registry import get_source, load_registry

pytestmark = pytest.mark.mirror

MIRROR = os.environ.get("RELABEL_DATA_MIRROR", "")
IT_PROFESSIONALS = ["2133", "2134", "2135", "2136", "2137"]


@pytest.mark.slow
def test_site_method_scores_379_of_412_groups(scored: Scored) -> None:
    table = scored(method="site-2026")
    assert (table.scored, len(table.frame)) == (379, 412)


@pytest.mark.parametrize(
    ("code", "strict", "with_tools", "percentile"),
    [("1121", 0.7, 7.3, 32), ("8160", 1.5, 6.4, 71), ("8149", 1.8, 2.8, 79)],
)
def test_site_method_repeats_the_published_pages(
    scored: Scored, code: str, strict: float, with_tools: float, percentile: int
) -> None:
    page = by_code(scored(method="site-2026").frame)[code]
    assert (page["strict_10"], page["with_tools_10"]) == (strict, with_tools)
    assert page["percentile_alpha"] == percentile


def test_site_method_repeats_the_published_wage_exposure(scored: Scored, tmp_path: Path) -> None:
    file = tmp_path / "pay.csv"
    file.write_text("code,employees,median_pay_gbp\n1121,479000,52885\n8160,24000,35092\n")
    frame = scored(method="site-2026", pay=str(file)).frame
    production, assembly = by_code(frame)["1121"], by_code(frame)["8160"]
    assert round(production["wage_exposure_alpha_gbp"] / 1e9, 2) == 1.77
    assert round(production["wage_exposure_gamma_gbp"] / 1e9, 2) == 18.49
    assert round(assembly["wage_exposure_alpha_gbp"] / 1e6) == 126
    assert round(assembly["wage_exposure_gamma_gbp"] / 1e6) == 539
    others = frame[~frame["code"].isin(["1121", "8160"])]
    assert (others["pay_status"] == "jobs and median pay: no row in pay.csv").all()
    assert others["employees"].isna().all()
    assert others["wage_exposure_alpha_gbp"].isna().all()


def test_site_method_publishes_rounded_shares(scored: Scored) -> None:
    frame = scored(method="site-2026").frame.dropna(subset="alpha")
    for measure in ("alpha", "beta", "gamma"):
        assert (frame[measure] == frame[measure].round(2)).all()
    assert ((10 * frame["alpha"]).round(1) == frame["strict_10"]).all()


def test_site_method_leaves_it_professionals_unscored_and_bridge_scores_them(scored: Scored) -> None:
    site = scored(method="site-2026").frame.set_index("code").loc[IT_PROFESSIONALS]
    bridge = scored().frame.set_index("code").loc[IT_PROFESSIONALS]
    assert site["alpha"].isna().all()
    assert site["status"].str.contains("SOC 2010 codes are read as SOC 2018").all()
    assert bridge["alpha"].notna().all()
    assert (bridge["status"] == "scored").all()


def test_the_site_s_table_is_the_same_to_the_last_figure(scored: Scored) -> None:
    frame = scored(method="site-2026").frame[["code", "alpha", "gamma", "percentile_alpha", "percentile_gamma"]]
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.2f")
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "4eca70cdc746c1d045a694b7f60164757b1f6b904c6a8f1a2dcf21a2bed8b78c"
    )


def test_a_release_with_tasks_that_were_never_labelled_is_partial_and_says_so(scored: Scored) -> None:
    for method in ("site-2026", "bridge"):
        table = scored(method=method)
        counts = table.describe()["counts"]
        assert (counts["tasks_labelled"], counts["tasks_listed"], counts["labels_unmatched"]) == (18_739, 18_796, 526)
        assert (table.partial, table.note) == (True, "PARTIAL: rests on 18,739 of 18,796 tasks")
    assert scored(method="site-2026").thin == 0


def test_changes_between_the_labelled_list_and_the_release_are_counted(scored: Scored) -> None:
    counts = scored().describe()["counts"]
    assert {name: counts[name] for name in ("tasks_new", "tasks_reworded", "tasks_emerging", "tasks_unrated")} == {
        "tasks_new": 57,
        "tasks_reworded": 58,
        "tasks_emerging": 328,
        "tasks_unrated": 845,
    }
    own = scored(taxonomy="onet-soc", weights="core").describe()["counts"]
    assert (own["tasks_new"], own["tasks_reworded"], own["tasks_emerging"]) == (0, 0, None)


@pytest.mark.parametrize("unrated", ["one", "mean", "drop"])
def test_each_rule_for_unrated_tasks_keeps_the_order_of_measures(scored: Scored, unrated: str) -> None:
    table = scored(unrated=unrated)
    assert table.unrated == unrated
    done = table.frame.dropna(subset="alpha")
    assert ((done["alpha"] <= done["beta"]) & (done["beta"] <= done["gamma"])).all()
    assert done[["alpha", "gamma"]].to_numpy().max() <= 1
    assert (table.task_values["weight"] == 0).sum() == (845 if unrated == "drop" else 0)


def test_totals_say_how_much_of_the_workforce_they_cover(scored: Scored) -> None:
    table = scored()
    totals = table.describe()["totals"]
    paid = table.frame.dropna(subset=["alpha", "employees", "median_pay_gbp"]).query("status == 'scored'")
    assert (totals["groups"], totals["employees"], totals["workforce"]) == (311, 22_678_000, 23_385_000)
    assert totals["coverage"] == pytest.approx(22_678 / 23_385)
    assert len(paid) == 311
    for measure in ("alpha", "beta", "gamma"):
        whole = (paid[measure] * paid["employees"].astype(float) * paid["median_pay_gbp"]).sum()
        assert totals[f"wage_exposure_{measure}_gbp"] == pytest.approx(whole)
    # Five of the groups have no mean pay: their jobs x mean pay is unknown, and not that of the other 306.
    assert paid["mean_pay_gbp"].isna().sum() == 5
    assert totals["pay_at_median_gbp"] == (paid["employees"].astype(float) * paid["median_pay_gbp"]).sum()
    assert totals["pay_at_mean_gbp"] is None
    assert scored(taxonomy="soc2018").describe()["totals"] is None


def test_pay_carries_the_publisher_s_error_and_word_for_it(scored: Scored) -> None:
    older, newer = (by_code(scored(pay=pay).frame) for pay in ("ons-ashe-2024", "ons-ashe-2025-medians"))
    assert (older["1121"]["median_pay_cv"], older["1121"]["median_pay_quality"]) == (2.7, "precise")
    assert older["1135"]["employees"] is None
    assert (older["1135"]["employees_cv"], older["1135"]["employees_quality"]) == (60.4, "unreliable")
    # The extract of 2025 gives none for its medians; the jobs are those of 2024.
    assert (newer["1121"]["median_pay_cv"], newer["1121"]["median_pay_quality"]) == (None, None)
    assert newer["1121"]["employees_cv"] == older["1121"]["employees_cv"]


def test_bridge_scores_all_groups_but_three_and_says_why(scored: Scored) -> None:
    table = scored()
    assert (table.scored, table.thin, len(table.frame)) == (409, 2, 412)
    statuses = {row["code"]: row["status"] for row in by_code(table.frame).values() if row["status"] != "scored"}
    assert sorted(statuses) == ["1161", "3311", "9222"]
    assert statuses["1161"].startswith("unscored: no task statements for O*NET-SOC 2019 55-1011.00")
    assert statuses["9222"] == (
        "thin: borrowed from the other occupations of the same broad group of US SOC, because no task statements for "
        "O*NET-SOC 2019 37-3019.00"
    )


def test_street_cleaners_borrow_from_the_grounds_workers_and_count_as_uncovered(scored: Scored) -> None:
    """Sweepers (ISCO-08 9613) lie wholly in SOC 37-3019, a residual of grounds maintenance that O*NET does not survey."""
    table = scored()
    shares = table.shares[table.shares["code"] == "9222"]
    assert set(shares["onet_soc_code"].str[:6]) == {"37-301"}
    assert shares["share"].sum() == pytest.approx(1)
    row = by_code(table.frame)["9222"]
    assert (row["coverage"], row["percentile_alpha"], row["percentile_gamma"]) == (0.0, None, None)
    assert 0 < row["alpha"] < row["gamma"] < 0.1


@pytest.mark.parametrize("links", ["equal", "employment", "index"])
def test_each_way_to_weigh_links_keeps_shares_and_the_order_of_measures(scored: Scored, links: str) -> None:
    table = scored(links=links)
    assert table.links == links
    assert table.shares.groupby("code")["share"].sum().to_numpy() == pytest.approx(1)
    done = table.frame.dropna(subset="alpha")
    assert len(done) == 411
    assert done[["alpha", "beta", "gamma"]].to_numpy().min() >= 0
    assert done[["alpha", "beta", "gamma"]].to_numpy().max() <= 1
    assert ((done["alpha"] <= done["beta"]) & (done["beta"] <= done["gamma"])).all()


def test_links_change_scores_and_index_entries_are_the_default(scored: Scored) -> None:
    gamma = {links: scored(links=links).frame["gamma"] for links in ("equal", "employment", "index")}
    assert scored().links == "index"
    assert not gamma["index"].equals(gamma["equal"])
    assert not gamma["index"].equals(gamma["employment"])
    assert {use.source for use in scored(links="employment").sources} >= {"bls-oews-2024"}
    assert "bls-oews-2024" not in {use.source for use in scored().sources}


def test_jobs_of_combined_codes_are_split_and_no_job_is_lost() -> None:
    codes = set(onet.read_onet_to_soc2018()["soc2018"])
    jobs = us_jobs(codes, "bls-oews-2024")
    wages = bls.read_wages()
    detailed = wages[wages["group"] == "detailed"].set_index("soc2018")["employment"]
    assert len(jobs) == 867
    buyers = jobs[["13-1021", "13-1022", "13-1023"]]
    assert buyers.tolist() == pytest.approx([detailed["13-1020"] / 3] * 3)
    assert jobs[["31-1121", "31-1122"]].sum() == pytest.approx(detailed["31-1120"])
    assert jobs["15-1252"] == detailed["15-1252"]
    uncovered = sorted(code for code in jobs.index if code.startswith("55-") or code == "45-3031")
    assert len(uncovered) == 20
    assert set(jobs[uncovered]) == {detailed.min()}
    assert jobs.drop(uncovered).sum() == pytest.approx(detailed.sum())


def test_the_armed_forces_are_not_scored_as_engineering_technicians(scored: Scored) -> None:
    table = scored()
    shares = table.shares[table.shares["code"] == "3311"]
    assert not shares["onet_soc_code"].str.startswith("17-3029").any()
    row = by_code(table.frame)["3311"]
    assert row["status"] == (
        "thin: 1.8% of the group's task weight has labels, because only 1.8% of what is linked to it has task statements"
    )
    assert (row["percentile_alpha"], row["percentile_gamma"]) == (None, None)
    step = next(step for step in table.bridge.steps if step.target == "soc2010")
    military = step.links["target"].str.startswith("55-")
    assert step.links.loc[military, "source"].str.startswith("55-").all()
    assert "55-" in step.note


def test_percentiles_are_positions_counted_from_one(scored: Scored) -> None:
    frame = scored().frame
    done = frame[frame["status"] == "scored"]
    for measure in ("alpha", "gamma"):
        for value, place in zip(done[measure].round(12), done[f"percentile_{measure}"], strict=True):
            below = int((done[measure].round(12) < value).sum())
            assert place == int(100 * (below + 1) / 409 + 0.5)
    assert frame.loc[frame["status"] != "scored", ["percentile_alpha", "percentile_gamma"]].isna().all().all()


@pytest.mark.parametrize("method", ["site-2026", "bridge"])
def test_every_group_has_a_status_and_measures_keep_their_order(scored: Scored, method: str) -> None:
    frame = scored(method=method).frame
    assert len(frame) == 412
    assert frame["code"].is_monotonic_increasing
    assert (frame["status"].str.match("scored$|thin: ") == frame["alpha"].notna()).all()
    assert frame.loc[frame["alpha"].isna(), "status"].str.startswith("unscored: ").all()
    done = frame.dropna(subset="alpha")
    assert (done["alpha"] <= done["beta"]).all()
    assert (done["beta"] <= done["gamma"]).all()
    assert (done["tasks"] > 0).all()
    assert done["coverage"].between(0, 1).all()
    assert (done.loc[done["status"] == "scored", "coverage"] >= 0.5).all() or method == "site-2026"
    assert done.loc[done["status"] == "scored", "percentile_alpha"].between(0, 100).all()


def test_bridge_tells_apart_groups_that_shared_one_isco_code(scored: Scored) -> None:
    site = scored(method="site-2026").frame.dropna(subset="alpha")
    bridge = scored().frame.dropna(subset="alpha")
    sharing = [frame.duplicated(["alpha", "beta", "gamma"], keep=False).sum() for frame in (site, bridge)]
    assert sharing == [234, 34]


def test_shares_of_a_group_sum_to_one_and_never_exceed_what_is_linked(scored: Scored) -> None:
    table = scored()
    sums = table.shares.groupby("code")["share"].sum()
    assert sums.to_numpy() == pytest.approx(1)
    reach = table.bridge.reach(table.occupations.index).groupby("code")["share"].sum()
    assert (reach <= 1 + 1e-12).all()


@pytest.mark.parametrize("who", ["gpt4", "human"])
def test_core_weights_rebuild_the_paper_s_occupation_scores(scored: Scored, who: str) -> None:
    table = scored(f"eloundou-2023:{who}", taxonomy="onet-soc", weights="core", tasks="eloundou-2023")
    published = eloundou.read_occupations().set_index("onet_soc_code")
    frame = table.frame.set_index("code")
    assert (table.scored, len(frame)) == (923, 923)
    for measure in ("alpha", "beta", "gamma"):
        difference = (frame[measure] - published[f"{who}_{measure}"]).abs()
        assert len(difference) == 923
        assert difference.max() < 1e-9


@pytest.mark.slow
def test_core_weights_take_the_labels_own_list_unasked(scored: Scored) -> None:
    assert scored(taxonomy="onet-soc", weights="core").tasks == "eloundou-2023"
    assert scored(taxonomy="onet-soc", weights="equal").tasks == "onet-30.2"
    for taxonomy in ("soc2018", "isco08", "uk-soc2020"):
        assert scored(taxonomy=taxonomy, weights="core").tasks == "onet-30.2"


def test_a_list_without_ratings_refuses_importance_weights(scored: Scored) -> None:
    with pytest.raises(UsageError, match="choose other --weights, such as equal, or --tasks onet-30"):
        scored(tasks="eloundou-2023")


@pytest.mark.parametrize(
    ("taxonomy", "rows", "scored_rows", "thin_rows"),
    [("onet-soc", 1016, 923, 0), ("soc2018", 867, 798, 0), ("isco08", 436, 423, 9)],
)
def test_other_taxonomies_list_every_code(
    scored: Scored, taxonomy: str, rows: int, scored_rows: int, thin_rows: int
) -> None:
    table = scored(taxonomy=taxonomy)
    assert (len(table.frame), table.scored, table.thin) == (rows, scored_rows, thin_rows)
    assert table.pay is None
    assert table.frame["median_pay_gbp"].isna().all()


def test_pay_is_refused_where_there_is_none(scored: Scored) -> None:
    with pytest.raises(UsageError, match="uk-soc2020 only"):
        scored(taxonomy="soc2018", pay="ons-ashe-2024")


def test_suppressed_pay_stays_missing(scored: Scored) -> None:
    frame = scored().frame
    suppressed = frame[frame["median_pay_gbp"].isna() | frame["employees"].isna()]
    assert len(suppressed) > 0
    assert suppressed[["wage_exposure_alpha_gbp", "wage_exposure_gamma_gbp"]].isna().all().all()
    assert (len(suppressed), frame["employees"].isna().sum(), frame["median_pay_gbp"].isna().sum()) == (100, 85, 54)
    assert suppressed["pay_status"].notna().all()
    assert frame.drop(suppressed.index)["pay_status"].isna().all()
    reasons = frame["pay_status"].str.split("; ").explode().value_counts().to_dict()
    assert reasons == {
        "jobs: withheld as unreliable": 82,
        "median pay: withheld as unreliable": 51,
        "jobs: not applicable": 2,
        "median pay: not applicable": 2,
        "jobs: withheld as disclosive": 1,
        "median pay: withheld as disclosive": 1,
    }
    paid = frame.dropna(subset=["alpha", "employees", "median_pay_gbp"])
    whole = paid["alpha"] * paid["employees"].astype(float) * paid["median_pay_gbp"]
    assert paid["wage_exposure_alpha_gbp"].to_numpy() == pytest.approx(whole.to_numpy(), abs=0.01)


def test_medians_of_2025_come_with_jobs_of_2024_and_say_so(scored: Scored) -> None:
    newer, older = scored(pay="ons-ashe-2025-medians").frame, scored().frame
    renewed = newer["pay_source"].str.contains("2025")
    assert renewed.sum() == 412 - 49
    assert by_code(newer)["1121"]["median_pay_gbp"] == 52885
    pd.testing.assert_series_equal(newer["employees"], older["employees"])
    pd.testing.assert_series_equal(newer.loc[~renewed, "median_pay_gbp"], older.loc[~renewed, "median_pay_gbp"])
    assert (newer.loc[~renewed, "pay_source"] == "ASHE 2024 (provisional)").all()
    assert (newer["pay_status"].fillna("").str.contains("median pay") == newer["median_pay_gbp"].isna()).all()
    assert (newer["pay_status"].fillna("").str.contains("jobs") == newer["employees"].isna()).all()


def test_sources_carry_checksums_and_the_kind_of_copy(scored: Scored) -> None:
    sources = {(use.source, use.file): use.model_dump() for use in scored().sources}
    assert all(len(use["sha256"]) == 64 for use in sources.values())
    assert sources["onet-30.2", "Task Ratings.txt"]["copy_status"] == "rebuilt"
    assert ("eloundou-2023", "full_labelset.tsv") in sources
    assert {"ons-soc2020", "ons-ashe-2024", "bls-isco08-soc2010", "bls-soc2010-soc2018"} <= {s for s, _ in sources}


def test_ties_in_the_index_take_the_lowest_isco_code(scored: Scored) -> None:  # the fixture keeps the index in memory
    entries = index_entries(ons.read_coding_index())
    chosen = most_frequent(entries).set_index("target")["source"]
    assert len(chosen) == 412
    for code in ("2435", "3112"):
        group = entries[entries["target"] == code]
        tied = group[group["weight"] == group["weight"].max()]["source"]
        assert len(tied) > 1
        assert chosen[code] == min(tied)


def test_a_release_of_the_user_s_own_gives_all_its_occupations_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer release is an entry in a TOML file, not a change of code."""
    registered = get_source("onet-30.2")
    entry: dict[str, Any] = registered.model_dump(mode="json", exclude_none=True, by_alias=True)
    entry["id"] = "onet-31.0"
    folder = tmp_path / "mirror" / "onet-31.0"
    for source in load_registry().values():  # the other files stay where they are
        if source.id != "onet-31.0":
            (tmp_path / "mirror" / source.id).mkdir(parents=True)
            for path in (Path(MIRROR) / source.id).iterdir():
                (tmp_path / "mirror" / source.id / path.name).symlink_to(path)
    folder.symlink_to(Path(MIRROR) / "onet-30.2")
    files = entry.pop("file")
    lines = ["[[source]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    for file in files:
        lines += ["[[source.file]]", *(f"{key} = {json.dumps(value)}" for key, value in file.items())]
    (tmp_path / "mine.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("RELABEL_SOURCES", str(tmp_path / "mine.toml"))
    monkeypatch.setenv("RELABEL_DATA_MIRROR", str(tmp_path / "mirror"))
    table = score_table(open_run("eloundou-2023:gpt4"), taxonomy="onet-soc", tasks="onet-31.0")
    assert (len(table.frame), table.scored) == (1016, 923)
    used = {use.file for use in table.sources if use.source == "onet-31.0"}
    assert used == {"Task Statements.txt", "Occupation Data.txt", "Task Ratings.txt"}
