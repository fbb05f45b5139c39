"""Eval suites: YAML files that say against which gold a run is measured, on which tasks, and where the gates are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from relabel.errors import DataError, first_error
from relabel.evaluation.document import SCALES, SettingName
from relabel.evaluation.statistics import FIGURES
from relabel.rubric import Measure
from relabel.settings import Frozen, asset_dir
from relabel.yaml_files import read_user_yaml

MeasureMetric = Literal["agreement", "pearson", "mean", "mean_difference"]
CountMetric = Literal["coverage", "incoherent"]
FamilyRule = Literal["joint", "bonferroni", "none"]
TaskType = Literal["Core", "Supplemental"]

COUNTS: tuple[CountMetric, ...] = ("coverage", "incoherent")

_PLAINLY: Mapping[str, str] = {
    "extra_forbidden": "is not a known key here; correct or remove it",
    "missing": "is missing",
    "too_short": "must not be empty",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
}
"""What is wrong with a key, by pydantic's name of the error, where its own words speak of its insides."""


class Slice(Frozen):
    """Some of the tasks; all conditions that are given must hold.

    Attributes:
        soc_major: SOC major groups, the first two digits of the occupation's code.
        task_type: O*NET's task types.
        importance: Lowest importance rating (IM, 1-5).
        max_importance: Highest importance rating, itself excluded.
    """

    soc_major: tuple[str, ...] = ()
    task_type: tuple[TaskType, ...] = ()
    importance: float | None = Field(default=None, ge=1, le=5)
    max_importance: float | None = Field(default=None, ge=1, le=5)

    @field_validator("soc_major", mode="before")
    @classmethod
    def _two_digits(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError('must be a list such as ["11", "13"]')
        groups = [str(group) for group in value]
        for group in groups:
            if len(group) != 2 or not group.isdecimal():
                raise ValueError(f"{group!r} is not a SOC major group; give two digits, such as 15")
        return tuple(groups)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
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
        run: A published set, a name under `runs/`, or a folder: relative to the suite's file, else to where one is.
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
        max_drop: The figure may fall below the baseline's by this; fails when the whole interval of the paired change
            lies below `-max_drop`.
        slice: Name of a slice of the suite; by default all tasks.
        why: A reason for people, shown when the gate fails.
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
            if self.measure is not None or (self.metric == "incoherent" and self.setting is not None):
                raise ValueError(f"{self.metric} is a share of the run's tasks; take measure and setting away")
            if self.max_drop is not None or self.slice is not None:
                raise ValueError(f"{self.metric} is a count over the whole run; give min or max, and no slice")
        elif (self.setting is None) == (self.measure is None):
            raise ValueError(f"{self.metric} needs either setting or measure")
        elif self.setting is not None:
            _check_setting_metric(self.metric, self.setting)
        elif self.metric not in MeasureMetric.__args__:
            raise ValueError(
                f"metric: {self.metric!r} is not a figure of a measure; use {_either(MeasureMetric.__args__)}"
            )
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("has no threshold; give min, max or max_drop")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so that no run can pass; change one of them")
        if self.metric == "mean_difference" and self.max_drop is not None:
            raise ValueError("max_drop has no meaning for mean_difference, of which 0 is best; give min and max")
        return self


class Suite(Frozen):
    """What a run must reach.

    Attributes:
        name: Short name.
        title: What the suite is for, in a line.
        gold: The gold, as for `relabel eval --gold`; a CSV file relative to the suite's file, else to where one is.
        gold_sha256: Hash of the gold's labels; a gold with other labels is refused.
        baseline: The run that `max_drop` refers to.
        family: What is done about many gates: with `joint` or `bonferroni` all `max_drop` gates of the suite together
            fire on noise in at most one of forty runs (at level 0.95); with `none` each of them does. Earlier suites
            say `holm`, which is read as `joint`.
        level: Level of the intervals.
        draws: Draws of the bootstrap over occupations.
        seed: Its seed.
        slices: Some of the tasks, by name.
        gates: The conditions.
        path: The file that the suite was read from.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    gold: str | None = None
    gold_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    baseline: Baseline | None = None
    family: Annotated[FamilyRule, BeforeValidator(lambda rule: "joint" if rule == "holm" else rule)] = "joint"
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
                known = ", ".join(self.slices) or "none"
                raise ValueError(f"{where}: slice {gate.slice!r} is not among the suite's slices ({known})")
            if gate.max_drop is not None and self.baseline is None:
                raise ValueError(f"{where}: max_drop needs a baseline; name a run under baseline: run")
            about = (gate.metric, gate.setting, gate.measure, gate.slice)
            for other in self.gates[:number]:
                if about != (other.metric, other.setting, other.measure, other.slice):
                    continue
                if _above(gate.min, other.max) or _above(other.min, gate.max):
                    raise ValueError(
                        f"{where}: contradicts the gate {other.id}: no figure is above one's min and below the other's max"
                    )
        return self


def _above(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low > high


def load_suite(ref: str) -> Suite:
    """Read and check a suite.

    Args:
        ref: The path of a YAML file, or a name under `evals/` such as `sample`.

    Raises:
        DataError: There is no such file, or it breaks a rule; the message names file, key and reason.
    """
    path = _path(ref)
    data, _ = read_user_yaml(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: a suite is a mapping of keys such as name, gold and gates; this is not one")
    try:
        return Suite.model_validate({**data, "path": path})
    except ValidationError as error:
        raise DataError(f"{path}: {first_error(error, _PLAINLY)}") from error


def beside(suite: Suite, ref: str) -> str:
    """What a suite's file means by a path: beside the file if it is there, else as it stands."""
    near = suite.path.parent / ref
    return str(near) if near.exists() else ref


def _path(ref: str) -> Path:
    path = Path(ref)
    if path.is_file():
        return path
    shipped = asset_dir("evals") / f"{ref}.yaml"
    if path.suffix.lower() not in {".yaml", ".yml"} and shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in asset_dir("evals").glob("*.yaml")))
    raise DataError(f"there is no suite {ref!r}; give the path of a YAML file, or one of {names}")


def _check_setting_metric(metric: str, setting: SettingName) -> None:
    kind, colon, label = metric.partition(":")
    if colon and kind in {"f1", "precision", "recall"}:
        labels = SCALES[setting]
        if label not in labels:
            raise ValueError(f"metric: {label!r} is not a label of {setting}; use {_either(labels)}")
    elif metric not in FIGURES:
        known = (*FIGURES, "f1:LABEL", "precision:LABEL", "recall:LABEL")
        raise ValueError(f"metric: {metric!r} is not a figure of a setting; use {_either(known)}")


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
