"""The log files of a run's tasks, followed as they grow."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

SAYS_WHY = "dags.failures"  # the logger of the last line of a task that failed
UNDERSTOOD = "tasks.night.ingest.understood"  # of the line that says how the source was read


def _worth_printing(task: str, record: Mapping[str, Any]) -> str:
    """Return a log line of the pipeline: how the source is read, the training, what is amiss."""
    logger, level = str(record.get("logger", "")), record.get("level", "info")
    if not logger.startswith(("tasks.", "elcrec")) or logger == "tasks.steps":
        return ""
    if level in ("info", "debug"):
        told = logger == UNDERSTOOD or task == "train"
        return str(record["event"]) if told and level == "info" else ""
    return f"{level}: {record['event']}"


class TaskLogs:
    """The log files of one run's tasks, read as they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[Path, int] = {}
        self.errors: dict[str, str] = {}
        self.raised: dict[str, str] = {}  # what Airflow logged with frames

    def new_lines(self) -> Iterator[str]:
        """Yield what is worth printing of what the tasks have logged since the last call."""
        for file in sorted(
            self.folder.glob("task_id=*/attempt=*.log"), key=lambda path: path.stat().st_mtime
        ):
            task = file.parent.name.removeprefix("task_id=")
            with file.open("rb") as stream:
                stream.seek(self.read.get(file, 0))
                fresh = stream.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]  # the last line may be half written
            self.read[file] = self.read.get(file, 0) + len(whole)
            for raw in whole.splitlines():
                with contextlib.suppress(ValueError):
                    record = json.loads(raw)
                    self._note_error(task, record)
                    if line := _worth_printing(task, record):
                        yield escape(f"{task}  {line}")

    def failure(self, task: str) -> str:
        """Return why a task failed: the sentence that its last try ended with."""
        for _ in self.new_lines():
            pass
        log = self.folder / f"task_id={task}"
        return self.errors.get(
            task, f"it left no message, its process may have been killed: see {log}"
        )

    def _note_error(self, task: str, record: Mapping[str, Any]) -> None:
        for error in record.get("error_detail") or []:
            # A sentence is complete as it is (see dags/failures.py); an exception that comes with
            # frames is nothing without its kind and them.
            log = self.folder / f"task_id={task}"
            self.raised[task] = f"{error['exc_type']}: {error['exc_value']}"
            self.errors[task] = f"{self.raised[task]} (log: {log})"
            return
        if record.get("logger") == SAYS_WHY and record["event"] != self.raised.get(task):
            self.errors[task] = str(record["event"])
