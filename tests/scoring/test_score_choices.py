"""Choices that a score is made by beyond weights and taxonomy: repeats, bridges of one's own, pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from score_builders import Scored, TaskFile, by_code

from relabel.careers.families import family_pages
from relabel.careers.pages import load_families
from relabel.cli.score import headline
from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.multiverse import spread_summary, with_spread
from relabel.scoring.noise import Raters
from relabel.scoring.table import score_table
from relabel.scoring.us import with_us_figures
from run_builders import MakeRun, a_label, a_run

A = "11-1011.00"


def test_a_score_is_the_mean_over_samples_and_the_majority_on_request(tmp_path: Path, task_file: TaskFile) -> None:
    tasks = task_file([{"task_id": str(n), "onet_soc_code": A} for n in range(4)])
    # Each task is exposed in one of two samples: the mean is a half, and a majority sends every tie to not exposed.
    labels = [
        a_label(str(n), setting, "exposed" if sample == n % 2 else "not-exposed", sample)
        for n in range(4)
        for setting in ("strict", "with-tools")
        for sample in (0, 1)
    ]
    run = a_run(tmp_path / "twice", labels)
    mean, majority = (
        by_code(score_table(run, taxonomy="onet-soc", tasks=tasks, repeats=repeats).frame)[A]
        for repeats in ("mean", "majority")
    )
    assert [mean[m] for m in ("alpha", "beta", "gamma")] == [0.5, 0.5, 0.5]
    assert [majority[m] for m in ("alpha", "beta", "gamma")] == [0, 0, 0]


@pytest.mark.parametrize("count", [3, 6])
def test_intervals_over_raters_hold_the_mean_of_all_raters_where_little_is_exposed_too(count: int) -> None:
    rng, groups = np.random.default_rng(4), 200
    truth = rng.beta(0.4, 4, groups)
    held: list[float] = []
    for _ in range(10):
        # A rater has a leaning of its own, and judges thirty tasks a group: many agree on none.
        leaning = np.exp(rng.normal(0, 0.3, count))[:, None]
        chance = np.clip(truth * leaning / np.exp(0.3**2 / 2), 0, 1)
        scores = rng.binomial(30, chance) / 30
        drawn = Raters([str(n) for n in range(count)], np.repeat(scores[:, None, :], 3, axis=1)).draw(None, 400, 1)
        low, high = np.quantile(drawn[0], [0.025, 0.975], axis=1)
        held.append(float(((truth >= low) & (truth <= high)).mean()))
    assert np.mean(held) > 0.92


@pytest.mark.mirror
def test_a_bridge_of_one_s_own_gives_the_weighted_means_of_its_file(tmp_path: Path, scored: Scored) -> None:
    file = tmp_path / "own.csv"
    file.write_text("SOC2020 Unit Group,O*NET-SOC Code,Title,weight\n1111,11-1011.00,x,3\n1111,11-1021.00,y,1\n")
    table = scored(bridge=str(file))
    by_occupation = scored(taxonomy="onet-soc").frame.set_index("code")["gamma"]
    row = by_code(table.frame)["1111"]
    assert row["gamma"] == pytest.approx(0.75 * by_occupation["11-1011.00"] + 0.25 * by_occupation["11-1021.00"])
    assert table.scored == 1
    assert by_code(table.frame)["1121"]["status"] == "unscored: no O*NET-SOC 2019 code leads to UK SOC 2020 1121"
    (use,) = [use for use in table.sources if use.source == "bridge-file"]
    assert use.file == "own.csv"
    assert "method bridge by own.csv, UK SOC 2020: 1 of 412" in headline(table)


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("11-1011.00,9999,1", "line 2, column uk_soc2020: unknown code '9999'"),
        ("11-1011,1111,1", "line 2, column onet_soc_code: unknown code '11-1011'"),
        ("11-1011.00,1111,0", "line 2, column weight: the weight must be a number above 0"),
        ("11-1011.00,1111,1\n11-1011.00,1111,2", "line 3: 11-1011.00 to 1111 is already in line 2"),
    ],
)
def test_a_bridge_that_is_not_one_is_refused_by_line(tmp_path: Path, rows: str, said: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(f"onet_soc_code,uk_soc2020,weight\n{rows}\n")
    with pytest.raises(DataError, match=said):
        score_table(open_run("eloundou-2023:gpt4"), bridge=str(file))


def test_a_bridge_of_one_s_own_leads_to_uk_groups_only() -> None:
    with pytest.raises(UsageError, match="--bridge applies to uk-soc2020 only"):
        score_table(open_run("sample"), bridge="own.csv", taxonomy="isco08")


@pytest.mark.mirror
def test_the_spread_over_bridges_is_shown_by_group(scored: Scored) -> None:
    table = with_spread(scored())
    summary = spread_summary(table).set_index(["bridge", "measure"])
    assert summary.loc[("employment", "gamma"), "moved"] == 40
    assert summary.loc[("equal", "gamma"), "code"] == "5315"
    assert summary.loc[("equal", "gamma"), "most"] == pytest.approx(0.44, abs=0.005)
    row = by_code(table.frame)["5315"]
    assert row["gamma_bridges_high"] - row["gamma_bridges_low"] == pytest.approx(0.44, abs=0.005)
    split = by_code(scored(links="split").frame)["5315"]
    assert row["gamma_bridges_low"] <= split["gamma"] <= row["gamma_bridges_high"]


@pytest.mark.mirror
def test_wage_exposure_can_be_made_of_mean_pay(scored: Scored) -> None:
    median, mean = scored(), scored(wage="mean")
    row = by_code(mean.frame)["1121"]
    assert row["wage_exposure_gamma_gbp"] == pytest.approx(
        row["gamma"] * row["employees"] * row["mean_pay_gbp"], abs=0.01
    )
    both = median.frame.query("status == 'scored'").dropna(subset=["median_pay_gbp", "mean_pay_gbp", "employees"])
    bills = [(both["employees"].astype("float64") * both[f"{kind}_pay_gbp"]).sum() for kind in ("median", "mean")]
    assert bills[1] / bills[0] == pytest.approx(1.078, abs=0.001)
    assert mean.population is not None
    assert "self-employed are not counted" in mean.population


@pytest.mark.mirror
def test_a_family_has_the_jobs_that_the_score_table_gives_its_codes(scored: Scored) -> None:
    table = scored(taxonomy="onet-soc")
    us = with_us_figures(table).frame
    jobs = (us["employment_us"] / us["wage_shared_by"]).set_axis(us["code"])
    families = {family.id: family for family in load_families()}
    for page in family_pages(table, open_run("eloundou-2023:gpt4")):
        own = jobs[families[page.id].members(list(jobs.index))].sum()
        assert page.pay[0].employment == pytest.approx(own, abs=1), page.id


@pytest.mark.slow
@pytest.mark.mirror
def test_no_total_rests_on_thin_groups(make_run: MakeRun) -> None:
    run = make_run({(A, "8823"): {"strict": True, "with-tools": True}}, tasks="onet-30.2", parameters={"sample": 1})
    table = score_table(run)
    assert table.totals is not None
    assert table.thin > 0
    assert table.totals["groups"] == 0
    assert table.totals["wage_exposure_gamma_gbp"] is None


@pytest.mark.mirror
def test_the_release_of_us_jobs_is_chosen_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run("eloundou-2023:gpt4")
    latest = score_table(run, links="employment")
    monkeypatch.setenv("RELABEL_US_RELEASES", "bls-oews-2023")
    older = score_table(run, links="employment")
    for table, source in ((latest, "bls-oews-2024"), (older, "bls-oews-2023")):
        assert table.describe()["us_jobs"] == source
        assert [use.source for use in table.sources if use.source.startswith("bls-oews")] == [source]
    assert score_table(run).describe()["us_jobs"] is None
    apart = (latest.frame["gamma"] - older.frame["gamma"]).abs()
    assert 0 < apart.max() < 0.1
