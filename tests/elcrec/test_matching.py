import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elcrec.matching import deserted, first_ids, match_intents


def matched(before, after, *, ids=None, k=None, next_id=None, carried=None, least=0.2):
    before, after = np.array(before), np.array(after)
    ids = np.arange(before.max() + 1, dtype=np.int32) if ids is None else np.array(ids, np.int32)
    return match_intents(
        before,
        after,
        ids,
        after.max() + 1 if k is None else k,
        int(ids.max()) + 1 if next_id is None else next_id,
        least_overlap=least,
        carried=None if carried is None else np.array(carried),
    )


def test_a_first_model_counts_from_zero():
    first = first_ids(3)
    assert first.ids.tolist() == [0, 1, 2]
    assert not first.inherited.any()
    assert first.next_id == 3


def test_renumbered_intents_keep_the_ids_of_their_users():
    found = matched([0, 0, 1, 1, 2, 2], [2, 2, 0, 0, 1, 1], ids=[7, 4, 9], next_id=12)
    assert found.ids.tolist() == [4, 9, 7]
    assert found.inherited.all()
    assert found.retired.size == 0
    assert found.next_id == 12


def test_an_intent_of_users_from_everywhere_is_born_and_one_that_lost_its_users_retired():
    before = [0] * 6 + [1] * 6 + [2] * 2
    after = [0] * 5 + [2] + [1] * 5 + [2] + [0] + [1]
    found = matched(before, after, ids=[0, 1, 5], next_id=8)
    assert found.ids.tolist() == [0, 1, 8]
    assert found.inherited.tolist() == [True, True, False]
    assert found.retired.tolist() == [5]
    assert found.next_id == 9


def test_of_a_split_the_larger_half_keeps_the_id_and_both_say_where_they_came_from():
    found = matched([0] * 10, [0] * 4 + [1] * 6, ids=[3], next_id=4)
    assert found.ids.tolist() == [4, 3]
    assert found.origins.tolist() == [[1.0], [1.0]]


def test_of_a_merger_one_id_stays_and_the_other_retires():
    found = matched([0] * 6 + [1] * 4, [0] * 10, ids=[3, 4], next_id=5)
    assert found.ids.tolist() == [3]
    assert found.retired.tolist() == [4]
    assert found.origins.tolist() == [[0.6, 0.4]]


def test_a_centre_without_users_keeps_its_id_only_while_it_has_none():
    waits = matched([0, 0], [0, 0], ids=[0, 1], k=2, carried=[0, 1])
    assert waits.ids.tolist() == [0, 1]
    lost = matched([0, 0, 1], [0, 0, 0], ids=[0, 1], k=2, carried=[0, 1])
    assert lost.ids.tolist() == [0, 2]
    assert lost.retired.tolist() == [1]


def test_nobody_takes_over_the_id_of_an_intent_that_was_given_up():
    found = matched([0] * 4 + [1] * 4, [0] * 4 + [1] * 4, ids=[5, 7], next_id=9, carried=[0, -1])
    assert found.ids.tolist() == [5, 9]
    assert found.retired.tolist() == [7]
    assert found.origins.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_an_intent_is_deserted_when_those_who_still_come_are_after_something_else():
    intents = np.repeat([0, 1, 2], 100)
    recently_consistent = np.tile(np.arange(100) < 40, 3)
    assert not deserted(intents, recently_consistent, 3, 0.05).any()
    recently_consistent[100:] &= np.tile(np.arange(100) < 4, 2)
    recently_consistent[200:] = np.arange(100) < 40
    assert deserted(intents, recently_consistent, 3, 0.05).tolist() == [False, True, False]


def test_that_few_users_come_at_all_or_none_of_a_few_is_no_desertion():
    intents = np.repeat([0, 1, 2], [100, 100, 10])
    recently_consistent = np.arange(210) % 25 == 0  # about four of a hundred
    recently_consistent[100:] = False
    assert not deserted(intents, recently_consistent, 3, 0.05).any()


def test_an_intent_with_hardly_a_user_is_deserted_but_never_all_are():
    intents = np.repeat([-1, 0, 1], [50, 98, 2])
    nobody = np.zeros(intents.size, bool)
    assert deserted(intents, nobody, 3, 0.1).tolist() == [False, True, True]
    assert not deserted(np.full(9, -1), np.zeros(9, bool), 3, 0.1).any()


def test_users_that_one_of_the_models_does_not_know_decide_nothing():
    found = matched([0, 0, -1, 1], [1, 1, 0, 0], ids=[0, 1])
    assert found.ids.tolist() == [1, 0]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ids_are_unique_and_new_ones_were_never_given(data):
    users = data.draw(st.integers(1, 30))
    k_before, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    before = data.draw(st.lists(st.integers(-1, k_before - 1), min_size=users, max_size=users))
    after = data.draw(st.lists(st.integers(-1, k - 1), min_size=users, max_size=users))
    ids = data.draw(st.permutations(range(10)))[:k_before]
    started = [*range(k_before), *[-1] * k]
    carried = data.draw(st.none() | st.permutations(started).map(lambda places: places[:k]))
    found = matched(before, after, ids=ids, k=k, next_id=10, carried=carried)
    assert len(set(found.ids.tolist())) == k
    assert all(id_ >= 10 for id_ in found.ids[~found.inherited])
    assert set(found.retired.tolist()) == set(ids) - set(found.ids.tolist())
    assert found.next_id == 10 + (~found.inherited).sum()


def test_matching_undoes_any_renumbering():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, 500)
    order = rng.permutation(20)
    found = matched(labels, order[labels])
    assert found.ids[order[labels]].tolist() == labels.tolist()


@pytest.mark.parametrize(("least", "kept"), [(0.6, True), (0.7, False)])
def test_a_pair_that_shares_too_few_users_is_none(least, kept):
    # Each pair shares two users of three in either.
    found = matched([0] * 3 + [1] * 2, [0, 1, 1, 0, 0], ids=[0, 1], least=least)
    assert found.inherited.tolist() == [kept, kept]


def test_a_pair_that_shares_too_few_users_keeps_no_two_others_from_their_partners():
    # Without the limit 0→1 and 1→0 would add up to more than 0→0; and 0→1 is none.
    before = [0] * 62 + [1] * 44 + [2] * 30
    after = [0] * 52 + [1] * 10 + [0] * 44 + [1] * 5 + [2] * 25
    found = matched(before, after, ids=[7, 8, 9], next_id=10, least=0.15)
    overlaps = {"0→0": 52 / 106, "0→1": 10 / 67, "1→0": 44 / 96}
    assert overlaps["0→1"] < 0.15 and overlaps["0→1"] + overlaps["1→0"] > overlaps["0→0"]
    assert found.ids.tolist() == [7, 10, 9]
    assert found.retired.tolist() == [8]
