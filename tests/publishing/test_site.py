"""What a site made from an export holds; without a browser."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import zipfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from site_builders import CLOSING, HOSTILE, hostile_site, sample_answers, sample_site, tasks_on

from relabel.careers.pages import FamilyPage
from relabel.errors import DataError, UsageError
from relabel.publishing.export import export_run
from relabel.publishing.methodology import BANDS
from relabel.publishing.site import build
from relabel.publishing.site.build import Site, build_site, money, site_server
from relabel.publishing.site.views import for_readers
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.scoring.options import Choices
from relabel.tabular import records
from run_builders import MakeRun, a_label, a_run, answered


class Seen(HTMLParser):
    """Links, ids and text of a page, as a browser would read them."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._in_script = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += given.items()
        self.links += [given[name] for name in ("href", "src") if name in given]
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "script":
            self._in_script = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pages(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.html") if "data" not in p.relative_to(folder).parts)


def broken_links(folder: Path) -> list[str]:
    """Links that lead nowhere, or out of the folder by an absolute path."""
    ids = {page: Seen(page) for page in pages(folder)}
    broken: list[str] = []
    for page, seen in ids.items():
        for link in seen.links:
            parts = urlsplit(link)
            if parts.scheme in {"https", "http", "data"}:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            whole = not parts.path.startswith("/") and target.is_file()
            if whole and parts.fragment and target in ids:
                whole = parts.fragment in ids[target].ids
            if not whole:
                broken.append(f"{page.relative_to(folder)}: {link}")
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return sample_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return hostile_site(tmp_path_factory.mktemp("hostile"))


@pytest.mark.slow
def test_each_group_and_each_onet_code_has_a_page_and_the_export_lies_beside(site: Site) -> None:
    export = site.folder.parent / "export"
    for kind in ("occupations", "onet"):
        data = {p.stem for p in (export / kind).iterdir()}
        assert {p.stem for p in (site.folder / kind).iterdir()} == data
    with zipfile.ZipFile(site.folder / "data/export.zip") as whole:
        assert {name: whole.read(name) for name in whole.namelist()} == content(export)
    tables = {name: data for name, data in content(export).items() if "/" not in name and "tasks." not in name}
    beside = content(site.folder / "data")
    assert {name: beside[name] for name in tables if name != "datapackage.json"} == {
        name: data for name, data in tables.items() if name != "datapackage.json"
    }
    assert site.files == len(content(site.folder))
    assert site.pages == sum(path.parent.name != "embed" for path in pages(site.folder))


def test_links_are_relative_and_whole(site: Site, hostile: Site) -> None:
    assert broken_links(site.folder) == []
    assert broken_links(hostile.folder) == []


def test_titles_and_descriptions_are_there_and_tell_pages_apart(site: Site) -> None:
    found: Counter[str] = Counter()
    for page in pages(site.folder):
        text = page.read_text(encoding="utf-8")
        title, described = (
            re.search("<title>(.+)</title>", text),
            re.search('<meta name="description" content="(.+)">', text),
        )
        assert title, page
        assert described, page
        found[title[1]] += 1
        assert text.count("<h1") == 1, page
        assert '<html lang="en">' in text
    assert max(found.values()) == 1


def test_the_sample_says_sample_on_every_page(site: Site) -> None:
    for page in pages(site.folder):
        assert "SAMPLE" in Seen(page).text, page


def test_a_partial_export_says_partial_on_every_page(sample_run: MakeRun, tmp_path: Path) -> None:
    run = sample_run(status="incomplete", without=("29-1141.00",))
    export_run(run, tmp_path / "export", allow_partial=True, draws=0)
    built = build_site(tmp_path / "export", tmp_path / "site")
    for page in pages(built.folder):
        assert "These scores are partial: they rest on 50 of 60 tasks, and the others" in Seen(page).text, page
    without = Seen(tmp_path / "site/occupations/2237.html").text
    assert "No score" in without
    assert "No labelled tasks for O*NET-SOC 2019 29-1141.00" in without


CODES = ("11-3051.00", "15-1252.00", "15-1254.00", "29-1141.00", "47-2152.00", "51-1011.00")


def made_thin(make: MakeRun, folder: Path, *thin: str) -> Site:
    export_run(make(thin=thin), folder / "export", allow_partial=True, draws=100)
    return build_site(folder / "export", folder / "site")


def test_a_thin_score_is_a_grey_figure_without_band_meaning_or_advice(sample_run: MakeRun, tmp_path: Path) -> None:
    built = made_thin(sample_run, tmp_path, "11-3051.00")
    page = (built.folder / "occupations/1121.html").read_text(encoding="utf-8")
    text = " ".join(Seen(built.folder / "occupations/1121.html").text.split())
    assert text.count(" of 10, thin") == 2
    assert page.count('card thin"') == 2
    assert 'class="meter"' not in page
    for said in ("What this score means", "can do now", "Higher than", *(band["label"] for band in BANDS)):
        assert said not in text, said
    assert "(thin)" in page.split('name="description"')[1].split(">")[0]
    assert "of the group's task weight has labels" in text
    assert not re.search(r"\bthin\b", Seen(built.folder / "occupations/8160.html").text.split("About this page")[0])
    index = (built.folder / "index.html").read_text(encoding="utf-8")
    rows = index.split("<tbody>")[1].split("</tr>")
    assert {code: row.count("<small>thin</small>") for row in rows for code in re.findall(r"(\d{4})\.html", row)} == {
        "1121": 2, "2134": 0, "2237": 0, "5250": 0, "5315": 0, "8160": 0,
    }  # fmt: skip
    tile = (built.folder / "map.html").read_text(encoding="utf-8").split('href="occupations/1121.html" class="tile ')[1]
    assert tile.startswith("srx trx")
    assert "(thin)" in tile.split("</a>")[0]
    dots = (built.folder / "pay.html").read_text(encoding="utf-8").split("<details>")[0]
    assert "occupations/8160.html" in dots
    assert "occupations/1121.html" not in dots


def test_thin_shares_of_a_role_are_marked_on_the_page_of_its_family(sample_run: MakeRun, tmp_path: Path) -> None:
    built = made_thin(sample_run, tmp_path, "29-1141.00")
    career = (built.folder / "careers/nursing.html").read_text(encoding="utf-8")
    assert career.count("<small>thin</small>") == 2


def test_totals_leave_thin_occupations_out_and_say_how_many(sample_run: MakeRun, tmp_path: Path) -> None:
    built = made_thin(sample_run, tmp_path, "11-3051.00")
    summed = json.loads((built.folder / "data/methodology.json").read_text(encoding="utf-8"))
    totals, ranges = summed["totals"], summed["intervals"]
    assert (totals["groups"], totals["thin_groups"]) == (4, 1)
    for name in ("index", "totals"):
        text = " ".join(Seen(built.folder / f"{name}.html").text.split())
        assert (
            "over 4 occupations (1 with too few labels left out)"
            if name == "index"
            else "4 of 6 occupations (1 with too few labels left out)"
        ) in text
        for measure in ("alpha", "beta", "gamma"):
            key = f"wage_exposure_{measure}_gbp"
            own = [money(ranges["own"]["totals"][key][end]) for end in ("low", "high")]
            low, mid, high = (money(ranges["other"]["totals"][key][end]) for end in ("low", "mid", "high"))
            assert f"{money(totals[key])}95% interval: {own[0]} to {own[1]}" in text
            assert f"with the sample's own labels: about {mid}, {low} to {high}" in text
    assert "Occupations scored5 of 6and 1 with too few labels" in " ".join(
        Seen(built.folder / "index.html").text.split()
    )


def test_there_are_no_totals_where_nothing_is_scored(sample_run: MakeRun, tmp_path: Path) -> None:
    built = made_thin(sample_run, tmp_path, *CODES)
    index = " ".join(Seen(built.folder / "index.html").text.split())
    assert "Occupations scored0 of 6and 6 with too few labels" in index
    assert "<dt>Wage exposure" not in (built.folder / "index.html").read_text(encoding="utf-8")
    assert "No sum is shown, because no occupation" in index
    totals = Seen(built.folder / "totals.html").text
    assert "No total: no occupation" in totals
    assert "£" not in totals
    assert broken_links(built.folder) == []


def test_the_same_export_gives_the_same_bytes_wherever_it_is_written(site: Site, tmp_path: Path) -> None:
    again = build_site(site.folder.parent / "export", tmp_path / "deep" / "site")
    assert content(again.folder) == content(site.folder)
    build_site(site.folder.parent / "export", tmp_path / "deep" / "site")
    assert content(again.folder) == content(site.folder)
    assert not any(str(tmp_path).encode() in data for data in content(again.folder).values())


def test_a_page_shows_both_readings_without_any_script(site: Site) -> None:
    page = json.loads((site.folder.parent / "export/occupations/2134.json").read_text(encoding="utf-8"))
    seen = Seen(site.folder / "occupations/2134.html")
    text = " ".join(seen.text.split())
    for said in page["readings"].values():
        assert f"{said['score_10']:.1f} of 10 95% interval {said['low_10']:.1f} to {said['high_10']:.1f}" in text
        assert said["band_label"] in text
        assert said["meaning"] in text
        assert all(line in text for line in said["now"])
        assert said["higher_than"].capitalize() in text
        other = said["other"]
        held = f"{other['score_10']:.1f} (95% range {other['score_10_low']:.1f} to {other['score_10_high']:.1f})"
        assert f"{other['words']} {held}" in text
        assert f"{said['tasks_text']} tasks can be sped up" in text
    for part in page["onet"]:
        assert f"{part['title']} {part['onet_soc_code']}" in text
        assert f"{part['strict']} tasks" in text
    for task in tasks_on(site.folder.parent / "export", page):
        assert task["text"] in text
    assert text.count("With the sample's own labels instead of") == 2


def test_each_task_stands_once_in_the_full_list(site: Site) -> None:
    page = json.loads((site.folder.parent / "export/occupations/2134.json").read_text(encoding="utf-8"))
    text = Seen(site.folder / "occupations/2134.html").text.split("All tasks")[1]
    for task in tasks_on(site.folder.parent / "export", page):
        assert text.count(task["text"]) == 1, task["text"]


def test_hostile_texts_are_shown_and_never_run(hostile: Site) -> None:
    shown = "".join(Seen(page).text for page in pages(hostile.folder))
    for text in HOSTILE:
        assert text in shown
    for page in pages(hostile.folder):
        raw, seen = page.read_text(encoding="utf-8"), Seen(page)
        assert CLOSING not in raw, page
        assert not [name for name, _ in seen.attributes if name.startswith("on")], page
        assert all("window.broken" not in script or script.startswith("{") for script in seen.scripts), page
        assert "49" not in [task.strip() for task in seen.text.split("\n")]


def test_json_ld_can_be_read_and_names_the_occupation(site: Site, hostile: Site) -> None:
    block, data = (s for s in Seen(site.folder / "occupations/1121.html").scripts if "schema.org" in s)
    assert json.loads(data)["@type"] == "Dataset"
    about = json.loads(block)
    assert about["@type"] == "Occupation"
    assert about["occupationalCategory"] == "UK SOC 2020 1121"
    assert about["estimatedSalary"][0]["currency"] == "GBP"
    (block,) = [s for s in Seen(site.folder / "index.html").scripts if "schema.org" in s]
    assert json.loads(block)["@type"] == "Dataset"
    block, _ = (s for s in Seen(hostile.folder / "occupations/15-1252.00.html").scripts if "schema.org" in s)
    assert json.loads(block)["name"] == CLOSING


def test_an_address_gives_canonical_links_and_a_site_map(site: Site, tmp_path: Path) -> None:
    assert b"canonical" not in content(site.folder)["index.html"]
    assert "sitemap.xml" not in content(site.folder)
    built = build_site(site.folder.parent / "export", tmp_path / "site", base_url="https://example.org/jobs")
    index = (built.folder / "index.html").read_text(encoding="utf-8")
    assert '<link rel="canonical" href="https://example.org/jobs/">' in index
    page = (built.folder / "occupations/1121.html").read_text(encoding="utf-8")
    assert '<link rel="canonical" href="https://example.org/jobs/occupations/1121.html">' in page
    listed = re.findall("<loc>(.+?)</loc>", (built.folder / "sitemap.xml").read_text(encoding="utf-8"))
    assert len(listed) == built.pages
    assert "https://example.org/jobs/occupations/1121.html" in listed
    assert "Sitemap: https://example.org/jobs/sitemap.xml" in (built.folder / "robots.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "address", ["example.org", "ftp://example.org", "https://", "https://example.org/?a=1", "/jobs"]
)
def test_what_is_no_address_is_refused(site: Site, address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the address of a site"):
        build_site(site.folder.parent / "export", tmp_path / "site", base_url=address)


def test_a_theme_takes_the_place_of_single_templates_and_styles(site: Site, tmp_path: Path) -> None:
    theme = tmp_path / "theme"
    (theme / "static").mkdir(parents=True)
    (theme / "base.html").write_text(
        '{% extends "builtin/base.html" %}{% block footer %}<p>Made by us. {{ "<b>" }}</p>{% endblock %}',
        encoding="utf-8",
    )
    (theme / "static/site.css").write_text("body { color: red; }", encoding="utf-8")
    (theme / "static/logo.svg").write_text("<svg/>", encoding="utf-8")
    built = build_site(site.folder.parent / "export", tmp_path / "site", theme=theme)
    index = (built.folder / "index.html").read_text(encoding="utf-8")
    assert "<p>Made by us. &lt;b&gt;</p>" in index
    assert "What can language models do" in index
    assert (built.folder / "assets/site.css").read_text(encoding="utf-8") == "body { color: red; }"
    assert (built.folder / "assets/logo.svg").exists()
    assert broken_links(built.folder) == []
    (theme / "base.html").write_text("{% extends ", encoding="utf-8")
    with pytest.raises(DataError, match="template cannot be used"):
        build_site(site.folder.parent / "export", tmp_path / "site", theme=theme)
    assert (built.folder / "index.html").read_text(encoding="utf-8") == index
    with pytest.raises(UsageError, match=r"theme folder .* was not found"):
        build_site(site.folder.parent / "export", tmp_path / "site", theme=tmp_path / "none")


def stranger(site: Site, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site.folder.parent / "export", tmp_path / "export"))


def with_resource(export: Path, name: str) -> None:
    package = json.loads((export / "datapackage.json").read_text(encoding="utf-8"))
    package["resources"].append({"name": "x", "path": name})
    (export / "datapackage.json").write_text(json.dumps(package), encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["../secret.txt", "{tmp}/secret.txt", "occupations/../../secret.txt", "..\\secret.txt", "/etc/hostname", "", ".", "a//b", ".env", "link.txt", "out/secret.txt"]
)  # fmt: skip
def test_an_export_reaches_no_file_outside_it(name: str, site: Site, tmp_path: Path) -> None:
    export = stranger(site, tmp_path)
    (tmp_path / "secret.txt").write_text("planted")
    (export / "link.txt").symlink_to(tmp_path / "secret.txt")
    (export / "out").symlink_to(tmp_path)
    with_resource(export, name.format(tmp=tmp_path))
    with pytest.raises(DataError, match=r"not a plain path|symbolic link"):
        build_site(export, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("file", ["datapackage.json", "methodology.json", "sources.json", "occupations/1121.json"])
def test_a_file_of_an_export_is_never_a_link(file: str, site: Site, tmp_path: Path) -> None:
    export = stranger(site, tmp_path)
    file = next(
        p.relative_to(export).as_posix()
        for p in sorted((export / Path(file).parent).glob("*"))
        if p.name == Path(file).name or "/" in file
    )
    (export / file).replace(tmp_path / "elsewhere.json")
    (export / file).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match="symbolic link"):
        build_site(export, tmp_path / "site")


@pytest.mark.parametrize("code", ["../../escaped", "/escaped", "a/b", "..", "", "x\ny", None, ["x"], "x" * 99])
def test_a_code_with_a_path_in_it_writes_nothing(code: object, site: Site, tmp_path: Path) -> None:
    export = stranger(site, tmp_path)
    for folder in ("occupations", "onet"):
        page = min((export / folder).glob("*.json"))
        page.write_text(json.dumps(json.loads(page.read_text(encoding="utf-8")) | {"code": code}), encoding="utf-8")
        with pytest.raises(DataError, match=r"does not name its page by a plain code|is damaged"):
            build_site(export, tmp_path / "site")
        assert {p.name for p in tmp_path.iterdir()} == {"export"}


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"sources": 3}', "[" * 100_000])
def test_a_page_that_is_anything_is_one_sentence(content: str, site: Site, tmp_path: Path) -> None:
    for name in ("methodology.json", "sources.json", "datapackage.json"):
        export = stranger(site, tmp_path)
        (export / name).write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"damaged|holds no export"):
            build_site(export, tmp_path / "site")
        shutil.rmtree(export)


@pytest.mark.slow
def test_a_theme_runs_nothing_and_follows_no_link(site: Site, tmp_path: Path) -> None:
    export, theme = site.folder.parent / "export", tmp_path / "theme"
    (theme / "static").mkdir(parents=True)
    for attack in (
        "{{ ''.__class__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ site.items.__self__ }}",
        "{% include '../secret.html' %}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    ):
        (theme / "base.html").write_text(attack, encoding="utf-8")
        with pytest.raises(DataError):
            build_site(export, tmp_path / "site", theme=theme)
    (theme / "base.html").unlink()
    (tmp_path / "secret").write_text("planted")
    for link in ("base.html", "static/site.css", "static/more.css"):
        (theme / link).symlink_to(tmp_path / "secret")
        with pytest.raises(DataError, match="symbolic link"):
            build_site(export, tmp_path / "site", theme=theme)
        (theme / link).unlink()


def test_a_table_that_was_cut_after_the_export_is_not_published(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    table = tmp_path / "export/occupations.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(DataError, match=r"occupations\.parquet was changed or cut after the export"):
        build_site(tmp_path / "export", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no export"):
        build_site(tmp_path / "nowhere", tmp_path / "site")


def test_an_export_of_another_version_or_with_a_damaged_file_is_refused(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    (tmp_path / "export/occupations/1121.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"is damaged .*; run `relabel export` again"):
        build_site(tmp_path / "export", tmp_path / "site")
    package = tmp_path / "export/datapackage.json"
    package.write_text(
        package.read_text(encoding="utf-8").replace('"export_format": ', '"export_format": 9'), encoding="utf-8"
    )
    with pytest.raises(DataError, match="another version of relabel"):
        build_site(tmp_path / "export", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_in_other_use_is_left_alone(site: Site, tmp_path: Path) -> None:
    export = site.folder.parent / "export"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    (tmp_path / "mine/site.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="not a file of an earlier site"):
        build_site(export, tmp_path / "mine")
    with pytest.raises(UsageError, match="inside the export"):
        build_site(export, export / "site")
    with pytest.raises(UsageError, match="inside the export"):
        build_site(export, export.parent)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_the_list_of_sources_is_a_pdf_too(site: Site) -> None:
    assert (site.folder / "sources.pdf").read_bytes().startswith(b"%PDF-")


def test_only_a_site_is_served_and_only_on_this_machine(site: Site, tmp_path: Path) -> None:
    with site_server(site.folder, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(DataError, match="cannot serve on port"):
            site_server(site.folder, server.server_port)
    with pytest.raises(UsageError, match=r"holds no index\.html"):
        site_server(tmp_path, 0)


def test_changes_are_listed_with_their_causes_and_told_on_the_page(site: Site) -> None:
    seen = Seen(site.folder / "changes.html")
    assert "the labels of the run baseline before" in " ".join(seen.text.split())
    assert "The earlier scores are partial: they rest on 50 of 60 tasks" in seen.text
    assert [link for link in seen.links if link.startswith("occupations/")]
    export = (site.folder / "data/changes.csv").read_text(encoding="utf-8").splitlines()
    head = export[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=False)) for line in export[1:]]
    moved = [row for row in rows if row["change"] not in {"", "0.0"}]
    assert moved
    assert seen.links.count("occupations/2134.html") == len([row for row in moved if row["code"] == "2134"])
    assert "Since the baseline" in Seen(site.folder / "occupations/2134.html").text


def test_thin_scores_are_marked_among_the_changes_and_in_the_feed(sample_run: MakeRun, tmp_path: Path) -> None:
    run, baseline = sample_run(folder="now", thin=("11-3051.00",)), sample_run(folder="before")
    export_run(run, tmp_path / "export", baseline=baseline, allow_partial=True, draws=0)
    folder = build_site(tmp_path / "export", tmp_path / "site", base_url="https://example.org").folder
    assert "1121, thin" in Seen(folder / "changes.html").text
    assert "A score marked thin" in Seen(folder / "changes.html").text
    assert "occupations scored, 1 more thin;" in (folder / "feed.xml").read_text(encoding="utf-8")


def test_a_career_page_explains_resilience_and_lists_roles(site: Site) -> None:
    page = json.loads((site.folder / "data/families/nursing.json").read_text(encoding="utf-8"))
    text = " ".join(Seen(site.folder / "careers/nursing.html").text.split())
    assert page["name"] in text
    assert f"{page['resilience']['so_far']} of {page['resilience']['of']} so far" in text
    index = Seen(site.folder / "careers/index.html").text
    assert index.count(" of 2 so far") == len(list((site.folder / "data/families").iterdir()))
    assert "4 of 4 so far is not full marks" in index
    for part in page["resilience"]["parts"]:
        assert part["name"] in text
    for role in page["roles"]:
        assert f"{role['title']} {role['onet_soc_code']}" in text
    for task in page["responsibilities"]:
        assert task["text"] in text
    assert "`" not in text


def test_a_career_page_with_all_three_parts_shows_the_score_and_the_ratings(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    path = tmp_path / "export/families/nursing.json"
    page = json.loads(path.read_text(encoding="utf-8"))
    page["epoch"] = {
        "dimensions": {"empathy": 2.5, "presence": 1.5, "opinion": 2.0, "creativity": 1.0, "hope": 2.0},
        "total": 9.0,
        "occupations": 5,
        "words": "means over 5 of 5 occupations",
    }
    page["resilience"] |= {"score": 2, "so_far": 2, "of": 6, "words": "2 of 6"}
    page["outlook"] |= {"change_percent": -14.0, "start": 2024, "end": 2034}
    page["exposure"] |= {"strict": 0.1, "with_tools": 0.2}
    FamilyPage.model_validate(page)
    path.write_text(json.dumps(page), encoding="utf-8")
    built = build_site(tmp_path / "export", tmp_path / "site")
    text = " ".join(Seen(built.folder / "careers/nursing.html").text.split())
    for said in ("2 of 6", "9.0 of 25", "empathy 2.5, presence 1.5", "−14.0%", "Jobs, 2024 to 2034", "10%"):
        assert said in text, said


def test_a_career_page_gives_the_scale_of_its_bars_of_pay(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.folder.parent / "export", tmp_path / "export")
    path = tmp_path / "export/families/nursing.json"
    page = json.loads(path.read_text(encoding="utf-8"))
    means = {"p10": 40_000.0, "p25": 50_000.0, "median": 60_000.0, "p75": 70_000.0, "p90": 90_000.0}
    pay = {"period": "May 2024", "source": "bls-oews-2024", "weighted": means, "employment": 1000.0}
    page["pay"] = [pay | {"lowest_median": 60_000.0, "highest_median": 60_000.0, "words": "no mean of p75"}]
    FamilyPage.model_validate(page)
    path.write_text(json.dumps(page), encoding="utf-8")
    text = Seen(build_site(tmp_path / "export", tmp_path / "site").folder / "careers/nursing.html").text
    assert "Each bar runs from $0 to $90,000." in text
    assert "No mean of 75th percentile" in text


def test_an_incoherent_pair_counts_as_exposed_under_both_readings(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text(
        "task_id,onet_soc_code,title,text,task_type,importance\n1,11-1011.00,C,One.,Core,3\n2,11-1011.00,C,Two.,Core,3\n"
    )
    run = answered(
        tmp_path / "run",
        {
            ("11-1011.00", "1"): {"strict": True, "with-tools": False},
            ("11-1011.00", "2"): {"strict": False, "with-tools": False},
        },
        tasks=str(tasks),
    )
    export_run(run, tmp_path / "export", Choices(taxonomy="onet-soc", tasks=str(tasks)), draws=0)
    page = json.loads((tmp_path / "export/occupations/11-1011.00.json").read_text(encoding="utf-8"))
    assert (page["score"]["alpha"], page["score"]["gamma"]) == (0.5, 0.5)
    assert (page["counts"]["strict"]["text"], page["counts"]["with_tools"]["text"]) == ("1 of 2", "1 of 2")
    built = build_site(tmp_path / "export", tmp_path / "site")
    text = " ".join(Seen(built.folder / "occupations/11-1011.00.html").text.split())
    assert "A model with tools can speed up 1 of 2" in text
    assert "contradict each other" in Seen(built.folder / "onet/11-1011.00.html").text


def test_a_run_of_one_reading_has_pages_without_a_switch(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text(
        "task_id,onet_soc_code,title,text,task_type,importance\n1,11-1011.00,C,One.,Core,3\n2,11-1011.00,C,Two.,Core,3\n"
    )
    run = answered(
        tmp_path / "run",
        {("11-1011.00", "1"): {"strict": True}, ("11-1011.00", "2"): {"strict": False}},
        tasks=str(tasks),
        settings=("strict",),
    )
    export_run(run, tmp_path / "export", Choices(taxonomy="onet-soc", tasks=str(tasks)), draws=0)
    built = build_site(tmp_path / "export", tmp_path / "site")
    page = Seen(built.folder / "occupations/11-1011.00.html")
    text = " ".join(page.text.split())
    assert "A model alone can speed up 1 of 2" in text
    assert "Model with tools" not in text
    assert "read-tools" not in page.ids
    assert "5.0 of 10" in text


PAY = "code,employees,median_pay_gbp\n1121,479000,52885\n8160,24000,35092\n"


@pytest.mark.slow
@pytest.mark.mirror
def test_the_published_labels_and_the_old_method_show_the_published_figures(tmp_path: Path) -> None:
    (tmp_path / "pay.csv").write_text(PAY, encoding="utf-8")
    run = open_run("eloundou-2023:gpt4")
    export_run(run, tmp_path / "export", Choices(method="site-2026", pay=str(tmp_path / "pay.csv")), draws=0)
    built = build_site(tmp_path / "export", tmp_path / "site")
    text = {
        code: " ".join(Seen(built.folder / f"occupations/{code}.html").text.split())
        for code in ("1121", "8160", "2133")
    }
    for said in (
        "0.7 of 10", "7.3 of 10", "£1.77bn", "£18.49bn", "2 of 27 tasks", "25 of 27 tasks", "479,000", "£52,885",
        "Higher than 32% of the 379 scored occupations", "A model alone can speed up 2 of 27", "draws on 6 US occupations",
    ):  # fmt: skip
        assert said in text["1121"], said
    for said in (
        "1.5 of 10", "6.4 of 10", "£126m", "£539m", "3 of 20 tasks", "13 of 20 tasks", "24,000", "£35,092",
        "Higher than 71% of the 379 scored occupations",
    ):  # fmt: skip
        assert said in text["8160"], said
    page = (built.folder / "occupations/1121.html").read_text(encoding="utf-8")
    tasks = re.findall(r"<li><b>([\d.]+)</b>", page.split('id="all"')[0].split("most important tasks")[1])
    assert tasks[0] == "4.6"
    assert "No score" in text["2133"]
    assert len(list((built.folder / "occupations").iterdir())) == 412
    largest = max((built.folder / "occupations").iterdir(), key=lambda p: p.stat().st_size)
    assert largest.stat().st_size < 60_000, largest
    for name in ("index", "map", "pay", "compare", "totals"):
        size = len(gzip.compress((built.folder / f"{name}.html").read_bytes()))
        assert size < 400_000, name
    assert broken_links(built.folder) == []


def test_the_api_lists_each_occupation_and_has_a_document_for_it(site: Site) -> None:
    whole = json.loads((site.folder / "api/v1/occupations.json").read_text(encoding="utf-8"))
    assert whole["api_version"] == "1"
    for row in whole["occupations"]:
        one = json.loads((site.folder / f"api/v1/occupations/{row['code']}.json").read_text(encoding="utf-8"))
        export = json.loads((site.folder.parent / f"export/occupations/{row['code']}.json").read_text(encoding="utf-8"))
        assert {name: one[name] for name in row} == row
        assert (one["gamma"], one["data_version"]) == (export["score"]["gamma"], whole["data_version"])
        assert [part["title"] for part in one["largest_sources"]] == [part["title"] for part in export["onet"][:3]]


def test_a_card_to_embed_is_small_and_loads_nothing(site: Site, hostile: Site) -> None:
    for folder in (site.folder, hostile.folder):
        for path in (folder / "embed").iterdir():
            text = path.read_text(encoding="utf-8")
            assert len(text.encode()) < 10_000
            assert "<script" not in text
            assert "src=" not in text.replace("src=x onerror", "") or folder == hostile.folder


def test_share_pictures_are_drawn_on_request_without_a_browser(site: Site, tmp_path: Path) -> None:
    built = build_site(
        site.folder.parent / "export", tmp_path / "site", base_url="https://example.org/jobs", pictures=True
    )
    png = (built.folder / "share/1121.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (1200, 630)
    assert len(png) < 60_000
    assert 'content="https://example.org/jobs/share/1121.png"' in (built.folder / "occupations/1121.html").read_text()
    feed = ElementTree.fromstring((built.folder / "feed.xml").read_text(encoding="utf-8"))
    assert feed.find("{http://www.w3.org/2005/Atom}entry/{http://www.w3.org/2005/Atom}summary") is not None


def test_what_leaves_a_site_carries_the_warning_of_its_scores(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(build, "picture", lambda svg: drawn.append(svg) or b"")
    export, said = site.folder.parent / "export", "say nothing about a real occupation"
    folder = build_site(export, tmp_path / "site", base_url="https://example.org/jobs", pictures=True).folder
    assert len(drawn) == 6
    assert all(said in " ".join(re.findall(r">([^<>]*)</text>", svg)) for svg in drawn)
    for path in ("index.html", "occupations/2134.html"):
        head = (folder / path).read_text("utf-8").split("</head>")[0]
        described = re.findall(r'name="description" content="([^"]*)"', head) + re.findall(r'ld\+json">(.*)</', head)
        assert all(said in text for text in described if '"Occupation"' not in text), path
    for path in ("feed.xml", "api/v1/occupations.json", "api/v1/occupations/2134.json"):
        assert said in (folder / path).read_text("utf-8"), path


def test_pages_name_the_embedded_model_and_say_when_labels_of_others_were_imported(tmp_path: Path) -> None:
    run = sample_answers(tmp_path / "run", engine="import", ended_at="2026-04-03T10:00:00Z", model="local")
    export_run(run, tmp_path / "export", draws=0)
    folder = build_site(tmp_path / "export", tmp_path / "site").folder
    for page in ("index.html", "occupations/2134.html"):
        assert "Labels by the embedded model, imported on 3 April 2026." in Seen(folder / page).text, page


def test_the_method_page_names_readings_and_raters_and_leaves_the_words_of_a_trial_alone(tmp_path: Path) -> None:
    rubric = load_rubric("exposure")
    trial = rubric.validity[0].model_copy(update={"raters": "two people who read strictly, not with-tools"})
    tried = rubric.model_copy(update={"validity": (trial,)})
    export_run(sample_answers(tmp_path / "run", rubric=tried), tmp_path / "export", draws=0)
    text = Seen(build_site(tmp_path / "export", tmp_path / "site").folder / "method.html").text
    assert "240 tasks by two people who read strictly, not with-tools." in text
    assert "model alone 19% (17% by GPT-4 in 2023, 14% by people in 2023); model with tools 41%" in text
    assert "in three codes 0.508 with GPT-4 in 2023" in text


def test_labels_without_a_date_have_no_feed(tmp_path: Path) -> None:
    export_run(open_run("sample"), tmp_path / "export", draws=0)
    folder = build_site(tmp_path / "export", tmp_path / "site", base_url="https://example.org/jobs").folder
    assert (folder / "sitemap.xml").exists()
    assert not (folder / "feed.xml").exists()
    assert "feed.xml" not in (folder / "index.html").read_text("utf-8")


def test_the_range_of_a_total_holds_no_impossible_sums(tmp_path: Path) -> None:
    rows = records(open_run("sample").labels)
    labels = [
        a_label(row["task_id"], row["setting"], "not-exposed" if place else "exposed", code=row["onet_soc_code"])
        for place, row in enumerate(rows)
    ]
    export_run(a_run(tmp_path / "run", labels, tasks="sample"), tmp_path / "export", draws=1000)
    method = json.loads((tmp_path / "export/methodology.json").read_text(encoding="utf-8"))
    lows = [total["low"] for part in ("own", "other") for total in method["intervals"][part]["totals"].values()]
    assert len(lows) == 6
    assert min(lows) >= 0


def test_remarks_for_readers_name_no_columns() -> None:
    said = for_readers("no mean of p75, p90; columns _gold: the score")
    assert said == "no mean of 75th percentile, 90th percentile; the score"


def test_figures_beside_names_are_explained(site: Site) -> None:
    for path, said in (
        ("onet/15-1252.00.html", "the share of its score that comes from this occupation"),
        ("compare.html", "A percentile is the place among the scored occupations"),
    ):
        assert said in Seen(site.folder / path).text, path
