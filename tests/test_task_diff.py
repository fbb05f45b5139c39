"""What changed between two task lists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import DataError
from relabel.task import CHANGES, Task, TaskDiff, diff_lists, diff_tasks

A, B, C = "11-1011.00", "15-1252.00", "29-1141.00"
Row = tuple[str, str, str]


def tasks(*rows: Row, title: str = "Somebody") -> list[Task]:
    return [Task(task_id=task, onet_soc_code=code, title=title, text=text) for task, code, text in rows]


def changes(old: list[Task], new: list[Task]) -> list[tuple[str, str | None, str | None]]:
    """Change, old id and new id of each task, in order."""
    return [(t.change, t.old and t.old.task_id, t.new and t.new.task_id) for t in diff_tasks(old, new)]


def test_each_kind_of_change_is_told_apart() -> None:
    old = tasks(("1", A, "Stay."), ("2", A, "Say."), ("3", A, "Go."), ("4", A, "Turn."), ("5", A, "End."))
    new = tasks(("9", B, "Begin."), ("4", B, "Turn."), ("1", A, "Stay."), ("2", A, "Say it."), ("7", B, "Go."))
    assert changes(old, new) == [
        ("new", None, "9"),
        ("moved", "4", "4"),
        ("unchanged", "1", "1"),
        ("reworded", "2", "2"),
        ("moved", "3", "7"),
        ("dropped", "5", None),
    ]


def test_white_space_is_no_rewording_but_a_letter_is() -> None:
    assert changes(tasks(("1", A, "Do  it .")), tasks(("1", A, "Do it ."))) == [("unchanged", "1", "1")]
    assert changes(tasks(("1", A, "Do it.")), tasks(("1", A, "do it."))) == [("reworded", "1", "1")]


def test_an_equal_statement_under_the_same_occupation_is_matched_first() -> None:
    old = tasks(("1", B, "Write."), ("2", A, "Write."))
    new = tasks(("8", A, "Write."), ("9", C, "Write."))
    assert changes(old, new) == [("moved", "2", "8"), ("moved", "1", "9")]


def test_a_repeated_statement_is_matched_once() -> None:
    old = tasks(("1", A, "Write."))
    new = tasks(("1", A, "Write."), ("2", B, "Write."))
    assert changes(old, new) == [("unchanged", "1", "1"), ("new", None, "2")]


def test_another_title_of_the_occupation_is_counted() -> None:
    rows = [("1", A, "Do."), ("2", A, "Make.")]
    found = TaskDiff("old", "new", diff_tasks(tasks(*rows), tasks(*rows, title="Someone")))
    assert (found.counts["unchanged"], found.retitled) == (2, 2)


def test_the_description_holds_counts_and_all_changed_tasks() -> None:
    found = diff_tasks(tasks(("1", A, "Do."), ("2", A, "End.")), tasks(("1", A, "Do."), ("3", B, "Begin.")))
    told = TaskDiff("old", "new", found).describe()
    assert told["counts"] == {"unchanged": 1, "reworded": 0, "moved": 0, "new": 1, "dropped": 1}
    assert [(t["change"], t["task_id_old"], t["text_new"]) for t in told["tasks"]] == [
        ("new", None, "Begin."),
        ("dropped", "2", None),
    ]


rows = st.lists(
    st.tuples(st.sampled_from("12345"), st.sampled_from([A, B]), st.sampled_from(["x", "y", "z"])),
    unique_by=lambda row: row[:2],
    min_size=1,
)


@settings(deadline=None)
@given(rows, rows)
def test_every_task_of_both_lists_is_told_once(old: list[Row], new: list[Row]) -> None:
    found = diff_tasks(tasks(*old), tasks(*new))
    for side, given_rows in (("old", old), ("new", new)):
        told = [t for t in (getattr(change, side) for change in found) if t is not None]
        assert sorted((t.task_id, t.onet_soc_code, t.text) for t in told) == sorted(given_rows)
    counts = TaskDiff("a", "b", found).counts
    stayed = counts["unchanged"] + counts["reworded"] + counts["moved"]
    assert (stayed + counts["dropped"], stayed + counts["new"]) == (len(old), len(new))
    assert {change.change for change in found} <= set(CHANGES)


@settings(deadline=None)
@given(rows)
def test_a_list_is_unchanged_against_itself(same: list[Row]) -> None:
    assert {change.change for change in diff_tasks(tasks(*same), tasks(*same))} == {"unchanged"}


def test_an_unknown_list_is_a_data_error() -> None:
    with pytest.raises(DataError, match="unknown task list 'onet'"):
        diff_lists("onet", "sample")


@pytest.mark.slow
@pytest.mark.mirror
@pytest.mark.parametrize(
    ("old", "counts"),
    [
        ("onet-29.1", {"unchanged": 18_770, "reworded": 5, "moved": 0, "new": 21, "dropped": 21}),
        ("eloundou-2023", {"unchanged": 18_681, "reworded": 58, "moved": 0, "new": 57, "dropped": 526}),
    ],
)
def test_releases_differ_by_few_tasks(old: str, counts: dict[str, int]) -> None:
    found = diff_lists(old, "onet-30.2")
    assert found.counts == counts
    assert found.retitled == 0
