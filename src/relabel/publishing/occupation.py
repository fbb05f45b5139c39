"""The JSON pages of an export: one for each group of the taxonomy, and one for each O*NET-SOC code behind them.

A group's page has its score, the O*NET-SOC codes behind it and their tasks under both readings. Rationales and request keys
are only on the page of a task's O*NET-SOC code, because one code can be behind many groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from relabel.publishing.methodology import READING_NAMES, Reading, band_of, other_words
from relabel.rubric import Measure
from relabel.scoring.explain import READING_LABELS, TaskKey
from relabel.scoring.options import SAMPLE
from relabel.scoring.table import ScoreTable, is_covered
from relabel.sources import onet, ons
from relabel.tabular import CLEAN, half_up, records
from relabel.task import TASK_KEY, is_onet_release

# A group's page has the tasks of its largest codes, until they make up this share (0-1) of the group.
MAIN_SHARE = 0.6
# It also has the tasks of every code with at least this share (0-1) of the group.
LARGE_SHARE = 0.1
# Maximum number of tasks on it, except that the first code is always complete.
MAX_TASKS = 60
# Number of most important tasks listed on a page.
TOP_TASKS = 3

# From this many scored groups on, a percentile is shown as the share of groups with a lower score.
_MANY_GROUPS = 100
_PLACES = 6

# The two readings of a task's code.
READINGS: tuple[Reading, ...] = ("strict", "with_tools")

_SCORE_COLUMNS: Mapping[Reading, tuple[Measure, str]] = {
    "strict": ("alpha", "strict_10"),
    "with_tools": ("gamma", "with_tools_10"),
}

Row = dict[str, Any]

_TASK_COLUMNS = ["task_id", "onet_soc_code", "title", "text", "task_type", "importance", "weight", "code"]
_NOT_IN_ONET = ("onet_soc_code", "weight", "incoherent")
_ROUNDED = ("share", "alpha_if_flipped", "gamma_if_flipped")
_TOP_TASK_FIELDS = ("task_id", "onet_soc_code", "text", "importance")
_ABOUT = ("run", "model", "method", "taxonomy", "weights", "tasks", "sample", "partial", "note", "missing_measures")


def task_frame(table: ScoreTable, answers: Mapping[TaskKey, list[Row]]) -> pd.DataFrame:
    """All tasks of the list with their codes and readings, sorted by O*NET-SOC code and order in the list.

    Args:
        table: A score table.
        answers: As `answers_by_task` returns them.

    Returns:
        Columns `task_id, onet_soc_code, title, text, task_type, importance, weight, code, strict, with_tools,
        incoherent, request_keys, note`; readings are `exposed`, `not-exposed`, or missing if unlabelled; `request_keys` are
        separated by spaces, in the order of settings and samples.
    """
    frame = table.task_values[_TASK_COLUMNS].copy()
    frame["code"] = frame["code"].astype("object").where(frame["code"].notna(), None).astype("str")
    for reading in READINGS:
        frame[reading] = table.task_values[reading].map(READING_LABELS).astype("str")
    frame["incoherent"] = table.task_values["incoherent"].astype(bool)
    keys = zip(frame["onet_soc_code"], frame["task_id"], strict=True)
    traced = [" ".join(a["request_key"] for a in answers.get(key, ()) if a["request_key"]) or None for key in keys]
    frame["request_keys"] = pd.Series(traced, index=frame.index, dtype="str")
    frame["note"] = pd.Series(sample_notes(table), index=frame.index, dtype="str")
    return frame.sort_values("onet_soc_code", kind="stable", ignore_index=True)


def sample_notes(table: ScoreTable) -> str | None:
    """The part of the table's note that applies to labels: whether they are partial or of the sample."""
    marks = [part for part in (table.note or "").split("; ") if part.startswith(("PARTIAL", "SAMPLE"))]
    return "; ".join(marks) or None


class PageBuilder:
    """Builds the JSON pages of an export.

    Args:
        table: A score table, with intervals or without.
        tasks: As `task_frame` returns them.
        answers: As `answers_by_task` returns them.
    """

    def __init__(self, table: ScoreTable, tasks: pd.DataFrame, answers: Mapping[TaskKey, list[Row]]) -> None:
        self._answers, self._table = answers, table
        described = table.describe()
        self._about: Row = {key: described[key] for key in _ABOUT}
        self._tasks: dict[str, list[Row]] = defaultdict(list)
        for task in records(tasks.drop(columns=["title", "request_keys", "note"]).merge(self._weights(), on=TASK_KEY)):
            self._tasks[task["onet_soc_code"]].append(task)
        # By importance, unrated last; ties in the order of the list.
        self._by_importance = {
            code: sorted(listed, key=lambda task: -(task["importance"] or 0)) for code, listed in self._tasks.items()
        }
        self._counts = {code: _counts(listed) for code, listed in self._tasks.items()}
        self._scores = table.occupation_rows

    def _weights(self) -> pd.DataFrame:
        """Each task's weight in the score of its code, and that score if the task's reading were reversed."""
        table = self._table
        weighed = table.task_values[TASK_KEY].assign(share=table.map.part)
        for measure, _ in _SCORE_COLUMNS.values():
            scores = table.occupations[measure].to_numpy()[table.map.occupation]
            weighed[f"{measure}_if_flipped"] = table.flipped(measure, scores, table.map.part)
        return weighed

    def groups(self) -> Iterator[tuple[str, Row]]:
        """One page for each code of the table, scored or not.

        Yields:
            A code, and its page as a dict: `description, description_by, job_titles, above` (see `group_texts`), `score`
            (row of the table), `thin` (whether the score is based on too few labels), `scored_groups`, `readings` (by
            reading: score, band with its texts, interval, estimate by others, percentile, wage exposure and the most
            important exposed tasks, those of the largest code first; None without a score, and without band and texts if
            it is thin), `matter_most` (for a low strict score, the most important tasks and whether they still need a
            person; otherwise None), `onet` (O*NET-SOC codes with their share of the score, largest first, among ties most
            tasks first, with counts, the path of their own page and whether their tasks are included), `tasks` (for each
            main code, see `MAIN_SHARE` and `MAX_TASKS`, its tasks by importance as pairs of id and share of the score; text
            and readings are on the code's own page), `tasks_left_out` (why tasks of other codes are not included; None if
            all are), and `counts` over the tasks of all codes.
        """
        behind: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for row in records(self._table.shares):
            behind[row["code"]].append((row["onet_soc_code"], row["share"]))
        texts = group_texts(self._table)
        for score in records(self._table.frame):
            parts = sorted(
                behind.get(score["code"], []),
                key=lambda part: (-round(part[1], _PLACES), -self._counts[part[0]]["labelled"], part[0]),
            )
            main_count = main_codes(parts, [len(self._tasks[code]) for code, _ in parts])
            all_tasks = [task for code, _ in parts for task in self._by_importance[code]]
            tasks = [task for code, _ in parts[:main_count] for task in self._by_importance[code]]
            page = {
                "code": score["code"],
                "title": score["title"],
                "score": score,
                "thin": _is_thin(score),
                "scored_groups": self._table.scored,
                "onet": [
                    self._source_entry(code, share) | {"tasks_here": number < main_count}
                    for number, (code, share) in enumerate(parts)
                ],
                "tasks": {
                    code: [
                        [task["task_id"], round(share * task["share"], _PLACES)] for task in self._by_importance[code]
                    ]
                    for code, share in parts[:main_count]
                },
                "tasks_left_out": None
                if main_count == len(parts)
                else f"The tasks of {len(parts) - main_count:,} of {len(parts):,} codes are on the pages of these codes only: the "
                f"{main_count:,} largest stand for {half_up(100 * sum(share for _, share in parts[:main_count]), 0):.0f}% of the group.",
                "counts": (counts := _counts(all_tasks)),
                "readings": {
                    reading: _reading_section(reading, score, counts, all_tasks, self._table) for reading in READINGS
                },
                "matter_most": _most_important(score, tasks),
            }
            yield score["code"], self._about | (texts.get(score["code"]) or _texts(None, "")) | page

    def _source_entry(self, code: str, share: float) -> Row:
        """Summary of an O*NET-SOC code for a group's page; details are on its own page."""
        score, counts = self._scores[code], self._counts[code]
        return {
            "onet_soc_code": code,
            "title": score["title"],
            "share": round(share, _PLACES),
            "alpha": _rounded(score["alpha"]),
            "gamma": _rounded(score["gamma"]),
            "tasks": counts["labelled"],
            "strict": counts["strict"]["text"],
            "with_tools": counts["with_tools"]["text"],
            "page": onet_path(code),
        }

    def occupations(self) -> Iterator[tuple[str, Row]]:
        """One page for each O*NET-SOC code of the task list, with the answers behind its labels.

        Yields:
            A code, and its page: `score` (means, coverage), `thin` (whether less than half of the code's task weight is
            labelled), `tasks` (each with code, readings, `share` of the score, `alpha_if_flipped` and `gamma_if_flipped`,
            the score if the task's reading were reversed, and optionally `incoherent` and `answers`; published label sets
            have no rationales or keys), `counts`.
        """
        for code in sorted(self._tasks):
            tasks = [
                {
                    name: _rounded(value) if name in _ROUNDED else value
                    for name, value in task.items()
                    if name not in _NOT_IN_ONET
                }
                | ({"incoherent": True} if task["incoherent"] else {})
                | ({"answers": given} if (given := self._answers_to(code, task["task_id"])) else {})
                for task in self._tasks[code]
            ]
            page = {
                "code": code,
                "title": self._scores[code]["title"],
                "score": (score := self._scores[code]),
                "thin": score["tasks"] > 0 and not is_covered(score["coverage"]),
                "tasks": tasks,
                "counts": self._counts[code],
            }
            yield code, self._about | {"note": sample_notes(self._table)} | page

    def _answers_to(self, code: str, task_id: str) -> list[Row]:
        """The answers, if they add a rationale or a request key to the task's readings."""
        given = self._answers.get((code, task_id), [])
        if all(answer["rationale"] is None and answer["request_key"] is None for answer in given):
            return []
        return [{name: value for name, value in answer.items() if value is not None} for answer in given]


def main_codes(parts: Sequence[tuple[str, float]], tasks: Sequence[int] | None = None) -> int:
    """How many of the largest codes have their tasks on a group's page, see `MAIN_SHARE`, `LARGE_SHARE` and `MAX_TASKS`.

    Args:
        parts: Codes with their shares, largest first.
        tasks: Number of tasks of each; by default there is no limit.
    """
    before, listed = 0.0, 0
    for number, (_, share) in enumerate(parts):
        listed += tasks[number] if tasks is not None else 0
        if number and listed > MAX_TASKS:
            return number
        if round(before, _PLACES) >= MAIN_SHARE and round(share, _PLACES) < LARGE_SHARE:
            return number
        before += share
    return len(parts)


def onet_path(code: str) -> str:
    """Path of the page of an O*NET-SOC code inside an export."""
    return f"onet/{code}.json"


def _reading_section(reading: Reading, score: Row, counts: Row, tasks: Sequence[Row], table: ScoreTable) -> Row | None:
    """The part of a group's page about one reading; None without a score.

    A thin score is not interpreted: it has no band, meaning or advice.
    """
    measure, ten = _SCORE_COLUMNS[reading]
    if score[ten] is None:
        return None
    band = None if _is_thin(score) else band_of(score[ten])
    words = band and band[reading]
    percentile = score[f"percentile_{measure}"]
    doable = (task for task in tasks if _is_exposed(task, reading))
    return {
        "name": READING_NAMES[reading],
        "score_10": score[ten],
        "low_10": score.get(f"{ten}_low"),
        "high_10": score.get(f"{ten}_high"),
        "other": _other_estimate(score, measure, ten, table),
        "band": band and band["id"],
        "band_label": band and band["label"],
        "meaning": words and words["meaning"],
        "now": words["now"] if words else [],
        "percentile": percentile,
        "higher_than": None if percentile is None else _standing(percentile, score, measure, table),
        "wage_exposure_gbp": score[f"wage_exposure_{measure}_gbp"],
        "wage_exposure_low_gbp": score.get(f"wage_exposure_{measure}_gbp_low"),
        "wage_exposure_high_gbp": score.get(f"wage_exposure_{measure}_gbp_high"),
        "tasks_text": counts[reading]["text"],
        "top_tasks": [{name: task[name] for name in _TOP_TASK_FIELDS} for task in _first_distinct(doable)],
    }


def _standing(percentile: int, score: Row, measure: str, table: ScoreTable) -> str:
    """A group's position in words: the share of scored groups with a lower score or, among few of them, their number.

    The percentile counts positions from 1, so it includes the group itself; the site of 2026 showed it as that share.
    """
    scores = table.frame.loc[table.has_status("scored"), measure]
    below, unit = int((scores.round(CLEAN) < round(score[measure], CLEAN)).sum()), ""
    if table.scored >= _MANY_GROUPS:
        below, unit = percentile if table.method == "site-2026" else round(100 * below / table.scored), "%"
    place = f"higher than {below}{unit}" if below else "among the lowest"
    return f"{'among the highest' if percentile == 100 else place} of the {table.scored:,} scored occupations"


def _other_estimate(score: Row, measure: str, ten: str, table: ScoreTable) -> Row | None:
    """The estimate by the labels of a gold, or of all raters; None without one."""
    other = table.intervals and table.intervals.other
    if other is None or score[f"{ten}_{other.name}"] is None:
        return None
    wage, words = f"wage_exposure_{measure}_gbp", other_words(table, other)
    return {"words": words["words"], "brief": words["brief"]} | {
        f"{figure}{end}": score[f"{column}_{other.name}{end}"]
        for figure, column in (("score_10", ten), ("wage_exposure_gbp", wage))
        for end in ("", "_low", "_high")
    }


def _most_important(score: Row, tasks: Sequence[Row]) -> list[Row] | None:
    if score["strict_10"] is None or _is_thin(score) or not band_of(score["strict_10"])["low"]:
        return None
    return [
        {"task_id": task["task_id"], "onet_soc_code": task["onet_soc_code"], "needs": _help_needed(task)}
        for task in _first_distinct(task for task in tasks if _is_labelled(task))
    ]


def _is_thin(score: Row) -> bool:
    return score["status"].startswith("thin")


def _help_needed(task: Row) -> str:
    if task["strict"] == "exposed":
        return "a model alone can speed this up"
    if task["with_tools"] == "exposed":
        return "needs a person, or software built around a model"
    return "still needs a person" if task["with_tools"] is not None else "more than a model alone"


def _first_distinct(tasks: Iterable[Row]) -> list[Row]:
    """The first tasks with distinct texts: related codes share statements."""
    once: dict[str, Row] = {}
    for task in tasks:
        once.setdefault(task["text"], task)
        if len(once) == TOP_TASKS:
            break
    return list(once.values())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _PLACES)


def _is_exposed(task: Row, reading: Reading) -> bool:
    """Whether a task counts as exposed in the score: an incoherent pair counts as E1, and so as exposed in both readings."""
    return task[reading] == "exposed" or task["incoherent"]


def _is_labelled(task: Row) -> bool:
    return task["strict"] is not None or task["with_tools"] is not None


def _counts(tasks: Sequence[Row]) -> Row:
    labelled = [task for task in tasks if _is_labelled(task)]
    counts: Row = {
        "tasks": len(tasks),
        "labelled": len(labelled),
        "incoherent": sum(task["incoherent"] for task in labelled),
        "codes": {code: sum(task["code"] == code for task in labelled) for code in ("E0", "E1", "E2")},
    }
    for reading in READINGS:
        rated = [task for task in labelled if task[reading] is not None]
        exposed = sum(_is_exposed(task, reading) for task in rated)
        counts[reading] = {"exposed": exposed, "of": len(rated), "text": f"{exposed} of {len(rated)}"}
    return counts


_MAX_TITLES = 12
_LEVELS: Mapping[int, Literal["major", "sub_major", "minor"]] = {1: "major", 2: "sub_major", 3: "minor"}


def group_texts(table: ScoreTable) -> dict[str, Row]:
    """Publishers' texts about the groups of a table, by code; their files are already among the table's sources.

    Args:
        table: A score table.

    Returns:
        For each code `description` (may be None), `description_by`, `job_titles` (at most twelve) and `above` (the wider
        groups as `major, sub_major, minor`, each `code, title`; empty in flat lists).

    Raises:
        DataError: A source file cannot be obtained.
    """
    if table.taxonomy == "uk-soc2020" and table.tasks != SAMPLE:
        return _uk_texts()
    if table.taxonomy == "onet-soc" and is_onet_release(table.tasks):
        occupations = records(onet.read_occupations(table.tasks))
        return {r["onet_soc_code"]: _texts(r["description"], "O*NET") for r in occupations}
    return {}


def _uk_texts() -> dict[str, Row]:
    groups = records(ons.read_groups())
    titles = {row["soc2020"]: row["title"] for row in groups}
    rows: dict[str, Row] = {}
    for code, row in ((row["soc2020"], row) for row in groups if row["level"] == "unit"):
        wider = {name: code[:digits] for digits, name in _LEVELS.items() if code[:digits] in titles}
        texts = _texts(row["description"], "Office for National Statistics", row["job_titles"])
        rows[code] = texts | {"above": {name: {"code": group, "title": titles[group]} for name, group in wider.items()}}
    return rows


def _texts(description: str | None, publisher: str, job_titles: str | None = None) -> Row:
    listed = [line.strip() for line in (job_titles or "").splitlines() if line.strip()]
    return {
        "description": description,
        "description_by": publisher if description else None,
        "job_titles": listed[:_MAX_TITLES],
        "above": {},
    }
