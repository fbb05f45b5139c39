"""What people meet at the command line: one sentence, the right exit code, nothing lost."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from relabel.cli import app
from relabel.cli.app import run_app
from relabel.errors import DataError
from server import FakeProvider, Reply, Seen, judged, provider, refused

KEY = "sk-planted-0123456789abcdef"
LONG = "a" * 300 + ".yaml"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def run(fake: FakeProvider, *more: str) -> int:
    return run_app(
        [
            "run",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "5",
            "--out",
            "r",
            "--quiet",
            *more,
        ]
    )


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error."""
    text = capsys.readouterr().err.strip()
    assert text.startswith("relabel: ")
    assert "\n" not in text
    assert "Traceback" not in text
    assert KEY not in text
    return text


def test_a_run_prints_where_it_is_and_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == 0
        text, said = capsys.readouterr()
        more = ["--tasks", "sample", "--sample", "5", "--out", "once again"]
        assert run_app(["run", "--model", "m", "--base-url", fake.base_url, *more]) == 0
    assert "labels   10 of 10: 0 from the store, 10 fresh" in text
    assert "folder   r" in text
    assert said == ""
    assert capsys.readouterr().err.endswith("next: relabel eval 'once again'\n")


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["fresh"] == 10


def test_a_dry_run_asks_nothing_and_makes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--dry-run") == 0
        assert fake.seen == []
    assert "10 would be sent" in capsys.readouterr().out
    assert not Path("r").exists()


def test_the_same_command_names_the_same_folder() -> None:
    with provider(lambda seen: judged()) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "2", "--quiet"]
        assert run_app(words) == run_app(words) == 0
        assert run_app([*words, "--no-examples"]) == 0
    assert len(list(Path("runs").iterdir())) == 2


def test_a_wrong_model_name_is_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: refused(404, "The model `m` does not exist", "model_not_found")) as fake:
        assert run(fake) == 4
    assert "has no model 'm'" in said(capsys)


def test_a_wrong_key_is_exit_4_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: refused(401, f"Incorrect API key provided: {KEY}")) as fake:
        assert run(fake) == 4
    assert "check OPENAI_API_KEY" in said(capsys)


def test_no_key_is_exit_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run_app(["run", "--model", "gpt-x", "--tasks", "sample", "--quiet", "--out", "r"]) == 4
    assert "OPENAI_API_KEY" in said(capsys)


def test_an_unreachable_server_is_exit_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relabel.labelling.engine.UNREACHED_S", 0.0)
    with provider(lambda seen: judged()) as fake:
        pass
    assert run(fake) == 4
    assert "cannot reach http://127.0.0.1" in said(capsys)


def test_missing_labels_are_exit_5_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Reply:
        return refused(400, "too long") if len(fake.seen) == 3 else judged()

    with provider(script) as fake:
        assert run(fake) == 5
    captured = capsys.readouterr()
    assert captured.out.startswith("MISSING  1 of 10 labels (1 provider)")
    assert "r/failures.jsonl" in captured.err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["eval", "no-such-run"], 3, "run 'no-such-run' was not found"),
        (["eval", "sample", "--gold", "no-such.csv"], 3, "no-such.csv"),
        (["run", "--model", "m", "--tasks", "no-such.csv"], 3, "task file no-such.csv was not found"),
        (["run", "--model", "m", "--tasks", "sample", "--occupation", "99-9999.00"], 3, "occupation code '99-9999.00'"),
        (
            ["run", "--model", "m", "--tasks", "sample", "--rubric", "no-such.yaml"],
            3,
            "rubric file no-such.yaml was not found",
        ),
        (["run", "--model", "m", "--tasks", "sample", "--rubric", "nope"], 3, "unknown rubric 'nope'"),
        (["run", "--model", "m", "--tasks", "sample", "--setting", "loose"], 2, "no setting 'loose'"),
        (["run", "--model", "m", "--tasks", "sample", "--base-url", "localhost"], 2, "not the address of an API"),
        (["run", "--model", "m", "--tasks", "sample", "--param", "temperature"], 2, "NAME=VALUE"),
        (["run", "--model", "local:no.gguf", "--tasks", "sample"], 3, "model file no.gguf was not found"),
        (["rubric", "check", "no-such.yaml"], 3, "rubric file no-such.yaml was not found"),
        (["rubric", "show", "exposure", "--setting", "x"], 2, "no setting 'x'"),
        (["score", "no-such-run"], 3, "was not found"),
        (["score", "sample", "--out", "x.docx"], 2, ".docx"),
        (["export", "no-such-run", "--out", "e"], 3, "was not found"),
    ],
)
def test_bad_input_is_one_sentence_and_its_exit_code(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(words) == code
    assert sentence in said(capsys)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no-such-command"], "no such command 'no-such-command'; see `relabel --help`"),
        (["run"], "missing option '--model'; see `relabel run --help`"),
        (["run", "--model", "m", "--nope"], "no such option: --nope"),
        (["run", "--model"], "option '--model' requires an argument; see"),
        (["run", "--model", "m", "--engine", "x"], "'x' is not one of 'online', 'batch', 'replay', 'ray'; see"),
        (["run", "--model", "m", "--sample", "x"], "'x' is not a whole number; see"),
        (["run", "--model", "m", "--samples", "x"], "'x' is not a whole number; see"),
        (["run", "--model", "m", "--rpm", "x"], "'x' is not a number; see"),
        (["data", "list", "x", "y"], "(x y); see `relabel data list --help`"),
        (["eval"], "name a run"),
        (["run", "--model", "m", "--tasks", "sample", "--out", ""], "--out is empty; give it a value, or leave it out"),
        (["score", "sample", "--out="], "--out is empty"),
        (["run", "--model", "m", "--out", "r\udcff"], "'r\\udcff' is not UTF-8; rename the file or folder"),
        (["eval", "sample", "--json", "--latex", "-"], "--json and --latex - print different things"),
        (["score", "sample", "--csv", "-", "--markdown", "-"], "--markdown - and --csv - print different things"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(words) == 2
    assert sentence in said(capsys)


@pytest.mark.parametrize("words", [[], ["store"]])
def test_a_command_is_asked_for_with_the_list_of_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(words) == 2
    assert capsys.readouterr().err.startswith("Usage: relabel")


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        words = [
            "run",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--out",
            "/proc/relabel",
            "--quiet",
        ]
        assert run_app(words) == 3
        assert fake.seen == []
    assert "cannot write into /proc/relabel" in said(capsys)


def test_a_folder_below_a_file_is_said_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("x")
    with provider(lambda seen: judged()) as fake:
        assert (
            run_app(
                ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--out", "file/r", "--quiet"]
            )
            == 3
        )
        assert fake.seen == []
    assert "cannot write into file/r" in said(capsys)


@pytest.mark.parametrize(
    "words", [["eval", "sample", "--suite", LONG], ["rubric", "check", LONG], ["study", "init", LONG]]
)
def test_a_path_that_the_system_refuses_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(words) == 3
    assert f"{LONG} (File name too long); check the path" in said(capsys)


def test_a_broken_rubric_names_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("id: bad\nversion: 1\n")
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--rubric", "bad.yaml"]) == 3
    assert "bad.yaml: title: is missing; add it" in said(capsys)


def test_the_whole_chain_from_a_run_to_an_export(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged("exposed" if "software" in seen.prompt.lower() else "not-exposed")) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--out", "r", "--quiet"]
        assert run_app(words) == 0
    assert run_app(["eval", "r", "--out", "e.json"]) == 0
    assert run_app(["score", "r", "--out", "s.csv"]) == 0
    assert run_app(["export", "r", "--out", "x"]) == 0
    assert json.loads(Path("e.json").read_text())["matched"] == 60
    assert "1121" in Path("s.csv").read_text()
    assert Path("x/datapackage.json").exists()
    assert Path("x/occupations/8160.json").exists()
    capsys.readouterr()
    written = [p for p in Path().rglob("*") if p.is_file()]
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []


@pytest.mark.parametrize("name", ["exposure", "eloundou"])
def test_rubrics_are_listed_checked_and_shown_word_for_word(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["rubric", "list"]) == 0
    assert run_app(["rubric", "check", name]) == 0
    assert f"valid: {name} v{2 if name == 'exposure' else 1}" in capsys.readouterr().out
    setting = "strict" if name == "exposure" else "three-way"
    assert run_app(["rubric", "show", name, "--setting", setting, "--json"]) == 0
    messages = json.loads(capsys.readouterr().out)
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[1]["content"].endswith("</task>")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "relabel", "rubric", "show", "exposure"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("turned", [False, True])
def test_ctrl_c_that_a_library_turns_into_an_error_is_ctrl_c(
    turned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def odd() -> None:
        database = sqlite3.connect(":memory:")
        database.create_function("press", 0, lambda: signal.raise_signal(signal.SIGINT))
        try:
            database.execute("SELECT press()")
        except sqlite3.Error as error:
            raise (DataError("the database cannot be read") if turned else error) from error

    commands = typer.Typer()
    commands.command("odd")(odd)
    commands.command("other")(lambda: None)
    monkeypatch.setattr(app, "command_line", lambda _: commands)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert app.run_app(["odd"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "relabel: interrupted\n"
