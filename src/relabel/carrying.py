"""A run is carried onto a newer task list: labels of unchanged tasks are kept, the others are listed to be asked again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from relabel import __version__
from relabel.errors import DataError, UsageError
from relabel.files import replacing, require_writable, writing
from relabel.labels import Label
from relabel.manifest import LABEL_COLUMNS, Counts, Manifest, read_manifest, task_sources, write_run
from relabel.run import Run, changed_rubrics
from relabel.sources.fetch import sha256_of
from relabel.task import TASK_COLUMNS, TASK_KEY, TaskDiff, diff_lists, other_statements, replaced, task_table

TO_ASK = "to-ask.csv"
"""Name of the task list of what must be asked again, within the carried run's folder."""


_ENGINE = "carry"


@dataclass(frozen=True)
class Carried:
    """A run that was carried.

    Attributes:
        folder: Its folder.
        diff: What changed between the two task lists.
        carried: Labels kept from the run.
        filled: Labels taken from the second run.
        to_ask: Tasks of the newer list that lack labels and are listed in `to-ask.csv`.
        tasks: Tasks of the newer list.
        samples: Times that each question was asked, and is to be asked again.
        warnings: What must be known before the missing tasks are asked: that the rubric is another now.
    """

    folder: Path
    diff: TaskDiff
    carried: int
    filled: int
    to_ask: int
    tasks: int
    samples: int
    warnings: tuple[str, ...] = ()


def carry_run(run: Run, to: str, out: Path, *, old: str | None = None, fill: Run | None = None) -> Carried:
    """Write a run on a newer task list from the labels of a run on an older one.

    Args:
        run: The run.
        to: The newer task list, as for `relabel.task.task_table`.
        out: Folder of the carried run.
        old: The list that the run labelled; by default the one that its manifest names.
        fill: A run under the same rubric whose labels fill what is not carried; it labelled tasks of the newer list.

    Returns:
        What was carried. The run is `complete` when every task of the newer list has all labels: one a setting and repeat.

    Raises:
        UsageError: The two runs are not under one rubric, or the folder holds other things.
        DataError: A list cannot be read, or nothing can be carried.
    """
    if run.rubric.unit != "task":
        raise UsageError(f"{run.ref} rates occupations, which cannot be carried between task lists; rate them again")
    if fill is not None and fill.manifest.rubric_sha256 != run.manifest.rubric_sha256:
        raise UsageError(
            f"{run.ref} and {fill.ref} were labelled under different rubrics; fill with a run under the rubric "
            f"{run.rubric.id} (sha256 {run.manifest.rubric_sha256[:12]})"
        )
    if run.labels.empty:
        raise DataError(f"the run {run.ref} has no labels to carry; finish it with the same `relabel run`")
    diff = diff_lists(old or run.manifest.tasks, to)
    listed = task_table(to)
    unchanged = [task.new for task in diff.tasks if task.change == "unchanged" and task.new]
    keys = [(task.onet_soc_code, task.task_id) for task in unchanged]
    kept = _on(run.labels, pd.DataFrame(keys, columns=TASK_KEY, dtype="str"))
    if kept.empty:
        raise DataError(f"no label of {run.ref} belongs to a task that is unchanged in {to}; name its list with --from")
    settings, repeats = run.manifest.settings, _repeats(run)
    parts = [kept]
    if fill is not None:
        answer = [*TASK_KEY, "setting", "sample"]
        other = replaced(other_statements(listed, fill.own_task_list() or fill.manifest.tasks)["similarity"])
        fresh = _on(fill.labels, listed[~other])
        fresh = fresh[fresh["setting"].isin(settings) & fresh["sample"].isin(repeats)]
        done = pd.MultiIndex.from_frame(kept[answer])
        parts.append(fresh[~pd.MultiIndex.from_frame(fresh[answer]).isin(done)])
    labels = pd.concat(parts, ignore_index=True)
    whole = len(settings) * len(repeats)
    answered = labels.groupby(TASK_KEY).size().reindex(pd.MultiIndex.from_frame(listed[TASK_KEY]), fill_value=0)
    missing = listed[answered.to_numpy() < whole]
    require_writable(out)
    if (out / "manifest.json").is_file() and read_manifest(out).engine != _ENGINE:
        raise UsageError(f"{out} holds a run that was not carried, whose labels would be lost; give another --out")
    counts = Counts(asked=len(listed) * whole, from_store=len(labels), failed=len(listed) * whole - len(labels))
    manifest = _manifest(run, fill, diff, to, counts, len(repeats))
    rows = labels.reindex(columns=list(LABEL_COLUMNS)).astype(object)
    rows = rows.where(rows.notna(), None).assign(from_store=True)
    with writing(out):
        write_run(out, manifest, [Label(*row) for row in rows.itertuples(index=False, name=None)], [])
        with replacing(out / TO_ASK) as temporary:
            missing[list(TASK_COLUMNS)].to_csv(temporary, index=False, lineterminator="\n")
    filled, repeated = len(labels) - len(kept), len(repeats)
    warnings = tuple(changed_rubrics(run))
    return Carried(out, diff, len(kept), filled, len(missing), len(listed), repeated, warnings)


def _on(labels: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    wanted = pd.MultiIndex.from_frame(tasks[TASK_KEY])
    return labels[pd.MultiIndex.from_frame(labels[TASK_KEY]).isin(wanted)]


def _repeats(run: Run) -> set[int]:
    """Numbers of the times that a run asked each question; labels of the last one may all be missing."""
    seen, samples = set(run.labels["sample"]), int(run.manifest.parameters.get("samples") or 1)
    return seen if len(seen) >= samples else seen | set(range(samples))


def _manifest(run: Run, fill: Run | None, diff: TaskDiff, to: str, counts: Counts, samples: int) -> Manifest:
    runs = [run] if fill is None else [run, fill]
    models = list(dict.fromkeys(r.manifest.model for r in runs))
    returned = [model for r in runs for model in (r.manifest.models_returned or (r.manifest.model,))]
    uses = [use for r in runs for use in r.manifest.sources]
    origin = " and ".join(dict.fromkeys(r.ref for r in runs))
    return Manifest(
        status="incomplete" if counts.failed else "complete",
        package_version=__version__,
        model=" and ".join(models),
        models_returned=tuple(dict.fromkeys(returned)),
        engine=_ENGINE,
        rubric=run.manifest.rubric,
        rubric_sha256=run.manifest.rubric_sha256,
        prompt_sha256=run.manifest.prompt_sha256,
        schema_sha256=run.manifest.schema_sha256,
        sources=tuple(dict.fromkeys([*uses, *task_sources(to)])),
        tasks=to,
        settings=run.manifest.settings,
        parameters={
            "carried_from": [_origin(r) for r in runs],
            "old_tasks": diff.old,
            "changes": dict(diff.counts),
            "samples": samples,
        },
        counts=counts,
        note=f"labels of {origin}, carried from the task list {diff.old}; tasks that changed are labelled again",
    )


def _origin(run: Run) -> dict[str, Any]:
    """Where carried labels come from: the run and the checksum of its labels."""
    about: dict[str, Any] = {"run": run.ref, "model": run.manifest.model, "tasks": run.manifest.tasks}
    if run.folder is not None:
        about |= {"run": run.folder.resolve().name, "labels_sha256": sha256_of(run.folder / "labels.parquet")}
    return about
