"""Leases: which request is in flight in which process, so that two runs on one store buy no answer twice.

What a batch has in flight is held as well, by the name of the batch run: no process need be there for it.

They live in a small SQLite file of their own beside the answers. Losing it loses nothing: it holds no answer. A lease of a
process that is no more ends at once where that can be seen, and by itself after a while where it cannot.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from relabel.errors import StoreError

LEASE_S = 60.0
"""A lease that its process does not renew ends after this many seconds."""
HOLD_S = 26 * 3600.0
"""What a batch has in flight is held for so many seconds: a batch ends within a day."""
HOLD_AGAIN_S = 3600.0
"""A process that waits for its batches says so after so many seconds: some may not have been sent for want of room."""
LOOK_AGAIN_S = 0.5
"""Pause between looks at an answer that another process is waiting for."""


class Leases:
    """The requests that are in flight, over all processes that share a store.

    Args:
        folder: The store's folder.
        now: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now
        self._mine: set[str] = set()
        self._run: str | None = None
        self._held_since = 0.0
        self._host = platform.node()
        self._owner = f"{self._host}/{os.getpid()}/{secrets.token_hex(4)}"
        try:
            self._db = sqlite3.connect(folder / "leases.db", isolation_level=None, timeout=10, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")  # a lease need not survive a power cut
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS lease(key TEXT PRIMARY KEY, owner TEXT, until REAL) WITHOUT ROWID"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS batch(key TEXT PRIMARY KEY, run TEXT, until REAL) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> StoreError:
        advice = "free space, mend the permissions, or name another folder with RELABEL_STORE"
        return StoreError(f"cannot use the store {self._folder} ({error}); {advice}")

    def _sql(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def take(self, key: str) -> bool:
        """Take the lease of a request; False while another process or a batch has it."""
        if self._take(key):
            return True
        row = self._sql("SELECT owner FROM lease WHERE key=?", key).fetchone()
        if row is not None and not self._is_gone(row[0]):
            return False
        if row is not None:
            self._sql("DELETE FROM lease WHERE owner=?", *row)
        return self._take(key)

    def _is_gone(self, owner: str) -> bool:
        host, pid, _ = owner.rsplit("/", 2)
        if host != self._host:
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _take(self, key: str) -> bool:
        now = self._now()
        taken = self._sql(
            "INSERT INTO lease SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM batch WHERE key = ? AND until > ?) "
            "ON CONFLICT(key) DO UPDATE SET owner=excluded.owner, until=excluded.until WHERE until < ? OR owner = excluded.owner",
            *(key, self._owner, now + LEASE_S, key, now, now),
        )
        if taken.rowcount:
            self._mine.add(key)
        return bool(taken.rowcount)

    async def pause(self) -> None:
        """Wait a little for the other process: no event of its reaches this one."""
        await asyncio.sleep(LOOK_AGAIN_S)

    def give_back(self, key: str) -> None:
        """The request is over."""
        self._mine.discard(key)
        with suppress(sqlite3.Error):  # on a full disk, too: a lease ends by itself
            self._db.execute("DELETE FROM lease WHERE key=? AND owner=?", (key, self._owner))

    def keep(self, key: str) -> None:
        """The request is answered: its lease no longer matters, because the store is asked first. It goes at the end."""
        self._mine.discard(key)

    def pass_on(self, run: str, keys: Iterable[str]) -> set[str]:
        """Make what this process has leased a batch run's own, in one go: there is no moment in which another may take it.

        Returns:
            The keys that neither this process had leased nor the run had held: others may have asked them, and have an answer.
        """
        wanted = set(keys)
        now = self._now()
        with self._at_once() as db:
            db.execute("DELETE FROM batch WHERE until<?", (now,))
            db.executemany(
                "INSERT OR IGNORE INTO batch SELECT key, ?, ? FROM lease WHERE key=? AND owner=?",
                ((run, now + HOLD_S, key, self._owner) for key in wanted),
            )
            db.executemany("DELETE FROM lease WHERE key=? AND owner=?", ((key, self._owner) for key in wanted))
            held = {key for (key,) in db.execute("SELECT key FROM batch WHERE run=?", (run,))}
        self._mine -= wanted
        self._hold_for(run)
        return wanted - held

    def hold(self, run: str, keys: Iterable[str], *, still: Iterable[str] = ()) -> None:
        """Hold what a batch run has in flight, and nothing else that it held before.

        Args:
            run: The batch run.
            keys: What is at the provider: it is held if nobody else has it, whoever had it before.
            still: What is to be sent: it is held on if the run has it, and not taken anew.
        """
        now = self._now()
        sent = set(keys)
        with self._at_once() as db:
            db.execute("DELETE FROM batch WHERE until<?", (now,))
            held = {key for (key,) in db.execute("SELECT key FROM batch WHERE run=?", (run,))}
            db.executemany("DELETE FROM batch WHERE key=?", ((key,) for key in held - sent - set(still)))
            db.executemany("INSERT OR IGNORE INTO batch VALUES(?, ?, ?)", ((key, run, now + HOLD_S) for key in sent))
            db.execute("UPDATE batch SET until=? WHERE run=?", (now + HOLD_S, run))
        self._hold_for(run)

    def _hold_for(self, run: str) -> None:
        self._run, self._held_since = run, self._now()

    @contextmanager
    def _at_once(self) -> Generator[sqlite3.Connection]:
        """All of the block or nothing, and nobody else meanwhile."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def batch_of(self, key: str) -> str | None:
        """The batch run that has a request in flight; None when there is none."""
        row = self._sql("SELECT run FROM batch WHERE key=? AND until>?", key, self._now()).fetchone()
        return None if row is None else row[0]

    def renew(self) -> None:
        """Keep all leases of this process, and what its batch run holds, for another while."""
        now = self._now()
        if self._mine:
            self._sql("UPDATE lease SET until=? WHERE owner=?", now + LEASE_S, self._owner)
        if self._run is not None and now > self._held_since + HOLD_AGAIN_S:
            self._sql("UPDATE batch SET until=? WHERE run=? AND until>?", now + HOLD_S, self._run, now)
            self._hold_for(self._run)

    def close(self) -> None:
        """Give everything back."""
        with suppress(sqlite3.Error):  # what brought us here must not be hidden
            self._db.execute("DELETE FROM lease WHERE owner=?", (self._owner,))
        self._db.close()
