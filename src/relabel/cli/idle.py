"""Options without an effect are refused, so that no figure is taken for what it is not."""

from __future__ import annotations

import typer


def refuse_idle(ctx: typer.Context, why: str, *names: str) -> None:
    """Refuse options that cannot have an effect beside the others of the command.

    Args:
        ctx: The command's context.
        why: Why they cannot, and what to do, in words that follow the option's name.
        names: Names of the parameters; those that were left at their default pass.

    Raises:
        UsageError: One of them was given.
    """
    from relabel.errors import UsageError

    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name != "DEFAULT":
            raise UsageError(f"{option.opts[0]} {why}")
