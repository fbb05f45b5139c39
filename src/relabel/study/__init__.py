"""Studies: one file defines tasks, raters, golds and scoring; runs, results and a replication package are made from it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """Makes this package callable, because `relabel.study` is both the package and the function that runs a study."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from relabel.cli.notebook import study

        return study(*given, **named)


sys.modules[__name__].__class__ = _CallableModule
