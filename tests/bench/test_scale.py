"""The lake that bench/scale.py generates has what the step `label` needs."""

from pathlib import Path

import pytest

from bench import scale
from tasks.lake import Lake, tables
from tasks.night.label import label
from tasks.settings import load_settings


@pytest.mark.slow
def test_generated_histories_are_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "LABELLED_ITEMS", 500)
    monkeypatch.setattr(scale, "INTENTS", 8)
    scale.build_lake(tmp_path, 300)
    told = label(load_settings(**{"lake.root": str(tmp_path)}), scale.NIGHT)
    assert told["users"] == 300 and told["users_without_intent"] == 0
    assert Lake(tmp_path).scan(tables.LABEL_EVIDENCE).collect().height == 300
