"""`relabel view`: a page on this machine to look at labels and to review them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import relabel
from relabel.cli._options import Commands
from relabel.cli.terminal import doing, say_next

app = Commands()


@app.command()
def view(
    runs: list[str],
    *,
    gold: list[str] | None = None,
    review: Path = Path("review.csv"),
    tasks: str | None = None,
    browser: bool = True,
) -> None:
    """Look through labels in the browser, and review them by keyboard.

    Search, sort and filter tasks; see each rater's question, answer and rationale beside the golds. Under Review the labels stay
    hidden while you decide. Each review is saved at once, as a gold: `relabel eval RUN --gold F.csv`.

    The page is served to this machine alone, under an address that cannot be guessed, until Ctrl-C.

    Args:
        runs (RUN...): A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4.
        gold (G): Show the labels of this gold too; repeatable. By default the one that fits.
        review (F.csv): Where reviews are kept. A file that is there is taken up, also one that `relabel review`
            wrote.
        tasks (REF): Where titles and texts come from. By default the list that the run was made from.
        browser: Open the page in the browser.
    """
    import webbrowser

    from relabel.errors import RelabelError
    from relabel.evaluation.alignment import task_details, task_details_from
    from relabel.evaluation.gold import default_gold, labels_of
    from relabel.publishing.viewer import Labels, Reviews, Viewer, label_of_runs

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
        column, choices = label_of_runs(opened)
        reviews = Reviews(review, column)
        details = task_details(opened[0]) if tasks is None else task_details_from(opened[0], tasks)
        server = Viewer(Labels(opened, golds, details, _answer_of), reviews, choices)
    with server:
        typer.echo(f"{server.url}\nreviews go to {review}; stop with Ctrl-C")
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")
    if reviews.reviewers:
        say_next(f"relabel eval {runs[0]} --gold {review}")


def _answer_of(key: str) -> dict[str, Any] | None:
    """Question and raw answer behind a key, and the answers to it that were no labels; None where the store has none."""
    from relabel.errors import StoreError
    from relabel.labelling.rows import REJECTED, DamagedRowError
    from relabel.labelling.store import Store
    from relabel.settings import settings

    try:
        with Store(settings().store_dir, read_only=True) as store:
            names = list(store.keys(f"{key}{REJECTED}"))
            rejected = [row for name in names if (row := store.checked(name)) is not None]
            answer = store.get(key)
            asked = store.request(key if answer is not None or not names else names[-1])
            if asked is None:
                return None
            body = asked["body"]
            return {
                "messages": body.get("messages") or body.get("input"),
                "content": answer and answer.content,
                "rejected": [
                    {"content": row.answer.content, "reason": row.rejected.reason} for row in rejected if row.rejected
                ],
            }
    except (StoreError, DamagedRowError):
        return None
