"""Steps that are killed at random moments, and runs that meet: nothing is lost, nothing mixed up.

`kill_nights.py` kills at length.
"""

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.steps import STEPS
from tests.kill_nights import (
    Nights,
    Took,
    differences,
    generated,
    killed,
    left_alone,
    plan,
    prepare,
    stale,
)
from tests.places import bucket, store  # noqa: F401 - a fixture

KILLS = len(STEPS) + 1
KILLS_IN_A_STORE = 4


@dataclass(frozen=True)
class Alone:
    """Two nights that were left alone, what they took, and their lake as after the first."""

    nights: Nights
    took: Took
    first: Nights


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    prepare()
    nights = generated(tmp_path_factory.mktemp("nights"), nights=2, seed=4)
    took = left_alone(nights, nights.dates[0])
    first = nights.copy("first")
    return Alone(nights, took | left_alone(nights, nights.dates[1]), first)


@pytest.mark.slow
def test_nights_whose_every_step_was_killed_equal_those_left_alone(
    alone: Alone, tmp_path: Path
) -> None:
    rng = random.Random(4)
    nights = replace(alone.nights, folder=tmp_path, attempts=Counter())
    hits, resumed = killed(nights, plan(nights.dates, KILLS, rng), alone.took, rng)
    assert differences(alone.nights, nights) == []
    assert stale(nights) == []
    assert set(hits) == set(STEPS) and sum(hits.values()) == KILLS
    assert resumed >= 1


@pytest.mark.slow
@pytest.mark.servers
def test_a_night_in_a_store_whose_steps_were_killed_equals_one_in_a_folder_left_alone(
    alone: Alone,
    tmp_path: Path,
    store: str,  # noqa: F811
) -> None:
    rng = random.Random(5)
    with bucket(store) as url:
        folder = tmp_path / "killed"
        nights = replace(alone.first, folder=folder, dates=alone.nights.dates[:1], bucket=url)
        hits, _ = killed(nights, plan(nights.dates, KILLS_IN_A_STORE, rng), alone.took, rng)
        assert sum(hits.values()) == KILLS_IN_A_STORE
        assert differences(alone.first, nights) == []
        assert stale(nights) == []


@pytest.mark.slow
@pytest.mark.parametrize("other", [0, 1], ids=["the night before", "the same night"])
def test_a_night_that_runs_beside_another_run_equals_one_left_alone(
    alone: Alone, other: int
) -> None:
    nights = alone.first.copy(f"beside {other}")
    runs = [
        nights.start_night(nights.dates[1], "nightly"),
        nights.start_night(nights.dates[other], "other"),
    ]
    for run in runs:
        run.join()
    logs = [(nights.folder / "logs" / f"{name}.log").read_text() for name in ("nightly", "other")]
    assert [run.exitcode for run in runs] == [0, 0], "\n".join(logs)
    assert differences(alone.nights, nights) == []
