"""Whatever happens to the files of a store: one sentence whose advice works, and nothing that can be read is lost."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from test_store import a_request, an_answer

from relabel.cli.app import run_app
from relabel.errors import StoreError
from relabel.labelling.leases import Leases
from relabel.labelling.maintenance import set_damage_aside
from relabel.labelling.store import Store
from server import judged, provider

ROWS = 120


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "filled"
    monkeypatch.setenv("RELABEL_STORE", str(folder))
    with Store(folder) as store:
        for number in range(ROWS):
            store.put(a_request(f"number {number}"), an_answer(a_request(f"number {number}"), content="x" * 1500))
    return folder


def served(folder: Path) -> int:
    with Store(folder) as store:
        requests = [a_request(f"number {number}") for number in range(ROWS)]
        answers = [store.get(request.key) for request in requests]
        assert all(a is None or a.content == "x" * 1500 for a in answers)
        return sum(a is not None for a in answers)


@pytest.mark.parametrize("seed", range(40))
def test_bad_bytes_are_a_sentence_and_what_can_be_read_is_saved(
    seed: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, chance = folder / "cache.db", random.Random(seed)
    content = bytearray(database.read_bytes())
    first_pages = seed < 20  # where the header, the schema and the roots of the trees are
    for _ in range(1 if seed % 2 else 5):
        content[chance.randrange(0, 16_384 if first_pages else len(content))] ^= 1 << chance.randrange(8)
    database.write_bytes(content)
    verified = run_app(["store", "verify"])
    captured = capsys.readouterr()
    assert verified in {0, 3}
    assert "Traceback" not in captured.err
    assert ("--set-aside" in captured.err) == (verified == 3)
    assert run_app(["store", "verify", "--set-aside"]) == 0
    assert run_app(["store", "verify"]) == 0
    assert served(folder) >= ROWS - 15


def test_a_cut_database_is_rebuilt_from_what_is_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = folder / "cache.db"
    os.truncate(database, database.stat().st_size // 2)
    assert run_app(["store", "stats"]) == 3
    assert "--set-aside" in capsys.readouterr().err
    assert run_app(["store", "verify", "--set-aside"]) == 0
    assert f"is kept in {folder}" in capsys.readouterr().out
    assert served(folder) > ROWS // 3


def test_a_lost_first_page_is_taken_from_a_new_store(folder: Path) -> None:
    with (folder / "cache.db").open("r+b") as database:
        database.write(bytes(4096))
    assert run_app(["store", "verify"]) == 3
    assert run_app(["store", "verify", "--set-aside"]) == 0
    assert run_app(["store", "verify"]) == 0
    assert served(folder) == ROWS


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b""), Path.unlink], ids=["empty", "missing"])
def test_a_used_store_without_its_database_is_not_taken_for_a_new_one(
    change: object, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "cache.db")  # type: ignore[operator]  parametrised
    for words in (["stats"], ["verify"], ["pack", str(folder.parent / "x.gz")]):
        assert run_app(["store", *words]) == 3
        assert "restore it from a copy, or start a new one" in capsys.readouterr().err
    with pytest.raises(StoreError, match="--set-aside"):
        Store(folder)
    assert run_app(["store", "verify", "--set-aside"]) == 0
    assert served(folder) == 0


@pytest.mark.parametrize("garbage", [b"garbage " * 600, b"SQLite format 3\0" + bytes(100)])
def test_garbage_in_the_file_of_leases_is_a_sentence_whose_advice_works(
    garbage: bytes, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "leases.db").write_bytes(garbage)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    with provider(lambda seen: judged()) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "2", "--out", "r"]
        assert run_app(words) == 3
        assert "`relabel store verify --set-aside`" in capsys.readouterr().err
        assert fake.seen == []
        assert run_app(["store", "verify", "--set-aside"]) == 0
        assert run_app(words) == 0
    assert served(folder) == ROWS


def test_nothing_is_set_aside_under_a_run(folder: Path) -> None:
    leases = Leases(folder)
    with pytest.raises(StoreError, match="another process is using the store"):
        list(set_damage_aside(folder))
    leases.close()
    assert list(set_damage_aside(folder)) == ["0 damaged rows set aside"]


@contextmanager
def read_only(folder: Path, how: str) -> Generator[tuple[str, ...]]:
    """Make a folder one that cannot be written; hands out what to put before a command that is to read it."""
    if how == "another user's":
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield ("setpriv", "--reuid=65534", "--clear-groups")
        return
    if subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield ()
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["another user's", "a read-only file system"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_store_that_cannot_be_written_can_be_read(folder: Path, how: str, killed: bool) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    if killed:  # a process that was killed leaves its last answers beside the database
        code = (
            "import os, sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path; from relabel.labelling.store import Store;"
            "from test_store import a_request, an_answer; store = Store(Path(sys.argv[1])); r = a_request('last');"
            "store.put(r, an_answer(r)); os._exit(0)"
        )
        here = Path(__file__).parent
        subprocess.run([sys.executable, "-c", code, folder, here, here.parent], check=True)
    with TemporaryDirectory() as anybody:  # not below a folder that is private
        work = Path(anybody)
        work.chmod(0o777)
        store = shutil.copytree(folder, work / "store")
        environment = {**os.environ, "RELABEL_STORE": str(store), "RELABEL_HOME": str(work / "home"), "TMPDIR": anybody}

        def relabel(*words: str) -> subprocess.CompletedProcess[str]:
            command = [*before, sys.executable, "-m", "relabel", *words]
            return subprocess.run(command, env=environment, cwd=work, check=False, capture_output=True, text=True)

        with read_only(store, how) as before:
            done = relabel("store", "stats")
            assert (done.returncode, done.stderr) == (0, "")
            assert f"{ROWS + killed} answers" in done.stdout
            for words in (["verify"], ["pack", "x.gz"], ["notes"], ["prune", "--before", "2030-01-01", "--dry-run"]):
                done = relabel("store", *words)
                said = "next: relabel store unpack x.gz\n" if words[0] == "pack" else ""
                assert (done.returncode, done.stderr) == (0, said), words
            done = relabel(
                *["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--sample", "2"],
                *["--engine", "replay", "--out", "r"],
            )
            assert done.returncode == 5, done.stderr
            for words in (["notes", "--drop"], ["unpack", "x.gz"]):
                done = relabel("store", *words)
                assert done.returncode == 3
                assert done.stderr.startswith("relabel: cannot use the store")
        assert (folder / "cache.db").read_bytes() == (store / "cache.db").read_bytes()


def test_a_run_folder_with_a_cut_manifest_is_no_dead_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    with provider(lambda seen: judged()) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "2", "--out", "r"]
        assert run_app(words) == 0
        os.truncate(tmp_path / "r" / "manifest.json", 500)
        asked = len(fake.seen)
        assert run_app(words) == 3
        assert "move its folder away and run the labelling again" in capsys.readouterr().err
        (tmp_path / "r").rename(tmp_path / "away")
        assert run_app(words) == 0
        assert len(fake.seen) == asked


def test_what_lies_below_home_is_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    before = os.umask(0)
    try:
        with provider(lambda seen: judged()) as fake:
            words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "2"]
            assert run_app([*words, "--out", "r"]) == 0
        Store(tmp_path / "home" / "store" / "below").close()
    finally:
        os.umask(before)
    folders = [path for path in (tmp_path / "home", *(tmp_path / "home").rglob("*"), tmp_path / "r") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_new_store_that_another_process_is_making_is_empty_and_a_used_one_without_answers_damaged(
    tmp_path: Path,
) -> None:
    with closing(sqlite3.connect(tmp_path / "cache.db")) as database:
        database.execute("CREATE TABLE Settings(key)")  # as far as the other process has come
    with Store(tmp_path, read_only=True) as store:
        assert list(store.keys()) == []
    (tmp_path / "leases.db").touch()
    with pytest.raises(StoreError, match="set-aside"):
        Store(tmp_path, read_only=True)


def test_what_is_bought_again_because_its_row_was_damaged_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "answers"))
    with provider(lambda seen: judged()) as fake:
        words = f"run --model m --base-url {fake.base_url} --tasks sample --sample 4 --setting strict --out".split()
        assert run_app([*words, str(tmp_path / "one")]) == 0
        with closing(sqlite3.connect(tmp_path / "answers" / "cache.db")) as db, db:
            db.execute("UPDATE Cache SET value = replace(value, 'exposed', 'exposer') WHERE length(key) = 64")
        capsys.readouterr()
        assert run_app([*words, str(tmp_path / "two")]) == 0
        assert len(fake.seen) == 8
    assert "4 damaged rows of the store were skipped" in " ".join("".join(capsys.readouterr()).split())
    assert run_app(["store", "verify"]) == 0
