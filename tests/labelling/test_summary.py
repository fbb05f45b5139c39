"""What `relabel run` says at its end: what is missing, why, and how it can be had."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from relabel.cli._labelling import show_outcome, still_missing
from relabel.cli.app import run_app
from relabel.labelling.collector import Progress
from relabel.labelling.leases import Leases
from relabel.labelling.session import Outcome
from relabel.labels import FailureKind
from relabel.manifest import Counts, Manifest, PerhapsCharged
from relabel.rubric import load_rubric
from run_builders import a_label
from server import FakeProvider, Reply, chat, judged, provider, refused


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "store"))


def run(fake: FakeProvider, *more: str) -> int:
    words = ["--tasks", "sample", "--sample", "5", "--response-format", "text", "--out", "r", "--quiet"]
    return run_app(["run", "--model", "m", "--base-url", fake.base_url, *words, *more])


def an_outcome(strict: int, with_tools: int, of: int, *, engine: str = "online", **changes: Any) -> Outcome:
    """A run of the exposure rubric that has so many labels of each setting."""
    rubric = load_rubric("exposure")
    labels = [a_label(str(n), "strict", "exposed") for n in range(strict)]
    labels += [a_label(str(n), "with-tools", "not-exposed") for n in range(with_tools)]
    progress = changes.pop("progress", None) or Progress(
        2 * of, failed=Counter[FailureKind]({"provider": 2 * of - len(labels)})
    )
    manifest = Manifest(
        status="incomplete",
        package_version="0",
        engine=engine,
        model="m",
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        tasks="t.csv",
        settings=("strict", "with-tools"),
        counts=Counts(asked=2 * of, fresh=len(labels), failed=2 * of - len(labels)),
        **changes,
    )
    return Outcome(labels, (), False, manifest, progress)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines break at the terminal's width: here it is the same everywhere."""
    monkeypatch.setenv("COLUMNS", "100")


def shown(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> str:
    show_outcome(outcome, Path("r"), "m")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        (0.0, "lost 37 request(s) ended without a usable answer folder"),
        (0.25, "lost 37 request(s) ended without a usable answer; up to $0.2500 may be charged for them folder"),
        (None, "lost 37 request(s) ended without a usable answer; an unknown sum may be charged for them folder"),
    ],
)
def test_nothing_is_said_of_charges_where_nothing_can_be_charged(
    usd: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shown(an_outcome(3, 3, 4, perhaps_charged=PerhapsCharged(requests=37, usd=usd)), capsys)
    assert said in " ".join(whole.split())  # the terminal's width breaks lines


def test_an_incomplete_run_says_how_much_it_has_of_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(an_outcome(3, 1, 4), capsys).splitlines()
    assert said[2:4] == ["         strict: 3 of 4: exposed 3", "         with-tools: 1 of 4: not-exposed 1"]
    assert not any("three-way" in text for text in said)


def test_a_setting_without_a_label_leaves_nothing_to_judge_three_way(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(an_outcome(3, 0, 4), capsys)
    assert "         with-tools: 0 of 4: no labels" in said
    assert max(len(text) for text in said.splitlines()) <= 100


def test_a_complete_setting_is_shown_without_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert "         strict: exposed 4\n" in shown(an_outcome(4, 4, 4), capsys)


def test_a_run_that_is_started_again_says_what_all_starts_cost(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--price", "10/10") == 0
        first = capsys.readouterr().out
        assert "over all" not in first
        assert run(fake, "--price", "10/10") == 0
        again = capsys.readouterr().out
    spent = json.loads(Path("r/manifest.json").read_text())["sessions"][0]["cost_usd"]
    assert f"$0.0000; ${spent:.4f} over all 2 starts" in again


def test_a_run_that_is_started_again_says_that_an_earlier_cost_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == run(fake) == 0
    assert "$0.0000; cost unknown over all 2 starts" in capsys.readouterr().out


def test_a_cap_that_is_too_low_is_to_be_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--price", "1/1", "--max-tokens", "100", "--max-cost", "0.0001") == 5
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "MISSING  10 of 10 labels (10 budget)"
    assert captured.err.strip().endswith("USD are left: raise --max-cost to label the remaining tasks")
    assert "same command" not in captured.err


def test_a_replay_that_lacks_answers_does_not_promise_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--engine", "replay") == 5
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "MISSING  10 of 10 labels (10 provider)"
    assert captured.err.strip().endswith("replay sends no request: remove --engine replay to request them")


def test_what_a_batch_run_has_in_flight_is_said_with_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(self: Leases, key: str) -> str:
        return "b-0123"

    monkeypatch.setattr(Leases, "acquire", lambda self, key: False)
    monkeypatch.setattr(Leases, "batch_of", held)
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == 5
        assert fake.seen == []
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "MISSING  10 of 10 labels (10 provider)"
    assert captured.err.strip().endswith(
        "batch job b-0123 is still processing 10 of them: `relabel batch resume b-0123` collects their answers, "
        "`relabel batch cancel b-0123` releases them"
    )
    kinds = {json.loads(text)["kind"] for text in Path("r/failures.jsonl").read_text().splitlines()}
    assert kinds == {"provider"}


def test_what_went_wrong_in_passing_is_asked_for_again_by_the_same_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with provider(lambda seen: judged() if len(fake.seen) != 3 else Reply(body=chat(None, refusal="No."))) as fake:
        assert run(fake) == 5
    assert capsys.readouterr().err.strip().endswith("; run the same command again to request what is missing")


def test_the_one_reason_why_all_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: refused(413, "too long")) as fake:
        assert run(fake, "--sample", "4", "--setting", "strict") == 5
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            "4 of 4 labels are missing (see r/failures.jsonl); all failed with the same error: HTTP 413: too long; run the same "
            "command again to request what is missing"
        )
    )


def test_each_part_of_what_is_missing_has_its_own_way() -> None:
    failed = Counter[FailureKind]({"budget": 2, "length": 2, "provider": 4, "timeout": 1})
    progress = Progress(10, failed=failed, unasked=3, held_by_run=Counter({"b-1": 3}))
    said = still_missing(an_outcome(1, 0, 5, progress=progress), Path("r"))
    assert said == (
        "9 of 10 labels are missing (see r/failures.jsonl); batch job b-1 is still processing 3 of them: "
        "`relabel batch resume b-1` collects their answers, `relabel batch cancel b-1` releases them; the cap is reached: "
        "raise --max-cost to label the remaining tasks; 2 answers were cut off, as they would be again: raise --max-tokens, "
        "with another --out; run the same command again to request what is missing"
    )
