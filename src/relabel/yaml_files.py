"""Safe reader of YAML files from users and others: plain values only, limited in size, with line numbers in error messages."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import yaml

from relabel.errors import DataError
from relabel.files import LARGEST_TEXT, read_small

# Most values in a file; values repeated by an alias or a merge count each time.
_NODES = 100_000


def read_user_yaml(path: Path, form: str, *, refuse: type[DataError] = DataError) -> tuple[dict[str, Any], bytes]:
    """Read a mapping from a YAML file in UTF-8, with or without a byte order mark; tags create nothing but plain values.

    Args:
        path: The file.
        form: What the file should contain, for the message if it is not a mapping.
        refuse: Class of the error to raise.

    Returns:
        The content, which is cached and must not be changed; and the file's bytes, for a hash.

    Raises:
        DataError: The file cannot be read, is not valid YAML or not a mapping; the message names the line if it is known.
    """
    try:
        raw = read_small(path, LARGEST_TEXT, refuse=refuse)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"{path} is not in UTF-8 (byte {error.start}); save it again in UTF-8") from error
    try:
        data = _parsed(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise refuse(f"{path} line {line} holds a control character; correct the file") from error
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}"
        problem = error.problem or "it is not YAML"
        if problem.startswith("but "):  # PyYAML begins this sentence in the context
            problem = f"{error.context}, {problem}"
        raise refuse(f"{path}{where}: {problem}; correct the file") from error
    except RecursionError as error:
        raise refuse(f"{path}: it is nested too deeply; correct the file") from error
    if not isinstance(data, dict):
        raise refuse(f"{path}: {form}")
    return cast("dict[str, Any]", data), raw


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, as the YAML standard demands, and names the line of a value it cannot read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None or id(node) in self._sizes:
            return node
        if alias:
            raise _fault("an alias refers to itself", node)
        parts: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
        inside = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in inside)
        if size > _NODES:
            raise _fault(f"its aliases expand to more than {_NODES:,} values", node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            # PyYAML's own readers of dates, numbers and tags fail on values such as the 30th of February.
            about = f"{node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else "this"
            kind = node.tag.rpartition(":")[2]
            raise _fault(f"{about} cannot be read as {kind}: put text in quotes", node) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a key is a list or a mapping: put text with brackets or braces in quotes", key)
            if key.value in seen:
                raise _fault(f"the key {key.value!r} occurs twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# The content of a YAML text; cached, because a command reads its rubric several times, which would take 30 ms each time.
_parsed = lru_cache(maxsize=32)(partial(yaml.load, Loader=_StrictLoader))


def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
