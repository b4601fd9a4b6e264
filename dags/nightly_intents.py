"""# Nightly intents

Turns the event log into **one intent label a user** (table `intent_labels`) and says what each intent is about
(`intent_profiles`). A run works on one **night**, a UTC date, and reads nothing that happened after it.

* **A scheduled run** takes the night that has just ended: the start of its data interval.
* **By hand:** *Trigger*; give a night and a source if you like. Empty fields mean "as in the settings".
* **Again:** each task replaces the night's partitions whole, so clearing and running a task again is always safe.
* **When a task fails,** its log ends with one sentence: what is wrong, where, what to do. Faults that trying again
  cannot mend (bad input, bad settings) fail at once; everything else is tried again.
* **Training** logs every epoch: losses, validation metrics, time left.
* **Settings** are in `settings.toml`; each is an environment variable too (`ELCREC_MODEL__SEED` is `model.seed`).
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, Param, chain, dag, task, TaskGroup
from airflow.sdk.exceptions import AirflowFailException

from tasks.errors import PipelineError
from tasks.settings import load_settings
from tasks.steps import STEPS, run_step

AIRFLOW = load_settings().airflow
# A run triggered without a logical date has no data interval: then it is the day before the run, as in a scheduled one.
NIGHT = (
    "{{ params.night or (data_interval_start | ds if data_interval_start is defined"
    " else macros.ds_add(dag_run.run_after | ds, -1)) }}"
)
GROUPS = {
    "events": ("New events come into the lake and are checked", ["ingest", "check-events"]),
    "sequences": ("Each user's history is built and checked", ["build-sequences", "check-sequences"]),
    "model": ("ELCRec is trained, judged, and promoted or not", ["train", "evaluate", "promote"]),
    "labels": ("Every user is labelled, every intent profiled, both checked", ["label", "check-labels"]),
}
OUTLETS = {"check-labels": Asset("intent_labels", group="intents")}
TEXT, NUMBER = ["null", "string"], ["null", "integer"]
PARAMS = {  # A key with a dot is a setting: given here, it holds for this run only.
    "night": Param(None, "UTC date. Empty: the night that has just ended.", type=TEXT, format="date", title="Night"),
    "source.path": Param(None, "Event file, folder or glob. Empty: as in the settings.", type=TEXT, title="Source"),
    "lake.root": Param(None, "Folder of the tables. Empty: as in the settings.", type=TEXT, title="Lake"),
    "model.n_intents": Param(
        None, "0: from the number of users. Empty: as in the settings.", type=NUMBER, minimum=0, title="Intents"
    ),
    "model.max_epochs": Param(
        None, "Longest training. Empty: as in the settings.", type=NUMBER, minimum=1, title="Epochs"
    ),
    "promote.force": Param(
        None, "A person's word: promote although the rules refuse.", type=["null", "boolean"], title="Force promotion"
    ),
}


def step(name: str) -> Any:
    """One task: the step of that name, on the run's night, with the settings that the run's params change."""

    def run(night: str, params: dict[str, Any] | None = None, outlet_events: Any = None) -> dict[str, Any]:
        changed = {key: value for key, value in (params or {}).items() if "." in key and value is not None}
        try:
            summary = run_step(name, load_settings(**changed), date.fromisoformat(night))
        except PipelineError as error:
            raise AirflowFailException(str(error)) from None
        if name in OUTLETS:
            outlet_events[OUTLETS[name]].extra = {"night": night}
            outlet_events[OUTLETS[name]].add_partitions(night)
        return summary

    outlets = [OUTLETS[name]] if name in OUTLETS else []
    return task(task_id=name.replace("-", "_"), doc_md=STEPS[name].does, outlets=outlets)(run)(NIGHT)


@dag(
    schedule=CronDataIntervalTimetable(AIRFLOW.schedule, timezone="UTC") if AIRFLOW.schedule else None,
    start_date=datetime(1970, 1, 1, tzinfo=UTC),  # any night may be backfilled; with catch-up off none is by itself
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "data-platform",
        "retries": AIRFLOW.retries,
        "retry_delay": timedelta(minutes=AIRFLOW.retry_delay_minutes),
    },
    params=PARAMS,
    tags=["intents", "nightly"],
    description="Event log in, one intent label a user out",
    doc_md=__doc__,
)
def nightly_intents() -> None:
    """Wire the steps: one after the other, in groups."""
    steps = []
    for group, (does, names) in GROUPS.items():
        with TaskGroup(group, prefix_group_id=False, tooltip=does):
            steps += [step(name) for name in names]
    chain(*steps)


nightly_intents()
