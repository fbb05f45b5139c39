"""`relabel eval --suite`: what CI meets, from packed answers to exit code."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from relabel.cli.app import run_app
from server import judged, provider

SUITE = """\
name: nightly
gold: sample
gates:
  - {id: whole, metric: coverage, min: 1}
  - {id: agreement, setting: three-way, metric: accuracy, min: %s}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Path("low.yaml").write_text(SUITE % "0.01")
    Path("high.yaml").write_text(SUITE % "0.99")


def test_the_projects_own_suite_passes() -> None:
    assert run_app(["eval", "sample", "--suite", "sample"]) == 0


@pytest.mark.slow
def test_a_run_is_judged_from_packed_answers_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["run", "--model", "m", "--tasks", "sample", "--quiet", "--base-url"]
    with provider(lambda seen: judged("not-exposed")) as fake:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
        assert run_app([*asked, fake.base_url, "--out", "bought"]) == 0
        assert run_app(["store", "pack", "answers.jsonl.gz", "--run", "bought"]) == 0
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "elsewhere"))
    assert run_app(["store", "unpack", "answers.jsonl.gz"]) == 0
    # The provider is gone by now: nobody can be asked.
    assert run_app([*asked, fake.base_url, "--engine", "replay", "--out", "pr"]) == 0
    assert run_app(["eval", "pr", "--suite", "low.yaml"]) == 0
    capsys.readouterr()
    files = ["--junit", "gates.xml", "--markdown", "gates.md", "--html", "report.html", "--out", "eval.json"]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert run_app(["eval", "pr", "--suite", "high.yaml", *files]) == 6
    monkeypatch.delenv("GITHUB_ACTIONS")
    said = capsys.readouterr().err
    last = said.strip().splitlines()[-1]
    assert last.startswith("relabel: gate agreement failed: accuracy of three-way is .")
    assert "95% interval" in last
    assert "not shown to be at least .990" in last
    assert "::error title=relabel nightly%3A agreement::accuracy" in said
    suite = ET.parse("gates.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert Path("gates.md").read_text().startswith("## ❌ nightly: 1 of 2 gates failed")
    assert "1 of 2 gates failed" in Path("report.html").read_text()
    assert json.loads(Path("eval.json").read_text())["matched"] == 60


def test_json_to_stdout_is_whole_also_when_a_gate_fails(capsys: pytest.CaptureFixture[str]) -> None:
    Path("never.yaml").write_text(SUITE.replace("metric: coverage, min: 1", "metric: coverage, min: 2") % "0")
    assert run_app(["eval", "sample", "--suite", "never.yaml", "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "sample"
    assert not found["suite"]["passed"]
    assert [(gate["kind"], gate["passed"]) for gate in found["suite"]["results"]].count(("min", False)) == 1
    assert run_app(["eval", "sample", "--json"]) == 0
    assert "suite" not in json.loads(capsys.readouterr().out)


def test_the_summary_of_a_suite_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["eval", "sample", "--suite", "low.yaml", "--markdown", "-"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## ")
    assert "\nVerdict\n" not in printed
    assert not Path("-").exists()


def test_a_report_says_how_many_failed_gates_it_does_not_list() -> None:
    gates = "".join(f"  - {{id: g{n}, setting: three-way, metric: accuracy, min: 2}}\n" for n in range(7))
    Path("many.yaml").write_text(f"name: many\ngates:\n{gates}")
    assert run_app(["eval", "sample", "--suite", "many.yaml", "--html", "report.html"]) == 6
    assert "And 2 more, in the table below." in Path("report.html").read_text("utf-8")


def test_the_report_of_a_suite_shows_what_changed_against_its_baseline() -> None:
    rows = ["S001,11-3051.00,E0", "S002,11-3051.00,E0"]
    Path("labels.csv").write_text("\n".join(["task_id,onet_soc_code,label", *rows]))
    asked = ["import", "labels.csv", "--model", "m", "--rubric", "eloundou", "--tasks", "sample", "--out"]
    assert run_app([*asked, "before"]) == 0
    Path("labels.csv").write_text("\n".join(["task_id,onet_soc_code,label", rows[0], rows[1].replace("E0", "E1")]))
    assert run_app([*asked, "after"]) == 0
    gates = "  - {id: steady, setting: three-way, metric: accuracy, max_drop: 0}\n"
    Path("pinned.yaml").write_text(f"name: pinned\ngold: sample\nbaseline: {{run: before}}\ngates:\n{gates}")
    run_app(["eval", "after", "--suite", "pinned.yaml", "--html", "report.html"])
    page = Path("report.html").read_text("utf-8")
    changes = page[page.index('<h2 id="flips">Changes against the baseline</h2>') :]
    assert "S002" in changes
    assert "S001" not in changes.split("<h2", 2)[1]


def test_github_gets_annotations_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert run_app(["eval", "sample", "--suite", "low.yaml"]) == 0
    assert "::notice title=relabel nightly::2 gates passed for sample" in capsys.readouterr().err
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert run_app(["eval", "sample", "--suite", "low.yaml"]) == 0
    assert "::" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--junit", "x.xml"], 2, "--junit reports on a suite; add --suite FILE"),
        (["--suite", "none.yaml"], 3, "unknown suite 'none.yaml'"),
        (["--suite", "low.yaml", "--junit", "low.yaml/x.xml"], 3, "cannot write low.yaml/x.xml"),
        (["--html", "low.yaml/x.html"], 3, "cannot write low.yaml/x.html"),
        (["--html", "-"], 2, "--html takes the name of a file, not -; name one"),
        (["--suite", "low.yaml", "--junit", "-"], 2, "--junit takes the name of a file, not -"),
    ],
)
def test_wrong_options_are_an_error_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run_app(["eval", "sample", *arguments]) == code
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
