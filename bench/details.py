"""What types, weights and times of events are worth: a part of docs/results.md.

    python bench/details.py --record details

It may be killed at any time: the same command goes on. On one core it takes about an hour.

Generated logs of which the truth is known, each with one thing that items alone do not tell, and
ml-100k. For every seed the preset `default` learns each of them without and with each switch of the
config that looks at types, weights and times (`elcrec.details`). Reported are, as mean and spread
of the seeds: NMI of the labels with the intents that users truly have at the end, HR@20 and NDCG@20
of each user's first event after a moment before which everything else was learned, and of those of
them that are purchases, and lift@20 of the labels.

- accidental: every second view is of anything; purchases are not.
- twins: views of two intents look alike; only purchases tell the two apart.
- drift: half of the users take up another intent at some time; the truth is the last one.
- plain: none of that; one view in seven is of anything, as in twins and drift.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import normalized_mutual_info_score

from bench.record import REPO, add_option, record
from bench.splits import read_ratings
from elcrec import Config, ELCRec, Histories
from elcrec.details import DAY_US
from elcrec.evaluation import hit_rate_and_ndcg
from elcrec.histories import Split
from elcrec.intents import intent_hits

TYPES = ("view", "purchase")
VIEW, PURCHASE = 1, 2  # as Histories numbers them
WEIGHTS = {VIEW: 1.0, PURCHASE: 5.0}
LOGS = ("plain", "accidental", "twins", "drift", "ml-100k")
USERS, ITEMS_AN_INTENT, INTENTS, DAYS = 1_500, 40, 12, 60
NOISE = 0.15  # share of all views that are of anything
EPOCHS = 8
KEPT = REPO / "build" / "details.jsonl"
SWITCHES: dict[str, dict[str, Any]] = {
    "items alone": {},
    "types": {"types": TYPES},
    "gap_vectors": {"gap_vectors": True},
    "idle_vectors": {"idle_vectors": True},
    "half_life_days=7": {"half_life_days": 7.0},
    "half_life_days=30": {"half_life_days": 30.0},
    "weigh_events": {"weigh_events": True},
    "weigh_targets": {"weigh_targets": True},
    "target_types": {"types": TYPES, "target_types": ("purchase",)},
    "weigh_events, half_life_days=30": {"weigh_events": True, "half_life_days": 30.0},
}


@dataclass(frozen=True)
class Log:
    """A log cut at a moment.

    before: histories of `n` users up to the moment. targets: by whom each is asked for, items
    `[n]`, 0 where a user has none that is new to them. truth: int `[n]`, the intent of each user
    at the moment; None where nobody knows.
    """

    before: Histories
    targets: dict[str, NDArray[np.int32]]
    truth: NDArray[np.int64] | None
    n_items: int


def draw_log(kind: str, seed: int) -> Log:
    """Generate one of LOGS: sessions of views, of which some items are bought right after."""
    rng = np.random.default_rng([seed, LOGS.index(kind)])
    popularity = np.arange(1, ITEMS_AN_INTENT + 1) ** -0.8
    popularity /= popularity.sum()
    rows: list[tuple[int, int, int, int]] = []  # user, time, item, type
    truth = np.empty(USERS, np.int64)
    for user in range(USERS):
        first, last = rng.integers(INTENTS, size=2)
        drifts = kind == "drift" and user % 2 == 0
        changed_us = int(rng.uniform(0.2, 0.8) * DAYS * DAY_US) if drifts else 0
        truth[user] = last
        for _ in range(2 + rng.poisson(2)):
            at_us = int(rng.uniform(0, DAYS) * DAY_US)
            intent = first if at_us < changed_us else last
            for _ in range(rng.geometric(1 / 3)):
                at_us += int(rng.exponential(60e6))
                twin = kind == "twins" and rng.random() < 0.5
                chance = rng.random() < (0.5 if kind == "accidental" else NOISE)
                shown = rng.integers(INTENTS) if chance else intent ^ 1 if twin else intent
                item = 1 + shown * ITEMS_AN_INTENT + rng.choice(ITEMS_AN_INTENT, p=popularity)
                rows.append((user, at_us, item, VIEW))
                if not chance and not twin and rng.random() < 0.25:
                    at_us += int(rng.exponential(120e6))
                    rows.append((user, at_us, item, PURCHASE))
    events = pl.DataFrame(rows, ("user", "ts_us", "item", "type"), orient="row")
    weights = pl.col("type").replace_strict(WEIGHTS)
    return cut(
        events.with_columns(weight=weights), (DAYS - 7) * DAY_US, truth, INTENTS * ITEMS_AN_INTENT
    )


def rated_log() -> Log:
    """ml-100k, ratings as weights, cut where a fifth of its events are left."""
    events = read_ratings().select(
        pl.col("user") - 1,
        "item",
        weight="rating",
        ts_us=pl.col("time").cast(pl.Int64) * 1_000_000,
        type=pl.lit(VIEW),
    )
    moment_us = int(events["ts_us"].quantile(0.8, "lower")) // DAY_US * DAY_US
    return cut(events, moment_us, None, events["item"].max())


def cut(events: pl.DataFrame, moment_us: int, truth: NDArray[np.int64] | None, n_items: int) -> Log:
    """Cut events at a moment; users without three events before it are left out."""
    ordered = events.sort("user", "ts_us", maintain_order=True)
    before = ordered.filter(pl.col("ts_us") < moment_us)
    lengths = before.group_by("user").len().filter(pl.col("len") >= 3).sort("user")
    before = before.join(lengths, on="user", how="semi", maintain_order="left")
    after = ordered.filter(pl.col("ts_us") >= moment_us).join(
        before, on=("user", "item"), how="anti", maintain_order="left"
    )
    targets = {}
    for name, of_type in (("all", pl.lit(True)), ("purchases", pl.col("type") == PURCHASE)):
        first = after.filter(of_type).group_by("user").agg(pl.col("item").first())
        found = lengths.join(first, on="user", how="left", maintain_order="left")["item"]
        targets[name] = found.fill_null(0).to_numpy().astype(np.int32)
    histories = Histories(
        before["item"].to_numpy(),
        np.concatenate([[0], lengths["len"].to_numpy().cumsum()]),
        types=before["type"].to_numpy(),
        type_names=TYPES,
        weights=before["weight"].to_numpy(),
        ts_us=before["ts_us"].to_numpy(),
        until_us=moment_us,
    )
    of_users = None if truth is None else truth[lengths["user"].to_numpy()]
    return Log(histories, targets, of_users, n_items)


def measure(log: Log, switches: dict[str, Any], seed: int) -> dict[str, float]:
    """Train on a log's histories and measure on what came after."""
    config = Config(n_intents=INTENTS, max_epochs=EPOCHS, seed=seed, **switches)
    model = ELCRec(config).fit(log.before, log.n_items)
    labels = model.transform(log.before).intent
    figures = {}
    if log.truth is not None:
        figures["NMI"] = float(normalized_mutual_info_score(log.truth, labels))
    for name, items in log.targets.items():
        there = np.flatnonzero(items)
        if not there.size:
            continue
        side = Split(log.before.take(there), items[there])
        found = hit_rate_and_ndcg(model.ranks(side), (20,))
        hits = intent_hits(labels[there], log.before.take(there), side, log.n_items, 20)
        found["lift@20"] = hits.lift
        figures |= {f"{metric} of {name}": value for metric, value in found.items()}
    return figures


def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is not yet measured, a line of --kept each."""
    kept: Path = given.kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["log"], row["seed"], row["switch"]) for row in rows}
    for kind in given.logs:
        for seed in given.seeds:
            log = None
            for switch, changes in SWITCHES.items():
                of_types = kind == "ml-100k" and "types" in changes  # it has one
                if of_types or (kind, seed, switch) in done:
                    continue
                log = log or (rated_log() if kind == "ml-100k" else draw_log(kind, seed))
                figures = measure(log, changes | {"threads": given.threads}, seed)
                rows.append({"log": kind, "seed": seed, "switch": switch, "figures": figures})
                with kept.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(kind, seed, switch, figures, file=sys.stderr, flush=True)
    return [row for row in rows if row["log"] in given.logs and row["seed"] in given.seeds]


def summary(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean and standard deviation over seeds, for each log and switch."""
    for kind in LOGS:
        for switch in SWITCHES:
            found = [r["figures"] for r in rows if (r["log"], r["switch"]) == (kind, switch)]
            if not found:
                continue
            metrics = {name: [figures[name] for figures in found] for name in found[0]}
            yield {
                "log": kind,
                "switch": switch,
                "seeds": len(found),
                "mean": {name: statistics.fmean(values) for name, values in metrics.items()},
                "spread": {
                    name: statistics.stdev(values) if len(values) > 1 else 0.0
                    for name, values in metrics.items()
                },
            }


def main() -> None:
    """Measure, print a table a log, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=LOGS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="what is measured; a call goes on from it"
    )
    add_option(parser)
    given = parser.parse_args()
    figures = list(summary(run(given)))
    for kind in given.logs:
        of_log = [row for row in figures if row["log"] == kind]
        table = Table("switch", *of_log[0]["mean"], title=kind)
        for row in of_log:
            cells = (f"{m:.4f} ± {row['spread'][name]:.4f}" for name, m in row["mean"].items())
            table.add_row(row["switch"], *cells)
        Console().print(table)
    record(given.record, {"rows": figures})


if __name__ == "__main__":
    main()
