"""The workflows that ship: their steps are executed in a clean folder, as GitHub's runner does, against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from relabel.cli.app import run_app
from relabel.settings import asset_dir
from server import Reply, Seen, chat, judged, provider

WORKFLOWS = Path(__file__).parents[1] / "docs/workflows"
KEY = "sk-planted-0123456789abcdef"
QUESTIONS = 60
USAGE = {"prompt_tokens": 500, "completion_tokens": 500, "total_tokens": 1000}


def load(name: str) -> dict[Any, Any]:
    return yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass
class Done:
    """What a workflow came to."""

    outcomes: dict[str, str]
    summary: str
    log: str
    failed: bool = False


@dataclass
class Runner:
    """Executes the `run` steps of a workflow, each in a shell of its own; knows the few expressions that ours use."""

    folder: Path
    base_url: str
    inputs: dict[str, str] = field(default_factory=dict[str, str])
    secrets: dict[str, str] = field(default_factory=dict[str, str])

    def value(self, text: str, outcomes: dict[str, str]) -> str:
        def one(found: re.Match[str]) -> str:
            name, _, other = found[1].partition(" || ")
            room, _, rest = name.strip().partition(".")
            if room == "inputs":
                return self.inputs.get(rest, "") or other.strip("' ")
            if room == "secrets":
                return self.secrets.get(rest, "")
            if room == "steps":
                return outcomes.get(rest.split(".")[0], "skipped")
            return {"github.token": "t"}[name.strip()]

        return re.sub(r"\$\{\{(.*?)\}\}", one, text)

    def play(self, name: str, branch: str = "change") -> Done:
        """Check the branch out anew, and do every step."""
        work = self.folder / f"work-{name}-{len(list(self.folder.iterdir()))}"
        git(self.folder, "clone", "--quiet", "--branch", branch, "origin", str(work))
        temp, summary, variables = work.with_suffix(".temp"), work.with_suffix(".md"), work.with_suffix(".env")
        temp.mkdir()
        summary.touch()
        variables.touch()
        workflow = load(name)
        (job,) = workflow["jobs"].values()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RELABEL_", "OPENAI_"))}
        environment |= {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        }
        environment |= {"RUNNER_TEMP": str(temp), "GITHUB_ENV": str(variables), "GITHUB_STEP_SUMMARY": str(summary)}
        environment |= {"GITHUB_REF_NAME": branch, "GITHUB_ACTIONS": "true", "GH_LOG": str(self.folder / "gh.txt")}
        environment |= {key: self.value(str(value), {}) for key, value in workflow["env"].items()}
        outcomes: dict[str, str] = {}
        done = Done(outcomes, "", "")
        for step in job["steps"]:
            if "run" not in step or step["name"] == "Install":
                continue
            condition = str(step.get("if", "success()"))
            wanted = "always()" in condition or not done.failed
            if other := re.search(r"steps\.(\w+)\.outcome != '(\w+)'", condition):
                wanted = wanted and outcomes.get(other[1], "skipped") != other[2]
            if not wanted:
                continue
            own = {key: self.value(str(value), outcomes) for key, value in step.get("env", {}).items()}
            kept = dict(line.split("=", 1) for line in variables.read_text().splitlines())
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            ended = subprocess.run(
                shell, cwd=work, env=environment | kept | own, capture_output=True, text=True, check=False, timeout=300
            )
            done.log += ended.stdout + ended.stderr
            outcomes[step.get("id", step["name"])] = "failure" if ended.returncode else "success"
            done.failed = done.failed or bool(ended.returncode)
        done.summary = summary.read_text()
        return done


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a rubric of its own on the branch of a pull request, and a `gh` that writes down what it is told."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    own = (asset_dir("rubrics") / "eloundou.yaml").read_text(encoding="utf-8").replace("id: eloundou", "id: ours", 1)
    (clone / "rubric.yaml").write_text(own, encoding="utf-8")
    shutil.copy(asset_dir("prompts") / "task.jinja", clone / "prompt.jinja")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "rubric")
    git(clone, "push", "--quiet", "origin", "HEAD:main", "HEAD:change")
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    gh.write_text('#!/bin/sh\necho "$@" >> "$GH_LOG"\n')
    gh.chmod(0o755)
    return tmp_path


def push(repository: Path, name: str, old: str, new: str) -> None:
    clone = repository / "clone"
    git(clone, "pull", "--quiet", "origin", "change")
    text = (clone / name).read_text(encoding="utf-8")
    assert old in text
    (clone / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    git(clone, "commit", "--quiet", "-am", "change")
    git(clone, "push", "--quiet", "origin", "HEAD:change")


def answer(seen: Seen) -> Reply:
    del seen
    return Reply(body=chat(json.dumps({"rationale": "It is so.", "label": "E1"}), usage=USAGE))


def buy(runner: Runner, max_cost: str = "5") -> Done:
    return Runner(
        runner.folder, runner.base_url, {**runner.inputs, "max_cost": max_cost, "price": "1/1"}, {"OPENAI_API_KEY": KEY}
    ).play("relabel-buy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("rubric.yaml", "version: 1", "version: 2"),
        ("prompt.jinja", "You label tasks of occupations", "You judge tasks of occupations"),
    ],
)
def test_a_change_is_judged_by_its_own_texts_from_answers_that_a_maintainer_buys(
    repository: Path, name: str, old: str, new: str
) -> None:
    with provider(answer) as fake:
        chosen = {"rubric": "rubric.yaml", "prompt": "prompt.jinja", "base_url": fake.base_url, "suite": "demo"}
        runner = Runner(repository, fake.base_url, chosen)
        empty = runner.play("relabel-eval")
        assert empty.failed
        assert 'packed answers could not be read. Start the workflow "relabel buy"' in empty.summary

        bought = buy(runner)
        assert not bought.failed, bought.log
        first = len(fake.seen)
        assert first >= QUESTIONS
        told = (repository / "gh.txt").read_text()
        assert told.startswith("workflow run relabel-eval.yml --ref change -f rubric=rubric.yaml")
        judged = runner.play("relabel-eval")
        assert not judged.failed, judged.log
        assert "nearly-every-task-has-a-label" in judged.summary
        assert len(fake.seen) == first

        push(repository, name, old, new)
        if name == "rubric.yaml":
            push(repository, name, "Work that needs hands,", "Work that needs a pair of hands,")
        missing = runner.play("relabel-eval")
        assert missing.outcomes["replay"] == "failure"
        assert "do not hold all that this rubric, prompt and model ask" in missing.summary
        assert "60 of 60 labels are missing" in missing.summary
        assert len(fake.seen) == first

        assert not buy(runner).failed
        assert len(fake.seen) >= first + QUESTIONS
        assert not runner.play("relabel-eval").failed
        again = len(fake.seen)
        unchanged = buy(runner)
        assert not unchanged.failed
        assert len(fake.seen) == again
        for one in (bought, judged, missing, unchanged):
            assert KEY not in one.log + one.summary


@pytest.mark.slow
def test_what_was_bought_below_the_cap_is_committed_and_the_rest_is_bought_later(repository: Path) -> None:
    with provider(answer) as fake:
        runner = Runner(repository, fake.base_url, {"rubric": "rubric.yaml", "base_url": fake.base_url})
        capped = buy(runner, "0.05")
        assert capped.outcomes == {
            "Keep the store outside of the checkout": "success",
            "Unpack the answers that are there": "success",
            "buy": "failure",
            "commit": "success",
            "Summary": "success",
        }
        some = len(fake.seen)
        assert 0 < some < QUESTIONS
        assert "Buying: failure. Committing: success." in capped.summary
        assert not buy(runner).failed
        assert QUESTIONS <= len(fake.seen) <= QUESTIONS + 2  # the trial of the response format is made by each start
        (repository / "clone" / "suite.yaml").write_text("name: broken\ngates: []\n")
        git(repository / "clone", "pull", "--quiet", "origin", "change")
        git(repository / "clone", "add", ".")
        git(repository / "clone", "commit", "--quiet", "-m", "suite")
        git(repository / "clone", "push", "--quiet", "origin", "HEAD:change")
        runner.inputs["suite"] = "suite.yaml"
        broken = runner.play("relabel-eval")
        assert broken.outcomes["gates"] == "failure"
        assert "Nothing was judged" in broken.summary
        assert "suite.yaml" in broken.summary


def test_both_workflows_ask_the_same_questions_and_only_the_second_has_the_key() -> None:
    judge, buying = load("relabel-eval"), load("relabel-buy")
    assert judge["env"] == buying["env"]
    dispatch = [
        workflow[True]["workflow_dispatch"]["inputs"] for workflow in (judge, buying)
    ]  # YAML reads `on` as true
    assert dispatch[0].items() <= dispatch[1].items()
    assert {"rubric", "prompt", "base_url", "suite"} == set(dispatch[0])
    texts = [(WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8") for name in ("relabel-eval", "relabel-buy")]
    assert "secrets." not in texts[0]
    assert "pull_request_target" not in "".join(texts)
    assert "pull_request" not in buying[True]
    runs = [
        {step.get("id"): step["run"] for step in next(iter(w["jobs"].values()))["steps"] if "run" in step}
        for w in (judge, buying)
    ]
    shared = '--model "$MODEL" --base-url "$BASE_URL" --rubric "$RUBRIC" ${PROMPT:+--prompt "$PROMPT"} --tasks "$TASKS"'
    assert shared in runs[0]["replay"]
    assert shared in runs[1]["buy"]
    # No value from outside is put into a script; it arrives as a variable.
    assert not [script for run in runs for script in run.values() if "${{" in script]


@pytest.mark.slow
def test_a_study_is_made_again_without_a_key_and_what_is_missing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    monkeypatch.chdir(clone)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with provider(lambda seen: judged("exposed")) as fake:
        model = {"name": "a", "model": "m", "base_url": fake.base_url, "response_format": "json_object"}
        raters = [model, {"name": "authors", "run": "sample"}]
        study = {"study": 1, "title": "T", "tasks": "sample", "golds": ["sample"], "draws": 100, "raters": raters}
        (clone / "study.yaml").write_text(yaml.safe_dump(study))
        assert run_app(["study", "run", "study.yaml", "--quiet"]) == 0
        asked = len(fake.seen)
    assert run_app(["store", "pack", "answers.jsonl.gz"]) == 0
    git(clone, "add", "study.yaml", "answers.jsonl.gz")
    git(clone, "commit", "--quiet", "-m", "study")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    runner = Runner(tmp_path, "")
    done = runner.play("relabel-study", branch="main")
    assert not done.failed, done.log
    assert "Raters by agreement" in done.summary
    assert asked == len(fake.seen)
    raters.append({**model, "name": "b", "model": "n"})
    (clone / "study.yaml").write_text(yaml.safe_dump(study))
    git(clone, "commit", "--quiet", "-am", "another rater")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    done = runner.play("relabel-study", branch="main")
    assert done.failed
    assert "could not be made in full" in done.summary
    assert "120 of 120 labels are missing" in done.summary
