"""What the code gives now is what the golden files hold; `golden.py` says what they are for."""

import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.golden import golden

# Processors without AVX-512 add up in another order. Seen: 3e-6 of a loss, 4e-6 of a confidence.
LOSS_TOLERANCE = 1e-5
CONFIDENCE_TOLERANCE = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("preset", golden.PRESETS)
def test_the_first_training_steps_have_the_losses_of_the_golden_file(preset: str) -> None:
    expected = json.loads(golden.LOSSES.read_text())[preset]
    found = golden.losses_of(preset)
    assert [set(losses) for losses in found] == [set(losses) for losses in expected]
    for step, (here, there) in enumerate(zip(found, expected, strict=True), start=1):
        assert here == pytest.approx(there, rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), f"step {step}"


@pytest.mark.slow
def test_two_nights_have_the_labels_and_the_models_of_the_golden_files(tmp_path: Path) -> None:
    labels, models = golden.nights_in(tmp_path)
    assert models == json.loads(golden.MODELS.read_text())
    expected = pl.read_csv(golden.LABELS, schema=labels.schema)
    # Ids, counts, times and names are equal to the last digit, for they are no floats.
    assert_frame_equal(labels, expected, rel_tol=0, abs_tol=CONFIDENCE_TOLERANCE)
