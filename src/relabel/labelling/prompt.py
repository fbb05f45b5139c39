"""A prompt: a template that turns task x rubric x setting into chat messages, the part that never changes first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from jinja2 import Template, TemplateSyntaxError
from jinja2.runtime import Context

from relabel.errors import RubricError
from relabel.files import read_small
from relabel.rubric import Rubric
from relabel.sandbox import Sandbox, plain
from relabel.settings import asset_dir
from relabel.task import Task

Message = dict[str, str]
"""A chat message: `role` and `content`."""
_LARGEST = 1_000_000
"""Bytes of a template, and characters of a message that it may make."""
_OF_RUBRIC = {
    "id", "version", "title", "unit", "definition", "labels", "settings", "examples", "rationale", "codes", "incoherent", "measures",
}  # fmt: skip
"""What a template is given of a rubric."""
_SPELLING = json.JSONEncoder(ensure_ascii=False)  # made once: `json.dumps` with arguments makes one each time


def as_data(**fields: str) -> str:
    """Fields as one line of JSON that holds no angle bracket: text in it cannot close a mark or start one."""
    line = _SPELLING.encode(fields)
    return line.replace("<", "\\u003c").replace(">", "\\u003e")


def _facts(rubric: Rubric, title: str, text: str) -> dict[str, str]:
    """What the prompt says about a task; a change here changes every request key."""
    return {"occupation": title, "task" if rubric.unit == "task" else "description": text}


def letters(rubric: Rubric) -> dict[str, str]:
    """One letter a label, in the rubric's order: what a model answers with when one token decides."""
    return dict(zip(rubric.labels, ascii_uppercase, strict=False))


@dataclass
class Prompt:
    """A template with two blocks: `system`, the same for all tasks of a setting, and `user`, which holds the tasks.

    The blocks are given `rubric`, `setting`, `packed` (several tasks share the request), `decide` (`json` or
    `logprob`) and `letters`; `system` also `examples`, each with `data`, `answer` and `label`; `user` also `data`, a
    line of JSON for each task.

    Attributes:
        name: Its name under `prompts/`, or its path.
        sha256: Hash of the file.
        text: The template itself.
    """

    name: str
    sha256: str
    text: str = field(repr=False)
    _template: Template = field(repr=False)
    _sandbox: Sandbox = field(repr=False)
    _known: dict[tuple[object, ...], tuple[str, Context]] = field(
        default_factory=dict[tuple[object, ...], "tuple[str, Context]"], repr=False
    )
    """By all but the tasks: the system message, and what the user's is rendered in. A new context would cost half of a request."""

    def messages(
        self, tasks: Sequence[Task], rubric: Rubric, setting: str, *, examples: bool = True, decide: str = "json"
    ) -> list[Message]:
        """The messages for one request under one setting.

        Args:
            tasks: One task, or several that share the request; those go by their number, from 1.
            rubric: The rubric.
            setting: Name of one of its settings.
            examples: Whether the rubric's worked examples are shown.
            decide: `json`, or `logprob` for an answer of one letter.

        Raises:
            RubricError: The template uses something that does not exist, or fails for this task.
        """
        packed = len(tasks) > 1
        key = (rubric.sha256, setting, examples, decide, packed)
        if key not in self._known:
            given: dict[str, Any] = {
                "rubric": (shown := plain(rubric.model_dump(include=_OF_RUBRIC))),
                "setting": shown["settings"][setting],
                "packed": packed,
                "decide": decide,
                "letters": letters(rubric),
            }
            worked = _shown(rubric, setting) if examples else []
            system = self._render("system", self._template.new_context({**given, "examples": worked}))
            self._known[key] = system, self._template.new_context({**given, "data": []})
        system, context = self._known[key]
        facts = [_facts(rubric, task.title, task.text) for task in tasks]
        numbered = [{"id": str(n), **of} for n, of in enumerate(facts, start=1)] if packed else facts
        context.parent["data"] = [as_data(**of) for of in numbered]
        return [{"role": "system", "content": system}, {"role": "user", "content": self._render("user", context)}]

    def _render(self, block: str, context: Context) -> str:
        try:
            return self._sandbox.render(self._template.blocks[block](context)).strip()
        except Exception as error:  # whatever goes wrong in a template is the template's: it may call and divide
            raise RubricError(f"prompt {self.name}: block {block}: {error}; correct the template") from error


def _shown(rubric: Rubric, setting: str) -> list[dict[str, str]]:
    return [
        {
            "data": as_data(**_facts(rubric, example.occupation, example.task or example.description or "")),
            "answer": as_data(rationale=example.rationale[setting], label=example.labels[setting]),
            "label": example.labels[setting],
        }
        for example in rubric.examples
    ]


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
        raise RubricError(f"unknown prompt {ref!r}; use one of {names}, or the path of a .jinja file")
    return parse_prompt(ref, read_small(path, _LARGEST, refuse=RubricError))


def system_messages(rubric: Rubric) -> set[str]:
    """The system messages that a rubric's own prompt makes of it, however an answer is asked for."""
    prompt = load_prompt(rubric.prompt)
    task = Task(task_id="1", onet_soc_code="11-1011.00", title="t", text="t")
    return {
        prompt.messages([task] * many, rubric, setting, examples=examples, decide=decide)[0]["content"]
        for setting in rubric.settings
        for many in (1, 2)
        for examples in (True, False)
        for decide in ("json", "logprob")
    }


def parse_prompt(name: str, raw: bytes) -> Prompt:
    """Make a prompt of a template's text.

    Raises:
        RubricError: It is malformed or lacks a block.
    """
    sandbox = Sandbox(steps=1_000_000, seconds=5, chars=_LARGEST, keep_trailing_newline=False)
    try:
        text = raw.decode("utf-8")
        template = sandbox.from_string(text)
    except Exception as error:  # jinja lets through what Python says to code that it made, of ten thousand brackets say
        line = f" line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise RubricError(f"prompt {name}{line}: {error}; correct the template") from error
    for block in ("system", "user"):
        if block not in template.blocks:
            raise RubricError(f"prompt {name}: has no block {block!r}; a prompt needs the blocks system and user")
    return Prompt(name, hashlib.sha256(raw).hexdigest(), text, template, sandbox)
