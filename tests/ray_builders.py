"""What the tests of the ray engine share: a cluster of several nodes on this machine, on loopback, and a way to lose one."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from job_builders import KEY
from relabel.labelling.job import Job, Stop
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.ray import ClusterOptions, RayEngine
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection

VARIABLES = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# A node that is gone (its connection breaks) is noticed within a second, not half a minute; one that is only slow is left alone.
_WATCHFUL = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 60_000,
    "health_check_failure_threshold": 3,
}


WORKER = "ray::Sender"
"""What a worker's process calls itself."""


class Nodes:
    """A head and further nodes, each with a raylet of its own."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._lost: list[Any] = []
        self.address: str = cluster.address

    def power_off_one_that_works(self) -> None:
        """Kill all processes of a node that has a worker, workers first: nothing of it says good-bye."""
        until(self._power_off_one, "no node but the head has a worker")

    def _power_off_one(self) -> bool:
        for node in self._cluster.list_all_nodes():
            raylet = node.all_processes["raylet"][0].process.pid
            mine = [(pid, line) for pid, parent, line in processes() if parent == raylet]
            if node is not self._cluster.head_node and any(WORKER in line for _, line in mine):
                for pid in [*(pid for pid, _ in mine), raylet]:
                    kill(pid)
                self._lost.append(node)
                return True
        return False

    def power_off_the_head(self) -> None:
        """Kill the processes of the head node, its workers first."""
        started = [one.process.pid for group in self._cluster.head_node.all_processes.values() for one in group]
        for pid in [*(pid for pid, parent, _ in processes() if parent in started), *started]:
            kill(pid)

    def replace_the_lost(self) -> None:
        """Let the cluster take note, and give it new nodes."""
        while self._lost:
            self._cluster.remove_node(self._lost.pop(), allow_graceful=False)
            self._cluster.add_node(**_NODE)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def processes() -> Iterator[tuple[int, int, str]]:
    """Process id, parent and command line of what runs here."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if stat[0] != "Z":
                yield int(folder.name), int(stat[1]), line


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for another process; an hour-glass for what must come, not a measurement."""
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


@contextmanager
def nodes(count: int) -> Generator[Nodes]:
    """A cluster of so many nodes, the head included."""
    before = {name: os.environ.get(name) for name in (*VARIABLES, "OPENAI_API_KEY", "RAY_ADDRESS")}
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(VARIABLES)
    folder = tempfile.mkdtemp(
        prefix="rr-", dir="/tmp"
    )  # Ray's sockets have long names, and paths to them a short limit
    try:
        from ray.cluster_utils import Cluster

        Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray notes the address of what it started last
        cluster = Cluster(
            initialize_head=True, head_node_args={**_NODE, "temp_dir": folder, "_system_config": dict(_WATCHFUL)}
        )
        try:
            for _ in range(count - 1):
                cluster.add_node(**_NODE)
            yield Nodes(cluster)
        finally:
            cluster.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def connection(job: Job, key: str = KEY) -> Connection:
    return Connection(job.base_url, SecretStr(key), job.price, model="test-model", endpoint=job.endpoint)


async def label_on(
    address: str | None,
    job: Job,
    store: Store,
    out: Path,
    *,
    workers: int = 2,
    concurrency: int = 6,
    max_cost: float | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Label all tasks of a job on a cluster."""
    limiter = Limiter(concurrency)
    options = ClusterOptions(address, workers)
    budget = Budget(max_cost, job.price)
    engine = RayEngine(connection(job), limiter, budget, options)
    return await run_job(job, engine, store, out, stop=stop)
