"""The study file: tasks, raters, reference labels, scoring and output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from relabel.errors import DataError, model_errors
from relabel.files import os_errors, read_user_yaml, write_whole, yaml_line
from relabel.scoring.options import Choices
from relabel.settings import Strict

Positive = Annotated[float, Field(gt=0)]
_ERROR_TEXTS = {
    "extra_forbidden": "is not a key of a study file; remove it, or correct its name",
    "missing": "is missing; add it",
}
# Names of rows and suffixes of columns in result tables, which no rater can have.
RESERVED_NAMES = {"pooled", "low", "high", "lowest", "highest"}
NAME = r"^[a-z0-9][a-z0-9._-]*$"


class Tasks(Strict):
    """The tasks to label.

    Attributes:
        list: Name of a task list, or the path of a CSV file.
        sample: Number of tasks to draw at random; by default all.
        seed: Seed of the draw.
        occupations: Only tasks of these O*NET-SOC codes.
    """

    list: str = Field(default="onet-30.2", min_length=1)
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    occupations: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Rater(Strict):
    """One rater: a model to ask, a run or published label set, or a file of labels.

    Attributes:
        name: Its name in tables; lower-case letters, digits, dots, dashes and underscores.
        model: A model to ask, by its name at the provider, or `local`.
        run: A run folder, or a published label set such as `eloundou-2023:gpt4`.
        labels: A CSV or Excel file of labels made elsewhere, as for `relabel import`.
        rubric: Its rubric; by default the study's.
        provider, base_url, key_env, api, params, max_tokens, timeout, response_format: Like the options of `relabel run`.
        samples: Number of times that each question is asked, for each variant.
        variants: Number of orders of the rubric's labels and examples.
        engine: `online`, or `batch` for the provider's Batch API.
        concurrency: Maximum number of requests in flight; by default adapted while running.
        rpm, tpm: Maximum requests and tokens per minute.
        price: USD per million tokens, input and output, such as `0.25/2`; by default from the price table.
        max_cost_usd: Cap on the cost of this rater, in addition to the study's.
    """

    name: str = Field(pattern=NAME, max_length=60)
    model: str | None = Field(default=None, min_length=1)
    run: str | None = Field(default=None, min_length=1)
    labels: str | None = Field(default=None, min_length=1)
    rubric: str | None = Field(default=None, min_length=1)
    provider: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    api: Literal["chat", "responses"] = "chat"
    params: Mapping[str, Any] = {}
    max_tokens: int | None = Field(default=None, ge=1)
    timeout: Positive | None = None
    response_format: Literal["auto", "json_schema", "json_object", "text"] = "auto"
    samples: int = Field(default=1, ge=1, le=10_000)
    variants: int = Field(default=1, ge=1)
    engine: Literal["online", "batch"] = "online"
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    rpm: Positive | None = None
    tpm: Positive | None = None
    price: str | None = None
    max_cost_usd: Positive | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("model", "run", "labels") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"the rater {self.name} needs one of model, run and labels; it has {' and '.join(kinds) or 'none'}"
            )
        if self.model is None:
            asked = {"name", "rubric", *kinds}
            if idle := sorted(self.model_fields_set - asked):
                raise ValueError(
                    f"the rater {self.name} sends no request, so {', '.join(idle)} has no effect; remove it"
                )
            if self.run is not None and self.rubric is not None:
                raise ValueError(f"the rater {self.name} is a run, which has its own rubric; remove rubric")
        return self


class Scoring(Strict):
    """How occupations are scored: options of `relabel score`, and numbers of draws."""

    method: str = "bridge"
    taxonomy: str = "uk-soc2020"
    weights: str = "importance"
    links: str | None = None
    unrated: str | None = None
    pay: str | None = None
    bridge: str | None = None
    draws: int = Field(default=1000, ge=100, le=20_000)
    plausible_values: int = Field(default=20, ge=0, le=1000)

    @cached_property
    def choices(self) -> Choices:
        """The options of the score table.

        Raises:
            UsageError: An option is unknown, or two cannot be combined.
        """
        return Choices(**self.model_dump(exclude={"draws", "plausible_values"}))


class Study(Strict):
    """A study file, version 1.

    Attributes:
        study: Version of the format.
        title: Its title.
        tasks: The tasks to label, or just the name of a task list.
        rubric: The rubric of all raters without their own.
        settings: Settings to ask; by default all of the rubric.
        prompt: Template of the prompt; by default the rubric's.
        raters: The raters.
        golds: Reference labels that each rater is compared with.
        suite: Gates that each model must pass, as for `relabel eval --suite`.
        scoring: How occupations are scored; null for no scores.
        draws, seed: Number of bootstrap draws for intervals of agreement, and the seed of all draws.
        export, site: Whether to make an export, or a site, of the pooled scores.
        budget_usd: Cap on the cost of all raters together, over all starts.
    """

    study: Literal[1]
    title: str = Field(min_length=1)
    tasks: Annotated[Tasks, BeforeValidator(lambda value: {"list": value} if isinstance(value, str) else value)] = (
        Tasks()
    )
    rubric: str = "exposure"
    settings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    prompt: str | None = None
    raters: Annotated[tuple[Rater, ...], Field(min_length=1, strict=False)]
    golds: Annotated[tuple[str, ...], Field(strict=False)] = ()
    suite: str | None = None
    scoring: Scoring | None = Scoring()
    draws: int = Field(default=1000, ge=0, le=20_000)
    seed: int = Field(default=0, ge=0)
    export: bool = False
    site: bool = False
    budget_usd: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [rater.name for rater in self.raters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two raters are named {twice[0]}; give each its own name")
        if taken := sorted(RESERVED_NAMES & {*names}):
            raise ValueError(f"no rater can be called {taken[0]}, which tables use themselves; give it another name")
        if (self.site or self.export) and self.scoring is None:
            raise ValueError("export and site need scoring; remove them, or scoring: null")
        return self


def read_study(path: Path) -> Study:
    """Read and check a study file.

    Args:
        path: The YAML file; paths in it are relative to its folder.

    Raises:
        DataError: The file is missing or invalid; the message names line, key and reason.
        UsageError: Its scoring options cannot be combined.
    """
    form = "a study is a mapping of keys such as title, tasks and raters; `relabel study init` writes one"
    data, raw = read_user_yaml(path, form)
    with model_errors(f"{path}", words=_ERROR_TEXTS, line_of=partial(yaml_line, raw)):
        study = Study.model_validate(data)
    if study.scoring is not None:
        _ = study.scoring.choices
    return study


def template(file: str, **words: object) -> str:
    """A file of `templates/` with its `{placeholders}` filled in."""
    text = resources.files("relabel.study").joinpath("templates", file).read_text(encoding="utf-8")
    return text.format(**words)


def init_study(path: Path) -> Path:
    """Write a commented study file, and its JSON Schema in the same folder.

    Returns:
        Path of the schema.

    Raises:
        DataError: The file exists already, or cannot be written.
    """
    if path.exists():
        raise DataError(f"{path} already exists; name a new file")
    beside, schema = path.with_name("study.schema.json"), json.dumps(Study.model_json_schema(), indent=2) + "\n"
    with os_errors(f"cannot write {path}", "name another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in {path: template("study.yaml", name=path), beside: schema}.items():
            write_whole(target, text.encode())
    return beside
