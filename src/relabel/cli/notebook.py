"""The functions `relabel.label`, `relabel.alabel` and `relabel.study`, for notebooks and scripts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import relabel
from relabel.cli._labelling import label_until
from relabel.errors import UsageError
from relabel.labelling.job import Stop
from relabel.labelling.options import RunOptions, checked_parameters, default_name
from relabel.labelling.providers import given_price
from relabel.settings import settings as environment_settings

if TYPE_CHECKING:
    import pandas as pd

    from relabel.study.results import Results

Result = TypeVar("Result")


def label(
    tasks: str | Path | pd.DataFrame | Sequence[str | int],
    *,
    model: str,
    rubric: str = "exposure",
    settings: Sequence[str] = (),
    samples: int = 1,
    provider: str | None = None,
    max_cost: float | None = None,
    price: str | None = None,
    task_list: str = "onet-30.2",
    out: str | Path | None = None,
    replay: bool = False,
    progress: bool = True,
    **options: Any,
) -> relabel.Run:
    """Label tasks with a model; the same store, keys and run folders as `relabel run`.

    Works in a notebook, also inside a running event loop. Interrupting the kernel stops the run: answers that were bought are
    stored, and the same call continues.

    Args:
        tasks: A task list's name, the path of a CSV file, a frame with the columns of such a file (`task_id, onet_soc_code, title,
            text`, and optionally `task_type, importance`), or task ids of `task_list`.
        model: `local`, `local:FILE.gguf`, or a model's name at the provider.
        rubric: A rubric's name, or the path of a YAML file.
        settings: Settings to ask; by default all of the rubric.
        samples: Times that each question is asked.
        provider: Name of the provider; by default known from the address.
        max_cost: Cap on the cost of all starts together, in USD.
        price: USD per million tokens, input and output, such as `0.25/2`; by default from the price table.
        task_list: The list that task ids belong to.
        out: The run folder; by default a name under `runs/` made from the options.
        replay: Take answers from the store only.
        progress: Show progress.
        **options: Further options of `relabel run`, by their names in `relabel.labelling.options.RunOptions`.

    Returns:
        The run, even if labels are missing: `run.failures()` names them.

    Raises:
        UsageError: An option is unknown, or two cannot be combined.
        DataError: A file or frame cannot be used.
        ProviderError: The provider refused for good.
    """
    stop = Stop()
    options |= {"samples": samples, "provider": provider, "max_cost": max_cost, "price": price, "task_list": task_list}
    chosen = _options(tasks, model=model, rubric=rubric, settings=settings, **options)
    return _in_thread(_label(chosen, out, replay=replay, progress=progress, stop=stop), stop)


async def alabel(
    tasks: str | Path | pd.DataFrame | Sequence[str | int],
    *,
    model: str,
    out: str | Path | None = None,
    replay: bool = False,
    progress: bool = False,
    **options: Any,
) -> relabel.Run:
    """`label` for code that runs in an event loop: `await relabel.alabel(...)`; cancelling it stops the run like an interrupt.

    Further options are those of `label`.
    """
    stop, chosen = Stop(), _options(tasks, model=model, **options)
    work = asyncio.ensure_future(_label(chosen, out, replay=replay, progress=progress, stop=stop))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({work})
        raise


def study(path: str | Path = "study.yaml", *, replay: bool = False, allow_hosts: Sequence[str] = ()) -> Results:
    """Make the missing parts of a study, like `relabel study run`, and return its results.

    Args:
        path: The study file.
        replay: Whether answers come from the store alone.
        allow_hosts: Hosts that may receive tasks and key although only the study file names them.

    Raises:
        RelabelError: A rater failed, or labels are missing; the results of the others are written all the same.
    """
    from relabel.study.results import write_results
    from relabel.study.running import StopAll, open_study, plan, raise_worst, require_readable, run_raters, runs_of

    opened, stop = open_study(Path(path)), StopAll()
    raters = plan(opened)
    require_readable(opened)
    _in_thread(run_raters(raters, opened, replay=replay, allow_hosts=allow_hosts, stop=stop), stop)
    results = write_results(opened, runs_of(raters))
    raise_worst(raters)
    return results


def _options(
    tasks: str | Path | pd.DataFrame | Sequence[str | int],
    *,
    rubric: str = "exposure",
    settings: Sequence[str] = (),
    price: str | None = None,
    task_list: str = "onet-30.2",
    **more: Any,
) -> RunOptions:
    option_names = {field.name for field in fields(RunOptions)} - {"tasks", "chosen", "cluster"}
    if unknown := sorted(set(more) - option_names):
        raise UsageError(f"label() has no option {unknown[0]!r}; use one of {', '.join(sorted(option_names))}")
    loaded = relabel.load_rubric(rubric)
    ref, chosen = task_list, None
    if isinstance(tasks, str | Path):
        ref = str(tasks)
    elif not hasattr(tasks, "columns"):
        if not len(tasks):
            raise UsageError("label() was given no task ids; give at least one, or the name of a task list")
        place = {task_id: place for place, task_id in enumerate(dict.fromkeys(map(str, tasks)))}
        listed = [task for task in relabel.load_tasks(task_list, unit=loaded.unit) if task.task_id in place]
        if unknown := sorted(place.keys() - {task.task_id for task in listed}):
            raise UsageError(f"the task id {unknown[0]!r} is not in {task_list}; correct it, or name another task_list")
        chosen = sorted(listed, key=lambda task: place[task.task_id])
    else:
        ref = str(_saved(tasks))
    more |= {"params": checked_parameters(more.get("params", {})), "price": given_price(price) if price else None}
    return RunOptions(rubric=loaded, settings=tuple(settings), tasks=ref, chosen=chosen, **more)


def _saved(frame: Any) -> Path:
    """Save a frame as a task file named by its content, so that the run and its scores can be read later."""
    text = frame.to_csv(index=False, lineterminator="\n")
    path = Path("runs") / f"tasks-{hashlib.sha256(text.encode()).hexdigest()[:12]}.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return path


async def _label(
    options: RunOptions, out: str | Path | None, *, replay: bool, progress: bool, stop: Stop
) -> relabel.Run:
    environment = environment_settings()
    prepared = options.prepare(environment)
    name, look = default_name(prepared.job), "people" if progress else "quiet"
    if options.chosen is not None:
        ids = sorted(f"{task.onet_soc_code} {task.task_id}" for task in options.chosen)
        name = f"{name}-{hashlib.sha256(chr(10).join(ids).encode()).hexdigest()[:6]}"
    folder = Path(out or Path("runs") / name)
    await label_until(stop, prepared, folder, environment, replay=replay, look=look)
    return relabel.open_run(str(folder))


def _in_thread(work: Coroutine[Any, Any, Result], stop: Stop) -> Result:
    """Run in a new event loop in another thread, because a notebook already has a running loop.

    An interrupt stops the work, and is raised again once the answers in flight are stored.
    """
    loop, interrupted = asyncio.new_event_loop(), False
    done = ThreadPoolExecutor(1, "relabel").submit(loop.run_until_complete, work)
    while not done.done():
        try:
            wait([done])
        except KeyboardInterrupt:
            interrupted = True
            loop.call_soon_threadsafe(stop)
    loop.close()
    if interrupted:
        raise KeyboardInterrupt
    return done.result()
