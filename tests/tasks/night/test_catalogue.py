"""The catalogue from night to night: what each night sees, whatever ran since."""

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import SourceError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.registry.catalogue import catalogue_night
from tasks.registry.inputs import inputs_of
from tasks.settings import Settings, load_settings
from tests.tasks.nights import table

NIGHTS = [dt.date(2026, 11, day) for day in range(2, 7)]
FIRST, SECOND, THIRD, FOURTH, FIFTH = NIGHTS

TWO = "item_id,title,genres\na,A,x|y\nb,B,\n"
THREE = TWO + "c,C,z\n"


class Nights:
    """A lake, its events (items a, b and c each night) and its catalogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalogue = folder / "items.csv"
        (folder / "events").mkdir(exist_ok=True)
        for night in NIGHTS:
            rows = [f"u{n},{item},{night}T0{n}:00:00Z" for n, item in enumerate("abc")]
            text = "\n".join(["user_id,item_id,ts", *rows, ""])
            (folder / "events" / f"{night}.csv").write_text(text)

    def settings(self, **catalogue: Any) -> Settings:
        given = {"path": str(self.catalogue), **catalogue}
        return load_settings(
            source={"path": str(self.folder / "events")},
            catalogue=given,
            lake={"root": self.folder / "lake"},
            duckdb={"threads": 1},
        )

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "lake")

    def run(self, night: dt.date, text: str | None = None, **catalogue: Any) -> dict[str, Any]:
        if text is not None:
            self.catalogue.write_text(text)
        return ingest(self.settings(**catalogue), night)

    def seen(self, night: dt.date) -> dict[str, str | None]:
        """Return the titles that a night sees."""
        read = catalogue_night(self.lake, night)
        if read is None:
            return {}
        rows = self.lake.scan(tables.CATALOGUE, read, read).sort("item_id").collect()
        return dict(rows.select("item_id", "title").iter_rows())

    def read(self, night: dt.date) -> dict[str, Any]:
        [row] = self.lake.scan(tables.CATALOGUE_READS, night, night).collect().to_dicts()
        assert row["catalogue_night"] == catalogue_night(self.lake, night)
        return row


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


@pytest.mark.slow
def test_a_catalogue_that_does_not_change_is_written_once(nights: Nights) -> None:
    for night in (FIRST, SECOND, THIRD):
        # Neither another order of rows nor a row that is there twice is another catalogue.
        text = TWO if night == FIRST else "genres,item_id,title\n,b,B\nx|y,a,A\n,b,B\n"
        nights.run(night, text)
    assert nights.lake.nights(tables.CATALOGUE) == [FIRST]
    assert nights.read(THIRD) == {
        "dt": THIRD,
        "source": str(nights.catalogue),
        "catalogue_night": FIRST,
        "digest": nights.read(FIRST)["digest"],
        "rows_read": 3,
        "items": 2,
        "rows_duplicate": 1,
        "rows_replaced": 0,
        "rows_rejected": 0,
        "rejected": [],
        "night_items": 3,
        "items_without_row": 1,
        "items_without_title": 1,
    }


@pytest.mark.slow
def test_a_catalogue_that_grows_shrinks_and_comes_back_is_that_of_each_night(
    nights: Nights,
) -> None:
    for night, text in zip(NIGHTS, (TWO, THREE, TWO, "item_id,title\na,New\n", TWO), strict=True):
        nights.run(night, text)
    assert nights.lake.nights(tables.CATALOGUE) == NIGHTS
    assert [len(nights.seen(night)) for night in NIGHTS] == [2, 3, 2, 1, 2]
    assert nights.seen(FOURTH) == {"a": "New"}


@pytest.mark.slow
def test_a_night_that_runs_again_keeps_what_it_saw_once_a_later_one_ran(nights: Nights) -> None:
    nights.run(FIRST, TWO)
    nights.run(SECOND)
    nights.run(THIRD, THREE)
    before = {night: (nights.seen(night), nights.read(night)) for night in (FIRST, SECOND, THIRD)}
    nights.catalogue.write_text("item_id,title\na,of today\n")
    for night in (FIRST, SECOND):
        summary = nights.run(night)["catalogue"]
        assert summary["catalogue_night"] == str(FIRST)
        row = nights.read(night)
        # It says that nothing was read, and else what it said before.
        assert row["source"] is None and row["rows_read"] is None
        for column in ("catalogue_night", "digest", "items", "night_items", "items_without_row"):
            assert row[column] == before[night][1][column], column
    assert {night: nights.seen(night) for night in before} == {
        night: seen for night, (seen, _) in before.items()
    }


@pytest.mark.slow
def test_a_night_that_comes_late_sees_what_was_known_before_it(nights: Nights) -> None:
    nights.run(FIRST, TWO)
    nights.run(THIRD, THREE)
    nights.run(SECOND, "item_id,title\na,of today\n")
    assert nights.seen(SECOND) == {"a": "A", "b": "B"}
    assert nights.read(SECOND)["source"] is None
    assert nights.lake.nights(tables.CATALOGUE) == [FIRST, THIRD]


@pytest.mark.slow
def test_a_night_before_the_first_catalogue_has_none(nights: Nights) -> None:
    nights.run(FIRST, path="")
    nights.run(SECOND, TWO)
    summary = nights.run(FIRST)
    assert "catalogue" not in summary
    assert nights.seen(FIRST) == {} and nights.seen(SECOND) == {"a": "A", "b": "B"}
    assert nights.lake.nights(tables.CATALOGUE_READS) == [SECOND]


@pytest.mark.slow
def test_the_newest_night_that_runs_again_reads_the_mended_catalogue(nights: Nights) -> None:
    nights.run(FIRST, TWO)
    nights.run(SECOND, "item_id,title\na,broken\n")
    nights.run(SECOND, THREE)
    assert len(nights.seen(SECOND)) == 3 and len(nights.seen(FIRST)) == 2
    # Mended to what it was: the night has no catalogue of its own any more.
    nights.run(SECOND, TWO)
    assert nights.lake.nights(tables.CATALOGUE) == [FIRST]
    assert nights.read(SECOND)["digest"] == nights.read(FIRST)["digest"]


@pytest.mark.slow
def test_without_the_setting_a_night_keeps_the_catalogue_that_the_lake_has(nights: Nights) -> None:
    nights.run(FIRST, TWO)
    nights.run(SECOND, path="")
    assert nights.seen(SECOND) == {"a": "A", "b": "B"}
    assert nights.read(SECOND)["items"] == 2 and nights.read(SECOND)["source"] is None


def test_a_lake_without_a_catalogue_has_no_tables_of_it(nights: Nights) -> None:
    assert "catalogue" not in nights.run(FIRST, path="")
    for which in (tables.CATALOGUE, tables.CATALOGUE_READS):
        assert not nights.lake.path(which).exists()


@pytest.mark.slow
def test_an_empty_catalogue_leaves_the_one_before_in_place(nights: Nights) -> None:
    nights.run(FIRST, TWO)
    nights.run(SECOND, "item_id,title,genres\n")
    assert nights.read(SECOND)["items"] == 0 and nights.read(SECOND)["rows_read"] == 0
    assert nights.seen(SECOND) == {"a": "A", "b": "B"}


@pytest.mark.slow
def test_a_step_that_was_killed_between_its_writes_ends_the_same(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calm").mkdir()
    calm = Nights(tmp_path / "calm")
    for night, text in ((FIRST, TWO), (SECOND, THREE)):
        calm.run(night, text)
        nights.catalogue.write_text(text)
        for killed_at in (tables.CATALOGUE, tables.CATALOGUE_READS):
            replace = Lake.replace

            def killed(self: Lake, which: tables.Table, *rest: Any, **more: Any) -> None:
                if which is killed_at:  # noqa: B023
                    raise KeyboardInterrupt
                replace(self, which, *rest, **more)  # noqa: B023

            monkeypatch.setattr(Lake, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                nights.run(night)
            monkeypatch.undo()
        nights.run(night)
    for which in (tables.CATALOGUE, tables.CATALOGUE_READS):
        found, expected = (table(one.settings(), which) for one in (nights, calm))
        assert found.drop("source", strict=False).equals(expected.drop("source", strict=False))


def test_of_rows_that_disagree_the_last_one_counts_and_is_told(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    folder = nights.folder / "items"
    folder.mkdir()
    # By name: b.csv comes after a.csv.
    (folder / "b.csv").write_text("item_id,title\na,last file\n")
    (folder / "a.csv").write_text("item_id,title\na,first row\nb,B\na,last row\nb,B\n")
    with caplog.at_level(logging.WARNING):
        nights.run(FIRST, path=str(folder))
    assert nights.seen(FIRST) == {"a": "last file", "b": "B"}
    row = nights.read(FIRST)
    assert (row["rows_read"], row["items"], row["rows_duplicate"]) == (5, 2, 1)
    assert row["rows_replaced"] == 2
    assert "2 rows of" in caplog.text and "item 'a'" in caplog.text


def test_rows_that_are_no_items_are_counted_with_why_and_where(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    text = '{"item_id": "a"}\n{"item_id": null}\n{"item_id": "NULL"}\n{"item_id": [1]}\n{"item_id'
    nights.catalogue = nights.folder / "items.jsonl"
    with pytest.raises(SourceError, match=r'items.jsonl line 5 .*catalogue.broken_rows = "quar'):
        nights.run(FIRST, text)
    nights.run(FIRST, broken_rows="quarantine")
    row = nights.read(FIRST)
    assert (row["rows_read"], row["items"], row["rows_rejected"]) == (5, 1, 4)
    told = [(one["reason"], one["rows"], one["first_row"]) for one in row["rejected"]]
    assert told == [
        ("no item", 2, 2),
        ("no valid JSON", 1, 5),
        ("the item is an object or a list", 1, 4),
    ]
    assert {one["source"] for one in row["rejected"]} == {"items.jsonl"}


def test_a_line_in_another_encoding_names_the_setting_of_the_catalogue(nights: Nights) -> None:
    nights.catalogue.write_bytes(b"item_id,title\na,caf\xe9\n")
    with pytest.raises(SourceError, match=r'catalogue\.encoding = "latin-1"') as error:
        nights.run(FIRST)
    assert "source." not in str(error.value)
    # Nothing was written: a night is read whole or not at all.
    assert nights.lake.nights(tables.INGESTS) == []
    nights.run(FIRST, encoding="latin-1")
    assert nights.seen(FIRST) == {"a": "café"}


@pytest.mark.slow
def test_an_id_that_is_written_in_another_way_does_not_match_and_is_told(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    for night in (FIRST, SECOND):
        rows = [f"u,{item},{night}T01:00:00Z" for item in (12, 7)]
        text = "\n".join(["user_id,item_id,ts", *rows, ""])
        (nights.folder / "events" / f"{night}.csv").write_text(text)
    # Numbers of a Parquet file are the ids 12 and 7, however they are stored.
    nights.catalogue = nights.folder / "items.parquet"
    pl.DataFrame({"item_id": [12.0, 7.0], "title": ["a", "b"]}).write_parquet(nights.catalogue)
    nights.run(FIRST)
    assert nights.read(FIRST)["items_without_row"] == 0
    # The text 12.0 is another id than 12.
    nights.catalogue = nights.folder / "items.csv"
    with caplog.at_level(logging.WARNING):
        nights.run(SECOND, "item_id,title\n12.0,a\n7,b\n")
    assert nights.read(SECOND)["items_without_row"] == 1
    assert "1 items of night 2026-11-03 have no row" in caplog.text
    assert "such as 12:" in caplog.text


@pytest.mark.slow
def test_a_check_stands_on_the_catalogue_that_its_night_has(nights: Nights) -> None:
    def stood_on(night: dt.date) -> list[str]:
        found = inputs_of(nights.settings(), "check-events", night)
        return [one.digest for one in found if one.input == "catalogue"]

    nights.run(FIRST, path="")
    assert stood_on(FIRST) == []
    nights.run(SECOND, TWO)
    nights.run(THIRD)
    before = stood_on(SECOND)
    assert len(before) == 1 and before == stood_on(THIRD)
    nights.run(THIRD, THREE)  # mended after the check
    assert stood_on(THIRD) != before == stood_on(SECOND)
    # A rerun that reads nothing leaves what the night has.
    nights.run(SECOND, "item_id,title\na,of today\n")
    assert stood_on(SECOND) == before
