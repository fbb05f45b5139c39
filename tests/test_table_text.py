"""Tables for a paper, a page and another program."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relabel.tabular import Change, Signed, Table, table_text

AGREEMENT = Table(
    "Agreement of a_run & gold, 50%",
    ("setting", "n", "kappa", "95%", "change", "95%"),
    [
        ["strict", 1234, -0.0334, (-0.1, 0.2), Signed(0.02), Change(-0.1, 0.3)],
        ["a|b", 3, 0.5, (0.1, 0.2), None, None],
    ],
    notes=["x_y < 5."],
)


def test_latex_escapes_names_and_sets_minus_signs_and_ranges() -> None:
    lines = table_text([AGREEMENT], "latex").splitlines()

    assert r"\caption{Agreement of a\_run \& gold, 50\%}" in lines
    assert r"strict & 1,234 & $-$.033 & $-$.100 to .200 & $+$0.020 & $-$0.100 to $+$0.300 \\" in lines
    assert r"a$|$b & 3 & .500 & .100--.200 & - & - \\" in lines
    assert lines.index(r"\toprule") < lines.index(r"\midrule") < lines.index(r"\bottomrule")


@pytest.mark.parametrize(("rows", "pages"), [(12, 1), (412, 8)])
def test_latex_compiles_and_loses_no_row_of_a_long_table(tmp_path: Path, rows: int, pages: int) -> None:
    of = Table(
        "Scores", ["code", "title", "alpha"], [[str(n), f"Group {n}", n / rows] for n in range(rows)], notes=["A."]
    )
    text = table_text([of], "latex")
    assert text.count(r"\\") >= rows + 1
    if (program := shutil.which("pdflatex")) is None:
        pytest.skip("needs the program pdflatex to set a table")
    head = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{text}\\end{{document}}\n", "utf-8")
    done = subprocess.run(
        [program, "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = re.search(r"Output written on t.pdf \((\d+) page", done.stdout)
    assert found
    assert int(found[1]) >= pages
    assert "too large for page" not in done.stdout


def test_markdown_keeps_its_columns_whatever_a_name_holds() -> None:
    rows = [line for line in table_text([AGREEMENT], "markdown").splitlines() if line.startswith("|")]

    assert {row.replace(r"\|", "").count("|") for row in rows} == {7}
    assert rows[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"


def test_markdown_holds_nothing_that_a_terminal_obeys_or_that_reorders_text() -> None:
    text = table_text([Table("\x1b[2J", ["\u202ename"], [["a\x07\nb"]], notes=["\u2066x"])], "markdown")
    assert text.replace("\n", "").isprintable()


def test_csv_of_tables_is_a_line_a_figure_unrounded_with_its_interval() -> None:
    rows = list(csv.DictReader(io.StringIO(table_text([AGREEMENT, AGREEMENT], "csv"))))

    assert len(rows) == 12
    assert rows[1] == {
        "table": AGREEMENT.title, "row": "strict", "figure": "kappa", "value": "-0.0334", "low": "-0.1", "high": "0.2"
    }  # fmt: skip
    assert rows[5]["value"] == ""
