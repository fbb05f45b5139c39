"""What tells two runs apart, in the words of the command that makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relabel.run import Manifest

_OPTIONS: Mapping[str, str] = {
    "sample": "--sample",
    "seed": "--seed",
    "occupations": "--occupation",
    "samples": "--samples",
    "variants": "--variants",
    "orders": "--seed, which draws the orders of --variants,",
    "examples": "--examples",
    "pack": "--pack",
    "decide": "--decide",
    "calibrate": "calibration over the run, which relabel no longer does,",
    "wire_model": "the model's name at the server",
}
_BOUNDS = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
"""What `--max-tokens` is called on the wire, by dialect."""
_SHOWN = 60
"""Characters of a value."""


def differences(there: Manifest, now: Manifest) -> list[str]:
    """What differs between the run that a folder holds and the one that is asked for; empty for the same run.

    Args:
        there: Of the folder.
        now: Of the new run.
    """
    found = list(_options(there, now))
    if not found and there.schema_sha256 != now.schema_sha256:
        found.append(
            f"the requests differ: relabel {there.package_version}, which made that run, worded them in another way"
        )
    return found


def _options(there: Manifest, now: Manifest) -> Iterator[str]:
    yield from _differs("--model", there.model, now.model)
    yield from _differs("--base-url", there.base_url, now.base_url)
    if there.api is not None:
        yield from _differs("--api", there.api, now.api)
    yield from _differs("--tasks", there.tasks, now.tasks)
    yield from _differs("--setting", there.settings, now.settings)
    if there.rubric_sha256 != now.rubric_sha256:
        before, after = there.rubric, now.rubric
        yield from (
            _differs("--rubric", before.id, after.id)
            or _differs(f"the version of the rubric {after.id}", before.version, after.version)
            or [f"the text of the rubric {after.id} differs"]
        )
    if there.prompt_sha256 != now.prompt_sha256:
        yield "--prompt differs, or the text of the prompt"
    for name in sorted({*there.parameters, *now.parameters} - {"params"}):
        before, after = there.parameters.get(name), now.parameters.get(name)
        if name == "calibrate":
            before = before or None
        # A model that has another name has another one on the wire, too.
        if name != "wire_model" or there.model == now.model:
            yield from _differs(_OPTIONS.get(name, name), before, after)
    sent, to_send = there.parameters.get("params") or {}, now.parameters.get("params") or {}
    for name in sorted({*sent, *to_send}):
        option = "--max-tokens" if name in _BOUNDS else f"--param {name}"
        yield from _differs(option, sent.get(name), to_send.get(name))
    # The form of one token is what --decide says.
    if there.response_form is not None and there.parameters.get("decide") == now.parameters.get("decide"):
        yield from _differs("--response-format", there.response_form, now.response_form)
    contents, contents_now = ({(s.source, s.file): s.sha256 for s in m.sources} for m in (there, now))
    if there.tasks == now.tasks:
        for key in sorted({*contents, *contents_now}):
            if contents.get(key) != contents_now.get(key):
                yield f"the file {key[1]} has other contents than it had there"


def _differs(what: str, before: Any, after: Any) -> list[str]:
    return [] if before == after else [f"{what} differs: {_said(before)} there, {_said(after)} now"]


def _said(value: Any) -> str:
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
