"""What an export holds, and when it is refused; on the sample."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from site_builders import sample_answers, tasks_on

from relabel.errors import DataError, IncompleteRunError, UsageError
from relabel.manifest import TASK_FILE, task_sources
from relabel.publishing.export import Export, export_run
from relabel.publishing.methodology import caveats, method_text
from relabel.publishing.occupation import PageBuilder, main_codes
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.scoring.options import Choices
from relabel.scoring.table import score_table
from relabel.sources.fetch import SourceUse
from relabel.task import task_table
from run_builders import MakeRun, answered


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """An export of the sample, for tests that only read it."""
    folder = tmp_path_factory.mktemp("exported")
    return export_run(sample_answers(folder / "made-run"), folder / "out")


def test_the_folder_holds_tables_pages_and_descriptions(exported: Export) -> None:
    files = content(exported.folder)
    pages = [f"occupations/{code}.json" for code in ("1121", "2134", "2237", "5250", "5315", "8160")]
    assert sorted(files) == sorted(
        [
            "datapackage.json",
            "methodology.json",
            "occupations.csv",
            "occupations.json",
            "occupations.parquet",
            *pages,
            *(f"families.{kind}" for kind in ("csv", "json", "parquet")),
            *(f"families/{name}.json" for name in ("nursing", "pipes-wires-and-air", "software-and-data")),
            *(f"onet/{code}.json" for code in sorted(set(task_table("sample")["onet_soc_code"]))),
            "sources.json",
            "tasks.csv",
            "tasks.parquet",
        ]
    )
    assert (exported.files, exported.size) == (len(files), sum(map(len, files.values())))


def test_the_same_run_gives_the_same_bytes_wherever_it_is_written(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run()
    export_run(run, tmp_path / "one")
    export_run(run, tmp_path / "deep" / "two")
    assert content(tmp_path / "one") == content(tmp_path / "deep" / "two")
    export_run(run, tmp_path / "one")
    assert content(tmp_path / "one") == content(tmp_path / "deep" / "two")


def test_no_file_names_the_machine(exported: Export) -> None:
    for name, data in content(exported.folder).items():
        assert str(exported.folder.parent).encode() not in data, name
        assert b"no business of a reader" not in data, name


def test_every_file_of_the_sample_says_sample(exported: Export) -> None:
    assert all(b"SAMPLE" in data for data in content(exported.folder).values())


def test_a_page_leads_from_the_score_to_the_answers(exported: Export) -> None:
    page = load(exported.folder / "occupations/2134.json")
    assert [(part["onet_soc_code"], part["share"]) for part in page["onet"]] == [
        ("15-1252.00", 0.711),
        ("15-1254.00", 0.289),
    ]
    assert page["score"]["status"] == "scored (SAMPLE)"
    tasks = tasks_on(exported.folder, page)
    assert sum(task["share"] for task in tasks) == pytest.approx(1, abs=1e-5)
    alpha = sum(task["share"] for task in tasks if task["code"] == "E1")
    assert alpha == pytest.approx(page["score"]["alpha"], abs=1e-5)
    task = tasks[0]
    assert task["text"]
    assert (task["strict"], task["with_tools"], task["code"]) == ("exposed", "exposed", "E1")
    assert page["tasks_left_out"] is None
    behind = load(exported.folder / page["onet"][0]["page"])
    (again,) = [t for t in behind["tasks"] if t["task_id"] == task["task_id"]]
    assert [(a["setting"], a["request_key"], a["rationale"]) for a in again["answers"]] == [
        ("strict", f"key-{task['task_id']}-strict", f"because of {task['task_id']}"),
        ("with-tools", f"key-{task['task_id']}-with-tools", f"because of {task['task_id']}"),
    ]
    exposed = sum(t["strict"] == "exposed" for t in tasks)
    assert page["counts"]["strict"]["text"] == f"{exposed} of 20"
    assert page["counts"]["codes"] == {c: sum(t["code"] == c for t in tasks) for c in ("E0", "E1", "E2")}


def test_the_tables_agree_with_each_other(exported: Export) -> None:
    out = exported.folder
    table = pd.read_csv(out / "occupations.csv", dtype={"code": str})
    assert table["alpha"].tolist() == [row["alpha"] for row in load(out / "occupations.json")["rows"]]
    assert table["alpha"].tolist() == pq.read_table(out / "occupations.parquet")["alpha"].to_pylist()
    tasks = pd.read_csv(out / "tasks.csv", dtype=str)
    assert len(tasks) == 60
    assert tasks["strict"].isin(["exposed", "not-exposed"]).all()
    assert tasks["request_keys"].iloc[0] == "key-S001-strict key-S001-with-tools"
    assert pq.read_table(out / "tasks.parquet")["task_id"].to_pylist() == tasks["task_id"].tolist()


def test_the_data_package_describes_every_file_and_column(exported: Export) -> None:
    out = exported.folder
    package = load(out / "datapackage.json")
    files = content(out)
    assert {entry["path"] for entry in package["resources"]} == set(files) - {"datapackage.json"}
    names = [entry["name"] for entry in package["resources"]]
    assert len(names) == len(set(names))
    for entry in package["resources"]:
        data = files[entry["path"]]
        assert entry["bytes"] == len(data)
        assert entry["hash"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    by_path = {entry["path"]: entry for entry in package["resources"]}
    for name in ("occupations.csv", "tasks.csv"):
        fields = by_path[name]["schema"]["fields"]
        assert [f["name"] for f in fields] == pd.read_csv(out / name, nrows=0).columns.tolist()
        assert all(f["type"] and f["title"] and f["description"] for f in fields)
    units = {f["name"]: f.get("unit") for f in by_path["occupations.csv"]["schema"]["fields"]}
    assert units["median_pay_gbp"] == "GBP a year"
    assert units["alpha"] == "share (0-1)"
    assert package["created"] == "2026-01-01T00:00:00Z"
    assert package["licenses"]
    assert package["sources"]


def test_the_methodology_says_how_and_from_how_much(exported: Export) -> None:
    method = load(exported.folder / "methodology.json")
    assert method["score"]["bridge"]["steps"][0]["target"] == "uk-soc2020"
    assert method["labels"]["rubric"]["id"] == "exposure"
    assert method["labels"]["prompt_sha256"] == "0" * 64
    assert method["labels"]["parameters"] == {"sample": 60, "seed": 7}
    assert "60 labelled tasks of 60" in method["description"]
    sources = load(exported.folder / "sources.json")["sources"]
    assert [source["id"] for source in sources] == ["sample"]
    assert all(len(file["sha256"]) == 64 for file in sources[0]["files"])


def test_a_group_without_labels_has_a_page_with_the_reason(sample_run: MakeRun, tmp_path: Path) -> None:
    export_run(sample_run(without=("29-1141.00",)), tmp_path / "out", allow_partial=True)
    page = load(tmp_path / "out/occupations/2237.json")
    assert page["score"]["alpha"] is None
    assert page["score"]["status"] == "unscored: no labelled tasks for O*NET-SOC 2019 29-1141.00 (SAMPLE)"
    assert page["tasks"] == {}
    description = load(tmp_path / "out/datapackage.json")["description"]
    assert "5 of 6 groups scored, from 50 labelled tasks of 60" in description


def test_the_lowest_of_a_few_groups_is_not_called_higher_than_any(sample_run: MakeRun, tmp_path: Path) -> None:
    export_run(sample_run(), tmp_path / "out")
    scored = pd.read_csv(tmp_path / "out/occupations.csv", dtype={"code": "str"}).set_index("code")
    assert len(scored) == 6
    for code, alpha in scored["alpha"].items():
        below = int((scored["alpha"] < alpha - 1e-9).sum())
        said = load(tmp_path / f"out/occupations/{code}.json")["readings"]["strict"]["higher_than"]
        place = "among the lowest" if not below else f"higher than {below}"
        highest = alpha == scored["alpha"].max() and (scored["alpha"] == alpha).sum() == 1
        assert said == f"{'among the highest' if highest else place} of the 6 scored occupations"


def test_a_group_is_not_higher_than_itself(tmp_path: Path) -> None:
    codes = [f"11-{1000 + rank}.00" for rank in range(200)]
    tasks = tmp_path / "tasks.csv"
    rows = [
        f"{code}-1,{code},C,First.,Core,{1 + rank / 50}\n{code}-2,{code},C,Second.,Core,3"
        for rank, code in enumerate(codes)
    ]
    tasks.write_text("\n".join(["task_id,onet_soc_code,title,text,task_type,importance", *rows, ""]))
    said = {(code, f"{code}-{task}"): {"strict": task == 1, "with-tools": True} for code in codes for task in (1, 2)}
    run = answered(tmp_path / "run", said, tasks=str(tasks))
    export_run(run, tmp_path / "out", Choices(taxonomy="onet-soc", tasks=str(tasks)), draws=0, families=False)
    pages = [load(tmp_path / f"out/occupations/{codes[rank]}.json")["readings"]["strict"] for rank in (0, 2, 100, 199)]
    assert [page["percentile"] for page in pages] == [1, 2, 51, 100]
    places = ["among the lowest", "higher than 1%", "higher than 50%", "among the highest"]
    assert [page["higher_than"] for page in pages] == [f"{place} of the 200 scored occupations" for place in places]


def test_equal_scores_by_the_old_method_are_not_higher_than_each_other(tmp_path: Path) -> None:
    codes = ["11-1011.00", "11-2011.00", "11-2021.00"]
    tasks = tmp_path / "tasks.csv"
    rows = [f"{at},{code},C,Task {at}.,Core,3" for at, code in enumerate(codes)]
    tasks.write_text("\n".join(["task_id,onet_soc_code,title,text,task_type,importance", *rows, ""]))
    said = {"strict": False, "with-tools": True}
    run = answered(tmp_path / "run", {(code, str(at)): said for at, code in enumerate(codes)}, tasks=str(tasks))
    export_run(
        run,
        tmp_path / "out",
        Choices(method="site-2026", taxonomy="onet-soc", tasks=str(tasks)),
        draws=0,
        families=False,
    )
    pages = [load(tmp_path / f"out/occupations/{code}.json")["readings"]["strict"] for code in codes]
    assert [page["percentile"] for page in pages] == [33, 67, 100]
    assert [page["higher_than"].split(" of ")[0] for page in pages] == ["among the lowest"] * 2 + ["among the highest"]


def test_nothing_is_read_into_a_thin_score(sample_run: MakeRun, tmp_path: Path) -> None:
    export_run(sample_run(thin=("11-3051.00",)), tmp_path / "out", allow_partial=True)
    page = load(tmp_path / "out/occupations/1121.json")
    assert page["thin"] is True
    assert page["score"]["status"].startswith("thin: ")
    for said in page["readings"].values():
        assert said["score_10"] is not None
        assert (said["band"], said["band_label"], said["meaning"], said["now"]) == (None, None, None, [])
        assert said["percentile"] is said["higher_than"] is None
    assert page["matter_most"] is None
    assert load(tmp_path / "out/onet/11-3051.00.json")["thin"] is True
    whole = load(tmp_path / "out/occupations/8160.json")
    assert whole["thin"] is False
    assert all(said["band"] and said["meaning"] and said["now"] for said in whole["readings"].values())
    assert load(tmp_path / "out/onet/51-1011.00.json")["thin"] is False
    caveats = load(tmp_path / "out/methodology.json")["caveats"]
    assert any(
        said.startswith("1 group has a thin score, without percentile and band: less than 50%") for said in caveats
    )


def test_an_incomplete_run_is_refused_or_marked_in_every_file(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run(status="incomplete", without=("29-1141.00",))
    with pytest.raises(IncompleteRunError, match="--allow-partial"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_run(run, tmp_path / "out", allow_partial=True)
    for name, data in content(tmp_path / "out").items():
        assert b"PARTIAL" in data, name
        if name.endswith(".json") and name != "datapackage.json":
            assert json.loads(data)["partial"] is True, name
    assert load(tmp_path / "out/datapackage.json")["relabel"]["partial"] is True


def test_a_folder_in_other_use_is_refused_and_left_alone(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a file of an earlier export"):
        export_run(run, tmp_path / "mine")
    with pytest.raises(UsageError, match="is a file"):
        export_run(run, tmp_path / "mine/thesis.txt")
    export_run(run, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt, which is not"):
        export_run(run, tmp_path / "out")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_an_empty_folder_and_an_earlier_export_are_replaced(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run()
    (tmp_path / "out").mkdir()
    export_run(run, tmp_path / "out", Choices(taxonomy="onet-soc"))
    assert (tmp_path / "out/occupations/11-3051.00.json").exists()
    export_run(run, tmp_path / "out")
    assert not (tmp_path / "out/occupations/11-3051.00.json").exists()
    assert (tmp_path / "out/occupations/1121.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made-run", "out"]


def test_a_place_that_cannot_be_written_is_a_data_error(sample_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the export"):
        export_run(sample_run(), tmp_path / "file" / "out")


def test_nothing_is_left_behind_when_scoring_or_writing_fails(
    sample_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sample_run()
    export_run(run, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(UsageError):
        export_run(run, tmp_path / "out", Choices(taxonomy="soc2018"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        export_run(run, tmp_path / "out")
    monkeypatch.undo()
    assert content(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made-run", "out"]


@pytest.mark.slow
@pytest.mark.mirror
def test_the_published_labels_export_with_a_page_for_each_of_412_groups(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export_run(open_run("eloundou-2023:gpt4"), out, Choices(method="site-2026"))
    assert done.table.scored == 379
    assert len(list((out / "occupations").iterdir())) == 412
    page = load(out / "occupations/8160.json")
    assert (page["score"]["strict_10"], page["score"]["with_tools_10"]) == (1.5, 6.4)
    assert [part["onet_soc_code"] for part in page["onet"]] == ["51-1011.00"]
    exposed = sum(task["share"] for task in tasks_on(out, page) if task["code"] == "E1")
    assert round(exposed, 2) == page["score"]["alpha"]
    assert done.size < 20.5e6  # of which the intervals of scores and of other labels take 3 MB
    assert done.table.partial
    assert (done.table.note or "").startswith("PARTIAL: rests on 18,739 of 18,796 tasks")
    ids = [source["id"] for source in load(out / "sources.json")["sources"]]
    assert ids == sorted(ids)
    assert {"eloundou-2023", "onet-30.2", "ons-soc2020", "ons-ashe-2024", "bls-isco08-soc2010"} <= set(ids)
    caveats = load(out / "methodology.json")["caveats"]
    assert any("is a rebuilt copy, not the publisher's own" in caveat for caveat in caveats)
    shutil.rmtree(out)


def tasks_csv(tmp_path: Path, rows: str) -> str:
    path = tmp_path / "secret-folder" / "mine.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("task_id,onet_soc_code,title,text,task_type,importance\n" + rows, encoding="utf-8")
    return str(path)


E1 = {"strict": True, "with-tools": True}
E0 = {"strict": False, "with-tools": False}
A = "11-1011.00"


def test_no_file_names_the_folder_of_a_task_list(tmp_path: Path) -> None:
    tasks = tasks_csv(tmp_path, f"1,{A},Chiefs,Decide.,Core,3\n2,{A},Chiefs,Delegate.,Core,4\n")
    rubric = load_rubric("exposure").model_copy(
        update={"source": "/secret-folder/r.yaml", "prompt": "/secret-folder/p"}
    )
    old = SourceUse(source=tasks, file="mine.csv", sha256="0" * 64)
    run = answered(
        tmp_path / "a-run",
        {(A, "1"): E1, (A, "2"): E0},
        tasks=tasks,
        sources=(old, *task_sources(tasks)),
        rubric=rubric,
    )
    export_run(run, tmp_path / "out", Choices(taxonomy="onet-soc", tasks=tasks))
    for name, data in content(tmp_path / "out").items():
        assert b"secret-folder" not in data, name
        assert str(tmp_path).encode() not in data, name
    (source,) = load(tmp_path / "out/sources.json")["sources"]
    assert source["id"] == TASK_FILE
    assert {file["file"] for file in source["files"]} == {"mine.csv"}
    labels = load(tmp_path / "out/methodology.json")["labels"]
    assert (labels["tasks"], labels["rubric"]["source"], labels["rubric"]["prompt"]) == ("mine.csv", "r.yaml", "p")


@pytest.mark.parametrize("code", ["../../escape", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", "", "a\nb"])
def test_no_code_leads_out_of_the_folder(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(self: PageBuilder) -> Iterator[tuple[str, dict[str, Any]]]:
        yield code, {"title": "x"}

    monkeypatch.setattr(PageBuilder, "groups", hostile)
    with pytest.raises(DataError, match="cannot name a file of an export"):
        export_run(open_run("sample"), tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_the_root_of_the_file_system_is_no_place_for_an_export() -> None:
    with pytest.raises(UsageError, match="root of the file system; give a folder of its own to --out"):
        export_run(open_run("sample"), Path("/"))


def test_a_complete_run_over_a_part_of_the_list_is_refused_or_marked(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run(without=("29-1141.00",))
    assert run.manifest.status == "complete"
    with pytest.raises(IncompleteRunError, match=r"labelled 50 of the 60 tasks of sample.*--allow-partial"):
        export_run(run, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["made-run"]
    export_run(run, tmp_path / "out", allow_partial=True)
    for name, data in content(tmp_path / "out").items():
        assert b"PARTIAL: rests on 50 of 60 tasks" in data, name
    assert load(tmp_path / "out/datapackage.json")["relabel"]["partial"] is True


def test_a_run_of_one_setting_is_exported_with_one_measure(tmp_path: Path) -> None:
    tasks = tasks_csv(tmp_path, f"1,{A},Chiefs,Decide.,Core,3\n2,{A},Chiefs,Delegate.,Core,3\n")
    run = answered(
        tmp_path / "a-run", {(A, "1"): {"strict": True}, (A, "2"): {"strict": False}}, tasks=tasks, settings=("strict",)
    )
    export_run(run, tmp_path / "out", Choices(taxonomy="onet-soc", tasks=tasks))
    page = load(tmp_path / f"out/occupations/{A}.json")
    assert (page["score"]["alpha"], page["score"]["gamma"], page["score"]["status"]) == (0.5, None, "scored")
    assert page["counts"]["strict"]["text"] == "1 of 2"
    assert page["counts"]["with_tools"]["text"] == "0 of 0"
    assert sum(task["share"] for task in tasks_on(tmp_path / "out", page)) == pytest.approx(1, abs=1e-5)
    assert "no beta or gamma: the run has no labels for the setting with-tools" in page["note"]


def test_the_text_says_what_was_done_and_no_more(tmp_path: Path) -> None:
    tasks = tasks_csv(
        tmp_path, f"1,{A},Chiefs,Decide.,Core,\n2,{A},Chiefs,Delegate.,Core,\n3,15-1252.00,Coders,Code.,,4\n"
    )
    run = answered(tmp_path / "a-run", {(A, "1"): E1, (A, "2"): E0, ("15-1252.00", "3"): E1}, tasks=tasks)
    text = {
        weights: method_text(score_table(run, taxonomy="onet-soc", weights=weights, tasks=tasks))
        for weights in ("importance", "core", "equal")
    }
    assert "without a bridge" in text["importance"]
    assert "one without a rating weighs the mean of the rated tasks" in text["importance"]
    assert not any("ISCO" in said or "ASHE" in said or "jobs" in said for said in text.values())
    assert "rating" not in text["core"] + text["equal"]
    assert "a task weighs 2 if core" in text["core"]


def test_tasks_of_small_codes_are_left_to_their_own_pages() -> None:
    parts = [("a", 0.5), ("b", 0.2), ("c", 0.1), ("d", 0.1), ("e", 0.06), ("f", 0.04)]
    assert main_codes(parts) == 4
    assert main_codes([(str(n), 0.05) for n in range(20)]) == 12
    assert main_codes([("a", 1.0)]) == 1
    assert main_codes([]) == 0


@pytest.mark.slow
@pytest.mark.mirror
def test_a_derived_extract_is_called_derived(tmp_path: Path) -> None:
    table = score_table(open_run("eloundou-2023:gpt4"), pay="ons-ashe-2025-medians")
    derived = [
        said for said in caveats(table) if "is an extract that the publisher does not offer in this form" in said
    ]
    assert len(derived) == 1
    assert "2025" in derived[0]
    text = method_text(table)
    assert "one without a rating weighs the mean of the rated tasks of its occupation, 1 where none is rated" in text
    assert "links from military SOC 2010 codes (55-) to civilian SOC 2018 codes are dropped" in text
    assert "three-digit ISCO-08 groups 211 and 315" in text
    assert "median of ASHE 2025 (provisional)" in text
    site = method_text(score_table(open_run("eloundou-2023:gpt4"), method="site-2026"))
    assert "one without a rating weighs 1, as on the site" in site
    assert "military" not in site
