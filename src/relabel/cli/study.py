"""`relabel study`: many raters from one file."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli import _labelling, _options
from relabel.cli.terminal import Table, doing, make_console, quoted, say, say_next, say_written
from relabel.errors import DataError, GateError, RelabelError, RunInterruptedError
from relabel.study import file as study_files
from relabel.study import package as packages
from relabel.study import results, running
from relabel.tabular import Cell, listed_names

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Mapping, Sequence

    from rich.console import RenderableType

app = _options.Commands()
study_app = _options.Commands(
    name="study", help="Label with many raters from one file; make tables, pages and a package."
)
app.add_typer(study_app)
# Seconds between lines of progress that are not written to a terminal.
_PLAIN_EVERY_S = 10.0
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]


@study_app.command()
def init(path: Annotated[Path, typer.Argument()] = Path("study.yaml")) -> None:
    """Write a commented study file and, beside it, study.schema.json for editors, replacing an earlier schema.

    Args:
        path (STUDY.yaml): The file to write.
    """
    schema = study_files.init_study(path)
    say(f"Written: {path} and {schema}. Edit it, then: relabel study run {quoted(path)} --dry-run")


@study_app.command()
def run(
    path: StudyFile,
    replay: bool = False,
    dry_run: bool = False,
    allow_host: list[str] | None = None,
    quiet: _options.Quiet = False,
) -> None:
    """Make what a study still lacks, and only that: runs, tables, figures, scores and pages.

    Raters run in parallel, each under its own limits and all under the study's budget; one that fails does not stop
    the others. Run the same command again to continue.

    Args:
        replay: Take answers from the store only; send no request.
        dry_run: Estimate requests, cost and hours; send nothing.
        allow_host: Send tasks and key to this host, which only the study file names; may be given more than once.
            Known providers and this machine do not need it.
    """
    opened = running.open_study(path)
    if not quiet:
        typer.echo(f"reading the tasks and labels that {path} names ...", err=True)
    raters, hosts = running.plan(opened), allow_host or ()
    running.require_readable(opened)
    if dry_run:
        running.require_known_hosts(raters, opened, hosts)
        _estimates(raters, opened)
        return

    stop = running.StopAll()
    work = running.run_raters(raters, opened, replay=replay, allow_hosts=hosts, stop=stop)
    _labelling.run_until_stopped(_await_raters(work, raters, quiet=quiet), stop, look=_options.Showing(quiet).look)
    _show(_rows(raters, running.rater_states(raters, opened), {}))
    if any(one.state == "interrupted" for one in raters):
        running.raise_worst(raters)
    if stop.asked.is_set():
        raise RunInterruptedError("stopped before the results were made; run the same command again to make them")
    if runs := running.runs_of(raters):
        with doing("making the results"):
            made = results.write_results(opened, runs)
        typer.echo()
        for sentence in made.verdict:
            say(sentence)
        typer.echo()
        say(f"Report: {made.folder / 'report.html'}. Tables: {made.folder / 'tables'}.")
        if all(one.state == "complete" for one in raters):
            say_next(f"relabel study package {quoted(path)}")
    _judge(opened, raters)
    running.raise_worst(raters)


def _judge(opened: running.OpenStudy, raters: list[running.RaterRun]) -> None:
    """Run the suite on each model; a failed gate of one model does not prevent the others."""
    if (suite := opened.study.suite) is None:
        return
    from relabel.cli.app import run_app

    codes: dict[str, int] = {}
    for one in raters:
        if one.model is not None and one.state == "complete":
            typer.echo()
            codes[one.rater.name] = run_app(["eval", one.ref, "--suite", opened.path(suite)])
    if unjudged := [code for code in codes.values() if code not in (0, GateError.exit_code)]:
        raise typer.Exit(unjudged[0])  # its error has been printed
    if failed := [name for name, code in codes.items() if code]:
        raise GateError(f"gates failed for {', '.join(failed)}; the lines above say which")


@study_app.command()
def status(path: StudyFile, as_json: _options.AsJson = False) -> None:
    """Show the state of each rater of a study."""
    opened = running.open_study(path)
    study, raters = opened.study, running.plan(opened, keep_damaged=True)
    damaged = next((one.error for one in raters if one.error is not None), None)
    states = running.rater_states(raters, opened)
    kappas: dict[str, float | None] = {}
    with suppress(RelabelError):  # the state of the raters matters more than a gold that cannot be read
        runs = running.runs_of(one for one in raters if one.error is None)
        kappas = results.kappa_by_rater(opened, runs) if runs else {}
    rows = _rows(raters, states, kappas)
    document = {"title": study.title, "budget_usd": study.budget_usd, "raters": rows}
    if not _options.give_json(document, as_json=as_json):
        _show(rows)
        costs = [state.cost_usd for state in states.values()]
        budget = "" if study.budget_usd is None else f" of {study.budget_usd:,.2f}"
        spent = _in_all(f"${sum(cost or 0.0 for cost in costs):,.4f}{budget}", costs)
        is_finished = (opened.results / "report.html").exists() and all(one.state == "complete" for one in raters)
        command = f"relabel study {'package' if is_finished else 'run'} {quoted(opened.file)}"
        compared_with = f"the gold {study.golds[0]}" if study.golds else "the other raters, on average"
        say(f"kappa: with {compared_with}. Spent: {spent}. Next: {command}")
    if damaged is not None:
        raise damaged


@study_app.command()
def package(path: StudyFile, out: Path | None = None) -> None:
    """Write a replication package: one zip that rebuilds every table of the study offline.

    Args:
        out: The zip file. By default STUDY-package.zip beside the study file.
    """
    target = out or path.with_name(f"{path.stem}-package.zip")
    files = packages.write_package(running.open_study(path), target)
    say_written(target, f", {files} files; its README.md says how to rebuild the tables")


@study_app.command()
def rebuild(path: StudyFile, quiet: _options.Quiet = False) -> None:
    """Rebuild the results of an unpacked replication package from its answers alone, and compare their checksums."""
    opened = running.open_study(path)
    added, existing = packages.unpack_answers(opened)
    say(f"Answers: {added:,} added to the store, {existing:,} already there.")
    failed: GateError | None = None
    try:
        run(path, replay=True, dry_run=False, quiet=quiet)
    except GateError as error:  # as it did for the authors, perhaps
        failed = error
    same, differ = packages.compare_checksums(opened)
    if differ:
        raise DataError(f"{len(differ)} results are not those of the package: {listed_names(differ, 5)}; {same} are")
    say(f"All {same} results are those of the package, byte by byte.")
    if failed is not None:
        raise failed


def _rows(
    raters: list[running.RaterRun], states: Mapping[str, running.RaterState], kappas: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """The state of each rater; one without a model has no labels to ask for."""
    return [
        {"rater": name, **asdict(states.get(name) or running.RaterState(one.state, 0, 0, 0.0, None, (0, 0)))}
        | {"kappa": kappas.get(name), "folder": one.ref}
        for name, one in ((one.rater.name, one) for one in raters)
    ]


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    cells: list[list[Cell]] = []
    for row in rows:
        waiting, done = row["waiting"]
        state = f"{row['state']}: {done:,} of {waiting:,} done" if waiting else row["state"]
        missing = max(row["asked"] - row["labels"], 0)
        counts: list[Cell] = [row["labels"], missing, _dollars(row["cost_usd"])] if row["asked"] else [None] * 3
        hours = None if row["hours_left"] is None else f"{row['hours_left']:,.2f}"
        cells.append([row["rater"], state, *counts, row["kappa"], hours])
    Table("", ["rater", "state", "labels", "missing", "cost", "kappa", "hours left"], cells, left=2).show()
    say(f"Runs: {', '.join(row['folder'] for row in rows)}")


def _estimates(raters: list[running.RaterRun], opened: running.OpenStudy) -> None:
    estimate_by_rater, rows = running.estimates(raters, opened), list[list[str]]()
    costs = [estimate.cost_usd for estimate, _ in estimate_by_rater.values()]
    longest = {name: bounds[0].hours[1] for name, (_, bounds) in estimate_by_rater.items() if bounds}
    for name, (entry, _) in estimate_by_rater.items():
        cost = "not known" if entry.cost_usd is None else f"${entry.cost_usd[0]:,.4f} to ${entry.cost_usd[1]:,.4f}"
        at_most = f"{longest[name]:,.2f}" if name in longest else "-"
        rows.append([name, f"{entry.labels:,}", f"{entry.to_ask:,}", cost, at_most])
    if not rows:
        say("Every rater is complete; nothing would be sent.")
        return
    Table("", ["rater", "labels", "requests to send", "cost", "hours at most"], rows).show()
    hours = max(longest.values(), default=0)
    time = f"up to {hours:,.2f} hours side by side" if hours else "hours unknown, as no rater has rpm or tpm"
    if hours and len(longest) < len(rows):
        time += ", without the raters that have no rpm or tpm"
    low, high = (sum(cost[end] for cost in costs if cost) for end in (0, 1))
    say(f"All raters: {_in_all(f'${low:,.4f} to ${high:,.4f}', costs)}; {time}.")


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:,.4f}"


def _in_all(amount: str, costs: Collection[object]) -> str:
    """An amount over all raters; says so if the cost of some or all is unknown."""
    unknown = sum(cost is None for cost in costs)
    if unknown == len(costs) > 0:
        return "cost unknown"
    return f"{amount}, without raters of unknown cost" if unknown else amount


async def _await_raters(work: Coroutine[object, object, None], raters: list[running.RaterRun], *, quiet: bool) -> None:
    """Await the raters; meanwhile show a line for each on a terminal, and elsewhere write what has changed."""
    asked = [one for one in raters if one.model is not None and one.state != "complete"]
    if quiet or not asked:
        await work
        return
    if not sys.stderr.isatty():
        lines = asyncio.create_task(_write_changes(asked))
        await work
        lines.cancel()
        return
    from rich.live import Live

    console = make_console(stderr=True)

    def look() -> RenderableType:
        rows = list[list[Cell]]()
        for one in asked:
            p = one.progress
            labels = f"{p.from_store + p.fresh:,} of {p.asked:,}"
            rows.append([one.rater.name, one.state, labels, p.failed.total(), _dollars(p.cost_usd)])
        return Table("", ["rater", "state", "labels", "failed", "cost"], rows, left=2).drawn(console)

    with Live(get_renderable=look, console=console, transient=True):
        await work


async def _write_changes(asked: list[running.RaterRun]) -> None:
    before = ""
    while True:
        await asyncio.sleep(_PLAIN_EVERY_S)
        counts = [f"{one.rater.name} {one.progress.done:,}/{one.progress.asked:,}" for one in asked]
        if (now := " | ".join(counts)) != before:
            typer.echo(now, err=True)
        before = now
