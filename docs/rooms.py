"""Draw the rooms and their imports into architecture.md, from the code itself (`make rooms`).

The rows of the drawing are the layers that `lint-imports` holds, read from pyproject.toml.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import grimp

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "architecture.md"
CAPTION = (
    "Each box is a room with its modules, each arrow an import. An import that a longer chain of\n"
    "arrows implies has no arrow of its own."
)
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


def layers() -> list[list[str]]:
    """Read the rooms of each layer from the contracts, top first, without those not there yet."""
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]
    folders, rooms = (
        next(one for one in contracts["contracts"] if one["id"] == name)
        for name in ("folders", "rooms")
    )
    (parent,) = rooms["containers"]
    found: list[list[str]] = []
    for folder in folders["layers"]:
        if folder == parent:
            for layer in rooms["layers"]:
                found.append([f"{parent}.{name}" for name in _names(layer)])
        else:
            found.append(_names(folder))
    return found


def _names(layer: str) -> list[str]:
    """Take the rooms of one layer apart; those in brackets are not there yet."""
    names = (name.strip() for name in re.split("[|:]", layer))
    return [name for name in names if not name.startswith("(")]


def imports(rooms: list[str], graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Find which rooms each room imports directly."""
    room_of = {module: room for room in rooms for module in {room, *graph.find_descendants(room)}}
    return {
        room: {
            room_of[imported]
            for module in room_of
            if room_of[module] == room
            for imported in graph.find_modules_directly_imported_by(module)
            if imported in room_of
        }
        - {room}
        for room in rooms
    }


def shortest(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each arrow whose two ends a longer way joins; the arrows make no circle."""

    def below(room: str) -> set[str]:
        return arrows[room].union(*map(below, arrows[room]))

    return {
        room: {to for to in reached if not any(to in below(other) for other in reached)}
        for room, reached in arrows.items()
    }


def drawing() -> str:
    """Make the Mermaid drawing: a box for each room with its modules, arrows for imports."""
    if str(REPO) not in sys.path:
        sys.path.insert(0, str(REPO))
    rooms = [room for layer in layers() for room in layer]
    graph = grimp.build_graph(*{room.partition(".")[0] for room in rooms}, cache_dir=None)
    arrows = shortest(imports(rooms, graph))
    lines = ["```mermaid", "flowchart TD"]
    for room in rooms:
        path = room.replace(".", "/")
        if (REPO / path).is_dir():
            modules = sorted(child.rpartition(".")[2] for child in graph.find_children(room))
            label = f"<b>{path}</b><br/>{', '.join(modules)}"
        else:
            label = f"<b>{path}.py</b>"
        lines.append(f'  {_node(room)}["{label}"]')
    lines += [
        f"  {_node(room)} --> {_node(to)}" for room in rooms for to in rooms if to in arrows[room]
    ]
    return "\n".join([*lines, "```"])


def _node(room: str) -> str:
    return room.replace(".", "_")


def with_drawing(page: str) -> str:
    """Put the drawing of today's code between the two marks of the page.

    Raises ValueError for a page without the marks.
    """
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{PAGE.name} has no {BEGIN} followed by {END}: add both lines")
    return f"{before}{BEGIN}\n{CAPTION}\n\n{drawing()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text()))
