"""Charts on a phone: no word is cut, and no line goes through words."""

import re

import pytest

from tasks.page import charts

PAIRS = re.compile(r'<path class="line \w+" d="M([\d.]+) ([\d.]+)h16"/><text[^>]*>([^<]*)')


def narrow(drawn: str) -> str:
    [found] = [
        one
        for one in drawn.split('<div class="drawn">')
        if "chart narrow" in one or "narrow" in one[:60]
    ]
    return found


@pytest.mark.parametrize(
    "names", [("one", "two"), ("co-occurrence", "popularity", "labelling model"), ("x" * 30,) * 3]
)
def test_the_legend_of_a_chart_fits_a_phone(names: tuple[str, ...]) -> None:
    series = [charts.Line(f"{name}", [1.0, 2.0]) for name in names]
    drawn = narrow(charts.lines(["a", "b"], series, "label"))
    legend = PAIRS.findall(drawn)
    assert [name for _, _, name in legend] == list(names)
    for x, _, name in legend:
        assert float(x) + 20 + charts.LETTER * len(name) <= charts.NARROW
    grid = [float(y) for y in re.findall(r'class="grid"[^>]*y1="([\d.]+)"', drawn)]
    assert max(float(y) for _, y, _ in legend) + 8 <= min(grid)


def test_the_zero_of_intervals_goes_through_no_words_on_a_phone() -> None:
    rows = [
        ("than the model before", -0.01, -0.05, 0.02, -0.05, True),
        ("than the last one from scratch", 0.05, 0.0, 0.1, -0.1, True),
    ]
    drawn = narrow(charts.intervals(rows, "label"))
    zeros = [
        (float(a), float(b))
        for a, b in re.findall(r'class="zero"[^>]*y1="([\d.]+)" y2="([\d.]+)"', drawn)
    ]
    words = [float(y) for y in re.findall(r'class="what"[^>]* y="([\d.]+)"', drawn)]
    assert len(zeros) == len(words) == 2
    for start, end in zeros:
        assert not any(start - 6 < y < end + 6 for y in words)


def test_the_numbers_below_intervals_are_not_cut_on_a_phone() -> None:
    rows = [("than the model before", 0.0, -0.1, 0.1, -0.1, True)]
    drawn = narrow(charts.intervals(rows, "label"))
    ticks = re.findall(r'class="tick" x="([\d.]+)"[^>]*text-anchor="(\w+)">([^<]*)', drawn)
    assert ticks
    for x, anchor, text in ticks:
        wide = charts.LETTER * len(text)
        left = float(x) - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        assert left >= -1 and left + wide <= charts.NARROW + 1
