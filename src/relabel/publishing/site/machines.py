"""What a site has for programs and for other sites: an API of JSON files, cards to embed, share pictures, a feed, a site map."""

from __future__ import annotations

import html
import io
import json
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from relabel.publishing.site import figures
from relabel.publishing.site.bundle import ExportBundle

Row = dict[str, Any]

API_VERSION = "1"
"""Counts up when a key of the API changes its meaning or goes; new keys may come at any time."""
_OF_READING = ("score_10", "low_10", "high_10", "band", "percentile", "wage_exposure_gbp")
_OF_SCORE = ("alpha", "beta", "gamma", "strict_10", "with_tools_10", "median_pay_gbp")
_LARGEST = 3


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
    }
    listed: list[Row] = []
    for page in book.occupations:
        found = _occupation(page)
        listed.append({key: found[key] for key in ("code", "title", "status", "strict_10", "with_tools_10", "jobs")})
        yield f"api/v1/occupations/{page['code']}.json", _json(about | found)
    yield "api/v1/occupations.json", _json(about | {"occupations": listed})


def _occupation(page: Row) -> Row:
    score = page["score"]
    readings: Row = {
        name: said and {figure: said[figure] for figure in _OF_READING} for name, said in page["readings"].items()
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
        "largest_sources": largest_sources(page),
        "page": f"occupations/{page['code']}.html",
    }


def largest_sources(page: Row) -> list[Row]:
    """The O*NET occupations that a group's score owes most to, with their share (0-1)."""
    return [{name: part[name] for name in ("onet_soc_code", "title", "share")} for part in page["onet"][:_LARGEST]]


def _json(document: Row) -> bytes:
    return (json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n").encode()


_CARD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: card</title><meta name="description" content="Exposure of {title} to language models"><style>
body{{margin:0;font:16px/1.4 system-ui,sans-serif;color:#1c2430;background:#fff}}
@media (prefers-color-scheme:dark){{body{{color:#e7ebf0;background:#171c23}}a{{color:#8ab8ff}}}}
.card{{border:1px solid #9aa5b1;border-radius:8px;padding:12px 16px;max-width:420px}}
h1{{font-size:1.1em;margin:0 0 8px}}dl{{margin:0}}dt{{float:left}}dd{{text-align:right;margin:0;font-weight:600}}
.bar{{clear:both;height:8px;background:#d5dbe1;margin:2px 0 8px}}.bar i{{display:block;height:8px;background:#2b6cb0}}
p{{margin:4px 0 0;font-size:.85em}}
</style></head><body><div class="card"><h1>{title}</h1><dl>{rows}</dl><p dir="auto">{words}</p>
<p><a href="{link}" target="_blank" rel="noopener">{site}</a></p></div></body></html>
"""


def card(page: Row, site: str, link: str) -> bytes:
    """The card of an occupation that another site can show in a frame; under 10 kB, no script, nothing loaded.

    Args:
        page: Its page in the export.
        site: Title of the site.
        link: Address of its page, from the card's own place or whole.
    """
    rows = "".join(
        f"<dt>{html.escape(said['name'])}</dt><dd>{figures.tenth(said['score_10'])} of 10</dd>"
        f'<div class="bar"><i style="width:{10 * said["score_10"]:.0f}%"></i></div>'
        for said in page["readings"].values()
        if said
    )
    words = "How much of the work a language model could speed up, from 0 (none) to 10 (all)."
    if page["thin"]:
        words = "This score rests on too little to be read."
    elif not rows:
        words = "This occupation has no score."
    words = html.escape(f"{words} {figures.warning(page['note']) or ''}".strip())
    title = html.escape(page["title"][:200])
    return _CARD.format(
        title=title, rows=rows, words=words, link=html.escape(link, quote=True), site=html.escape(site)
    ).encode("utf-8", "replace")


def picture(page: Row, site: str) -> bytes:
    """The picture that is shown where a page is shared: PNG, 1200 x 630."""
    import vl_convert

    title = textwrap.wrap(page["title"], 38)[:3]
    lines = "".join(
        f'<text x="70" y="{120 + 66 * number}" font-size="54" font-weight="bold" fill="#1c2430">{_xml(line)}</text>'
        for number, line in enumerate(title)
    )
    said = [said for said in page["readings"].values() if said and not page["thin"]]
    for number, one in enumerate(said):
        y = 370 + 110 * number
        lines += (
            f'<text x="70" y="{y}" font-size="38" fill="#1c2430">{_xml(one["name"])}</text>'
            f'<text x="1130" y="{y}" font-size="54" font-weight="bold" text-anchor="end" fill="#2b6cb0">'
            f"{figures.tenth(one['score_10'])} of 10</text>"
            f'<rect x="70" y="{y + 18}" width="1060" height="20" fill="#d5dbe1"/>'
            f'<rect x="70" y="{y + 18}" width="{106 * one["score_10"]:.0f}" height="20" fill="#2b6cb0"/>'
        )
    if not said:
        lines += '<text x="70" y="400" font-size="38" fill="#1c2430">No score that could be read</text>'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="630" font-family="sans-serif">'
        f'<rect width="1200" height="630" fill="#fff"/>{lines}'
        f'<text x="70" y="590" font-size="28" fill="#52606d">{_xml(site)}</text></svg>'
    )
    return _repacked(vl_convert.svg_to_png(svg, scale=1.0))


def _xml(text: str) -> str:
    return html.escape("".join(char if char.isprintable() else " " for char in text))


def _repacked(png: bytes) -> bytes:
    """The same picture with its pixels compressed well; the renderer is in a hurry."""
    at, made, pixels = 8, [png[:8]], b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        at += size + 12
        if kind == b"IDAT":
            pixels += body
            continue
        if kind == b"IEND" and pixels:
            made.append(_chunk(b"IDAT", zlib.compress(zlib.decompress(pixels), 6)))
        made.append(_chunk(kind, body))
    return b"".join(made)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def archive(book: ExportBundle) -> bytes:
    """The whole export as one ZIP file; the same export gives the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for path in book.files:
            made.writestr(zipfile.ZipInfo(path), book.content(path), zipfile.ZIP_DEFLATED, 6)
    return out.getvalue()


def feed(book: ExportBundle, title: str, address: str) -> bytes:
    """The Atom feed of releases: this release, with how many scores moved since the baseline."""
    updated = f"{book.date or '1970-01-01'}T00:00:00Z"
    version = book.package["version"]
    words = f"{book.method['counts']['scored']} occupations scored; labels by {book.method['labels']['model_name']}."
    if baseline := book.method["baseline"]:
        words += f" {baseline['counts']['changed']} scores changed since {baseline['run']}."
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<title>{_xml(title)}</title><id>{_xml(address)}</id><updated>{updated}</updated>"
        f'<link href="{_xml(address)}feed.xml" rel="self"/><link href="{_xml(address)}"/><author><name>relabel</name></author>'
        f"<entry><title>{_xml(title)}, {_xml(version)}</title><id>{_xml(address)}#{_xml(version)}</id>"
        f'<updated>{updated}</updated><link href="{_xml(address)}"/><summary>{_xml(words)}</summary></entry></feed>\n'
    ).encode()


def sitemap(address: str, pages: list[str], day: str | None) -> bytes:
    """The site map of all pages."""
    changed = f"<lastmod>{day}</lastmod>" if day else ""
    # Paths are made of codes that an export holds to letters, digits, dots and hyphens; the address is escaped.
    lines = [f"<url><loc>{_xml(address)}{'' if page == 'index.html' else page}</loc>{changed}</url>" for page in pages]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return (head + "\n".join(lines) + "\n</urlset>\n").encode()
