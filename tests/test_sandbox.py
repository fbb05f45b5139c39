"""A template of a stranger's reaches plain data alone, and comes to an end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from job_builders import make_tasks
from relabel.errors import RubricError
from relabel.labelling.request import Prompt, load_prompt
from relabel.publishing.site.build import environment
from relabel.rubric import load_rubric
from relabel.sandbox import Sandbox, plain

RUBRIC = load_rubric("exposure")
PLAIN = (str, int, float, bool, type(None), dict, list, tuple, frozenset)


def prompt_of(user: str, tmp_path: Path) -> Prompt:
    path = tmp_path / "theirs.jinja"
    path.write_text(f"{{% block system %}}Label.{{% endblock %}}{{% block user %}}{user}{{% endblock %}}")
    return load_prompt(str(path))


def rendered(user: str, tmp_path: Path) -> str:
    return prompt_of(user, tmp_path).messages(make_tasks(1), RUBRIC, "strict")[1]["content"]


def context_of(tmp_path: Path) -> tuple[Sandbox, Mapping[str, Any]]:
    prompt = prompt_of("{{ data[0] }}", tmp_path)
    prompt.messages(make_tasks(1), RUBRIC, "strict")
    ((_, context),) = prompt._cache.values()  # pyright: ignore[reportPrivateUsage]  what a template is given
    return prompt._sandbox, context.parent  # pyright: ignore[reportPrivateUsage]  the sandbox that it renders in


def walk(sandbox: Sandbox, value: object, path: str, seen: set[str]) -> None:
    """Visit everything that a template can reach from a value, by attribute or by key, and what its methods return."""
    assert isinstance(value, PLAIN), f"{path} is {type(value)}"
    if (kind := f"{type(value).__name__}") not in seen:
        seen.add(kind)
        for name in dir(value):
            if name in {"format", "format_map"}:  # a wrapper of the sandbox's own, or refused
                continue
            reached: Any = sandbox.getattr(value, name)
            if type(reached).__name__ == "StrictUndefined":
                continue
            assert callable(reached), f"{path}.{name} is {type(reached)}"
            assert not name.startswith("_")
            if sandbox.is_safe_callable(reached) and name in {"items", "keys", "values", "upper", "split"}:
                made: Any = reached()
                for item in made:
                    walk(sandbox, item, f"{path}.{name}()", seen)
            assert type(sandbox.getattr(reached, "__self__")).__name__ == "StrictUndefined"
            assert type(sandbox.getattr(reached, "__globals__")).__name__ == "StrictUndefined"
    parts: Any = value
    for key in parts if isinstance(value, dict) else ():
        walk(sandbox, parts[key], f"{path}[{key!r}]", seen)
    for item in parts if isinstance(value, list | tuple) else ():
        walk(sandbox, item, f"{path}[]", seen)


def test_nothing_but_plain_data_is_reached_from_any_name(tmp_path: Path) -> None:
    sandbox, given = context_of(tmp_path)
    assert set(given) == {"rubric", "setting", "packed", "decide", "letters", "data", "range", "dict", "namespace"}
    for name in ("rubric", "setting", "packed", "decide", "letters", "data"):
        walk(sandbox, given[name], name, set())
    for name in ("range", "dict", "namespace"):
        for attribute in dir(given[name]):
            assert type(sandbox.getattr(given[name], attribute)).__name__ == "StrictUndefined", f"{name}.{attribute}"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ rubric.parse_raw(b'x', proto='pickle', allow_pickle=True) }}",
        "{{ rubric.model_dump() }}",
        "{{ setting.__class__ }}",
        "{{ setting['__class__'] }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ data.append('x') }}",
        "{{ rubric.update({'id': 'x'}) }}",
        "{{ rubric|attr('keys') }}",
        "{{ range.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ '{0.__class__}'.format(setting) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ [1]|map('attr', '__class__')|list }}",
        "{{ [1]|map(attribute='__class__')|first }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set n = namespace() %}{{ n._Namespace__attrs }}",
        "{% macro m() %}x{% endmacro %}{{ m._func.__globals__ }}",
        "{% macro m() %}x{% endmacro %}{{ m.__init__ }}",
        "{% for x in data %}{{ loop._iterator }}{% endfor %}",
        "{% for x in data %}{{ loop.__class__ }}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.environ }}",
        "{{ (1).to_bytes(10) }}",
        "{{ ''.join }}{{ 'a'.encode() }}",
    ],
)
def test_a_template_reaches_nothing_else(attack: str, tmp_path: Path) -> None:
    with pytest.raises(RubricError, match=r"theirs\.jinja"):
        rendered(attack, tmp_path)


DOUBLE = "{% set n = namespace(x='ab') %}{% for i in range(60) %}STEP{% endfor %}{{ n.x|length }}"


@pytest.mark.parametrize(
    "endless",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
        "{% set r = range(90000) %}{% for a in r if false %}{% else %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(100) }}",
        "{% for a in data recursive %}{{ loop(data) }}{{ loop(data) }}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ ['x'] * 10**9 }}",
        "{{ 7**(7**(7**7)) }}",
        "{{ 2 ** 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'|center(1000000000) }}",
        "{{ 'x'|indent(1000000000, true) }}",
        "{{ range(90000)|join(range(90000)|join) }}",
        "{{ (range(9000)|join)|replace('1', range(9000)|join) }}",
        "{{ range(90000)|map('replace', '', range(9000)|join)|list|length }}",
        "{{ data|tojson(indent=1000000000) }}",
        "{{ range(9)|batch(1000000000, 'x')|list }}",
        "{{ range(1000000000)|list }}",
        DOUBLE.replace("STEP", "{% set n.x = n.x ~ n.x %}"),
        DOUBLE.replace("STEP", "{% set n.x = n.x + n.x %}"),
        DOUBLE.replace("STEP", "{% set n.x = [n.x, n.x] %}"),
        DOUBLE.replace("STEP", "{% set n.x = (n.x, n.x) %}"),
        DOUBLE.replace("STEP", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
        DOUBLE.replace("STEP", "{% set n.x = dict(a=n.x, b=n.x) %}"),
        DOUBLE.replace("STEP", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
        DOUBLE.replace("STEP", "{% set n.x = n.x|replace('', n.x) %}"),
        DOUBLE.replace("STEP", "{% set n.x = '%s%s'|format(n.x, n.x) %}"),
        DOUBLE.replace("STEP", "{% set n.x = '{0}{0}'.format(n.x) %}"),
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "9" * 10000 + " }}",
    ],
)
def test_a_template_comes_to_an_end(endless: str, tmp_path: Path) -> None:
    with pytest.raises(RubricError, match=r"theirs\.jinja"):
        rendered(endless, tmp_path)


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("{{ rubric.id }} {{ rubric.version }}", f"exposure {RUBRIC.version}"),
        ("{% for name, meaning in rubric.labels.items() %}{{ name }};{% endfor %}", "exposed;not-exposed;"),
        ("{{ rubric.settings['strict'].question == setting.question }}", "True"),
        ("{{ rubric.rationale.max_words > 1 and 'e' in letters or letters['exposed'] }}", "A"),
        (
            "{{ '%.1f' % 1.25 }} {{ '%.1f'|format(1.25) }} {{ '{:,.0f}'.format(1234) }} {{ 'b'|upper }}{{ 'a-b'.split('-')[1] }}",
            "1.2 1.2 1,234 Bb",
        ),
        ("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('a') }}{{ 2 * 'b' }}{{ 2**3 }}", "aabb8"),
        ("{% for x in 'abc' %}{{ loop.index }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3"),
        ("{{ [3, 1]|sort|join('+') }} {{ {'a': 1}.a }} {{ namespace() }}", "1+3 1 <namespace>"),
    ],
)
def test_what_a_prompt_needs_is_there(user: str, said: str, tmp_path: Path) -> None:
    assert rendered(user, tmp_path) == said


def test_only_plain_data_is_given() -> None:
    with pytest.raises(TypeError, match="not Rubric"):
        plain({"rubric": RUBRIC})


def test_themes_render_in_the_sandbox(tmp_path: Path) -> None:
    sandbox = environment(tmp_path)
    assert isinstance(sandbox, Sandbox)
    with pytest.raises(Exception, match="unsafe"):
        sandbox.render(sandbox.from_string("{{ ''.__class__ }}").generate())
