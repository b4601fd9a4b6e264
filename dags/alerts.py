"""Who is told of what: failures, late nights, refused models, warnings.

Alerts go where the settings' `alerts` say, by Airflow's own notifiers; addresses and passwords are
in Airflow connections. An alert that cannot be sent is logged and fails nothing.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseNotifier, Connection
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.log import mask_secret

from dags.notices import notice, of_summary
from tasks.settings import load_settings

log = logging.getLogger(__name__)


ALERTS = load_settings().alerts
TIMEOUT = 30  # seconds that a webhook may take


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


def deadline() -> DeadlineAlert | None:
    """Return when a night is late: so long after its run was due, a day after its logical date."""
    if not ALERTS.late_minutes or not (ALERTS.webhook or ALERTS.mail):
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(days=1, minutes=ALERTS.late_minutes),
        callback=AsyncCallback(night_late),
    )


# Arguments of every task.
CALLBACKS: dict[str, Any] = (
    {"on_failure_callback": task_failed, "on_success_callback": task_done}
    if ALERTS.webhook or ALERTS.mail
    else {}
)
