"""Eval suites: YAML files that define a gold, tasks and gates for runs.

The result of a suite is written for people and CI: as Markdown, GitHub annotations and JUnit XML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from xml.etree import ElementTree as ET

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import BeforeValidator, Field, model_validator

from relabel import __version__
from relabel.errors import DataError, model_errors
from relabel.evaluation.document import SCALES, SettingName
from relabel.evaluation.statistics import FIGURES
from relabel.files import read_user_yaml
from relabel.rubric import Measure
from relabel.settings import Frozen, asset_dir
from relabel.tabular import counted, markdown_safe, signed
from relabel.tabular import figure as shown

TaskType = Literal["Core", "Supplemental"]

Kind = Literal["min", "max", "max_drop"]

COUNTS = ("coverage", "incoherent")
MEASURE_METRICS = ("agreement", "pearson", "mean", "mean_difference")


class Slice(Frozen):
    """A subset of the tasks: those that meet all given conditions.

    Attributes:
        soc_major: SOC major groups, the first two digits of the occupation's code.
        task_type: O*NET's task types.
        importance: Lowest importance rating (IM, 1-5), inclusive.
        max_importance: Highest importance rating, exclusive.
    """

    soc_major: tuple[Annotated[str, BeforeValidator(str), Field(pattern=r"^\d\d$")], ...] = ()
    task_type: tuple[TaskType, ...] = ()
    importance: float | None = Field(default=None, ge=1, le=5)
    max_importance: float | None = Field(default=None, ge=1, le=5)

    @model_validator(mode="after")
    def _has_condition(self) -> Self:
        if not (self.soc_major or self.needs_tasks):
            raise ValueError("has no condition; give soc_major, task_type, importance or max_importance")
        return self

    @property
    def needs_tasks(self) -> bool:
        """Whether the task list is needed, not only the labels."""
        return bool(self.task_type) or self.importance is not None or self.max_importance is not None


class Baseline(Frozen):
    """A pinned run that later ones are compared with.

    Attributes:
        run: A published label set, a name under `runs/`, or a folder, relative to the suite's file or the current folder.
        labels_sha256: Hash of its labels; a baseline with other labels is refused.
    """

    run: str = Field(min_length=1)
    labels_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Gate(Frozen):
    """One condition on a figure.

    Attributes:
        id: Short name, shown when the gate fails.
        setting: Setting of the figure; this or `measure`, except for `coverage` and `incoherent`.
        measure: Measure of the figure.
        metric: The figure; for a setting also `f1:LABEL`, `precision:LABEL` and `recall:LABEL`.
        min: The lower bound of the figure's interval must be at least this.
        max: The upper bound of the figure's interval must be at most this.
        max_drop: By how much the figure may fall below the baseline's; the gate fails if a permutation test shows a larger
            fall, see `gates.joint_p`.
        slice: Name of a slice of the suite; by default all tasks.
        why: An explanation, shown when the gate fails.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    setting: SettingName | None = None
    measure: Measure | None = None
    metric: str
    min: float | None = None
    max: float | None = None
    max_drop: float | None = Field(default=None, ge=0)
    slice: str | None = None
    why: str | None = None

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        if self.metric in COUNTS:
            if self.measure or self.slice or self.max_drop is not None or (self.setting and self.metric != "coverage"):
                raise ValueError(
                    f"{self.metric} is counted over the whole run; give min or max, and no measure or slice"
                )
        elif (self.setting is None) == (self.measure is None):
            raise ValueError(
                f"{self.metric} needs a setting such as three-way, or a measure such as beta, and not both"
            )
        elif self.metric not in (names := _figures_of(self.setting)):
            raise ValueError(f"metric: {self.metric!r} is not a figure of {self.about}; use one of {', '.join(names)}")
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("has no threshold; give min, max or max_drop")
        if self.metric == "mean_difference" and self.max_drop is not None:
            raise ValueError("max_drop has no meaning for mean_difference, of which 0 is best; give min and max")
        return self

    @property
    def about(self) -> SettingName | Measure | None:
        """Its setting or measure."""
        return self.setting or self.measure


def _figures_of(setting: SettingName | None) -> tuple[str, ...]:
    """Names of the figures of a setting, or of a measure."""
    if setting is None:
        return MEASURE_METRICS
    return (*FIGURES, *(f"{kind}:{label}" for kind in ("f1", "precision", "recall") for label in SCALES[setting]))


class Suite(Frozen):
    """An eval suite.

    Attributes:
        name: Short name.
        title: One line on the purpose of the suite.
        gold: The gold, as for `relabel eval --gold`; a CSV file is relative to the suite's file or the current folder.
        gold_sha256: Hash of the gold's labels; a gold with other labels is refused.
        baseline: The run that `max_drop` refers to.
        family: Correction for multiple gates; there is only one: all `max_drop` gates together fail by chance in at most
            one of forty runs (at level 0.95).
        level: Level of the intervals.
        draws: Number of bootstrap draws of occupations.
        seed: Seed of the draws.
        slices: Subsets of the tasks, by name.
        gates: The conditions.
        path: The file that the suite was read from.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    gold: str | None = None
    gold_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    baseline: Baseline | None = None
    family: Literal["joint"] = "joint"
    level: float = Field(default=0.95, ge=0.5, le=0.999)
    draws: int = Field(default=2000, ge=200, le=100_000)
    seed: int = Field(default=0, ge=0)
    slices: Mapping[str, Slice] = {}
    gates: tuple[Gate, ...] = Field(min_length=1)
    path: Path = Path()

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        seen: set[str] = set()
        for number, gate in enumerate(self.gates):
            where = f"gates.{number} ({gate.id})"
            if gate.id in seen:
                raise ValueError(f"{where}: another gate has this id already; each needs its own")
            seen.add(gate.id)
            if gate.slice is not None and gate.slice not in self.slices:
                names = ", ".join(self.slices) or "none"
                raise ValueError(f"{where}: slice {gate.slice!r} is not among the suite's slices ({names})")
            if gate.max_drop is not None and self.baseline is None:
                raise ValueError(f"{where}: max_drop needs a baseline; name a run under baseline: run")
        return self

    def resolve(self, ref: str) -> str:
        """Resolve a path in the suite: relative to its file if that exists, otherwise unchanged."""
        near = self.path.parent / ref
        return str(near) if near.exists() else ref


def load_suite(ref: str) -> Suite:
    """Read and check a suite.

    Args:
        ref: The path of a YAML file, or a name under `evals/` such as `sample`.

    Raises:
        DataError: There is no such file, or it is invalid; the message names file, key and reason.
    """
    path = _suite_path(ref)
    data, _ = read_user_yaml(path, "a suite is a mapping of keys such as name, gold and gates; this is not one")
    with model_errors(f"{path}: ", words={"extra_forbidden": "is not a known key here; correct or remove it"}):
        return Suite.model_validate({**data, "path": path})


def _suite_path(ref: str) -> Path:
    path = Path(ref)
    if path.is_file():
        return path
    shipped = asset_dir("evals") / f"{ref}.yaml"
    if path.suffix.lower() not in {".yaml", ".yml"} and shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in asset_dir("evals").glob("*.yaml")))
    raise DataError(f"unknown suite {ref!r}; give the path of a YAML file, or one of {names}")


class GateResult(Frozen):
    """The outcome of one condition of a gate.

    Attributes:
        id: The gate's id.
        what: The figure in words, such as `kappa of three-way, slice core`.
        kind: Which of the gate's thresholds.
        passed: Whether the condition holds.
        judged: False if the figure or its interval cannot be computed; the gate then has not passed.
        threshold: The threshold.
        value: The figure; for `max_drop`, its paired change.
        low: Lower bound of its interval; null for plain counts.
        high: Upper bound.
        level: Level of the interval; null for plain counts.
        run: The run's own figure, for `max_drop`.
        baseline: The baseline's figure on the same tasks, for `max_drop`.
        p: For `max_drop`, the one-sided p-value of a fall by more than the threshold, from the test of this gate alone.
        p_adjusted: The p-value adjusted for the number of such gates, which decides.
        n: Number of tasks.
        message: The outcome in one sentence.
        why: The explanation in the suite.
    """

    id: str
    what: str
    kind: Kind
    passed: bool
    judged: bool = True
    threshold: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    run: float | None = None
    baseline: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    n: int
    message: str
    why: str | None = None

    @property
    def label(self) -> str:
        """Id and condition: a gate with several conditions has an outcome for each."""
        return f"{self.id} {self.kind.replace('_', ' ')}"


class SuiteResult(Frozen):
    """The outcome of a suite.

    Attributes:
        suite: The suite's name.
        title: Its title.
        run: The run, as the user named it.
        gold: The gold's name.
        gold_sha256: Hash of the gold's labels.
        baseline: The baseline, as the suite names it.
        baseline_sha256: Hash of its labels.
        family: The correction for multiple gates, in words.
        size: The size of gold that detects a fall of 3 points, in words; null without gates against the baseline.
        warnings: Caveats that apply to all outcomes.
        passed: Whether all gates passed.
        results: One entry per threshold, in the suite's order.
    """

    suite: str
    title: str
    run: str
    gold: str
    gold_sha256: str
    baseline: str | None
    baseline_sha256: str | None
    family: str
    size: str | None = None
    warnings: tuple[str, ...] = ()
    passed: bool
    results: tuple[GateResult, ...]

    @property
    def failures(self) -> tuple[GateResult, ...]:
        """The conditions that failed."""
        return tuple(result for result in self.results if not result.passed)


def gate_error(failures: Iterable[GateResult]) -> str:
    """The error message for failed gates: the first one, and the number of others."""
    first, *rest = failures
    more = f" (and {len(rest)} more)" if rest else ""
    reason = f"; {first.why.rstrip('.')}" if first.why else ""
    return f"gate {first.id} failed{more}: {first.message}{reason}"


# Control characters that XML 1.0 does not allow, not even escaped.
_ILLEGAL_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown(result: SuiteResult, verdict: str = "") -> str:
    """Write the result of a suite as Markdown, the outcome first.

    Args:
        result: The outcome.
        verdict: The eval's verdict, one sentence per line.

    Returns:
        GitHub-flavoured Markdown, in which names and texts from outside are escaped.
    """
    return re.sub(r"\n{3,}", "\n\n", render("gates.md.jinja", result=result, verdict=verdict))


def render(template: str, **context: Any) -> str:
    """Fill in a template from `templates/`: HTML templates escape all texts, Markdown templates those with the filter `text`."""
    environment = Environment(
        loader=PackageLoader("relabel.evaluation", "templates"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(text=markdown_safe, fig=shown, signed=signed, count="{:,}".format)
    return environment.get_template(template).render(version=__version__, **context).strip() + "\n"


def github_annotations(result: SuiteResult) -> list[str]:
    """GitHub's workflow commands: one error per failed condition, or one notice if all passed."""
    if result.passed:
        message = f"{counted(len(result.results), 'gate')} passed for {result.run}"
        return [f"::notice title={_escaped_property(f'relabel {result.suite}')}::{_escaped_message(message)}"]
    return [
        f"::error title={_escaped_property(f'relabel {result.suite}: {gate.id}')}::{_escaped_message(gate.message)}"
        for gate in result.failures
    ]


def _escaped_message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped_message(text).replace(":", "%3A").replace(",", "%2C")


def junit_xml(result: SuiteResult) -> str:
    """Write a suite's outcome as JUnit XML: one test case per threshold.

    Args:
        result: The outcome. A gate that could not be judged becomes an error, one that did not hold a failure.

    Returns:
        The document, with its declaration. It contains no times, so that the same outcome gives the same text.
    """
    errors = sum(not r.judged for r in result.results)
    failures = len(result.failures) - errors
    counts = {"tests": str(len(result.results)), "failures": str(failures), "errors": str(errors)}
    root = ET.Element("testsuites", {"name": "relabel", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": result.suite, **counts})
    properties = ET.SubElement(suite, "properties")
    for name in ("run", "gold", "gold_sha256", "baseline", "baseline_sha256", "family"):
        if (value := getattr(result, name)) is not None:
            ET.SubElement(properties, "property", {"name": name, "value": _xml_text(value)})
    for outcome in result.results:
        case = ET.SubElement(suite, "testcase", {"classname": f"relabel.{result.suite}", "name": outcome.label})
        if not outcome.passed:
            kind = "failure" if outcome.judged else "error"
            element = ET.SubElement(case, kind, {"message": _xml_text(outcome.message), "type": outcome.kind})
            element.text = _xml_text(outcome.why or outcome.message)
        ET.SubElement(case, "system-out").text = _xml_text(outcome.message)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _xml_text(text: str) -> str:
    return _ILLEGAL_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
