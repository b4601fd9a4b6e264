"""# Forget people

Removes people from **every table of the lake** (events, histories, labels, quarantine), from what
the checks found, from the old versions of these tables, and from what is published of them by the
settings. A search then shows that nothing names them, or the task fails. From then on `ingest`
leaves their events out.

* **Run it** with *Trigger*: the ids, or a file with one id a line. It waits for steps that run.
* **Its result** are figures for each table, without ids: rows removed, files deleted, rows left.
* **Airflow keeps the form of a run** in its database: give ids in a file, and delete it afterwards,
  where they must not stay there.
* **Again:** forgetting twice does no harm; after a crash, clear the task.
"""

from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from dags.form import LAKE, field, settings_of
from dags.wiring import DEFAULT_ARGS, in_airflow


@task(doc_md="Removes the people of the form from the lake and searches it for what is left.")
def forget(params: Any = None) -> dict[str, Any]:
    """Do what `python -m tasks forget` does."""
    from tasks.chores.forget import forget as remove
    from tasks.chores.forget import read_users

    with in_airflow():
        file = params["users_file"]
        users = [*(params["users"] or []), *(read_users(Path(file)) if file else [])]
        return remove(settings_of(params), users)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "users": field(
            "Users", "array", "Ids as they stand in events, one a line.", items={"type": "string"}
        ),
        "users_file": field("File of users", "string", "Text file with an id a line."),
        **LAKE,
    },
    tags=["intents", "people"],
    description="Remove people from every table of the lake",
    doc_md=__doc__,
)
def forget_people() -> None:
    """Wire the one task."""
    forget()


forget_people()
