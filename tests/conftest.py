"""What tests of several rooms share: real data, marks, threads, and a list of what is slow.

Marks leave tests out where there is no time or no server for them (`make test-fast`):

    slow        takes more than half a second of a core; set by hand, and named below when missing
    servers     starts PostgreSQL, Redis or an S3 server; set by `tests/needs.py`
    airflow     starts Airflow or imports it; set by `tests/needs.py`, and for all of tests/dags and
                tests/plugins
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs

REPO = Path(__file__).resolve().parent.parent
SLOW = 0.5  # seconds of a core, which are the same on a machine that does other things besides
SLOWEST_FILES = 10
CORE_SECONDS = "core_seconds"
OF_AIRFLOW = {REPO / "tests" / "dags", REPO / "tests" / "plugins"}

# The tests run in as many processes as there are cores, and with more threads than cores a training
# step takes several times as long. Set before torch is imported; what tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Give each test the marks of what it needs, and let the files that take long begin first.

    A file that takes long and begins last would leave the other processes without work. Those with
    slow tests take longest; of the others, those with many tests.
    """
    for item in items:
        needs.mark(item)
        if not OF_AIRFLOW.isdisjoint(item.path.parents):
            item.add_marker("airflow")
    yield  # -m chooses among them by their marks
    long = {
        item.path
        for item in items
        if any(item.get_closest_marker(mark) for mark in ("slow", "airflow", "servers"))
    }
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (0, 0) if item.path in long else (1, -tests[item.path]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let what a test starts be held against its marks."""
    needs.starts(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure what a test and the processes that it waits for take of a core."""
    before = _core_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append((CORE_SECONDS, _core_seconds() - before))


def _core_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files that took longest, and the tests that are slow and do not say so."""
    files: Counter[str] = Counter()
    unmarked = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                files[report.nodeid.partition("::")[0]] += report.duration
                seconds = dict(report.user_properties).get(CORE_SECONDS, 0.0)
                if report.when == "call" and seconds > SLOW and "slow" not in report.keywords:
                    unmarked.append(f"{seconds:6.1f} s  {report.nodeid}")
    if terminalreporter.config.getoption("durations"):
        terminalreporter.section(f"slowest {SLOWEST_FILES} files of {len(files)}")
        for file, seconds in files.most_common(SLOWEST_FILES):
            terminalreporter.write_line(f"{seconds:6.1f} s  {file}")
    if unmarked:
        terminalreporter.section(f"more than {SLOW} s of a core without the mark slow")
        for line in sorted(unmarked, reverse=True):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the person who runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith("ELCREC_") and name != "ELCREC_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Find the folder of real data sets, or skip: they may not be copied into the repository."""
    named = os.environ.get("ELCREC_DATA")
    for folder in (Path(named) if named else None, REPO.parent / "shared" / "data"):
        if folder is not None and folder.is_dir():
            return folder
    pytest.skip("no real data: ../shared/data is missing and ELCREC_DATA names no folder")
