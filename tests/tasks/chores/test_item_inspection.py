"""What is shown of a catalogue: how it is read, without writing anything or steering a terminal."""

import io
import json
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from tasks.chores.item_inspection import inspect_items, visible
from tasks.errors import SourceError
from tasks.settings import load_settings


def inspected(path: Path, lake: Path) -> str:
    said = io.StringIO()
    settings = load_settings(**{"catalogue.path": str(path), "lake.root": lake})
    inspect_items(settings, Console(file=said, width=120))
    return said.getvalue()


def test_inspect_shows_how_ml_100k_is_read_and_writes_nothing(
    real_data: Path, tmp_path: Path
) -> None:
    said = inspected(real_data / "ml-100k.item", tmp_path / "lake")
    assert not (tmp_path / "lake").exists()
    assert "item item_id, title movie_title, category class" in said
    assert "1,682  items" in said and "Drama       725" in said
    assert "Animation | Children's | Comedy" in said
    pinned = tomllib.loads(said.partition("pin this reading down:")[2])["catalogue"]
    assert pinned == {
        "kind": "files",
        "path": str(real_data / "ml-100k.item"),
        "format": "recbole",
        "item_columns": ["item_id"],
        "title_columns": ["movie_title"],
        "category_columns": ["class"],
    }


def test_inspect_counts_what_is_wrong_and_goes_on(tmp_path: Path) -> None:
    rows = [
        {"item": 1, "title": "[bold]A[/bold]", "genre": "x|y"},
        {"item": 1, "title": "[bold]A[/bold]", "genre": "x|y"},
        {"item": 1, "name": "B"},
        {"title": "no id"},
    ]
    text = "\n".join([*map(json.dumps, rows), "{broken"])
    (tmp_path / "items.jsonl").write_text(text)
    (tmp_path / "readme.md").write_text("not items")
    said = inspected(tmp_path, tmp_path / "lake")
    assert "item item, title title or name, category genre" in said
    for line in ("5     read", "1     items", "2     cannot be used", "Files left out: readme.md"):
        assert line in said
    assert "no valid JSON" in said and "no item" in said
    assert "[bold]A[/bold]" in said  # as it is, and not in bold


def test_a_text_that_would_steer_a_terminal_is_shown_as_an_escape() -> None:
    assert visible("a\x1b[31mb\u202ec\nd é 漢") == "a\\x1b[31mb\\u202ec\\nd é 漢"
    assert visible("x" * 61) == "x" * 60 + "..."


def test_without_a_catalogue_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"catalogue\.path is not set: .* --items"):
        inspect_items(load_settings(), Console(file=io.StringIO()))
