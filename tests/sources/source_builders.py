"""What the tests of this folder build with: a mirror and registry of their own, and a publisher on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Workshop:
    """A mirror, a home and a registry of a test's own, named by the environment."""

    def __init__(self, folder: Path) -> None:
        self.mirror = folder / "mirror"
        self.home = folder / "home"
        self.cache = self.home / "data"
        self.registry = folder / "my-sources.toml"
        self.mirror.mkdir()
        self._entries: list[str] = []

    def put(self, source_id: str, name: str, content: bytes) -> Path:
        return write(self.mirror / source_id / name, content)

    def put_cached(self, source_id: str, name: str, content: bytes) -> Path:
        return write(self.cache / source_id / name, content)

    def register(self, source_id: str, *files: dict[str, Any], **overrides: str) -> None:
        about = dict.fromkeys(("title", "publisher", "release", "licence", "citation"), "made for a test")
        about |= {"homepage": "https://example.org/about"} | overrides
        lines = ["[[source]]", f'id = "{source_id}"', *(f"{key} = {json.dumps(text)}" for key, text in about.items())]
        for file in files:
            lines += ["[[source.file]]", *(f"{key} = {json.dumps(value)}" for key, value in file.items())]
        self._entries.append("\n".join(lines) + "\n")
        self.registry.write_text("\n".join(self._entries), encoding="utf-8")

    def forget(self) -> None:
        """Empty the registry."""
        self._entries.clear()

    def give(self, source_id: str, role: str, name: str, content: bytes) -> Path:
        """Register a source of one file and put it into the mirror."""
        self.register(source_id, {"name": name, "role": role, "sha256": sha256(content)})
        return self.put(source_id, name, content)


class Publisher:
    """A loopback server with given bytes that writes down what it was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut_after: int | None = None
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked.append(self.path)
                body = publisher.pages.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write((body or b"")[: publisher.cut_after])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def url(self, page: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{page}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
