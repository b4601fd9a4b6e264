"""One night of the DAG, triggered over the REST API and followed to its end."""

import contextlib
import time
from datetime import UTC, date, datetime
from pathlib import Path

from rich.markup import escape

from local.client import DAG_ID, Airflow
from local.console import out
from local.logs import TaskLogs
from local.services import airflow, free_port
from local.source import Source
from tasks.errors import PipelineError
from tasks.sources import source_of

POLL = 1.0  # seconds between two looks at the run


class NightFailedError(PipelineError):
    """The DAG run ended without success; the message is the failed task's own sentence."""


def run_night(night: date, source: Source, home: Path) -> None:
    """Run the DAG once for a night and follow it.

    Raises NightFailedError with the failed task's own sentence.
    """
    out.print(f"Night {night} of {escape(str(source_of(source.settings)))}")
    out.print("Starting Airflow (scheduler with LocalExecutor, API server)")
    # No scheduled run beside the one asked for, and a retry within seconds.
    local = {"airflow.schedule": "", "airflow.retry_delay_minutes": 0.1}
    services = {"api-server": ["api-server"], "scheduler": ["scheduler", "--skip-serve-logs"]}
    with airflow(home, free_port(), services, local) as running:
        _end_leftover_runs(running)
        run_id = f"night-{night}-at-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        conf = {"night": night.isoformat(), **source.overrides}
        running.call("PATCH", "", {"is_paused": False})
        try:
            running.call(
                "POST", "/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf}
            )
            _follow(running, run_id)
        finally:
            with contextlib.suppress(PipelineError):
                running.call("PATCH", "", {"is_paused": True})
                # After Ctrl-C the run would go on at the next `make up`, before any other.
                _end_leftover_runs(running)


def _end_leftover_runs(running: Airflow) -> None:
    # Of a run that was killed Airflow still thinks it goes on, and it lets one night at a time run.
    for state in ("running", "queued"):
        for run in running.call("GET", f"/dagRuns?state={state}&limit=100")["dag_runs"]:
            running.call("PATCH", f"/dagRuns/{run['dag_run_id']}", {"state": "failed"})


def _follow(running: Airflow, run_id: str) -> None:
    """Print what the tasks log and how they end, until the run has ended."""
    logs = TaskLogs(running.home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}")
    reported: set[tuple[str, int, str]] = set()
    while True:
        running.check_alive()
        # The run's state first: when it has ended, so have the tasks that are read after it.
        state = running.call("GET", f"/dagRuns/{run_id}")["state"]
        tasks = running.call("GET", f"/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
        for line in logs.new_lines():
            out.print(f"[dim]  {line}[/dim]", soft_wrap=True)
        for task in sorted(tasks, key=lambda one: one["start_date"] or "~"):
            key = (task["task_id"], task["try_number"], task["state"] or "")
            if key in reported:
                continue
            reported.add(key)
            if task["state"] == "success":
                out.print(
                    f"[green]done[/green]    {task['task_id']} ({task['duration'] or 0:.1f} s)"
                )
            elif task["state"] == "up_for_retry":
                why = logs.failure(task["task_id"])
                out.print(
                    f"[yellow]again[/yellow]   {task['task_id']} is tried again: {escape(why)}",
                    soft_wrap=True,
                )
        if state in ("success", "failed"):
            failed = [task for task in tasks if task["state"] == "failed"]
            if state == "success":
                return
            names = ", ".join(task["task_id"] for task in failed) or "no task"
            raise NightFailedError(
                f"{names} failed: {' '.join(logs.failure(task['task_id']) for task in failed)}"
            )
        time.sleep(POLL)
