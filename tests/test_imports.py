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
import json, os, sys
from relabel.cli.app import run_app
heavy, commands = json.loads(sys.stdin.read())
for number, words in enumerate(commands):  # each in a copy of this process, which has loaded nothing but the command line
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    code = run_app(words)
    with open(f"loaded-{number}.json", "w") as file:
        json.dump([code, sorted(set(sys.modules) & set(heavy))], file)
    sys.stdout.flush()
    os._exit(0)
"""


def loaded(commands: Sequence[str], folder: Path) -> list[set[str]]:
    """The heavy libraries that each command has loaded when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([HEAVY, [command.split() for command in commands]]),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads((folder / f"loaded-{number}.json").read_text()) for number in range(len(commands))]
    assert {code for code, _ in found} == {0}, done.stderr
    return [set(modules) for _, modules in found]


@pytest.mark.slow
def test_a_command_loads_what_it_needs_and_no_more(tmp_path: Path) -> None:
    found = dict(zip(LIGHT, loaded(list(LIGHT), tmp_path), strict=True))
    assert {command: modules - LIGHT[command] for command, modules in found.items()} == {
        command: set() for command in LIGHT
    }


@pytest.mark.slow
def test_a_run_loads_the_client_for_requests_only_and_never_a_table_library(tmp_path: Path) -> None:
    needed = {"pydantic", "yaml", "jinja2", "pyarrow", "numpy"}  # pyarrow loads numpy
    with provider(lambda *_: judged()) as server:
        words = f"run --model m --base-url {server.base_url} --tasks sample --sample 2 --out r"
        dry = "run --model m --tasks sample --dry-run"
        first, again, planned, answers = loaded([words, words, dry, "answers r"], tmp_path)
    assert first <= needed | {"aiohttp"}
    assert again <= needed
    assert planned <= needed | {"genai_prices"}
    assert answers <= needed


def test_importing_the_package_loads_nothing() -> None:
    names = json.dumps([*HEAVY, "typing", "pathlib"])
    program = (
        f"import sys; before = set(sys.modules); import relabel; print((set(sys.modules) - before) & set({names}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", relabel.__file__
