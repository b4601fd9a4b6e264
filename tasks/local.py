"""Airflow on this machine, to try the pipeline out: `make run` (one night, a report), `make up`.

`make run` starts what a deployment has, a scheduler with LocalExecutor and the API server that
its tasks speak to, on a free port of the loopback interface, triggers the DAG over the public
REST API and waits. `dag.test()` would start faster, by some fifteen seconds, but it runs every
task in one process without a scheduler: retries, executor, task logs on disk and the peak memory
of a step would not be what they are in production. `make run` needs no DAG processor: the DAG
files are parsed once, up front (`airflow dags reserialize`).

All that Airflow keeps is in `.airflow/` of the checkout; a lock file sees to it that one Airflow
at a time runs there.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.markup import escape

from tasks.errors import NightError, NotReadyError, PipelineError
from tasks.lake import LOCK
from tasks.settings import ModelSettings, Settings, load_settings
from tasks.sources import source_of

REPO = Path(__file__).resolve().parent.parent
DAG_ID = "nightly_intents"
USER = "admin"
GENERATED = REPO / "build" / "generated"
GENERATED_INTENTS = 8
GENERATED_EPOCHS = 10  # enough to find them, and a first try takes minutes
LAKES = REPO / "lakes"
OWNER = "source.txt"  # the file of a lake that names the source of its tables
READY_WITHIN = 120  # seconds an API server may take to answer on a busy machine
POLL = 1.0  # seconds between two looks at the run
TRIES = 5  # of a question that the API server leaves unanswered
PAUSE = 1.0  # seconds between two of them

# Tables are as wide as the terminal; in a file or a pipe as wide as they need.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


class NightFailedError(PipelineError):
    """The DAG run ended without success; the message is the failed task's own sentence."""


@dataclass(frozen=True)
class Source:
    """Where the events of a run come from and where its tables go."""

    settings: Settings
    overrides: Mapping[str, Any]  # dotted settings, handed to the DAG run as params
    truth: Path | None = None  # the planted intents, when the events are generated


@dataclass
class Airflow:
    """A running Airflow: its address, and its REST API with a token."""

    url: str
    home: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    client: httpx.Client | None = None

    def login(self) -> None:
        """Fetch a token for the REST API with the password of `.airflow`."""
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        user = {"username": USER, "password": password(self.home)}
        token = self._ask("POST", "/auth/token", user, tries=TRIES)["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call the public REST API below `/api/v2/dags/nightly_intents`.

        Raises PipelineError when it refuses, and when it does not answer; a question is asked
        again before that, a change is not.
        """
        tries = TRIES if method == "GET" else 1
        return self._ask(method, f"/api/v2/dags/{DAG_ID}{path}", body, tries)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, tries: int
    ) -> dict[str, Any]:
        assert self.client is not None
        for left in reversed(range(tries)):
            try:
                reply = self.client.request(method, path, json=body)
                break
            except httpx.TransportError as error:
                self.check_alive()
                if not left:
                    raise PipelineError(
                        f"Airflow's web server did not answer {method} {path} "
                        f"({type(error).__name__}: {error}): run it again when the machine is "
                        f"less busy, or see {self.home / 'logs' / 'api-server.log'}"
                    ) from error
                time.sleep(PAUSE)
        if reply.is_error:
            raise PipelineError(
                f"Airflow refused {method} {path}: {reply.status_code} "
                f"{' '.join(reply.text.split())[:500]}"
            )
        answer: dict[str, Any] = reply.json()
        return answer

    def check_alive(self) -> None:
        """Raise PipelineError when one of the services has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise PipelineError(
                    f"Airflow's {name} ended with code {process.returncode}: "
                    f"see {self.home / 'logs' / name}.log"
                )


# ---- what to run -------------------------------------------------------------------------------


def choose_source(events: str | None, lake: str | None, last_night: date) -> Source:
    """Settle the source: the one named, else the settings' own, else generated events."""
    settings = load_settings()
    own = Path(lake).expanduser().absolute() if lake else None
    overrides: dict[str, Any] = {}
    truth = None
    if events:
        named = _existing(events)
        root = own or LAKES / _lake_name(named)
        overrides = {"source.path": named, "lake.root": str(_claimed(root, named))}
    elif settings.source.path or settings.source.kind == "postgres":
        if own:
            overrides = {"lake.root": str(_claimed(own, str(source_of(settings))))}
    else:
        path, truth = generated_events(last_night)
        # A world for each last night: on the same date, two of them do different things.
        root = own or LAKES / f"generated-{last_night}"
        overrides = {"source.path": str(path), "lake.root": str(_claimed(root, str(path)))}
        if settings.model.n_intents == ModelSettings().n_intents:
            overrides["model.n_intents"] = GENERATED_INTENTS
        if settings.model.max_epochs == ModelSettings().max_epochs:
            overrides["model.max_epochs"] = GENERATED_EPOCHS
    if "source.path" in overrides:
        # The settings' readers wait for labels of the settings' own source, and for no others.
        overrides |= {"publish.parquet": "", "publish.postgres_connection": ""}
    return Source(load_settings(**overrides), overrides, truth)


def choose_night(asked: date | None, source: Source) -> date:
    """Return the night asked for, else the last one the events have."""
    if asked:
        return asked
    from tasks.ingest import latest_night

    return latest_night(source.settings)


def _yesterday() -> date:
    return datetime.now(UTC).date() - timedelta(days=1)


def generated_events(last_night: date) -> tuple[Path, Path]:
    """Return a folder of generated events that end with a night, and their true intents."""
    from tasks.generator import generate

    folder = GENERATED / last_night.isoformat()
    if not (folder / "events").exists():
        out.print(
            f"Generating events with {GENERATED_INTENTS} known intents, last night {last_night}"
        )
        generate(
            folder,
            users=800,
            items=300,
            intents=GENERATED_INTENTS,
            nights=30,
            last_night=last_night,
            seed=42,
        )
    return folder / "events", folder / "truth.parquet"


def _as_night(text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise NightError(
            f"{text!r} is no date: write the night as YYYY-MM-DD, for example 1998-04-22"
        ) from None


def _existing(events: str) -> str:
    if "://" in events:
        return events.rstrip("/")  # what is there shows when it is read
    path = Path(events).expanduser().absolute()
    if not path.exists() and not any(character in events for character in "*?["):
        raise PipelineError(f"there is no file or folder {events}: correct EVENTS")
    return os.path.normpath(path)


def _lake_name(source: str) -> str:
    name = source.rpartition("/")[2].split(".")[0]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "events"


def _claimed(root: Path, source: str) -> Path:
    """Return a lake that is the source's own: events of two must not become one history.

    Its file `source.txt` says whose it is. A lake without tables is anybody's.
    """
    owner = root / OWNER
    if root.is_dir() and any(path.name not in (OWNER, LOCK) for path in root.iterdir()):
        if not owner.exists():
            raise PipelineError(
                f"{root} holds files, but no {OWNER} that names their source: if it is {source}, "
                f"write that path into {owner}; else name another folder with LAKE=folder"
            )
        if (other := owner.read_text().strip()) != source:
            raise PipelineError(
                f"{root} holds the tables of another source ({other}): give this one a lake of "
                f"its own with LAKE=folder, or delete {root}; if that source has only moved to "
                f"{source}, write its new path into {owner}"
            )
    root.mkdir(parents=True, exist_ok=True)
    owner.write_text(f"{source}\n")
    return root


# ---- Airflow, started and stopped --------------------------------------------------------------


def environment(home: Path, port: int, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of all Airflow processes: loopback, SQLite, nothing sent out."""
    url = f"http://127.0.0.1:{port}"
    return {
        **os.environ,
        **{
            f"ELCREC_{key.replace('.', '__').upper()}": str(value)
            for key, value in settings.items()
        },
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(REPO),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_password_file(home)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API_AUTH__JWT_SECRET": _token_key(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


@contextlib.contextmanager
def airflow(
    home: Path, port: int, services: Mapping[str, list[str]], settings: Mapping[str, Any]
) -> Iterator[Airflow]:
    """Run Airflow services until the block is left; one Airflow at a time in a home."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    with _lock(home / "lock"):
        env = environment(home, port, settings)
        password(home)
        _prepare_database(home, env)
        running = Airflow(f"http://127.0.0.1:{port}", home)
        try:
            for name, arguments in services.items():
                command = [sys.executable, "-m", "airflow", *arguments]
                running.processes[name] = start(name, command, home, env)
            _wait_until_ready(running)
            running.login()
            yield running
        finally:
            if running.client:
                running.client.close()
            stop(running.processes)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PipelineError(
                f"Airflow already runs in {path.parent} ({file.read().strip()}): "
                "stop it first, or use its web page"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def _password_file(home: Path) -> Path:
    return home / "passwords.json"


def password(home: Path) -> str:
    """Return the password of the web page's only user, made up at the first start."""
    file = _password_file(home)
    if not file.exists():
        _write_private(file, json.dumps({USER: secrets.token_urlsafe(12)}))
    word: str = json.loads(file.read_text())[USER]
    return word


def _token_key(home: Path) -> str:
    """Return the key that Airflow's processes sign their tokens with, the same at every start."""
    file = home / "token-key"
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(64))
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def _prepare_database(home: Path, env: Mapping[str, str]) -> None:
    import airflow as package

    stamp = home / f"database-{package.__version__}"
    if not stamp.exists():
        _airflow(["db", "migrate"], home, env)
        stamp.touch()
    _airflow(["dags", "reserialize"], home, env)


def _airflow(arguments: list[str], home: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        log = home / "logs" / f"{'-'.join(arguments)}.log"
        log.write_text(done.stdout + done.stderr)
        raise PipelineError(
            f"airflow {' '.join(arguments)} ended with code {done.returncode}: see {log}"
        )


def start(
    name: str, command: list[str], home: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a service whose output is added to its log file; it ends with this process."""
    with (home / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this program, which then stops them in order
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    # Linux only; elsewhere a killed parent leaves its services to be stopped by hand.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """End the services and all they started: politely, then after five seconds for good."""
    family: list[psutil.Process] = []
    for process in processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            family += [parent, *parent.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=5)


def _wait_until_ready(running: Airflow) -> None:
    deadline = time.monotonic() + READY_WITHIN
    with httpx.Client(base_url=running.url, trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            running.check_alive()
            with contextlib.suppress(httpx.TransportError):
                if client.get("/api/v2/version").is_success:
                    return
            time.sleep(0.2)
    raise PipelineError(
        f"Airflow's web server did not answer within {READY_WITHIN} s: "
        f"see {running.home / 'logs' / 'api-server.log'}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- one night ---------------------------------------------------------------------------------


def run_night(night: date, source: Source, home: Path) -> None:
    """Run the DAG once for a night and follow it.

    Raises NightFailedError with the failed task's own sentence.
    """
    out.print(f"Night {night} of {escape(str(source_of(source.settings)))}")
    out.print("Starting Airflow (scheduler with LocalExecutor, API server)")
    # No scheduled run beside the one asked for, and a retry within seconds.
    local = {"airflow.schedule": "", "airflow.retry_delay_minutes": 0.1}
    services = {"api-server": ["api-server"], "scheduler": ["scheduler", "--skip-serve-logs"]}
    with airflow(home, _free_port(), services, local) as running:
        _end_leftover_runs(running)
        run_id = f"night-{night}-at-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        conf = {"night": night.isoformat(), **source.overrides}
        running.call("PATCH", "", {"is_paused": False})
        try:
            running.call(
                "POST", "/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf}
            )
            _follow(running, run_id)
        finally:
            with contextlib.suppress(PipelineError):
                running.call("PATCH", "", {"is_paused": True})


def _end_leftover_runs(running: Airflow) -> None:
    # Of a run that was killed Airflow still thinks it goes on, and it lets one night at a time run.
    for state in ("running", "queued"):
        for run in running.call("GET", f"/dagRuns?state={state}&limit=100")["dag_runs"]:
            running.call("PATCH", f"/dagRuns/{run['dag_run_id']}", {"state": "failed"})


def _follow(running: Airflow, run_id: str) -> None:
    """Print what the tasks log and how they end, until the run has ended."""
    logs = _TaskLogs(running.home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}")
    reported: set[tuple[str, int, str]] = set()
    while True:
        running.check_alive()
        # The run's state first: when it has ended, so have the tasks that are read after it.
        state = running.call("GET", f"/dagRuns/{run_id}")["state"]
        tasks = running.call("GET", f"/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
        for line in logs.new_lines():
            out.print(f"[dim]  {line}[/dim]", soft_wrap=True)
        for task in sorted(tasks, key=lambda one: one["start_date"] or "~"):
            key = (task["task_id"], task["try_number"], task["state"] or "")
            if key in reported:
                continue
            reported.add(key)
            if task["state"] == "success":
                out.print(
                    f"[green]done[/green]    {task['task_id']} ({task['duration'] or 0:.1f} s)"
                )
            elif task["state"] == "up_for_retry":
                why = logs.failure(task["task_id"])
                out.print(
                    f"[yellow]again[/yellow]   {task['task_id']} is tried again: {escape(why)}",
                    soft_wrap=True,
                )
        if state in ("success", "failed"):
            failed = [task for task in tasks if task["state"] == "failed"]
            if state == "success":
                return
            names = ", ".join(task["task_id"] for task in failed) or "no task"
            raise NightFailedError(
                f"{names} failed: {' '.join(logs.failure(task['task_id']) for task in failed)}"
            )
        time.sleep(POLL)


def _worth_printing(task: str, record: Mapping[str, Any]) -> str:
    """Return a log line of the pipeline: all of the training, of other tasks what is amiss."""
    logger, level = str(record.get("logger", "")), record.get("level", "info")
    if not logger.startswith(("tasks.", "elcrec")) or logger == "tasks.steps":
        return ""
    if level in ("info", "debug"):
        return str(record["event"]) if task == "train" and level == "info" else ""
    return f"{level}: {record['event']}"


class _TaskLogs:
    """The log files of one run's tasks, read as they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[Path, int] = {}
        self.errors: dict[str, str] = {}

    def new_lines(self) -> Iterator[str]:
        """Yield what is worth printing of what the tasks have logged since the last call."""
        for file in sorted(
            self.folder.glob("task_id=*/attempt=*.log"), key=lambda path: path.stat().st_mtime
        ):
            task = file.parent.name.removeprefix("task_id=")
            with file.open("rb") as stream:
                stream.seek(self.read.get(file, 0))
                fresh = stream.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]  # the last line may be half written
            self.read[file] = self.read.get(file, 0) + len(whole)
            for raw in whole.splitlines():
                with contextlib.suppress(ValueError):
                    record = json.loads(raw)
                    self._note_error(task, record)
                    if line := _worth_printing(task, record):
                        yield escape(f"{task}  {line}")

    def failure(self, task: str) -> str:
        """Return why a task failed: the sentence of the exception that ended its last try."""
        for _ in self.new_lines():
            pass
        log = self.folder / f"task_id={task}"
        return self.errors.get(
            task, f"it left no message, its process may have been killed: see {log}"
        )

    def _note_error(self, task: str, record: Mapping[str, Any]) -> None:
        for error in record.get("error_detail") or []:
            kind, value = error["exc_type"], error["exc_value"]
            # A sentence is complete as it is; another exception is nothing without its kind.
            log = self.folder / f"task_id={task}"
            self.errors[task] = (
                value if kind == "AirflowFailException" else f"{kind}: {value} (log: {log})"
            )
            return


# ---- commands ----------------------------------------------------------------------------------


def run(events: str | None, night: str | None, lake: str | None, home: Path) -> None:
    """`make run`: one night through Airflow, then what came out of it."""
    asked = _as_night(night)
    source = choose_source(events, lake, asked or _yesterday())
    chosen = choose_night(asked, source)
    run_night(chosen, source, home)
    from tasks import report

    report.show(source.settings, chosen, truth=source.truth, console=out)
    again = report_command(source, chosen)
    out.print(f"\nThis report again: [bold]{escape(again)}[/bold]", soft_wrap=True)
    out.print("[bold]make up[/bold] shows this run in Airflow's web page.")


def report_command(source: Source, night: date) -> str:
    """Return the command that prints the report of a night of this source again."""
    python = [_shown(Path(sys.executable)), "-m", "tasks", "report"]
    where = ["--lake", _shown(source.settings.lake.root), "--night", str(night)]
    truth = ["--truth", _shown(source.truth)] if source.truth else []
    return shlex.join([*python, *where, *truth])


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def settings_of_up(source: Source) -> dict[str, Any]:
    """Return what `make up` changes: without a source that goes on every day, no schedule."""
    settings = dict(source.overrides)
    if "source.path" in settings:  # named by EVENTS or generated: files that end with a night
        settings["airflow.schedule"] = ""
    return settings


def up(events: str | None, lake: str | None, port: int, home: Path) -> None:
    """`make up`: Airflow with its web page until Ctrl-C."""
    source = choose_source(events, lake, _yesterday())
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
    with airflow(home, port, services, settings_of_up(source)) as running:
        out.print(f"\n  Web page   {running.url}/dags/{DAG_ID}")
        out.print(f"  Log in     user [bold]{USER}[/bold], password [bold]{password(home)}[/bold]")
        out.print(f"  Source     {escape(str(source_of(source.settings)))}")
        out.print(f"  Tables     {escape(str(source.settings.lake.root))}")
        out.print(f"  Logs       {escape(str(home / 'logs'))}")
        out.print(f"\nTrigger the DAG there, for example with night {night}. Ctrl-C stops Airflow.")
        while True:
            running.check_alive()
            time.sleep(1)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what a person can mend is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog=".venv/bin/python -m tasks.local", description="Airflow on this machine."
    )
    parser.add_argument("command", choices=["run", "up"])
    parser.add_argument(
        "--events", default=os.environ.get("EVENTS"), help="event file, folder or s3:// URL"
    )
    parser.add_argument("--night", default=os.environ.get("NIGHT"), help="YYYY-MM-DD, a UTC date")
    parser.add_argument("--lake", default=os.environ.get("LAKE"), help="folder of the tables")
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
            run(given.events, given.night, given.lake, given.home.absolute())
        else:
            up(given.events, given.lake, _port(given.port), given.home.absolute())
    except (PipelineError, NotReadyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
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
