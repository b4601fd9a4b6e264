"""Where intents start when users' groups are known, and when a group of users fits none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elcrec.intents import group_centers, unfitted_groups


def around(directions: list[int], users: int, spread: float = 0.2, d: int = 24) -> torch.Tensor:
    """`users` points around each of the axes, one group after the other."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.eye(d)[directions].repeat_interleave(users, 0)
    return axes + spread * torch.randn(axes.shape, generator=generator) / d**0.5


def test_known_groups_start_at_their_means_and_one_without_users_far_from_all():
    points = around([0, 1, 2], 20)
    groups = np.repeat([1, 0, -1], 20)
    centers = group_centers(points, groups, 3)
    unit = F.normalize(points, dim=-1)
    torch.testing.assert_close(centers[0], F.normalize(unit[20:40].mean(0), dim=-1))
    torch.testing.assert_close(centers[1], F.normalize(unit[:20].mean(0), dim=-1))
    assert centers[2] @ torch.eye(24)[2] > 0.9


def test_without_any_known_user_the_centers_are_different_users():
    centers = group_centers(around([0, 1, 2], 20), np.full(60, -1), 3)
    assert (centers @ centers.T).triu(1).max() < 0.5


def test_each_group_that_fits_no_center_gets_one():
    points = torch.cat([around([0, 1, 2], 100), around([3, 4], 12)])
    added = unfitted_groups(points, torch.eye(24)[:3], 10)
    assert sorted((added @ torch.eye(24).T).argmax(1).tolist()) == [3, 4]
    assert (added.norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("strange", "least_users"),
    [
        (around([3], 12), 13),  # too few
        (around(list(range(3, 23)), 1), 10),  # each alone
    ],
)
def test_few_or_scattered_users_that_fit_no_center_get_none(strange, least_users):
    points = torch.cat([around([0, 1, 2], 100), strange])
    assert len(unfitted_groups(points, torch.eye(24)[:3], least_users)) == 0


def test_an_intent_of_two_halves_is_not_parted():
    halves = around([0, 1], 60) + around([2, 2], 60)
    points = torch.cat([around([5, 6, 7], 100), halves])
    middle = F.normalize(halves.mean(0), dim=-1)
    assert len(unfitted_groups(points, torch.stack([*torch.eye(24)[5:8], middle]), 10)) == 0


@pytest.mark.slow
def test_a_group_behind_thousands_who_fit_badly_is_found_whatever_the_order_of_users():
    d = 64
    typical = around([0, 1, 2], 10_000, d=d)
    generator = torch.Generator().manual_seed(1)
    strays = torch.zeros(5_000, d)
    strays[:, 4:] = torch.randn(5_000, d - 4, generator=generator)
    group = around([3], 2_500, d=d)
    for order in (torch.cat([typical, strays, group]), torch.cat([group, strays, typical])):
        added = unfitted_groups(order, torch.eye(d)[:3], 1_000)
        assert (added @ torch.eye(d).T).argmax(1).tolist() == [3]
