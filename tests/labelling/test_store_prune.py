"""`relabel store prune`: what is meant goes for good, nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relabel.cli.app import run_app
from relabel.labelling.leases import Leases
from relabel.labelling.store import Store
from server import FakeProvider, Reply, chat, judged, provider

RUNS = {
    "one": ("--model", "m-1", "--rubric", "eloundou"),
    "two": ("--model", "m-2", "--rubric", "exposure", "--setting", "strict"),
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeProvider]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "store"))

    def script(seen: Any) -> Reply:
        told = seen.body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        return Reply(body=chat("nonsense")) if len(made.seen) == 1 else judged(label=told[0])

    with provider(script) as made:
        for name, words in RUNS.items():
            assert label(made, name, *words) == 0
        capsys.readouterr()
        yield made


@pytest.fixture
def home(fake: FakeProvider, tmp_path: Path) -> Path:
    assert len(fake.seen) == 11
    return tmp_path


def label(fake: FakeProvider, name: str, *words: str) -> int:
    common = ["--base-url", fake.base_url, "--tasks", "sample", "--sample", "5", "--price", "1/1", "--quiet"]
    return run_app(["run", *common, *words, "--response-format", "json_schema", "--out", name])


def pruned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, int]:
    assert run_app(["store", "prune", *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    return said["answers"], said["rejected"]


def count(home: Path) -> tuple[int, int]:
    with Store(home / "store", read_only=True) as store:
        stats = store.stats()
        assert list(store.verify()) == []
    return stats.answers, stats.rejected


@pytest.mark.parametrize(
    ("words", "goes"),
    [
        (["--model", "m-1"], (5, 1)),
        (["--model", "m-1", "--rejected"], (0, 1)),
        (["--before", "2999-01-01"], (10, 1)),
        (["--before", "2020-01-01"], (0, 0)),
    ],
)
def test_a_dry_run_says_what_then_goes(
    words: list[str], goes: tuple[int, int], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count(home) == (10, 1)
    assert pruned(capsys, *words, "--dry-run") == goes
    assert count(home) == (10, 1)
    size = sum(path.stat().st_size for path in (home / "store").glob("cache.db*"))
    assert pruned(capsys, *words, "--yes") == goes
    assert count(home) == (10 - goes[0], 1 - goes[1])
    assert sum(path.stat().st_size for path in (home / "store").glob("cache.db*")) <= size
    assert pruned(capsys, *words, "--yes") == (0, 0)


def test_what_was_pruned_is_bought_anew_and_the_rest_is_not(
    fake: FakeProvider, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["store", "prune", "--model", "m-1", "--yes"]) == 0
    assert "removed 5 answers and 1 rejected ones" in capsys.readouterr().out
    for name, words in RUNS.items():
        assert label(fake, name, *words) == 0
    assert [seen.body["model"] for seen in fake.seen[11:]] == ["m-1"] * 5
    assert count(home) == (10, 0)


@pytest.mark.parametrize("words", [[], ["--before", "yesterday", "--yes"], ["--model", "m-1"]])
def test_nothing_goes_that_was_not_meant(words: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["store", "prune", *words]) == 2
    assert count(home) == (10, 1)


def test_nothing_is_pruned_under_a_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leases = Leases(home / "store")
    assert run_app(["store", "prune", "--model", "m-1", "--yes"]) == 3
    assert "another process is using the store" in capsys.readouterr().err
    leases.close()
    assert count(home) == (10, 1)
