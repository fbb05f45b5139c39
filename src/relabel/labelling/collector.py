"""Collects the labels, failures and counts of a running job, and estimates its speed."""

from __future__ import annotations

import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relabel.labelling.job import Job
from relabel.labelling.limits import Limiter
from relabel.labelling.request import WorkItem, letters
from relabel.labelling.store import Store
from relabel.labelling.wire import Api, NotAReplyError, messages_of, read
from relabel.labels import (
    OLD,
    Answer,
    Failure,
    FailureKind,
    InvalidAnswerError,
    Judgement,
    Label,
    Reading,
    Usage,
    cached_repeats,
    check_whole,
    fingerprint,
    read_answer,
)
from relabel.manifest import Counts, Tokens
from relabel.redaction import clean
from relabel.rubric import Rubric
from relabel.task import Task

# Failures of a shared request that a single one of its tasks, or their number, may have caused: its tasks are then asked alone.
_ASK_ALONE_AFTER = {"refusal", "content-filter", "length"}
# Fields that a label copies from its answer; the cost is then divided among the answer's tasks.
_COPIED_FIELDS = set(Label._fields) & Answer.model_fields.keys()
# Prompts have more tokens than words: with fewer than this per word, a prompt was cut.
_FEWEST_TOKENS_A_WORD = 0.75


@dataclass
class Progress:
    """Counts of a running job, written by the job and read by a display.

    Attributes:
        asked: Labels wanted.
        from_store: Labels from the store.
        fresh: Labels bought by this run.
        failed: Missing labels by kind of failure.
        in_flight: Requests in flight, by key: the task and setting, and when it was sent, on the job's clock.
        bought_tokens: Tokens bought by this run, by the names of `Usage`.
        cost_usd: Cost of this run; None once the cost of an answer is unknown.
        table_usd: The same cost by the price table, which differs if providers state their own costs.
        rejected: Answers bought that were invalid; `rejected_usd` is their cost.
        repaired: Labels from repeated requests after an invalid answer; `unwrapped` are labels extracted from surrounding
            text, and `label_first` labels written before their rationale.
        uncounted: Answers bought whose token counts were missing or impossible.
        cut_prompts: Labels from prompts that the server seems to have cut.
        unasked: Missing labels that were never requested.
        held_by_run: Missing labels that a batch run has in flight, by its name.
        doing: The final step in progress: `naming` (listing missing labels) or `writing` (the run folder).
    """

    asked: int
    from_store: int = 0
    fresh: int = 0
    failed: Counter[FailureKind] = field(default_factory=Counter[FailureKind])
    in_flight: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    bought_tokens: Counter[str] = field(default_factory=Counter[str])
    cost_usd: float | None = 0.0
    table_usd: float | None = 0.0
    rejected: int = 0
    rejected_usd: float | None = 0.0
    repaired: int = 0
    unwrapped: int = 0
    label_first: int = 0
    unasked: int = 0
    held_by_run: Counter[str] = field(default_factory=Counter[str])
    uncounted: int = 0
    cut_prompts: int = 0
    doing: Literal["", "naming", "writing"] = ""

    @property
    def done(self) -> int:
        """Number of labels that are present or failed."""
        return self.from_store + self.fresh + self.failed.total()

    @property
    def left(self) -> int:
        """Number of labels that are neither present nor failed."""
        return self.asked - self.done

    @property
    def counts(self) -> Counts:
        """Counts of labels for the manifest."""
        return Counts(**{name: getattr(self, name) for name in Counts.model_fields} | {"failed": self.failed.total()})

    @property
    def tokens(self) -> Tokens:
        """Tokens bought by this run, for the manifest."""
        bought = self.bought_tokens
        share = round(bought["cached"] / bought["prompt"], 4) if bought["prompt"] else None
        return Tokens(**bought, cached_share=share)

    def bought(self, answer: Answer) -> None:
        """Count an answer that this run paid for."""
        self.bought_tokens.update(vars(answer.usage))
        self.uncounted += answer.usage.prompt + answer.usage.completion == 0
        table = answer.cost_usd if answer.table_usd is None else answer.table_usd
        self.cost_usd = _sum(self.cost_usd, answer.cost_usd)
        self.table_usd = _sum(self.table_usd, table)


class LabelCollector:
    """Collects labels and failures. Every answer is stored before it counts.

    Args:
        job: The job.
        store: The store.
        progress: Counts, updated along the way.

    Attributes:
        repeats_from_cache: Number of samples that a gateway's cache answered with an earlier sample of the question.
    """

    def __init__(self, job: Job, store: Store, progress: Progress) -> None:
        self.job, self.store, self.progress = job, store, progress
        self.labels: list[Label] = []
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.repeats_from_cache = 0
        self._paid: set[str] = set()
        self._bought: set[str] = set()

    def take(self, item: WorkItem) -> list[WorkItem] | None:
        """Enter the labels of an answer from the store.

        Returns:
            Work items to send separately: those of tasks that the answer left out (usually none), or all of a shared request
            whose answer was rejected. None if the store has no valid answer.
        """
        answer = self.store.get(item.request.key, item.request)
        if answer is None:
            split = len(item.tasks) > 1 and self.store.was_rejected(item.request.key)
            return self._one_by_one(item, item.tasks) if split else None
        try:
            reading = self._read(item, answer)
        except InvalidAnswerError:
            return None
        return self._enter(item, answer, reading, from_store=True)

    def wanted(self, item: WorkItem) -> list[WorkItem]:
        """Enter answers from the store for a work item; returns the work items that still need a request."""
        remaining = self.take(item)
        return [item] if remaining is None else [wanted for single in remaining for wanted in self.wanted(single)]

    def buy(self, item: WorkItem, answer: Answer) -> list[WorkItem]:
        """Store an answer that this run has paid for, and enter its labels.

        Returns:
            Work items for tasks that the answer to a shared request left out or refused, to be sent separately.

        Raises:
            InvalidAnswerError: The answer is invalid; it is stored as evidence.
        """
        self.progress.bought(answer)
        try:
            reading = self._read(item, answer)
        except InvalidAnswerError as error:
            self.progress.rejected += 1
            self.progress.rejected_usd = _sum(self.progress.rejected_usd, answer.cost_usd)
            self.store.put_rejected(item.request, answer, error.kind, error.reason)
            if singles := self.split(item, error.kind):
                return singles
            raise
        if not self.store.put(item.request, answer):
            if (remaining := self.take(item)) is not None:
                return remaining  # another process stored an answer first, and labels always come from the stored one
            self.store.replace(item.request, answer)  # the stored answer is invalid by current rules
        return self._enter(item, answer, reading, from_store=False)

    def split(self, item: WorkItem, kind: FailureKind) -> list[WorkItem]:
        """One work item for each task of a shared request, if a single task may be why it failed; otherwise none."""
        return self._one_by_one(item, item.tasks) if len(item.tasks) > 1 and kind in _ASK_ALONE_AFTER else []

    def _one_by_one(self, item: WorkItem, tasks: Iterable[Task]) -> list[WorkItem]:
        return [self.job.planner.planned(WorkItem((task,), item.setting, item.sample)) for task in tasks]

    def fail(self, item: WorkItem, kind: FailureKind, message: str, attempts: int, key: str = "") -> None:
        """Record the labels of a work item as missing; `key` is the request's key if the work item itself has no request."""
        message = clean(message)
        for task in item.tasks:
            self.progress.failed[kind] += 1
            self.progress.unasked += not attempts
            self.failures.append(
                Failure(
                    task_id=task.task_id,
                    onet_soc_code=task.onet_soc_code,
                    setting=item.setting,
                    sample=item.sample,
                    kind=kind,
                    message=message,
                    attempts=attempts,
                    request_key=key or item.request.key,
                )
            )

    def leave_unnamed(self, labels: int) -> None:
        """Count labels as missing without listing each of them, because the user wants to quit at once."""
        self.progress.failed["provider"] += labels
        self.progress.unasked += labels
        self.notes.append(
            f"quit early: failures.jsonl lists {len(self.failures):,} of {len(self.failures) + labels:,} missing labels"
        )

    def close(self) -> None:
        """Finish: note damaged rows, and compute probabilities from repeats, which need all labels."""
        if damaged := len(self.store.damaged) + self.store.replaced:
            self.notes.append(f"{damaged:,} damaged rows of the store were skipped; `relabel store stats` counts them")
        if self.job.repeats > 1:
            self.labels, self.repeats_from_cache = _with_probabilities(self.labels, self.job.repeats)

    def _read(self, item: WorkItem, answer: Answer) -> Reading:
        """Parse an answer, with the probability of its label if the answer itself gives one.

        Raises:
            InvalidAnswerError: The answer is invalid.
        """
        rubric, api = self.job.rubric, self.job.endpoint.api
        if self.job.decide == "logprob":
            shares = letter_probabilities(answer, rubric, api)
            label = likeliest(shares)
            return Reading({0: Judgement.model_construct(label=label, rationale="")}, probability=shares[label])
        reading = read_answer(answer, rubric, len(item.tasks))
        if len(item.tasks) > 1 or "logprobs" not in self.job.endpoint.params:
            return reading
        return reading._replace(probability=label_probability(answer, reading.judged[0].label, api))

    def _enter(self, item: WorkItem, answer: Answer, reading: Reading, *, from_store: bool) -> list[WorkItem]:
        if self.job.is_duplicate_question(item):  # remember only these keys: a plan may have millions
            answer, from_store = self._charge_once(item.request.key, answer, from_store)
        # Plan these before entering labels: if the prompt fails for one task, no task gets both a label and a failure.
        left_out = [task for position, task in enumerate(item.tasks) if position not in reading.judged]
        remaining = self._one_by_one(item, left_out)
        progress, count = self.progress, len(reading.judged)
        usage, cost = answer.usage, None if answer.cost_usd is None else answer.cost_usd / count
        copied: dict[str, Any] = {name: getattr(answer, name) for name in _COPIED_FIELDS} | {
            "cost_usd": cost,
            "answer_id": fingerprint(answer),
        }
        for number, (position, judgement) in enumerate(sorted(reading.judged.items())):
            task, part = item.tasks[position], (number, count)
            self.labels.append(
                Label(
                    task_id=task.task_id,
                    onet_soc_code=task.onet_soc_code,
                    setting=item.setting,
                    sample=item.sample,
                    label=judgement.label,
                    rationale=judgement.rationale,
                    probability=reading.probability,
                    prompt_tokens=_share(usage.prompt, part),
                    cached_tokens=_share(usage.cached, part),
                    completion_tokens=_share(usage.completion, part),
                    reasoning_tokens=_share(usage.reasoning, part),
                    from_store=from_store,
                    variant=item.sample // self.job.samples if len(self.job.orders) > 1 else 0,
                    unwrapped=reading.unwrapped,
                    **copied,
                )
            )
        progress.repaired += answer.repaired * count
        progress.unwrapped += reading.unwrapped * count
        progress.label_first += reading.label_first * count
        progress.cut_prompts += _is_cut(item, answer) * count
        progress.from_store += from_store * count
        progress.fresh += (not from_store) * count
        return remaining

    def _charge_once(self, key: str, answer: Answer, from_store: bool) -> tuple[Answer, bool]:
        """The answer for one of several labels that share it: with tokens and cost for the first, without for the others."""
        if key in self._paid:
            answer = answer.model_copy(update={"usage": Usage(), "cost_usd": None if answer.cost_usd is None else 0.0})
            from_store = from_store and key not in self._bought
        self._paid.add(key)
        if not from_store:
            self._bought.add(key)
        return answer, from_store


def _is_cut(item: WorkItem, answer: Answer) -> bool:
    """Whether Ollama has cut the prompt to `num_ctx`, which only its count of tokens shows."""
    if answer.raw.get("system_fingerprint") != "fp_ollama":
        return False
    words = sum(len(message["content"].split()) for message in messages_of(item.request.body))
    return 0 < answer.usage.prompt < _FEWEST_TOKENS_A_WORD * words


def shared_answers(labels: Sequence[Label]) -> int:
    """Number of labels whose completion (by id, text and time) was already the answer to another question.

    Only a completion that was made before its question was sent counts, because some servers repeat ids.
    """
    if not any((label.answer_id or "").endswith(OLD) for label in labels):
        return 0  # nearly always, and much faster
    first: dict[str, tuple[str, tuple[str, str, str]]] = {}
    count = 0
    for label in labels:
        parts = (label.answer_id or "").split("-")
        key, question = label.request_key, (label.onet_soc_code, label.task_id, label.setting)
        before = first.setdefault("-".join(parts[:2]), (key, question))
        count += OLD in parts and before[0] != key and before[1] != question
    return count


def _sum(total: float | None, cost: float | None) -> float | None:
    """A sum of costs; None if one is unknown."""
    return None if total is None or cost is None else total + cost


def _share(total: int, part: tuple[int, int]) -> int:
    """The share of one label in an answer's tokens; all shares add up to the total."""
    position, count = part
    return total * (position + 1) // count - total * position // count


def _with_probabilities(labels: Sequence[Label], samples: int) -> tuple[list[Label], int]:
    """Set each probability to the share of the question's samples with the same label; missing labels count as different.

    Samples that a cache answered with an earlier one do not count, and a question with only one sample that counts has no
    probability. Also returns the number of samples that do not count.
    """
    questions = [(x.onet_soc_code, x.task_id, x.setting) for x in labels]
    cached = cached_repeats([(q, x.sample, x.request_key, x.answer_id) for q, x in zip(questions, labels, strict=True)])
    votes = Counter((q, x.label) for q, x, again in zip(questions, labels, cached, strict=True) if not again)
    size = dict.fromkeys(questions, samples)
    for q, again in zip(questions, cached, strict=True):
        size[q] -= again
    shares = (None if size[q] == 1 else votes[q, x.label] / size[q] for q, x in zip(questions, labels, strict=True))
    return [x._replace(probability=share) for x, share in zip(labels, shares, strict=True)], sum(cached)


# Below this probability of all letters together, the model was about to write something else, such as its thinking.
LEAST_MASS = 0.01


def letter_probabilities(answer: Answer, rubric: Rubric, api: Api) -> dict[str, float]:
    """Probabilities of the labels' letters as the first token.

    Args:
        answer: An answer to a request for one token with its alternatives.
        rubric: The rubric; its labels are represented by the letters A, B, C...
        api: The dialect of the raw reply.

    Returns:
        Probability (0-1) by label, normalised over the labels. A letter that is not among the alternatives gets the probability
        of the least likely one, an upper bound.

    Raises:
        InvalidAnswerError: The server gave no log probabilities, or no letter is likely.
    """
    if answer.finish_reason != "length":  # with one token requested, `length` is the normal end
        check_whole(answer)
    try:
        tokens = read(api, answer.raw).logprobs
    except NotAReplyError as error:
        raise InvalidAnswerError("schema", f"the reply cannot be parsed: {error}") from error
    if not tokens:
        raise InvalidAnswerError("schema", "the server gave no log probabilities; use --decide json with this server")
    token, logprob, likely = tokens[0]
    masses: dict[str, float] = {}
    in_lower_case = token.strip() in map(str.lower, letters(rubric).values())  # otherwise an `a` may begin a sentence
    for text, value in {token: logprob, **likely}.items():
        spelled = text.strip().upper() if in_lower_case else text.strip()
        masses[spelled] = masses.get(spelled, 0.0) + math.exp(value)
    by_letter = {label: masses.get(letter) for label, letter in letters(rubric).items()}
    if sum(mass or 0.0 for mass in by_letter.values()) < LEAST_MASS:
        raise InvalidAnswerError(
            "schema", f"none of the letters is among the likely tokens; the likeliest is {token!r}"
        )
    least = min(masses.values())
    mass_by_label = {label: max(mass if mass is not None else least, 1e-300) for label, mass in by_letter.items()}
    total = sum(mass_by_label.values())
    return {label: mass / total for label, mass in mass_by_label.items()}


def label_probability(answer: Answer, label: str, api: Api) -> float | None:
    """Probability of the label in a JSON answer, from log probabilities.

    This is the product over the tokens of the label's value, given the rationale before it. None if the server gave no log
    probabilities, or the tokens do not match the content.
    """
    try:
        tokens = read(api, answer.raw).logprobs
    except NotAReplyError:
        return None
    content = answer.content or ""
    if not tokens or "".join(token for token, _, _ in tokens) != content:
        return None
    key = content.rfind('"label"')
    written = re.compile(re.escape(label), re.IGNORECASE).search(content, key + 7)
    if key < 0 or written is None:
        return None
    start, end, offset, total = *written.span(), 0, 0.0
    for token, logprob, _ in tokens:
        if offset < end and offset + len(token) > start:
            total += logprob
        offset += len(token)
    return math.exp(total)


def likeliest(shares: Mapping[str, float]) -> str:
    """The label of the highest probability; of equal ones the last, which is the least exposed in the order of rubrics."""
    return max(reversed(list(shares)), key=lambda label: round(shares[label], 9))


# Minimum number of answers for an estimate of the speed.
FEWEST = 3
# Minimum number of answers in the measuring window, if there are as many.
ENOUGH = 20
# Minimum length of the measuring window, in seconds.
WINDOW_S = 30.0


class RateEstimator:
    """Estimates the speed of a job from its most recent answers. Labels from the store take no time, and are not counted.

    Args:
        progress: Counts of the job.
        limiter: The run's limiter; None if it has none.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self, progress: Progress, limiter: Limiter | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress, self.limiter = progress, limiter
        self._clock = clock
        # Times, with the number of labels requested until then, with or without success.
        self._recent = deque([(clock(), self._requested)])

    @property
    def _requested(self) -> int:
        return self.progress.fresh + self.progress.failed.total() - self.progress.unasked

    def look(self) -> None:
        """Record the progress so far."""
        recent, now, requested = self._recent, self._clock(), self._requested
        if not requested and not self.progress.in_flight:
            recent.clear()
        elif recent[-1][1] == requested:
            return
        recent.append((now, requested))
        while len(recent) > 2 and now - recent[1][0] >= WINDOW_S and requested - recent[1][1] >= ENOUGH:
            recent.popleft()

    @property
    def rate(self) -> float | None:
        """Requested labels per second; None while unknown."""
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / (end - start) if after - before >= FEWEST and end > start else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, if the store has none of the other labels; None while unknown."""
        if self.rate is None:
            return None
        return max(self.progress.left / self.rate, self.limiter.paused_s if self.limiter else 0.0)

    @property
    def cost_at_end(self) -> float | None:
        """Estimated total cost of the run in USD, if the store has none of the other labels; None while unknown."""
        cost, fresh = self.progress.cost_usd, self.progress.fresh
        if cost is None or not fresh or self.rate is None:
            return None
        return cost + cost / fresh * self.progress.left
