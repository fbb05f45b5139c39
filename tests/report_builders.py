"""Reports of made-up runs whose every text tries to break out of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relabel.cli.compare import pair_tables, several_tables
from relabel.cli.eval import eval_tables
from relabel.evaluation.compare import compare, compare_several
from relabel.evaluation.document import EvalDocument
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gates import judge
from relabel.evaluation.gold import Gold, read_gold_csv
from relabel.evaluation.report import compare_page, eval_page
from relabel.evaluation.suite import Suite
from relabel.run import Run
from run_builders import a_label, a_run

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="document.title=1"><b>é &amp; \'</b>'
CODES = ("E0", "E2", "E1")
TASKS, OCCUPATIONS = 360, 24


@dataclass(frozen=True)
class Pages:
    """One page of each kind."""

    eval: str
    compare: str
    several: str


def _codes(seed: int, tasks: int = TASKS) -> list[str]:
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(0).choice(CODES, tasks, p=[0.45, 0.35, 0.2])
    return [str(code) for code in np.where(rng.random(tasks) < 0.3, rng.choice(CODES, tasks), truth)]


def _occupation(task: int) -> str:
    return f"{11 + 2 * (task % 6)}-{1000 + task % OCCUPATIONS}.00"


def hostile_run(folder: Path, seed: int, tasks: int = TASKS) -> Run:
    """A run with hostile rationales, and a probability with each label."""
    labels = [
        a_label(
            str(task),
            "three-way",
            code,
            code=_occupation(task),
            rationale=HOSTILE,
            probability=round(0.4 + 0.6 * ((task * 7919) % 97) / 97, 3),
        )
        for task, code in enumerate(_codes(seed, tasks))
    ]
    return a_run(folder, labels, rubric="eloundou", model=f"model {HOSTILE}")


def hostile_pages(folder: Path) -> Pages:
    """All pages, of runs whose texts, titles, models and rationales are hostile."""
    runs = [hostile_run(folder / f"r{seed}", seed) for seed in (1, 2, 3)]
    named = [Run(f"{run.ref} {HOSTILE}", run.folder, run.manifest, run.labels) for run in runs]
    details = pd.DataFrame(
        {
            "task_id": [str(task) for task in range(TASKS)],
            "onet_soc_code": [_occupation(task) for task in range(TASKS)],
            "title": f"Title {HOSTILE}",
            "text": f"Statement {HOSTILE}",
            "task_type": "Core",
            "importance": 4.0,
        }
    )
    path = folder / "gold.csv"
    rows = [f"{task},{_occupation(task)},{code}" for task, code in enumerate(_codes(9))]
    path.write_text("\n".join(["task_id,onet_soc_code,code", *rows]) + "\n")
    gold = read_gold_csv(path)
    suite = Suite.model_validate(
        {
            "name": "nightly",
            "title": HOSTILE,
            "baseline": {"run": HOSTILE},
            "draws": 200,
            "gates": [
                {"id": "agreement", "setting": "three-way", "metric": "kappa", "min": 0.9, "why": HOSTILE},
                {"id": "steady", "setting": "three-way", "metric": "kappa", "max_drop": 0.0},
            ],
        }
    )
    result = judge(suite, named[0], gold, named[1], details)
    change = compare(named[1], named[0], draws=200, details=details)
    pair = compare(named[0], named[1], gold, details=details, draws=200)
    several = compare_several(named, gold, details=details, draws=200)
    return Pages(
        eval=page_of(
            evaluate(named[0], gold, draws=200), named[0], gold, suite=result, comparison=change, details=details
        ),
        compare=compare_page(pair, list(pair_tables(pair, page=True)), named[:2])[0],
        several=compare_page(several, list(several_tables(several, page=True)), named)[0],
    )


def page_of(document: EvalDocument, run: Run, gold: Gold, **more: Any) -> str:
    """The page of an evaluation, with its tables."""
    return eval_page(document, list(eval_tables(document, page=True)), run, gold, **more)[0]
