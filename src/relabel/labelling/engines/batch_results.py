"""What a batch brought: each line of its output and error files becomes an answer in the store, or a reason why there is none."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from relabel.errors import ProviderError
from relabel.label import Answer, FailureKind, InvalidAnswerError
from relabel.labelling.engines.batch_provider import BatchProvider
from relabel.labelling.engines.batch_state import BatchFolder, Chunk
from relabel.labelling.engines.batch_terms import Terms
from relabel.labelling.engines.refusals import passes
from relabel.labelling.engines.reply import answer_to, parsed
from relabel.labelling.job import Job
from relabel.labelling.ledger import Ledger
from relabel.labelling.providers import Provider, without_cache_fields
from relabel.labelling.request import Planned, Request
from relabel.labelling.store import Store
from relabel.labelling.wire import PATHS, NotAReplyError
from relabel.task import Task

DOWNLOADS = 3
"""Times that a file is fetched that holds less than the provider says."""
_TURN = 64
_NOT_ASKED = {"batch_expired", "batch_cancelled"}

Want = tuple[tuple[Task, ...], str, int]
"""A plan entry without its request, which is made again when it is needed: tasks, setting, sample."""


@dataclass
class _Taking:
    """A chunk whose results are being entered."""

    chunk: Chunk
    keys: set[str] | None
    seconds: float
    cost_usd: float | None = 0.0
    lost: int = 0


class Results:
    """What is wanted, what has come, and what will not.

    Args:
        job: The job.
        store: Keeps answers.
        ledger: Gets labels.
        folder: Where results are fetched to.
        provider: Has the files.
        terms: Told of each step.

    Attributes:
        wants: Labels that are wanted and not there, by request key.
        failed: Requests that have no answer for good: kind, message and requests sent, by key.
        unanswered: Why a request was not answered that may be asked again, by key.
        tries: Batches that each request went into in this process.
        fatal: What the provider said that holds for all requests.
    """

    def __init__(
        self,
        job: Job,
        store: Store,
        ledger: Ledger,
        folder: BatchFolder,
        provider: BatchProvider,
        terms: Terms,
    ) -> None:
        self.wants: dict[str, list[Want]] = {}
        self.failed: dict[str, tuple[FailureKind, str, int]] = {}
        self.unanswered: dict[str, str] = {}
        self.tries: Counter[str] = Counter()
        self.fatal: ProviderError | None = None
        self._job, self._store, self._ledger, self._folder = job, store, ledger, folder
        self._provider, self._step = provider, terms.step

    def take_or_want(self, planned: Planned) -> None:
        """Take an answer from the store, or note that it is wanted."""
        rest = self._ledger.take(planned)
        if rest is None:
            want = (planned.tasks, planned.setting, planned.sample)
            self.wants.setdefault(planned.request.key, []).append(want)
        for single in rest or ():
            self.take_or_want(single)

    def is_here(self, key: str) -> bool:
        """Look again for the answer to a wanted request: another run may have bought it. If so, it is taken and wanted no more."""
        rest = self._ledger.take(self.planned(key))
        if rest is None:
            return False
        self._has_come(key, rest)
        return True

    def _has_come(self, key: str, rest: list[Planned]) -> None:
        """The first label that waited for a request has its answer: so have its twins; what it left out is wanted by itself."""
        _, *twins = self.wants.pop(key)
        self.failed.pop(key, None)
        self.unanswered.pop(key, None)
        for twin in twins:
            self.take_or_want(self.whole(twin))
        for single in rest:
            self.take_or_want(single)

    def planned(self, key: str) -> Planned:
        """The plan entry of a wanted request."""
        return self.whole(self.wants[key][0])

    async def take(self, chunk: Chunk) -> bool:
        """Enter all that a batch has to say.

        Taking it a second time changes nothing: the store has the answers, and evidence is kept under the same name.

        Args:
            chunk: The chunk; gets its cost, its failures, and a note if there is something in its files still.

        Returns:
            Whether all that was paid for is in the store: the files are needed no more.

        Raises:
            GoneError: The provider no longer has the files.
            ProviderError: The provider cannot be reached.
        """
        files = await self._fetch(chunk)
        self._step("downloaded")
        seconds = 0.0
        if chunk.submitted_at and chunk.ended_at:
            waited = datetime.fromisoformat(chunk.ended_at) - datetime.fromisoformat(chunk.submitted_at)
            seconds = max(0.0, waited.total_seconds())
        taking = _Taking(chunk, self._folder.keys(chunk), seconds)
        number = 0
        for path in files:
            for line in _lines(path):
                number += 1
                taking.lost += not self._enter(taking, number, line)
                self._step("entered")
                if number % _TURN == 0:
                    await asyncio.sleep(0)  # let the display have its turn
        for key in taking.keys if taking.keys is not None else list(self.wants):
            if key in self.wants and key not in self.failed and key not in self.unanswered:
                self.unanswered[key] = f"the batch {chunk.batch_id} ended ({chunk.status}) before this was answered"
        mine = taking.keys if taking.keys is not None else self.failed
        chunk.failed = {key: self.failed[key] for key in mine if key in self.failed}
        lost = taking.lost + max(0, chunk.answered - number)
        if lost:
            where = ", ".join(file for file in (chunk.output_file_id, chunk.error_file_id) if file is not None)
            chunk.note = f"of the batch {chunk.batch_id} {lost} line(s) could not be understood; the provider keeps them in {where}"
            self._ledger.notes.append(chunk.note)
        # What cannot be understood may have cost something all the same.
        chunk.cost_usd = None if lost else taking.cost_usd
        return not lost

    def refuse(self, chunk: Chunk, said: str) -> None:
        """Note that a chunk was refused as a whole."""
        chunk.failed = dict.fromkeys(self._folder.keys(chunk) or (), ("provider", f"the batch was refused: {said}", 1))
        self.failed |= chunk.failed

    async def _fetch(self, chunk: Chunk) -> list[Path]:
        """Fetch a batch's files; again, when they hold less than was promised, until they come twice alike."""
        before = ""
        files: list[Path] = []
        for _ in range(DOWNLOADS):
            files = []
            for file_id, kind in ((chunk.output_file_id, "output"), (chunk.error_file_id, "errors")):
                if file_id is not None:
                    path = self._folder.path / f"{self._folder.path_of(chunk).stem}.{kind}.jsonl"
                    await self._provider.download(file_id, path)
                    files.append(path)
            digest = hashlib.sha256(b"".join(_digest(path) for path in files)).hexdigest()
            whole = sum(1 for path in files for line in _lines(path) if self._row(line)) >= chunk.answered
            if whole or digest == before:
                break
            before = digest
        return files

    def _enter(self, taking: _Taking, number: int, line: bytes) -> bool:
        """Enter one line; False when it may be an answer that was paid for and could not be put away."""
        row = self._row(line)
        key = row.get("custom_id")
        if not isinstance(key, str) or (taking.keys is not None and key not in taking.keys):
            return False
        response = _object(row.get("response"))
        said, body = response.get("status_code"), response.get("body")
        status = said if isinstance(said, int) else 0
        if not 200 <= status < 300:
            self._no_answer(key, status, row)
            return True
        try:
            answer = self._answer(taking, key, body, number)
        except NotAReplyError:
            self._fail(
                key, "provider", self._provider.redact(f"the batch's reply is no completion: {str(body)[:200]!r}")
            )
            return False
        if answer.cost_usd is None:
            taking.cost_usd = None
        elif taking.cost_usd is not None:
            taking.cost_usd += answer.cost_usd
        if key in self.wants:
            self._buy(key, answer)
            return True
        return self._store.get(key) is not None or self._keep(taking.chunk, key, answer)

    def _row(self, line: bytes) -> dict[str, Any]:
        """What a line says; nothing when it cannot be understood."""
        try:
            return _object(parsed(line.decode("utf-8", "replace"), self._provider.secret))
        except NotAReplyError:
            return {}

    @property
    def provider(self) -> Provider:
        """Whose address the job's is."""
        return self._job.provider

    def _buy(self, key: str, answer: Answer) -> None:
        planned = self.planned(key)
        rest = self._ledger.take(planned)
        if rest is not None:
            # Another run has bought it meanwhile. It is paid for twice, and that is said and kept.
            self._ledger.progress.bought(answer)
            self._store.put_rejected(planned.request, answer, "provider", "another run had bought an answer before")
        else:
            try:
                rest = self._ledger.buy(planned, answer)
            except InvalidAnswerError as error:
                self._fail(key, error.kind, error.reason)
                return
        self._has_come(key, rest)

    def _keep(self, chunk: Chunk, key: str, answer: Answer) -> bool:
        """Put away an answer that no label of this job waits for: relabel words its requests differently than it did then."""
        body = self._folder.body_of(chunk, key)
        if body is None:
            return False
        endpoint = self._job.endpoint
        body = without_cache_fields(body)
        candidates = (Request(endpoint.host, body, sample, endpoint.api) for sample in range(self._job.samples))
        request = next((r for r in candidates if r.key == key), None)
        if request is None:
            return False
        self._ledger.progress.bought(answer)
        self._store.put(request, answer)
        return True

    def _answer(self, taking: _Taking, key: str, body: Any, number: int) -> Answer:
        assert taking.chunk.ended_at is not None
        # The time is that at which the batch was seen to have ended, a microsecond later with each line: taken again, a line gives
        # the same answer, and no two answers to one question get one name.
        came = datetime.fromisoformat(taking.chunk.ended_at) + timedelta(microseconds=number)
        return answer_to(
            key,
            self._job.endpoint.api,
            body,
            self._job.price,
            attempts=max(1, self.tries[key]),
            latency_s=round(taking.seconds, 1),
            came=came,
        )

    def _no_answer(self, key: str, status: int, row: dict[str, Any]) -> None:
        body = _object(_object(row.get("response")).get("body"))
        error = _object(row.get("error")) or _object(body.get("error"))
        code, said = (str(error.get(name) or "") for name in ("code", "message"))
        said = self._provider.redact(" ".join((said or code or str(body)[:200]).split())[:300])
        shown = f"HTTP {status}: {said}" if status else said
        if code in _NOT_ASKED or passes(status):
            self.unanswered[key] = shown
            fatal = self._provider.fatal(None, code, said, PATHS[self._job.endpoint.api])
        else:
            self._fail(key, "provider", shown)
            fatal = self._provider.fatal(status, code, said, PATHS[self._job.endpoint.api])
        self.fatal = self.fatal or fatal

    def _fail(self, key: str, kind: FailureKind, said: str) -> None:
        if key in self.wants:
            self.failed[key] = (kind, said, max(1, self.tries[key]))

    def whole(self, want: Want) -> Planned:
        """A plan entry with its request."""
        tasks, setting, sample = want
        return Planned(tasks, setting, sample, self._job.planner.request(tasks, setting, sample))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
