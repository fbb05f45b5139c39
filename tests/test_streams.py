"""Standard output and error: the verdict is the exit code whatever becomes of them, and nothing printed is more than text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.redaction import printable
from server import Reply, Seen, chat, judged, provider

RELABEL = [sys.executable, "-m", "relabel"]
SUITE = """
name: strict
gold: sample
gates:
  - id: never
    metric: incoherent
    max: 0.0
  - id: "two\\nlines"
    metric: coverage
    min: 1.1
    why: "this\\n::set-env name=PATH::evil"
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a key for tests")
    Path("suite.yaml").write_text(SUITE.replace("min: 1.1", "min: 1.0"), "utf-8")
    Path("fails.yaml").write_text(
        "name: fails\ngold: sample\ngates:\n  - {id: x, setting: strict, metric: kappa, max: -0.5, why: 'a\n\n\n  ::error::b'}\n",
        "utf-8",
    )


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one line of bash in which `relabel` is the command; the last line printed is its own exit code."""
    line = f'relabel() {{ "{sys.executable}" -m relabel "$@"; }}; {words}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        "set -o pipefail; relabel eval sample --suite fails.yaml | true; echo ${PIPESTATUS[0]}",
        pytest.param(
            "set -o pipefail; relabel eval sample --suite fails.yaml | grep -q kappa; echo ${PIPESTATUS[0]}",
            marks=pytest.mark.slow,
        ),
        pytest.param("relabel eval sample --suite fails.yaml > /dev/full; echo $?", marks=pytest.mark.slow),
        "relabel eval sample --suite fails.yaml >&-; echo $?",
        pytest.param(
            "relabel eval sample --suite fails.yaml 2>&1 >&- | true; echo ${PIPESTATUS[0]}", marks=pytest.mark.slow
        ),
    ],
)
def test_a_failed_gate_is_the_exit_code_whatever_becomes_of_the_output(line: str) -> None:
    done = shell(line, PYTHONUNBUFFERED="1" if "grep" in line else "")
    assert done.stdout.split()[-1] == "6"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_output_that_is_lost_on_a_full_disk_is_an_error_where_all_else_went_well() -> None:
    done = shell("relabel eval sample > /dev/full; echo $?")
    assert done.stdout.strip() == "3"
    assert "cannot write the output (No space left on device)" in done.stderr
    assert shell("relabel eval sample | true; echo ${PIPESTATUS[0]}").stdout.strip() == "0"


@pytest.mark.slow
def test_progress_that_is_lost_on_a_full_disk_is_no_lost_result() -> None:
    done = shell("relabel eval sample --out e.json 2> /dev/full; echo $?")
    assert done.stdout.splitlines()[-1] == "0"
    assert Path("e.json").exists()


@pytest.mark.parametrize("dead", ["2>&1 >/dev/null | true", "2>&1 | true"])
def test_a_run_whose_reader_is_gone_goes_on_to_its_end(dead: str) -> None:
    bad = ["no label"]

    def script(seen: Seen) -> Reply:
        bad.extend([seen.prompt] if len(fake.seen) == 1 else [])
        return Reply(body=chat("no label")) if seen.prompt in bad else judged()

    with provider(script) as fake:
        words = f"--model m --base-url {fake.base_url} --tasks sample --sample 4 --setting strict --concurrency 1"
        done = shell(f"relabel run {words} --response-format text --out r --log-json {dead}; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.strip() == "5"
    counts = json.loads(Path("r/manifest.json").read_text("utf-8"))["counts"]
    assert (counts["fresh"], counts["failed"]) == (3, 1)


@pytest.mark.skipif(
    not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    reason="this system has no terminals that hang up, or nohup ignores them",
)
def test_a_terminal_that_closes_stops_a_run_and_loses_no_answer() -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 12:
            os.kill(child.pid, signal.SIGHUP)
        return Reply(body=judged().body, delay=0.1 if len(fake.seen) > 8 else 0.0)

    with provider(script) as fake:
        words = [
            "run",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "20",
            "--out",
            "r",
        ]
        more = ["--response-format", "text", "--concurrency", "4"]
        child = subprocess.Popen([*RELABEL, *words, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        child.communicate(timeout=60)
        answered = len(fake.answered)
    assert child.returncode == 130
    manifest = json.loads(Path("r/manifest.json").read_text("utf-8"))
    assert manifest["counts"]["fresh"] == answered < 40


@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_ctrl_c_in_the_first_moment_shows_no_traceback(after_s: float) -> None:
    with provider(lambda seen: Reply(fault="hang")) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--out", "r"]
        # What Python does before `main` cannot be ours: `x` is written by the first call in it.
        first = "signal.getsignal = lambda number, known=signal.getsignal: (os.write(1, b'x'), known(number))[1]"
        code = f"import os, signal, relabel.__main__ as m; {first}; m.main()"
        child = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.read(1) == "x"
        time.sleep(after_s)  # which moment it is does not matter: none may show a traceback
        child.send_signal(signal.SIGINT)
        time.sleep(after_s)
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    assert child.returncode == 130


@pytest.mark.slow
def test_control_characters_from_outside_are_shown_escaped() -> None:
    evil = "m\x1b]0;title\x07\x1b[2J\u202e"

    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 1:
            return Reply(body=chat(json.dumps({"rationale": evil, "label": "exposed"}), model=evil))
        return Reply(400, {"error": {"message": evil + "\n::error::x"}})

    with provider(script) as fake:
        words = f"--base-url {fake.base_url} --tasks sample --sample 2 --setting strict --concurrency 1 --response-format text --out r"
        done = shell(f"relabel run --model m {words}; cat r/failures.jsonl; relabel eval r --gold sample")
    shown = done.stdout + done.stderr
    assert "\\x1b[2J" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.slow
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_headings_on_a_terminal_are_bold_and_never_escaped(term: str) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*RELABEL, "eval", "sample", "--no-intervals"], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": term}
    ):
        os.close(theirs)
        shown = bytearray()
        while part := _read(ours):
            shown += part
    os.close(ours)
    assert b"Verdict" in shown
    assert rb"\x1b" not in shown
    assert (b"\x1b[1mVerdict\x1b[0m" in shown) == (term != "dumb")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # as Linux says that the other end is closed
        return b""


def test_text_of_a_gate_makes_no_workflow_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert run_app(["eval", "sample", "--suite", "fails.yaml"]) == 6
    commands = [line for line in "".join(capsys.readouterr()).splitlines() if line.lstrip().startswith(("::", "##["))]
    assert len(commands) == 1
    assert commands[0].startswith("::error title=relabel fails%3A x::")


def test_what_people_read_keeps_its_lines_and_tabs() -> None:
    assert printable("a\tb\nc – d ü") == "a\tb\nc – d ü"
    assert printable("a\rb\x9b\u2066") == "a\\rb\\x9b\\u2066"
