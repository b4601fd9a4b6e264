"""# Name an intent

Gives an intent a **name and a description** of a person's own. They count before the automatic
name, in reports at once and in the tables from the next night on, until a person changes them.

* **Run it** with *Trigger*: the intent's id, the name, and what the intent is about.
* **To take a name back,** leave the name empty: the automatic one counts again.
* **When the intent becomes another one** than it was when it was named, a night warns.
* **What was given before** stays in the table `given_names`, with who gave it and when.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from dags.form import LAKE, field, settings_of
from dags.wiring import DEFAULT_ARGS, in_airflow


@task(doc_md="Adds the name of the form to the table `given_names`.")
def name(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
    """Do what `python -m tasks name` does, by default in the name of who has triggered the run."""
    from tasks.chores.naming import name as give

    by = params["by"] or getattr(dag_run, "triggering_user_name", None)
    told = {"description": params["description"], "by": by}
    with in_airflow():
        return give(settings_of(params), params["intent"], params["name"] or "", **told)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "intent": Param(None, "An intent_id.", title="Intent", type="integer", minimum=0),
        "name": field("Name", "string", "Empty: take the name back.", maxLength=60),
        "description": field("Description", "string", "What the intent is about."),
        "by": field("By", "string", "Who names it. Empty: who triggers this run."),
        **LAKE,
    },
    tags=["intents", "names"],
    description="Give an intent a name and a description",
    doc_md=__doc__,
)
def name_intent() -> None:
    """Wire the one task."""
    name()


name_intent()
