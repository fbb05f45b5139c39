from __future__ import annotations

import json
import subprocess
import sys

import pytest
from source_builders import Publisher, Workshop, sha256
from typer.testing import CliRunner

from relabel.cli.data import data_app as app
from relabel.errors import DataError

CONTENT = b"content\n"


def run(*arguments: str, fails: type[Exception] | None = None) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if fails is None:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, fails), result.output
    return result.stdout


def error_of(*arguments: str) -> str:
    return str(CliRunner().invoke(app, list(arguments)).exception)


@pytest.fixture
def three(job_builders: Workshop, publisher: Publisher) -> Workshop:
    """A source with a good file, one that can be fetched, and one that cannot."""
    publisher.pages["/far"] = CONTENT
    far = {"name": "far", "download": "file", "url": publisher.url("/far")}
    files = ({"name": "near"}, far, {"name": "lost"})
    job_builders.register("mine", *({"sha256": sha256(CONTENT), **file} for file in files))
    job_builders.put("mine", "near", CONTENT)
    return job_builders


@pytest.mark.usefixtures("job_builders")
def test_list_names_every_source_within_a_hundred_columns() -> None:
    out = run("list")

    assert "onet-30.2" in out
    assert "[rebuilt" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.usefixtures("job_builders")
def test_list_as_json_gives_what_the_registry_holds() -> None:
    sources = {source["id"]: source for source in json.loads(run("list", "--json"))["sources"]}

    assert len(sources) == 13
    source = sources["ons-ashe-2025-medians"]
    assert set(source) >= {"title", "publisher", "release", "licence", "citation", "homepage", "notes", "files"}
    assert source["files"][0]["copy"] == "derived"


@pytest.mark.usefixtures("three")
def test_verify_lists_missing_files_without_failing() -> None:
    out = run("verify", "mine")

    assert "1 ok, 2 missing" in out
    assert "`relabel data pull` fetches what is missing" in out


@pytest.mark.usefixtures("three")
def test_strict_verify_fails_on_missing_files() -> None:
    assert error_of("verify", "mine", "--strict").startswith("2 of 3 files are missing: mine/far, mine/lost;")


def test_verify_fails_on_a_changed_file_with_both_checksums(three: Workshop) -> None:
    three.put("mine", "near", b"changed")

    document = json.loads(run("verify", "mine", "--json", fails=DataError))
    message = error_of("verify", "mine")

    assert (document["ok"], document["mismatch"], document["missing"]) == (0, 1, 2)
    assert document["files"][0]["found"] == sha256(b"changed")
    assert sha256(b"changed") in message
    assert sha256(CONTENT) in message
    assert "near" in message


def test_verify_names_each_of_several_changed_files(three: Workshop) -> None:
    three.put("mine", "near", b"changed")
    three.put("mine", "lost", b"changed, too")

    message = error_of("verify", "mine")

    assert message.count("is not the registered file") == 2
    assert sha256(b"changed, too") in message


@pytest.mark.usefixtures("three")
def test_pull_fetches_and_says_from_where() -> None:
    result = CliRunner().invoke(app, ["pull", "mine", "--json"])

    assert isinstance(result.exception, DataError)
    assert "mine/lost" in str(result.exception)
    assert result.stderr.count("fetching mine from 127.0.0.1") == 1
    states = {file["file"]: (file["state"], file["where"]) for file in json.loads(result.stdout)["files"]}
    assert states == {"near": ("ok", "mirror"), "far": ("ok", "download"), "lost": ("missing", None)}


def test_what_cannot_be_fetched_is_said_by_source_with_what_to_do(job_builders: Workshop, publisher: Publisher) -> None:
    archive = {"download": "zip", "url": publisher.url("/none.zip")}
    job_builders.register("far", *({"name": n, "member": n, "sha256": sha256(CONTENT), **archive} for n in ("a", "b")))
    page = {"download": "page", "url": "https://example.org/page"}
    job_builders.register(
        "hand", *({"name": n, "sha256": sha256(CONTENT), **page} for n in ("c", "d")), use="UK scores"
    )
    job_builders.register("nowhere", {"name": "e", "sha256": sha256(CONTENT)}, use="optional")

    result = CliRunner().invoke(app, ["pull", "far", "hand", "nowhere"])

    assert result.stderr.splitlines() == ["fetching far from " + publisher.url("").removeprefix("http://")]
    said = result.stdout[result.stdout.index("far: 2 of its files") :].splitlines()
    assert said == [
        "far: 2 of its files could not be fetched (the server answered 404)",
        f"hand (UK scores): put into {job_builders.cache / 'hand'}",
        "  c, d: see https://example.org/page",
        f"nowhere (optional): put into {job_builders.cache / 'nowhere'}",
        "  e: see https://example.org/about",
        "files that you already have can be put into the folder RELABEL_DATA_MIRROR, as SOURCE_ID/FILE",
        "0 ok, 5 missing",
    ]
    assert "5 of 5 files of far, hand, nowhere could not be obtained;" in str(result.exception)


@pytest.mark.usefixtures("job_builders")
def test_all_sources_are_shown_by_source_and_named_ones_by_file() -> None:
    assert "9 of onet-30.2" not in run("verify", "onet-30.2")
    assert "onet-30.2/Task Ratings.txt" in run("verify", "onet-30.2")
    everything = run("verify")
    assert "8 of onet-30.2" in everything
    assert len(everything.splitlines()) < 40


@pytest.mark.usefixtures("job_builders")
def test_an_unknown_source_is_an_error() -> None:
    assert error_of("pull", "nonsense").startswith("unknown source 'nonsense'; known: ")


def test_the_command_imports_nothing_heavy_before_it_runs() -> None:
    code = "import sys, relabel.cli.data; print(sorted({'pandas', 'pandera', 'pooch', 'openpyxl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
