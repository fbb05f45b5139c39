"""A local web page to browse and review labels: `relabel view`.

A small server on 127.0.0.1 answers requests that have a random token in their address. The page requests one screen of tasks
at a time, so that it stays fast with 19,000 tasks of several raters. Each review is written to a file at once; the file has
the format of `relabel review`, with a row for each task and reviewer, and can be used as a gold.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd

from relabel.errors import DataError, UsageError
from relabel.files import os_errors, read_small, replacing
from relabel.rubric import AUTOMATION
from relabel.run import Run
from relabel.scoring.explain import READING_LABELS
from relabel.sources.tables import read_table
from relabel.tabular import records, spreadsheet_safe
from relabel.task import TASK_KEY

Row = dict[str, Any]
Key = tuple[str, str]

# Columns of a new file of reviews; `annotator` and `blind` are added to every file.
COLUMNS = ("priority", "task_id", "onet_soc_code", "title", "text", "label", "reviewer", "reviewed_at", "comment")
CODES = ("E0", "E1", "E2")
_MAX_FILE_BYTES = 50_000_000
_MAX_POST_BYTES = 20_000
_MAX_ROWS = 200
_PAGE = Path(__file__).parent / "viewer_page"
_ASSETS = {
    "": ("index.html", "text/html"),
    "viewer.js": ("viewer.js", "text/javascript"),
    "viewer.css": ("viewer.css", "text/css"),
}


class Reviews:
    """The file of reviews, rewritten after each change.

    Args:
        path: The file. An existing one, for example from `relabel review`, is continued, and its tasks are shown first.
        column: The column for labels: `label`, or `strict` or `with_tools` if a run has only one of the two settings.

    Raises:
        UsageError: The file is not a file of reviews.
        DataError: It cannot be read.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self.rows: list[Row]
        self._undo: dict[str, list[tuple[Key, Row | None]]] = {}
        self._changed_at = -1
        self.read()

    def read(self) -> None:
        """Read the file, if another page or a spreadsheet has changed it since."""
        changed_at = self.path.stat().st_mtime_ns if self.path.exists() else 0
        if changed_at == self._changed_at:
            return
        self.rows = []
        header: Sequence[str] = [self.column if name == "label" else name for name in COLUMNS]
        if changed_at and len(self.path.read_bytes().splitlines()) > 1:  # it may hold only the header
            table = read_table(self.path, rows_are="each task", advice="give another file to --review")
            header = table.header
            if lacking := {"task_id", "onet_soc_code", "reviewer", self.column} - set(header):
                raise UsageError(
                    f"{self.path} is not a file of reviews for these labels (no column {sorted(lacking)[0]}); give another to --review"
                )
            self.rows = [dict(cells) for _, cells in table.rows]
        self._changed_at = changed_at
        self.header = [*header, *(name for name in ("annotator", "blind") if name not in header)]
        self.is_random_sample = "weight" in self.header
        self.queue = {self._key(row): place for place, row in reversed(list(enumerate(self.rows)))}

    @staticmethod
    def _key(row: Row) -> Key:
        return row["onet_soc_code"], row["task_id"].removeprefix("'")

    def rows_of(self, reviewer: str) -> dict[Key, Row]:
        """The rows of a reviewer with a label, by task."""
        return {self._key(row): row for row in self.rows if row["reviewer"] == reviewer and row[self.column]}

    @property
    def reviewers(self) -> list[str]:
        """Reviewers with a label, in the order of the file."""
        return list(dict.fromkeys(row["reviewer"] for row in self.rows if row["reviewer"] and row[self.column]))

    def set(self, key: Key, reviewer: str, values: Row, about: Row) -> None:
        """Write a review; an empty label removes it.

        Args:
            key: The task.
            reviewer: Name of the reviewer.
            values: The label under the column's name, `comment`, `blind`.
            about: `title` and `text` of the task, for a new row.

        Raises:
            UsageError: The file is a random sample, and the task is not in it.
        """
        if self.is_random_sample and key not in self.queue:
            raise UsageError(f"{self.path.name} holds tasks drawn at random, and this one is not among them")
        before = self.rows_of(reviewer).get(key)
        self._undo.setdefault(reviewer, []).append((key, before and dict(before)))
        self._put(key, reviewer, values, about)

    def undo(self, reviewer: str) -> Key | None:
        """Undo the last change of a reviewer; returns its task, or None if there is no change."""
        if not (done := self._undo.get(reviewer)):
            return None
        key, before = done.pop()
        self._put(key, reviewer, before or {self.column: "", "comment": ""}, {})
        return key

    def _put(self, key: Key, reviewer: str, values: Row, about: Row) -> None:
        row = self.rows_of(reviewer).get(key)
        if row is None:
            listed = [row for row in self.rows if self._key(row) == key]
            row = next((row for row in listed if not row[self.column]), None)
            if row is None:
                # A second reviewer's row copies the task's other columns.
                row = dict(listed[0]) if listed else dict.fromkeys(self.header, "") | {"priority": "chosen"}
                row |= {"onet_soc_code": key[0], "task_id": key[1], **about}
                self.rows.append(row)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        row |= values | {"reviewer": reviewer, "annotator": reviewer, "reviewed_at": now}
        if not row[self.column]:
            row |= dict.fromkeys(("reviewer", "annotator", "reviewed_at", "blind"), "")
            if key not in self.queue or sum(self._key(row) == key for row in self.rows) > 1:
                self.rows.remove(row)
        self._write()

    def _write(self) -> None:
        table = pd.DataFrame(self.rows, columns=self.header, dtype="str").fillna("")
        safe = table.map(lambda cell: spreadsheet_safe(cell.removeprefix("'")))
        with os_errors(f"{self.path} cannot be written", "free some space, then label again"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                safe.to_csv(temporary, index=False, lineterminator="\r\n", encoding="utf-8-sig")
            self._changed_at = self.path.stat().st_mtime_ns

    def agreement(self) -> list[Row]:
        """Agreement of each pair of reviewers: `who, tasks` (number labelled by both), `agreement` (0-1) and `kappa`.

        Kappa is None if all labels are equal.
        """
        pairs: list[Row] = []
        labels = pd.DataFrame(
            {name: {key: row[self.column] for key, row in self.rows_of(name).items()} for name in self.reviewers}
        )
        for one, two in combinations(self.reviewers, 2):
            rows = labels[[one, two]].dropna()
            if len(rows):
                share = float((rows[one] == rows[two]).mean())
                chance = float(rows[one].value_counts(normalize=True).mul(rows[two].value_counts(normalize=True)).sum())
                kappa = None if chance == 1 else (share - chance) / (1 - chance)
                pairs.append({"who": [one, two], "tasks": len(rows), "agreement": share, "kappa": kappa})
        return pairs


def label_of_runs(runs: Sequence[Run]) -> tuple[str, tuple[str, ...]]:
    """The column for labels in a review of these runs, and the allowed labels."""
    asked = {setting for run in runs for setting in run.rubric.settings if setting in run.manifest.settings}
    if AUTOMATION in asked:
        return "label", tuple(next(run for run in runs if AUTOMATION in run.rubric.settings).rubric.labels)
    if len(asked & {"strict", "with-tools"}) == 1 and len(asked) == 1:
        return asked.pop().replace("-", "_"), ("exposed", "not-exposed")
    return "label", CODES


def _single_labels(table: pd.DataFrame) -> pd.Series:
    """One label per task: its code, or else its automation level or its only reading."""
    labels = pd.Series(pd.NA, index=table.index, dtype="object")
    for name in ("code", AUTOMATION, "strict", "with_tools"):
        if name in table:
            values = table[name].astype("object")
            labels = labels.fillna(values.map(READING_LABELS) if name in ("strict", "with_tools") else values)
    return labels


class LabelTable:
    """The tasks of some runs with the labels of each rater, for browsing.

    Args:
        runs: The raters.
        golds: Reference labels by name: columns of a gold.
        details: `onet_soc_code, task_id, title, text` of the tasks; None if their list is not on this machine.
        answer_of: Looks up the question and the raw answers of a request key; returns None if the store has none.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        golds: Mapping[str, pd.DataFrame],
        details: pd.DataFrame | None,
        answer_of: Callable[[str], Row | None],
    ) -> None:
        self.runs, self.answer_of = runs, answer_of
        self.names = [run.ref for run in runs]
        self.golds = list(golds)
        tables = {**dict(zip(self.names, map(_coded, runs), strict=True)), **golds}
        series = {
            f"label: {name}": _single_labels(table.drop_duplicates(TASK_KEY).set_index(TASK_KEY))
            for name, table in tables.items()
        }
        self._failed = [{(f.onet_soc_code, f.task_id, f.setting): f for f in run.failures()} for run in runs]
        failed = {key[:2] for of_run in self._failed for key in of_run}
        raters = [f"label: {name}" for name in self.names]
        keys = pd.MultiIndex.from_tuples(sorted(failed.union(*(series[name].index for name in raters))), names=TASK_KEY)
        texts = pd.DataFrame(columns=[*TASK_KEY, "title", "text"]) if details is None else details
        frame = pd.DataFrame(index=keys).join(texts.drop_duplicates(TASK_KEY).set_index(TASK_KEY)[["title", "text"]])
        labels = pd.DataFrame({name: label.reindex(keys) for name, label in series.items()}, index=keys, dtype="object")
        frame = frame.fillna("").join(labels.where(labels.notna(), None))  # JSON has null, but not NaN
        frame["labels"] = frame[raters].nunique(axis=1)
        frame["disagree"] = labels.nunique(axis=1) > 1
        by_task = pd.concat([run.labels for run in runs]).groupby(TASK_KEY)
        frame["probability"] = by_task["probability"].min().reindex(keys).astype("float64")
        frame["repaired"] = by_task["repaired"].any().reindex(keys, fill_value=False).astype(bool)
        frame["rejected"] = [key in failed for key in keys]
        words = keys.map(" ".join).to_series(index=keys) + " " + frame["title"] + " " + frame["text"]
        frame["words"] = words.str.casefold()
        self.frame = frame
        self._rows = [run.labels.groupby(TASK_KEY).indices for run in runs]

    def task_row(self, key: Key) -> pd.Series:
        """The row of a task."""
        return self.frame.iloc[cast("int", self.frame.index.get_loc(key))]

    def find(
        self, query: Mapping[str, str], reviewed: Mapping[Key, Row], queue: Mapping[Key, int], *, blind: bool
    ) -> Row:
        """One page of the tasks that match a query.

        Args:
            query: `q` (words that must all occur), `occupation`, `label` (by `rater`, or by any), `only` (`disagree`,
                `repaired`, `rejected`, `open`, `done` or `listed`), `sort` (`task`, `occupation`, `disagree`,
                `probability`), `from`, `size`.
            reviewed: Rows of the reviewer, by task.
            queue: Position of tasks in the file of reviews.
            blind: Whether to hide labels and ignore the filter by label.
        """
        frame = self.frame
        done, ranks = frame.index.isin(list(reviewed)), [queue.get(cast("Key", key), len(frame)) for key in frame.index]
        keep = np.ones(len(frame), dtype=bool)
        for word in query.get("q", "").casefold().split():
            keep &= frame["words"].str.contains(word, regex=False).to_numpy(bool)
        if occupation := query.get("occupation", "").strip():
            keep &= frame.index.get_level_values(0).str.startswith(occupation)
        if (label := query.get("label")) and not blind:
            names = [query["rater"]] if query.get("rater") in self.names else self.names
            keep &= (frame[[f"label: {name}" for name in names]] == label).any(axis=1).to_numpy()
        only = {name: frame[name].to_numpy() for name in ("disagree", "repaired", "rejected")}
        only |= {"done": done, "open": ~done, "listed": np.array(ranks) < len(frame)}
        keep &= only.get(query.get("only", ""), True)
        sort_keys = {
            "probability": frame["probability"],
            "disagree": -frame["labels"],
            "occupation": frame["title"].astype("str"),
        }
        order = np.argsort(sort_keys.get(query.get("sort", ""), pd.Series(ranks)).to_numpy(), kind="stable")
        places = order[keep[order]]
        first = max(int(query.get("from", "0") or 0), 0)
        shown = places[first : first + min(int(query.get("size", "50") or 50), _MAX_ROWS)]
        return {
            "total": len(places),
            "from": first,
            "rows": [self._row(cast("Key", frame.index[position]), reviewed, blind=blind) for position in shown],
        }

    def _row(self, key: Key, reviewed: Mapping[Key, Row], *, blind: bool) -> Row:
        row = self.task_row(key)
        summary = {"code": key[0], "task": key[1], "title": row["title"], "text": row["text"], "done": key in reviewed}
        if blind:
            return summary
        return summary | {
            "labels": {name: row[f"label: {name}"] for name in [*self.names, *self.golds]},
            "disagree": bool(row["disagree"]),
            "probability": None if np.isnan(row["probability"]) else float(row["probability"]),
            "flags": [name for name in ("repaired", "rejected") if row[name]],
        }

    def task(self, key: Key, review: Row | None, *, blind: bool) -> Row:
        """Details of a task: each rater's labels with question and raw answer, and the golds; without these if `blind`."""
        details = self._row(key, {}, blind=blind) | {"review": review}
        return details if blind else details | {"raters": [self._rater(place, key) for place in range(len(self.runs))]}

    def _rater(self, place: int, key: Key) -> Row:
        run = self.runs[place]
        answers = [
            row | self._stored(row["request_key"]) for row in records(run.labels.iloc[self._rows[place].get(key, [])])
        ]
        failures = [
            {"setting": f.setting, "kind": f.kind, "message": f.message} | self._stored(f.request_key)
            for name in run.manifest.settings
            if (f := self._failed[place].get((*key, name)))
        ]
        return {"name": self.names[place], "answers": answers, "failures": failures}

    def _stored(self, request_key: str | None) -> Row:
        """The question and the raw answers of a request key, if the store has them."""
        stored = None if request_key is None else self.answer_of(request_key)
        return stored or {"messages": None, "content": None, "rejected": []}


def _coded(run: Run) -> pd.DataFrame:
    table = run.coded()
    return table.merge(run.decided(), on=TASK_KEY) if AUTOMATION in run.rubric.settings else table


class Viewer(ThreadingHTTPServer):
    """The server, bound to a free port of this machine but not yet serving.

    Args:
        labels: The tasks and labels.
        reviews: The file of reviews.
        choices: Labels allowed in a review.
    """

    def __init__(self, labels: LabelTable, reviews: Reviews, choices: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.labels, self.reviews, self.choices = labels, reviews, choices
        self.token, self.lock = secrets.token_urlsafe(24), Lock()

    @property
    def url(self) -> str:
        """The address with its token."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def answer(self, path: str, query: Mapping[str, str]) -> Row:
        """The JSON document at a path of the API."""
        labels, reviews = self.labels, self.reviews
        reviewer, blind = query.get("reviewer", ""), query.get("blind") == "1"
        if path == "about":
            return {
                "raters": labels.names,
                "golds": labels.golds,
                "choices": list(self.choices),
                "tasks": len(labels.frame),
                "listed": len(reviews.queue),
                "file": str(reviews.path),
                "sampled": reviews.is_random_sample,
            }
        reviewed = reviews.rows_of(reviewer) if reviewer else {}
        if path == "tasks":
            return labels.find(query, reviewed, reviews.queue, blind=blind)
        if path == "progress":
            done = {name: len(reviews.rows_of(name)) for name in reviews.reviewers}
            return {"done": done, "agreement": reviews.agreement()}
        key = (query.get("code", ""), query.get("task", ""))
        if path != "task" or key not in labels.frame.index:
            raise KeyError(path)
        row = reviewed.get(key)
        review = row and {"label": row[reviews.column], "comment": row.get("comment", "").removeprefix("'")}
        return labels.task(key, review, blind=blind)

    def change(self, body: Row) -> Row:
        """Write a review, or undo the last one.

        Raises:
            UsageError: There is no such task or label, or the reviewer's name is missing.
        """
        reviewer = str(body.get("reviewer") or "").strip()[:80]
        if not reviewer:
            raise UsageError("enter your name first")
        self.reviews.read()
        if body.get("undo"):
            key = self.reviews.undo(reviewer)
            return {"undone": key and {"code": key[0], "task": key[1]}}
        key, label = (str(body.get("code")), str(body.get("task"))), body.get("label") or ""
        if key not in self.labels.frame.index or (label and label not in self.choices):
            raise UsageError("there is no such task or label")
        values = {
            self.reviews.column: label,
            "comment": str(body.get("comment") or "")[:2000],
            "blind": "yes" if body.get("blind") else "no",
        }
        self.reviews.set(key, reviewer, values, cast("Row", self.labels.task_row(key)[["title", "text"]].to_dict()))
        return {"saved": True}


class _Handler(BaseHTTPRequestHandler):
    server: Viewer  # pyright: ignore[reportIncompatibleVariableOverride]  no other server uses this handler

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _path(self) -> str | None:
        """The path after the token; None if the token or the host is wrong."""
        first, _, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        local = self.headers.get("Host") == f"127.0.0.1:{self.server.server_port}"
        return rest if local and secrets.compare_digest(first.encode(), self.server.token.encode()) else None

    def do_GET(self) -> None:
        path = self._path()
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            self._send(HTTPStatus.OK, read_small(_PAGE / name, _MAX_FILE_BYTES), kind)
        elif path is None or not path.startswith("api/"):
            self._send_json({"error": "not found"}, HTTPStatus.NOT_FOUND)
        else:
            query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self._respond(lambda: self.server.answer(path.removeprefix("api/"), query))

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self._path() != "api/review" or not 0 < size <= _MAX_POST_BYTES:
            self._send_json({"error": "not found"}, HTTPStatus.NOT_FOUND)
            return
        body = self.rfile.read(size)
        self._respond(lambda: self.server.change(cast("Row", json.loads(body))))

    def _respond(self, work: Callable[[], Row]) -> None:
        try:
            with self.server.lock:
                reply = work()
            self._send_json(reply)
        except (UsageError, DataError) as error:
            self._send_json({"error": str(error)}, HTTPStatus.CONFLICT)
        except (KeyError, ValueError, AttributeError, TypeError):
            self._send_json({"error": "not understood"}, HTTPStatus.BAD_REQUEST)

    def _send_json(self, document: Row, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header(
            "Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
        )
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)
