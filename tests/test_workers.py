"""A night through the deployment's own processes, one of whose workers is killed.

With the lake in a folder that they share, and in a store without a folder in common.
"""

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from local.generator import generate
from local.services import start, stop
from tasks.lake import TRAINING, Lake, tables
from tests.needs import needs
from tests.places import Place, bucket, put, store  # noqa: F401 - a fixture
from tests.servers import free_port, postgres_server, redis
from tests.test_deployment import module

REPO = Path(__file__).resolve().parent.parent
NIGHT = dt.date(2026, 11, 20)
USERS, EPOCHS = 600, 12
PATIENCE = 240  # seconds that anything may take on a busy machine
RUN = f"/api/v2/dags/nightly_intents/dagRuns/night-{NIGHT}"

# What is slow or patient in a real deployment.
QUICK = {
    "HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "ELCREC_AIRFLOW__RETRY_DELAY_MINUTES": "0.02",
    "ELCREC_AIRFLOW__SCHEDULE": "",
    "ELCREC_DUCKDB__THREADS": "1",
    "ELCREC_MODEL__DEVICE": "cpu",
    "ELCREC_MODEL__MAX_EPOCHS": str(EPOCHS),
    "ELCREC_MODEL__MAX_LENGTH": "20",
    "ELCREC_MODEL__N_INTENTS": "4",
    "ELCREC_MODEL__OVERRIDES": '{"dim": 32, "layers": 1}',
    "ELCREC_MODEL__PATIENCE": str(EPOCHS),
    "ELCREC_MODEL__THREADS": "1",
    "ELCREC_PROMOTE__FORCE": "true",
}


@dataclass
class Deployment:
    """The running processes of compose.yaml."""

    home: Path
    client: httpx.Client
    process: subprocess.Popen[bytes]

    def until(self, what: str, found: Callable[[], Any], every: float = 0.5) -> None:
        """Wait until something is there; look every so many seconds."""
        end = time.monotonic() + PATIENCE
        while not found():
            assert self.process.poll() is None, f"the deployment ended: {self.said()}"
            assert time.monotonic() < end, f"no {what} within {PATIENCE} s: {self.said()}"
            time.sleep(every)

    def said(self) -> str:
        """Return what the deployment and its tasks have logged last."""
        logs = sorted(self.home.rglob("*.log"), key=lambda log: log.stat().st_mtime)
        return "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in logs)

    def started(self, service: str) -> list[int]:
        """Return the process ids that a service has had."""
        log = (self.home / "logs" / "deployment.log").read_text()
        return [int(found) for found in re.findall(f"^{service} started, process (.*)", log, re.M)]

    def get(self, path: str) -> dict[str, Any]:
        """Ask the REST API; nothing when it does not answer, or not with success."""
        try:
            reply = self.client.get(path)
        except httpx.TransportError:
            return {}
        return dict(reply.json()) if reply.is_success else {}

    def tell(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change something by the REST API."""
        reply = self.client.request(method, path, json=body)
        assert reply.is_success, reply.text
        return dict(reply.json())

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the tasks of the run by their names."""
        found = self.get(f"{RUN}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task for task in found}


@needs("airflow")
@contextmanager
def deployed(folder: Path, files: list[str], settings: dict[str, str]) -> Iterator[Deployment]:
    """Run docker/processes.py on servers and secrets of its own, with somebody logged in."""
    secrets = module("new_env").fresh_secrets()
    home, port = folder / "home", free_port()
    (home / "logs").mkdir(parents=True)
    with (
        postgres_server(secrets["POSTGRES_PASSWORD"]) as postgres,
        redis(secrets["REDIS_PASSWORD"]) as broker,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        servers = {
            "POSTGRES_USER": "test",
            "POSTGRES_DB": "postgres",
            "POSTGRES_ADDRESS": f"127.0.0.1:{postgres.port}",
            "REDIS_ADDRESS": broker,
            **settings,
        }
        ours = [str(REPO / "docker" / "processes.py"), "--home", str(home), "--port", str(port)]
        ours += [f"--file={REPO / 'docker' / name}" for name in files]
        environment = {**os.environ, "PYTHONPATH": str(REPO), **secrets, **servers, **QUICK}
        process = start("deployment", [sys.executable, *ours], home, environment)
        try:
            deployment = Deployment(home, client, process)
            deployment.until("page", lambda: deployment.get("/api/v2/version"))
            admin = {"username": "admin", "password": secrets["ADMIN_PASSWORD"]}
            token = deployment.tell("POST", "/auth/token", admin)["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            yield deployment
            everybody = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            assert process.wait(60) == 0
            assert [one for one in everybody if lives(one)] == []
        finally:
            stop({"deployment": process})


def kill(worker: int) -> None:
    """Take a worker and all that it started away at once, as a machine that is switched off."""
    family = [psutil.Process(worker), *psutil.Process(worker).children(recursive=True)]
    for signal_ in (signal.SIGSTOP, signal.SIGKILL):  # nobody is to see another one die
        for member in family:
            member.send_signal(signal_)


def lives(process: psutil.Process) -> bool:
    """Tell whether a process is there and not only waits for somebody to ask how it ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def epoch(lake: Place) -> int:
    """Return the epoch that the checkpoint of a training is of, 0 without one."""
    storage = Lake(lake).storage
    for file in storage.files(TRAINING):
        if file.path.endswith("/training.json"):
            return int(json.loads(storage.read(file.path))["epoch"])
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("arrangement", ["folder", "store"])
def test_a_night_goes_through_the_workers_though_the_training_s_is_killed(
    arrangement: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = generate(
        tmp_path, users=USERS, items=100, intents=4, nights=10, last_night=NIGHT, seed=4
    )
    with ExitStack() as stack:
        lake: Place = tmp_path / "home" / "lake"
        files = ["compose.yaml"]
        settings = dict.fromkeys(("EVENTS", "SOURCE"), str(made.events))
        if arrangement == "store":
            url = stack.enter_context(bucket(request.getfixturevalue("store")))
            put(made.events, f"{url}/events")
            lake = f"{url}/lake"
            files.append("compose.store.yaml")
            settings = {"EVENTS": "none", "SOURCE": f"{url}/events/", "LAKE": lake}
        deployment = stack.enter_context(deployed(tmp_path, files, settings))
        deployment.until("DAG", lambda: deployment.get("/api/v2/dags/nightly_intents"))
        deployment.tell("PATCH", "/api/v2/dags/nightly_intents", {"is_paused": False})
        run = {"dag_run_id": RUN.rpartition("/")[2], "logical_date": None}
        deployment.tell("POST", RUN.rpartition("/")[0], run | {"conf": {"night": str(NIGHT)}})

        # Of the seconds that the training still takes, an instant is enough for the kill.
        deployment.until("checkpoint", lambda: epoch(lake), every=0.02)
        (worker,) = deployment.started("worker-training")
        kill(worker)
        killed_after = epoch(lake)
        assert 1 <= killed_after < EPOCHS, "the training was in its middle"
        deployment.until("new worker", lambda: len(deployment.started("worker-training")) > 1)
        over = ("success", "failed")
        deployment.until("end", lambda: deployment.get(RUN).get("state") in over)

        tasks = deployment.tasks()
        assert {task["state"] for task in tasks.values()} == {"success"}, deployment.said()
        queues = {name: task["queue"] for name, task in tasks.items()}
        assert queues == dict.fromkeys(tasks, "default") | {"train": "training"}
        assert tasks["train"]["try_number"] == 2
        (log,) = deployment.home.rglob("task_id=train/attempt=2.log")
        assert (
            f"training goes on after epoch {killed_after}, from its checkpoint" in log.read_text()
        )
        epochs = [int(found) for found in re.findall(r"epoch (\d+)/", log.read_text())]
        assert epochs == [*range(killed_after + 1, EPOCHS + 1)]
        shared = [name for name in ("lake", "tmp") if (deployment.home / name).exists()]
        assert shared == (["lake"] if arrangement == "folder" else [])
        labels = Lake(lake).scan(tables.INTENT_LABELS).collect()
    assert labels["dt"].unique().to_list() == [NIGHT] and len(labels) == USERS
