"""Steps that are killed at random moments, in short; `kill_nights.py` does it at length."""

from pathlib import Path

import pytest

from tasks.steps import STEPS
from tests.kill_nights import nights_of_kills


@pytest.mark.slow
def test_nights_whose_every_step_was_killed_equal_those_left_alone(tmp_path: Path) -> None:
    hits, resumed, different = nights_of_kills(tmp_path, kills=10, seed=4, nights=2)
    assert different == []
    assert set(hits) == set(STEPS) and sum(hits.values()) == 10
    assert resumed >= 1
