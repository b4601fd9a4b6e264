"""What all DAGs share: owner, retries, the asset of the labels, Airflow's connections."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, Connection
from airflow.sdk.exceptions import AirflowFailException

from dags.alerts import CALLBACKS
from tasks.connections import looked_up_by
from tasks.errors import PipelineError
from tasks.settings import load_settings

AIRFLOW = load_settings().airflow
LABELS = Asset("intent_labels", group="intents")


def announce(night: str, outlet_events: Any) -> None:
    """Tell those scheduled on labels that a night's are there: checked, and in every target."""
    outlet_events[LABELS].extra = {"night": night}
    outlet_events[LABELS].add_partitions(night)


@contextmanager
def in_airflow() -> Iterator[None]:
    """Give what runs within it Airflow's connections; what a person has to mend fails at once."""
    try:
        with looked_up_by(lambda name: str(Connection.get(name).get_uri())):
            yield
    except PipelineError as error:
        raise AirflowFailException(str(error)) from None


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "data-platform",
    "retries": AIRFLOW.retries,
    "retry_delay": timedelta(minutes=AIRFLOW.retry_delay_minutes),
    **CALLBACKS,
}
