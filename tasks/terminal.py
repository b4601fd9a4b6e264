"""What the command line shows of a step that runs: its log, and on a terminal a bar of progress.

A pipe and a file get lines alone.
"""

import logging
import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
OURS = ("tasks", "elcrec")


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
    """Prints records, and shows those that say how far something is as a bar below them.

    Such a record has `done` and `most`: how many of at most how many. It is the last one when they
    are equal; else the next record without them ends the bar.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.bar: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record or move the bar."""
        try:
            done, most = getattr(record, "done", None), getattr(record, "most", None)
            if done is None or most is None:
                self._end()
                line = self.format(record)
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
                return
            if self.bar is None:
                self.bar = Progress(
                    BarColumn(20),
                    MofNCompleteColumn(),
                    TextColumn("{task.description}", markup=False),
                    TimeElapsedColumn(),
                    console=self.console,
                )
                self.bar.add_task("", total=most)
                self.bar.start()
            self.bar.update(self.bar.task_ids[0], completed=done, description=record.getMessage())
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
