"""A run says which night it works on, whoever started it."""

import datetime as dt
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PLUGIN = runpy.run_path(str(REPO / "plugins" / "run_notes.py"))
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def run(**values: Any) -> SimpleNamespace:
    of_a_person = {"run_type": "manual", "data_interval_start": None, "conf": {}, "note": None}
    return SimpleNamespace(**{"dag_id": "nightly_intents", "run_id": "r"} | of_a_person | values)


class Session:
    """Airflow's database, in which one run has settled its night."""

    def execute(self, query: Any) -> Any:
        asked = query.compile().params.values()
        assert {"nightly_intents", "night", "return_value"} < set(asked)
        found = SimpleNamespace(value='"1998-04-22"') if "by-hand" in asked else None
        return SimpleNamespace(first=lambda: found)


@pytest.mark.parametrize(
    ("started", "note"),
    [
        ({"run_type": "scheduled", "data_interval_start": START}, "Night 2026-03-01"),
        (
            {"run_type": "backfill", "data_interval_start": START, "conf": {"night": "1998-04-22"}},
            "Night 2026-03-01",
        ),
        ({"conf": {"night": "1998-04-22"}, "data_interval_start": START}, "Night 1998-04-22"),
        ({"run_id": "by-hand"}, "Night 1998-04-22"),
        ({"run_id": "not settled yet"}, None),
        ({"dag_id": "upkeep"}, None),
        (
            {"dag_id": "relabel", "conf": {"from": "a", "to": "b", "version": "v"}},
            "Nights a to b, labelled by v",
        ),
    ],
)
def test_the_note_of_a_run_is_its_night(started: dict[str, Any], note: str | None) -> None:
    assert PLUGIN["note_of"](run(**started), Session()) == note


def test_the_note_of_a_person_stays() -> None:
    mine = run(conf={"night": "1998-04-22"}, note="asked for by sales")
    PLUGIN["add_note"](mine)
    assert mine.note == "asked for by sales"


def test_airflow_finds_the_listeners() -> None:
    from airflow.plugins_manager import AirflowPlugin

    plugin = PLUGIN["RunNotesPlugin"]
    assert issubclass(plugin, AirflowPlugin) and plugin.name == "run_notes"
    (listener,) = plugin.listeners
    for event in ("running", "success", "failed"):
        assert hasattr(getattr(listener, f"on_dag_run_{event}"), "airflow_impl")
