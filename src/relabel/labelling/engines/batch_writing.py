"""What goes into a batch: requests that are wanted, that nobody else asks, and that the cap leaves money for."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from relabel.errors import StoreError
from relabel.labelling.budget import Budget
from relabel.labelling.engines.batch_queue import StoppedError
from relabel.labelling.engines.batch_results import Results
from relabel.labelling.engines.batch_state import BatchFolder, BatchState
from relabel.labelling.engines.batch_terms import Terms
from relabel.labelling.job import Stop
from relabel.labelling.leases import LEASE_S, Leases
from relabel.labelling.pricing import Price
from relabel.labelling.providers import Provider
from relabel.labelling.request import Request
from relabel.labelling.wire import PATHS

TRIES = 3
"""Times that one request goes into a batch, when batches end without having answered it."""
TURN = 64
"""Requests that are worked through before the display and Ctrl-C have their turn."""


class Writing:
    """Writes chunks, and keeps other runs on the store from asking what is in them.

    Args:
        folder: The job's folder.
        state: Its state; gets the chunks.
        results: Knows what is wanted.
        leases: Know what other runs on the store have in flight.
        price: The model's price in a batch; None when unknown.
        terms: How large chunks may be, and what they may cost.

    Attributes:
        elsewhere: Requests that others have in flight: by which batch run, or None for another process, by key.
        no_money: Why the cap leaves something out; empty when it does not.
    """

    def __init__(
        self,
        folder: BatchFolder,
        state: BatchState,
        results: Results,
        leases: Leases,
        price: Price | None,
        terms: Terms,
    ) -> None:
        self.elsewhere: dict[str, str | None] = {}
        self.no_money = ""
        self._folder, self._state, self._results, self._leases = folder, state, results, leases
        self._terms, self._budget = terms, Budget(terms.max_cost, price)

    async def renew(self) -> None:
        """Keep what is leased and held, for as long as this runs."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StoreError):  # the next time may be in time still
                self._leases.renew()

    def hold(self) -> None:
        """Let other runs on the store know what batches have in flight, whatever becomes of this process."""
        sent: set[str] = set()
        written: set[str] = set()
        for chunk in self._state.open:
            keys = self._folder.keys(chunk)
            if keys is None:
                return  # what this batch asks for is held from before, and nobody can tell it from what is not in flight
            (written if chunk.batch_id is None else sent).update(keys)
        self._leases.hold(self._state.run_id, sent, still=written)

    async def write(self, stop: Stop) -> int:
        """Write chunks of all that is wanted and neither in flight nor failed.

        A request is leased, then looked for in the store, then written, and what a chunk asks is held from the moment that the
        chunk is noted: no other run on the store may ask it from the first look on.

        Returns:
            How many requests were written, or found to be answered by now.

        Raises:
            StoppedError: The job was told to stop.
            DataError: A chunk cannot be written.
        """
        if not self._terms.submit:
            return 0
        self.hold()  # what was given up may be asked again
        in_flight: set[str] = set()
        for chunk in self._state.open:
            keys = self._folder.keys(chunk)
            if keys is None:
                return 0  # what this batch asks for is known once its results are here
            in_flight.update(keys)
        limit = min(self._terms.max_requests, self._state.max_requests or self._terms.max_requests)
        writer = self._folder.writer(self._state, limit, self._terms.max_bytes)
        room = self._room()
        changed, self.no_money = 0, ""
        unnoted: list[str] = []
        for turn, key in enumerate(list(self._results.wants)):
            if turn % TURN == 0:
                await breathe(stop)
            if key in in_flight or key in self._results.failed or self._results.tries[key] >= TRIES:
                continue
            leased = self._leases.take(key)
            if self._results.is_here(key):
                self._leases.give_back(key)
                changed += 1
                continue
            if not leased:
                self.elsewhere[key] = self._leases.batch_of(key)
                continue
            request = self._results.planned(key).request
            worst = self._budget.worst_case(request.body)
            if worst > room:
                self._leases.give_back(key)
                self.no_money = (
                    f"this request may cost up to {worst:.4f} USD, and of the cap of {self._terms.max_cost:.4f} USD "
                    f"only {max(0.0, room):.4f} are left"
                )
                break
            room -= worst
            self._results.tries[key] += 1
            changed += 1
            if writer.add(_line(request, self._results.provider), worst) is not None:
                self._noted(unnoted)
            unnoted.append(key)
        if writer.close() is not None:
            self._noted(unnoted)
        return changed

    def _noted(self, keys: list[str]) -> None:
        """Hold what a chunk asks that has just been noted. Whether all of it was still leased is seen before it is sent."""
        self._leases.pass_on(self._state.run_id, keys)
        keys.clear()
        self._terms.step("chunk")

    def _room(self) -> float:
        """What the cap leaves, when all that is in flight costs its worst."""
        if self._terms.max_cost is None:
            return float("inf")
        mine = [chunk for chunk in self._state.chunks if chunk.attempt == self._state.attempt]
        return self._terms.max_cost - sum(c.cost_usd if c.cost_usd is not None else c.worst_usd for c in mine)


async def breathe(stop: Stop) -> None:
    """Let the display and Ctrl-C have their turn: long stretches of work never wait.

    Raises:
        StoppedError: The job was told to stop.
    """
    await asyncio.sleep(0)
    if stop.asked.is_set():
        raise StoppedError


def _line(request: Request, provider: Provider) -> bytes:
    # Not in the spelling that is hashed: a model writes its answer in the order of the schema.
    asked: dict[str, Any] = {
        "custom_id": request.key,
        "method": "POST",
        "url": "/v1" + PATHS[request.api],
        "body": provider.posted(request.api, request.body),
    }
    return json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
