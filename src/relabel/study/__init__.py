"""A study: one file names tasks, raters, golds and scoring; its runs, results and replication package follow from it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    """`relabel.study("study.yaml")` runs a study, and `relabel.study` is this room: one name for both."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from relabel.cli.notebook import study

        return study(*given, **named)


sys.modules[__name__].__class__ = _CallableRoom
