"""Answers that come in a clump are entered a few at a time."""

import asyncio
import itertools

import pytest

from relabel.labelling.engines.turns import PART, Turns


async def test_the_network_gets_a_look_between_answers() -> None:
    turns, entered, seen = Turns(), list[int](), list[int]()

    async def answer(number: int) -> None:
        await turns.mine()
        entered.append(number)

    async def network() -> None:
        while len(entered) < 4 * PART:
            seen.append(len(entered))
            await asyncio.sleep(0)

    await asyncio.gather(*(answer(n) for n in range(4 * PART)), network())
    assert entered == list(range(4 * PART))
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(steps) == 4  # a sixteenth of those who wait
    assert steps.count(1) >= PART / 2  # and the last of them one by one


async def test_a_cancellation_is_felt_only_when_the_answer_is_entered() -> None:
    turns, entered = Turns(), list[str]()

    async def answer() -> None:
        await turns.mine()
        entered.append("answer")
        await asyncio.sleep(3600)
        entered.append("more")

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert entered == ["answer"]
    await asyncio.wait_for(turns.mine(), 5)  # and the next in line is not kept waiting
