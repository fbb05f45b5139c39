"""A user's own releases, by a registry entry: they score under their own id and year, and a run by the list that it labelled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from relabel.errors import DataError, UsageError
from relabel.importing import import_labels
from relabel.publishing.export import export_run
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.scoring.explain import explain
from relabel.scoring.measures import with_labels_of
from relabel.scoring.options import Choices
from relabel.scoring.pay import read_pay
from relabel.scoring.table import score_table
from relabel.sources.registry import get_source
from relabel.task import task_table

Register = Callable[[str, str, dict[str, str], dict[str, bytes]], None]
HEADS = {
    "tasks": "O*NET-SOC Code\tTask ID\tTask\tTask Type\n",
    "occupations": "O*NET-SOC Code\tTitle\tDescription\n",
    "task-ratings": "O*NET-SOC Code\tTask ID\tScale ID\tData Value\n",
}


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Add a source to the registry and to a mirror that has all others too."""
    mirror, registry = tmp_path / "mirror", tmp_path / "own.toml"
    mirror.mkdir()
    if real := os.environ.get("RELABEL_DATA_MIRROR"):
        for folder in Path(real).iterdir():
            (mirror / folder.name).symlink_to(folder.resolve())
    entries: list[str] = []
    registry.write_text("source = []")
    monkeypatch.setenv("RELABEL_DATA_MIRROR", str(mirror))
    monkeypatch.setenv("RELABEL_SOURCES", str(registry))

    def add(source: str, release: str, files: dict[str, str], contents: dict[str, bytes]) -> None:
        about = dict.fromkeys(("title", "publisher", "licence", "citation"), "made for a test")
        lines = [
            "[[source]]",
            *(f"{k} = {json.dumps(v)}" for k, v in (about | {"id": source, "release": release}).items()),
        ]
        lines.append('homepage = "https://example.org"')
        for role, name in files.items():
            lines += ["[[source.file]]", f"name = {json.dumps(name)}", f'role = "{role}"']
            (mirror / source).mkdir(exist_ok=True)
            (mirror / source / name).write_bytes(contents[role])
        entries.extend(lines)
        registry.write_text("\n".join(entries))

    return add


def test_a_run_on_a_release_of_ones_own_is_scored_by_it(register: Register, tmp_path: Path) -> None:
    rows = [("13-2011.00", str(n), f"Do thing {n}.", "core") for n in range(1, 5)]
    texts = {
        "tasks": "".join("\t".join(row) + "\n" for row in rows),
        "occupations": "13-2011.00\tAccountants and Auditors\tAccount.\n",
        "task-ratings": "".join(f"13-2011.00\t{row[1]}\tIM\t4\n" for row in rows),
    }
    names = {"tasks": "Task Statements.txt", "occupations": "Occupation Data.txt", "task-ratings": "Task Ratings.txt"}
    register("onet-31.0", "31.0", names, {role: (HEADS[role] + text).encode() for role, text in texts.items()})
    labels = tmp_path / "labels.csv"
    labels.write_text("Task ID,O*NET-SOC Code,label\n" + "".join(f"{n},13-2011.00,E1\n" for n in range(1, 5)))
    import_labels(labels, model="m", rubric=load_rubric("eloundou"), out=tmp_path / "run", tasks="onet-31.0")
    run = open_run(str(tmp_path / "run"))
    for weights in ("importance", "core", "equal"):
        table = score_table(run, taxonomy="onet-soc", weights=weights)
        assert (table.tasks, table.labels_unmatched) == ("onet-31.0", 0)
        assert table.frame[["alpha", "status"]].to_numpy().tolist() == [[1.0, "scored"]]


@pytest.mark.slow
@pytest.mark.mirror
def test_pay_of_another_year_is_an_entry_and_every_row_names_its_year(register: Register) -> None:
    old = get_source("ons-ashe-2024")
    roles = ("pay", "pay-quality")
    names = {role: old.with_role(role).name for role in roles}
    folder = Path(os.environ["RELABEL_DATA_MIRROR"]) / old.id
    contents = {role: (folder / name).read_bytes() for role, name in names.items()}
    register("ons-ashe-2025", "2025 provisional", names, contents)
    register("ons-ashe-2026", "2026", {"pay": names["pay"]}, contents)  # without its quality
    run = open_run("eloundou-2023:gpt4")
    table = score_table(run, pay="ons-ashe-2025")
    assert set(table.frame["pay_source"].dropna()) == {"ASHE 2025 (provisional)"}
    assert {use.source for use in table.sources if "ashe" in use.source} == {"ons-ashe-2025"}
    assert table.frame["employees_cv"].notna().any()
    later = score_table(run, pay="ons-ashe-2026")
    assert set(later.frame["pay_source"].dropna()) == {"ASHE 2026"}
    assert later.frame["employees_cv"].isna().all()
    assert later.frame["median_pay_gbp"].equals(table.frame["median_pay_gbp"])


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([("2135", 52_000), ("2134", 48_000)], None),
        (
            [("2135", 980.5), ("2134", 920.1)],
            "has 950 pounds as the middle group's median pay, so it is not annual pay",
        ),
        ([("2135", 52_000), ("1116", 33_000)], "has the group 1116, so it is not annual pay by UK SOC 2020"),
        ([("2135", 52_000), ("2135", 48_000)], "'2135' occurs more than once"),
    ],
)
def test_an_ashe_table_of_other_pay_or_codes_is_refused(
    register: Register, tmp_path: Path, groups: list[tuple[str, float]], said: str | None
) -> None:
    rows = [{"Description": "G", "Code": code, "(thousand)": 9, "Median": pay, "Mean": pay} for code, pay in groups]
    pd.DataFrame(rows).to_excel(tmp_path / "t.xlsx", sheet_name="All", index=False)
    source = f"ashe-{groups[0][1]:.0f}-{groups[1][0]}"  # of its own, because its first file is pinned
    register(source, "2020", {"pay": "t.xlsx"}, {"pay": (tmp_path / "t.xlsx").read_bytes()})
    if said is None:
        assert read_pay(source, {}).frame["median_pay_gbp"].tolist() == [52_000, 48_000]
        return
    with pytest.raises(DataError, match=said):
        read_pay(source, {})


@pytest.mark.mirror
def test_core_weights_need_task_types(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("Task ID,O*NET-SOC Code,Title,Task\n8823,11-1011.00,Chief Executives,Lead.\n")
    with pytest.raises(UsageError, match="has no values of task_type"):
        score_table(open_run("eloundou-2023:gpt4"), taxonomy="onet-soc", weights="core", tasks=str(tasks))


@pytest.mark.slow
@pytest.mark.mirror
def test_tasks_whose_codes_the_crosswalk_lacks_are_counted(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    rows = "1,15-1132.00,Developers,Write programs.\n2,15-1132.00,Developers,Test them.\n3,11-1011.00,Chiefs,Lead.\n"
    tasks.write_text("Task ID,O*NET-SOC Code,Title,Task\n" + rows)
    labels = tmp_path / "labels.csv"
    labels.write_text("Task ID,O*NET-SOC Code,label\n1,15-1132.00,E1\n2,15-1132.00,E1\n3,11-1011.00,E2\n")
    import_labels(labels, model="m", rubric=load_rubric("eloundou"), out=tmp_path / "run", tasks=str(tasks))
    run = open_run(str(tmp_path / "run"))
    lost = "2 tasks are in no score, because the crosswalk lacks their codes (15-1132.00)"
    for taxonomy, said in (("soc2018", True), ("onet-soc", False)):
        table = score_table(run, taxonomy=taxonomy, weights="equal", tasks=str(tasks))
        assert (lost in (table.note or "")) is said


@pytest.mark.slow
@pytest.mark.mirror
def test_titles_that_disagree_with_their_code_are_named_in_the_table(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    # With O*NET's statement, as one that is another task would not keep the label.
    text = task_table("onet-30.2").set_index("task_id")["text"]["8823"]
    head = "Task ID,O*NET-SOC Code,Title,Task\n"
    tasks.write_text(f'{head}8823,11-1011.00,Agricultural advisers,"{text}"\n')
    table = score_table(open_run("eloundou-2023:gpt4"), weights="equal", tasks=str(tasks))
    assert "11-1011.00 is 'Agricultural advisers' in the list, 'Chief Executives' in O*NET" in (table.note or "")


@pytest.mark.slow
@pytest.mark.mirror
def test_labels_of_exchanged_statements_do_not_count_where_ids_stayed(tmp_path: Path) -> None:
    run = open_run("eloundou-2023:gpt4")
    listed = task_table("onet-30.2")
    exchanged = listed.index[:600]
    # Each of the 600 gets the statement of another occupation, far away in the list; 58 others stay reworded.
    texts = listed["text"].to_list()
    listed.loc[exchanged, "text"] = texts[9000:9600]
    file = tmp_path / "next.csv"
    listed.to_csv(file, index=False)
    before, after = (score_table(run, tasks=tasks) for tasks in ("onet-30.2", str(file)))
    counts, own = after.describe()["counts"], before.describe()["counts"]
    assert own["tasks_replaced"] == 0
    assert 570 <= counts["tasks_replaced"] <= 600
    assert counts["tasks_labelled"] == own["tasks_labelled"] - counts["tasks_replaced"]
    assert counts["labels_unmatched"] == own["labels_unmatched"]
    assert (after.partial, len(after.describe()["texts_replaced"])) == (True, counts["tasks_replaced"])
    assert f"{counts['tasks_replaced']} tasks are other statements than the run labelled" in str(after.note)
    assert after.occupations["coverage"].lt(0.1).sum() > before.occupations["coverage"].lt(0.1).sum()
    gone = after.task_values[after.task_values["replaced"]]
    assert set(gone["onet_soc_code"]) <= set(listed.loc[exchanged, "onet_soc_code"])
    assert gone[["code", "alpha", "beta", "gamma"]].isna().all(axis=None)
    # The published method goes by the id, and says so.
    site = score_table(run, tasks=str(file), method="site-2026")
    assert site.describe()["counts"]["tasks_labelled"] == own["tasks_labelled"]
    assert "keep their label, as in the published method" in str(site.note)
    # Raters beside the run are judged alike.
    people = with_labels_of(after.task_values, open_run("eloundou-2023:human"), "mean", by_id=False)
    assert people["replaced"].sum() == counts["tasks_replaced"]
    assert not (people["labelled"] & people["replaced"]).any()


def test_a_replaced_statement_shows_in_the_explanation_without_the_answers_to_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "13-2011.00"
    monkeypatch.chdir(tmp_path)  # a run of imported labels knows its list by name
    for name, second in (("old", "Prepare tax returns for clients."), ("new", "Feed penguins in the zoo at noon.")):
        rows = f"1,{code},Accountants,Audit the books of firms.\n2,{code},Accountants,{second}\n"
        (tmp_path / f"{name}.csv").write_text("task_id,onet_soc_code,title,text\n" + rows)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"task_id,onet_soc_code,label\n1,{code},E1\n2,{code},E0\n")
    old, new = str(tmp_path / "old.csv"), str(tmp_path / "new.csv")
    import_labels(labels, model="m", rubric=load_rubric("eloundou"), out=tmp_path / "run", tasks=old)
    run = open_run(str(tmp_path / "run"))
    kept, lost = (score_table(run, tasks=tasks, taxonomy="onet-soc", weights="equal") for tasks in (old, new))
    assert (kept.occupations["alpha"][code], lost.occupations["alpha"][code]) == (0.5, 1.0)
    assert lost.occupations["coverage"][code] == 0.5
    first, second = sorted(explain(lost, run, code).tasks, key=lambda task: task.task_id)
    assert (first.code, len(first.given), first.missing) == ("E1", 1, ())
    assert (second.code, second.given, second.part) == (None, (), 0.0)
    assert second.missing == ("the run labelled another statement under this id",)
    choices = Choices(taxonomy="onet-soc", weights="equal", tasks=new)
    export_run(run, tmp_path / "out", choices, allow_partial=True, draws=0, families=False)
    frame = pd.read_csv(tmp_path / "out" / "tasks.csv")
    assert frame["code"].isna().tolist() == [False, True]
