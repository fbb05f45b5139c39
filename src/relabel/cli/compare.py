"""`relabel compare`: what changed between runs, in their labels or in their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import relabel
from relabel.cli._options import Commands, Draws, GoldRule, Results, suggest_onet_soc
from relabel.cli.terminal import Table, cut, doing, heading, quoted, say, say_next, show_verdict
from relabel.errors import UsageError
from relabel.evaluation import report as reports
from relabel.tabular import Cell, Signed, cell_text, change, counted, figure, json_bytes, records

if TYPE_CHECKING:
    from relabel.evaluation.compare import CompareDocument, Difference, Disputed, Flip, PairwiseDocument
    from relabel.scoring.decomposition import Decomposition

# Rows of a table on a terminal, and tasks of a moved group in JSON.
_TOP = 10
_TASKS = 5
# Characters of a task's text and of an occupation's title on a terminal.
_TEXT = 58
_TITLE = 34
# Rows of tasks and of occupations on a page, and characters of a text there.
_ON_PAGE, _LONG = 25, 2000

app = Commands()


@app.command("compare")
def compare_runs(
    runs: list[str],
    results: Results,
    gold: str | None = None,
    gold_rule: GoldRule = "majority",
    draws: Draws = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scores: bool = False,
    before: list[str] | None = None,
    after: list[str] | None = None,
) -> None:
    """Compare runs, paired by task: what changed, by how much, and whether it is more than noise.

    Differences are the second run less the first. With more than two runs, each pair's agreement, the majority and
    the tasks of most disagreement are shown.

    Args:
        runs (RUN RUN...): Two or more runs: folders, names under runs/, or published sets.
        gold (G): Also compare each run with these reference labels; as for `relabel eval`.
        seed: Seed of the bootstrap.
        scores: Compare the scores of two runs instead, and split what moved.
        before (NAME=VALUE): With --scores: a choice for the first run, such as method=site-2026.
        after (NAME=VALUE): With --scores: a choice for the second run.
    """
    if len(runs) < 2:
        raise UsageError("compare needs two runs or more; give another run")
    from relabel.evaluation.alignment import task_details
    from relabel.evaluation.compare import compare, compare_several

    opened = [relabel.open_run(run) for run in runs]
    if scores:
        if len(opened) > 2 or gold is not None or results.html is not None or results.figures is not None:
            raise UsageError("--scores compares two runs and takes no --gold, --html or --figures; remove these")
        _compare_scores(opened[0], opened[1], before or (), after or (), results)
        return
    if before or after:
        raise UsageError("--before and --after apply to scores only; add --scores or remove them")
    with doing("comparing labels task by task"):
        truth = None if gold is None else relabel.load_gold(gold, gold_rule)
        options: Any = {"gold": truth, "details": task_details(opened[0]), "draws": draws, "seed": seed}
        document = compare(opened[0], opened[1], **options) if len(opened) == 2 else compare_several(opened, **options)
    tables_of: Any = pair_tables if len(opened) == 2 else several_tables
    tables = list(tables_of(document))

    results.draw(lambda: reports.compare_page(document, list(tables_of(document, page=True)), opened))
    if results.give_all(document, tables):
        return
    which = " and ".join(document.runs) if len(runs) == 2 else f"{len(runs)} runs"
    typer.echo(f"{which}: {counted(document.common, 'common task')}")
    for run, alone in zip(document.runs, getattr(document, "only", ()), strict=False):
        if alone:
            typer.echo(f"{counted(alone, 'task')} only in {run}")
    show_verdict(document.verdict, tables)
    if gold is None:
        say_next(f"relabel compare {' '.join(map(quoted, runs))} --gold G says which run is closer to the labels of G")


def _moved(difference: Difference) -> list[Cell]:
    return [difference.first, difference.second, *change(difference.difference, difference.ci95)]


def _code_and_title(code: str, title: str, width: int = _TITLE) -> str:
    return f"{code} {cut(title, width)}" if title else code


def _task_cells(task: Flip | Disputed, *, page: bool = False) -> list[Cell]:
    text, title = (_LONG, _LONG) if page else (_TITLE, 20)
    return [f"{task.task_id} {cut(task.text, text)}".strip(), _code_and_title(task.onet_soc_code, task.title, title)]


def pair_tables(document: CompareDocument, *, page: bool = False) -> Iterator[Table]:
    """All figures of a comparison of two runs, for a terminal or a page."""
    from relabel.evaluation.document import MAJOR_GROUPS, label_in_words

    moved, most = ("first", "second", "change", "95%"), _ON_PAGE if page else _TOP
    for setting, result in document.settings.items():
        if not result.n:
            continue
        columns = ("first run", *(f"second: {label}" for label in result.transitions), "share, first", *moved[1:])
        rows = [[label, *row.values(), *_moved(result.prevalence[label])] for label, row in result.transitions.items()]
        agreement = [cell_text(x) for x in (result.agreement, result.agreement_ci95, result.kappa, result.kappa_ci95)]
        note = f"agreement {agreement[0]} ({agreement[1]}), kappa {agreement[2]} ({agreement[3]}); {counted(result.changed, 'task')} changed"
        yield Table(
            f"Labels in {setting}, {counted(result.n, 'task')}",
            columns,
            rows,
            notes=[note],
            key=f"transitions-{setting}",
        )
    if document.measures:
        rows = [[measure, difference.n, *_moved(difference)] for measure, difference in document.measures.items()]
        yield Table("Means over tasks (0-1)", ("measure", "tasks", *moved), rows, key="measures")
    for setting, against in document.against_gold.items():
        title = f"Agreement in {setting} with the gold {document.gold}, {counted(against.n, 'task')}"
        rows = [[metric.replace("_", " "), *_moved(difference)] for metric, difference in against.metrics.items()]
        note = f"second run better on {counted(against.better, 'task')} (now right), worse on {against.worse:,} (now wrong)"
        yield Table(title, ("figure", *moved), rows, notes=[note], key=f"gold-{setting}")
    measure = document.main_measure
    if measure is not None and document.occupations:
        rows = [
            [
                _code_and_title(occupation.onet_soc_code, occupation.title, _LONG if page else _TITLE),
                *(occupation.tasks, occupation.flips, *occupation.measures[measure], Signed(occupation.move)),
            ]
            for occupation in document.occupations[:most]
        ]
        title = f"Occupations that move most, by mean {measure} over tasks ({len(document.occupations):,} in all)"
        yield Table(title, ("occupation", "tasks", "changed", *moved[:3]), rows, key="occupations")
        rows = [
            [*_task_cells(flip), label_in_words(flip.first), label_in_words(flip.second), Signed(flip.effect)]
            for flip in document.flips[:_TOP]
        ]
        title = f"Changed tasks that move an occupation's mean {measure} most ({len(document.flips):,} in all)"
        yield Table(title, ("task", "occupation", "first", "second", "change of mean"), rows, left=2, key="flips")
    for dimension, slices in document.slices.items():
        rows = [
            [
                f"{value} {MAJOR_GROUPS[value]}" if value in MAJOR_GROUPS else value,
                *(part.n, part.agreement, part.agreement_ci95, part.kappa),
                *change(part.difference, part.difference_ci95),
            ]
            for value, part in slices.items()
            if part.n
        ]
        title = f"Agreement in {document.main_setting} by {dimension.replace('_', ' ').replace('soc', 'SOC')}"
        columns = ("part", "tasks", "agreement", "95%", "kappa", f"change of mean {measure}", "95%")
        yield Table(title, columns, rows, key=f"agreement-by-{dimension}")


def several_tables(document: PairwiseDocument, *, page: bool = False) -> Iterator[Table]:
    """All figures of a comparison of three or more runs, for a terminal or a page."""
    numbered = [f"{place + 1} {run}" for place, run in enumerate(document.runs)]
    rows = [
        [name, *(by_run[place] for by_run in document.means.values()), document.alone[place]]
        for place, name in enumerate(numbered)
    ]
    yield Table(
        "Runs", ("run", *(f"mean {measure}" for measure in document.means), "tasks not common"), rows, key="runs"
    )
    for setting, result in document.settings.items():
        if not result.n:
            continue
        rows = []
        for p in result.pairs:
            figures = (p.agreement, p.agreement_ci95, p.kappa, p.kappa_ci95, p.kappa_quadratic)
            rows.append([f"{p.first + 1} and {p.second + 1}", *figures])
        columns = ("pair", "agreement", "95%", "kappa", "95%", "quadratic kappa")
        alphas = [figure(x) for x in (result.krippendorff_nominal, result.krippendorff_ordinal)]
        note = f"Krippendorff's alpha of all: {alphas[0]}, ordinal {alphas[1]}"
        title = f"Agreement of pairs in {setting}, {counted(result.n, 'task')} with a label in all runs"
        yield Table(title, columns, rows, notes=[note], key=f"pairs-{setting}")
        gold, majority = ("gold accuracy", "gold kappa") if document.gold else (), result.majority
        suffix = f", accuracy {figure(majority.gold_accuracy)} against {document.gold}" if gold else ""
        columns = ("run", *(f"share {label}" for label in majority.labels), *gold)
        rows = [
            [name, *run.prevalence.values(), *((run.gold_accuracy, run.gold_kappa) if gold else ())]
            for name, run in zip(numbered, result.runs, strict=True)
        ]
        most = ", ".join(f"{n:,} {label}" for label, n in majority.labels.items())
        note = f"majority: {most}; {counted(majority.tied, 'task')} without one, {figure(majority.unanimous)} unanimous{suffix}"
        yield Table(f"Labels of each run, {setting}", columns, rows, notes=[note], key=f"runs-{setting}")
    disputed = document.disputed[: _ON_PAGE if page else _TOP]
    if rows := [[*_task_cells(task, page=page), *task.labels, task.spread] for task in disputed]:
        columns = ("task", "occupation", *(f"run {n + 1}" for n in range(len(document.runs))), "spread")
        title = f"Tasks with most disagreement ({len(document.disputed):,} with several labels)"
        yield Table(title, columns, rows, left=2, key="disputed")


def _compare_scores(
    first: relabel.Run, second: relabel.Run, before: Sequence[str], after: Sequence[str], results: Results
) -> None:
    """Show how the scores of two runs differ.

    Args:
        first: The first run.
        second: The second run.
        before: Choices of the first table as `NAME=VALUE`, named as the options of `relabel score`; by default its
            defaults.
        after: Choices of the second table.
        results: Where the result is written.

    Raises:
        UsageError: A choice is not known, or the tables cannot be compared.
    """
    from relabel.scoring.decomposition import decompose
    from relabel.scoring.options import Choices
    from relabel.scoring.table import score_by

    def carriers(row: dict[str, Any]) -> list[dict[str, Any]]:
        return records(moved.task_contributions(row["code"], row["measure"]).head(_TASKS)) if row["change"] else []

    with doing("scoring both runs"):
        chosen = Choices.parse(before), Choices.parse(after)
        with suggest_onet_soc(chosen[0].taxonomy, "--before taxonomy=onet-soc --after taxonomy=onet-soc"):
            tables = score_by(first, chosen[0]), score_by(second, chosen[1])
        moved = decompose(*tables)
        document = {
            "before": tables[0].describe(),
            "after": tables[1].describe(),
            "changes": [row | {"carriers": carriers(row)} for row in records(moved.frame)],
            "appeared": records(moved.appeared),
            "disappeared": records(moved.disappeared),
            "missing_measures": dict(moved.missing),
        }
    thin = frozenset(str(code) for table in tables for code in table.frame.loc[table.has_status("thin"), "code"])
    shown = list(_score_tables(moved, thin))
    if not results.give_all(json_bytes(document), shown):
        _show_scores(moved, tables, shown)


def _show_scores(
    moved: Decomposition, tables: tuple[relabel.ScoreTable, relabel.ScoreTable], shown: Sequence[Table]
) -> None:
    for which, table in zip(("before", "after"), tables, strict=True):
        choices = [f"method {table.method}", f"weights {table.weights}", f"tasks {table.tasks}"]
        choices += [f"{name} {value}" for name, value in (("links", table.links), ("unrated", table.unrated)) if value]
        typer.echo(f"{which + ':':<8}{table.run}: {', '.join(choices)}")
        if table.note:
            say(table.note, indent=8, hang=0)
    for reason in dict.fromkeys(moved.missing.values()):
        typer.echo(f"not compared: {', '.join(m for m in moved.missing if moved.missing[m] == reason)}: {reason}")
    if moved.frame.empty:
        typer.echo("no group has a score in both")
    for table in shown:
        table.show()
    for which, alone in (("scored after only", moved.appeared), ("scored before only", moved.disappeared)):
        if len(alone):
            heading(f"{which}: {counted(len(alone), 'group')}")
            for row in alone.head(_TOP).to_dict("records"):
                say(f"{row['code']} {row['title']}: {row['reason']}", indent=2)
            if len(alone) > _TOP:
                typer.echo(f"and {len(alone) - _TOP:,} more (--json has all)")


def _score_tables(moved: Decomposition, thin: frozenset[str]) -> Iterator[Table]:
    """Groups whose score changed most, by measure, decomposed by cause; those with a thin score in a table are marked."""
    from relabel.scoring.decomposition import PARTS

    parts = [part for part in PARTS if moved.frame[part].abs().max() > 0] or ["labels"]

    def signed(row: Any, names: Sequence[str]) -> list[Cell]:
        # Adding 0 turns a negative zero into a plain one.
        return [Signed(round(float(row[name]), 3) + 0) for name in names]

    for measure, rows in moved.frame.groupby("measure", sort=False):
        changed = int((rows["change"].abs() > 1e-12).sum())
        means, sizes = rows[["before", "after", "change", *parts]].mean(), rows[["change", *parts]].abs().mean()
        cells: list[list[Cell]] = [
            ["mean over groups", float(means["before"]), float(means["after"]), *signed(means, ["change", *parts])],
            ["mean absolute change", None, None, *(float(sizes[name]) for name in ("change", *parts))],
        ]
        most = rows.assign(size=rows["change"].abs()).sort_values(["size", "code"], ascending=[False, True]).head(_TOP)
        notes: list[str] = []
        for row in most[most["size"] > 1e-12].to_dict("records"):
            numbers = signed(row, ["change", *parts])
            code = f"{row['code']}{' (thin)' if row['code'] in thin else ''}"
            cells.append([_code_and_title(code, str(row["title"])), row["before"], row["after"], *numbers])
            for task in moved.task_contributions(str(row["code"]), row["measure"]).head(1).to_dict("records"):
                labels = f"{task['label_before'] or 'none'} to {task['label_after'] or 'none'}"
                cause = f"by a task of {task['onet_soc_code']} ({task['change']:+.3f}, {labels})"
                notes.append(f"{row['code']}: largest change {cause}: {cut(str(task['text']), _TEXT)}")
        few = int(rows["code"].isin(thin).sum())
        title = f"Scores {measure} (0-1): {changed:,} of {len(rows):,} groups moved"
        title += f"; {few:,} {'is' if few == 1 else 'are'} thin" if few else ""
        yield Table(title, ("group", "before", "after", "change", *parts), cells, notes=notes)
