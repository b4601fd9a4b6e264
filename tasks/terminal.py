"""What the command line shows of a step that runs: its log, and on a terminal a bar of progress.

A pipe and a file get lines alone.
"""

import logging
import shlex
import sys
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
OURS = ("tasks", "elcrec")
PYTHON_TASKS = ".venv/bin/python -m tasks"


def on_lake(lake: Path | str, *words: str) -> str:
    """Return the command line of these words on a lake, as a person can copy it from here."""
    here = Path.cwd()
    if isinstance(lake, Path) and lake.is_relative_to(here):
        lake = lake.relative_to(here)
    return f"{PYTHON_TASKS} {shlex.join([*words, '--lake', str(lake)])}"


def log_to_stderr(*, quiet: bool) -> None:
    """Log to stderr, of other libraries warnings and errors only, when quiet of ours too."""
    least = logging.WARNING if quiet else logging.INFO

    def worth_reading(record: logging.LogRecord) -> bool:
        ours = record.name.startswith(OURS)
        return record.levelno >= (least if ours else logging.WARNING)

    on_terminal = sys.stderr.isatty() and not quiet
    handler = BarHandler(Console(stderr=True)) if on_terminal else LineHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(worth_reading)
    root = logging.getLogger()
    for earlier in root.handlers[:]:
        if isinstance(earlier, BarHandler | LineHandler):
            root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class LineHandler(logging.Handler):
    """Prints each record as a line to what stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print(self.format(record), file=sys.stderr, flush=True)


class BarHandler(logging.Handler):
    """Prints records, and below them a bar of what the newest of them says of how far it is.

    Such a record has `done`, `most` and `left`: how many of at most how many, and how long the rest
    takes. The bar ends when the two are equal, or with the next record that has neither.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.bar: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record and move the bar, or end it."""
        try:
            done, most = getattr(record, "done", None), getattr(record, "most", None)
            if done is None or most is None:
                self._end()
            self.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
            if done is None or most is None:
                return
            if self.bar is None:
                left = TextColumn("{task.description}", markup=False)
                columns = (BarColumn(20), MofNCompleteColumn(), left)
                self.bar = Progress(*columns, console=self.console, transient=True)
                self.bar.add_task("", total=most)
                self.bar.start()
            left_text = getattr(record, "left", "")
            self.bar.update(self.bar.task_ids[0], completed=done, description=left_text)
            if done >= most:
                self._end()
        except Exception:
            self.handleError(record)

    def _end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._end()
        super().close()


def console_of(stream: TextIO = sys.stdout) -> Console:
    """Return the console that a command prints its report to."""
    return Console(file=stream, highlight=False, emoji=False)
