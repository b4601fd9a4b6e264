"""Airflow's services as processes of this machine: their environment, start and end.

All that Airflow keeps is in `.airflow/` of the checkout; a lock file sees to it that one Airflow
at a time runs there.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from local.client import Airflow
from local.keys import USER, password, password_file, token_key
from tasks.errors import PipelineError
from tasks.settings import REPO

READY_WITHIN = 600  # seconds an API server may take to answer on a very busy machine


def environment(home: Path, port: int, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of all Airflow processes: loopback, SQLite, nothing sent out."""
    url = f"http://127.0.0.1:{port}"
    # Airflow works in its own folder: a relative path would name another file there.
    own = os.environ.get("ELCREC_SETTINGS")
    return {
        **os.environ,
        **({"ELCREC_SETTINGS": str(Path(own).absolute())} if own else {}),
        **{
            f"ELCREC_{key.replace('.', '__').upper()}": str(value)
            for key, value in settings.items()
        },
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(REPO),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # On a very busy machine the imports of a DAG file take longer than Airflow's 30 and 50 s.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": str(READY_WITHIN),
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": str(READY_WITHIN),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file(home)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API_AUTH__JWT_SECRET": token_key(home),
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
            preexec_fn=end_with_parent,
        )


def end_with_parent() -> None:
    """Let this process be terminated when the thread that started it ends, however that ends.

    It is to be called between fork and exec. On Linux only: elsewhere a killed parent leaves its
    services to be stopped by hand.
    """
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
        f"Airflow's web server did not answer within {READY_WITHIN} s: run it again when the "
        f"machine is less busy, or see {running.home / 'logs' / 'api-server.log'}"
    )


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
