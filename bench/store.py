"""A night on a lake in an object store beside one in a folder: time, requests and bytes.

    python bench/store.py --events 1e5
    python bench/store.py --events 1e7 --record store
    python bench/store.py --events 1e5 --before 1 --record store-next

The events are those of bench/size.py. All steps of a night run once on each lake, each lake in a
process of its own, in turns --repeat times. The first night of a lake reads all events before it;
--before lets so many nights run first that are not measured, and counts what a night costs then.

The store is moto's S3 on loopback, in a process of its own that counts what it is asked for. It
answers at once: what a real one adds is its answering time for each request that waits for the one
before.
"""

import argparse
import datetime as dt
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.record import add_option, record
from bench.size import LAST_NIGHT, generate
from tasks.settings import load_settings
from tasks.steps import STEPS, run_step

REPO = Path(__file__).resolve().parent.parent
BUCKET = "lake"
COUNTS = "/_counts"  # the address at which the store tells what it was asked for
PLACES = ("folder", "store")
MODEL = {"n_intents": 16, "max_epochs": 2, "device": "cpu", "overrides": {"dim": 32}}


class Counted:
    """A web application that counts its requests by kind, and the bytes in and out."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.counts: Counter[str] = Counter()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request, or say what was counted and begin anew."""
        if environ["PATH_INFO"] == COUNTS:
            body = json.dumps(self.counts).encode()
            self.counts.clear()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ["QUERY_STRING"]
        self.counts["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        self.counts["bytes sent"] += int(environ.get("CONTENT_LENGTH") or 0)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            length = {name.lower(): value for name, value in headers}.get("content-length", "0")
            self.counts["bytes got"] += int(length) if environ["REQUEST_METHOD"] != "HEAD" else 0
            return start_response(status, headers, *more)

        return self.application(environ, start)


def serve(to_parent: Connection) -> None:
    """Run the store and tell its port."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    application = Counted(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    to_parent.send(server.server_port)
    server.serve_forever()


def night(root: str, events: Path, threads: int, memory: str, before: int) -> None:
    """Run the steps of a night; print the seconds of each, and of the nights before, as JSON."""
    settings = load_settings(
        **{
            "lake.root": root,
            "source.path": str(events),
            "promote.force": True,
            "quality.max_label_share": 1.0,
            "duckdb.threads": threads,
            "duckdb.memory_limit": memory,
        },
        model=MODEL | {"threads": threads},
    )
    start = time.perf_counter()
    for age in range(before, 0, -1):
        for step in STEPS:
            run_step(step, settings, LAST_NIGHT - dt.timedelta(days=age))
    before_s = time.perf_counter() - start
    asked(f"{os.environ['AWS_ENDPOINT_URL']}{COUNTS}")
    seconds = {}
    for step in STEPS:
        start = time.perf_counter()
        run_step(step, settings, LAST_NIGHT)
        seconds[step] = round(time.perf_counter() - start, 2)
    print(json.dumps({"steps_s": seconds, "before_s": before_s}))


def measure(place: str, folder: Path, address: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run a night on a new lake in a process of its own; return what it took."""
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    name = f"{BUCKET}-{uuid.uuid4().hex[:8]}"
    root = str(lake) if place == "folder" else f"s3://{name}/lake"
    asked(urllib.request.Request(f"{address}/{name}", method="PUT"))
    keys = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "us-east-1",
        "OMP_NUM_THREADS": str(given.threads),
        "POLARS_MAX_THREADS": str(given.threads),
    }
    command = [sys.executable, __file__, "--alone", root, "--folder", str(folder)]
    command += ["--threads", str(given.threads), "--memory", given.memory]
    command += ["--before", str(given.before)]
    print(f"{place}: {root} ...", file=sys.stderr)
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPO, env=os.environ | keys, stdout=subprocess.PIPE, check=True
    )
    wall = time.perf_counter() - start
    shutil.rmtree(lake, ignore_errors=True)
    counts = json.loads(asked(f"{address}{COUNTS}"))
    took = json.loads(done.stdout)
    return {
        "place": place,
        "wall_s": round(wall - took["before_s"], 2),
        "steps_s": took["steps_s"],
        "bytes_sent": counts.pop("bytes sent", 0),
        "bytes_got": counts.pop("bytes got", 0),
        "requests": counts,
    }


def asked(request: str | urllib.request.Request) -> bytes:
    """Ask the store on loopback, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        content: bytes = answer.read()
    return content


def best_of(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the fastest run of each place."""
    return {
        place: min((run for run in runs if run["place"] == place), key=lambda run: run["wall_s"])
        for place in PLACES
    }


def show(events: int, best: dict[str, dict[str, Any]]) -> None:
    """Print the steps side by side, and what the store was asked for."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title=f"A night of {events:,} events", title_justify="left", box=None)
    for column in ("step", "folder s", "store s", "ratio"):
        table.add_column(column, justify="left" if column == "step" else "right")
    folder, store = (best[place] for place in PLACES)
    rows = [(step, folder["steps_s"][step], store["steps_s"][step]) for step in STEPS]
    for step, one, other in [*rows, ("all, with imports", folder["wall_s"], store["wall_s"])]:
        table.add_row(step, f"{one:.1f}", f"{other:.1f}", f"{other / max(one, 0.01):.2f}")
    console.print(table)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(store["requests"].items()))
    console.print(
        f"{sum(store['requests'].values()):,} requests ({kinds}), "
        f"{store['bytes_sent'] / 1e6:,.1f} MB sent, {store['bytes_got'] / 1e6:,.1f} MB got"
    )


def main() -> int:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=float, default=1e5, metavar="N")
    default = Path(tempfile.gettempdir()) / "elcrec-size"
    parser.add_argument("--folder", type=Path, default=default, help=f"for all data ({default})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--before", type=int, default=0, help="nights that run before, unmeasured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="8GB", help="DuckDB's limit")
    add_option(parser)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        night(given.alone, given.folder / "events", given.threads, given.memory, given.before)
        sys.stdout.flush()
        os._exit(0)  # at an orderly end of Python, DuckDB's binding reports its own types as leaked
    events = int(given.events)
    folder = given.folder / f"store-{events}-{given.seed}"
    generate(folder, events, given.seed, given.threads)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    server = spawn.Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        address = f"http://127.0.0.1:{here.recv()}"
        runs = [
            measure(place, folder, address, given) for _ in range(given.repeat) for place in PLACES
        ]
    finally:
        server.kill()
        server.join()
    best = best_of(runs)
    show(events, best)
    ratio = round(best["store"]["wall_s"] / best["folder"]["wall_s"], 3)
    print(f"the store takes {ratio:.2f} times the folder's time")
    figures = {"events": events, "night": str(LAST_NIGHT), "before": given.before, "ratio": ratio}
    record(given.record, figures | {"runs": runs, "best": best})
    return 0


if __name__ == "__main__":
    sys.exit(main())
