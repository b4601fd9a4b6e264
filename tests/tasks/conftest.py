"""Lakes on which the model steps have run, for the tests of single steps."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from local.generator import generate
from tasks.settings import Settings
from tests.places import place, root, store  # noqa: F401 - fixtures
from tests.tasks.nights import NIGHT, histories_of, small_settings, write_histories


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings on an empty lake."""
    return small_settings(tmp_path / "lake")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run the model steps once on generated events: a lake that tests copy, and the truth.

    It is one for all processes that run tests side by side: the first that needs it makes it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # in which each process has a folder of its own
    folder /= "trained"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder / "lake", ignore_errors=True)  # of a process that failed
            _train(folder)
            (folder / "done").touch()
    return folder / "lake", folder / "truth.parquet"


def _train(folder: Path) -> None:
    from tasks.night.evaluate import evaluate
    from tasks.night.label import label
    from tasks.night.promote import promote
    from tasks.night.train import train

    generated = generate(
        folder, users=640, items=240, intents=8, nights=14, last_night=NIGHT, seed=3
    )
    settings = small_settings(folder / "lake")
    write_histories(settings, NIGHT, histories_of(generated.events, NIGHT))
    # Whether so small a model beats counts is by a hair, and the business of other tests.
    forced = small_settings(folder / "lake", promote={"force": True})
    for step in (train, evaluate, promote, label):
        step(forced if step is promote else settings, NIGHT)


@pytest.fixture
def night_done(trained: tuple[Path, Path], tmp_path: Path) -> Settings:
    """Give settings on a private copy of the lake after NIGHT."""
    shutil.copytree(trained[0], tmp_path / "lake")
    return small_settings(tmp_path / "lake")
