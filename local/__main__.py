"""Airflow on this machine, to try the pipeline out: `make run` (one night, a report), `make up`.

`make run` starts what a deployment has, a scheduler with LocalExecutor and the API server that
its tasks speak to, on a free port of the loopback interface, triggers the DAG over the public
REST API and waits. `dag.test()` would start faster, by some fifteen seconds, but it runs every
task in one process without a scheduler: retries, executor, task logs on disk and the peak memory
of a step would not be what they are in production. `make run` needs no DAG processor: the DAG
files are parsed once, up front (`airflow dags reserialize`).
"""

import argparse
import json
import logging
import os
import shlex
import signal
import socket
import sys
import time
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from rich.markup import escape

from local.client import DAG_ID
from local.console import out
from local.keys import USER, password
from local.night import run_night
from local.services import airflow
from local.source import Source, choose_night, choose_source, yesterday
from tasks.chores import report
from tasks.errors import NightError, NotReadyError, PipelineError
from tasks.settings import REPO
from tasks.sources import source_of
from tasks.sources.catalogue import Catalogue


def _as_night(text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise NightError(
            f"{text!r} is no date: write the night as YYYY-MM-DD, for example 1998-04-22"
        ) from None


def run(
    events: str | None, night: str | None, lake: str | None, home: Path, items: str | None = None
) -> None:
    """`make run`: one night through Airflow, then what came out of it."""
    asked = _as_night(night)
    source = choose_source(events, lake, asked or yesterday(), items)
    chosen = choose_night(asked, source)
    run_night(chosen, source, home)
    report.show(source.settings, chosen, truth=source.truth, console=out)
    again = report_command(source, chosen)
    out.print(f"\nThis report again: [bold]{escape(again)}[/bold]", soft_wrap=True)
    out.print("[bold]make up[/bold] shows this run in Airflow's web page.")
    page = f"make page LAKE={shlex.quote(_shown(source.settings.lake.root))}"
    out.print(f"Its intents as a page: [bold]{escape(page)}[/bold]", soft_wrap=True)


def report_command(source: Source, night: date) -> str:
    """Return the command that prints the report of a night of this source again."""
    python = [_shown(Path(sys.executable)), "-m", "tasks", "report"]
    where = ["--lake", _shown(source.settings.lake.root), "--night", str(night)]
    truth = ["--truth", _shown(source.truth)] if source.truth else []
    return shlex.join([*python, *where, *truth])


def _shown(place: Path | str) -> str:
    here = Path.cwd()
    if isinstance(place, Path) and place.is_relative_to(here):
        place = place.relative_to(here)
    return str(place)


def settings_of_up(source: Source) -> dict[str, Any]:
    """Return what `make up` changes: without a source that goes on every day, no schedule."""
    settings = dict(source.overrides)
    if "source.path" in settings:  # named by EVENTS or generated: files that end with a night
        settings["airflow.schedule"] = ""
    return settings


def form_of_up(source: Source, night: date) -> dict[str, str]:
    """Return what `make up` fills in in the trigger form, by field: the night and the source.

    The night only where the events end with it: where new ones come every day, the one that is the
    newest today is an old one tomorrow, and an empty field is always the newest.
    """
    form = {}
    for section, chosen in (
        ("source", source.settings.source),
        ("catalogue", source.settings.catalogue),
    ):
        if chosen.path:
            form[f"{section}.path"] = chosen.path
    if "airflow.schedule" in settings_of_up(source):
        form["night"] = night.isoformat()
    return form


def up(
    events: str | None, lake: str | None, port: int, home: Path, items: str | None = None
) -> None:
    """`make up`: Airflow with its web page until Ctrl-C."""
    source = choose_source(events, lake, yesterday(), items)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PipelineError(
                f"port {port} of this machine is taken: choose another with PORT=number"
            ) from None
    services = {
        "api-server": ["api-server"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
        "dag-processor": ["dag-processor"],
        "triggerer": ["triggerer", "--skip-serve-logs"],
    }
    night = choose_night(None, source)
    out.print("Starting Airflow")
    form = form_of_up(source, night)
    settings = settings_of_up(source) | {"form": json.dumps(form)}
    with airflow(home, port, services, settings) as running:
        out.print(f"\n  Web page   {running.url}/dags/{DAG_ID}")
        out.print(f"  Log in     user [bold]{USER}[/bold], password [bold]{password(home)}[/bold]")
        out.print(f"  Source     {escape(str(source_of(source.settings)))}")
        if source.settings.catalogue.is_set:
            out.print(f"  Items      {escape(str(Catalogue(source.settings)))}")
        out.print(f"  Tables     {escape(str(source.settings.lake.root))}")
        out.print(f"  Logs       {escape(str(home / 'logs'))}")
        known = "Night and source are filled in" if "night" in form else "The source is filled in"
        out.print(
            f"\nTrigger the DAG there: without a change to its form it runs night {night}. "
            f"{known}. Ctrl-C stops Airflow."
        )
        while True:
            running.check_alive()
            time.sleep(1)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what a person can mend is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog=".venv/bin/python -m local", description="Airflow on this machine."
    )
    parser.add_argument("command", choices=["run", "up"])
    parser.add_argument(
        "--events", default=os.environ.get("EVENTS"), help="event file, folder or s3:// URL"
    )
    parser.add_argument(
        "--items", default=os.environ.get("ITEMS"), help="catalogue of items, read like events"
    )
    parser.add_argument("--night", default=os.environ.get("NIGHT"), help="YYYY-MM-DD, a UTC date")
    parser.add_argument("--lake", default=os.environ.get("LAKE"), help="folder or URL")
    parser.add_argument(
        "--port", default=os.environ.get("PORT") or "8080", help="of the web page of up"
    )
    parser.add_argument("--home", type=Path, default=REPO / ".airflow", help="AIRFLOW_HOME")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        if given.command == "run":
            run(given.events, given.night, given.lake, given.home.absolute(), given.items)
        else:
            up(given.events, given.lake, _port(given.port), given.home.absolute(), given.items)
    except (PipelineError, NotReadyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if given.command == "run":
            print(
                "\nStopped: what the finished tasks wrote stays, and a training goes on after its "
                "last epoch. To go on, give the same command again.",
                file=sys.stderr,
            )
        else:
            print(
                "\nStopped: tasks that were running are tried again at the next make up.",
                file=sys.stderr,
            )
        return 130
    return 0


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise PipelineError(f"{text!r} is no port: give a number from 1 to 65535 with PORT=number")
    return int(text)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
