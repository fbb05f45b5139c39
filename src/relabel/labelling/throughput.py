"""How long a job takes and what it costs, by each of the things that limit it, and which of them binds.

Each limit by itself would let the job end after so many hours; the one that takes longest binds. What is not given limits nothing:
a provider's quota and the speed of a GPU are the user's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from relabel.labelling.estimate import Estimate

Range = tuple[float, float]
"""Low and high."""
EngineKind = Literal["online", "batch", "ray"]

BATCH_WINDOW_H = 24.0
"""Hours within which the Batch API answers; batches run side by side."""
DRIVER_ANSWERS_A_SECOND: Mapping[str, float] = {"online": 1200.0, "ray": 1200.0}
"""Answers that one processor core plans, validates and stores; as measured on two shared cores;
`bench/scale.py` prints it for the machine that it runs on."""


@dataclass(frozen=True)
class Pace:
    """What is known of the limits. None limits nothing.

    Attributes:
        engine: How requests are asked.
        rpm: Requests a minute that the provider grants.
        tpm: Tokens a minute that it grants, prompts and answers.
        concurrency: Requests in flight at most.
        latency_s: Seconds that one answer takes.
        gpu_tokens_s: Tokens of answers a second that one GPU, or one server of a local model, gives when it is kept full.
        gpus: Their number.
        gpu_usd_h: What one costs an hour, in USD.
        driver_answers_s: Answers a second that the driver handles.
    """

    engine: EngineKind = "online"
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    latency_s: float | None = None
    gpu_tokens_s: float | None = None
    gpus: int = 1
    gpu_usd_h: float | None = None
    driver_answers_s: float | None = None


class Limit(BaseModel):
    """One thing that limits a job.

    Attributes:
        name: What it is.
        rate: Its size, in words.
        hours: How long the job takes by this limit alone.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rate: str
    hours: Range


class Outlook(BaseModel):
    """What a job comes to.

    Attributes:
        requests: Requests, repairs and retries not counted.
        prompt_tokens: Low and high.
        completion_tokens: Low and high.
        hours: Low and high.
        binds: Name of the limit that binds when answers are long.
        limits: All limits that are known, the one that binds first.
        tokens_usd: Cost of the tokens; None where no price is known.
        gpu_usd: Cost of the GPUs; None where none is given.
        price_source: Where the price comes from.
    """

    model_config = ConfigDict(frozen=True)

    engine: EngineKind
    labels: int
    requests: int
    prompt_tokens: tuple[int, int]
    completion_tokens: tuple[int, int]
    hours: Range
    binds: str
    limits: tuple[Limit, ...]
    tokens_usd: Range | None
    gpu_usd: Range | None
    price_source: str | None
    basis: str


def outlook(once: Estimate, samples: int, pace: Pace) -> Outlook:
    """Say how long a job takes, what binds, and what it costs.

    Args:
        once: The estimate of the job with one sample.
        samples: Times that each question is asked.
        pace: The limits. For the batch engine only its window counts.
    """
    requests = once.to_ask * samples
    prompt, completion = _times(once.prompt_tokens, samples), _times(once.completion_tokens, samples)
    limits = sorted(_limits(requests, prompt, completion, pace), key=lambda limit: limit.hours[::-1], reverse=True)
    binding = limits[0]
    hours = max(limit.hours[0] for limit in limits), binding.hours[1]
    gpu = pace.gpu_usd_h
    return Outlook(
        engine=pace.engine,
        labels=once.labels * samples,
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        hours=hours,
        binds=binding.name,
        limits=tuple(limits),
        tokens_usd=None if once.cost_usd is None else (once.cost_usd[0] * samples, once.cost_usd[1] * samples),
        gpu_usd=None if gpu is None else (hours[0] * gpu * pace.gpus, hours[1] * gpu * pace.gpus),
        price_source=once.price_source,
        basis=once.basis,
    )


def _limits(requests: int, prompt: tuple[int, int], completion: tuple[int, int], pace: Pace) -> Iterator[Limit]:
    if pace.engine == "batch":
        yield Limit(name="the batch window", rate="answers within 24 h, in any order", hours=(0.0, BATCH_WINDOW_H))
        return
    if pace.rpm:
        yield Limit(name="requests a minute", rate=f"{pace.rpm:,.0f}", hours=_hours(requests, pace.rpm / 60))
    if pace.tpm:
        all_tokens = prompt[0] + completion[0], prompt[1] + completion[1]
        yield Limit(name="tokens a minute", rate=f"{pace.tpm:,.0f}", hours=_hours(all_tokens, pace.tpm / 60))
    if pace.concurrency and pace.latency_s:
        yield Limit(
            name="requests in flight",
            rate=f"{pace.concurrency:,} x {pace.latency_s:g} s",
            hours=_hours(requests, pace.concurrency / pace.latency_s),
        )
    if pace.gpu_tokens_s:
        yield Limit(
            name="tokens of the GPUs",
            rate=f"{pace.gpus:,} x {pace.gpu_tokens_s:,.0f} a second",
            hours=_hours(completion, pace.gpu_tokens_s * pace.gpus),
        )
    driver = pace.driver_answers_s or DRIVER_ANSWERS_A_SECOND[pace.engine]
    yield Limit(name="the driver's processor", rate=f"{driver:,.0f} answers a second", hours=_hours(requests, driver))


def _hours(amount: float | tuple[int, int], a_second: float) -> Range:
    low, high = amount if isinstance(amount, tuple) else (amount, amount)
    return low / a_second / 3600, high / a_second / 3600


def _times(amount: tuple[int, int], samples: int) -> tuple[int, int]:
    return amount[0] * samples, amount[1] * samples
