"""A run: the folder of labels that labelling hands to evaluation, scoring and publishing.

    RUN/manifest.json     which model was asked what, from which sources, with which counts and cost
    RUN/labels.parquet    one row a label (`relabel.label.Label`)
    RUN/failures.jsonl    one line a missing label (`relabel.label.Failure`)

Published label sets such as `eloundou-2023:gpt4` are read as runs too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict, ValidationError

from relabel import __version__
from relabel.errors import DataError, RelabelError, UsageError, first_error
from relabel.files import make_private_dir, replacing, require_own
from relabel.label import Failure, Label, label_table, read_label_table, write_label_table
from relabel.redaction import clean_document, masked
from relabel.rubric import AUTOMATION, MEASURES, Measure, Rubric, Unit, load_rubric
from relabel.settings import Frozen, asset_dir
from relabel.sources import eloundou, fetch, registry
from relabel.sources.tables import is_table_file

PUBLISHED: Mapping[str, tuple[str, str]] = {
    "eloundou-2023:gpt4": ("gpt4", "GPT-4, rubric of 2023"),
    "eloundou-2023:gpt4-alt": ("gpt4_alt", "GPT-4, alternative rubric of 2023"),
    "eloundou-2023:human": ("human", "human annotators of 2023"),
    "eloundou-2023:gpt4-automation": ("gpt4", "GPT-4 on automation, T0 to T4"),
    "eloundou-2023:human-automation": ("human", "human annotators of 2023 on automation, T0 to T4, 100 tasks"),
}
"""Published label sets by name: column in the source, and who labelled. Those of automation answer another question."""

TASK_FILE = "task-file"
"""What a manifest calls the source of a task list that a user gave as a file."""


@dataclass(frozen=True)
class Run:
    """A run that has been read.

    Attributes:
        ref: How the user named it.
        folder: Its folder; None for a published set.
        manifest: What was done.
        labels: Table of labels, `relabel.label.LABELS`.
    """

    ref: str
    folder: Path | None
    manifest: Manifest
    labels: pd.DataFrame

    @property
    def name(self) -> str:
        """Its name, the same on every machine: that of its folder, or of the published set."""
        return self.ref if self.folder is None else self.folder.resolve().name

    @property
    def rubric(self) -> Rubric:
        """The rubric that the labels were given under."""
        return self.manifest.rubric

    def failures(self) -> list[Failure]:
        """The missing labels that the run folder names.

        Raises:
            DataError: A line of them is damaged.
        """
        if self.folder is None or not (self.folder / "failures.jsonl").exists():
            return []
        path = self.folder / "failures.jsonl"
        require_own(path)
        try:
            # Not by splitlines, which also cuts at characters that stand plainly in JSON, such as U+2028 in a refusal.
            lines = path.read_bytes().split(b"\n")
            return [_failure(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); check the folder") from error

    def own_task_list(self) -> str | None:
        """The task list that the run was made from, as for `relabel.task.task_table`; None for a file that is gone.

        A user's own file counts only if it is still the file that the run was made from: under the path that the run was
        given, or under its name alone, which is all that a run of imported labels keeps.
        """
        if self.manifest.tasks != TASK_FILE and not is_table_file(self.manifest.tasks):
            return self.manifest.tasks
        known = {use.file: use.sha256 for use in self.manifest.sources if use.source == TASK_FILE}
        paths = [Path(self.manifest.tasks), *map(Path, known)]
        return next((str(p) for p in paths if p.is_file() and fetch.sha256_of(p) in known.values()), None)

    def require_tasks(self) -> None:
        """Make sure that the run labelled tasks, and did not rate occupations.

        Raises:
            UsageError: It rated occupations.
        """
        if self.rubric.unit != "task":
            raise UsageError(
                f"the run {self.ref} rates occupations (rubric {self.rubric.id}) and has no labels of tasks; give a run of "
                "a task rubric here, and this one to `relabel resilience RUN --epoch`"
            )

    def answers(self) -> pd.DataFrame:
        """Its labels without samples that a gateway's cache answered with an earlier one; see `coding.is_cached_repeat`."""
        return self.labels[~self._cached_repeats] if self._cached_repeats.any() else self.labels

    @property
    def repeats_from_cache(self) -> int:
        """Samples that a gateway's cache answered with an earlier one."""
        return int(self._cached_repeats.sum())

    @cached_property
    def _cached_repeats(self) -> pd.Series:
        return is_cached_repeat(self.labels)

    def models(self) -> dict[str, int]:
        """Labels by the model that the provider says answered, most first; empty where it says nothing."""
        if "model_returned" not in self.labels or self.labels["model_returned"].isna().all():
            return {}
        found = self.labels["model_returned"].fillna("unknown").value_counts()
        return {str(model): int(count) for model, count in found.items()}

    def warnings(self) -> list[str]:
        """What must be known before the run's figures are read, one sentence each; empty for most runs."""
        said: list[str] = []
        # A carried run has the labels of several on purpose.
        if len(models := self.models()) > 1:
            parts = ", ".join(f"{model}: {count:,}" for model, count in models.items())
            said.append(
                f"{len(models)} models answered this run (labels by model: {parts}): its figures are of a mixture; "
                "`relabel eval --by-model` shows each."
            )
        if self.repeats_from_cache:
            said.append(
                f"{self.repeats_from_cache:,} of {len(self.labels):,} samples are an earlier answer that a cache on the way "
                "to the model gave again: they count once, and say nothing about how steady the model is; switch the "
                "gateway's cache off and label again."
            )
        return said

    def decided(self) -> pd.DataFrame:
        """One label per task and setting: the most frequent over samples; see `relabel.run.decided`."""
        return decided(self.rubric, self.answers())

    def coded(self) -> pd.DataFrame:
        """The published code of each task, and both readings of it; see `relabel.run.coded`.

        Returns:
            One row a task, sorted by code and id: `task_id, onet_soc_code, code, strict, with_tools, incoherent`.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return self._coded.copy(deep=False)

    @cached_property
    def _coded(self) -> pd.DataFrame:
        return coded(self.rubric, self.answers())

    def missing_measures(self) -> dict[Measure, str]:
        """The measures that this run cannot give for any task, each with the reason in words.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return missing_measures(self.rubric, set(self.labels["setting"]))


def changed_rubrics(*runs: Run) -> list[str]:
    """What must be said first of runs whose rubric was changed without a new id or version, if anything.

    Rubrics are told apart by the hash of their file. Each run's is compared with the other runs' and with the one that is
    shipped under its id.
    """
    said: list[str] = []
    for at, run in enumerate(runs):
        mine = run.manifest
        for other in (r for r in runs[:at] if _rubric_changed(r, run)):
            said.append(
                f"The rubric {mine.rubric.id} was changed under its old version {mine.rubric.version}: {other.ref} was "
                f"labelled under the text {other.manifest.rubric_sha256[:12]}, {run.ref} under {mine.rubric_sha256[:12]}; "
                "a difference between them may be the rubric's."
            )
        if run.folder is None or any(_rubric_changed(r, run) for r in runs[:at]):
            continue
        try:
            shipped = load_rubric(mine.rubric.id)
        except RelabelError:
            continue
        if shipped.version == mine.rubric.version and shipped.sha256 != mine.rubric_sha256:
            said.append(
                f"{run.ref} was labelled under another text of the rubric {mine.rubric.id}, version {mine.rubric.version}, "
                f"than relabel has now ({mine.rubric_sha256[:12]}, now {shipped.sha256[:12]}): compare it with runs under "
                "the same text only."
            )
    return said


def _rubric_changed(first: Run, second: Run) -> bool:
    a, b = first.manifest, second.manifest
    same = (a.rubric.id, a.rubric.version) == (b.rubric.id, b.rubric.version)
    return same and a.rubric_sha256 != b.rubric_sha256 and bool(a.rubric_sha256) and bool(b.rubric_sha256)


def task_sources(ref: str, unit: Unit = "task") -> tuple[SourceUse, ...]:
    """The files that a task list comes from, with their checksums, for a manifest.

    Args:
        ref: As for `relabel.task.task_table`, or for the unit `occupation` as for `relabel.task.occupation_table`.
        unit: What is labelled.

    Raises:
        DataError: A file is missing or is not the registered one.
    """
    if ref == "sample":
        path = asset_dir("data") / "sample" / ("tasks.csv" if unit == "task" else "occupations.csv")
        return (SourceUse(source=ref, file=path.name, sha256=fetch.sha256_of(path)),)
    if is_table_file(ref):
        # By its name alone: the folder is private, and differs from machine to machine.
        return (SourceUse(source=TASK_FILE, file=Path(ref).name, sha256=fetch.sha256_of(Path(ref))),)
    source = registry.get_source(ref)
    if unit == "occupation":
        roles = ("occupations",)
    else:
        roles = ("labels",) if ref == "eloundou-2023" else ("tasks", "occupations", "task-ratings")
    entries = [entry for role in roles if (entry := source.find_role(role)) is not None]
    known = [fetch.provenance(ref, entry.name) for entry in entries]
    return tuple(SourceUse(source=k.source_id, file=k.file, sha256=k.sha256, copy_status=k.copy_status) for k in known)


def open_run(ref: str, *, runs_dir: Path = Path("runs")) -> Run:
    """Open a run.

    Args:
        ref: A folder, a name under `runs/`, or a published set from `PUBLISHED`, or `sample` (the sample's gold).
        runs_dir: Where names are looked up.

    Raises:
        DataError: There is no such run, or its folder is damaged, or holds a label or setting that its rubric lacks.
    """
    if ref in PUBLISHED or ref == "sample":
        return _published(ref)
    return _read(ref, _folder_of(ref, runs_dir))


def _folder_of(ref: str, runs_dir: Path) -> Path:
    advice = "give the folder that `relabel run --out` wrote"
    try:
        for folder in (Path(ref), runs_dir / ref) if ref else ():
            if (folder / "manifest.json").is_file():
                return folder
        if ref and Path(ref).is_dir():
            raise DataError(f"{ref} holds no manifest.json, so it is not a run folder; {advice}")
        if ref and Path(ref).is_file():
            if is_table_file(ref):
                made = runs_dir / Path(ref).stem
                advice = (
                    f"make a run of its labels with `relabel import {ref} --model NAME --out {made}`, and give that"
                )
            raise DataError(f"{ref} is a file, and a run is a folder; {advice}")
    except OSError as error:
        raise DataError(f"the run {_short(ref)!r} cannot be looked up ({error.strerror}); {advice}") from error
    known = ", ".join([*PUBLISHED, "sample"])
    raise DataError(f"there is no run {_short(ref)!r}; give a run folder, a name under {runs_dir}/, or one of {known}")


def _short(ref: str) -> str:
    return ref if len(ref) <= 100 else f"{ref[:100]}…"


def read_manifest(folder: Path) -> Manifest:
    """Read a run folder's manifest.

    Raises:
        DataError: It is missing or malformed.
    """
    path = folder / "manifest.json"
    require_own(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("format_version", FORMAT_VERSION) if isinstance(data, dict) else FORMAT_VERSION
        if not isinstance(version, int):
            raise ValueError("format_version: is not a whole number")
        if version > FORMAT_VERSION:
            raise DataError(f"{path} was written by a newer relabel (format {version}); update relabel to read it")
        return Manifest.model_validate(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the folder") from error
    except (ValueError, RecursionError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{path} is not a run manifest ({reason}); run the labelling again, answers come from the store"
        ) from error


def _read(ref: str, folder: Path) -> Run:
    manifest = read_manifest(folder)
    path = folder / "labels.parquet"
    require_own(path)
    if not path.is_file():
        why = "is still running or was killed" if manifest.status == "running" else "lost its labels.parquet"
        raise DataError(f"the run {folder} {why}; start the same `relabel run` again, answers come from the store")
    return Run(ref, folder, manifest, read_label_table(path, manifest.rubric))


def _failure(line: bytes, number: int, path: Path) -> Failure:
    try:
        return Failure.model_validate_json(line)
    except ValidationError as error:
        raise DataError(
            f"{path} line {number} names no missing label ({first_error(error)}); remove the line or make the run again, "
            "answers come from the store"
        ) from error


def _published(ref: str) -> Run:
    if ref == "sample":
        gold = pd.read_csv(asset_dir("data") / "sample" / "gold.csv", dtype=str)
        rubric, tasks, note = (
            load_rubric("exposure"),
            "sample",
            "gold of the built-in sample, made up by the authors of relabel",
        )
        parts = [
            gold.assign(setting=s, label=gold[c], rationale=gold["note"])
            for s, c in (("strict", "strict"), ("with-tools", "with_tools"))
        ]
        labels = pd.concat(parts, ignore_index=True)
        uses: tuple[SourceUse, ...] = ()
    else:
        column, who = PUBLISHED[ref]
        automation = ref.endswith("-automation")
        source = eloundou.read_automation() if automation else eloundou.read_labels()
        rubric, tasks, note = (
            load_rubric(AUTOMATION if automation else "eloundou"),
            "eloundou-2023",
            f"published labels: {who}; the rubric shown is relabel's own wording of that question",
        )
        labels = source.assign(setting=next(iter(rubric.settings)), label=source[column], rationale=None)
        labels = labels[labels["label"].isin(list(rubric.labels))]
        file = registry.get_source("eloundou-2023").with_role("automation-labels" if automation else "labels").name
        known = fetch.provenance("eloundou-2023", file)
        uses = (SourceUse(source="eloundou-2023", file=file, sha256=known.sha256),)
    manifest = Manifest(
        status="published",
        package_version=__version__,
        model=ref,
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        sources=uses,
        tasks=tasks,
        settings=tuple(rubric.settings),
        counts=Counts(asked=len(labels)),
        note=note,
    )
    return Run(ref, None, manifest, label_table(labels.assign(sample=0), rubric, ref))


def write_run(
    folder: Path,
    manifest: Manifest,
    labels: Iterable[Label],
    failures: Iterable[Failure],
) -> None:
    """Write a run folder. Each file is replaced at once or not at all; the manifest comes last.

    Args:
        folder: The run's folder; made when missing.
        manifest: What was done.
        labels: All labels.
        failures: All missing labels.

    Raises:
        DataError: The folder cannot be written.
    """
    labels = sorted(labels, key=lambda x: (x.onet_soc_code, x.task_id, x.setting, x.sample))
    try:
        make_private_dir(folder)
        with replacing(folder / "labels.parquet") as temporary:
            write_label_table(temporary, labels)
        with replacing(folder / "failures.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
            lines.writelines(f.model_dump_json() + "\n" for f in failures)
        write_manifest(folder, manifest)
    except OSError as error:
        raise DataError(
            f"cannot write the run folder {folder} ({error.strerror or error}); the answers are safe in the store: "
            "free space or give another --out, then start the same run again"
        ) from error


def _manifest_json(manifest: Manifest) -> str:
    """A manifest without secrets; the rubric is the user's own text, and stays as it is."""
    text = manifest.model_dump_json(indent=2)
    if masked(text) == text:
        return text
    document = manifest.model_dump(mode="json")
    return json.dumps({**clean_document(document), "rubric": document["rubric"]}, ensure_ascii=False, indent=2)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest, at once or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(_manifest_json(manifest) + "\n", encoding="utf-8")


FORMAT_VERSION = 1


class SourceUse(Frozen):
    """A source file that went into a run."""

    model_config = ConfigDict(extra="allow")

    source: str
    file: str
    sha256: str
    copy_status: str | None = None


class Counts(Frozen):
    """Labels asked for, and where they came from. `asked = from_store + fresh + failed` when the run has ended.

    Attributes:
        repaired: Labels from an answer that was asked for again, with what was wrong with the one before.
        unwrapped: Labels that were read from within other text.
    """

    asked: int = 0
    from_store: int = 0
    fresh: int = 0
    failed: int = 0
    repaired: int = 0
    unwrapped: int = 0


class Tokens(Frozen):
    """Tokens of the answers bought by this run, those of rejected answers included.

    Attributes:
        cached: Tokens of prompts that the provider read from its prefix cache, as it says itself.
        written: Those that it wrote to that cache, where it counts them.
        reasoning: Tokens of hidden thinking, counted in `completion`.
        cached_share: `cached` over `prompt`, 0-1; None where nothing was bought.
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
        requests: How many.
        usd: The most that they can have cost; None where no bound of it is known.
    """

    requests: int = 0
    usd: float | None = 0.0


class Session(Frozen):
    """One start of a run: what it found, bought and paid. A run that was stopped and started again has several."""

    started_at: str
    ended_at: str
    status: str
    counts: Counts
    tokens: Tokens
    cost_usd: float | None
    perhaps_charged: PerhapsCharged = PerhapsCharged()


class Manifest(Frozen):
    """What a run did: enough to do it again and to trace each number.

    Attributes:
        status: `running` until the end is written; `incomplete` when labels are missing; `interrupted` when stopped.
        counts: Of the last session, as are `tokens`, `cost_usd`, `started_at` and `ended_at`.
        labels_by_model: Labels by the model that the provider says answered.
        repeats_from_cache: Samples that a cache on the way to the model answered with an earlier one of the question.
        cost_usd: Cost of what was bought; None where the price is unknown.
        table_cost_usd: The same by the price table, where the provider stated costs of its own that differ.
        upstreams: Who answered behind a gateway or router, as it says.
        perhaps_charged: Requests without an answer that may have been charged all the same; `cost_usd` leaves them out.
        origins: Labels whose answers came from a pack, by the pack.
        sessions: Every start of the run that came to an end; their sums are what the run took in all.
        rubric: The rubric, whole, so that a run folder explains its own labels.
        parameters: The command's options that shape the run.
        api: The dialect that the server was spoken to in.
        response_form: How the server was held to the answer's shape: `json_schema`, `json_object` or `text`.
        priors: For labels decided by log probability, the mean log probability by setting and label that calibration
            took out.
        history: How the number of requests in flight was found: seconds from the start, the limit, and why it changed.
    """

    format_version: int = FORMAT_VERSION
    status: Literal["running", "complete", "incomplete", "interrupted", "published"]
    package_version: str
    git_commit: str | None = None
    model: str
    models_returned: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
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
    perhaps_charged: PerhapsCharged = PerhapsCharged()
    price: Mapping[str, Any] | None = None
    api: str | None = None
    response_form: str | None = None
    priors: Mapping[str, Mapping[str, float]] | None = None
    history: tuple[tuple[float, int, str], ...] = ()
    origins: Mapping[str, int] = {}
    sessions: tuple[Session, ...] = ()
    note: str | None = None
    started_at: str | None = None
    ended_at: str | None = None


_READINGS = {"strict": "strict", "with_tools": "with-tools"}

_NEEDS: Mapping[Measure, set[str]] = {"alpha": {"E1"}, "beta": {"E1", "E2"}, "gamma": {"E2"}}
"""Codes that a rubric must have for a measure to say anything: without E2, gamma would repeat alpha."""


def is_cached_repeat(labels: pd.DataFrame) -> pd.Series:
    """Samples of a question that a gateway's cache answered with an earlier one of them.

    They carry the answer of the first: the same completion id, or the same reply with the same time where the provider gives
    no id. A server that gives one id to different questions tells nothing by it, so that its ids do not count.

    Args:
        labels: Table of labels, `relabel.label.LABELS`.

    Returns:
        True for each such sample but the first, index of the table.
    """
    none = pd.Series(False, index=labels.index)
    if "answer_id" not in labels or labels["answer_id"].isna().all() or not (labels["sample"] > 0).any():
        return none
    question = ["onet_soc_code", "task_id", "setting"]
    known = labels[labels["answer_id"].notna()]
    # Tasks with one and the same question share its answer, by the request's key.
    asked = known.drop_duplicates(["request_key", "answer_id"]).drop_duplicates([*question, "answer_id"])
    shared = asked["answer_id"][asked["answer_id"].duplicated()]
    known = known[~known["answer_id"].isin(shared)].sort_values("sample", kind="stable")
    repeated = known.duplicated([*question, "answer_id"])
    return none | repeated.reindex(labels.index, fill_value=False)


def decided(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """One label per task and setting: the most frequent over samples.

    A tie takes the label that comes later in the rubric, which is the less exposed one.

    Args:
        rubric: The rubric that the labels were given under.
        labels: Table of labels, `relabel.label.LABELS`.

    Returns:
        Columns `task_id, onet_soc_code`, and one column a setting with its label, missing where there is none.
    """
    order = {label: rank for rank, label in enumerate(rubric.labels)}
    keys = ["onet_soc_code", "task_id", "setting"]
    votes = labels.groupby([*keys, "label"], sort=False).size().rename("votes").reset_index()
    votes["rank"] = votes["label"].map(order)
    # A label without a rank, in tables that were put together by hand, wins no tie.
    best = votes.sort_values([*keys, "votes", "rank"], na_position="first").drop_duplicates(keys, keep="last")
    wide = best.pivot(index=keys[:2], columns="setting", values="label")
    wide = wide.reindex(columns=list(rubric.settings))
    wide.columns.name = None
    return wide.reset_index()


def coded(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """The published code of each task, and both readings of it.

    Args:
        rubric: The rubric that the labels were given under; it labels tasks.
        labels: Table of labels, `relabel.label.LABELS`.

    Returns:
        One row a task, sorted by code and id: `task_id, onet_soc_code, code` (E0, E1, E2; missing while any of the
        rubric's settings has no label, because codes of half-answered tasks would all be E1), `strict` and
        `with_tools` (nullable booleans; those of the answers themselves, so that an incoherent pair shows; a
        rubric without the code E2 gives no `with_tools`, one without E1 no `strict`), `incoherent` (bool).
    """
    table = decided(rubric, labels)
    answers = table[list(rubric.settings)].astype(object).where(table[list(rubric.settings)].notna(), None)
    rows = [{str(k): str(v) for k, v in row.items() if v is not None} for row in answers.to_dict("records")]
    whole = len(rubric.settings)
    code = pd.Series(
        [rubric.code(row) if len(row) == whole else None for row in rows], index=table.index, dtype="string"
    )
    out = table[["task_id", "onet_soc_code"]].assign(code=code)
    if {"strict", "with-tools"} <= set(rubric.settings):
        for column, setting in _READINGS.items():
            out[column] = (table[setting] == "exposed").astype("boolean").where(table[setting].notna())
    else:
        # Without E2 among its codes a rubric says nothing about tools, without E1 nothing about the model alone.
        known = {
            "strict": code.notna() & ("E1" in rubric.codes),
            "with_tools": code.notna() & ("E2" in rubric.codes),
        }
        out["strict"] = (code == "E1").astype("boolean").where(known["strict"])
        out["with_tools"] = code.isin(["E1", "E2"]).astype("boolean").where(known["with_tools"])
    clash = rubric.incoherent
    out["incoherent"] = [clash is not None and dict(clash) == row for row in rows]
    return out.sort_values(["onet_soc_code", "task_id"], ignore_index=True)


def missing_measures(rubric: Rubric, answered: Collection[str]) -> dict[Measure, str]:
    """The measures that labels cannot give for any task, each with the reason in words.

    Args:
        rubric: The rubric; it labels tasks.
        answered: Settings that have labels.
    """
    unasked = [setting for setting in rubric.settings if setting not in answered]
    missing: dict[Measure, str] = {}
    for code, about in (("E1", "the model alone"), ("E2", "the model with tools")):
        if code not in rubric.codes:
            why = f"the rubric {rubric.id} has no code {code}, so it says nothing about {about}"
            missing |= {m: why for m in MEASURES if code in _NEEDS[m] and m not in missing}
    if unasked:
        # What one setting alone settles, whatever the other answers would be.
        settled = measures_of(rubric, _lone_readings(rubric, answered)).notna().all()
        why = f"the run has no labels for the setting {' or '.join(unasked)}"
        missing |= {measure: why for measure in MEASURES if measure not in missing and not settled[measure]}
    return missing


def measures_of(rubric: Rubric, table: pd.DataFrame) -> pd.DataFrame:
    """The values (0-1) of the measures by task, as the rubric gives them to codes.

    Both readings make a code, and an incoherent pair is E1. One reading alone settles a measure where all coherent codes
    that share the reading have one value: the strict reading alpha, the reading with tools gamma.

    Args:
        rubric: The rubric.
        table: Nullable booleans `strict` and `with_tools`.

    Returns:
        Columns `alpha, beta, gamma`, float64, missing where the readings do not settle them; index of the table.
    """
    strict, tools = table["strict"].astype("boolean"), table["with_tools"].astype("boolean")
    code = pd.Series("E0", index=table.index, dtype="object")
    code = code.mask(tools.fillna(False), "E2").mask(strict.fillna(False), "E1").where(strict.notna() & tools.notna())
    alone: Mapping[Measure, tuple[pd.Series, str, str]] = {
        "alpha": (strict, "E1", "E0 E2"),
        "gamma": (tools, "E1 E2", "E0"),
    }
    values: dict[str, pd.Series] = {}
    for measure in MEASURES:
        if not _NEEDS[measure] <= set(rubric.codes):
            values[measure] = pd.Series(float("nan"), index=table.index)
            continue
        by_code = {str(c): float(rubric.measures[measure][c]) for c in rubric.codes}
        values[measure] = code.map(by_code).astype("float64")
        if measure in alone:
            reading, if_exposed, if_not = alone[measure]
            worth = [{by_code[c] for c in codes.split() if c in by_code} for codes in (if_exposed, if_not)]
            if all(len(value) == 1 for value in worth):
                yes, no = (value.pop() for value in worth)
                values[measure] = values[measure].fillna(reading.astype("object").map({True: yes, False: no}))
    return pd.DataFrame(values).astype("float64")


def _lone_readings(rubric: Rubric, answered: Collection[str]) -> pd.DataFrame:
    """Both answers to the one setting that was asked; no reading where none or another was."""
    known = {name: setting in answered and setting in rubric.settings for name, setting in _READINGS.items()}
    return pd.DataFrame(
        {name: pd.array([True, False] if there else [None, None], dtype="boolean") for name, there in known.items()}
    )
