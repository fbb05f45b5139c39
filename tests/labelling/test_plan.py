"""Hours, money and the limit that binds, against figures worked out by hand."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.labelling.connection import describe
from relabel.labelling.engines import ray as ray_engine
from relabel.labelling.estimate import Estimate
from relabel.labelling.throughput import Pace, outlook
from relabel.settings import Settings

ROOT = Path(__file__).parents[2]
ONCE = Estimate(
    labels=36_000,
    requests=36_000,
    in_store=0,
    to_ask=36_000,
    prompt_tokens=(18_000_000, 36_000_000),
    completion_tokens=(1_800_000, 3_600_000),
    basis="made up",
    cost_usd=(10.0, 20.0),
    price_source="test",
    price_as_of=None,
)


@pytest.mark.parametrize(
    ("pace", "binds", "hours"),
    [
        (Pace(rpm=600), "requests a minute", (1.0, 1.0)),
        (Pace(tpm=330_000), "tokens a minute", (1.0, 2.0)),
        (Pace(concurrency=10, latency_s=2.0), "requests in flight", (2.0, 2.0)),
        (Pace(gpu_tokens_s=250, gpus=2), "tokens of the GPUs", (1.0, 2.0)),
        (Pace(driver_answers_s=10), "the driver's processor", (1.0, 1.0)),
        (Pace(engine="batch", rpm=1), "the batch window", (0.0, 24.0)),
    ],
)
def test_each_limit_by_itself(pace: Pace, binds: str, hours: tuple[float, float]) -> None:
    found = outlook(ONCE, 1, pace)
    assert (found.binds, found.hours) == (binds, pytest.approx(hours))


def test_the_longest_binds_and_no_run_is_shorter_than_any_of_its_limits() -> None:
    found = outlook(ONCE, 1, Pace(rpm=400, tpm=330_000, concurrency=100, latency_s=2.0))
    assert found.binds == "tokens a minute"
    assert found.hours == pytest.approx((1.5, 2.0))  # with short answers the requests bind, with long ones the tokens
    assert [limit.name for limit in found.limits] == [
        "tokens a minute",
        "requests a minute",
        "requests in flight",
        "the driver's processor",
    ]


def test_repeats_multiply_requests_hours_and_money() -> None:
    once, thrice = (outlook(ONCE, samples, Pace(rpm=600, gpu_tokens_s=1e9, gpu_usd_h=2.0)) for samples in (1, 3))
    assert (thrice.labels, thrice.requests) == (3 * once.labels, 3 * once.requests)
    assert thrice.tokens_usd == (30.0, 60.0)
    assert thrice.hours == pytest.approx((3.0, 3.0))
    assert thrice.gpu_usd == pytest.approx((6.0, 6.0))


def test_more_gpus_take_less_time_for_the_same_money() -> None:
    one, four = (outlook(ONCE, 1, Pace(gpu_tokens_s=100, gpus=gpus, gpu_usd_h=2.0)) for gpus in (1, 4))
    assert four.hours == pytest.approx((one.hours[0] / 4, one.hours[1] / 4))
    assert four.gpu_usd == pytest.approx(one.gpu_usd)


def test_batch_costs_half(capsys: pytest.CaptureFixture[str]) -> None:
    costs: dict[str, list[float]] = {}
    for engine in ("online", "batch"):
        words = ["plan", "--model", "gpt-4o-mini", "--tasks", "sample", "--engine", engine, "--json", "-"]
        assert run_app(words) == 0
        costs[engine] = json.loads(capsys.readouterr().out)["tokens_usd"]
    assert costs["batch"] == pytest.approx([cost / 2 for cost in costs["online"]])


def test_the_plan_agrees_with_the_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "gpt-4o-mini", "--tasks", "sample", "--samples", "3", "--max-tokens", "200"]
    assert run_app(["plan", *words, "--json", "-"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert run_app(["run", *words, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert planned["requests"] == dry["to_ask"] == 360
    # Each sample is rounded by itself, so that the two may differ by a token each.
    assert planned["prompt_tokens"] == pytest.approx(dry["prompt_tokens"], abs=3)
    assert planned["completion_tokens"] == pytest.approx(dry["completion_tokens"], abs=3)
    assert planned["tokens_usd"] == pytest.approx(dry["cost_usd"], rel=1e-4)


@pytest.mark.parametrize(
    ("choice", "requests"),
    [(["--sample", "7", "--seed", "5"], 14), (["--sample", "7"], 14), (["--occupation", "11-3051"], 20)],
)
def test_a_plan_of_a_part_is_of_the_tasks_that_a_run_takes(
    choice: list[str], requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "gpt-4o-mini", "--tasks", "sample", *choice]
    found: list[dict[str, float]] = []
    for command in (["plan", *words, "--json"], ["run", *words, "--dry-run", "--json"]):
        assert run_app(command) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["requests"] == found[1]["to_ask"] == requests
    assert found[0]["prompt_tokens"] == pytest.approx(found[1]["prompt_tokens"], abs=1)


def test_people_read_what_binds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "--model", "m", "--tasks", "sample", "--price", "1/2", "--rpm", "2"]
    assert run_app(words) == 0
    said = capsys.readouterr().out
    assert "120 labels by 120 requests to m, engine online" in said
    assert "hours    1; what binds: requests a minute" in said
    assert run_app([*words, "--json", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["binds"] == "requests a minute"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--concurrency", "8"], "together with --latency"),
        (["--gpus", "8"], "--gpus needs --tokens-per-second"),
        (["--gpu-price", "2"], "--gpu-price needs --tokens-per-second"),
        (["--workers", "4"], "add --engine ray"),
        (["--setting", "nonsense"], "has no setting 'nonsense'"),
    ],
)
def test_wrong_words_are_told_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["plan", "--model", "m", "--tasks", "sample", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "2"], "--workers says how a cluster is used, and --engine online uses none"),
        (["--engine", "ray", "--ray-address", "nonsense"], "is neither auto nor HOST:PORT"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "the driver itself must run on a node"),
    ],
)
def test_wrong_words_about_a_cluster_are_told_before_anything_starts(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--quiet"]
    words += ["--engine", "ray", "--ray-address", "127.0.0.1:9", "--out", str(tmp_path / "r")]
    assert run_app(words) == 4
    assert "cannot reach the Ray cluster at 127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("greets", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_is_no_cluster_is_told_at_once(
    greets: bytes | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "REACH_S", 0.5)

    def serve() -> None:
        with listening.accept()[0] as wire:
            wire.recv(100)
            if greets is None:  # it keeps silent
                over.wait(10)
            else:
                wire.sendall(greets)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=serve)
        thread.start()
        words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--quiet"]
        assert run_app([*words, "--engine", "ray", "--ray-address", address, "--out", str(tmp_path / "r")]) == 4
        over.set()
        thread.join()
    assert f"what listens at {address} is no Ray cluster" in capsys.readouterr().err


def test_without_ray_its_absence_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else pytest.fail(name))
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--engine", "ray"]
    assert run_app(words) == 2
    assert "pip install 'relabel-exposure[ray]'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_plan_is_never_held_whole(tmp_path: Path) -> None:
    """Ten times the planned requests take the same memory: each in a process of its own, so that peaks can be told apart."""

    def peak(samples: int) -> float:
        code = (
            "import sys; from pathlib import Path; from relabel.cli.app import run_app; code = run_app(sys.argv[1:]); "
            # The process's own peak; that of getrusage is no lower than its parent's was.
            "status = Path('/proc/self/status').read_text(); "
            "print(status.split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
        )
        words = ["run", "--model", "gpt-4o-mini", "--tasks", "sample", "--samples", str(samples), "--dry-run", "--json"]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["requests"] == 120 * samples
        return int(done.stderr.split()[-1]) / 1024

    few, many = peak(20), peak(200)
    assert many < 1.1 * few
    assert many < 300


@pytest.mark.mirror
def test_the_tables_of_the_page_are_the_plans_own() -> None:
    done = subprocess.run([sys.executable, "docs/scale_figures.py", "--check"], check=False, cwd=ROOT)
    assert done.returncode == 0, "python docs/scale_figures.py renews docs/scale.md"


def test_how_long_to_wait_follows_where_the_model_is() -> None:
    def patience(model: str, timeout: float | None) -> tuple[float, float]:
        found = describe(model, "http://x/v1", Settings(), {}, timeout=timeout).patience
        return found.attempt_s, found.deadline_s

    assert patience("m", None) == (90, 300)
    assert patience("m", 20) == (20, 300)
    assert patience("m", 400) == (400, 1200)  # a model that thinks for minutes gets three tries all the same
    assert patience("local", None) == (900, 2700)
    assert patience("local", 60) == (60, 300)
