"""What a command does not need, it does not load: by name of the module, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import relabel
from server import judged, provider

HEAVY = [
    "aiohttp",
    "altair",
    "genai_prices",
    "jinja2",
    "krippendorff",
    "numpy",
    "openai",
    "openpyxl",
    "pandas",
    "pandera",
    "pooch",
    "pyarrow",
    "pydantic",
    "ray",
    "requests",
    "rich",
    "scipy",
    "sklearn",
    "tenacity",
    "typst",
    "vl_convert",
    "xlrd",
    "xllamacpp",
    "yaml",
]
"""Libraries that take long to load, or much memory."""

LIGHT: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "run --help": set(),
    "score --help": set(),
    "providers": {"pydantic", "yaml"},
    "data list --json": {"pydantic"},
    "data list": {"pydantic", "rich"},
    "rubric list": {"pydantic", "yaml"},
    "rubric show exposure": {"pydantic", "yaml"},
    "rubric show exposure --setting strict": {"pydantic", "yaml", "jinja2"},
    "rubric check exposure": {"pydantic", "yaml", "jinja2"},
    "tasks diff sample sample": {"pydantic", "yaml"},
    "store stats": {"pydantic", "yaml", "jinja2"},
    "store verify": {"pydantic", "yaml", "jinja2"},
    "batch list": {"pydantic", "yaml", "jinja2"},
}
"""Commands with the libraries of `HEAVY` that they need."""

PROGRAM = """
import json, sys
from relabel.cli.app import run_app
code = run_app(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps([code, sorted(set(sys.modules) & set(json.loads(sys.stdin.read())))]))
"""


def loaded(words: Sequence[str], folder: Path) -> set[str]:
    """The heavy libraries that a command has loaded when it ends well."""
    out = folder / "loaded.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), *words],
        input=json.dumps(HEAVY),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    code, modules = json.loads(out.read_text())
    assert code == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize("command", LIGHT)
def test_a_command_loads_what_it_needs_and_no_more(command: str, tmp_path: Path) -> None:
    assert loaded(command.split(), tmp_path) <= LIGHT[command]


def test_a_run_loads_the_client_for_requests_only_and_never_a_table_library(tmp_path: Path) -> None:
    needed = {"pydantic", "yaml", "jinja2", "pyarrow", "numpy"}  # pyarrow loads numpy
    with provider(lambda *_: judged()) as server:
        words = [
            "run",
            "--model",
            "m",
            "--base-url",
            server.base_url,
            "--tasks",
            "sample",
            "--sample",
            "2",
            "--out",
            "r",
        ]
        assert loaded(words, tmp_path) <= needed | {"aiohttp"}
        assert loaded(words, tmp_path) <= needed
    assert loaded(["run", "--model", "m", "--tasks", "sample", "--dry-run"], tmp_path) <= needed | {"genai_prices"}
    assert loaded(["answers", "r"], tmp_path) <= needed


def test_importing_the_package_loads_nothing() -> None:
    names = json.dumps([*HEAVY, "typing", "pathlib"])
    program = (
        f"import sys; before = set(sys.modules); import relabel; print((set(sys.modules) - before) & set({names}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", relabel.__file__
