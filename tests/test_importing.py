"""`relabel import`: labels made elsewhere become a run; what is wrong in a file is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relabel.cli.app import run_app
from relabel.errors import ColumnError, DataError, UsageError
from relabel.evaluation.alignment import match
from relabel.evaluation.gold import load_gold
from relabel.importing import Imported, import_labels
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.sources.eloundou import relabel_models
from relabel.sources.fetch import sha256_of
from relabel.task import task_table
from run_builders import a_failure

Write = Callable[[str | bytes], Path]
HEAD = "task_id,onet_soc_code,label"
A = "11-3051.00"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str | bytes) -> Path:
        path = tmp_path / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def imported(path: Path, out: Path, rubric: str = "eloundou", tasks: str | None = "sample", **more: Any) -> Imported:
    return import_labels(path, model="them", rubric=load_rubric(rubric), out=out, tasks=tasks, **more)


def test_a_file_becomes_a_run_that_names_file_and_lines(write: Write, tmp_path: Path) -> None:
    path = write(f'\ufeff{HEAD},explanation,probability\r\nS001,{A},E1,"a\nb",0.9\r\nS002,{A},E3,=1+1,\r\n'.encode())
    done = imported(path, tmp_path / "run", mapping={"E3": "E2"})
    run = open_run(str(tmp_path / "run"))
    assert (done.labels, done.tasks, dict(done.mapped), done.not_in_list) == (2, 2, {"E3=E2": 1}, 0)
    assert run.labels[["task_id", "label", "rationale"]].to_numpy().tolist() == [
        ["S001", "E1", "a\nb"],
        ["S002", "E2", "=1+1"],  # text is text
    ]
    assert run.labels["probability"].tolist()[0] == 0.9
    sha = sha256_of(path)
    assert run.labels["request_key"].tolist() == [f"import:{sha}:2", f"import:{sha}:4"]
    manifest = run.manifest
    assert (manifest.status, manifest.engine, manifest.model, manifest.tasks) == (
        "complete",
        "import",
        "them",
        "sample",
    )
    assert manifest.parameters["imported"] is True
    assert manifest.parameters["map"] == {"E3": "E2"}
    assert (manifest.sources[0].file, manifest.sources[0].sha256) == ("labels.csv", sha)
    assert len(match(run, load_gold("sample"))) == 2


def test_repeats_may_be_numbered_from_any_number(write: Write, tmp_path: Path) -> None:
    lines = "".join(f"S001,{A},E0,{sample}\n" for sample in (1, 2, 3))
    imported(write(f"{HEAD},sample\n{lines}"), tmp_path / "run")
    assert open_run(str(tmp_path / "run")).manifest.parameters["samples"] == 3


def test_codes_follow_from_ids_that_stand_for_one_task(write: Write, tmp_path: Path) -> None:
    imported(write("Task ID,label\nS001,E0\n"), tmp_path / "run", tasks=None)
    assert open_run(str(tmp_path / "run")).labels["onet_soc_code"].tolist() == [A]


def test_names_of_columns_are_matched_without_case_blanks_and_signs(write: Write, tmp_path: Path) -> None:
    imported(write(f"Task ID,Label,O*NET-SOC Code\nS001,E1,{A}\n"), tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    assert run.labels[["task_id", "label", "onet_soc_code"]].to_numpy().tolist() == [["S001", "E1", A]]
    # The manifest has the names as the file spells them.
    assert run.manifest.parameters["columns"] == {
        "task_id": "Task ID",
        "onet_soc_code": "O*NET-SOC Code",
        "label three-way": "Label",
    }


def test_a_name_spelled_exactly_wins_over_one_that_is_alike(write: Write, tmp_path: Path) -> None:
    imported(write(f"Task ID,task_id,label,onet_soc_code\n1,S001,E1,{A}\n"), tmp_path / "run")
    assert open_run(str(tmp_path / "run")).labels["task_id"].tolist() == ["S001"]


def test_two_columns_that_could_both_be_meant_are_refused_by_their_names(write: Write, tmp_path: Path) -> None:
    path = write(f"Task ID,TASK-ID,label,onet_soc_code\n1,S001,E1,{A}\n")
    with pytest.raises(DataError, match="'Task ID' and 'TASK-ID', which could both be 'task_id'; rename one"):
        imported(path, tmp_path / "run")


def test_columns_named_like_the_settings_are_understood(write: Write, tmp_path: Path) -> None:
    path = write(f"task_id,onet_soc_code,Strict,with_tools\nS001,{A},not-exposed,exposed\n")
    imported(path, tmp_path / "run", "exposure")
    assert open_run(str(tmp_path / "run")).coded()["code"].tolist() == ["E2"]
    with pytest.raises(ColumnError, match=r"no column 'label' .*'Strict', 'with_tools'.*, or the rubric .* --rubric"):
        imported(path, tmp_path / "other")


def test_a_file_of_many_columns_without_label_shows_the_one_that_may_be_meant(write: Write, tmp_path: Path) -> None:
    path = write(
        f"{','.join(f'c{n}' for n in range(18))},task_id,onet_soc_code,gpt54_exposure\n{'x,' * 18}S001,{A},E1\n"
    )
    with pytest.raises(ColumnError, match=r"'gpt54_exposure'\); name the column with --label-column"):
        imported(path, tmp_path / "run")


def test_a_label_of_another_rubric_is_refused_with_the_option_for_it(write: Write, tmp_path: Path) -> None:
    path = write(f"{HEAD}\nS001,{A},exposed\n")
    with pytest.raises(DataError, match=r"line 2: label must be one of E1, E2, E0, not 'exposed'; .* --rubric"):
        imported(path, tmp_path / "run")


def test_an_empty_file_is_called_empty(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv is empty"):
        imported(write(""), tmp_path / "run")


def test_an_id_of_several_tasks_needs_codes(write: Write, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("task_id,onet_soc_code,title,text\n7,11-1011.00,a,x\n7,11-1021.00,b,y\n")
    with pytest.raises(DataError, match=r"line 2: task_id must be the id of one task of .*, not '7'"):
        imported(write("task_id,label\n7,E0\n"), tmp_path / "run", tasks=str(tasks))


def test_two_settings_come_as_lines_or_as_columns(write: Write, tmp_path: Path) -> None:
    lines = write(f"{HEAD},setting,sample\nS001,{A},exposed,strict,0\nS001,{A},exposed,with-tools,0\n")
    imported(lines, tmp_path / "a", "exposure")
    columns = write(f"task_id,soc_code,alone,tools\nS001,{A},exposed,exposed\n")
    imported(columns, tmp_path / "b", "exposure", columns={"label": {"strict": "alone", "with-tools": "tools"}})
    first, second = (open_run(str(tmp_path / name)).coded() for name in "ab")
    assert first["code"].tolist() == second["code"].tolist() == ["E1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}\nS001,{A},E0\nS002,{A},E3\n", "line 3: label must be one of E1, E2, E0, not 'E3'; .* --map OLD=NEW"),
        (f"{HEAD}\nS001,{A},E0\nS001,{A},E0\n", "line 3 repeats onet_soc_code 11-3051.00, task_id S001, .* of line 2"),
        (f"{HEAD}\nS001,{A},\n", "line 2: label must be .*, not ''"),
        (f"{HEAD}\n,{A},E0\n", "line 2 has no task_id"),
        (f"{HEAD}\n=1+1,{A},E0\n", r"line 2: task_id '=1\+1' is a formula"),
        (f"{HEAD}\n8823.0,{A},E0\n8823,{A},E0\n", "line 3 repeats .* task_id 8823"),
        (f"{HEAD}\nS001,11-3051,E0\n", "'11-3051' is not an O.NET-SOC code; write it in full"),
        ("task_id,label\nS999,E0\n", "line 2: task_id must be the id of one task of sample, not 'S999'"),
        (
            f"{HEAD},setting\nS001,{A},E0,lax\n",
            "setting must be one of three-way, not 'lax'; correct the line, or name",
        ),
        (f"{HEAD},sample\nS001,{A},E0,x\n", "line 2: sample must be a whole number"),
        (f"{HEAD},probability\nS001,{A},E0,1.5\n", "line 2: probability must be from 0 to 1"),
        (f"{HEAD},explanation\nS001,{A},E0,{'x' * 5000}\n", "line 2: rationale must be at most 4,000 characters"),
    ],
)
def test_a_bad_line_is_refused_and_nothing_is_written(write: Write, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        imported(write(text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_wrong_request_is_refused(write: Write, tmp_path: Path) -> None:
    path = write(f"{HEAD}\nS001,{A},exposed\n")
    with pytest.raises(ColumnError, match="no column 'answer'"):
        imported(path, tmp_path / "run", columns={"label": "answer"})
    with pytest.raises(UsageError, match="E9 is not a label of the rubric"):
        imported(path, tmp_path / "run", mapping={"exposed": "E9"})
    with pytest.raises(UsageError, match="say which one the labels answer with --setting"):
        imported(path, tmp_path / "run", "exposure")


def test_a_run_that_was_paid_for_is_not_overwritten(write: Write, tmp_path: Path) -> None:
    path, out = write(f"{HEAD}\nS001,{A},E0\n"), tmp_path / "run"
    imported(path, out)
    imported(path, out)  # an import may be made again
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"engine": "online"}))
    with pytest.raises(UsageError, match="already holds a run"):
        imported(path, out)


def test_the_command_says_what_it_did(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(f"{HEAD}\nS001,{A},E3\n")
    arguments = ["import", str(path), "--model", "them", "--out", str(tmp_path / "run")]
    assert run_app([*arguments, "--map", "E3=E2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mapped"] == {"E3=E2": 1}
    assert run_app([*arguments, "--map", "E3"]) == 2
    assert "--map E3: write it as OLD=NEW" in capsys.readouterr().err
    assert run_app(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "--model gpt-5" in capsys.readouterr().err


@pytest.mark.mirror
def test_the_relabels_of_2026_import_by_name(tmp_path: Path) -> None:
    assert run_app(["import", "relabels-2026:gpt-4-0613", "--out", str(tmp_path / "old")]) == 0
    run = open_run(str(tmp_path / "old"))
    # Ids of O*NET 30.2 that 2023 did not have, and no codes: they follow from the ids.
    assert run.manifest.tasks == "onet-30.2"
    assert run.labels["label"].value_counts().to_dict() == {"E0": 8633, "E1": 8083, "E2": 1970}
    assert len(match(run, load_gold("eloundou-2023:human"))) == 18629


@pytest.mark.mirror
@pytest.mark.parametrize("model", ["gpt-4-turbo-2024-04-09", "gpt-5", "gpt-5.1", "o1"])
def test_the_smaller_relabels_import_too(model: str, tmp_path: Path) -> None:
    assert model in relabel_models()
    assert run_app(["import", f"relabels-2026:{model}", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert len(open_run(str(tmp_path / "run")).labels) == 1014


def test_a_file_given_as_a_run_is_answered_with_the_command_that_makes_one(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(f"{HEAD}\nS001,{A},E1\n")
    assert run_app(["eval", str(path)]) == 3
    assert f"with `relabel import {path} --model NAME --out runs/labels`, and give that" in capsys.readouterr().err


def test_row_numbers_without_codes_are_refused(write: Write, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("task_id,onet_soc_code,title,text\n" + "".join(f"{n},{A},T,Do {n}.\n" for n in range(30)))
    lines = "".join(f"{n},E0\n" for n in range(20))
    with pytest.raises(DataError, match="count from 0 to 19 like row numbers"):
        imported(write(f"id,label\n{lines}"), tmp_path / "run", tasks=str(tasks))


def test_ids_whose_statements_are_others_are_refused(write: Write, tmp_path: Path) -> None:
    text = "id,label,Task\nS001,E0,Paint the fence of the garden.\nS002,E1,Milk cows at dawn.\n"
    with pytest.raises(DataError, match=r"line 2: the task is another statement in sample, .* are 2 of 2"):
        imported(write(text), tmp_path / "run")
    right = task_table("sample").iloc[:2]
    text = "id,label,Task\n" + "".join(f'{i},E0,"{t}"\n' for i, t in zip(right["task_id"], right["text"], strict=True))
    assert imported(write(text), tmp_path / "run").labels == 2


def test_statements_that_were_sorted_apart_from_their_ids_and_codes_are_refused(write: Write, tmp_path: Path) -> None:
    tasks = task_table("sample")
    lines = zip(tasks["task_id"], tasks["onet_soc_code"], sorted(tasks["text"]), strict=True)
    text = "id,soc_code,label,Task\n" + "".join(f'{i},{code},E0,"{statement}"\n' for i, code, statement in lines)
    with pytest.raises(DataError, match=r"line 2: the task is another statement in sample, and so are \d\d of 60"):
        imported(write(text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.mirror
def test_labels_without_codes_that_agree_by_chance_only_are_warned_about(write: Write, tmp_path: Path) -> None:
    ids = task_table("eloundou-2023")["task_id"].iloc[:300]
    labels = open_run("eloundou-2023:gpt4").labels.set_index("task_id")["label"]
    moved = "".join(f"{i},{labels[j]}\n" for i, j in zip(ids, ids[::-1], strict=True))
    done = imported(write(f"task_id,label\n{moved}"), tmp_path / "run", tasks="eloundou-2023")
    assert "no better than chance" in done.notes[0]
    right = "".join(f"{i},{labels[i]}\n" for i in ids)
    assert imported(write(f"task_id,label\n{right}"), tmp_path / "right", tasks="eloundou-2023").notes == ()


@pytest.mark.mirror
def test_titles_that_disagree_with_their_code_are_named(write: Write, tmp_path: Path) -> None:
    rows = "Task ID,O*NET-SOC Code,Title,label\n8823,11-1011.00,{},E1\n"
    done = imported(write(rows.format("Agricultural advisers")), tmp_path / "run", tasks="eloundou-2023")
    (note,) = done.notes
    assert note.endswith("11-1011.00 is 'Agricultural advisers' in the list, 'Chief Executives' in O*NET")
    assert imported(write(rows.format("Chief Executives")), tmp_path / "right", tasks="eloundou-2023").notes == ()


@pytest.mark.slow
@pytest.mark.mirror
def test_an_imported_random_sample_of_tasks_gives_means_by_major_group(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = open_run("eloundou-2023:gpt4").labels.sample(600, random_state=1)
    path = write(labels[["task_id", "onet_soc_code", "label"]].to_csv(index=False))
    words = ["import", str(path), "--model", "m", "--tasks", "eloundou-2023", "--out"]
    for name, declared in (("plain", []), ("random", ["--random-sample"])):
        assert run_app([*words, str(tmp_path / name), *declared]) == 0
        capsys.readouterr()
        score = ["score", str(tmp_path / name), "--tasks", "eloundou-2023", "--weights", "core", "--json"]
        assert run_app(score) == 0
        document = json.loads(capsys.readouterr().out)
        assert ("major_groups" in document) == bool(declared)
    everything = document["major_groups"][-1]
    assert everything["gamma_low"] < 0.50 < everything["gamma_high"]
    # If some were not asked at all, what has labels is the beginning of the list.
    gap = a_failure("51-1011.00", "1", "three-way")
    for attempts, estimated in ((1, True), (0, False)):
        line = gap.model_copy(update={"attempts": attempts}).model_dump_json()
        (tmp_path / "random" / "failures.jsonl").write_text(f"{line}\n", encoding="utf-8")
        assert run_app(score) == 0
        assert ("major_groups" in json.loads(capsys.readouterr().out)) == estimated
