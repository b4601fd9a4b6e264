"""Labels from night to night, beside those of models that are trained from scratch every night.

    python bench/stability.py --nights 60            # the last nights of ml-100k
    python bench/stability.py --drift --nights 36    # a generated log whose intents change

Replays nights in order through the pipeline's own steps on a lake of its own, then compares each
night's labels with the night before: of the users in both, who keeps the label. Beside it, on every
--scratch-every-th of these pairs of nights, the labels of two models that are trained on the same
histories from scratch, with the same settings, in their own numbering and held against nothing.

The log of --drift has ten intents: of one the items are replaced by others bit by bit, one has its
first users after a third of the nights, and half of the users of one take up another after half of
them, while the others stop coming.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.metrics import adjusted_rand_score

from bench.record import add_option, record
from elcrec import ELCRec, Histories
from local.generator import generate
from tasks.lake import Lake, tables
from tasks.night.ingest import latest_night
from tasks.night.train import number_of_intents
from tasks.registry.histories import trainable_users
from tasks.registry.identity import configure
from tasks.registry.vocabulary import model_numbers, renumbered, vocabulary
from tasks.settings import Settings, load_settings
from tasks.steps import run_step

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
STEPS = ("ingest", "build-sequences", "train", "evaluate", "promote", "label")
MONTH = 28  # nights between labels that are compared over a longer time
SHARES = ("all", "median", "worst")
QUALITY = {"intent_lift@20": "lift@20", "utilisation": "utilisation", "largest_share": "largest"}
WORTH = ("HR@20", "NDCG@20", "intent_lift@20")  # of a model on the night after


def from_nothing(settings: Settings, night: dt.date) -> pl.DataFrame:
    """Label the night's users by a model that knows no night before, in its own numbering."""
    lake = Lake.of(settings)
    item_ids = vocabulary(settings, night)
    numbers = model_numbers(lake, item_ids)
    histories = renumbered(trainable_users(settings, night).histories, numbers)
    config = configure(settings, number_of_intents(settings, len(histories)))
    model = ELCRec(config).fit(histories, n_items=len(item_ids))
    rows = lake.scan(tables.SEQUENCES, night, night).select("user_id", "items", "last_ts").collect()
    every = renumbered(Histories.from_arrow(rows["items"].to_arrow()), numbers)
    return rows.select(
        "user_id", "last_ts", intent_id=pl.Series(model.transform(every).intent)
    ).filter(pl.col("intent_id") >= 0)


def compared(before: pl.DataFrame, after: pl.DataFrame, living: set[int]) -> dict[str, float]:
    """Count the users, with and without an event since, and those who keep their label; the ARI.

    living: the intents of the night before that are not retired since.
    """
    both = before.join(after, on="user_id", suffix="_after")
    kept = both["intent_id"] == both["intent_id_after"]
    idle = both["last_ts"] == both["last_ts_after"]
    lives = both["intent_id"].is_in(list(living))
    counts = {"idle": idle, "idle, intent lives": idle & lives, "active": ~idle}
    return {
        "ari": float(adjusted_rand_score(both["intent_id"], both["intent_id_after"])),
        **{name: float(which.sum()) for name, which in counts.items()},
        **{f"{name} kept": float((kept & which).sum()) for name, which in counts.items()},
    }


# Of the log of --drift, by number.
DRIFTING, APPEARING, VANISHING, JOINED = 6, 7, 8, 9
WORLD = {"users": 1_500, "items": 500, "intents": 10}
NIGHTS_BEFORE = 20  # that the first night replayed finds


def drifting_log(folder: Path, nights: int) -> tuple[Path, pl.DataFrame, dict[str, dt.date]]:
    """Write a log whose intents change; return it, the users' intents and the nights of change.

    Every second user of `JOINED` only lends events: from the night on that `VANISHING` ends, they
    are those of a user of it. The users of `VANISHING` for whom there are none stop coming.
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
    movers, lenders = vanishing[:count], lenders[:count]
    drifting = truth.filter(pl.col("intent") == DRIFTING)["user_id"]
    for file in made.events.glob("*/*.parquet"):
        night = dt.date.fromisoformat(file.parent.name.removeprefix("dt="))
        rows = pl.read_parquet(file)
        if night < when["appears"]:
            rows = rows.filter(~pl.col("user_id").is_in(appearing.implode()))
        gone = lenders if night < when["vanishes"] else vanishing
        rows = rows.filter(~pl.col("user_id").is_in(gone.implode()))
        rows = rows.with_columns(
            user_id=pl.col("user_id").replace(lenders, movers),
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


def labels_of(lake: Lake, night: dt.date, truth: pl.DataFrame | None = None) -> pl.DataFrame:
    """Read a night's labels, without users who have none; with `truth` their intents as planted."""
    labels = lake.scan(tables.INTENT_LABELS, night, night).drop_nulls("intent_id")
    found = labels.select("user_id", "last_ts", "intent_id").collect()
    return found if truth is None else found.join(truth, on="user_id")


def say_what_changed(lake: Lake, truth: pl.DataFrame, when: dict[str, dt.date]) -> None:
    """Print what became of the intents that drift, appear and vanish."""
    nights = lake.nights(tables.INTENT_LABELS)
    for name, planted, first in (
        ("drifts", DRIFTING, nights[0]),
        ("appears", APPEARING, when["appears"]),
        ("vanishes", VANISHING, when["vanishes"] - dt.timedelta(days=1)),
    ):
        print(f"\nThe intent that {name}, from {when.get(name, first)} on:")
        said = None
        for night in (known for known in nights if known >= first):
            labels = labels_of(lake, night, truth)
            mine = labels.filter(pl.col("intent") == planted)
            if mine.is_empty():
                continue
            label, users = mine["intent_id"].value_counts(sort=True).row(0)
            others = labels.filter(pl.col("intent_id") == label).height - users
            profiles = lake.scan(tables.INTENT_PROFILES, night, night).collect()
            born = profiles.filter(pl.col("intent_id") == label)["born"].item()
            its_own = users > mine.height / 2 and users > others
            if said == (label, its_own) and night != nights[-1]:
                continue
            said = (label, its_own)
            print(
                f"  {night}: {users} of its {mine.height} users have id {label}, born {born}, and "
                f"{others} others{'' if its_own else ': not found'}"
            )


def say_births(lake: Lake) -> None:
    """Print the nights on which intents were born or retired."""
    profiles = lake.scan(tables.INTENT_PROFILES).collect().sort("dt", "intent_id")
    first = profiles["dt"].min()
    born = profiles.filter(pl.col("born") == pl.col("dt"), pl.col("dt") > first)
    gone = profiles.filter(pl.col("status") == "retired")
    for what, rows in (("Born", born), ("Retired", gone)):
        named = [f"{row['intent_id']} on {row['dt']}" for row in rows.iter_rows(named=True)]
        print(f"{what}: {', '.join(named) or 'none'}")
    back = gone.join(profiles, on="intent_id", suffix="_later").filter(
        pl.col("dt_later") > pl.col("dt")
    )
    print(f"Retired ids that came back: {back['intent_id'].n_unique()}")


def main() -> None:
    """Replay the nights and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", default=str(DATA / "ml-100k.inter"))
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--drift", action="store_true", help="a generated log, not --events")
    parser.add_argument("--scratch-every", type=int, default=1, help="0: no comparison")
    parser.add_argument("--retrain-nights", type=int, default=28)
    parser.add_argument(
        "--held-out-users", type=int, help="model.held_out_users, if not the default"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_option(parser)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    asked = given.held_out_users
    held_out = {} if asked is None else {"model.held_out_users": asked}
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        events = given.events
        if given.drift:
            events, truth, when = drifting_log(Path(root) / "log", given.nights)
        settings = load_settings(
            **{
                "source.path": str(events),
                "lake.root": f"{root}/lake",
                "model.retrain_nights": given.retrain_nights,
                "model.threads": given.threads,
                **held_out,
            }
        )
        figures = replay(settings, given.nights, given.scratch_every)
        record(given.record, figures)
        lake = Lake.of(settings)
        say_births(lake)
        if given.drift:
            say_what_changed(lake, truth, when)


def replay(settings: Settings, count: int, scratch_every: int) -> dict[str, Any]:
    """Run the nights, print how their labels compare, and return what is printed."""
    lake, last = Lake.of(settings), latest_night(settings)
    nights = [last - dt.timedelta(days=n) for n in reversed(range(count))]
    rows: list[dict[str, float]] = []
    scratch_rows: list[dict[str, float]] = []
    quality: list[dict[str, float]] = []
    retrained: list[str] = []
    months: list[float] = []
    scratch: dict[dt.date, pl.DataFrame] = {}
    for number, night in enumerate(nights):
        summaries: dict[str, Any] = {name: run_step(name, settings, night) for name in STEPS}
        trained = summaries["train"]
        quality.append(summaries["evaluate"]["metrics"][trained["model_version"]])
        if not number:
            continue
        if trained["trained_on_from"] is None:
            retrained.append(str(night))
        profiles = lake.scan(tables.INTENT_PROFILES, night, night).collect()
        living = set(profiles.filter(pl.col("status") != "retired")["intent_id"])
        here = labels_of(lake, night)
        rows.append(compared(labels_of(lake, nights[number - 1]), here, living))
        if number >= MONTH:
            earlier = compared(labels_of(lake, nights[number - MONTH]), here, living)
            months.append(earlier["ari"])
        if scratch_every and number % scratch_every == 0:
            for one in nights[number - 1 : number + 1]:
                if one not in scratch:
                    scratch[one] = from_nothing(settings, one)
            before, after = (scratch[one] for one in nights[number - 1 : number + 1])
            scratch_rows.append(compared(before, after, set(before["intent_id"])))
        told = {name: round(value, 4) for name, value in rows[-1].items()}
        print(f"{night} {told} {scratch_rows[-1:]}", file=sys.stderr)

    table = Table(
        title=f"{len(rows)} pairs of nights, trained anew on {', '.join(retrained)}; beside "
        f"it {len(scratch_rows)} pairs of models from scratch: ids not carried on, not held",
        title_justify="left",
        box=None,
    )
    table.add_column("share of users who keep their label")
    for column in ("all nights", "median", "worst", "from scratch", "worst"):
        table.add_column(column, justify="right")
    for name, title in (
        ("idle", "without new events"),
        ("idle, intent lives", "... of intents not retired"),
        ("active", "with new events"),
    ):
        table.add_row(title, *kept_shares(rows, name), *kept_shares(scratch_rows, name)[::2])
    aris = [[row["ari"] for row in side] for side in (rows, scratch_rows)]
    months_or_none = [months] if months else []
    for title, values in (
        ("adjusted Rand index, night to night", aris),
        (f"adjusted Rand index, over {MONTH} nights", months_or_none),
    ):
        if values:
            figures = [f"{f(values[0]):.4f}" for f in (np.mean, np.median, np.min)]
            beside = [f"{f(v):.4f}" for v in values[1:] if v for f in (np.mean, np.min)]
            table.add_row(title, *figures, *beside)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    figures: dict[str, Any] = {
        "pairs": len(rows),
        "scratch_pairs": len(scratch_rows),
        "trained_from_scratch": retrained,
        "without_events": shares_kept(rows, scratch_rows, "idle"),
        "with_events": shares_kept(rows, scratch_rows, "active"),
        "ari": dict(zip(SHARES, [f(aris[0]) for f in (np.mean, np.median, np.min)], strict=True)),
    }
    if scratch_rows:
        figures["ari"]["scratch"] = float(np.mean(aris[1]))
    if scratch_rows:
        own, other = (1 - float(kept_shares(side, "active")[0]) for side in (rows, scratch_rows))
        print(f"Churn of users with new events: {own:.4f}, from scratch {other:.4f}")
    means = {
        name: np.nanmean([row.get(key, np.nan) for row in quality]) for key, name in QUALITY.items()
    }
    figures |= {name: float(value) for name, value in means.items()}
    print(
        "Mean of the models: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
    )
    figures["by_time"] = by_time(lake)
    print("By time: " + ", ".join(f"{name} {v:.4f}" for name, v in figures["by_time"].items()))
    return figures


def by_time(lake: Lake) -> dict[str, float]:
    """Return what each night's model was worth on the night after: means over all these users."""
    rows = lake.scan(tables.METRICS).filter(
        pl.col("split") == "time", pl.col("model_version") != "popularity"
    )
    of_nights = rows.collect().pivot("metric", index="dt", values="value").drop_nulls("users")
    weight = pl.col("users")
    means = [((pl.col(name) * weight).sum() / weight.sum()).alias(name) for name in WORTH]
    return of_nights.drop_nulls(WORTH).select(weight.sum(), *means).row(0, named=True)


def shares_kept(
    rows: list[dict[str, float]], scratch_rows: list[dict[str, float]], name: str
) -> dict[str, float]:
    """Return the share of users who keep their label, of the replayed nights and from scratch."""
    found = [float(share) for share in kept_shares(rows, name) if share]
    shares = dict(zip(SHARES, found, strict=False))
    beside = kept_shares(scratch_rows, name)[0]
    return shares | ({"scratch": float(beside)} if beside else {})


def kept_shares(rows: list[dict[str, float]], name: str) -> list[str]:
    """Return the share of users who keep their label: over all nights, the median, the worst."""
    counted = [(row[f"{name} kept"], row[name]) for row in rows if row[name]]
    if not counted:
        return ["", "", ""]
    kept, users = np.array(counted).T
    return [
        f"{value:.4f}"
        for value in (kept.sum() / users.sum(), np.median(kept / users), (kept / users).min())
    ]


if __name__ == "__main__":
    main()
