"""A run as evaluation, scoring and publishing read it; `relabel.manifest` has its folder.

Published label sets such as `eloundou-2023:gpt4` are read as runs too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from relabel import __version__
from relabel.errors import RelabelError, UsageError
from relabel.label_table import checked_label_table, coded, decided, is_cached_repeat, label_table, missing_measures
from relabel.labels import Failure
from relabel.manifest import (
    PUBLISHED,
    TASK_FILE,
    Counts,
    Manifest,
    SourceUse,
    find_run,
    read_failures,
    read_label_file,
    read_manifest,
)
from relabel.rubric import AUTOMATION, Measure, Rubric, load_rubric
from relabel.settings import asset_dir
from relabel.sources import eloundou, fetch, registry
from relabel.sources.tables import is_table_file

if TYPE_CHECKING:
    from relabel import EvalDocument, Gold, ScoreTable


@dataclass(frozen=True)
class Run:
    """A run that has been read.

    Attributes:
        ref: How the user named it.
        folder: Its folder; None for a published set.
        manifest: What was done.
        labels: Table of labels, `relabel.labels.LABELS`.
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
        return [] if self.folder is None else read_failures(self.folder)

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

    def frame(self) -> pd.DataFrame:
        """Its labels: one row a task, setting and sample."""
        return self.answers().copy()

    def wide(self) -> pd.DataFrame:
        """One row a task: the label in each setting, and `code`, what they come to, for a rubric that labels tasks."""
        table = self.decided()
        if self.rubric.unit != "task":
            return table
        keys = ["onet_soc_code", "task_id"]
        return table.merge(self.coded()[[*keys, "code"]], on=keys, how="left")

    def evaluate(self, gold: Gold | str | None = None, **options: Any) -> EvalDocument:
        """How far it agrees with a gold, by default the one for its tasks; options and errors as of `relabel.evaluate`."""
        import relabel

        return relabel.evaluate(self, gold, **options)

    def score(self, **choices: Any) -> ScoreTable:
        """Its scores of occupations; choices and errors as of `relabel.score_table`."""
        import relabel

        return relabel.score_table(self, **choices)

    def _repr_html_(self) -> str:
        """For notebooks: whose labels they are, and how often each was given."""
        made = self.manifest
        facts = {
            "run": self.name,
            "model": made.model,
            "rubric": made.rubric.id,
            "tasks": made.tasks,
            "state": made.status,
        }
        counts = self.labels.groupby(["setting", "label"]).size().rename("labels").reset_index()
        return pd.Series(facts).to_frame().to_html(header=False) + counts.to_html(index=False)

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
        return missing_measures(self.rubric, set(self.labels["setting"].unique()))


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
    return _read(ref, find_run(ref, runs_dir))


def _read(ref: str, folder: Path) -> Run:
    manifest = read_manifest(folder)
    table = read_label_file(folder)
    return Run(ref, folder, manifest, checked_label_table(table, manifest.rubric, folder / "labels.parquet"))


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
