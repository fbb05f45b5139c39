"""A packed store rebuilds a run elsewhere, without a key, and nothing false gets in with it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job_builders import KEY, label_all, make_job
from relabel.errors import DataError
from relabel.importing import import_labels
from relabel.labelling.engine import Engine
from relabel.labelling.maintenance import pack, unpack
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.rubric import load_rubric
from relabel.run import open_run
from relabel.task import load_tasks
from server import Reply, chat, judged, provider


async def packed(store: Store, tmp_path: Path) -> tuple[Path, str]:
    def script(seen: Any) -> Reply:
        return Reply(body=chat("nonsense")) if "number 1" in seen.prompt else judged(rationale=KEY)

    with provider(script) as fake:
        await label_all(make_job(fake.base_url), store, tmp_path / "run")
        await label_all(make_job(fake.base_url, 9), store, tmp_path / "other")
    pack(store, tmp_path / "run.gz", open_run(str(tmp_path / "run")))
    return tmp_path / "run.gz", fake.base_url


async def test_a_run_is_replayed_elsewhere_label_by_label(store: Store, tmp_path: Path) -> None:
    file, base_url = await packed(store, tmp_path)
    with Store(tmp_path / "elsewhere") as other:
        assert unpack(other, file) == (8, 0)
        assert unpack(other, file) == (0, 8)
        assert list(other.verify()) == []
        outcome = await run_job(make_job(base_url), Engine(), other, tmp_path / "replayed")
    before, after = open_run(str(tmp_path / "run")), open_run(str(tmp_path / "replayed"))
    columns = ["task_id", "setting", "label", "rationale", "request_key", "cost_usd", "created_at"]
    assert before.labels[columns].equals(after.labels[columns])
    assert [(f.task_id, f.kind) for f in outcome.failures] == [("1", "provider"), ("1", "provider")]
    assert all(f.request_key in f.message for f in outcome.failures)


async def test_a_replay_names_every_miss_however_many_there_are(store: Store, tmp_path: Path) -> None:
    job = make_job("http://127.0.0.1:9/v1", 15)
    outcome = await run_job(job, Engine(), store, tmp_path / "replayed")
    assert (outcome.manifest.status, len(outcome.failures)) == ("incomplete", 30)
    assert all(f.request_key in f.message for f in outcome.failures)


async def test_only_the_answers_of_the_run_are_packed_with_the_rejected_ones(store: Store, tmp_path: Path) -> None:
    file, _ = await packed(store, tmp_path)
    with Store(tmp_path / "elsewhere") as other:
        unpack(other, file)
        stats = other.stats()
    # The other run asked the two bad questions again, under the same keys.
    assert (stats.answers, stats.rejected) == (8, 8)
    assert store.stats().answers == 16


async def test_the_same_rows_give_the_same_bytes(store: Store, tmp_path: Path) -> None:
    file, _ = await packed(store, tmp_path)
    before = file.read_bytes()
    pack(store, file, open_run(str(tmp_path / "run")))
    assert file.read_bytes() == before


async def test_a_store_without_the_runs_answers_is_said(store: Store, tmp_path: Path) -> None:
    await packed(store, tmp_path)
    with Store(tmp_path / "empty") as empty, pytest.raises(DataError, match="lacks the answers to"):
        pack(empty, tmp_path / "x.gz", open_run(str(tmp_path / "run")))
    assert not (tmp_path / "x.gz").exists()


def test_published_labels_have_no_answers_to_pack(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks the answers to 120 of 120 labels of sample"):
        pack(store, tmp_path / "x.gz", open_run("sample"))
    assert not (tmp_path / "x.gz").exists()


def test_imported_labels_have_no_answers_to_pack(store: Store, tmp_path: Path) -> None:
    tasks = load_tasks("sample")
    lines = [f"{task.onet_soc_code},{task.task_id},E1" for task in tasks]
    (tmp_path / "theirs.csv").write_text("\n".join(["onet_soc_code,task_id,label", *lines]))
    import_labels(
        tmp_path / "theirs.csv", model="them", rubric=load_rubric("eloundou"), out=tmp_path / "run", tasks="sample"
    )
    with pytest.raises(DataError, match="lacks the answers to 60 of 60 labels of run"):
        pack(store, tmp_path / "x.gz", open_run(str(tmp_path / "run")))


async def test_answers_of_a_pack_are_marked_from_the_store_to_the_label(store: Store, tmp_path: Path) -> None:
    file, base_url = await packed(store, tmp_path)
    with Store(tmp_path / "elsewhere") as other:
        unpack(other, file)
        stats = other.stats()
        assert sum(stats.from_packs.values()) == stats.answers + stats.rejected == 16
        assert (stats.cost_usd, stats.cost_unknown) == (0, 0)
        outcome = await run_job(make_job(base_url), Engine(), other, tmp_path / "replayed")
        pack(other, tmp_path / "again.gz")
    run = open_run(str(tmp_path / "replayed"))
    (origin,) = set(run.labels["origin"])
    assert origin.startswith("run.gz (sha256 ")
    assert run.manifest.origins == {origin: 8}
    assert "8 labels come from answers in the pack run.gz" in (outcome.manifest.note or "")
    assert store.stats().from_packs == {}
    assert open_run(str(tmp_path / "run")).labels["origin"].isna().all()
    with Store(tmp_path / "third") as third:  # who packs them again takes nothing of it away: the new pack is named
        unpack(third, tmp_path / "again.gz")
        assert all(name.startswith("again.gz") for name in third.stats().from_packs)


def change_key(lines: list[str]) -> list[str]:
    changed = [json.loads(line) for line in lines]
    answer = next(entry for entry in changed if "request" in entry.get("row", {}))
    answer["row"]["request"]["body"]["model"] = "another"
    answer["row"]["request"]["key"] = answer["key"].split("/")[0]
    return [json.dumps(entry) for entry in changed]


def change_answer(lines: list[str]) -> list[str]:
    changed = [json.loads(line) for line in lines]
    answer = next(entry for entry in changed if "request" in entry.get("row", {}))
    answer["row"]["request"]["body"]["model"] = "another"
    return [json.dumps(entry) for entry in changed]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_answer, "does not match its key"),
        (change_key, "does not match its key"),
        (lambda lines: [*lines, '{"key": "note/anything", "row": {"value": "text"}}'], "not one that relabel writes"),
        (lambda lines: [*lines, '{"key": "note/form/chat/h/m", "row": {"value": ["text"]}}'], "not one that relabel"),
        (lambda lines: [*lines, '{"key": "aside/x", "row": {}}'], "an unknown key"),
        (lambda lines: [*lines, '{"key": "x", "row": ' + "[" * 100_000], "damaged"),
        (lambda lines: [*lines, '{"key": "' + "x" * 33_000_000], "longer than"),
        (lambda lines: [line for line in lines if '"text/' not in line], "damaged or not a packed store"),
        (
            lambda lines: [line.replace("You label tasks", "You praise tasks") for line in lines],
            "does not match its key",
        ),
        (lambda lines: lines[1:], "is not a packed store"),
        (lambda lines: [lines[0].replace('"version":1', '"version":9'), *lines[1:]], "update relabel"),
        (lambda lines: [*lines, "{"], "damaged"),
        (lambda lines: [*lines, '{"key": 1, "row": 2}'], "damaged"),
    ],
)
async def test_a_false_file_adds_nothing(
    damage: Callable[[list[str]], list[str]], words: str, store: Store, tmp_path: Path
) -> None:
    file, _ = await packed(store, tmp_path)
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    file.write_bytes(gzip.compress("\n".join(damage(lines)).encode()))
    with Store(tmp_path / "elsewhere") as other:
        with pytest.raises(DataError, match=words):
            unpack(other, file)
        assert list(other.keys()) == []


@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"x" * 100, mtime=0)[:-5]])
def test_a_file_that_is_no_pack_is_refused(content: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=r"f is .*not a packed store"):
        unpack(store, tmp_path / "f")


def test_a_missing_file_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was not found"):
        unpack(store, tmp_path / "f")
