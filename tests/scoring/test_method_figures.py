"""The figures of docs/method.md, measured again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.mirror

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_figures", DOCS / "method_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(script: ModuleType) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "DRAWS", 400)
        return script.figures()


@pytest.fixture(scope="module")
def page() -> str:
    return " ".join((DOCS / "method.md").read_text(encoding="utf-8").split())


def row(name: str, values: list[str]) -> str:
    return f"| {name} | {' | '.join(values)} |"


WAYS = ("site-2026", "equal", "index", "employment")


@pytest.mark.slow
def test_the_page_tells_the_groups_scored_and_shared(found: dict[str, Any], page: str) -> None:
    counts = [found["counts"][way] for way in WAYS]
    assert row("groups scored, of 412", [str(c["scored"]) for c in counts]) in page
    assert row("thin / without a score", [f"{c['thin']} / {c['unscored']}" for c in counts]) in page
    shared = [str(c["sharing a score"]) for c in counts]
    assert row("groups that share all three measures with another", shared) in page
    linked = [str(c["sharing all links to ISCO-08"]) for c in counts]
    assert row("groups that share all links to ISCO-08 with another", linked) in page


def test_the_page_tells_the_agreement_with_pay_and_words(found: dict[str, Any], page: str) -> None:
    told = [found["agreement"][way] for way in WAYS]
    pay = [f"{t['pay']['value']:.3f}".lstrip("0") for t in told]
    words = [f"{t['words']['value']:.3f}".lstrip("0") for t in told]
    assert row("pay: correlation of logs (329 groups with pay)", pay) in page
    assert row("words: mean reciprocal rank", words) in page


def test_the_default_beats_the_old_method_in_both_sources_and_equal_links_do_not(found: dict[str, Any]) -> None:
    agreement = found["agreement"]
    for source in ("pay", "words"):
        assert agreement["index"][source]["low"] > 0
        assert agreement["equal"][source]["better"] < 0


def test_the_page_tells_the_totals_and_their_coverage(found: dict[str, Any], page: str) -> None:
    totals = found["totals"]["index"]
    assert f"{totals['groups']} groups" in page
    assert f"({totals['coverage']:.1%})".replace("%", " %") in page
    for measure in ("alpha", "beta", "gamma"):
        assert f"{totals[f'wage_exposure_{measure}_gbp'] / 1e9:.1f}" in page


def test_the_page_names_the_biggest_movers(found: dict[str, Any], page: str) -> None:
    for mover in found["movers, index against the site"]:
        assert f"{mover['code']} " in page
        assert f"({mover['place_old']:.0f} to {mover['place_new']:.0f})" in page
