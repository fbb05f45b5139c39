"""A template of the user's own says what it says for each task, however it uses the task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from job_builders import make_tasks
from relabel.errors import RubricError
from relabel.labelling.request import Prompt, load_prompt
from relabel.rubric import load_rubric

RUBRIC = load_rubric("exposure")


def prompt_of(user: str, tmp_path: Path) -> Prompt:
    path = tmp_path / "mine.jinja"
    path.write_text(f"{{% block system %}}Label.{{% endblock %}}{{% block user %}}{user}{{% endblock %}}")
    return load_prompt(str(path))


def line(number: int, **identity: str) -> str:
    task = make_tasks(number + 1)[number]
    return json.dumps({**identity, "occupation": task.title, "task": task.text})


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("{{ data[0] }}", "{}"),
        ("{{ data[0] }} Once more: {{ data[0] }}", "{} Once more: {}"),
        ("{{ data | join(', ') }}", "{}"),
        ("{% if 'number 1.' in data[0] %}Look: {% endif %}{{ data[0] }}", "Look: {}"),
        ("{% if 'number 2.' in data[0] %}Look: {% endif %}{{ data[0] }}", "{}"),
        ("{{ data[0] }} has {{ data | length }} line", "{} has 1 line"),
        ("{% for each in data %}- {{ each }}{% endfor %}", "- {}"),
        ("{% set it = data[0] %}{{ it }}", "{}"),
        ("{{ 'again' if seen is defined else 'new' }}{% set seen = data[0] %} {{ seen }}", "new {}"),
        ("{% if 'number 0.' in data[0] %}{% set seen = 1 %}{% endif %}{{ seen | default('new') }}", "new"),
        ("{% set count = namespace(n=0) %}{% set count.n = count.n + 1 %}{{ count.n }} {{ data[0] }}", "1 {}"),
    ],
)
def test_each_task_is_shown_as_the_template_says(user: str, said: str, tmp_path: Path) -> None:
    prompt, tasks = prompt_of(user, tmp_path), make_tasks(2)
    prompt.messages(tasks[:1], RUBRIC, "strict")  # what one task was shown as is nothing to the next
    assert prompt.messages(tasks[1:], RUBRIC, "strict")[1]["content"] == said.replace("{}", line(1))


def test_the_tasks_of_a_pack_are_joined_as_the_template_says(tmp_path: Path) -> None:
    prompt = prompt_of("{{ data | join(' ; ') }} | {{ data | length }} | {{ data[0] }}", tmp_path)
    one, two = line(0, id="1"), line(1, id="2")
    assert prompt.messages(make_tasks(2), RUBRIC, "strict")[1]["content"] == f"{one} ; {two} | 2 | {one}"


@pytest.mark.parametrize(
    "user", ["{{ nosuch }}", "{{ data[7] }}", "{{ 1 // 0 }}", "{{ data[0] + 1 }}", "{{ data[0].encode('no') }}"]
)
def test_a_template_that_fails_is_one_sentence(user: str, tmp_path: Path) -> None:
    with pytest.raises(RubricError, match=r"mine\.jinja: block user: .+; correct the template"):
        prompt_of(user, tmp_path).messages(make_tasks(1), RUBRIC, "strict")
