"""A provider of batches on loopback: files, batches, and the faults that the real one has, on a script.

What answers a line is the same script that answers an online request in `server`, so that both engines can be compared.
Every answer that it makes is on its books: `made`. Batches are answered when they are looked at, not as time goes by.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server import Reply, Script, Seen

_FINAL = {"completed", "failed", "expired", "cancelled", "done", "ended", "canceled", "finalized", "aborted"}


@dataclass
class Fate:
    """How one batch goes.

    Attributes:
        status: What it ends as.
        answered: How many of its lines are answered before it ends; None for all.
        looks: Times that it must be looked at before it ends; a batch that is to be cancelled needs many.
        errors: Validation errors; nothing is answered then.
        backwards: The output comes in another order.
        twice: The first output line comes twice.
        stranger: The output has a line that nobody asked for.
        junk: Lines of output that are put in front, as they are.
        silent: Lines that are not answered, without a word.
        late: Times that the batch must be looked at, once it has ended, until the ids of its files appear.
        empty: Fields of a batch that has not ended; ids of them stand where there is no file, too.
    """

    status: str = "completed"
    answered: int | None = None
    looks: int = 1
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    backwards: bool = False
    twice: bool = False
    stranger: bool = False
    silent: int = 0
    late: int = 0
    empty: dict[str, Any] = field(default_factory=dict[str, Any])
    junk: list[str] = field(default_factory=list[str])


@dataclass
class Call:
    """A call of the API: `POST /batches`."""

    method: str
    path: str
    authorization: str
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class FakeBatches:
    """The provider. `fates` are taken by batches in the order of their making; the last one stays.

    Attributes:
        answers: What answers a line.
        trouble: Told of each call; may hand out a reply to give instead, `cut` to cut a download short, or `lost` or `closed` to
            do what is asked and then lose the reply, or say that the server is closed for an hour.
        made: Custom ids of all answers that were made and would be paid for, in their order.
    """

    def __init__(self, answers: Script, fates: list[Fate] | None = None) -> None:
        self.answers = answers
        self.fates = fates or [Fate()]
        self.trouble: Callable[[Call], Reply | str | None] = lambda call: None
        self.calls: list[Call] = []
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.made: list[str] = []
        self.bodies: list[bytes] = []
        self.base_url = ""
        self.lock = threading.Lock()

    purpose = b"batch"

    def count(self, method: str, path: str) -> int:
        """How often something was called."""
        return sum(1 for call in self.calls if call.method == method and re.fullmatch(path, call.path))

    # What other providers do differently.

    def path(self, path: str) -> str:
        """The path as OpenAI has it."""
        return path

    def asked(self, document: dict[str, Any]) -> dict[str, Any]:
        """What was posted to make a batch, as it would be at OpenAI's."""
        return document

    def line(self, line: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """A line of an input file, as it would be at OpenAI's."""
        del asked
        return line

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as it is told."""
        return _public(batch)

    def page(self, batches: list[dict[str, Any]], query: str) -> Any:
        """A page of the listing, small: finding one must turn them."""
        after = re.search(r"after=([^&]+)", query)
        start = 1 + [b["id"] for b in batches].index(after.group(1)) if after else 0
        return {"object": "list", "data": batches[start : start + 2], "has_more": start + 2 < len(batches)}

    def upload(self, raw: bytes, boundary: bytes) -> dict[str, Any]:
        parts = raw.split(b"--" + boundary)
        fields: dict[str, bytes] = {}
        for part in parts[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n")
            found = re.search(rb'name="([^"]+)"', head)
            assert found
            fields[found.group(1).decode()] = body.removesuffix(b"\r\n")
        assert fields["purpose"] == self.purpose
        self.bodies.append(fields["file"])
        return self.keep(fields["file"])

    def keep(self, data: bytes) -> dict[str, Any]:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = data
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": 1,
            "filename": "f",
            "purpose": "batch",
            "status": "processed",
        }

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        number = len(self.batches)
        fate = self.fates[min(number, len(self.fates) - 1)]
        lines = [self.line(json.loads(line), asked) for line in self.files[asked["input_file_id"]].splitlines()]
        assert {line["url"] for line in lines} == {asked["endpoint"]}
        assert asked["completion_window"] == "24h"
        batch: dict[str, Any] = {
            "id": f"batch_{number + 1}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "completion_window": "24h",
            "input_file_id": asked["input_file_id"],
            "metadata": asked.get("metadata"),
            "status": "validating",
            "created_at": int(time.time()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
        }
        self.batches[batch["id"]] = batch
        batch["_"] = {"fate": fate, "lines": lines, "looks": 0}
        return batch

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        own = batch["_"]
        if batch["status"] in _FINAL:
            return batch
        own["looks"] += 1
        batch["status"] = "in_progress"
        if own["looks"] >= own["fate"].looks:
            self.end(batch, own["fate"])
        return batch

    def cancel(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] not in _FINAL:
            fate: Fate = batch["_"]["fate"]
            fate.status, fate.looks = "cancelled", 0
            batch["status"] = "cancelling"
        return batch

    def end(self, batch: dict[str, Any], fate: Fate) -> None:
        batch["status"] = fate.status
        if fate.errors:
            batch["errors"] = {"object": "list", "data": fate.errors}
            return
        lines = batch["_"]["lines"]
        answered = len(lines) if fate.answered is None else fate.answered
        output: list[str] = []
        errors: list[str] = []
        for number, line in enumerate(lines[: len(lines) - fate.silent]):
            row: dict[str, Any] = {"id": f"batch_req_{len(self.made)}", "custom_id": line["custom_id"], "error": None}
            if number >= answered:
                code = "batch_expired" if fate.status == "expired" else "batch_cancelled"
                said = {"code": code, "message": "This request could not be executed in time."}
                errors.append(json.dumps({**row, "response": None, "error": said}))
                continue
            reply = self.answers(Seen(line["url"], {}, line["body"]))
            body = reply.body if isinstance(reply.body, dict) else {"text": reply.body}
            row["response"] = {"status_code": reply.status, "request_id": "r", "body": body}
            if reply.status == 200:
                self.made.append(line["custom_id"])
                output.append(json.dumps(row))
            else:
                errors.append(json.dumps(row))
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}
        if fate.backwards:
            output.reverse()
        if fate.twice:
            output.append(output[0])
        if fate.stranger:
            output.insert(0, json.dumps(json.loads(output[0]) | {"custom_id": "ff" * 32}))
        output[:0] = fate.junk
        if output:
            batch["output_file_id"] = self.keep("".join(line + "\n" for line in output).encode())["id"]
        if errors:
            batch["error_file_id"] = self.keep("".join(line + "\n" for line in errors).encode())["id"]


def _public(batch: dict[str, Any]) -> dict[str, Any]:
    fate: Fate = batch["_"]["fate"]
    said = {name: value for name, value in batch.items() if name != "_"}
    if batch["status"] not in _FINAL:
        return said | fate.empty
    fate.late -= 1
    for name in ("output_file_id", "error_file_id"):
        said[name] = (said[name] if fate.late < 0 else None) or fate.empty.get(name)
    return said


def _error(status: int, message: str) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "error", "code": None, "param": None}})


def _handler(fake: FakeBatches) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 65536  # head and body in one packet: else each call waits for a delayed acknowledgement

        def do(self) -> None:
            path = fake.path(self.path.split("?")[0].removeprefix("/v1"))
            raw = self.read()
            call = Call(self.command, path, self.headers.get("authorization", ""), self.path, dict(self.headers))
            with fake.lock:
                fake.calls.append(call)
                trouble = fake.trouble(call)
                if isinstance(trouble, Reply):
                    data = json.dumps(trouble.body).encode() if trouble.body else b""
                    self.send(trouble.status, data, trouble.headers)
                    return
                status, data = self.act(call, raw)
            if trouble == "lost":
                self.send(502, b'{"error": {"message": "bad gateway"}}')
            elif trouble == "closed":
                self.send(503, b'{"error": {"message": "maintenance"}}', {"Retry-After": "3600"})
            elif trouble == "cut":
                self.send(status, data, promised=len(data), given=len(data) // 2)
            elif trouble == "short":  # cut by somebody who also mends the length
                self.send(status, data[: len(data) // 2])
            else:
                self.send(status, data)

        do_GET = do_POST = do_DELETE = do

        def read(self) -> bytes:
            if self.headers.get("transfer-encoding") == "chunked":
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("content-length", 0)))

        def act(self, call: Call, raw: bytes) -> tuple[int, bytes]:
            match call.method, call.path.strip("/").split("/"):
                case "POST", ["files"]:
                    boundary = self.headers["content-type"].partition("boundary=")[2].encode()
                    found: Any = fake.upload(raw, boundary)
                case "GET", ["files", file_id, "content"]:
                    if file_id in fake.deleted or file_id not in fake.files:
                        return 404, b'{"error": {"message": "No such File object"}}'
                    return 200, fake.files[file_id]
                case "DELETE", ["files", file_id]:
                    fake.deleted.append(file_id)
                    found = {"id": file_id, "object": "file", "deleted": True}
                case "POST", ["batches"]:
                    found = fake.shown(fake.create(fake.asked(json.loads(raw))))
                case "GET", ["batches"]:
                    every = [fake.shown(batch) for batch in reversed(fake.batches.values())]
                    found = fake.page(every, self.path)
                case "GET", ["batches", batch_id] if batch_id in fake.batches:
                    found = fake.shown(fake.look(fake.batches[batch_id]))
                case "POST", ["batches", batch_id, "cancel"] if batch_id in fake.batches:
                    found = fake.shown(fake.cancel(fake.batches[batch_id]))
                case _:
                    return 404, b'{"error": {"message": "not here"}}'
            return 200, json.dumps(found).encode()

        def send(
            self,
            status: int,
            data: bytes,
            headers: dict[str, str] | None = None,
            *,
            promised: int | None = None,
            given: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(data) if promised is None else promised),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[:given])
            if given is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


class Mistral(FakeBatches):
    """After https://docs.mistral.ai/api/endpoint/batch: jobs with one model each, other words, pages by number."""

    words: Mapping[str, str] = {"validating": "QUEUED", "in_progress": "RUNNING", "completed": "SUCCESS"} | {
        "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelling": "CANCELLATION_REQUESTED", "cancelled": "CANCELLED"
    }  # fmt: skip

    def path(self, path: str) -> str:
        assert not path.startswith("/batches")
        return path.replace("/batch/jobs", "/batches")

    def asked(self, document: dict[str, Any]) -> dict[str, Any]:
        (file_id,) = document["input_files"]
        assert document["model"]
        return {**document, "input_file_id": file_id, "completion_window": "24h"}

    def line(self, line: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        assert set(line) == {"custom_id", "body"}
        assert "model" not in line["body"]
        return {**line, "url": asked["endpoint"], "body": {**line["body"], "model": asked["model"]}}

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        said, counts = _public(batch), batch["request_counts"]
        return {
            "id": said["id"],
            "object": "batch",
            "input_files": [said["input_file_id"]],
            "metadata": said["metadata"],
            "endpoint": said["endpoint"],
            "output_file": said["output_file_id"],
            "error_file": said["error_file_id"],
            "errors": [{"message": e["message"], "count": 1} for e in (said["errors"] or {"data": []})["data"]],
            "status": self.words[said["status"]],
            "created_at": said["created_at"],
            "total_requests": counts["total"],
            "succeeded_requests": counts["completed"],
            "failed_requests": counts["failed"],
            "completed_requests": counts["completed"] + counts["failed"],
        }

    def page(self, batches: list[dict[str, Any]], query: str) -> Any:
        assert "order_by=-created" in query
        number = int(query.partition("page=")[2].partition("&")[0])
        return {"object": "list", "data": batches[2 * number : 2 * number + 2], "total": len(batches)}


class Together(FakeBatches):
    """After https://docs.together.ai/reference/batch-create: no metadata, progress in per cent, upper case."""

    purpose = b"batch-api"

    def path(self, path: str) -> str:
        assert path != "/files"
        return path.replace("/files/upload", "/files")

    def asked(self, document: dict[str, Any]) -> dict[str, Any]:
        assert set(document) == {"input_file_id", "endpoint", "completion_window"}
        return document

    def line(self, line: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        assert set(line) == {"custom_id", "body"}
        return {**line, "url": asked["endpoint"]}

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        said = _public(batch)
        made = datetime.fromtimestamp(said["created_at"], UTC).isoformat().replace("+00:00", "Z")
        names = ("id", "input_file_id", "endpoint", "output_file_id", "error_file_id")
        job = {**{name: said[name] for name in names}, "created_at": made, "status": said["status"].upper()}
        job |= {"progress": 100.0, "error": said["errors"]["data"][0]["message"] if said["errors"] else ""}
        return {"job": job} if said["status"] == "validating" else job

    def page(self, batches: list[dict[str, Any]], query: str) -> Any:
        return [batch.get("job", batch) for batch in batches]


class Azure(FakeBatches):
    """After https://learn.microsoft.com/azure/ai-services/openai/how-to/batch: the resource's files and batches, key in a header."""

    def path(self, path: str) -> str:
        assert "/deployments/" not in path
        return path.removeprefix("/openai").removeprefix("/v1")


@contextmanager
def batch_provider(answers: Script, *fates: Fate, kind: type[FakeBatches] = FakeBatches) -> Generator[FakeBatches]:
    """Run a provider of batches in a thread for as long as the block lasts."""
    fake = kind(answers, list(fates))
    server = _Server(("127.0.0.1", 0), _handler(fake))
    fake.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def refuse(status: int, message: str = "no") -> Reply:
    """An error of the API."""
    return _error(status, message)
