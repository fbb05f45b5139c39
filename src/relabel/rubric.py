"""Rubrics: the question, its labels and their meaning, as data from a YAML file."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from relabel.errors import RubricError, UsageError, model_errors
from relabel.files import read_user_yaml
from relabel.settings import Strict, asset_dir

Code = Literal["E0", "E1", "E2"]
Measure = Literal["alpha", "beta", "gamma"]
# What a rubric labels: task statements, or occupations as a whole.
Unit = Literal["task", "occupation"]
# The setting that asks how much of a task a model could do by itself: not a question about exposure, so it has no codes.
AUTOMATION = "automation"
# The published codes, in order of exposure.
CODES: tuple[Code, ...] = ("E0", "E2", "E1")
_ERROR_TEXTS = {"missing": "is missing; add it", "extra_forbidden": "is unknown; remove it, or correct its name"}
MEASURES: tuple[Measure, ...] = ("alpha", "beta", "gamma")


class Setting(Strict):
    """One setting of a rubric: what the worker can use, and the question asked.

    Attributes:
        anchors: What each label means in this setting, if that differs between settings.
    """

    question: str = Field(min_length=1)
    scope: str = Field(min_length=1)
    anchors: Mapping[str, str] | None = None


class Example(Strict):
    """A worked example: a made-up task, or a made-up occupation, with its label and a reason for each setting."""

    occupation: str = Field(min_length=1)
    task: str | None = Field(default=None, min_length=1)
    description: str | None = Field(default=None, min_length=1)
    labels: Mapping[str, str]
    rationale: Mapping[str, str]


class RationaleRule(Strict):
    """The instruction for a rationale: the number of words that it may have."""

    max_words: int = Field(ge=1, le=1000)


# Said of a rubric whose labels were never compared with people's.
NOT_TRIED = "not tried against people's labels"
# A share, 0-1; not strict, because YAML reads a bare 0 or 1 as a whole number.
Share = Annotated[float, Field(ge=0, le=1, strict=False)]
Kappa = Annotated[float, Field(ge=-1, le=1, strict=False)]


class Agreement(Strict):
    """Comparison of labels under a rubric with one reference set, on the same tasks.

    Attributes:
        people: Whether people gave the reference labels.
        n: Number of tasks compared, if not all.
        rates: Share of tasks (0-1) that the reference set labels exposed, by setting.
        kappa: Cohen's kappa with the reference, by setting (`strict`, `with-tools`, `three-way`).
    """

    people: bool
    n: int | None = Field(default=None, ge=1)
    rates: Mapping[str, Share] = {}
    kappa: Mapping[str, Kappa] = {}


class Study(Strict):
    """One trial of a rubric: who labelled what with it, and how that compares with reference labels.

    Attributes:
        study: Name of the trial.
        raters: Who labelled.
        when: Date or month.
        tasks: Which tasks were labelled, and how they were drawn.
        n: Number of tasks.
        labels: Where the labels are kept.
        rates: Share of tasks (0-1) labelled exposed, by setting.
        golds: Comparisons by the name of the reference set.
        limits: What the trial does not show.
        wording: The `Rubric.wording` that was tried. If empty, it is not known whether the wording has changed since.
    """

    study: str = Field(min_length=1)
    raters: str = Field(min_length=1)
    when: Annotated[str, BeforeValidator(str), Field(min_length=4)]
    tasks: str = Field(min_length=1)
    n: int = Field(ge=1)
    labels: str = Field(min_length=1)
    rates: Mapping[str, Share] = {}
    golds: Mapping[str, Agreement] = {}
    limits: str = ""
    wording: str = ""

    def in_words(self, names: Mapping[str, str] = {}) -> str:
        """The trial in one line of text, with the names given for settings and golds."""

        def of_golds(figure: str, setting: str, form: str) -> str:
            values = {gold: getattr(agreement, figure).get(setting) for gold, agreement in self.golds.items()}
            return ", ".join(form.format(v, names.get(gold, gold)) for gold, v in values.items() if v is not None)

        golds = {setting: of_golds("rates", setting, "{:.0%} by {}") for setting in self.rates}
        rates = [f"{names.get(s, s)} {rate:.0%}" + f" ({golds[s]})" * bool(golds[s]) for s, rate in self.rates.items()]
        settings = dict.fromkeys(setting for agreement in self.golds.values() for setting in agreement.kappa)
        kappas = [f"{names.get(s, s)} {of_golds('kappa', s, '{:g} with {}')}" for s in settings]
        parts = [f"{self.study} ({self.when}): {self.n:,} tasks by {self.raters}"]
        parts += [f"Share exposed: {'; '.join(rates)}"] * bool(rates) + [f"Kappa: {'; '.join(kappas)}"] * bool(kappas)
        return ". ".join(parts)


class Rubric(Strict):
    """A question with its labels, settings and worked examples, and rules that turn labels into codes and measures.

    Attributes:
        id: Short name.
        version: Raised with each change of wording or meaning.
        title: What the rubric asks, in one line.
        unit: What is labelled. Labels of tasks lead to codes and measures; labels of occupations are ratings, rising whole
            numbers, and have neither.
        prompt: The template of the question: a name under `prompts/`, or a path.
        definition: What the labels mean, for all settings.
        labels: Meaning by label, for tasks from the most to the least exposed. The model is shown this order, and if
            samples tie, the later label counts.
        settings: The settings by name; each is one question per task or occupation.
        examples: Worked examples, shown to the model.
        rationale: The instruction for a rationale.
        codes: For each published code, the labels by setting that lead to it; the first code that fits counts. A rubric
            whose only setting is `automation` has neither codes nor measures.
        incoherent: A pair of labels that contradict each other, by setting; such tasks are counted and listed for review.
        measures: Value (0-1) by measure and code.
        validity: Trials of the rubric against reference labels; not part of any request.
        source: Name of the file that the rubric was read from.
        sha256: Hash of that file without its block `validity`.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    title: str = Field(min_length=1)
    unit: Unit
    prompt: str = Field(min_length=1)
    definition: str = Field(min_length=1)
    labels: Mapping[str, str] = Field(min_length=2)
    settings: Mapping[str, Setting] = Field(min_length=1)
    examples: tuple[Example, ...] = Field(default=(), strict=False)
    rationale: RationaleRule
    codes: Mapping[Code, Mapping[str, str]] = {}
    incoherent: Mapping[str, str] | None = None
    measures: Mapping[Measure, Mapping[Code, float]] = {}
    validity: tuple[Study, ...] = Field(default=(), strict=False)
    source: str = ""
    sha256: str = ""

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        self._check_scale()
        self._check_examples()
        self._check_codes()
        return self

    def _check_scale(self) -> None:
        shown = ", ".join(self.labels)
        if (
            self.unit == "task"
            and {"strict", "with-tools"} & set(self.settings)
            and set(self.labels) != {"exposed", "not-exposed"}
        ):
            raise ValueError(f"labels: strict and with-tools are answered exposed or not-exposed, not {shown}")
        for name, setting in self.settings.items():
            if setting.anchors is not None and tuple(setting.anchors) != tuple(self.labels):
                raise ValueError(f"settings.{name}.anchors: must name each label once, in their order ({shown})")
        # Ratings are added up, so they must be numbers, and a scale shown out of order would mislead.
        if self.unit == "occupation" and not _are_rising_numbers(tuple(self.labels)):
            raise ValueError(f"labels: ratings of occupations are whole numbers that rise, such as 1 to 5, not {shown}")

    def _check_examples(self) -> None:
        wanted, other = ("task", "description") if self.unit == "task" else ("description", "task")
        for number, example in enumerate(self.examples):
            if getattr(example, wanted) is None:
                raise ValueError(f"examples.{number}.{wanted}: is missing; the unit of this rubric is {self.unit}")
            if getattr(example, other) is not None:
                raise ValueError(f"examples.{number}.{other}: does not apply to the unit {self.unit}; remove it")
            for key, by_setting in (("labels", example.labels), ("rationale", example.rationale)):
                if set(by_setting) != set(self.settings):
                    names = ", ".join(self.settings)
                    raise ValueError(f"examples.{number}.{key}: must name each setting once ({names})")
            self._check_labels(f"examples.{number}.labels", example.labels)

    def _check_codes(self) -> None:
        exposure = self.unit == "task" and set(self.settings) != {AUTOMATION}
        for key in ("codes", "measures", "incoherent"):
            if not exposure and getattr(self, key):
                raise ValueError(f"{key}: applies to labels of exposure, and not to ratings or automation; remove it")
            if exposure and key != "incoherent" and not getattr(self, key):
                raise ValueError(f"{key}: is missing")
        if not exposure:
            return
        for code, conditions in self.codes.items():
            self._check_labels(f"codes.{code}", conditions)
        if self.incoherent is not None:
            self._check_labels("incoherent", self.incoherent)
        for answers in itertools.product(self.labels, repeat=len(self.settings)):
            pair = dict(zip(self.settings, answers, strict=True))
            if self.code(pair) is None:
                answers_text = ", ".join(f"{setting}: {label}" for setting, label in pair.items())
                raise ValueError(f"codes: no code fits the answers {answers_text}")
        for measure in MEASURES:
            if measure not in self.measures:
                raise ValueError(f"measures.{measure}: is missing")
            for code in self.codes:
                value = self.measures[measure].get(code)
                if value is None or not 0 <= value <= 1:
                    raise ValueError(f"measures.{measure}.{code}: must be a number from 0 to 1, not {value}")
        for code in self.codes:
            values = [self.measures[m][code] for m in MEASURES]
            if values != sorted(values):
                raise ValueError(f"measures: alpha <= beta <= gamma must hold for {code}, found {values}")

    def _check_labels(self, key: str, labels: Mapping[str, str]) -> None:
        for setting, label in labels.items():
            if setting not in self.settings:
                raise ValueError(f"{key}.{setting}: is not a setting of this rubric ({', '.join(self.settings)})")
            if label not in self.labels:
                raise ValueError(f"{key}.{setting}: {label!r} is not a label of this rubric ({', '.join(self.labels)})")

    @property
    def wording(self) -> str:
        """Hash of what a model is shown: 16 hexadecimal digits that id, version, title, codes and trials do not change."""
        shown = self.model_dump(include={"prompt", "definition", "labels", "settings", "examples", "rationale"})
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]

    @property
    def tried(self) -> bool:
        """Whether labels under this rubric have been compared with people's, in its present wording as far as recorded."""
        trials = [study for study in self.validity if study.wording in {"", self.wording}]
        return any(gold.people for study in trials for gold in study.golds.values())

    def validity_in_words(self, names: Mapping[str, str] = {}) -> list[str]:
        """What is known of the rubric's validity: a line per trial, with `names` as there, and `NOT_TRIED` if not `tried`."""
        notes = {self.wording: "", "": " (the trial does not record which wording it tried)"}
        other = " (a trial of another wording: this one may do better or worse)"
        lines = [study.in_words(names) + notes.get(study.wording, other) for study in self.validity]
        return lines if self.tried else [*lines, NOT_TRIED]

    def code(self, labels: Mapping[str, str]) -> Code | None:
        """The published code of a task from its labels by setting; None if no code fits, as when labels are missing."""
        for code, conditions in self.codes.items():
            if all(labels.get(setting) == label for setting, label in conditions.items()):
                return code
        return None


class Order(NamedTuple):
    """An order in which to show a rubric's labels and worked examples; examples are given by their index in the rubric."""

    labels: tuple[str, ...]
    examples: tuple[int, ...]


def orders(rubric: Rubric, variants: int, *, seed: int, examples: bool = True) -> tuple[Order, ...]:
    """Different orders in which to show a rubric: its own first, then others drawn at random.

    The labels of occupations are rising ratings, so they keep their order.

    Args:
        rubric: The rubric.
        variants: Number of orders.
        seed: Seed of the draw; with the same seed, a longer result begins with the shorter one.
        examples: Whether the examples are shown.

    Raises:
        UsageError: The rubric has fewer orders than that.
    """
    own = Order(tuple(rubric.labels), tuple(range(len(rubric.examples))))
    move_labels, move_examples = rubric.unit == "task", examples and len(rubric.examples) > 1
    most = math.factorial(len(own.labels) * move_labels) * math.factorial(len(own.examples) * move_examples)
    if variants > most:
        raise UsageError(f"the rubric {rubric.id} has {most} order{'s' * (most > 1)}; give at most --variants {most}")
    draw, drawn = random.Random(seed), [own]  # noqa: S311  an order of words, not a secret
    while len(drawn) < variants:
        labels, places = list(own.labels), list(own.examples)
        if move_labels:
            draw.shuffle(labels)
        if move_examples:
            draw.shuffle(places)
        if (new := Order(tuple(labels), tuple(places))) not in drawn:
            drawn.append(new)
    return tuple(drawn)


def reordered(rubric: Rubric, order: Order) -> Rubric:
    """The rubric with labels and examples in another order; its hash covers the order too, unless it is the rubric's own."""
    if order == Order(tuple(rubric.labels), tuple(range(len(rubric.examples)))):
        return rubric
    return rubric.model_copy(
        update={
            "labels": {label: rubric.labels[label] for label in order.labels},
            "examples": tuple(rubric.examples[place] for place in order.examples),
            "sha256": hashlib.sha256(f"{rubric.sha256}{order}".encode()).hexdigest(),
        }
    )


def _are_rising_numbers(labels: tuple[str, ...]) -> bool:
    plain = all(label.isascii() and label.isdigit() and label == str(int(label)) for label in labels)
    return plain and all(int(low) < int(high) for low, high in itertools.pairwise(labels))


def rubric_path(ref: str) -> Path:
    """Find a rubric's file.

    Args:
        ref: A name under `rubrics/`, with or without a version as in `exposure@1`, or the path of a YAML file.

    Raises:
        RubricError: There is no such rubric.
    """
    path = Path(ref)
    if path.suffix.lower() in {".yaml", ".yml"}:
        if not path.is_file():
            raise RubricError(f"rubric file {path} was not found; give the path of a YAML file")
        return path
    folder, (name, _, version) = asset_dir("rubrics"), ref.partition("@")
    for stem in (ref, name) if version else (ref,):
        if stem in rubric_names() and (stem == ref or f"version: {version}" in _lines(folder / f"{stem}.yaml")):
            return folder / f"{stem}.yaml"
    raise RubricError(f"unknown rubric {ref!r}; use one of {', '.join(rubric_names())}, or the path of a YAML file")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def rubric_names() -> list[str]:
    """Names of the rubrics that ship with relabel: the current version by name alone, older ones as `NAME@VERSION`."""
    return sorted(p.stem for p in asset_dir("rubrics").glob("*.yaml"))


# The block `validity` of a file, which is not part of the question.
_VALIDITY = re.compile(rb"^validity:.*\n?(?:(?:[ \t#-].*|\r?)(?:\n|\Z))*", re.MULTILINE)


def load_rubric(ref: str) -> Rubric:
    """Read and check a rubric.

    Args:
        ref: A name under `rubrics/`, with or without a version as in `exposure@1`, or the path of a YAML file.

    Raises:
        RubricError: The file is missing or breaks a rule; the message names file, key and reason.
    """
    path = rubric_path(ref)
    form = "a rubric is a mapping of keys such as id, labels and settings; this is not one"
    data, raw = read_user_yaml(path, form, refuse=RubricError, ships=path.parent == asset_dir("rubrics"))
    for key in ("source", "sha256"):
        if key in data:
            raise RubricError(f"{path}: {key}: is set by relabel; remove it")
    with model_errors(f"{path}: ", words=_ERROR_TEXTS, refuse=RubricError):
        sha256 = hashlib.sha256(_VALIDITY.sub(b"", raw, count=1)).hexdigest()
        rubric = Rubric.model_validate(data | {"source": path.name, "sha256": sha256})
    _refuse_copied_name(path, rubric)
    return rubric


def _refuse_copied_name(path: Path, rubric: Rubric) -> None:
    """Refuse a file that has the id and version of one of our rubrics but another text: its labels would be mistaken for ours."""
    folder = asset_dir("rubrics")
    if path.resolve().parent == folder.resolve():
        return
    for name in rubric_names():
        if f"id: {rubric.id}" not in _lines(folder / f"{name}.yaml"):
            continue
        ours = load_rubric(name)
        excluded = {"validity", "source", "sha256"}
        if (ours.id, ours.version) == (rubric.id, rubric.version) and (
            ours.model_dump(exclude=excluded) != rubric.model_dump(exclude=excluded)
        ):
            raise RubricError(
                f"{path} has the id {rubric.id} and the version {rubric.version} of a rubric of relabel with another text; give "
                "it an id of its own, as `relabel rubric new NAME` does"
            )


_HEAD = re.compile(r"^(id|version|title):.*$", re.MULTILINE)
_NAME = re.compile(r"[a-z][a-z0-9-]*")


def new_rubric(name: str, base: str = "exposure") -> str:
    """The YAML text of a new rubric: a copy of another one with its own id, as version 1, without its trials.

    Args:
        name: Id of the new rubric.
        base: The rubric to copy, as for `load_rubric`.

    Raises:
        RubricError: The rubric to copy does not exist or is malformed.
        UsageError: The name is not a valid id, or is the name of one of relabel's rubrics.
    """
    if not _NAME.fullmatch(name) or name in rubric_names():
        names = ", ".join(rubric_names())
        raise UsageError(f"{name!r} cannot name a rubric: use small letters, digits and hyphens, but none of {names}")
    other = load_rubric(base)
    text = _VALIDITY.sub(b"", rubric_path(base).read_bytes().removeprefix(b"\xef\xbb\xbf"), count=1).decode()
    body = text[re.search(r"^(?!#|\s*$)", text, re.MULTILINE).start() :]  # pyright: ignore[reportOptionalMemberAccess]  # a rubric has keys
    head = {"id": name, "version": "1", "title": f"{name}, made from {other.id} version {other.version}"}
    written = _HEAD.sub(lambda key: f"{key[1]}: {head[key[1]]}", body)
    return f"# Change the texts below in your own words; raise the version whenever one of them changes.\n{written}"


_STOP_WORDS = re.compile(
    r"(a|an|and|are|as|at|be|by|for|from|in|into|is|it|its|of|on|or|other|such|than|that|the|their|them|they|this|to|with)"
)
# Share of common words at which two statements count as the same task; the shipped examples reach .38 at most.
_ALIKE = 0.6
# A statement counts as contained in a longer one if they share this part of its words, and at least so many.
_CONTAINED = 0.85
_FEWEST_WORDS = 5
_NEGATION = re.compile(
    r"\b(no|not|non|none|never|nothing|no(?:body)|neither|nor|cannot|without|lacks?|lacking|unable|incapable|fails?|refuse[ds]?|"
    r"hardly|barely|scarcely|rarely|seldom|impossible|inaccessible|unavailable|unknown|excluded|barred|blocked|banned|forbidden|"
    r"prohibited|little more than|closed to|off limits|(limited|restricted|confined) to|(blind|deaf|prone) to|ignorant of|"
    r"out of (its |their |the model's )?(reach|scope|bounds)|(outside|beyond) (its|their|the model's))\b|n't\b"
)
_COPULA = re.compile(r"\b(is|are|be|stays?|remains?|lies?)\b")
# Words for the help. After one of these, a negation does not apply to the list before it.
_HELP = re.compile(r"\b(it|they|model|models|worker|workers|assistant|help|software|user)\b")
# Ends of a clause, where the effect of a negation ends.
_BUT = re.compile(r"[.;:!?]\s|\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\byet\b|\bexcept\b")
_MOSTLY_NEGATIVE = 2 / 3


def rubric_warnings(rubric: Rubric, tasks: Mapping[str, Iterable[str]]) -> list[str]:
    """Problems to expect from a rubric's text, found before anything is labelled with it.

    Args:
        rubric: A rubric.
        tasks: Texts of the tasks of reference labels, by the name of their list.

    Returns:
        One sentence for each setting whose worked examples all have the same label, for each setting whose text mainly says
        what the help cannot do, and for each example that is too similar to a task of reference labels.
    """
    warnings: list[str] = []
    for setting, asked in rubric.settings.items():
        labels = {example.labels[setting] for example in rubric.examples}
        if len(labels) == 1:
            warnings.append(f"settings.{setting}: all worked examples are labelled {labels.pop()}; add others")
        clauses = list(_clauses(asked.scope))
        if clauses and sum(clauses) >= _MOSTLY_NEGATIVE * len(clauses):
            warnings.append(
                f"settings.{setting}.scope: {sum(clauses)} of {len(clauses)} parts say what the help cannot do and few what it "
                "can, so too few tasks will be labelled exposed; say what it can do"
            )
    shown = [(f"examples.{n}", _words(e.task)) for n, e in enumerate(rubric.examples) if e.task]
    for name, texts in tasks.items():
        word_sets = [(text, _words(text)) for text in texts] if shown else []
        for place, words in shown:
            text = next((text for text, other in word_sets if _alike(words, other)), None)
            if text is not None:
                warnings.append(f"{place}.task: is too close to the task {text[:80]!r} of {name}; use a made-up task")
    return warnings


def _clauses(text: str) -> Iterator[bool]:
    """For each part of a text between commas, `and` and the ends of clauses, whether it is negative.

    A negation applies to the rest of its clause (`cannot see images, open files, or search`), and also to a list before it
    (`images, files and the web are out of its reach`).
    """
    for sentence in _BUT.split(" ".join(text.casefold().split()) + " "):
        parts = [part for part in re.split(r",|\band\b", sentence) if part.strip()]
        first = next((n for n, part in enumerate(parts) if _NEGATION.search(part)), len(parts))
        if first < len(parts) and _COPULA.search(parts[first]) and not any(map(_HELP.search, parts[:first])):
            first = 0
        yield from (n >= first for n in range(len(parts)))


def _words(text: str) -> frozenset[str]:
    """The words that carry the meaning, cut to six letters."""
    return frozenset(word[:6] for word in re.findall(r"\w+", text.casefold()) if not _STOP_WORDS.fullmatch(word))


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    common = len(first & second)
    part = common >= _FEWEST_WORDS and common >= _CONTAINED * min(len(first), len(second))
    return part or (bool(common) and common >= _ALIKE * len(first | second))
