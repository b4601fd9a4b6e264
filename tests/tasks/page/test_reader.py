"""The lake as the page reads it: each table opened once for a while, and rows of some users."""

import pytest

from tasks.lake import Lake, tables
from tasks.page import intent, people, reader
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import Settings
from tests.tasks.nights import NIGHT


def test_views_open_a_table_once_until_it_may_have_changed(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    really = Lake._open

    def noting(self: Lake, table: tables.Table) -> object:
        opened.append(table.name)
        return really(self, table)

    monkeypatch.setattr(Lake, "_open", noting)
    page = PageLake(lake.root)
    monkeypatch.setattr(reader, "FRESH", 1e9)
    assert intent.view(settings, page, NIGHT, 0, Links())
    assert people.view(settings, page, NIGHT, "u01", Links())
    assert len(opened) == len(set(opened)) > 5
    rows = lake.scan(tables.INTENT_PROFILES, NIGHT, NIGHT).collect()
    lake.replace(tables.INTENT_PROFILES, rows.filter(intent_id=1), nights=[NIGHT])
    monkeypatch.setattr(reader, "FRESH", 0.0)
    assert intent.view(settings, page, NIGHT, 0, Links()) is None


def test_rows_of_some_users_are_theirs_alone(lake: Lake) -> None:
    page = PageLake(lake.root)
    rows = people._rows(page, tables.INTENT_LABELS, NIGHT, ["u29", "u01", "nobody"])
    assert sorted(rows["user_id"]) == ["u01", "u29"]
    assert people._rows(page, tables.INTENT_LABELS, NIGHT, []).is_empty()
