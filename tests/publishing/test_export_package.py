"""The export as others take it: the data package, the table of changes, job families, words for scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from frictionless import Package
from site_builders import FORMULA, hostile_run, sample_answers, tasks_on

from relabel.careers.pages import FRAME_COLUMNS
from relabel.errors import UsageError
from relabel.publishing.datapackage import CHANGE_COLUMNS, FAMILY_COLUMNS, OCCUPATION_COLUMNS
from relabel.publishing.export import export_run
from relabel.publishing.methodology import BANDS, READING_NAMES, band_of
from relabel.run import Run, open_run
from relabel.scoring.decomposition import PARTS
from relabel.scoring.explain import explain
from relabel.scoring.options import Choices
from relabel.scoring.table import score_table
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED
from run_builders import MakeRun, a_label, a_run

FLIPPED = "15-1252.00"


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def problems(folder: Path) -> list[str]:
    """What frictionless finds wrong with an export."""
    report = Package(str(folder / "datapackage.json")).validate()
    return [error.message for error in report.errors] + [e.message for task in report.tasks for e in task.errors]


def with_flipped(run: Run, folder: Path, *, without: tuple[str, ...] = ()) -> Run:
    """The same run with every answer about one occupation turned into `exposed`."""
    labels = [
        a_label(str(row.task_id), str(row.setting), "exposed" if row.onet_soc_code == FLIPPED else str(row.label), code=str(row.onet_soc_code))
        for row in run.labels.itertuples()
        if row.onet_soc_code not in without
    ]  # fmt: skip
    return a_run(folder, labels, tasks="sample", ended_at="2026-02-02T00:00:00Z")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a run against a baseline that differs in one occupation and lacks another."""
    folder = tmp_path_factory.mktemp("compared")
    run = sample_answers(folder / "run")
    baseline = with_flipped(run, folder / "baseline", without=("29-1141.00",))
    export_run(run, folder / "out", baseline=baseline, draws=100)
    return folder / "out"


def test_frictionless_finds_nothing_wrong(compared: Path) -> None:
    assert problems(compared) == []


def test_frictionless_would_find_a_cell_out_of_bounds(compared: Path, tmp_path: Path) -> None:
    export_run(open_run("sample"), tmp_path / "out", draws=0)
    table = pd.read_csv(tmp_path / "out/occupations.csv", dtype=str)
    table.loc[0, "alpha"] = "1.5"
    table.to_csv(tmp_path / "out/occupations.csv", index=False)
    assert any("maximum" in problem for problem in problems(tmp_path / "out"))


def test_a_package_with_formulas_in_it_is_still_valid(tmp_path: Path) -> None:
    run, tasks = hostile_run(tmp_path)
    export_run(run, tmp_path / "out", Choices(taxonomy="onet-soc", tasks=tasks), draws=0)
    assert problems(tmp_path / "out") == []
    cells = pd.read_csv(tmp_path / "out/tasks.csv", dtype=str)["text"].tolist()
    assert f"'{FORMULA}" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    texts = [t["text"] for t in load(tmp_path / "out/onet/11-1011.00.json")["tasks"]]
    assert FORMULA in texts


def test_the_version_follows_the_labels_and_the_date_follows_the_run(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run()
    export_run(run, tmp_path / "one", draws=0)
    export_run(with_flipped(run, tmp_path / "other"), tmp_path / "two", draws=0)
    one, two = load(tmp_path / "one/datapackage.json"), load(tmp_path / "two/datapackage.json")
    assert one["version"].startswith("7.0.0+")
    assert one["version"] != two["version"]
    assert (one["created"], two["created"]) == ("2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z")


def test_every_column_that_can_come_is_described() -> None:
    ends = ("", "_low", "_high")
    assert {f"{name}{end}" for name in BOUNDED for end in ends} <= set(OCCUPATION_COLUMNS)
    assert {f"{name}_{who}{end}" for name in ESTIMATED for who in ("gold", "pooled") for end in ends} <= set(
        OCCUPATION_COLUMNS
    )
    assert set(PARTS) <= set(CHANGE_COLUMNS)
    assert set(FRAME_COLUMNS) <= set(FAMILY_COLUMNS)
    for columns in (OCCUPATION_COLUMNS, CHANGE_COLUMNS, FAMILY_COLUMNS):
        assert all(column["title"] and column["description"].endswith(".") for column in columns.values())


def test_changes_list_every_score_with_parts_that_add_up(compared: Path) -> None:
    table = pd.read_csv(compared / "changes.csv", dtype={"code": str})
    both = table.dropna(subset=["before", "after"])
    assert (both["after"] - both["before"] - both["change"]).abs().max() < 1e-9
    assert (both[list(PARTS)].sum(axis=1) - both["change"]).abs().max() < 1e-9
    moved = both[both["change"] != 0]
    behind = {p.stem for p in (compared / "occupations").iterdir() if FLIPPED in p.read_text(encoding="utf-8")}
    assert set(moved["code"]) == behind
    assert (moved["labels"] - moved["change"]).abs().max() < 1e-9
    assert (moved[["tasks", "weights", "bridge"]] == 0).all(axis=None)
    now = pd.read_csv(compared / "occupations.csv", dtype={"code": str}).set_index("code")
    alpha = table[table["measure"] == "alpha"].set_index("code")
    assert alpha["after"].to_dict() == pytest.approx(now["alpha"].to_dict())
    assert alpha["score_10_after"].to_dict() == pytest.approx(now["strict_10"].to_dict())
    assert alpha["wage_exposure_gbp_after"].to_dict() == pytest.approx(
        now["wage_exposure_alpha_gbp"].to_dict(), nan_ok=True
    )


def test_a_score_that_the_baseline_had_not_is_listed_with_the_reason(compared: Path) -> None:
    table = pd.read_csv(compared / "changes.csv", dtype={"code": str})
    new = table[table["before"].isna()]
    assert new["code"].unique().tolist() == ["2237"]
    assert new["measure"].tolist() == ["alpha", "beta", "gamma"]
    assert new["after"].notna().all()
    assert new["change"].isna().all()
    assert new["reason"].str.contains("no labelled tasks").all()
    assert load(compared / "methodology.json")["baseline"]["counts"] == {
        "compared": 5, "changed": len(set(table.loc[table["change"].fillna(0) != 0, "code"])), "appeared": 1, "disappeared": 0,
    }  # fmt: skip
    page = load(compared / "occupations/2237.json")
    assert [row["measure"] for row in page["changes"]] == ["alpha", "beta", "gamma"]


def test_a_baseline_of_the_same_labels_changes_nothing(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run()
    export_run(run, tmp_path / "out", baseline=run, draws=0)
    table = pd.read_csv(tmp_path / "out/changes.csv")
    assert (table["change"] == 0).all()
    assert table["reason"].isna().all()


def test_job_families_come_as_tables_and_pages_or_not_at_all(compared: Path, tmp_path: Path) -> None:
    table = pd.read_csv(compared / "families.csv")
    assert table["id"].tolist() == [row["id"] for row in load(compared / "families.json")["rows"]]
    for family in table["id"]:
        page = load(compared / f"families/{family}.json")
        assert page["sample"] is True
        assert len(page["resilience"]["parts"]) == 3
    assert table["note"].str.contains("SAMPLE").all()
    export_run(open_run("sample"), tmp_path / "out", families=False, draws=0)
    assert not (tmp_path / "out/families.csv").exists()


def test_intervals_hold_their_words_and_can_be_left_out(compared: Path, tmp_path: Path) -> None:
    page = load(compared / "occupations/2134.json")
    said = page["readings"]["strict"]
    assert said["low_10"] <= said["score_10"] <= said["high_10"]
    other = said["other"]
    assert other["score_10_low"] <= other["score_10"] <= other["score_10_high"]
    assert other["words"].startswith("With the sample's own labels instead of ")
    assert other["brief"] == "with the sample's own labels"
    intervals = load(compared / "methodology.json")["intervals"]
    assert (intervals["own"]["noise"], intervals["other"]["noise"]) == ("single", "confusion")
    assert "may lie outside" in intervals["other"]["how_to_read"]
    export_run(open_run("sample"), tmp_path / "out", draws=0)
    assert "alpha_low" not in pd.read_csv(tmp_path / "out/occupations.csv").columns
    assert load(tmp_path / "out/methodology.json")["intervals"] is None
    assert load(tmp_path / "out/occupations/2134.json")["readings"]["strict"]["low_10"] is None
    with pytest.raises(UsageError, match="100 or more"):
        export_run(open_run("sample"), tmp_path / "few", draws=5)


def test_words_follow_band_and_reading(compared: Path) -> None:
    starts = [band["from"] for band in BANDS]
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert [band_of(score)["id"] for score in (0, 0.9, 1, 2.9, 3, 5, 6.9, 7, 10)] == [
        "very-low", "very-low", "low", "low", "moderate", "high", "high", "very-high", "very-high",
    ]  # fmt: skip
    said = {(band["id"], reading): band[reading]["meaning"] for band in BANDS for reading in READING_NAMES}
    assert len(set(said.values())) == len(said)
    assert all(
        "tools" in t or "software" in t or "Even with" in t
        for (_, reading), t in said.items()
        if reading == "with_tools"
    )
    for path in (compared / "occupations").iterdir():
        page = load(path)
        for reading, ten in (("strict", "strict_10"), ("with_tools", "with_tools_10")):
            band = band_of(page["score"][ten])
            assert page["readings"][reading]["band_label"] == band["label"]
            assert page["readings"][reading]["meaning"] == band[reading]["meaning"]
        assert (page["matter_most"] is not None) == band_of(page["score"]["strict_10"])["low"]


def test_a_low_strict_score_names_the_tasks_that_matter_most_and_what_they_need(compared: Path) -> None:
    seen: set[str] = set()
    for path in (compared / "occupations").iterdir():
        page = load(path)
        listed = tasks_on(compared, page)
        tasks = {(task["onet_soc_code"], task["task_id"]): task for task in listed}
        for entry in page["matter_most"] or ():
            task = tasks[entry["onet_soc_code"], entry["task_id"]]
            wanted = {
                ("exposed", "exposed"): "a model alone can speed this up",
                ("not-exposed", "exposed"): "needs a person, or software built around a model",
                ("not-exposed", "not-exposed"): "still needs a person",
            }
            assert entry["needs"] == wanted[task["strict"], task["with_tools"]]
            seen.add(entry["needs"])
        for reading in READING_NAMES:
            top = page["readings"][reading]["top_tasks"]
            chosen = [tasks[t["onet_soc_code"], t["task_id"]] for t in top]
            assert all(task[reading] == "exposed" for task in chosen)
            lead = page["onet"][0]["onet_soc_code"]
            of_lead = [t["importance"] or 0 for t in listed if t["onet_soc_code"] == lead and t[reading] == "exposed"]
            assert [t["importance"] or 0 for t in chosen if t["onet_soc_code"] == lead] == of_lead[:3]
            assert of_lead == sorted(of_lead, reverse=True)
    assert "still needs a person" in seen


def test_a_page_of_a_code_says_what_hangs_on_each_label(compared: Path) -> None:
    for file in sorted((compared / "onet").glob("*.json"))[:10]:
        page = load(file)
        table = score_table(open_run("sample"), taxonomy="onet-soc")
        explained = {task.task_id: task for task in explain(table, open_run("sample"), page["code"]).tasks}
        for task in page["tasks"]:
            said = explained[task["task_id"]]
            assert task["share"] == pytest.approx(said.part, abs=1e-6)
            assert task["alpha_if_flipped"] == pytest.approx(said.alpha_if_flipped, abs=1e-6)
            assert task["gamma_if_flipped"] == pytest.approx(said.gamma_if_flipped, abs=1e-6)


def test_choices_of_a_score_reach_its_export_and_are_told(tmp_path: Path) -> None:
    export_run(open_run("sample"), tmp_path / "out", Choices(unrated="drop"), draws=0)
    assert load(tmp_path / "out/methodology.json")["unrated"] == "drop"
    assert "one without a rating is left out" in load(tmp_path / "out/methodology.json")["score"]["method_text"]
    with pytest.raises(UsageError, match="--links does not apply to"):
        export_run(open_run("sample"), tmp_path / "none", Choices(method="site-2026", links="equal"), draws=0)
