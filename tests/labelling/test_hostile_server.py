"""A server that speaks broken HTTP, redirects, or returns nonsense with a good status costs labels, never the run."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job_builders import KEY, label_all, make_job
from relabel.errors import ProviderError
from relabel.labelling.store import Store
from relabel.labelling.transport import LARGEST_REPLY
from server import chat

GOOD = json.dumps(chat(json.dumps({"rationale": "Because.", "label": "exposed"}))).encode()
Wire = Callable[[int], bytes]


def reply(body: bytes = GOOD, *, status: int = 200, length: str | None = None, **headers: str) -> bytes:
    said = {"content-type": "application/json", "content-length": length or str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in said.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + body


@contextmanager
def raw_server(wire: Wire, *, closes: bool = True) -> Generator[tuple[str, list[bytes]]]:
    """A server that writes bytes as they are, by the number of the request; and the requests that it saw."""
    seen: list[bytes] = []
    ready = threading.Event()
    ports: list[int] = []
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                seen.append(head + await reader.readexactly(length))
                writer.write(wire(len(seen)))
                await writer.drain()
                if closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{ports[0]}/v1", seen
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


BROKEN: dict[str, bytes] = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "garbage in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\nnonsense",
    "a chunk that is cut": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nabc",
    "a body that is cut": reply(length=str(len(GOOD) + 50)),
    "a length that is no number": reply(length="abc"),
    "an endless header": reply(x_a="a" * 100_000),
    "a control character in a header": reply(x_a="\x00"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_http_is_tried_again_and_then_a_failure(what: str, store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: BROKEN[what] if n > 1 else reply(connection="close")) as (url, seen):
        outcome = await label_all(make_job(url, 1), store, tmp_path / "run", concurrency=1)
    assert len(outcome.labels) == 1
    assert [(f.kind, f.attempts) for f in outcome.failures] == [("provider", 6)]
    assert len(seen) == 7
    assert "broke" in outcome.failures[0].message
    assert len(outcome.failures[0].message) < 400


NONSENSE: dict[str, bytes] = {
    "a page": reply(b"<html>gateway</html>"),
    "an error": reply(b'{"error": {"message": "oops", "code": "x"}}'),
    "nothing": reply(b""),
    "a stream": reply(
        b'data: {"choices": [{"delta": {"content": "{"}}]}\n\ndata: [DONE]\n\n', content_type="text/event-stream"
    ),
    "another encoding": reply(GOOD.decode().encode("utf-16")),
    "too much": reply(gzip.compress(b"x" * (LARGEST_REPLY + 2**20), 1), content_encoding="gzip"),
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_with_a_good_status_is_a_failure_at_once(what: str, store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: NONSENSE[what]) as (url, seen):
        outcome = await label_all(make_job(url, 1), store, tmp_path / "run")
    assert [(f.kind, f.attempts) for f in outcome.failures] == [("provider", 1)] * 2
    assert len(seen) == 2
    assert len(outcome.failures[0].message) < 1000


async def test_a_limit_with_a_good_status_is_a_limit(store: Store, tmp_path: Path) -> None:
    limit = reply(b' {"error": {"code": 429, "message": "upstream is busy"}}', retry_after="0", connection="close")
    with raw_server(lambda n: limit if n in {1, 3} else reply(connection="close")) as (url, seen):
        outcome = await label_all(make_job(url, 1), store, tmp_path / "run", concurrency=1)
    assert outcome.complete
    assert [label.attempts for label in outcome.labels] == [2, 2]
    assert len(seen) == 4


@pytest.mark.parametrize(
    "end",
    [
        b'data: {"error": {"code": 502, "message": "the provider disconnected"}, "choices": [{"finish_reason": "error", "delta": {}}]}\n\n',
        b'data: {"error": {"message": "the engine died"}}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [{"finish_reason": "error", "delta": {}}]}\n\n',
    ],
)
async def test_a_stream_that_ends_in_an_error_is_asked_for_again(end: bytes, store: Store, tmp_path: Path) -> None:
    begun = b'data: {"choices": [{"delta": {"content": "{\\"rationale\\": "}}]}\n\n'
    with raw_server(lambda n: reply(begun + end if n == 2 else GOOD, connection="close")) as (url, _):
        outcome = await label_all(make_job(url, 1), store, tmp_path / "run", concurrency=1)
    assert [(label.attempts, label.repaired) for label in outcome.labels] == [(1, False), (2, False)]
    assert outcome.manifest.perhaps_charged.requests == 1


async def test_a_bad_key_with_a_good_status_ends_the_run(store: Store, tmp_path: Path) -> None:
    denied = reply(b'{"error":{"code":401,"message":"no such key"}}')
    with raw_server(lambda n: denied) as (url, seen), pytest.raises(ProviderError, match="does not accept the key"):
        await label_all(make_job(url, 5), store, tmp_path / "run", concurrency=1)
    assert len(seen) == 1


async def test_connections_that_are_closed_after_each_reply_lose_nothing(store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply()) as (url, seen):
        assert (await label_all(make_job(url), store, tmp_path / "run")).complete
    assert len(seen) == 10


async def test_a_byte_order_mark_is_no_part_of_a_reply(store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply(b"\xef\xbb\xbf" + GOOD)) as (url, _):
        assert (await label_all(make_job(url), store, tmp_path / "run")).complete


# Whole replies in the frame of a stream, or with the words of one, although none was asked for.
FRAMED: dict[str, bytes] = {
    "the end of a stream after it": GOOD + b"data: [DONE]",  # https://github.com/decolua/9router/issues/3492
    "the end of a stream on a line of its own": GOOD + b"\n\ndata: [DONE]\n\n",
    "one event": b"data: " + GOOD + b"\n\ndata: [DONE]\n\n",
    "one event with an id": b"id: 1\nevent: message\ndata: " + GOOD + b"\n\n",
    "one event after the time to reconnect": b"retry: 3000\n\ndata: " + GOOD + b"\n\n",
    "a delta in place of the message": GOOD.replace(b'"message"', b'"delta"'),
}


@pytest.mark.parametrize("what", FRAMED)
async def test_a_reply_framed_as_a_stream_is_read_and_not_bought_again(what: str, store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply(FRAMED[what])) as (url, seen):
        outcome = await label_all(make_job(url, 1), store, tmp_path / "run")
    assert outcome.complete
    assert [(label.label, label.repaired, label.prompt_tokens) for label in outcome.labels] == [
        ("exposed", False, 100)
    ] * 2
    assert len(seen) == 2


async def test_a_header_of_a_gateway_may_be_long(store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply(content_security_policy="https://example.org " * 1000)) as (url, seen):
        assert (await label_all(make_job(url), store, tmp_path / "run")).complete
    assert len(seen) == 10


async def test_a_packed_reply_is_unpacked(store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply(gzip.compress(GOOD), content_encoding="gzip"), closes=False) as (url, _):
        assert (await label_all(make_job(url), store, tmp_path / "run")).complete


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_ends_the_run(status: int, store: Store, tmp_path: Path) -> None:
    with raw_server(lambda n: reply()) as (elsewhere, led_away):
        there = elsewhere.replace("http://", "http://user:sk-other-0123456789@")
        gone = reply(b"", status=status, location=f"{there}/chat/completions")
        with raw_server(lambda n: gone) as (url, seen), pytest.raises(ProviderError, match="redirects") as error:
            await label_all(make_job(url), store, tmp_path / "run")
    assert led_away == []
    assert 1 <= len(seen) <= 4
    assert elsewhere in str(error.value)
    assert "sk-other" not in str(error.value)
    assert KEY not in str(error.value)
