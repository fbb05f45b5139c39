"""What a checker is told to overlook comes with a reason on the same line."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

_SUPPRESSED = re.compile(r"# *(?:noqa|pyright: *ignore|type: *ignore|ruff: *noqa)\b(?P<rest>.*)")
_REASONED = re.compile(r"(?:: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)*|\[[A-Za-z, -]+\])  +(?:# )?\w.*")


def unreasoned(text: str) -> list[str]:
    return [
        line.strip()
        for line in text.splitlines()
        if (found := _SUPPRESSED.search(line)) and not _REASONED.fullmatch(found["rest"])
    ]


def test_a_bare_suppression_is_seen() -> None:
    mark = "# " + "noqa"
    assert unreasoned(f"import x  {mark}: F401") == [f"import x  {mark}: F401"]
    assert unreasoned(f"import x  {mark}") == [f"import x  {mark}"]
    assert unreasoned(f"import x  {mark}: F401, E402  heavy\nimport y") == []
    assert unreasoned("x = y  # pyright: " + "ignore[reportArgumentType]  one cell") == []


def test_every_suppression_says_why() -> None:
    files = [file for room in ("src", "tests", "docs", "bench") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    bare = {str(file.relative_to(ROOT)): found for file in files if (found := unreasoned(file.read_text("utf-8")))}
    assert not bare
