"""`relabel review`: the tasks most worth a person's look, as a file to fill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command `review`."""

    @app.command("review")
    def review_run(
        run: Annotated[
            str, typer.Argument(metavar="RUN", help="A run folder, a name under runs/, or a published set.")
        ],
        out: Annotated[
            str, typer.Option(metavar="F.csv", help="Where the file goes; - prints it instead.")
        ] = "review.csv",
        n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Tasks to list at most.")] = 100,
        gold: Annotated[
            str | None, typer.Option(metavar="G", help="Count this gold's labels as another opinion.")
        ] = None,
        rater: Annotated[
            list[str] | None,
            typer.Option(metavar="RUN", help="Count this run's labels as another opinion; repeatable."),
        ] = None,
        tasks: Annotated[
            str | None,
            typer.Option(
                metavar="REF",
                help="Where titles and texts come from: sample, onet-30.2, or the path of a CSV file. By default the list that the run was made from, where it is at hand.",
            ),
        ] = None,
    ) -> None:
        """Write the tasks most worth a person's look: doubt about the label, times what hangs on it.

        Fill label (E0, E1 or E2), reviewer and reviewed_at, and the file is a gold: `relabel eval RUN --gold F.csv`.
        Rows without a label are left out of it.
        """
        from relabel.cli.outcome import write
        from relabel.evaluation.gold import load_gold
        from relabel.evaluation.review import review, review_csv
        from relabel.evaluation.side_by_side import is_own_list, list_name, task_details, task_details_from
        from relabel.run import open_run

        opened = open_run(run)
        others = [open_run(other) for other in rater or ()]
        details = task_details(opened) if tasks is None else task_details_from(opened, tasks)
        found = review(opened, None if gold is None else load_gold(gold), others, details=details, most=n)
        text = review_csv(found)
        if out == "-":
            typer.echo(text, nl=False)
        else:
            # With a byte order mark, by which spreadsheets know the encoding.
            write(Path(out), "\ufeff" + text, "--out")
            typer.echo(f"{len(found.table):,} of {found.doubtful:,} tasks in doubt written to {out}", err=True)
        if details is None:
            typer.echo(
                f"titles and texts are empty: the task list {list_name(opened)} is not at hand as the run labelled it; "
                "name it with --tasks",
                err=True,
            )
        elif tasks is not None and Path(tasks).suffix.lower() == ".csv" and not is_own_list(opened, Path(tasks)):
            typer.echo(f"{tasks} is not the very file that the run labelled: some texts may be others", err=True)
        weighed = (
            f"jobs of {found.jobs_from}"
            if found.jobs_from
            else "their share of an occupation alone: jobs are not at hand"
        )
        typer.echo(f"weighed by {weighed}", err=True)
