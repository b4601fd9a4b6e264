"""Wall time and peak memory of each step of a night, each in a process of its own.

`make bench` measures Beauty; EVENTS names other events. Prints a table and, with --record NAME,
keeps the figures. A step's time is that of its whole process, imports included: a task of
Airflow has to load them too.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.record import add_option, record
from tasks.errors import PipelineError
from tasks.night.ingest import latest_night
from tasks.settings import load_settings
from tasks.steps import STEPS

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")


def main() -> int:
    """Run the steps of the last night of some events on an empty lake and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", default=os.environ.get("EVENTS") or str(DATA / "Beauty.txt"))
    add_option(parser)
    given = parser.parse_args()
    events = Path(given.events).absolute()
    try:
        night = latest_night(load_settings(**{"source.path": str(events)}))
    except PipelineError as error:
        print(f"error: {error}; name other events with EVENTS=path", file=sys.stderr)
        return 2

    measured = []
    with tempfile.TemporaryDirectory(prefix="bench-") as lake:
        for name in STEPS:
            print(f"{name} ...", file=sys.stderr)
            step = [sys.executable, "-m", "tasks", name, "--night", str(night), "--quiet"]
            where = ["--lake", lake, *(["--events", str(events)] if name == "ingest" else [])]
            start = time.perf_counter()
            process = subprocess.Popen([*step, *where], cwd=REPO, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                return process.returncode
            measured.append(
                {
                    "step": name,
                    "wall_s": round(time.perf_counter() - start, 2),
                    "cpu_s": round(used.ru_utime + used.ru_stime, 2),
                    "peak_mb": round(_megabytes(used), 1),
                }
            )
    show(events, measured)
    record(given.record, {"events": events.name, "rows": measured})
    return 0


def _megabytes(used: resource.struct_rusage) -> float:
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def show(events: Path, measured: list[dict[str, str | float]]) -> None:
    """Print the figures as a table, the sum and the largest peak below."""
    table = Table(title=f"{events.name}, {os.cpu_count()} cores", title_justify="left", box=None)
    table.add_column("step")
    for column in ("wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="right")
    for row in measured:
        table.add_row(
            str(row["step"]),
            f"{row['wall_s']:.1f}",
            f"{row['cpu_s']:.1f}",
            f"{row['peak_mb']:,.0f}",
        )
    wall = sum(float(row["wall_s"]) for row in measured)
    cpu = sum(float(row["cpu_s"]) for row in measured)
    peak = max(float(row["peak_mb"]) for row in measured)
    table.add_row("all", f"{wall:.1f}", f"{cpu:.1f}", f"{peak:,.0f}", style="bold")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    sys.exit(main())
