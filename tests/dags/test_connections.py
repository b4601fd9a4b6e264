"""Connections of Airflow: one that is not there, and one that cannot be looked up now."""

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.definitions.connection import Connection

from dags.failures import MendFirstError, TryAgainError
from tasks.connections import postgres_uri

URI = "postgresql://me@db/log"


class Backend:
    """A secrets backend that answers with what it is given, or raises it."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def get_connection(self, conn_id: str) -> Connection | None:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Connection.from_uri(answer, conn_id=conn_id) if answer else None


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Look a connection up as a task does, with these secrets backends."""

    def look_up(*backends: Backend) -> str:
        from dags import wiring

        supervisor = "airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded"
        monkeypatch.setattr(supervisor, lambda: list(backends))
        monkeypatch.setattr(wiring, "ensure_secrets_backend_loaded", lambda: list(backends))
        with wiring.in_airflow():
            return postgres_uri("events_db")

    return look_up


def test_a_connection_that_no_backend_has_fails_at_once(lookup: Callable[..., str]) -> None:
    with pytest.raises(MendFirstError, match="there is no connection events_db"):
        lookup(Backend(None), Backend(None))


def test_a_backend_that_is_away_for_a_moment_is_asked_again(lookup: Callable[..., str]) -> None:
    away = ConnectionError("no route to the vault, token s3cret")
    with pytest.raises(TryAgainError, match="events_db could not be looked up") as told:
        lookup(Backend(away), Backend(None))
    assert "s3cret" not in str(told.value)
    assert lookup(Backend(away, None), Backend(URI)).startswith(URI)
    assert lookup(Backend(away, URI), Backend(None)).startswith(URI)
