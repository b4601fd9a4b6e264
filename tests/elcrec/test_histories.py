import numpy as np
import pyarrow as pa
import pytest

from elcrec import ELCRecError, Histories
from elcrec.histories import leave_one_out

LISTS = [[3, 1, 2, 5], [], [4, 4, 7]]


def lists(histories: Histories) -> list[list[int]]:
    return [histories[u].tolist() for u in range(len(histories))]


def test_lists_go_in_and_out():
    assert lists(Histories.from_lists(LISTS)) == LISTS


def test_arrow_columns_keep_their_histories_also_when_sliced_and_chunked():
    column = pa.chunked_array([pa.array(LISTS[:1]), pa.array(LISTS)[1:]])
    assert lists(Histories.from_arrow(column)) == LISTS
    assert lists(Histories.from_arrow(pa.array(LISTS)[1:])) == LISTS[1:]


def test_taking_slicing_and_cutting():
    histories = Histories.from_lists(LISTS)
    assert lists(histories.take(np.array([2, 0]))) == [[4, 4, 7], [3, 1, 2, 5]]
    assert lists(histories.slice(1, 3)) == [[], [4, 4, 7]]
    assert lists(histories.drop_last(2)) == [[3, 1], [], [4]]
    assert lists(histories.drop_first(3)) == [[5], [], []]


@pytest.mark.parametrize(
    ("split", "seen", "targets"),
    [("validation", [[3, 1], [4]], [2, 4]), ("test", [[3, 1, 2], [4, 4]], [5, 7])],
)
def test_leave_one_out_hides_the_target_and_all_after_it(split, seen, targets):
    side = leave_one_out(Histories.from_lists([LISTS[0], LISTS[2]]), split)
    assert lists(side.histories) == seen
    assert side.targets.tolist() == targets


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Histories.from_lists([[1], [2, 0]]), "user 1 has item 0 at event 1"),
        (lambda: Histories.from_lists([[-4]]), "user 0 has item -4"),
        (lambda: Histories(np.array([1, 2]), np.array([0, 1])), "offsets must run from 0"),
        (lambda: Histories(np.array([1.5]), np.array([0, 1])), "items must be integers"),
        (lambda: Histories.from_arrow(pa.array([[1], None])), "1 histories are null"),
        (lambda: leave_one_out(Histories.from_lists([[1, 2]]), "test"), "at least 3"),
        (
            lambda: leave_one_out(Histories.from_lists([[1, 2, 3]]), "train"),
            "unknown split 'train'",
        ),
    ],
)
def test_wrong_histories_are_named(make, sentence):
    with pytest.raises(ELCRecError, match=sentence):
        make()
