"""How fast the page of intents answers on a large lake, and how much memory it takes.

    python bench/page.py --users 1e5 --intents 64 --nights 40
    python bench/page.py --record page

The lake is made up: aggregates of --nights nights with --intents intents; labels, evidence and
histories of the last three nights for --users users; --events events on each of the last seven. The
page is served alone, in a process of its own. --clients clients open views side by side, each with
another intent, user or night every time. What is measured is the time until the whole answer is
there; the first answer after the start is told apart.
"""

import argparse
import datetime as dt
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table as Printed

from bench.record import add_option, record
from tasks.lake import Lake, tables
from tasks.lake.duck import connect
from tasks.lake.tables import Table
from tasks.settings import load_settings
from tasks.steps import STEPS

LAST = dt.date(2026, 11, 20)
LABELLED, EVENTFUL = 3, 7  # of the last nights: those with labels, and those with events
ITEMS = 200_000
FEATURES = ("category", "word", "item")
OF_A_KIND = 10  # features of an intent and a direction
TARGETS = 40  # intents that an intent's users go to in a night
# As `make page` starts it.
MEMORY = {"_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:2"}
SECOND, MOST_MB = 1.0, 500  # what the page has to keep


def nights_of(count: int) -> list[dt.date]:
    """Return so many nights, the last one LAST."""
    return [LAST - dt.timedelta(days=days) for days in range(count - 1, -1, -1)]


def make(root: Path, users: int, intents: int, nights: list[dt.date], events: int) -> None:
    """Write the lake."""
    lake, draw = Lake(root), np.random.default_rng(0)
    size = draw.integers(users // intents // 2, users // intents * 2, intents)
    once(lake, nights, intents)
    for at, night in enumerate(nights):
        size = np.maximum(1, size + draw.integers(-size // 50 - 1, size // 50 + 2))
        for table, rows in aggregates(night, size, draw, models=nights[max(0, at - 1)]):
            lake.replace(table, pa.Table.from_pylist(rows, schema=table.schema), nights=[night])
    with connect(load_settings()) as con:
        for night in nights[-LABELLED:]:
            for table, select in of_users(night, users, intents):
                lake.replace(table, con.sql(select), nights=[night])
        for night in nights[-EVENTFUL:]:
            select = f"""
                SELECT DATE '{night}' AS dt, 'user-' || lpad((random() * {users})::BIGINT::VARCHAR,
                9, '0') AS user_id, 'item-' || (random() * {ITEMS - 1})::INTEGER AS item_id,
                'view' AS event_type,
                TIMESTAMPTZ '{night} 00:00:00+00' + to_seconds((random() * 86399)::INTEGER) AS ts,
                1::FLOAT AS weight, 'made up' AS source, i AS row_number, DATE '{night}' AS ingested
                FROM range({events}) AS made (i)"""
            lake.replace(tables.EVENTS, con.sql(select), nights=[night])


def once(lake: Lake, nights: list[dt.date], intents: int) -> None:
    """Write what a lake has once: items, catalogue, names and places."""
    first, ids = nights[0], [f"item-{n}" for n in range(ITEMS)]
    seen = {"item_id": ids, "item_index": range(1, ITEMS + 1), "first_seen": [first] * ITEMS}
    lake.append(tables.ITEMS, pa.Table.from_pydict(seen, schema=tables.ITEMS.schema))
    catalogue = {
        "dt": [first] * ITEMS,
        "item_id": ids,
        "title": [f"A title of some length for item {n}" for n in range(ITEMS)],
        "categories": [[f"Category {n % 40}"] for n in range(ITEMS)],
        "attributes": [None] * ITEMS,
    }
    rows = pa.Table.from_pydict(catalogue, schema=tables.CATALOGUE.schema)
    lake.replace(tables.CATALOGUE, rows, nights=[first])
    places = np.random.default_rng(1).uniform(-1, 1, (intents, 2))
    for table, found in (
        (
            tables.INTENT_NAMES,
            [
                {"intent_id": n, "name": f"Name {n}", "why": "born", "rests_on": [], "meaning": []}
                for n in range(intents)
            ],
        ),
        (
            tables.INTENT_PLACES,
            [{"intent_id": n, "x": x, "y": y} for n, (x, y) in enumerate(places.tolist())],
        ),
    ):
        dated = [{"dt": first, **row} for row in found]
        lake.replace(table, pa.Table.from_pylist(dated, schema=table.schema), nights=[first])


def aggregates(
    night: dt.date, size: np.ndarray, draw: np.random.Generator, models: dt.date
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Yield the small tables of a night: intents of these sizes, and what the steps left."""
    total, version, parent = int(size.sum()), f"{night:%Y%m%d}-made", f"{models:%Y%m%d}-made"
    yield (
        tables.INTENT_PROFILES,
        [
            {
                "dt": night,
                "intent_id": n,
                "users": users,
                "share": users / total,
                "top_items": [
                    {"item_id": f"item-{n + k}", "lift": 3.0 - k / 10} for k in range(10)
                ],
                "born": LAST - dt.timedelta(days=1000),
                "status": "active",
                "came_from": [],
                "name": f"Name {n}",
                "confidence_deciles": [k / 10 for k in range(1, 10)],
            }
            for n, users in enumerate(size.tolist())
        ],
    )
    yield (
        tables.INTENT_FEATURES,
        [
            {
                "dt": night,
                "intent_id": n,
                "kind": kind,
                "value": f"{kind} {n + rank}",
                "title": f"Title {n + rank}" if kind == "item" else None,
                "is_over": over,
                "rank": rank,
                "observed": 10.0,
                "all_observed": 100.0,
                "share": 0.3,
                "expected_share": 0.1,
                "log_odds": 1.0 if over else -1.0,
                "z": 3.0,
                "score": 0.5 if over else -0.5,
            }
            for n in range(len(size))
            for kind in FEATURES
            for over in (True, False)
            for rank in range(1, OF_A_KIND + 1)
        ],
    )
    yield (
        tables.INTENT_NEXT_ITEMS,
        [
            {"dt": night, "intent_id": n, "rank": k, "item_id": f"item-{n + k}", "score": 1.0}
            for n in range(len(size))
            for k in range(1, 11)
        ],
    )
    yield (
        tables.INTENT_USERS,
        [
            {"dt": night, "intent_id": n, "rank": k, "user_id": f"user-{n + k * len(size):09}"}
            for n in range(len(size))
            for k in range(1, 6)
        ],
    )
    # Users go to the intents that are alike, which are the same ones every night.
    near = np.random.default_rng(2).integers(0, len(size), (len(size), TARGETS))
    going = near[:, draw.permutation(TARGETS)[: TARGETS * 3 // 4]].tolist()
    flows = {(n, n): int(size[n]) for n in range(len(size))}
    flows |= {(n, to): 1 + (n + to) % 50 for n, many in enumerate(going) for to in many if to != n}
    yield (
        tables.INTENT_FLOWS,
        [
            {"dt": night, "from_intent_id": one, "to_intent_id": two, "users": users}
            for (one, two), users in flows.items()
        ],
    )
    yield (
        tables.LABEL_COUNTS,
        [
            {
                "dt": night,
                "users": total,
                "users_with_intent": total,
                "clear": total // 2,
                "held": total // 50,
                "compared": total,
                "changed": total // 100,
                "idle": total // 2,
                "idle_changed": 0,
                "of_intents": [
                    {"intent_id": n, "clear": users // 2} for n, users in enumerate(size.tolist())
                ],
            }
        ],
    )
    told = {
        "promote": {
            "model_version": version,
            "promoted": True,
            "labels_with": version,
            "compared_with": parent,
            "reasons": [],
            "doubts": [],
        },
        "train": {"model_version": version, "intents": len(size), "epochs": 3, "curve": []},
    }
    yield (
        tables.STEPS,
        [
            {
                "dt": night,
                "step": name,
                "started_at": dt.datetime.combine(night, dt.time(1), tzinfo=dt.UTC),
                "seconds": 60.0,
                "peak_mb": 1000.0,
                "summary": json.dumps(told.get(name, {})),
            }
            for name in STEPS
        ],
    )
    yield (
        tables.CHECK_RESULTS,
        [
            {
                "dt": night,
                "step": "check-events",
                "suite": "checked_events",
                "column_name": f"column {n}",
                "expectation": f"expectation {n}",
                "severity": "warning",
                "met": True,
                "value": float(n),
                "expected": "at most 100",
            }
            for n in range(60)
        ],
    )
    yield (
        tables.METRICS,
        [
            {
                "dt": night,
                "model_version": who,
                "split": "test",
                "slice": users,
                "metric": metric,
                "value": 0.1,
            }
            for who in (version, parent, "popularity", "co-occurrence")
            for users in ("all", "new items", f"against {parent}", "against popularity")
            for metric in ("NDCG@20", "HR@20", "intent_lift@20", "utilisation", "NDCG@20 change")
        ],
    )
    yield tables.NIGHT_STATS, [{"dt": night, "events": total // 2, "event_types": []}]
    counts = {name: 10 for name in tables.INGESTS.schema.names if name.startswith("rows_")}
    yield tables.INGESTS, [{"dt": night, "source": "made up", **counts, "bootstrap": False}]
    yield (
        tables.MODELS,
        [
            {
                "dt": night,
                "model_version": version,
                "path": "nowhere",
                "promoted": True,
                "parent_version": parent,
                "warm": True,
                "superseded": False,
            }
        ],
    )


def of_users(night: dt.date, users: int, intents: int) -> Iterator[tuple[Table, str]]:
    """Yield the tables of a night with a row a user, as statements, sorted by user."""
    user = f"DATE '{night}' AS dt, 'user-' || lpad(i::VARCHAR, 9, '0') AS user_id"
    made = f"FROM range({users}) AS made (i) ORDER BY i"
    intent = f"(i % {intents})::INTEGER"
    when = f"TIMESTAMPTZ '{night} 12:00:00+00' AS last_ts"
    yield (
        tables.INTENT_LABELS,
        f"SELECT {user}, {intent} AS intent_id, 0.9::FLOAT AS confidence, "
        f"((i + 1) % {intents})::INTEGER AS runner_up_id, 0.05::FLOAT AS runner_up_confidence, "
        f"20::INTEGER AS n_events, {when}, '{night:%Y%m%d}-made' AS model_version {made}",
    )
    item = f"'item-' || ((i * {{}}) % {ITEMS})"
    items = ", ".join(
        f"{{'item_id': {item.format(prime)}, 'share': 0.2::FLOAT}}" for prime in (7, 11, 13)
    )
    most = ", ".join(
        f"{{'intent_id': ((i + {n}) % {intents})::INTEGER, 'probability': 0.3::FLOAT}}"
        for n in range(3)
    )
    yield (
        tables.LABEL_EVIDENCE,
        f"SELECT {user}, {intent} AS intent_id, 0.8::FLOAT AS calibrated_confidence, "
        f"true AS clear, NULL::DATE AS held_since, [{items}] AS items, [{most}] AS intents, "
        f"'{night:%Y%m%d}-made' AS model_version {made}",
    )
    history = ", ".join(f"(1 + (i * {n}) % {ITEMS})::INTEGER" for n in range(3, 43, 2))
    yield (
        tables.SEQUENCES,
        f"SELECT {user}, [{history}] AS items, 20::INTEGER AS n_events, {when}, "
        f"NULL::VARCHAR[] AS types, NULL::FLOAT[] AS weights, NULL::TIMESTAMPTZ[] AS times {made}",
    )


def views(users: int, intents: int, nights: list[dt.date], draw: random.Random) -> dict[str, str]:
    """Return an address of each view, drawn anew each time."""
    night = draw.choice(nights[-28:])
    return {
        "night": f"/night?night={night}",
        "intents": f"/intents?night={night}&sort=change",
        "intent": f"/intents/{draw.randrange(intents)}?night={nights[-1]}",
        "user": f"/users?id=user-{draw.randrange(users):09}",
        "models": f"/models?night={night}",
        "flows": f"/flows?since={draw.choice(nights[-29:-1])}",
        "flows of all nights": f"/flows?since={nights[0]}",
    }


def measure(root: Path, given: argparse.Namespace, nights: list[dt.date]) -> dict[str, Any]:
    """Serve the page, open views for a while, and return times by view and the peak of memory."""
    command = [sys.executable, "-m", "tasks", "page", "--port", "0", "--lake", str(root)]
    server = subprocess.Popen(
        command,
        env={**os.environ, **MEMORY},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        process = psutil.Process(server.pid)
        while not done.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss / 1e6)

    try:
        assert server.stdout is not None
        address = next(line for line in server.stdout if "token=" in line).split(": ", 1)[1].strip()
        watching = threading.Thread(target=watch)
        watching.start()
        taken: dict[str, list[float]] = {}
        first: dict[str, float] = {}

        def client(seed: int) -> None:
            draw = random.Random(seed)
            base = address.partition("/?")[0]
            with httpx.Client(trust_env=False, timeout=120, follow_redirects=True) as http:
                http.get(address).raise_for_status()
                for _ in range(given.rounds):
                    found = views(given.users, given.intents, nights, draw)
                    for name in draw.sample(sorted(found), len(found)):
                        clock = time.perf_counter()
                        http.get(base + found[name]).raise_for_status()
                        seconds = time.perf_counter() - clock
                        if seed < 0:
                            first.setdefault(name, seconds)
                        else:
                            taken.setdefault(name, []).append(seconds)

        rounds, given.rounds = given.rounds, 1
        client(-1)
        given.rounds = rounds
        with ThreadPoolExecutor(given.clients) as clients:
            list(clients.map(client, range(given.clients)))
    finally:
        done.set()
        server.terminate()
        server.wait()
    return {
        "users": given.users,
        "intents": given.intents,
        "nights": given.nights,
        "clients": given.clients,
        "peak_mb": round(peak[0]),
        "views": {
            name: {
                "requests": len(seconds),
                "first": round(first[name], 3),
                "median": round(statistics.median(seconds), 3),
                "p95": round(float(np.quantile(seconds, 0.95)), 3),
            }
            for name, seconds in sorted(taken.items())
        },
    }


def main() -> None:
    """Make the lake, load the page, print and record what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=lambda text: int(float(text)), default=10_000_000)
    parser.add_argument("--intents", type=int, default=512)
    parser.add_argument("--nights", type=int, default=400)
    parser.add_argument("--events", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, default=20, help="times that a client opens each view"
    )
    parser.add_argument("--lake", type=Path, help="keep the lake in this folder, or take it there")
    add_option(parser)
    given = parser.parse_args()
    nights = nights_of(given.nights)
    with tempfile.TemporaryDirectory() as folder:
        root = given.lake or Path(folder) / "lake"
        if not root.exists():
            make(root, given.users, given.intents, nights, given.events)
        found = measure(root, given, nights)
    table = Printed("view", "requests", "first (s)", "median (s)", "95 % (s)", box=None)
    for name, row in found["views"].items():
        table.add_row(name, *(str(row[key]) for key in ("requests", "first", "median", "p95")))
    console = Console()
    console.print(table)
    kept = all(row["p95"] < SECOND for row in found["views"].values())
    console.print(
        f"peak {found['peak_mb']} MB; "
        f"{'every view' if kept else 'not every view'} is under {SECOND:g} s, "
        f"memory is {'under' if found['peak_mb'] < MOST_MB else 'above'} {MOST_MB} MB"
    )
    record(given.record, found)


if __name__ == "__main__":
    main()
