"""The requests of a batch job that have no answer yet, and what the lines of its results make of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from relabel.errors import ProviderError
from relabel.labelling.batch.provider import BatchProvider, Result
from relabel.labelling.batch.state import BatchFolder, Chunk
from relabel.labelling.collector import LabelCollector
from relabel.labelling.job import Job
from relabel.labelling.providers import without_cache_fields
from relabel.labelling.refusals import meaning_of, passes
from relabel.labelling.reply import answer_to
from relabel.labelling.request import Request, WorkItem
from relabel.labelling.store import Store
from relabel.labelling.wire import PATHS, NotAReplyError
from relabel.labels import Answer, FailureKind, InvalidAnswerError

_NOT_ASKED = {"batch_expired", "batch_cancelled"}


@dataclass
class OpenRequest:
    """A request without an answer.

    Attributes:
        wanted: The labels that wait for it.
        tries: Batches that it went into.
        failed: Why it has no answer for good: kind, message and requests sent.
        unanswered: Why it was not answered, where it may be asked again.
        elsewhere: Whether another run has it in flight, and which batch run that is, if it is one.
    """

    wanted: list[WorkItem] = field(default_factory=list[WorkItem])
    tries: int = 0
    failed: tuple[FailureKind, str, int] | None = None
    unanswered: str = ""
    elsewhere: tuple[str | None] | None = None


class OpenRequests(dict[str, OpenRequest]):
    """All requests of a job that have no answer yet, by key.

    Args:
        job: The job.
        store: Keeps answers.
        ledger: Gets labels.
        folder: Knows what was sent.
        provider: Sends the results.

    Attributes:
        fatal: What the provider said that holds for all requests.
    """

    def __init__(
        self, job: Job, store: Store, collector: LabelCollector, folder: BatchFolder, provider: BatchProvider
    ) -> None:
        super().__init__()
        self.fatal: ProviderError | None = None
        self._job, self._store, self._collector, self._folder, self._provider = job, store, collector, folder, provider

    def add(self, planned: WorkItem) -> None:
        """Take an answer from the store, or note that it is wanted."""
        rest = self._collector.take(planned)
        if rest is None:
            wanted = WorkItem(planned.tasks, planned.setting, planned.sample)
            self.setdefault(planned.request.key, OpenRequest()).wanted.append(wanted)
        for single in rest or ():
            self.add(single)

    def planned(self, key: str) -> WorkItem:
        """The plan entry of a request."""
        return self._job.planner.planned(self[key].wanted[0])

    def is_here(self, key: str) -> bool:
        """Look again for an answer in the store, where another run may have put one; if so, it is taken."""
        rest = self._collector.take(self.planned(key))
        if rest is not None:
            self._close(key, rest)
        return rest is not None

    def _close(self, key: str, rest: list[WorkItem]) -> None:
        """The first label that waited has its answer: so have the others; tasks that it left out are asked alone."""
        for other in self.pop(key).wanted[1:]:
            self.add(self._job.planner.planned(other))
        for single in rest:
            self.add(single)

    def fail(self, key: str, kind: FailureKind, said: str) -> None:
        """Note that a request has no answer for good."""
        if key in self:
            self[key].failed = (kind, said, max(1, self[key].tries))

    def enter(self, chunk: Chunk, result: Result, number: int) -> tuple[bool, float | None]:
        """Enter one result of a chunk; the second time, that changes nothing.

        Args:
            chunk: The chunk.
            result: The result.
            number: Of its line, from 1.

        Returns:
            Whether what was paid for is in the store; and the cost of the answer in USD, None where it is unknown.
        """
        key = result.key
        if not 200 <= result.status < 300:
            self._no_answer(result)
            return True, 0.0
        try:
            answer = self._answer(chunk, result, number)
        except NotAReplyError:
            said = self._provider.redact(str(result.body))[:200]
            self.fail(key, "provider", f"the batch's reply is not a completion: {said!r}")
            return False, None
        if key in self:
            self._buy(key, answer)
            return True, answer.cost_usd
        return self._store.get(key) is not None or self._keep(chunk, key, answer), answer.cost_usd

    def _answer(self, chunk: Chunk, result: Result, number: int) -> Answer:
        # Dated when the batch was seen to have ended, a microsecond later with each line: a line that is read again gives the same
        # answer, and no two answers to one question get one name.
        assert chunk.ended_at is not None
        ended = datetime.fromisoformat(chunk.ended_at)
        took = (ended - datetime.fromisoformat(chunk.submitted_at)).total_seconds() if chunk.submitted_at else 0.0
        return answer_to(
            result.key,
            self._job.endpoint.api,
            result.body,
            self._job.price,
            attempts=max(1, self[result.key].tries if result.key in self else 0),
            latency_s=round(max(0.0, took), 1),
            came=ended + timedelta(microseconds=number),
        )

    def _buy(self, key: str, answer: Answer) -> None:
        planned = self.planned(key)
        rest = self._collector.take(planned)
        if rest is not None:
            # Another run has bought it meanwhile. It is paid for twice, and that is said and kept.
            self._collector.progress.bought(answer)
            self._store.put_rejected(planned.request, answer, "provider", "another run had bought an answer before")
        else:
            try:
                rest = self._collector.buy(planned, answer)
            except InvalidAnswerError as error:
                self.fail(key, error.kind, error.reason)
                return
        self._close(key, rest)

    def _keep(self, chunk: Chunk, key: str, answer: Answer) -> bool:
        """Store an answer that no label of this job waits for: an earlier relabel may have worded its requests differently."""
        line = self._folder.line_of(chunk, key)
        if line is None:
            return False
        body, endpoint = without_cache_fields(json.loads(line)["body"]), self._job.endpoint
        for sample in range(self._job.samples):
            request = Request(endpoint.host, body, sample, endpoint.api)
            if request.key == key:
                self._collector.progress.bought(answer)
                self._store.put(request, answer)
                return True
        return False

    def _no_answer(self, result: Result) -> None:
        path = PATHS[self._job.endpoint.api]
        said = f"HTTP {result.status}: {result.message}" if result.status else result.message
        passing = result.code in _NOT_ASKED or passes(result.status)
        if not passing:
            meaning = meaning_of(result.status, result.code, result.message)
            kinds: dict[str, FailureKind] = {"content-filter": "content-filter", "bad-answer": "invalid-json"}
            self.fail(result.key, kinds.get(meaning, "provider"), said)
        elif result.key in self:
            self[result.key].unanswered = said
        status: Any = None if passing else result.status
        self.fatal = self.fatal or self._provider.fatal(status, result.code, result.message, path)
