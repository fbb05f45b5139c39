"""The folder of a run and its manifest, as `relabel run` writes them. Importing this module loads no table library.

RUN/manifest.json     which model was asked what, from which sources, with which counts and cost
RUN/labels.parquet    one row per label (`relabel.labels.Label`)
RUN/failures.jsonl    one line per missing label (`relabel.labels.Failure`)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from pydantic import ValidationError, field_validator

from relabel.errors import ColumnError, DataError, first_error
from relabel.files import make_private_dir, os_errors, replacing, require_own, write_whole
from relabel.labels import Failure, Label
from relabel.redaction import clean_document
from relabel.rubric import Rubric, Unit
from relabel.settings import Frozen, Time, asset_dir
from relabel.sources import fetch, registry
from relabel.sources.fetch import SourceUse
from relabel.sources.tables import is_table_file

if TYPE_CHECKING:
    import pyarrow


# Name of the embedded model, and what must appear in every output that shows its labels.
EMBEDDED = "local"
EMBEDDED_ADVICE = "The embedded model only tests the pipeline: its labels are no better than guessing."

# Published label sets by name: column in the source, and who labelled. The sets on automation answer a different question.
PUBLISHED: Mapping[str, tuple[str, str]] = {
    "eloundou-2023:gpt4": ("gpt4", "GPT-4, rubric of 2023"),
    "eloundou-2023:gpt4-alt": ("gpt4_alt", "GPT-4, alternative rubric of 2023"),
    "eloundou-2023:human": ("human", "human annotators of 2023"),
    "eloundou-2023:gpt4-automation": ("gpt4", "GPT-4 on automation, T0 to T4"),
    "eloundou-2023:human-automation": ("human", "human annotators of 2023 on automation, T0 to T4, 100 tasks"),
}

# Name in a manifest for the source of a task list that the user gave as a file.
TASK_FILE = "task-file"


FORMAT_VERSION = 1
_AGAIN = "move its folder away and run the labelling again: answers come from the store"


class Counts(Frozen):
    """Number of labels asked for, and where they came from. `asked = from_store + fresh + failed` when the run has ended.

    Attributes:
        repaired: Labels for which the model was asked again and told what was wrong with its previous answer.
        unwrapped: Labels that were read from within other text.
        label_first: Labels written before their rationale, because the provider reorders the keys of an answer.
    """

    asked: int = 0
    from_store: int = 0
    fresh: int = 0
    failed: int = 0
    repaired: int = 0
    unwrapped: int = 0
    label_first: int = 0


class Tokens(Frozen):
    """Tokens of the answers bought by this run, rejected answers included.

    Attributes:
        cached: Prompt tokens that the provider reports it read from its prefix cache.
        written: Prompt tokens that it reports it wrote to that cache, if it counts them.
        reasoning: Tokens of hidden thinking; part of `completion`.
        cached_share: `cached` over `prompt`, 0-1; None if nothing was bought.
    """

    prompt: int = 0
    cached: int = 0
    written: int = 0
    completion: int = 0
    reasoning: int = 0
    cached_share: float | None = None


class PerhapsCharged(Frozen):
    """Requests that were sent and never answered: the provider may have charged for them.

    Attributes:
        requests: Number of such requests.
        usd: The most that they can have cost in USD; None if no upper bound is known.
    """

    requests: int = 0
    usd: float | None = 0.0


class Session(Frozen):
    """One start of a run: what it found in the store, bought and paid. A run that was stopped and started again has several."""

    started_at: Time
    ended_at: Time
    status: str
    counts: Counts
    tokens: Tokens
    cost_usd: float | None
    perhaps_charged: PerhapsCharged = PerhapsCharged()


class Manifest(Frozen):
    """What a run did, in enough detail to repeat it and to trace each number.

    Attributes:
        status: `running` until the end is written; `complete`; `incomplete` if labels are missing; `interrupted` if it was
            stopped; `published` for a published label set.
        counts: Of the last session, as are `tokens`, `cost_usd`, `started_at` and `ended_at`.
        labels_by_model: Number of labels by the model that the provider names in its replies.
        repeats_from_cache: Number of samples for which a cache between relabel and the model repeated an earlier answer.
        cost_usd: Cost of what was bought, in USD; None if the price is unknown.
        table_cost_usd: The same by the price table, if the provider reported costs of its own that differ.
        rejected: Number of answers bought that were not labels. Their cost, `rejected_usd`, is part of `cost_usd` but of no
            row of the label table.
        upstreams: The providers that answered behind a gateway or router, as it reports them.
        service_tiers: Number of labels by the service tier of their answers, if the provider reports it.
        answer_wait: How long the run waited for answers: `timeout_s`; `wait_s`, the limit for first attempts at the end of
            the run, derived from the latencies seen; `cut`, the number of attempts ended before the timeout; and `hedged`,
            the number of requests that `--hedge` sent a second time.
        perhaps_charged: Requests without an answer that may have been charged nevertheless; not part of `cost_usd`.
        origins: Number of labels whose answers came from a pack, by pack.
        sessions: Every start of the run that came to an end; their sums are the totals of the run.
        rubric: The whole rubric, so that a run folder explains its own labels.
        parameters: The command's options that shape the run.
        api: The API dialect of the server.
        response_form: How the server was made to keep to the answer's format: `json_schema`, `json_object` or `text`.
        priors: For labels decided by log probability, the mean log probability by setting and label that calibration
            removed.
        history: How the limit on requests in flight changed: seconds from the start, the limit, and the reason.
    """

    format_version: int = FORMAT_VERSION
    status: Literal["running", "complete", "incomplete", "interrupted", "published"]
    package_version: str
    git_commit: str | None = None
    model: str
    models_returned: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    service_tiers: Mapping[str, int] = {}
    labels_by_model: Mapping[str, int] = {}
    repeats_from_cache: int = 0
    base_url: str | None = None
    engine: str | None = None
    rubric: Rubric
    rubric_sha256: str
    prompt_sha256: str | None = None
    schema_sha256: str | None = None
    sources: tuple[SourceUse, ...] = ()
    tasks: str
    settings: tuple[str, ...]
    parameters: Mapping[str, Any] = {}
    counts: Counts = Counts()
    tokens: Tokens = Tokens()
    cost_usd: float | None = None
    table_cost_usd: float | None = None
    rejected: int = 0
    rejected_usd: float | None = 0.0
    perhaps_charged: PerhapsCharged = PerhapsCharged()
    price: Mapping[str, Any] | None = None
    api: str | None = None
    response_form: str | None = None
    priors: Mapping[str, Mapping[str, float]] | None = None
    history: tuple[tuple[float, int, str], ...] = ()
    answer_wait: Mapping[str, float] | None = None
    origins: Mapping[str, int] = {}
    sessions: tuple[Session, ...] = ()
    note: str | None = None
    started_at: str | None = None
    ended_at: str | None = None

    @field_validator("parameters")
    @classmethod
    def _counts_are_whole(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in ("samples", "variants", "seed"):
            if not isinstance(parameters.get(name) or 0, int):
                raise ValueError(f"{name} is not a whole number")
        return parameters


def answer_warnings(models: Mapping[str, int], repeats: int, labels: int) -> list[str]:
    """Warnings for readers of a run's figures, from its labels by model and its samples that a cache repeated."""
    warnings: list[str] = []
    # A run carried to another release may have labels of several models on purpose.
    if len(models) > 1:
        parts = "labels by model: " + ", ".join(f"{model}: {count:,}" for model, count in models.items())
        warnings.append(f"{len(models)} models answered this run ({parts}); see `relabel eval --by-model`.")
    if repeats:
        warnings.append(
            f"{repeats:,} of {labels:,} samples are an earlier answer again, as a cache on the way to the model gives it: they "
            "count once, and say nothing about how steady the model is; switch the gateway's cache off and label again."
        )
    return warnings


def task_sources(ref: str, unit: Unit = "task") -> tuple[SourceUse, ...]:
    """The files that a task list comes from, with their checksums, for a manifest.

    Args:
        ref: As for `relabel.task.task_table`.
        unit: What is labelled.

    Raises:
        DataError: A file is missing or is not the registered one.
    """
    if ref == "sample":
        path = asset_dir("data") / "sample" / ("tasks.csv" if unit == "task" else "occupations.csv")
        return (fetch.file_use(path, ref),)
    if is_table_file(ref):
        return (fetch.file_use(Path(ref), TASK_FILE),)
    source = registry.get_source(ref)
    if unit == "occupation":
        roles = ("occupations",)
    else:
        roles = ("labels",) if ref == "eloundou-2023" else ("tasks", "occupations", "task-ratings")
    return tuple(fetch.source_use(ref, role) for role in roles if source.find_role(role) is not None)


def read_manifest(folder: Path) -> Manifest:
    """Read a run folder's manifest.

    Raises:
        DataError: It is missing or malformed.
    """
    path = folder / "manifest.json"
    require_own(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("format_version", FORMAT_VERSION) > FORMAT_VERSION:
            raise DataError(f"{path} was written by a newer relabel; update relabel to read it")
        return Manifest.model_validate(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); correct its permissions, or {_AGAIN}") from error
    except (ValueError, TypeError, RecursionError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{path} is not a run manifest ({reason}); {_AGAIN}") from error


def write_run(
    folder: Path,
    manifest: Manifest,
    labels: Iterable[Label],
    failures: Iterable[Failure],
) -> None:
    """Write a run folder. Each file is written whole or not at all; the manifest comes last.

    Args:
        folder: The run's folder; made if missing.
        manifest: What was done.
        labels: All labels.
        failures: All missing labels.

    Raises:
        DataError: The folder cannot be written.
    """
    labels = sorted(labels, key=lambda x: (x.onet_soc_code, x.task_id, x.setting, x.sample))
    advice = "the answers are safe in the store: free space or give another --out, then start the same run again"
    with os_errors(f"cannot write the run folder {folder}", advice):
        make_private_dir(folder)
        with replacing(folder / "labels.parquet") as temporary:
            write_label_table(temporary, labels)
        with replacing(folder / "failures.jsonl") as temporary, temporary.open("wb") as lines:
            lines.writelines(f.model_dump_json().encode() + b"\n" for f in failures)
        write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest, whole or not at all, with secrets removed; the rubric is the user's own text and is not changed.

    Raises:
        OSError: The folder cannot be written.
    """
    document = manifest.model_dump(mode="json")
    text = json.dumps({**clean_document(document), "rubric": document["rubric"]}, ensure_ascii=False, indent=2)
    write_whole(folder / "manifest.json", f"{text}\n".encode())


LABEL_COLUMNS = Label._fields
# Labels that are converted into a table at a time.
_ROWS_AT_ONCE = 4_000
# Most labels of a run.
_MOST_LABELS = 10_000_000


@cache
def parquet_schema() -> pyarrow.Schema:
    """The columns of `labels.parquet`, those of `Label`, with their types. Also imports pyarrow, which is slow."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # arrow's own pool takes 13 MB
    import pyarrow.parquet  # pyright: ignore[reportUnusedImport]  loaded ahead

    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    hints = get_type_hints(Label).items()
    type_by_column = {name: types[(get_args(hint) or (hint,))[0]] for name, hint in hints}
    return pyarrow.schema(type_by_column | dict.fromkeys(("sample", "attempts", "variant"), pyarrow.int32()))


def write_label_table(path: Path, labels: Iterable[Label]) -> None:
    """Write labels to a parquet file in their given order, without holding all of the table in memory.

    Raises:
        OSError: The file cannot be written.
    """
    rows, schema = iter(labels), parquet_schema()
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(path, schema) as table:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            columns = [
                _column(values, field.type) for values, field in zip(zip(*chunk, strict=True), schema, strict=True)
            ]
            table.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _column(values: Sequence[Any], dtype: pyarrow.DataType) -> pyarrow.Array:
    """An array built from its buffers, because `pyarrow.array` would import pandas to check the type of its input."""
    import numpy as np
    import pyarrow

    present = np.fromiter((value is not None for value in values), bool, len(values))
    valid = None if present.all() else pyarrow.py_buffer(np.packbits(present, bitorder="little"))
    if pyarrow.types.is_string(dtype):
        texts = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [valid, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(texts))]
        return pyarrow.Array.from_buffers(dtype, len(values), buffers)
    if pyarrow.types.is_boolean(dtype):
        bits = np.packbits(np.fromiter(map(bool, values), bool, len(values)), bitorder="little")
        return pyarrow.Array.from_buffers(dtype, len(values), [valid, pyarrow.py_buffer(bits)])
    numbers = np.array([0 if value is None else value for value in values], dtype=dtype.to_pandas_dtype())
    return pyarrow.Array.from_buffers(dtype, len(values), [valid, pyarrow.py_buffer(numbers)])


def find_run(ref: str, runs_dir: Path = Path("runs")) -> Path:
    """The folder of a run that a user names by its path or by its name under `runs_dir`.

    Raises:
        DataError: There is no such run.
    """
    advice = "give the folder that `relabel run --out` wrote"
    with os_errors(f"the run {ref!r} cannot be looked up", advice):
        for folder in (Path(ref), runs_dir / ref) if ref else ():
            if (folder / "manifest.json").is_file():
                return folder
        if ref and Path(ref).exists():
            if is_table_file(ref):
                out = runs_dir / Path(ref).stem
                advice = f"make a run of it with `relabel import {ref} --model NAME --out {out}`, and give that"
            raise DataError(f"{ref} is not a run, which is a folder with a manifest.json; {advice}")
    names = ", ".join([*PUBLISHED, "sample"])
    raise DataError(f"run {ref!r} was not found; use a run folder, a name under {runs_dir}/, or one of {names}")


def read_failures(folder: Path) -> list[Failure]:
    """The missing labels listed in a run folder; empty if it has no such list.

    Raises:
        DataError: The list cannot be read, or a line of it is damaged.
    """
    path = folder / "failures.jsonl"
    if not path.exists():
        return []
    require_own(path)
    with os_errors(f"{path} cannot be read", "check the folder"):
        # Not splitlines on text: it also splits at characters that JSON leaves unescaped, such as U+2028 in a refusal.
        lines = path.read_bytes().split(b"\n")
    failures: list[Failure] = []
    for number, line in enumerate(lines, start=1):
        try:
            failures += [Failure.model_validate_json(line)] if line.strip() else []
        except ValidationError as error:
            raise DataError(f"{path} line {number} is not a missing label ({first_error(error)}); {_AGAIN}") from error
    return failures


def read_label_file(folder: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """The labels of a run folder as they are in the file: all columns, or only `columns`.

    Raises:
        DataError: The file is missing, is damaged, or lacks one of `columns`.
    """
    import pyarrow
    import pyarrow.parquet as pq

    path = folder / "labels.parquet"
    require_own(path)
    if not path.is_file():
        running = read_manifest(folder).status == "running"
        problem = "is still running or was killed" if running else "lost its labels.parquet"
        raise DataError(f"the run {folder} {problem}; start the same `relabel run` again, answers come from the store")
    try:
        with pq.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise pyarrow.ArrowInvalid(f"it has the column {twice[0]!r} more than once")
            if lacking := [name for name in columns or () if name not in names]:
                raise ColumnError(path, lacking[0], names)
            if file.metadata.num_rows > _MOST_LABELS:  # a few kilobytes can state billions
                raise pyarrow.ArrowInvalid(f"it has more than {_MOST_LABELS:,} labels")
            table = file.read(None if columns is None else list(columns))
            table.validate(full=True)
            return table
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({reason}); {_AGAIN}") from error
