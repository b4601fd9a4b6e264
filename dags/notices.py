"""What a person is told of a run: a failure, a late night, a model that was refused, a warning.

Where it goes is the settings' `alerts`; Airflow's notifiers, which take it there, are wired in
`dags/alerts.py`.
"""

from collections.abc import Mapping
from typing import Any

SUBJECTS = {
    "task_failed": "failed",
    "night_late": "is late",
    "model_kept": "kept the model before",
    "quality_warning": "has warnings",
}


def notice(event: str, text: str, **where: Any) -> dict[str, str]:
    """Put together what is sent: the event, its text, a subject of one line, and where it was.

    where: `dag`, `run`, `task` and `night`, as far as they are known.
    """
    known = {name: str(value) for name, value in where.items() if value}
    named = " ".join(known[name] for name in ("dag", "night", "task") if name in known)
    return {"event": event, "subject": f"{named} {SUBJECTS[event]}", "text": text, **known}


def of_summary(summary: Any, **where: Any) -> list[dict[str, str]]:
    """Say what is amiss though the task succeeded, by the summary of its step."""
    if not isinstance(summary, Mapping):
        return []
    notices = []
    if summary.get("kept_old"):
        why = "; ".join(summary.get("reasons", []))
        text = (
            f"model {summary.get('model_version')} is not promoted, "
            f"{summary.get('labels_with')} goes on: {why}"
        )
        notices.append(notice("model_kept", text, **where))
    if warnings := summary.get("warnings"):
        notices.append(notice("quality_warning", "; ".join(map(str, warnings)), **where))
    return notices
