"""A few at a time, with a look at the network in between."""

from __future__ import annotations

import asyncio
from collections import deque

PART = 16
"""One in so many of those that wait, and one at least, go on in each round of the event loop."""


class Turns:
    """Lets a few tasks go on in each round of the event loop.

    Replies come in clumps, because requests go out in clumps. Without this, all replies of a clump would be read and
    stored in one round, and the requests that may go out in their place would wait for the last of them. One at a time
    would look at the network too often when there is no time to lose.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calling = False

    async def mine(self) -> None:
        """Wait for this task's turn.

        A cancellation cuts the wait short and is felt where the task waits next, so that what it holds can be put away.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._calling:
            self._calling = True
            loop.call_soon(self._call)
        try:
            await turn
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    def _call(self) -> None:
        self._calling = bool(self._waiting)
        if self._calling:
            asyncio.get_running_loop().call_soon(self._call)
        for _ in range(-(-len(self._waiting) // PART)):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
