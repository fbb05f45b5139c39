"""Rows that outgrow memory are the rows that went in, in the table's order."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from relabel.errors import StoreError
from relabel.label import Failure, Label
from relabel.labelling.rows import failure_rows, in_table_order, label_rows


def label(number: int, *, rationale: str = 'Says "no",\n twice, in ä and 字.') -> Label:
    return Label(
        task_id=str(number),
        onet_soc_code=f"11-{1000 + number % 7}.00",
        setting=("strict", "with-tools")[number % 2],
        sample=number % 3,
        label="exposed",
        rationale=rationale,
        probability=None if number % 2 else 0.1 + 0.2,
        request_key=f"{number:064x}",
        model_returned=None,
        finish_reason="stop",
        attempts=1,
        prompt_tokens=100,
        cached_tokens=0,
        completion_tokens=20,
        cost_usd=1e-7,
        latency_s=0.25,
        created_at="2026-01-01T00:00:00+00:00",
        from_store=False,
    )


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 95])
def test_labels_come_back_whole_and_in_order(tmp_path: Path, count: int) -> None:
    wanted = [label(number) for number in range(count)]
    random.Random(count).shuffle(wanted)
    rows = label_rows(tmp_path, held=10)
    for row in wanted:
        rows.append(row)
    assert len(rows) == count
    assert list(rows) == sorted(wanted, key=in_table_order)
    assert list(rows) == list(rows)  # as often as one likes
    assert not list(tmp_path.iterdir())  # nothing that a killed run could leave behind


def test_failures_come_back_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    wanted = [
        Failure(
            task_id=str(-number),
            onet_soc_code="11-1011.00",
            setting="strict",
            sample=0,
            kind="provider",
            message="no\nway",
            attempts=number,
            request_key="k",
        )
        for number in range(25)
    ]
    rows = failure_rows(tmp_path, held=4)
    for row in wanted:
        rows.append(row)
    assert rows == wanted
    assert rows[3].attempts == 3


def test_what_only_the_whole_can_tell_is_applied_to_every_row(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, held=4)
    for number in range(10):
        rows.append(label(number))
    rows.change(lambda row: replace(row, probability=1.0))
    assert {row.probability for row in rows} == {1.0}


def test_memory_holds_a_small_part_of_many_rows(tmp_path: Path) -> None:
    def peak(held: int) -> int:
        rows = label_rows(tmp_path, held=held)
        tracemalloc.start()
        for number in range(8000):
            rows.append(label(number, rationale=f"{number} " * 60))
        assert sum(1 for _ in rows) == 8000
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(held=500) < peak(held=10**9) / 5


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    rows = label_rows(tmp_path / "gone", held=2)
    rows.append(label(1))
    with pytest.raises(StoreError, match=r"cannot keep labels in .*; the answers are safe in the store"):
        rows.append(label(2))


@pytest.mark.parametrize("count", [0, 3, 25])
def test_lines_and_rows_are_the_same_failures(tmp_path: Path, count: int) -> None:
    def failure(number: int) -> Failure:
        return Failure(
            task_id=str(number),
            onet_soc_code="11-1011.00",
            setting="strict",
            sample=number,
            kind="provider",
            message='"no"\n\u2028ä',
            attempts=0,
            request_key=f"{number:064x}",
        )

    for rows in (failure_rows(tmp_path, held=10), failure_rows(None)):
        for number in range(3):
            rows.append(failure(number))
        for number in range(3, 3 + count):
            rows.append_line(failure(number).model_dump_json())
        wanted = [failure(number) for number in range(3 + count)]
        assert len(rows) == 3 + count
        assert list(rows) == wanted
        assert list(rows.lines()) == [f"{one.model_dump_json()}\n" for one in wanted]
        rows.append(failure(3 + count))  # and more may come after they were read
        assert list(rows) == [*wanted, failure(3 + count)]
