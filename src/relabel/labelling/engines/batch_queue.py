"""The queue of a batch job: each chunk on its way from a file to its results in the store, one noted step after the other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from relabel.errors import ProviderError
from relabel.labelling.engines.batch_provider import BatchProvider, GoneError, UnreachableError
from relabel.labelling.engines.batch_results import Results
from relabel.labelling.engines.batch_state import FINAL, BatchFolder, BatchState, Chunk
from relabel.labelling.engines.batch_terms import Terms
from relabel.labelling.job import Stop
from relabel.labelling.leases import Leases
from relabel.labelling.progress import Progress
from relabel.labelling.wire import Api

LONGEST_POLL_S = 60.0
PATIENCE = 30
"""Looks in a row that may fail before the job gives up: a network that is away for a while loses nothing."""
REMEMBERED_S = 30 * 86400.0
"""How far back a batch is looked for when the state is lost: the provider keeps results no longer."""


class StoppedError(Exception):
    """The job was told to stop."""


class Queue:
    """The chunks of a batch job and what the provider makes of them.

    Args:
        folder: The job's folder.
        state: Its state.
        provider: Has the batches.
        api: The dialect of their lines.
        results: Gets what they bring.
        leases: Know what other runs on the store have in flight.
        progress: Told of batches in flight.
        stop: Ends a wait.
        terms: Whether chunks are sent, else batches that go on are stopped; how often batches are looked at.
        begun: Whether the state is new: then it may be a lost one, whose batches are still there.

    Attributes:
        refused: What the provider said of a batch that it refused as a whole; empty when there was none.
    """

    def __init__(
        self,
        folder: BatchFolder,
        state: BatchState,
        provider: BatchProvider,
        api: Api,
        results: Results,
        leases: Leases,
        progress: Progress,
        stop: Stop,
        terms: Terms,
        *,
        begun: bool,
    ) -> None:
        self.refused = ""
        self._api: Api = api
        self._folder, self._state, self._provider = folder, state, provider
        self._results, self._leases, self._progress, self._stop = results, leases, progress, stop
        self._terms, self._begun = terms, begun
        self._failed_looks = 0

    async def settle(self) -> None:
        """Send every open chunk, wait for its batch and take the results."""
        wait_s = self._terms.poll_s
        while True:
            for chunk in self._state.open:
                if self._results.fatal is None:
                    await self._send(chunk)
            taken = 0
            flying = [chunk for chunk in self._state.open if chunk.batch_id is not None]
            for chunk in flying:
                taken += await self._look(chunk)
            if not self._state.open or (self._results.fatal is not None and taken == len(flying)):
                return
            await self._pause(wait_s)
            wait_s = self._terms.poll_s if taken else min(wait_s * 1.5, max(self._terms.poll_s, LONGEST_POLL_S))

    async def _send(self, chunk: Chunk) -> None:
        """Bring a chunk to the provider, unless it is there or the queue has no room."""
        mark = {
            "relabel_run": self._state.run_id,
            "relabel_chunk": f"{chunk.number}.{chunk.tries + 1}",
            "relabel_sha256": chunk.sha256,
        }
        there = self._folder.path_of(chunk).exists()
        if chunk.batch_id is not None or (self._terms.submit and self._is_to_wait(chunk)):
            return
        self._check_stop()
        if not self._terms.submit or not there or not self._is_ours(chunk):
            # Not to be sent, or no longer: all that counts is a batch that was made of it and is not known yet.
            found = None
            if chunk.creating_since is not None:
                found = await self._provider.find(mark, chunk.creating_since)
            if found is None:
                await self._drop(chunk, "not sent")
                return
        else:
            if chunk.file_id is None:
                chunk.file_id = await self._provider.upload(self._folder.path_of(chunk))
                self._terms.step("uploaded")
                self._save("file noted")
            look, since = chunk.creating_since is not None, chunk.creating_since or self._terms.now().timestamp()
            if chunk.creating_since is None:
                chunk.creating_since = since
                self._save("intent noted")
            if await self._is_lost(since):
                chunk.adopted = True
                look, since = True, since - REMEMBERED_S
            try:
                found = await self._provider.create(chunk.file_id, self._api, mark, since, look=look)
            except UnreachableError:
                raise
            except ProviderError:
                chunk.file_id = None  # it may be the file that is refused, or gone: it costs nothing to send it again
                self._save("refusal noted")
                raise
            self._terms.step("created")
        chunk.batch_id, chunk.tries = found.id, chunk.tries + 1
        chunk.submitted_at = datetime.fromtimestamp(found.created_at, UTC).isoformat(timespec="seconds")
        self._update(chunk, found)
        self._save("batch noted")

    def _is_ours(self, chunk: Chunk) -> bool:
        """Whether all that a chunk asks is wanted still, and nobody else may have asked it since it was written."""
        keys = self._folder.keys(chunk) or set()
        return not self._leases.pass_on(self._state.run_id, keys) and keys <= self._results.wants.keys()

    async def _is_lost(self, now: float) -> bool:
        """Whether the provider has batches of this run although the state is new: somebody has removed the state."""
        if self._begun:
            mark = {"relabel_run": self._state.run_id}
            self._begun = await self._provider.find(mark, now - REMEMBERED_S) is not None
        return self._begun

    def _is_to_wait(self, chunk: Chunk) -> bool:
        if chunk.flying_at_refusal is None:
            return False
        return len([c for c in self._state.open if c.batch_id is not None]) >= max(1, chunk.flying_at_refusal)

    async def _look(self, chunk: Chunk) -> int:
        """See how a batch does, and take its results when it has ended; return 1 when it has."""
        assert chunk.batch_id is not None
        try:
            if chunk.ended_at is None:
                if not self._terms.submit and chunk.status not in FINAL | {"cancelling", "finalizing"}:
                    await self._provider.cancel(chunk.batch_id)
                    self._terms.step("cancelled")
                batch = await self._provider.retrieve(chunk.batch_id)
                before = chunk.status
                self._update(chunk, batch)
                if chunk.status in FINAL:
                    chunk.ended_at = self._terms.now().isoformat(timespec="microseconds")
                if chunk.status != before or chunk.ended_at is not None:
                    self._save("status noted")
            self._failed_looks = 0
            if chunk.ended_at is None:
                return 0
            await self._take(chunk)
        except GoneError as error:
            if self._terms.submit and not chunk.adopted:
                raise ProviderError(
                    f"the provider has no batch {chunk.batch_id} or no results of it ({error}); check that the key is of the project "
                    f"that made it, or give it up with `relabel batch cancel {self._state.run_id}`"
                ) from error
            await self._drop(chunk, "gone")
        except UnreachableError:
            self._failed_looks += 1
            if self._failed_looks >= PATIENCE:
                raise
            return 0
        return 1

    async def _take(self, chunk: Chunk) -> None:
        if chunk.status == "failed" and chunk.output_file_id is None and chunk.error_file_id is None:
            await self._refusal(chunk)
            return
        understood = await self._results.take(chunk)
        chunk.taken = True
        self._save("taken")
        self._progress.flying.pop(chunk.batch_id or "", None)
        self._folder.remove(chunk)
        for file_id in (chunk.file_id, chunk.output_file_id, chunk.error_file_id):
            if understood and file_id is not None:
                await self._provider.forget(file_id)
        self._terms.step("forgotten")

    async def _refusal(self, chunk: Chunk) -> None:
        """A batch failed before anything was asked: nothing was paid."""
        code, _, said = (chunk.note or "").partition(": ")
        self._progress.flying.pop(chunk.batch_id or "", None)
        if code == "token_limit_exceeded":
            others = len([c for c in self._state.open if c.batch_id is not None]) - 1
            if not others and chunk.requests == 1:
                raise ProviderError(
                    f"the provider's queue of batches has no room ({said}); wait until other batches have ended, then "
                    f"`relabel batch resume {self._state.run_id}`"
                )
            if others:
                chunk.batch_id = chunk.ended_at = chunk.creating_since = None
                chunk.flying_at_refusal, chunk.status = others, "waits for room"
                self._save("no room noted")
                return
            # Nothing of ours is before it in the queue, so it is too large itself.
            self._state.max_requests = max(1, chunk.requests // 2)
            await self._drop(chunk, "too large for the queue")
            return
        self._results.refuse(chunk, chunk.note or "no reason given")
        self.refused = chunk.note or "no reason given"
        fatal = self._provider.fatal(None, code, self._provider.redact(said), "/batches")
        if fatal is not None:
            self._results.fatal = fatal
        chunk.taken, chunk.cost_usd = True, 0.0
        self._save("refusal noted")
        self._folder.remove(chunk)

    async def _drop(self, chunk: Chunk, status: str) -> None:
        """Give a chunk up that asks for nothing any more; its requests may go into another."""
        for key in self._folder.keys(chunk) or ():
            if self._results.tries[key]:  # an earlier process may have written it
                self._results.tries[key] -= 1
        chunk.taken, chunk.status, chunk.cost_usd = True, status, 0.0
        self._save("dropped")
        self._folder.remove(chunk)
        if chunk.file_id is not None:
            await self._provider.forget(chunk.file_id)

    def _update(self, chunk: Chunk, batch: Any) -> None:
        chunk.status = batch.status
        chunk.checked_at = self._terms.now().isoformat(timespec="seconds")
        chunk.output_file_id, chunk.error_file_id = batch.output_file_id, batch.error_file_id
        counts = batch.request_counts
        chunk.answered = (counts.completed + counts.failed) if counts else 0
        problems = (batch.errors.data or []) if batch.errors else []
        if problems:
            where = f" (line {problems[0].line})" if problems[0].line is not None else ""
            chunk.note = self._provider.redact(f"{problems[0].code or 'error'}: {problems[0].message}{where}")
        flying = self._progress.flying
        since = flying[batch.id][1] if batch.id in flying else self._terms.clock()
        flying[batch.id] = (f"batch {chunk.number} {chunk.status} {chunk.answered}/{chunk.requests}", since)

    def _save(self, step: str) -> None:
        self._folder.save(self._state)
        self._terms.step(step)

    def _check_stop(self) -> None:
        if self._stop.asked.is_set():
            raise StoppedError

    async def _pause(self, seconds: float) -> None:
        nap = asyncio.ensure_future(self._terms.sleep(seconds))
        asked = asyncio.create_task(self._stop.asked.wait())
        try:
            await asyncio.wait({nap, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (nap, asked):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._check_stop()
