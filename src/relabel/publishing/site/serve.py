"""Showing a site on this machine."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from relabel.errors import DataError, UsageError


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what is asked for is of no interest to the one who looks."""


def site_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder, for this machine only.

    Args:
        folder: A folder that `relabel site` wrote.
        port: Port; 0 takes a free one.

    Returns:
        The server, bound but not yet serving.

    Raises:
        UsageError: The folder holds no site.
        DataError: The port is taken.
    """
    if not (folder / "index.html").is_file():
        raise UsageError(f"{folder} holds no index.html; give the folder that `relabel site --out` wrote")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        raise DataError(f"cannot serve on port {port} ({error.strerror}); give another one to --port") from error
