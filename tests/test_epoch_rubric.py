"""Rubrics that rate occupations: what they must hold, what is asked, and that task rubrics are asked as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.errors import DataError, RubricError
from relabel.labelling.request import Endpoint, Planner, load_prompt
from relabel.manifest import task_sources
from relabel.rubric import load_rubric, rubric_path
from relabel.run import open_run
from relabel.task import Task, load_tasks
from server import FakeProvider, Reply, Seen, judged, provider

GOOD = rubric_path("epoch").read_text()
DIMENSIONS = ("empathy", "presence", "opinion", "creativity", "hope")
TASKS = (
    Task(task_id="1", onet_soc_code="11-1011.00", title="Chief Executives", text="Direct <plans>."),
    Task(task_id="2", onet_soc_code="11-1011.00", title="Chief Executives", text="Sign."),
)


def test_epoch_asks_five_dimensions_on_one_scale() -> None:
    rubric = load_rubric("epoch")
    assert rubric.unit == "occupation"
    assert tuple(rubric.settings) == DIMENSIONS
    assert tuple(rubric.labels) == ("1", "2", "3", "4", "5")
    for setting in rubric.settings.values():
        assert setting.anchors is not None
        assert len(set(setting.anchors.values())) == 5
    assert not rubric.codes
    assert not rubric.measures


def test_each_dimension_is_asked_with_its_own_anchors_and_the_occupations_description() -> None:
    rubric = load_rubric("epoch")
    prompt = load_prompt(rubric.prompt)
    systems: set[str] = set()
    for name, setting in rubric.settings.items():
        system, user = prompt.messages(TASKS[:1], rubric, name)
        assert setting.anchors is not None
        for label, meaning in setting.anchors.items():
            assert f"- {label}: {meaning}" in system["content"]
        assert user["content"].splitlines()[1] == (
            '{"occupation": "Chief Executives", "description": "Direct \\u003cplans\\u003e."}'
        )
        systems.add(system["content"])
    assert len(systems) == 5


def test_several_occupations_share_a_request_by_number() -> None:
    rubric = load_rubric("epoch")
    system, user = load_prompt(rubric.prompt).messages(TASKS, rubric, "hope")
    assert 'first "id", then "rationale"' in system["content"]
    assert user["content"].splitlines() == [
        "<occupations>",
        '{"id": "1", "occupation": "Chief Executives", "description": "Direct \\u003cplans\\u003e."}',
        '{"id": "2", "occupation": "Chief Executives", "description": "Sign."}',
        "</occupations>",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("unit: occupation", "unit: task", "examples.0.task: is missing; the unit of this rubric is task"),
        (
            "unit: occupation",
            "unit: occupation\nmeasures: {alpha: {E0: 0}}",
            "measures: applies to labels of exposure",
        ),
        ("unit: occupation", "unit: occupation\ncodes: {E1: {hope: '1'}}", "codes: applies to labels of exposure"),
        ("unit: occupation", "unit: occupation\nincoherent: {hope: '1'}", "incoherent: applies to labels of exposure"),
        ('  "1": The work hardly', "  1: The work hardly", "(YAML reads bare digits as a number: put it in quotes)"),
        ('  "1": The work hardly', '  "one": The work hardly', "settings.empathy.anchors: must name each label once"),
        (
            '      "1": The work goes to things',
            '      "0": The work goes',
            "settings.empathy.anchors: must name each label",
        ),
        ('empathy: "5", presence', 'empathy: "6", presence', "examples.0.labels.empathy: '6' is not a label"),
    ],
)
def test_a_broken_rubric_of_occupations_names_key_and_reason(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(RubricError) as caught:
        load_rubric(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [("2", "1"), ("low", "high"), ("1", "2.5"), ("01", "2")])
def test_ratings_are_whole_numbers_that_rise(labels: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "id: mine\nversion: 1\ntitle: T\nunit: occupation\nprompt: occupation\ndefinition: D\n"
        f"labels: {{'{labels[0]}': a, '{labels[1]}': b}}\n"
        "settings: {it: {question: Q, scope: S}}\nrationale: {max_words: 10}\n"
    )
    with pytest.raises(RubricError, match="labels: ratings of occupations are whole numbers that rise"):
        load_rubric(str(path))


@pytest.mark.parametrize("key", ["codes", "measures"])
def test_a_rubric_of_tasks_still_needs_codes_and_measures(key: str, tmp_path: Path) -> None:
    text = rubric_path("eloundou").read_text()
    start = text.index(f"\n{key}:")
    end = text.find("\nmeasures:", start + 1) if key == "codes" else len(text)
    path = tmp_path / "mine.yaml"
    path.write_text(text[:start] + text[end:])
    with pytest.raises(RubricError, match=f"{key}: is missing"):
        load_rubric(str(path))


@pytest.mark.parametrize(
    ("rubric", "setting", "decide", "tasks", "key"),
    [
        ("exposure@1", "strict", "json", 1, "13d96c7012b33c88946cfade104f662fe07b180dd600a86bf9b214c10ebdc59e"),
        ("exposure@1", "with-tools", "json", 1, "669cea28609987c168e5d8951a67cf64842c1b685b334ae7a19fe2217a5f9ecb"),
        ("exposure@1", "strict", "logprob", 1, "93654f946eeddd65242a44a24b0b0084f2be93d48eafab26b748a5f534e19216"),
        ("exposure@1", "strict", "json", 2, "4ec4b195fa622b3b04c0429f07f2a5a70d1642ad83645e9f8e4160fd6b1b8eb9"),
        ("eloundou", "three-way", "json", 1, "e5838e774b91d4bccab6890e048ebbb5762f80005aa3a2fe2d15423b003e8911"),
        ("eloundou", "three-way", "json", 2, "46462aeb5c7819c47c729506dbb41e51f1bbcd3afca3f2a207ebac3bae2a7cce"),
    ],
)
def test_answers_to_the_task_rubrics_are_found_under_the_keys_of_before(
    rubric: str, setting: str, decide: str, tasks: int, key: str
) -> None:
    """Keys as they were before rubrics of occupations came: change them only with a rubric's or prompt's wording."""
    loaded = load_rubric(rubric)
    planner = Planner(
        loaded,
        load_prompt(loaded.prompt),
        Endpoint(host="h", model="m"),
        decide="logprob" if decide == "logprob" else "json",
    )
    assert planner.request(TASKS[:tasks], setting).key == key


def test_the_sample_has_the_occupations_of_its_tasks() -> None:
    rated = load_tasks("sample", unit="occupation")
    assert {(o.onet_soc_code, o.title) for o in rated} == {(t.onet_soc_code, t.title) for t in load_tasks("sample")}
    assert all(o.task_id == o.onet_soc_code and len(o.text) > 50 for o in rated)
    assert [use.file for use in task_sources("sample", "occupation")] == ["occupations.csv"]


@pytest.mark.mirror
def test_a_release_of_onet_lists_every_occupation_with_its_description() -> None:
    rated = load_tasks("onet-30.2", unit="occupation")
    assert len(rated) == 1016
    assert [o.title for o in load_tasks("onet-30.2", unit="occupation", occupations=["29-1141.00"])] == [
        "Registered Nurses"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("onet_soc_code,title\n11-1011.00,A\n", "no column 'description'"),
        (
            "onet_soc_code,title,description\n11-1011,A,B\n",
            "line 2: '11-1011' is not an O.NET-SOC code; write it in full",
        ),
        ("onet_soc_code,title,description\n11-1011.00,A,\n", "line 2 has no title or no description"),
        (
            "onet_soc_code,title,description\n11-1011.00,A,B\n11-1011.00,A,B\n",
            "line 3 repeats the code 11-1011.00 of line 2",
        ),
    ],
)
def test_a_users_list_of_occupations_is_read_with_care(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load_tasks(str(path), unit="occupation")


def test_a_list_without_descriptions_cannot_be_rated() -> None:
    with pytest.raises(DataError, match="has no descriptions of occupations; give a release of O\\*NET"):
        load_tasks("eloundou-2023", unit="occupation")


def rating(seen: Seen) -> Reply:
    assert "You rate occupations" in seen.messages[0]["content"]
    return judged("4", "Much of it does.")


def rate(fake: FakeProvider, *more: str) -> int:
    words = ["run", "--model", "m", "--base-url", fake.base_url, "--rubric", "epoch", "--tasks", "sample", "--quiet"]
    return run_app([*words, "--out", "rated", *more])


def test_occupations_are_rated_stored_and_never_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with provider(rating) as fake:
        assert rate(fake) == 0
        assert rate(fake, "--out", "again") == 0
        assert len(fake.answered) == 30
    run = open_run("again")
    assert run.rubric.unit == "occupation"
    assert run.manifest.counts.from_store == 30
    assert len(run.labels) == 30
    assert set(run.labels["setting"]) == set(DIMENSIONS)
    assert set(run.labels["task_id"]) == {task.onet_soc_code for task in load_tasks("sample")}


@pytest.mark.parametrize(
    "words", [["score", "rated"], ["eval", "rated"], ["export", "rated", "--out", "site"]], ids=lambda w: w[0]
)
def test_what_needs_tasks_says_so_of_a_run_that_rates_occupations(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with provider(rating) as fake:
        assert rate(fake) == 0
    capsys.readouterr()
    assert run_app(words) == 2
    said = capsys.readouterr().err.strip()
    assert "rates occupations (rubric epoch)" in said
    assert "relabel resilience RUN --epoch" in said
    assert "\n" not in said


def test_a_dry_run_counts_occupations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--rubric", "epoch", "--tasks", "sample"]
    assert run_app([*words, "--dry-run"]) == 0
    assert "30 labels: 6 occupations x empathy, presence, opinion, creativity, hope" in capsys.readouterr().out
    assert run_app([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 30
