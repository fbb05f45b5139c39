"""The embedded model is a real model behind a real server, and the server never outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relabel.errors import DataError, ProviderError
from relabel.labelling.local import MEMBER, find_weights, idle_threads, local_endpoint, serve
from relabel.settings import settings

pytestmark = pytest.mark.local_model


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    for _ in range(1200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def weights() -> Path:
    return find_weights("local", settings().home / "models")


def relabel(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relabel", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize(
    ("cores", "load", "threads"), [(2, 0.2, 2), (2, 2.5, 2), (2, 11.0, 1), (8, 3.0, 8), (64, 1.0, 8), (1, 0.0, 1)]
)
def test_a_busy_machine_gives_the_model_few_threads(
    cores: int, load: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert idle_threads() == threads


def test_the_server_answers_and_stops(weights: Path) -> None:
    with serve(weights, "alias-of-mine") as server:
        pid = server.pid
        assert alive(pid)
        assert server.base_url.startswith("http://127.0.0.1:")
    assert not alive(pid)


def test_the_server_stops_when_its_parent_is_killed(weights: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from relabel.labelling.local import serve\n"
        "with serve(Path(sys.argv[1]), 'x') as server: print(server.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(weights)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
        assert wait_until_gone(pid)


def test_the_server_does_not_get_the_key(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789")
    with serve(weights, "x") as server:
        assert b"sk-planted" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_a_run_on_the_sample_is_labelled_then_replayed_without_a_server(tmp_path: Path) -> None:
    arguments = [
        "run",
        "--model",
        "local",
        "--tasks",
        "sample",
        "--sample",
        "2",
        "--no-examples",
        "--out",
        "r",
        "--quiet",
    ]
    first = relabel(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "labels   4 of 4: 0 from the store, 4 fresh" in first.stdout
    assert "no better than guessing" in first.stdout
    second = relabel(*arguments, "--engine", "replay", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "labels   4 of 4: 4 from the store, 0 fresh" in second.stdout


def test_a_prompt_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    long = "word " * 3000
    (tmp_path / "t.csv").write_text(
        f"task_id,onet_soc_code,title,text\n1,11-1011.00,T,{long}\n2,11-1011.00,T,Write letters.\n"
    )
    done = relabel(
        "run", "--model", "local", "--tasks", "t.csv", "--setting", "strict", "--out", "r", "--quiet", cwd=tmp_path
    )
    assert done.returncode == 5
    assert "MISSING  1 of 2 labels (1 provider)" in done.stdout
    assert "HTTP 400" in (tmp_path / "r" / "failures.jsonl").read_text()


def test_ctrl_c_keeps_what_was_paid_for_and_stops_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "relabel", "run", "--model", "local", "--tasks", "sample"]
    command += ["--no-examples", "--concurrency", "2", "--out", "r"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        store = Path(os.environ["RELABEL_STORE"]) / "cache.db"
        for _ in range(3000):
            if store.exists() and answers(store) >= 3:
                break
            time.sleep(0.05)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split() or all_children(run.pid)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert children
    assert all(wait_until_gone(int(pid)) for pid in children)
    assert '"status": "interrupted"' in (tmp_path / "r" / "manifest.json").read_text()
    assert answers(store) >= 3


def all_children(pid: int) -> list[str]:
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += (task / "children").read_text().split()
    return found


def answers(store: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
            return db.execute("SELECT count(*) FROM Cache WHERE key NOT LIKE 'text/%'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_weights_that_are_not_the_right_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / Path(MEMBER).name).write_bytes(b"GGUF but not the one")
    with pytest.raises(DataError, match=r"expected sha256 b179c9.*found .*delete it"):
        find_weights("local", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "model file .* was not found"), (b"PK\x03\x04", "is not a GGUF file")]
)
def test_a_users_file_that_is_no_model_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        local_endpoint(f"local:{path}")


def test_a_server_that_does_not_start_says_so(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ProviderError, match=r"did not start with broken\.gguf"):
        serve(path, "x").__enter__()


def test_a_users_own_weights_go_by_their_hash(weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.symlink_to(weights)
    assert local_endpoint(f"local:{mine}").model == "mine@b179c9523d0e"
