"""Why a user has a label: items of the history, and the most probable intents."""

import numpy as np
import pytest
import torch

from elcrec import ELCRec, Histories
from elcrec.evaluation import behaviours
from elcrec.evidence import MOST, strongest_items
from tests.elcrec.test_training import tiny, walks


@pytest.fixture(scope="module")
def model() -> ELCRec:
    return ELCRec(tiny(max_epochs=6, max_length=30)).fit(walks(), 40)


def test_shares_are_of_all_that_speaks_for_the_label_and_repeats_count_together():
    owners = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    items = np.array([7, 8, 7, 9, 5, 6, 3, 0, 4])
    added = np.array([1.0, 3.0, 1.0, 2.0, 1.0, -4.0, 0.5, 9.0, -1.0])
    named, shares = strongest_items(owners, items, added, 4)
    assert named.tolist() == [[8, 7, 9], [3, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(shares, [[3 / 8, 2 / 8, 2 / 8], [1, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_evidence_names_items_of_the_history_greatest_share_first(model):
    histories = walks()
    labels = model.transform(histories, evidence=True)
    why = labels.evidence
    for user in range(len(histories)):
        its_own = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        named = why.items[user][why.items[user] > 0]
        assert set(named) <= set(its_own[-30:]) and len(set(named)) == len(named)
    assert (np.diff(why.shares, axis=1) <= 0).all()
    assert ((why.shares > 0) == (why.items > 0)).all()
    assert (why.shares.sum(1) <= 1 + 1e-6).all() and why.shares.max() > 1 / 30
    assert (why.intents[:, 0] == labels.intent).all()
    assert (why.intents[:, 1] == labels.runner_up).all()


def test_labels_are_the_same_with_evidence_and_without(model):
    histories = walks()
    labels, explained = model.transform(histories), model.transform(histories, evidence=True)
    assert labels.evidence is None
    for column in ("intent", "confidence", "runner_up", "runner_up_confidence"):
        assert np.array_equal(getattr(labels, column), getattr(explained, column))


def score_beyond_the_mean(model: ELCRec, histories: Histories, intent: np.ndarray) -> np.ndarray:
    """Compute the logarithm of the label's probability, less the mean over all intents."""
    with torch.no_grad():
        logits = model.network.intent_probabilities(behaviours(model.network, histories)).log()
    return (logits - logits.mean(1, keepdim=True)).numpy()[np.arange(len(histories)), intent]


def test_without_the_item_of_the_greatest_share_the_score_falls_most(model):
    """The encoder's half is in the score, too: so it is so for most users, not for each."""
    histories = walks()
    labels = model.transform(histories, evidence=True)
    whole = score_beyond_the_mean(model, histories, labels.intent)
    rng = np.random.default_rng(0)
    fell_by_top, fell_by_other, users = [], [], []
    for user in range(len(histories)):
        own = histories.items[histories.offsets[user] : histories.offsets[user + 1]]
        top = labels.evidence.items[user, 0]
        others = np.setdiff1d(own, labels.evidence.items[user])
        if not top or not others.size:
            continue
        without = [own[own != gone] for gone in (top, rng.choice(others))]
        fell = score_beyond_the_mean(
            model, Histories.from_lists(without), labels.intent[[user, user]]
        )
        fell_by_top.append(whole[user] - fell[0])
        fell_by_other.append(whole[user] - fell[1])
        users.append(user)
    fell_by_top, fell_by_other = np.array(fell_by_top), np.array(fell_by_other)
    assert len(users) > 60
    assert (fell_by_top > fell_by_other).mean() > 0.75
    assert fell_by_top.mean() > 3 * abs(fell_by_other.mean())


def test_one_event_is_all_of_the_evidence_and_unknown_items_are_none(model):
    labels = model.transform(
        Histories.from_lists([[7], [7, 7], [], [999], [999, 7]]), evidence=True
    )
    why = labels.evidence
    assert why.items.tolist() == [[7, 0, 0], [7, 0, 0], [0, 0, 0], [0, 0, 0], [7, 0, 0]]
    np.testing.assert_allclose(why.shares[:, 0], [1, 1, 0, 0, 1])
    assert (why.intents[[2, 3]] == -1).all() and (why.intents[[0, 1, 4]] >= 0).all()


def test_a_held_label_has_the_evidence_of_that_label(model):
    histories = walks()
    free = model.transform(histories, evidence=True)
    held = model.transform(histories, free.runner_up, np.inf, evidence=True)
    assert (held.intent == free.runner_up).all()
    assert np.array_equal(held.evidence.intents, free.evidence.intents)
    assert (held.evidence.items != free.evidence.items).any(1).mean() > 0.5


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_evidence_is_there_for_every_preset_and_for_few_intents(preset):
    model = ELCRec(tiny(preset, n_intents=2, max_epochs=1)).fit(walks(), 40)
    why = model.transform(walks(), evidence=True).evidence
    assert (why.items[:, 0] > 0).mean() > 0.5
    assert why.items.max() <= 40 and why.shares.shape == (120, MOST)
    assert (why.intents[:, :2] >= 0).all() and (why.intents[:, 2] == -1).all()


def test_nobody_has_no_evidence(model):
    labels = model.transform(Histories.from_lists([]), evidence=True)
    assert len(labels) == 0 and labels.evidence.items.shape == (0, MOST)
