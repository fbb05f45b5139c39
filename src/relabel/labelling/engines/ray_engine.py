"""The ray engine: the online engine, whose requests the workers of a Ray cluster send.

Plan, store, leases, limits, budget, retries, validation and run folder stay in the driver, in the very code of `online`; so a run
begun with one engine goes on with the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from relabel.errors import ProviderError, RelabelError, UsageError
from relabel.label import Answer
from relabel.labelling.budget import Budget
from relabel.labelling.connection import Connection
from relabel.labelling.engines.engine import Flies, Repair
from relabel.labelling.engines.limits import Limiter
from relabel.labelling.engines.local import SLOTS, is_local
from relabel.labelling.engines.online import OnlineEngine
from relabel.labelling.engines.ray_cluster import Cluster, ClusterOptions, join, keep_signals
from relabel.labelling.engines.ray_pool import Call, RayTransport, WorkerLostError
from relabel.labelling.engines.ray_sender import LocalModel, Sender
from relabel.labelling.pricing import OPENAI_URL
from relabel.labelling.request import Request

START_S = 60.0
"""Seconds for all workers to come up, before those that are up begin alone."""
MOST_WORKERS = 1024
CALLS_AT_ONCE = 64
"""Calls that a worker takes at once; the driver has three under way."""
LOCAL_URL = "http://local/v1"
"""What messages call the servers that workers have for themselves."""


class RayEngine:
    """Asks through a cluster, joined at the first question: a run that the store answers needs none.

    Args:
        model: The model as the user named it.
        described: The model.
        limiter: How fast to ask, all workers together.
        budget: Cap of the cost.
        options: Which cluster, and how much of it.
    """

    name = "ray"

    def __init__(
        self, model: str, described: Connection, limiter: Limiter, budget: Budget, options: ClusterOptions
    ) -> None:
        self._model, self._described, self._options = model, described, options
        self.limiter, self.budget = limiter, budget
        self._cluster: Cluster | None = None
        self._handles: list[Any] = []
        self._engine: OnlineEngine | None = None
        self._failed: RelabelError | None = None
        self._starting = asyncio.Lock()

    async def ask(self, request: Request, repair: Repair | None = None, *, flies: Flies | None = None) -> Answer:
        """Get the answer to one request; see `Engine.ask`.

        Raises:
            UsageError: Ray is not installed, or the cluster cannot hold so many workers.
            DataError: A node lacks the model's file.
        """
        if self._engine is None:
            async with self._starting:
                if self._failed is not None:  # those who waited for the start have no better luck
                    raise self._failed
                if self._engine is None:
                    try:
                        self._engine = await self._start()
                    except RelabelError as error:
                        self._failed = error
                        raise
        return await self._engine.ask(request, repair, flies=flies)

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """See `Engine.history`."""
        return tuple(self.limiter.history)

    async def close(self) -> None:
        """End the workers and leave the cluster."""
        try:
            if self._engine is not None:
                await self._engine.close()
        finally:
            await asyncio.to_thread(self._leave)

    async def _start(self) -> OnlineEngine:
        described, local = self._described, is_local(self._model)
        if self._cluster is None:
            self._cluster = await asyncio.to_thread(join, self._options)
            keep_signals()
        if not self._handles:
            self._handles = await asyncio.to_thread(self._hire, self._cluster, local)
        calls = [_caller(self._cluster.ray, handle) for handle in self._handles]
        key = described.key.get_secret_value() if described.key else ""
        transport = RayTransport(
            calls,
            None if local else described.base_url,
            key,
            patience=described.patience,
            room=SLOTS if local else None,
            needs_key=described.shown_url.startswith(OPENAI_URL),
        )
        try:
            await transport.open(START_S)
        except BaseException:
            await transport.close()
            raise
        if local:  # a server of its own for each worker: together they take as many as all have places for
            self.limiter.limit = min(self.limiter.limit, SLOTS * len(calls))
        return OnlineEngine(
            LOCAL_URL if local else described.base_url,
            described.key,
            described.price,
            limiter=self.limiter,
            budget=self.budget,
            transport=transport,
            patience=described.patience,
            provider=described.provider,
        )

    def _hire(self, cluster: Cluster, local: bool) -> list[Any]:
        nodes, cpus = cluster.nodes, self._options.worker_cpus
        wanted = self._options.workers or len(nodes)
        if not 1 <= wanted <= MOST_WORKERS:
            raise UsageError(f"--workers {wanted} is not a whole number from 1 to {MOST_WORKERS}")
        if cpus:
            room = sum(int(node.get("Resources", {}).get("CPU", 0)) // cpus for node in nodes)
            if self._options.workers is None:
                wanted = room
            if wanted > room or not room:
                raise UsageError(
                    f"the cluster has room for {room} workers of {cpus} cores, not for {wanted or 1}; give fewer --workers or --worker-cpus"
                )
        model = LocalModel(self._model, self._described.endpoint.model, cpus) if local else None
        actor = cluster.ray.remote(Sender)
        usual = {"num_cpus": cpus or 0, "max_restarts": -1, "max_concurrency": CALLS_AT_ONCE}
        return [
            actor.options(**usual, scheduling_strategy=_place(cluster.ray, nodes, number, cpus)).remote(model)
            for number in range(wanted)
        ]

    def _leave(self) -> None:
        if self._cluster is None:
            return
        for handle in self._handles:
            try:
                self._cluster.ray.kill(handle, no_restart=True)
            except Exception:  # noqa: BLE001, S112  it is gone already, or the cluster is
                continue
        self._cluster.leave()


def _place(ray: Any, nodes: Sequence[Mapping[str, Any]], number: int, cpus: int | None) -> Any:
    """Where a worker goes: to the nodes in turn, or wherever the cores are that it reserves. A lost node's go elsewhere."""
    if cpus:
        return "SPREAD"
    node = nodes[number % len(nodes)]["NodeID"]
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)


def _caller(ray: Any, handle: Any) -> Call:
    """Calls a worker, with Ray's errors as what they mean here."""

    async def call(method: str, *arguments: Any) -> Any:
        try:
            return await getattr(handle, method).remote(*arguments)
        except ray.exceptions.ActorDiedError as error:
            raise WorkerLostError(_first_line(error), forever=True) from error
        except ray.exceptions.RayTaskError as error:
            raise ProviderError(f"a worker of the cluster failed ({_last_line(error)}); please report it") from error
        except ray.exceptions.RayError as error:
            raise WorkerLostError(_first_line(error)) from error

    return call


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2][:300]
