"""The figures of docs/method.md, measured again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.mirror
@pytest.mark.slow
def test_the_page_says_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("method_figures", DOCS / "method_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "method_figures", module)
    spec.loader.exec_module(module)
    told = module.fragments()
    assert len(told) > 40
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    assert module.missing(told, page) == []
    # The check finds a figure that is wrong.
    assert module.missing(told, page.replace("(75 to 36)", "(75 to 37)")) == ["(75 to 36)"]
