"""Sites of the tests' own making, and hostile data for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relabel.publishing.export import export_run
from relabel.publishing.site.build import Site, build_site
from relabel.run import Run, open_run
from relabel.scoring.options import Choices
from relabel.tabular import records
from run_builders import a_label, a_run

A, B = "11-1011.00", "15-1252.00"
CLOSING = "</script><script>window.broken = 1</script>"
FORMULA = '=HYPERLINK("http://example.org","x")'
TURNED = "\u202eturned round\u202d and \u200fback"
LONG = "Supercalifragilistic" * 30
QUOTES = '"><img src=x onerror="window.broken = 2"> \'and\' {{ 7 * 7 }} {% raw %}'
HOSTILE = (CLOSING, FORMULA, TURNED, LONG, QUOTES)


def sample_answers(folder: Path, *, without: tuple[str, ...] = (), thin: tuple[str, ...] = (), **changes: Any) -> Run:
    """A run folder with the sample's gold as its answers, keys and rationales; of thin occupations one task alone."""
    rows = records(open_run("sample").labels)
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["onet_soc_code"], row["task_id"])
    labels = [
        a_label(row["task_id"], row["setting"], row["label"], code=row["onet_soc_code"])
        for row in rows
        if row["onet_soc_code"] not in without
        and (row["onet_soc_code"] not in thin or row["task_id"] == first[row["onet_soc_code"]])
    ]
    parameters = {"sample": 60, "seed": 7, "secret": "no business of a reader"}
    return a_run(folder, labels, tasks="sample", prompt_sha256="0" * 64, parameters=parameters, **changes)


def tasks_on(export: Path, page: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a group's page with what the pages of their O*NET codes say of them."""
    found: list[dict[str, Any]] = []
    for code, pairs in page["tasks"].items():
        behind = json.loads((export / f"onet/{code}.json").read_text(encoding="utf-8"))["tasks"]
        own = {task["task_id"]: task for task in behind}
        found += [own[task] | {"onet_soc_code": code, "share": share} for task, share in pairs]
    return found


def sample_site(folder: Path) -> Site:
    """A site of the built-in sample, with intervals, and with the sample's gold without one occupation as its baseline."""
    run, baseline = sample_answers(folder / "made-run"), sample_answers(folder / "baseline", without=(B,))
    export_run(run, folder / "export", baseline=baseline, draws=100)
    return build_site(folder / "export", folder / "site")


def hostile_run(folder: Path) -> tuple[Run, str]:
    """A run over tasks that would break a careless page; returns it with the path of its task list."""
    tasks = folder / "hostile.csv"
    cells = [text.replace('"', '""') for text in HOSTILE]
    lines = [
        f'{number},{A},"{QUOTES.replace(chr(34), chr(34) * 2)}","{cell}",Core,{5 - number / 2}'
        for number, cell in enumerate(cells)
    ]
    lines.append(f'9,{B},"{CLOSING}",Plain task.,Core,3')
    tasks.write_text(
        "task_id,onet_soc_code,title,text,task_type,importance\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )
    keys = [(A, str(number)) for number in range(len(HOSTILE))] + [(B, "9")]
    labels = [
        a_label(
            task, setting, "exposed" if place % 2 else "not-exposed", code=code, rationale=HOSTILE[place % len(HOSTILE)]
        )
        for place, (code, task) in enumerate(keys)
        for setting in ("strict", "with-tools")
    ]
    return a_run(folder / "hostile-run", labels, tasks=str(tasks)), str(tasks)


def hostile_site(folder: Path) -> Site:
    """A site of such a run."""
    run, tasks = hostile_run(folder)
    export_run(run, folder / "export", Choices(taxonomy="onet-soc", tasks=tasks), draws=0)
    return build_site(folder / "export", folder / "site")
