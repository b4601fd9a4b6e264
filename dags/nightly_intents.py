"""# Nightly intents

Turns the event log into **one intent label a user** (`intent_labels`) and profiles each intent
(`intent_profiles`). A run works on one **night**, a UTC date; nothing later is read.

* **A scheduled run** takes the night that has just ended: the start of its data interval.
* **By hand:** click *Trigger*. An empty night means the newest night that is over and that the
  source has. Any other empty field keeps the value of the settings.
* **To run it again,** clear the tasks: each replaces what it wrote for the night. The run keeps
  its night.
* **When a task fails,** its log ends with a sentence: what is wrong, where, what to do. A fault
  that a person must mend (bad input, bad settings) fails at once. Other errors are tried again.
* **Training** logs every epoch: losses, validation metrics, time left.
* **Settings** are in `settings.toml`, and environment variables: `ELCREC_MODEL__SEED`.
"""

from datetime import UTC, date, datetime
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, TaskGroup, chain, dag, task

from dags.alerts import deadline
from dags.form import LAKE, field, filled_in, settings_of
from dags.nights import settle_night
from dags.placement import placed
from dags.sensor import InTurn
from dags.wiring import DEFAULT_ARGS, LABELS, announce, in_airflow
from tasks.settings import load_settings
from tasks.steps import AFTER_LABEL, STEPS, run_step

AIRFLOW = load_settings().airflow
NIGHT = "{{ ti.xcom_pull(task_ids='night') }}"  # what the task of that name has settled
GROUPS = {
    "events": ("New events come in", ["ingest", "check-events"]),
    "sequences": ("Each user's history is built", ["build-sequences", "check-sequences"]),
    "model": ("ELCRec is trained, judged, promoted", ["train", "evaluate", "promote"]),
    "labels": ("Users get labels and items", ["label", "recommend", "check-labels", "publish"]),
}
FIELDS = {  # a name with a dot is a setting, changed for this run only when the field is not empty
    "night": field("Night", "string", "UTC date. Empty: newest in the source.", format="date"),
    "source.path": field("Source", "string", "Event file, folder, glob or s3:// URL."),
    "catalogue.path": field("Items", "string", "Catalogue: file, folder, glob or s3:// URL."),
    **LAKE,
    "model.n_intents": field("Intents", "integer", "Number of intents. 0: from users.", minimum=0),
    "model.max_epochs": field("Epochs", "integer", "Largest number of epochs.", minimum=1),
    "model.from_scratch": field("From scratch", "boolean", "Do not continue from a model."),
    "promote.force": field("Force promotion", "boolean", "Use this model even if refused."),
    "promote.version": field("Roll back to", "string", "A model_version from `models`."),
    "recommend.top_k": field("Items for each user", "integer", "To recommend. 0: none.", minimum=0),
}


@task(doc_md="Settles the night of the run, once: later events do not change it.")
def night(**context: Any) -> str:
    """Return the run's night; every other task takes it from here."""
    with in_airflow():
        return settle_night(context)


def step(name: str) -> Any:
    """Make the task that runs one step on the run's night."""

    def run(night: str, params: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        with in_airflow():
            settings = settings_of(params)
            summary = run_step(name, settings, date.fromisoformat(night))
            if name == AFTER_LABEL[-1]:
                announce(night, outlet_events, settings)
        return summary

    outlets = [LABELS] if name == AFTER_LABEL[-1] else []
    about = {"doc_md": STEPS[name].doc, "outlets": outlets} | placed(name, AIRFLOW)
    return task(task_id=name.replace("-", "_"), **about)(run)(NIGHT)


@dag(
    schedule=CronDataIntervalTimetable(AIRFLOW.schedule, "UTC") if AIRFLOW.schedule else None,
    start_date=datetime(1970, 1, 1, tzinfo=UTC),  # before any night a backfill may ask for
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    deadline=deadline(),
    params=filled_in(FIELDS),
    tags=["intents", "nightly"],
    description="Event log in, one intent label a user out",
    doc_md=__doc__,
)
def nightly_intents() -> None:
    """Wire the steps, one after the other."""
    waits = "Waits until the run of the night before is over: nights go on from each other."
    steps: list[Any] = [night(), InTurn(task_id="in_turn", doc_md=waits)]
    for group, (does, names) in GROUPS.items():
        with TaskGroup(group, prefix_group_id=False, tooltip=does):
            steps += [step(name) for name in names]
    chain(*steps)


nightly_intents()
