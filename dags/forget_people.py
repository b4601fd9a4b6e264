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

from airflow.sdk import Param, dag, task

from dags.wiring import DEFAULT_ARGS, in_airflow
from tasks.settings import load_settings


@task(doc_md="Removes the people of the form from the lake and searches it for what is left.")
def forget(params: Any = None) -> dict[str, Any]:
    """Do what `python -m tasks forget` does."""
    from tasks.forget import forget as remove
    from tasks.forget import read_users

    with in_airflow():
        root = {"lake.root": params["lake.root"]} if params["lake.root"] else {}
        file = params["users_file"]
        return remove(
            load_settings(**root),
            [*(params["users"] or []), *(read_users(Path(file)) if file else [])],
        )


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "users": Param(
            None, "Ids as they stand in events, one a line.", title="Users", type=["null", "array"]
        ),
        "users_file": Param(
            None, "Text file with an id a line.", title="File of users", type=["null", "string"]
        ),
        "lake.root": Param(
            None,
            "Folder of the tables, not the settings' one.",
            title="Lake",
            type=["null", "string"],
        ),
    },
    tags=["intents", "people"],
    description="Remove people from every table of the lake",
    doc_md=__doc__,
)
def forget_people() -> None:
    """Wire the one task."""
    forget()


forget_people()
