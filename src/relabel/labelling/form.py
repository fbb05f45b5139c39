"""How a server can be held to the answer's shape: known from before, or found out by one real question."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from relabel.label import Answer, InvalidAnswerError
from relabel.labelling.engines.engine import Engine, Flies, NoAnswerError
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import LEASE_S, Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.progress import Progress
from relabel.labelling.request import Endpoint
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS
from relabel.labelling.workers import DRAIN_S

_NO_SUCH_FORM = {400, 415, 422, 501}


def _form_note(endpoint: Endpoint) -> str:
    return f"form/{endpoint.api}/{endpoint.host}/{endpoint.model}"


def with_known_form(job: Job, store: Store) -> Job:
    """The job with the form that its server is known to take: by a note, or by an answer to the first question.

    Where only asking can tell, it still wants its probe.
    """
    if not job.probe:
        return job
    noted = store.note(_form_note(job.endpoint))
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

    What was found is remembered in the store, because requests are hashed with it: a rerun must not ask again.

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
    name = _form_note(job.endpoint)
    while not leases.take(name):
        await leases.pause()
    try:
        if not (known := with_known_form(job, store)).probe:
            return known
        for form in FORMS:
            candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
            first = next(candidate.plan())
            key = first.request.key
            while not leases.take(key):
                if leases.batch_of(key) is not None:  # a batch asks in this form, and it is not bought twice
                    return candidate
                await leases.pause()
            try:
                if not (known := with_known_form(job, store)).probe:  # another run has asked just this
                    return known
                try:
                    answer = await engine.ask(first.request, flies=flies)
                except NoAnswerError as error:
                    if error.status in _NO_SUCH_FORM:
                        continue
                    break
                store.put_note(name, form)
                ledger = Ledger(
                    job.rubric, store, Progress(asked=1), api=job.endpoint.api, decide=job.decide, alone=candidate.alone
                )
                progress.bought(answer)
                try:
                    ledger.buy(first, answer)
                    bought.add(key)
                except InvalidAnswerError as error:
                    invalid[key] = answer, error
                return candidate
            finally:
                leases.give_back(key)
        return replace(job, probe=False)  # the fault lies elsewhere, and the run will meet it
    finally:
        leases.give_back(name)
