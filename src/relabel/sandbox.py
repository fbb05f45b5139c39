"""Sandbox for untrusted templates: they see only plain data and must stay within limits of work, time and size.

jinja's sandbox hides names that start with an underscore; all other attributes and methods of an object remain accessible.
So templates are given only plain data (`plain`), and they may use only listed attributes, by type of object, and listed filters.
Work is counted where it can grow: at each turn of a loop, each call, and each new value.
"""

from __future__ import annotations

import re
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.environment import TemplateModule
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

_TEXT = (
    "capitalize casefold count endswith find format isalnum isalpha isdigit islower isnumeric isspace istitle isupper lower lstrip "
    "partition removeprefix removesuffix rfind rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
)
_LOOP = "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
# Attributes that a template may use, by type of object; it may use none of other types.
_ATTRIBUTES: Mapping[type, frozenset[str]] = {
    str: frozenset(_TEXT.split()),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset(_LOOP.split()),
    BlockReference: frozenset({"super"}),
}
# jinja's filters whose output is not much larger than their input; `Sandbox._guarded` adds others, each with a limit.
_FILTERS = (
    "abs capitalize count d default dictsort e escape first float forceescape groupby int items last length list lower map max min reject "
    "rejectattr reverse round safe select selectattr sort string title trim truncate unique upper urlencode wordcount"
)
_JINJA: Mapping[str, Callable[..., Any]] = FILTERS
# Limit of an exponent, and of the bits of an integer power.
_BITS = 4096
# A format with a width of four digits or more, or whose width is itself a value.
_WIDE = re.compile(r"[0-9]{4}|\*|:[^{}]*\{")


def plain(value: Any) -> Any:
    """A copy of data that consists only of dictionaries, lists, strings and numbers.

    Raises:
        TypeError: It holds something else.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return frozenset(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a template is given plain data, not {type(value).__name__}")


class _Meter:
    """Counts work and raises an error at the limit."""

    def __init__(self, steps: int, seconds: float, chars: int) -> None:
        self._steps, self._seconds, self.chars = steps, seconds, chars
        self.start()

    def start(self) -> None:
        self._left = self._steps
        self._end = time.monotonic() + self._seconds

    def charge(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0 or time.monotonic() > self._end:
            raise SecurityError("the template takes too long")

    def weigh(self, value: Any) -> Any:
        """Charge for a new value and everything within it; a generator becomes a list."""
        if isinstance(value, types.GeneratorType):
            items: list[Any] = []
            size = 0
            for item in self.counted(value):
                items.append(item)
                size += self._size(item, self.chars)
                self._require(size)
            return items
        self._require(self._size(value, self.chars))
        return value

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.charge()
            yield item

    def _require(self, size: int) -> None:
        if size > self.chars:
            raise SecurityError(f"the template makes more than {self.chars:,} characters of text")
        self.charge(1 + size // 1000)

    def _size(self, value: Any, limit: int) -> int:
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            return value.bit_length() // 3
        if not isinstance(value, list | tuple | dict | frozenset):
            return 1
        self.charge(1 + len(value) // 10)
        size = 1
        for item in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            size += self._size(item, limit - size)
            if size > limit:
                break
        return size


class _Namespace(Namespace):
    def __repr__(self) -> str:  # jinja's repeats the contents at each mention, so nested ones would grow exponentially
        return "<namespace>"


class _Bounding(NodeTransformer):
    """Compiles templates so that each turn of a loop and each new value is charged to the meter."""

    def _weighed(self, node: Any) -> nodes.Node:
        return _filter(self.generic_visit(node), "__weighed")

    visit_Concat = visit_List = visit_Dict = visit_Filter = _weighed  # noqa: N815  jinja's names

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802  jinja's name
        return self.generic_visit(node) if node.ctx == "store" else self._weighed(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  jinja's name
        if node.recursive:
            raise SecurityError("a loop must not be recursive")
        self.generic_visit(node)
        node.iter = _filter(node.iter, "__counted")
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802  jinja's name
        self.generic_visit(node)
        node.filter = _filter(node.filter, "__weighed", node.lineno)
        return node


def _filter(node: Any, name: str, line: int | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line or node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for templates from untrusted authors.

    Args:
        steps: Most turns of loops, calls and values in one rendering.
        seconds: Most seconds for one rendering.
        chars: Most characters of its output, and of any value within it.
        filters: Further filters; their output must not be much larger than their input.
        options: As for jinja's environment.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(
        self,
        *,
        steps: int,
        seconds: float,
        chars: int,
        filters: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(undefined=StrictUndefined, **options)
        self._meter = meter = _Meter(steps, seconds, chars)
        allowed = {name: _JINJA[name] for name in _FILTERS.split()}
        # jinja evaluates some filters while it compiles a template, but never those that take the context.
        weighed, counted = (pass_context(lambda _, value, f=f: f(value)) for f in (meter.weigh, meter.counted))
        internal = {"__weighed": weighed, "__counted": counted}
        self.filters: dict[str, Callable[..., Any]] = {**allowed, **self._guarded(), **filters, **internal}
        self.globals = {"range": self.globals["range"], "dict": dict, "namespace": _Namespace}

    def render(self, pieces: Iterable[str]) -> str:
        """Join the pieces that a template yields, within the limits.

        Args:
            pieces: Its pieces, from the start.

        Raises:
            SecurityError: It takes too long or its output is too large. Other errors in the template are passed on unchanged.
        """
        self._meter.start()
        made: list[str] = []
        size = 0
        for piece in pieces:
            made.append(piece)
            size += len(piece)
            if size > self._meter.chars:
                raise SecurityError(f"the template makes more than {self._meter.chars:,} characters of text")
        return "".join(made)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute: it must be on the list."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        # These were made by templates: names in a namespace, and macros of an imported template.
        if isinstance(obj, Namespace | TemplateModule):
            return True
        return any(attr in names for kind, names in _ATTRIBUTES.items() if isinstance(obj, kind))

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether a template may call something: methods on the list, macros, blocks, and the three functions given."""
        if isinstance(obj, types.BuiltinMethodType | types.MethodType):
            return self.is_safe_attribute(obj.__self__, obj.__name__, obj)
        return isinstance(obj, Macro | BlockReference | TemplateReference | types.FunctionType) or obj in (
            dict,
            _Namespace,
        )

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` within the sandbox, without widths that pad the result beyond the limit."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        if value.__name__ == "format_map" or _WIDE.search(value.__self__):
            raise SecurityError("a width is too large")
        return wrapped

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  as jinja has it
        """Call something, and charge for it."""
        __self._meter.charge(10)
        return __self._meter.weigh(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply a binary operator, if the size of its result is bounded."""
        if operator == "%" and isinstance(left, str):
            _require_narrow(left)
        if operator == "*":
            sizes = [len(v) if isinstance(v, str | list | tuple) else v for v in (left, right)]
            if not (isinstance(left, int | float) and isinstance(right, int | float)) and (
                not all(isinstance(size, int) for size in sizes) or sizes[0] * sizes[1] > self._meter.chars
            ):
                raise SecurityError("a value is repeated too often")
        if operator == "**" and (abs(right) > _BITS or (isinstance(left, int) and left.bit_length() * right > _BITS)):
            raise SecurityError("a power is too large")
        return self._meter.weigh(super().call_binop(context, operator, left, right))

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        bounded = _Bounding().visit(source)
        bounded.set_environment(self)
        return super()._generate(bounded, name, filename, defer_init)

    def _guarded(self) -> dict[str, Callable[..., Any]]:
        """Filters whose output may be much larger than their input, each with a limit of its own."""

        @pass_context
        def replace(context: Context, text: str, old: str, new: str) -> str:
            # Escaping for HTML replaces one character by up to seven.
            if (str(text).count(str(old)) if old else len(text) + 1) * len(str(new)) * 7 > self._meter.chars:
                raise SecurityError("a replacement makes too much text")
            return _JINJA["replace"](context.eval_ctx, text, old, new)

        @pass_context
        def join(context: Context, items: Iterable[Any], between: str = "", attribute: str | None = None) -> str:
            parts = list(self._meter.counted(items))
            if len(parts) * len(between) > self._meter.chars:
                raise SecurityError("a list is too long to be joined")
            return _JINJA["join"](context.eval_ctx, parts, between, attribute)

        def formatted(pattern: str, *values: Any, **named: Any) -> str:
            _require_narrow(pattern)
            return _JINJA["format"](pattern, *values, **named)

        @pass_context
        def tojson(context: Context, value: Any) -> Any:
            return _JINJA["tojson"](context.eval_ctx, value)

        return {"replace": replace, "join": join, "format": formatted, "tojson": tojson}


def _require_narrow(pattern: str) -> None:
    if _WIDE.search(pattern):
        raise SecurityError("a width is too large")
