"""The services of compose.yaml as processes of this machine, where there is no container engine.

    set -a; . docker/.env; set +a
    export POSTGRES_ADDRESS=127.0.0.1:5432 REDIS_ADDRESS=127.0.0.1:6379
    .venv/bin/python docker/processes.py

    export LAKE=s3://bucket/lake SOURCE=s3://bucket/events/ AWS_ACCESS_KEY_ID=...
    .venv/bin/python docker/processes.py --file docker/compose.yaml --file docker/compose.store.yaml

Commands and environment are read from these files, so what runs here is what runs there.
PostgreSQL and Redis are not started: they are the system's, or somebody else's. Everything listens
on 127.0.0.1, logs and tables are below `--home`. With compose.store.yaml no two services have a
folder in common: tables are in the store, and logs and temporary files in a folder of each service.
On one machine only the first worker has the port at which the page asks for logs. What ends is
started again, as compose does; Ctrl-C or SIGTERM ends it all.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from local.services import start, stop
from tasks.errors import PipelineError

REPO = Path(__file__).resolve().parent.parent
COMPOSE = REPO / "docker" / "compose.yaml"
LAKE = "ELCREC_LAKE__ROOT"
LOG_PORT = 8793  # Airflow's own; workers on one machine need one each
FIRST = "init"  # ends before the others start
PAUSE = 1.0  # seconds between two looks at the processes
BREATH = 15.0  # seconds from one start of a service to the next: without a database none lives long

VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:[-?])([^}]*))?\})")


@dataclass(frozen=True)
class Service:
    """What compose.yaml says of a service, its variables replaced."""

    command: list[str]
    environment: dict[str, str]


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` as compose does.

    Raises PipelineError with the message when a variable that must be there is not, or is empty.
    """

    def value(found: re.Match[str]) -> str:
        dollar, name, kind, rest = found.groups()
        if dollar:
            return "$"
        if not variables.get(name) and kind == ":?":
            raise PipelineError(f"{name} is not set in the environment: {rest}")
        return variables.get(name) or (rest if kind == ":-" else "")

    return VARIABLE.sub(value, text)


def services(
    variables: Mapping[str, str], files: Sequence[Path] = (COMPOSE,)
) -> dict[str, Service]:
    """Return the services that run this repository's image; a later file adds to those before."""
    found: dict[str, Any] = {}
    for file in files:
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            before = found.get(name, {})
            environment = before.get("environment", {}) | service.get("environment", {})
            found[name] = before | service | {"environment": environment}
    return {
        name: Service(
            [interpolated(word, variables) for word in service["command"]],
            {key: interpolated(str(v), variables) for key, v in service["environment"].items()},
        )
        for name, service in found.items()
        if "build" in service
    }


def local_environment(home: Path, name: str, port: int, service: Service) -> dict[str, str]:
    """Return what the image says in containers, for a process: its folders, and loopback."""
    own = home / name
    in_a_store = LAKE in service.environment
    folders = {"TMPDIR": str(own)} if in_a_store else {LAKE: os.environ.get(LAKE) or f"{home}/lake"}
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(REPO),
        "AIRFLOW_HOME": str(own),  # of its own: workers write a file with their process id
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str((own if in_a_store else home) / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        **folders,
    }


def run(home: Path, port: int, files: Sequence[Path]) -> None:
    """Run all services until a signal ends this process."""
    here = {"API_ADDRESS": f"127.0.0.1:{port}", "BASE_URL": f"http://127.0.0.1:{port}"}
    found = services({**os.environ, **here}, files)
    serve_logs = [name for name, one in found.items() if "worker" in one.command]
    running: dict[str, subprocess.Popen[bytes]] = {}
    since: dict[str, float] = {}
    (home / "logs").mkdir(parents=True, exist_ok=True)

    def started(name: str) -> subprocess.Popen[bytes]:
        (home / name).mkdir(exist_ok=True)
        service = found[name]
        local = local_environment(home, name, port, service)
        if name in serve_logs:
            log_port = LOG_PORT + serve_logs.index(name)
            local["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(log_port)
        env = {**os.environ, **service.environment, **local}
        return start(name, service.command, home, env)

    try:
        running[FIRST] = started(FIRST)
        if code := running[FIRST].wait():
            raise PipelineError(f"{FIRST} ended with code {code}: see {home}/logs/{FIRST}.log")
        del running[FIRST]
        others = [name for name in found if name != FIRST]
        while True:
            for name in others:
                if name in running:
                    if running[name].poll() is None or time.monotonic() < since[name] + BREATH:
                        continue
                    print(f"{name} ended with code {running[name].returncode}", flush=True)
                running[name], since[name] = started(name), time.monotonic()
                print(f"{name} started, process {running[name].pid}", flush=True)
            time.sleep(PAUSE)
    finally:
        stop(running)


def main(arguments: list[str] | None = None) -> int:
    """Run it; what a person can mend is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog=".venv/bin/python docker/processes.py")
    parser.add_argument("--home", type=Path, default=REPO / ".airflow" / "processes")
    parser.add_argument("--port", type=int, default=8080, help="of the web page")
    parser.add_argument("--file", type=Path, action="append", help="as of compose; compose.yaml")
    given = parser.parse_args(arguments)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _interrupt)
    try:
        run(given.home.absolute(), given.port, given.file or [COMPOSE])
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
