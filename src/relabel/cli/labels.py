"""Labels that come from elsewhere or go elsewhere.

`relabel import` makes a run of labels from a file; `tasks` compares task lists and carries a run to a newer one; `review` and
`labels` write files to fill in or to use elsewhere; `cite` says what to cite; `view` shows labels on a page.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import relabel
from relabel import importing
from relabel import manifest as manifests
from relabel import rubric as rubrics
from relabel import task as task_lists
from relabel.cli import _options
from relabel.cli.terminal import WIDTH, cut, doing, quoted, say, say_next, say_written, serve
from relabel.errors import RelabelError, StoreError, UsageError
from relabel.evaluation import alignment
from relabel.evaluation import review as reviewing
from relabel.publishing import viewer
from relabel.sources import eloundou, tables
from relabel.sources import registry as sources
from relabel.tabular import counted, csv_bytes, stata_bytes

Format = Literal["csv", "dta", "parquet"]

import_app = _options.Commands()
tasks_app = _options.Commands(
    name="tasks", no_args_is_help=True, help="Compare task lists; carry a run from one to another."
)
app = _options.Commands()
# Examples shown of each kind of change between task lists.
_EXAMPLES = 5


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


@import_app.command("import")
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
    as_json: _options.AsJson = False,
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
    by_name |= {"task_id": columns.id_column, "onet_soc_code": columns.code_column}
    by_name["label"] = _pairs(labels, "--label-column", "SETTING=COLUMN") if many else next(iter(labels), None)
    with doing("importing labels"):
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
    if _options.give_json(asdict(done) | {"folder": str(done.folder)}, as_json=as_json):
        return
    description = f"{loaded.unit}s: {done.tasks:,}, list: {done.task_list}"
    typer.echo(f"{counted(done.labels, 'label')} imported ({description}) into {done.folder}")
    for change, count in done.mapped.items():
        typer.echo(f"{counted(count, 'label')} mapped {change}")
    if done.not_in_list:
        typer.echo(f"tasks not in {done.task_list}, so they match no gold of that list: {done.not_in_list:,}")
    rated = loaded.unit == "occupation"
    say_next(f"relabel {'resilience RUN --epoch' if rated else 'eval'} {quoted(done.folder)}")


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
def diff(old: str, new: str, *, as_json: _options.AsJson = False, out: _options.OutJson = None) -> None:
    """Compare two task lists by id and text: unchanged, reworded, moved, new, dropped.

    Args:
        old (OLD): onet-29.1, eloundou-2023 or FILE.csv.
        new (NEW): onet-30.2 or FILE.csv.
    """
    with doing("comparing the task lists"):
        difference = task_lists.diff_lists(old, new)
    if not _options.give_json(difference.describe(), out=out, as_json=as_json):
        _show_diff(difference)


@tasks_app.command()
def carry(
    run: _options.RunArg,
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
    with doing("carrying labels"):
        opened = relabel.open_run(run)
        done = importing.carry_run(opened, to, out, old=old, fill=None if fill is None else relabel.open_run(fill))
    for sentence in done.warnings:
        typer.echo(f"WARNING: {sentence}", err=True)
    _show_diff(done.diff, examples=False)
    filled = f", {done.filled:,} filled from {fill}" if fill is not None else ""
    typer.echo(f"{done.carried:,} labels carried{filled}; {done.to_ask:,} of {done.tasks:,} tasks are left to label")
    say_written(out)
    if done.to_ask:
        say_next(f"{_command_for(opened.manifest, out / importing.TO_ASK)} --out ASKED")
        typer.echo("then carry again with --fill ASKED", err=True)


def _command_for(manifest: relabel.Manifest, tasks: Path) -> str:
    """The command that labels other tasks as a run's were: same model, address, rubric, settings and repeats."""
    names = {relabel.load_rubric(name).sha256: name for name in rubrics.rubric_names()}
    options = {
        "--model": "MODEL" if manifest.engine in (None, importing.ENGINE, importing.CARRY_ENGINE) else manifest.model,
        "--base-url": manifest.base_url,
        "--rubric": names.get(manifest.rubric_sha256, manifest.rubric.source),
        "--tasks": tasks,
        "--samples": manifest.parameters.get("samples"),
    }
    words = [str(word) for option, value in options.items() if value not in (None, 1) for word in (option, value)]
    words += [word for setting in manifest.settings for word in ("--setting", setting)]
    return shlex.join(["relabel", "run", *words])


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
        for row in rows[:_EXAMPLES]:
            for mark, task in (("-", row.old), ("+", row.new)):
                if task is not None:
                    typer.echo(f"{mark} {task.onet_soc_code} {task.task_id:>6} {cut(task.text, WIDTH)}")
        if len(rows) > _EXAMPLES:
            typer.echo(f"... and {len(rows) - _EXAMPLES:,} more (--json has all)")


@app.command("review")
def review_run(
    ctx: typer.Context,
    run: _options.RunArg,
    out: str = "review.csv",
    n: Annotated[int | None, typer.Option(min=1)] = None,
    random: bool = False,
    size_for: float | None = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    gold: str | None = None,
    rater: list[str] | None = None,
    tasks: str | None = None,
) -> None:
    """Write the tasks most worth reviewing, by doubt about the label times weight in the scores.

    Fill label (E0, E1 or E2), reviewer and reviewed_at, and the file is a gold: `relabel eval RUN --gold F.csv`.
    Rows without a label are left out of it.

    Doubtful tasks say nothing about the others. To learn how good the run is as a whole, and what the
    mean exposure is without its errors, fill a file of --random tasks, in its order.

    Args:
        out (F.csv): Where the file goes; - prints it instead.
        n (N): Tasks to list at most, or to draw with --random; 100 by default.
        random: Draw the run's tasks at random, and leave out its labels: filled in, they represent the run as a whole.
        size_for (WIDTH): With --random, instead of --n: draw enough tasks for a 95% interval of the mean exposure with
            this width, such as 0.1; with --gold, as estimated from these labels.
        seed (S): Seed of --random.
        gold (G): Count this gold's labels as another opinion.
        rater (RUN): Count this run's labels as another opinion; may be given more than once.
        tasks (REF): Where titles and texts come from: sample, onet-30.2, or the path of a CSV file. By default the
            list that the run was made from, if it is on this machine.
    """
    if not random:
        _options.reject_ineffective_options(ctx, "has no effect without --random; add it", "size_for", "seed")
    else:
        idle = ("gold", "rater") if size_for is None else ("n", "rater")
        reason = f"has no effect with {'--random' if size_for is None else '--size-for'}; remove it"
        _options.reject_ineffective_options(ctx, reason, *idle)
    _options.require_file(out, "--out")
    opened = relabel.open_run(run)
    others = [relabel.open_run(other) for other in rater or ()]
    details = alignment.task_details(opened, tasks)
    truth = None if gold is None else relabel.load_gold(gold)
    if not random:
        with doing("looking for doubtful tasks"):
            review = reviewing.review(opened, truth, others, details=details, most=n or 100)
        about = f"{len(review.table):,} of {review.of:,} tasks in doubt"
    else:
        if size_for is not None:
            n = reviewing.labels_for(opened, size_for, truth)
            basis = "whatever people say" if gold is None else f"if people agree with the run as {gold} does"
            typer.echo(f"{n:,} labels give the mean a 95% interval at most {size_for:g} wide, {basis}", err=True)
        review = reviewing.random_review(opened, n or 100, details=details, seed=seed)
        about = f"{len(review.table):,} of {review.of:,} tasks, drawn at random with seed {seed}"
    text = reviewing.review_csv(review)
    if out == "-":
        typer.echo(text, nl=False)
    else:
        # Spreadsheets recognise the encoding by the byte order mark.
        _options.write(Path(out), "\ufeff" + text, "--out", more=f": {about}")
        say_next(f"fill the column label, then relabel eval {quoted(run)} --gold {quoted(out)}")
    if details is None:
        advice = "is not on this machine as the run labelled it; name it with --tasks"
        typer.echo(f"titles and texts are empty: the task list {opened.list_name} {advice}", err=True)
    elif tasks is not None and tables.is_table_file(tasks) and not opened.is_own_list(Path(tasks)):
        typer.echo(f"{tasks} differs from the file that the run labelled; some texts may differ", err=True)
    if random:
        typer.echo("label them in this order: the first ones are a random sample, a selection is not", err=True)
        return
    alone = "their share of an occupation alone (the file with jobs is not on this machine)"
    typer.echo(f"weighted by {f'jobs ({review.jobs_from})' if review.jobs_from else alone}", err=True)


@app.command()
def labels(
    run: _options.RunArg,
    *,
    form: Annotated[Format | None, typer.Option("--format")] = None,
    wide: bool = False,
    out: _options.OutFile = None,
) -> None:
    """Write the labels of a run as CSV, Stata or Parquet: one row per task, setting and sample, or one row per task.

    Args:
        form: CSV, Stata or Parquet. By default what --out ends in, else CSV.
        wide: One row per task, with a column for each setting and sample, and the published code.
        out (F): The file to write. By default CSV is printed.
    """
    ending = "csv" if out is None else out.suffix.lower().removeprefix(".")
    if form is None and ending not in ("csv", "dta", "parquet"):
        raise UsageError(f"cannot tell what to write to {out}; end its name in .csv, .dta or .parquet, or add --format")
    chosen = form or ending
    if out is None and chosen != "csv":
        raise UsageError(f"--format {chosen} cannot be printed; name a file with --out")
    with doing("reading labels"):
        opened = relabel.open_run(run)
        table = opened.wide().rename(columns=lambda name: name.replace("-", "_")) if wide else opened.labels
        write = {"csv": csv_bytes, "dta": stata_bytes, "parquet": lambda frame: frame.to_parquet(index=False)}[chosen]
        content = write(table)
    if out is None:
        typer.echo(content.decode("utf-8"), nl=False)
    else:
        _options.write(out, content, "--out", more=f" ({len(table):,} rows)")


@app.command()
def cite(run: _options.RunArg, as_json: _options.AsJson = False) -> None:
    """Print what to cite for a run: its data with their licences, the model, the rubric and the software."""
    published = run in manifests.PUBLISHED or run == "sample"
    with doing("reading the run"):
        manifest = relabel.open_run(run).manifest if published else manifests.read_manifest(manifests.find_run(run))
    registry = sources.load_registry()
    used = [registry[name] for name in dict.fromkeys(use.source for use in manifest.sources) if name in registry]
    own = [use for use in manifest.sources if use.source not in registry]
    rubric, answered, version = manifest.rubric, list(manifest.models_returned), manifest.package_version
    about = {
        "data": [s.model_dump(include={"id", "citation", "release", "licence", "homepage"}) for s in used],
        "files": [use.model_dump(include={"file", "sha256"}) for use in own],
        "model": {"asked": manifest.model, "answered": answered, "date": manifest.ended_at},
        "rubric": {"id": rubric.id, "version": rubric.version, "sha256": manifest.rubric_sha256},
        "software": {"name": "relabel", "version": version, "cited_with": relabel.__version__},
    }
    if _options.give_json(about, as_json=as_json):
        return
    for source in used:
        say(f"Data: {source.citation} Release: {source.release}. Licence: {source.licence}. {source.homepage}")
    for use in own:
        say(f"Data: {use.file}, sha256 {use.sha256}")
    if not manifest.sources:
        say("Data: none is named in the manifest")
    answered_as = f", answered as {', '.join(answered)}" if answered else ""
    say(f"Model: {manifest.model}{answered_as}{f', {manifest.ended_at[:10]}' if manifest.ended_at else ''}")
    say(f"Rubric: {rubric.title} ({rubric.id}, version {rubric.version}, sha256 {manifest.rubric_sha256[:16]})")
    say(f"Software: relabel, version {version}; CITATION.cff of its repository has its authors")


@app.command()
def view(
    runs: list[str],
    *,
    gold: list[str] | None = None,
    review: Path = Path("review.csv"),
    tasks: str | None = None,
    browser: bool = True,
) -> None:
    """Browse labels in the browser, and review them by keyboard.

    Search, sort and filter tasks; see each rater's question, answer and rationale beside the golds. Under Review the labels stay
    hidden while you decide. Each review is saved at once, as a gold: `relabel eval RUN --gold F.csv`.

    The page is served to this machine only, under an address that cannot be guessed, until Ctrl-C.

    Args:
        runs (RUN...): A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4.
        gold (G): Show the labels of this gold too; may be given more than once. By default that of `relabel eval`.
        review (F.csv): Where reviews are kept. An existing file is continued, also one written by `relabel review`.
        tasks (REF): Where titles and texts come from. By default the list that the run was made from.
        browser: Open the page in the browser.
    """
    import webbrowser

    from relabel.evaluation.gold import default_gold, labels_of

    with doing("reading labels"):
        opened = [relabel.open_run(run) for run in dict.fromkeys(runs)]
        for run in opened:
            run.require_tasks()
            labels_of(run)
        golds: dict[str, Any] = {}
        if gold is not None:
            golds = {name: relabel.load_gold(name).table for name in gold if name not in runs}
        elif (name := default_gold(opened[0])) not in runs:
            try:
                golds = {name: relabel.load_gold(name).table}
            except RelabelError:
                typer.echo(f"shown without a gold: {name} is not on this machine; name one with --gold", err=True)
        column, choices = viewer.label_of_runs(opened)
        reviews = viewer.Reviews(review, column)
        details = alignment.task_details(opened[0], tasks)
        server = viewer.Viewer(viewer.LabelTable(opened, golds, details, _answer_of), reviews, choices)
    with server:
        typer.echo(f"{server.url}\nreviews go to {review}; stop with Ctrl-C")
        if browser:
            webbrowser.open(server.url)
        serve(server)
    if reviews.reviewers:
        say_next(f"relabel eval {quoted(runs[0])} --gold {quoted(review)}")


def _answer_of(key: str) -> dict[str, Any] | None:
    """Question, raw answer and invalid answers of a request key; None if the store has none."""
    from relabel.labelling.rows import REJECTED, DamagedRowError
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with suppress(StoreError, DamagedRowError), Store(settings().store_dir, read_only=True) as store:
        names = list(store.keys(f"{key}{REJECTED}"))
        rejected = [row for name in names if (row := store.checked(name)) is not None]
        answer = store.get(key)
        asked = store.request(names[-1] if answer is None and names else key)
        if asked is not None:
            return {
                "messages": asked["body"].get("messages") or asked["body"].get("input"),
                "content": answer and answer.content,
                "rejected": [
                    {"content": x.answer.content, "reason": x.rejected.reason} for x in rejected if x.rejected
                ],
            }
    return None
