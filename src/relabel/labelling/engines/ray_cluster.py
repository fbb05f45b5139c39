"""Joining a Ray cluster, or starting one here: quietly, and with a sentence where it fails."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relabel.errors import ProviderError, UsageError

RAY_EXTRA = "pip install 'relabel-exposure[ray]'"
REACH_S = 5.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client says first: a cluster's head speaks gRPC over it, and answers with its own settings."""
_FRAME_HEAD, _SETTINGS = 9, 4
_LOCAL_STORE_BYTES = 80 * 2**20
"""Ray's object store, when the cluster is this machine alone: messages are too small to pass through it."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # an address that answers, but is no cluster, would be asked for ten minutes
}
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch for machines that form no cluster: all its ports are on loopback."""


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how much of it.

    Attributes:
        address: `HOST:PORT`, or `auto` for the cluster that this machine belongs to; None takes `RAY_ADDRESS`, and where
            that is not set starts Ray on this machine alone, for as long as the run lasts.
        workers: Worker processes; None starts one a node.
        worker_cpus: Processor cores that a worker reserves; None reserves none.
    """

    address: str | None = None
    workers: int | None = None
    worker_cpus: int | None = None

    def check(self) -> None:
        """Find what is wrong before anything is paid for. Nothing is started or reached.

        Raises:
            UsageError: Ray is not installed, or the address is none.
        """
        if importlib.util.find_spec("ray") is None:
            raise UsageError(f"--engine ray needs Ray, which is not installed; {RAY_EXTRA}, or leave --engine out")
        address = self.where
        if address is None or address in {"auto", "local"}:
            return
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdecimal():
            raise UsageError(
                f"--ray-address {address!r} is neither auto nor HOST:PORT; the driver itself must run on a node of the cluster, "
                "for example by `ray job submit`"
            )

    @property
    def where(self) -> str | None:
        """The address, by option or environment."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


class Cluster:
    """A joined cluster. `leave` ends what was started for it, and nothing else."""

    def __init__(self, ray: Any, opened: ExitStack) -> None:
        self.ray = ray
        self._opened = opened

    @property
    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that are alive."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def leave(self) -> None:
        """Leave the cluster; what was started here is stopped."""
        self._opened.close()


def join(options: ClusterOptions) -> Cluster:
    """Join a cluster, or start one on this machine.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        ProviderError: The cluster cannot be reached, or runs other versions.
    """
    options.check()
    address = options.where
    alone = address is None or address == "local"
    if address is not None and ":" in address:
        _reach(address)
    with ExitStack() as opened:
        variables, folder = dict(_QUIET), None
        if alone:
            private = opened.enter_context(tempfile.TemporaryDirectory(prefix="relabel-", ignore_cleanup_errors=True))
            folder = Path(private) / "ray"  # Ray opens its own folder to everybody; this one's parent stays shut
            folder.mkdir()
            variables |= _LOOPBACK_ONLY | _token(Path(private))
        opened.enter_context(_environment(variables))
        ray = _load()
        if ray.is_initialized():  # the program that calls this has joined already
            return Cluster(ray, ExitStack())
        try:
            with _hushed():
                if folder is not None:
                    ray.init(
                        address="local",
                        num_cpus=None if options.worker_cpus else 1,
                        include_dashboard=False,
                        object_store_memory=_LOCAL_STORE_BYTES,
                        log_to_driver=False,
                        configure_logging=False,
                        _temp_dir=str(folder),
                    )
                else:
                    ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises bare errors of many kinds, each with several lines
            raise _explained(error, address) from error
        opened.callback(ray.shutdown)
        return Cluster(ray, opened.pop_all())


def _load() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray  # noqa: PLC0415  an extra, and heavy
            import ray._private.worker as inside  # noqa: PLC0415  Ray itself once more
    except ImportError as error:
        raise UsageError(f"Ray cannot be loaded ({error}); {RAY_EXTRA}") from error
    # Standard output and error are relabel's: what goes wrong with workers reaches it as exceptions.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if hasattr(inside, "print_to_stdstream"):
        inside.print_to_stdstream = _say_nothing
    return ray


def _say_nothing(*_: object, **__: object) -> None:
    """Stands in the place of what prints a cluster's news."""


@contextmanager
def _hushed() -> Generator[None]:
    """Keep what native code writes off standard error for as long as the block lasts; what is wrong comes as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def keep_signals() -> None:
    """Put this process's own signal handlers back: joining a cluster takes SIGTERM away from them. For the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)
                signal.siginterrupt(number, False)


def _token(folder: Path) -> dict[str, str]:
    """A token of its own for a cluster of its own: nobody else on this machine can give it work."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set environment variables that are not set, for as long as the block lasts."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _reach(address: str) -> None:
    """See that a cluster's head may be at an address: Ray itself would ask for more than a minute."""
    host, _, port = address.rpartition(":")
    head = b""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S) as wire:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            wire.sendall(_GREETING)
            with suppress(OSError):  # what keeps silent or hangs up is no head
                while len(head) < _FRAME_HEAD and (read := wire.recv(_FRAME_HEAD - len(head))):
                    head += read
    except (OSError, OverflowError) as error:
        raise ProviderError(
            f"cannot reach the Ray cluster at {address} ({getattr(error, 'strerror', None) or error}); check --ray-address and that `ray start --head` runs there"
        ) from error
    if len(head) < _FRAME_HEAD or head[3] != _SETTINGS:
        raise ProviderError(
            f"what listens at {address} is no Ray cluster; give --ray-address the address that `ray start --head` printed"
        )


def _explained(error: Exception, address: str | None) -> ProviderError:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        found = text.split("The cluster was started with:")[-1].strip() if "The cluster was started" in text else text
        return ProviderError(
            f"the Ray cluster at {address} runs other versions than this machine ({found[:300]}); use the same Ray and Python on both"
        )
    if address is None or address == "local":
        return ProviderError(f"Ray does not start on this machine ({text[:300]}); leave --engine ray out")
    return ProviderError(
        f"cannot join the Ray cluster at {address} ({text[:300]}); run this on a node of the cluster, with the address that `ray start` printed"
    )
