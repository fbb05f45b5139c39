"""The eval document: figures known from the paper, small tables worked out by hand, and what is absent or null."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from relabel.evaluation.alignment import match
from relabel.evaluation.compare import compare
from relabel.evaluation.document import EvalDocument
from relabel.evaluation.evaluate import evaluate as evaluate_fully
from relabel.evaluation.gold import load_gold, read_gold_csv
from relabel.rubric import Rubric, load_rubric
from relabel.run import open_run
from relabel.task import task_table
from run_builders import MakeRun

WriteGold = Callable[[str | bytes], Path]
A, B, C = "11-1011.00", "53-7065.00", "29-1141.00"
YES, NO = "exposed", "not-exposed"


evaluate = partial(evaluate_fully, draws=200, yardsticks=False)  # what stands beside has tests of its own


def gold_of(codes: str) -> str:
    return "task_id,code\n" + "".join(f"{i},{code}\n" for i, code in enumerate(codes.split(), 1))


def test_document_holds_the_fields_of_the_contract(coded_run: MakeRun, write_gold: WriteGold) -> None:
    document = evaluate(coded_run("E0 E1 E2 E0"), read_gold_csv(write_gold(gold_of("E0 E1 E0 E2"))))
    data = json.loads(document.model_dump_json())
    assert {
        "run",
        "gold",
        "matched",
        "unmatched",
        "settings",
        "measures",
        "occupations",
        "yardsticks",
        "verdict",
    } < set(data)
    assert set(data) == {
        *("run", "gold", "matched", "unmatched", "settings", "measures", "occupations", "yardsticks", "verdict"),
        *("coherence", "gold_sha256", "sources", "asked", "unanswered", "text_changed", "model", "weighted"),
        *("selected", "intervals", "slices", "debiased", "calibration"),
        *("warnings", "models", "by_model", "repeats_from_cache", "texts_replaced", "gold_by"),
    }
    assert list(data["settings"]) == ["strict", "with-tools", "three-way"]
    assert set(data["settings"]["strict"]) == {
        *("n", "accuracy", "kappa", "kappa_quadratic", "krippendorff_nominal", "krippendorff_ordinal"),
        *("ac1", "macro_f1", "labels", "confusion", "prevalence", "ci95"),
    }
    assert list(data["settings"]["three-way"]["confusion"]) == ["E0", "E2", "E1"]
    assert data["settings"]["three-way"]["confusion"]["E0"] == {"E0": 1, "E2": 1, "E1": 0}
    assert set(data["measures"]["beta"]) == {
        *("n", "agreement", "pearson", "mean", "gold_mean", "difference", "ci95"),
    }
    assert data["matched"] == 4
    assert data["unmatched"] == {"not-in-gold": 0, "not-in-run": 0, "no-label-in-run": 0, "no-label-in-gold": 0}
    assert len(data["gold_sha256"]) == 64
    assert data["sources"]["gold"][0]["source"] == "file"
    assert data["sources"]["gold"][0]["file"] == "gold.csv"
    assert (data["asked"], data["unanswered"]) == (4, {"strict": 0, "with-tools": 0, "three-way": 0})
    assert data["text_changed"] is None


def test_document_reads_back_as_it_was_written(coded_run: MakeRun, write_gold: WriteGold) -> None:
    document = evaluate(coded_run("E0 E1"), read_gold_csv(write_gold(gold_of("E1 E1"))))
    assert EvalDocument.model_validate_json(document.model_dump_json()) == document
    with pytest.raises(ValidationError):
        document.run = "other"  # pyright: ignore[reportAttributeAccessIssue]  frozen


def test_measures_are_worked_out_by_hand(coded_run: MakeRun, write_gold: WriteGold) -> None:
    document = evaluate(coded_run("E0 E1 E2 E0"), read_gold_csv(write_gold(gold_of("E0 E1 E0 E2"))))
    alpha, beta, gamma = (document.measures[m] for m in ("alpha", "beta", "gamma"))
    assert (alpha.agreement, beta.agreement, gamma.agreement) == (1.0, 0.5, 0.5)
    assert (alpha.mean, beta.mean, gamma.mean) == (0.25, 0.375, 0.5)
    assert (alpha.gold_mean, beta.gold_mean, gamma.gold_mean) == (0.25, 0.375, 0.5)
    assert alpha.pearson == pytest.approx(1.0)
    # Run 0 1 .5 0, gold 0 1 0 .5; mean .375: covariance .25 + ..., by the definition.
    run, gold = [0, 1, 0.5, 0], [0, 1, 0, 0.5]
    top = sum((r - 0.375) * (g - 0.375) for r, g in zip(run, gold, strict=True))
    assert beta.pearson == pytest.approx(top / sum((r - 0.375) ** 2 for r in run))
    assert gamma.pearson == pytest.approx(0.0)


def test_a_strict_only_run_has_strict_and_alpha_only(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, str(i)): {"strict": YES if i < 3 else NO} for i in range(1, 5)}, settings=["strict"])
    document = evaluate(run, read_gold_csv(write_gold(gold_of("E1 E2 E0 E1"))))
    data = json.loads(document.model_dump_json())
    assert list(data["settings"]) == ["strict"]
    assert list(data["measures"]) == ["alpha"]
    assert set(data["occupations"]) == {"n", "weights", "alpha"}
    assert list(data["yardsticks"]["majority"]) == ["strict"]
    assert data["settings"]["strict"]["accuracy"] == 0.5
    assert data["coherence"] == {"incoherent": 0, "of": 0}


def test_incoherent_pairs_are_counted_and_taken_as_e1(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run(
        {
            (A, "1"): {"strict": YES, "with-tools": NO},
            (A, "2"): {"strict": YES, "with-tools": YES},
            (A, "3"): {"strict": NO, "with-tools": NO},
        }
    )
    document = evaluate(run, read_gold_csv(write_gold(gold_of("E1 E1 E0"))))
    assert document.coherence.model_dump() == {"incoherent": 1, "of": 3}
    assert document.settings["three-way"].accuracy == 1.0
    assert document.settings["with-tools"].accuracy == pytest.approx(2 / 3)
    assert document.measures["gamma"].agreement == 1.0


def test_undefined_figures_are_null(coded_run: MakeRun, write_gold: WriteGold) -> None:
    document = evaluate(coded_run("E0 E0 E0"), read_gold_csv(write_gold(gold_of("E0 E0 E0"))))
    text = document.model_dump_json()
    assert "NaN" not in text
    strict = json.loads(text)["settings"]["strict"]
    assert strict["accuracy"] == 1.0
    for name in ("kappa", "kappa_quadratic", "krippendorff_nominal", "krippendorff_ordinal", "ac1", "macro_f1"):
        assert strict[name] is None
    assert document.measures["beta"].pearson is None
    assert document.yardsticks.majority["three-way"].kappa is None
    assert document.occupations.alpha is not None
    assert document.occupations.alpha.pearson is None
    assert document.occupations.alpha.mean_abs_difference == 0.0


def test_occupations_are_plain_means_of_their_tasks(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run(
        {
            (A, "1"): {"three-way": "E1"},
            (A, "2"): {"three-way": "E0"},
            (B, "1"): {"three-way": "E0"},
            (C, "1"): {"three-way": "E2"},
        },
        rubric="eloundou",
    )
    gold = f"task_id,onet_soc_code,code\n1,{A},E1\n2,{A},E1\n1,{B},E0\n1,{C},E0\n"
    found = evaluate(run, read_gold_csv(write_gold(gold))).occupations
    assert (found.n, found.weights) == (3, "equal")
    assert found.alpha is not None
    assert found.gamma is not None
    # alpha: run .5 0 0, gold 1 0 0; gamma: run .5 0 1, gold 1 0 0.
    assert found.alpha.mean_abs_difference == pytest.approx(0.5 / 3)
    assert found.alpha.pearson == pytest.approx(1.0)
    assert found.gamma.mean_abs_difference == pytest.approx(0.5)
    assert found.gamma.pearson == pytest.approx(0.0)
    assert found.gamma.spearman == pytest.approx(0.0)


def test_majority_is_the_most_frequent_label_of_the_gold_on_the_compared_tasks(
    coded_run: MakeRun, write_gold: WriteGold
) -> None:
    text = gold_of("E2 E2 E0") + "8,E0\n9,E0\n"
    majority = evaluate(coded_run("E0 E0 E0"), read_gold_csv(write_gold(text))).yardsticks.majority
    assert majority["three-way"].model_dump() == {
        "label": "E2",
        "accuracy": pytest.approx(2 / 3),
        "kappa": 0.0,
        "difference": pytest.approx(-1 / 3),
        "ci95": {"difference": None},  # one occupation
    }
    assert majority["strict"].model_dump() == {
        "label": "not-exposed",
        "accuracy": 1.0,
        "kappa": None,
        "difference": 0.0,
        "ci95": {"difference": (0.0, 0.0)},  # the run says the very same
    }


def test_the_gold_against_itself_says_nothing() -> None:
    document = evaluate(open_run("sample"), load_gold("sample"))
    assert document.settings["three-way"].accuracy == 1.0
    assert document.verdict == "The run is the gold itself: full agreement says nothing about it."


def test_a_gold_that_is_the_run_is_told_under_whatever_name(
    coded_run: MakeRun, write_gold: WriteGold, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = "E0 E1 E2 E0 E0 " * 5
    run = coded_run(codes, name="mine")
    assert run.folder is not None
    monkeypatch.chdir(run.folder.parent)
    assert "The run is the gold itself" in evaluate(run, load_gold("./mine")).verdict
    lines = gold_of(codes).replace("\n", f",{A}\n").replace(f"code,{A}", "code,onet_soc_code")
    copied = read_gold_csv(write_gold(lines))
    said = "have the same label on all 25 tasks: if one is a copy of the other, their agreement says nothing."
    assert said in evaluate(run, copied).verdict
    other = coded_run("E1 " + codes[3:], name="other")
    assert said not in evaluate(other, copied).verdict
    assert compare(run, other, copied, draws=200).verdict.count(said) == 1
    # A perfect score on few tasks is no reason for doubt.
    assert said.replace("25", "5") not in evaluate(run, read_gold_csv(write_gold(gold_of(codes[:14])))).verdict


@pytest.fixture(scope="module")
def gpt4_against_humans() -> EvalDocument:
    return evaluate(open_run("eloundou-2023:gpt4"), load_gold("eloundou-2023:human"))


@pytest.mark.mirror
def test_gpt4_against_humans_gives_the_known_figures(gpt4_against_humans: EvalDocument) -> None:
    document = gpt4_against_humans
    assert document.matched == 19265
    assert set(document.unmatched.values()) == {0}
    found = document.settings["three-way"]
    assert found.n == 19265
    assert found.accuracy == pytest.approx(0.6564, abs=5e-5)
    assert found.kappa == pytest.approx(0.4367, abs=5e-5)
    assert found.kappa_quadratic == pytest.approx(0.5866, abs=5e-5)
    assert found.krippendorff_nominal == pytest.approx(0.4328, abs=5e-5)
    assert found.krippendorff_ordinal == pytest.approx(0.6288, abs=5e-5)
    assert {code: label.f1 for code, label in found.labels.items()} == pytest.approx(
        {"E0": 0.817, "E2": 0.570, "E1": 0.335}, abs=5e-4
    )
    agreement = {measure: of.agreement for measure, of in document.measures.items()}
    assert agreement == pytest.approx({"alpha": 0.808, "beta": 0.656, "gamma": 0.821}, abs=5e-4)
    pearson = {measure: of.pearson for measure, of in document.measures.items()}
    assert pearson == pytest.approx({"alpha": 0.223, "beta": 0.591, "gamma": 0.654}, abs=5e-4)
    assert document.occupations.n == 923


@pytest.mark.mirror
def test_swapping_run_and_gold_swaps_precision_and_recall_and_keeps_agreement(
    gpt4_against_humans: EvalDocument,
) -> None:
    one = gpt4_against_humans.settings["three-way"]
    swapped = evaluate(open_run("eloundou-2023:human"), load_gold("eloundou-2023:gpt4"), draws=0)
    assert swapped.text_changed == 0
    other = swapped.settings["three-way"]
    assert one.kappa == pytest.approx(other.kappa)
    assert one.ac1 == pytest.approx(other.ac1)
    assert one.labels["E2"].precision == pytest.approx(other.labels["E2"].recall)


@pytest.mark.mirror
def test_tasks_that_2023_did_not_have_are_counted(make_run: MakeRun) -> None:
    labels = {("11-1011.00", "8823"): {"three-way": "E2"}, ("11-1011.00", "99999999"): {"three-way": "E0"}}
    document = evaluate(make_run(labels, rubric="eloundou"), load_gold("eloundou-2023:gpt4"))
    assert document.matched == 1
    assert document.unmatched["not-in-gold"] == 1
    assert document.unmatched["not-in-run"] == 19264


def test_missing_answers_are_counted_by_setting(make_run: MakeRun, write_gold: WriteGold) -> None:
    answers = {(A, str(i)): {"strict": NO, "with-tools": YES} if i < 3 else {"strict": NO} for i in range(1, 6)}
    failed = [(A, "4", "with-tools"), (A, "5", "with-tools"), (A, "6", "strict"), (A, "6", "with-tools")]
    document = evaluate(make_run(answers, failed=failed), read_gold_csv(write_gold(gold_of("E2 E2 E0 E0 E1 E0"))))
    assert document.asked == 6
    assert document.unanswered == {"strict": 1, "with-tools": 4, "three-way": 4}
    assert document.verdict.splitlines()[0].startswith(
        "Of the 6 tasks asked, 1 (17%) have no strict label, 4 (67%) have no with-tools label, 4 (67%) have no three-way label"
    )


def test_tasks_that_a_stopped_run_never_got_to_are_missing_answers(make_run: MakeRun, write_gold: WriteGold) -> None:
    run = make_run({(A, "1"): {"strict": NO, "with-tools": YES}}, status="interrupted", counts={"asked": 20})
    document = evaluate(run, read_gold_csv(write_gold(gold_of("E2"))))
    assert (document.asked, document.unanswered["strict"]) == (10, 9)


def test_measures_are_the_rubric_s(make_run: MakeRun, write_gold: WriteGold) -> None:
    rubric = load_rubric("eloundou")
    measures = {measure: dict(values) for measure, values in rubric.measures.items()}
    measures["beta"]["E2"] = 0.2
    changed = Rubric.model_validate(rubric.model_dump() | {"measures": measures})
    run = make_run({(A, "1"): {"three-way": "E2"}, (A, "2"): {"three-way": "E1"}}, rubric=changed)
    beta = evaluate(run, read_gold_csv(write_gold(gold_of("E0 E2")))).measures["beta"]
    assert (beta.mean, beta.gold_mean) == (pytest.approx(0.6), pytest.approx(0.1))


def test_one_occupation_or_a_lucky_few_do_not_beat_the_majority(make_run: MakeRun, write_gold: WriteGold) -> None:
    codes = ["E0"] * 6 + ["E1"] * 4
    gold = "task_id,onet_soc_code,code\n" + "".join(f"{i},{A},{code}\n" for i, code in enumerate(codes))
    run = make_run({(A, str(i)): {"three-way": code} for i, code in enumerate(codes)}, rubric="eloundou")
    assert (
        "strict: not shown to differ from always answering not-exposed (accuracy"
        in evaluate(run, read_gold_csv(write_gold(gold))).verdict
    )


@pytest.mark.mirror
def test_the_error_of_accuracy_is_clustered_by_occupation() -> None:
    aligned = match(open_run("eloundou-2023:gpt4"), load_gold("eloundou-2023:human")).with_draws(2000, 0)
    # .0035 if tasks were independent.
    assert aligned.pair("three-way").figure("accuracy").draws.std() == pytest.approx(0.0059, abs=2e-4)


@pytest.mark.mirror
def test_texts_that_changed_since_2023_are_counted(make_run: MakeRun) -> None:
    codes = task_table("onet-30.2")[["onet_soc_code", "task_id"]].itertuples(index=False, name=None)
    run = make_run({key: {"three-way": "E0"} for key in codes}, rubric="eloundou", tasks="onet-30.2")
    document = evaluate(run, load_gold("eloundou-2023:gpt4"), draws=0)
    assert (document.matched, document.text_changed) == (18739, 58)


def test_texts_that_are_not_at_hand_are_not_fetched(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("RELABEL_DATA_MIRROR", str(tmp_path / "mirror"))
    run = make_run({(A, "1"): {"three-way": "E0"}}, rubric="eloundou", tasks="onet-30.2")
    gold = load_gold("sample")
    about = gold.table.assign(onet_soc_code=A, task_id=[str(n) for n in range(1, 1 + len(gold.table))])
    assert match(run, replace(gold, tasks="eloundou-2023", table=about)).text_changed is None
