"""Job families: what their figures rest on, what is missing and why, and that the files of families are read with care."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from score_builders import Scored

from relabel.careers.families import FamilyData, FamilyFigures, activity_similarity, family_pages, occupation_ratings
from relabel.careers.pages import FamilyPage, family_frame, load_families
from relabel.errors import DataError, UsageError
from relabel.run import Run, open_run
from relabel.scoring.table import score_table
from relabel.scoring.us import us_schema
from relabel.settings import asset_dir
from relabel.sources import bls, onet
from run_builders import a_label, a_run

GOOD = (asset_dir("data") / "families.toml").read_text()
DIMENSIONS = ("empathy", "presence", "opinion", "creativity", "hope")
DEVELOPERS, WEB = "15-1252.00", "15-1254.00"
METAL = ("51-4192.00", "51-4111.00", "51-4121.00", "51-4194.00", "51-4122.00")


def rated(folder: Path, ratings: Mapping[str, tuple[int, ...]], *, tasks: str = "onet-30.2", samples: int = 1) -> Run:
    """A run that rates occupations."""
    labels = [
        a_label(code, name, str(value), sample, code=code)
        for code, values in ratings.items()
        for name, value in zip(DIMENSIONS, values, strict=False)
        for sample in range(samples)
    ]
    return a_run(folder, labels, rubric="epoch", tasks=tasks)


def us_rows(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Figures of the BLS of the test's own making, on the schema of the real ones."""
    defaults: dict[str, Any] = {}
    for name, column in us_schema().columns.items():
        kind = str(column.dtype)
        defaults[name] = (1 if "shared" in name else 0) if "int" in kind else "x" if "status" in name else None
    frame = pd.DataFrame([{**defaults, "code": code, "soc2018": code[:7], **row} for code, row in rows.items()])
    return us_schema().validate(frame.astype({name: str(column.dtype) for name, column in us_schema().columns.items()}))


def figures(us: pd.DataFrame | None, ratings: Mapping[str, Mapping[str, float]] | None = None) -> FamilyFigures:
    table = score_table(open_run("sample"), taxonomy="onet-soc")
    return FamilyFigures(FamilyData(table, us, ratings, {DEVELOPERS: 4, WEB: 4}, {}), [WEB, DEVELOPERS])


def both(**columns: tuple[float | str | None, float | str | None]) -> pd.DataFrame:
    """Figures of the two codes, those of the developers first."""
    pairs = enumerate((DEVELOPERS, WEB))
    return us_rows({code: {name: values[place] for name, values in columns.items()} for place, code in pairs})


def test_occupations_weigh_by_their_part_of_the_jobs() -> None:
    # 300 jobs that three rows share are 100 for each.
    found = figures(both(employment_us=(300, 50), wage_shared_by=(3, 1)))
    scores = score_table(open_run("sample"), taxonomy="onet-soc").occupations
    for value, measure in ((found.exposure().strict, "alpha"), (found.exposure().with_tools, "gamma")):
        expected = np.average(scores.loc[[DEVELOPERS, WEB], measure], weights=[100, 50])
        assert value == pytest.approx(expected, rel=1e-12)
    assert found.codes == [DEVELOPERS, WEB]
    assert [role.share for role in found.roles()] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]


def test_without_jobs_occupations_weigh_alike_and_the_words_say_so() -> None:
    scores = score_table(open_run("sample"), taxonomy="onet-soc").occupations.loc[[DEVELOPERS, WEB]]
    exposure = figures(None).exposure()
    assert exposure.with_tools == pytest.approx(scores["gamma"].mean())
    assert "equal weight" in exposure.words
    pay = figures(None).pay()
    assert {one.employment for one in pay} == {one.lowest_median for one in pay} == {None}


def test_an_occupation_without_known_jobs_has_no_weight_and_is_named() -> None:
    exposure = figures(both(employment_us=(None, 50))).exposure()
    scores = score_table(open_run("sample"), taxonomy="onet-soc").occupations
    assert exposure.with_tools == pytest.approx(scores.loc[[WEB], "gamma"].mean())
    assert exposure.occupations == 1
    assert f"without known jobs, and so without weight: {DEVELOPERS}" in exposure.words


def test_a_mean_over_less_than_half_of_the_jobs_is_no_mean() -> None:
    jobs = both(employment_us=(100, 99))
    of_web = {WEB: {"empathy": 3.0, "total": 15.0}}
    epoch, why = figures(jobs, of_web).epoch()
    assert epoch is None
    assert why == "only 1 of its 2 occupations are rated, less than half of its jobs"
    of_developers = {DEVELOPERS: {"empathy": 3.0, "total": 15.0}}
    epoch, why = figures(jobs, of_developers).epoch()
    assert epoch is not None
    assert (epoch.total, epoch.dimensions, epoch.occupations, why) == (15.0, {"empathy": 3.0}, 1, "")


def test_demand_is_the_change_of_the_summed_jobs_and_not_a_mean_of_changes() -> None:
    outlook = figures(
        both(
            projected_employment_2024=(900, 200),
            projected_employment_2034=(990, 100),
            projected_change_percent=(10, -50),
            projected_openings_a_year=(60, 10),
            projection_shared_by=(1, 2),
        )
    ).outlook()
    assert (outlook.employment_start, outlook.employment_end, outlook.openings_a_year) == (1000, 1040, 65)
    assert outlook.change_percent == pytest.approx(4.0)


def test_a_capped_median_leaves_no_highest_and_no_mean() -> None:
    found = figures(
        both(
            employment_us=(100, 300),
            p10_wage_usd=(80, 40),
            median_wage_usd=(None, 60),
            wage_cap_usd=(239200, None),
            capped_wages=("median p75 p90", None),
        )
    )
    pay = found.pay()[0]
    assert (pay.lowest_median, pay.highest_median, pay.weighted["median"]) == (60, None, None)
    assert pay.weighted["p10"] == 50
    assert f"median published only as a lower bound: {DEVELOPERS}" in pay.words
    roles = {role.onet_soc_code: role.pay[0] for role in found.roles()}
    assert roles[DEVELOPERS].floor == {"median": 239200, "p75": 239200, "p90": 239200}
    assert roles[DEVELOPERS].median is None
    assert roles[WEB].floor == {}


def test_preparation_is_shared_out_by_projected_jobs() -> None:
    found = figures(
        both(
            projected_employment_2024=(300, 100),
            education=("Bachelor's degree", "none needed"),
            training=(None, "none needed"),
        )
    ).preparation()
    assert [(level.level, level.share) for level in found.education] == [
        ("Bachelor's degree", 0.75),
        ("none needed", 0.25),
    ]
    assert [(level.level, level.share) for level in found.training] == [("none needed", 1.0)]
    assert [level.level for level in found.job_zones] == ["Job zone 4"]


def test_key_responsibilities_are_the_most_important_tasks_of_each_occupation_in_turn() -> None:
    found = figures(both(employment_us=(100, 300))).responsibilities()
    assert len(found) == 8
    assert [task.onet_soc_code for task in found].count(WEB) == 4
    importance = [task.importance or 0 for task in found]
    assert importance == sorted(importance, reverse=True)
    tasks = score_table(open_run("sample"), taxonomy="onet-soc").task_values
    best = tasks[tasks["onet_soc_code"] == WEB].nlargest(4, "importance")["task_id"]
    assert {task.task_id for task in found if task.onet_soc_code == WEB} == set(best)


def test_pages_of_the_sample_claim_nothing_about_real_jobs(tmp_path: Path) -> None:
    run = open_run("sample")
    table = score_table(run)
    ratings = rated(tmp_path / "e", dict.fromkeys(map(str, table.occupations.index), (2, 2, 2, 2, 1)), tasks="sample")
    pages = family_pages(table, run, ratings)
    assert [page.id for page in pages] == ["pipes-wires-and-air", "nursing", "software-and-data"]
    for page in pages:
        assert page.sample
        assert page.outlook.change_percent is None
        assert page.pay[0].employment is None
        assert page.resilience.score is None
        assert page.resilience.parts[2].figure == 9
        assert "the sample is invented" in page.resilience.words
        assert FamilyPage.model_validate_json(page.model_dump_json()) == page
    with pytest.raises(UsageError, match="the built-in sample cannot be mixed with other lists"):
        family_pages(table, run, rated(tmp_path / "f", {DEVELOPERS: (1, 1, 1, 1, 1)}))


def test_ratings_are_averaged_over_repeats_and_need_every_dimension(tmp_path: Path) -> None:
    labels = [a_label("a", name, "2", sample, code=WEB) for name in DIMENSIONS for sample in range(2)]
    labels[0] = a_label("a", "empathy", "5", 0, code=WEB)
    labels += [a_label("b", name, "4", code=DEVELOPERS) for name in DIMENSIONS[:4]]
    found = occupation_ratings(a_run(tmp_path / "r", labels, rubric="epoch"))
    assert list(found.index) == [WEB]
    assert found.loc[WEB].to_dict() == {**dict.fromkeys(DIMENSIONS, 2.0), "empathy": 3.5, "total": 11.5}


def test_ratings_on_another_scale_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "id: mine\nversion: 1\ntitle: T\nunit: occupation\nprompt: occupation\ndefinition: D\nlabels: {'0': a, '9': b}\n"
        "settings: {hope: {question: Q, scope: S}}\nrationale: {max_words: 10}\n"
    )
    from relabel.rubric import load_rubric

    run = a_run(tmp_path / "r", [a_label("a", "hope", "9", code=WEB)], rubric=load_rubric(str(path)))
    with pytest.raises(UsageError, match="does not rate occupations with sums from 5 to 25"):
        occupation_ratings(run)
    with pytest.raises(UsageError, match="\\(rubric exposure\\) does not rate occupations"):
        occupation_ratings(open_run("sample"))


def test_similarity_is_one_for_the_same_work_and_zero_for_no_common_activity() -> None:
    activities = pd.DataFrame(
        [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "z"), ("d", "x"), ("d", "z")],
        columns=["onet_soc_code", "dwa_id"],
    )
    groups = {name: [name] for name in "abcd"} | {"nothing": ["e"]}
    found = activity_similarity(groups, groups, activities)
    assert found.loc["a", "b"] == pytest.approx(1.0)
    assert found.loc["a", "c"] == 0
    assert 0 < float(found.loc["a", "d"]) < 1  # pyright: ignore[reportArgumentType]  one cell
    assert np.allclose(found.to_numpy(), found.to_numpy().T)
    assert not found.loc[["nothing"]].to_numpy().any()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "law"', 'id = "Law Firm"', "entry 'Law Firm': id: "),
        ('id = "law"', 'id = "selling"', "two entries with the id 'selling'"),
        ('"23-2011.00", "23-2093.00"', '"23-2011"', None),
        ('"23-1011.00", "23-1012.00"', '"23-1011", "23-1011.00"', "have 23-1011.00 twice, in 'law' and in 'law'"),
        ('"23-1011.00"', '"51-4121.00"', "have 51-4121.00 twice, in 'production-professionals' and in 'law'"),
        ('"23-1011.00"', '"51-4121"', "have 51-4121 twice, in 'production-professionals' and in 'law'"),
        ('"23-1011.00"', '"23-10"', "'23-10' is not an O*NET-SOC code; write it like 51-4121.00"),
        ('name = "Law"', "", "entry 'law': name: is missing"),
        ('id = "law"', 'id = "law"\ncolour = "red"', "entry 'law': colour: "),
        ("[[family]]", "[[families]]", "must hold [[family]] entries and nothing else"),
        ('id = "law"', 'id = "law', "not valid TOML"),
    ],
)
def test_a_file_of_families_is_read_with_care(old: str, new: str, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    at = GOOD.rindex(old)
    path.write_text(GOOD[:at] + new + GOOD[at + len(old) :])
    if words is None:
        assert load_families(path)[-1].members(["23-2011.00", "23-2011.01", "23-2012.00"]) == [
            "23-2011.00",
            "23-2011.01",
        ]
        return
    with pytest.raises(DataError) as caught:
        load_families(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_production_professionals_are_the_five_metal_trades() -> None:
    assert load_families()[0].name == "Production Professionals"
    assert load_families()[0].codes == METAL


@pytest.fixture(scope="module")
def pages(scored: Scored, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FamilyPage]:
    """Pages of real figures; ratings are of the test's own making, 9 of 25 for each metal trade."""
    ratings = rated(tmp_path_factory.mktemp("e") / "r", dict.fromkeys(METAL, (1, 3, 2, 2, 1)))
    return {page.id: page for page in family_pages(scored(), open_run("eloundou-2023:gpt4"), ratings)}


@pytest.mark.mirror
def test_every_code_of_the_families_has_tasks() -> None:
    codes = list(dict.fromkeys(onet.read_tasks()["onet_soc_code"]))
    for family in load_families():
        for code in family.codes:
            assert code in codes or any(other.startswith(code) for other in codes), (family.id, code)


@pytest.mark.mirror
def test_figures_of_production_professionals_are_those_of_a_plain_computation(
    pages: dict[str, FamilyPage], scored: Scored
) -> None:
    page = pages["production-professionals"]
    soc = [code[:7] for code in METAL]
    wages = {year: bls.read_wages(f"bls-oews-{year}") for year in (2023, 2024)}
    wages = {y: w[w["group"] == "detailed"].set_index("soc2018").loc[soc] for y, w in wages.items()}
    shown = {role.onet_soc_code: [pay.median for pay in role.pay] for role in page.roles}
    assert [shown[code][1] for code in METAL] == [62270, 61490, 48940, 46410, 45350]
    assert [shown[code][0] for code in METAL] == wages[2024]["annual_median_usd"].tolist()
    jobs = wages[2024]["employment"].to_numpy()
    scores = scored().occupations.loc[list(METAL)]
    assert page.exposure.with_tools == pytest.approx(np.average(scores["gamma"], weights=jobs), rel=1e-12)
    assert page.exposure.strict == pytest.approx(np.average(scores["alpha"], weights=jobs), rel=1e-12)
    for pay, year in zip(page.pay, (2024, 2023), strict=True):
        expected = np.average(wages[year]["annual_median_usd"], weights=wages[year]["employment"])
        assert pay.weighted["median"] == pytest.approx(expected, rel=1e-12)
        assert pay.employment == wages[year]["employment"].sum()
    outlook = bls.read_projections()
    outlook = outlook[outlook["kind"] == "line-item"].set_index("soc2018").loc[soc]
    change = 100 * (outlook["employment_2034_thousands"].sum() / outlook["employment_2024_thousands"].sum() - 1)
    assert page.outlook.change_percent == pytest.approx(change, abs=1e-9)


@pytest.mark.mirror
def test_a_rated_family_has_a_whole_score_and_the_others_say_what_is_missing(pages: dict[str, FamilyPage]) -> None:
    page = pages["production-professionals"]
    assert page.epoch is not None
    assert page.epoch.total == 9
    assert [part.points for part in page.resilience.parts] == [2, 0, 0]
    assert (page.resilience.score, page.resilience.words) == (2, "2 of 6")
    other = pages["law"]
    assert other.resilience.score is None
    assert other.resilience.words.startswith("1 of 4 so far. Human advantage is missing: none of its 7 occupations")


@pytest.mark.mirror
def test_pages_of_all_families_hold_together(pages: dict[str, FamilyPage]) -> None:
    assert list(pages) == [family.id for family in load_families()]
    wages = bls.read_wages()
    total = wages.loc[wages["group"] == "total", "employment"].iloc[0]
    assert sum(page.pay[0].employment or 0 for page in pages.values()) < total
    for page in pages.values():
        assert page.exposure.strict is not None
        assert page.exposure.with_tools is not None
        assert 0 <= page.exposure.strict <= page.exposure.with_tools <= 1
        assert sum(role.share or 0 for role in page.roles) == pytest.approx(1)
        assert sum(level.share for level in page.preparation.education) == pytest.approx(1)
        assert page.responsibilities
        inside = {role.onet_soc_code for role in page.roles}
        assert not inside & {career.id for career in page.related_careers}
        assert page.id not in {family.id for family in page.related_families}
    frame = family_frame(list(pages.values()))
    assert frame["points_of"].isin([4, 6]).all()
    assert (frame["resilience"].notna() == (frame["points_of"] == 6)).all()
