"""The choices of a score table: what is known, what goes together, and how they are written in words."""

from __future__ import annotations

from typing import Any

import pytest

import relabel
from relabel.errors import UsageError
from relabel.scoring.options import Choices


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "site-2025"}, "method has no 'site-2025'; choose one of site-2026, bridge"),
        ({"weights": "importence"}, "weights has no 'importence'; choose one of importance, core, equal"),
        ({"links": ""}, "links has no ''"),
        ({"taxonomy": "isco08", "pay": "ons-ashe-2024"}, "--pay applies to uk-soc2020 only, not to isco08"),
        ({"method": "site-2026", "links": "equal"}, "--links does not apply to --method site-2026"),
        ({"taxonomy": "soc2018", "links": "equal"}, "--links does not apply to --taxonomy soc2018"),
        ({"tasks": "sample", "links": "equal"}, "--links does not apply to the sample"),
        ({"weights": "core", "unrated": "drop"}, "--weights core uses no ratings"),
    ],
)
def test_choices_that_no_run_can_be_scored_by_are_refused_wherever_they_are_made(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Choices(**given)
    with pytest.raises(UsageError, match=words):
        Choices.parse([f"{name}={value}" for name, value in given.items()])
    with pytest.raises(UsageError, match=words):
        relabel.score_table(relabel.open_run("sample"), **given)


def test_choices_are_written_as_names_with_values() -> None:
    assert Choices.parse([]) == Choices()
    said = Choices.parse(["taxonomy=onet-soc", "tasks=a=b.csv"])
    assert said == Choices(taxonomy="onet-soc", tasks="a=b.csv")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["colour=red"],
            "a score has no option 'colour'; write NAME=VALUE with one of method, weights, links",
        ),
        (["method"], "method has no ''; choose one of"),
    ],
)
def test_words_that_are_no_choices_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Choices.parse(words)
