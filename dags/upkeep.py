"""# Upkeep

Takes out of the lake what the settings under `retention` do not keep: nights of tables, weights of
models, pages of checks, what killed trainings left, files of old versions of tables. What a
promoted model stands on and what was worked on lately stays. It waits for steps that run.

* **Look first:** *Trigger* with *Dry run*, or `python -m tasks upkeep --dry-run`. The task's result
  lists what goes.
* **Schedule:** `airflow.upkeep_schedule`, weekly unless set.
* **Again:** there is no harm in it; after a crash, clear the task.
"""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Param, dag, task

from dags.form import LAKE, settings_of
from dags.wiring import DEFAULT_ARGS, in_airflow
from tasks.settings import load_settings

AIRFLOW = load_settings().airflow


@task(doc_md="Takes out what the settings under `retention` do not keep; returns what that is.")
def take_out(params: Any = None) -> dict[str, Any]:
    """Do what `python -m tasks upkeep` does."""
    from tasks.chores.upkeep import upkeep as run

    with in_airflow():
        return run(settings_of(params), dry_run=params["dry_run"])


@dag(
    # Where nights are run by hand only, so is this.
    schedule=(AIRFLOW.upkeep_schedule if AIRFLOW.schedule else "") or None,
    start_date=datetime(1970, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "dry_run": Param(
            False, "List what would go, and leave it.", title="Dry run", type="boolean"
        ),
        **LAKE,
    },
    tags=["intents", "upkeep"],
    description="Take out of the lake what is too old to be needed",
    doc_md=__doc__,
)
def upkeep() -> None:
    """Wire the one task."""
    take_out()


upkeep()
