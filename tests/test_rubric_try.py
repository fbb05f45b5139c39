"""`relabel rubric try`: rubrics compared with reference labels and with each other, from a model or from label files."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from relabel.cli.app import run_app
from relabel.evaluation.trial import half_of, rate_in_words, variance
from relabel.rubric import load_rubric, rubric_path
from relabel.run import Run, open_run
from relabel.task import load_tasks
from server import Reply, Seen, chat, judged, provider, refused

STUDY = Path(__file__).resolve().parents[2] / "shared" / "rubric"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def tried(*words: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    assert run_app(["rubric", "try", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def figures(document: Any, on: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(a["first"], a["second"], a["setting"]): a for a in document["agreements"] if a["on"] == on}


@pytest.mark.mirror
@pytest.mark.skipif(not STUDY.is_dir(), reason="the label files of the study are not here")
def test_the_table_of_the_study_comes_out_of_its_label_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures of the study's table; its kappas are rounded to three decimals first (.4246 is printed as .43)."""
    files = [str(STUDY / name) for name in ("labels-1.csv", "labels-2.csv")]
    document = tried("exposure@1", "exposure", "--labels", files[0], "--labels", files[1], capsys=capsys)
    human, gpt4 = "eloundou-2023:human", "eloundou-2023:gpt4"
    table = {
        "exposure@1": ((".012", ".108", ".125"), (".204", ".475", ".379"), (".43", ".44"), (".32", ".39"), (".62", ".42")),
        "exposure@2": ((".192", ".171", ".138"), (".408", ".571", ".429"), (".67", ".74"), (".51", ".50"), (".64", ".44")),
    }  # fmt: skip
    for name, (strict, tools, tools_kappa, codes_kappa, raters) in table.items():
        of = figures(document, name)
        for setting, expected in (("strict", strict), ("with-tools", tools)):
            found = [
                of[name, gpt4, setting]["first_rate"],
                *(of[name, g, setting]["second_rate"] for g in (gpt4, human)),
            ]
            assert tuple(map(rate_in_words, found)) == expected
        for setting, expected in (("with-tools", tools_kappa), ("three-way", codes_kappa)):
            assert tuple(twice_rounded(of[name, g, setting]["kappa"]) for g in (gpt4, human)) == expected
        assert tuple(twice_rounded(of[human, gpt4, s]["kappa"]) for s in ("with-tools", "three-way")) == raters
    closer = {(d["gold"], d["setting"]): d["closer"] for d in document["differences"]}
    assert closer[human, "with-tools"] == closer[gpt4, "with-tools"] == closer[gpt4, "three-way"] == "exposure@2"
    assert closer[human, "three-way"] is None
    assert "exposure@2 is closer to GPT-4 than exposure@1 (kappa .508 against .323" in document["verdict"]
    assert "Cost: exposure@1 not known; exposure@2 not known." in document["verdict"]
    for name, ref in (("exposure@1", "exposure@1"), ("exposure@2", "exposure")):
        study = next(study for study in load_rubric(ref).validity if study.labels.startswith("labels-"))
        block = document["validity"][name]
        assert (study.rates, study.wording) == (block["rates"], block["wording"])
        assert {g: (of.rates, of.kappa) for g, of in study.golds.items()} == {
            g: (of["rates"], of["kappa"]) for g, of in block["golds"].items()
        }


def twice_rounded(value: float) -> str:
    hundredths = int(round(value, 3) * 1000 + 0.5 + 5) // 10
    return f".{hundredths:02d}"


def test_two_rubrics_are_tried_on_the_same_tasks_of_one_half(capsys: pytest.CaptureFixture[str]) -> None:
    def says(seen: Seen) -> Reply:
        labels = ("E1", "E0") if "E0" in seen.messages[0]["content"] else ("exposed", "not-exposed")
        return judged(labels["Write" not in seen.prompt])

    with provider(says) as fake:
        words = ["exposure", "eloundou", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--quiet"]
        document = tried(*words, "--sample", "20", "--seed", "4", "--out", "t", "--price", "1/2", capsys=capsys)
        final = tried(*words, "--final", "--out", "f", capsys=capsys)
    assert [of["tasks"] for of in document["rubrics"]] == [20, 20]
    assert all(of["halves"] == {"development": 20, "final": 0} for of in document["rubrics"])
    assert all(of["cost_usd"] > 0 for of in document["rubrics"])
    (three_way,) = [d for d in document["differences"] if d["setting"] == "three-way"]
    assert three_way["paired"]
    assert three_way["n"] == [20, 20]
    assert three_way["closer"] is None
    assert figures(document, "exposure@2")["exposure@2", "eloundou@1", "three-way"]["kappa"] == 1
    assert json.loads(Path("t/trial.json").read_text()) == document
    assert not document["final"]
    assert final["final"]
    assert "only look" in final["note"]
    assert all(of["halves"]["development"] == 0 for of in final["rubrics"])
    assert {half_of(t.task_id) for t in load_tasks("sample")} == {"development", "final"}


@pytest.mark.parametrize("maker", ["people", None, "model"])
def test_only_labels_known_to_be_people_s_mark_a_rubric_as_tried_against_people(
    maker: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [task.task_id for task in load_tasks("sample")]
    labels, gold = tmp_path / "labels.csv", tmp_path / "gold.csv"
    labels.write_text("task_id,label\n" + "".join(f"{i},{'E1' if n % 2 else 'E0'}\n" for n, i in enumerate(ids)))
    gold.write_text("task_id,label\n" + "".join(f"{i},{'E1' if n % 3 else 'E0'}\n" for n, i in enumerate(ids)))
    said = ["--gold-by", maker] if maker else []
    words = ["eloundou", "--labels", str(labels), "--tasks", "sample", "--gold", str(gold), *said, "--out", "t"]
    document = tried(*words, capsys=capsys)
    (reference,) = document["golds"]
    assert (reference["made_by"], reference["people"]) == (maker or "unknown", maker == "people")
    (validity,) = document["validity"].values()
    assert [of["people"] for of in validity["golds"].values()] == [maker == "people"]
    assert ("is unknown, so its labels are not counted as people's" in (document["note"] or "")) == (maker is None)


def test_a_rate_is_the_same_in_the_table_and_in_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, labels, gold = [task.task_id for task in load_tasks("sample")][:16], tmp_path / "l.csv", tmp_path / "g.csv"
    for path in (labels, gold):
        path.write_text("task_id,label\n" + "".join(f"{i},{'E0' if n else 'E1'}\n" for n, i in enumerate(ids)))
    words = ["eloundou", "--labels", str(labels), "--tasks", "sample", "--gold", str(gold), "--out", "t"]
    assert run_app(["rubric", "try", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.count(".062") >= 4  # one of 16 is .0625
    assert ".063" not in shown


def test_the_final_half_is_not_looked_at_twice_with_another_wording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with provider(lambda seen: judged()) as fake:
        words = ["--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--final", "--out", "f", "--quiet"]
        assert run_app(["rubric", "try", "exposure", *words]) == 0
        assert run_app(["rubric", "try", "exposure", *words]) == 0
        capsys.readouterr()
        assert run_app(["rubric", "try", "exposure@1", *words]) == 2
    assert "is the trial of the final half" in capsys.readouterr().err


def test_a_changed_wording_gets_no_second_look_at_the_final_half_unnoticed(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        words = ["--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--final", "--quiet"]
        first = tried("exposure", *words, capsys=capsys)
        assert (first["look"], first["validity"]["exposure@2"].get("limits")) == (1, None)
        assert tried("exposure", *words, "--samples", "2", "--out", "repeats", capsys=capsys)["look"] == 1
        asked = len(fake.seen)
        changed = rubric_path("exposure").read_text().partition("validity:")[0].replace("half the usual time", "40%")
        Path("mine.yaml").write_text(changed.replace("version: 2", "version: 3"))
        assert run_app(["rubric", "try", "mine.yaml", *words]) == 2
        assert len(fake.seen) == asked
        error = capsys.readouterr().err
        assert "the final half of sample was already used on 20" in error
        assert "with another wording of exposure" in error
        second = tried("mine.yaml", *words, "--out", "again", capsys=capsys)
        assert second["look"] == 2
        assert "this is look 2 at the half kept for the end: other wordings were tried" in second["note"]
        assert "this is look 2" in second["validity"]["exposure@3"]["limits"]
        assert tried("mine.yaml", *words, "--out", "once-more", capsys=capsys)["look"] == 2
        assert tried("exposure", *words, "--out", "old", capsys=capsys)["look"] == 1
        other = changed.replace("id: exposure", "id: another")
        Path("other.yaml").write_text(other)
        assert tried("other.yaml", *words, capsys=capsys)["look"] == 1


def test_labels_of_another_half_do_not_replace_a_trial_of_the_final_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("l.csv").write_text(LABELS)
    words = ["exposure", "--labels", "l.csv", "--gold", "sample", "--tasks", "sample", "--out", "o"]
    final = tried(*words, "--final", capsys=capsys)
    assert run_app(["rubric", "try", *words]) == 2
    assert "would overwrite it with another half" in capsys.readouterr().err
    assert json.loads(Path("o/trial.json").read_text()) == final
    Path("o/trial.json").write_text("[]")
    assert run_app(["rubric", "try", *words]) == 3


def test_the_model_is_reached_as_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[[provider]]\nid = "campus"\nname = "Campus"\nbound = "max_tokens"\nkey_env = ["OTHER"]\n')
    monkeypatch.setenv("RELABEL_PROVIDERS", str(mine))
    monkeypatch.setenv("CAMPUS_KEY", "sk-campus-0123456789")
    with provider(lambda seen: judged()) as fake:
        words = [
            "exposure",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "4",
            "--quiet",
        ]
        more = ["--max-tokens", "77", "--provider", "campus", "--key-env", "CAMPUS_KEY", "--timeout", "44", "--yes"]
        tried(*words, *more, "--out", "t", capsys=capsys)
        assert {seen.body.get("max_tokens") for seen in fake.seen} == {77}
        assert not any("max_completion_tokens" in seen.body for seen in fake.seen)
        assert {seen.headers["authorization"] for seen in fake.seen} == {"Bearer sk-campus-0123456789"}
    assert json.loads(Path("t/exposure@2/manifest.json").read_text())["answer_wait"]["timeout_s"] == 44


def test_a_trial_with_missing_labels_says_so_wherever_it_is_read_and_ends_with_5(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every third task gets no label in one setting, so that fewer have a code than a label."""

    def script(seen: Seen) -> Reply:
        tools = "software built around" in seen.messages[0]["content"]
        return refused(400, "not this one") if tools and len(seen.prompt) % 3 == 0 else judged()

    with provider(script) as fake:
        words = [
            "exposure",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "24",
            "--quiet",
        ]
        document = tried(*words, "--out", "runs/t", capsys=capsys, code=5)
        (of,) = document["rubrics"]
        assert 0 < of["missing"] < 24
        assert of["asked"] == 48
        said = f"{of['missing']} of 48 labels under exposure@2 are missing"
        block = document["validity"]["exposure@2"]
        for text in (document["verdict"], document["note"], block["limits"]):
            assert said in text
        coded = 24 - of["missing"]
        assert f"agrees (kappa, three-way) with sample at .000 ({coded} tasks)" in document["verdict"]
        assert (block["n"], block["golds"]["sample"]["n"]) == (24, coded)
        assert block["labels"] == "runs/t/exposure@2"
        assert json.loads(Path("runs/t/trial.json").read_text()) == document
        path = Path("mine.yaml")
        shipped = rubric_path("exposure").read_text().partition("validity:")[0]
        path.write_text(shipped + json.dumps({"validity": [block]})[1:-1] + "\n")
        assert load_rubric("mine.yaml").validity[0].limits == block["limits"]
        assert run_app(["rubric", "try", *words, "--out", "runs/t"]) == 5
    captured = capsys.readouterr()
    assert "INCOMPLETE" in captured.out
    assert "run the same command again to request them" in captured.err


def test_the_cost_of_a_trial_holds_answers_that_were_no_labels(capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Reply:
        first = len(seen.messages) == 2 and len(seen.prompt) % 2
        return Reply(body=chat("I think it is exposed")) if first else judged()

    with provider(script) as fake:
        words = [
            "exposure",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "20",
            "--quiet",
        ]
        (of,) = tried(*words, "--price", "1/2", "--out", "t", capsys=capsys)["rubrics"]
        (again,) = tried(*words, "--price", "1/2", "--out", "u", capsys=capsys)["rubrics"]
        answers = len(fake.answered)
    assert answers > 40
    paid = json.loads(Path("t/exposure@2/manifest.json").read_text())
    for found in (of, again):
        assert found["cost_usd"] == pytest.approx(paid["cost_usd"])


def test_a_trial_with_an_answer_of_unknown_cost_has_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Reply:
        return (
            Reply(body=chat(json.dumps({"rationale": "R.", "label": "exposed"}), usage=None)) if one(seen) else judged()
        )

    def one(seen: Seen) -> bool:
        return seen is fake.seen[0]

    with provider(script) as fake:
        words = [
            "exposure",
            "--model",
            "m",
            "--base-url",
            fake.base_url,
            "--tasks",
            "sample",
            "--sample",
            "20",
            "--quiet",
        ]
        document = tried(*words, "--price", "1/2", "--out", "t", capsys=capsys)
    assert document["rubrics"][0]["cost_usd"] is None
    assert "Cost: exposure@2 not known." in document["verdict"]


LABELS = "task_id,setting,label\nS001,strict,exposed\nS002,strict,not-exposed\nS003,strict,not-exposed\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LABELS + "S001,strict,not-exposed\n", "line 5 repeats .* task_id S001"),
        (LABELS + "S999,strict,exposed\n", "line 5: task_id must be the id of one task of sample, not 'S999'"),
        (LABELS + "S004,strict,perhaps\n", "line 5: label must be one of .*, not 'perhaps'"),
        (LABELS + "S004,lax,exposed\n", "line 5: setting must be one of .*, not 'lax'"),
        (LABELS + "S004,strict,E1\n", "line 5: label must be one of .*, not 'E1'"),
        ("task_id,label\nS001,exposed\n", "the rubric exposure has the settings strict, with-tools; rubric try reads"),
        ("task_id,setting\nS001,strict\n", "no column 'label'"),
        ("task_id,verdict,setting\nS001,exposed,strict\n", "no column 'label'"),
    ],
)
def test_a_label_file_that_cannot_be_used_is_refused_in_a_sentence(
    text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.csv").write_text(text)
    assert run_app(["rubric", "try", "exposure", "--labels", "l.csv", "--gold", "sample", "--tasks", "sample"]) == 3
    error = capsys.readouterr().err.strip()
    assert re.search(words, error)
    assert "\n" not in error
    assert not re.search("--(map|rubric|setting|.*-column)", error), "options of another command"


def test_labels_of_one_setting_are_compared_in_that_setting(capsys: pytest.CaptureFixture[str]) -> None:
    Path("l.csv").write_text(LABELS)
    document = tried(
        "exposure", "--labels", "l.csv", "--gold", "sample", "--tasks", "sample", "--out", "o", capsys=capsys
    )
    assert [a["setting"] for a in document["agreements"]] == ["strict"]
    assert document["agreements"][0]["kappa"] == 1
    assert "exposure@2 calls .333 of tasks exposed, strict (sample .333)." in document["verdict"]


def test_ties_between_repeats_which_make_rates_too_low_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"S001": "exposed exposed", "S002": "exposed not-exposed", "S003": "not-exposed exposed"}
    rows = [f"{t},strict,{label},{n}" for t, said in given.items() for n, label in enumerate(said.split())]
    Path("l.csv").write_text("\n".join(["task_id,setting,label,sample", *rows]))
    document = tried(
        "exposure", "--labels", "l.csv", "--gold", "sample", "--tasks", "sample", "--out", "o", capsys=capsys
    )
    assert document["rubrics"][0]["tied"] == 2
    words = "2 labels under exposure@2 are ties between orders and repeats and count as the less exposed label"
    assert words in document["note"]
    assert words in document["validity"]["exposure@2"]["limits"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "give either --model, or a --labels FILE for each"),
        (["--labels", "l.csv", "--model", "m"], "give either --model, or a --labels FILE for each"),
        (["--labels", "l.csv", "--labels", "l.csv"], "give either --model, or a --labels FILE for each"),
        (["--labels", "l.csv", "--sample", "3"], "for each rubric and no --sample"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.csv").write_text(LABELS)
    assert run_app(["rubric", "try", "exposure", "--gold", "sample", *more]) == 2
    assert words in capsys.readouterr().err


def test_ctrl_c_ends_a_trial_with_130_and_asks_no_further_rubric(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(seen: Seen) -> Reply:
        if len(fake.seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return judged()

    with provider(answer) as fake:
        words = ["--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--gold", "sample", "--sample", "20"]
        assert run_app(["rubric", "try", "exposure", "eloundou", *words, "--quiet"]) == 130
        assert len(fake.seen) < 40
    assert "run the same command again to continue" in capsys.readouterr().err


def simulated(task_sd: float, order_sd: float, repeat_sd: float, seed: int) -> Run:
    """Labels T0 to T4 of 300 tasks in 4 orders, 3 times each, from effects of known size."""
    random = np.random.default_rng(seed)
    tasks, orders, repeats = 300, 4, 3
    latent = (
        random.normal(0, task_sd, (tasks, 1, 1))
        + random.normal(0, order_sd, (tasks, orders, 1))
        + random.normal(0, repeat_sd, (tasks, orders, repeats))
    )
    places = np.clip(np.round(2 + latent), 0, 4).astype(int)
    rows = [
        (f"t{t}", f"11-{t % 40:04d}.00", "automation", s, v, f"T{places[t, v, s]}")
        for t in range(tasks)
        for v in range(orders)
        for s in range(repeats)
    ]
    labels = pd.DataFrame(rows, columns=["task_id", "onet_soc_code", "setting", "sample", "variant", "label"])
    template = open_run("sample")
    manifest = template.manifest.model_copy(update={"rubric": load_rubric("automation")})
    return Run("simulated", None, manifest, labels)


def test_the_cap_of_a_trial_is_that_of_its_rubrics_together(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        model = ["--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "20", "--quiet"]
        words = ["rubric", "try", "exposure@1", "exposure", *model, "--concurrency", "1", "--out", "t"]
        assert run_app([*words, "--price", "1/1", "--max-cost", "0.009"]) == 2
        assert "--max-cost needs --max-tokens" in capsys.readouterr().err
        assert fake.seen == []
        assert run_app([*words, "--price", "1/1", "--max-cost", "0.009", "--max-tokens", "100"]) == 5
    manifest = json.loads(Path("t/exposure@1/manifest.json").read_text())
    assert 0 < manifest["cost_usd"] <= 0.0045


@pytest.mark.parametrize(("task_sd", "order_sd", "repeat_sd"), [(0.8, 0.6, 0.4), (0.9, 0.0, 0.5), (0.5, 0.9, 0.3)])
def test_shares_of_variance_are_those_that_the_labels_were_made_with(
    task_sd: float, order_sd: float, repeat_sd: float
) -> None:
    found = variance(simulated(task_sd, order_sd, repeat_sd, seed=1))["automation"]
    # Rounding to labels adds a twelfth, and moves with the finest level.
    parts = np.array([task_sd**2, order_sd**2, repeat_sd**2 + 1 / 12])
    assert [found.task, found.order, found.repeat] == pytest.approx(list(parts / parts.sum()), abs=0.08)
    assert (found.tasks, found.variants, found.repeats) == (300, 4, 3)


def test_without_repeats_there_is_no_share_of_variance() -> None:
    assert variance(open_run("sample")) == {}
