"""Sources are parsed once: what a reader made of them is kept under the checksums of the files."""

from __future__ import annotations

import stat
from pathlib import Path

import pandas as pd
import pytest
from source_builders import Workshop, sha256
from test_readers import workbook

from relabel.errors import ChecksumError, DataError
from relabel.settings import settings
from relabel.sources import bls, onet, tables

HEAD = ["2010 SOC Code", "2010 SOC Title", "2018 SOC Code", "2018 SOC Title"]
SOURCE = "bls-soc2010-soc2018"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The workbooks that were opened, in order."""
    paths: list[Path] = []
    read_rows = tables.read_rows

    def watched(path: Path, sheet: str | None = None) -> tables.Rows:
        paths.append(path)
        return read_rows(path, sheet)

    monkeypatch.setattr(tables, "read_rows", watched)
    return paths


def give(job_builders: Workshop, *titles: str) -> Path:
    rows = [[f"11-{1011 + n}", title, f"11-{1011 + n}", f"{title} (##)"] for n, title in enumerate(titles)]
    return job_builders.give(SOURCE, "crosswalk", "c.xlsx", workbook({"Sorted by 2010": [HEAD, *rows]}))


def kept() -> list[Path]:
    return sorted((settings().download_dir / ".tables").glob("*.parquet"))


def test_a_table_is_parsed_once_and_reads_the_same_again(job_builders: Workshop, opened: list[Path]) -> None:
    give(job_builders, "NA", "Chiefs")
    first, second = bls.read_soc2010_soc2018(), bls.read_soc2010_soc2018()
    pd.testing.assert_frame_equal(first, second)
    assert second["soc2018_title"].tolist() == ["NA", "Chiefs"]
    assert len(opened) == 1


def test_what_is_kept_only_the_user_can_read_and_an_older_one_goes(job_builders: Workshop, opened: list[Path]) -> None:
    give(job_builders, "one")
    bls.read_soc2010_soc2018()
    (before,) = kept()
    assert stat.S_IMODE(before.stat().st_mode) == 0o600
    assert stat.S_IMODE(before.parent.stat().st_mode) == 0o700

    job_builders.forget()
    give(job_builders, "uno")
    assert bls.read_soc2010_soc2018()["soc2010_title"].tolist() == ["uno"]
    assert len(kept()) == 1 != kept().count(before)
    assert len(opened) == 2


def test_another_content_under_the_same_entry_is_refused_and_never_served_from_the_cache(
    job_builders: Workshop,
) -> None:
    path = give(job_builders, "one")
    bls.read_soc2010_soc2018()
    path.write_bytes(workbook({"Sorted by 2010": [HEAD, ["11-1011", "two", "11-1011", "two"]]}))
    with pytest.raises(ChecksumError):
        bls.read_soc2010_soc2018()


def test_a_release_under_another_name_has_a_table_of_its_own(job_builders: Workshop) -> None:
    text = "O*NET-SOC Code\tJob Zone\n11-1011.00\t5\n"
    for release, zone in (("onet-31.0", "5"), ("onet-31.1", "4")):
        content = text.replace("5\n", f"{zone}\n").encode()
        job_builders.register(release, {"name": "Job Zones.txt", "role": "job-zones", "sha256": sha256(content)})
        job_builders.put(release, "Job Zones.txt", content)
    for _ in range(2):
        assert onet.read_job_zones("onet-31.0")["job_zone"].tolist() == [5]
        assert onet.read_job_zones("onet-31.1")["job_zone"].tolist() == [4]
    assert len(kept()) == 2


def test_a_table_that_breaks_its_schema_is_not_kept(job_builders: Workshop) -> None:
    job_builders.give(SOURCE, "crosswalk", "c.xlsx", workbook({"Sorted by 2010": [HEAD, ["11", "one", "11", "one"]]}))
    for _ in range(2):
        with pytest.raises(DataError, match=r"column 'soc2010': '11' in row 1"):
            bls.read_soc2010_soc2018()
    assert kept() == []


@pytest.mark.parametrize("damage", ["cut", "bit", "junk"])
def test_a_damaged_file_of_the_cache_is_made_anew(job_builders: Workshop, opened: list[Path], damage: str) -> None:
    give(job_builders, *(f"title {n}" for n in range(500)))
    first = bls.read_soc2010_soc2018()
    (path,) = kept()
    content = path.read_bytes()
    at = 1000  # within the first column's pages
    path.write_bytes(
        {"cut": content[:-20], "junk": b"junk", "bit": content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]}[
            damage
        ]
    )
    pd.testing.assert_frame_equal(bls.read_soc2010_soc2018(), first)
    bls.read_soc2010_soc2018()
    assert len(opened) == 2


def test_a_home_that_cannot_be_written_only_costs_time(
    job_builders: Workshop, opened: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "file"))
    give(job_builders, "one")
    for _ in range(2):
        assert bls.read_soc2010_soc2018()["soc2010_title"].tolist() == ["one"]
    assert len(opened) == 2
