"""One start of a run: its folder, manifest and outcome, the same for online and batch runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from relabel import __version__
from relabel.errors import DataError, StoreError
from relabel.files import require_own, require_writable, writing
from relabel.labelling.collector import LabelCollector, Progress, shared_answers
from relabel.labelling.job import Job, differences, with_known_format
from relabel.labelling.leases import Leases
from relabel.labelling.limits import Budget
from relabel.labelling.providers import DEAR_TIERS
from relabel.labelling.request import canonical_json
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS
from relabel.labels import Failure, Label
from relabel.manifest import Counts, Manifest, PerhapsCharged, Session, read_manifest, write_manifest, write_run
from relabel.redaction import public_url

# File of a run folder that records, during a run, which requests were sent and which have returned.
JOURNAL = ".journal"


@dataclass
class Outcome:
    """The outcome of a job.

    Attributes:
        interrupted: Whether the job was stopped before its end.
        progress: Its counts; `failed` and `held_by_run` tell why labels are missing.
    """

    labels: Sequence[Label]
    failures: Sequence[Failure]
    interrupted: bool
    manifest: Manifest
    progress: Progress

    @property
    def missing(self) -> int:
        """Number of missing labels."""
        return self.progress.failed.total()

    @property
    def complete(self) -> bool:
        """Whether no label is missing."""
        return self.manifest.status == "complete"


class RunSession:
    """One start of a run, from the check of its folder to its manifest. The folder is locked until the session is closed.

    Args:
        job: What is labelled.
        store: Keeps answers.
        out: The run folder.
        engine: Name of the engine.
        progress: Updated by the job.
        now: Returns the current time.

    Raises:
        DataError: The folder holds another run or cannot be written, or another process is writing it.
        UsageError: It is a file, or holds something other than a run.

    Attributes:
        collector: Collects labels and failures.
        leases: Records which process has which request in flight.
        journal: Records requests, so that the next start can account for them if this one is killed.
        job: The job, in the response format of the labels in the folder.
        spent_before: Cost of earlier starts of the run, in USD, including the worst case of unanswered requests.
    """

    def __init__(
        self,
        job: Job,
        store: Store,
        out: Path,
        engine: str,
        *,
        progress: Progress | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        require_writable(out)
        with ExitStack() as opened:
            opened.enter_context(writing(out))
            self.out, self._engine, self._now = out, engine, now
            self.job = job_for_folder(out, job)
            self.collector = LabelCollector(self.job, store, progress or Progress(asked=job.size))
            self._started = now()
            self._manifest: Manifest | None = None
            killed = unfinished(job, store, out)
            self.spent_before = spent_before(out, killed)
            if killed is not None:  # record the killed start in the manifest before its journal is replaced
                self._record_killed(killed)
            self.journal = Journal(out / JOURNAL, self._started)
            self.leases = Leases(None if store.read_only else store.folder, on_beat=store.sync)
            self._open = opened.pop_all()

    def _record_killed(self, killed: Session) -> None:
        bought, lost = killed.counts.fresh, killed.perhaps_charged.requests
        self.collector.notes.append(
            f"the attempt started at {killed.started_at} was killed: its {bought:,} paid answers and its {lost:,} "
            "requests in flight are counted under `sessions`"
            + ("; its batches continue at the provider" if self._engine == "batch" else "")
        )
        manifest = existing_manifest(self.out) or manifest_of(self.job, self._engine, self._started)
        write_manifest(self.out, manifest.model_copy(update={"sessions": (*manifest.sessions, killed)}))

    def begin(self, job: Job) -> None:
        """Set the job, in its final response format, and write the first manifest."""
        self.collector.job = job
        self._manifest = manifest_of(job, self._engine, self._started)
        if existing_manifest(self.out) is None:
            write_manifest(self.out, self._manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder. A start that did not finish leaves its journal there, unless it ended before it began."""
        with self._open:
            self.leases.close()
            self.journal.close()
            if self._manifest is None:
                self.journal.remove()

    def finish(self, *, interrupted: bool, fatal: Exception | None, record: Mapping[str, Any] | None = None) -> Outcome:
        """Write the run folder; if it already holds more labels, only record this start in its manifest.

        Args:
            interrupted: Whether the job was stopped before its end.
            fatal: The error that ended the job, if any.
            record: The engine's fields of the manifest.

        Raises:
            DataError: The folder holds more labels of this run than this start found, or cannot be written.
        """
        assert self._manifest is not None
        self.leases.close()
        self.collector.close()
        collector = self.collector
        manifest = self._final_manifest(self._manifest, interrupted, fatal, record or {})
        session = Session.model_validate({name: getattr(manifest, name) for name in Session.model_fields})
        existing = existing_manifest(self.out) or manifest
        manifest = manifest.model_copy(update={"sessions": (*existing.sessions, session)})
        earlier_labels, own_labels = count_labels(self.out), len(collector.labels)
        if earlier_labels <= own_labels:
            # If one full disk holds both, the error of the store is the one to tell.
            with suppress(DataError) if isinstance(fatal, StoreError) else nullcontext():
                write_run(self.out, manifest, collector.labels, collector.failures)
                self.journal.remove()
        else:  # keep the labels of the folder; what this start bought is in the store, and the manifest has its cost
            with suppress(OSError):  # must not hide the error that ended the run
                write_manifest(self.out, existing.model_copy(update={"sessions": (*existing.sessions, session)}))
                self.journal.remove()
            if fatal is None and not interrupted:
                raise DataError(
                    f"{self.out} already holds {earlier_labels} labels of this run and this attempt found {own_labels}, so the folder was not "
                    "changed; use the store that the run was made with, or give another --out"
                )
            kept = f"the folder keeps the {earlier_labels:,} labels that it had"
            manifest = manifest.model_copy(update={"note": "; ".join([*collector.notes, kept])})
        return Outcome(collector.labels, collector.failures, interrupted, manifest, collector.progress)

    def _final_manifest(
        self, manifest: Manifest, interrupted: bool, fatal: Exception | None, record: Mapping[str, Any]
    ) -> Manifest:
        collector, progress, labels = self.collector, self.collector.progress, self.collector.labels
        complete = fatal is None and len(labels) == collector.job.size
        origins = Counter(x.origin for x in labels if x.origin)
        for origin, count in sorted(origins.items()):
            collector.notes.append(
                f"{count:,} labels come from answers in the pack {origin}, for which only its maker can vouch"
            )
        by_model = Counter(label.model_returned for label in labels)
        count_by_note = {
            "answers gave the label before the rationale, which then justifies the label but did not lead to it: the provider "
            "reorders the keys of an answer": progress.label_first,
            "answers came without usable token counts: their cost is unknown": progress.uncounted,
            "labels come from prompts that Ollama seems to have cut, as it counts fewer tokens than words: raise num_ctx and label "
            "again into an empty store": progress.cut_prompts,
            "labels come from a completion that another question got before, word for word and by its id: a gateway's cache seems to "
            "answer similar questions alike; switch it off and label again into an empty store": shared_answers(labels),
        }
        price, tiers = collector.job.price, Counter(label.service_tier for label in labels)
        if price is not None and not price.holds_in("priority") and progress.table_usd == progress.cost_usd:
            text = "labels come from answers in the tier {}, whose price the table does not have; give it with --price"
            count_by_note |= {text.format(tier): tiers[tier] for tier in ("flex", *DEAR_TIERS)}
        collector.notes += [f"{count:,} {note}" for note, count in count_by_note.items() if count]
        return manifest.model_copy(
            update={
                **record,
                "status": "complete" if complete else "interrupted" if interrupted else "incomplete",
                "models_returned": tuple(sorted(model for model in by_model if model)),
                "labels_by_model": {model or "unknown": count for model, count in by_model.most_common()},
                "repeats_from_cache": collector.repeats_from_cache,
                "counts": progress.counts,
                "tokens": progress.tokens,
                "upstreams": tuple(sorted({x.upstream for x in labels if x.upstream})),
                "service_tiers": dict(Counter(x.service_tier for x in labels if x.service_tier).most_common()),
                **{name: getattr(progress, name) for name in ("cost_usd", "rejected", "rejected_usd")},
                "table_cost_usd": None if progress.table_usd == progress.cost_usd else progress.table_usd,
                "note": "; ".join(collector.notes) or None,
                "origins": dict(sorted(origins.items())),
                "ended_at": self._now().isoformat(timespec="microseconds"),
            }
        )


class Journal:
    """A file that records which requests were sent and which have ended, and survives a SIGKILL.

    Lines: `> KEY` for a request that was sent, `< KEY` for one that has ended, `? KEY` for one that may be charged without an
    answer, `= ID` for a batch at the provider, whose answers count when they are collected.
    """

    def __init__(self, path: Path, started: datetime) -> None:
        require_own(path)
        self._path = path
        self._file: int | None = None
        head = {"started_at": started.isoformat(timespec="microseconds")}
        with suppress(OSError):
            path.unlink(missing_ok=True)  # not truncated, because it may be a hard link to another file of the user
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            os.write(self._file, f"{json.dumps(head)}\n".encode())

    def note(self, mark: str, key: str) -> None:
        """Record an event. Write errors are ignored, because only the costs of a killed start depend on it."""
        if self._file is not None:
            with suppress(OSError):
                os.write(self._file, f"{mark} {key}\n".encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Delete the file, because the start has finished."""
        self.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _read_journal(path: Path) -> tuple[str, Counter[str], Counter[str], datetime] | None:
    """The journal of a killed start: its beginning, requests in flight and perhaps charged by key, and time of the last entry.

    The first count has all keys. None if there is no journal, because the last start finished, or if it cannot be read.
    """
    require_own(path)
    try:
        head, *lines = path.read_text(encoding="ascii").splitlines()
        last = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        started = json.loads(head)["started_at"]
        datetime.fromisoformat(started)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    in_flight, charged = Counter[str](), Counter[str]()
    for mark, _, key in (line.partition(" ") for line in lines):
        in_flight[key] += {">": 1, "<": -1}.get(mark, 0)
        charged[key] += mark == "?"
    return started, in_flight, charged, last


def unfinished(job: Job, store: Store, out: Path) -> Session | None:
    """What the last start of a run bought and had in flight, if it was killed or is still running; None if its manifest has this."""
    journal, manifest = _read_journal(out / JOURNAL), existing_manifest(out)
    if journal is None or not journal[1]:
        return None
    started, in_flight, charged, last = journal
    if manifest is not None and started in {session.started_at for session in manifest.sessions}:
        return None  # it was killed after writing the manifest
    # That start sent these requests, so their answers were not in the store before.
    bought = [answer for key in in_flight if (answer := store.get(key)) is not None]
    rejected = [row.answer for key in store.rejected_keys(in_flight) if (row := store.checked(key)) is not None]
    answers = [*bought, *(answer for answer in rejected if answer.created_at >= started)]
    for answer in bought:
        del in_flight[answer.request_key]
    unanswered = +in_flight + charged
    usd: float | None = 0.0
    if unanswered:
        budget, unpriced = Budget(None, job.price), dict(unanswered)
        for item in with_known_format(job, store).plan():
            count = unpriced.pop(item.request.key, 0)
            most = budget.most(item.request.body) if count else 0.0
            usd = None if usd is None or most is None else usd + count * most
            if not unpriced:
                break
        usd = None if unpriced else usd
    fresh, progress = len(bought), Progress(asked=0)
    for answer in answers:
        progress.bought(answer)
    return Session(
        started_at=started,
        ended_at=last.isoformat(timespec="microseconds"),
        status="killed",
        counts=Counts(asked=job.size, fresh=fresh, failed=max(0, job.size - fresh)),
        tokens=progress.tokens,
        cost_usd=progress.cost_usd,
        perhaps_charged=PerhapsCharged(requests=unanswered.total(), usd=usd),
    )


def job_for_folder(out: Path, job: Job) -> Job:
    """The job in the response format of the labels in its folder, if there are any: then no probe is needed.

    Raises:
        DataError: The folder holds another run.
    """
    if (manifest := existing_manifest(out)) is None:
        return job
    if job.probe and count_labels(out):
        job = next((job.in_form(form) for form in FORMS if form == manifest.response_form), job)
    now = manifest_of(job, "", datetime.now(UTC))
    if manifest.counts.from_store + manifest.counts.fresh == 0:  # without an answer, its response format was a guess
        now = now.model_copy(update={"schema_sha256": manifest.schema_sha256, "response_form": manifest.response_form})
    if changes := differences(manifest, now):
        raise DataError(f"{out} holds another run ({'; '.join(changes)}); give another folder to --out")
    return job


def spent_before(out: Path, killed: Session | None = None) -> float:
    """Cost of earlier starts of a run, in USD, including possible charges for unanswered requests.

    Args:
        out: The run folder.
        killed: A killed start that is not in the manifest; see `unfinished`.
    """
    manifest = existing_manifest(out)
    sessions = [*(manifest.sessions if manifest else ()), *([] if killed is None else [killed])]
    return sum((session.cost_usd or 0.0) + (session.perhaps_charged.usd or 0.0) for session in sessions)


def existing_manifest(out: Path) -> Manifest | None:
    """The manifest in a run folder; None if there is none yet."""
    return read_manifest(out) if (out / "manifest.json").exists() else None


def count_labels(out: Path) -> int:
    """Number of labels in a run folder; 0 if there is no folder."""
    if not (out / "labels.parquet").exists():
        return 0
    counts = read_manifest(out).counts
    return counts.from_store + counts.fresh


def manifest_of(job: Job, engine: str, started: datetime) -> Manifest:
    """The first manifest of a job."""
    return Manifest(
        status="running",
        package_version=__version__,
        git_commit=_git_commit(),
        model=job.model,
        base_url=public_url(job.base_url) if job.base_url else None,
        engine=engine,
        rubric=job.rubric,
        rubric_sha256=job.rubric.sha256,
        prompt_sha256=job.prompt.sha256,
        schema_sha256=hashlib.sha256(canonical_json(job.planner.empty_body)).hexdigest(),
        response_form=job.endpoint.form if job.decide == "json" else "text",
        api=job.endpoint.api,
        sources=job.sources,
        tasks=job.tasks_ref,
        settings=job.settings,
        parameters=job.all_parameters,
        counts=Counts(asked=job.size),
        price=job.price.model_dump() if job.price else None,
        started_at=started.isoformat(timespec="microseconds"),
    )


def _git_commit() -> str | None:
    """The git commit of the checkout that this package runs from; None if it is installed otherwise, or without git."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  a fixed command; git is where PATH says
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
