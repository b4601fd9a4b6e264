"""Whether the confidence of a label means what it says: a part of docs/results.md.

    python bench/calibration.py --data generated

Trains the preset `default` for each seed, calibrates each model on every second user
(`elcrec.calibration`), and measures on the others: the label of a history without its newest event,
how sure it is, and whether the label with the newest event is the same. Prints the expected
calibration error of the softmax and of the calibrated confidence, and what a limit for clear labels
does: how many labels it leaves, how many of these outlive the next event, and how many a model of
another seed gives, too (intents matched by the users they share). A model that is in the folder
--models is not trained again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.quality import say
from bench.record import add_option, record
from bench.splits import FILES, INTENTS, read_histories, read_ratings
from elcrec import Config, ELCRec, Histories
from elcrec.calibration import Reliability
from elcrec.matching import match_intents
from local.generator import generate

GENERATED = {"users": 800, "items": 300, "intents": 8, "nights": 30, "seed": 42}  # as make run
USERS_AN_INTENT, FEWEST_INTENTS = 80, 8  # as in a night
FACTS = "model.json"  # of a model's folder
LIMITS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def histories_of(data: str) -> tuple[Histories, int]:
    """Read or generate a data set; return its histories and a number of intents."""
    if data in FILES:
        histories, _ = read_histories(data)
        return histories, INTENTS[data]
    if data == "ml-100k":
        log = read_ratings().rename({"user": "user_id", "item": "item_id", "time": "timestamp"})
        log = log.sort("timestamp", "user_id", "item_id")
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            made = generate(Path(folder), **GENERATED, last_night=dt.date(2026, 11, 25))
            log = pl.read_parquet(made.events / "*" / "events.parquet").drop_nulls().unique()
        numbers = pl.col("item_id").rank("dense").cast(pl.Int32)
        log = log.sort("timestamp", "user_id", "item_id", "event_type").with_columns(
            item_id=numbers
        )
    lists = log.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    histories = Histories.from_lists(lists.to_list())
    return histories, max(FEWEST_INTENTS, len(histories) // USERS_AN_INTENT)


def trained(folder: Path, histories: Histories, config: Config) -> ELCRec:
    """Train a model, or load the one that is in the folder; calibrate it."""
    if not (folder / FACTS).exists():
        model = ELCRec(config).fit(histories, on_epoch=say, checkpoint_dir=folder / "checkpoints")
        model.save(folder)
    model = ELCRec.load(folder, device="cpu")
    model.calibrate(histories)
    return model


def agreement(model: ELCRec, other: ELCRec, histories: Histories) -> NDArray[np.bool_]:
    """Tell whose label another model gives, too: bool `[n]`."""
    mine, theirs = (one.transform(histories).intent for one in (model, other))
    k = model.config.n_intents
    ids = np.arange(k, dtype=np.int32)
    matched = match_intents(mine, theirs, ids, other.config.n_intents, k, least_overlap=0.0).ids
    same: NDArray[np.bool_] = matched[theirs] == mine
    return same


def reliability(confidence: NDArray[np.floating], stayed: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the curve and the expected calibration error, fit for JSON."""
    found = Reliability.of(confidence, stayed)
    return {
        "error": found.error,
        "foreseen": found.foreseen.tolist(),
        "happened": found.happened.tolist(),
    }


def measure(model: ELCRec, other: ELCRec | None, histories: Histories) -> dict[str, Any]:
    """Measure a calibrated model on the users whom it was not calibrated on."""
    assert model.calibration is not None
    foreseen = model.foreseen(histories)
    stayed, calibrated = foreseen.stayed, foreseen.calibrated
    longer = histories.take(np.flatnonzero(histories.lengths >= 2))
    why = model.transform(longer, evidence=True).evidence
    assert why is not None
    agrees = agreement(model, other, longer) if other else None
    limits = []
    for limit in LIMITS:
        clear, clear_now = calibrated >= limit, why.confidence >= limit
        row: dict[str, Any] = {"limit": limit, "share": float(clear.mean())}
        for name, these, labelled in (("clear", clear, clear_now), ("other", ~clear, ~clear_now)):
            row[f"stays_{name}"] = float(stayed[these].mean()) if these.any() else None
            there = agrees is not None and labelled.any()
            row[f"agrees_{name}"] = float(agrees[labelled].mean()) if there else None
        limits.append(row)
    return {
        "users": int(stayed.size),
        "stays": float(stayed.mean()),
        "sharpness": model.calibration.sharpness,
        "inertia": model.calibration.inertia,
        "softmax": reliability(foreseen.softmax, stayed),
        "calibrated": reliability(calibrated, stayed),
        "limits": limits,
    }


def main() -> None:
    """Measure one data set and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=["generated", "ml-100k", *INTENTS], default="generated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 7], help="two, or one")
    parser.add_argument("--epochs", type=int, default=10, help="at most")
    parser.add_argument("--models", type=Path, default=Path("build/calibration"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_option(parser)
    given = parser.parse_args()
    data = given.data
    histories, intents = histories_of(data)
    usable = histories.take(np.flatnonzero(histories.lengths >= 3))
    config = {"n_intents": intents, "max_epochs": given.epochs, "threads": given.threads}
    folders = [given.models / f"{data}-{seed}" for seed in given.seeds]
    models = [
        trained(folder, usable, Config(**config, seed=seed))
        for folder, seed in zip(folders, given.seeds, strict=True)
    ]
    epochs = json.loads((folders[0] / FACTS).read_text())["epoch"]
    other = models[1] if models[1:] else None
    found = {"data": data, "epochs": epochs} | measure(models[0], other, usable)
    record(given.record, found)
    console = Console(width=None if sys.stdout.isatty() else 110)
    errors = Table("users", "stay", "softmax: error", "calibrated: error", box=None)
    rest = [found["stays"], found["softmax"]["error"], found["calibrated"]["error"]]
    errors.add_row(str(found["users"]), *(f"{value:.3f}" for value in rest))
    console.print(errors)
    columns = ("limit", "share", "stays_clear", "stays_other", "agrees_clear", "agrees_other")
    clear = Table(*columns, box=None)
    for row in found["limits"]:
        clear.add_row(*("" if row[name] is None else f"{row[name]:.3f}" for name in columns))
    console.print(clear)


if __name__ == "__main__":
    main()
