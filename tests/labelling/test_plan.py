"""What a dry run says of hours, cost and the bottleneck, against figures worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relabel.cli.app import run_app
from relabel.labelling.estimate import Estimate, limits
from relabel.labelling.options import RunOptions
from relabel.rubric import load_rubric
from relabel.settings import settings

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
    ("engine", "known", "bottleneck", "hours"),
    [
        ("online", {"rpm": 600}, "requests per minute", (1.0, 1.0)),
        ("online", {"tpm": 330_000}, "tokens per minute", (1.0, 2.0)),
        ("online", {"rpm": 1e9}, "answers per minute that one process handles", (1 / 120, 1 / 120)),
        ("batch", {"rpm": 1}, "the batch window", (0.0, 24.0)),
    ],
)
def test_each_limit_by_itself(
    engine: str, known: dict[str, float], bottleneck: str, hours: tuple[float, float]
) -> None:
    first = limits(ONCE, engine, **known)[0]
    assert (first.name, first.hours) == (bottleneck, pytest.approx(hours))


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run_app(["run", "--model", "gpt-4o-mini", "--tasks", "sample", *words, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_slowest_limit_comes_first_and_no_run_is_shorter_than_any(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "--rpm", "4", "--tpm", "6000")
    slow, fast = sorted(found["limits"][:2], key=lambda limit: -limit["hours"][1])
    assert found["bottleneck"] == found["limits"][0]["name"] == slow["name"]
    assert found["hours"] == [max(slow["hours"][0], fast["hours"][0]), slow["hours"][1]]
    assert {slow["name"], fast["name"]} == {"requests per minute", "tokens per minute"}


def test_batch_costs_half_and_takes_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    online, batch = dry_run(capsys), dry_run(capsys, "--engine", "batch")
    assert batch["cost_usd"] == pytest.approx([cost / 2 for cost in online["cost_usd"]])
    assert (batch["bottleneck"], batch["hours"]) == ("the batch window", [0, 24])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rpm", "2"], "hours    1; bottleneck: requests per minute (2)"),
        ([], "hours    unknown; give the provider's limits with --rpm and --tpm"),
        (["--engine", "batch"], "hours    0 to 24; bottleneck: the batch window"),
    ],
)
def test_people_read_the_bottleneck(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "m", "--tasks", "sample", *words, "--dry-run"]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "2"], "--workers has no effect with --engine online"),
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


def test_without_ray_its_absence_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else pytest.fail(name))
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--engine", "ray"]
    assert run_app(words) == 2
    assert "pip install 'relabel-exposure[ray]'" in capsys.readouterr().err


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.mirror
def test_the_tables_of_the_page_are_the_plans_own() -> None:
    done = subprocess.run([sys.executable, "docs/scale_figures.py", "--check"], check=False, cwd=ROOT)
    assert done.returncode == 0, "python docs/scale_figures.py renews docs/scale.md"


def test_how_long_to_wait_follows_where_the_model_is() -> None:
    def timeouts(model: str, timeout: float | None) -> tuple[float, float]:
        options = RunOptions(model, load_rubric("exposure"), base_url="http://x/v1", timeout=timeout)
        found = options.connection(settings()).timeouts
        return found.attempt_s, found.deadline_s

    assert timeouts("m", None) == (90, 300)
    assert timeouts("m", 20) == (20, 300)
    assert timeouts("m", 400) == (400, 1200)  # a model that thinks for minutes gets three tries all the same
    assert timeouts("local", None) == (900, 2700)
    assert timeouts("local", 60) == (60, 300)
