"""Airflow's public REST API, as a person would use it."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.keys import USER, password
from tasks.errors import PipelineError

DAG_ID = "nightly_intents"
TRIES = 5  # of a question that the API server leaves unanswered
PAUSE = 1.0  # seconds between two of them


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
