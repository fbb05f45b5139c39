"""The ray engine: the online engine, with requests posted by actors of a Ray cluster.

Plan, store, leases, limits, budget, retries and validation stay in the driver and are the same code as in `online`, so a run that was
started with one engine can continue with the other. An actor holds nothing that must not be lost: to the engine, an actor that dies is
a broken connection.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.errors import DataError, ProviderError, RelabelError, UsageError
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.local import SLOTS, find_weights, is_local, local_endpoint, serve
from relabel.labelling.transport import (
    BrokenError,
    Connection,
    Http,
    HttpReply,
    TransportError,
    UnreachableError,
    key_for,
)
from relabel.labelling.wire import Api
from relabel.redaction import masked, may_hold_secret
from relabel.settings import settings

RAY_EXTRA = "pip install 'relabel-exposure[ray]'"
# Timeout of a connection to the cluster, and pause between calls to a worker that is not up, in seconds.
REACH_S, _RETRY_S = 5.0, 0.25
START_S = 60.0  # Seconds to wait for all workers before the run begins with those that are up
NO_WORKER_S = 30.0  # Seconds for which a request waits for a worker if none is up
# Size of Ray's object store if the cluster is this machine alone; messages are too small to pass through it.
_LOCAL_STORE_BYTES = 80 * 2**20
# Environment variables for Ray, unless the user has set them.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray sends no usage reports
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # by default, Ray tries for ten minutes to join a server that is not a cluster
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",  # by default, Ray ends this process a minute after the head node
}


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster to use, and how much of it.

    Attributes:
        address: `HOST:PORT`, or `auto` for the cluster that this machine belongs to. None takes `RAY_ADDRESS`; if that is
            not set, Ray is started on this machine alone for the duration of the run.
        workers: Number of worker processes; None starts one per node, or with `worker_cpus` as many as there is room for.
        worker_cpus: Processor cores that each worker reserves; None reserves none.
    """

    address: str | None = None
    workers: int | None = None
    worker_cpus: int | None = None

    def check(self) -> None:
        """Check the options before anything is paid for. Nothing is started or contacted.

        Raises:
            UsageError: Ray is not installed, or the address is malformed.
        """
        if importlib.util.find_spec("ray") is None:
            raise UsageError(f"--engine ray needs Ray, which is not installed; {RAY_EXTRA}, or remove --engine")
        address = self.where
        if address not in {None, "auto", "local"} and not re.fullmatch(r"(?!.*://).+:\d+", address or ""):
            raise UsageError(
                f"--ray-address {address!r} is neither auto nor HOST:PORT; the driver itself must run on a node of the cluster, "
                "for example by `ray job submit`"
            )

    @property
    def where(self) -> str | None:
        """The address from the option, or else from `RAY_ADDRESS`; None without either."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def joined(options: ClusterOptions) -> Generator[Any]:
    """Join a cluster, or start one on this machine, for as long as the block lasts; gives the `ray` module.

    Raises:
        ProviderError: The cluster cannot be reached, or runs other versions.
    """
    address = options.where
    with ExitStack() as opened:
        variables, init = dict(_VARIABLES), {"address": address}
        if address is None or address == "local":
            parent = opened.enter_context(tempfile.TemporaryDirectory(prefix="relabel-", ignore_cleanup_errors=True))
            folder, token = Path(parent) / "ray", Path(parent) / "token"
            folder.mkdir()  # Ray makes its folder accessible to all users; the private parent keeps them out
            # A token of its own, so that no other user of this machine can submit work to the cluster.
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="utf-8")
            variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
            variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that all ports are on loopback
            init = {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
            init |= {"num_cpus": None if options.worker_cpus else 1, "object_store_memory": _LOCAL_STORE_BYTES}
        elif ":" in address:
            _reach(address)
        added = {name: value for name, value in variables.items() if name not in os.environ}
        os.environ.update(added)
        opened.callback(lambda: [os.environ.pop(name, None) for name in added])
        ray = _load()
        if ray.is_initialized():  # the calling program has already joined a cluster
            yield ray
            return
        try:
            with _native_stderr_silenced():
                ray.init(**init, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises many kinds of errors, with messages of several lines
            raise ProviderError(
                f"cannot join or start a Ray cluster ({' '.join(str(error).split())[:300]}); run this on a node of the cluster, with "
                "its versions of Ray and Python and the address that `ray start` printed, or remove --engine ray"
            ) from error
        opened.callback(ray.shutdown)
        yield ray


def living_nodes(ray: Any) -> list[Mapping[str, Any]]:
    """The nodes of the cluster that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def _load() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray._private.worker as ray_worker
    # Only relabel writes to standard output and error; problems of workers reach it as exceptions.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray_worker.print_to_stdstream = lambda *_, **__: None
    return ray


@contextmanager
def _native_stderr_silenced() -> Generator[None]:
    """Discard everything written to standard error in the block, by native code too; problems are raised as exceptions."""
    sys.stderr.flush()
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def keep_signals() -> None:
    """Restore this process's signal handlers, because joining a cluster replaces that of SIGTERM. Works in the main thread only."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(TypeError, ValueError):  # the handler was not set from Python, or this is another thread
            signal.signal(number, signal.getsignal(number))
            signal.siginterrupt(number, False)


def _reach(address: str) -> None:
    """Check within seconds that something listens at an address; Ray itself would try for more than a minute.

    Raises:
        ProviderError: Nothing listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ProviderError(
            f"cannot reach the Ray cluster at {address} ({getattr(error, 'strerror', None) or error}); check --ray-address and that `ray start --head` runs there"
        ) from error


class Sender:
    """An actor that posts what the driver gives it, with the online engine's HTTP code. It does not use Ray itself.

    Args:
        model: The model as the user named it, if each worker runs its own server for it; otherwise empty.
        alias: The model's name in requests, which identifies its weights.
        threads: Processor threads of that server; None for the node's `idle_threads`.
    """

    def __init__(self, model: str = "", alias: str = "", threads: int | None = None) -> None:
        self._model, self._alias, self._threads = model, alias, threads
        self._transport: Http | None = None
        self._open = ExitStack()

    async def hello(self) -> tuple[str, str]:
        """The node's host name and its version of relabel. Starts the server of a local model first.

        Raises:
            DataError: The model's file is missing on this node, or is a different one.
        """
        if self._model and self._transport is None:
            self._transport = Http(await asyncio.to_thread(self._serve), "")
        return socket.gethostname(), __version__

    def _serve(self) -> str:
        weights = find_weights(self._model, settings().home / "models")
        alias = local_endpoint(self._model).model
        if alias != self._alias:
            raise DataError(
                f"{weights} on the node {socket.gethostname()} is {alias}, and the run asks {self._alias}; put the same file on each node"
            )
        return self._open.enter_context(serve(weights, self._alias, threads=self._threads)).base_url

    async def post(self, api: Api, content: bytes, connection: Connection) -> HttpReply | Exception:
        """Post a document; returns the reply, or the error of the transport.

        The key is passed here and not to the constructor, because a cluster keeps the arguments of constructors. Without a key, the
        node's own is used, which does not leave the node.
        """
        if self._transport is None:
            node_key = None if connection.secret else key_for(connection.provider, settings())
            secret = node_key.get_secret_value() if node_key else connection.secret
            self._transport = Http(connection.base_url, secret, connection.provider, connection.headers)
        try:
            # The driver gives up earlier; this timeout is for the case that the driver has died.
            async with asyncio.timeout(connection.timeouts.attempt_s + 5):
                reply = await self._transport.send(api, content)
        except (TransportError, TimeoutError) as error:
            if self._model and isinstance(error, UnreachableError):
                os._exit(1)  # its own server has died: the cluster restarts this worker, which starts a new one
            return error
        # A key from this node's environment must not leave the node. Errors are masked where they are raised.
        text = reply.content.decode("utf-8", "replace")
        return reply._replace(content=masked(text).encode()) if may_hold_secret(text) else reply


class WorkerLostError(Exception):
    """A worker cannot be reached at the moment."""


class WorkerGoneError(WorkerLostError):
    """A worker is lost permanently: the cluster does not restart it."""


Call = Callable[..., Awaitable[Any]]  # Calls a worker's method by name, with its arguments


class _Worker:
    """A worker and its state: `ready` is done once it answers, and fails if it is lost permanently or cannot be used."""

    def __init__(self, call: Call) -> None:
        self.call, self.in_flight = call, 0
        self.ready = asyncio.create_task(self._greet())

    @property
    def up(self) -> bool:
        return self.ready.done() and self.ready.exception() is None

    async def _greet(self) -> None:
        """Call the worker until it answers, after its start or its restart by the cluster."""
        while True:
            try:
                node, version = await self.call("hello")
            except WorkerGoneError:
                raise
            except WorkerLostError:
                await asyncio.sleep(_RETRY_S)
                continue
            if version != __version__:
                raise ProviderError(
                    f"the node {node} runs relabel {version} and this machine {__version__}; install the same version on every node"
                )
            return

    async def post(self, *arguments: Any) -> HttpReply | Exception:
        """See `Sender.post`."""
        self.in_flight += 1
        try:
            return await self.call("post", *arguments)
        except WorkerLostError as error:
            if self.ready.done():
                self.ready = asyncio.create_task(self._greet())
            raise BrokenError(str(error)) from error
        finally:
            self.in_flight -= 1


class RayTransport:
    """A transport that posts each request through the worker with the fewest requests in flight.

    Args:
        calls: For each worker, the function that calls it.
        connection: The model's server and key; without an address if each worker runs its own server.
    """

    def __init__(self, calls: Sequence[Call], connection: Connection) -> None:
        self._connection = connection
        self._workers = [_Worker(call) for call in calls]

    async def open(self, wait_s: float) -> None:
        """Wait until every worker is up; those that take longer join later.

        Args:
            wait_s: Maximum number of seconds to wait for all workers; if none is up by then, as long again for the first.

        Raises:
            ProviderError: No worker came up, or one has a different version of relabel.
            DataError: A worker lacks the model's file.
        """
        await asyncio.wait([worker.ready for worker in self._workers], timeout=wait_s)
        if not await self._up(wait_s):
            raise ProviderError(
                f"no worker of the cluster came up within {2 * wait_s:.0f} s; check `ray status` for free resources, or use fewer --workers or --worker-cpus"
            )

    async def send(self, api: Api, content: bytes) -> HttpReply:
        """Post a document; see `Http.send`.

        Raises:
            ProviderError: No further request can be sent.
        """
        workers = await self._up(NO_WORKER_S)
        if not workers:
            raise UnreachableError("no worker of the cluster is up")
        reply = await min(workers, key=lambda worker: worker.in_flight).post(api, content, self._connection)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def leave_connections(self) -> None:
        """See `Http.leave_connections`; does nothing, because each worker manages its own."""

    async def close(self) -> None:
        """Stop waiting for workers to come up; the workers themselves go on."""
        for worker in self._workers:
            worker.ready.cancel()
        await asyncio.gather(*(worker.ready for worker in self._workers), return_exceptions=True)

    async def _up(self, seconds: float) -> list[_Worker]:
        """The workers that are up; if there are none, waits up to this number of seconds for one.

        Raises:
            RelabelError: All workers are lost permanently, or one cannot be used.
        """
        starting = [worker.ready for worker in self._workers if not worker.ready.done()]
        if starting and not any(worker.up for worker in self._workers):
            await asyncio.wait(starting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        errors = [error for worker in self._workers if worker.ready.done() and (error := worker.ready.exception())]
        for error in errors:
            if isinstance(error, RelabelError):
                raise error
        if len(errors) == len(self._workers):
            raise ProviderError(
                f"all workers of the cluster were lost ({errors[0]}); start the same run again to continue"
            )
        return [worker for worker in self._workers if worker.up]


class RayEngine(OnlineEngine):
    """Sends requests through a cluster. It joins at the first request, so a run answered by the store needs no cluster.

    Args:
        connection: The model's server, with the key.
        limiter: Limits the speed of all workers together.
        budget: Cap on the cost.
        options: Which cluster to use, and how much of it.
    """

    name = "ray"

    def __init__(self, connection: Connection, limiter: Limiter, budget: Budget, options: ClusterOptions) -> None:
        super().__init__(connection, limiter=limiter, budget=budget)
        self._options = options

    async def _connect(self) -> RayTransport:
        local = is_local(self.connection.model)
        ray = await asyncio.to_thread(self._exit.enter_context, joined(self._options))
        keep_signals()
        handles = await asyncio.to_thread(self._start_workers, ray, local)
        transport = RayTransport([partial(_call, ray, handle) for handle in handles], self.connection)
        try:
            await transport.open(START_S)
        except BaseException:
            await transport.close()
            raise
        if local:  # each worker has a server of its own, with `SLOTS` slots
            self.limiter.limit = min(self.limiter.limit, SLOTS * len(handles))
        return transport

    def _start_workers(self, ray: Any, local: bool) -> list[Any]:
        nodes, cpus = living_nodes(ray), self._options.worker_cpus
        room = sum(int(node["Resources"].get("CPU", 0)) // cpus for node in nodes) if cpus else len(nodes)
        wanted = self._options.workers or max(1, room)
        model = (self.connection.model, self.connection.endpoint.model, cpus) if local else ()
        actor = ray.remote(num_cpus=cpus or 0, max_restarts=-1, max_concurrency=4096)(Sender)
        # On the nodes in turn or, if cores are reserved, wherever they are free; workers of a lost node move to others.
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        places = ["SPREAD" if cpus else affinity(nodes[n % len(nodes)]["NodeID"], soft=True) for n in range(wanted)]
        return [actor.options(scheduling_strategy=place).remote(*model) for place in places]


async def _call(ray: Any, handle: Any, method: str, *arguments: Any) -> Any:
    """Call a worker's method, and translate Ray's errors.

    Raises:
        WorkerLostError: The worker cannot be reached; `WorkerGoneError` if it is lost permanently.
        RelabelError: The method raised it; a `ProviderError` stands for any other error of the method, and for a lost cluster.
    """
    errors = ray.exceptions
    try:
        return await getattr(handle, method).remote(*arguments)
    except errors.ActorDiedError as error:
        raise WorkerGoneError(str(error).strip().partition("\n")[0][:200]) from error
    except errors.RayTaskError as error:
        if isinstance(error.cause, RelabelError):
            raise error.cause from None
        detail = str(error).strip().rpartition("\n")[2][:300]
        raise ProviderError(f"a worker of the cluster failed ({detail}); please report it") from error
    except errors.RayError as error:
        # Without the head node, no worker comes back.
        await asyncio.to_thread(_reach, ray.get_runtime_context().gcs_address)
        raise WorkerLostError(str(error).strip().partition("\n")[0][:200]) from error
