"""What a job came to, and the run folder that says so."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from relabel import __version__
from relabel.errors import DataError
from relabel.files import require_writable
from relabel.label import Failure, FailureKind, Label
from relabel.labelling.differences import differences
from relabel.labelling.job import Job
from relabel.labelling.ledger import Ledger
from relabel.labelling.request import canonical_json
from relabel.redaction import public_url
from relabel.run import Counts, Manifest, PerhapsCharged, Session, read_manifest, write_manifest, write_run

NOTHING_UNSURE = PerhapsCharged()


@dataclass(frozen=True)
class Missing:
    """Why labels are missing, in numbers.

    Attributes:
        kinds: Missing labels by kind, as `failures.jsonl` has them.
        unasked: Those that nobody was asked for, other than for want of money.
        held: Those that a batch run has in flight, by its name.
    """

    kinds: Mapping[FailureKind, int]
    unasked: int
    held: Mapping[str, int]

    @property
    def total(self) -> int:
        """All missing labels."""
        return sum(self.kinds.values())


@dataclass
class Outcome:
    """What a job came to."""

    labels: Sequence[Label]
    failures: Sequence[Failure]
    interrupted: bool
    manifest: Manifest
    missing: Missing

    @property
    def complete(self) -> bool:
        """Whether every wanted label is there."""
        return self.manifest.status == "complete"


def finish(
    job: Job,
    out: Path,
    manifest: Manifest,
    ledger: Ledger,
    *,
    interrupted: bool,
    fatal: Exception | None,
    perhaps_charged: PerhapsCharged = NOTHING_UNSURE,
    now: Callable[[], datetime],
) -> Outcome:
    """Write a job's run folder; where it already holds more, note only that this attempt took place.

    Raises:
        DataError: The folder holds more labels of this run than this attempt found, or cannot be written.
    """
    progress, labels = ledger.progress, ledger.labels
    complete = fatal is None and len(labels) == job.size
    origins = Counter(x.origin for x in labels if x.origin)
    for origin, count in sorted(origins.items()):
        ledger.notes.append(
            f"{count:,} labels rest on answers of the pack {origin}, for which only its maker can vouch"
        )
    by_model = Counter(label.model_returned for label in labels)
    if progress.uncounted:
        ledger.notes.append(
            f"{progress.uncounted:,} answers came without usable token counts: what they cost is unknown"
        )
    ended = manifest.model_copy(
        update={
            "status": "complete" if complete else "interrupted" if interrupted else "incomplete",
            "models_returned": tuple(sorted(model for model in by_model if model)),
            "labels_by_model": {model or "unknown": count for model, count in by_model.most_common()},
            "repeats_from_cache": ledger.repeats_from_cache,
            "counts": Counts(
                asked=job.size,
                from_store=progress.from_store,
                fresh=progress.fresh,
                failed=len(ledger.failures) + ledger.unnamed,
                repaired=progress.repaired,
                unwrapped=progress.unwrapped,
            ),
            "tokens": progress.tokens,
            "upstreams": tuple(sorted({x.upstream for x in labels if x.upstream})),
            "cost_usd": progress.cost_usd,
            "table_cost_usd": None if progress.table_usd == progress.cost_usd else progress.table_usd,
            "note": "; ".join(ledger.notes) or None,
            "origins": dict(sorted(origins.items())),
            "perhaps_charged": perhaps_charged,
            "ended_at": now().isoformat(timespec="seconds"),
        }
    )
    earlier = read_manifest(out).sessions if (out / "manifest.json").exists() else ()
    session = Session(
        started_at=ended.started_at or "",
        ended_at=ended.ended_at or "",
        status=ended.status,
        counts=ended.counts,
        tokens=ended.tokens,
        cost_usd=ended.cost_usd,
        perhaps_charged=perhaps_charged,
    )
    ended = ended.model_copy(update={"sessions": (*earlier, session)})
    missing = Missing(dict(progress.failed), ledger.unasked, dict(ledger.held))
    there = labels_there(out)
    if there <= len(labels):
        write_run(out, ended, labels, ledger.failures)
        return Outcome(labels, ledger.failures, interrupted, ended, missing)
    # What this attempt bought is in the store; that it was paid for is noted, and the labels stand.
    before = read_manifest(out)
    with suppress(OSError):  # what brought us here must not be hidden
        write_manifest(out, before.model_copy(update={"sessions": (*before.sessions, session)}))
    if fatal is None and not interrupted:
        raise DataError(
            f"{out} already holds {there} labels of this run and this attempt found {len(labels)}, so the folder is left "
            "as it is; use the store that the run was made with, or give another --out"
        )
    kept = f"the folder keeps the {there:,} labels that it had"
    ended = ended.model_copy(update={"note": "; ".join([*ledger.notes, kept])})
    return Outcome(labels, ledger.failures, interrupted, ended, missing)


def out_is_free(out: Path, job: Job) -> None:
    """Make sure that a run folder is new, or holds the same run.

    Raises:
        DataError: It holds another run, or cannot be written.
        UsageError: It is a file.
    """
    require_writable(out)
    if not (out / "manifest.json").exists():
        return
    there, new = read_manifest(out), manifest_of(job, "", datetime.now(UTC))
    if there.counts.from_store + there.counts.fresh == 0:
        # It holds nothing, and the form in which its server was asked may have been a guess.
        same = {"schema_sha256": new.schema_sha256, "response_form": new.response_form}
        there = there.model_copy(update=same)
    if found := differences(there, new):
        raise DataError(f"{out} holds another run ({'; '.join(found)}); give another folder to --out")


def spent_before(out: Path) -> float:
    """What earlier starts of a run took, in USD, with what may have been charged for requests that were never answered."""
    if not (out / "manifest.json").exists():
        return 0.0
    return sum((s.cost_usd or 0.0) + (s.perhaps_charged.usd or 0.0) for s in read_manifest(out).sessions)


def labels_there(out: Path) -> int:
    """Labels that a run folder holds; 0 where there is none."""
    if not (out / "labels.parquet").exists():
        return 0
    counts = read_manifest(out).counts
    return counts.from_store + counts.fresh


def manifest_of(job: Job, engine: str, started: datetime) -> Manifest:
    """What a run folder says of a job that begins."""
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
        schema_sha256=hashlib.sha256(canonical_json(job.planner.shape)).hexdigest(),
        response_form=job.endpoint.form if job.decide == "json" else "text",
        api=job.endpoint.api,
        sources=job.sources,
        tasks=job.tasks_ref,
        settings=job.settings,
        parameters=job.all_parameters,
        counts=Counts(asked=job.size),
        price=job.price.manifest_entry() if job.price else None,
        started_at=started.isoformat(timespec="seconds"),
    )


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None when it is installed, or git is not."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  a fixed command; git is where PATH says
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
