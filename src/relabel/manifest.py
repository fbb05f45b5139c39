"""The manifest of a run: enough to do it again and to trace each number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from relabel.rubric import Rubric

FORMAT_VERSION = 1


class SourceUse(BaseModel):
    """A source file that went into a run."""

    model_config = ConfigDict(frozen=True, extra="allow")

    source: str
    file: str
    sha256: str
    copy_status: str | None = None


class Counts(BaseModel):
    """Labels asked for, and where they came from. `asked = from_store + fresh + failed` when the run has ended.

    Attributes:
        repaired: Labels from an answer that was asked for again, with what was wrong with the one before.
        unwrapped: Labels that were read from within other text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: int = 0
    from_store: int = 0
    fresh: int = 0
    failed: int = 0
    repaired: int = 0
    unwrapped: int = 0


class Tokens(BaseModel):
    """Tokens of the answers bought by this run, those of rejected answers included.

    Attributes:
        cached: Tokens of prompts that the provider read from its prefix cache, as it says itself.
        written: Those that it wrote to that cache, where it counts them.
        reasoning: Tokens of hidden thinking, counted in `completion`.
        cached_share: `cached` over `prompt`, 0-1; None where nothing was bought.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int = 0
    cached: int = 0
    written: int = 0
    completion: int = 0
    reasoning: int = 0
    cached_share: float | None = None


class PerhapsCharged(BaseModel):
    """Requests that were sent and never answered: the provider may have charged for them.

    Attributes:
        requests: How many.
        usd: The most that they can have cost; None where no bound of it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = 0
    usd: float | None = 0.0


class Session(BaseModel):
    """One start of a run: what it found, bought and paid. A run that was stopped and started again has several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started_at: str
    ended_at: str
    status: str
    counts: Counts
    tokens: Tokens
    cost_usd: float | None
    perhaps_charged: PerhapsCharged = PerhapsCharged()


class Manifest(BaseModel):
    """What a run did: enough to do it again and to trace each number.

    Attributes:
        status: `running` until the end is written; `incomplete` when labels are missing; `interrupted` when stopped.
        counts: Of the last session, as are `tokens`, `cost_usd`, `started_at` and `ended_at`.
        labels_by_model: Labels by the model that the provider says answered.
        repeats_from_cache: Samples that a cache on the way to the model answered with an earlier one of the question.
        cost_usd: Cost of what was bought; None where the price is unknown.
        table_cost_usd: The same by the price table, where the provider stated costs of its own that differ.
        upstreams: Who answered behind a gateway or router, as it says.
        perhaps_charged: Requests without an answer that may have been charged all the same; `cost_usd` leaves them out.
        origins: Labels whose answers came from a pack, by the pack.
        sessions: Every start of the run that came to an end; their sums are what the run took in all.
        rubric: The rubric, whole, so that a run folder explains its own labels.
        parameters: The command's options that shape the run.
        api: The dialect that the server was spoken to in.
        response_form: How the server was held to the answer's shape: `json_schema`, `json_object` or `text`.
        priors: For labels decided by log probability, the mean log probability by setting and label that calibration
            took out.
        history: How the number of requests in flight was found: seconds from the start, the limit, and why it changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    status: Literal["running", "complete", "incomplete", "interrupted", "published"]
    package_version: str
    git_commit: str | None = None
    model: str
    models_returned: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    labels_by_model: Mapping[str, int] = {}
    repeats_from_cache: int = 0
    base_url: str | None = None
    engine: str | None = None
    rubric: Rubric
    rubric_sha256: str
    prompt_sha256: str | None = None
    schema_sha256: str | None = None
    sources: tuple[SourceUse, ...] = ()
    tasks: str
    settings: tuple[str, ...]
    parameters: Mapping[str, Any] = {}
    counts: Counts = Counts()
    tokens: Tokens = Tokens()
    cost_usd: float | None = None
    table_cost_usd: float | None = None
    perhaps_charged: PerhapsCharged = PerhapsCharged()
    price: Mapping[str, Any] | None = None
    api: str | None = None
    response_form: str | None = None
    priors: Mapping[str, Mapping[str, float]] | None = None
    history: tuple[tuple[float, int, str], ...] = ()
    origins: Mapping[str, int] = {}
    sessions: tuple[Session, ...] = ()
    note: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
