"""The drawing of the rooms in docs/architecture.md comes from the code."""

import grimp
import pytest

from docs import rooms


def test_the_drawing_of_the_rooms_is_that_of_the_code() -> None:
    page = rooms.PAGE.read_text()
    assert page == rooms.with_drawing(page), "run `make rooms`"


def test_the_drawing_has_every_room_that_the_contracts_name_and_that_is_there() -> None:
    named = [room for layer in rooms.layers() for room in layer]
    assert {
        "dags",
        "plugins",
        "local",
        "elcrec",
        "tasks.night",
        "tasks.lake",
        "tasks.errors",
    } <= set(named)
    drawn = rooms.drawing()
    for room in named:
        assert f'  {room.replace(".", "_")}["<b>{room.replace(".", "/")}' in drawn


def test_an_import_of_a_module_is_an_arrow_between_the_rooms() -> None:
    graph = grimp.ImportGraph()
    for module in ("low", "low.files", "middle", "middle.one", "middle.two", "high"):
        graph.add_module(module)
    graph.add_import(importer="middle.one", imported="low.files")
    graph.add_import(importer="middle.one", imported="middle.two")
    graph.add_import(importer="high", imported="middle.two")
    graph.add_import(importer="high", imported="low")
    found = rooms.imports(["high", "middle", "low"], graph)
    assert found == {"high": {"middle", "low"}, "middle": {"low"}, "low": set()}
    assert rooms.shortest(found) == {"high": {"middle"}, "middle": {"low"}, "low": set()}


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="add both lines"):
        rooms.with_drawing("# Architecture\n")
