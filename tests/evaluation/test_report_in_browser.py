"""Reports in a real browser: light, dark, narrow, in print, by keyboard; and hostile texts stay texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import BROKEN_WORDS, OpenPage, serious_findings, shaded_edges
from report_builders import HOSTILE, hostile_pages

KINDS = ("eval", "compare", "several")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reports")
    pages = hostile_pages(made)
    for kind in KINDS:
        (made / f"{kind}.html").write_text(getattr(pages, kind), encoding="utf-8")
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_is_legible_in_light_and_dark_and_runs_nothing(
    page: OpenPage, folder: Path, kind: str, dark: bool
) -> None:
    shown = page((folder / f"{kind}.html").as_uri(), dark=dark)
    assert "owned" not in shown.title().split(HOSTILE)[0]
    assert shown.locator("script, img, iframe").count() == 0
    assert HOSTILE in shown.inner_text("body")
    assert serious_findings(shown) == []
    ink, paper = shown.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] }"
    )
    assert ink != paper
    # A chart's text takes the ink of the page.
    assert shown.evaluate("() => getComputedStyle(document.querySelector('svg text')).fill") == ink


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_page_scrolls_down_and_not_sideways(page: OpenPage, folder: Path, kind: str) -> None:
    shown = page((folder / f"{kind}.html").as_uri(), width=360, height=800)
    assert shown.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert serious_findings(shown) == []


def test_wide_tables_can_be_reached_and_scrolled_by_keyboard(page: OpenPage, folder: Path) -> None:
    shown = page((folder / "eval.html").as_uri(), width=360, height=800)
    shown.keyboard.press("Tab")
    assert shown.evaluate("() => document.activeElement.textContent") == "Skip to the verdict"
    table = shown.get_by_role("region", name="Yardsticks")
    table.focus()
    shown.keyboard.press("ArrowRight")
    shown.wait_for_function("() => document.activeElement.scrollLeft > 0")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_what_is_wider_than_a_phone_shows_at_which_edge_there_is_more(page: OpenPage, folder: Path, dark: bool) -> None:
    shown = page((folder / "eval.html").as_uri(), width=360, height=800, dark=dark)
    for name in ("Yardsticks", "Chart: Agreement in three-way, by SOC major group"):
        region = shown.locator(f".scroll[aria-label='{name}']")
        assert shaded_edges(shown, region) == (False, True), name
        region.evaluate("element => { element.scrollLeft = element.scrollWidth; }")
        assert shaded_edges(shown, region) == (True, False), name


def test_words_of_a_table_stay_whole_on_a_phone(page: OpenPage, folder: Path) -> None:
    shown = page((folder / "eval.html").as_uri(), width=360, height=800)
    for name in ("Agreement in three-way, by SOC major group", "Yardsticks", "Tasks by label, three-way"):
        assert shown.get_by_role("region", name=name, exact=True).evaluate(BROKEN_WORDS) == [], name


def test_no_label_of_a_chart_is_cut_off(page: OpenPage, folder: Path) -> None:
    for kind in KINDS:
        shown = page((folder / f"{kind}.html").as_uri(), width=1200)
        cut = shown.evaluate(
            """() => [...document.querySelectorAll('figure svg text')].filter(text => {
                const word = text.getBoundingClientRect(), frame = text.closest('.scroll').getBoundingClientRect();
                return word.width && word.left < frame.left - 1;
            }).map(text => text.textContent)"""
        )
        assert cut == []


def test_a_print_is_light_and_shows_whole_tables(page: OpenPage, folder: Path) -> None:
    shown = page((folder / "eval.html").as_uri(), dark=True)
    shown.emulate_media(media="print")
    assert shown.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate("() => getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.evaluate("() => getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert len(shown.pdf()) > 10_000
