"""What commands print and write stays as it is, unless somebody changes it on purpose.

After a change on purpose: `python tests/snapshots/make.py`, with RELABEL_DATA_MIRROR set, and a look at the diff.
"""

from pathlib import Path

import pytest

from relabel.cli.app import run_app
from snapshots.make import HERE, of_2023, of_sample


def _differing(made: dict[str, str]) -> list[str]:
    """The lines that are new or gone, by file."""
    lines: list[str] = []
    for name, content in made.items():
        then, now = (HERE / name).read_text(encoding="utf-8").splitlines(), content.splitlines()
        kept = set(then) & set(now)
        lines += [f"{name}: - {line}" for line in then if line not in kept]
        lines += [f"{name}: + {line}" for line in now if line not in kept]
    return lines[:40]


def test_documents_and_export_of_the_sample_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def relabel(folder: Path, *words: str) -> str:  # in this process, which has loaded the libraries
        monkeypatch.chdir(folder)
        assert run_app([*words]) == 0
        return capsys.readouterr().out

    assert not _differing(of_sample(tmp_path, relabel))


@pytest.mark.slow
@pytest.mark.mirror
def test_documents_and_export_of_the_labels_of_2023_stay_as_they_are(tmp_path: Path) -> None:
    assert not _differing(of_2023(tmp_path))
