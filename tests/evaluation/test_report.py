"""Reports: one file, everything in it, nothing executed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from relabel.cli.compare import pair_tables
from relabel.evaluation.compare import compare
from relabel.evaluation.document import TextClassifier, Yardstick
from relabel.evaluation.evaluate import evaluate
from relabel.evaluation.gates import judge
from relabel.evaluation.gold import read_gold_csv
from relabel.evaluation.report import Charts, compare_page
from relabel.evaluation.suite import Suite
from relabel.tabular import Table, cell_text
from report_builders import HOSTILE, Pages, hostile_pages, hostile_run, page_of


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> _Tags:
    found = _Tags()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return hostile_pages(tmp_path_factory.mktemp("reports"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eval", "compare", "several"])
def test_nothing_from_outside_becomes_markup(pages: Pages, kind: str) -> None:
    found = parsed(getattr(pages, kind))
    assert not {"script", "iframe", "img", "object", "link", "form", "base"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    targets = [value for name, value in found.attributes if name in {"href", "src", "xlink:href", "action"}]
    assert all(value is not None and value.startswith("#") for value in targets)
    # The words themselves are shown.
    assert HOSTILE in "".join(found.text)


@pytest.mark.parametrize("kind", ["eval", "compare", "several"])
def test_a_page_asks_nothing_of_the_network_and_forbids_itself_to(pages: Pages, kind: str) -> None:
    page = getattr(pages, kind)
    shown = page.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    outside = re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:|//)|@import|url\((?!#)", shown)
    assert outside == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize("kind", ["eval", "compare", "several"])
def test_ids_are_given_once_and_links_within_the_page_lead_somewhere(pages: Pages, kind: str) -> None:
    found = parsed(getattr(pages, kind))
    ids = [value for name, value in found.attributes if name == "id"]
    assert all(ids)
    assert len(ids) == len(set(ids))
    links = {value for name, value in found.attributes if name == "href" and value}
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_verdict_stands_before_all_tables_and_charts(pages: Pages) -> None:
    for page in (pages.eval, pages.compare, pages.several):
        assert page.index('id="verdict"') < page.index("<table")
        assert page.index('id="verdict"') < page.index("<svg")


def test_failed_gates_lead_the_verdict(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", seed=1)
    path = tmp_path / "g.csv"
    path.write_text("task_id,onet_soc_code,code\n1,13-1001.00,E0\n2,15-1002.00,E1\n")
    gold = read_gold_csv(path)
    suite = Suite.model_validate(
        {"name": "s", "gates": [{"id": "sure", "setting": "three-way", "metric": "accuracy", "min": 0.99}]}
    )
    result = judge(suite, run, gold, None)
    page = page_of(evaluate(run, gold, draws=200), run, gold, suite=result)
    assert "1 of 1 gates failed" in page
    assert page.index("gates failed") < page.index('id="agreement"')


def test_charts_take_the_colours_of_the_page() -> None:
    drawn = str(Charts().matrix("m", {"a": {"a": 3, "b": 1}, "b": {"a": 0, "b": 2}}, rows="gold", columns="run"))
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn))
    assert colours <= {"none", "currentColor", "var(--accent)", "transparent"}, colours
    assert "<script" not in drawn


def test_a_run_with_few_tasks_still_gives_a_page(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", seed=1, tasks=1)
    (tmp_path / "g.csv").write_text("task_id,onet_soc_code,code\n0,11-1000.00,E0\n")
    gold = read_gold_csv(tmp_path / "g.csv")
    assert "figures are rough" in page_of(evaluate(run, gold, draws=200), run, gold)


def test_the_word_count_has_the_name_that_verdict_and_terminal_give_it(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run", seed=1)
    (tmp_path / "g.csv").write_text("task_id,onet_soc_code,code\n0,11-1000.00,E0\n1,13-1001.00,E0\n2,15-1002.00,E1\n")
    gold = read_gold_csv(tmp_path / "g.csv")
    document = evaluate(run, gold, draws=200)
    other = Yardstick(n=3, accuracy=0.8, kappa=0.7, accuracy_difference=0.1, kappa_difference=0.2)
    trained = TextClassifier(trained_on=2000, folds=5, seed=0, settings={"three-way": other})
    marks = document.yardsticks.model_copy(update={"text_classifier": trained})
    page = page_of(document.model_copy(update={"yardsticks": marks}), run, gold)
    assert '<th scope="row">word count</th>' in page
    assert "classifier" not in page


def test_a_page_shows_every_figure_of_the_tables_that_the_command_prints(tmp_path: Path) -> None:
    runs = [hostile_run(tmp_path / f"r{seed}", seed=seed) for seed in (1, 2)]
    document = compare(runs[0], runs[1], draws=200)
    found = parsed(compare_page(document, list(pair_tables(document, page=True)), runs)[0])
    shown = {text.strip() for text in found.text}
    for table in pair_tables(document):
        assert table.title in shown
        figures = [cell for cells in table.rows for cell in cells if cell is not None and not isinstance(cell, str)]
        assert figures
        assert {cell_text(cell) for cell in figures} <= shown


def test_an_interval_stands_below_its_figure_and_lines_of_a_cell_below_each_other() -> None:
    table = Table("T", ("name", "kappa", "95%", "n"), [("a\nb", 0.5, (0.25, 0.75), 3), ("c", None, None, 0)])
    assert table.on_page() == [
        [["name"], ["kappa", "95%"], ["n"]],
        [["a", "b"], [".500", ".250-.750"], ["3"]],
        [["c"], ["-"], ["0"]],
    ]
