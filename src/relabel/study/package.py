"""A replication package: a zip file to reproduce every table of a study without a key or a provider."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from relabel import __version__
from relabel.errors import DataError, UsageError
from relabel.evaluation.suite import load_suite
from relabel.files import os_errors, replacing, require_own
from relabel.labelling.maintenance import pack, unpack
from relabel.labelling.store import Store
from relabel.redaction import masked
from relabel.rubric import load_rubric
from relabel.sources.fetch import sha256_of
from relabel.sources.registry import load_registry
from relabel.study.file import template
from relabel.study.results import write_results
from relabel.study.running import OpenStudy, plan, runs_of

ANSWERS = "answers.pack"
# Date of every file in the zip, so that the same study gives the same bytes.
_ZIP_DATE = (2000, 1, 1, 0, 0, 0)


def write_package(opened: OpenStudy, target: Path) -> int:
    """Write the replication package of a study with complete raters.

    Args:
        opened: The study.
        target: The zip file.

    Returns:
        Number of files in it.

    Raises:
        UsageError: A rater is not complete.
        DataError: A file cannot be read or written.
    """
    study, raters = opened.study, plan(opened)
    if open_ones := [one.rater.name for one in raters if one.state != "complete"]:
        raise UsageError(
            f"{', '.join(open_ones)}: labels are missing; finish the study with `relabel study run {opened.file}` first"
        )
    runs = runs_of(raters)
    results = write_results(opened, runs)  # those there may be of an earlier study file, or of a start that was killed
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        data, copied = _inputs(opened, folder)
        for one, entry in zip(raters, data["raters"], strict=True):
            named = one.rater.base_url is not None or one.rater.provider is not None
            if one.model is not None and one.model.connection.base_url is not None and not named:
                # The address came from the environment. It must be recorded, because it is part of every request's key.
                entry["base_url"] = one.model.connection.shown_url
        asked = [runs[one.rater.name] for one in raters if one.model is not None]
        if asked:
            with Store(opened.environment.store_dir, read_only=True) as store:
                pack(store, folder / ANSWERS, *asked)
        for name, run in runs.items():
            if run.folder is not None:
                (folder / "manifests").mkdir(exist_ok=True)
                shutil.copyfile(run.folder / "manifest.json", folder / "manifests" / f"{name}.json")
        title, version = json.dumps(study.title, ensure_ascii=False), json.dumps(__version__)
        for name, text in {
            "study.yaml": yaml.safe_dump(data, sort_keys=False, allow_unicode=True),
            "checksums.txt": "".join(f"{digest}  {name}\n" for name, digest in checksums(opened) if results.has(name)),
            "constraints.txt": _constraints(),
            "DATA.md": _data_statement(opened, copied),
            "CITATION.cff": template("CITATION.cff", title=title, version=version),
            "README.md": template("README.md", title=study.title, version=__version__, answers=ANSWERS),
        }.items():
            (folder / name).write_text(text, encoding="utf-8")
        return _zip(folder, target)


def _inputs(opened: OpenStudy, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Copy the files named in a study; returns the study with their new paths, and the names of the copied files."""
    copied: dict[str, str] = {}

    def relocated(ref: str) -> str:
        if ref not in copied:
            beside = opened.file.parent / ref
            copied[ref] = name = f"inputs/{len(copied) + 1}/{beside.name}"
            _copy(beside, folder / name)
        return copied[ref]

    study, data = opened.study, opened.content(relocated)
    # Files that these files name: a suite relative to itself, a rubric relative to the folder in which the package is rebuilt.
    named: list[tuple[str, Path, Path]] = []
    if study.suite in copied:
        suite, home = load_suite(opened.path(study.suite)), (folder / data["suite"]).parent
        refs = (suite.gold, suite.baseline and suite.baseline.run)
        named += [(ref, Path(suite.resolve(ref)), home) for ref in refs if ref]
    prompts = {load_rubric(opened.path(rater.rubric or study.rubric)).prompt for rater in study.raters}
    named += [(prompt, Path(prompt), folder) for prompt in sorted(prompts) if Path(prompt).suffix]
    for ref, source, home in named:
        target = Path(os.path.normpath(home / ref))
        if source.exists() and not target.exists():
            if not target.is_relative_to(folder):
                raise DataError(
                    f"{ref} is named by the study's suite or rubric, and lies outside of the study; move it beside it"
                )
            copied[ref] = ref
            _copy(source, target)
    return data, sorted(copied)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder; a link in a study from elsewhere could put any file of the user into the package."""
    for path in (source, *source.rglob("*")):
        require_own(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def checksums(opened: OpenStudy) -> Iterator[tuple[str, str]]:
    """Names and sha256 of reproducible results: all except run folders, which contain times."""
    for path in sorted(opened.results.rglob("*")):
        name = path.relative_to(opened.results).as_posix()
        if path.is_file() and not name.startswith("runs/"):
            yield name, sha256_of(path)


def _constraints() -> str:
    """The exact versions of Python and of all installed packages except relabel."""
    versions = {d.name: d.version for d in metadata.distributions() if d.name}
    lines = [f"{name}=={versions[name]}" for name in sorted(versions, key=str.lower) if not name.startswith("relabel")]
    return "\n".join([f"# Python {sys.version.split()[0]}", *lines, ""])


def _data_statement(opened: OpenStudy, copied: list[str]) -> str:
    registry = load_registry()
    rows: list[str] = []
    for name, file, sha256 in json.loads((opened.results / "sources.json").read_text(encoding="utf-8")):
        source = registry.get(name)
        where = "given by the authors" if source is None else f"{source.publisher}, {source.licence}"
        rows.append(f"| {name} | {file} | {where} | {sha256} |\n")
    own = f"\nFiles of the authors are under `inputs/`: {', '.join(copied)}.\n" if copied else ""
    return template("DATA.md", title=opened.study.title, own=own, rows="".join(rows), answers=ANSWERS)


def _zip(folder: Path, target: Path) -> int:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        text = "" if path.name == ANSWERS else path.read_bytes().decode("utf-8", "replace")
        if masked(text) != text:
            raise DataError(
                f"{path.relative_to(folder)} holds what looks like a key; take it out of the study's files, then make the package again"
            )
    failing = os_errors(f"cannot write {target}", "name another file with --out")
    with failing, replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as package:
        for path in files:
            name = f"{target.stem}/{path.relative_to(folder).as_posix()}"
            package.writestr(zipfile.ZipInfo(name, _ZIP_DATE), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(files)


def unpack_answers(opened: OpenStudy) -> tuple[int, int]:
    """Add the answers in a package to the store; returns how many were added, and how many were there already.

    Raises:
        DataError: The pack is missing or damaged.
    """
    source = opened.file.parent / ANSWERS
    require_own(source)
    if not source.exists():
        return 0, 0
    with Store(opened.environment.store_dir) as store:
        return unpack(store, source)


def compare_checksums(opened: OpenStudy) -> tuple[int, list[str]]:
    """Number of results that match the package's checksums, and names of those that differ."""
    listed = opened.file.parent / "checksums.txt"
    require_own(listed)
    try:
        lines = [line.partition("  ") for line in listed.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed} cannot be read; unpack the package again") from error
    sha256_by_name = dict(checksums(opened))
    differ = sorted(name for digest, _, name in lines if sha256_by_name.get(name) != digest)
    return len(lines) - len(differ), differ
