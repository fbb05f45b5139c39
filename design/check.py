"""Checks of size, wording and names: `python design/check.py` prints the code lines of each package, and fails on a problem.

A code line is one that is neither blank nor a comment nor part of a docstring. The design wants at most 18,000 of them in 95
modules. There are far more, so the limits below are the present size; they are lowered as the code shrinks.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/relabel"
MOST_LINES, MOST_MODULES = 23_776, 107
MOST_FUNCTION_LINES = 80
LONG_FUNCTIONS = {
    "cli/compare.py:compare_runs",
    "cli/eval.py:evaluate_run",
    "cli/labels.py:import_file",
    "cli/labels.py:review_run",
    "cli/publish.py:export",
    "cli/rubric.py:try_rubrics",
    "cli/run.py:run",
    "cli/score.py:explain",
    "cli/score.py:score",
}
"""Commands, whose signatures have one line per option; no other function may be so long."""

BANNED = (
    r"(?<!there )\bis no (?!longer|more|less)",
    r"\bto be had\b",
    r"\bat hand\b",
    r"\bmend",
    r"\basked of\b",
    r"\bfound out\b",
    r"\bnobody\b",
    r"\b(hold|held) against\b",
    r"\bgone on with\b",
    r"\b(where|there)of\b",
    r"\bone another's\b",
    r"\d %(?!\})(?![\w{])",
    r"\bcalls? for a review\b",
    r"\bforeseen\b",
    r"'s way\b",
    r"\banswered as no\b",
    r"\bno model named\b",
)
"""Phrases that are not current English."""

VAGUE = frozenset(
    ("said", "told", "of", "at", "who", "whose", "how", "why", "came", "took", "gone", "meant", "here", "there", "held")
)
"""Names that do not say what a variable of a function holds."""

_SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)


def code_lines(text: str, tree: ast.AST) -> int:
    """Lines that hold code."""
    documented: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def check_size() -> Iterator[str]:
    """Print the size of each package; yield what is too large."""
    lines, modules = Counter[str](), Counter[str]()
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE)
        package = "/".join(name.parts[:-1][:2]) or "root"
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines[package] += code_lines(text, tree)
        modules[package] += 1
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_FUNCTION_LINES and f"{name}:{node.name}" not in LONG_FUNCTIONS:
                    yield f"{name}:{node.lineno} {node.name} has {length} lines; the limit is {MOST_FUNCTION_LINES}"
    for package in sorted(lines):
        print(f"{package:28}{modules[package]:4} modules{lines[package]:8,} code lines")
    print(f"{'together':28}{modules.total():4} modules{lines.total():8,} code lines")
    if lines.total() > MOST_LINES or modules.total() > MOST_MODULES:
        yield f"src/relabel is over its limits of {MOST_LINES:,} code lines or {MOST_MODULES} modules"


def check_words() -> Iterator[str]:
    """Yield each banned phrase of the code, the pages and the documentation."""
    texts = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".html", ".jinja")]
    texts += [path for folder in ("docs", "evals", "") for path in (ROOT / folder).glob("*.*")]
    banned = re.compile("|".join(BANNED), re.IGNORECASE)
    for path in sorted(texts):
        if path.name == "CHANGELOG.md" or path.suffix not in (".py", ".html", ".jinja", ".md", ".yaml"):
            continue  # the changelog may quote former texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for phrase in banned.finditer(line):
                yield f"{path.relative_to(ROOT)}:{number} has {phrase[0].strip()!r}: write it in current English"


def check_names() -> Iterator[str]:
    """Yield each variable and parameter of a function whose name does not say what it holds."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, _FUNCTIONS):
                names = [(part.arg, part.lineno) for part in ast.walk(node) if isinstance(part, ast.arg)]
                stored = [
                    part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
                ]
                for name, line in [*names, *((part.id, part.lineno) for part in stored)]:
                    if name in VAGUE:
                        yield f"{path.relative_to(ROOT)}:{line} has a variable {name!r}: name what it holds"


def main() -> int:
    """Run all checks."""
    problems = [*check_size(), *check_words(), *dict.fromkeys(check_names())]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
