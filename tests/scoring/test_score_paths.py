"""The path of one code over a bridge, and `relabel explain CODE --path`."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from relabel.cli.app import command_line
from relabel.errors import DataError, UsageError
from relabel.run import open_run
from relabel.scoring.explain import find_path
from relabel.scoring.options import Links
from relabel.scoring.table import score_table


@pytest.fixture
def app() -> typer.Typer:
    return command_line(["explain"])


def test_the_path_of_a_group_ends_in_its_shares() -> None:
    path = find_path("2134", tasks="sample")
    found = dict(zip(path.back["code"], path.back["share"], strict=True))
    shares = score_table(open_run("sample")).shares
    own = shares[shares["code"] == "2134"]
    assert found == pytest.approx(dict(zip(own["onet_soc_code"], own["share"], strict=True)))
    assert (path.system, path.borrowed) == ("uk-soc2020", False)


def test_the_path_of_an_occupation_leads_to_the_groups_that_it_counts_in() -> None:
    path = find_path("15-1252.00", tasks="sample")
    assert path.back.empty
    assert path.forward["code"].tolist() == ["2134"]
    assert path.forward["share"].tolist() == pytest.approx([0.711])


def test_by_onet_soc_there_is_no_bridge_and_the_path_is_the_code_itself() -> None:
    path = find_path("15-1252.00", tasks="sample", taxonomy="onet-soc")
    assert path.back.empty
    assert path.forward[["code", "share"]].to_numpy().tolist() == [["15-1252.00", 1.0]]


def test_an_unknown_code_is_a_data_error_that_shows_what_codes_look_like() -> None:
    with pytest.raises(DataError, match="'99' is not a code of UK SOC 2020 or O"):
        find_path("99", tasks="sample")


def test_the_command_shows_the_path_and_prints_json(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["explain", "2134", "--path", "--tasks", "sample"])
    assert shown.exit_code == 0, shown.output
    assert "Back to O*NET-SOC 2019" in shown.output
    assert "71.1%" in shown.output
    document = json.loads(CliRunner().invoke(app, ["explain", "2134", "--path", "--tasks", "sample", "--json"]).stdout)
    assert {row["code"] for row in document["back"]} == {"15-1252.00", "15-1254.00"}
    assert [row["weight"] for row in document["back"]] == [0.711, 0.289]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("1121 --method site-2026 --links equal", "--method site-2026 has its own links"),
        ("11-1011 --taxonomy soc2018 --links employment", "--links does not apply to soc2018"),
        ("11-1011.00 --taxonomy onet-soc --links index", "--links does not apply to onet-soc"),
        ("1121 --tasks sample --links index", "the sample has its own bridge"),
        ("11-1011 --taxonomy soc2018 --method site-2026", "only one bridge to soc2018, the same for every method"),
        ("1121 --tasks sample --method site-2026", "only one bridge over the sample, the same for every method"),
    ],
)
def test_a_choice_without_effect_on_the_path_is_refused(app: typer.Typer, words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(app, ["explain", *words.split(), "--path"], catch_exceptions=False)


@pytest.mark.mirror
@pytest.mark.parametrize(("code", "links"), [("2135", "index"), ("4151", "employment"), ("9222", "equal")])
def test_the_last_links_of_a_path_are_the_shares_of_the_score(code: str, links: Links) -> None:
    path = find_path(code, links=links)
    last = path.back[(path.back["system"] == "onet-soc") & path.back["with_tasks"]]
    found = last.groupby("code")["share"].sum().to_dict()
    listed = set(path.forward["onet_soc_code"])
    own = path.forward[path.forward["code"] == code]
    assert found == pytest.approx(dict(zip(own["onet_soc_code"], own["share"], strict=True)))
    assert set(found) == listed
    for _, step in path.back[path.back["with_tasks"]].groupby("system"):
        assert step["share"].sum() == pytest.approx(1)
    assert path.borrowed == (code == "9222")


@pytest.mark.mirror
def test_codes_without_task_statements_are_on_the_path_but_count_nothing() -> None:
    back = find_path("3311").back
    military = back[back["code"].isin(["0210", "0310"])]
    assert len(military) == 2
    assert not military["with_tasks"].any()
    assert military["share"].isna().all()


@pytest.mark.mirror
def test_forward_and_back_agree() -> None:
    forward = find_path("11-3051.00").forward
    groups = forward[forward["system"] == "uk-soc2020"].set_index("code")["share"]
    assert groups["1121"] == pytest.approx(79 / 80 / 6)
    back = find_path("1254").forward
    assert groups["1254"] == pytest.approx(
        back[(back["code"] == "1254") & (back["onet_soc_code"] == "11-3051.00")]["share"].item()
    )
