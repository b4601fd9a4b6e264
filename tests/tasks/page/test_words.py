"""Figures and texts as people read them."""

import datetime as dt
import re
from itertools import pairwise

import pytest

from tasks.page import charts, words
from tasks.page.words import BLANK


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  two\n lines\t", "two lines"),
        ("abc\N{RIGHT-TO-LEFT OVERRIDE}x", "abc\\u202ex"),
        ("nul\0", "nul\\u0000"),
        ("\N{FAMILY}\N{ZERO WIDTH JOINER}\N{BOY}", "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{BOY}"),
        ("x" * 10_000, "x" * 79 + "\N{HORIZONTAL ELLIPSIS}"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}" * 9_000, None),
    ],
)
def test_a_text_of_a_source_is_shown_in_one_line_of_visible_letters(
    text: str, shown: str | None
) -> None:
    found = words.shown(text)
    assert len(found) <= words.LONGEST
    assert shown is None or found == shown


def test_what_is_neither_nothing_nor_all_is_not_written_so() -> None:
    assert words.percent(0.0, 0) == f"0{BLANK}%"
    assert words.percent(0.001, 0) == f"<{BLANK}1{BLANK}%"
    assert words.percent(0.9999, 0) == f">{BLANK}99{BLANK}%"
    assert words.percent(1.0, 0) == f"100{BLANK}%"
    assert words.percent(0.123) == f"12.3{BLANK}%"
    assert words.percent(-0.5, 0) == f"{words.MINUS}50{BLANK}%"
    assert words.percent(None) == words.NOTHING


def test_a_figure_stands_beside_the_median_of_the_nights_before() -> None:
    assert words.against_usual(120, [100, None, 90, 110], words.count) == (
        f"usually 100, +20{BLANK}%"
    )
    assert words.against_usual(100, [100], words.count) == "usually 100"
    assert words.against_usual(5, [0], words.count) == "usually 0"
    assert words.against_usual(1, [], words.count) is None
    assert words.against_usual(None, [1], words.count) is None
    assert words.against_usual(0.745, [0.8], words.percent, share=True) == (
        f"usually 80.0{BLANK}%, {words.MINUS}5.5 points"
    )


def test_a_chart_escapes_what_it_is_told() -> None:
    harm = '"><script>'
    dot = charts.Dot(0, 0, 1.0, harm, harm, harm)
    drawn = (
        charts.spark([1, 2], harm),
        charts.bar(0.5, harm),
        charts.lines([harm, harm], [charts.Line(harm, [1, 2])], harm),
        charts.intervals([(harm, 0.1, 0.0, 0.2, -0.1, True)], harm),
        charts.dots([dot], harm),
        charts.ribbons([charts.Ribbon(harm, harm, 3)], harm, hrefs={harm: harm}),
    )
    for chart in drawn:
        assert "<script" not in chart
        assert 'style="' not in chart


def test_a_chart_of_nothing_is_nothing() -> None:
    assert not charts.lines([], [], "")
    assert not charts.dots([], "")
    assert not charts.ribbons([], "")
    assert not charts.intervals([], "")
    assert "svg" not in charts.spark([None, 1], "one night")


def test_a_line_has_gaps_where_nights_are_missing() -> None:
    drawn = charts.lines(["a", "b", "c", "d"], [charts.Line("users", [1, None, 3, 4])], "users")
    path = drawn.split(' d="')[1].split('"')[0]
    assert path.count("M") == 2 and path.count("L") == 1


def test_an_axis_of_shares_ends_at_all() -> None:
    drawn = charts.lines(["a", "b"], [charts.Line("share", [0.9, 1.0])], "", per_cent=True)
    assert "100 %" in drawn and "120 %" not in drawn


def test_a_chart_is_drawn_for_a_desk_and_for_a_phone() -> None:
    drawn = charts.lines(["a", "b"], [charts.Line("one", [1, 2]), charts.Line("two", [2, 1])], "")
    assert 'class="chart broad"' in drawn and 'class="chart narrow"' in drawn
    flows = charts.ribbons([charts.Ribbon("here", "there", 1)], "flows")
    assert "<li>here → there: 1 move</li>" in flows


def test_dates_below_a_line_are_evenly_apart_up_to_the_last() -> None:
    places = [f"d{day}" for day in range(13, 36)]
    drawn = charts.lines(places, [charts.Line("users", list(range(23)))], "", width=620)
    [broad, _] = drawn.split("</svg></div>")[:2]
    written = [
        int(day) for day in re.findall(r'text-anchor="(?:start|middle|end)">d(\d\d)</text>', broad)
    ]
    steps = {two - one for one, two in pairwise(written)}
    assert len(steps) == 1 and written[-1] == 35


def test_a_name_on_the_map_covers_no_circle() -> None:
    # Two intents at nearly the same place: there is no room for both names below.
    spots = [(0.0, 0.0), (0.02, -0.1), (1.0, 1.0), (-1.0, -1.0)]
    drawn = charts.dots([charts.Dot(x, y, 0.25, "a name", "t", "h") for x, y in spots], "map")
    circles = [
        tuple(map(float, one)) for one in re.findall(r'cx="(.*?)" cy="(.*?)" r="(.*?)"', drawn)
    ]
    for x, y in re.findall(r'place-name" x="(.*?)" y="(.*?)"', drawn):
        for cx, cy, radius in circles:
            across = abs(float(x) - cx) < radius + 18
            assert not (across and cy - radius < float(y) - 4 < cy + radius)


def test_days_between_nights_are_written_as_runs() -> None:
    april = [dt.date(1998, 4, one) for one in (7, 8, 13, 15)]
    missing = words.between(april)
    assert words.spans(missing) == f"9{words.TO}12{BLANK}Apr{BLANK}1998 and 14{BLANK}Apr{BLANK}1998"
    assert words.between([]) == [] and words.spans([]) == ""
    assert words.spans(words.between([dt.date(1998, 3, 30), dt.date(1998, 4, 3)])) == (
        f"31{BLANK}Mar{BLANK}1998 {words.TO} 2{BLANK}Apr{BLANK}1998"
    )
    every_other = words.between([dt.date(1998, 4, one) for one in range(1, 30, 2)])
    assert words.spans(every_other, 2).startswith("12 earlier spans of days, 26")


def test_a_probability_is_never_written_as_certain() -> None:
    assert words.sure(1.0) == f">{BLANK}99{BLANK}%"
    assert words.sure(0.93) == f"93{BLANK}%"
    assert words.sure(None) == words.NOTHING
