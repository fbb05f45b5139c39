"""A prompt: a template that turns task x rubric x setting into chat messages, the part that never changes first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

from relabel.errors import RubricError
from relabel.rubric import Rubric
from relabel.settings import asset_dir
from relabel.task import Task

Message = dict[str, str]
"""A chat message: `role` and `content`."""


def as_data(**fields: str) -> str:
    """Fields as one line of JSON that holds no angle bracket: text in it cannot close a mark or start one."""
    line = json.dumps(fields, ensure_ascii=False)
    return line.replace("<", "\\u003c").replace(">", "\\u003e")


@dataclass
class Prompt:
    """A template with two blocks: `system`, the same for all tasks of a setting, and `user`, which holds the task.

    Attributes:
        name: Its name under `prompts/`, or its path.
        sha256: Hash of the file.
    """

    name: str
    sha256: str
    _template: Template = field(repr=False)
    _systems: dict[tuple[str, str, bool], str] = field(default_factory=dict[tuple[str, str, bool], str], repr=False)

    def messages(self, task: Task, rubric: Rubric, setting: str, *, examples: bool = True) -> list[Message]:
        """The messages for one task under one setting.

        Args:
            task: The task.
            rubric: The rubric.
            setting: Name of one of its settings.
            examples: Whether the rubric's worked examples are shown.

        Raises:
            RubricError: The template uses something that does not exist.
        """
        cache_key = (rubric.sha256, setting, examples)
        if cache_key not in self._systems:
            self._systems[cache_key] = self._render("system", self._stable(rubric, setting, examples))
        data = as_data(occupation=task.title, task=task.text)
        user = self._render("user", {"data": data, "rubric": rubric, "setting": rubric.settings[setting]})
        return [{"role": "system", "content": self._systems[cache_key]}, {"role": "user", "content": user}]

    def _stable(self, rubric: Rubric, setting: str, examples: bool) -> dict[str, Any]:
        shown = [
            {
                "data": as_data(occupation=example.occupation, task=example.task),
                "answer": as_data(rationale=example.rationale[setting], label=example.labels[setting]),
            }
            for example in (rubric.examples if examples else ())
        ]
        return {"rubric": rubric, "setting": rubric.settings[setting], "examples": shown}

    def _render(self, block: str, values: dict[str, Any]) -> str:
        try:
            return "".join(self._template.blocks[block](self._template.new_context(values))).strip()
        except TemplateError as error:
            raise RubricError(f"prompt {self.name}: block {block}: {error}; mend the template") from error


def load_prompt(ref: str) -> Prompt:
    """Read a prompt template.

    Args:
        ref: A name under `prompts/`, or the path of a Jinja file.

    Raises:
        RubricError: There is no such template, or it is malformed or lacks a block.
    """
    path = Path(ref)
    if path.suffix not in {".jinja", ".j2"}:
        path = asset_dir("prompts") / f"{ref}.jinja"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in asset_dir("prompts").glob("*.jinja")))
        raise RubricError(f"there is no prompt {ref!r}; use one of {names}, or the path of a .jinja file")
    raw = path.read_bytes()
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    try:
        template = environment.from_string(raw.decode("utf-8"))
    except (TemplateError, UnicodeDecodeError) as error:
        line = f" line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise RubricError(f"prompt {path}{line}: {error}; mend the template") from error
    for block in ("system", "user"):
        if block not in template.blocks:
            raise RubricError(f"prompt {path}: has no block {block!r}; a prompt needs the blocks system and user")
    return Prompt(ref, hashlib.sha256(raw).hexdigest(), template)
