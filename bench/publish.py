"""How fast labels get to their readers: rows a second and peak memory of the step publish.

    python bench/publish.py                    # a million labels to each target
    python bench/publish.py --users 10_000_000

Makes labels of as many users as --users says, and the evidence of each, in a lake of its own.
Starts a PostgreSQL on loopback from what the system has installed, and publishes a night to each
target twice: first new, then in the place of the same night. Each is a process of its own, as a
task of Airflow is. The peak and the wall time are what the step itself records. The CPU time is
that of its whole process, imports included and PostgreSQL not; the line "none" has what is not for
a target.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from bench.record import add_option, record  # noqa: E402
from tasks.lake import Lake, tables  # noqa: E402
from tests.servers import postgres  # noqa: E402

NIGHT = dt.date(2026, 11, 20)


def main() -> int:
    """Publish generated labels to each target and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    add_option(parser)
    given = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, postgres() as server:
        lake = Lake(Path(folder) / "lake")
        made = labels(given.users)
        lake.replace(tables.INTENT_LABELS, made, nights=[NIGHT])
        lake.replace(tables.LABEL_EVIDENCE, evidence(made), nights=[NIGHT])
        targets = {
            "none": {},
            "Parquet": {"parquet": f"{folder}/published"},
            "PostgreSQL": {"postgres_connection": "bench"},
        }
        for target, settings in targets.items():
            for run in ("new", "again") if settings else ("",):
                print(f"{target} {run} ...", file=sys.stderr)
                changes = [f"--set=publish.{key}={value}" for key, value in settings.items()]
                command = [sys.executable, "-m", "tasks", "publish", f"--night={NIGHT}", "--quiet"]
                process = subprocess.Popen(
                    [*command, f"--lake={lake.root}", *changes],
                    cwd=REPO,
                    env={**os.environ, "AIRFLOW_CONN_BENCH": server},
                    stdout=subprocess.DEVNULL,
                )
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode:
                    return process.returncode
                steps = lake.scan(tables.STEPS).collect().row(0, named=True)
                measured.append(
                    {
                        "target": target,
                        "run": run,
                        "wall_s": round(steps["seconds"], 2),
                        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
                        "rows_a_s": round(given.users / steps["seconds"]),
                        "peak_mb": round(steps["peak_mb"]),
                    }
                )
    show(given.users, measured)
    record(given.record, {"users": given.users, "rows": measured})
    return 0


def labels(users: int) -> pl.DataFrame:
    """Make labels that do not compress to nothing: mixed ids, intents, times and confidences."""
    mixed = (pl.col("n") * 2_654_435_761) % 2**32
    return (
        pl.LazyFrame({"n": pl.int_range(users, eager=True)})
        .select(
            dt=pl.lit(NIGHT),
            user_id=pl.format("user-{}-{}", mixed, "n"),
            intent_id=(mixed % 64).cast(pl.Int32),
            confidence=(mixed % 9973 / 9973).cast(pl.Float32),
            runner_up_id=((mixed + 1) % 64).cast(pl.Int32),
            runner_up_confidence=(mixed % 997 / 1994).cast(pl.Float32),
            n_events=(mixed % 255 + 1).cast(pl.Int32),
            last_ts=pl.lit(dt.datetime.combine(NIGHT, dt.time(), tzinfo=dt.UTC)).dt.cast_time_unit(
                "us"
            )
            + pl.duration(seconds=mixed % 86_400),
            model_version=pl.lit("20261120-0123456789ab"),
        )
        .collect()
    )


def evidence(labels: pl.DataFrame) -> pl.DataFrame:
    """Make a row for each label, with three items and three intents as `label` writes them."""
    item = pl.format("item-{}", pl.col("n_events").cast(pl.Int64) * 7919 % 50_021)
    share = pl.col("confidence").cast(pl.Float32) / 3
    intent = pl.col("intent_id")
    return labels.select(
        "dt",
        "user_id",
        intent,
        calibrated_confidence="confidence",
        clear=pl.col("confidence") > 0.5,
        held_since=pl.lit(None, pl.Date),
        items=pl.concat_list([pl.struct(item.alias("item_id"), share.alias("share"))] * 3),
        intents=pl.concat_list(
            [pl.struct(intent.alias("intent_id"), share.alias("probability"))] * 3
        ),
        model_version="model_version",
    )


def show(users: int, measured: list[dict[str, str | float]]) -> None:
    """Print the figures as a table."""
    table = Table(
        title=f"publish, {users:,} labels, {os.cpu_count()} cores", title_justify="left", box=None
    )
    table.add_column("target")
    table.add_column("run")
    for column in ("wall s", "CPU s", "rows/s", "peak MB"):
        table.add_column(column, justify="right")
    for row in measured:
        table.add_row(
            str(row["target"]),
            str(row["run"]),
            f"{row['wall_s']:.2f}",
            f"{row['cpu_s']:.2f}",
            f"{row['rows_a_s']:,}",
            f"{row['peak_mb']}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
