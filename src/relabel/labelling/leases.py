"""Leases record which process has which request in flight, so that two runs on one store never pay for an answer twice.

They are in a small SQLite file next to the answers, with these tables:

    process   a random id for each process that uses the store, and its heartbeat: a counter increased every second
    taken     a request that a process has in flight
    held      a request that a batch run has in flight, with or without a process

Process numbers, host names and clocks are not used, because they differ between containers. A process is considered dead if its
heartbeat does not change during several heartbeats of the observer. A few are enough if its lock file is free, because the
kernel releases the locks of a dead process. A process that still has its lock may just be slow, so the wait is longer.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from relabel.errors import DataError
from relabel.files import locked, make_private_dir
from relabel.labelling.store import unusable

BEAT_S = 1.0
# The observer's heartbeats after which another process, if its lock is free and its heartbeat unchanged, is dead.
GONE_BEATS = 4
# The same if the other process still has its lock.
STUCK_BEATS = 60
# Pause between checks for an answer that another process is buying.
LOOK_AGAIN_S = 0.5
_TABLES = """
CREATE TABLE IF NOT EXISTS process(id TEXT PRIMARY KEY, beat INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken(key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(key TEXT PRIMARY KEY, run TEXT NOT NULL) WITHOUT ROWID;
"""


class Leases:
    """The requests in flight in all processes that share a store.

    Args:
        folder: The store's folder; None with a read-only store, for which nothing is bought.
        beat_s: Seconds between heartbeats; None for heartbeats only by calls of `beat`.
        on_beat: Called after each heartbeat, in the heartbeat thread.

    Raises:
        StoreError: The file of leases cannot be used.
    """

    def __init__(
        self, folder: Path | None, *, beat_s: float | None = BEAT_S, on_beat: Callable[[], None] = lambda: None
    ) -> None:
        self._folder, self._on_beat = folder, on_beat
        self._id, self._beats = secrets.token_hex(8), 0
        # For each other process: its last known heartbeat, and our own heartbeat when it was first seen.
        self._seen: dict[str, tuple[int, int]] = {}
        self._closed = threading.Event()
        self._open = ExitStack()
        try:
            self._db = self._connection()
            self._db.executescript(_TABLES)
            self._db.execute("INSERT INTO process VALUES(?, 0)", (self._id,))
            if folder is not None:
                make_private_dir(folder / "processes")
                self._open.enter_context(locked(self._lock_of(self._id)))
        except (sqlite3.Error, OSError, DataError) as error:
            raise unusable(folder, error) from error
        self._heart = threading.Thread(target=self._keep_beating, args=(beat_s,), daemon=True)
        if beat_s is not None and folder is not None:
            self._heart.start()

    def _connection(self) -> sqlite3.Connection:
        path = ":memory:" if self._folder is None else self._folder / "leases.db"
        db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        # Several processes may change a new file to WAL at the same time; SQLite then refuses some at once, without waiting.
        with suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")  # a lease need not survive a power cut
        return db

    def _lock_of(self, process: str) -> Path:
        return (self._folder or Path()) / "processes" / f"{process}.lock"

    def _sql(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise unusable(self._folder, error) from error

    def _keep_beating(self, beat_s: float) -> None:
        with suppress(sqlite3.Error):
            db = self._connection()
            while not self._closed.wait(beat_s):
                self.beat(db)
                self._on_beat()
            db.close()

    def beat(self, db: sqlite3.Connection | None = None) -> None:
        """Increase the heartbeat of this process."""
        with suppress(sqlite3.Error):  # the next heartbeat may still be in time
            beating = (db or self._db).execute("UPDATE process SET beat = beat + 1 WHERE id=?", (self._id,)).rowcount
            if not beating:  # this process was suspended for so long that another removed its leases
                (db or self._db).execute("INSERT INTO process VALUES(?, 0)", (self._id,))
            self._beats += 1

    def acquire(self, key: str) -> bool:
        """Acquire the lease of a request; False if another process or a batch has it."""
        if self._acquire(key):
            return True
        row = self._sql("SELECT owner FROM taken WHERE key=?", key).fetchone()
        return row is not None and self._end_if_dead(row[0]) and self._acquire(key)

    def _acquire(self, key: str) -> bool:
        taken = self._sql(
            "INSERT INTO taken SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM held WHERE key = ?) "
            "ON CONFLICT(key) DO UPDATE SET owner=owner WHERE owner = excluded.owner",
            *(key, self._id, key),
        )
        return bool(taken.rowcount)

    def _end_if_dead(self, owner: str) -> bool:
        """Remove the leases of a process if it is dead; returns whether it is."""
        row = self._sql("SELECT beat FROM process WHERE id=?", owner).fetchone()
        beat = -1 if row is None else row[0]
        last, since = self._seen.get(owner, (None, 0))
        if last != beat:
            self._seen[owner] = beat, self._beats
            return False
        if self._beats - since < GONE_BEATS or (self._beats - since < STUCK_BEATS and not self._has_died(owner)):
            return False
        with self._at_once() as db:  # unless it had a heartbeat in the meantime
            alive = "SELECT 1 FROM process WHERE id = :owner AND beat <> :beat"
            values = {"owner": owner, "beat": beat}
            db.execute(f"DELETE FROM taken WHERE owner = :owner AND NOT EXISTS ({alive})", values)  # noqa: S608  a fixed text
            db.execute("DELETE FROM process WHERE id = :owner AND beat = :beat", values)
        return True

    def _has_died(self, owner: str) -> bool:
        """Whether the lock of a process is free."""
        if not owner.isalnum() or not (path := self._lock_of(owner)).exists():
            return True
        try:
            with locked(path), suppress(OSError):  # Windows cannot delete an open file
                path.unlink(missing_ok=True)  # the random name is never used again
        except (DataError, OSError):
            return False
        return True

    async def pause(self) -> None:
        """Wait a little for another process, which cannot notify this one."""
        await asyncio.sleep(LOOK_AGAIN_S)

    def release(self, key: str) -> None:
        """Release the lease of a request that got no answer. Otherwise the lease may stay, because others look in the store first."""
        with suppress(sqlite3.Error):  # for example, the disk is full; leases end with their process anyway
            self._db.execute("DELETE FROM taken WHERE key=? AND owner=?", (key, self._id))

    def transfer(self, run: str, keys: Iterable[str]) -> set[str]:
        """Transfer this process's leases to a batch run atomically, so that no other process can acquire them in between.

        Returns:
            The keys that were neither leased by this process nor held by the run, so that others may have sent their requests.
        """
        wanted = set(keys)
        with self._at_once() as db:
            mine = ((run, key, self._id) for key in wanted)
            db.executemany("INSERT OR IGNORE INTO held SELECT key, ? FROM taken WHERE key=? AND owner=?", mine)
            db.executemany("DELETE FROM taken WHERE key=? AND owner=?", ((key, self._id) for key in wanted))
            held_keys = {key for (key,) in db.execute("SELECT key FROM held WHERE run=?", (run,))}
        return wanted - held_keys

    def reserve(self, run: str, keys: Iterable[str], *, still: Iterable[str] = ()) -> int:
        """Set the requests that a batch run holds, replacing those that it held before.

        Args:
            run: The batch run.
            keys: Requests at the provider; held unless another batch run holds them.
            still: Requests not sent yet; those that the run already holds stay held, others are not added.

        Returns:
            Number of requests that the run held before.
        """
        sent = set(keys)
        with self._at_once() as db:
            held_keys = {key for (key,) in db.execute("SELECT key FROM held WHERE run=?", (run,))}
            db.executemany("DELETE FROM held WHERE key=?", ((key,) for key in held_keys - sent - set(still)))
            db.executemany("INSERT OR IGNORE INTO held VALUES(?, ?)", ((key, run) for key in sent))
        return len(held_keys)

    def batch_of(self, key: str) -> str | None:
        """The batch run that has a request in flight, if any."""
        row = self._sql("SELECT run FROM held WHERE key=?", key).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _at_once(self) -> Generator[sqlite3.Connection]:
        """Run the block as one exclusive transaction."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.Error as error:
            raise unusable(self._folder, error) from error

    def close(self) -> None:
        """Release all leases of this process."""
        self._closed.set()
        if self._heart.is_alive():
            self._heart.join()
        with suppress(sqlite3.Error):  # must not hide the error that ended the run
            self._db.execute("DELETE FROM taken WHERE owner=?", (self._id,))
            self._db.execute("DELETE FROM process WHERE id=?", (self._id,))
        self._db.close()
        self._open.close()
        if self._folder is not None:
            self._lock_of(self._id).unlink(missing_ok=True)
