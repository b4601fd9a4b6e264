import numpy as np

from elcrec import Config
from elcrec.views import CROP, MASK, REORDER, random_view

CONFIG = Config.preset("paper", max_length=20)


class OneKind(np.random.Generator):
    """A generator that always draws the same augmentation."""

    def __init__(self, kind: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.kind = kind

    def integers(self, low, high=None, size=None, **rest):
        return np.full(size, self.kind)


def view_of(kind: int, lengths: list[int]):
    sizes = np.array(lengths)
    items = np.concatenate([np.arange(1, n + 1) for n in lengths])
    view = random_view(items, sizes, CONFIG, OneKind(kind))
    ends = np.cumsum(view.lengths)
    return [
        (view.items[e - n : e].tolist(), view.positions[e - n : e].tolist())
        for e, n in zip(ends, view.lengths, strict=True)
    ]


def test_crop_keeps_a_window_at_the_right_end():
    for length, (items, positions) in zip(
        [10, 20, 1, 3], view_of(CROP, [10, 20, 1, 3]), strict=True
    ):
        kept = max(1, int(0.2 * length))
        assert len(items) == kept
        assert items == list(range(items[0], items[0] + kept))
        assert 1 <= items[0] <= length - kept + 1
        assert positions == list(range(20 - kept, 20))


def test_mask_leaves_the_others_where_they_were():
    for length, (items, positions) in zip(
        [10, 20, 1, 2], view_of(MASK, [10, 20, 1, 2]), strict=True
    ):
        assert len(items) == length - int(0.7 * length)
        assert items == sorted(items)
        assert positions == [20 - length + item - 1 for item in items]


def test_reorder_shuffles_one_window_only():
    shuffled = 0
    for length, (items, positions) in zip([20] * 50, view_of(REORDER, [20] * 50), strict=True):
        assert sorted(items) == list(range(1, length + 1))
        assert positions == list(range(20 - length, 20))
        moved = [i for i, item in enumerate(items) if item != i + 1]
        shuffled += bool(moved)
        assert not moved or moved[-1] - moved[0] < int(0.2 * length)
    assert shuffled > 25


def test_every_kind_is_drawn_and_no_view_is_empty():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, 400)
    view = random_view(np.ones(lengths.sum(), np.int64), lengths, CONFIG, rng)
    assert view.lengths.min() >= 1
    share = view.lengths / lengths
    assert (share[lengths >= 10] < 0.25).any()  # crop
    assert ((share > 0.25) & (share < 1)).any()  # mask
    assert (share[lengths >= 10] == 1).any()  # reorder
