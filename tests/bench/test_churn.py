"""The curve of churn is of labels as a night would give and hold them."""

import numpy as np
import pytest

from bench.churn import DEFAULT, Labeller, Moments, Rule, churn, newest_events, nights
from elcrec import Config, ELCRec, Histories


@pytest.fixture(scope="module")
def fitted() -> tuple[ELCRec, Histories]:
    rng = np.random.default_rng(3)
    lists = [rng.integers(1, 13, rng.integers(3, 9)).tolist() for _ in range(60)]
    histories = Histories.from_lists(lists)
    config = Config(dim=8, filters=2, n_intents=4, max_epochs=1, warmup_epochs=0, threads=1)
    model = ELCRec(config).fit(histories)
    model.calibrate(histories)
    return model, histories


@pytest.mark.parametrize("ratio", [1.0, 1.5, 20.0, float("inf")])
def test_labels_are_held_as_the_model_holds_them_moment_by_moment(
    fitted: tuple[ELCRec, Histories], ratio: float
) -> None:
    model, histories = fitted
    moments = newest_events(histories)
    found = Labeller(model, moments, histories).labels(Rule(ratio=ratio))
    for user in range(len(histories)):
        mine, before = found[moments.offsets[user] : moments.offsets[user + 1]], None
        for at, length in enumerate(moments.lengths[moments.offsets[user] :][: mine.size]):
            part = Histories.from_lists([histories[user][:length].tolist()])
            before = model.transform(part, before, ratio).intent
            assert mine[at] == before[0]


def test_a_rule_that_asks_for_several_moments_changes_a_label_that_much_later(
    fitted: tuple[ELCRec, Histories],
) -> None:
    model, histories = fitted
    moments = newest_events(histories)
    labeller = Labeller(model, moments, histories)
    at_once, later = (labeller.labels(Rule(ratio=1, in_a_row=n)) for n in (1, 2))
    assert 0 < churn(moments, later, False) < churn(moments, at_once, False)
    for user in range(len(histories)):
        rows = slice(moments.offsets[user], moments.offsets[user + 1])
        best, held = at_once[rows], later[rows]
        for row in np.flatnonzero(np.diff(held)) + 1:
            assert best[row] == held[row] and best[row - 1] != held[row - 1]


def test_moments_are_the_newest_events_or_the_ends_of_nights() -> None:
    known = Histories.from_lists([[1, 2, 3, 4], [1], list(range(1, 16))])
    events = newest_events(known)
    assert events.offsets.tolist() == [0, 4, 5, 15]
    assert events.lengths.tolist() == [1, 2, 3, 4, 1, *range(6, 16)]
    days = [np.array([5, 5, 6, 6, 7]), np.array([9]), np.repeat([1, 2, 4], 5)]
    of_nights = nights(known, days)
    assert of_nights.lengths.tolist() == [2, 4, 1, 5, 10, 15]
    assert of_nights.offsets.tolist() == [0, 2, 3, 6]
    assert of_nights.prefixes(known)[0].tolist() == [1, 2]


def test_churn_counts_a_label_that_differs_from_the_one_before() -> None:
    moments = Moments(np.array([1, 2, 3, 1, 1, 2]), np.array([0, 3, 4, 6]))
    labels = np.array([7, 8, 8, 1, 2, 3])
    assert churn(moments, labels, of_last=False) == pytest.approx(2 / 3)
    assert churn(moments, labels, of_last=True) == pytest.approx(1 / 2)


def test_a_rule_is_told_by_what_departs_from_a_nights() -> None:
    assert str(DEFAULT) == "ratio 20"
    assert str(Rule(chance=0.5)) == "chance 0.5"
    assert str(Rule(ratio=100, recency=0, in_a_row=2)) == "ratio 100, recency 0, in a row 2"
