"""What a site has for programs and for other sites: an API of JSON files, cards to embed, share pictures, a feed, a site map."""

from __future__ import annotations

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
_OF_SOURCE = ("onet_soc_code", "title", "share")
_LARGEST = 3
"""O*NET occupations that the API names: those that a score owes most to."""


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
        "largest_sources": [{name: part[name] for name in _OF_SOURCE} for part in page["onet"][:_LARGEST]],
        "page": f"occupations/{page['code']}.html",
    }


def _json(document: Row) -> bytes:
    return (json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n").encode()


def card(page: Row, site: str, link: str) -> Row:
    """Content of the card of an occupation that another site can show in a frame: under 10 kB, no script, nothing loaded.

    Args:
        page: Its page in the export.
        site: Title of the site.
        link: Address of its page, from the card's own place or whole.
    """
    readings = [said for said in page["readings"].values() if said]
    words = "How much of the work a language model could speed up, from 0 (none) to 10 (all)."
    if page["thin"]:
        words = "This score rests on too few labels to be reliable."
    elif not readings:
        words = "This occupation has no score."
    words = f"{words} {figures.warning(page['note']) or ''}".strip()
    return {"title": page["title"][:200], "readings": readings, "words": words, "link": link, "site": site}


def share(page: Row, site: str) -> Row:
    """Content of the picture that is shown where a page is shared, 1200 x 630."""
    said = [said for said in page["readings"].values() if said and not page["thin"]]
    return {"lines": textwrap.wrap(page["title"], 38)[:3], "readings": said, "site": site}


def picture(svg: str) -> bytes:
    """A drawing as PNG."""
    import vl_convert

    return _repacked(vl_convert.svg_to_png(svg, scale=1.0))


def printable(text: str) -> str:
    """A text without characters that XML may not hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def _repacked(png: bytes) -> bytes:
    """The same picture, compressed better than the renderer does."""
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


def feed(book: ExportBundle, title: str, address: str) -> Row:
    """Content of the Atom feed of releases: this release, with how many scores moved since the baseline."""
    words = f"{book.method['counts']['scored']} occupations scored; labels by {book.method['labels']['model_name']}."
    if baseline := book.method["baseline"]:
        words += f" {baseline['counts']['changed']} scores changed since {baseline['run']}."
    about = {"title": title, "address": address, "version": book.package["version"]}
    return about | {"updated": f"{book.date or '1970-01-01'}T00:00:00Z", "words": words}
