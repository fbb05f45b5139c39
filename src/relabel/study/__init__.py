"""Studies: one file defines tasks, raters, golds and scoring; runs, results and a replication package are made from it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """Makes the package callable: `relabel.study("study.yaml")` runs a study, and `relabel.study` is also this package."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from relabel.cli.notebook import study

        return study(*given, **named)


sys.modules[__name__].__class__ = _CallableModule
