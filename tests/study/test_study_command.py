"""A study from its file to its package, on servers that count what they are asked."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from batch_server import Call, Fate, batch_provider
from relabel.cli.app import run_app
from relabel.importing import import_labels
from relabel.manifest import Manifest, write_manifest
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.settings import asset_dir
from relabel.task import load_tasks
from server import FakeProvider, Reply, Seen, judged, provider, refused

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def by_words(rate: int) -> Callable[[Seen], Reply]:
    """A rater that calls a share of tasks exposed, by a hash of the question."""

    def answer(seen: Seen) -> Reply:
        digest = int(hashlib.sha256(json.dumps(seen.messages).encode()).hexdigest(), 16)
        return judged("exposed" if digest % 10 < rate else "not-exposed")

    return answer


def write(path: Path, *raters: Mapping[str, object], **more: object) -> None:
    study = {"study": 1, "title": "A trial", "tasks": {"list": "sample", "sample": 20, "seed": 1}, "golds": ["sample"]}
    scoring: dict[str, object] = {"draws": 100, "plausible_values": 3}
    path.write_text(yaml.safe_dump({**study, "scoring": scoring, "draws": 100, **more, "raters": list(raters)}))


def rater(name: str, fake: FakeProvider, **more: object) -> dict[str, object]:
    return {"name": name, "model": f"model-{name}", "base_url": fake.base_url, "response_format": "json_object", **more}


def results(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "runs" not in p.relative_to(folder).parts
    }


@pytest.mark.slow
def test_a_study_buys_what_is_missing_and_nothing_twice() -> None:
    path = Path("study.yaml")
    with provider(by_words(3)) as one, provider(by_words(6)) as two, provider(by_words(5)) as three:
        write(path, rater("a", one), rater("b", two), {"name": "gold", "run": "sample"})
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert (len(one.seen), len(two.seen)) == (40, 40)
        first = results(Path("study-results"))
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert (len(one.seen), len(two.seen)) == (40, 40)
        assert results(Path("study-results")) == first
        write(path, rater("a", one), rater("b", two), rater("c", three), {"name": "gold", "run": "sample"})
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert (len(one.seen), len(two.seen), len(three.seen)) == (40, 40, 40)
    wide = pd.read_csv("study-results/labels_wide.csv")
    assert len(wide) == 20
    assert {"label_a", "label_b", "label_c", "label_gold", "chance_E1"} <= set(wide)
    stata = pd.read_stata("study-results/labels_wide.dta")
    assert stata["label_a"].tolist() == wide["label_a"].tolist()
    # The pooled mean as anybody would make it of the wide table.
    value = {"E0": 0.0, "E2": 0.5, "E1": 1.0}
    mean = wide[["label_a", "label_b", "label_c", "label_gold"]].map(value.__getitem__).mean(axis=1)
    assert mean.to_numpy() == pytest.approx(wide["beta_mean"].to_numpy())
    for name in ("report.html", "tables/agreement.tex", "figures/means.pdf", "scores.csv", "scores_plausible.csv"):
        assert Path("study-results", name).stat().st_size, name
    assert KEY.encode() not in b"".join(p.read_bytes() for p in Path("study-results").rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "wrong",
    [
        {"golds": ["no-gold"]},
        {"golds": ["sample", "none.csv"]},
        {"suite": "none.yaml"},
        {"suite": "gone.yaml"},
        {"rater": {"name": "b", "run": "nowhere"}},
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_gold_run_or_suite_that_is_not_there_is_said_before_anything_is_bought(
    wrong: dict[str, Any], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gate = "{id: g, setting: strict, metric: kappa, max_drop: 0.1}"
    Path("gone.yaml").write_text(f"name: s\nbaseline: {{run: nowhere}}\ngates: [{gate}]")
    with provider(by_words(3)) as one:
        others = {name: value for name, value in wrong.items() if name != "rater"}
        raters = [rater("a", one), *([wrong["rater"]] if "rater" in wrong else [])]
        write(Path("study.yaml"), *raters, scoring=None, **others)
        assert run_app(["study", "run", "study.yaml", "--quiet", *more]) == 3
        assert one.seen == []
    assert re.search("no-gold|none.csv|none.yaml|nowhere", capsys.readouterr().err)


def test_a_suite_that_cannot_be_judged_is_not_a_failed_gate(capsys: pytest.CaptureFixture[str]) -> None:
    """Its gold is of other tasks, which only judging tells."""
    Path("gold.csv").write_text("task_id,onet_soc_code,label\nelsewhere,11-1011.00,E0\n")
    Path("suite.yaml").write_text("name: s\ngold: gold.csv\ngates: [{id: g, setting: strict, metric: kappa, min: 0}]")
    with provider(by_words(3)) as one:
        write(Path("study.yaml"), rater("a", one), scoring=None, suite="suite.yaml")
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 3
    assert "gates failed" not in capsys.readouterr().err
    assert Path("study-results/report.html").exists()


def test_ctrl_c_while_labels_are_imported_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("study.yaml")
    rows = "".join(f"{task.task_id},{task.onet_soc_code},E0\n" for task in load_tasks("sample"))
    Path("own.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")

    def interrupted(*given: Any, **options: Any) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return import_labels(*given, **options)

    monkeypatch.setattr(import_module("relabel.study.running"), "import_labels", interrupted)
    with provider(by_words(3)) as fake:
        own: dict[str, object] = {"name": "own", "labels": "own.csv", "rubric": "eloundou"}
        write(path, rater("a", fake), own, tasks="sample", scoring=None)
        assert run_app(["study", "run", str(path), "--quiet"]) == 130
        assert fake.seen == []


def test_ctrl_c_before_the_last_answer_leaves_the_results_for_the_next_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path("study.yaml")

    def answer(seen: Seen) -> Reply:
        if len(fake.seen) == 8:
            os.kill(os.getpid(), signal.SIGINT)
            return replace(judged(), delay=0.3)
        return judged()

    with provider(answer) as fake:
        write(path, rater("a", fake), tasks={"list": "sample", "sample": 4}, scoring=None)
        assert run_app(["study", "run", str(path), "--quiet"]) == 130
        assert "stopped before the results were made" in capsys.readouterr().err
        assert not Path("study-results/report.html").exists()
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert len(fake.seen) == 8


def test_a_study_says_where_it_stands_without_a_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relabel.cli.study._PLAIN_EVERY_S", 0)
    with provider(by_words(3)) as one:
        write(Path("study.yaml"), rater("a", one), scoring=None)
        assert run_app(["study", "run", "study.yaml"]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "reading the tasks and labels that study.yaml names ..."
    lines = [line for line in others if line.startswith("a ")]
    assert lines
    assert lines == [*dict.fromkeys(lines)]
    assert all(re.fullmatch(r"a \d+/40", line) for line in lines)


def test_hours_of_a_study_name_raters_without_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(by_words(3)) as one:
        write(Path("study.yaml"), rater("a", one, rpm=60), rater("b", one), scoring=None)
        assert run_app(["study", "run", "study.yaml", "--dry-run"]) == 0
    assert "hours side by side, without the raters that have no rpm or tpm" in " ".join(capsys.readouterr().out.split())


def test_a_rater_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    with provider(by_words(3)) as good, provider(lambda seen: refused(401, "bad key")) as bad:
        write(path, rater("good", good), rater("bad", bad), scoring=None)
        assert run_app(["study", "run", str(path), "--quiet"]) == 4
        assert "bad: " in capsys.readouterr().err
        assert run_app(["study", "status", str(path), "--json"]) == 0
        found = {r["rater"]: r for r in json.loads(capsys.readouterr().out)["raters"]}
    assert (found["good"]["state"], found["good"]["labels"]) == ("complete", 40)
    assert -1 <= found["good"]["kappa"] <= 1
    assert found["bad"]["kappa"] is None
    assert (found["bad"]["state"], found["bad"]["labels"]) == ("incomplete", 0)
    assert Path("study-results/report.html").exists()


def test_a_disk_that_fails_one_rater_loses_no_answer_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(folder: Path, manifest: Manifest) -> None:
        if folder.name.startswith("a-") and one.seen:
            raise OSError(28, "No space left on device", str(folder))
        write_manifest(folder, manifest)

    monkeypatch.setattr("relabel.labelling.session.write_manifest", failing)
    with provider(lambda _: judged()) as one, provider(lambda _: replace(judged(), delay=0.1)) as two:
        first = rater("a", one, response_format="auto")
        write(Path("study.yaml"), first, rater("b", two, concurrency=8), scoring=None)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 3
    assert "No space left on device" in capsys.readouterr().err
    (path,) = Path("study-results/runs").glob("b-*/manifest.json")
    assert json.loads(path.read_text())["counts"]["fresh"] == 40


def test_a_rater_without_a_key_is_told_the_key_of_the_study_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    write(Path("study.yaml"), {"name": "a", "model": "m"}, scoring=None)
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 4
    said = capsys.readouterr().err
    assert "with key_env, or try model local" in said
    assert "--" not in said


@pytest.mark.parametrize(
    "address",
    [
        "http://HOST",
        "https://api.openai.com.example/v1",
        "http://api.openai.com/v1",
        "https://gw.example/anthropic",
        "https://x.openai.azure.com",
    ],
)
def test_a_study_file_alone_sends_nothing_to_a_host_that_its_user_does_not_know(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOTHER_SECRET", KEY)
    path, run = Path("study.yaml"), ["study", "run", "study.yaml", "--quiet"]
    with provider(by_words(3)) as fake:
        address = address.replace("HOST", fake.base_url.removeprefix("http://").replace("127.0.0.1", "0.0.0.0"))
        host = address.split("/")[2].partition(":")[0]
        write(path, {**rater("a", fake), "base_url": address, "key_env": "ANOTHER_SECRET"}, scoring=None)
        for more in ([], ["--dry-run"], ["--allow-host", "other.example"]):
            assert run_app([*run, *more]) == 2
            assert f"--allow-host {host}" in capsys.readouterr().err
        assert fake.seen == []
        assert run_app([*run, "--replay"]) == 5
        if host == "0.0.0.0":
            assert run_app([*run, "--allow-host", host]) == 0
            assert len(fake.seen) == 40
            assert run_app(run) == 0  # it is complete, and nothing would be sent
        else:
            monkeypatch.setenv("OPENAI_BASE_URL", address)
            assert run_app([*run, "--dry-run"]) == 0


@pytest.mark.parametrize(("variable", "code"), [("GITHUB_TOKEN", 2), ("MY_OPENAI_KEY", 0)])
@pytest.mark.parametrize("address", [{}, {"base_url": "https://api.openai.com/v1"}])
def test_a_study_file_alone_sends_no_variable_to_a_provider_that_it_does_not_name(
    variable: str,
    code: int,
    address: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, "a-secret-of-another-place")
    more = {**address, "key_env": variable, "provider": "openai"}
    write(Path("study.yaml"), {"name": "a", "model": "m", **more}, scoring=None)
    run = ["study", "run", "study.yaml", "--quiet", "--dry-run"]
    assert run_app(run) == code
    said = capsys.readouterr().err
    assert not code or f"would send tasks and {variable} to api.openai.com" in said
    assert run_app([*run, "--allow-host", "api.openai.com"]) == 0


@pytest.mark.slow
def test_the_budget_is_that_of_all_raters_over_all_starts() -> None:
    path = Path("study.yaml")
    priced = {"price": "1/1", "max_tokens": 50, "concurrency": 2}
    with provider(by_words(3)) as one, provider(by_words(6)) as two:
        write(path, rater("a", one, **priced), rater("b", two, **priced), budget_usd=0.0085, scoring=None)
        for _ in range(3):
            assert run_app(["study", "run", str(path), "--quiet"]) == 5
    spent = (len(one.seen) + len(two.seen)) * 120e-6
    assert 0.001 < spent <= 0.0085
    assert len(one.seen) > 0 < len(two.seen)


@pytest.mark.slow
def test_batches_are_sent_once_waited_for_and_taken_by_a_later_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relabel.labelling.batch.state.POLL_S", 0.0)
    path = Path("study.yaml")

    def status() -> dict[str, dict[str, object]]:
        capsys.readouterr()
        assert run_app(["study", "status", str(path), "--json"]) == 0
        return {r["rater"]: r for r in json.loads(capsys.readouterr().out)["raters"]}

    def stop_at_third_look(call: Call) -> Reply | None:
        if batches.count("GET", "/batches/.+") == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    with provider(by_words(3)) as online, batch_provider(by_words(6), Fate(looks=10**9)) as batches:
        batches.trouble = stop_at_third_look
        priced = {"price": "1/1", "max_tokens": 50}
        asked = {**priced, "base_url": batches.base_url, "engine": "batch"}
        write(path, rater("a", online, **priced), rater("b", online, **asked), budget_usd=5, export=True)
        assert run_app(["study", "run", str(path), "--dry-run"]) == 0
        assert "24.00" in capsys.readouterr().out
        assert run_app(["study", "run", str(path), "--quiet"]) == 130
        found = status()["b"]
        assert (found["state"], found["labels"], found["waiting"]) == ("in batches", 0, [40, 0])
        monkeypatch.setenv("COLUMNS", "80")
        capsys.readouterr()
        assert run_app(["study", "status", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "in batches:" in shown
        assert max(map(len, shown.splitlines())) <= 80
        for batch in batches.batches.values():
            batch["_"]["fate"].looks = 0
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert (len(online.seen), batches.count("POST", "/batches"), len(batches.made)) == (40, 1, 40)
        found = status()["b"]
        assert (found["state"], found["labels"]) == ("complete", 40)
        assert found["cost_usd"] == pytest.approx(40 * 120e-6 / 2)
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert (len(online.seen), len(batches.made)) == (40, 40)
    made = results(Path("study-results"))
    assert run_app(["study", "package", str(path)]) == 0
    with zipfile.ZipFile("study-package.zip") as package:
        package.extractall(tmp_path / "elsewhere")
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home-of-a-reader"))
    monkeypatch.chdir(tmp_path / "elsewhere" / "study-package")
    assert run_app(["study", "rebuild", "study.yaml", "--quiet"]) == 0
    assert results(Path("study-results")) == made


@pytest.mark.slow
def test_batches_and_requests_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relabel.labelling.batch.state.POLL_S", 0.0)
    path = Path("study.yaml")
    with provider(by_words(3)) as online, batch_provider(by_words(6)) as batches:
        priced = {"price": "1/1", "max_tokens": 50, "concurrency": 2}
        asked = {**priced, "base_url": batches.base_url, "engine": "batch"}
        write(path, rater("a", online, **priced), rater("b", online, **asked), budget_usd=0.02, scoring=None)
        for _ in range(3):  # each has its part, and together they stay below the cap at each start
            assert run_app(["study", "run", str(path), "--quiet"]) in {0, 5}
            assert len(online.seen) > 0 < len(batches.made)
            assert len(online.seen) * 120e-6 + len(batches.made) * 60e-6 <= 0.02


@pytest.mark.slow
def test_what_a_killed_start_spent_counts_in_the_budget_and_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    priced = {"price": "1/1", "max_tokens": 50, "concurrency": 1}
    killed = threading.Event()

    def answer(seen: Seen) -> Reply:
        if len(one.seen) == 9 and not killed.is_set():
            killed.set()
            process.kill()
        return by_words(3)(seen)

    with provider(answer) as one:
        write(path, *(rater(name, one, **priced) for name in "ab"), budget_usd=0.0075, scoring=None, golds=[])
        command = [sys.executable, "-m", "relabel", "study", "run", str(path), "--quiet"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        assert process.wait(60) == -signal.SIGKILL
        assert run_app(["study", "status", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["raters"]
        assert {r["state"] for r in found} == {"interrupted"}
        assert sum(r["labels"] for r in found) >= 7
        assert sum(r["cost_usd"] for r in found) >= 7 * 120e-6
        counted = len(one.seen)
        assert run_app(["study", "run", str(path), "--quiet"]) == 5
    assert counted <= len(one.seen) < 15  # a start of its own would have had room for thirteen


def test_a_replay_under_another_address_names_the_one_that_has_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    with provider(by_words(3)) as one:
        write(path, rater("a", one), {"name": "people", "run": "sample"}, scoring=None)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        assert "next: relabel study package" in capsys.readouterr().err
        path.write_text(path.read_text().replace("127.0.0.1", "localhost"))
        assert run_app(["study", "run", "study.yaml", "--replay", "--quiet"]) == 5
    said = capsys.readouterr().err
    assert f"the store has answers to these questions for base_url {one.base_url.removesuffix('/v1')}" in said
    assert "next: relabel study package" not in said


@pytest.mark.parametrize("time", ["yesterday", "2026-11-28T14:00:00"])
def test_a_damaged_time_in_a_run_is_one_sentence(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with provider(by_words(3)) as one:
        write(Path("study.yaml"), rater("a", one), scoring=None)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    (path,) = Path("study-results/runs").glob("a-*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["status"], manifest["counts"]["fresh"] = "incomplete", 0
    manifest["sessions"][0]["started_at"] = time
    path.write_text(json.dumps(manifest))
    os.environ["RELABEL_HOME"] += "-another"  # whose store lacks the answers
    assert run_app(["study", "status", "study.yaml"]) == 3
    assert "manifest.json is not a run manifest (sessions.0.started_at: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_run_does_not_hide_the_other_raters(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(by_words(3)) as one, provider(by_words(6)) as two:
        write(Path("study.yaml"), rater("a", one), rater("b", two), scoring=None)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        for name in ("labels.parquet", "manifest.json"):
            (path,) = Path("study-results/runs").glob(f"a-*/{name}")
            path.write_text("{cut")
            capsys.readouterr()
            assert run_app(["study", "status", "study.yaml", "--json"]) == 3
            shown = capsys.readouterr()
            damaged, other = json.loads(shown.out)["raters"]
            assert (damaged["state"], damaged["cost_usd"]) == ("damaged", None)
            assert (other["state"], other["labels"]) == ("complete", 40)
            assert other["kappa"] is not None
            assert "answers come from the store" in shown.err
        shutil.move(path.parent, "aside")  # as the message says
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        assert (len(one.seen), len(two.seen)) == (40, 40)


def test_lost_labels_are_made_again_from_the_store_and_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{task.task_id},{task.onet_soc_code},E1\n" for task in load_tasks("sample"))
    Path("c.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")
    with provider(by_words(3)) as one:
        file: dict[str, object] = {"name": "file", "labels": "c.csv", "rubric": "eloundou"}
        write(Path("study.yaml"), rater("a", one), file, scoring=None)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        lost = list(Path("study-results/runs").glob("*/labels.parquet"))
        assert len(lost) == 2
        for path in lost:
            path.unlink()
        capsys.readouterr()
        assert run_app(["study", "status", "study.yaml", "--json"]) == 0
        states = {row["rater"]: row["state"] for row in json.loads(capsys.readouterr().out)["raters"]}
        assert (states["a"], states["file"]) == ("incomplete", "not started")
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        assert all(path.exists() for path in lost)
        assert len(one.seen) == 40


@pytest.mark.slow
def test_results_of_an_earlier_study_file_are_not_taken_for_those_of_the_present_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither by `score` before the next start, nor by whoever looks into the folder after it."""
    path, folder = Path("study.yaml"), Path("study-results")
    rows = "".join(f"{task.task_id},{task.onet_soc_code},E1\n" for task in load_tasks("sample"))
    Path("c.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")
    Path("d.csv").write_text(f"task_id,onet_soc_code,label\n{rows.replace('E1', 'E0')}")
    people: dict[str, object] = {"name": "people", "run": "sample"}
    other, again = ({"name": name, "labels": f"{name}.csv", "rubric": "eloundou"} for name in "cd")
    write(path, people, other, again, export=True, site=True)
    assert run_app(["study", "run", str(path), "--quiet"]) == 0
    assert run_app(["score", str(path)]) == 0
    for changed in ({}, {"tasks": {"list": "sample", "sample": 20, "seed": 2}}):
        write(path, *(people, other, again) if changed else (people, other), **changed)
        capsys.readouterr()
        assert run_app(["score", str(path)]) == 3
        assert "are of an earlier study file" in capsys.readouterr().err
    (folder / "tables/notes.txt").touch()
    write(path, people, scoring=None)
    assert run_app(["study", "run", str(path), "--quiet"]) == 0
    left = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert "tables/notes.txt" in left
    gone = ("tables/confusion", "tables/totals", "figures/pairs", "scores", "export", "site/")
    assert not [name for name in left if name.startswith(gone)]


def test_a_study_without_results_is_not_to_be_packaged_next(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    write(path, {"name": "people", "run": "sample"}, scoring=None)
    for command in ("run", "package"):
        capsys.readouterr()
        assert run_app(["study", "status", str(path)]) == 0
        assert f"relabel study {command} study.yaml" in " ".join(capsys.readouterr().out.split())
        assert run_app(["study", "run", str(path), "--quiet"]) == 0


@pytest.mark.slow
def test_the_package_rebuilds_the_tables_from_its_answers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("study.yaml")
    with provider(by_words(3)) as one, provider(by_words(6)) as two:
        rows = "".join(f"{task.task_id},{task.onet_soc_code},E{n % 3}\n" for n, task in enumerate(load_tasks("sample")))
        Path("own.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")
        others: tuple[dict[str, object], ...] = (
            {"name": "people", "run": "sample"},
            {"name": "own", "labels": "own.csv", "rubric": "eloundou"},
        )
        write(path, rater("a", one), rater("b", two), *others, export=True, site=True, golds=["sample", "own.csv"])
        assert run_app(["study", "package", str(path)]) == 2
        assert "labels are missing" in capsys.readouterr().err
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
    Path("own.csv").rename("kept.csv")
    Path("own.csv").symlink_to("kept.csv")
    assert run_app(["study", "package", str(path)]) == 3
    assert "own.csv is a symbolic link" in capsys.readouterr().err
    Path("kept.csv").replace("own.csv")
    made = results(Path("study-results"))
    assert run_app(["study", "package", str(path)]) == 0
    elsewhere = tmp_path / "elsewhere"
    with zipfile.ZipFile("study-package.zip") as package:
        package.extractall(elsewhere)
    content = b"".join(p.read_bytes() for p in elsewhere.rglob("*") if p.is_file() and p.suffix != ".pack")
    assert KEY.encode() not in content
    assert str(tmp_path).encode() not in content
    with gzip.open(elsewhere / "study-package" / "answers.pack") as packed:
        answers = packed.read()
    assert KEY.encode() not in answers
    assert b'"note/' not in answers  # addresses of other studies on the same store
    data = (elsewhere / "study-package" / "DATA.md").read_text()
    assert all(f"| {name} |" in data for name in ("own.csv", "gold.csv")), data
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home-of-a-reader"))
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.chdir(elsewhere / "study-package")
    assert run_app(["study", "rebuild", "study.yaml", "--quiet"]) == 0
    assert results(Path("study-results")) == made


def test_a_folder_of_runs_that_cannot_be_read_is_not_taken_for_an_empty_one(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("study.yaml"), {"name": "a", "model": "m", "base_url": "http://127.0.0.1:9/v1"}, budget_usd=1)
    Path("study-results").mkdir()
    Path("study-results/runs").write_text("")
    for command in (["run", "--dry-run"], ["status"]):
        assert run_app(["study", command[0], "study.yaml", *command[1:]]) == 3
        assert "study-results/runs cannot be listed (Not a directory); correct" in capsys.readouterr().err


def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package of study.yaml, and go to where a reader unpacked it."""
    assert run_app(["study", "package", "study.yaml"]) == 0
    with zipfile.ZipFile("study-package.zip") as package:
        package.extractall(tmp_path / "reader")
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home-of-a-reader"))
    monkeypatch.chdir(tmp_path / "reader" / "study-package")


@pytest.mark.slow
def test_a_package_has_the_files_that_its_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gold and the baseline of a suite, and the prompt of a rubric; and gates fail for the reader as they did before."""
    for folder in ("evals", "golds", "own"):
        Path(folder).mkdir()
    rows = "".join(f"{task.task_id},{task.onet_soc_code},E0\n" for task in load_tasks("sample"))
    Path("golds/gold.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")
    gates = "gates: [{id: g, setting: three-way, metric: accuracy, min: 1}]"
    Path("evals/suite.yaml").write_text(f"name: s\ngold: ../golds/gold.csv\nbaseline: {{run: base}}\n{gates}")
    shutil.copyfile(asset_dir("prompts") / "task.jinja", "own/task.jinja")
    text = (asset_dir("rubrics") / "exposure.yaml").read_text("utf-8")
    text = text.replace("prompt: task", "prompt: own/task.jinja").replace("id: exposure\n", "id: mine\n")
    Path("mine.yaml").write_text(text, "utf-8")
    with provider(by_words(3)) as one:
        shared: dict[str, object] = {"scoring": None, "rubric": "mine.yaml", "suite": "evals/suite.yaml"}
        base = ["run", "--model", "m", "--base-url", one.base_url, "--tasks", "sample", "--out", "evals/base"]
        assert run_app([*base, "--quiet"]) == 0
        write(Path("study.yaml"), rater("a", one), {"name": "people", "run": "sample"}, **shared)
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 6
    packaged(tmp_path, monkeypatch)
    assert run_app(["study", "rebuild", "study.yaml", "--quiet"]) == 6
    assert "results are those of the package, byte by byte" in capsys.readouterr().out


@pytest.mark.slow
def test_a_package_holds_what_its_study_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the results of an earlier study file, nor what other programs left among them."""
    path = Path("study.yaml")
    people: dict[str, object] = {"name": "people", "run": "sample"}
    write(path, people)
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    Path("study-results/tables/.DS_Store").touch()
    write(path, people, title="Another title", scoring=None)
    packaged(tmp_path, monkeypatch)
    assert run_app(["study", "rebuild", "study.yaml", "--quiet"]) == 0
    assert "are those of the package, byte by byte" in capsys.readouterr().out
    assert "Another title" in Path("study-results/report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  - {name: a, model: m, no_such: x}", "raters.0.no_such: is not a key"),
        ("  - {name: a, model: m, run: r}", "needs one of model, run and labels; it has model and run"),
        ("  - {name: A b, model: m}", "raters.0.name"),
        ("  - {name: pooled, model: m}", "no rater can be called pooled"),
        ("  - {name: a, model: local, engine: batch}", "the rater a: the embedded model has no Batch API"),
        ("  - {name: a, run: sample, samples: 3}", "samples has no effect"),
        ("  - {name: a, model: m, params: {messages: []}}", "relabel sets it itself"),
        ("  - {name: a, model: m, params: {temperature: .nan}}", "params 'temperature' cannot be sent as JSON"),
        ("  - {name: a, model: m, params: {stop: 2026-11-28}}", "params 'stop' cannot be sent as JSON"),
        ('  - {name: a, model: m, params: {stop: "\\ud800"}}', "cannot be read as str"),
        (
            "  - {name: a, model: m}\nbudget_usd: 2",
            "budget_usd needs a price, and none is known for m; give it with price",
        ),
        ("  - {name: a, model: m, price: 1/2, max_cost_usd: 2}", "max_cost_usd needs max_tokens"),
    ],
)
def test_a_bad_line_is_named(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.yaml").write_text(f"study: 1\ntitle: x\ntasks: sample\nraters:\n{line}\n")
    assert run_app(["study", "status", "study.yaml"]) in {2, 3}
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("    samples: 0\n", "line 7: raters.0.samples: must be"),
        ("    samples: 2\nscoring:\n  taxonomy: isco08\n  draws: 5\n", "line 10: scoring.draws: must be"),
        ("  - {name: b, run: sample, modl: x}\n", "line 7: raters.1.modl: is not a key"),
        ("  - {run: sample}\n", "line 7: raters.1.name: is missing"),
        ("  - {name: a, run: sample}\n", "study.yaml: two raters are named a"),
    ],
)
def test_an_error_in_a_study_file_names_its_line(more: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.yaml").write_text(f"study: 1\ntitle: x\ntasks: sample\nraters:\n  - name: a\n    model: m\n{more}")
    assert run_app(["study", "status", "study.yaml"]) == 3
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_an_unknown_cost_is_not_shown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    with provider(by_words(3)) as fake:
        write(path, rater("a", fake), {"name": "people", "run": "sample"}, tasks={"list": "sample", "sample": 4})
        assert run_app(["study", "run", str(path), "--dry-run"]) == 0
        assert "All raters: cost unknown; hours" in capsys.readouterr().out
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
        assert "$0.0000" not in capsys.readouterr().out
    assert run_app(["study", "status", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["raters"][0]["cost_usd"] is None
    assert run_app(["study", "status", str(path)]) == 0
    assert "Spent: cost unknown." in capsys.readouterr().out


def test_a_rater_that_lacks_a_label_is_corrected_all_the_same() -> None:
    path, tasks = Path("study.yaml"), list(load_tasks("sample"))[:30]
    for name, some in (("own.csv", tasks[1:]), ("gold.csv", tasks[::3])):
        rows = "".join(f"{task.task_id},{task.onet_soc_code},E{n % 3}\n" for n, task in enumerate(some))
        Path(name).write_text(f"task_id,onet_soc_code,label\n{rows}")
    raters: tuple[dict[str, object], ...] = (
        {"name": "own", "labels": "own.csv", "rubric": "eloundou"},
        {"name": "people", "run": "sample"},
    )
    write(path, *raters, tasks="sample", golds=["gold.csv"], scoring=None)
    assert run_app(["study", "run", str(path), "--quiet"]) == 0
    made = pd.read_csv("study-results/corrected_1.csv")
    own = made.dropna(subset=["corrected_beta_own"])
    assert made["beta_own"].isna().sum() == len(made) - 29
    assert len(own) == len(made)
    outside = own[own["in_gold"] == 0]
    assert outside["corrected_beta_own"].to_numpy() == pytest.approx(
        outside["beta_own"].fillna(made["beta_own"].mean()).to_numpy()
    )
    inside = own[(own["in_gold"] == 1) & own["beta_own"].notna()]
    by_hand = inside["beta_own"] + (inside["gold"] - inside["beta_own"]) / inside["chance"]
    assert inside["corrected_beta_own"].to_numpy() == pytest.approx(by_hand.to_numpy())


def test_a_rater_that_is_the_gold_is_not_compared_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f"{t.task_id},{t.onet_soc_code},E{n % 3}\n" for n, t in enumerate(load_tasks("sample")))
    Path("own.csv").write_text(f"task_id,onet_soc_code,label\n{lines}")
    imported = ["import", "own.csv", "--model", "people", "--tasks", "sample", "--out", "runs/own"]
    assert run_app(imported) == 0
    raters: tuple[dict[str, object], ...] = ({"name": "own", "run": "runs/own"}, {"name": "other", "run": "sample"})
    write(Path("study.yaml"), *raters, tasks="sample", golds=["own.csv"], scoring=None)
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    said = "own and the gold own.csv have the same label on all 60 tasks: if one is a copy of the other"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in Path("study-results/tables/agreement.md").read_text()
    write(Path("study.yaml"), *raters, tasks="sample", golds=["runs/own"], scoring=None)
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    kappa = pd.read_csv("study-results/tables/agreement.csv").query("figure == 'kappa, own'").set_index("row")["value"]
    assert kappa.filter(like="own").isna().all()
    assert kappa.filter(like="other").between(-1, 0.99).all()
    capsys.readouterr()
    assert run_app(["study", "status", "study.yaml", "--json"]) == 0
    rows = {row["rater"]: row for row in json.loads(capsys.readouterr().out)["raters"]}
    assert rows["own"]["kappa"] is None
    assert rows["other"]["kappa"] is not None
    assert (rows["own"]["state"], rows["own"]["hours_left"]) == ("complete", None)


def test_the_first_file_is_a_study_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["study", "init", "mine.yaml"]) == 0
    assert run_app(["study", "init", "mine.yaml"]) == 3
    assert "already exists" in capsys.readouterr().err
    assert "raters" in json.loads(Path("study.schema.json").read_text())["properties"]


@pytest.mark.slow
def test_pooled_scores_say_how_far_models_lie_apart(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("study.yaml")
    with provider(by_words(2)) as one, provider(by_words(5)) as two:
        write(
            path,
            rater("a", one),
            rater("b", two),
            {"name": "people", "run": "sample"},
            export=True,
            site=True,
            tasks="sample",
        )
        assert run_app(["score", str(path)]) == 3
        assert "no results yet" in capsys.readouterr().err
        assert run_app(["study", "run", str(path), "--quiet"]) == 0
    capsys.readouterr()
    assert run_app(["score", str(path), "--json"]) == 0
    shown = pd.DataFrame(json.loads(capsys.readouterr().out)["rows"]).set_index("code")
    files = ("study-results/scores.csv", "study-results/export/occupations.csv")
    made, exported = (pd.read_csv(name, dtype={"code": str}).set_index("code") for name in files)
    scored = made.index[made["gamma"].notna()]
    by_model = made.loc[scored, ["gamma_a", "gamma_b", "gamma_people"]]
    for table in (shown, exported):
        found = table.loc[scored].astype({"gamma_models_low": float, "gamma_models_high": float})
        assert found["gamma_models_low"].to_numpy() == pytest.approx(by_model.min(axis=1).to_numpy())
        assert found["gamma_models_high"].to_numpy() == pytest.approx(by_model.max(axis=1).to_numpy())
        # One interval of the pooled score, wherever it is shown.
        assert found["gamma_low"].to_numpy() == pytest.approx(made.loc[scored, "gamma_low"].to_numpy())
        assert (found["gamma_low"] <= found["gamma"]).all()
    pages = [p.read_text() for p in Path("study-results/site/occupations").glob("*.html")]
    assert any("By rater: " in page for page in pages)
    # The page names the rubric that the raters were asked with, and its trials.
    method = Path("study-results/site/method.html").read_text()
    exposure = load_rubric("exposure")
    assert f"Rubric: {exposure.id}, version {exposure.version}." in method
    assert exposure.validity[-1].raters in html.unescape(method)
    assert "another wording" not in method
    assert run_app(["score", str(path), "--taxonomy", "soc2018"]) == 2
    assert run_app(["score", str(path)]) == 0
    shown_text, following = capsys.readouterr()
    assert re.search(r"\d\.\d to \d", shown_text)
    # The command that it names next works as it stands.
    assert "relabel explain study-results/pooled CODE" in following
    assert run_app(["explain", "study-results/pooled", str(scored[0])]) == 0
    assert "no intervals: those of pooled labels need the runs of the raters" in capsys.readouterr().err


@pytest.mark.slow
def test_raters_of_different_tasks_are_told_apart_on_the_tasks_that_all_labelled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = load_tasks("sample")[:6]
    given = {"a": "E0 E0 E1 E1 E1 E1", "b": "E0 E0 E1 E1", "c": "E2 E1 E1 E1", "gold": "E0 E0 E1"}
    start = {"c": 2}
    for name, labels in given.items():
        lines = zip(tasks[start.get(name, 0) :], labels.split(), strict=False)
        rows = [{"task_id": t.task_id, "onet_soc_code": t.onet_soc_code, "label": label} for t, label in lines]
        pd.DataFrame(rows).to_csv(f"{name}.csv", index=False)
    raters: list[dict[str, object]] = [{"name": name, "labels": f"{name}.csv", "rubric": "eloundou"} for name in "abc"]
    other = Path("other/gold.csv")
    other.parent.mkdir()
    pd.read_csv("gold.csv", dtype=str).head(2).to_csv(other, index=False)
    write(Path("study.yaml"), *raters, golds=["gold.csv", str(other)], tasks={"list": "sample"})
    assert run_app(["study", "run", "study.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    # By hand: tasks 3 and 4 have all three labels, E1 E1 E2 and E1 E1 E1; of all six, five have one label.
    assert (
        "3 raters labelled 2 tasks in common. 83% of the 6 tasks with two labels or more have one label from all"
        in said
    )
    # a means 2 / 3 over its own tasks and b 1 / 2, which says nothing of how the raters differ.
    assert "Mean beta over the 2 tasks that all raters labelled goes from 0.750 (c) to 1.000 (" in said
    agreement = pd.read_csv("study-results/tables/agreement.csv").query("figure == 'tasks compared'")
    assert agreement["value"].dropna().tolist() == [3, 2, 3, 2, 1]


def test_a_rater_without_a_label_for_a_task_of_the_study_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    task = next(t for t in load_tasks("sample") if t not in load_tasks("sample", sample=20, seed=1))
    Path("few.csv").write_text(f"task_id,onet_soc_code,label\n{task.task_id},{task.onet_soc_code},E1\n")
    few = {"name": "few", "labels": "few.csv", "rubric": "eloundou"}
    write(Path("study.yaml"), {"name": "people", "run": "sample"}, few)
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 3
    assert "the rater few has labels for none of the study's tasks" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_equal_values_have_an_interval_too() -> None:
    """Three tasks of one major group at .2 each have a variance of -7e-18 in binary numbers."""
    raters: list[dict[str, object]] = []
    for name, label in zip("abcde", ("E1", "E0", "E0", "E0", "E0"), strict=True):
        rows = "".join(f"{task.task_id},{task.onet_soc_code},{label}\n" for task in load_tasks("sample"))
        Path(f"{name}.csv").write_text(f"task_id,onet_soc_code,label\n{rows}")
        raters.append({"name": name, "labels": f"{name}.csv"})
    tasks = {"list": "sample", "sample": 6, "seed": 2}
    scoring = {"taxonomy": "onet-soc", "draws": 100, "plausible_values": 3}
    write(Path("study.yaml"), *raters, tasks=tasks, rubric="eloundou", scoring=scoring, golds=[])
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    scores = pd.read_csv("study-results/scores.csv")
    scored = scores[scores["beta"].notna()]
    assert len(scored) == 3
    assert scored[["beta_low", "beta_high"]].notna().all(axis=None)


def test_totals_state_the_part_of_all_jobs_that_they_cover(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = list(load_tasks("sample"))
    rows = [f"{task.task_id},{task.onet_soc_code},E2" for task in tasks if task.onet_soc_code != tasks[0].onet_soc_code]
    Path("own.csv").write_text("\n".join(["task_id,onet_soc_code,label", *rows]))
    raters: tuple[dict[str, object], ...] = (
        {"name": "own", "labels": "own.csv", "rubric": "eloundou"},
        {"name": "people", "run": "sample"},
    )
    write(Path("study.yaml"), *raters, golds=[], tasks={"list": "sample"})
    assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
    table = Path("study-results/tables/totals.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    covered = {line[0]: line[-2] for line in lines}
    capsys.readouterr()
    assert run_app(["score", "sample", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)["totals"]
    assert covered["rater"] == "jobs in the totals"
    assert covered["people"] == f"{totals['employees']:,}"
    assert int(covered["own"].replace(",", "")) < int(covered["people"].replace(",", ""))


@pytest.mark.slow
def test_raters_of_different_groups_are_told_apart_on_the_groups_that_all_score(
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_code: dict[str, list[str]] = {}
    for task in load_tasks("sample"):
        by_code.setdefault(task.onet_soc_code, []).append(task.task_id)
    first, second, third = sorted(by_code)[:3]
    # All of an occupation's tasks have one label, so that its score is the label's value.
    given = {
        "a": {first: "E0", second: "E1", third: "E2"},
        "b": {first: "E0", second: "E1"},
        "c": {second: "E2", third: "E2"},
    }
    for name, labels in given.items():
        rows = [(task, code, label) for code, label in labels.items() for task in by_code[code]]
        # A single task is too little for a rater's score: it says nothing about how raters differ in the occupation.
        rows += [(by_code[first][0], first, "E1")] if name == "c" else []
        pd.DataFrame(rows, columns=["task_id", "onet_soc_code", "label"]).to_csv(f"{name}.csv", index=False)
    raters: list[dict[str, object]] = [{"name": n, "labels": f"{n}.csv", "rubric": "eloundou"} for n in given]
    scoring = {"taxonomy": "onet-soc", "draws": 100, "plausible_values": 0}
    write(Path("study.yaml"), *raters, golds=[], tasks={"list": "sample"}, scoring=scoring)
    assert run_app(["study", "run", "study.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The beta of a group differs between raters by 0.00 in the median of 3 groups, and by up to 0.50 (" in said
    assert ": 0.50 to 1.00)." in said
    totals = Path("study-results/tables/totals.md").read_text()
    # By hand: all three score the second alone, as 1, 1 and .5; over their own groups b and c would both mean .5.
    assert "Means are over the groups that all raters score (1), totals over each rater's own." in totals
    means = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in totals.splitlines() if " | " in line}
    assert [means[name] for name in (*given, "pooled")] == ["1.000", "1.000", ".500", ".833"]
    capsys.readouterr()
    assert run_app(["score", "study.yaml"]) == 0
    assert "Means over the groups that all raters score (1), by rater" in " ".join(capsys.readouterr().out.split())
    scores = pd.read_csv("study-results/scores.csv").set_index("code").loc[[first]]
    assert scores[["gamma_lowest", "gamma_highest"]].to_numpy().tolist() == [[0, 0]]
    assert scores["gamma_low"].isna().all()


@pytest.mark.slow
def test_the_pooled_score_is_the_mean_over_raters_of_the_means_over_their_samples() -> None:
    code = min(task.onet_soc_code for task in load_tasks("sample"))
    tasks = [task.task_id for task in load_tasks("sample") if task.onet_soc_code == code]
    # Labels of each task by sample. With an even number of samples, majorities are ties, which would count as E0.
    given = {"a": ["E0", "E1"], "b": ["E0", "E0", "E1", "E1"], "c": ["E1"]}
    for name, samples in given.items():
        rows = [(task, code, number, label) for task in tasks for number, label in enumerate(samples)]
        pd.DataFrame(rows, columns=["task_id", "onet_soc_code", "sample", "label"]).to_csv(f"{name}.csv", index=False)
    raters: list[dict[str, object]] = [{"name": n, "labels": f"{n}.csv", "rubric": "eloundou"} for n in given]
    scoring = {"taxonomy": "onet-soc", "draws": 100, "plausible_values": 0}
    write(Path("study.yaml"), *raters, golds=[], tasks={"list": "sample"}, scoring=scoring)
    assert run_app(["study", "run", "study.yaml"]) == 0
    scores = pd.read_csv("study-results/scores.csv").set_index("code")
    found = scores.loc[[code], ["alpha_a", "alpha_b", "alpha_c", "alpha"]].iloc[0].tolist()
    assert found == pytest.approx([0.5, 0.5, 1, 2 / 3])
    # Each rater has one vote for the label, however many samples it has: the ties of a and b leave that of c.
    pooled = open_run("study-results/pooled")
    assert set(pooled.coded()["code"]) == {"E1"}
    assert not pooled.tied
