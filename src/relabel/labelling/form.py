"""How a server can be held to the answer's shape: known from before, or found out by one real question."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from relabel.label import Answer, InvalidAnswerError
from relabel.labelling.engines.engine import Engine, Flies, NoAnswerError
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import LEASE_S, Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.progress import Progress
from relabel.labelling.request import Endpoint, Planned
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS
from relabel.labelling.workers import DRAIN_S

_NO_SUCH_FORM = {400, 415, 422, 501}
_WITNESSES = 3
"""Questions of different tasks that are put in one form before it is given up, where the server does not speak of the form."""


def form_note(endpoint: Endpoint) -> str:
    """Where the form is noted: for this day, as providers learn and models change."""
    return f"form/{endpoint.api}/{endpoint.host}/{endpoint.model}@{datetime.now(UTC):%Y-%m-%d}"


def with_known_form(job: Job, store: Store) -> Job:
    """The job with the form that its server is known to take: by a note, or by an answer to the first question.

    Where only asking can tell, it still wants its probe.
    """
    if not job.probe:
        return job
    noted = store.note(form_note(job.endpoint))
    for form in FORMS if noted is None else (noted,):
        candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
        first = next(candidate.plan(), None)
        if noted is not None or (first is not None and store.get(first.request.key) is not None):
            return candidate
    return job


async def settle_unless_stopped(
    job: Job,
    engine: Engine,
    store: Store,
    progress: Progress,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    stop: Stop,
) -> Job:
    """`settle_form`, which leaves when the job is stopped: at once, or when what is on the wire has come back."""
    on_wire = False

    def flies(now: bool) -> None:
        nonlocal on_wire
        on_wire = now
        if now:
            progress.flying[""] = ("the first question", time.monotonic())
        else:
            progress.flying.pop("", None)
        if stop.asked.is_set() and not now:
            settling.cancel()

    leases = Leases(store.folder)
    settling = asyncio.create_task(settle_form(job, engine, store, progress, bought, invalid, leases, flies))
    stopping = asyncio.create_task(stop.asked.wait())
    leaving = asyncio.create_task(stop.at_once.wait())
    try:
        while not settling.done() and not stopping.done():
            await asyncio.wait({settling, stopping}, timeout=LEASE_S / 3, return_when=asyncio.FIRST_COMPLETED)
            leases.renew()
        if on_wire:
            await asyncio.wait({settling, leaving}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not settling.done():
            settling.cancel()
            await asyncio.wait({settling})
        return replace(job, probe=False) if settling.cancelled() else settling.result()
    finally:
        for task in (settling, stopping, leaving):
            task.cancel()
        await asyncio.wait({settling, stopping, leaving})
        leases.close()


async def settle_form(
    job: Job,
    engine: Engine,
    store: Store,
    progress: Progress,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    leases: Leases,
    flies: Flies,
) -> Job:
    """Find out how the server can be held to the answer's shape: by one real question, whose answer is kept.

    The form steps down when the server's refusal speaks of it, or when it refuses two different tasks alike. What was found is remembered in
    the store for a day, because requests are hashed with it: a rerun must not ask again.

    Args:
        job: The job; its endpoint has the strictest form.
        engine: Asks.
        store: Remembers.
        progress: Counted up by what the question cost.
        bought: Gets the key of the question, when its answer was bought here.
        invalid: Gets the answer and what is wrong with it, when it is no label: the question is not asked anew.
        leases: Keeps two processes from finding out the same, and from asking the same question.
        flies: See `Engine.ask`.

    Returns:
        The job with the form that the server takes.
    """
    name = form_note(job.endpoint)
    while not leases.take(name):
        await leases.pause()
    try:
        for form in FORMS:
            candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
            failed: list[NoAnswerError] = []
            for planned in _different_tasks(candidate):
                key = planned.request.key
                while not leases.take(key):
                    if leases.batch_of(key) is not None:  # a batch asks in this form, and it is not bought twice
                        return candidate
                    await leases.pause()
                try:
                    if not (known := with_known_form(job, store)).probe:  # another run has asked just this
                        return known
                    answer = await engine.ask(planned.request, flies=flies)
                    store.put_note(name, form)
                    progress.bought(answer)
                    _enter(candidate, planned, answer, store, bought, invalid)
                    return candidate
                except NoAnswerError as error:
                    failed.append(error)
                    if error.meaning == "form" or not _says_little(error):
                        break
                finally:
                    leases.give_back(key)
                if len(failed) == 2 and _alike(*failed):
                    break
            if not failed or not (failed[-1].meaning == "form" or (len(failed) == 2 and _alike(*failed))):
                break
        return replace(job, probe=False)  # the fault lies elsewhere, and the run will meet it
    finally:
        leases.give_back(name)


def _different_tasks(job: Job) -> Iterator[Planned]:
    """The first questions about different tasks."""
    before: object = None
    left = _WITNESSES
    for planned in job.plan():
        if planned.tasks != before and left:
            before, left = planned.tasks, left - 1
            yield planned
        if not left:
            return


def _says_little(error: NoAnswerError) -> bool:
    """Whether a refusal may be about the question alone, so that another one must tell."""
    return error.kind in {"content-filter", "invalid-json"} or error.status in _NO_SUCH_FORM


def _alike(one: NoAnswerError, other: NoAnswerError) -> bool:
    """Whether two refusals are the same and not about what was asked."""
    about_the_form = {one.kind, other.kind} == {"provider"}
    return about_the_form and (one.status, one.meaning) == (other.status, other.meaning)


def _enter(
    job: Job,
    planned: Planned,
    answer: Answer,
    store: Store,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
) -> None:
    """Keep the answer to a question that was put to find the form out: it is paid for."""
    ledger = Ledger(job.rubric, store, Progress(asked=1), api=job.endpoint.api, decide=job.decide, alone=job.alone)
    try:
        ledger.buy(planned, answer)
        bought.add(planned.request.key)
    except InvalidAnswerError as error:
        invalid[planned.request.key] = answer, error
