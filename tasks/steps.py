"""The steps of a night, in order, and the one way to run any of them.

The command line, the DAG and the tests call `run_step` and nothing else, so a step does the same
wherever it is started.
"""

import contextlib
import datetime as dt
import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.errors import NightError
from tasks.lake import Lake, tables
from tasks.settings import Settings

log = logging.getLogger(__name__)

Summary = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step: its name, what it does in a sentence, the tables it reads and writes, its function.

    Two steps of one night never run at once. `across` nights, it runs for one night at a time.

    `target` is "module:function", imported when the step runs, so that parsing a DAG or printing
    help loads neither torch nor Great Expectations.
    """

    name: str
    does: str
    target: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    across: bool = False

    @property
    def doc(self) -> str:
        """What the step does, for a person in front of Airflow's web page (Markdown)."""
        writes = ", ".join(f"`{name}`" for name in self.writes) or "no table"
        return (
            f"{self.does[0].upper()}{self.does[1:]}.\n\n"
            f"* reads {', '.join(f'`{name}`' for name in self.reads)}\n"
            f"* writes {writes}; running it again replaces what it wrote for the night\n"
            f"* by hand: `.venv/bin/python -m tasks {self.name} --night YYYY-MM-DD --lake FOLDER`\n"
            f"{self.pages}"
        )

    @property
    def pages(self) -> str:
        """Where the pages of a check are; they are files of the lake, which Airflow cannot link."""
        if not self.name.startswith("check-"):
            return ""
        return (
            "* what was found: a page a suite; their paths are in *XCom* (`page`, `pages`), at the "
            "end of the log and in the error\n"
        )

    def load(self) -> Callable[[Settings, dt.date], Summary]:
        """Import the step's function."""
        module, _, function = self.target.partition(":")
        loaded: Callable[[Settings, dt.date], Summary] = getattr(import_module(module), function)
        return loaded


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            "ingest",
            "read the source's rows of the night into events and quarantine, and the catalogue",
            "tasks.night.ingest:ingest",
            (
                *("source", "forgotten", "source_versions", "events", "quarantine", "ingests"),
                "catalogue",
            ),
            (
                *("events", "quarantine", "ingests", "source_versions"),
                *("catalogue", "catalogue_reads"),
            ),
            across=True,  # late events go to the nights before
        ),
        Step(
            "check-events",
            "check the night's events",
            "tasks.night.quality:check_events",
            ("events", "ingests", "night_stats", "sequences", "items", "catalogue_reads", "steps"),
            ("night_stats", "check_results"),
        ),
        Step(
            "build-sequences",
            "build each user's history up to the end of the night",
            "tasks.night.sequences:build_sequences",
            ("events", "items", "sequences", "sequence_inputs", "left_out_events"),
            ("sequences", "sequence_inputs", "left_out_events", "items"),
        ),
        Step(
            "check-sequences",
            "check the histories",
            "tasks.night.quality:check_sequences",
            ("sequences", "items"),
            ("check_results",),
        ),
        Step(
            "train",
            "train ELCRec on the histories",
            "tasks.night.train:train",
            ("sequences", "items", "models", "choices"),
            ("models",),
        ),
        Step(
            "evaluate",
            "measure the model on held-out events, beside popularity and the last promoted model",
            "tasks.night.evaluate:evaluate",
            ("sequences", "items", "models", "choices", "intent_labels", "events"),
            ("metrics",),
        ),
        Step(
            "promote",
            "promote the new model, or keep the promoted one",
            "tasks.night.promote:promote",
            ("metrics", "sequences", "items", "models", "choices"),
            ("models", "choices"),
        ),
        Step(
            "label",
            "label every user, say why, and profile every intent",
            "tasks.night.label:label",
            (
                *("sequences", "items", "events", "catalogue", "models", "choices"),
                *("intent_labels", "label_evidence", "intent_names", "given_names"),
                "intent_places",
            ),
            (
                *("intent_labels", "label_evidence", "intent_profiles", "intent_features"),
                *("intent_next_items", "intent_users", "intent_flows", "intent_names"),
                *("label_counts", "intent_places"),
            ),
        ),
        Step(
            "recommend",
            "recommend each user the items to expect next, if recommend.top_k asks for some",
            "tasks.night.recommend:recommend",
            ("intent_labels", "sequences", "items"),
            ("user_recommendations",),
        ),
        Step(
            "check-labels",
            "check the labels, and recommendations where there are to be some",
            "tasks.night.quality:check_labels",
            (
                *("intent_labels", "label_evidence", "intent_profiles", "sequences"),
                *("user_recommendations", "items"),
            ),
            ("check_results",),
        ),
        Step(
            "publish",
            "write the labels, and what says what they mean, to the targets under publish",
            "tasks.night.publish:publish",
            (
                *("intent_labels", *(table.name for table in tables.WITH_LABELS)),
                *("label_revisions", "steps", "choices", "models"),
            ),
            ("label_revisions",),
        ),
    )
}

# What follows new labels of a night, whichever model made them.
AFTER_LABEL = tuple(STEPS)[tuple(STEPS).index("label") + 1 :]


def run_step(
    name: str,
    settings: Settings,
    night: dt.date,
    work: Callable[[Settings, dt.date], Summary] | None = None,
    *,
    relabelled_with: str | None = None,
) -> Summary:
    """Run one step of one night and record in the table `steps` how it went and what it stood on.

    work: done in place of the step's own function, on the same tables.
    relabelled_with: the model that `work` labels with, whichever is promoted.

    Returns the step's own summary. Errors of the step come through as they are; a step that
    failed leaves no row, not even that of an earlier success: what it said holds no more.

    Raises
    ------
    NightError
        The night is not over yet, in UTC.
    """
    from tasks.registry.inputs import as_rows, inputs_of  # it loads what parsing a DAG does not

    check_night(night)
    lake = Lake.of(settings)
    with lake.in_use(), lake.turn(f"steps of night {night}"), _turn_across_nights(lake, name):
        started = dt.datetime.now(dt.UTC)
        clock = time.perf_counter()
        _forget_peak()
        log.info("%s of night %s starts", name, night)
        _forget_last_run(lake, name, night)
        # Before the step reads: what another run changes meanwhile is then seen to have changed.
        stood_on = inputs_of(settings, name, night, relabelled_with=relabelled_with)
        summary = (work or STEPS[name].load())(settings, night)
        seconds = time.perf_counter() - clock
        peak_mb = _peak_mb()
        log.info("%s of night %s done in %.1f s, peak %.0f MB", name, night, seconds, peak_mb)
        row = {
            "dt": night,
            "step": name,
            "started_at": started,
            "seconds": seconds,
            "peak_mb": peak_mb,
            "summary": json.dumps(summary, sort_keys=True),
            "inputs": as_rows(stood_on),
        }
        lake.replace(
            tables.STEPS,
            pa.Table.from_pylist([row], schema=tables.STEPS.schema),
            nights=[night],
            within={"step": name},
        )
    return summary


def _turn_across_nights(lake: Lake, name: str) -> contextlib.AbstractContextManager[None]:
    return lake.turn(name) if STEPS[name].across else contextlib.nullcontext()


def check_night(night: dt.date) -> None:
    """Refuse a night that is not over: the events still to come would never be read."""
    today = dt.datetime.now(dt.UTC).date()
    if night >= today:
        raise NightError(
            f"night {night} is not over yet (it is {today} in UTC): "
            f"the latest night that can run is {today - dt.timedelta(days=1)}"
        )


def _forget_last_run(lake: Lake, name: str, night: dt.date) -> None:
    done = lake.scan(tables.STEPS, first=night, last=night).select("step").collect()["step"]
    if name in done:
        nothing = tables.STEPS.schema.empty_table()
        lake.replace(tables.STEPS, nothing, nights=[night], within={"step": name})


def _forget_peak() -> None:
    """Let the peak start from what is resident now, so that it is this step's own (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    """Return the largest resident memory of this process since `_forget_peak`, in MB (10^6 bytes).

    Where the kernel cannot forget, it is the largest since the process started.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e6
