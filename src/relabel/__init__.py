"""relabel: renew the 2023 labels of task exposure to language models.

The names below are the public API; each is loaded when it is first used, so that `import relabel` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` and `importlib` take a while to load, and a Ctrl-C meanwhile would show a traceback
if TYPE_CHECKING:
    from typing import Any

    from relabel.cli.notebook import alabel, label, study
    from relabel.errors import RelabelError
    from relabel.evaluation.document import EvalDocument
    from relabel.evaluation.evaluate import evaluate
    from relabel.evaluation.gold import Gold, load_gold
    from relabel.manifest import Manifest
    from relabel.rubric import Rubric, load_rubric
    from relabel.run import Run, open_run
    from relabel.scoring.table import ScoreTable, score_table
    from relabel.task import Task, load_tasks

__version__ = "0.1.0"

__all__ = [
    "EvalDocument",
    "Gold",
    "Manifest",
    "RelabelError",
    "Rubric",
    "Run",
    "ScoreTable",
    "Task",
    "__version__",
    "alabel",
    "evaluate",
    "label",
    "load_gold",
    "load_rubric",
    "load_tasks",
    "open_run",
    "score_table",
    "study",
]

_HOME = {
    "EvalDocument": "relabel.evaluation.document",
    "Gold": "relabel.evaluation.gold",
    "Manifest": "relabel.manifest",
    "RelabelError": "relabel.errors",
    "Rubric": "relabel.rubric",
    "Run": "relabel.run",
    "ScoreTable": "relabel.scoring.table",
    "Task": "relabel.task",
    "alabel": "relabel.cli.notebook",
    "evaluate": "relabel.evaluation.evaluate",
    "label": "relabel.cli.notebook",
    "load_gold": "relabel.evaluation.gold",
    "load_rubric": "relabel.rubric",
    "load_tasks": "relabel.task",
    "open_run": "relabel.run",
    "score_table": "relabel.scoring.table",
    "study": "relabel.cli.notebook",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'relabel' has no attribute {name!r}")
