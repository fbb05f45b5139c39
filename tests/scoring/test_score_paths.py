"""The links behind a score, as `relabel explain` shows them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import UsageError
from relabel.run import open_run
from relabel.scoring.explain import Link, explain
from relabel.scoring.options import Links
from relabel.scoring.table import score_table


def _explain(words: str) -> str:
    return CliRunner().invoke(command_line(["explain"]), ["explain", *words.split()], catch_exceptions=False).stdout


def test_a_group_is_traced_back_by_links_with_weights() -> None:
    said = " ".join(_explain("sample 2134 --draws 0").split())
    assert "code for title weight share" in said
    assert "15-1252.00 2134 Software Developers 0.711 71.1%" in said


@pytest.mark.slow
def test_an_onet_code_is_traced_forward_to_the_groups_that_it_counts_in() -> None:
    said = " ".join(_explain("sample 15-1252.00 --taxonomy uk-soc2020").split())
    assert "15-1252.00 Software Developers counts in the scores of 1 code of UK SOC 2020" in said
    assert "2134 Programmers and software development professionals 71.1%" in said
    document = json.loads(_explain("sample 15-1252.00 --taxonomy uk-soc2020 --json"))
    assert [(group["code"], group["share"]) for group in document["counts_in"]] == [("2134", pytest.approx(0.711))]
    with pytest.raises(UsageError, match="--draws has no effect on the UK SOC 2020 codes of an O\\*NET code"):
        _explain("sample 15-1252.00 --taxonomy uk-soc2020 --draws 9")


@pytest.mark.slow
@pytest.mark.mirror
def test_forward_and_back_agree() -> None:
    forward = json.loads(_explain("eloundou-2023:gpt4 11-3051.00 --taxonomy uk-soc2020 --json"))["counts_in"]
    (of_group,) = [group["share"] for group in forward if group["code"] == "1254"]
    assert _explain("eloundou-2023:gpt4 55-1011.00 --taxonomy uk-soc2020").strip() == (
        "55-1011.00 Air Crew Officers counts in the scores of 0 codes of UK SOC 2020"
    )
    back = [link.share for link in _links("1254") if link.code == "11-3051.00"]
    assert of_group == pytest.approx(sum(share or 0 for share in back))
    assert [group["share"] for group in forward] == sorted((group["share"] for group in forward), reverse=True)


def _links(code: str, links: Links | None = None) -> list[Link]:
    run = open_run("eloundou-2023:gpt4")
    return list(explain(score_table(run, links=links), run, code).path)


@pytest.mark.slow
@pytest.mark.mirror
@pytest.mark.parametrize(("code", "links"), [("2135", "index"), ("4151", "employment"), ("9222", "equal")])
def test_the_last_links_of_a_path_are_the_shares_of_the_score(code: str, links: Links) -> None:
    path = _links(code, links)
    shares = score_table(open_run("eloundou-2023:gpt4"), links=links).shares
    own = shares[shares["code"] == code]
    found: dict[str, float] = {}
    for link in path:
        if link.system.startswith("O*NET") and link.share is not None:
            found[link.code] = found.get(link.code, 0) + link.share
    assert found == pytest.approx(dict(zip(own["onet_soc_code"], own["share"], strict=True)))
    for system in {link.system for link in path}:
        assert sum(link.share or 0 for link in path if link.system == system) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.mirror
def test_codes_without_task_statements_are_on_the_path_but_count_nothing() -> None:
    military = [link for link in _links("3311") if link.code in ("0210", "0310")]
    assert len(military) == 2
    assert all(link.share is None for link in military)
