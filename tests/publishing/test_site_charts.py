"""Where marks lie in charts, and how figures read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.publishing.site.build import change, money, percent, signed, tenth, whole
from relabel.publishing.site.views import Box, halved, scatter


@given(
    st.lists(st.floats(1, 1e6), min_size=1, max_size=60),
    st.floats(1, 500),
    st.floats(1, 500),
)
def test_a_treemap_gives_each_value_its_part_of_the_area_and_no_two_the_same_place(
    values: list[float], width: float, height: float
) -> None:
    values = sorted(values, reverse=True)
    area = Box(3, 5, width, height)
    boxes = halved(values, area)
    for value, box in zip(values, boxes, strict=True):
        assert box.width * box.height == pytest.approx(width * height * value / sum(values), rel=1e-6)
        assert box.x >= 3 - 1e-6
        assert box.y >= 5 - 1e-6
        assert box.x + box.width <= 3 + width + 1e-6 * width
        assert box.y + box.height <= 5 + height + 1e-6 * height
    for place, one in enumerate(boxes):
        for two in boxes[:place]:
            across = min(one.x + one.width, two.x + two.width) - max(one.x, two.x)
            along = min(one.y + one.height, two.y + two.height) - max(one.y, two.y)
            assert across <= 1e-6 * width or along <= 1e-6 * height


def test_a_treemap_keeps_equal_parts_square() -> None:
    boxes = halved([1.0] * 16, Box(0, 0, 40, 40))
    assert all(box.width == pytest.approx(10) and box.height == pytest.approx(10) for box in boxes)


def test_an_axis_holds_all_values_and_marks_round_ones() -> None:
    plot = scatter(
        [{"pay": pay, "code": "1", "strict_10": 1, "with_tools_10": 2, "title": "A"} for pay in (8_500, 96_000)]
    )
    low, high = (dot["x"] for dot in plot["dots"])
    assert 0 < low < high < 100
    ticks = {tick["value"]: tick["x"] for tick in plot["ticks"]}
    assert list(ticks) == [10_000, 20_000, 30_000, 50_000, 70_000, 100_000]
    assert low < ticks[20_000] < ticks[70_000] < high
    assert ticks[100_000] - ticks[50_000] == pytest.approx(ticks[20_000] - ticks[10_000], abs=0.02)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (52_885, "£52,885"),
        (1_773_234_050, "£1.77bn"),
        (18_492_297_950, "£18.49bn"),
        (126_331_200, "£126m"),
        (539_013_120, "£539m"),
        (999_700_000, "£1.00bn"),
        (99_994_000_000, "£99.99bn"),
        (99_996_000_000, "£100.0bn"),
        (346_761_215_306, "£346.8bn"),
        (1_234_560_000_000, "£1,234.6bn"),
        (999_600, "£1m"),
        (999_400, "£999,400"),
        (0, "£0"),
        (-2_500_000, "−£3m"),
        (None, "–"),
    ],
)
def test_money_reads_as_people_write_it(value: float | None, shown: str) -> None:
    assert money(value) == shown


def test_figures_round_half_up_and_show_a_dash_where_there_is_none() -> None:
    assert [tenth(4.25), tenth(4.61), tenth(0.05), tenth(None)] == ["4.3", "4.6", "0.1", "–"]
    assert [whole(479_000), whole(None)] == ["479,000", "–"]
    assert [percent(0.125), percent(0.002), percent(0), percent(None)] == ["13%", "under 1%", "0%", "–"]
    assert [signed(0.25), signed(-1.25), signed(-0.01), signed(None)] == ["+0.3", "−1.3", "0.0", "–"]
    assert [change(5.098), change(-0.0355), change(0), change(None)] == ["+5.1%", "level", "level", "–"]
