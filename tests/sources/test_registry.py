from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.errors import DataError
from relabel.sources.registry import get_source, load_registry

GOOD = """
[[source]]
id = "mine"
title = "Mine"
publisher = "Me"
release = "1"
licence = "MIT"
citation = "Me (2026)."
homepage = "https://example.org"

[[source.file]]
name = "a.txt"
"""


@pytest.fixture(autouse=True)
def _no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELABEL_SOURCES", raising=False)


def extra(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "extra.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_built_in_file_has_a_checksum_a_size_and_a_role() -> None:
    registry = load_registry()

    assert len(registry) == 13
    assert sum(len(source.files) for source in registry.values()) == 34
    for source in registry.values():
        for file in source.files:
            assert file.sha256, file.name
            assert file.bytes, file.name
            assert file.role or source.id == "relabels-2026", file.name


def test_what_is_not_the_publishers_own_file_says_so() -> None:
    odd = {
        f"{source.id}/{file.name}": (file.copy_status, bool(file.note))
        for source in load_registry().values()
        for file in source.files
        if file.copy_status != "official"
    }

    assert odd == {
        "onet-30.2/Task Ratings.txt": ("rebuilt", True),
        "ons-ashe-2025-medians/ashe-2025-uk.json": ("derived", True),
    }


@pytest.mark.mirror
def test_the_registry_agrees_with_the_list_that_comes_with_the_mirror() -> None:
    listing = Path(os.environ["RELABEL_DATA_MIRROR"]) / "SOURCES.tsv"
    with listing.open(encoding="utf-8", newline="") as stream:
        listed = {(row["source"], row["file"]): row for row in csv.DictReader(stream, delimiter="\t")}
    registered = {(source.id, file.name): file for source in load_registry().values() for file in source.files}

    assert set(registered) == set(listed)
    for key, file in registered.items():
        assert (file.sha256, str(file.bytes)) == (listed[key]["sha256"], listed[key]["bytes"])
        assert file.url in (None, listed[key]["official_url"])


def test_an_unknown_source_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"^unknown source 'x'; known: bls-ep-2024-34, .*, relabels-2026$"):
        get_source("x")


def test_a_users_entry_is_added_to_the_built_in_ones(tmp_path: Path) -> None:
    registry = load_registry(extra(tmp_path, GOOD))

    assert registry["mine"].files[0].name == "a.txt"
    assert "onet-30.2" in registry


def test_a_users_entry_with_a_known_id_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = extra(tmp_path, GOOD.replace('"mine"', '"onet-30.2"'))
    monkeypatch.setenv("RELABEL_SOURCES", str(path))

    assert get_source("onet-30.2").title == "Mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[source", "not valid TOML"),
        ("title = 'x'", r"must hold \[\[source\]\] entries and nothing else"),
        (GOOD.replace('licence = "MIT"\n', ""), "entry 'mine': licence: is missing"),
        (GOOD.replace('name = "a.txt"', 'sha256 = "x"'), "entry 'mine': file.0.name: is missing"),
        (GOOD + 'sha256 = "123"\n', "entry 'mine': file.0.sha256"),
        (GOOD + 'shasum = "123"\n', "entry 'mine': file.0.shasum"),
        (GOOD + 'download = "zip"\nurl = "https://example.org/z.zip"\n', "file.0: .*needs the key 'member'"),
        (GOOD + 'url = "example.org/a"\n', "entry 'mine': file.0.url: must be an address that begins with http:// or"),
        (GOOD + 'url = "file:///etc/passwd"\n', "file.0.url: must be an address that begins with http:// or https://"),
        (GOOD + 'download = "file"\n', "file.0: .*needs the key 'url'"),
        (GOOD + 'copy = "rebuilt"\n', "file.0: .*needs the key 'sha256'"),
        (GOOD.replace("a.txt", "../a.txt"), "file.0.name: "),
        (GOOD.replace("a.txt", ".."), "file.0.name: "),
        (GOOD + '[[source.file]]\nname = "a.txt"\n', "entry 'mine': two files share the name 'a.txt'"),
        (GOOD + GOOD, "two entries with the id 'mine'"),
    ],
)
def test_a_bad_registry_file_is_named_with_entry_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = extra(tmp_path, text)

    with pytest.raises(DataError, match=said) as caught:
        load_registry(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_registry_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.toml cannot be read"):
        load_registry(tmp_path / "gone.toml")


def test_a_file_or_role_that_a_source_lacks_is_answered_with_what_it_has() -> None:
    with pytest.raises(DataError, match=r"has no file 'x'; it has 'full_labelset\.tsv'"):
        get_source("eloundou-2023").file("x")
    with pytest.raises(DataError, match="no file with the role 'task-ratings'"):
        get_source("onet-29.1").with_role("task-ratings")


@pytest.mark.parametrize("host", ["127.0.0.1:9", "[::1"])
def test_the_host_of_a_download_is_shown_without_the_password_in_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    path = extra(tmp_path, f'{GOOD}download = "file"\nurl = "http://me:mypassword@{host}/a.txt"\n')
    monkeypatch.setenv("RELABEL_SOURCES", str(path))
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))
    assert run_app(["data", "pull", "mine"]) == 3
    shown = capsys.readouterr()
    assert "fetching mine from" in shown.err
    assert "mypassword" not in shown.out + shown.err
