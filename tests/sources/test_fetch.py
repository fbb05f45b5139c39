from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from source_builders import Publisher, Workshop, sha256, write

from relabel.errors import ChecksumError, DataError, SourceMissingError
from relabel.sources import fetch

CONTENT = b"code\ttitle\n1111\tChiefs\n"
OTHER = b"code\ttitle\n2222\tOthers\n"


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


def one_file(publisher: Publisher, **more: object) -> dict[str, object]:
    publisher.pages["/t.tsv"] = CONTENT
    return {"name": "t.tsv", "sha256": sha256(CONTENT), "download": "file", "url": publisher.url("/t.tsv")} | more


def two_members(publisher: Publisher) -> list[dict[str, object]]:
    publisher.pages["/db.zip"] = archive(db__a_dot_txt=CONTENT, db__b_dot_txt=OTHER)
    url = publisher.url("/db.zip")
    return [
        {"name": "a.txt", "sha256": sha256(CONTENT), "download": "zip", "url": url, "member": "db/a.txt"},
        {"name": "b.txt", "sha256": sha256(OTHER), "download": "zip", "url": url, "member": "db/b.txt"},
    ]


def test_the_mirror_comes_before_the_cache(job_builders: Workshop) -> None:
    job_builders.give("s", "t", "t.tsv", CONTENT)
    job_builders.put_cached("s", "t.tsv", CONTENT)

    assert fetch.locate("s", "t.tsv") == job_builders.mirror / "s" / "t.tsv"
    assert fetch.verify(["s"])[0].where == "mirror"


def test_the_cache_comes_before_the_official_address(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", one_file(publisher))
    job_builders.put_cached("s", "t.tsv", CONTENT)

    assert fetch.locate("s", "t.tsv") == job_builders.cache / "s" / "t.tsv"
    assert fetch.verify(["s"])[0].where == "cache"
    assert publisher.asked == []


def test_a_file_is_fetched_once_and_its_origin_recorded(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", one_file(publisher, role="crosswalk"))

    path = fetch.locate("s", "t.tsv")
    fetch.locate("s", "t.tsv")

    assert path.read_bytes() == CONTENT
    assert publisher.asked == ["/t.tsv"]
    assert fetch.source_use("s", "crosswalk").model_dump() == {
        "source": "s",
        "file": "t.tsv",
        "sha256": sha256(CONTENT),
        "copy_status": "official",
    }
    assert sorted(found.name for found in path.parent.iterdir()) == ["t.tsv"]


@pytest.mark.parametrize("changed", [CONTENT[:-5], CONTENT.replace(b"1111", b"1112"), b""])
def test_a_cut_or_changed_file_in_the_mirror_is_refused_with_both_checksums(
    job_builders: Workshop, changed: bytes
) -> None:
    path = job_builders.give("s", "t", "t.tsv", CONTENT)
    write(path, changed)

    with pytest.raises(ChecksumError) as caught:
        fetch.locate("s", "t.tsv")

    assert caught.value.exit_code == 3
    assert (caught.value.path, caught.value.wanted, caught.value.found) == (path, sha256(CONTENT), sha256(changed))
    assert sha256(CONTENT) in str(caught.value)
    assert sha256(changed) in str(caught.value)


def test_a_file_that_changes_under_way_is_noticed(job_builders: Workshop) -> None:
    path = job_builders.give("s", "t", "t.tsv", CONTENT)
    fetch.locate("s", "t.tsv")
    write(path, CONTENT + b"more")

    with pytest.raises(ChecksumError):
        fetch.locate("s", "t.tsv")


def test_a_file_is_hashed_once_as_long_as_it_stays(job_builders: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    job_builders.give("s", "t", "t.tsv", CONTENT)
    fetch.locate("s", "t.tsv")

    def refuse(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)

    assert fetch.locate("s", "t.tsv").name == "t.tsv"


def test_a_publisher_who_sends_another_file_is_refused(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", one_file(publisher))
    publisher.pages["/t.tsv"] = OTHER

    with pytest.raises(ChecksumError) as caught:
        fetch.locate("s", "t.tsv")

    assert (caught.value.wanted, caught.value.found) == (sha256(CONTENT), sha256(OTHER))
    assert list((job_builders.cache / "s").iterdir()) == []


def test_an_address_that_fails_is_one_sentence(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", one_file(publisher))
    del publisher.pages["/t.tsv"]

    with pytest.raises(DataError, match=r"s/t\.tsv could not be fetched from .*/t\.tsv \(the server answered 404\)"):
        fetch.locate("s", "t.tsv")


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_address(
    job_builders: Workshop, publisher: Publisher
) -> None:
    job_builders.register("s", one_file(publisher))
    job_builders.cache.parent.mkdir(parents=True, exist_ok=True)
    job_builders.cache.write_text("a file in the way")

    # Who can do without the file catches this, as for one that is not there.
    with pytest.raises(
        SourceMissingError, match=r"cannot be written \(.*\); correct its permissions, or set RELABEL_HOME"
    ):
        fetch.locate("s", "t.tsv")
    assert publisher.asked == []


def test_a_connection_that_breaks_off_leaves_nothing_behind(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", one_file(publisher))
    publisher.cut_after = 5

    with pytest.raises(DataError, match=r"could not be fetched from .* \(no connection, or it was interrupted\)"):
        fetch.locate("s", "t.tsv")
    assert list((job_builders.cache / "s").iterdir()) == []


def test_one_archive_gives_all_members_of_its_source(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", *two_members(publisher))

    assert fetch.locate("s", "a.txt").read_bytes() == CONTENT
    assert fetch.locate("s", "b.txt").read_bytes() == OTHER
    assert publisher.asked == ["/db.zip"]
    assert sorted(path.name for path in (job_builders.cache / "s").iterdir()) == ["a.txt", "b.txt"]


def test_a_member_is_found_when_the_publisher_renames_its_folder(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", *two_members(publisher))
    publisher.pages["/db.zip"] = archive(db_new__a_dot_txt=CONTENT)

    assert fetch.locate("s", "a.txt").read_bytes() == CONTENT


def test_an_archive_without_the_member_is_named(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", *two_members(publisher))
    publisher.pages["/db.zip"] = archive(db__z_dot_txt=CONTENT)

    with pytest.raises(DataError, match=r"has no member 'db/a\.txt' \(it has db/z\.txt\)"):
        fetch.locate("s", "a.txt")


def test_an_archive_that_unpacks_to_more_than_a_disk_holds_is_refused(
    job_builders: Workshop, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_builders.register("s", *two_members(publisher))
    monkeypatch.setattr(fetch, "_MOST_BYTES", len(CONTENT) - 1)

    with pytest.raises(DataError, match=r"db\.zip has a member 'db/a\.txt' that unpacks to more than"):
        fetch.locate("s", "a.txt")

    assert list((job_builders.cache / "s").glob("a*")) == []


def test_an_archive_cut_short_is_named(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", *two_members(publisher))
    publisher.pages["/db.zip"] = publisher.pages["/db.zip"][:40]

    with pytest.raises(DataError, match=r"db\.zip \(the reply is not a readable zip archive\)"):
        fetch.locate("s", "a.txt")


def test_a_changed_member_is_refused_and_the_good_one_kept(job_builders: Workshop, publisher: Publisher) -> None:
    job_builders.register("s", *two_members(publisher))
    publisher.pages["/db.zip"] = archive(db__a_dot_txt=b"changed", db__b_dot_txt=OTHER)

    with pytest.raises(ChecksumError, match=r"s/a\.txt from .*/db\.zip is not the registered file"):
        fetch.locate("s", "a.txt")

    assert fetch.locate("s", "b.txt").read_bytes() == OTHER
    assert publisher.asked == ["/db.zip"]


class TestPins:
    REBUILT = b"rebuilt copy\n"

    def entry(self, publisher: Publisher) -> dict[str, object]:
        return one_file(publisher, sha256=sha256(self.REBUILT), copy="rebuilt")

    def test_a_rebuilt_copy_in_the_mirror_is_accepted_and_called_rebuilt(
        self, job_builders: Workshop, publisher: Publisher
    ) -> None:
        job_builders.register("s", self.entry(publisher))
        job_builders.put("s", "t.tsv", self.REBUILT)

        assert fetch.verify(["s"])[0].copy_status == "rebuilt"
        assert publisher.asked == []

    def test_another_file_is_not_accepted_in_its_place(self, job_builders: Workshop, publisher: Publisher) -> None:
        job_builders.register("s", self.entry(publisher))
        job_builders.put("s", "t.tsv", OTHER)

        with pytest.raises(ChecksumError) as caught:
            fetch.locate("s", "t.tsv")
        assert caught.value.wanted == sha256(self.REBUILT)

    def test_the_official_file_is_pinned_at_its_first_download(
        self, job_builders: Workshop, publisher: Publisher
    ) -> None:
        job_builders.register("s", self.entry(publisher))

        path = fetch.locate("s", "t.tsv")

        assert fetch.verify(["s"])[0].copy_status == "official"
        assert (path.parent / "t.tsv.sha256").read_text() == f"{sha256(CONTENT)}  t.tsv\n"

    def test_later_uses_are_checked_against_the_pin(self, job_builders: Workshop, publisher: Publisher) -> None:
        job_builders.register("s", self.entry(publisher))
        path = fetch.locate("s", "t.tsv")
        write(path, OTHER)

        with pytest.raises(ChecksumError) as caught:
            fetch.locate("s", "t.tsv")
        assert (caught.value.wanted, caught.value.found) == (sha256(CONTENT), sha256(OTHER))

    def test_a_second_download_must_be_the_pinned_file(self, job_builders: Workshop, publisher: Publisher) -> None:
        job_builders.register("s", self.entry(publisher))
        fetch.locate("s", "t.tsv").unlink()
        publisher.pages["/t.tsv"] = OTHER

        with pytest.raises(ChecksumError, match=sha256(CONTENT)):
            fetch.locate("s", "t.tsv")

    def test_the_pinned_official_file_is_also_accepted_in_the_mirror(
        self, job_builders: Workshop, publisher: Publisher
    ) -> None:
        job_builders.register("s", self.entry(publisher))
        fetch.locate("s", "t.tsv")
        job_builders.put("s", "t.tsv", CONTENT)

        assert fetch.verify(["s"])[0].copy_status == "official"

    def test_a_file_registered_without_checksum_is_pinned_at_first_sight(self, job_builders: Workshop) -> None:
        job_builders.register("s", {"name": "t.tsv"})
        path = job_builders.put("s", "t.tsv", CONTENT)
        fetch.locate("s", "t.tsv")
        write(path, OTHER)

        with pytest.raises(ChecksumError, match=sha256(CONTENT)):
            fetch.locate("s", "t.tsv")

    def test_a_pin_that_is_no_checksum_is_named(self, job_builders: Workshop) -> None:
        job_builders.register("s", {"name": "t.tsv"})
        job_builders.put("s", "t.tsv", CONTENT)
        job_builders.put_cached("s", "t.tsv.sha256", b"?")

        with pytest.raises(ChecksumError, match="`relabel data unpin s` forgets"):
            fetch.locate("s", "t.tsv")


def test_a_file_behind_a_page_says_which_page_and_where_to_put_it(job_builders: Workshop) -> None:
    page = "https://example.org/page"
    job_builders.register("s", {"name": "t.tsv", "sha256": sha256(CONTENT), "download": "page", "url": page})

    with pytest.raises(DataError) as caught:
        fetch.locate("s", "t.tsv")

    assert str(caught.value) == (
        f"s/t.tsv cannot be fetched automatically: get it by hand, see {page}, "
        f"and put it into {job_builders.cache / 's'}, or set RELABEL_DATA_MIRROR"
    )


def test_a_derived_file_says_what_it_was_taken_from_and_that_it_is_optional(job_builders: Workshop) -> None:
    with pytest.raises(DataError) as caught:
        fetch.locate("ons-ashe-2025-medians", "ashe-2025-uk.json")

    assert str(caught.value) == (
        "ons-ashe-2025-medians/ashe-2025-uk.json cannot be fetched automatically: get it by hand, see https://www.ons.gov.uk/"
        "employmentandlabourmarket/peopleinwork/earningsandworkinghours/datasets/occupation4digitsoc2010ashetable14, and put "
        f"it into {job_builders.cache / 'ons-ashe-2025-medians'}, or set RELABEL_DATA_MIRROR "
        "(optional: only --pay ons-ashe-2025-medians needs it)"
    )


def test_a_source_without_official_address_says_where_to_look(job_builders: Workshop) -> None:
    with pytest.raises(
        DataError, match=r"by hand, see https://github\.com/danparshall/.*optional: only `relabel import"
    ):
        fetch.locate("relabels-2026", "o1.csv")


def test_a_mirror_that_is_no_folder_is_named(job_builders: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELABEL_DATA_MIRROR", str(job_builders.registry))

    with pytest.raises(DataError, match=r"RELABEL_DATA_MIRROR names .*, which is not a folder"):
        fetch.locate("eloundou-2023", "occ_level.csv")


def test_a_folder_in_place_of_a_file_is_one_sentence(job_builders: Workshop) -> None:
    job_builders.register("s", {"name": "t.tsv", "sha256": sha256(CONTENT)})
    (job_builders.mirror / "s" / "t.tsv").mkdir(parents=True)

    with pytest.raises(DataError, match=r"t\.tsv cannot be read"):
        fetch.locate("s", "t.tsv")
    assert [check.state for check in fetch.verify(["s"])] == ["unreadable"]


def test_verify_tells_good_missing_and_changed_files_apart(job_builders: Workshop) -> None:
    names = ("good", "gone", "changed")
    job_builders.register("s", *({"name": name, "sha256": sha256(CONTENT)} for name in names))
    job_builders.put("s", "good", CONTENT)
    job_builders.put_cached("s", "changed", OTHER)

    checks = fetch.verify(["s"])

    assert [(check.file, check.state, check.where) for check in checks] == [
        ("good", "ok", "mirror"),
        ("gone", "missing", None),
        ("changed", "mismatch", "cache"),
    ]
    assert (checks[2].wanted, checks[2].found) == (sha256(CONTENT), sha256(OTHER))


def test_pull_fetches_what_is_missing_or_damaged_and_leaves_the_mirror(
    job_builders: Workshop, publisher: Publisher
) -> None:
    job_builders.register("s", *two_members(publisher), one_file(publisher), {"name": "nowhere"})
    job_builders.put("s", "a.txt", CONTENT)
    job_builders.put_cached("s", "t.tsv", b"damaged")
    said: list[str] = []

    checks = fetch.pull(["s"], on_fetch=lambda place, _: said.append(place))

    assert [(check.file, check.state, check.where) for check in checks] == [
        ("a.txt", "ok", "mirror"),
        ("b.txt", "ok", "download"),
        ("t.tsv", "ok", "download"),
        ("nowhere", "missing", None),
    ]
    assert said == ["s/b.txt", "s/t.tsv"]
    assert (
        "s/nowhere cannot be fetched automatically: get it by hand, see https://example.org/about" in checks[3].message
    )


def test_pull_reports_a_failure_and_goes_on(job_builders: Workshop, publisher: Publisher) -> None:
    bad = one_file(publisher) | {"name": "bad", "url": publisher.url("/gone")}
    job_builders.register("s", bad, one_file(publisher))

    first, second = fetch.pull(["s"])

    assert (first.state, "the server answered 404" in first.message) == ("missing", True)
    assert second.state == "ok"


def test_an_archive_that_is_not_to_be_had_is_asked_for_once(job_builders: Workshop, publisher: Publisher) -> None:
    url = publisher.url("/none.zip")
    files = [{"name": n, "sha256": sha256(CONTENT), "download": "zip", "member": n, "url": url} for n in ("a", "b")]
    job_builders.register("s", *files)

    checks = fetch.pull(["s"])

    assert publisher.asked == ["/none.zip"]
    assert [check.why for check in checks] == ["the server answered 404"] * 2
    assert f"could not be fetched from {url}" in checks[1].message


@pytest.mark.mirror
def test_every_file_of_the_mirror_is_the_registered_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path))

    checks = fetch.verify()

    assert len(checks) == 34
    assert {(check.state, check.where) for check in checks} == {("ok", "mirror")}


PAGE = b"<!doctype html><html><title>Access Denied</title></html>"


@pytest.mark.parametrize(
    ("name", "role", "content", "said"),
    [
        ("t.tsv", "", PAGE, "a web page"),
        ("t.xlsx", "wages", PAGE, "a web page"),
        ("t.xlsx", "wages", b"Error 503", "not xlsx by its first bytes"),
        ("t.txt", "tasks", b"Please enable cookies.\n", "not a table"),
        ("t.txt", "tasks", b"Code\tTitle\n1\t2\n", "not a table with the column 'Task ID'"),
        ("t.json", "", b"Too many requests", "not json"),
    ],
)
def test_what_is_no_data_is_neither_kept_nor_pinned(
    job_builders: Workshop, publisher: Publisher, name: str, role: str, content: bytes, said: str
) -> None:
    publisher.pages[f"/{name}"] = content
    about = {"name": name, "download": "file", "url": publisher.url(f"/{name}")}
    job_builders.register("s", about | ({"role": role} if role else {}))
    with pytest.raises(DataError, match=said):
        fetch.locate("s", name)
    assert not list((job_builders.cache / "s").iterdir())
    job_builders.put("s", name, content)
    with pytest.raises(DataError, match=said):
        fetch.locate("s", name)


def test_a_pin_can_be_seen_and_undone_and_the_mismatch_names_the_command(
    job_builders: Workshop, publisher: Publisher
) -> None:
    publisher.pages["/t.tsv"] = b"a\tb\n1\t2\n"
    job_builders.register("s", {"name": "t.tsv", "download": "file", "url": publisher.url("/t.tsv")})
    path = fetch.locate("s", "t.tsv")
    assert fetch.verify(["s"])[0].pinned
    path.unlink()
    publisher.pages["/t.tsv"] = b"a\tb\n3\t4\n"
    with pytest.raises(ChecksumError, match="`relabel data unpin s` forgets"):
        fetch.locate("s", "t.tsv")
    assert fetch.unpin("s") == ["t.tsv"]
    assert fetch.locate("s", "t.tsv").read_bytes() == b"a\tb\n3\t4\n"
    assert fetch.unpin("s") == ["t.tsv"]
    assert not path.exists()  # an address gives it again
    with pytest.raises(DataError, match="no file of s is pinned"):
        fetch.unpin("s")
