"""The note of a run on Airflow's web page: which night it works on, whoever started it."""

import datetime as dt
from typing import Any

from airflow.listeners import hookimpl
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import select
from sqlalchemy.orm import object_session

ON_SCHEDULE = ("scheduled", "backfill")


def note_of(dag_run: Any, session: Any) -> str | None:
    """Say what a run works on; None: it is no run of ours, or its night is not settled yet.

    session: of Airflow's database, to look for the night that the run has settled itself.
    """
    conf = dag_run.conf or {}
    if dag_run.dag_id == "relabel" and conf.get("version"):
        return f"Nights {conf.get('from')} to {conf.get('to')}, labelled by {conf['version']}"
    if dag_run.dag_id != "nightly_intents":
        return None
    if dag_run.run_type in ON_SCHEDULE and dag_run.data_interval_start:
        return f"Night {dag_run.data_interval_start.date()}"
    night = conf.get("night") or _settled(dag_run, session)
    return f"Night {night}" if night else None


def _settled(dag_run: Any, session: Any) -> str | None:
    """Return what the first task of the run has settled, if it has done so."""
    found = session.execute(
        select(XComModel.value).where(
            XComModel.dag_id == dag_run.dag_id,
            XComModel.run_id == dag_run.run_id,
            XComModel.task_id == "night",
            XComModel.key == "return_value",
        )
    ).first()
    night = XComModel.deserialize_value(found) if found else None
    return night if isinstance(night, str) and _is_date(night) else None


def _is_date(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def add_note(dag_run: Any) -> None:
    """Give a run its note, unless a person has written one."""
    if dag_run.note:
        return
    if note := note_of(dag_run, object_session(dag_run)):
        dag_run.note = note


class RunNotes:
    """Called by the scheduler when a run starts and ends, within its transaction."""

    @hookimpl
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:
        """Note the night where it is known from the start."""
        add_note(dag_run)

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """Note the night that the run has settled itself."""
        add_note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """Do the same of a run that failed."""
        add_note(dag_run)


class RunNotesPlugin(AirflowPlugin):
    """Makes the notes known to Airflow."""

    name = "run_notes"
    listeners = [RunNotes()]  # noqa: RUF012 - as Airflow declares it
