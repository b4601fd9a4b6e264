"""The command line: which night it works on, what it says on Ctrl-C, and how far a training is."""

import datetime as dt
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from tasks import terminal
from tasks.__main__ import main
from tasks.lake import Lake, tables
from tasks.settings import REPO, Settings
from tasks.steps import STEPS

Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """Call the command line: exit code, what it printed, what it logged and said."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tasks", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dt.date]]:
    """Run no step, but note which was to be run on which night."""
    noted: list[tuple[str, dt.date]] = []

    def run_step(name: str, settings: Settings, night: dt.date) -> dict[str, Any]:
        noted.append((name, night))
        return {}

    monkeypatch.setattr("tasks.__main__.run_step", run_step)
    monkeypatch.setattr("tasks.chores.report.show", lambda *_, **__: None)
    return noted


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give a file with events of 1998."""
    file = tmp_path / "events of 1998.csv"
    rows = [f"u{n},i{n % 3},1998-04-{20 + n % 3}T10:00:00Z" for n in range(9)]
    file.write_text("\n".join(["user_id,item_id,ts", *rows]))
    return file


def test_a_whole_night_without_a_date_is_the_newest_of_the_source(
    called: Called, ran: list[tuple[str, dt.date]], old: Path, tmp_path: Path
) -> None:
    lake = ("--events", old, "--lake", tmp_path / "lake")
    assert called("run", *lake)[0] == 0
    assert ran == [(name, dt.date(1998, 4, 22)) for name in STEPS]
    ran.clear()
    called("ingest", *lake)
    called("run", *lake, "--night", "1998-04-20")
    assert [night.day for _, night in ran] == [22, *[20] * len(STEPS)]


def test_a_step_without_a_date_takes_the_newest_night_of_the_lake(
    called: Called, ran: list[tuple[str, dt.date]], old: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    code, _, said = called("train", "--lake", lake)
    assert code == 2 and "has no night yet: run ingest first" in said
    ingested = [{"dt": dt.date(1998, 4, day), "bootstrap": day == 20} for day in (20, 21)]
    rows = [dict.fromkeys(tables.INGESTS.schema.names) | row for row in ingested]
    Lake(lake).replace(
        tables.INGESTS,
        pa.Table.from_pylist(rows, schema=tables.INGESTS.schema),
        nights=[row["dt"] for row in rows],
    )
    for name in STEPS:
        if name != "ingest":
            assert called(name, "--lake", lake)[0] == 0
    assert {night for _, night in ran} == {dt.date(1998, 4, 21)}


def test_a_night_long_after_the_newest_event_stops_before_anything_is_written(
    called: Called, old: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    given = ("--events", old, "--lake", lake, "--quiet")
    code, _, said = called("run", *given, "--night", "2026-11-20")
    assert code == 2
    assert "night 2026-11-20 lies 10439 days after 1998-04-22" in said
    assert "run night 1998-04-22" in said and "ingest.max_quiet_days, which is 7" in said
    assert Lake(lake).nights(tables.EVENTS) == []
    assert called("ingest", *given, "--night", "1998-04-29")[0] == 0
    assert Lake(lake).nights(tables.INGESTS) == [dt.date(1998, 4, 29)]
    anywhere = ("--lake", tmp_path / "other", "--set", "ingest.max_quiet_days=0", "--quiet")
    assert called("ingest", "--events", old, *anywhere, "--night", "2026-11-20")[0] == 0


def test_only_what_reads_events_has_an_option_for_them(called: Called, tmp_path: Path) -> None:
    for name in (*STEPS, "run"):
        _, shown, _ = called(name, "--help")
        assert ("--events" in shown) is (name in ("ingest", "run")), name
    code, _, said = called("label", "--events", "a.csv")
    assert code == 2 and "No such option" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("orders 2026.v2.XYZ", "has the ending .XYZ, which is unknown: known are .parquet, .csv"),
        ("orders.xlsx.gz", "has the ending .xlsx.gz, which is unknown"),
        ("orders.gz", "has the ending .gz, which is unknown"),
        ("orders", "has no ending: known are .parquet"),
        ("notes.txt", "has no event files (but notes.txt)"),
    ],
)
def test_a_file_of_an_unknown_ending_is_called_that(
    called: Called, tmp_path: Path, name: str, says: str
) -> None:
    file = tmp_path / name
    file.write_bytes(b"Dear reader,\nthis is prose.\n")
    code, _, said = called("ingest", "--events", file, "--lake", tmp_path / "lake")
    assert code == 2
    assert says in said and "source.format" in said


@pytest.mark.parametrize(
    ("name", "kept"),
    [("train", "the epochs that are done are kept"), ("label", "every table is as it was or")],
)
@pytest.mark.parametrize("by_duckdb", [False, True])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    kept: str,
    by_duckdb: bool,
) -> None:
    def pressed(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            if by_duckdb:
                raise RuntimeError("Query interrupted") from None
            raise

    monkeypatch.setattr("tasks.__main__.run_step", pressed)
    lake = tmp_path / "a lake"
    before = signal.getsignal(signal.SIGINT)
    code, _, said = called(name, "--night", "1998-04-22", "--lake", lake)
    assert code == 130
    assert f"stopped in {name} of night 1998-04-22: {kept}" in said
    again = f".venv/bin/python -m tasks {name} --night 1998-04-22 --lake '{lake}'"
    assert said.strip().endswith(f"to go on: {again}")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_refresh_that_is_stopped_says_how_to_go_on(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pressed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("tasks.chores.stale.refresh", pressed)
    code, _, said = called("refresh", "--lake", tmp_path)
    assert code == 130
    assert "stopped in refreshing nights: what was brought up to date stays so" in said
    assert said.strip().endswith(f"to go on: .venv/bin/python -m tasks refresh --lake {tmp_path}")


@pytest.mark.parametrize("command", ["report", "stale", "refresh", "upkeep"])
def test_a_folder_that_is_not_there_is_no_lake(
    called: Called, tmp_path: Path, command: str
) -> None:
    code, _, said = called(command, "--lake", tmp_path / "typo")
    assert code == 2
    assert said.startswith(f"error: there is no lake at {tmp_path / 'typo'}: correct lake.root")


def test_an_error_without_ctrl_c_stays_what_it_is(
    called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr("tasks.__main__.run_step", broken)
    with pytest.raises(RuntimeError, match="Query interrupted"):
        called("label", "--night", "1998-04-22")


@pytest.mark.slow
def test_a_step_that_is_stopped_for_real_exits_with_130(old: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading, tasks.steps;"
        "real = tasks.steps.run_step;"
        "interrupt = lambda *given: (os.kill(os.getpid(), signal.SIGINT), real(*given))[1];"
        "tasks.steps.run_step = interrupt; sys.argv[0] = 'tasks';"
        "import runpy; runpy.run_module('tasks', run_name='__main__')"
    )
    given = ["ingest", "--events", old, "--lake", tmp_path / "lake", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, given)], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert "stopped in ingest of night 1998-04-22" in done.stderr
    assert "Traceback" not in done.stderr


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("tasks.night.train", logging.INFO, "", 0, message, (), None)
    vars(made).update(more)
    return made


def test_a_terminal_shows_a_training_as_a_bar_and_a_pipe_as_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = io.StringIO()
    bar = terminal.BarHandler(Console(file=shown, force_terminal=True, width=100))
    bar.emit(record("training starts in [red]"))
    for epoch in (1, 2):
        bar.emit(record(f"epoch {epoch}/3", done=epoch, most=3, left=f"{9 - epoch} s left"))
    bar.emit(record("trained"))
    text = shown.getvalue()
    assert "training starts in [red]" in text and "trained" in text
    assert "━" in text and "2/3" in text and "epoch 1/3" in text and "7 s left" in text
    assert text.index("━") < text.index("trained")
    assert bar.bar is None, "a bar that stays would hold the terminal"

    terminal.log_to_stderr(quiet=False)
    log = logging.getLogger("tasks.night.train")
    log.info("epoch 1/3", extra={"done": 1, "most": 3})
    logging.getLogger("great_expectations").info("chatter")
    piped = capsys.readouterr().err
    assert piped.endswith(" INFO    epoch 1/3\n") and piped.count("\n") == 1


def test_quiet_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    terminal.log_to_stderr(quiet=True)
    logging.getLogger("tasks.night.train").info("epoch 1/3", extra={"done": 1, "most": 3})
    logging.getLogger("tasks.night.train").warning("odd")
    assert shown.getvalue().endswith("odd\n") and "epoch" not in shown.getvalue()


def test_one_report_at_a_time(called: Called, tmp_path: Path) -> None:
    code, _, said = called("report", "--lake", tmp_path, "--all", "--user", "ann")
    assert code == 2 and "give one" in said


def test_a_process_of_torchrun_that_does_not_lead_is_a_worker(
    called: Called, ran: list[tuple[str, dt.date]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[list[str]] = []

    def work(arguments: list[str]) -> int:
        worked.append(arguments)
        return 3

    monkeypatch.setattr("elcrec.worker.main", work)
    monkeypatch.setenv("RANK", "1")
    train = ("train", "--night", "2026-11-20")
    together = ("--set", "model.processes=2", "--set", "model.rendezvous=10.0.0.5:29500")
    assert called(*train, *together)[0] == 3
    assert worked == [[]] and not ran
    called(*train)
    monkeypatch.setenv("RANK", "0")
    called(*train, *together)
    assert worked == [[]] and len(ran) == 2
