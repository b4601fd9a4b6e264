"""What bench/night.py says of sizes: how much more ten times the events take."""

import pytest

from bench.night import growth, show


def rows(*found: tuple[int, float]) -> list[dict[str, float]]:
    return [{"events": events, "seconds": seconds} for events, seconds in found]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(1_000, 2.0), (10_000, 20.0)], 10.0),
        ([(1_000, 2.0), (100_000, 200.0)], 10.0),  # a hundred times in a hundred
        ([(10_000, 20.0), (1_000, 20.0), (100, 1.0)], 1.0),  # of the two largest
        ([(1_000, 0.0), (10_000, 20.0)], None),
        ([(1_000, 2.0)], None),
    ],
)
def test_growth_is_what_ten_times_the_events_take(found, expected):
    grows = growth(rows(*found), "seconds")
    assert grows == (None if expected is None else pytest.approx(expected))


def test_each_night_has_a_table_with_all_sizes(capsys):
    show(
        {"events": events, "night": night, "step": "train", "seconds": 3.0, "peak_mb": 500 + events}
        for night in ("first", "next")
        for events in (1_000, 10_000)
    )
    printed = capsys.readouterr().out
    assert printed.count("train") == 2 and "10,000" in printed and "10,500" in printed
