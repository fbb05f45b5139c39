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
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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


class Cluster(NamedTuple):
    """A joined cluster: the `ray` module, and a function that ends everything that was started for the run, and nothing else."""

    ray: Any
    leave: Callable[[], None]

    @property
    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that are alive."""
        return [node for node in self.ray.nodes() if node["Alive"]]


def join(options: ClusterOptions) -> Cluster:
    """Join a cluster, or start one on this machine.

    Raises:
        UsageError: Ray is not installed, or the address is malformed.
        ProviderError: The cluster cannot be reached, or runs other versions.
    """
    options.check()
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
            return Cluster(ray, ExitStack().close)
        try:
            with _native_stderr_silenced():
                ray.init(**init, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises many kinds of errors, with messages of several lines
            raise _explained(error, address) from error
        opened.callback(ray.shutdown)
        return Cluster(ray, opened.pop_all().close)


def _load() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray._private.worker as ray_worker
    except ImportError as error:
        raise UsageError(f"Ray cannot be loaded ({error}); {RAY_EXTRA}") from error
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


def _explained(error: Exception, address: str | None) -> ProviderError:
    detail = " ".join(str(error).split())[:300]
    if address is None or address == "local":
        return ProviderError(f"Ray does not start on this machine ({detail}); remove --engine ray")
    return ProviderError(
        f"cannot join the Ray cluster at {address} ({detail}); run this on a node of the cluster, with its versions of Ray and Python and "
        "the address that `ray start` printed"
    )


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
    def __init__(self, call: Call, revive: Callable[[_Worker], Coroutine[Any, Any, None]]) -> None:
        self.call, self.up, self.lost_reason, self.in_flight = call, False, "", 0
        self.reviving = asyncio.create_task(revive(self))


class RayTransport:
    """A transport that posts each request through the worker with the fewest requests in flight.

    Args:
        calls: For each worker, the function that calls it.
        connection: The model's server and key; without an address if each worker runs its own server.
    """

    def __init__(self, calls: Sequence[Call], connection: Connection) -> None:
        self._connection = connection
        self._workers = [_Worker(call, self._wait_until_up) for call in calls]
        self._changed = asyncio.Event()
        self._fatal: RelabelError | None = None

    async def open(self, wait_s: float) -> None:
        """Wait until every worker is up; those that take longer join later.

        Args:
            wait_s: Maximum number of seconds to wait for all workers; if none is up by then, as long again for the first.

        Raises:
            ProviderError: No worker came up, or one has a different version of relabel.
            DataError: A worker lacks the model's file.
        """
        if not (await self._wait(len(self._workers), wait_s) or await self._wait(1, wait_s)):
            raise ProviderError(
                f"no worker of the cluster came up within {2 * wait_s:.0f} s; check `ray status` for free resources, or use fewer --workers or --worker-cpus"
            )

    async def send(self, api: Api, content: bytes) -> HttpReply:
        """Post a document; see `Http.send`.

        Raises:
            ProviderError: No further request can be sent.
        """
        if not await self._wait(1, NO_WORKER_S):
            raise UnreachableError("no worker of the cluster is up")
        worker = min((worker for worker in self._workers if worker.up), key=lambda worker: worker.in_flight)
        worker.in_flight += 1
        try:
            reply: HttpReply | Exception = await worker.call("post", api, content, self._connection)
        except WorkerLostError as error:
            self._mark_lost(worker, error)
            if self._fatal is not None:
                raise self._fatal from error
            raise BrokenError(str(error)) from error
        finally:
            worker.in_flight -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def leave_connections(self) -> None:
        """See `Http.leave_connections`; does nothing, because each worker manages its own."""

    async def close(self) -> None:
        """Stop waiting for workers to come up; the workers themselves go on."""
        for worker in self._workers:
            worker.reviving.cancel()
        await asyncio.gather(*(worker.reviving for worker in self._workers), return_exceptions=True)

    async def _wait(self, workers: int, seconds: float) -> bool:
        """Wait until this number of workers is up; returns whether that happened within the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._fatal is None and sum(worker.up for worker in self._workers) < workers:
                    self._changed.clear()
                    await self._changed.wait()
        if self._fatal is not None:
            raise self._fatal
        return sum(worker.up for worker in self._workers) >= workers

    def _mark_lost(self, worker: _Worker, error: WorkerLostError) -> None:
        worker.up = False
        if isinstance(error, WorkerGoneError):
            worker.lost_reason = str(error)
            if all(other.lost_reason for other in self._workers):
                self._fatal = self._fatal or ProviderError(
                    f"all workers of the cluster were lost ({worker.lost_reason}); start the same run again to continue"
                )
        elif worker.reviving.done():
            worker.reviving = asyncio.create_task(self._wait_until_up(worker))
        self._changed.set()

    async def _wait_until_up(self, worker: _Worker) -> None:
        """Call a worker until it answers, after its start or its restart by the cluster."""
        while not worker.up and not worker.lost_reason and self._fatal is None:
            try:
                node, version = await worker.call("hello")
                if version != __version__:
                    raise ProviderError(
                        f"the node {node} runs relabel {version} and this machine {__version__}; install the same version on every node"
                    )
            except WorkerLostError as error:
                self._mark_lost(worker, error)
                await asyncio.sleep(_RETRY_S)
            except RelabelError as error:
                self._fatal = self._fatal or error
            else:
                worker.up = True
            self._changed.set()


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
        cluster = await asyncio.to_thread(join, self._options)
        self._exit.callback(cluster.leave)
        keep_signals()
        handles = await asyncio.to_thread(self._start_workers, cluster, local)
        for handle in handles:
            self._exit.callback(_kill_worker, cluster, handle)
        transport = RayTransport([partial(_call, cluster, handle) for handle in handles], self.connection)
        try:
            await transport.open(START_S)
        except BaseException:
            await transport.close()
            raise
        if local:  # each worker has a server of its own, with `SLOTS` slots
            self.limiter.limit = min(self.limiter.limit, SLOTS * len(handles))
        return transport

    def _start_workers(self, cluster: Cluster, local: bool) -> list[Any]:
        nodes, cpus = cluster.nodes, self._options.worker_cpus
        wanted = self._options.workers or len(nodes)
        if cpus:
            room = sum(int(node.get("Resources", {}).get("CPU", 0)) // cpus for node in nodes)
            if self._options.workers is None:
                wanted = room
            if wanted > room or not room:
                raise UsageError(
                    f"the cluster has room for {room} workers of {cpus} cores, not for {wanted or 1}; use fewer --workers or --worker-cpus"
                )
        connection = self.connection
        model = (connection.model, connection.endpoint.model, cpus) if local else ()
        actor = cluster.ray.remote(Sender)
        options = {"num_cpus": cpus or 0, "max_restarts": -1, "max_concurrency": 4096}
        # On the nodes in turn or, if cores are reserved, wherever they are free; workers of a lost node move to others.
        affinity = cluster.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        places = ["SPREAD" if cpus else affinity(nodes[n % len(nodes)]["NodeID"], soft=True) for n in range(wanted)]
        return [actor.options(**options, scheduling_strategy=place).remote(*model) for place in places]


def _kill_worker(cluster: Cluster, handle: Any) -> None:
    with suppress(Exception):  # the worker or the cluster may be gone already
        cluster.ray.kill(handle, no_restart=True)


async def _call(cluster: Cluster, handle: Any, method: str, *arguments: Any) -> Any:
    """Call a worker's method, and translate Ray's errors.

    Raises:
        WorkerLostError: The worker cannot be reached; `WorkerGoneError` if it is lost permanently.
        RelabelError: The method raised it; a `ProviderError` stands for any other error of the method.
    """
    errors = cluster.ray.exceptions
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
        raise WorkerLostError(str(error).strip().partition("\n")[0][:200]) from error
