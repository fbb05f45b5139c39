"""`relabel review`: the tasks most worth a person's look, or some drawn at random, as a file to fill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relabel.cli._options import RunArg, require_file, write
from relabel.cli.terminal import doing, say_next
from relabel.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command `review`."""

    @app.command("review")
    def review_run(
        run: RunArg,
        out: Annotated[
            str, typer.Option(metavar="F.csv", help="Where the file goes; - prints it instead.")
        ] = "review.csv",
        n: Annotated[
            int | None, typer.Option("--n", metavar="N", min=1, help="Tasks to list at most; 100 by default.")
        ] = None,
        random: Annotated[
            int | None,
            typer.Option(
                "--random",
                metavar="K",
                min=1,
                help="Draw K tasks at random from all of the run's instead, without its answers: filled, they speak for the run as a whole.",
            ),
        ] = None,
        seed: Annotated[int | None, typer.Option(metavar="S", min=0, help="Seed of --random; 0 by default.")] = None,
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
                help="Where titles and texts come from: sample, onet-30.2, or the path of a CSV file. By default the list that the run was made from, if it is on this machine.",
            ),
        ] = None,
    ) -> None:
        """Write the tasks most worth a person's look: doubt about the label, times what hangs on it.

        Fill label (E0, E1 or E2), reviewer and reviewed_at, and the file is a gold: `relabel eval RUN --gold F.csv`.
        Rows without a label are left out of it.

        Tasks chosen for their doubt tell nothing about the others. To learn how good the run is as a whole, and what the
        mean exposure is without its errors, fill a file of --random tasks, in its order.
        """
        from relabel.evaluation.alignment import is_own_list, list_name, task_details, task_details_from
        from relabel.evaluation.gold import load_gold
        from relabel.evaluation.review import RandomReview, random_review, review, review_csv
        from relabel.run import open_run
        from relabel.sources.tables import is_table_file

        if random is None and seed is not None:
            raise UsageError("--seed is the seed of --random; give both, or neither")
        if random is not None:
            for option, given in (("--n", n is not None), ("--gold", gold is not None), ("--rater", bool(rater))):
                if given:
                    raise UsageError(
                        f"--random draws from all tasks alike, so that {option} has no effect; give one of the two"
                    )
        require_file(out, "--out")
        opened = open_run(run)
        others = [open_run(other) for other in rater or ()]
        details = task_details(opened) if tasks is None else task_details_from(opened, tasks)
        if random is None:
            with doing("looking for doubtful tasks"):
                truth = None if gold is None else load_gold(gold)
                found = review(opened, truth, others, details=details, most=n or 100)
            about = f"{len(found.table):,} of {found.doubtful:,} tasks in doubt"
        else:
            found = random_review(opened, random, details=details, seed=seed or 0)
            about = f"{len(found.table):,} of {found.of:,} tasks, drawn at random with seed {found.seed}"
        text = review_csv(found)
        if out == "-":
            typer.echo(text, nl=False)
        else:
            # With a byte order mark, by which spreadsheets know the encoding.
            write(Path(out), "\ufeff" + text, "--out", more=f": {about}")
            say_next(f"fill the column label, then relabel eval {run} --gold {out}")
        if details is None:
            typer.echo(
                f"titles and texts are empty: the task list {list_name(opened)} is not on this machine as the run labelled it; "
                "name it with --tasks",
                err=True,
            )
        elif tasks is not None and is_table_file(tasks) and not is_own_list(opened, Path(tasks)):
            typer.echo(f"{tasks} is not the very file that the run labelled: some texts may be others", err=True)
        if isinstance(found, RandomReview):
            typer.echo(
                "fill them in this order: the first ones, too, are a fair sample; a choice among them is not", err=True
            )
            return
        weighed = (
            f"jobs of {found.jobs_from}"
            if found.jobs_from
            else "their share of an occupation alone: the jobs source is not on this machine"
        )
        typer.echo(f"weighed by {weighed}", err=True)
