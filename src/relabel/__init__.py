"""relabel: renew the 2023 labels of task exposure to language models.

The names below are the public API; each is loaded when it is first used, so that `import relabel` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` or `importlib` is slow, and Ctrl-C during it would show a traceback
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

_NAMES_BY_MODULE = {
    "relabel.cli.notebook": ("alabel", "label", "study"),
    "relabel.errors": ("RelabelError",),
    "relabel.evaluation.document": ("EvalDocument",),
    "relabel.evaluation.evaluate": ("evaluate",),
    "relabel.evaluation.gold": ("Gold", "load_gold"),
    "relabel.manifest": ("Manifest",),
    "relabel.rubric": ("Rubric", "load_rubric"),
    "relabel.run": ("Run", "open_run"),
    "relabel.scoring.table": ("ScoreTable", "score_table"),
    "relabel.task": ("Task", "load_tasks"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES_BY_MODULE.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(module), name)
    raise AttributeError(f"module 'relabel' has no attribute {name!r}")
