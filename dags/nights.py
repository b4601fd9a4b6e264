"""Which night a run works on."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from dags.form import settings_of
from tasks.steps import check_night

ON_SCHEDULE = ("scheduled", "backfill")
SETTLED = "night"  # the key under which it is kept, with the run


def settle_night(context: Mapping[str, Any]) -> str:
    """Return the night of a run as YYYY-MM-DD, the same however often its tasks run.

    A scheduled run and one of a backfill take the night of their data interval, whatever the events
    are, so that an outage of the source is seen. A run by hand takes the night of the form; where
    that is empty the newest night that is over and that the source has, which later events change:
    it is kept in the task's state store, which clearing the task leaves as it is.

    Raises PipelineError when the night of the form is not over, when the source has none that is
    over, and when the source cannot be read.
    """
    from tasks.night.ingest import latest_night

    if context["dag_run"].run_type in ON_SCHEDULE:
        start: datetime = context["data_interval_start"]
        return start.date().isoformat()
    params, kept = context["params"], context["task_state_store"]
    if params["night"]:
        check_night(date.fromisoformat(params["night"]))
        return str(params["night"])
    night = kept.get(SETTLED)
    if night is None:
        night = latest_night(settings_of(params)).isoformat()
        kept.set(SETTLED, night, retention=NEVER_EXPIRE)
    return str(night)
