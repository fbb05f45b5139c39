"""The ledger of a running job: which wanted label has which answer, and which has none and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import pandas as pd

from relabel.label import (
    Answer,
    Failure,
    FailureKind,
    InvalidAnswerError,
    Judgement,
    Label,
    Usage,
    fingerprint,
    is_unwrapped,
    read_answer,
    read_packed,
)
from relabel.labelling.progress import Progress
from relabel.labelling.reply import decided, label_probability, letter_logprobs
from relabel.labelling.request import Decide, WorkItem
from relabel.labelling.store import Store
from relabel.labelling.wire import Api
from relabel.redaction import clean
from relabel.rubric import Rubric
from relabel.run import is_cached_repeat
from relabel.task import Task


class LabelCollector:
    """Labels and failures as they come in. Every answer is in the store before it counts.

    Args:
        rubric: The rubric that answers must fit.
        store: Keeps answers.
        progress: Counted up along the way.
        api: The dialect of the replies.
        decide: How an answer says its label.
        alone: Makes the plan entry that asks about one task of a shared request by itself.
        logprobs: Whether answers carry log probabilities, because somebody asked for them.
        twice: Whether the plan may hold a plan entry's question again.
    """

    def __init__(
        self,
        rubric: Rubric,
        store: Store,
        progress: Progress,
        *,
        api: Api = "chat",
        decide: Decide = "json",
        alone: Callable[[Task, str, int], WorkItem] | None = None,
        logprobs: bool = False,
        is_duplicate: Callable[[WorkItem], bool] = lambda _: True,
    ) -> None:
        self.labels: list[Label] = []
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.held: Counter[str] = Counter()
        """Missing labels that a batch run has in flight, by its name."""
        self.unasked = 0
        """Missing labels that nobody was asked for, for another reason than money."""
        self.repeats_from_cache = 0
        """Samples that a cache on the way to the model answered with an earlier one of the question."""
        self.unnamed = 0
        """Missing labels that there was no time to name."""
        self.bought_before_the_plan: set[str] = set()
        self._rubric, self._store, self.progress = rubric, store, progress
        self._api: Api = api
        self._decide: Decide = decide
        self._alone, self._logprobs = alone, logprobs
        self._is_duplicate = is_duplicate
        self._paid: set[str] = set()
        self._bought: set[str] = set()

    def take(self, planned: WorkItem) -> list[WorkItem] | None:
        """Take an answer from the store.

        Returns:
            What is still to be asked alone, mostly nothing; None when the store has no answer that is a label.
        """
        known = self._store.get(planned.request.key)
        if known is None:
            return None
        try:
            said = self._read(planned, known)
        except InvalidAnswerError:
            return None
        fresh = planned.request.key in self.bought_before_the_plan
        return self._enter(planned, known, said, from_store=not fresh)

    def others_wrote(self) -> bool:
        """Whether another process may have put answers into the store since this was last asked."""
        return self._store.others_wrote()

    def buy(self, planned: WorkItem, answer: Answer) -> list[WorkItem]:
        """Enter an answer that this run has paid for, after putting it into the store.

        Returns:
            What is still to be asked alone: tasks that an answer to a shared request left out.

        Raises:
            InvalidAnswerError: It is no label; it is kept in the store as evidence.
        """
        self.progress.bought(answer)
        try:
            said = self._read(planned, answer)
        except InvalidAnswerError as error:
            self._store.put_rejected(planned.request, answer, error.kind, error.reason)
            raise
        if not self._store.put(planned.request, answer):
            if (rest := self.take(planned)) is not None:
                return rest  # another process bought one first: every label leads to the answer that is in the store
            self._store.replace(planned.request, answer)  # what stands there is no label by today's rules
        return self._enter(planned, answer, said, from_store=False)

    def fail(self, wanted: WorkItem, kind: FailureKind, message: str, attempts: int) -> None:
        """Enter labels that are missing; without a request they have no key."""
        message = clean(message)
        for task in wanted.tasks:
            self.progress.failed[kind] += 1
            self.progress.unasked += not attempts
            self.unasked += not attempts and kind != "budget"
            self.failures.append(
                Failure(
                    task_id=task.task_id,
                    onet_soc_code=task.onet_soc_code,
                    setting=wanted.setting,
                    sample=wanted.sample,
                    kind=kind,
                    message=message,
                    attempts=attempts,
                    request_key=wanted.request.key,
                )
            )

    def leave_unnamed(self, labels: int) -> None:
        """Count labels as missing that nobody was asked for, without naming them: somebody is in a hurry."""
        self.progress.failed["provider"] += labels
        self.progress.unasked += labels
        self.unasked += labels
        self.unnamed += labels
        self.notes.append(
            f"left at once: failures.jsonl names {len(self.failures):,} of {len(self.failures) + labels:,} missing labels"
        )

    def keys_unless_more(self, than: int) -> set[str] | None:
        """Every key in the store; None where there are more rows than so many."""
        return self._store.keys_unless_more(than)

    def close(self, samples: int, variants: int = 1) -> None:
        """Decide what needs the run as a whole: probabilities from repeats, and orders by number.

        Args:
            samples: Samples in each order of labels and examples.
            variants: Orders.
        """
        if damaged := len(self._store.damaged):
            self.notes.append(
                f"{damaged:,} rows of the store were damaged and served to nobody; `relabel store verify` names them"
            )
        if samples * variants > 1:
            change, self.repeats_from_cache = _with_share(self.labels, samples * variants)
            self.labels = [change(row) for row in self.labels]
        if variants > 1:
            self.labels = [replace(row, variant=row.sample // samples) for row in self.labels]

    def _read(self, planned: WorkItem, answer: Answer) -> dict[str, float] | dict[int, Judgement]:
        """What an answer says: log probabilities by label, or judgements by the position of their task.

        Raises:
            InvalidAnswerError: It is no label.
        """
        if self._decide == "logprob":
            return letter_logprobs(answer, self._rubric, self._api)
        if len(planned.tasks) == 1:
            return {0: read_answer(answer, self._rubric)}
        judged = read_packed(answer, self._rubric, len(planned.tasks))
        if not judged:
            raise InvalidAnswerError("schema", "no entry of the answer fits one of the tasks")
        return judged

    def _enter(
        self, planned: WorkItem, answer: Answer, said: dict[str, float] | dict[int, Judgement], *, from_store: bool
    ) -> list[WorkItem]:
        rest: list[WorkItem] = []
        key = planned.request.key
        if self._is_duplicate(planned):  # only these are remembered: a plan of millions has millions of keys
            answer, from_store = self._first_pays(key, answer, from_store)
        if self._decide == "logprob":
            logprobs = cast("dict[str, float]", said)
            label, probability = decided(logprobs)
            judgement = Judgement.model_construct(label=label, rationale="")
            self._label(planned.tasks[0], planned, answer, judgement, probability, from_store, part=(0, 1))
        else:
            judged = cast("dict[int, Judgement]", said)
            parts = {position: (number, len(judged)) for number, position in enumerate(judged)}
            # Before any label is entered: a prompt that fails for one task leaves no other both a label and a failure.
            rest = [self._by_itself(task, planned) for n, task in enumerate(planned.tasks) if n not in judged]
            for position, task in enumerate(planned.tasks):
                if position in judged:
                    judgement = judged[position]
                    alone = self._logprobs and len(planned.tasks) == 1
                    probability = label_probability(answer, judgement.label, self._api) if alone else None
                    self._label(task, planned, answer, judgement, probability, from_store, part=parts[position])
        done = len(planned.tasks) - len(rest)
        if from_store:
            self.progress.from_store += done
        else:
            self.progress.fresh += done
        return rest

    def _by_itself(self, task: Task, planned: WorkItem) -> WorkItem:
        assert self._alone is not None
        return self._alone(task, planned.setting, planned.sample)

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
        planned: WorkItem,
        answer: Answer,
        said: Judgement,
        probability: float | None,
        from_store: bool,
        *,
        part: tuple[int, int],
    ) -> None:
        unwrapped = self._decide == "json" and is_unwrapped(answer)
        self.progress.repaired += answer.repaired
        self.progress.unwrapped += unwrapped
        self.labels.append(
            Label(
                task_id=task.task_id,
                onet_soc_code=task.onet_soc_code,
                setting=planned.setting,
                sample=planned.sample,
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
                origin=answer.origin,
                repaired=answer.repaired,
                unwrapped=unwrapped,
                reasoning_tokens=_share(answer.usage.reasoning, part),
                upstream=answer.upstream,
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
    columns = ("onet_soc_code", "task_id", "setting", "sample", "label", "request_key", "answer_id")
    table = pd.DataFrame(([getattr(x, name) for name in columns] for x in labels), columns=list(columns))
    cached = is_cached_repeat(table)
    votes = Counter(table[~cached][["onet_soc_code", "task_id", "setting", "label"]].itertuples(index=False, name=None))
    again = Counter(table[cached][["onet_soc_code", "task_id", "setting"]].itertuples(index=False, name=None))

    def share(label: Label) -> Label:
        question = (label.onet_soc_code, label.task_id, label.setting)
        own = samples - again[question]
        known = None if own == 1 else votes[*question, label.label] / own
        return replace(label, probability=known)

    return share, int(cached.sum())
