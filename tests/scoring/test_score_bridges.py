"""Bridges made by hand: what a chain of means does to shares, coverage and reasons."""

from __future__ import annotations

import pandas as pd
import pandera.errors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.scoring.bridges import Bridge, Step, index_entries, most_frequent
from relabel.scoring.options import System


def step(source: System, target: System, *links: tuple[str, str, float], note: str = "") -> Step:
    table = pd.DataFrame(links, columns=["source", "target", "weight"]).astype({"weight": "float64"})
    return Step(source, target, table, "made up", note)


def bridge(*steps: Step, codes: tuple[str, ...]) -> Bridge:
    return Bridge("made-up", "uk-soc2020", steps, pd.DataFrame({"code": list(codes), "title": list(codes)}))


TWO_STEPS = bridge(
    step("onet-soc", "isco08", ("a", "i", 1), ("b", "i", 1), ("c", "j", 1), ("d", "k", 1)),
    step("isco08", "uk-soc2020", ("i", "1", 3), ("j", "1", 1), ("j", "2", 5), ("k", "3", 1), ("z", "4", 1)),
    codes=("1", "2", "3", "4", "5"),
)


def shares(found: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(code, onet): share for code, onet, share in found.itertuples(index=False)}


def test_shares_multiply_along_the_chain() -> None:
    assert shares(TWO_STEPS.shares(["a", "b", "c"])) == pytest.approx(
        {("1", "a"): 3 / 8, ("1", "b"): 3 / 8, ("1", "c"): 1 / 4, ("2", "c"): 1.0}
    )


def test_shares_are_relative_to_what_has_a_score() -> None:
    assert shares(TWO_STEPS.shares(["a"])) == {("1", "a"): 1.0}


def test_reach_counts_what_is_linked_but_has_no_score() -> None:
    reach = TWO_STEPS.reach(["a", "b"])
    assert reach.groupby("code")["share"].sum().to_dict() == pytest.approx({"1": 0.75})


def test_reach_does_not_count_detailed_codes_without_tasks() -> None:
    assert shares(TWO_STEPS.reach(["a", "c"]))["1", "a"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("3", "no task statements for O*NET-SOC 2019 d"),
        ("4", "no O*NET-SOC 2019 code leads to ISCO-08 z"),
        ("5", "no ISCO-08 code leads to UK SOC 2020 5"),
        ("2", "no labelled tasks for O*NET-SOC 2019 c"),
    ],
)
def test_the_reason_names_the_step_that_breaks(code: str, reason: str) -> None:
    assert TWO_STEPS.status_without(code, ["a", "b", "c"]) == f"unscored: {reason}"


def test_the_reason_repeats_what_the_step_says_about_its_codes() -> None:
    made = bridge(
        step("onet-soc", "soc2018", ("a", "s", 1)), step("soc2018", "isco08", ("t", "i", 1), note="old"), codes=("i",)
    )
    assert made.status_without("i", ["a"]) == "unscored: no O*NET-SOC 2019 code leads to US SOC 2018 t (old)"


def test_a_long_reason_is_cut() -> None:
    links = [(letter, "1", 1.0) for letter in "abcdef"]
    reason = (
        bridge(step("onet-soc", "uk-soc2020", *links), codes=("1",)).status_without("1", []).removeprefix("unscored: ")
    )
    assert reason == "no task statements for O*NET-SOC 2019 a, b, c, d and 2 more"


def test_links_are_checked_at_the_door() -> None:
    with pytest.raises(pandera.errors.SchemaError):
        step("onet-soc", "isco08", ("a", "i", 0))
    with pytest.raises(pandera.errors.SchemaError):
        step("onet-soc", "isco08", ("a", "i", 1), ("a", "i", 2))


def test_index_entries_are_counted_and_references_left_out() -> None:
    index = pd.DataFrame({"isco08": ["9", "9", "8", None, "8"], "soc2020": ["1", "1", "1", "1", None]}, dtype="str")
    entries = index_entries(index)
    assert set(entries.itertuples(index=False, name=None)) == {("9", "1", 2.0), ("8", "1", 1.0)}


def test_the_most_frequent_code_wins_and_ties_take_the_lowest() -> None:
    entries = pd.DataFrame(
        [("9", "1", 2.0), ("8", "1", 1.0), ("7", "2", 1.0), ("6", "2", 1.0)], columns=["source", "target", "weight"]
    )
    chosen = most_frequent(entries)
    assert set(chosen.itertuples(index=False, name=None)) == {("9", "1", 1.0), ("6", "2", 1.0)}


onet = st.sampled_from("abcdef")
isco = st.sampled_from("ijkl")
weight = st.integers(1, 50).map(float)


@settings(max_examples=40, deadline=None)
@given(
    first=st.dictionaries(st.tuples(onet, isco), weight, min_size=1),
    second=st.dictionaries(st.tuples(isco, st.sampled_from("12")), weight, min_size=1),
    labelled=st.sets(onet),
    unlabelled=st.sets(onet),
)
def test_shares_sum_to_one_and_reach_never_exceeds_it(
    first: dict[tuple[str, str], float],
    second: dict[tuple[str, str], float],
    labelled: set[str],
    unlabelled: set[str],
) -> None:
    made = bridge(
        step("onet-soc", "isco08", *((s, t, w) for (s, t), w in first.items())),
        step("isco08", "uk-soc2020", *((s, t, w) for (s, t), w in second.items())),
        codes=("1", "2"),
    )
    sums = made.shares(labelled).groupby("code")["share"].sum()
    assert sums.to_numpy() == pytest.approx(1)
    reach = made.reach(labelled | unlabelled).groupby("code")["share"].sum()
    assert (reach <= 1 + 1e-9).all()
    assert set(sums.index) <= set(reach.index)
