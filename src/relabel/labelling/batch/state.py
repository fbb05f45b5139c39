"""What a batch job keeps between processes: the job itself, its chunks and their batches.

    HOME/batches/RUN_ID/job.json            the job as data: tasks, rubric, prompt, endpoint
    HOME/batches/RUN_ID/state.json          `BatchState`, replaced atomically and synced to the disk
    HOME/batches/RUN_ID/chunk-0001.jsonl    the lines of a chunk, until its results are in the store
    HOME/batches/RUN_ID/lock                held by the process that works on the job

A chunk is written to a file and uploaded, a batch is created from it, and the results are collected. Each step is recorded once it
is done. The creation of a batch, the only step that costs money, is also recorded beforehand: a process that finds this record, but
no batch, searches for the batch at the provider instead of creating another.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from relabel.errors import DataError
from relabel.files import entries, locked, make_private_dir, os_errors, write_whole
from relabel.labelling.job import Job, job_from_json, job_to_json
from relabel.labelling.request import canonical_json
from relabel.labelling.wire import Form
from relabel.labels import FailureKind
from relabel.settings import Time

# Version of the state.
FORMAT = 2
# Maximum lines (by OpenAI's documentation) and bytes (by Together's, which allows the fewest) of an input file.
MAX_REQUESTS = 50_000
MAX_BYTES = 100_000_000
# Seconds before the first poll; later pauses are longer.
POLL_S = 10.0
_ID_LENGTH = 12
T = TypeVar("T")
# Position of the request key in a line of a chunk.
_KEY = slice(len('{"custom_id":"'), len('{"custom_id":"') + 64)


@dataclass(frozen=True)
class BatchOptions:
    """How to work on a batch job. None of it is part of a request.

    Attributes:
        submit: Whether to send requests; otherwise running batches are cancelled, and only existing results are collected.
        max_cost: Cap on the cost of the run in USD, over all its starts, online ones included; needs answers of bounded length.
        key_env: Environment variable that holds the key, for a process that resumes the job.
        poll_s: Seconds before the first poll.
        max_requests: Maximum number of lines of an input file.
        max_bytes: Maximum size of an input file.
        sleep: Waits for a number of seconds.
        now: Returns the current time.
        step: Called with the name of each step that is done; tests kill the process there.
    """

    submit: bool = True
    max_cost: float | None = None
    key_env: str | None = None
    poll_s: float = field(default_factory=lambda: POLL_S)
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    step: Callable[[str], None] = lambda name: None


class Chunk(BaseModel):
    """One input file, and the batch created from it.

    Attributes:
        number: Number of the chunk within the run, from 1.
        sha256: Hash of the file.
        requests: Number of lines of the file.
        bytes: Size of the file.
        worst_usd: Maximum cost of its answers in USD; 0 if unknown.
        tries: Number of batches created from it.
        creating_since: When the creation of a batch began, in seconds since the epoch; the batch may exist without a known id.
        file_id: The file at the provider.
        batch_id: The batch at the provider.
        adopted: Whether its batch was found at the provider after the state had been lost; its results may be gone.
        status: The provider's status of the batch; without a batch, our own.
        answered: Number of requests that the provider counts as finished, failed ones included.
        submitted_at: When the batch was created, ISO 8601 in UTC; `checked_at` when it was last polled, and `ended_at` when it
            was first seen in a final state.
        taken: Whether its results have been collected.
        cost_usd: Cost of its answers in USD; None if unknown.
        note: What went wrong with the batch as a whole.
        failed: Requests that will have no answer, by key: kind of failure, message and number of requests sent. Kept until the
            attempt ends, so that a process started after a kill does not send them again.
    """

    number: int
    sha256: str
    requests: int
    bytes: int
    worst_usd: float = 0.0
    tries: int = 0
    creating_since: float | None = None
    file_id: str | None = None
    batch_id: str | None = None
    adopted: bool = False
    status: str = "written"
    answered: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    submitted_at: Time | None = None
    checked_at: Time | None = None
    ended_at: Time | None = None
    taken: bool = False
    cost_usd: float | None = None
    note: str | None = None
    failed: dict[str, tuple[FailureKind, str, int]] = {}


class BatchState(BaseModel):
    """The state of a batch job, without the job itself.

    Attributes:
        format_version: See `FORMAT`.
        run_id: Hash of what the job asks; see `run_id`.
        out: The run folder.
        model: The model as the user named it; `base_url` is the provider's address without credentials.
        max_cost: Cap on the cost, in USD.
        key_env: Environment variable that holds the key; by default the provider's own.
        max_requests: Maximum number of requests in a chunk, if the provider could not take larger ones.
        form: The response format, on which the keys of requests depend.
        started_at: When the present attempt at the run began, ISO 8601 in UTC; `ended_at` is when the run folder was written with no
            chunk open, None until then.
    """

    format_version: int = FORMAT
    run_id: str
    out: str
    model: str
    base_url: str | None
    max_cost: float | None = None
    key_env: str | None = None
    max_requests: int | None = None
    form: Form | None = None
    started_at: str
    ended_at: str | None = None
    chunks: list[Chunk] = []

    @property
    def open(self) -> list[Chunk]:
        """Chunks whose results have not been collected yet."""
        return [chunk for chunk in self.chunks if not chunk.taken]

    @property
    def at_provider(self) -> list[Chunk]:
        """Open chunks that have a batch."""
        return [chunk for chunk in self.open if chunk.batch_id is not None]

    @property
    def unaccounted_usd(self) -> float:
        """Maximum cost, in USD, of batches whose actual cost is unknown so far, and therefore in no manifest."""
        return sum(chunk.worst_usd for chunk in self.chunks if not chunk.taken or chunk.cost_usd is None)


def run_id(job: Job) -> str:
    """An id for everything that a job asks: 12 hexadecimal digits, independent of its run folder and its cost cap."""
    endpoint, *others = job.identity
    digest = hashlib.sha256(canonical_json([endpoint, job.model, *others]))
    for task in job.tasks:
        digest.update(canonical_json([task.task_id, task.onet_soc_code, task.title, task.text]))
    return digest.hexdigest()[:_ID_LENGTH]


class BatchFolder:
    """The folder of one batch job.

    Args:
        batches: The folder of all batch jobs.
        name: The job's run id.
    """

    def __init__(self, batches: Path, name: str) -> None:
        self.path = batches / name
        self.name = name

    def path_of(self, chunk: Chunk) -> Path:
        """The file with a chunk's lines."""
        return self.path / f"chunk-{chunk.number:04}.jsonl"

    def load(self) -> BatchState | None:
        """Read the state; None if there is none yet.

        Raises:
            DataError: It is damaged, or another version of relabel wrote it.
        """
        path = self.path / "state.json"
        if not path.exists():
            return None
        state = self._read(path, lambda file: BatchState.model_validate_json(file.read_bytes()))
        if state.format_version != FORMAT:
            raise DataError(
                f"the batch state {path} has format {state.format_version} and this relabel reads {FORMAT}; finish the job with "
                "the version that wrote it, or move its folder away"
            )
        return state

    def load_job(self) -> Job:
        """Read the job.

        Raises:
            DataError: It is missing or damaged.
        """
        return self._read(self.path / "job.json", lambda file: job_from_json(file.read_bytes()))

    def save_job(self, job: Job) -> None:
        """Write the job."""
        with self._writing():
            write_whole(self.path / "job.json", job_to_json(job))

    def save(self, state: BatchState) -> None:
        """Write the state. It is safely on disk once this returns.

        Raises:
            DataError: It cannot be written.
        """
        with self._writing():
            write_whole(self.path / "state.json", f"{state.model_dump_json(indent=1)}\n".encode())
            if os.name == "nt":
                return
            handle = os.open(self.path, os.O_RDONLY)  # a renamed file is safe only once its folder is synced
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def keys(self, chunk: Chunk) -> set[str]:
        """The request keys in the file of an open chunk.

        Raises:
            DataError: The file is missing or damaged.
        """
        return self._read(self.path_of(chunk), _keys)

    def open_requests(self, state: BatchState) -> dict[str, Chunk]:
        """The open chunk of each request, by request key."""
        return {key: chunk for chunk in state.open for key in self.keys(chunk)}

    def tidy(self, state: BatchState) -> None:
        """Remove the files of chunks that are no longer open, and temporary files of killed processes."""
        open_paths = {self.path_of(chunk) for chunk in state.open}
        with self._writing():
            for path in {*self.path.glob("*chunk-*")} - open_paths:
                path.unlink(missing_ok=True)

    def add(self, state: BatchState, lines: Sequence[bytes], worst_usd: float) -> None:
        """Write a new chunk with these lines, and save the state.

        Raises:
            DataError: They cannot be written.
        """
        content = b"".join(lines)
        chunk = Chunk(
            number=max((chunk.number for chunk in state.chunks), default=0) + 1,
            sha256=hashlib.sha256(content).hexdigest(),
            requests=len(lines),
            bytes=len(content),
            worst_usd=worst_usd,
        )
        with self._writing():
            write_whole(self.path_of(chunk), content)
        state.chunks.append(chunk)
        self.save(state)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Lock the job for this process. The lock of a process that has ended is free.

        Raises:
            DataError: Another process is working on the job.
        """
        with self._writing():
            make_private_dir(self.path)
        busy = (
            f"another process is working on the batches of run {self.name}; wait until it ends, "
            "or stop it: its batches continue at the provider"
        )
        with locked(self.path / "lock", busy):
            yield

    def _read(self, path: Path, read: Callable[[Path], T]) -> T:
        try:
            return read(path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({str(error).splitlines()[0]}); restore it, or move the folder {self.path} away: "
                f"`relabel batch cancel {self.name}` then releases its requests, and its batches are looked up at the provider"
            ) from error

    def _writing(self) -> AbstractContextManager[None]:
        advice = (
            "free space or correct the permissions, then start the same run again: its batches continue at the provider"
        )
        return os_errors(f"cannot write the batch state in {self.path}", advice)


def _keys(path: Path) -> set[str]:
    with path.open(encoding="utf-8") as lines:
        keys = {line[_KEY] for line in lines}
    if any(len(key) != 64 or not key.isalnum() for key in keys):
        raise ValueError("these are not lines of requests")
    return keys


def unaccounted_usd(batches: Path, job: Job) -> float:
    """Maximum cost, in USD, of those batches of a job whose cost is in no manifest yet, mainly those in flight."""
    state = BatchFolder(batches, run_id(job)).load()
    return 0.0 if state is None else state.unaccounted_usd


def known_states(batches: Path) -> tuple[list[BatchState], dict[str, str]]:
    """The states of all batch jobs, newest first, and error messages of damaged ones by run id; other files are ignored."""
    states, damaged = list[BatchState](), dict[str, str]()
    for name in (folder.name for folder in entries(batches)):
        try:
            state = BatchFolder(batches, name).load()
            states += [] if state is None else [state]  # another process may just have removed it
        except DataError as error:
            damaged[name] = str(error)
    return sorted(states, key=lambda state: state.started_at, reverse=True), damaged


def find_state(batches: Path, ref: str) -> BatchState | None:
    """The state of the job that a user names by its run id or its run folder; None if there is none.

    Raises:
        DataError: The state is damaged.
    """
    states, damaged = known_states(batches)
    if ref in damaged:
        raise DataError(damaged[ref])
    matches = [state for state in states if state.run_id == ref or Path(state.out) == Path(ref).resolve()]
    # Several jobs may have used one folder, one after the other: prefer one that is still open, otherwise the newest.
    return next((state for state in matches if state.open), matches[0] if matches else None)
