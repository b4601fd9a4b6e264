"""How the model's costs grow with users and with items: two tables of docs/results.md.

    python bench/scale.py labels --users 1e6 1e7    # the step `label` on generated histories
    python bench/scale.py items --items 1e5 1e6     # training steps on generated vocabularies

Histories are generated: one to fifty events, ten on average, popular items more often. The
model has its default size and was never trained, which changes nothing about what it costs. Each
measurement has a process of its own; memory is the largest resident set, in MB of 10^6 bytes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from bench.record import add_option, record
from elcrec import Config, ELCRec, Histories
from elcrec.calibration import Calibration
from elcrec.matching import first_ids
from elcrec.model import Network
from elcrec.training import Trainer
from tasks.lake import Lake, tables
from tasks.lake.duck import connect
from tasks.registry.identity import Identity, register
from tasks.registry.intent_ids import named
from tasks.registry.versions import registered
from tasks.registry.weights import save
from tasks.settings import load_settings

REPO = Path(__file__).resolve().parent.parent
NIGHT = dt.date(2026, 3, 1)
LABELLED_ITEMS, INTENTS = 100_000, 256
TRAINED_USERS, STEPS = 40_000, 60
DUCKDB_MEMORY = "1GB"  # what the profiles take is DuckDB's, which uses all it may

HISTORIES = """
SELECT
    $night::DATE AS dt,
    'u' || user_number AS user_id,
    list_transform(
        range(1 + floor(-9 * ln(1 - hash(user_number) / 18446744073709551616.0))::BIGINT % 50),
        lambda place: 1 + floor(
            $items * pow(hash(user_number * 64 + place) / 18446744073709551616.0, 3)
        )::INTEGER
    ) AS items,
    len(items)::INTEGER AS n_events,
    $night::DATE::TIMESTAMPTZ AS last_ts,
    NULL::VARCHAR[] AS types, NULL::FLOAT[] AS weights, NULL::TIMESTAMPTZ[] AS times
FROM range($users) AS users (user_number)
"""


def build_lake(root: Path, users: int) -> None:
    """Write histories, vocabulary and a promoted model, untrained, of the default size."""
    settings = load_settings(**{"lake.root": str(root)})
    lake = Lake(root)
    with connect(settings) as con:
        values = {"night": NIGHT, "users": users, "items": LABELLED_ITEMS}
        lake.replace(tables.SEQUENCES, con.sql(HISTORIES, params=values), nights=[NIGHT])
    index = np.arange(1, LABELLED_ITEMS + 1, dtype=np.int32)
    ids = pl.Series([f"i{number:07d}" for number in index])
    items = {"item_id": ids, "item_index": index, "first_seen": [NIGHT] * LABELLED_ITEMS}
    lake.append(tables.ITEMS, pl.DataFrame(items))
    torch.manual_seed(0)
    model = ELCRec(Config(n_intents=INTENTS))
    model.network, model.n_items = Network(model.config, LABELLED_ITEMS), LABELLED_ITEMS
    identity = Identity(
        version="generated",
        settings_fingerprint="",
        data_fingerprint="",
        n_items=LABELLED_ITEMS,
        parent_version=None,
        same_settings=False,
        warm=False,
        first_free_id=0,
        held_out_one_in=1,
    )
    model.calibration = Calibration(sharpness=1.0, inertia=0.0)  # whichever: it costs the same
    intents = named(first_ids(INTENTS), NIGHT, None)
    save(model, ids, intents, Path(lake.model_dir(identity.version)))
    register(lake, NIGHT, identity, intents.next_id)
    promoted = registered(lake, NIGHT).with_columns(promoted=True)
    lake.replace(tables.MODELS, promoted, nights=[NIGHT])


def labels(users: int, threads: int) -> dict[str, float]:
    """Label so many users; seconds of the step itself, and the process's peak."""
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        # In a process of its own: what it needs is not the step's.
        build = [sys.executable, __file__, "build", "--root", root, "--users", str(users)]
        subprocess.run(build, check=True)
        step = [sys.executable, "-m", "tasks", "label", "--night", str(NIGHT), "--lake", root]
        limits = {
            "ELCREC_MODEL__THREADS": str(threads),
            "ELCREC_DUCKDB__THREADS": str(threads),
            "ELCREC_DUCKDB__MEMORY_LIMIT": DUCKDB_MEMORY,
        }
        process = subprocess.Popen(
            [*step, "--quiet"], cwd=REPO, env=os.environ | limits, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(os.waitstatus_to_exitcode(status))
        steps = Lake(root).scan(tables.STEPS).collect()
        seconds = float(steps["seconds"][0])
    return {"seconds": seconds, "users_s": users / seconds, "peak_mb": used.ru_maxrss / 1e3}


def items(count: int, threads: int) -> dict[str, float]:
    """Train some steps on so many items; the median step in ms, and the process's peak."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    lengths = np.minimum(4 + rng.exponential(8, TRAINED_USERS).astype(int), 50)
    drawn = 1 + (count * rng.random(lengths.sum()) ** 3).astype(np.int32)
    histories = Histories(drawn, np.concatenate([[0], lengths.cumsum()]))
    config = Config(n_intents=INTENTS)
    network = Network(config, count)
    trainer = Trainer(network, histories, config)
    network.train()
    order, times = rng.permutation(len(trainer.windows)), []
    for first in range(0, STEPS * config.batch_users, config.batch_users):
        start = time.perf_counter()
        trainer.step(order[first : first + config.batch_users], rng)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    table = network.items.weight.numel() * 4 / 1e6
    return {"step_ms": 1e3 * statistics.median(times[5:]), "table_mb": table, "peak_mb": peak}


def measured(part: str, size: int, threads: int) -> dict[str, float]:
    """Measure one part at one size in a process of its own."""
    command = [sys.executable, __file__, part, f"--{SIZES[part][0]}", str(size), "--alone"]
    command += ["--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


SIZES = {"labels": ("users", [1e6, 1e7]), "items": ("items", [1e5, 1e6])}
TITLES = {
    "seconds": "label, s",
    "users_s": "users/s",
    "step_ms": "median step, ms",
    "table_mb": "item table, MB",
    "peak_mb": "peak memory, MB",
}


def main() -> None:
    """Measure one part at each size and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*SIZES, "build"], metavar="{labels,items}")
    parser.add_argument("--users", type=float, nargs="+", default=SIZES["labels"][1])
    parser.add_argument("--items", type=float, nargs="+", default=SIZES["items"][1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_option(parser)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "build":
        build_lake(given.root, int(given.users[0]))
        return
    sizes = [int(size) for size in vars(given)[SIZES[given.part][0]]]
    if given.alone:
        print(json.dumps({"labels": labels, "items": items}[given.part](sizes[0], given.threads)))
        return
    rows = [measured(given.part, size, given.threads) for size in sizes]
    sized = [{SIZES[given.part][0]: size} | row for size, row in zip(sizes, rows, strict=True)]
    record(given.record, {"threads": given.threads, "rows": sized})
    columns = [TITLES[key] for key in rows[0]]
    print(
        f"| {SIZES[given.part][0]} | {' | '.join(columns)} |\n| " + "---: | " * (1 + len(columns))
    )
    for size, row in zip(sizes, rows, strict=True):
        figures = (f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in row.values())
        print(f"| {size:,} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
