"""Labels from night to night on a real log: what users keep, and what matching is worth.

    python bench/stability.py --nights 60                 # the last nights of ml-100k
    python bench/stability.py --nights 10 --from-scratch  # trained from nothing every night

Replays nights in order through the pipeline's own steps on a lake of its own, then compares each
night's labels with the night before. Beside them the same models' own numbering of their intents,
which is what labels would be without ids that are carried on and without a margin.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.metrics import adjusted_rand_score

from tasks import tables
from tasks.ingest import latest_night
from tasks.lake import Lake
from tasks.models import load, model_numbers, promoted, renumbered
from tasks.settings import Settings, load_settings
from tasks.steps import run_step

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
STEPS = ("ingest", "build-sequences", "train", "evaluate", "promote", "label")


def own_numbering(settings: Settings, night: dt.date) -> pl.DataFrame:
    """Label the night's users by the index of the centre, as if ids had no history."""
    from elcrec import Histories

    lake = Lake(settings.lake.root)
    chosen = promoted(lake, until=night)
    assert chosen is not None
    model = load(settings, chosen[0])
    rows = lake.scan(tables.SEQUENCES, night, night).select("user_id", "items").collect()
    histories = Histories.from_arrow(rows["items"].to_arrow())
    known = renumbered(histories, model_numbers(lake, model.item_ids))
    return rows.select("user_id").with_columns(
        intent_id=pl.Series(model.model.transform(known).intent)
    )


def compared(before: pl.DataFrame, after: pl.DataFrame, idle: pl.Series) -> dict[str, float]:
    """Shares of users, idle and active, who keep their label, and the ARI over both."""
    both = before.join(after, on="user_id", suffix="_after").drop_nulls()
    kept = both["intent_id"] == both["intent_id_after"]
    without = both["user_id"].is_in(idle.implode())
    return {
        "idle": float(kept.filter(without).mean() or np.nan),
        "active": float(kept.filter(~without).mean() or np.nan),
        "ari": float(adjusted_rand_score(both["intent_id"], both["intent_id_after"])),
    }


def main() -> None:
    """Replay the nights and print a Markdown table of medians and worst nights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", default=str(DATA / "ml-100k.inter"))
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        settings = load_settings(
            **{
                "source.path": given.events,
                "lake.root": root,
                "model.from_scratch": given.from_scratch,
                "model.threads": given.threads,
            }
        )
        replay(settings, given.nights)


def replay(settings: Settings, count: int) -> None:
    """Run the nights and print how their labels compare."""
    lake, last = Lake(settings.lake.root), latest_night(settings)
    labels: dict[dt.date, tuple[pl.DataFrame, pl.DataFrame]] = {}
    rows: list[dict[str, float]] = []
    own_rows: list[dict[str, float]] = []
    previous = None
    for night in (last - dt.timedelta(days=n) for n in reversed(range(count))):
        summaries = {name: run_step(name, settings, night) for name in STEPS}
        found = lake.scan(tables.INTENT_LABELS, night, night).collect()
        labels[night] = (
            found.select("user_id", "intent_id", "last_ts"),
            own_numbering(settings, night),
        )
        if previous is not None:
            here, there = labels[night], labels[previous]
            idle = here[0].join(there[0], on=["user_id", "last_ts"])["user_id"]
            rows.append(compared(there[0], here[0].drop("last_ts"), idle))
            own_rows.append(compared(there[1], here[1], idle))
            born, retired = (
                summaries["train"].get(f"intents_{what}") for what in ("born", "retired")
            )
            print(f"{night} {rows[-1]} born {born} retired {retired}", file=sys.stderr)
        previous = night
    table = Table(title=f"{len(rows)} pairs of nights", title_justify="left", box=None)
    for column in (
        "users who keep their label",
        "median night",
        "worst night",
        "own numbering, median",
    ):
        table.add_column(column, justify="left" if column.startswith("users") else "right")
    for key, title in (
        ("idle", "without new events"),
        ("active", "with new events"),
        ("ari", "adjusted Rand index of both"),
    ):
        values, own = ([row[key] for row in side] for side in (rows, own_rows))
        figures = (np.nanmedian(values), np.nanmin(values), np.nanmedian(own))
        table.add_row(title, *(f"{figure:.4f}" for figure in figures))
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
