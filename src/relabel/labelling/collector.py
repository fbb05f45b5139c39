"""What a running job has so far: labels from answers that are in the store, and failures with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from relabel.labelling.job import Job
from relabel.labelling.progress import Progress
from relabel.labelling.reply import decided, label_probability, letter_logprobs
from relabel.labelling.request import WorkItem
from relabel.labelling.store import Store
from relabel.labels import (
    Answer,
    Failure,
    FailureKind,
    InvalidAnswerError,
    Judgement,
    Label,
    Usage,
    cached_repeats,
    fingerprint,
    is_label_first,
    is_unwrapped,
    read_answer,
    read_packed,
)
from relabel.redaction import clean
from relabel.task import Task


class LabelCollector:
    """Labels and failures as they come in. Every answer is in the store before it counts.

    Args:
        job: What is labelled.
        store: Keeps answers.
        progress: Counted up along the way.

    Attributes:
        held: Missing labels that a batch run has in flight, by its name.
        unasked: Missing labels that were never asked for, for another reason than money.
        unnamed: Missing labels that there was no time to name.
        repeats_from_cache: Samples that a cache on the way to the model answered with an earlier one of the question.
    """

    def __init__(self, job: Job, store: Store, progress: Progress) -> None:
        self.job, self.store, self.progress = job, store, progress
        self.labels: list[Label] = []
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.held: Counter[str] = Counter()
        self.unasked = self.unnamed = self.repeats_from_cache = 0
        self._paid: set[str] = set()
        self._bought: set[str] = set()

    def take(self, item: WorkItem) -> list[WorkItem] | None:
        """Take an answer from the store.

        Returns:
            What is still to be asked alone, mostly nothing; None when the store has no answer that is a label.
        """
        known = self.store.get(item.request.key)
        if known is None:
            return None
        try:
            said = self._read(item, known)
        except InvalidAnswerError:
            return None
        return self._enter(item, known, said, from_store=True)

    def buy(self, item: WorkItem, answer: Answer) -> list[WorkItem]:
        """Enter an answer that this run has paid for, after putting it into the store.

        Returns:
            What is still to be asked alone: tasks that an answer to a shared request left out.

        Raises:
            InvalidAnswerError: It is no label; it is kept in the store as evidence.
        """
        self.progress.bought(answer)
        try:
            said = self._read(item, answer)
        except InvalidAnswerError as error:
            self.store.put_rejected(item.request, answer, error.kind, error.reason)
            raise
        if not self.store.put(item.request, answer):
            if (rest := self.take(item)) is not None:
                return rest  # another process bought one first: every label leads to the answer that is in the store
            self.store.replace(item.request, answer)  # what stands there is no label by today's rules
        return self._enter(item, answer, said, from_store=False)

    def fail(self, item: WorkItem, kind: FailureKind, message: str, attempts: int) -> None:
        """Enter labels that are missing; without a request they have no key."""
        message = clean(message)
        for task in item.tasks:
            self.progress.failed[kind] += 1
            self.progress.unasked += not attempts
            self.unasked += not attempts and kind != "budget"
            self.failures.append(
                Failure(
                    task_id=task.task_id,
                    onet_soc_code=task.onet_soc_code,
                    setting=item.setting,
                    sample=item.sample,
                    kind=kind,
                    message=message,
                    attempts=attempts,
                    request_key=item.request.key,
                )
            )

    def leave_unnamed(self, labels: int) -> None:
        """Count labels as missing that were never asked for, without naming them: the user wants to leave at once."""
        self.progress.failed["provider"] += labels
        self.progress.unasked += labels
        self.unasked += labels
        self.unnamed += labels
        self.notes.append(
            f"left at once: failures.jsonl names {len(self.failures):,} of {len(self.failures) + labels:,} missing labels"
        )

    def close(self) -> None:
        """Decide what needs the run as a whole: probabilities from repeats."""
        if damaged := len(self.store.damaged):
            self.notes.append(
                f"{damaged:,} rows of the store were damaged and served to nobody; `relabel store verify` names them"
            )
        if self.job.repeats > 1:
            change, self.repeats_from_cache = _with_share(self.labels, self.job.repeats)
            self.labels = [change(row) for row in self.labels]

    def _read(self, item: WorkItem, answer: Answer) -> dict[int, tuple[Judgement, float | None]]:
        """Judgements by the position of their task, each with its probability where the answer itself tells one.

        Raises:
            InvalidAnswerError: It is no label.
        """
        rubric, api = self.job.rubric, self.job.endpoint.api
        if self.job.decide == "logprob":
            label, probability = decided(letter_logprobs(answer, rubric, api))
            return {0: (Judgement.model_construct(label=label, rationale=""), probability)}
        if len(item.tasks) == 1:
            said = read_answer(answer, rubric)
            known = "logprobs" in self.job.endpoint.params
            return {0: (said, label_probability(answer, said.label, api) if known else None)}
        judged = read_packed(answer, rubric, len(item.tasks))
        if not judged:
            raise InvalidAnswerError("schema", "no entry of the answer fits one of the tasks")
        return {position: (said, None) for position, said in judged.items()}

    def _enter(
        self, item: WorkItem, answer: Answer, said: dict[int, tuple[Judgement, float | None]], *, from_store: bool
    ) -> list[WorkItem]:
        if self.job.is_duplicate_question(item):  # only these are remembered: a plan of millions has millions of keys
            answer, from_store = self._first_pays(item.request.key, answer, from_store)
        # Before any label is entered: a prompt that fails for one task leaves no other both a label and a failure.
        left = [task for position, task in enumerate(item.tasks) if position not in said]
        rest = [self.job.planner.planned(WorkItem((task,), item.setting, item.sample)) for task in left]
        for number, (position, (judgement, probability)) in enumerate(sorted(said.items())):
            part = number, len(said)
            self._label(item.tasks[position], item, answer, judgement, probability, from_store, part=part)
        if from_store:
            self.progress.from_store += len(said)
        else:
            self.progress.fresh += len(said)
        return rest

    def _first_pays(self, key: str, answer: Answer, from_store: bool) -> tuple[Answer, bool]:
        """The answer as a row shows it: what an answer to a question that is asked twice took is on the first row."""
        if key in self._paid:
            answer = answer.model_copy(update={"usage": Usage(), "cost_usd": None if answer.cost_usd is None else 0.0})
            from_store = from_store and key not in self._bought
        self._paid.add(key)
        if not from_store:
            self._bought.add(key)
        return answer, from_store

    def _label(
        self,
        task: Task,
        item: WorkItem,
        answer: Answer,
        said: Judgement,
        probability: float | None,
        from_store: bool,
        *,
        part: tuple[int, int],
    ) -> None:
        unwrapped = self.job.decide == "json" and is_unwrapped(answer)
        self.progress.repaired += answer.repaired
        self.progress.unwrapped += unwrapped
        self.progress.label_first += self.job.decide == "json" and is_label_first(answer)
        self.labels.append(
            Label(
                task_id=task.task_id,
                onet_soc_code=task.onet_soc_code,
                setting=item.setting,
                sample=item.sample,
                label=said.label,
                rationale=said.rationale,
                probability=probability,
                request_key=answer.request_key,
                model_returned=answer.model_returned,
                finish_reason=answer.finish_reason,
                attempts=answer.attempts,
                prompt_tokens=_share(answer.usage.prompt, part),
                cached_tokens=_share(answer.usage.cached, part),
                completion_tokens=_share(answer.usage.completion, part),
                cost_usd=None if answer.cost_usd is None else answer.cost_usd / part[1],
                latency_s=answer.latency_s,
                created_at=answer.created_at,
                from_store=from_store,
                variant=item.sample // self.job.samples if len(self.job.orders) > 1 else 0,
                origin=answer.origin,
                repaired=answer.repaired,
                unwrapped=unwrapped,
                reasoning_tokens=_share(answer.usage.reasoning, part),
                upstream=answer.upstream,
                service_tier=answer.service_tier,
                answer_id=fingerprint(answer),
            )
        )


def _share(total: int, part: tuple[int, int]) -> int:
    """This label's share of an answer's tokens; the shares add up to the whole."""
    position, of = part
    return total * (position + 1) // of - total * position // of


def _with_share(labels: Iterable[Label], samples: int) -> tuple[Callable[[Label], Label], int]:
    """Gives a label the share of the task's samples that agree with it; a sample without a label agrees with none.

    Samples that a cache answered with an earlier one are no repeats: they count once, and a question with one answer only
    has no probability. Returns the number of them as well.
    """
    rows = list(labels)
    questions = [(row.onet_soc_code, row.task_id, row.setting) for row in rows]
    cached = cached_repeats([(q, x.sample, x.request_key, x.answer_id) for q, x in zip(questions, rows, strict=True)])
    votes = Counter((*q, x.label) for q, x, again in zip(questions, rows, cached, strict=True) if not again)
    again = Counter(q for q, again in zip(questions, cached, strict=True) if again)

    def share(label: Label) -> Label:
        question = (label.onet_soc_code, label.task_id, label.setting)
        own = samples - again[question]
        known = None if own == 1 else votes[*question, label.label] / own
        return replace(label, probability=known)

    return share, sum(cached)
