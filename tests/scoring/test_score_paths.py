"""The links behind a score, as `relabel explain` shows them."""

from __future__ import annotations

import pytest

from relabel.run import open_run
from relabel.scoring.explain import Link, explain
from relabel.scoring.options import Links
from relabel.scoring.table import score_table


def _links(code: str, links: Links | None = None) -> list[Link]:
    run = open_run("eloundou-2023:gpt4")
    return list(explain(score_table(run, links=links), run, code).path)


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


@pytest.mark.mirror
def test_codes_without_task_statements_are_on_the_path_but_count_nothing() -> None:
    military = [link for link in _links("3311") if link.code in ("0210", "0310")]
    assert len(military) == 2
    assert all(link.share is None for link in military)
