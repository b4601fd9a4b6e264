"""The tutorial's shop: its program writes events, which its settings read as the page says."""

import datetime as dt
import re
from pathlib import Path

import pytest

from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import REPO, load_settings

PAGE = (REPO / "docs" / "tutorial.md").read_text("utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def test_the_tutorials_events_are_read_with_the_tutorials_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    monkeypatch.chdir(tmp_path)
    exec(block("python"), {})
    (shop / "settings.toml").write_text(block("toml"), "utf-8")
    monkeypatch.setenv("ELCREC_SETTINGS", "shop/settings.toml")
    first, second = map(dt.date.fromisoformat, re.findall(r"tasks run --night (\S+)", PAGE))
    settings = load_settings()
    taken = ingest(settings, first)
    assert taken["rows_quarantined"] == 1
    assert taken["rows_events"] > 4_000
    assert 0 < ingest(settings, second)["rows_events"] < 500
    events = Lake(settings.lake.root).scan(tables.EVENTS).collect()
    assert events["user_id"].n_unique() == 400
    assert set(events["event_type"]) == {"view", "buy"}
    assert settings.lake.root == shop / "lake"
