"""Warnings of `relabel rubric check`, and what is said of a rubric that nobody has tried."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relabel.cli.app import run_app
from relabel.errors import RubricError
from relabel.labelling.request import Endpoint, Planner, load_prompt
from relabel.rubric import NOT_TRIED, load_rubric, rubric_names, rubric_path
from relabel.task import load_tasks, task_table

GOOD = rubric_path("exposure").read_text()
SCOPE = load_rubric("exposure").settings["strict"].scope


def checked(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("id: exposure", "id: mine"))
    assert run_app(["rubric", "check", str(path), "--json"]) == 0
    document: Any = json.loads(capsys.readouterr().out)
    return document["warnings"]


@pytest.mark.parametrize("name", [*rubric_names(), "exposure@2"])
def test_of_the_rubrics_that_ship_only_version_1_is_warned_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["rubric", "check", name, "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [w.partition(":")[0] for w in warnings] == (["settings.strict.scope"] if name == "exposure@1" else [])


def test_examples_of_one_label_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = GOOD.replace("{strict: exposed, with-tools: exposed}", "{strict: not-exposed, with-tools: exposed}")
    (warning,) = checked(one, tmp_path, capsys)
    assert warning.startswith("settings.strict: all worked examples are labelled not-exposed")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.upper().rstrip("."),
        lambda text: f"Usually, {text[0].lower()}{text[1:]}",
        lambda text: text.replace(" and ", ", "),
        lambda text: f"As part of the daily routine, together with colleagues, {text[0].lower()}{text[1:]}",
        lambda text: " ".join(text.split()[: len(text.split()) * 6 // 10]) + ".",
    ],
)
def test_an_example_that_is_nearly_a_gold_task_is_warned_of(
    change: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = change(task_table("sample")["text"].iloc[2]).replace('"', "'")
    (warning,) = checked(
        GOOD.replace("Nail shingles in overlapping rows to cover roof surfaces.", f'"{text}"'), tmp_path, capsys
    )
    assert warning.startswith("examples.2.task: is too close to the task 'Walk the shop floor")


@pytest.mark.mirror
def test_a_task_of_2023_is_found_among_the_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = task_table("eloundou-2023")["text"].iloc[4000].rstrip(".").lower()
    old = "Nail shingles in overlapping rows to cover roof surfaces."
    (warning,) = checked(GOOD.replace(old, json.dumps(text)), tmp_path, capsys)
    assert "of eloundou-2023" in warning


@pytest.mark.parametrize(
    ("scope", "warned"),
    [
        ("The model sees no images. It cannot open files. It does not know company data.", True),
        ("The model cannot see images, open files, search the web or act in other programs.", True),
        ("A chat window and nothing else: no images, no files, no web.", True),
        ("The worker has a chat window. It isn't connected to files, the web, or other programs.", True),
        ("Images are out of its reach. Databases are closed to it. Recent events are unknown to it.", True),
        (
            "Pictures, drawings and scans are excluded. Anything on the web, in files or databases is inaccessible.",
            True,
        ),
        (
            "The worker is limited to text. Acting in other programs is impossible, and long documents are refused.",
            True,
        ),
        ("It rarely gets facts right, seldom follows instructions, and is barred from other programs.", True),
        ("The model writes, translates and summarises text. It cannot open files.", False),
        ("The model writes, translates and summarises text, and images are out of its reach.", False),
        ("The model is open to all questions, is quick and is seldom wrong.", False),
        ("The model cannot open files, but it writes letters, drafts code and answers questions.", False),
    ],
)
def test_a_text_that_names_only_what_the_help_cannot_do_is_warned_of(
    scope: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, rest = GOOD.partition("    scope: |\n")
    found = checked(
        f"{head}    scope: {json.dumps(scope)}\n  with-tools:{rest.partition('  with-tools:')[2]}", tmp_path, capsys
    )
    assert [w.partition(":")[0] for w in found] == (["settings.strict.scope"] if warned else [])


def test_a_rubric_without_trials_is_marked_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.partition("validity:")[0])
    for words in (["show", str(path)], ["check", str(path)]):
        assert run_app(["rubric", *words]) == 0
        assert NOT_TRIED in " ".join(capsys.readouterr().out.split())
    assert run_app(["rubric", "list"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert listed.count(NOT_TRIED) == 2  # automation, epoch
    assert "exposure@1" in listed
    assert "0.735 with eloundou-2023:human" in listed


def test_a_trial_without_people_is_no_trial_against_people(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("people: true", "people: false"))
    assert load_rubric(str(path)).validity_in_words()[-1] == NOT_TRIED


def test_a_trial_of_other_words_is_no_trial_of_these(tmp_path: Path) -> None:
    assert all(
        study.wording == load_rubric(name).wording for name in rubric_names() for study in load_rubric(name).validity
    )
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("Nail shingles", "Nail slates").replace("version: 2", "version: 3"))
    changed = load_rubric(str(path))
    assert (changed.tried, changed.validity_in_words()[-1]) == (False, NOT_TRIED)
    assert "a trial of another wording" in changed.validity_in_words()[0]
    path.write_text(re.sub(r"\n    wording: \w+", "", GOOD))
    assert load_rubric(str(path)).tried
    assert "does not record which wording" in load_rubric(str(path)).validity_in_words()[0]
    path.write_text(GOOD.replace("version: 2", "version: 3").replace("title: ", "title: The same words. "))
    assert load_rubric(str(path)).tried


def test_what_is_known_of_a_rubric_changes_neither_its_hash_nor_a_request(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.partition("validity:")[0])
    bare, shipped = load_rubric(str(path)), load_rubric("exposure")
    assert (bare.validity, bare.sha256) == ((), shipped.sha256)
    keys = {
        Planner(rubric, load_prompt("task"), Endpoint(host="h", model="m"))
        .request(load_tasks("sample")[:1], setting)
        .key
        for rubric in (bare, shipped)
        for setting in rubric.settings
    }
    assert len(keys) == 2
    path.write_text(
        GOOD.replace("half the usual time or less", "a third of it or less").replace("id: exposure", "id: mine")
    )
    assert load_rubric(str(path)).sha256 != shipped.sha256


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("n: 240", "n: 0", "validity.0.n"),
        ("with-tools: 0.408", "with-tools: 40.8", "validity.0.rates.with-tools"),
        ("people: true, ", "", "people: is missing; add it"),
        ("when: 2026-11\n", "when: 2026-11-30\n", None),
    ],
)
def test_a_trial_is_read_strictly(old: str, new: str, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    if words is None:
        assert load_rubric(str(path)).validity[0].when == "2026-11-30"
        return
    with pytest.raises(RubricError, match=words):
        load_rubric(str(path))
