import numpy as np

from elcrec import Histories
from elcrec.negatives import FrequentItems, UnseenItems
from tests.elcrec.test_training import walks


def test_unseen_items_are_none_that_the_user_has_had():
    histories = walks()
    events = np.repeat(np.arange(histories.items.size), 5)
    users = np.repeat(np.arange(len(histories)), histories.lengths)[events]
    drawn = UnseenItems(histories, 40).draw(events, np.random.default_rng(0))
    assert (drawn.min(), drawn.max()) == (1, 40)
    for user, item in zip(users, drawn, strict=True):
        assert item not in histories[user]


def test_items_that_a_user_will_have_are_drawn_unless_they_are_named():
    histories = Histories.from_lists([[1, 2, 3, 4]])
    events = np.zeros(200, np.int64)
    known = histories.drop_last(2)
    drawn = UnseenItems(known, 8).draw(events, np.random.default_rng(0))
    assert set(drawn) == {3, 4, 5, 6, 7, 8}
    drawn = UnseenItems(known, 8, histories).draw(events, np.random.default_rng(0))
    assert set(drawn) == {5, 6, 7, 8}


def test_a_user_who_has_had_everything_still_gets_an_item():
    drawn = UnseenItems(Histories.from_lists([[1, 2]]), 2).draw(
        np.zeros(9, np.int64), np.random.default_rng(0)
    )
    assert set(drawn) <= {1, 2}


def test_frequent_items_come_by_the_root_of_their_count_and_say_how_often():
    histories = Histories.from_lists([[1] * 99 + [2] * 24])  # roots of count + 1: 10, 5 and 1
    frequent = FrequentItems(np.bincount(histories.items, minlength=4))
    drawn, log_expected = frequent.draw(160_000, np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=4)
    np.testing.assert_allclose(counts, [0, 100_000, 50_000, 10_000], rtol=0.05)
    expected = dict(zip(drawn.tolist(), np.exp(log_expected).tolist(), strict=True))
    np.testing.assert_allclose([expected[i] for i in (1, 2, 3)], counts[1:], rtol=0.05)
