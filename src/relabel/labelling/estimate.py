"""What a job would ask and cost, before anything is asked."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from relabel.label import Usage
from relabel.labelling.form import with_known_form
from relabel.labelling.job import Job
from relabel.labelling.store import Store
from relabel.labelling.wire import messages_of, output_bound

_CHARS_A_TOKEN = (5.0, 3.0)
"""English text, from few tokens to many, over the tokenizers in use."""
_OVERHEAD_TOKENS = (0, 120)
"""Chat marks and the schema, which some providers count as part of the prompt."""
_WORDS_TO_TOKENS = (0.5, 3.0)
"""Tokens of an answer, of the words that the rubric allows for a rationale."""

_A_FEW = 50
"""Tasks that stand for all."""


class Estimate(BaseModel):
    """A plan in numbers. Ranges are (low, high).

    Attributes:
        requests: Requests of the plan; one may ask about several tasks.
        in_store: Those that the store answers.
        to_ask: Those that would be sent, repairs and retries not counted.
        basis: Where the token figures come from.
        cost_usd: None where no price is known.
    """

    model_config = ConfigDict(frozen=True)

    labels: int
    requests: int
    in_store: int
    to_ask: int
    prompt_tokens: tuple[int, int]
    completion_tokens: tuple[int, int]
    basis: str
    cost_usd: tuple[float, float] | None
    price_source: str | None
    price_as_of: str | None


def estimate(job: Job, store: Store | None) -> Estimate:
    """Walk through a job's plan without asking anything. The plan is never held whole.

    Args:
        job: The job.
        store: The store; None where there is none yet.
    """
    job = job if store is None else with_known_form(job, store)
    requests = known = characters = tasks_to_ask = 0
    bound: int | None = None
    for planned in job.plan():
        requests += 1
        if store is not None and store.has(planned.request.key):
            known += 1
            continue
        tasks_to_ask += len(planned.tasks)
        bound = output_bound(planned.request.body)
        characters += sum(len(message["content"]) for message in messages_of(planned.request.body))
    to_ask = requests - known
    words = job.rubric.rationale.max_words
    low, high = (
        (int(characters / chars) + to_ask * extra)
        for chars, extra in zip(_CHARS_A_TOKEN, _OVERHEAD_TOKENS, strict=True)
    )
    if job.decide == "logprob":
        least = most = to_ask
    else:
        least, most = (int(tasks_to_ask * (words * factor + 15)) for factor in _WORDS_TO_TOKENS)
        most = min(most, to_ask * bound) if bound else most
        least = min(least, most)
    price = job.price
    cost = None
    if price is not None:
        cost = (price.cost(Usage(prompt=low, completion=least)), price.cost(Usage(prompt=high, completion=most)))
    return Estimate(
        labels=job.size,
        requests=requests,
        in_store=known,
        to_ask=to_ask,
        prompt_tokens=(low, high),
        completion_tokens=(least, most),
        basis="from the length of the prompts and the words allowed; hidden reasoning tokens are not foreseen",
        cost_usd=cost,
        price_source=price.source if price else None,
        price_as_of=price.as_of if price else None,
    )


def cost_at_a_glance(job: Job) -> float | None:
    """The most that a job may cost in USD, by a few of its tasks and whatever the store knows; None without a price."""
    few = job.tasks[:: max(1, len(job.tasks) // _A_FEW)]
    cost = estimate(replace(job, tasks=few, samples=1, orders=()), None).cost_usd
    return None if cost is None else cost[1] * len(job.tasks) / len(few) * job.repeats
