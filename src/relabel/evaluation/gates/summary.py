"""A suite's outcome for people at a pull request: a Markdown summary, and GitHub's annotations."""

from __future__ import annotations

from relabel.evaluation.gates.outcome import GateResult, SuiteResult
from relabel.evaluation.verdict import figure

_ESCAPED = str.maketrans(
    {
        **{char: f"\\{char}" for char in "\\`*_{}[]()#+!|~"},
        "<": "&lt;",
        ">": "&gt;",
        "&": "&amp;",
        "@": "&#64;",  # else a run's name could call on somebody
        "\n": " ",
        "\r": " ",
    }
)


def markdown(result: SuiteResult, verdict: str = "") -> str:
    """Write a suite's outcome as Markdown, the outcome first.

    Args:
        result: The outcome.
        verdict: The eval's verdict, one sentence a line.

    Returns:
        GitHub-flavoured Markdown. Names and words from outside stand in it as text, never as markup.
    """
    failed = len(result.failures)
    gates = f"{len(result.results)} gate{'' if len(result.results) == 1 else 's'}"
    outcome = f"{gates} passed" if result.passed else f"{failed} of {gates} failed"
    lines = [f"## {'✅' if result.passed else '❌'} {_text(result.suite)}: {outcome}", ""]
    if result.title:
        lines += [_text(result.title), ""]
    about = f"Run **{_text(result.run)}** against the gold **{_text(result.gold)}**"
    if result.baseline is not None:
        about += f", baseline **{_text(result.baseline)}**"
    lines += [about + ".", ""]
    for gate in result.failures:
        why = f" ({_text(gate.why.rstrip('.'))})" if gate.why else ""
        lines.append(f"- **{_text(gate.id)}**: {_text(gate.message)}{why}")
    lines += [""] if result.failures else []
    lines += [
        "| | gate | figure | value | interval | threshold | tasks |",
        "|---|---|---|---:|---:|---:|---:|",
        *(_row(gate) for gate in result.results),
        "",
        _text(result.family),
        "",
    ]
    if verdict:
        lines += ["<details><summary>Verdict of the eval</summary>", ""]
        lines += [f"- {_text(sentence)}" for sentence in verdict.splitlines()]
        lines += ["", "</details>", ""]
    pins = f"gold `{result.gold_sha256[:12]}`"
    if result.baseline_sha256 is not None:
        pins += f", baseline `{result.baseline_sha256[:12]}`"
    return "\n".join([*lines, f"Labels: {pins}."]) + "\n"


def github_annotations(result: SuiteResult) -> list[str]:
    """GitHub's workflow commands: one error a gate that does not hold, and a notice when all hold."""
    if result.passed:
        count = len(result.results)
        said = f"{count} gate{'' if count == 1 else 's'} passed for {result.run}"
        return [f"::notice title={_property(f'relabel {result.suite}')}::{_message(said)}"]
    return [
        f"::error title={_property(f'relabel {result.suite}: {gate.id}')}::{_message(gate.message)}"
        for gate in result.failures
    ]


def _row(gate: GateResult) -> str:
    sign = "✅" if gate.passed else "❌" if gate.judged else "⚠️"
    interval = (
        "" if gate.low is None or gate.high is None else f"{_signed(gate, gate.low)} to {_signed(gate, gate.high)}"
    )
    if interval and gate.level is not None and gate.level != 0.95:
        interval += f" ({100 * gate.level:.4g} %)"
    bound = {"min": "at least ", "max": "at most ", "max_drop": "drop at most "}[gate.kind] + figure(gate.threshold)
    value = _signed(gate, gate.value)
    return f"| {sign} | {_text(gate.id)} | {_text(gate.what)} | {value} | {interval} | {bound} | {gate.n:,} |"


def _signed(gate: GateResult, value: float | None) -> str:
    return f"{value:+.3f}" if gate.kind == "max_drop" and value is not None else figure(value)


def _text(said: str) -> str:
    return said.translate(_ESCAPED)


def _message(said: str) -> str:
    return said.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(said: str) -> str:
    return _message(said).replace(":", "%3A").replace(",", "%2C")
