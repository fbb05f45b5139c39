"""Suites: what a file may say, and what is said of a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.errors import DataError
from relabel.evaluation.suite import load_suite
from relabel.settings import asset_dir

GATE = "{id: g, setting: three-way, metric: kappa, min: 0.4}"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_a_suite_says_gold_slices_baseline_and_gates(write: Write) -> None:
    suite = load_suite(
        str(
            write(
                "name: s\ngold: sample\nbaseline: {run: sample}\nslices:\n  office: {soc_major: [43, '11'], task_type: [Core]}\n"
                f"gates:\n  - {GATE}\n  - {{id: h, measure: beta, metric: pearson, max_drop: 0.02, slice: office}}\n"
            )
        )
    )
    assert suite.slices["office"].soc_major == ("43", "11")
    assert suite.gates[1].max_drop == 0.02
    assert (suite.family, suite.level, suite.draws) == ("joint", 0.95, 2000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "a suite is a mapping"),
        ("name: s\ngates: [", "line 2"),
        (f"gates: [{GATE}]", "name: is missing"),
        ("name: s\ngates: []", "gates: must have at least 1 item, not 0"),
        (f"name: s\ngats: [{GATE}]\ngates: [{GATE}]", "gats: is not a known key here"),
        (f"name: s\ngates: [{GATE}, {GATE}]", "another gate has this id"),
        (
            "name: s\ngates: [{id: g, setting: three-way, metric: kapa, min: 0}]",
            "'kapa' is not a figure of three-way; use one of accuracy, kappa",
        ),
        (
            "name: s\ngates: [{id: g, setting: strict, metric: 'f1:E1', min: 0}]",
            "'f1:E1' is not a figure of strict; use one of",
        ),
        (
            "name: s\ngates: [{id: g, measure: beta, metric: kappa, min: 0}]",
            "not a figure of beta; use one of agreement, pearson",
        ),
        ("name: s\ngates: [{id: g, metric: kappa, min: 0}]", "kappa needs a setting such as three-way, or a measure"),
        (
            "name: s\ngates: [{id: g, metric: pearson, min: 0}]",
            "pearson needs a setting such as three-way, or a measure",
        ),
        (
            "name: s\ngates: [{id: g, metric: covrage, min: 0}]",
            "covrage needs a setting such as three-way, or a measure",
        ),
        (
            "name: s\ngates: [{id: g, setting: strict, measure: beta, metric: kappa, min: 0}]",
            "or a measure such as beta, and not both",
        ),
        (f"name: My Suite\ngates: [{GATE}]", "name: must consist of lower-case letters, digits and hyphens"),
        (f"name: s\ngold_sha256: abc\ngates: [{GATE}]", "gold_sha256: must be a sha256 of 64"),
        (f"name: s\nfamily: x\ngates: [{GATE}]", "family: must be 'joint'"),
        (f"name: s\ngates: [{GATE}]\n---\nname: t", "expected a single document in the stream, but found another"),
        ("name: s\ngates: [{id: g, setting: strict, metric: kappa}]", "has no threshold"),
        ("name: s\ngates: [{id: g, setting: strict, metric: kappa, max_drop: 0}]", "max_drop needs a baseline"),
        ("name: s\ngates: [{id: g, setting: strict, metric: kappa, min: 0, slice: x}]", "not among the suite's slices"),
        (
            "name: s\ngates: [{id: g, metric: coverage, measure: beta, min: 0}]",
            "coverage is counted over the whole run",
        ),
        (
            f"name: s\nslices: {{a: {{soc_major: ['1']}}}}\ngates: [{GATE}]",
            "soc_major.0: must be a SOC major group of two digits",
        ),
        (f"name: s\nslices: {{a: {{soc_major: '11'}}}}\ngates: [{GATE}]", "slices.a.soc_major: must be a list"),
        (f"name: s\nslices: {{a: {{}}}}\ngates: [{GATE}]", "has no condition"),
        (
            "name: s\ngates: [{id: g, setting: strict, metric: kappa, min: .nan}]",
            "gates.0.min: must be a finite number",
        ),
        (f"name: s\nlevel: 95\ngates: [{GATE}]", "level:"),
        (
            "name: s\ngates: [{id: off, setting: strict, metric: kappa, min: 0}]",
            "off as true or false: put it in quotes",
        ),
    ],
)
def test_a_fault_is_named_by_file_and_key_in_one_sentence(write: Write, text: str, said: str) -> None:
    path = write(text)
    with pytest.raises(DataError) as caught:
        load_suite(str(path))
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_suite_names_those_that_ship() -> None:
    with pytest.raises(DataError, match=r"unknown suite 'none'; .* sample"):
        load_suite("none")


def test_paths_are_taken_beside_the_suite_first(write: Write, tmp_path: Path) -> None:
    suite = load_suite(str(write(f"name: s\ngates: [{GATE}]")))
    (tmp_path / "gold.csv").write_text("task_id,code\n")
    assert suite.resolve("gold.csv") == str(tmp_path / "gold.csv")
    assert suite.resolve("eloundou-2023:gpt4") == "eloundou-2023:gpt4"


@pytest.mark.parametrize("path", sorted(asset_dir("evals").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_that_ship_are_sound(path: Path) -> None:
    assert load_suite(str(path)).name == path.stem


def test_the_suites_that_the_page_on_ci_names_are_there() -> None:
    docs = Path(__file__).parents[2] / "docs"
    named = set(re.findall(r"--suite (\S+?)`?[\s.]", (docs / "ci.md").read_text(encoding="utf-8")))
    for workflow in (docs / "workflows").glob("*.yml"):
        named |= set(re.findall(r"SUITE: .*'(\S+)'", workflow.read_text(encoding="utf-8")))
    suites = named - {"FILE"}
    assert suites
    for suite in suites:
        assert load_suite(suite).gates
