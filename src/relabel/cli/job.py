"""From the options of `relabel run` to the job that they ask for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relabel.errors import UsageError
from relabel.labelling.connection import Connection
from relabel.labelling.engines.local import is_local
from relabel.labelling.job import Job
from relabel.labelling.ledger import FEWEST_TO_CALIBRATE
from relabel.labelling.prompt import load_prompt
from relabel.labelling.request import ONE_TOKEN, Decide, canonical_json
from relabel.labelling.wire import Api, Form, output_bound
from relabel.rubric import Rubric, orders
from relabel.run import task_sources
from relabel.sources.tables import is_table_file
from relabel.task import load_tasks

_OURS = {"model", "messages", "input", "response_format", "stream", "n"}
"""What a request says anyway, and nobody else may."""
_CREDENTIALS = {"api_key", "apikey", "authorization", "token", "access_token", "secret", "password"}


def settings_of(rubric: Rubric, given: Sequence[str] | None) -> tuple[str, ...]:
    """The settings to ask: those that were given, or all.

    Raises:
        UsageError: The rubric has no such setting.
    """
    asked = tuple(dict.fromkeys(given or rubric.settings))
    for name in asked:
        if name not in rubric.settings:
            raise UsageError(f"the rubric {rubric.id} has no setting {name!r}; use one of {', '.join(rubric.settings)}")
    return asked


def parameters(given: Sequence[str], max_tokens: int | None, model: str, *, api: Api, decide: Decide) -> dict[str, Any]:
    """What is sent beside the question, by the user's word.

    Args:
        given: Values of `--param`.
        max_tokens: Value of `--max-tokens`.
        model: The model as the user named it.
        api: The dialect, which has its own name for the bound of an answer.
        decide: How an answer says its label; one token leaves little to choose.

    Raises:
        UsageError: One is no parameter, cannot be sent, or would be overridden.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if name.lower().replace("-", "_") in _CREDENTIALS:
            raise UsageError(f"--param {name} would write a credential into the store; set OPENAI_API_KEY instead")
        if not equals or not name or name in _OURS:
            raise UsageError(f"--param {item!r} is not NAME=VALUE with a sampling parameter, such as temperature=0")
        found[name] = value = _value(item, name, text)
        if name == "text" and not (isinstance(value, dict) and "format" not in value):
            raise UsageError(
                '--param text takes an object without `format`, such as text={"verbosity":"low"}: the format is relabel\'s'
            )
    if decide == "logprob":
        _leave_to_one_token(found, max_tokens)
    if max_tokens is not None:
        at_home = "max_tokens" if is_local(model) else "max_completion_tokens"
        found["max_output_tokens" if api == "responses" else at_home] = max_tokens
    return found


def _value(item: str, name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    except RecursionError:
        raise UsageError(f"--param {name} is nested too deep to be sent; give a simpler value") from None
    try:
        canonical_json({name: value})
    except ValueError:  # what JSON has no word for: NaN, what is beyond all numbers, half a character
        raise UsageError(
            f"--param {item!r} cannot be sent as JSON; give a finite number, or text that is whole"
        ) from None
    return value


def _leave_to_one_token(params: dict[str, Any], max_tokens: int | None) -> None:
    """Make sure that nothing is asked for which `--decide logprob` would send otherwise, unlike what a manifest says."""
    against = [f"--param {n}" for n, value in params.items() if n in ONE_TOKEN and value != ONE_TOKEN[n]]
    against += [f"--param {n}" for n in params if n not in ONE_TOKEN and output_bound({n: 1}) is not None]
    if max_tokens is not None:
        against.append("--max-tokens")
    if against:
        fixed = ", ".join(f"{name}={json.dumps(value)}" for name, value in ONE_TOKEN.items())
        raise UsageError(f"--decide logprob asks for one token by {fixed}; leave {' and '.join(against)} out")


def make_job(
    model: str,
    described: Connection,
    rubric: Rubric,
    settings: tuple[str, ...],
    tasks: str,
    *,
    prompt: str | None = None,
    examples: bool = True,
    sample: int | None = None,
    seed: int = 0,
    occupations: Sequence[str] = (),
    samples: int = 1,
    variants: int = 1,
    decide: Decide = "json",
    calibrate: bool = True,
    pack: int = 1,
    form: Form | None = None,
) -> Job:
    """The job that the options ask for.

    Args:
        model: The model as the user named it.
        described: The model.
        rubric: The rubric.
        settings: Settings of the rubric to ask.
        tasks: The task list as the user named it.
        prompt: A prompt's name or path; by default the rubric's.
        examples: Whether worked examples are shown.
        sample: Draw this many tasks at random.
        seed: Seed of the draw.
        occupations: Only tasks of these codes.
        samples: Times that each question is asked, in each order.
        variants: Orders of the rubric's labels and examples that each question is asked in, drawn with the same seed.
        decide: How an answer says its label.
        calibrate: Whether labels decided by log probability are calibrated over the run.
        pack: Tasks in one request.
        form: How the server is held to the answer's shape; None finds it out.

    Raises:
        UsageError: There are too few tasks to calibrate over, or the rubric has fewer orders than variants.
        DataError: A task list, or a prompt, cannot be used.
    """
    if variants > 1 and decide == "logprob":
        raise UsageError(
            "--variants needs --decide json: with one token a label's letter moves with the order of labels"
        )
    template = load_prompt(prompt or rubric.prompt)
    chosen = load_tasks(tasks, unit=rubric.unit, occupations=occupations, sample=sample, seed=seed)
    if decide == "logprob" and calibrate and len(chosen) * samples < FEWEST_TO_CALIBRATE:
        raise UsageError(
            f"calibration needs at least {FEWEST_TO_CALIBRATE} answers a setting to tell the model's bias from the tasks' own, and "
            f"this run asks {len(chosen) * samples}; give more tasks, or --no-calibrate"
        )
    return Job(
        tasks=chosen,
        tasks_ref=tasks,
        sources=task_sources(tasks, rubric.unit),
        rubric=rubric,
        prompt=template,
        settings=settings,
        endpoint=described.endpoint.model_copy(update={"form": form or "json_schema"}),
        model=model,
        base_url=described.shown_url,
        price=described.price,
        provider=described.provider,
        samples=samples,
        orders=orders(rubric, variants, seed=seed, examples=examples) if variants > 1 else (),
        examples=examples,
        decide=decide,
        calibrate=calibrate,
        pack=pack,
        probe=form is None and decide == "json" and not is_local(model),
        parameters={
            "sample": sample,
            "seed": seed if sample else None,
            "occupations": list(occupations),
            "wire_model": described.endpoint.model,
            **({"variant_seed": seed} if variants > 1 else {}),
        },
    )


def default_name(job: Job) -> str:
    """A name for a run that tells what was asked; the same command gives the same name."""
    parts = [job.model, job.rubric.id, Path(job.tasks_ref).stem if is_table_file(job.tasks_ref) else job.tasks_ref]
    if job.parameters["sample"]:
        parts.append(f"n{job.parameters['sample']}-s{job.parameters['seed']}")
    whole: list[Any] = [
        job.endpoint.model_dump(),
        job.rubric.sha256,
        job.prompt.sha256,
        job.settings,
        job.all_parameters,
        [source.sha256 for source in job.sources],
    ]
    digest = hashlib.sha256(canonical_json(whole)).hexdigest()[:6]
    return re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, digest]).lower()).strip("-")
