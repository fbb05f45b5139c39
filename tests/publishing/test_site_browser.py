"""A site as people use it, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from site_builders import hostile_site, sample_answers, sample_site

from browser import BROKEN_WORDS, OpenPage, serious_findings, shaded_edges
from relabel.publishing.export import export_run
from relabel.publishing.site.build import Site, build_site, site_server
from relabel.run import open_run
from relabel.tabular import records
from run_builders import a_label, a_run

KINDS = (
    *("index", "map", "pay", "compare", "changes", "totals", "method", "sources"),
    *("occupations/2134", "onet/15-1252.00", "careers/index", "careers/nursing"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return sample_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return hostile_site(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site of a partial run, whose group 1121 has a label for one of ten tasks."""
    folder = tmp_path_factory.mktemp("thin")
    export_run(sample_answers(folder / "run", thin=("11-3051.00",)), folder / "export", allow_partial=True, draws=100)
    return build_site(folder / "export", folder / "site")


@pytest.fixture
def served(site: Site) -> Iterator[str]:
    """The site under a path of its own, as on a host that holds other things too."""
    with site_server(site.folder, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def address(site: Site, path: str) -> str:
    return (site.folder / path).resolve().as_uri()


def titles(page: Page) -> list[str]:
    return page.locator("#occupations tbody tr:visible th a").all_text_contents()


@pytest.mark.parametrize(
    ("dark", "kinds"),
    [(False, KINDS), (True, ("index", "map", "pay", "occupations/2134"))],  # the dark differs in colours only
    ids=["light", "dark"],
)
def test_no_kind_of_page_has_serious_findings_of_axe_or_runs_over_a_phone(
    site: Site, page: OpenPage, dark: bool, kinds: tuple[str, ...]
) -> None:
    opened = page(width=360, height=740, dark=dark)
    for kind in kinds:
        opened.goto(address(site, f"{kind}.html"))
        if opened.locator("#read-tools").count():
            opened.locator("#read-tools").check()
        for details in opened.locator("details").all():
            details.evaluate("element => element.open = true")
        assert serious_findings(opened) == [], kind
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360, kind


def test_the_table_is_searched_by_plurals_and_abbreviations_and_filtered_by_group(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "index.html"))
    for typed, found in (
        ("programmers", "2134"),
        ("programmer", "2134"),
        ("IT", "2134"),
        ("nurses", "2237"),
        ("plumber", "5315"),
    ):
        opened.fill("#search", typed)
        assert any(found in text for text in opened.locator("#occupations tbody tr:visible").all_text_contents()), typed
    for one, many in (("nurse", "nurses"), ("programmer", "programmers"), ("secretary", "secretaries")):
        counts = []
        for typed in (one, many):
            opened.fill("#search", typed)
            counts.append(opened.locator("#occupations tbody tr:visible").count())
        assert counts[0] == counts[1], one
    opened.fill("#search", "hr")
    expect(opened.locator("#found")).to_contain_text("Nothing found")  # and not what holds these letters


def test_the_table_is_filtered_by_group(site: Site, page: OpenPage, tmp_path: Path) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    for file in (tmp_path / "export/occupations").iterdir():
        document = json.loads(file.read_text("utf-8"))
        major = {"code": document["code"][0], "title": f"Group {document['code'][0]}"}
        document["above"] = {"major": major, "minor": major}
        file.write_text(json.dumps(document), "utf-8")
    opened = page(address(build_site(tmp_path / "export", tmp_path / "site"), "index.html"))
    opened.locator("#group").select_option("2")
    codes = opened.locator("#occupations tbody tr:visible .code").all_text_contents()
    assert codes == ["2134", "2237"]


def test_both_readings_are_shown_at_once_and_each_task_once(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "occupations/2134.html"))
    opened.locator("#read-both").check()
    expect(opened.locator(".card:visible")).to_have_count(2)
    expect(opened.locator(".one-list .tools:visible")).to_have_count(0)
    for reading in ("both", "strict", "tools"):
        opened.locator(f"#read-{reading}").check()
        named = opened.locator(".source > summary .name")
        assert named.count()
        expect(named.first).to_be_visible()
    opened.locator("#read-both").check()
    opened.goto(address(site, "index.html"))
    expect(opened.locator("#read-both")).to_be_checked()
    heads = opened.locator("#occupations thead th:visible").all_inner_texts()
    assert len(heads) == len(set(heads)), heads
    opened.goto(address(site, "map.html"))
    expect(opened.locator("#read-strict")).to_be_checked()  # a map has one colour


def test_a_card_fits_the_frame_that_its_page_offers(site: Site, page: OpenPage) -> None:
    offered = page(address(site, "occupations/2134.html")).locator("code", has_text="<iframe").inner_text()
    sizes = re.search(r'width="(\d+)" height="(\d+)"', offered)
    assert sizes is not None
    width, height = map(int, sizes.groups())
    card = page(address(site, "embed/2134.html"))
    card.set_viewport_size({"width": width, "height": height})
    assert card.evaluate("document.documentElement.scrollHeight") <= height


def test_print_keeps_the_bar_of_a_score(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "occupations/2134.html"))
    opened.emulate_media(media="print")
    kept = opened.locator(".meter:visible .fill").first.evaluate("e => getComputedStyle(e).printColorAdjust")
    assert kept == "exact"


def test_no_name_in_the_chart_of_pay_covers_its_axis(page: OpenPage, tmp_path: Path) -> None:
    rows = records(open_run("sample").labels)
    labels = [a_label(row["task_id"], row["setting"], "not-exposed", code=row["onet_soc_code"]) for row in rows]
    export_run(a_run(tmp_path / "run", labels, tasks="sample"), tmp_path / "export", draws=0)
    opened = page(address(build_site(tmp_path / "export", tmp_path / "site"), "pay.html"))
    below = opened.evaluate("document.querySelector('.plot').getBoundingClientRect().bottom")
    names = [name.bounding_box() for name in opened.locator(".named:visible").all()]
    assert names
    assert all(box and box["y"] + box["height"] <= below + 6 for box in names)
    expect(opened.get_by_text("1 occupation is not in the chart")).to_be_visible()


def test_a_printed_page_keeps_what_its_scores_do_not_say(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "map.html"))
    opened.emulate_media(media="print")
    expect(opened.get_by_text("It does not say that the task will be automated")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_table_shows_at_which_edge_there_is_more_of_it(site: Site, page: OpenPage, dark: bool) -> None:
    opened = page(address(site, "totals.html"), width=360, height=740, dark=dark)
    region = opened.get_by_role("region", name="Totals by major group")
    assert shaded_edges(opened, region) == (False, True)
    region.evaluate("element => { element.scrollLeft = element.scrollWidth - element.clientWidth - 12; }")
    assert shaded_edges(opened, region) == (True, True)
    region.evaluate("element => { element.scrollLeft = element.scrollWidth; }")
    assert shaded_edges(opened, region) == (True, False)
    opened.set_viewport_size({"width": 1280, "height": 900})
    assert shaded_edges(opened, region) == (False, False)


def test_the_table_of_families_fits_a_phone(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "careers/index.html"), width=360, height=740)
    region = opened.get_by_role("region", name="Job families")
    assert region.evaluate("element => element.scrollWidth - element.clientWidth") == 0
    assert region.locator("tbody").evaluate(BROKEN_WORDS) == []


def test_the_switch_shows_one_reading_at_a_time_and_is_kept_for_the_next_page(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "occupations/2134.html"))
    alone, tools = opened.locator(".card.strict"), opened.locator(".card.tools")
    expect(alone).to_be_visible()
    expect(tools).to_be_hidden()
    opened.get_by_label("Model with tools").click()
    expect(tools).to_be_visible()
    expect(alone).to_be_hidden()
    opened.goto(address(site, "occupations/1121.html"))
    expect(opened.locator(".card.tools")).to_be_visible()


def test_the_switch_works_by_keyboard_and_without_scripts(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "occupations/2134.html"), scripts=False)
    opened.locator("#read-strict").focus()
    opened.keyboard.press("ArrowRight")
    expect(opened.locator(".card.tools")).to_be_visible()
    expect(opened.locator(".card.strict")).to_be_hidden()
    opened.goto(address(site, "index.html"))
    assert len(titles(opened)) == 6
    expect(opened.locator("#search")).to_be_hidden()


def test_search_finds_by_title_and_code_and_says_how_many(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "index.html"))
    every = titles(opened)
    opened.locator("#search").fill("8160")
    assert len(titles(opened)) == 1
    expect(opened.locator("#found")).to_have_text("1 row found")
    opened.locator("#search").fill(every[0].split()[0].upper())
    assert every[0] in titles(opened)
    opened.locator("#search").fill("no such trade")
    assert titles(opened) == []
    expect(opened.locator("#found")).to_have_text("Nothing found; try fewer words.")
    expect(opened.locator("#occupations")).to_be_hidden()
    opened.locator("#search").fill("nosuchtrade")
    expect(opened.locator("#found")).to_have_text("Nothing found; try another word, or its first letters.")
    opened.locator("#search").fill("")
    assert titles(opened) == every


def test_search_takes_words_in_any_order_from_related_titles_too(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "index.html"))
    behind = json.loads((site.folder.parent / "export/occupations/8160.json").read_text(encoding="utf-8"))["onet"][0][
        "title"
    ]
    words = [word.strip(",") for word in behind.split()]
    opened.locator("#search").fill(", ".join(reversed(words)))
    codes = opened.locator("#occupations tbody tr:visible .code").all_text_contents()
    assert "8160" in codes
    assert "2237" not in codes


def test_a_thin_row_is_marked_and_ranked_after_the_others(thin: Site, page: OpenPage) -> None:
    opened = page(address(thin, "index.html"))
    row = opened.locator("#occupations tr", has_text="1121")
    assert row.locator("td").first.inner_text().split()[0] == "thin"
    shade = "cell => getComputedStyle(cell).color"
    assert row.locator("td").first.evaluate(shade) != opened.locator("tr:not(.thin) td").first.evaluate(shade)
    head = opened.locator("#occupations thead th").nth(1).get_by_role("button")
    for _ in range(2):
        head.click()
        assert opened.locator("#occupations tbody .code").all_text_contents()[-1] == "1121"
    opened.goto(address(thin, "compare.html") + "?a=1121&b=8160")
    scores = opened.locator("#compared tbody tr").first.locator("td")
    assert scores.first.inner_text().endswith(" of 10, thin")
    assert scores.nth(1).inner_text().endswith(" of 10")


def test_whole_scores_of_families_come_before_those_so_far_either_way(
    site: Site, tmp_path: Path, page: OpenPage
) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    scores = {"nursing": (0, 6), "pipes-wires-and-air": (4, 4), "software-and-data": (2, 2)}
    for family, (so_far, of) in scores.items():
        path = tmp_path / f"export/families/{family}.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        brief = f"{so_far} of {of}" + " so far" * (of < 6)
        data["resilience"] |= {"score": so_far if of == 6 else None, "so_far": so_far, "of": of, "brief": brief}
        path.write_text(json.dumps(data), encoding="utf-8")
    built = build_site(tmp_path / "export", tmp_path / "site")
    opened = page(address(built, "careers/index.html"))
    for _ in range(2):
        opened.locator("thead th").nth(1).get_by_role("button").click()
        shown = opened.locator("tbody td:nth-child(2)").all_text_contents()
        assert shown == ["0 of 6", "4 of 4 so far", "2 of 2 so far"]


def test_columns_sort_by_figure_both_ways_with_gaps_last(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "index.html"))
    head = opened.locator("#occupations thead th").nth(1)
    cells = opened.locator("#occupations tbody td:nth-child(2)")
    head.get_by_role("button").click()
    down = cells.all_text_contents()
    assert head.get_attribute("aria-sort") == "descending"
    assert down == sorted(down, key=float, reverse=True)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert cells.all_text_contents() == sorted(down, key=float)
    opened.evaluate("document.querySelector('#occupations tbody td').removeAttribute('data-v')")
    gap = opened.locator("#occupations tbody th a").first.text_content()
    for _ in range(2):
        head.get_by_role("button").click()
        assert titles(opened)[-1] == gap
    name = opened.locator("#occupations thead th").first
    name.get_by_role("button").click()
    assert titles(opened) == sorted(titles(opened), key=str.lower)


def test_the_map_is_one_stop_for_tab_and_walked_by_arrows_to_a_page(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "map.html"))
    assert opened.locator(".tile[tabindex='0']").count() == 1
    opened.locator("#read-strict").focus()
    opened.keyboard.press("Tab")
    first = opened.locator(".tile:focus")
    start = first.get_attribute("aria-label")
    expect(opened.locator("#tip")).to_have_text(start or "")
    seen = {start}
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "End"):
        opened.keyboard.press(key)
        seen.add(opened.locator(".tile:focus").get_attribute("aria-label"))
    assert len(seen) >= 3
    target = opened.locator(".tile:focus").get_attribute("href")
    opened.keyboard.press("Enter")
    opened.wait_for_url(f"**/{target}")


def test_tiles_fill_the_map_and_their_colour_follows_the_reading(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "map.html"))
    sizes = opened.locator(".tile").evaluate_all("all => all.map(a => a.offsetWidth * a.offsetHeight)")
    whole = opened.locator(".map").evaluate("map => map.offsetWidth * map.offsetHeight")
    assert sum(sizes) == pytest.approx(whole, rel=0.02)
    shade = "tile => getComputedStyle(tile).backgroundColor"
    alone = [tile.evaluate(shade) for tile in opened.locator(".tile").all()]
    opened.locator("#read-tools").check()
    assert [tile.evaluate(shade) for tile in opened.locator(".tile").all()] != alone


def test_the_scatter_is_walked_along_the_scale_of_pay(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "pay.html"))
    opened.locator(".dot").first.focus()
    walked = [opened.locator("#tip").text_content()]
    for _ in range(2):
        opened.keyboard.press("ArrowRight")
        walked.append(opened.locator("#tip").text_content())
    pay = [int((text or "").split("£")[1].replace(",", "")) for text in walked]
    assert pay == sorted(pay)
    assert len(set(walked)) == 3
    place = "dots => dots.map(dot => dot.offsetTop)"
    alone = opened.locator(".dot").evaluate_all(place)
    opened.locator("#read-tools").check()
    tools = opened.locator(".dot").evaluate_all(place)
    assert all(
        two <= one for one, two in zip(alone, tools, strict=True)
    )  # higher up: exposed alone is exposed with tools
    assert tools != alone


def test_two_occupations_are_compared_and_an_address_names_one(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "compare.html") + "?a=8160")
    heads = opened.locator("#compared thead th a")
    assert (heads.first.get_attribute("href") or "") == "occupations/8160.html"
    assert opened.locator("#compared tbody tr").count() == 14  # each reading has a row of its own interval
    opened.locator("#side-b").select_option("2134")
    assert (heads.nth(1).get_attribute("href") or "") == "occupations/2134.html"
    shown = opened.locator("#compared tbody td").all_text_contents()
    assert all(" of 10" in cell for cell in shown[:2])


def test_hostile_texts_run_nothing_and_stay_inside_a_phone(hostile: Site, page: OpenPage) -> None:
    opened = page(width=360, height=740)
    for path in ("index.html", "compare.html", "occupations/11-1011.00.html", "onet/11-1011.00.html", "method.html"):
        opened.goto(address(hostile, path))
        assert opened.evaluate("window.broken") is None, path
        assert opened.locator("img").count() == 0, path
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert "<script>" in ((opened.goto(address(hostile, "index.html")) and opened.locator("tbody").inner_text()) or "")


def test_the_site_works_from_a_server_as_from_a_folder(served: str, page: OpenPage) -> None:
    opened = page(f"{served}/index.html")
    opened.locator("#occupations tbody a").first.click()
    expect(opened.locator("h1")).to_contain_text("1121")
    expect(opened.locator(".card.strict")).to_have_css("display", "grid")
    opened.get_by_role("link", name="Compare with another occupation").click()
    expect(opened.locator("#compared tbody tr").first).to_be_visible()


def test_a_page_prints_without_menu_and_names_the_reading_that_is_shown(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "occupations/2134.html"))
    opened.emulate_media(media="print")
    expect(opened.locator("nav")).to_be_hidden()
    expect(opened.locator(".switch label:visible")).to_have_text(["Model alone"])
    expect(opened.locator("h1")).to_be_visible()


def test_a_map_prints_with_its_colours_and_their_key_and_without_its_table(site: Site, page: OpenPage) -> None:
    opened = page(address(site, "map.html"))
    opened.emulate_media(media="print")
    for coloured in (".tile", ".legend i"):
        kept = opened.locator(coloured).first.evaluate("e => getComputedStyle(e).printColorAdjust")
        assert kept == "exact"
    expect(opened.locator(".legend")).to_be_visible()
    expect(opened.locator("#map-table")).to_be_hidden()
    assert "keyboard" not in opened.locator("main").inner_text()


@pytest.mark.parametrize("width", [768, 1280, 1920])
def test_every_kind_of_page_fits_screens_and_paper_without_gaps_among_its_facts(
    site: Site, thin: Site, page: OpenPage, width: int
) -> None:
    opened = page(width=width)
    for built, kinds in ((site, KINDS), (thin, ("totals", "index"))):
        for kind in kinds:
            opened.goto(address(built, f"{kind}.html"))
            assert opened.evaluate("document.documentElement.scrollWidth") <= width, kind
            for facts in opened.locator(".facts:visible").all():
                edges = facts.evaluate(
                    "e => [e, ...[...e.children].filter(c => c.offsetWidth)].map(c => c.getBoundingClientRect().right)"
                )
                assert edges[-1] == pytest.approx(edges[0], abs=2), kind  # the last row is full
            opened.emulate_media(media="print")
            opened.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
            assert opened.evaluate("document.documentElement.scrollWidth") <= 718, kind
            opened.emulate_media(media="screen")
            opened.set_viewport_size({"width": width, "height": 900})
