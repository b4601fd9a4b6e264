"""Who is held out: enough users to judge by, and the same ones on every night."""

import numpy as np
import pytest

from tasks.registry.held_out import held_out, one_in


@pytest.mark.parametrize(
    ("users", "at_least", "expected"),
    [
        (9_999, 5_000, 1),
        (10_000, 5_000, 2),
        (19_999, 5_000, 2),
        (20_000, 5_000, 4),
        (10_000_000, 5_000, 1024),
        (3, 5_000, 1),
        (10_000_000, 0, 1),
    ],
)
def test_as_few_as_are_enough_are_held_out(users: int, at_least: int, expected: int) -> None:
    assert one_in(users, at_least) == expected


def test_who_is_held_out_of_many_was_so_when_they_were_fewer() -> None:
    hashes = np.random.default_rng(1).integers(2**64, size=40_000, dtype=np.uint64)
    masks = [held_out(hashes, part) for part in (1, 2, 4, 8)]
    assert masks[0].all()
    for fewer, more in zip(masks[1:], masks, strict=False):
        assert (fewer <= more).all()
        assert abs(fewer.sum() / more.sum() - 0.5) < 0.02
