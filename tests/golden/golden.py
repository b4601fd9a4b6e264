"""Golden files: what the model and a night gave when the files were written.

They let a change of the code be told from a change of the results. `losses.json` holds the losses
of the first training steps of both presets. `labels.csv` holds the labels of two nights, row for
row, and `models.json` the names of the models that gave them: a name holds a hash of the settings
and one of the data.

A change that is meant to leave the results alone must reproduce all three. A change that is meant
to change the model, its settings, the histories or the labels writes them anew,

    .venv/bin/python -m tests.golden

in the same commit, whose message says what changed and why. Nothing else is a reason to write them:
least of all a test that fails.

`events.csv` is the log that all of it is made from. The generator wrote it once
(`python -m tasks generate --users 80 --items 60 --intents 4 --nights 14 --night 2026-11-20
--seed 7`). It is kept as a file so that another version of numpy does not change it.
"""

import csv
import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from elcrec import Config, ELCRec, Histories
from elcrec.training import Trainer
from tasks.settings import load_settings
from tasks.steps import run_step

HERE = Path(__file__).resolve().parent
EVENTS, LOSSES, LABELS, MODELS = (
    HERE / name for name in ("events.csv", "losses.json", "labels.csv", "models.json")
)

STEPS = 20
PRESETS = ("default", "paper")
# The second night trains on from the model of the first and holds its labels against it.
NIGHTS = (dt.date(2026, 11, 19), dt.date(2026, 11, 20))
# Those that labels are made by. The checks only read, and publish only copies.
NIGHT_STEPS = ("ingest", "build-sequences", "train", "evaluate", "promote", "label")

Losses = list[dict[str, float]]


def write() -> None:
    """Write all golden files from what the code gives now."""
    losses = {preset: losses_of(preset) for preset in PRESETS}
    LOSSES.write_text(json.dumps(losses, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        labels, models = nights_in(Path(folder))
    labels.write_csv(LABELS)
    MODELS.write_text(json.dumps(models, indent=1) + "\n")


class _EnoughError(Exception):
    """Ends a training after the steps that are looked at."""


def losses_of(preset: str) -> Losses:
    """Train on the fixed log, and return each loss of the first steps by its name.

    On one thread and in float32 throughout, so that processors differ in the last digits alone.
    The warm-up is one epoch, so that the steps reach past it: the intents have been placed and have
    moved.
    """
    config = Config.preset(
        preset,
        dim=32,
        max_length=12,
        n_intents=4,
        warmup_epochs=1,
        batch_users=32,
        seed=5,
        device="cpu",
        threads=1,
        softmax_precision="highest",
    )
    taken: Losses = []
    step = Trainer.step

    def recorded(trainer: Trainer, *arguments: Any) -> dict[str, float]:
        taken.append(step(trainer, *arguments))
        if len(taken) == STEPS:
            raise _EnoughError
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", recorded)
        with pytest.raises(_EnoughError):
            ELCRec(config).fit(histories())
    return taken


def histories() -> Histories:
    """Order the fixed log into a history a user, items numbered in the order of their ids."""
    with EVENTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    rows.sort(key=lambda row: (row["timestamp"], row["item_id"], row["event_type"]))
    number = {item: n for n, item in enumerate(sorted({row["item_id"] for row in rows}), start=1)}
    items: dict[str, list[int]] = {user: [] for user in sorted({row["user_id"] for row in rows})}
    for row in rows:
        items[row["user_id"]].append(number[row["item_id"]])
    return Histories.from_lists(list(items.values()))


def nights_in(folder: Path) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Run the nights in an empty folder: their labels by night and user, and their models.

    Promotion is forced: what is held here is the labels, not the rules of promotion.
    """
    settings = load_settings(
        source={"path": str(EVENTS)},
        lake={"root": str(folder / "lake")},
        duckdb={"threads": 1},
        model={
            "n_intents": 6,
            "max_epochs": 4,
            "patience": 4,
            "seed": 2,
            "device": "cpu",
            "threads": 1,
            "max_length": 30,
            "overrides": {"dim": 32, "batch_users": 16, "softmax_precision": "highest"},
        },
        promote={"force": True},
    )
    for night in NIGHTS:
        for step in NIGHT_STEPS:
            run_step(step, settings, night)
    return (
        pl.read_delta(str(folder / "lake" / "intent_labels")).sort("dt", "user_id"),
        pl.read_delta(str(folder / "lake" / "models"))
        .select(
            pl.col("dt").cast(pl.String),
            "model_version",
            "parent_version",
            "settings_fingerprint",
            "data_fingerprint",
        )
        .sort("dt")
        .to_dicts(),
    )
