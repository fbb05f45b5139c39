"""The distribution has a name of its own: `relabel` on the public index is somebody else's package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from relabel.labelling.ray import RAY_EXTRA

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = "relabel-exposure"
FOLDERS = ("src", "docs", "design", "prompts", "rubrics", "evals", "bench", ".ci", ".github", "data")
TEXTS = {".md", ".py", ".yml", ".yaml", ".toml", ".txt", ".html", ".cff", ".j2", ".typ", ""}
# An installer and the other package on one line, or the other package as a requirement with an extra or a version.
OTHER = re.compile(
    r"\b(pip3?|pipx|uv|uvx|poetry|pdm|conda|mamba)\b[^\n]*?\b(install|add|run|tool|uvx|with)\b[^\n]*?[\s'\"]relabel(?=[\[=<>~!'\"]|\s|$)"
    r"|\b(uvx|pipx run)\s+relabel(?![-_\w])"
    r"|[\s'\"]relabel(\[[a-z]+\]|\s?[=~<>]=\s?\d)"
)


def texts() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if path.suffix in TEXTS and path.stat().st_size < 1_000_000]


def test_no_text_tells_people_to_install_the_other_package() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts()
        for line in path.read_text("utf-8", "replace").splitlines()
        if OTHER.search(line.partition("  #")[0])
    ]
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "pip install relabel",
        "python -m pip install -q 'relabel[ray]'",
        "uv add relabel",
        "uvx relabel demo",
        "  relabel>=0.1",
    ],
)
def test_the_check_sees_the_other_package(line: str) -> None:
    assert OTHER.search(line)


@pytest.mark.parametrize(
    "line", ["pip install 'relabel-exposure[ray]'", "uv add relabel-exposure", "relabel run --model M"]
)
def test_the_check_lets_our_own_name_pass(line: str) -> None:
    assert not OTHER.search(line)


def test_one_name_everywhere_and_the_command_stays() -> None:
    assert PROJECT["name"] == NAME
    assert PROJECT["scripts"] == {"relabel": "relabel.__main__:main"}
    assert f"{NAME}[ray]" in PROJECT["optional-dependencies"]["dev"]
    assert f"{NAME}[ray]" in RAY_EXTRA
    for workflow in (ROOT / "docs/workflows").glob("*.yml"):
        assert re.search(rf"PACKAGE: {NAME}\s", workflow.read_text("utf-8"))


def pinned(name: str) -> dict[str, str]:
    """Versions by name, as a file of requirements pins them; names in the one spelling that stands for all."""
    found = re.findall(r"(?m)^([\w.-]+)==([^\s;\\]+)", (ROOT / name).read_text("utf-8"))
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_what_is_installed_is_pinned_by_its_hash() -> None:
    """The Makefile installs from the locks; `make lock` writes them from pyproject.toml and constraints.txt."""
    versions = pinned("constraints.txt")
    assert versions.items() <= pinned("locks/dev.txt").items()
    runtime = {re.split(r"[\[<>=~; ]", each)[0].lower() for each in PROJECT["dependencies"]}
    assert runtime <= set(pinned("locks/runtime.txt"))
    assert pinned("locks/runtime.txt").items() <= pinned("locks/dev.txt").items()
    for lock in ("locks/runtime.txt", "locks/dev.txt"):
        text = (ROOT / lock).read_text("utf-8")
        assert "://" not in text
        for entry in re.split(r"\n(?=\w)", text.strip()):
            assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize(("package", "version"), [("pydantic", "2.11.1"), ("pandera", "0.29.0"), ("typst", "0.14.9")])
def test_versions_with_which_commands_end_in_an_internal_error_are_not_installed(package: str, version: str) -> None:
    bounds = {bound.name: bound.specifier for bound in map(Requirement, PROJECT["dependencies"])}
    assert version not in bounds[package]
