"""Before a run that is larger than most people mean, a person at a terminal is asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = ["run", "--tasks", "sample", "--samples", "2000", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"]


def at_a_terminal(words: list[str], answer: bytes, folder: Path) -> tuple[int, str]:
    """Give a command to a process at a terminal of its own, and one answer when it asks; its exit code and what it said."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "RELABEL_HOME": str(folder / "home"), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "relabel", *words, "--out", str(folder / "run")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, cwd=folder) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
            if said.endswith(b"[y/N]: ") and answer:
                os.write(ours, answer)
                answer = b""
    os.close(ours)
    return process.returncode, " ".join(said.decode().split())


@pytest.mark.parametrize(("answer", "code", "words"), [(b"n\n", 2, "nothing was sent"), (b"\x04", 130, "interrupted")])
def test_a_huge_run_is_not_begun_unasked(answer: bytes, code: int, words: str, tmp_path: Path) -> None:
    left, said = at_a_terminal([*HUGE, "--price", "5/15"], answer, tmp_path)
    assert left == code
    assert "240,000 labels: 60 tasks, each asked 2,000 times, for up to $" in said
    assert words in said
    assert not (tmp_path / "run").exists()


def test_who_means_it_is_not_asked_twice(tmp_path: Path) -> None:
    left, said = at_a_terminal([*HUGE, "--price", "5/15", "--yes"], b"", tmp_path)
    assert left == 4  # nobody listens at that address
    assert "Go on?" not in said


def test_a_run_of_usual_size_is_just_begun(tmp_path: Path) -> None:
    words = ["2" if word == "2000" else word for word in HUGE]
    left, said = at_a_terminal([*words, "--price", "5/15"], b"", tmp_path)
    assert left == 4
    assert "Go on?" not in said


def test_a_machine_is_told_and_not_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "relabel", *HUGE, "--price", "5/15", "--out", str(tmp_path / "run")]
    variables = {**os.environ, "RELABEL_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=variables, check=False)
    assert done.returncode == 4
    assert "for up to $" in done.stderr
    assert "Go on?" not in done.stderr
