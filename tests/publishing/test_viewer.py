"""The local page to look at labels and to review them: by its API, and in a real browser."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

from browser import OpenPage, serious_findings
from relabel.cli.app import command_line
from relabel.cli.labels import _answer_of  # pyright: ignore[reportPrivateUsage]  what the page asks
from relabel.errors import UsageError
from relabel.evaluation.alignment import task_details
from relabel.evaluation.gold import load_gold
from relabel.publishing.viewer import LabelTable, Reviews, Viewer, label_of_runs
from relabel.run import Run, open_run
from run_builders import a_label, a_run
from server import Reply, Seen, chat, judged, provider

HOSTILE = '<img src="https://example.org/x"><script>document.title = "taken"</script>'


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models that labelled 60 tasks: the second says no more often, the third answers the first task badly at first."""
    folder = tmp_path_factory.mktemp("raters")

    def answer(seen: Seen) -> Reply:
        model, again = seen.body["model"], len(seen.messages) > 2
        if model == "three" and "scrap" in seen.prompt.casefold() and not again:
            return Reply(body=chat("I would rather not say."))
        exposed = len(seen.prompt) % (2 if model == "two" else 3) > 0
        return judged("exposed" if exposed else "not-exposed", f"{model} says so. {HOSTILE}")

    with provider(answer) as fake:
        for name in ("one", "two", "three"):
            assert label(folder, name, fake.base_url) == 0
    return folder


def label(folder: Path, name: str, url: str) -> int:
    """Run in a process of its own, because the browser's event loop runs in this thread; its exit code."""
    words = ["run", "--model", name, "--base-url", url, "--tasks", "sample", "--out", name, "--quiet"]
    given = {**os.environ, "OPENAI_API_KEY": "a key for tests", "RELABEL_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, "-m", "relabel", *words], cwd=folder, env=given, check=False, capture_output=True
    ).returncode


@pytest.fixture
def raters(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Their runs, and the store with their answers."""
    monkeypatch.chdir(labelled)
    monkeypatch.setenv("RELABEL_HOME", str(labelled / "home"))
    return [open_run(name) for name in ("one", "two", "three")]


@contextmanager
def served(runs: list[Run], file: Path, **golds: Any) -> Generator[Viewer]:
    column, choices = label_of_runs(runs)
    with Viewer(LabelTable(runs, golds, task_details(runs[0]), _answer_of), Reviews(file, column), choices) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Viewer, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply, parse_constant=lambda name: pytest.fail(f"no browser reads {name}"))


def a_review(row: dict[str, Any], label: str, who: str) -> dict[str, Any]:
    return {"code": row["code"], "task": row["task"], "label": label, "reviewer": who, "comment": "", "blind": True}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_only_who_knows_the_address_is_answered(raters: list[Run], tmp_path: Path) -> None:
    with served(raters, tmp_path / "review.csv") as server:
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, "api/about")["tasks"] == 60
        base = f"http://127.0.0.1:{server.server_port}/"
        for url, host in ((base, ""), (f"{base}wrong/api/about", ""), (f"{server.url}api/about", "evil.example:80")):
            request = urllib.request.Request(url, headers={"Host": host} if host else {})
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(request)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(server, "../../../etc/passwd")


def test_reviews_of_another_page_or_a_spreadsheet_are_kept(raters: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    with served(raters, file) as one, served(raters, file) as two:
        first, second, third = ask(one, "api/tasks?size=3")["rows"]
        ask(one, "api/review", a_review(first, "E0", "Ann"))
        ask(two, "api/review", a_review(second, "E1", "Bob"))
        file.write_text(file.read_text("utf-8").replace(",E0,", ",E2,"), "utf-8")
        ask(one, "api/review", a_review(third, "E0", "Ann"))
        ask(two, "api/review", {"undo": True, "reviewer": "Bob"})
    labels = {row["task_id"]: row["label"] for row in rows_of(file) if row["label"]}
    assert labels == {first["task"]: "E2", third["task"]: "E0"}


def test_tasks_are_found_by_words_label_disagreement_and_what_went_wrong(raters: list[Run], tmp_path: Path) -> None:
    gold = load_gold("sample").table
    with served(raters, tmp_path / "review.csv", sample=gold) as server:
        whole = ask(server, "api/tasks?size=200")
        assert whole["total"] == 60
        odd = [r for r in whole["rows"] if len({said for said in r["labels"].values() if said}) > 1]
        assert ask(server, "api/tasks?only=disagree&size=5")["total"] == len(odd) > 0
        for label in ("E0", "E1"):
            of_two = sum(row["labels"]["two"] == label for row in whole["rows"])
            assert ask(server, f"api/tasks?label={label}&rater=two")["total"] == of_two
        row = whole["rows"][7]
        word = row["text"].split()[0].casefold()
        assert row["task"] in {r["task"] for r in ask(server, f"api/tasks?q={word}")["rows"]}
        assert all(r["code"] == row["code"] for r in ask(server, f"api/tasks?occupation={row['code']}")["rows"])
        repaired = ask(server, "api/tasks?only=repaired")["rows"]
        assert repaired
        task = ask(server, f"api/task?code={repaired[0]['code']}&task={repaired[0]['task']}")
        third = task["raters"][2]["answers"][0]
        assert third["repaired"]
        assert "three says so." in third["rationale"]
        assert repaired[0]["text"] in json.dumps(third["messages"])
        assert json.loads(third["content"])["label"] == third["label"]


@pytest.mark.slow
def test_rejected_answers_are_found_and_shown_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))

    def answer(seen: Seen) -> Reply:
        if "scrap" in seen.prompt.casefold():
            return Reply(body=chat(f"I would rather not say. {HOSTILE}"))
        return judged("exposed")

    with provider(answer) as fake:
        assert label(tmp_path, "one", fake.base_url) == 5
    with served([open_run("one")], tmp_path / "review.csv") as server:
        rejected = ask(server, "api/tasks?only=rejected")["rows"]
        assert {row["task"] for row in rejected} == {failure.task_id for failure in open_run("one").failures()}
        assert all(row["flags"] == ["rejected"] and row["labels"] == {"one": None} for row in rejected)
        task = ask(server, f"api/task?code={rejected[0]['code']}&task={rejected[0]['task']}")
        failures = task["raters"][0]["failures"]
        assert [lost["setting"] for lost in failures] == ["strict", "with-tools"]
        for lost in failures:
            assert lost["kind"] == "invalid-json"
            assert rejected[0]["text"] in json.dumps(lost["messages"])
            assert lost["content"] is None  # no label was kept
            assert [HOSTILE in one["content"] and bool(one["reason"]) for one in lost["rejected"]] == [True, True]


def test_reviews_become_a_gold_with_the_agreement_of_two(raters: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    with served(raters, file) as server:
        rows = ask(server, "api/tasks?size=4&blind=1&reviewer=Ann")["rows"]
        assert all("labels" not in row and "flags" not in row for row in rows)
        assert "raters" not in ask(server, f"api/task?code={rows[0]['code']}&task={rows[0]['task']}&blind=1")
        for row, ann, bob in zip(rows, ("E0", "E1", "E2", "E2"), ("E0", "E1", "E1", "E2"), strict=True):
            ask(server, "api/review", a_review(row, ann, "Ann"))
            ask(server, "api/review", a_review(row, bob, "Bob"))
        ask(server, "api/review", a_review(rows[3], "E1", "Bob"))
        assert ask(server, "api/review", {"undo": True, "reviewer": "Bob"})["undone"]["task"] == rows[3]["task"]
        progress = ask(server, "api/progress")
        assert progress["done"] == {"Ann": 4, "Bob": 4}
        pair = progress["agreement"][0]
        assert (pair["tasks"], pair["agreement"]) == (4, 0.75)
        assert pair["kappa"] == pytest.approx((0.75 - 0.3125) / (1 - 0.3125))  # by hand
    assert len(rows_of(file)) == 8
    gold = load_gold(str(file))
    assert gold.selected  # chosen by hand, so they speak for no others
    assert gold.source.model_dump()["reviewers"] == ["Ann", "Bob"]
    assert (gold.tied, len(gold.table)) == (1, 4)
    with served(raters, file) as server:  # and it is taken up again
        assert ask(server, "api/progress")["done"] == {"Ann": 4, "Bob": 4}


def test_a_label_taken_back_leaves_the_file_as_it_was(raters: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    with served(raters, file) as server:
        row = ask(server, "api/tasks?size=1")["rows"][0]
        ask(server, "api/review", a_review(row, "E0", "Ann"))
        ask(server, "api/review", {"undo": True, "reviewer": "Ann"})
        assert rows_of(file) == []
        assert ask(server, "api/review", {"undo": True, "reviewer": "Ann"}) == {"undone": None}
        for bad in ({"label": "E9", **a_review(row, "E9", "Ann")}, a_review(row, "E0", " "), {"reviewer": "Ann"}):
            with pytest.raises(urllib.error.HTTPError, match="409"):
                ask(server, "api/review", bad)


def test_a_random_draw_keeps_its_weights_and_takes_no_other_task(raters: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "drawn.csv"
    words = ["review", "one", "--random", "--n", "5", "--out", str(file)]
    assert CliRunner().invoke(command_line(["review"]), words).exit_code == 0
    with served(raters, file) as server:
        rows = ask(server, "api/tasks?size=60&blind=1")["rows"]
        assert [row["task"] for row in rows[:5]] == [row["task_id"] for row in rows_of(file)]
        assert ask(server, "api/tasks?only=listed")["total"] == 5
        for who in ("Ann", "Bob"):
            ask(server, "api/review", a_review(rows[0], "E2", who))
        with pytest.raises(urllib.error.HTTPError, match="409"):
            ask(server, "api/review", a_review(rows[5], "E2", "Ann"))
    gold = load_gold(str(file))
    assert not gold.selected
    assert gold.table["weight"].tolist() == [12.0]


def test_a_file_of_something_else_is_not_written_over(raters: list[Run], tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(UsageError, match="not a file of reviews"):
        Reviews(file, "label")
    assert file.read_text("utf-8") == "a,b\n1,2\n"


def test_a_run_of_one_question_is_reviewed_in_its_words(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [a_label("1", "strict", "exposed")], settings=("strict",))
    file = tmp_path / "review.csv"
    with served([run], file) as server:
        assert ask(server, "api/about")["choices"] == ["exposed", "not-exposed"]
        row = ask(server, "api/tasks")["rows"][0]
        assert row["labels"] == {str(tmp_path / "run"): "exposed"}
        ask(server, "api/review", a_review(row, "not-exposed", "Ann"))
    assert load_gold(str(file)).table["strict"].tolist() == [False]


@pytest.mark.slow
def test_a_page_of_19000_tasks_of_three_raters_is_small(tmp_path: Path) -> None:
    keys = [(f"{11 + n % 40}-{1000 + n % 900}.00", str(n)) for n in range(19_000)]
    labels = [a_label(task, "strict", ("exposed", "not-exposed")[int(task) % 2], code=code) for code, task in keys]
    run = a_run(tmp_path / "run", labels, settings=("strict",))
    named = [Run(name, run.folder, run.manifest, run.labels) for name in ("one", "two", "three")]
    with served(named, tmp_path / "review.csv") as server:
        with urllib.request.urlopen(f"{server.url}api/tasks?size=200") as reply:
            assert len(reply.read()) < 100_000
        found = ask(server, "api/tasks?from=18990")
        assert (found["total"], len(found["rows"])) == (19_000, 10)


@pytest.mark.slow
def test_two_reviewers_work_by_keyboard(raters: list[Run], tmp_path: Path, page: OpenPage) -> None:
    file = tmp_path / "review.csv"
    with served(raters, file, sample=load_gold("sample").table) as server:
        for who, keys in (("Ann", "012"), ("Bob", "011")):
            opened = page(server.url)
            begin(opened, who)
            for number, key in enumerate(keys, start=1):
                opened.keyboard.press(key)
                expect(opened.locator("#progress")).to_contain_text(f"{who} {number} of 60")
                expect(opened.locator("#said")).to_be_in_viewport()
            expect(opened.locator("body")).not_to_contain_text("says so")  # blind
            expect(opened.locator("#tasks .tag")).to_have_count(0)
        expect(opened.locator("#progress")).to_contain_text("Ann and Bob agree on 67% of 3 tasks")
        opened.keyboard.press("u")
        expect(opened.locator("#progress")).to_contain_text("Bob 2 of 60")
        opened.keyboard.press("n")
        opened.keyboard.type("0 is a digit here")
        opened.keyboard.press("Escape")
        opened.keyboard.press("2")
        expect(opened.locator("#progress")).to_contain_text("Bob 3 of 60")
        opened.locator("#show").check()
        opened.keyboard.press("j")
        expect(opened.locator(".rater")).to_have_count(3)
    said = {(row["reviewer"], row["label"], row["comment"]) for row in rows_of(file)}
    assert ("Bob", "E2", "0 is a digit here") in said
    assert len(rows_of(file)) == 6


def begin(opened: Page, who: str) -> None:
    opened.get_by_text("Review", exact=True).click()
    opened.fill("#reviewer", who)
    opened.keyboard.press("Enter")
    expect(opened.locator("#tasks button").first).to_be_visible()
    opened.keyboard.press("j")
    expect(opened.locator(".choices")).to_be_in_viewport()
    expect(opened.locator("#keys")).to_be_in_viewport()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_the_page_shows_each_rater_and_runs_nothing_of_theirs(
    raters: list[Run], tmp_path: Path, page: OpenPage, width: int, dark: bool
) -> None:
    with served(raters, tmp_path / "review.csv", sample=load_gold("sample").table) as server:
        opened = page(server.url, width=width, dark=dark)
        opened.fill("#q", "scrap")
        expect(opened.locator("#found")).to_contain_text("of")
        expect(opened.locator("#found")).not_to_contain_text("of 60")
        opened.locator("#tasks button").first.click()
        expect(opened.locator(".rater")).to_have_count(3)
        expect(opened.locator("#one h2")).to_be_in_viewport()  # on a phone the list stands above it
        expect(opened.locator(".rater").nth(2)).to_contain_text(HOSTILE)
        assert opened.locator("#one img, #one script").count() == 0
        assert opened.title() == "Labels: relabel view"
        assert serious_findings(opened) == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
