"""# Refresh

Runs **what is stale** of the nights in the lake, the oldest night first: steps that would read
something else now than they read when they ran. The source is not read. Nights whose labels come
out differently are published, and update the asset `intent_labels`, each with its date.

* **Look first:** *Trigger* with *Dry run*, or `.venv/bin/python -m tasks stale`. The
  result of the task `run_stale` lists the stale nights and why.
* **It takes long** when a night trains again: as long as the nights that it runs.
* **Again:** after a failure, correct what the sentence names and clear the task `run_stale`. It
  goes on with the night that failed. What is up to date is not run again.
"""

from datetime import date
from typing import Any

from airflow.sdk import Param, dag, task

from dags.form import LAKE, field, settings_of
from dags.wiring import DEFAULT_ARGS, LABELS, announce, in_airflow


@task(doc_md="Runs the stale steps of the nights, in order; returns which, and why.")
def run_stale(params: Any = None) -> dict[str, Any]:
    """Do what `python -m tasks refresh` does; dry, what `python -m tasks stale` does."""
    from tasks.chores import stale

    with in_airflow():
        settings = settings_of(params)
        if params["dry_run"]:
            return {"dry_run": True, "stale": stale.lines(settings)}
        last = date.fromisoformat(params["to"]) if params["to"] else None
        return stale.refresh(settings, last=last, not_known=params["not_known"])


@task(doc_md="Lists the nights whose labels this run has changed.")
def changed_nights(params: Any = None) -> list[str]:
    """List them by the revisions of this run: also those of a try that failed later on."""
    from tasks.lake import Lake
    from tasks.registry.revisions import nights_of_run

    with in_airflow():
        lake = Lake.of(settings_of(params))
        return [night.isoformat() for night in nights_of_run(lake)]


@task(outlets=[LABELS], doc_md="Updates the asset `intent_labels` for one night.")
def tell(night: str, params: Any = None, outlet_events: Any = None) -> None:
    """Tell those scheduled on labels that a night has new ones."""
    with in_airflow():
        announce(night, outlet_events, settings_of(params))


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "dry_run": Param(
            False, "List what is stale, and run nothing.", title="Dry run", type="boolean"
        ),
        "to": field("To", "string", "Last night to look at. Empty: all nights.", format="date"),
        "not_known": Param(
            False, "Also nights of which nothing is recorded.", title="Not known", type="boolean"
        ),
        **LAKE,
    },
    tags=["intents", "labels"],
    description="Run the stale nights again, the oldest first",
    doc_md=__doc__,
)
def refresh() -> None:
    """Wire what is run, what has changed by it, and who is told."""
    nights = changed_nights()
    run_stale() >> nights
    tell.expand(night=nights)


refresh()
