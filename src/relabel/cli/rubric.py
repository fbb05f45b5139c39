"""`relabel rubric`: list, show and check rubrics."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import relabel
from relabel import files, importing, settings
from relabel import rubric as rubric_files
from relabel import task as task_lists
from relabel.cli import _labelling, _options
from relabel.cli.terminal import Table, quoted, say, say_next
from relabel.errors import DataError, IncompleteRunError, RunInterruptedError, UsageError
from relabel.evaluation import trial as trials
from relabel.labelling import job as jobs
from relabel.labelling import options, request, store
from relabel.sources import tables
from relabel.tabular import Cell

app = _options.Commands()
rubric_app = _options.Commands(name="rubric", help="List, show and check rubrics.", no_args_is_help=True)
app.add_typer(rubric_app)


@rubric_app.command("list")
def list_rubrics(as_json: _options.AsJson = False) -> None:
    """List the rubrics that ship with relabel, with what trials have shown of each."""
    rubrics = {name: relabel.load_rubric(name) for name in rubric_files.rubric_names()}
    keys = {"id", "version", "title", "unit", "validity"}
    listed = [
        {"name": name, **r.model_dump(mode="json", include=keys), "settings": list(r.settings), "tried": r.tried}
        for name, r in rubrics.items()
    ]
    if _options.give_json(listed, as_json=as_json):
        return
    for name, rubric in rubrics.items():
        asks = f"unit: {rubric.unit}; settings: {', '.join(rubric.settings)}; labels: {', '.join(rubric.labels)}"
        typer.echo(f"{name:<12} v{rubric.version}  {rubric.title}")
        for line in (asks, *rubric.validity_in_words()):
            say(line, indent=17)


@rubric_app.command()
def show(rubric: str, setting: str | None = None, examples: bool = True, as_json: _options.AsJson = False) -> None:
    """Show a rubric, or the exact messages that it sends.

    Args:
        rubric: A rubric's name, or the path of a YAML file.
        setting: Show the messages that are sent under this setting, with a made-up task.
        examples: With or without the worked examples.
    """
    loaded = relabel.load_rubric(rubric)
    if setting is None:
        if not _options.give_json(loaded, as_json=as_json):
            import yaml

            text = yaml.safe_dump(loaded.model_dump(), sort_keys=False, allow_unicode=True, width=100)
            typer.echo("\n".join([text.rstrip(), *(f"# {line}" for line in loaded.validity_in_words())]))
        return
    if setting not in loaded.settings:
        raise UsageError(f"the rubric {loaded.id} has no setting {setting!r}; use one of {', '.join(loaded.settings)}")
    title, text = "TITLE OF THE OCCUPATION", f"TEXT OF THE {loaded.unit.upper()}."
    task = relabel.Task(task_id="0", onet_soc_code="00-0000.00", title=title, text=text)
    messages = request.load_prompt(loaded.prompt).messages((task,), loaded, setting, examples=examples)
    if _options.give_json(messages, as_json=as_json):
        return
    for message in messages:
        typer.echo(f"--- {message['role']}\n{message['content']}\n")


@rubric_app.command()
def new(name: str, *, base: Annotated[str, typer.Option("--from")] = "exposure", out: Path | None = None) -> None:
    """Create a rubric of your own, as a copy of another under a new id.

    Args:
        name: Id of the new rubric; its file is NAME.yaml.
        base: The rubric to start from: a name, or the path of a YAML file.
        out (F): The file to write. By default NAME.yaml here.
    """
    text, file = rubric_files.new_rubric(name, base), out or Path(f"{name}.yaml")
    if file.exists():
        raise UsageError(f"{file} exists; give another name, or --out")
    _options.write(file, text, "--out")
    say_next(f"edit it, then relabel rubric check {quoted(file)}, and relabel rubric try {quoted(file)} --model MODEL")


@rubric_app.command()
def check(rubric: str, as_json: _options.AsJson = False) -> None:
    """Check a rubric and the prompt that it names: report errors, and warn of what may mislead.

    Args:
        rubric: A rubric's name, or the path of a YAML file.
    """
    loaded = relabel.load_rubric(rubric)
    prompt = request.load_prompt(loaded.prompt)
    task = relabel.Task(task_id="0", onet_soc_code="00-0000.00", title="Checkers", text="Check.")
    for setting in loaded.settings:
        prompt.messages((task,), loaded, setting)
    lists = ("sample", "eloundou-2023") if loaded.unit == "task" else ()
    local_lists = [name for name in lists if task_lists.is_local(name)]
    warnings = rubric_files.rubric_warnings(
        loaded, {name: [task.text for task in relabel.load_tasks(name)] for name in local_lists}
    )
    unread = [name for name in lists if name not in local_lists]
    identity = {"rubric": f"{loaded.id}@{loaded.version}", "source": loaded.source, "sha256": loaded.sha256}
    document = {**identity, "warnings": warnings, "tried": loaded.tried, "not_compared_with": unread}
    if _options.give_json(document, as_json=as_json):
        return
    typer.echo(
        f"{loaded.source}: valid: {loaded.id} v{loaded.version}, {len(loaded.settings)} settings, {len(loaded.labels)} labels, "
        f"{len(loaded.examples)} worked examples, prompt {prompt.name}"
    )
    for line in [*(f"warning: {warning}" for warning in warnings), *loaded.validity_in_words()]:
        say(line)
    for name in unread:
        typer.echo(f"examples were not compared with the tasks of {name}, which are not on this machine", err=True)


@rubric_app.command("try")
def try_rubrics(
    files: list[str],
    labelling: _options.Labelling,
    model: str | None = None,
    labels: list[Path] | None = None,
    gold: list[str] | None = None,
    gold_by: _options.GoldBy = None,
    tasks: str | None = None,
    sample: Annotated[int | None, typer.Option(min=2)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    final: bool = False,
    draws: _options.Draws = 2000,
    out: Path | None = None,
    as_json: _options.AsJson = False,
) -> None:
    """Label the same tasks under one or several rubrics and compare each with reference labels, and with each other.

    Tasks are drawn from the half of the list for tuning a wording. --final draws from the other half: use it once,
    when the wording is final. Each rubric may cost an equal part of --max-cost.

    Args:
        files (RUBRIC...): Rubrics by name, or paths of YAML files.
        model: The model that labels; as for relabel run.
        labels (FILE.csv): Labels made elsewhere, in place of a model: one file for each rubric, in their order.
        gold (G): Reference labels; may be given more than once. By default eloundou-2023:human and
            eloundou-2023:gpt4.
        tasks: Task list, as for relabel run. By default eloundou-2023.
        sample: Tasks to draw. By default 240, or as many as there are.
        seed: Seed of the draw and of the intervals.
        final: Use the half of the tasks kept for the end: once, with the final wording.
        out (DIR): Folder for trial.json and one run per rubric. By default under runs/.
    """
    if (model is None) == (not labels) or (labels and (len(labels) != len(files) or sample is not None)):
        raise UsageError("give either --model, or a --labels FILE for each rubric and no --sample, not both")
    rubrics = _rubrics_by_name([relabel.load_rubric(file) for file in files])
    usual = ["sample"] if tasks == "sample" else ["eloundou-2023:human", "eloundou-2023:gpt4"]
    golds = [relabel.load_gold(name, made_by=gold_by) for name in gold or usual]
    started = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    half: trials.Half | None = "final" if final else None if labels else "development"
    folder = out or Path("runs") / _trial_name(
        rubrics, model or "labels", half, sample, seed, list(map(str, labels or ()))
    )
    _keep_final_trial(folder, rubrics, final=final)
    rejected: dict[str, float | None] = {}
    runs = _import_runs(rubrics, labels, tasks, folder, final=final) if labels else {}
    listed = tasks or (next(iter(runs.values())).manifest.tasks if labels else "eloundou-2023")
    look, new = _final_look(rubrics, listed, started, named=out is not None) if final else (trials.FIRST_LOOK, ())
    if labels:
        listed = next(iter(runs.values())).manifest.tasks
    else:
        chosen = _tasks_for(rubrics, golds, listed, "final" if final else "development", sample, seed)
        ask = partial(
            options.RunOptions, model=str(model), tasks=listed, chosen=chosen, seed=seed, **labelling.chosen()
        )
        extra = {"half": half, "sample": len(chosen), "seed": seed}
        runs, rejected = _label_runs(rubrics, ask, labelling, folder, extra)
    drawn = trials.TrialTasks(tasks=listed, half=half, sample=sample, seed=seed, draws=draws, started_at=started)
    document = trials.trial(runs, golds, drawn, rejected=rejected, look=look)
    printed = _options.give_json(document, out=folder / "trial.json", as_json=as_json)
    if new:
        _record_look(new, started, folder)
    if not printed:
        _show_trial(document)
    if missing := [tried for tried in document.rubrics if tried.missing]:
        names = ", ".join(str(folder / tried.name / "failures.jsonl") for tried in missing)
        raise IncompleteRunError(
            f"{sum(tried.missing for tried in missing):,} of {sum(tried.asked for tried in document.rubrics):,} labels are missing (see {names}); "
            "run the same command again to request them; until then the figures cover the others only"
        )


def _rubrics_by_name(rubrics: Sequence[relabel.Rubric]) -> dict[str, relabel.Rubric]:
    """Rubrics by `ID@VERSION`; further ones of the same id and version by `ID@VERSION#2` and so on."""
    named: dict[str, relabel.Rubric] = {}
    times: Counter[str] = Counter()
    for rubric in rubrics:
        if rubric.unit != "task":
            raise UsageError(f"the rubric {rubric.id} rates occupations, without reference labels; give one of tasks")
        times[name := f"{rubric.id}@{rubric.version}"] += 1
        named[name if times[name] == 1 else f"{name}#{times[name]}"] = rubric
    return named


def _trial_name(rubrics: Mapping[str, relabel.Rubric], model: str, half: str | None, *more: Any) -> str:
    """A descriptive name for a trial's folder, with a hash of `more`, which identifies tasks or labels."""
    whole = json.dumps([[rubric.sha256 for rubric in rubrics.values()], model, half, *more])
    name = "-".join(["try", *rubrics, model, *([half] if half else []), hashlib.sha256(whole.encode()).hexdigest()[:6]])
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _keep_final_trial(folder: Path, rubrics: Mapping[str, relabel.Rubric], *, final: bool) -> None:
    """Check that a trial on the final half is not overwritten by one with other tasks or another wording."""
    path = folder / "trial.json"
    if not path.is_file():
        return
    try:
        before = trials.TrialDocument.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable trial; use another --out") from error
    if before.final and (not final or {r.wording for r in before.rubrics} != {r.wording for r in rubrics.values()}):
        raise UsageError(
            f"{path} is the trial of the final half of {before.started_at[:10]}, and this would overwrite it with another "
            f"{'wording' if final else 'half'}; give --out another folder and report both"
        )


def _final_look(
    rubrics: Mapping[str, relabel.Rubric], tasks: str, started: str, *, named: bool
) -> tuple[trials.Look, Sequence[Mapping[str, str]]]:
    """The number of this test on the final half of a task list, for these rubric ids, from the record of earlier ones.

    Args:
        rubrics: The rubrics to try.
        tasks: The list, as the user named it.
        started: When this test began.
        named: Whether the user named the folder, which shows that a further look with another wording is intended.

    Returns:
        The look, and what to add to the record.

    Raises:
        UsageError: Another wording was tried on this half before, which the user may not know.
        DataError: The record cannot be read.
    """
    task_list = str(Path(tasks).resolve()) if tables.is_table_file(tasks) else tasks
    wordings = list(dict.fromkeys((rubric.id, rubric.wording) for rubric in rubrics.values()))
    path = _record_of_looks()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        looks = [look for look in map(json.loads, lines) if look["tasks"] == task_list]
        seen = {(look["rubric"], look["wording"]): look["when"] for look in looks}
        first_tried = {pair: seen.get(pair, started) for pair in wordings}
        # For each wording, the looks with other wordings of its rubric before it was first tried.
        before = [
            {(look["when"], look["folder"]) for look in looks if look["rubric"] == name and look["when"] < first}
            for (name, _), first in first_tried.items()
        ]
        others = sorted({(when[:10], folder) for earlier in before for when, folder in earlier})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}, the record of final trials, cannot be read; correct or remove it") from error
    if others and not named:
        used = " and ".join(f"on {when} in {folder}" for when, folder in others)
        raise UsageError(
            f"the final half of {tasks} was already used {used} with another wording of {' and '.join(dict(wordings))}; "
            "a second look would tune on it: try wordings without --final, or name a folder with --out, and the result records which look it is"
        )
    new = [{"tasks": task_list, "rubric": name, "wording": own} for name, own in wordings if (name, own) not in seen]
    # The document may be published, so it must not show the paths of private folders.
    earlier = " and ".join(f"on {when} ({Path(folder).name})" for when, folder in others)
    return trials.Look(1 + max(map(len, before)), earlier), new


def _record_of_looks() -> Path:
    return settings.settings().home / "final-looks.jsonl"


def _record_look(new: Sequence[Mapping[str, str]], when: str, folder: Path) -> None:
    """Add the wordings of a trial on the final half to the record."""
    path, about = _record_of_looks(), {"when": when, "folder": str(folder.resolve())}
    with files.os_errors(f"cannot write {path}", "set RELABEL_HOME to another folder"):
        files.make_private_dir(path.parent)
        with path.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps({**entry, **about}) + "\n" for entry in new)


def _import_runs(
    rubrics: Mapping[str, relabel.Rubric], files: Sequence[Path], tasks: str | None, folder: Path, *, final: bool
) -> dict[str, relabel.Run]:
    """Runs made from label files; with `final`, only of tasks in the final half."""
    runs: dict[str, relabel.Run] = {}
    for (name, rubric), path in zip(rubrics.items(), files, strict=True):
        try:
            done = importing.import_labels(path, model=path.stem, rubric=rubric, out=folder / name, tasks=tasks)
        except (DataError, UsageError) as error:
            # Advice on options of `relabel import` would mislead here.
            message = re.sub(r"[;:] [^;:]*--(?!tasks\b).*", "", str(error))
            raise DataError(
                f"{message}; rubric try reads the columns task_id, setting and label, in the words of the rubric"
            ) from error
        run = relabel.open_run(str(done.folder))
        if final:
            run = replace(
                run, labels=run.labels[run.labels["task_id"].map(trials.half_of) == "final"].reset_index(drop=True)
            )
            if run.labels.empty:
                raise DataError(f"{path} has no task of the final half; remove --final, or give other labels")
        runs[name] = run
    return runs


def _tasks_for(
    rubrics: Mapping[str, relabel.Rubric],
    golds: Sequence[relabel.Gold],
    ref: str,
    half: trials.Half,
    sample: int | None,
    seed: int,
) -> list[relabel.Task]:
    """Tasks of one half with a label in every gold, and that are not examples in a rubric."""
    shown = {
        tables.plain_name(example.task) for rubric in rubrics.values() for example in rubric.examples if example.task
    }
    tasks = [
        t
        for t in relabel.load_tasks(ref)
        if trials.half_of(t.task_id) == half and tables.plain_name(t.text) not in shown
    ]
    for gold in golds:
        keys = set(zip(gold.table["onet_soc_code"].fillna(""), gold.table["task_id"], strict=True))
        tasks = [t for t in tasks if (t.onet_soc_code, t.task_id) in keys or ("", t.task_id) in keys]
    if len(tasks) < (sample or 2):
        raise DataError(
            f"the {half} half of {ref} has {len(tasks):,} tasks with labels in {', '.join(gold.name for gold in golds)}; give a smaller "
            "--sample, or --gold with labels of these tasks"
        )
    return task_lists.draw_sample(tasks, min(sample or 240, len(tasks)), seed)


def _label_runs(
    rubrics: Mapping[str, relabel.Rubric],
    ask: partial[options.RunOptions],
    labelling: _options.Labelling,
    folder: Path,
    extra: dict[str, Any],
) -> tuple[dict[str, relabel.Run], dict[str, float | None]]:
    """Label the tasks under each rubric, one run after the other; `ask` makes the options, and `extra` is added to the manifests.

    Returns:
        The runs, and the cost of rejected answers in each; None if unknown.
    """
    environment, look = settings.settings(), _options.Showing(labelling.quiet).look
    runs: dict[str, relabel.Run] = {}
    rejected: dict[str, float | None] = {}
    for name, rubric in rubrics.items():
        chosen = ask(rubric=rubric, max_cost=labelling.max_cost and labelling.max_cost / len(rubrics))
        asked = chosen.prepare(environment)
        job = replace(asked.job, parameters={**asked.job.parameters, **extra})
        typer.echo(f"{name}: {job.size:,} labels", err=True)
        if not labelling.yes and labelling.max_cost is None:
            _labelling.get_consent(job, folder / name, environment)
        work = _labelling.label_until(
            stop := jobs.Stop(), asked._replace(job=job), folder / name, environment, look=look
        )
        outcome = _labelling.run_until_stopped(work, stop, look=look)
        if stop.asked.is_set() or outcome.missing >= job.size:
            kind = RunInterruptedError if stop.asked.is_set() else IncompleteRunError
            raise kind(
                f"{name}: {outcome.missing:,} of {job.size:,} labels are missing "
                f"(see {folder / name / 'failures.jsonl'}); run the same command again to continue"
            )
        runs[name] = relabel.open_run(str(folder / name))
        keys = {row.request_key for row in (*outcome.labels, *outcome.failures)}
        with store.Store(environment.store_dir, read_only=True) as opened:
            stored = [opened.get(key) for key in opened.rejected_keys(keys)]
        costs = [answer.cost_usd for answer in stored if answer is not None and answer.cost_usd is not None]
        rejected[name] = sum(costs) if len(costs) == len(stored) else None  # the cost of a damaged row is unknown
    return runs, rejected


def _show_trial(document: trials.TrialDocument) -> None:
    columns = ["on tasks of", "labels", "reference", "setting", "n", "rate", "ref. rate", "kappa", "95%"]
    rows: list[list[Cell]] = []
    for a in document.agreements:
        rates = map(trials.rate_in_words, (a.first_rate, a.second_rate))
        rows.append([a.on, a.first, a.second, a.setting, a.n, *rates, a.kappa, a.ci95.get("kappa")])
    Table("", columns, rows, left=4).show()
    typer.echo()
    for line in [*document.verdict.splitlines(), *([f"Note: {document.note}."] if document.note else [])]:
        say(line)
    for rubric in document.rubrics:
        for setting, share in rubric.variance.items():
            say(f"{rubric.name}, {setting}: {share.in_words()}.")
    names = ", ".join(gold.name for gold in document.golds)
    say(f"Compared with {names}. trial.json has a block `validity` for each rubric file.")
