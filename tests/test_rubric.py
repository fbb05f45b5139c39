"""A rubric that is wrong is refused with file, key and reason."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from relabel.errors import RubricError
from relabel.labelling.request import load_prompt
from relabel.rubric import load_rubric, rubric_names, rubric_path

GOOD = rubric_path("exposure").read_text()


@pytest.mark.parametrize("name", rubric_names())
def test_rubrics_that_ship_are_good(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.examples
    assert {label for e in rubric.examples for label in e.labels.values()} == set(rubric.labels)


def test_automation_has_no_codes_of_exposure(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = rubric_path("automation").read_text()
    path.write_text(text + "codes: {E1: {automation: T4}}\n")
    with pytest.raises(RubricError, match="codes: applies to labels of exposure"):
        load_rubric(str(path))
    assert load_rubric("automation").code({"automation": "T4"}) is None


def test_the_code_follows_from_the_pair() -> None:
    code = load_rubric("exposure").code
    pairs = {(s, t): code({"strict": s, "with-tools": t}) for s, t in product(["exposed", "not-exposed"], repeat=2)}
    assert pairs == {
        ("exposed", "exposed"): "E1",
        ("exposed", "not-exposed"): "E1",
        ("not-exposed", "exposed"): "E2",
        ("not-exposed", "not-exposed"): "E0",
    }
    assert code({"with-tools": "exposed"}) is None


@pytest.mark.parametrize("name", [name for name in rubric_names() if load_rubric(name).codes])
def test_measures_are_those_of_the_paper(name: str) -> None:
    measures = load_rubric(name).measures
    assert {m: [measures[m][c] for c in ("E0", "E1", "E2")] for m in measures} == {  # pyright: ignore[reportArgumentType]  codes as literals
        "alpha": [0, 1, 0],
        "beta": [0, 1, 0.5],
        "gamma": [0, 1, 1],
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("id: exposure", "id: Exposure Rubric", "id: "),
        ("version: 2", "version: two", "version: must be a valid integer"),
        (
            "version: 2",
            "version: 2\nversions: 1",
            "versions: is unknown; remove it, or correct its name",
        ),
        ("definition: |", "definitions: |", "definition: is missing; add it"),
        ("    question: Is the task exposed to the model alone?\n", "", "settings.strict.question: is missing; add it"),
        (
            "{strict: exposed, with-tools: exposed}",
            "{strict: exposed, with-tools: maybe}",
            "examples.0.labels.with-tools: 'maybe' is not a label",
        ),
        (
            "{strict: exposed, with-tools: exposed}",
            "{strict: exposed}",
            "examples.0.labels: must name each setting once",
        ),
        (
            "  E2: {strict: not-exposed, with-tools: exposed}\n",
            "",
            "codes: no code fits the answers strict: not-exposed, with-tools: exposed",
        ),
        (
            "alpha: {E0: 0, E1: 1, E2: 0}",
            "alpha: {E0: 0, E1: 1.5, E2: 0}",
            "measures.alpha.E1: must be a number from 0 to 1",
        ),
        ("beta: {E0: 0, E1: 1, E2: 0.5}", "beta: {E0: 0.5, E1: 1, E2: 0.5}", "alpha <= beta <= gamma must hold for E0"),
        (
            "  not-exposed: It",
            "  unexposed: It",
            "labels: strict and with-tools are answered exposed or not-exposed",
        ),
        ("  exposed: With", "  yes: The", "(YAML reads bare yes, no, on and off as true or false: put it in quotes)"),
        ("unit: task", "unit: task\nunit: task", "the key 'unit' occurs twice"),
        ("unit: task", "unit: [task", "line"),
    ],
)
def test_a_broken_rubric_names_file_key_and_reason(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(RubricError) as caught:
        load_rubric(str(path))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_users_rubric_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("id: exposure", "id: mine"))
    assert load_rubric(str(path)).id == "mine"


@pytest.mark.parametrize("text", ["", "- a list", "just words", "&a [*a]", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_rubric_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RubricError):
        load_rubric(str(path))


def test_an_unknown_rubric_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RubricError, match="eloundou, epoch, exposure"):
        load_rubric("exposur")


def test_a_rubric_survives_its_manifest() -> None:
    rubric = load_rubric("exposure")
    assert type(rubric).model_validate_json(rubric.model_dump_json()) == rubric


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% block system %}x{% endblock %}", "has no block 'user'"),
        ("{% block system %}{% endblock %}{% block user %}{{ oops", "correct the template"),
    ],
)
def test_a_broken_prompt_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(text)
    with pytest.raises(RubricError, match=words):
        load_prompt(str(path))


@pytest.mark.parametrize(
    "bomb",
    [
        "\n".join(["a0: &a0 {x: 1, y: 2}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]),
        "\n".join(
            ["a0: &a0 {x0: 1}", *(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
        ),
        "a: &a [*a]",
        "[" * 100_000,
    ],
)
def test_a_file_that_repeats_itself_without_end_is_one_sentence(bomb: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(bomb)
    with pytest.raises(RubricError, match=r"repeats|deeply"):
        load_rubric(str(tmp_path / "theirs.yaml"))
