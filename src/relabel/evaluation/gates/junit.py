"""A suite's outcome as JUnit XML, which CI servers show as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from relabel.evaluation.gates.outcome import GateResult, SuiteResult

# Control characters that XML 1.0 cannot hold, in whatever escape.
_ILLEGAL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: SuiteResult) -> str:
    """Write a suite's outcome as JUnit XML: one test case a threshold.

    Args:
        result: The outcome. A gate that could not be judged is an error, one that does not hold a failure.

    Returns:
        The document, with its declaration. It holds no time, so that the same outcome is the same text.
    """
    errors = sum(not r.judged for r in result.results)
    failures = len(result.failures) - errors
    counts = {"tests": str(len(result.results)), "failures": str(failures), "errors": str(errors)}
    root = ET.Element("testsuites", {"name": "relabel", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": result.suite, **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("run", result.run),
        ("gold", result.gold),
        ("gold_sha256", result.gold_sha256),
        ("baseline", result.baseline),
        ("baseline_sha256", result.baseline_sha256),
        ("family", result.family),
    ):
        if value is not None:
            ET.SubElement(properties, "property", {"name": name, "value": _legal(value)})
    for each in result.results:
        _case(suite, result.suite, each)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(parent: ET.Element, suite: str, result: GateResult) -> None:
    name = f"{result.id} {result.kind.replace('_', ' ')}"
    case = ET.SubElement(parent, "testcase", {"classname": f"relabel.{suite}", "name": name})
    if not result.passed:
        kind = "failure" if result.judged else "error"
        found = ET.SubElement(case, kind, {"message": _legal(result.message), "type": result.kind})
        found.text = _legal(result.why or result.message)
    ET.SubElement(case, "system-out").text = _legal(result.message)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
