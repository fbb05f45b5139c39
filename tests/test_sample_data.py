"""The built-in sample: whole, coherent, of the project's own making, and on real codes."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from relabel.settings import asset_dir
from relabel.sources import ons

SAMPLE = asset_dir("data") / "sample"
COLUMNS = {
    "tasks": ["task_id", "onet_soc_code", "title", "text", "task_type", "importance"],
    "gold": ["task_id", "onet_soc_code", "strict", "with_tools", "note"],
    "bridge": ["onet_soc_code", "soc2018", "soc2010", "isco08", "uk_soc2020", "uk_title", "weight"],
    "pay": ["uk_soc2020", "title", "employees", "median_pay_gbp", "note"],
}
NEAR = 0.8


def read(name: str) -> pd.DataFrame:
    """Every cell as text; empty cells stay empty strings."""
    return pd.read_csv(SAMPLE / f"{name}.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def tasks() -> pd.DataFrame:
    return read("tasks")


@pytest.fixture(scope="module")
def gold() -> pd.DataFrame:
    return read("gold")


@pytest.fixture(scope="module")
def bridge() -> pd.DataFrame:
    return read("bridge")


@pytest.fixture(scope="module")
def pay() -> pd.DataFrame:
    return read("pay")


@pytest.fixture(scope="module")
def mirror() -> Path:
    folder = os.environ.get("RELABEL_DATA_MIRROR")
    if not folder:
        pytest.skip("RELABEL_DATA_MIRROR is not set")
    return Path(folder)


# --- files


@pytest.mark.parametrize("name", COLUMNS)
def test_files_are_plain_csv_with_the_promised_columns(name: str) -> None:
    raw = (SAMPLE / f"{name}.csv").read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    raw.decode("utf-8")
    frame = read(name)
    assert list(frame.columns) == COLUMNS[name]
    stripped = frame.apply(lambda column: column.str.strip())
    pd.testing.assert_frame_equal(frame, stripped)


def test_readme_says_what_is_invented() -> None:
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    assert "Invented by this project" in text
    for columns in COLUMNS.values():
        assert [column for column in columns if f"`{column}`" not in text] == []


# --- tasks


def test_sixty_tasks_ten_for_each_of_six_occupations(tasks: pd.DataFrame) -> None:
    assert tasks["task_id"].tolist() == [f"S{number:03d}" for number in range(1, 61)]
    assert tasks["onet_soc_code"].value_counts().tolist() == [10] * 6
    assert tasks["onet_soc_code"].str.fullmatch(r"\d{2}-\d{4}\.\d{2}").all()
    assert (tasks.groupby("onet_soc_code")["title"].nunique() == 1).all()


def test_statements_are_well_formed_and_unique(tasks: pd.DataFrame) -> None:
    text = tasks["text"]
    assert text.str.casefold().is_unique
    # A verb with a capital, one sentence, a full stop at the end.
    assert text.str.fullmatch(r"[A-Z][a-z]+[ ,][^.!?\n]+\.").all()
    assert not text.str.contains("  ", regex=False).any()
    assert (text.str.count(" ") + 1).between(6, 25).all()


def test_statements_of_the_sample_are_not_near_each_other(tasks: pd.DataFrame) -> None:
    texts = tasks["text"].tolist()
    index = TextIndex(texts)
    assert [(text, other) for text in texts for other in index.near(text) if other != text] == []


def test_task_types_and_importance_are_in_range(tasks: pd.DataFrame) -> None:
    assert set(tasks["task_type"]) == {"Core", "Supplemental"}
    core = (tasks["task_type"] == "Core").groupby(tasks["onet_soc_code"]).sum()
    assert core.isin([7, 8]).all()
    rated = tasks.loc[tasks["importance"] != "", "importance"]
    assert rated.str.fullmatch(r"[1-5]\.\d{2}").all()
    assert rated.astype(float).between(1, 5).all()
    assert 1 <= len(tasks) - len(rated) <= 2


# --- gold


def test_gold_labels_each_task_exactly_once(tasks: pd.DataFrame, gold: pd.DataFrame) -> None:
    keys = ["task_id", "onet_soc_code"]
    pd.testing.assert_frame_equal(gold[keys], tasks[keys])
    assert gold["task_id"].is_unique
    assert (gold["note"] != "").all()
    assert (gold["note"].str.count(" ") + 1).between(1, 15).all()


def test_gold_is_coherent_and_spread(gold: pd.DataFrame) -> None:
    assert set(gold["strict"]) | set(gold["with_tools"]) == {"exposed", "not-exposed"}
    strict, with_tools = gold["strict"] == "exposed", gold["with_tools"] == "exposed"
    assert gold.loc[strict & ~with_tools, "task_id"].tolist() == []
    code = strict.map({True: "E1", False: ""}).where(strict, with_tools.map({True: "E2", False: "E0"}))
    assert code.value_counts().to_dict() == {"E2": 23, "E0": 20, "E1": 17}
    # All three codes occur in every occupation.
    assert (code.groupby(gold["onet_soc_code"]).nunique() == 3).all()


# --- bridge and pay


def test_bridge_weights_sum_to_one(tasks: pd.DataFrame, bridge: pd.DataFrame) -> None:
    assert set(bridge["onet_soc_code"]) == set(tasks["onet_soc_code"])
    assert not bridge.duplicated(["onet_soc_code", "uk_soc2020"]).any()
    assert {"1121", "8160"} <= set(bridge["uk_soc2020"])
    weight = bridge["weight"].astype(float)
    assert weight.between(0, 1, inclusive="right").all()
    for group, total in weight.groupby(bridge["uk_soc2020"]).sum().items():
        assert math.isclose(total, 1.0, abs_tol=1e-9), group
    assert bridge["uk_soc2020"].value_counts().max() == 2


def test_bridge_codes_have_the_right_shape(bridge: pd.DataFrame) -> None:
    assert (bridge["soc2018"] == bridge["onet_soc_code"].str[:7]).all()
    assert bridge["soc2010"].str.fullmatch(r"\d{2}-\d{4}").all()
    assert bridge["isco08"].str.fullmatch(r"\d{4}").all()
    assert bridge["uk_soc2020"].str.fullmatch(r"\d{4}").all()


def test_pay_is_marked_as_invented_and_one_is_missing(bridge: pd.DataFrame, pay: pd.DataFrame) -> None:
    assert pay["uk_soc2020"].is_unique
    titles = bridge.drop_duplicates("uk_soc2020").set_index("uk_soc2020")["uk_title"].to_dict()
    assert pay.set_index("uk_soc2020")["title"].to_dict() == titles
    assert pay["note"].str.startswith("invented for the sample").all()
    assert (pay["employees"].astype(int) % 10_000 == 0).all()
    known = pay.loc[pay["median_pay_gbp"] != "", "median_pay_gbp"]
    assert len(known) == len(pay) - 1
    assert (known.astype(int) % 1_000 == 0).all()


# --- against the real data


def tokens(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.casefold()))


class TextIndex:
    """Finds texts near a given one, by word overlap first and by difflib where that is worth its time."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(set(texts))
        self._words = [tokens(text) for text in self._texts]
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        for place, words in enumerate(self._words):
            for word in words:
                self._places[word].append(place)

    def near(self, text: str) -> list[str]:
        """Texts with a token Jaccard or a difflib ratio of at least `NEAR`."""
        words = tokens(text)
        shared = Counter(place for word in words for place in self._places.get(word, ()))
        lowered = text.casefold()
        matcher = difflib.SequenceMatcher(b=lowered, autojunk=False)
        found: list[str] = []
        for place, common in shared.items():
            jaccard = common / (len(words) + len(self._words[place]) - common)
            if jaccard < NEAR:
                # Letters can only agree at 0.8 when a good part of the words do.
                if jaccard < 0.3:
                    continue
                matcher.set_seq1(self._texts[place].casefold())
                if matcher.real_quick_ratio() < NEAR or matcher.quick_ratio() < NEAR or matcher.ratio() < NEAR:
                    continue
            found.append(self._texts[place])
        return found


def test_index_finds_copies_and_light_rewording() -> None:
    text = "Keep written records of tools lent to other crews and chase those not returned."
    index = TextIndex([text, "Inspect welds on finished frames."])
    assert index.near(text.upper()) == [text]
    assert index.near("Keep written record of tools lent to another crew, and chase those not returned.") == [text]
    assert index.near("Inspect records of finished crews.") == []


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("onet-30.2/Task Statements.txt", "Task"),
        ("onet-29.1/Task Statements.txt", "Task"),
        ("eloundou-2023/full_labelset.tsv", "Task"),
        ("eloundou-2023/automation_gpt4_human_labels.tsv", "Task"),
    ],
)
def test_no_statement_is_copied_or_nearly_so(tasks: pd.DataFrame, mirror: Path, file: str, column: str) -> None:
    real = pd.read_csv(mirror / file, sep="\t", usecols=[column], dtype=str)[column].dropna()
    assert len(real) > 15_000
    index = TextIndex(real.tolist())
    assert index.near(real.iloc[0]), "the index must find what it holds"
    assert {text: near for text in tasks["text"] if (near := index.near(text))} == {}


@pytest.mark.mirror
@pytest.mark.parametrize("release", ["onet-30.2", "onet-29.1"])
def test_occupations_are_real(tasks: pd.DataFrame, mirror: Path, release: str) -> None:
    real = pd.read_csv(mirror / release / "Occupation Data.txt", sep="\t", dtype=str)
    titles = dict(zip(real["O*NET-SOC Code"], real["Title"], strict=True))
    ours = tasks.drop_duplicates("onet_soc_code")
    assert {code: titles.get(code) for code in ours["onet_soc_code"]} == dict(
        zip(ours["onet_soc_code"], ours["title"], strict=True)
    )


def pairs(frame: pd.DataFrame, left: int | str, right: int | str) -> set[tuple[str, str]]:
    """Two columns, by position or name, as a set of stripped pairs."""
    columns = [frame.iloc[:, key] if isinstance(key, int) else frame[key] for key in (left, right)]
    first, second = (column.astype(str).str.strip() for column in columns)
    return set(zip(first, second, strict=True))


@pytest.mark.mirror
@pytest.mark.filterwarnings("ignore:The xlrd engine")
def test_each_step_of_the_bridge_to_isco_is_in_the_crosswalks(bridge: pd.DataFrame, mirror: Path) -> None:
    onet = pd.read_excel(mirror / "onet-taxonomy/2019_to_SOC_Crosswalk.xlsx", dtype=str)
    soc = pd.read_excel(mirror / "bls-soc2010-soc2018/soc_2010_to_2018_crosswalk.xlsx", dtype=str)
    isco = pd.read_excel(mirror / "bls-isco08-soc2010/ISCO_SOC_Crosswalk.xls", dtype=str)
    assert pairs(bridge, "onet_soc_code", "soc2018") <= pairs(onet, 0, 2)
    assert pairs(bridge, "soc2010", "soc2018") <= pairs(soc, 0, 2)
    assert pairs(bridge, "isco08", "soc2010") <= pairs(isco, 0, 3)


@pytest.mark.mirror
def test_weights_follow_the_ons_coding_index(bridge: pd.DataFrame) -> None:
    index = ons.read_coding_index()
    assert pairs(bridge, "uk_soc2020", "uk_title") <= pairs(ons.read_unit_groups(), "soc2020", "title")
    count = Counter(zip(index["soc2020"], index["isco08"], strict=True))
    entries = pd.Series(
        [count[pair] for pair in zip(bridge["uk_soc2020"], bridge["isco08"], strict=True)], index=bridge.index
    )
    share = entries / entries.groupby(bridge["uk_soc2020"]).transform("sum")
    assert (share - bridge["weight"].astype(float)).abs().max() < 0.0005
    # The kept ISCO groups hold most of each UK group's entries.
    kept = entries.groupby(bridge["uk_soc2020"]).sum() / index["soc2020"].value_counts().reindex(
        bridge["uk_soc2020"].unique()
    )
    assert kept.min() > 0.7
