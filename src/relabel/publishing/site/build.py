"""Builds the site: static pages from an export.

    OUT/index.html              all occupations in a table that can be sorted and searched
    OUT/map.html                treemap: area is employment, colour is score
    OUT/pay.html                scatter plot of score against pay
    OUT/compare.html            two occupations side by side
    OUT/changes.html            changes since the baseline, if the export has one
    OUT/totals.html  method.html  sources.html  sources.pdf
    OUT/occupations/CODE.html   one page per group
    OUT/onet/CODE.html          one page per O*NET-SOC code: tasks, readings, rationales, request keys
    OUT/careers/ID.html         one page per job family, if the export has any
    OUT/assets/                 one style sheet, one script
    OUT/data/                   the tables of the export; export.zip is the complete export
    OUT/api/v1/                 occupations.json, and occupations/CODE.json
    OUT/embed/CODE.html         a card for other sites to embed; OUT/share/CODE.png, a picture, on request
    OUT/feed.xml sitemap.xml    if the address of the site is given

Links are relative, so the folder works from a disk and under any path. The same export gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typst
from jinja2 import (
    ChoiceLoader,
    Environment,
    FunctionLoader,
    PackageLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateError,
)

from relabel.errors import DataError, RelabelError, UsageError
from relabel.files import inside, os_errors, read_small
from relabel.publishing.datapackage import ExportBundle, written_atomically
from relabel.publishing.site import views
from relabel.sandbox import Sandbox, plain
from relabel.tabular import half_up, json_bytes

# Lists the files of a site, so that it can be replaced.
LISTING = "site.json"

Row = dict[str, Any]

# Files of an export that are only in `data/export.zip`, because the pages and the API have the same content.
_ONLY_ZIPPED = ("onet/", "occupations/", "datapackage.json", "tasks.")
# In bytes.
_MAX_TEMPLATE_BYTES = 1_000_000
# Control characters that HTML does not allow; they are removed.
_UNPRINTABLE = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})


@dataclass(frozen=True)
class Site:
    """A written site.

    Attributes:
        folder: Its folder.
        pages: Number of pages.
        files: Number of files, including those of the export.
        size: Total size in bytes.
    """

    folder: Path
    pages: int
    files: int
    size: int


def build_site(
    export: Path, out: Path, *, base_url: str | None = None, theme: Path | None = None, pictures: bool = False
) -> Site:
    """Build a site from an export.

    Args:
        export: A folder that `relabel export` wrote; nothing else is read.
        out: Folder to write: new, empty, or an earlier site without other files.
        base_url: Future address of the site, for canonical addresses, feed and site map.
        theme: Folder with templates, and style or script under `static/`, that replace those of the same name; a template
            may extend the built-in one as `builtin/NAME`.
        pictures: Whether to draw a share picture of each occupation (PNG, 1200 x 630), which takes a while.

    Raises:
        UsageError: The folder is used for something else, one of the two folders is inside the other, or the address is
            invalid.
        DataError: The export or a template is damaged, or the folder cannot be written.
    """
    address = _site_address(base_url)
    if theme is not None and not theme.is_dir():
        raise UsageError(f"theme folder {theme} was not found; give a folder with templates to --theme")
    inside = (export.resolve(), out.resolve())
    if inside[0].is_relative_to(inside[1]) or inside[1].is_relative_to(inside[0]):
        raise UsageError(f"{out} is inside the export {export}, or contains it; give another folder to --out")
    with written_atomically(out, "site", files_of_site) as building:
        try:
            writer = _SiteWriter(building, ExportBundle(export), address, theme, pictures=pictures)
            writer.write_all()
        except (RelabelError, OSError):
            raise
        except TemplateError as error:
            raise DataError(f"a template cannot be used ({error}); correct it, or remove --theme") from error
        except Exception as error:  # an export from elsewhere may lack or contain anything
            raise DataError(
                f"{export} is damaged ({type(error).__name__}: {str(error)[:200]}); run `relabel export` again"
                + (", or remove --theme" if theme else "")
            ) from error
    return Site(out, len(writer.pages), len(writer.files), writer.size)


def _site_address(base_url: str | None) -> str | None:
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"{base_url!r} is not the address of a site; give one such as https://example.org/jobs to --base-url"
        )
    return base_url.rstrip("/") + "/"


def files_of_site(folder: Path) -> set[str] | None:
    """Files of an earlier site, from its listing; None if the folder is not a site."""
    try:
        return {LISTING, *json.loads((folder / LISTING).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class _SiteWriter:
    def __init__(
        self, folder: Path, book: ExportBundle, address: str | None, theme: Path | None, *, pictures: bool
    ) -> None:
        self._folder, self._book, self._site_address, self._theme = folder, book, address, theme
        self._pictures = pictures
        self.pages: list[str] = []
        self.files: list[str] = []
        self._made: set[Path] = set()
        self.size = 0
        assets = self._assets()
        for name, content in assets.items():
            self._write(f"assets/{name}", content)
        self._templates, self._builtin_templates = environment(theme), environment(None)
        self._about = views.about(book)
        self._overview = views.overview(book, self._about)
        shared: dict[str, Any] = {
            "site": self._about,
            # Cache busting: browsers load a changed style sheet or script at once.
            "stamps": {name: hashlib.sha256(content).hexdigest()[:10] for name, content in assets.items()},
            "menu": [(path, name) for path, name in views.MENU.items() if path in self._overview],
            "pictures": pictures,
            "address": address,
        }
        self._templates.globals.update(plain(shared))

    def write_all(self) -> None:
        book, about = self._book, self._about
        for path, content in self._overview.items():
            self._page(path, path.replace("careers/index", "careers"), content)
        self._pages_of_codes()
        self._write("sources.pdf", sources_pdf(book, about))
        for path in book.files:
            if not path.startswith(_ONLY_ZIPPED):
                self._write(f"data/{path}", book.content(path))
        self._write("data/export.zip", archive(book))
        for path, content in api(book):
            self._write(path, content)
        for page in book.occupations:
            link = f"{self._site_address or '../'}occupations/{page['code']}.html"
            self._render(f"embed/{page['code']}.html", "card.html", card(page, about["title"], link))
            if self._pictures:
                svg = self._builtin_templates.get_template("share.svg").render(share(page, about["title"]))
                self._write(f"share/{page['code']}.png", picture(svg))
        if self._site_address is not None:
            listed = {"address": self._site_address, "pages": self.pages, "day": book.date}
            self._render("sitemap.xml", "sitemap.xml", listed)
            if book.date:  # an entry of an Atom feed needs a date
                self._render("feed.xml", "feed.xml", feed(book, about["title"], self._site_address))
            self._write("robots.txt", f"User-agent: *\nAllow: /\nSitemap: {self._site_address}sitemap.xml\n".encode())
        listing = json.dumps({"files": sorted(self.files), "export": book.package["version"]}, indent=1)
        self._write(LISTING, f"{listing}\n".encode())

    def _pages_of_codes(self) -> None:
        book = self._book
        groups, behind = views.minor_groups(book), views.groups_of_onet(book)
        tasks = {code: {task["task_id"]: task for task in page["tasks"]} for code, page in book.onet.items()}
        for page in book.occupations:
            self._page(f"occupations/{page['code']}.html", "occupation.html", views.occupation(page, groups, tasks))
        for page in book.onet.values():
            self._page(f"onet/{page['code']}.html", "onet.html", views.onet(page, behind))
        for page in book.families:
            self._page(f"careers/{page['id']}.html", "career.html", views.career(page, book))

    def _page(self, path: str, template: str, content: Mapping[str, Any]) -> None:
        canonical = self._site_address and self._site_address + ("" if path == "index.html" else path)
        given = {**content, "path": path, "root": "../" * path.count("/"), "canonical": canonical}
        page_template = self._templates.get_template(template)
        if isinstance(self._templates, Sandbox):
            text = self._templates.render(page_template.generate(plain(given)))
        else:
            text = page_template.render(given)
        self.pages.append(path)
        self._write_text(path, text)

    def _render(self, path: str, template: str, content: Row) -> None:
        """Write a file for programs and other sites; themes cannot replace its template."""
        self._write_text(path, self._builtin_templates.get_template(template).render(content))

    def _write_text(self, path: str, text: str) -> None:
        self._write(path, text.encode("utf-8", "replace").translate(None, _UNPRINTABLE))

    def _assets(self) -> dict[str, bytes]:
        """The built-in static files, replaced or complemented by those of the theme."""
        files = {file.name: file.read_bytes() for file in (Path(__file__).parent / "static").iterdir()}
        if (theme := self._theme) is not None:
            names = (p.relative_to(theme / "static").as_posix() for p in (theme / "static").rglob("*") if p.is_file())
            files |= {name: inside(theme, f"static/{name}").read_bytes() for name in names}
        return files

    def _write(self, path: str, content: bytes) -> None:
        target = self._folder / path
        if target.parent not in self._made:
            self._made.add(target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.files.append(path)
        self.size += len(content)


# Shown for a missing figure.
_NONE = "–"
_UNITS = ((1_000_000_000, "bn"), (1_000_000, "m"))
# Amounts of this many billions or more have one decimal instead of two.
_ONE_DECIMAL_FROM = 100


def money(value: float | None, sign: str = "£") -> str:
    """An amount: `£52,885`, `£126m`, `£1.77bn`, `£346.8bn`; a dash if missing."""
    if value is None:
        return _NONE
    minus, size = ("−" if value < 0 else ""), abs(value)
    for unit, name in _UNITS:
        # Choose the unit after rounding, so that 999.6 million becomes 1.00bn, not 1000m.
        if round(size / (unit / 1000)) >= 1000:
            places = 0 if name == "m" else 2 if half_up(size / unit, 2) < _ONE_DECIMAL_FROM else 1
            return f"{minus}{sign}{half_up(size / unit, places):,.{places}f}{name}"
    return f"{minus}{sign}{half_up(size, 0):,.0f}"


def whole(value: float | None) -> str:
    """A count with separators: `479,000`; a dash if missing."""
    return _NONE if value is None else f"{half_up(value, 0):,.0f}"


def tenth(value: float | None) -> str:
    """One decimal, rounded half up: `4.6`; a dash if missing."""
    return _NONE if value is None else f"{half_up(value, 1):.1f}"


def weighs(task: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """How much one label matters: its share of the score, and the score if its reading were reversed."""
    flipped = ((names["strict"], task["alpha_if_flipped"]), (names["with_tools"], task["gamma_if_flipped"]))
    scores = ", ".join(f"{name.lower()} {tenth(10 * value)}" for name, value in flipped if value is not None)
    return f"{tenth(100 * task['share'])}% of the score" + (f"; if labelled the other way: {scores}" if scores else "")


def percent(share: float | None) -> str:
    """A share (0-1) in whole percent; `under 1%` instead of `0%` unless it is 0; a dash if missing."""
    if share is None:
        return _NONE
    if 0 < share < 0.005:
        return "under 1%"
    return f"{half_up(100 * share, 0):.0f}%"


def signed(value: float | None, places: int = 1) -> str:
    """A change with its sign: `+0.4`, `−1.2`, `0.0`; a dash if missing."""
    if value is None:
        return _NONE
    rounded = half_up(abs(value), places)
    sign = "" if rounded == 0 else ("+" if value > 0 else "−")
    return f"{sign}{rounded:,.{places}f}"


def change(percent: float | None) -> str:
    """A projected change of jobs: `+3.1%`; `level` if it rounds to zero; a dash if missing."""
    if percent is None:
        return _NONE
    return f"{signed(percent)}%" if round(percent, 1) else "level"


def printable(text: str) -> str:
    """A text with unprintable characters, which XML does not allow, replaced by spaces."""
    return "".join(char if char.isprintable() else " " for char in text)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(money, whole, tenth, percent, signed, change, weighs, printable),
        *(views.plain, views.reason, views.first_upper, views.warning, views.for_readers, views.long_date),
    )
}


class _Environment(Environment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up keys of dictionaries first: faster than jinja's order, which tries attributes first."""
        return obj[attribute] if type(obj) is dict and attribute in obj else super().getattr(obj, attribute)


def environment(theme: Path | None) -> Environment:
    """The environment of templates, with autoescape. With a theme, its templates have precedence, and all are sandboxed."""
    own = PackageLoader("relabel.publishing.site", "templates")
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    if theme is None:
        made = _Environment(loader=own, undefined=StrictUndefined, **options)
        made.filters.update(_FILTERS)
        return made

    def load_template(name: str) -> str | None:
        file = inside(theme, name)
        return read_small(file, _MAX_TEMPLATE_BYTES).decode("utf-8") if file.is_file() else None

    return Sandbox(
        loader=ChoiceLoader([PrefixLoader({"builtin": own}), FunctionLoader(load_template), own]),
        filters=_FILTERS,
        steps=20_000_000,
        seconds=120,
        chars=100_000_000,
        **options,
    )


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def site_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Make a server of a site, for this machine only.

    Args:
        folder: A folder that `relabel site` wrote.
        port: The port; 0 for any free one.

    Returns:
        The server, bound but not yet serving.

    Raises:
        UsageError: The folder is not a site.
        DataError: The port is in use.
    """
    if not (folder / "index.html").is_file():
        raise UsageError(f"{folder} holds no index.html; give the folder that `relabel site --out` wrote")
    with os_errors(f"cannot serve on port {port}", "give another one to --port"):
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_QuietHandler, directory=str(folder)))


# Files for programs and for other sites: API, cards, pictures, feed, PDF.

# Increased when a key of the API changes its meaning or is removed; keys may be added at any time.
API_VERSION = "1"
_OF_READING = ("score_10", "low_10", "high_10", "band", "percentile", "wage_exposure_gbp")
_OF_SCORE = ("alpha", "beta", "gamma", "strict_10", "with_tools_10", "median_pay_gbp")
_OF_SOURCE = ("onet_soc_code", "title", "share")
# Number of O*NET occupations listed in the API: those with the largest share of the score.
_MAX_SOURCES = 3


def api(book: ExportBundle) -> Iterator[tuple[str, bytes]]:
    """The files of `api/v1`: a list of all occupations, and one document for each."""
    about: Row = {
        "api_version": API_VERSION,
        "data_version": book.package["version"],
        "date": book.date,
        "taxonomy": book.method["taxonomy"],
        "labels_by": book.method["labels"]["model_name"],
        "method": book.method["method"],
        "sample": book.method["sample"],
        "partial": book.method["partial"],
        "warning": views.warning(book.method["note"]),
    }
    listed: list[Row] = []
    for page in book.occupations:
        document = _occupation(page)
        listed.append({key: document[key] for key in ("code", "title", "status", "strict_10", "with_tools_10", "jobs")})
        yield f"api/v1/occupations/{page['code']}.json", json_bytes(about | document, indent=None)
    yield "api/v1/occupations.json", json_bytes(about | {"occupations": listed}, indent=None)


def _occupation(page: Row) -> Row:
    score = page["score"]
    readings: Row = {
        name: entry and {figure: entry[figure] for figure in _OF_READING} for name, entry in page["readings"].items()
    }
    return {
        "code": page["code"],
        "title": page["title"],
        "status": score["status"].split(":")[0],
        "reason": score["status"].partition(": ")[2] or None,
        **{figure: score[figure] for figure in _OF_SCORE},
        "readings": readings,
        "jobs": score["employees"],
        "tasks": page["counts"]["labelled"],
        "largest_sources": [{name: part[name] for name in _OF_SOURCE} for part in page["onet"][:_MAX_SOURCES]],
        "page": f"occupations/{page['code']}.html",
    }


def card(page: Row, site: str, link: str) -> Row:
    """Content of an occupation's card, which other sites can embed: under 10 kB, no scripts, no external files.

    Args:
        page: Its page in the export.
        site: Title of the site.
        link: Address of its page, relative to the card or absolute.
    """
    readings = [reading for reading in page["readings"].values() if reading]
    words = "How much of the work a language model could speed up, from 0 (none) to 10 (all)."
    if page["thin"]:
        words = "This score rests on too few labels to be reliable."
    elif not readings:
        words = "This occupation has no score."
    words = f"{words} {views.warning(page['note']) or ''}".strip()
    return {"title": page["title"][:200], "readings": readings, "words": words, "link": link, "site": site}


def share(page: Row, site: str) -> Row:
    """Content of the share picture of a page, 1200 x 630 pixels."""
    shown = card(page, site, "")
    lines = {"lines": textwrap.wrap(page["title"], 38)[:3], "words": textwrap.wrap(shown["words"], 90)}
    return shown | lines | {"readings": [] if page["thin"] else shown["readings"]}


def picture(svg: str) -> bytes:
    """Render an SVG drawing as PNG, compressed better than by the renderer: a quarter of its size."""
    import vl_convert

    png = vl_convert.svg_to_png(svg, scale=1.0)
    made, pixels, place = png[:8], b"", 8
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        content = png[place + 8 : place + 8 + size]
        place += size + 12
        if kind == b"IDAT":
            pixels += content
            continue
        if kind == b"IEND":
            made += _png_chunk(b"IDAT", zlib.compress(zlib.decompress(pixels)))
        made += _png_chunk(kind, content)
    return made


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def archive(book: ExportBundle) -> bytes:
    """The export as a ZIP file; the same export gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for path in book.files:
            made.writestr(zipfile.ZipInfo(path), book.content(path), zipfile.ZIP_DEFLATED, 6)
    return out.getvalue()


def feed(book: ExportBundle, title: str, address: str) -> Row:
    """Content of the Atom feed: this release, with the number of scores that changed since the baseline."""
    counts = book.method["counts"]
    thin = f", {counts['thin']} more thin" if counts["thin"] else ""
    words = f"{counts['scored']} occupations scored{thin}; labels by {book.method['labels']['model_name']}."
    if baseline := book.method["baseline"]:
        words += f" {baseline['counts']['changed']} scores changed since {baseline['run']}."
    about = {"title": title, "address": address, "version": book.package["version"], "words": words}
    return about | {"updated": f"{book.date}T00:00:00Z", "note": views.warning(book.method["note"])}


def sources_pdf(book: ExportBundle, site: Row) -> bytes:
    """Typeset the list of sources as PDF.

    Texts of sources are passed to the template as data, never as markup. The same input gives the same bytes with the same
    version of Typst: the document has the date of the run, not of today.

    Args:
        book: The export.
        site: As `views.about` returns it.
    """
    head, made = f"Sources: {site['title']}", [site["made"], *book.method["caveats"]]
    document = {"title": head, "sources": book.sources, "about": made}
    template = (Path(__file__).parent / "templates/sources.typ").read_bytes()
    return typst.compile(
        template,
        sys_inputs={"document": json.dumps(document, ensure_ascii=False)},
        ignore_system_fonts=True,
        timestamp=int(datetime.fromisoformat(f"{book.date or '1970-01-01'}T00:00:00+00:00").timestamp()),
    )
