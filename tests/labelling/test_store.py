"""What was paid for stays, and nothing else gets in or out."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import sqlite3
import stat
from pathlib import Path
from typing import Any

import diskcache
import pytest

from job_builders import label_all, make_job
from relabel.errors import StoreError
from relabel.labelling.maintenance import set_damage_aside
from relabel.labelling.request import Request
from relabel.labelling.store import Store
from relabel.labels import Answer, Usage
from server import judged, provider


def a_request(text: str = "Hello") -> Request:
    messages = [{"role": "system", "content": "Be good."}, {"role": "user", "content": text}]
    return Request(host="h", body={"model": "m", "messages": messages})


def an_answer(request: Request, content: str = "{}", cost: float | None = 0.25) -> Answer:
    return Answer(
        request_key=request.key,
        content=content,
        finish_reason="stop",
        model_returned="m-1",
        usage=Usage(prompt=10, cached=4, completion=5),
        attempts=1,
        latency_s=0.5,
        created_at="2026-01-01T00:00:00.000000+00:00",
        cost_usd=cost,
        raw={"id": "x"},
    )


def test_an_answer_comes_back_as_it_was(store: Store) -> None:
    request = a_request()
    store.put(request, an_answer(request, content="späte Ärzte ✓ \u0000"))
    assert store.get(request.key) == an_answer(request, content="späte Ärzte ✓ \u0000")
    assert store.request(request.key) == {"api": "chat", "host": "h", "body": request.body, "sample": 0}


def test_an_unknown_key_is_a_miss(store: Store) -> None:
    assert store.get("0" * 64) is None
    assert store.request("0" * 64) is None


def test_a_rejected_answer_is_kept_and_never_served(store: Store) -> None:
    request = a_request()
    store.put_rejected(request, an_answer(request), "refusal", "it would not")
    assert store.get(request.key) is None
    stats = store.stats()
    assert (stats.answers, stats.rejected, stats.cost_usd) == (0, 1, 0.25)


def test_answers_survive_closing(tmp_path: Path) -> None:
    request = a_request()
    with Store(tmp_path / "s") as one:
        one.put(request, an_answer(request))
    with Store(tmp_path / "s") as two:
        assert two.get(request.key) is not None
        assert list(two.verify()) == []


def test_the_folder_is_private(store: Store) -> None:
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_nothing_is_evicted_above_the_default_limit(store: Store) -> None:
    cache: Any = store._cache  # pyright: ignore[reportPrivateUsage]  its limits are what the test is about
    assert cache.eviction_policy == "none"
    assert cache.size_limit > 2**60
    assert cache.cull_limit == 0


def test_a_large_answer_is_kept_whole(store: Store) -> None:
    request = a_request()
    store.put(request, an_answer(request, content="x" * 200_000))
    found = store.get(request.key)
    assert found is not None
    assert len(found.content or "") == 200_000


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.target),))


def test_a_planted_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    request, folder, burnt = a_request(), tmp_path / "s", tmp_path / "burnt"
    with Store(folder) as store:
        store.put(request, an_answer(request))
    with diskcache.Cache(str(folder)) as plain:
        plain[request.key] = Bomb(burnt)
    with Store(folder) as store:
        with pytest.raises(StoreError, match="could run code"):
            store.get(request.key)
        with pytest.raises(StoreError, match="store verify --set-aside"):
            store.stats()
    assert list(set_damage_aside(folder)) == ["1 damaged rows set aside"]
    with Store(folder) as store:
        assert store.get(request.key) is None
        assert list(store.verify()) == []
    assert not burnt.exists()


def test_a_planted_pickled_key_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, burnt = tmp_path / "s", tmp_path / "burnt"
    Store(folder).close()
    with sqlite3.connect(folder / "cache.db") as db:
        row = (sqlite3.Binary(pickle.dumps(Bomb(burnt))), 0, 0.0, 0.0, 0, 3, "{}")
        db.execute(
            "INSERT INTO Cache(key, raw, store_time, access_time, size, mode, value) VALUES (?,?,?,?,?,?,?)", row
        )
    with Store(folder) as store, pytest.raises(StoreError, match="could run code"):
        store.stats()
    assert not burnt.exists()


def test_pickles_are_refused_on_the_way_in(store: Store) -> None:
    cache = store._cache  # pyright: ignore[reportPrivateUsage]  the way in that is to be shut
    for key, value in ((("a", "tuple"), "text"), ("text", {"a": "dict"}), ("text", 1), (1, "text")):
        with pytest.raises(Exception, match="must be text"):
            cache.set(key, value)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cache.db").write_text("this is no database, " * 100)
    with pytest.raises(StoreError, match="--set-aside"):
        Store(tmp_path / "s")


def test_a_path_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file")
    with pytest.raises(StoreError, match="RELABEL_STORE"):
        Store(tmp_path / "s")


def test_verify_finds_an_answer_under_a_wrong_key_and_a_damaged_row(store: Store) -> None:
    one, two = a_request("one"), a_request("two")
    store.put(one, an_answer(one))
    store.put(two, an_answer(two))
    cache = store._cache  # pyright: ignore[reportPrivateUsage]  damage has to come from somewhere
    cache.set("f" * 64, cache.get(one.key))
    cache.set(two.key, "{not json")
    faults = list(store.verify())
    assert len(faults) == 2
    assert any("f" * 64 in fault and one.key in fault for fault in faults)
    assert any(two.key in fault and "not JSON" in fault for fault in faults)


def rows_of(store: Store) -> Any:
    return store._cache  # pyright: ignore[reportPrivateUsage]  somebody else writes into the folder


def test_answers_whose_rows_were_swapped_are_not_served(store: Store) -> None:
    one, two = a_request("one"), a_request("two")
    store.put(one, an_answer(one, content="1"))
    store.put(two, an_answer(two, content="2"))
    cache = rows_of(store)
    first, second = cache.get(one.key), cache.get(two.key)
    cache.set(one.key, second)
    cache.set(two.key, first)
    assert (store.get(one.key), store.get(two.key)) == (None, None)
    assert (store.get(one.key, one), store.get(two.key, two)) == (None, None)
    assert store.damaged == {one.key, two.key}


def test_a_byte_that_changed_on_the_disk_is_seen(store: Store) -> None:
    request = a_request()
    store.put(request, an_answer(request, content="exposed"))
    rows_of(store).set(request.key, rows_of(store).get(request.key).replace("exposed", "exposer"))
    assert store.get(request.key) is None
    assert ["changed since" in fault for fault in store.verify()] == [True]


def changed(store: Store, request: Request, change: Any) -> None:
    """Somebody who is not relabel writes a row anew, without its checksum."""
    cache = rows_of(store)
    row = json.loads(cache.get(request.key))
    del row["sum"]
    change(row)
    cache.set(request.key, json.dumps(row))


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["request"].update(key="f" * 64),
        lambda row: row["request"].update(host="elsewhere"),
        lambda row: row["request"].update(sample=1),
        lambda row: row["request"]["body"].update(model="another"),
        lambda row: row["request"]["body"]["messages"].append({"role": "user", "content": "more"}),
        lambda row: row["request"]["body"]["messages"][0].update(sha256="0" * 64),
        lambda row: row["answer"].update(request_key="f" * 64),
        lambda row: row["answer"].update(raw=[]),
        lambda row: row["answer"].update(more=1),
        lambda row: row.update(rejected={"kind": "x", "reason": "y"}),
        lambda row: row.update(format=2),
        lambda row: row.update(answer=None),
        lambda row: row.update(request=[]),
        lambda row: row["request"].update(body={"messages": 3}),
        lambda row: row.clear(),
    ],
)
def test_a_row_is_served_only_if_it_is_what_its_key_says(change: Any, store: Store) -> None:
    request = a_request()
    store.put(request, an_answer(request))
    changed(store, request, change)
    assert store.get(request.key) is None
    assert store.get(request.key, request) is None
    assert len(list(store.verify())) == 1
    assert store.stats().damaged == 1
    assert store.put(request, an_answer(request, content="new"))
    found = store.get(request.key)
    assert found is not None
    assert found.content == "new"
    assert list(store.verify()) == []
    assert store.stats().aside == 1


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[]", "3", "null", '"x"', "{not json", "{" + '"a":' * 50_000, "9" * 9000]
)
def test_an_odd_row_is_one_sentence_and_is_set_aside(text: str, store: Store) -> None:
    request = a_request()
    rows_of(store).set(request.key, text)
    rows_of(store).set("note/form/chat/h/m", text)
    rows_of(store).set("text/" + "0" * 64, text)
    rows_of(store).set("../odd key", text)
    assert store.get(request.key) is None
    assert store.note("form/chat/h/m") is None
    assert len(list(store.verify())) == 4
    for key in sorted(store.damaged):
        store.set_aside(key)
    assert list(store.verify()) == []
    assert store.stats().aside == 4


def test_answers_are_synced_where_only_a_file_open_for_writing_can_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(file: int) -> None:  # as on Windows
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(file)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put(a_request(), an_answer(a_request()))
    store.sync()
    assert synced


@pytest.mark.parametrize("value", [["json_schema"], {"form": "text"}, None, 1, "", "no such form", "text\x1b[0m"])
def test_a_note_that_relabel_does_not_write_is_not_read(value: Any, store: Store) -> None:
    rows_of(store).set("note/form/chat/h/m", json.dumps({"value": value}))
    rows_of(store).set("note/anything", json.dumps({"value": "text"}))
    assert store.note("form/chat/h/m") is None
    assert store.note("anything") is None
    store.put_note("form/chat/h/n", "text")
    assert store.note("form/chat/h/n") == "text"
    assert store.drop_notes() == 3
    assert store.note("form/chat/h/n") is None


def test_a_row_that_names_a_file_reads_none(store: Store, tmp_path: Path) -> None:
    request = a_request()
    store.put(request, an_answer(request))
    (tmp_path / "secret").write_text("{}")
    with sqlite3.connect(store.folder / "cache.db") as db:
        db.execute(
            "UPDATE Cache SET filename=?, mode=3, value=NULL WHERE key=?", (str(tmp_path / "secret"), request.key)
        )
    assert store.get(request.key) is None
    assert len(list(store.verify())) == 1
    assert list(set_damage_aside(store.folder)) == ["1 damaged rows set aside"]
    assert list(store.verify()) == []


@pytest.mark.parametrize("cost", ["NaN", "-1", "Infinity"])
def test_an_odd_cost_is_unknown_and_spoils_no_sum(cost: str, store: Store) -> None:
    for text in ("one", "two"):
        store.put(a_request(text), an_answer(a_request(text)))
    changed(store, a_request("two"), lambda row: row["answer"].update(cost_usd=float(cost)))
    stats = store.stats()
    assert (stats.answers, stats.cost_usd, stats.cost_unknown) == (2, 0.25, 1)


async def test_a_store_that_fails_while_reading_ahead_ends_no_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreError("the database is locked")

    monkeypatch.setattr(Store, "read_ahead", fail)
    with provider(lambda _: judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 5), store, tmp_path / "run")
    assert (outcome.complete, len(outcome.labels)) == (True, 10)


def test_a_lone_surrogate_in_a_reply_is_stored_and_read(store: Store) -> None:
    request = a_request()
    answer = an_answer(request).model_copy(update={"raw": {"text": "a\ud800b"}})
    assert store.put(request, answer)
    assert store.get(request.key) == answer
