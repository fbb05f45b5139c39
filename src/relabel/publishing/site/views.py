"""The content of each kind of page, prepared from an export: data, positions in charts, and remarks as sentences."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import accumulate
from statistics import fmean, linear_regression
from typing import Any, NamedTuple

from relabel.manifest import EMBEDDED_ADVICE
from relabel.publishing.datapackage import WORDS, ExportBundle
from relabel.sources.tables import is_table_file

Row = dict[str, Any]

_ADVICE = re.compile(r" \(rate them with `[^`]*`\)")
_UNGROUPED = {"code": "", "title": "All occupations"}
# Maximum number of occupations named in the chart of pay, for each reading.
_MAX_NAMED = 7
_COMPARED = ["code", "title", "status", "thin", "jobs", "pay", "strict_10", "with_tools_10", "strict", "with_tools"]
# Figures that depend on a score, and on those of other groups.
_DERIVED_FIGURES = ("percentile", "wage_exposure_gbp")
_ENDS = {"mid": "", "low": "_low", "high": "_high"}
# Sources of UK groups, which are not used by pages of US careers.
_NOT_FOR_CAREERS = ("ons-", "bls-isco08", "bls-soc2010")
_MEASURES = {"alpha": "Model alone", "beta": "Tools at half weight", "gamma": "Model with tools"}


# Names of the overview pages in the menu; pages without data in the export are omitted.
MENU = {
    "index.html": "Occupations",
    "map.html": "Map",
    "pay.html": "Pay",
    "compare.html": "Compare",
    "changes.html": "What changed",
    "careers/index.html": "Careers",
    "totals.html": "Totals",
    "method.html": "Method",
    "sources.html": "Sources",
}


def about(book: ExportBundle) -> Row:
    """Content that is common to all pages."""
    method = book.method
    counts = method["counts"]
    money = any(page["score"]["employees"] is not None for page in book.occupations)
    verb = {"import": "imported", "carry": "carried over"}.get(method["labels"]["engine"], "made")
    dated = f", {verb} on {long_date(book.date)}" if book.date else ""
    thin = (
        f", and {counts['thin']:,} more with too few labels for their scores to be interpreted"
        if counts["thin"]
        else ""
    )
    made = (
        f"Scores for {counts['scored']:,} of {counts['groups']:,} occupations{thin}, from {counts['tasks_labelled']:,} labelled "
        f"tasks. Labels by {method['labels']['model_name']}"
    )
    return {
        "title": "Task exposure by occupation",
        "uk": method["taxonomy"] == "uk-soc2020",
        "own_tasks": is_table_file(method["tasks"]),
        "taxonomy": method["score"]["taxonomy_name"],
        "model": method["labels"]["model_name"],
        "baseline": method["baseline"] and _labels_of(method["baseline"], method["model"]),
        "date": book.date,
        "made": f"{made}{dated}.",
        "dated": dated,
        "version": book.package["version"],
        "note": warning(method["note"]),
        "majors": list({row["code"]: row for page in book.occupations if (row := page["above"].get("major"))}.values()),
        "counts": counts,
        "caution": method["score"]["caution"],
        "bands": method["score"]["bands"],
        "readings": [r for r in ("strict", "with_tools") if any(p["readings"][r] for p in book.occupations)],
        "reading_names": method["score"]["readings"],
        "money": money,
        "wage": method["wage"],
        "population": method["pay_population"],
        "licences": [entry.get("title", entry["name"]) for entry in book.package["licenses"]],
    }


def _labels_of(baseline: Row, model: str) -> str:
    """The labels of a baseline in words: named by their model or, if that is unchanged, by their run."""
    if baseline["model"] == model:
        return f"the labels of the run {baseline['run']}"
    return f"labels by {baseline['model_name']}"


def rows(book: ExportBundle) -> list[Row]:
    """One row per occupation, for tables, charts and the comparison."""
    listed: list[Row] = []
    for page in book.occupations:
        score = page["score"]
        row = {name: score[name] for name in ("code", "title", "strict_10", "with_tools_10", "status")}
        row |= {
            "jobs": score["employees"],
            "pay": score["median_pay_gbp"],
            "major": page["above"].get("major", _UNGROUPED),
            "thin": page["thin"],
            "words": _search_words(page),
        }
        for reading in ("strict", "with_tools"):
            entry = page["readings"][reading]
            row[reading] = entry and {
                "band": entry["band_label"],
                "low": entry["low_10"],
                "high": entry["high_10"],
                "other": entry["other"] and {name: entry["other"][f"score_10{end}"] for name, end in _ENDS.items()},
                "percentile": entry["percentile"],
                "wage": entry["wage_exposure_gbp"],
            }
        listed.append(row)
    return listed


def _search_words(page: Row) -> str:
    """Distinct search words of a group: from its titles, and those of the main O*NET occupations behind it."""
    behind = [part["title"] or "" for part in page["onet"] if part["tasks_here"]]
    titles = [page["code"], page["title"], *page["job_titles"], *behind]
    words = dict.fromkeys(word.strip("(),;:") for title in titles for word in title.casefold().split())
    # Omit words that are part of another, because the search matches substrings.
    distinct = [word for word in words if word and not any(word in other for other in words if other != word)]
    every = " ".join(titles).casefold()
    return " ".join(
        [*distinct, *(short for short, phrases in WORDS["search"].items() if any(words in every for words in phrases))]
    )


def overview(book: ExportBundle, site: Row) -> dict[str, Row]:
    """Content of the overview pages, by path.

    Args:
        book: The export.
        site: As `about` returns it.
    """
    listed, ranges = rows(book), book.method["intervals"]
    brief = {kind: ((ranges or {}).get(kind) or {}).get("words") for kind in ("own", "other")}
    summed = totals(book) if site["money"] else None
    pages: dict[str, Row] = {
        "index.html": {"short": " ".join(WORDS["search"]), "rows": listed, "totals": summed, "intervals": ranges}
    }
    if site["money"]:
        placed = [row for row in listed if row["jobs"]]
        paid = [row for row in listed if row["pay"] and not row["thin"] and (row["strict"] or row["with_tools"])]
        pages |= {
            "map.html": {"regions": treemap(placed), "rows": placed, "left_out": len(listed) - len(placed)},
            "pay.html": {"plot": scatter(paid), "rows": paid, "left_out": len(listed) - len(paid)},
            "totals.html": {"totals": summed, "intervals": ranges, "workforce": book.method["totals"]},
        }
    compared = [{name: row[name] for name in _COMPARED} for row in listed]
    pages["compare.html"] = {"rows": compared, "brief": brief}
    if book.changes is not None:
        thin = [row["code"] for row in listed if row["thin"]]
        pages["changes.html"] = changes(book.changes, book.method) | {"thin": thin}
    if book.families:
        ranked = sorted(
            book.families,
            key=lambda family: (-family["resilience"]["of"], -family["resilience"]["so_far"], family["name"]),
        )
        pages["careers/index.html"] = {"families": ranked}
    sources = {"sources": book.sources, "package": book.package, "method": book.method}
    return pages | {"method.html": {"method": book.method}, "sources.html": sources}


def minor_groups(book: ExportBundle) -> dict[str | None, list[Row]]:
    """The occupations of each minor group, by its code; None for those without one."""
    groups: dict[str | None, list[Row]] = defaultdict(list)
    for page in book.occupations:
        groups[_minor(page)].append({name: page[name] for name in ("code", "title", "thin")})
    return groups


def _minor(page: Row) -> str | None:
    return page["above"].get("minor", {}).get("code")


def occupation(page: Row, groups: Mapping[str | None, list[Row]], onet: Mapping[str, Mapping[str, Row]]) -> Row:
    """Content of the page of a group.

    Args:
        page: Its page in the export.
        groups: As `minor_groups` returns them.
        onet: Tasks by O*NET-SOC code and id.
    """
    tasks = {
        code: [onet[code][task] | {"onet_soc_code": code, "task_id": task} for task, _ in listed]
        for code, listed in page["tasks"].items()
    }
    titles = {part["onet_soc_code"]: part["title"] for part in page["onet"]}

    def named(refs: Sequence[Row] | None) -> list[Row]:
        return [
            onet[ref["onet_soc_code"]][ref["task_id"]] | ref | {"from": titles[ref["onet_soc_code"]]}
            for ref in refs or ()
        ]

    parts = [part for part in page["onet"] if part["tasks_here"]]
    near = groups[minor] if (minor := _minor(page)) is not None else []
    return {
        "page": page,
        "readings": {
            name: entry and entry | {"top": named(entry["top_tasks"])} for name, entry in page["readings"].items()
        },
        "matter_most": named(page["matter_most"]),
        "why": status_reason(page),
        "parts_here": [part | {"split": split(tasks.get(part["onet_soc_code"], []))} for part in parts],
        "near": [other for other in near if other["code"] != page["code"]],
        "causes": WORDS["causes"],
    }


def status_reason(page: Row) -> str:
    """Why a group has no score, or a thin one, in words for readers."""
    kind, _, reason = page["score"]["status"].partition(": ")
    if match := re.match(r"(borrowed from .*, because )?no task statements for (.*)", reason):
        sentence = f"O*NET has no task statements for the US occupations that match this group ({match[2]})"
        if not match[1]:
            return f"{sentence}."
        lent = [part["title"] for part in page["onet"]]
        from_whom = "; ".join([*lent[:3], f"{len(lent) - 3} more"] if len(lent) > 3 else lent)
        return f"{sentence}. The figure is borrowed from their nearest relatives in the US classification: {from_whom}."
    if match := re.search(r"only ([\d.]+%) of what is linked", reason):
        return f"Only {match[1]} of the US occupations that match this group have task statements in O*NET."
    return for_readers(f"{reason[:1].upper()}{reason[1:]}.") if kind != "scored" else ""


def split(tasks: Sequence[Row]) -> Row:
    """Tasks of a code by exposure: to the model alone, only with software around it, neither, or unlabelled."""
    tasks_by_kind: dict[str, list[Row]] = {"alone": [], "software": [], "person": [], "unknown": []}
    for task in tasks:
        kind = "alone" if task["strict"] == "exposed" else "software" if task["with_tools"] == "exposed" else "person"
        tasks_by_kind["unknown" if task["strict"] is None and task["with_tools"] is None else kind].append(task)
    alone, software = len(tasks_by_kind["alone"]), len(tasks_by_kind["software"])
    labelled = len(tasks) - len(tasks_by_kind["unknown"])
    return tasks_by_kind | {"of": labelled, "strict": alone, "with_tools": alone + software}


def groups_of_onet(book: ExportBundle) -> dict[str, list[Row]]:
    """The groups that each O*NET-SOC code contributes to, largest share first."""
    behind: dict[str, list[Row]] = defaultdict(list)
    for page in book.occupations:
        for part in page["onet"]:
            group = {name: page[name] for name in ("code", "title", "thin")}
            behind[part["onet_soc_code"]].append(group | {"share": part["share"]})
    return {code: sorted(groups, key=lambda g: (-g["share"], g["code"])) for code, groups in behind.items()}


def onet(page: Row, behind: dict[str, list[Row]]) -> Row:
    """Content of the page of an O*NET-SOC code."""
    tasks = sorted(page["tasks"], key=lambda task: -(task["importance"] or 0))
    return {"page": page, "split": split(tasks), "groups": behind.get(page["code"], [])}


def treemap(placed: Sequence[Row]) -> list[Row]:
    """The major groups with their occupations, each with its box in a wide and in a tall treemap, in percent.

    Args:
        placed: Rows with jobs.
    """
    by_major: dict[str, list[Row]] = defaultdict(list)
    for row in placed:
        by_major[row["major"]["code"]].append(row)
    regions = sorted(by_major.values(), key=lambda inside: (-sum(row["jobs"] for row in inside), inside[0]["code"]))
    sizes = [sum(row["jobs"] for row in inside) for inside in regions]
    groups: list[Row] = [
        {"tiles": [{"row": row} for row in sorted(inside, key=lambda row: (-row["jobs"], row["code"]))]}
        for inside in regions
    ]
    for form, whole in (("wide", Box(0, 0, 160, 90)), ("tall", Box(0, 0, 90, 200))):
        for region, outer in zip(groups, halved(sizes, whole), strict=True):
            region[form] = _percent(outer, whole)
            boxes = halved([tile["row"]["jobs"] for tile in region["tiles"]], outer)
            for tile, box in zip(region["tiles"], boxes, strict=True):
                tile[form] = _percent(box, whole)
    return groups


def _percent(box: Box, whole: Box) -> tuple[float, ...]:
    return tuple(round(100 * part / side, 3) for part, side in zip(box, (whole.width, whole.height) * 2, strict=True))


class Box(NamedTuple):
    """A rectangle: left, top, width and height, in the unit of the whole area."""

    x: float
    y: float
    width: float
    height: float


def halved(values: Sequence[float], area: Box) -> list[Box]:
    """Divide an area among values: a binary treemap, which cuts each area across its longer side into parts as equal as possible.

    Args:
        values: Above 0.
        area: The area to divide.

    Returns:
        A box for each value, in the same order; its area is proportional to the value.
    """
    if len(values) < 2:
        return [area] * len(values)
    sums = list(accumulate(values))
    count = 1 + min(range(len(values) - 1), key=lambda place: abs(2 * sums[place] - sums[-1]))
    share, (x, y, width, height) = sums[count - 1] / sums[-1], area
    if width < height:
        parts = Box(x, y, width, share * height), Box(x, y + share * height, width, (1 - share) * height)
    else:
        parts = Box(x, y, share * width, height), Box(x + share * width, y, (1 - share) * width, height)
    return [*halved(values[:count], parts[0]), *halved(values[count:], parts[1])]


def scatter(paid: Sequence[Row]) -> Row:
    """Positions of the occupations in a scatter plot, in percent: median pay from the left, score from the top.

    Args:
        paid: Rows with pay and a score.
    """
    if not paid:
        return {"ticks": [], "dots": [], "named": []}
    low, high = min(row["pay"] for row in paid) * 0.92, max(row["pay"] for row in paid) * 1.08

    def along(pay: float) -> float:
        """Position on the logarithmic axis of pay."""
        return round(100 * math.log(pay / low) / math.log(high / low), 2)

    dots = [
        {
            "row": row,
            "x": along(row["pay"]),
            "strict": _chart_y(row["strict_10"]),
            "with_tools": _chart_y(row["with_tools_10"]),
        }
        for row in sorted(paid, key=lambda row: (row["pay"], row["code"]))
    ]
    round_ones = (step * 10**decade for decade in range(10) for step in (1, 2, 3, 5, 7))
    ticks = [{"value": tick, "x": along(tick)} for tick in round_ones if low <= tick <= high]
    return {"ticks": ticks, "dots": dots, "named": [*_outliers(dots, "strict"), *_outliers(dots, "with_tools")]}


def _chart_y(score_10: float | None) -> float | None:
    return None if score_10 is None else round(100 - 10 * score_10, 1)


def _outliers(dots: Sequence[Row], reading: str) -> list[Row]:
    """Occupations to name in the chart: the best and worst paid, and outliers of the regression on pay, if there is room."""
    placed = [dot for dot in dots if dot[reading] is not None]
    if len(placed) < 3:
        return []
    xs, ys = ([dot[axis] for dot in placed] for axis in ("x", reading))
    slope, start = linear_regression(xs, ys) if len(set(xs)) > 1 else (0.0, fmean(ys))
    far = sorted(placed, key=lambda dot: -abs(dot[reading] - start - slope * dot["x"]))
    named: list[Row] = []
    for dot in [placed[-1], placed[0], *far]:
        free = all(abs(dot[reading] - other["y"]) > 5 or abs(dot["x"] - other["x"]) > 18 for other in named)
        if free and len(named) < _MAX_NAMED:
            named.append({"x": dot["x"], "y": dot[reading], "title": dot["row"]["title"], "reading": reading})
    return named


def totals(book: ExportBundle) -> Row:
    """Wage exposure, in total and by major group, over occupations with a score, jobs and pay.

    Thin scores are excluded, as in the totals of the export, and counted separately.
    """
    lines: dict[str, Row] = {}
    every = _total_row({"code": "", "title": "All occupations"})
    for page in book.occupations:
        score = page["score"]
        major = page["above"].get("major", _UNGROUPED)
        line = lines.setdefault(major["code"], _total_row(major))
        for into in (line, every):
            into["groups"] += 1
            into["all_jobs"] += score["employees"] or 0
            pay = score[f"{book.method['wage']}_pay_gbp"]
            if score["employees"] is None or pay is None or not any(page["readings"].values()):
                continue
            if page["thin"]:
                into["thin"] += 1
                continue
            wages = score["employees"] * pay
            into["counted"] += 1
            into["jobs"] += score["employees"]
            into["wages"] += wages
            for measure in _MEASURES:
                if score[measure] is not None:
                    into[measure] = (into[measure] or 0) + score[measure] * wages
    return {"every": every, "lines": list(lines.values()), "measures": _MEASURES}


def _total_row(major: Row) -> Row:
    counted = dict.fromkeys(("groups", "counted", "thin", "jobs", "all_jobs", "wages"), 0)
    return dict(major) | counted | dict.fromkeys(_MEASURES)


def changes(listed: Sequence[Row], method: Row) -> Row:
    """Changes since the baseline, largest first, with their causes."""
    moved = [
        row
        for row in listed
        # The percentile can change even if the score does not.
        if row["change"] != 0 or any(row[f"{name}_before"] != row[f"{name}_after"] for name in _DERIVED_FIGURES)
    ]
    moved.sort(key=lambda row: (row["change"] is None, -abs(row["change"] or 0), row["code"], row["measure"]))
    return {
        "changed": moved,
        "codes": len({row["code"] for row in moved}),
        "names": _MEASURES,
        # Causes without any effect have no column.
        "causes": [cause for cause in WORDS["causes"] if any(row[cause] for row in moved)],
        "method": method,
    }


def resilience_sentence(page: Row) -> str:
    """The resilience of a family in one sentence: first the known parts, then the unknown ones."""
    phrases: list[str] = []
    for part in page["resilience"]["parts"]:
        if part["points"] is not None:
            level = part["id"] == "growing-demand" and part["figure"] == 0
            phrases.append("jobs stay level" if level else WORDS["resilience"][part["id"]][part["points"]])
    unknown = [part["name"].lower() for part in page["resilience"]["parts"] if part["points"] is None]
    sentence = _join_with_and(phrases) if phrases else "none of its parts could be judged"
    return f"{sentence[0].upper()}{sentence[1:]}" + (
        f"; {_join_with_and(unknown)} could not be judged yet." if phrases and unknown else "."
    )


def _join_with_and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# Names of career steps; with fewer than five, those before the last are omitted.
_STEP_NAMES = ("Entry", "Skilled", "Experienced", "Advanced", "Expert")
_PAY_STEPS = (("Entry", "p10", "p25"), ("Established", "p25", "p75"), ("Expert", "p75", "p90"))


def progression(page: Row) -> list[Row]:
    """Career steps from entry to expert, each with its range of pay: by job zone or, if all roles share one, by pay.

    Returns:
        For each step `name, zone` (O*NET job zone; None for steps by pay), `low, high` (US dollars a year), `start` and
        `width` (percent of the common scale) and `roles`; empty if pay is unknown.
    """
    by_zone: dict[int, list[Row]] = defaultdict(list)
    for role in page["roles"]:
        if role["preparation"]["job_zone"] and role["pay"] and role["pay"][0]["median"] is not None:
            by_zone[role["preparation"]["job_zone"]].append(role)
    if len(by_zone) > 1:
        names = zip([*_STEP_NAMES[: len(by_zone) - 1], _STEP_NAMES[-1]], sorted(by_zone), strict=True)
        paid = {zone: [role["pay"][0]["median"] for role in roles] for zone, roles in by_zone.items()}
        steps = [(name, zone, min(paid[zone]), max(paid[zone]), by_zone[zone]) for name, zone in names]
    else:
        means = page["pay"][0]["weighted"] if page["pay"] else {}
        ends = [(name, means.get(low), means.get(high)) for name, low, high in _PAY_STEPS]
        steps = [(name, None, low, high, []) for name, low, high in ends if low is not None and high is not None]
    most = max((high for _, _, _, high, _ in steps), default=1)
    return [
        dict(zip(("name", "zone", "low", "high", "roles"), step, strict=True))
        | {
            "start": min(round(100 * step[2] / most, 1), 98.0),  # room for a dot
            "width": round(100 * (step[3] - step[2]) / most, 1),
        }
        for step in steps
    ]


def career(page: Row, book: ExportBundle) -> Row:
    """Content of the page of a job family."""
    titles = {s["id"]: s["title"] for s in book.sources if not s["id"].startswith(_NOT_FOR_CAREERS)}
    return {
        "page": page,
        "sentence": resilience_sentence(page),
        "steps": progression(page),
        "sources": sorted({titles[use["source"]] for use in page["sources"] if use["source"] in titles}),
        "family_ids": {family["id"] for family in book.families},
        "onet_codes": set(book.onet),
    }


def plain(text: str) -> str:
    """A remark as a sentence on a page: without advice on commands at its end, and with a full stop."""
    sentence = _ADVICE.sub("", text).strip()
    return sentence if sentence.endswith(".") else f"{sentence}."


def reason(text: str) -> str:
    """The part of a remark after its first colon, as a sentence: `employment …` of `Growing demand gives 2 of 2: employment …`."""
    return first_upper(plain(text.split(": ", 1)[-1]))


def warning(note: str | None, subject: str = "These scores") -> str | None:
    """The warning at the top of a document, from its note: that it is of the sample, of the embedded model, or partial; None for neither."""
    sentences = ["SAMPLE: the tasks, labels, jobs and pay are invented and say nothing about a real occupation."]
    sentences = sentences if "SAMPLE: " in (note or "") else []
    if EMBEDDED_ADVICE[1:].rstrip(".") in (note or ""):  # within a note it begins with a small letter
        sentences.append(EMBEDDED_ADVICE)
    if rests := re.search(r"PARTIAL: .*?rests on ([\d,]+ of [\d,]+) tasks", note or ""):
        sentences.append(f"{subject} are partial: they rest on {rests[1]} tasks, and the others have no label.")
    return " ".join(sentences) or None


def for_readers(text: str) -> str:
    """A remark for a page, without names of columns."""
    return re.sub(r"\bp(\d\d)\b", r"\1th percentile", re.sub(r"columns _\w+: ", "", text))


def long_date(day: str) -> str:
    """A date in words: `3 April 2026`."""
    read = date.fromisoformat(day[:10])
    return f"{read.day} {read:%B %Y}"


def first_upper(text: str) -> str:
    """A text with its first letter in upper case, and all others unchanged."""
    return text[:1].upper() + text[1:]
