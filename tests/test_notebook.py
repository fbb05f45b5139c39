"""Labelling from Python, with and without a running event loop, on a server that counts."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import relabel
from relabel.errors import UsageError
from relabel.task import load_tasks
from server import FakeProvider, Reply, Seen, judged, provider


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")


def asked(fake: FakeProvider, tasks: object = "sample", **more: object) -> relabel.Run:
    more = {"sample": 5, "seed": 1, "form": "json_object", "progress": False} | more
    return relabel.label(tasks, model="m", base_url=fake.base_url, **more)  # pyright: ignore[reportArgumentType]  options by name


def test_the_same_question_is_bought_once_by_either_way() -> None:
    with provider(lambda seen: judged()) as fake:
        run = asked(fake)
        assert len(run.labels) == len(fake.seen) == 10
        assert relabel.evaluate(run, relabel.load_gold("sample"), draws=0).matched == 5
        asked(fake, out="again")
        # Another model gets its own labels, in a folder of its own.
        relabel.label("sample", model="n", base_url=fake.base_url, sample=5, seed=1, form="json_object", progress=False)
        assert len(fake.seen) == 20


def test_a_run_evaluates_scores_and_shows_itself() -> None:
    with provider(lambda seen: judged("exposed")) as fake:
        run = asked(fake)
    assert len(run.frame()) == 10
    wide = run.wide()
    assert wide["code"].tolist() == ["E1"] * 5
    assert set(wide["strict"]) == set(wide["with-tools"]) == {"exposed"}
    found = run.evaluate(draws=0)
    assert found == relabel.evaluate(run, relabel.load_gold("sample"), draws=0)
    assert run.evaluate("sample", draws=0) == found
    assert run.evaluate(run, draws=0).settings["strict"].accuracy == 1
    with pytest.raises(UsageError, match="write it to a file with to_csv"):
        run.evaluate(run.wide())  # pyright: ignore[reportArgumentType]  as a notebook without types may
    table = run.score(taxonomy="onet-soc")
    assert table.frame.equals(relabel.score_table(run, taxonomy="onet-soc").frame)
    for each in (run, found, table):
        assert "<table" in each._repr_html_()  # pyright: ignore[reportPrivateUsage]  notebooks look for this name


def test_frames_and_ids_are_task_lists_too() -> None:
    tasks = load_tasks("sample")[:3]
    frame = pd.DataFrame(
        [{"task_id": t.task_id, "onet_soc_code": t.onet_soc_code, "title": t.title, "text": t.text} for t in tasks]
    )
    with provider(lambda seen: judged()) as fake:
        of_frame = asked(fake, frame, sample=None)
        of_ids = asked(fake, [t.task_id for t in tasks], task_list="sample", sample=None)
        assert len(fake.seen) == 6  # the same questions
        with pytest.raises(UsageError, match="'nothing' is not in sample"):
            asked(fake, ["nothing"], task_list="sample")
        with pytest.raises(UsageError, match="was given no task ids"):
            asked(fake, [], task_list="sample")
        with pytest.raises(UsageError, match="no option 'temperature'"):
            asked(fake, temperature=0)
        others = asked(fake, [t.task_id for t in load_tasks("sample")[3:5]], task_list="sample", sample=None)
    assert of_ids.folder != others.folder  # each list has its own, and the second is not refused once it is paid for
    assert list(of_frame.labels["label"]) == list(of_ids.labels["label"])
    assert of_frame.own_task_list() is not None


@pytest.mark.parametrize(
    "option",
    [
        {"max_cost": float("nan")},
        {"max_cost": "5"},
        {"max_cost": float("inf")},
        {"samples": 0},
        {"samples": -1},
        {"samples": 1.5},
        {"samples": np.int64(2)},
        {"sample": 0},
        {"pack": 0},
        {"timeout": -1},
        {"concurrency": "many"},
        {"params": {"temperature": float("nan")}},
        {"params": {"stop": {1, 2}}},
    ],
)
def test_a_number_that_bounds_nothing_is_refused_before_anything_is_bought(option: dict[str, Any]) -> None:
    """A cap that is not a number bought everything."""
    with provider(lambda seen: judged()) as fake:
        with pytest.raises(UsageError, match=f"{next(iter(option))} is|temperature|stop"):
            asked(fake, **{"max_tokens": 50, "price": "1/2", **option})
        assert fake.seen == []


def test_an_id_that_two_occupations_have_names_the_tasks_of_both() -> None:
    rows = [("1", "11-1011.00", "Lead."), ("2", "11-1011.00", "Plan."), ("1", "11-1021.00", "Manage.")]
    frame = pd.DataFrame(rows, columns=["task_id", "onet_soc_code", "text"]).assign(title="Managers")
    frame.to_csv("own.csv", index=False)
    with provider(lambda seen: judged()) as fake:
        run = asked(fake, [1], task_list="own.csv", sample=None)
    assert set(run.labels["onet_soc_code"]) == {"11-1011.00", "11-1021.00"}
    assert set(run.labels["task_id"]) == {"1"}


async def test_it_works_where_a_loop_runs_already() -> None:
    with provider(lambda seen: judged()) as fake:
        run = asked(fake)
        assert len(run.labels) == 10
        again = await relabel.alabel("sample", model="m", base_url=fake.base_url, sample=5, seed=1, form="json_object")
        assert len(again.labels) == 10
        assert len(fake.seen) == 10


@pytest.mark.slow
def test_an_interrupt_leaves_a_run_that_goes_on() -> None:
    there = threading.Event()

    def answer(seen: Seen) -> Reply:
        there.set()
        return Reply(body=judged().body, delay=0.2)

    def interrupt() -> None:
        there.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    with provider(answer) as fake:
        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            asked(fake, sample=30, concurrency=2, out="r")
        killer.join()
        first = len(fake.seen)
        assert 0 < first < 60
        run = asked(fake, sample=30, concurrency=50, out="r")
        assert len(run.labels) == 60
        assert len(fake.seen) == 60


async def test_a_cancelled_task_stores_what_was_on_the_wire() -> None:
    arrived = threading.Event()

    def answer(seen: Seen) -> Reply:
        arrived.set()
        return Reply(body=judged().body, delay=0.1)

    with provider(answer) as fake:
        options = {"base_url": fake.base_url, "sample": 30, "form": "json_object", "concurrency": 2, "out": "r"}
        work = asyncio.ensure_future(relabel.alabel("sample", model="m", **options))  # pyright: ignore[reportArgumentType]  options by name
        assert await asyncio.to_thread(arrived.wait, 20)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await relabel.alabel("sample", model="m", **options)  # pyright: ignore[reportArgumentType]  options by name
        assert len(fake.seen) == 60


@pytest.mark.slow
@pytest.mark.local_model
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell in turn, as in a fresh kernel; what a cell ends with can be shown as HTML."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((Path(__file__).parents[1] / "docs/notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    shown: list[str] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        exec(compile(tree, "notebook", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names)._repr_html_())
    assert len(names["run"].frame()) == 8
    assert "sample" in shown[0]
    assert all("<table" in page for page in shown)
    assert Path("study-results/report.html").is_file()
