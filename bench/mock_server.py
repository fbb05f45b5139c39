"""A mock provider for benchmarks: one good answer after a fixed wait, for as little processor time as can be.

    python bench/mock_server.py LATENCY_S [SHARE_THAT_HANGS]

Its first line on standard output is its port. GET /answered says how many answers it has sent.
"""

from __future__ import annotations

import asyncio
import json
import sys

ANSWER = json.dumps(
    {
        "id": "chatcmpl-########",
        "object": "chat.completion",
        "created": 1,
        "model": "mock-2026",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": json.dumps(
                        {"rationale": "A chat window halves the time, checking included.", "label": "exposed"}
                    ),
                    "refusal": None,
                },
            }
        ],
        "usage": {
            "prompt_tokens": 500,
            "completion_tokens": 40,
            "total_tokens": 540,
            "prompt_tokens_details": {"cached_tokens": 448},
        },
    }
).encode()


def _reply(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


HEAD, TAIL = _reply(ANSWER).split(b"########")


class Provider(asyncio.Protocol):
    """Reads requests off one connection and answers each after the wait."""

    latency = 0.0
    hang_every = 0
    asked = answered = 0

    def __init__(self) -> None:
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._read) < end + 4 + length:
                return
            self._read = self._read[end + 4 + length :]
            if head.startswith(b"get "):
                self._write(_reply(json.dumps({"answered": Provider.answered}).encode()))
                continue
            Provider.asked += 1
            if not Provider.hang_every or Provider.asked % Provider.hang_every:
                asyncio.get_running_loop().call_later(self.latency, self._answer)

    def _answer(self) -> None:
        Provider.answered += self._write(b"%b%08d%b" % (HEAD, Provider.answered, TAIL))

    def _write(self, reply: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(reply)
        return True


async def main() -> None:
    """Serve until killed."""
    Provider.latency = float(sys.argv[1])
    hanging = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    Provider.hang_every = round(1 / hanging) if hanging else 0
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
