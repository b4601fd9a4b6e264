"""What all DAGs share: owner, retries, fields of the form, connections, who is told of what.

Alerts go where the settings' `alerts` say, by Airflow's own notifiers; addresses and passwords are
in Airflow connections. An alert that cannot be sent is logged and fails nothing.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, BaseNotifier, BaseSensorOperator, Connection, Context, Param
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_secret

from tasks.alerts import notice, of_summary
from tasks.connections import looked_up_by
from tasks.errors import PipelineError
from tasks.settings import Settings, load_settings

log = logging.getLogger(__name__)

SETTINGS = load_settings()
ALERTS = SETTINGS.alerts
TIMEOUT = 30  # seconds that a webhook may take


def field(title: str, kind: str, description: str, **schema: Any) -> Param:
    """Describe a field of the trigger form that may be left empty."""
    return Param(None, description, title=title, type=["null", kind], **schema)


LABELS = Asset("intent_labels", group="intents")
LAKE = {"lake.root": field("Lake", "string", "Folder of the tables, not the settings' one.")}


def settings_of(params: Mapping[str, Any]) -> Settings:
    """Load the settings with what the form changes: its fields with a dot that are not empty."""
    return load_settings(
        **{key: value for key, value in params.items() if "." in key and value not in (None, "")}
    )


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


def notifiers(fields: Mapping[str, str]) -> list[BaseNotifier]:
    """Make the notifiers that the settings name, for a notice of these fields.

    They render their templates; the notice is a variable in these, so nothing in it is rendered.
    """
    made: list[BaseNotifier] = []
    if ALERTS.webhook:
        from airflow.providers.http.notifications import HttpNotifier

        json = {name: f"{{{{ notice.{name} }}}}" for name in fields}
        made.append(
            HttpNotifier(http_conn_id=ALERTS.webhook, json=json, extra_options={"timeout": TIMEOUT})
        )
    if ALERTS.mail:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        rows = "".join(f"<p>{name}: {{{{ notice.{name} | e }}}}</p>" for name in fields)
        made.append(
            SmtpNotifier(
                to=list(ALERTS.mail_to),
                subject="{{ notice.subject }}",
                html_content=rows,
                smtp_conn_id=ALERTS.mail,
            )
        )
    return made


def tell(fields: Mapping[str, str]) -> None:
    """Send a notice to everybody; that it cannot be sent is logged."""
    for notifier in notifiers(fields):
        try:
            if hasattr(notifier, "http_conn_id"):
                mask(Connection.get(ALERTS.webhook))
            notifier({"notice": fields})
        except Exception as error:  # the next one may reach somebody
            log.error("an alert was not sent (%s)", type(error).__name__)


def mask(webhook: Any) -> None:
    """Keep a webhook's path out of logs: with many services it is the secret."""
    mask_secret(urlsplit(webhook.host or "").path.strip("/"))


def where(context: Any) -> dict[str, Any]:
    """Name the DAG, run, task and night of a task's context."""
    ti = context["ti"]
    given = getattr(context.get("task"), "op_args", None) or [None]
    night = given[0] if isinstance(given[0], str) else None
    return {"dag": ti.dag_id, "run": ti.run_id, "task": ti.task_id, "night": night}


def task_failed(context: Any) -> None:
    """Tell of a task that has failed for good, with its own sentence."""
    error = context.get("exception")
    text = str(error) if error else "it left no message, its process may have been killed"
    tell(notice("task_failed", text, **where(context)))


def task_done(context: Any) -> None:
    """Tell of what is amiss in a task that succeeded."""
    ti = context["ti"]
    summary = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
    for fields in of_summary(summary, **where(context)):
        tell(fields)


async def night_late(context: Any) -> None:
    """Tell of a night that is not done by its deadline; runs in the triggerer.

    Only a scheduled night is: of others the deadline was over before they were asked for.
    """
    run, due = context["dag_run"], context["deadline"]["deadline_time"]
    if run["run_type"] != "scheduled":
        return
    fields = notice(
        "night_late",
        f"it was to be done by {due} and is {run['state']}",
        dag=run["dag_id"],
        run=run["dag_run_id"],
        night=str(run["logical_date"])[:10],
    )
    for notifier in notifiers(fields):
        try:
            if hasattr(notifier, "http_conn_id"):
                mask(await Connection.async_get(ALERTS.webhook))
            notifier.context = {"notice": fields}  # type: ignore[typeddict-unknown-key]
            await notifier
        except Exception as error:
            log.error("an alert was not sent (%s)", type(error).__name__)


class InTurn(BaseSensorOperator):
    """Wait until the run before this one, by date, is over.

    Airflow starts ten runs of a backfill at once, unless it is told otherwise.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(poke_interval=60, mode="reschedule", **more)

    def poke(self, context: Context) -> bool:
        """Tell whether it is over."""
        return is_in_turn(context["ti"], context["dag_run"])


def is_in_turn(ti: Any, dag_run: Any) -> bool:
    """Tell whether a run of this type may begin, by the run before it.

    Raises AirflowFailException in a backfill that begins with its last night.
    """
    before = ti.get_previous_dagrun()
    if before is None or before.state not in ("queued", "running"):
        return True
    if before.state == "running":
        return False
    if before.run_type != "backfill":
        return True  # it may be waiting for this one
    if dag_run.run_type == "backfill":
        raise AirflowFailException(
            f"the night before, run {before.run_id}, has not begun: nights go on from each other, "
            "create the backfill without --run-backwards"
        )
    return False


DEFAULT_ARGS: dict[str, Any] = {
    "owner": "data-platform",
    "retries": SETTINGS.airflow.retries,
    "retry_delay": timedelta(minutes=SETTINGS.airflow.retry_delay_minutes),
}
if ALERTS.webhook or ALERTS.mail:
    DEFAULT_ARGS |= {"on_failure_callback": task_failed, "on_success_callback": task_done}


def deadline() -> DeadlineAlert | None:
    """Return when a night is late: so long after its run was due, a day after its logical date."""
    if not ALERTS.late_minutes or not (ALERTS.webhook or ALERTS.mail):
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(days=1, minutes=ALERTS.late_minutes),
        callback=AsyncCallback(night_late),
    )
