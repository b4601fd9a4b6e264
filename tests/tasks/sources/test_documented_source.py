"""The page on sources: its settings are valid, and the source that it adds works."""

import datetime as dt
import importlib
import re
import sqlite3
import tomllib
from pathlib import Path

import pytest

from tasks import sources
from tasks.errors import SourceError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import REPO, Settings, load_settings

PAGE = (REPO / "docs" / "sources.md").read_text("utf-8")
NIGHT = dt.date(2026, 11, 2)


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_settings_of_the_page_are_valid() -> None:
    assert len(examples("toml")) >= 4
    for example in examples("toml"):
        load_settings(**tomllib.loads(example))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Make the class of the page known, as it says, and give it a database."""
    [example] = examples("python")
    (tmp_path / "sqlite_source_of_the_page.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setitem(sources.KINDS, "sqlite", "sqlite_source_of_the_page:Sqlite")
    base = sqlite3.connect(tmp_path / "shop.db")
    base.execute("CREATE TABLE events (user_id INTEGER, item_id TEXT, ts TEXT)")
    base.executemany(
        "INSERT INTO events VALUES (?, ?, ?)",
        [
            (7, "a", "2026-11-01T12:00:00Z"),
            (7, "b", "2026-11-02T12:00:00Z"),
            (8, None, "2026-11-02T13:00:00Z"),
            (8, "c", None),
            (8, "c", "2026-11-03T12:00:00Z"),
        ],
    )
    base.commit()
    base.close()
    found = load_settings(
        source={"path": str(tmp_path / "shop.db")}, lake={"root": tmp_path / "lake"}
    )
    # What the second line in tasks/settings.py allows.
    return found.model_copy(update={"source": found.source.model_copy(update={"kind": "sqlite"})})


def test_the_source_of_the_page_gives_each_night_its_rows(settings: Settings) -> None:
    lake = Lake(settings.lake.root)
    first = ingest(settings, NIGHT)
    assert (first["rows_read"], first["rows_events"], first["rows_quarantined"]) == (4, 2, 2)
    second = ingest(settings, NIGHT + dt.timedelta(days=1))
    assert (second["rows_events"], second["rows_late"], second["rows_quarantined"]) == (1, 0, 0)
    found = lake.scan(tables.EVENTS).sort("ts").select("user_id", "item_id", "source").collect()
    assert found.rows() == [("7", "a", "events"), ("7", "b", "events"), ("8", "c", "events")]


def test_its_errors_are_sentences(settings: Settings) -> None:
    Path(settings.source.path).write_text("no database")
    with pytest.raises(SourceError, match=r"table events of .* cannot be read .*: correct"):
        ingest(settings, NIGHT)
