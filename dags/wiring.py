"""What all DAGs share: owner, retries, the asset of the labels, Airflow's connections."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from airflow.sdk import Asset, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

from dags.alerts import CALLBACKS
from dags.failures import RETRIES, MendFirstError, TryAgainError, say_why
from tasks.connections import looked_up_by
from tasks.errors import NotReadyError, PipelineError
from tasks.settings import Settings, load_settings

AIRFLOW = load_settings().airflow
LABELS = Asset("intent_labels", group="intents")


def announce(night: str, outlet_events: Any, settings: Settings) -> None:
    """Tell those scheduled on labels that a night's are there: checked, and in every target.

    The event says what they are: users, model, whether it was promoted, and where to look.
    """
    from tasks.chores.report import outcome

    outlet_events[LABELS].extra = outcome(settings, date.fromisoformat(night))
    outlet_events[LABELS].add_partitions(night)


def connection_uri(name: str) -> str:
    """Return the URI of a connection of Airflow.

    Raises KeyError when no secrets backend has it, and what a backend raises that does not answer:
    Airflow goes on to the next one then, and ends with "isn't defined" for both.
    """
    try:
        return str(Connection.get(name).get_uri())
    except AirflowNotFoundException:
        for backend in ensure_secrets_backend_loaded():
            if found := backend.get_connection(conn_id=name):
                return str(found.get_uri())
        raise KeyError(name) from None


@contextmanager
def in_airflow() -> Iterator[None]:
    """Give what runs within it Airflow's connections, and fail as `dags.failures` says."""
    try:
        with looked_up_by(connection_uri):
            yield
    except PipelineError as error:
        raise MendFirstError(str(error)) from None
    except NotReadyError as error:
        raise TryAgainError(str(error)) from None


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "data-platform",
    "retries": AIRFLOW.retries,
    "retry_delay": timedelta(minutes=AIRFLOW.retry_delay_minutes),
    "retry_policy": RETRIES,
    **CALLBACKS,
    # Last of all, so that the log ends with it.
    "on_failure_callback": [*filter(None, [CALLBACKS.get("on_failure_callback")]), say_why],
    "on_retry_callback": [say_why],
}
