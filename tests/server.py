"""A real HTTP server on loopback that plays an OpenAI-compatible provider, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

Fault = Literal["none", "drop", "hang", "trickle", "twice"]


@dataclass
class Reply:
    """What the server does with one request. `delay` is in seconds; `body` may be a dict or raw text."""

    status: int = 200
    body: dict[str, Any] | str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    fault: Fault = "none"


@dataclass
class Seen:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The message with the task."""
        return next(m["content"] for m in self.messages if m["role"] == "user")

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages, in either dialect."""
        return self.body["messages"] if "messages" in self.body else self.body["input"]


_IDS = count(1)  # as of real servers: no two completions have one id


def chat(content: str | None, **changes: Any) -> dict[str, Any]:
    """A chat completion. `finish_reason`, `refusal`, `usage`, `model` may be set."""
    return {
        "id": f"chatcmpl-{next(_IDS)}",
        "object": "chat.completion",
        "created": 1,
        "model": changes.get("model", "test-model-2026"),
        "choices": [
            {
                "index": 0,
                "finish_reason": changes.get("finish_reason", "stop"),
                "message": {"role": "assistant", "content": content, "refusal": changes.get("refusal")},
            }
        ],
        "usage": changes.get(
            "usage", {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}}
        ),
    }


def responses(content: str | None, **changes: Any) -> dict[str, Any]:
    """The same as `chat` says it, in the Responses dialect; `reason` makes it incomplete, `refusal` refuses."""
    reason = changes.get("reason")
    parts: list[dict[str, Any]] = []
    if content is not None:
        parts.append({"type": "output_text", "text": content, "annotations": []})
    if changes.get("refusal"):
        parts.append({"type": "refusal", "refusal": changes["refusal"]})
    return {
        "id": "resp_1",
        "object": "response",
        "model": changes.get("model", "test-model-2026"),
        "status": changes.get("status", "incomplete" if reason else "completed"),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            *([{"type": "message", "role": "assistant", "content": [part]} for part in parts]),
        ],
        "usage": changes.get(
            "usage",
            {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens": 20,
                "total_tokens": 120,
            },
        ),
    }


def judged(label: str = "exposed", rationale: str = "Because.") -> Reply:
    """A good answer."""
    return Reply(body=chat(json.dumps({"rationale": rationale, "label": label})))


def refused(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI spells it."""
    return Reply(status, {"error": {"message": message, "type": "error", "code": code, "param": None}}, headers)


Script = Callable[[Seen], Reply]


class FakeProvider:
    """Answers each request by the script; counts what it saw and what it answered."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.answered: list[Seen] = []
        self.most_at_once = 0
        self.base_url = ""
        self._now = 0
        self._named: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._release: asyncio.Event | None = None

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self._release = stop
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stop.wait()
        server.close()
        open_connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                seen = Seen(lines[0].split(" ")[1], headers, json.loads(raw) if raw else {})
                self.seen.append(seen)
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                try:
                    if not await self._reply(self.script(seen), seen, writer):
                        return
                finally:
                    self._now -= 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, reply: Reply, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        assert self._release is not None
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.fault == "drop":
            writer.transport.abort()
            return False
        if reply.fault == "hang":
            await self._release.wait()
            return False
        said = reply.body
        if isinstance(said, dict) and "id" in said:  # a reply that a script gives twice is two replies
            if said["id"] in self._named:
                said = {**said, "id": f"{said['id']}-{len(self._named)}"}
            self._named.add(said["id"])
        body = said if isinstance(said, str) else json.dumps(said)
        data = body.encode("utf-8", "surrogatepass")
        headers = {"content-type": "application/json", "content-length": str(len(data)), **reply.headers}
        writer.write(
            f"HTTP/1.1 {reply.status} X\r\n".encode()
            + "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode()
            + b"\r\n"
        )
        if reply.fault == "trickle":
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.write(data)
        await writer.drain()
        if reply.fault == "twice":  # a proxy before the provider has lost count
            head = f"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            await writer.drain()
        if reply.status == 200:
            self.answered.append(seen)
        return True


@contextmanager
def provider(script: Script) -> Generator[FakeProvider]:
    """Run a provider in a thread for as long as the block lasts."""
    fake = FakeProvider(script)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(fake.serve(ready, stop)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
