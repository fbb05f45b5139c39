"""Write docs/cli.md from the commands themselves; with --check, only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from relabel.cli.app import command_line

TARGET = Path(__file__).with_name("cli.md")
HEAD = "# Commands\n\nMade by `make docs` from the commands themselves; do not edit by hand.\n"


def pages(command: Any, name: str, parent: Any = None) -> list[str]:
    """Help of a command and of all below it."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    context.max_content_width = context.terminal_width = 100
    found = [f"## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"]
    for child, below in getattr(command, "commands", {}).items():
        found += pages(below, child, context)
    return found


def main() -> int:
    """Write or check the reference."""
    text = HEAD + "\n" + "\n".join(pages(typer.main.get_command(command_line()), "relabel"))
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print("docs/cli.md is not what the commands say; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
