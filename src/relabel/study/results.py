"""The results of a study: tables, figures, wide labels, scores and a report. The same runs give the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from relabel import __version__
from relabel.errors import DataError, RelabelError, UsageError
from relabel.evaluation.alignment import GOLD, SAYS_NOTHING, Pair, match
from relabel.evaluation.gold import COLUMNS, Gold, full_codes, load_gold, positions
from relabel.evaluation.report import Charts, tables_page
from relabel.evaluation.statistics import krippendorff_several, or_none
from relabel.files import os_errors, write_whole
from relabel.labels import Label
from relabel.manifest import Counts, Manifest, write_run
from relabel.publishing.datapackage import files_of_export, remove_earlier
from relabel.publishing.export import export_run
from relabel.publishing.site.build import build_site, files_of_site
from relabel.rubric import MEASURES, Measure, Rubric, load_rubric
from relabel.run import POOLED, Run, by_sample, open_run
from relabel.scoring.options import Choices
from relabel.scoring.table import ScoreTable, score_by
from relabel.scoring.uncertainty import rater_draws, with_raters
from relabel.sources.fetch import SourceUse
from relabel.study import pooling
from relabel.study.file import Scoring, Study
from relabel.study.pooling import LatentClasses, Votes, collect_votes
from relabel.study.running import OpenStudy, plan, runs_of, study_tasks
from relabel.tabular import Cell, Table, cell_text, counted, csv_bytes, json_bytes, stata_bytes, table_text
from relabel.task import TASK_KEY, Task

_MAX_ROWS = 25


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        folder: Their folder.
        verdict: The main findings, one sentence each.
        tables: The tables, by file stem.
        files: Names of its files and folders.
    """

    folder: Path
    verdict: tuple[str, ...]
    tables: Mapping[str, Table]
    files: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether a file in the folder is one of the results, and not of an earlier study file or another program."""
        return name in self.files or name.partition("/")[0] in self.files

    def _repr_html_(self) -> str:
        """For notebooks: the main findings, then the tables."""
        shown = [pd.DataFrame({"": self.verdict}).to_html(index=False, header=False)]
        for table in self.tables.values():
            rows = [[cell_text(cell) for cell in row] for row in table.rows]
            titled = pd.DataFrame(rows, columns=pd.MultiIndex.from_product([[table.title], table.columns]))
            shown.append(titled.to_html(index=False))
        return "".join(shown)


def write_results(opened: OpenStudy, runs: Mapping[str, Run]) -> Results:
    """Compute and write all results of a study from its runs.

    Args:
        opened: The study.
        runs: The raters' runs, by name.

    Raises:
        DataError: The raters share no tasks or setting, or a file cannot be read or written.
        UsageError: The scoring options do not fit the runs.
    """
    if not runs:
        raise DataError("no rater has a label yet; finish one with `relabel study run`")
    study, tasks = opened.study, study_tasks(opened)
    listed = pd.DataFrame(tasks)[[*TASK_KEY, "title", "text"]]
    runs = _on_tasks(runs, tasks)
    votes = collect_votes(runs)
    # Files are named without their folder, which is another one in a replication package.
    golds = [
        replace(load_gold(ref), name=Path(ref).name if Path(ref).exists() else ref)
        for ref in map(opened.path, study.golds)
    ]
    uses = [*(gold.source for gold in golds), *(use for run in runs.values() for use in run.manifest.sources)]
    classes = None
    if len(runs) >= pooling.MIN_RATERS:
        classes = pooling.latent_classes(votes.given, len(votes.scale), votes.tasks["onet_soc_code"].str[:2])
    agreement, pairs, means = _agreement(study, runs, golds, votes), _pairs(study, votes), _means(study, votes, classes)
    tables = {"agreement": agreement, "pairs": pairs, "means": means, "variance": _components(study, votes)}
    if classes is not None:
        tables["confusion"] = _confusion(votes, classes)
    tables["spread"] = _spread(votes, dict(zip(listed["onet_soc_code"], listed["title"], strict=True)))
    wide = _wide(votes, listed, classes)
    files = {"labels_wide.csv": csv_bytes(wide), "labels_wide.dta": stata_bytes(wide)}
    pooled = _pooled_run(opened, runs, votes)
    files |= {name: csv_bytes(frame) for name, frame in _corrected(pooled, golds, votes).items()}
    score_findings: list[str] = []
    if study.scoring is not None:
        tables["totals"], scored, score_findings = _scores(opened, runs, pooled, files, _main_measure(votes))
        uses += scored
    sources = sorted({(used.source, Path(used.file).name, used.sha256) for used in uses})
    files["sources.json"] = json_bytes(sources)
    verdict = (*_verdict(votes, agreement, golds, classes), *score_findings)
    charts = Charts()
    main = f"mean {_main_measure(votes)}"
    drawn = {"means": charts.ranges("means", means.ranges(list(means.columns).index(main)), title=main)}
    if len(runs) > 1:
        drawn["pairs"] = charts.ranges("pairs", pairs.ranges(), title="kappa")
    for stem, table in tables.items():
        for form, end in (("csv", "csv"), ("markdown", "md"), ("latex", "tex")):
            files[f"tables/{stem}.{end}"] = table_text([table], form).encode()  # pyright: ignore[reportArgumentType]  three literals
    files |= {f"figures/{name}": content for name, content in charts.files().items()}
    sections = [(stem, table, drawn.get(stem)) for stem, table in tables.items()]
    page = tables_page(study.title, verdict, sections, f"relabel {__version__}, {counted(len(votes), 'task')}.")
    files["report.html"] = page.encode()
    _write(opened.results, files)
    pages = ["export"] * (study.export or study.site) + ["site"] * study.site
    if pages:
        _pages(opened, pooled, runs)
    made = Results(opened.results, verdict, tables, (*files, POOLED, *pages))
    _remove_earlier(made)
    return made


# Results that not every study has.
_OPTIONAL = (
    "corrected_[0-9].csv",
    "scores.csv",
    "scores_plausible.csv",
    "figures/pairs.*",
    "tables/confusion.*",
    "tables/totals.*",
)


def _remove_earlier(made: Results) -> None:
    """Remove what an earlier study file made and this one does not; files of other programs stay."""
    with os_errors(f"cannot remove earlier results in {made.folder}", "remove them by hand"):
        for path in itertools.chain.from_iterable(map(made.folder.glob, _OPTIONAL)):
            if not made.has(path.relative_to(made.folder).as_posix()):
                path.unlink()
    for name, files_of in (("export", files_of_export), ("site", files_of_site)):
        if not made.has(name):
            remove_earlier(made.folder / name, name, files_of)


def _on_tasks(runs: Mapping[str, Run], tasks: Sequence[Task]) -> dict[str, Run]:
    """The runs, restricted to the study's tasks, so that all raters are scored on the same ones; published sets have more."""
    keys = [(task.onet_soc_code, task.task_id) for task in tasks]
    kept = {name: pd.MultiIndex.from_frame(run.labels[TASK_KEY]).isin(keys) for name, run in runs.items()}
    if without := [name for name, tasks_kept in kept.items() if not tasks_kept.any()]:
        raise DataError(f"the rater {without[0]} has labels for none of the study's tasks; correct it or leave it out")
    return {name: replace(run, labels=run.labels[kept[name]].reset_index(drop=True)) for name, run in runs.items()}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    with os_errors(f"cannot write the results to {folder}", "free space or move the study"):
        for name, content in sorted(files.items()):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)


def _main_measure(votes: Votes) -> Measure:
    return next(m for m in ("beta", "gamma", "alpha") if m in votes.values)


def _agreement(study: Study, runs: Mapping[str, Run], golds: Sequence[Gold], votes: Votes) -> Table:
    """Agreement of each rater with each gold: number of tasks compared, kappa with its interval, and accuracy."""
    columns = ["rater", "model", "tasks"]
    for gold in golds:
        columns += [f"kappa, {gold.name}", "95%", "accuracy", "tasks compared"]
    rows, same = list[list[Cell]](), list[str]()
    for column, (name, run) in enumerate(runs.items()):
        row: list[Cell] = [name, run.manifest.model, int((votes.given[:, column] >= 0).sum())]
        for gold in golds:
            pair = _agreement_with_gold(study, run, gold, votes)
            row += [None] * 4 if pair is None else [*_kappa_and_accuracy(pair)[:3], len(pair)]
            same += [] if pair is None else pair.same_labels(name, gold.name)
        rows.append(row)
    notes = [*same, *_intervals_note(study)]
    return Table("Raters by agreement with reference labels", columns, rows, left=2, notes=notes)


def _agreement_with_gold(study: Study, run: Run, gold: Gold, votes: Votes) -> Pair | None:
    """Labels of a rater and a gold; None if the gold is the rater itself, or if they have no tasks in common."""
    if gold.is_run(run):
        return None
    try:
        aligned = match(run, gold).with_draws(study.draws, study.seed)
    except DataError:
        return None
    setting = votes.setting if votes.setting in aligned.labels else aligned.main
    return aligned.pair(setting, 0, GOLD)


def _kappa_and_accuracy(pair: Pair) -> list[Cell]:
    """Both figures, each followed by its interval; empty cells without tasks."""
    figures = [pair.figure(name) if len(pair) else None for name in ("kappa", "accuracy")]
    return [cell for f in figures for cell in ((None, None) if f is None else (or_none(f.value), f.interval()))]


def kappa_by_rater(opened: OpenStudy, runs: Mapping[str, Run]) -> dict[str, float | None]:
    """Cohen's kappa of each rater with the study's first gold, or without a gold its mean with the other raters."""
    study, runs = opened.study, _on_tasks(runs, study_tasks(opened))
    votes, quick = collect_votes(runs), study.model_copy(update={"draws": 0})
    if study.golds:
        gold = load_gold(opened.path(study.golds[0]))
        pairs = {name: _agreement_with_gold(quick, run, gold, votes) for name, run in runs.items()}
        return {name: or_none(pair.figure("kappa").value) for name, pair in pairs.items() if pair}
    rows = zip(itertools.combinations(runs, 2), _pairs(quick, votes).rows, strict=True)
    kappas = [(pair, row[2]) for pair, row in rows if isinstance(row[2], float)]
    by_rater = {name: [kappa for pair, kappa in kappas if name in pair] for name in runs}
    return {name: float(np.mean(values)) for name, values in by_rater.items() if values}


def _pairs(study: Study, votes: Votes) -> Table:
    aligned = votes.with_draws(study.draws, study.seed)
    rows: list[list[Cell]] = []
    for first, second in itertools.combinations(range(len(votes.names)), 2):
        pair = aligned.pair(votes.setting, first, second)
        name = f"{votes.names[first]} and {votes.names[second]}"
        rows.append([name, len(pair), *_kappa_and_accuracy(pair)])
    columns = ["pair", "tasks", "kappa", "95%", "agreement", "95% of agreement"]
    return Table("Agreement of raters with each other", columns, rows, notes=_intervals_note(study))


def _intervals_note(study: Study) -> tuple[str, ...]:
    return (f"Intervals: {study.draws:,} draws of occupations, seed {study.seed}.",) if study.draws else ()


def _means(study: Study, votes: Votes, classes: LatentClasses | None) -> Table:
    """Mean exposure by rater, pooled, by the latent-class model, and the range without each rater."""
    draws = {"draws": study.draws, "seed": study.seed}

    def row(name: str, raters: Sequence[int]) -> list[Cell]:
        means = [pooling.pooled_mean(values[:, raters], votes.codes, **draws) for values in votes.values.values()]
        return [name, means[0].tasks, *(cell for mean in means for cell in (or_none(mean.mean), mean.interval))]

    notes = ["Means over tasks, with equal weights.", *_intervals_note(study)]
    rows = [row(name, [index]) for index, name in enumerate(votes.names)]
    if len(votes.names) > 1:
        rows.append(row("pooled", range(len(votes.names))))
        for measure in votes.values:
            if without := pooling.leave_one_out_means(votes, measure):
                low, high = min(without, key=without.__getitem__), max(without, key=without.__getitem__)
                notes.append(
                    f"{measure}, pooled without one rater: {without[low]:.3f} (without {low}) to {without[high]:.3f} (without {high})."
                )
        notes.append(
            "pooled: tasks that all raters labelled; its interval covers the spread of raters and the sampling of occupations."
        )
    if classes is not None:
        means = [float((classes.posterior @ votes.worth[measure]).mean()) for measure in votes.values]
        rows.append(["latent class", len(votes), *(cell for mean in means for cell in (or_none(mean), None))])
        notes.append(
            "latent class: Dawid and Skene's model with shares by major group; it assumes that raters err independently of each other, which "
            "models of one family may not do."
        )
    columns = ["rater", "tasks", *(name for m in votes.values for name in (f"mean {m}", f"95% of {m}"))]
    return Table("Mean exposure by rater", columns, rows, notes=notes)


def _components(study: Study, votes: Votes) -> Table:
    main = _main_measure(votes)
    values, scatter, draws = votes.values[main], votes.scatter[main], {"draws": study.draws, "seed": study.seed}
    components = pooling.variance_components(values, scatter, votes.codes, **draws)
    rows: list[list[Cell]] = [[part.source, part.share, part.interval] for part in components]
    notes = [
        f"Shares of the variance of {main} over the tasks that all raters labelled. Intervals draw occupations and treat these raters as fixed."
    ]
    if components and not any(part.source == "repeat" for part in components):
        notes.append("Without repeats, scatter of single answers is part of rater by task.")
    return Table("Variance of labels", ["source", "share", "95%"], rows, notes=notes)


def _confusion(votes: Votes, classes: LatentClasses) -> Table:
    scale = votes.scale
    rows: list[list[Cell]] = [
        [rater, true, *map(float, classes.confusion[index, k])]
        for index, rater in enumerate(votes.names)
        for k, true in enumerate(scale)
    ]
    notes = () if classes.converged else ("The algorithm did not converge; interpret with care.",)
    title = "Raters' labels by the true label, as estimated by the latent-class model"
    return Table(title, ["rater", "true", *scale], rows, left=2, notes=notes)


def _spread(votes: Votes, titles: Mapping[str, str]) -> Table:
    """The occupations on which raters differ most."""
    main = _main_measure(votes)
    values = pd.DataFrame(votes.values[main], columns=list(votes.names)).groupby(votes.codes).mean()
    spread = (values.max(axis=1) - values.min(axis=1)).dropna().sort_values(ascending=False, kind="stable")
    widest = spread.head(_MAX_ROWS)
    rows: list[list[Cell]] = [
        [str(code), titles.get(str(code), ""), gap, *map(or_none, by_rater)]
        for code, gap, by_rater in zip(widest.index, widest, values.loc[widest.index].to_numpy(), strict=True)
    ]
    columns = ["code", "title", "spread", *votes.names]
    return Table(f"Occupations with the largest spread of mean {main}", columns, rows, left=2)


def _wide(votes: Votes, listed: pd.DataFrame, classes: LatentClasses | None) -> pd.DataFrame:
    """One row per task: the label of each rater, means, the majority, and the probabilities of the latent classes."""
    scale = np.array([*votes.scale, None], dtype=object)
    frame = votes.tasks[TASK_KEY].merge(listed, on=TASK_KEY, how="left")
    for index, name in enumerate(votes.names):
        frame[f"label_{name}"] = scale[votes.given[:, index]]
    for measure, values in votes.values.items():
        frame[f"{measure}_mean"] = pd.DataFrame(values).mean(axis=1)
    frame["majority"] = scale[votes.majority()]
    if classes is not None:
        for index, label in enumerate(votes.scale):
            frame[f"chance_{label}"] = classes.posterior[:, index].round(6)
    return frame


def _corrected(pooled: Run, golds: Sequence[Gold], votes: Votes) -> dict[str, pd.DataFrame]:
    """For each gold that may be a random sample of the tasks: outcomes corrected for each rater's errors, for regressions."""
    files: dict[str, pd.DataFrame] = {}
    measure, place = _main_measure(votes), pd.MultiIndex.from_frame(votes.tasks[TASK_KEY])
    for number, gold in enumerate(golds, start=1):
        try:
            aligned = match(pooled, gold)
        except DataError:  # the gold holds none of the study's tasks
            continue
        if gold.selected or measure not in aligned.values:
            continue
        columns = {"gold": aligned.values[measure][:, GOLD], "weight": aligned.weight}
        reference = pd.DataFrame(columns, index=aligned.index())
        table = reference[~reference.index.duplicated()].reindex(place)
        known = table["gold"].to_numpy(np.float64)
        in_gold = np.isfinite(known)
        if not 0 < in_gold.sum() < len(in_gold):
            continue
        weight = np.where(in_gold, table["weight"] / table["weight"][in_gold].mean(), 1.0)
        chance = np.minimum(in_gold.sum() / (len(in_gold) * weight), 1.0)
        frame = votes.tasks[TASK_KEY].assign(gold=table["gold"].to_numpy(), in_gold=in_gold.astype(int), chance=chance)
        for name, predicted in zip(votes.names, votes.values[measure].T, strict=True):
            if np.isnan(predicted).all():
                continue
            frame[f"{measure}_{name}"] = predicted
            # A missing label is replaced by the mean: the correction is unbiased whatever the prediction is.
            guess = np.where(np.isnan(predicted), np.nanmean(predicted), predicted)
            frame[f"corrected_{measure}_{name}"] = pooling.corrected_outcomes(guess, known, chance)
        files[f"corrected_{number}.csv"] = frame
    return files


def _pooled_labels(votes: Votes, runs: Mapping[str, Run]) -> pd.DataFrame:
    """All labels that are pooled: columns `onet_soc_code, task_id, sample, label`, sorted.

    Sample n of rater r out of R has the number r + nR; a rater whose samples of a task all lack a setting gives its label of the task.
    """
    parts: list[pd.DataFrame] = []
    for rater, run in enumerate(runs.values()):
        samples = by_sample(run)
        given = full_codes(samples) if votes.setting == "three-way" else samples[COLUMNS[votes.setting]]
        single = votes.tasks[TASK_KEY].assign(sample=0, label=votes.given[:, rater])
        labels = samples[[*TASK_KEY, "sample"]].assign(label=positions(given, votes.setting))
        labels = labels[labels["label"] >= 0]
        lacking = ~votes.index().isin(pd.MultiIndex.from_frame(labels[TASK_KEY]))
        labels = pd.concat([labels, single[lacking & (single["label"] >= 0)]])
        parts.append(labels.assign(sample=rater + labels["sample"] * len(runs)))
    table = pd.concat(parts)
    words = np.array(votes.scale, dtype=object)[table["label"]]
    return table.assign(label=words).sort_values([*TASK_KEY, "sample"], ignore_index=True)


def _pooled_rubric(rubrics: Sequence[Rubric]) -> Rubric:
    """The rubric of pooled codes: the codes as labels, under the name, definition and trials of what the raters were asked."""
    codes, asked = load_rubric("eloundou"), rubrics[0]
    if len(rubrics) == 1:
        update = {name: getattr(asked, name) for name in ("id", "version", "title", "definition", "source", "sha256")}
        update["measures"] = {m: {**codes.measures[m], **asked.measures[m]} for m in MEASURES}
    else:
        names = ", ".join(dict.fromkeys(f"{rubric.id} version {rubric.version}" for rubric in rubrics))
        update = {"id": "several", "title": "The rubrics of several raters", "source": ""}
        update["definition"] = f"The raters had different rubrics: {names}."
    pooled = codes.model_copy(update=update)
    current = {rubric.wording: pooled.wording for rubric in rubrics}
    trials = [
        t.model_copy(update={"wording": current.get(t.wording, t.wording), "study": f"{rubric.id}, {t.study}"})
        for rubric in rubrics
        for t in rubric.validity
    ]
    return pooled.model_copy(update={"validity": tuple(trials)})


def _pooled_run(opened: OpenStudy, runs: Mapping[str, Run], votes: Votes) -> Run:
    """Write a run with the labels of all raters; see `relabel.run.POOLED`."""
    first, setting = next(iter(runs.values())), str(votes.setting)
    rubrics = {run.rubric.wording: run.rubric for run in runs.values()}
    rubric = _pooled_rubric([*rubrics.values()]) if setting == "three-way" else first.rubric
    pooled = _pooled_labels(votes, runs)
    labels = [
        Label(
            task, code, setting, sample, label, request_key=f"{votes.names[sample % len(runs)]}:{task}", from_store=True
        )
        for code, task, sample, label in pooled.itertuples(index=False, name=None)
    ]
    samples = max(pooled["sample"], default=0) // len(runs) + 1  # empty if the raters have no task in common
    raters = {name: run.manifest.model for name, run in runs.items()}
    note = f"labels of several raters, {'one sample each' if samples == 1 else 'which count alike however many samples they have'}"
    manifest = Manifest(
        status="complete",
        package_version=__version__,
        model=f"{len(runs)} raters: {', '.join(runs)}",
        engine=POOLED,
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        sources=first.manifest.sources,
        tasks=first.manifest.tasks,
        settings=(setting,),
        parameters={"samples": samples * len(runs), "seed": opened.study.seed, "raters": raters},
        counts=Counts(asked=len(labels), from_store=len(labels)),
        note=note if len(rubrics) == 1 else f"{note}; they used different rubrics",
    )
    write_run(opened.results / POOLED, manifest, labels, [])
    return open_run(str(opened.results / POOLED))


def _scores(
    opened: OpenStudy, runs: Mapping[str, Run], pooled: Run, files: dict[str, bytes], main: Measure
) -> tuple[Table, Sequence[SourceUse], list[str]]:
    """Scores of groups, pooled and by rater, and plausible values, which are added to `files`.

    Returns:
        A table of means and totals by rater, the source files used, and a sentence on how far raters move the scores.
    """
    scoring, choices = _scoring(opened)
    whole = score_by(pooled, choices)
    tables: dict[str, ScoreTable] = {}
    for name, run in runs.items():
        try:
            tables[name] = score_by(run, choices)
        except RelabelError as error:
            raise UsageError(f"the rater {name} cannot be scored: {error}") from error
    columns = ["code", "title", *MEASURES, "strict_10", "with_tools_10", "tasks", "coverage", "status"]
    frame = whole.frame[columns].copy()
    for name, table in tables.items():
        frame[[f"{m}_{name}" for m in MEASURES]] = table.frame[list(MEASURES)].to_numpy()
    bounded = with_raters(whole, pooled, list(runs.values()), scoring.draws)
    for name, source in (("lowest", "models_low"), ("highest", "models_high"), ("low", "low"), ("high", "high")):
        source_by_column = {f"{m}_{name}": f"{m}_{source}" for m in MEASURES if f"{m}_{source}" in bounded.frame}
        frame[[*source_by_column]] = bounded.frame[[*source_by_column.values()]]
    note = "An interval over raters needs three raters or more."
    if bounded.intervals is not None:
        drawn = rater_draws(whole, pooled, list(runs.values()), scoring.draws)[:, :, : scoring.plausible_values]
        names = [f"pv{i + 1}" for i in range(drawn.shape[2])]
        parts = [
            pd.DataFrame(drawn[number], columns=names).assign(code=frame["code"], measure=measure)
            for number, measure in enumerate(MEASURES)
        ]
        if names:
            values = pd.concat(parts, ignore_index=True)[["code", "measure", *names]]
            files["scores_plausible.csv"] = csv_bytes(values.round(6))
        note = (
            "In scores.csv, low and high are the 95% interval of the mean over raters like these, which includes the sampling "
            "of tasks. A rater with labels for less than half of a group is left out of its low, high, lowest and highest."
        )
    files["scores.csv"] = csv_bytes(frame)
    # Means over different groups are not comparable, so they are over the groups that all raters score.
    scored_by = np.array([table.has_status("scored") for table in tables.values()])
    common = whole.has_status("scored") & scored_by.all(axis=0)
    notes = [note, *(f"{text}." for text in whole.notes)]
    if common.sum() < whole.scored:
        notes += [f"Means are over the groups that all raters score ({common.sum():,}), totals over each rater's own."]
    rows: list[list[Cell]] = []
    for name, table in {"pooled": whole, **tables}.items():
        totals = [(table.totals or {}).get(key) for key in (*_TOTALS, "employees", "coverage")]
        means = [or_none(table.frame.loc[common, m].mean()) for m in MEASURES]
        billions = (None if x is None else f"{float(x) / 1e9:.1f}" for x in totals[:-2])
        rows.append([name, table.scored, *means, *billions, *totals[-2:]])
    covered = ["jobs in the totals", "share of all jobs"]
    columns = ["rater", "groups scored", *(f"mean {m}" for m in MEASURES), *_TOTALS.values(), *covered]
    low, high = frame[f"{main}_lowest"], frame[f"{main}_highest"]
    gap, findings = (high - low)[scored_by.sum(axis=0) > 1].dropna(), list[str]()
    if len(gap):
        widest = gap.idxmax()
        findings = [
            f"The {main} of a group differs between raters by {gap.median():.2f} in the median of {counted(len(gap), 'group')}, and "
            f"by up to {gap.max():.2f} ({frame.at[widest, 'title']}: {low[widest]:.2f} to {high[widest]:.2f})."
        ]
    return Table("Scores and totals by rater", columns, rows, notes=notes), whole.sources, findings


_TOTALS: Mapping[str, str] = {
    "wage_exposure_alpha_gbp": "GBP bn, alone",
    "wage_exposure_gamma_gbp": "GBP bn, with tools",
}


def _scoring(opened: OpenStudy) -> tuple[Scoring, Choices]:
    scoring = opened.study.scoring
    if scoring is None:
        raise UsageError(f"{opened.file} has scoring: null; remove that line to score its raters")
    choices = scoring.choices
    paths = {name: opened.path(ref) for name in ("pay", "bridge") if (ref := getattr(choices, name)) is not None}
    return scoring, replace(choices, **paths)


def study_scores(opened: OpenStudy) -> tuple[ScoreTable, Run]:
    """Scores of a study's pooled labels, with the range over raters and intervals; and the pooled run.

    Raises:
        UsageError: The study has no scoring.
        DataError: There are no results yet, or they are not those of the study as it is now.
    """
    scoring, choices = _scoring(opened)
    if not (opened.results / POOLED / "manifest.json").is_file():
        raise DataError(f"{opened.file} has no results yet; make them with `relabel study run {opened.file}`")
    pooled = open_run(str(opened.results / POOLED))
    runs = _on_tasks(runs_of(plan(opened)), study_tasks(opened))
    sides = (pooled.labels, _pooled_labels(collect_votes(runs), runs))
    stored, now = ({*side[[*TASK_KEY, "sample", "label"]].itertuples(index=False, name=None)} for side in sides)
    if [*pooled.manifest.parameters["raters"]] != [*runs] or stored != now:
        raise DataError(
            f"the results of {opened.file} are of an earlier study file or of fewer labels; make them with `relabel study run {opened.file}`"
        )
    return with_raters(score_by(pooled, choices), pooled, list(runs.values()), scoring.draws), pooled


def _pages(opened: OpenStudy, pooled: Run, runs: Mapping[str, Run]) -> None:
    out, (scoring, choices) = opened.results / "export", _scoring(opened)
    export_run(pooled, out, choices, allow_partial=True, raters=list(runs.values()), draws=scoring.draws)
    if opened.study.site:
        build_site(out, opened.results / "site")


def _verdict(votes: Votes, agreement: Table, golds: Sequence[Gold], classes: LatentClasses | None) -> Iterator[str]:
    raters = (votes.given >= 0).sum(axis=1)
    several, in_common = int((raters > 1).sum()), int((raters == len(votes.names)).sum())
    counts = votes.counts().astype(np.int_)
    shared_counts = counts[counts.sum(axis=1) > 1]
    alphas = [krippendorff_several(shared_counts, level) for level in ("nominal", "ordinal")] if several else []
    if several and None not in alphas:
        nominal, ordinal = alphas
        same = float((shared_counts.max(axis=1) == shared_counts.sum(axis=1)).mean())
        yield (
            f"{len(votes.names)} raters labelled {in_common:,} tasks in common. {100 * same:.0f}% of the {several:,} tasks with "
            f"two labels or more have one label from all, and Krippendorff's alpha is {nominal:.2f} (ordinal {ordinal:.2f})."
        )
    for index, gold in enumerate(golds):
        kappas = sorted(agreement.ranges(3 + 4 * index), key=lambda row: -row[1])
        if kappas:
            yield f"Agreement with {gold.name} (kappa): {', '.join(f'{name} {value:.2f}' for name, value, _ in kappas)}."
    yield from (note for note in agreement.notes if note.endswith(SAYS_NOTHING))
    main = _main_measure(votes)
    # Means over different tasks are not comparable, so they are over the tasks that all raters labelled.
    same_tasks = votes.values[main][np.isfinite(votes.values[main]).all(axis=1)]
    by_rater = sorted(zip(same_tasks.mean(axis=0).tolist(), votes.names, strict=True)) if len(same_tasks) else []
    if len(by_rater) > 1:
        (low, least), (high, most) = by_rater[0], by_rater[-1]
        times = f", a factor of {high / low:.1f}" if low > 0 else ""
        over = "" if len(same_tasks) == len(votes) else f" over the {len(same_tasks):,} tasks that all raters labelled"
        yield f"Mean {main}{over} goes from {low:.3f} ({least}) to {high:.3f} ({most}){times}."
    if classes is None:
        yield "With fewer than three raters there is no latent-class model and no interval over raters."
