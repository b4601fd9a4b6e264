"""The addresses of the views: every view, night and filter has one."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Links:
    """Where views are: below `root`, of one night (None: the newest)."""

    root: str = ""
    night_in_view: dt.date | None = None

    def of(self, night: dt.date) -> Self:
        """Return the links to the views of another night."""
        return replace(self, night_in_view=night)

    def night(self) -> str:
        """Return where the night view is."""
        return self._to("/night")

    def intents(self, **filters: Any) -> str:
        """Return where table and map of intents are; filters: q, sort, order, zoom, show."""
        return self._to("/intents", **filters)

    def part(self, zoom: str | None, **filters: Any) -> str | None:
        """Return where a part of the map is larger; None: nowhere. zoom: None for the whole map."""
        # To the map itself, which is far down on a phone.
        return f"{self.intents(**filters, zoom=zoom)}#map"

    def intent(self, intent: int) -> str:
        """Return where one intent is."""
        return self._to(f"/intents/{intent}")

    def name(self, intent: int) -> str:
        """Return where the form that names an intent is sent to."""
        return self._to(f"/intents/{intent}/name")

    def users_of(self, intent: int, kind: str) -> str:
        """Return where the users of an intent are to be had as a file, csv or parquet."""
        return self._to(f"/intents/{intent}/users.{kind}")

    def users(self) -> str:
        """Return where users are looked up."""
        return self._to("/users")

    def user(self, user: str) -> str:
        """Return where one user is. Any text may be an id, so it is no part of the path."""
        return self._to("/users", id=user)

    def models(self) -> str:
        """Return where data and models are."""
        return self._to("/models")

    def data(self) -> str:
        """Return where it is said what became of the rows of each night."""
        return f"{self.models()}#read"

    def flows(self, first: dt.date | None = None) -> str:
        """Return where the flows since a night are."""
        return self._to("/flows", since=first)

    def moved(self, first: dt.date, intent: int | None = None) -> str:
        """Return where the users who moved since a night are to be had, of one intent or of all."""
        return self._to("/flows/users.csv", since=first, intent=intent)

    def static(self, name: str) -> str:
        """Return where a file of the page's own is."""
        return f"{self.root}/static/{quote(name)}"

    def _to(self, path: str, **query: Any) -> str:
        given = {"night": self.night_in_view, **query}
        told = {name: value for name, value in given.items() if value not in (None, "")}
        return f"{self.root}{path}" + (f"?{urlencode(told)}" if told else "")


class Anchors(Links):
    """Links within a saved page: to its parts; where it has none, to what is nearest."""

    def intents(self, **filters: Any) -> str:
        """Return the table of intents; the page has it in one order alone."""
        return "#intents"

    def part(self, zoom: str | None, **filters: Any) -> str | None:
        """Return None: the page has its map once."""
        return None

    def models(self) -> str:
        """Return the checks: the page has nothing else of the data."""
        return "#checks"

    def data(self) -> str:
        """Return the same, for the same reason."""
        return "#checks"

    def intent(self, intent: int) -> str:
        """Return the part of the page that one intent has."""
        return f"#intent-{intent}"
