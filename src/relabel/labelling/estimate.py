"""Estimates of how many requests and tokens a job takes and what it costs, before anything is sent."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from relabel.labelling.job import Job, with_known_format
from relabel.labelling.providers import PrefixCache, Price, reasons, token_ratio
from relabel.labelling.request import Endpoint, canonical_json
from relabel.labelling.rows import sha256_of
from relabel.labelling.store import Store
from relabel.labelling.wire import messages_of, output_bound
from relabel.labels import Usage, answer_schema
from relabel.settings import Frozen

_PIECE = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]{1,3}|_+|\s{2,}|\n")
_LONG_WORD = re.compile(r"[^\W\d_]{10,}")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
# Tokens around a system and a user message: roles, separators, and the start of the answer.
_CHAT_TOKENS = 11
# Tokens of an answer per word that the rubric allows for a rationale, low and high.
_TOKENS_A_WORD = (0.5, 3.0)
# Minimum and maximum number of stored answers that the estimate for a setting uses.
_FEWEST_ANSWERS = 10
_MOST_ANSWERS = 500
# Number of stored answers to search for such answers.
_NEWEST_ROWS = 3_000
# Share by which an estimate from stored answers may be wrong.
_SPREAD_FROM_ANSWERS = 0.02
# Maximum hours that a batch takes; batches run in parallel.
BATCH_WINDOW_H = 24.0
# Answers per second that one process plans, validates and stores, measured on two shared cores with `bench/scale.py`.
DRIVER_ANSWERS_A_SECOND = 1200.0
# Minimum number of tasks that `cost_at_a_glance` samples, if there are as many.
_GLANCE_TASKS = 50


class Prefix(Frozen):
    """The part of the prompt that the requests of one setting share.

    Attributes:
        tokens: Its estimated length.
        requests: Number of requests to send that begin with it.
        passes: Whether it is long enough for the model's prefix cache; None if no cache, or no minimum, is known.
    """

    setting: str
    tokens: int
    requests: int
    passes: bool | None


class Estimate(Frozen):
    """A plan in numbers. Ranges are (low, high).

    Attributes:
        requests: Number of requests in the plan; one may ask about several tasks.
        in_store: Number of requests that the store answers.
        to_ask: Number of requests that would be sent, without repairs and retries.
        basis: What the numbers of tokens are estimated from.
        cost_usd: Cost without cache hits; None if no price is known.
        cost_cached_usd: Cost if all requests of a setting but the first hit the prefix cache; None if no cache applies, or if its
            price is unknown.
        prefixes: The part of the prompt that the requests of each setting share.
        cache_least: Minimum length of a prefix for the model's prefix cache, in tokens; None if unknown.
        cache_source: Source of the properties of the cache, with its date.
    """

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
    cost_cached_usd: tuple[float, float] | None = None
    prefixes: tuple[Prefix, ...] = ()
    cache_least: int | None = None
    cache_source: str | None = None


class Limit(Frozen):
    """One limit on the speed of a job.

    Attributes:
        name: What is limited.
        rate: The limit as text.
        hours: Hours that the job takes under this limit alone, low and high.
    """

    name: str
    rate: str
    hours: tuple[float, float]


def limits(job_estimate: Estimate, engine: str, *, rpm: float | None = None, tpm: float | None = None) -> list[Limit]:
    """The known limits on the speed of a job, the bottleneck first.

    Args:
        job_estimate: The job's estimate.
        engine: Name of the engine; for `batch`, only the batch window counts.
        rpm: Requests per minute that the provider allows; None if unknown.
        tpm: Tokens per minute that it allows, prompts and answers together; None if unknown.
    """
    if engine == "batch":
        return [Limit(name="the batch window", rate="answers within 24 h, in any order", hours=(0.0, BATCH_WINDOW_H))]
    requests = job_estimate.to_ask, job_estimate.to_ask
    least, most = map(sum, zip(job_estimate.prompt_tokens, job_estimate.completion_tokens, strict=True))
    bounds = (
        ("requests per minute", requests, rpm),
        ("tokens per minute", (least, most), tpm),
        ("answers per minute that one process handles", requests, DRIVER_ANSWERS_A_SECOND * 60),
    )
    listed = [
        Limit(name=name, rate=f"{rate:,.0f}", hours=(amount[0] / rate / 60, amount[1] / rate / 60))
        for name, amount, rate in bounds
        if rate
    ]
    return sorted(listed, key=lambda limit: limit.hours[::-1], reverse=True)


def pieces(text: str) -> float:
    """Number of words, numbers and marks in a text, about one token each in English; long words and non-ASCII characters add a half."""
    foreign = 0 if text.isascii() else len(_FOREIGN.findall(text))
    return len(_PIECE.findall(text)) + len(_LONG_WORD.findall(text)) / 2 + foreign / 2


@dataclass
class _Totals:
    """Totals of the requests to send in one setting, and of stored answers to the same prompt about any task."""

    # Of the requests to send: their number, tasks, pieces (see `pieces`) of their prompts, and maximum tokens of an answer.
    requests: int = 0
    tasks: int = 0
    size: float = 0.0
    bound: int | None = None
    # Of the stored answers: tokens and pieces of their prompts.
    prompt: float = 0.0
    pieces: float = 0.0
    # Of the stored answers: tokens of the answer per task, by request key.
    completion: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def from_answers(self) -> bool:
        return len(self.completion) >= _FEWEST_ANSWERS

    @property
    def wants_more(self) -> bool:
        return len(self.completion) < _MOST_ANSWERS

    def add(self, key: str, usage: Usage, size: float, tasks: int) -> None:
        if usage.prompt and key not in self.completion:
            self.prompt += usage.prompt
            self.pieces += size
            self.completion[key] = usage.completion / tasks


@dataclass
class _Shared:
    """The part that some requests have in common: all messages but the last, and the parameters."""

    setting: str
    pieces: float
    parameters: Mapping[str, Any]
    # Number of such requests to send.
    requests: int = 0


def _walk(job: Job, store: Store | None, *, afresh: bool) -> tuple[int, dict[str, _Shared], dict[str, _Totals]]:
    """Go through a plan once without holding it in memory.

    Returns:
        Number of requests, shared parts of prompts by their text, and totals by setting.
    """
    requests, prefixes, settings = 0, dict[str, _Shared](), dict[str, _Totals]()
    for item in job.plan():
        requests += 1
        body, key = item.request.body, item.request.key
        *fixed, user = messages_of(body)
        text = "\n".join(message["content"] for message in fixed)
        if (shared := prefixes.get(text)) is None:
            shared = prefixes[text] = _Shared(item.setting, pieces(text), _parameters(body))
        totals = settings.setdefault(item.setting, _Totals())
        size = shared.pieces + pieces(user["content"])
        if store is not None and store.has(key):
            if totals.wants_more and (answer := store.get(key)):
                totals.add(key, answer.usage, size, len(item.tasks))
            if not afresh:
                continue
        shared.requests += 1
        totals.requests += 1
        totals.tasks += len(item.tasks)
        totals.bound = output_bound(body)
        totals.size += size
    if store is not None and job.pack == 1:
        _read_about_other_tasks(store, job.endpoint, prefixes, settings)
    return requests, prefixes, settings


def _read_about_other_tasks(
    store: Store, endpoint: Endpoint, prefixes: Mapping[str, _Shared], settings: Mapping[str, _Totals]
) -> None:
    """Add stored answers about tasks outside the plan to settings that have too few answers."""
    lacking = [totals for totals in settings.values() if totals.requests and not totals.from_answers]
    by_hash = {sha256_of(text): shared for text, shared in prefixes.items()}
    for key, row in store.newest(_NEWEST_ROWS) if lacking else ():
        body = row.request.body
        if (row.request.host, body.get("model")) != (endpoint.host, endpoint.model):
            continue
        messages = messages_of(body)
        shared = by_hash.get(messages[0].get("sha256", ""))
        if shared is None or len(messages) != 2:
            continue
        if _parameters(body) == shared.parameters:
            size = shared.pieces + pieces(messages[1]["content"])
            settings[shared.setting].add(key, row.answer.usage, size, 1)
            if not any(totals.wants_more for totals in lacking):
                break


def _parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a request except the messages; requests that differ in these may take different numbers of tokens."""
    return {name: value for name, value in body.items() if name not in {"messages", "input"}}


def estimate(job: Job, store: Store | None, *, afresh: bool = False) -> Estimate:
    """Estimate a job from its plan, without sending a request or holding the plan in memory.

    Args:
        job: The job.
        store: The store; None if there is none yet.
        afresh: Whether to count requests that the store answers as requests to send.
    """
    job = job if store is None else with_known_format(job, store)
    requests, shared, settings = _walk(job, store, afresh=afresh)
    to_ask = sum(totals.requests for totals in settings.values())
    model, factors = job.endpoint.model, dict[str, float]()
    prompt, completion = (0.0, 0.0), (0, 0)
    for setting, totals in settings.items():
        factors[setting], (low, high) = _prompt_tokens(job, totals)
        prompt = prompt[0] + low, prompt[1] + high
        least, most = _completion_tokens(job, totals)
        completion = completion[0] + least, completion[1] + most
    prompt = int(prompt[0]), int(prompt[1])
    price, cache = job.price, job.provider.prefix_cache(model)
    prefixes = tuple(
        Prefix(
            setting=prefix.setting,
            tokens=round(
                prefix.pieces * (factor := factors[prefix.setting])
                + (0 if settings[prefix.setting].from_answers else _CHAT_TOKENS / 2)
            ),
            requests=prefix.requests,
            passes=None if cache is None or cache.least is None else prefix.pieces * factor >= cache.least,
        )
        for prefix in shared.values()
        if prefix.requests
    )
    cost = None
    if price is not None:
        low, high = (price.cost(Usage(prompt=p, completion=c)) for p, c in zip(prompt, completion, strict=True))
        cost = low, high
    return Estimate(
        labels=job.size,
        requests=requests,
        in_store=requests - to_ask,
        to_ask=to_ask,
        prompt_tokens=prompt,
        completion_tokens=completion,
        basis=_basis(model, {name: totals for name, totals in settings.items() if totals.requests}),
        cost_usd=cost,
        price_source=price.source if price else None,
        price_as_of=price.as_of if price else None,
        cost_cached_usd=_with_hits(price, cache, prefixes, prompt, completion),
        prefixes=prefixes,
        cache_least=cache.least if cache else None,
        cache_source=f"{job.provider.name}, as of {job.provider.as_of}" if cache else None,
    )


def _prompt_tokens(job: Job, totals: _Totals) -> tuple[float, tuple[float, float]]:
    """Tokens per piece, and tokens of the prompts of one setting (low, high)."""
    if totals.from_answers:
        factor = totals.prompt / totals.pieces
        tokens = totals.size * factor
        return factor, (tokens * (1 - _SPREAD_FROM_ANSWERS), tokens * (1 + _SPREAD_FROM_ANSWERS))
    ratio = token_ratio(job.endpoint.model)
    strict = job.decide == "json" and job.endpoint.form == "json_schema"
    schema = ratio.factor * pieces(canonical_json(answer_schema(job.rubric)).decode()) if strict else 0.0
    tokens = totals.size * ratio.factor + totals.requests * _CHAT_TOKENS
    return ratio.factor, (tokens * (1 - ratio.spread), (tokens + totals.requests * schema) * (1 + ratio.spread))


def _completion_tokens(job: Job, totals: _Totals) -> tuple[int, int]:
    """Tokens of the answers of one setting (low, high)."""
    if job.decide == "logprob":
        return totals.requests, totals.requests
    if totals.from_answers:
        answers = list(totals.completion.values())
        mean, error = statistics.fmean(answers), statistics.stdev(answers) / len(answers) ** 0.5
        least, most = int(totals.tasks * max(0.0, mean - 2 * error)), int(totals.tasks * (mean + 2 * error))
    else:
        words = job.rubric.rationale.max_words
        least, most = (int(totals.tasks * (words * factor + 15)) for factor in _TOKENS_A_WORD)
    if totals.bound:
        most = min(most, totals.requests * totals.bound)
    return min(least, most), most


def _basis(model: str, settings: Mapping[str, _Totals]) -> str:
    from_answers = [totals.from_answers for totals in settings.values()]
    answers = sum(len(totals.completion) for totals in settings.values() if totals.from_answers)
    stored = f"from {answers:,} stored answers to the same prompts"
    if settings and all(from_answers):
        return stored
    basis = "from the words of the prompts and the words allowed for a rationale"
    if answers:
        basis = f"{stored}, for the other settings {basis}"
    if reasons(model):
        basis += (
            f"; {model} thinks before it answers: hidden tokens, billed as output, are not included; a pilot "
            "(--sample 50) shows how many"
        )
    return basis


def _with_hits(
    price: Price | None,
    cache: PrefixCache | None,
    prefixes: tuple[Prefix, ...],
    prompt: tuple[int, int],
    completion: tuple[int, int],
) -> tuple[float, float] | None:
    """The cost in USD (low, high) if the first request of each setting fills the cache and all others hit it."""
    cached = [prefix for prefix in prefixes if prefix.passes is not False]
    if price is None or cache is None or not cached or price.cached >= price.input:
        return None
    hits = sum(prefix.tokens * (prefix.requests - 1) for prefix in cached)
    written = sum(prefix.tokens for prefix in cached)
    low, high = (
        price.cost(Usage(prompt=p, cached=min(hits, p), written=min(written, max(0, p - hits)), completion=c))
        for p, c in zip(prompt, completion, strict=True)
    )
    return low, high


def cost_at_a_glance(job: Job, store: Store | None) -> float | None:
    """Upper estimate of a job's cost in USD, projected from a few of its tasks; None without a price.

    The higher of two estimates: one from the words of the prompts, and one that also uses stored answers.
    """
    tasks = job.tasks[:: max(1, len(job.tasks) // _GLANCE_TASKS)]
    sample = replace(job, tasks=tasks, samples=1, orders=())
    costs = [estimate(sample, source, afresh=True).cost_usd for source in ((None,) if store is None else (None, store))]
    most = max((cost[1] for cost in costs if cost is not None), default=None)
    return None if most is None else most * len(job.tasks) / len(tasks) * job.repeats
