"""A run: the folder of labels that labelling hands to evaluation, scoring and publishing.

    RUN/manifest.json     what was asked of which model, from which sources, with which counts and cost
    RUN/labels.parquet    one row a label (`relabel.label.Label`)
    RUN/failures.jsonl    one line a missing label (`relabel.label.Failure`)

Published label sets such as `eloundou-2023:gpt4` are read as runs too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from relabel import __version__, coding
from relabel.errors import DataError, RelabelError, UsageError
from relabel.files import make_private_dir, replacing, require_own
from relabel.label import Failure, Label
from relabel.label_table import label_table, read_label_table, write_label_table
from relabel.manifest import FORMAT_VERSION, Counts, Manifest, SourceUse
from relabel.redaction import masked
from relabel.rubric import AUTOMATION, Measure, Rubric, Unit, load_rubric
from relabel.settings import asset_dir
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
        labels: Table of labels, `relabel.label_table.LABELS`.
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
        return coding.is_cached_repeat(self.labels)

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
        """One label per task and setting: the most frequent over samples; see `relabel.coding.decided`."""
        return coding.decided(self.rubric, self.answers())

    def coded(self) -> pd.DataFrame:
        """The published code of each task, and both readings of it; see `relabel.coding.coded`.

        Returns:
            One row a task, sorted by code and id: `task_id, onet_soc_code, code, strict, with_tools, incoherent`.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return self._coded.copy(deep=False)

    @cached_property
    def _coded(self) -> pd.DataFrame:
        return coding.coded(self.rubric, self.answers())

    def missing_measures(self) -> dict[Measure, str]:
        """The measures that this run cannot give for any task, each with the reason in words.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return coding.missing_measures(self.rubric, set(self.labels["setting"]))


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
        # By its name alone: the folder is nobody's business, and differs from machine to machine.
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
            raise DataError(f"{ref} holds no manifest.json, so it is no run folder; {advice}")
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
            raise ValueError("format_version: is no whole number")
        if version > FORMAT_VERSION:
            raise DataError(f"{path} was written by a newer relabel (format {version}); update relabel to read it")
        return Manifest.model_validate(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the folder") from error
    except (ValueError, RecursionError) as error:
        reason = _first_of(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{path} is no run manifest ({reason}); run the labelling again, answers come from the store"
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
            f"{path} line {number} names no missing label ({_first_of(error)}); remove the line or make the run again, "
            "answers come from the store"
        ) from error


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


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
    failures: Iterable[Failure | str],
    *,
    ordered: bool = False,
) -> None:
    """Write a run folder. Each file is replaced at once or not at all; the manifest comes last.

    Neither labels nor failures are held whole when the labels come in order.

    Args:
        folder: The run's folder; made when missing.
        manifest: What was done.
        labels: All labels.
        failures: All missing labels; those that are written as a line already, as that line.
        ordered: Whether the labels come in the order of the table: by occupation, task, setting and sample.

    Raises:
        DataError: The folder cannot be written.
    """
    if not ordered:
        labels = sorted(labels, key=lambda x: (x.onet_soc_code, x.task_id, x.setting, x.sample))
    try:
        make_private_dir(folder)
        with replacing(folder / "labels.parquet") as temporary:
            write_label_table(temporary, labels)
        with replacing(folder / "failures.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
            lines.writelines(f if isinstance(f, str) else f.model_dump_json() + "\n" for f in failures)
        write_manifest(folder, manifest)
    except OSError as error:
        raise DataError(
            f"cannot write the run folder {folder} ({error.strerror or error}); the answers are safe in the store: "
            "free space or give another --out, then start the same run again"
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest, at once or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(masked(manifest.model_dump_json(indent=2)) + "\n", encoding="utf-8")
