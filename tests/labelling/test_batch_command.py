"""`relabel run --engine batch` and `relabel batch`, as people meet them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_builders import by_number
from batch_server import Call, FakeBatches, Fate, batch_provider
from relabel.cli.app import run_app
from relabel.labelling.job import response_format_note
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.store import Store
from relabel.run import open_run
from relabel.settings import asset_dir, settings
from server import Reply, judged, provider, refused

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("relabel.labelling.batch.state.POLL_S", 0.0)


@pytest.fixture
def fake() -> Iterator[FakeBatches]:
    with batch_provider(by_number) as made:
        yield made


def run(fake: FakeBatches, *more: str, engine: str = "batch") -> int:
    words = ["--base-url", fake.base_url, "--tasks", "sample", "--sample", "4", "--out", "r", "--quiet"]
    return run_app(["run", "--model", "m", "--engine", engine, *words, *more])


def stop_at_first_look(fake: FakeBatches) -> None:
    """Press Ctrl-C as soon as a batch is there."""

    def trouble(call: Call) -> Reply | None:
        if call.method == "GET" and call.path.startswith("/batches/"):
            fake.trouble = lambda call: None
            os.kill(os.getpid(), signal.SIGINT)
        return None

    fake.fates = [Fate(looks=10**9)]
    fake.trouble = trouble


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_app(["batch", "list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def interrupted(fake: FakeBatches, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Stop a run while it waits; its run id."""
    stop_at_first_look(fake)
    assert run(fake, *more) == 130
    for batch in fake.batches.values():
        batch["_"]["fate"].looks = 0
    run_id: str = listed(capsys)[0]["run_id"]
    return run_id


def test_a_run_by_batch_looks_like_any_other(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fake) == 0
    assert "labels   8 of 8: 0 from the store, 8 fresh" in capsys.readouterr().out
    assert open_run("r").manifest.engine == "batch"
    assert run(fake, engine="replay") == 0


def test_a_run_says_where_its_state_is(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--base-url", fake.base_url, "--tasks", "sample", "--sample", "2", "--out", "r"]
    assert run_app(["run", "--model", "m", "--engine", "batch", *words]) == 0
    said = capsys.readouterr().err
    assert str(settings().home / "batches") in said
    assert "relabel batch resume" in said


def test_ctrl_c_says_how_to_go_on_and_resume_does(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    stop_at_first_look(fake)
    assert run(fake, "--setting", "strict", "--price", "2/8") == 130
    said = capsys.readouterr().err
    run_id = listed(capsys)[0]["run_id"]
    assert f"`relabel batch resume {run_id}` continues the run" in said
    for batch in fake.batches.values():
        batch["_"]["fate"].looks = 0
    assert run_app(["batch", "resume", run_id, "--quiet", "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["counts"]["fresh"] == 4
    assert manifest["settings"] == ["strict"]
    assert manifest["cost_usd"] is not None
    assert len(fake.batches) == 1
    assert len(open_run("r").labels) == 4


def test_resume_takes_a_run_folder_from_anywhere(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text(
        "task_id,onet_soc_code,title,text\n1,11-1011.00,Chief,Do number 1.\n2,11-1011.00,Chief,Do number 2.\n"
    )
    stop_at_first_look(fake)
    words = ["--base-url", fake.base_url, "--tasks", "mine.csv", "--out", "r", "--quiet"]
    assert run_app(["run", "--model", "m", "--engine", "batch", *words]) == 130
    for batch in fake.batches.values():
        batch["_"]["fate"].looks = 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_app(["batch", "resume", "../r", "--quiet"]) == 0
    assert len(open_run(str(tmp_path / "r")).labels) == 4


def test_resume_needs_neither_the_files_nor_the_folder_of_its_run(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "mine.csv").write_text("task_id,onet_soc_code,title,text\n1,11-1011.00,Chief,Do number 1.\n")
    prompt = (asset_dir("prompts") / "task.jinja").read_text()
    (folder / "mine.jinja").write_text(prompt)
    stop_at_first_look(fake)
    words = ["--base-url", fake.base_url, "--tasks", "mine.csv", "--prompt", "mine.jinja", "--quiet"]
    assert run_app(["run", "--model", "m", "--engine", "batch", *words, "--out", str(tmp_path / "r")]) == 130
    run_id = listed(capsys)[0]["run_id"]
    fake.batches["batch_1"]["_"]["fate"].looks = 0
    monkeypatch.chdir(tmp_path)
    (folder / "mine.csv").write_text("task_id,onet_soc_code,title,text\n1,11-1011.00,Chief,Do number 2.\n")
    (folder / "mine.jinja").unlink()
    assert run_app(["batch", "resume", run_id, "--quiet"]) == 0
    assert set(open_run("r").labels["label"]) == {"exposed"}
    assert len(fake.made) == 2


def test_the_variable_that_holds_the_key_is_remembered_and_the_key_is_not(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("MINE", KEY)
    run_id = interrupted(fake, capsys, "--key-env", "MINE")
    assert run_app(["batch", "resume", run_id, "--quiet"]) == 0
    assert {call.authorization for call in fake.calls} == {f"Bearer {KEY}"}
    for path in settings().home.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("other", [1, 3])
def test_a_state_of_another_version_is_refused(
    other: int, fake: FakeBatches, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = interrupted(fake, capsys)
    path = settings().home / "batches" / run_id / "state.json"
    path.write_text(path.read_text().replace('"format_version": 2', f'"format_version": {other}'))
    assert run_app(["batch", "resume", run_id]) == 3
    assert "finish the job with the version that wrote it" in capsys.readouterr().err
    assert run(fake) == 3
    assert len(fake.batches) == 1


def test_cancel_takes_what_there_is_and_says_so(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    stop_at_first_look(fake)
    assert run(fake) == 130
    run_id = listed(capsys)[0]["run_id"]
    fake.batches["batch_1"]["_"]["fate"].answered = 3
    assert run_app(["batch", "cancel", run_id, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (
        f"cancelled 1 batch(es) of run {run_id} and collected their answers; 5 of 8 labels are missing" in captured.err
    )
    assert fake.batches["batch_1"]["status"] == "cancelled"
    assert len(fake.batches) == 1
    assert len(open_run("r").labels) == 3
    assert listed(capsys)[0]["state"] == "ended"
    assert run_app(["batch", "cancel", run_id]) == 0
    assert "nothing to cancel" in capsys.readouterr().err
    fake.fates = [Fate()]
    assert run(fake) == 0
    assert len(fake.made) == 8


@pytest.mark.parametrize("word", ["resume", "cancel"])
def test_who_takes_a_large_run_up_again_or_ends_it_is_not_asked_once_more_whether_it_is_meant(
    word: str, fake: FakeBatches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.cli._labelling.MUCH_USD", 0.0)
    stop_at_first_look(fake)
    assert run(fake, "--price", "5/15") == 130
    assert "8 labels: 4 tasks, for up to $" in capsys.readouterr().err
    fake.batches["batch_1"]["_"]["fate"].looks = 0
    run_id = listed(capsys)[0]["run_id"]
    assert run_app(["batch", word, run_id, "--quiet"]) == 0
    assert "for up to" not in capsys.readouterr().err


def test_what_a_large_batch_may_cost_is_said_at_half_the_price(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.cli._labelling.MUCH_USD", 0.0)

    def most(engine: str) -> float:
        run(fake, "--price", "500/1500", "--out", engine, engine=engine)
        return float(re.findall(r"for up to \$([\d.]+)", capsys.readouterr().err)[0])

    assert most("batch") == pytest.approx(most("online") / 2, rel=1e-3)


def test_list_shows_what_the_provider_said(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == []
    assert run_app(["batch", "list"]) == 0
    assert "no batch jobs" in capsys.readouterr().out
    run_id = interrupted(fake, capsys)
    found = listed(capsys)[0]
    assert (found["run_id"], found["state"], found["requests"], found["open"]) == (run_id, "open", 8, 1)
    assert found["folder"] == str(Path("r").resolve())
    chunk = found["chunks"][0]
    assert (chunk["batch_id"], chunk["status"], chunk["taken"]) == ("batch_1", "in_progress", False)
    assert run_app(["batch", "list"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{run_id}  open   1 chunk(s): 1 in_progress; 0 of 8 requests done; since ")
    assert run_app(["batch", "resume", run_id, "--quiet"]) == 0
    assert listed(capsys)[0]["state"] == "ended"


def test_list_says_where_lines_lie_that_could_not_be_understood(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fates = [Fate(junk=["{half a li"])]
    assert run(fake, "--price", "1/2") == 0
    assert "cost unknown, $" in capsys.readouterr().out
    assert run_app(["batch", "list"]) == 0
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith(
            "; of the batch batch_1 1 line(s) are missing or could not be parsed; the provider keeps them in file-2"
        )
    )


def test_what_else_lies_among_the_jobs_is_no_job_and_a_damaged_one_is_named(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = interrupted(fake, capsys)
    jobs = settings().home / "batches"
    (jobs / ".DS_Store").write_bytes(b"\x00")
    (jobs / "empty").mkdir()
    (jobs / "f00d").mkdir()
    (jobs / "f00d" / "state.json").write_text('{"format_version": 1')
    (jobs / "beef").mkdir()
    (jobs / "beef" / "state.json").mkdir()
    assert [run["run_id"] for run in listed(capsys)] == [run_id]
    assert run_app(["batch", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [run_id, "beef", "f00d"]
    assert all("  damaged  " in line and "state.json cannot be read" in line for line in lines[1:])
    assert run_app(["batch", "list", "--json"]) == 0
    damaged = json.loads(capsys.readouterr().out)["damaged"]
    assert [state["run_id"] for state in damaged] == ["beef", "f00d"]
    assert run_app(["batch", "resume", "f00d"]) == 3
    assert "f00d/state.json cannot be read" in capsys.readouterr().err
    assert run_app(["batch", "resume", "nope"]) == 2
    assert run_app(["batch", "resume", run_id, "--quiet"]) == 0


def test_a_folder_of_jobs_that_cannot_be_read_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELABEL_HOME", "x" * 300)
    assert run_app(["batch", "list"]) == 3
    assert "cannot be listed (File name too long); correct the permissions" in capsys.readouterr().err


def test_an_unknown_run_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("resume", "cancel"):
        assert run_app(["batch", command, "nope"]) == 2
        assert "`relabel batch list` lists" in capsys.readouterr().err


def test_a_local_model_has_no_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "local", "--engine", "batch", "--tasks", "sample"]) == 2
    assert "needs a provider with a Batch API" in capsys.readouterr().err


def test_no_key_is_exit_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run_app(["run", "--model", "gpt-x", "--engine", "batch", "--tasks", "sample", "--out", "r"]) == 4
    assert "set OPENAI_API_KEY" in capsys.readouterr().err


def test_a_wrong_key_is_exit_4_and_not_shown(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    fake.trouble = lambda call: refused(401, f"Incorrect API key provided: {KEY}")
    assert run(fake) == 4
    said = capsys.readouterr().err
    assert "check OPENAI_API_KEY" in said
    assert KEY not in said


def test_credentials_in_the_address_are_not_kept(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    fake.base_url = fake.base_url.replace("http://", f"http://user:{KEY}@")
    run_id = interrupted(fake, capsys)
    for path in settings().home.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert run_app(["batch", "resume", run_id, "--quiet"]) == 0


def test_missing_labels_are_exit_5(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    turns = iter(range(100))
    fake.answers = lambda seen: refused(400, "too long") if next(turns) == 2 else judged()
    assert run(fake) == 5
    assert capsys.readouterr().out.startswith("MISSING  1 of 8 labels (1 provider)")


def test_a_dry_run_shows_half_the_price(fake: FakeBatches, capsys: pytest.CaptureFixture[str]) -> None:
    costs: list[float] = []
    for engine in ("online", "batch"):
        assert run(fake, "--dry-run", "--json", "--price", "2/8", engine=engine) == 0
        costs.append(json.loads(capsys.readouterr().out)["cost_usd"][0])
    assert costs[1] == pytest.approx(costs[0] / 2)
    assert fake.calls == []


def test_what_an_online_run_found_out_of_the_server_is_used(fake: FakeBatches) -> None:
    with provider(lambda seen: refused(400) if "response_format" in seen.body else judged()) as online:
        words = ["--base-url", online.base_url, "--tasks", "sample", "--sample", "2", "--quiet"]
        assert run_app(["run", "--model", "m", *words, "--out", "a"]) == 0
        with Store(settings().store_dir) as store:
            form = store.note(response_format_note(Endpoint(host=host_of(online.base_url), model="m")))
            assert form == "text"
            store.put_note(response_format_note(Endpoint(host=host_of(fake.base_url), model="m")), form)
    assert run(fake) == 0
    assert "response_format" not in json.loads(fake.bodies[0].splitlines()[0])["body"]


def test_what_a_run_holds_whose_state_is_lost_is_let_go_by_cancel(
    fake: FakeBatches, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stop_at_first_look(fake)
    assert run(fake) == 130
    (name,) = [path.name for path in (settings().home / "batches").iterdir()]
    shutil.rmtree(settings().home / "batches")
    assert run(fake, "--out", str(tmp_path / "online"), engine="online") == 5
    assert f"relabel batch cancel {name}" in capsys.readouterr().err
    assert run_app(["batch", "cancel", name]) == 0
    assert "released its 8 reserved requests" in capsys.readouterr().err
    assert run_app(["batch", "cancel", name]) == 2
