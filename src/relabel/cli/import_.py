"""`relabel import`: labels made elsewhere become a run; `relabel tasks`: task lists compared, a run carried to a newer one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

import relabel
from relabel import importing
from relabel import rubric as rubrics
from relabel import task as task_lists
from relabel.cli._options import AsJson, Commands, OutJson, RunArg, give_json
from relabel.cli.terminal import WIDTH, cut, say_next, say_written
from relabel.errors import UsageError
from relabel.sources import eloundou

app = Commands()
tasks_app = Commands(name="tasks", no_args_is_help=True, help="Compare task lists; carry a run from one to another.")
app.add_typer(tasks_app)
# Examples shown of each kind of change.
_SHOWN = 5


@dataclass(frozen=True)
class LabelColumns:
    """Which column of a file holds what.

    Attributes:
        id_column: By default task_id (or Task ID, as O*NET spells it) or id.
        code_column: O*NET-SOC codes. By default onet_soc_code (or O*NET-SOC Code) or soc_code; without them an id
            must be unique in --tasks.
        label_column ([SETTING=]COLUMN): By default label or code, else columns named like the settings; several as
            SETTING=COLUMN.
        setting_column: Setting of each line. By default setting, if there is one.
        sample_column: Number of the repeat, from 0. By default sample, if there is one.
        rationale_column: By default rationale or explanation, if there is one.
        probability_column: Probability of the label, 0-1. By default probability, if there is one.
    """

    id_column: str | None = None
    code_column: str | None = None
    label_column: list[str] | None = None
    setting_column: str | None = None
    sample_column: str | None = None
    rationale_column: str | None = None
    probability_column: str | None = None


@app.command("import")
def import_file(
    file: str,
    *,
    model: str | None = None,
    rubric: str = "eloundou",
    out: Path,
    tasks: str | None = None,
    setting: str | None = None,
    columns: LabelColumns,
    mapping: Annotated[list[str] | None, typer.Option("--map")] = None,
    random_sample: bool = False,
    as_json: AsJson = False,
) -> None:
    """Turn a CSV or Excel file of labels into a run like any other.

    Unknown labels, duplicate tasks and ambiguous ids are refused with their line, and nothing is written. The
    manifest names the file and its sha256, each label its line.

    Args:
        file (FILE): A CSV or Excel file of labels, or a published set such as relabels-2026:gpt-5.
        model: Who or what labelled; not needed for a published set.
        rubric: The rubric whose labels the file uses.
        out (DIR): The run's folder.
        tasks: Task list that the ids belong to: eloundou-2023, onet-30.2, sample or FILE.csv. By default the first
            that holds all.
        setting: Setting of all labels, if the file does not say.
        mapping (OLD=NEW): Replace a label, such as E3=E2.
        random_sample: The tasks were drawn at random from all of --tasks: `relabel score` then estimates means from them.
    """
    pairs = _pairs(mapping or [], "--map", "OLD=NEW")
    path = Path(file)
    if file.startswith(f"{eloundou.RELABELS}:"):
        path, model = eloundou.locate_relabels(file), model or file.partition(":")[2]
        pairs = dict(eloundou.RELABEL_MAP) | pairs
    if model is None:
        raise UsageError("name the labeller with --model, such as --model gpt-5")
    loaded = relabel.load_rubric(rubric)
    labels = columns.label_column or []
    many = len(labels) > 1 or any("=" in name for name in labels)
    by_name = {name.removesuffix("_column"): column for name, column in vars(columns).items()}
    by_name["label"] = _pairs(labels, "--label-column", "SETTING=COLUMN") if many else next(iter(labels), None)
    done = importing.import_labels(
        path,
        model=model,
        rubric=loaded,
        out=out,
        tasks=tasks,
        setting=setting,
        columns=by_name,
        mapping=pairs,
        random_sample=random_sample,
    )
    for note in done.notes:
        typer.echo(f"warning: {note}", err=True)
    if give_json(asdict(done) | {"folder": str(done.folder)}, as_json=as_json):
        return
    description = f"{loaded.unit}s: {done.tasks:,}, list: {done.task_list}"
    typer.echo(f"{done.labels:,} label{'s' * (done.labels != 1)} imported ({description}) into {done.folder}")
    for change, count in done.mapped.items():
        typer.echo(f"{count:,} labels mapped {change}")
    if done.not_in_list:
        typer.echo(f"tasks not in {done.task_list}, so they match no gold of that list: {done.not_in_list:,}")
    rated = loaded.unit == "occupation"
    say_next(f"relabel {'resilience RUN --epoch' if rated else 'eval'} {done.folder}")


def _pairs(given: list[str], option: str, form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        left, sign, right = text.partition("=")
        if not sign or not left or not right:
            raise UsageError(f"{option} {text}: write it as {form}")
        if left in pairs:
            raise UsageError(f"{option} names {left} twice; give it once")
        pairs[left] = right
    return pairs


@tasks_app.command()
def diff(old: str, new: str, *, as_json: AsJson = False, out: OutJson = None) -> None:
    """Compare two task lists by id and text: unchanged, reworded, moved, new, dropped.

    Args:
        old (OLD): onet-29.1, eloundou-2023 or FILE.csv.
        new (NEW): onet-30.2 or FILE.csv.
    """
    difference = task_lists.diff_lists(old, new)
    if not give_json(difference.describe(), out=out, as_json=as_json):
        _show_diff(difference)


@tasks_app.command()
def carry(
    run: RunArg,
    *,
    to: str,
    out: Path,
    old: Annotated[str | None, typer.Option("--from")] = None,
    fill: str | None = None,
) -> None:
    """Carry a run to a newer task list: labels of unchanged tasks are kept, to-ask.csv lists the others.

    Answers of a run that is still in the store need no carrying: `relabel run --tasks` on the newer list finds them.

    Args:
        to (TASKS): The newer task list: onet-30.2 or FILE.csv.
        out: Folder of the carried run.
        old (TASKS): The list that the run labelled, if it moved.
        fill (RUN): A run under the same rubric that labelled the tasks to be asked again.
    """
    opened = relabel.open_run(run)
    done = importing.carry_run(opened, to, out, old=old, fill=None if fill is None else relabel.open_run(fill))
    for sentence in done.warnings:
        typer.echo(f"WARNING: {sentence}", err=True)
    _show_diff(done.diff, examples=False)
    filled = f", {done.filled:,} filled from {fill}" if fill is not None else ""
    typer.echo(f"{done.carried:,} labels carried{filled}; {done.to_ask:,} of {done.tasks:,} tasks are left to label")
    say_written(out)
    if done.to_ask:
        asking = _asking(opened.manifest, out / importing.TO_ASK, done.samples)
        say_next(f"{asking} --out ASKED, then carry again with --fill ASKED")


def _asking(manifest: relabel.Manifest, tasks: Path, samples: int) -> str:
    """The command to label the missing tasks in the same way: model, address, rubric, settings and repeats of the run."""
    import shlex

    ours = {relabel.load_rubric(name).sha256: name for name in rubrics.rubric_names()}
    rubric = ours.get(manifest.rubric_sha256, manifest.rubric.source)  # otherwise a file of the user's
    model = "MODEL" if manifest.engine in (None, "import", "carry") else manifest.model
    options = {"--model": model, "--base-url": manifest.base_url, "--rubric": rubric, "--tasks": str(tasks)}
    words = [word for option, value in options.items() if value for word in (option, value)]
    if manifest.settings != tuple(manifest.rubric.settings):
        words += [word for setting in manifest.settings for word in ("--setting", setting)]
    words += ["--samples", str(samples)] if samples > 1 else []
    return f"relabel run {shlex.join(words)}"


def _show_diff(difference: task_lists.TaskDiff, *, examples: bool = True) -> None:
    typer.echo(f"{difference.old} -> {difference.new}")
    for change, count in difference.counts.items():
        typer.echo(f"{change:<10}{count:>8,}  {task_lists.CHANGE_NOTES[change]}")
    if difference.retitled:
        typer.echo(f"{difference.retitled:,} of the unchanged tasks belong to an occupation with another title")
    if not examples:
        return
    for change in ("reworded", "moved", "new", "dropped"):
        rows = [task for task in difference.tasks if task.change == change]
        if rows:
            typer.echo(f"\n{change}:")
        for row in rows[:_SHOWN]:
            for mark, task in (("-", row.old), ("+", row.new)):
                if task is not None:
                    typer.echo(f"{mark} {task.onet_soc_code} {task.task_id:>6} {cut(task.text, WIDTH)}")
        if len(rows) > _SHOWN:
            typer.echo(f"... and {len(rows) - _SHOWN:,} more (--json has all)")
