"""Write the snapshots of what commands print and write: `python tests/snapshots/make.py`; look at the diff before committing it.

The sample's documents are kept as text, so that a change can be read; exports and what is made from the real data as sha256
of each file, with numbers cut to nine digits, so that processors do not matter.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
SAMPLE_GOLD = HERE.parents[1] / "data/sample/gold.csv"
SEED = ["--seed", "3"]
VARIABLE = {
    "package_version",
    "git_commit",
    "version",
    "started_at",
    "ended_at",
    "created_at",
    "created",
    "hash",
    "bytes",
}
"""Keys of a document that differ from run to run or release to release; each hashed file has a digest of its own here."""
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
_RELEASE = re.compile(r"\b0\.\d+\.\d+(?:\.dev\d+)?(?:\+[0-9a-z.]+)?\b")


def relabel(folder: Path, *words: str, mirror: str = "") -> str:
    """Run one command in a folder, with the data of a mirror; its standard output."""
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "RELABEL_HOME": str(folder / "home")}
    environment |= {"RELABEL_DATA_MIRROR": mirror}
    done = subprocess.run(
        [sys.executable, "-m", "relabel", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"relabel {' '.join(words)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def settled(document: Any) -> Any:
    """A document without what differs from run to run, numbers cut to nine digits."""
    if isinstance(document, dict):
        return {key: settled(value) for key, value in document.items() if key not in VARIABLE}
    if isinstance(document, list):
        return [settled(value) for value in document]
    return float(f"{document:.9g}") if isinstance(document, float) else document


def text_of(document: str) -> str:
    """A JSON document as text that a diff can be read of."""
    return json.dumps(settled(json.loads(document)), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def digest(path: Path) -> str:
    """The sha256 of a file's settled content."""
    if path.suffix == ".json":
        text = text_of(path.read_text(encoding="utf-8"))
    else:
        text = path.read_bytes().decode("utf-8", errors="replace")
        text = _NUMBER.sub(lambda found: f"{float(found[0]):.9g}", _RELEASE.sub("VERSION", text))
    return hashlib.sha256(text.encode()).hexdigest()


def digests(folder: Path) -> str:
    """A line a file, or a folder below: its digest and its path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".parquet", ".zip")]
    below: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        below[name.partition("/")[0] + "/" if "/" in name else name].append(f"{digest(path)}  {name}\n")
    return "".join(
        f"{hashlib.sha256(''.join(lines).encode()).hexdigest()}  {name} ({len(lines)})\n"
        for name, lines in below.items()
    )


def changed_labels(target: Path) -> None:
    """Labels of the sample as another rater might give them: every fifth code is E0."""
    with SAMPLE_GOLD.open(encoding="utf-8") as source, target.open("w", encoding="utf-8", newline="") as out:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(out, ["task_id", "onet_soc_code", "label"])
        writer.writeheader()
        for number, row in enumerate(rows):
            code = "E1" if row["strict"] == "exposed" else "E2" if row["with_tools"] == "exposed" else "E0"
            writer.writerow(
                {
                    "task_id": row["task_id"],
                    "onet_soc_code": row["onet_soc_code"],
                    "label": "E0" if number % 5 == 0 else code,
                }
            )


def of_sample(folder: Path, relabel: Callable[..., str] = relabel) -> dict[str, str]:
    """The snapshots that need no data: name to content; `relabel` runs one command in a folder."""
    changed_labels(folder / "other.csv")
    relabel(
        folder, "import", "other.csv", "--model", "other", "--rubric", "eloundou", "--tasks", "sample", "--out", "other"
    )
    documents = {
        "eval": relabel(folder, "eval", "other", "--gold", "sample", "--json"),
        "compare": relabel(folder, "compare", "sample", "other", "--gold", "sample", "--json"),
        "score": relabel(folder, "score", "other", "--draws", "200", *SEED, "--json"),
        "explain": relabel(folder, "explain", "other", "1121", "--json"),
    }
    relabel(folder, "export", "other", "--out", "export")
    return {f"{name}.json": text_of(document) for name, document in documents.items()} | {
        "export.sha256": digests(folder / "export")
    }


def of_2023(folder: Path) -> dict[str, str]:
    """The snapshots of the labels of 2023; they need the data mirror."""
    gpt4, people = "eloundou-2023:gpt4", "eloundou-2023:human"
    mirror = os.environ["RELABEL_DATA_MIRROR"]
    out = folder / "documents"
    out.mkdir()
    for name, words in {
        "eval": ["eval", gpt4, "--gold", people, "--draws", "200", "--json"],
        "compare": ["compare", gpt4, people, "--draws", "200", "--json"],
        "score": ["score", gpt4, "--json"],
        "score-site-2026": ["score", gpt4, "--method", "site-2026", "--json"],
        "score-soc2018": ["score", gpt4, "--taxonomy", "soc2018", "--json"],
        "explain-1121": ["explain", gpt4, "1121", "--json"],
    }.items():
        (out / f"{name}.json").write_text(relabel(folder, *words, mirror=mirror), encoding="utf-8")
    relabel(folder, "export", gpt4, "--out", "export", mirror=mirror)
    return {"documents-2023.sha256": digests(out), "export-2023.sha256": digests(folder / "export")}


if __name__ == "__main__":
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        made = of_sample(Path(first))
        if os.environ.get("RELABEL_DATA_MIRROR"):
            made |= of_2023(Path(second))
        for name, content in made.items():
            (HERE / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"wrote {', '.join(made)}\n")
