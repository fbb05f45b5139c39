"""The ray engine on a real cluster of several nodes on this machine, against a real server that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from job_builders import KEY, label_all, make_job
from ray_builders import VARIABLES, WORKER, Nodes, label_on, nodes, processes, until
from relabel.errors import ProviderError
from relabel.labelling import ray as ray_engine
from relabel.labelling.providers import Price
from relabel.labelling.ray import ClusterOptions, joined, living_nodes
from relabel.labelling.store import Store
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider, refused

# Importing it here would settle which network it uses before the cluster's variables are set.
pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'relabel-exposure[ray]'"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes(3) as started:
        yield started


def by_task(seen: Seen) -> Reply:
    """An answer that depends on the question alone, so that two runs can be held against each other."""
    exposed = sum(map(ord, seen.prompt + seen.messages[0]["content"])) % 2
    return judged("exposed" if exposed else "not-exposed")


def rows(folder: Path) -> list[tuple[object, ...]]:
    table = open_run(str(folder)).labels
    columns = ["task_id", "onet_soc_code", "setting", "sample", "label", "rationale", "request_key", "prompt_tokens"]
    return [tuple(row) for row in table[columns].to_numpy().tolist()]


async def test_labels_and_keys_are_those_of_the_online_engine(cluster: Nodes, tmp_path: Path) -> None:
    with provider(by_task) as fake, Store(tmp_path / "a") as here, Store(tmp_path / "b") as there:
        job = make_job(fake.base_url, 40)
        await label_all(job, here, tmp_path / "online")
        outcome = await label_on(cluster.address, job, there, tmp_path / "ray")
    assert outcome.complete
    assert outcome.manifest.engine == "ray"
    assert rows(tmp_path / "online") == rows(tmp_path / "ray")
    assert fake.most_at_once <= 6


async def test_a_run_goes_on_from_one_engine_to_the_other_and_back(cluster: Nodes, tmp_path: Path) -> None:
    limit = [30]

    def script(seen: Seen) -> Reply:
        return by_task(seen) if len(fake.seen) <= limit[0] else refused(401, "wrong key", "invalid_api_key")

    with provider(script) as fake, Store(tmp_path / "store") as store:
        job = make_job(fake.base_url, 50)
        with pytest.raises(ProviderError, match="does not accept the key"):
            await label_all(job, store, tmp_path / "run")
        limit[0] = len(fake.seen) + 30
        with pytest.raises(ProviderError, match="does not accept the key"):
            await label_on(cluster.address, job, store, tmp_path / "run")
        limit[0] = 10**9
        before, known = len(fake.seen), len(fake.answered)
        outcome = await label_all(job, store, tmp_path / "run")
        assert known == 60
    assert outcome.complete
    assert outcome.manifest.counts.from_store == known
    assert len(fake.seen) - before == 100 - known
    assert [session.counts.fresh for session in outcome.manifest.sessions] == [30, 30, 40]


async def test_a_node_that_dies_loses_only_its_answers_in_flight(cluster: Nodes, tmp_path: Path) -> None:
    """Every answer is asked once, but those that the lost node had asked for; none is lost, and each is a label."""
    held: list[Seen] = []
    off = threading.Event()

    def script(seen: Seen) -> Reply:
        if len(fake.seen) <= 40:
            return by_task(seen)
        if not off.is_set():
            held.append(seen)
            if len(held) == 6:  # as many as may be in flight: the lost worker holds some of them
                cluster.power_off_one_that_works()
                off.set()
            return Reply(body=by_task(seen).body, delay=1.0)
        return by_task(seen)

    price = Price(input=1.0, cached=1.0, output=1.0, source="test")
    with provider(script) as fake, Store(tmp_path / "store") as store:
        job = make_job(
            fake.base_url,
            100,
            price=price,
            endpoint=make_job(fake.base_url).endpoint.model_copy(update={"params": {"max_completion_tokens": 50}}),
        )
        outcome = await label_on(cluster.address, job, store, tmp_path / "run", workers=3, max_cost=1000.0)
        assert not list(store.verify())
    cluster.replace_the_lost()
    asked = Counter(seen.prompt + seen.messages[0]["content"] for seen in fake.seen)
    again = {question for question, times in asked.items() if times > 1}
    in_flight = {seen.prompt + seen.messages[0]["content"] for seen in held}
    assert off.is_set()
    assert outcome.complete
    assert len(outcome.labels) == 200 == len(asked)
    assert again
    assert again <= in_flight
    assert max(asked.values()) == 2
    assert sum(label.attempts for label in outcome.labels) == len(fake.seen)
    assert len({label.request_key for label in outcome.labels}) == 200
    assert outcome.manifest.perhaps_charged.requests == len(again)


async def test_a_wrong_key_ends_the_run(cluster: Nodes, tmp_path: Path) -> None:
    with (
        provider(lambda _: refused(401, f"bad {KEY}", "invalid_api_key")) as fake,
        Store(tmp_path / "store") as store,
        pytest.raises(ProviderError, match="does not accept the key") as raised,
    ):
        await label_on(cluster.address, make_job(fake.base_url, 20), store, tmp_path / "run")
    assert KEY not in str(raised.value)
    assert len(fake.seen) <= 6


async def test_faults_of_a_server_are_retried_as_the_online_engine_does(cluster: Nodes, tmp_path: Path) -> None:
    met: Counter[str] = Counter()

    def script(seen: Seen) -> Reply:
        question = seen.prompt + seen.messages[0]["content"]
        met[question] += 1
        if met[question] == 1:
            return [
                Reply(fault="drop"),
                refused(500),
                refused(429, "slow down", **{"retry-after-ms": "1"}),
                Reply(body=chat("no json")),
            ][len(met) % 4]
        return by_task(seen)

    with provider(script) as fake, Store(tmp_path / "store") as store:
        outcome = await label_on(cluster.address, make_job(fake.base_url, 8), store, tmp_path / "run", concurrency=8)
    assert outcome.complete
    assert {label.attempts for label in outcome.labels} == {2}
    assert set(met.values()) == {2}


async def test_the_key_is_in_no_file_and_no_command_line_of_the_cluster(cluster: Nodes, tmp_path: Path) -> None:
    lines: list[str] = []

    def script(seen: Seen) -> Reply:
        if not lines:
            lines.extend(line for _, _, line in processes())
        return by_task(seen)

    with provider(script) as fake, Store(tmp_path / "store") as store:
        await label_on(cluster.address, make_job(fake.base_url, 10), store, tmp_path / "run")
    assert fake.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert any(WORKER in line for line in lines)
    assert not any(KEY in line for line in lines)
    sessions = [path for path in Path("/tmp").glob("rr-*/session_*/**/*") if path.is_file()]
    assert sessions
    assert not [path for path in sessions if KEY.encode() in path.read_bytes()]


def test_a_killed_driver_takes_its_workers_along_and_a_rerun_goes_on(cluster: Nodes, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        reply = by_task(seen)
        reply.delay = 0.02
        return reply

    store, out = tmp_path / "store", tmp_path / "run"
    with provider(script) as fake:
        command = [sys.executable, "-m", "relabel", "run", "--model", "test-model", "--base-url", fake.base_url]
        command += ["--tasks", "sample", "--samples", "4", "--response-format", "json_schema", "--concurrency", "6"]
        command += ["--out", str(out), "--quiet", "--json"]
        on_ray = ["--engine", "ray", "--ray-address", cluster.address, "--workers", "2"]
        environment = {**VARIABLES, "RELABEL_STORE": str(store), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        driver = subprocess.Popen([*command, *on_ray], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(lambda: len(fake.answered) >= 100, "the run does not get going")
        driver.kill()
        driver.communicate()
        until(lambda: not any(WORKER in line for _, _, line in processes()), "workers outlive their driver")
        asked, answered = len(fake.seen), len(fake.answered)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        manifest = json.loads(done.stdout)
    counts = manifest["counts"]
    assert done.returncode == 0, done.stderr
    assert manifest["status"] == "complete"
    assert counts["asked"] == 480 == counts["from_store"] + counts["fresh"]
    assert len(fake.seen) - asked == counts["fresh"]
    assert answered - counts["from_store"] <= 6  # lost is only what was in flight


def test_other_versions_of_ray_are_named(cluster: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "__version__", "1.0.0")
    with (
        pytest.raises(ProviderError, match=r"(?i)version mismatch.*with its versions of Ray and Python"),
        joined(ClusterOptions(cluster.address)),
    ):
        pass
    assert not ray.is_initialized()


async def test_another_version_of_relabel_on_a_node_is_named(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "__version__", "99.0")
    with (
        provider(by_task) as fake,
        Store(tmp_path / "store") as store,
        pytest.raises(ProviderError, match=r"runs relabel .* and this machine 99\.0; install the same version"),
    ):
        await label_on(cluster.address, make_job(fake.base_url, 3), store, tmp_path / "run")
    assert not fake.seen


def test_ray_that_is_started_here_listens_on_loopback_alone_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = ray_folders()
    with joined(ClusterOptions()) as here:
        (node,) = living_nodes(here)
        assert node["NodeManagerAddress"] == "127.0.0.1"
        (folder,) = ray_folders() - before
        assert folder.parent.stat().st_mode & 0o077 == 0
    assert ray_folders() == before
    assert not list(tmp_path.rglob("*"))
    assert capfd.readouterr() == ("", "")


async def test_a_lost_head_node_ends_the_run_with_its_answers_kept(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 40:
            alone.power_off_the_head()
        return by_task(seen)

    store, out = tmp_path / "store", tmp_path / "run"
    with nodes(1) as alone, provider(script) as fake, Store(store) as answers:
        job = make_job(fake.base_url, 100)
        with pytest.raises(ProviderError, match=r"cannot reach the Ray cluster at .* check --ray-address"):
            await label_on(alone.address, job, answers, out)
        assert len(fake.seen) - 6 <= len(open_run(str(out)).labels) < 200


def ray_folders() -> set[Path]:
    return set(Path("/tmp").glob("relabel-*/ray"))
