"""Two runs on the same tasks: what changed, by how much, and whether it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from relabel.evaluation import figures, metrics
from relabel.evaluation.bootstrap import DRAWS, Draws, occupation_draws
from relabel.evaluation.comparison.document import (
    Bootstrap,
    CompareDocument,
    Difference,
    Flip,
    GoldComparison,
    MeasureComparison,
    OccupationMove,
    SettingComparison,
    SliceAgreement,
)
from relabel.evaluation.comparison.transitions import mcnemar, stuart_maxwell
from relabel.evaluation.document import SCALES, SettingName
from relabel.evaluation.figures import Figure
from relabel.evaluation.gold import Gold
from relabel.evaluation.metrics import known
from relabel.evaluation.side_by_side import GOLD, Raters, occupations_of, side_by_side
from relabel.evaluation.verdict import caveat
from relabel.evaluation.verdict import figure as shown
from relabel.rubric import Measure
from relabel.run import Run
from relabel.task import TASK_KEY


def compare(
    first: Run,
    second: Run,
    gold: Gold | None = None,
    *,
    details: pd.DataFrame | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> CompareDocument:
    """Compare two runs on the tasks that both hold.

    Args:
        first: The run that differences start from.
        second: The run that they lead to.
        gold: A gold that both are held against.
        details: Task table (`relabel.task.TASKS`) for slices by task type; without it these are left out.
        draws: Draws of the bootstrap.
        seed: Its seed.

    Returns:
        The comparison; differences are the second run less the first.

    Raises:
        DataError: The runs share no task or no setting, or the first shares no task with the gold.
    """
    raters = side_by_side((first, second), gold)
    index = next(iter(raters.labels.values())).index
    drawn = occupation_draws(occupations_of(index).to_numpy(), draws, seed)
    settings: dict[SettingName, SettingComparison] = {
        s: _setting(table, s, drawn) for s, table in raters.labels.items()
    }
    measures: dict[Measure, MeasureComparison] = {m: _measure(table, drawn) for m, table in raters.values.items()}
    against = {} if gold is None else _against_gold(raters, drawn)
    flips, moves = _flips(raters), _moves(raters)
    return CompareDocument(
        runs=(first.ref, second.ref),
        models=(first.manifest.model, second.manifest.model),
        common=raters.common,
        only=(raters.alone[0], raters.alone[1]),
        settings=settings,
        measures=measures,
        gold=None if gold is None else gold.name,
        against_gold=against,
        main_setting=raters.main,
        main_measure=raters.main_measure,
        flips=flips,
        occupations=moves,
        slices=_slices(raters, drawn, details),
        bootstrap=Bootstrap(draws=draws, seed=seed),
        verdict="\n".join([*caveat(gold), *_verdict(raters, settings, measures, against)]),
    )


def difference(first: Figure, second: Figure, occupations: int) -> Difference:
    """Both figures and their paired change with its interval; arguments as for `figures.change`."""
    change = figures.change(first, second, occupations)
    bounds = change.bounds() if math.isfinite(change.value) else None
    return Difference(first=known(first.value), second=known(second.value), difference=known(change.value), ci95=bounds)


def _setting(table: pd.DataFrame, setting: SettingName, draws: Draws) -> SettingComparison:
    scale = SCALES[setting]
    both = table[[0, 1]].notna().all(axis=1)
    told, draws = table[both], draws.of(both.to_numpy())
    pairs = metrics.pairs(told[0].to_numpy(), told[1].to_numpy(), scale)
    resampled, counts = draws.sum(pairs), pairs.sum(axis=0).astype(np.int64)
    agreement, kappa = (figures.of_pairs(m, pairs, resampled, scale, draws.occupations) for m in ("accuracy", "kappa"))
    shares: dict[str, Difference] = {}
    for label in scale:
        uses = [told[i] == label for i in (0, 1)]
        sides = [figures.of_measure("mean", side, side, draws) for side in uses]
        shares[label] = difference(sides[0], sides[1], figures.changed_occupations(uses[0], uses[1]))
    return SettingComparison(
        n=len(told),
        changed=int((told[0] != told[1]).sum()),
        agreement=known(agreement.value),
        agreement_ci95=agreement.bounds() if len(told) else None,
        kappa=known(kappa.value),
        kappa_ci95=kappa.bounds() if math.isfinite(kappa.value) else None,
        transitions={a: {b: int(counts[i, j]) for j, b in enumerate(scale)} for i, a in enumerate(scale)},
        prevalence=shares,
        mcnemar=mcnemar(int(counts[0, 1]), int(counts[1, 0])) if len(scale) == 2 else None,
        stuart_maxwell=stuart_maxwell(counts),
    )


def _measure(table: pd.DataFrame, draws: Draws) -> MeasureComparison:
    both = table[[0, 1]].notna().all(axis=1)
    told, draws = table[both], draws.of(both.to_numpy())
    sides = [figures.of_measure("mean", told[i], told[i], draws) for i in (0, 1)]
    found = difference(sides[0], sides[1], figures.changed_occupations(told[0], told[1]))
    return MeasureComparison(n=len(told), **found.model_dump())


def _against_gold(raters: Raters, draws: Draws) -> dict[SettingName, GoldComparison]:
    found: dict[SettingName, GoldComparison] = {}
    for setting, table in raters.labels.items():
        all_three = table.notna().all(axis=1)
        if not all_three.any():
            continue
        told, kept, scale = table[all_three], draws.of(all_three.to_numpy()), SCALES[setting]
        weight = raters.weight[all_three.to_numpy()][:, None, None]
        sides = [metrics.pairs(told[GOLD].to_numpy(), told[i].to_numpy(), scale) * weight for i in (0, 1)]
        resampled = [kept.sum(side) for side in sides]
        moved = figures.changed_occupations(told[0], told[1])
        right = [(told[i] == told[GOLD]).to_numpy() for i in (0, 1)]
        mended, broken = int((~right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())
        names = (*metrics.FIGURES, *(f"f1:{label}" for label in scale))
        both = {
            name: [figures.of_pairs(name, s, r, scale, kept.occupations) for s, r in zip(sides, resampled, strict=True)]
            for name in names
        }
        found[setting] = GoldComparison(
            n=len(told),
            metrics={name: difference(pair[0], pair[1], moved) for name, pair in both.items()},
            mended=mended,
            broken=broken,
            mcnemar=mcnemar(mended, broken),
        )
    return found


def _flips(raters: Raters) -> tuple[Flip, ...]:
    main = raters.main_measure
    if main is None:
        return ()
    changes = pd.DataFrame({m: table[1] - table[0] for m, table in raters.values.items()})
    sizes = raters.values[main][[0, 1]].notna().all(axis=1).groupby(level=0).sum()
    changed = changes[(changes.fillna(0) != 0).any(axis=1)]
    effects = (changed[main] / sizes.reindex(changed.index.get_level_values(0)).to_numpy()).fillna(0.0)
    order = effects.abs().sort_values(ascending=False, kind="stable").index
    said: dict[SettingName, Any] = {}
    for setting, table in raters.labels.items():
        rows = table.loc[order, [0, 1]].astype(object)
        said[setting] = rows.where(rows.notna(), None).to_numpy()
    values = changed.loc[order]
    return tuple(
        Flip(
            onet_soc_code=str(code),
            task_id=str(task),
            first=_of_row(said, row, 0),
            second=_of_row(said, row, 1),
            change={m: float(v) for m, v in zip(raters.values, value, strict=True) if not math.isnan(v)},
            effect=float(effect),
        )
        for row, ((code, task), value, effect) in enumerate(
            zip(order, values.to_numpy(), effects.loc[order].to_numpy(), strict=True)
        )
    )


def _of_row(said: Mapping[SettingName, Any], row: int, side: int) -> dict[SettingName, str | None]:
    return {setting: rows[row, side] for setting, rows in said.items()}


def _moves(raters: Raters) -> tuple[OccupationMove, ...]:
    main = raters.main_measure
    if main is None:
        return ()
    means: dict[Measure, pd.DataFrame] = {
        measure: table[[0, 1]].dropna().groupby(level=0).mean() for measure, table in raters.values.items()
    }
    told = raters.values[main][[0, 1]].dropna()
    sizes = told.groupby(level=0).size()
    flips = (told[0] != told[1]).groupby(level=0).sum()
    move = means[main][1] - means[main][0]
    moved = flips.index[flips > 0]
    order = move.loc[moved].abs().sort_values(ascending=False, kind="stable").index
    return tuple(
        OccupationMove(
            onet_soc_code=str(code),
            tasks=int(sizes[code]),
            flips=int(flips[code]),
            measures={m: _pair_of(t.loc[code]) for m, t in means.items() if code in t.index},
            move=float(move[code]),
        )
        for code in order
    )


def _pair_of(row: pd.Series) -> tuple[float, float]:
    return float(row[0]), float(row[1])


def _slices(raters: Raters, draws: Draws, details: pd.DataFrame | None) -> dict[str, dict[str, SliceAgreement]]:
    labels = raters.labels[raters.main]
    groups = {"soc_major": occupations_of(labels.index).str[:2]}
    if details is not None:
        kinds = details.set_index(TASK_KEY)["task_type"].reindex(labels.index)
        if kinds.notna().any():
            groups["task_type"] = kinds.fillna("not stated")
    values = None if raters.main_measure is None else raters.values[raters.main_measure]
    return {
        kind: {
            str(name): _slice(labels, values, (group == name).to_numpy(), raters.main, draws)
            for name in sorted(group.unique())
        }
        for kind, group in groups.items()
    }


def _slice(
    labels: pd.DataFrame, values: pd.DataFrame | None, mask: np.ndarray, setting: SettingName, draws: Draws
) -> SliceAgreement:
    within = _setting_agreement(labels[mask], setting, draws.of(mask))
    change = None if values is None else _measure(values[mask], draws.of(mask))
    agreement, kappa = within
    return SliceAgreement(
        n=agreement.n,
        occupations=agreement.occupations,
        agreement=known(agreement.value),
        agreement_ci95=agreement.bounds() if agreement.n else None,
        kappa=known(kappa.value),
        difference=None if change is None else change.difference,
        difference_ci95=None if change is None else change.ci95,
    )


def _setting_agreement(table: pd.DataFrame, setting: SettingName, draws: Draws) -> tuple[Figure, Figure]:
    both = table[[0, 1]].notna().all(axis=1)
    told, kept, scale = table[both], draws.of(both.to_numpy()), SCALES[setting]
    pairs = metrics.pairs(told[0].to_numpy(), told[1].to_numpy(), scale)
    resampled = kept.sum(pairs)
    agreement, kappa = (figures.of_pairs(m, pairs, resampled, scale, kept.occupations) for m in ("accuracy", "kappa"))
    return agreement, kappa


def _verdict(
    raters: Raters,
    settings: Mapping[SettingName, SettingComparison],
    measures: Mapping[Measure, MeasureComparison],
    against: Mapping[SettingName, GoldComparison],
) -> list[str]:
    found = settings[raters.main]
    if not found.n:
        return ["No task has a label in both runs."]
    said = [
        f"{raters.main}: the runs agree on {100 * (found.agreement or 0):.1f} % of {found.n:,} tasks"
        + (f" (kappa {shown(found.kappa)})" if found.kappa is not None else "")
        + f"; {found.changed:,} label{'' if found.changed == 1 else 's'} changed."
    ]
    for measure, change in measures.items():
        if change.difference is None or change.ci95 is None:
            continue
        low, high = change.ci95
        moved = "falls" if high < 0 else "rises" if low > 0 else None
        by = f"{change.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
        said.append(
            f"Mean {measure} {moved} from {shown(change.first)} to {shown(change.second)} ({by})."
            if moved
            else f"Mean {measure} cannot be said to change ({by})."
        )
    if raters.main in against and (change := against[raters.main].metrics["accuracy"]).ci95 is not None:
        low, high = change.ci95
        word = "worse than" if high < 0 else "better than" if low > 0 else None
        by = f"{shown(change.second)} against {shown(change.first)}, change {low:+.3f} to {high:+.3f}"
        said.append(
            f"Against the gold the second run is {word} the first (accuracy {by})."
            if word
            else f"Against the gold the runs cannot be told apart (accuracy {by})."
        )
    return said
