"""Asking before a run that is larger than most people mean: `--samples 150` is one letter from `--sample 150`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from relabel.cli.display import money
from relabel.errors import UsageError
from relabel.labelling.estimate import cost_at_a_glance
from relabel.labelling.job import Job
from relabel.labelling.outcome import labels_there

MUCH_USD = 100.0
MANY = 100_000
"""Labels; all tasks under two settings are some 38,000."""


def get_consent(job: Job, folder: Path) -> None:
    """Say what a large run may cost before it begins, and on a terminal ask whether it is meant.

    A run that has labels already is not asked about again.

    Raises:
        UsageError: It was not meant.
    """
    most = cost_at_a_glance(job)
    if (job.size < MANY if most is None else most < MUCH_USD) or labels_there(folder):
        return
    price = "at a price that is not known" if most is None else f"for up to {money(most)}"
    repeats = f", each asked {job.samples:,} times" if job.samples > 1 else ""
    typer.echo(f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s{repeats}, {price}", err=True)
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if asks and not typer.confirm("Go on? (--yes does not ask, --max-cost caps the cost)", err=True):
        raise UsageError("nothing was asked; --sample N draws N tasks, --samples N asks each question N times")
