"""Labels from night to night on a real log: what users keep, and what matching is worth.

    python bench/stability.py --nights 60                 # the last nights of ml-100k
    python bench/stability.py --nights 10 --from-scratch  # trained from nothing every night
    python bench/stability.py --nights 60 --drift         # a generated log whose intents change

Replays nights in order through the pipeline's own steps on a lake of its own, then compares each
night's labels with the night before. Beside them the same models' own numbering of their intents,
which is what labels would be without ids that are carried on and without a margin.

The log of --drift has ten intents: of one the items are replaced by others bit by bit, one has its
first users after a third of the nights, and the users of one take up another after half of them.
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
from tasks.generator import generate
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


# Of the log of --drift, by number.
DRIFTING, APPEARING, VANISHING, JOINED = 6, 7, 8, 9
WORLD = {"users": 1_500, "items": 500, "intents": 10}
NIGHTS_BEFORE = 20  # that the first night replayed finds


def drifting_log(folder: Path, nights: int) -> tuple[Path, pl.DataFrame, dict[str, dt.date]]:
    """Write a log whose intents change; return it, the users' intents and the nights of change.

    Every second user of `JOINED` only lends events: from the night on that `VANISHING` ends, they
    are those of a user of it.
    """
    last = dt.date(2026, 3, 31)
    made = generate(folder, **WORLD, nights=nights + NIGHTS_BEFORE, last_night=last, seed=7)
    first = last - dt.timedelta(days=nights - 1)
    when = {
        "appears": first + dt.timedelta(days=nights // 3),
        "vanishes": first + dt.timedelta(days=nights // 2),
    }
    truth = pl.read_parquet(made.truth)
    appearing = truth.filter(pl.col("intent") == APPEARING)["user_id"]
    vanishing = truth.filter(pl.col("intent") == VANISHING)["user_id"]
    lenders = truth.filter(pl.col("intent") == JOINED)["user_id"].gather_every(2)
    count = min(len(vanishing), len(lenders))
    vanishing, lenders = vanishing[:count], lenders[:count]
    drifting = truth.filter(pl.col("intent") == DRIFTING)["user_id"]
    for file in made.events.glob("*/*.parquet"):
        night = dt.date.fromisoformat(file.parent.name.removeprefix("dt="))
        rows = pl.read_parquet(file)
        if night < when["appears"]:
            rows = rows.filter(~pl.col("user_id").is_in(appearing.implode()))
        gone = lenders if night < when["vanishes"] else vanishing
        rows = rows.filter(~pl.col("user_id").is_in(gone.implode()))
        rows = rows.with_columns(
            user_id=pl.col("user_id").replace(lenders, vanishing),
            # An item's successor takes over for more and more of its events.
            item_id=pl.when(
                pl.col("user_id").is_in(drifting.implode())
                & (pl.col("timestamp").hash(1) % nights < (night - first).days)
            )
            .then(pl.col("item_id") + "-new")
            .otherwise("item_id"),
        )
        rows.write_parquet(file)
    return made.events, truth.filter(~pl.col("user_id").is_in(lenders.implode())), when


def say_what_changed(lake: Lake, truth: pl.DataFrame, when: dict[str, dt.date]) -> None:
    """Print when the intent that appears was found, and what became of the one that vanishes."""
    for night in (known for known in lake.nights(tables.INTENT_LABELS) if known >= when["appears"]):
        labels = lake.scan(tables.INTENT_LABELS, night, night).drop_nulls("intent_id").collect()
        both = labels.join(truth, on="user_id")
        mine = both.filter(pl.col("intent") == APPEARING)
        if mine.is_empty():
            continue
        label, users = mine["intent_id"].value_counts(sort=True).row(0)
        others = both.filter(pl.col("intent_id") == label).height - users
        if users > mine.height / 2 and users > others:
            profile = lake.scan(tables.INTENT_PROFILES, night, night)
            born = profile.filter(pl.col("intent_id") == label).select("born").collect().item()
            print(
                f"The intent whose first users came on {when['appears']} is found on {night}: "
                f"id {label}, born {born}, {users} of its {mine.height} users, {others} others."
            )
            break
    else:
        print("The intent that appeared is not found.")
    before = when["vanishes"] - dt.timedelta(days=1)
    labels = lake.scan(tables.INTENT_LABELS, before, before).drop_nulls("intent_id").collect()
    both = labels.join(truth, on="user_id").with_columns(mine=pl.col("intent") == VANISHING)
    ids = both.group_by("intent_id").agg(pl.col("mine").mean()).filter(pl.col("mine") > 0.5)
    profiles = lake.scan(tables.INTENT_PROFILES, first=before)
    for label in sorted(ids["intent_id"]):
        rows = profiles.filter(pl.col("intent_id") == label).sort("dt").collect()
        last = rows.row(-1, named=True)
        print(
            f"Intent {label}, of the users who take up another from {when['vanishes']} on: "
            f"{rows['users'][0]} users before, {last['users']} on {last['dt']}, {last['status']}."
        )


def main() -> None:
    """Replay the nights and print a Markdown table of medians and worst nights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", default=str(DATA / "ml-100k.inter"))
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--drift", action="store_true", help="a generated log, not --events")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        events = given.events
        if given.drift:
            events, truth, when = drifting_log(Path(root) / "log", given.nights)
        settings = load_settings(
            **{
                "source.path": str(events),
                "lake.root": f"{root}/lake",
                "model.from_scratch": given.from_scratch,
                "model.threads": given.threads,
            }
        )
        replay(settings, given.nights)
        if given.drift:
            say_what_changed(Lake(settings.lake.root), truth, when)


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
