"""The map of intents: a part of it is larger, has an address, and nothing in it changes places."""

import re
from html import unescape

import pytest

from tasks.page import charts, zoom
from tasks.page.zoom import Part
from tests.tasks.page.conftest import Ask


def test_quarters_are_the_whole_and_parts_beside_overlap_by_half() -> None:
    whole = Part()
    assert [whole.quarter(*at).written for at in zoom.QUARTERS.values()] == [
        *("1-0-0", "1-2-0", "1-0-2", "1-2-2")
    ]
    for place in ((0.0, 0.0), (0.4, 0.9), (1.0, 1.0)):
        assert any(whole.quarter(*at).has(place) for at in zoom.QUARTERS.values())
    part = Part.read("2-3-0")
    assert (part.left, part.top, part.span) == (0.375, 0.0, 0.25)
    right = part.beside(1, 0)
    assert right and right.left == part.left + part.span / 2
    assert part.beside(0, -1) is None and Part.read("2-6-6").beside(1, 0) is None
    assert part.quarter(1, 1).within((0.625, 0.25)) == (1.0, 1.0)


@pytest.mark.parametrize("written", ["1-0-0", "1-2-2", "3-7-11", "6-126-0"])
def test_from_a_part_one_comes_back_to_the_whole(written: str) -> None:
    part = Part.read(written)
    middle = (part.left + part.span / 2, part.top + part.span / 2)
    assert part.written == written
    while part.level:
        part = part.around()
        assert part.has(middle)
        assert Part.read(part.written or "") == part
    assert part == Part() and part.written is None


@pytest.mark.parametrize("text", ["1", "1-3-0", "7-0-0", "0-0-0", "1--1-0", "x", "1-0-0 ", "²-0-0"])
def test_what_is_no_part_of_the_map_is_refused(text: str, lake: object, ask: Ask) -> None:
    with pytest.raises(ValueError, match="no part of the map"):
        Part.read(text)
    assert ask().get("/intents", params={"zoom": text}).status_code == 400


def test_places_are_from_the_left_and_from_the_top() -> None:
    places = {1: (-1.0, 1.0), 2: (1.0, -3.0), 3: (0.0, 0.0)}
    assert zoom.units(places) == {1: (0.0, 0.0), 2: (1.0, 1.0), 3: (0.5, 0.25)}
    assert zoom.units({7: (2.0, 2.0)}) == {7: (0.5, 0.5)}
    assert zoom.units({}) == {}


def spots(drawn: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r'aria-label="(\w+)"><title>.*?cx="([\d.]+)" cy="([\d.]+)"', drawn)
    return {name: (float(x), float(y)) for name, x, y in found}


def test_a_part_of_the_map_is_the_same_map_drawn_larger() -> None:
    places = {"a": (0.0, 0.0), "b": (0.1, 0.2), "c": (0.3, 0.2), "d": (0.9, 0.9), "e": (1.0, 1.0)}
    dots = [charts.Dot(x, y, 0.2, name, name, f"/{name}") for name, (x, y) in places.items()]
    whole = spots(charts.dots(dots, "Map"))
    part = spots(charts.dots(dots, "Map", part=Part().quarter(0, 0)))
    assert set(whole) == set(places) and set(part) == {"a", "b", "c"}
    for at in (0, 1):
        there = [part[name][at] - part["a"][at] for name in "bc"]
        before = [whole[name][at] - whole["a"][at] for name in "bc"]
        assert there == pytest.approx([2 * one for one in before], rel=0.02)


def test_the_map_is_entered_and_left_by_links_and_the_table_follows(
    lake: object, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoom, "FEW", 1)
    client = ask()
    asked = {"sort": "name", "q": "comedy"}
    page = unescape(client.get("/intents", params=asked).text)
    [closer] = re.findall(r'<a href="([^"]*zoom=1-0-0#map)">upper left</a>', page) or [None]
    ways = set(re.findall(r'href="(/intents\?[^"]*zoom=[^"]*)"', page))
    assert ways and all("sort=name" in way and "q=comedy" in way for way in ways)
    rows = re.findall(r"<tr role=.row. data-text", page)
    of_parts = 0
    for way in ways:
        part = unescape(client.get(way).text)
        of_parts += len(re.findall(r"<tr role=.row. data-text", part))
        assert 'class="overview"' in part
        [back] = set(re.findall(r'<a href="([^"]*)">Whole map</a>', part))
        assert "zoom" not in back and "q=comedy" in back
    assert of_parts == len(rows)
    assert closer is None or closer in ways


def test_an_intent_leads_to_the_part_of_the_map_where_it_has_neighbours(
    lake: object, ask: Ask
) -> None:
    places = {intent: (intent / 511, (intent * 37 % 512) / 511) for intent in range(512)}
    for intent in (0, 100, 511):
        part = zoom.closest(intent, places)
        inside = sum(map(part.has, places.values()))
        assert part.has(places[intent]) and zoom.FEW < inside < 60
    few = {1: (0.0, 0.0), 2: (1.0, 1.0)}
    assert zoom.closest(1, few) == Part()
    page = unescape(ask().get("/intents/0").text)
    [href] = re.findall(r'<a href="([^"]*)">Show it on the map</a>', page)
    assert 'aria-label="' in ask().get(href).text.partition('class="chart map"')[2]
