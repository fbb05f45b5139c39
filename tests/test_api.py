"""The public API is what it says, and importing it costs nothing."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import relabel

GUIDE = Path(__file__).parents[1] / "docs" / "python.md"
HEAVY = {
    "pandas",
    "numpy",
    "pyarrow",
    "sklearn",
    "openai",
    "pandera",
    "pydantic",
    "rich",
    "diskcache",
    "xllamacpp",
}


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_export_list_is_sorted_and_whole() -> None:
    assert relabel.__all__ == sorted(relabel.__all__)
    for name in relabel.__all__:
        assert getattr(relabel, name) is not None


def test_every_public_name_says_what_it_is() -> None:
    for name in relabel.__all__:
        if name != "__version__":
            assert getattr(relabel, name).__doc__


def test_importing_relabel_loads_nothing_heavy() -> None:
    assert not loaded_after("import relabel") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = "from relabel.cli.app import run_app\nimport io, contextlib\n"
    code += "with contextlib.redirect_stdout(io.StringIO()):\n"
    code += "    for words in ([], ['run'], ['eval'], ['score'], ['export'], ['data'], ['store', 'stats']):\n"
    code += "        assert run_app([*words, '--help']) == 0, words\n"
    assert not loaded_after(code) & HEAVY


@pytest.mark.slow
@pytest.mark.mirror
def test_the_guide_for_notebooks_is_true() -> None:
    found = doctest.testfile(str(GUIDE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 8
    assert found.failed == 0
