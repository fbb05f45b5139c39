"""A folder that holds another run is refused in the words of the command that would write into it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from job_builders import label_all, make_job
from relabel.errors import DataError
from relabel.labelling.job import differences
from relabel.labelling.request import Endpoint, host_of, load_prompt
from relabel.labelling.session import job_for_folder, manifest_of
from relabel.labelling.store import Store
from relabel.manifest import Counts, Manifest, write_run
from relabel.rubric import load_rubric
from relabel.sources.fetch import SourceUse
from server import judged, provider

URL = "http://127.0.0.1:1/v1"


def endpoint(**changes: Any) -> Endpoint:
    return Endpoint.model_validate({"host": host_of(URL), "model": "test-model", **changes})


def manifest(**given: Any) -> Manifest:
    changes = dict(given)
    return manifest_of(make_job(changes.pop("base_url", URL), 3, **changes), "online", datetime.now(UTC))


def named(rubric: str) -> str:
    loaded = load_rubric(rubric)
    return f"{rubric} version {loaded.version} (sha256 {loaded.sha256[:12]})"


CSV = SourceUse(source="file", file="mine.csv", sha256="1" * 64)
DRAWN = {"sample": 10, "seed": 0, "occupations": []}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"model": "other"}, "--model differs: test-model there, other now"),
        ({}, {"base_url": "http://h/v1"}, f"--base-url differs: {URL} there, http://h/v1 now"),
        ({}, {"endpoint": endpoint(api="responses")}, "--api differs: chat there, responses now"),
        ({}, {"tasks_ref": "sample"}, "--tasks differs: made-up there, sample now"),
        ({}, {"settings": ("strict",)}, "--setting differs: strict, with-tools there, strict now"),
        (
            {},
            {"endpoint": endpoint(params={"max_completion_tokens": 200})},
            "--max-tokens differs: none there, 200 now",
        ),
        (
            {"endpoint": endpoint(params={"temperature": 0, "top_p": 1})},
            {"endpoint": endpoint(params={"temperature": 1, "top_p": 1})},
            "--param temperature differs: 0 there, 1 now",
        ),
        ({}, {"endpoint": endpoint(form="text")}, "--response-format differs: json_schema there, text now"),
        (
            {},
            {"rubric": "eloundou", "settings": ("strict", "with-tools"), "prompt": load_prompt("task")},
            f"--rubric differs: {named('exposure')} there, {named('eloundou')} now",
        ),
        ({}, {"samples": 3}, "--samples differs: 1 there, 3 now"),
        ({}, {"examples": False}, "--examples differs: True there, False now"),
        ({}, {"pack": 5}, "--pack differs: 1 there, 5 now"),
        ({"parameters": DRAWN}, {"parameters": {**DRAWN, "seed": 7}}, "--seed differs: 0 there, 7 now"),
        (
            {"parameters": DRAWN},
            {"parameters": {**DRAWN, "occupations": ["11-1011.00"]}},
            "--occupation differs: none there, 11-1011.00 now",
        ),
        (
            {"sources": (CSV,)},
            {"sources": (CSV.model_copy(update={"sha256": "2" * 64}),)},
            "mine.csv changed since",
        ),
    ],
)
def test_what_differs_is_said_in_the_words_of_the_command(
    before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    assert differences(manifest(**before), manifest(**after)) == [said]


def test_the_same_run_does_not_differ() -> None:
    assert differences(manifest(), manifest()) == []


def test_all_that_differs_is_said() -> None:
    found = differences(manifest(), manifest(model="other", samples=2))
    assert found == ["--model differs: test-model there, other now", "--samples differs: 1 there, 2 now"]


def test_a_rubric_and_a_prompt_that_were_changed_since_are_named() -> None:
    there = manifest()
    worded = there.model_copy(update={"rubric_sha256": "0", "prompt_sha256": "0"})
    prompt = str(there.prompt_sha256)[:12]
    assert differences(worded, there) == [
        f"--rubric differs: exposure version {there.rubric.version} (sha256 0) there, {named('exposure')} now",
        f"--prompt differs: sha256 0 there, sha256 {prompt} now",
    ]


def test_decide_is_named_with_the_form_that_goes_with_it() -> None:
    assert differences(manifest(), manifest(decide="logprob")) == [
        "--response-format differs: json_schema there, text now",
        "--decide differs: json there, logprob now",
    ]


def test_requests_of_another_version_of_relabel_are_told_by_it() -> None:
    old = manifest().model_copy(update={"schema_sha256": "0", "package_version": "0.1"})
    assert differences(old, manifest()) == [
        "the requests differ: relabel 0.1, which made that run, worded them differently"
    ]


async def test_the_sentence_names_what_to_do(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        job = make_job(fake.base_url, 2)
        await label_all(job, store, tmp_path / "run")
        more = replace(job, endpoint=job.endpoint.model_copy(update={"params": {"max_completion_tokens": 200}}))
        with pytest.raises(DataError) as caught:
            job_for_folder(tmp_path / "run", more)
    assert str(caught.value) == (
        f"{tmp_path / 'run'} holds another run (--max-tokens differs: none there, 200 now); give another folder to --out"
    )


def test_a_form_that_was_a_guess_does_not_make_another_run_of_a_folder_without_labels(tmp_path: Path) -> None:
    guessed = manifest().model_copy(update={"status": "incomplete", "counts": Counts(asked=6, failed=6)})
    write_run(tmp_path, guessed, [], [])
    job_for_folder(tmp_path, make_job(URL, 3, endpoint=endpoint(form="text")))


@pytest.mark.parametrize("probe", [True, False])
async def test_nothing_is_sent_for_a_folder_of_another_run(store: Store, tmp_path: Path, *, probe: bool) -> None:
    with provider(lambda seen: judged()) as fake:
        job = replace(make_job(fake.base_url, 2), probe=probe)
        await label_all(job, store, tmp_path / "run")
        sent = len(fake.seen)
        assert sent
        other = replace(job, model="another", endpoint=job.endpoint.model_copy(update={"model": "another"}))
        with pytest.raises(DataError, match="--model differs"):
            await label_all(other, store, tmp_path / "run")
        assert len(fake.seen) == sent


async def test_a_run_goes_on_in_the_form_of_its_labels(tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        job = make_job(fake.base_url, 4)
        asked_for = replace(job, endpoint=job.endpoint.model_copy(update={"form": "json_object"}))
        with Store(tmp_path / "one") as one:
            await label_all(asked_for, one, tmp_path / "run")
        sent = len(fake.seen)
        with Store(tmp_path / "one") as one:
            outcome = await label_all(replace(job, probe=True), one, tmp_path / "run")
        assert outcome.complete
        assert outcome.manifest.response_form == "json_object"
        assert len(fake.seen) == sent
