"""Files of strangers (study, suite, rubric, results folder): they run nothing, show nothing of other files, write nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relabel.cli.app import run_app
from relabel.settings import asset_dir
from server import judged, provider

SECRET = "secret-token-abc"
GATES = "gates: [{id: a, metric: coverage, min: 0.1}]"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "secret.csv").write_text(f"a,b\n{SECRET},1\n")
    (tmp_path / "secret.txt").write_text(SECRET)


def study(name: str = "x", labels: str = "run: sample", gold: str = "sample", rubric: str = "exposure") -> str:
    first = (
        f'study: 1\ntitle: T\ntasks: {{list: sample}}\nrubric: {rubric}\nraters:\n  - name: "{name}"\n    {labels}\n'
    )
    return first + f"golds: [{gold}]\nexport: false\nsite: false\n"


def rubric(**changes: str) -> str:
    lines = (asset_dir("rubrics") / "eloundou.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(
        next((f"{key}: {value}" for key, value in changes.items() if line.startswith(f"{key}: ")), line)
        for line in lines
    )


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (study("../../x"), "study run f.yaml", "name"),
        (study("x/y"), "study status f.yaml", "name"),
        (study("x\n::error::boo"), "study run f.yaml", "name"),
        (study(labels="labels: ../secret.csv"), "study run f.yaml", "has no column"),
        (study(gold="../secret.csv"), "study run f.yaml", "has no column"),
        (study(rubric="../secret.txt"), "study run f.yaml", "unknown rubric"),
        (study() + "export: ../elsewhere\n", "study run f.yaml", "export"),
        ('study: 1\ntitle: !!python/object/apply:os.system ["touch ../owned"]\n', "study run f.yaml", "constructor"),
        (f"name: s\ngold: ../secret.csv\n{GATES}", "eval sample --suite f.yaml", "has no column"),
        (
            f"name: s\ngold: sample\nbaseline: {{run: ../secret.csv}}\n{GATES}",
            "eval sample --suite f.yaml",
            "is not a run",
        ),
        (f'name: "../../x"\ngold: sample\n{GATES}', "eval sample --suite f.yaml --junit j.xml", "name"),
        (f'name: "s\\n::error::boo"\ngold: sample\n{GATES}', "eval sample --suite f.yaml", "name"),
        (
            f"name: !!python/name:os.system\ngold: sample\n{GATES}",
            "eval sample --suite f.yaml",
            "constructor",
        ),
        (rubric(id='"../../x"'), "rubric check f.yaml", "id"),
        (rubric(id="mine", prompt="../secret.txt"), "rubric check f.yaml", "unknown prompt"),
        (rubric(title='!!python/object/apply:os.system ["touch ../owned"]'), "rubric check f.yaml", "constructor"),
    ],
)
def test_a_strangers_file_ends_in_one_sentence(
    text: str, words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f.yaml").write_text(text, encoding="utf-8")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run_app(words.split()) == 3
    shown = capsys.readouterr()
    assert said in shown.err
    assert SECRET not in shown.out + shown.err
    assert not any(line.startswith("::") for line in (shown.out + shown.err).splitlines())
    assert "Traceback" not in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("link", ["f-results", "f-results/tables", "f-results/pooled", "f-results/runs/x"])
def test_results_never_go_through_a_link(link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path("f.yaml").write_text(study(), encoding="utf-8")
    Path(link).parent.mkdir(parents=True, exist_ok=True)
    Path(link).symlink_to(elsewhere)
    assert run_app(["study", "run", "f.yaml", "--quiet"]) == 3
    assert f"{link} is a symbolic link, which is not followed" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("link", [True, False], ids=["a link", "a pipe"])
def test_answers_of_a_package_are_a_file_of_its_own(
    link: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f.yaml").write_text(study(), encoding="utf-8")
    if link:
        Path("answers.pack").symlink_to(tmp_path / "secret.txt")
    else:
        os.mkfifo("answers.pack")  # whoever opens it waits for ever
    assert run_app(["study", "rebuild", "f.yaml", "--quiet"]) == 3
    assert "answers.pack is " in capsys.readouterr().err
    assert link or run_app(["store", "unpack", "answers.pack"]) == 3


def test_checksums_of_a_package_are_a_file_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("f.yaml").write_text(study(), encoding="utf-8")
    os.mkfifo("checksums.txt")  # whoever opens it waits for ever
    assert run_app(["study", "rebuild", "f.yaml", "--quiet"]) == 3
    assert "checksums.txt is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "link"),
    [
        ("eval sample --html l", "l"),
        ("eval sample --out l", "l"),
        ("store pack l", "l"),
        ("study package f.yaml", "f-package.zip"),
        ("study init mine.yaml", "study.schema.json"),
    ],
)
def test_a_file_that_is_written_takes_the_place_of_a_link(words: str, link: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    Path("f.yaml").write_text(study() + "scoring: null\n", encoding="utf-8")
    Path(link).symlink_to(precious)
    assert run_app(words.split()) == 0
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", [".journal", ".lock"])
def test_a_run_is_not_written_through_a_link_in_its_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    Path("r").mkdir()
    Path("r", name).symlink_to(precious)
    with provider(lambda seen: judged()) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "2", "--out", "r"]
        assert run_app(words) == 3
        assert f"{name} is a symbolic link, which is not followed" in capsys.readouterr().err
        assert fake.seen == []
        Path("r", name).unlink()
        Path("r", name).hardlink_to(precious)
        assert run_app(words) == 0
    assert precious.read_text() == "precious"
