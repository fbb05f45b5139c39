"""Care of a store: setting damage aside, and removing answers that are no longer wanted."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from diskcache.core import MODE_PICKLE

from relabel.errors import StoreError, UsageError
from relabel.files import BlockedError, locked, make_private_dir
from relabel.labelling.rows import TEXT, AnswerRow, DamagedRowError, digests_of, document_of, sha256_of
from relabel.labelling.salvage import readable_rows
from relabel.labelling.store import Store, integrity

if TYPE_CHECKING:
    from relabel.run import Run

_DATABASE = "cache.db"
_BESIDE = ("-wal", "-shm")


def set_damage_aside(folder: Path) -> Iterator[str]:
    """Make a store usable again, whatever is damaged in it: what can be read is saved, what cannot is kept beside it.

    Args:
        folder: The store.

    Yields:
        What was done, a sentence each.

    Raises:
        StoreError: Another process uses the store, or the folder cannot be written.
    """
    if not folder.is_dir():
        return
    _require_alone(folder)
    try:
        for name, rebuild in (("leases.db", None), (_DATABASE, _rebuild)):
            path = folder / name
            if path.exists() and not _is_whole(path):
                aside = folder / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
                make_private_dir(aside)
                for beside in ("", *_BESIDE):
                    if (file := path.with_name(name + beside)).exists():
                        shutil.copyfile(file, aside / file.name)
                saved = "" if rebuild is None else rebuild(folder, aside)
                if rebuild is None:
                    for beside in ("", *_BESIDE):
                        path.with_name(name + beside).unlink(missing_ok=True)
                yield f"{name} was damaged and is kept in {aside}{saved}"
            elif name == _DATABASE and not path.exists() and (folder / "leases.db").exists():
                (folder / "leases.db").unlink()
                yield f"{name} was missing: the store begins anew"
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"cannot set aside what is damaged in {folder} ({reason}); free space or correct the permissions"
        ) from error
    with Store(folder) as store:
        gone = _delete_unread(folder)
        for _ in store.verify():
            pass
        damaged = sorted(store.damaged)
        for key in damaged:
            store.set_aside(key)
    yield f"{len(damaged) + gone:,} damaged rows set aside"


def _require_alone(folder: Path) -> None:
    for path in (folder / "processes").glob("*.lock"):
        try:
            with locked(path):
                path.unlink()
        except BlockedError as error:
            raise StoreError(f"another relabel uses the store {folder}; wait until it has ended, or stop it") from error


def _is_whole(path: Path) -> bool:
    if not path.stat().st_size:
        return path.name != _DATABASE  # a file of leases that nobody has used yet
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        try:
            db.execute("SELECT 1 FROM Cache LIMIT 1" if path.name == _DATABASE else "SELECT 1").fetchone()
        except sqlite3.Error:
            return False
        return not integrity(db)


def _rebuild(folder: Path, aside: Path) -> str:
    """Put a new database with all rows that can be read in the place of a damaged one, a copy of which lies aside."""
    work = aside / "rebuilt"
    saved: set[str] = set()
    with Store(work) as new, new.writing_at_once():
        for key, text in readable_rows(aside / _DATABASE):
            with suppress(DamagedRowError):  # one that was cut, of which another copy may be whole
                document_of(key, text)
                if key not in saved:
                    new.put_text(key, text)
                saved.add(key)
    for beside in _BESIDE:  # those of the damaged one must not be taken for the new one's
        (folder / (_DATABASE + beside)).unlink(missing_ok=True)
    (work / _DATABASE).replace(folder / _DATABASE)
    shutil.rmtree(work)
    return f"; {len(saved):,} rows that can be read were saved into a new one"


def _delete_unread(folder: Path) -> int:
    """Delete rows that are pickled or name a file: reading one could run code. Returns their number."""
    with closing(sqlite3.connect(folder / _DATABASE, timeout=60)) as db, db:
        unread = "DELETE FROM Cache WHERE raw = 0 OR mode = ? OR filename IS NOT NULL OR typeof(value) = 'blob'"
        return db.execute(unread, (MODE_PICKLE,)).rowcount


@dataclass(frozen=True)
class Pruned:
    """What a pruning removes, or would.

    Attributes:
        answers: Answers; `rejected` those that were kept as evidence.
        by_model: Both, by the model that gave them.
        cost_usd: What they cost, as far as it is known.
        bytes: What is freed.
    """

    answers: int
    rejected: int
    by_model: dict[str, int]
    cost_usd: float
    bytes: int


def prune(store: Store, unwanted: Callable[[str, AnswerRow], bool], *, dry_run: bool) -> Pruned:
    """Remove answers for good, and shared messages that no other answer refers to.

    Args:
        store: The store.
        unwanted: Whether an answer, by key, is to go.
        dry_run: Whether it is only counted.

    Raises:
        StoreError: Another process uses the store.
    """
    if not dry_run:  # a run writes a shared message once, and relies on it
        _require_alone(store.folder)
    going: list[str] = []
    by_model: dict[str, int] = {}
    rejected, cost = 0, 0.0
    needed: set[str] = set()
    for key, row in store.answers():
        if not unwanted(key, row):
            needed.update(digests_of({"request": {"body": row.request.body}}))
            continue
        going.append(key)
        rejected += row.rejected is not None
        model = row.answer.model_returned or "unknown"
        by_model[model] = by_model.get(model, 0) + 1
        cost += row.answer.cost_usd or 0.0
    answers = len(going)
    going += [key for key in store.keys(TEXT) if going and key.removeprefix(TEXT) not in needed]
    size = store.size_of(going)
    if not dry_run:
        with store.writing_at_once():
            for key in going:
                store.delete(key)
        with suppress(sqlite3.Error), closing(sqlite3.connect(store.folder / _DATABASE, timeout=60)) as db:
            db.execute("VACUUM")  # where there is no room to do so, the space is used by the next answers
    return Pruned(answers - rejected, rejected, by_model, cost, size)


def selection(
    *, model: str | None, messages: Collection[str] | None, run: Run | None, before: str | None, rejected: bool
) -> Callable[[str, AnswerRow], bool]:
    """Which answers are meant: those to which all that is given applies.

    Args:
        model: As asked for, or as returned.
        messages: System messages that the questions began with.
        run: Answers to the requests of this run.
        before: A day, ISO 8601.
        rejected: Only answers that are not labels.

    Raises:
        UsageError: Nothing is given, or the day is not one.
    """
    if model is messages is run is before is None and not rejected:
        raise UsageError("say which answers to remove: give --model, --rubric, --run, --before or --rejected")
    try:
        day = None if before is None else datetime.fromisoformat(before).date().isoformat()
    except ValueError as error:
        raise UsageError(f"--before {before!r} is not a day such as 2026-01-31") from error
    digests = None if messages is None else {sha256_of(text) for text in messages}
    keys = (
        None
        if run is None
        else {str(key) for key in run.labels["request_key"]} | {failure.request_key for failure in run.failures()}
    )

    def unwanted(key: str, row: AnswerRow) -> bool:
        return (
            (model is None or model in (row.request.body.get("model"), row.answer.model_returned))
            and (digests is None or not digests.isdisjoint(digests_of({"request": {"body": row.request.body}})))
            and (keys is None or key.partition("/")[0] in keys)
            and (day is None or row.answer.created_at < day)
            and (row.rejected is not None or not rejected)
        )

    return unwanted
