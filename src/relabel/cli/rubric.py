"""`relabel rubric`: list, show and check rubrics."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

app = typer.Typer(help="List, show and check rubrics.", no_args_is_help=True)


@app.command("list")
def list_rubrics(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the rubrics that ship with relabel, with what trials have shown of each."""
    from relabel.rubric import load_rubric, rubric_names

    rubrics = {name: load_rubric(name) for name in rubric_names()}
    if as_json:
        keys = {"id", "version", "title", "unit", "validity"}
        listed = [
            {"name": name, **r.model_dump(mode="json", include=keys), "settings": list(r.settings), "tried": r.tried}
            for name, r in rubrics.items()
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    for name, r in rubrics.items():
        asks = f"unit: {r.unit}; settings: {', '.join(r.settings)}; labels: {', '.join(r.labels)}"
        typer.echo(f"{name:<12} v{r.version}  {r.title}")
        for line in (asks, *r.validity_in_words()):
            typer.echo(textwrap.fill(line, 110, initial_indent=" " * 17, subsequent_indent=" " * 19))


@app.command()
def show(
    rubric: Annotated[str, typer.Argument(help="A rubric's name, or the path of a YAML file.")],
    setting: Annotated[
        str | None, typer.Option(help="Show the messages that are sent under this setting, with a made-up task.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="With or without the worked examples.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a rubric, or the very messages that it sends."""
    from relabel.errors import UsageError
    from relabel.rubric import load_rubric

    loaded = load_rubric(rubric)
    if setting is None:
        if as_json:
            typer.echo(loaded.model_dump_json(indent=2))
        else:
            typer.echo(_as_text(loaded.model_dump()))
            typer.echo("\n".join(f"# {line}" for line in loaded.validity_in_words()))
        return
    from relabel.labelling.prompt import load_prompt
    from relabel.task import Task

    if setting not in loaded.settings:
        raise UsageError(f"the rubric {loaded.id} has no setting {setting!r}; use one of {', '.join(loaded.settings)}")
    task = Task(
        task_id="0",
        onet_soc_code="00-0000.00",
        title="TITLE OF THE OCCUPATION",
        text=f"TEXT OF THE {loaded.unit.upper()}.",
    )
    messages = load_prompt(loaded.prompt).messages((task,), loaded, setting, examples=examples)
    if as_json:
        typer.echo(json.dumps(messages, indent=2, ensure_ascii=False))
        return
    for message in messages:
        typer.echo(f"--- {message['role']}\n{message['content']}\n")


@app.command()
def check(rubric: Annotated[str, typer.Argument(help="A rubric's name, or the path of a YAML file.")]) -> None:
    """Check a rubric and the prompt that it names; say what is wrong and where."""
    from relabel.labelling.prompt import load_prompt
    from relabel.rubric import load_rubric
    from relabel.task import Task

    loaded = load_rubric(rubric)
    prompt = load_prompt(loaded.prompt)
    task = Task(task_id="0", onet_soc_code="00-0000.00", title="Checkers", text="Check.")
    for setting in loaded.settings:
        prompt.messages((task,), loaded, setting)
    typer.echo(
        f"{loaded.source}: good: {loaded.id} v{loaded.version}, {len(loaded.settings)} settings, {len(loaded.labels)} labels, "
        f"{len(loaded.examples)} worked examples, prompt {prompt.name}"
    )


def _as_text(data: dict[str, object]) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip()
