"""# Relabel

Labels a range of **past nights with one model** that is named, side by side and without training:
`intent_labels`, `label_evidence` and `intent_profiles` of these nights are replaced, checked and
handed on.

* **Run it** with *Trigger*. What cannot be fails the first task, and nothing has changed.
* **The labels are the model's own,** not held against those of the night before.
* **To undo it,** backfill the nights. After a failure, clear its task; the others stay.
"""

from datetime import date
from typing import Any

from airflow.sdk import Param, chain, dag, task, task_group

from dags.form import LAKE, settings_of
from dags.wiring import DEFAULT_ARGS, LABELS, announce, in_airflow
from tasks.settings import load_settings
from tasks.steps import AFTER_LABEL, STEPS, run_step

AIRFLOW = load_settings().airflow
PARAMS = {
    "from": Param(None, "The first night, a UTC date.", title="From", type="string", format="date"),
    "to": Param(None, "The last night, included.", title="To", type="string", format="date"),
    "version": Param(None, "A model_version of models.", title="Model", type="string"),
    "other_settings": Param(False, "Also one of other settings.", type="boolean"),
    **LAKE,
}


@task(doc_md="Holds the form against the lake, before anything is written, and lists the nights.")
def choose_nights(params: Any = None) -> list[str]:
    """List the nights of the range."""
    from tasks.chores.relabel import nights_to_relabel

    first, last = (date.fromisoformat(params[end]) for end in ("from", "to"))
    others = {"other_settings": params["other_settings"]}
    with in_airflow():
        nights = nights_to_relabel(settings_of(params), first, last, params["version"], **others)
    return [night.isoformat() for night in nights]


def step(name: str, night: Any) -> Any:
    """Make the task of one step of a night; `label` takes the model that the form names."""

    def run(night: str, params: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        from tasks.chores.relabel import relabel_night, sharing_cores

        with in_airflow():
            which = settings_of(params), date.fromisoformat(night)
            if name == "label":
                return relabel_night(*which, params["version"], at_once=AIRFLOW.relabel_at_once)
            shared = sharing_cores(which[0], AIRFLOW.relabel_at_once)  # recommend runs the model
            summary = run_step(name, shared, which[1])
            if name == AFTER_LABEL[-1]:
                announce(night, outlet_events, which[0])
        return summary

    outlets = [LABELS] if name == AFTER_LABEL[-1] else []
    limits: dict[str, Any] = {"outlets": outlets, "max_active_tis_per_dag": AIRFLOW.relabel_at_once}
    return task(task_id=name.replace("-", "_"), doc_md=STEPS[name].doc, **limits)(run)(night)


@task_group(tooltip="Labels of a night are replaced, checked and handed on")
def one_night(night: str) -> None:
    """Wire what one night goes through."""
    chain(*[step(name, night) for name in ("label", *AFTER_LABEL)])


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["intents", "labels"],
    description="Label past nights with one named model",
    doc_md=__doc__,
)
def relabel() -> None:
    """Wire the choice of nights and, for each, its steps."""
    one_night.expand(night=choose_nights())


relabel()
