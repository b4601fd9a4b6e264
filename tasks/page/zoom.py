"""Parts of the map of intents: each is a square of it, and has an address.

A part is half as wide and high as that around it, a quarter of it, and begins at a multiple of half
its own width. So two parts side by side overlap by half, and what lies at the edge of one is well
inside the next. Places are from 0 to 1, to the right and down.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

DEEPEST = 6  # halvings: 64 times as large
FEW = 6  # intents that are told apart without looking closer
WRITTEN = re.compile(r"([1-9])-(\d{1,3})-(\d{1,3})", re.ASCII)
QUARTERS = {
    "upper left": (0, 0),
    "upper right": (1, 0),
    "lower left": (0, 1),
    "lower right": (1, 1),
}
SIDES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

Place = tuple[float, float]


class Part(NamedTuple):
    """A part of the map: how often halved, and how many half widths from the left and the top."""

    level: int = 0
    across: int = 0
    down: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `written` wrote; nothing is the whole map. Raises ValueError."""
        if not text:
            return cls()
        found = WRITTEN.fullmatch(text)
        part = cls(*map(int, found.groups())) if found else None
        if part is None or part.level > DEEPEST or max(part.across, part.down) > part._last:
            raise ValueError(f"{text!r} is no part of the map")
        return part

    @property
    def written(self) -> str | None:
        """The part in an address; None: the whole map, which needs none."""
        return f"{self.level}-{self.across}-{self.down}" if self.level else None

    @property
    def span(self) -> float:
        """Width and height, as a share of the whole map."""
        return 0.5**self.level

    @property
    def left(self) -> float:
        """Where it begins, from the left."""
        return self.across * self.span / 2

    @property
    def top(self) -> float:
        """Where it begins, from the top."""
        return self.down * self.span / 2

    @property
    def _last(self) -> int:
        return (2 << self.level) - 2

    def has(self, place: Place) -> bool:
        """Tell whether a place is in it."""
        x, y = self.within(place)
        return 0 <= x <= 1 and 0 <= y <= 1

    def within(self, place: Place) -> Place:
        """Return a place as seen from the part: from 0 to 1 where it is in it."""
        return (place[0] - self.left) / self.span, (place[1] - self.top) / self.span

    def quarter(self, right: int, low: int) -> Self:
        """Return a quarter of it; right, low: 0 or 1."""
        return type(self)(self.level + 1, 2 * self.across + 2 * right, 2 * self.down + 2 * low)

    def around(self) -> Self:
        """Return the part of twice its width that has it in the middle, or near there."""
        wider = type(self)(self.level - 1)
        return wider._at((self.across - 1) // 2, (self.down - 1) // 2)

    def beside(self, right: int, low: int) -> Self | None:
        """Return the part half a width further on; None: the map ends there."""
        moved = self._at(self.across + right, self.down + low)
        return None if moved == self else moved

    def _at(self, across: int, down: int) -> Self:
        last = self._last
        return type(self)(self.level, min(max(across, 0), last), min(max(down, 0), last))


def near(place: Place, level: int) -> Part:
    """Return the part of a level whose middle is nearest to a place."""
    part = Part(level)
    return part._at(*(round(2 * one / part.span - 1) for one in place))


def closest(intent: int, places: Mapping[int, Place]) -> Part:
    """Return the smallest part around an intent in which it has neighbours; else the whole map."""
    found = Part()
    for level in range(1, DEEPEST + 1):
        part = near(places[intent], level)
        if sum(map(part.has, places.values())) <= FEW:
            break
        found = part
    return found


def units(places: Mapping[int, Place]) -> dict[int, Place]:
    """Return places from 0 to 1, the first coordinate to the right and the second one down."""
    if not places:
        return {}
    xs, ys = zip(*places.values(), strict=True)
    left, top = min(xs), max(ys)
    wide, high = max(xs) - left, top - min(ys)
    return {
        intent: ((x - left) / wide if wide else 0.5, (top - y) / high if high else 0.5)
        for intent, (x, y) in places.items()
    }
