"""A calibrated confidence is the share of labels that outlive the next event."""

import numpy as np
import pytest
import torch

from elcrec import ELCRec, ELCRecError, Histories
from elcrec.calibration import Calibration, Reliability
from tests.elcrec.test_training import tiny, walks


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def drawn(users: int, truth: Calibration, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Softmaxes that are much too sure, and next labels as `truth` has them."""
    rng = np.random.default_rng(seed)
    p = softmax(rng.normal(0, 6, (users, 5))).astype(np.float32)
    chances = truth(torch.from_numpy(p)).numpy()
    after = (rng.random(users)[:, None] > chances.cumsum(1)).sum(1).clip(max=4)
    return p, after


def test_a_fit_finds_the_two_numbers_that_made_what_happened():
    truth = Calibration(0.3, 1.2)
    found = Calibration.fit(*drawn(20_000, truth))
    assert found.sharpness == pytest.approx(0.3, abs=0.02)
    assert found.inertia == pytest.approx(1.2, abs=0.1)


def test_calibrated_confidence_is_the_share_that_stays_and_the_softmax_is_not():
    p, after = drawn(20_000, Calibration(0.3, 0.5))
    calibrated = Calibration.fit(p[::2], after[::2])(torch.from_numpy(p[1::2])).numpy()
    stays = after[1::2] == p[1::2].argmax(1)
    assert Reliability.of(p[1::2].max(1), stays).error > 0.1
    assert Reliability.of(calibrated.max(1), stays).error < 0.02
    np.testing.assert_allclose(calibrated.sum(1), 1, atol=1e-5)


def test_few_users_and_users_who_never_change_leave_finite_numbers():
    p, after = drawn(200, Calibration(0.3, 1.2))
    nobody = Calibration.fit(p[:0], after[:0])
    assert nobody == Calibration(1.0, 0.0)
    steady = Calibration.fit(p, p.argmax(1))
    sure = steady(torch.from_numpy(p)).numpy().max(1)
    assert np.isfinite([steady.sharpness, steady.inertia]).all()
    assert 0.95 < sure.mean() < 1


def test_a_probability_of_zero_is_calibrated_too():
    certain = Calibration(0.3, 0.5)(torch.eye(4))
    assert torch.isfinite(certain).all() and (certain.argmax(1) == torch.arange(4)).all()


def test_reliability_puts_like_confidences_together():
    confidence = np.array([0.1, 0.9, 0.2, 0.8])
    found = Reliability.of(confidence, np.array([False, True, True, True]), bins=2)
    assert found.users.tolist() == [2, 2]
    np.testing.assert_allclose(found.foreseen, [0.15, 0.85])
    np.testing.assert_allclose(found.happened, [0.5, 1.0])
    assert found.error == pytest.approx((0.35 + 0.15) / 2)
    assert np.isnan(Reliability.of(confidence[:0], np.array([], bool)).error)


@pytest.fixture(scope="module")
def model() -> ELCRec:
    return ELCRec(tiny()).fit(walks(), 40)


def test_a_model_that_is_not_calibrated_says_nothing_about_the_next_event(model):
    why = model.transform(walks(), evidence=True).evidence
    assert np.isnan(why.confidence).all() and np.isnan(why.probabilities).all()


def test_a_calibration_is_saved_with_its_model_and_is_the_same_each_time(model, tmp_path):
    model.save(tmp_path / "plain")
    model = ELCRec.load(tmp_path / "plain")
    assert model.calibration is None
    first = model.calibrate(walks())
    assert model.calibrate(walks()) == first == model.calibration
    model.save(tmp_path / "calibrated")
    again = ELCRec.load(tmp_path / "calibrated")
    assert again.calibration == first
    held = model.transform(walks()).runner_up
    for previous in (None, held):
        labels = again.transform(walks(), previous, np.inf, evidence=True)
        why = labels.evidence
        assert ((why.confidence > 0) & (why.confidence < 1)).all()
        place = 0 if previous is None else 1
        np.testing.assert_allclose(why.confidence, why.probabilities[:, place])


def test_users_without_a_known_item_have_no_confidence(model):
    model.calibrate(walks())
    why = model.transform(Histories.from_lists([[7], [], [999]]), evidence=True).evidence
    assert np.isnan(why.confidence).tolist() == [False, True, True]


def test_a_damaged_calibration_is_refused_in_a_sentence():
    for damaged in ({"sharpness": 1.0}, {"sharpness": "x", "inertia": 0}, {"a": 1}):
        with pytest.raises(ELCRecError, match=r"calibration .* is damaged"):
            Calibration.from_dict(damaged)
