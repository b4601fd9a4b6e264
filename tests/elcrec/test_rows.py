import pytest
import torch
from torch import nn

from elcrec.rows import RowAdam


def trained(steps: list[list[int]], decays: list[float]) -> tuple[nn.Embedding, RowAdam, list]:
    """Pull some rows of a table towards 1 at each step; return the weights after each, too."""
    torch.manual_seed(0)
    table = nn.Embedding(6, 4)
    rows = RowAdam(table, 0.1, averaged=True)
    weights = [table.weight.detach().clone()]
    for touched, decay in zip(steps, decays, strict=True):
        (table(torch.tensor(touched)) - 1).square().sum().backward()
        rows.step(decay)
        weights.append(table.weight.detach().clone())
    return table, rows, weights


STEPS = [[1, 2], [2], [5, 5, 1], [2, 3], [1]]
DECAYS = [0.2, 0.5, 0.8, 0.9, 0.9]


def test_a_step_changes_the_rows_with_a_gradient_and_no_others():
    *_, weights = trained(STEPS, DECAYS)
    for touched, before, after in zip(STEPS, weights, weights[1:], strict=False):
        changed = (before != after).any(1).nonzero().squeeze(1).tolist()
        assert changed == sorted(set(touched))


def test_a_rows_first_step_is_as_long_as_the_learning_rate():
    *_, weights = trained(STEPS, DECAYS)
    moved = (weights[1] - weights[0])[1]
    assert moved.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)


def test_the_average_is_that_of_a_pass_over_the_whole_table_at_every_step():
    _, rows, weights = trained(STEPS, DECAYS)
    expected = weights[0]
    for after, decay in zip(weights[1:], DECAYS, strict=True):
        expected = expected.lerp(after, 1 - decay)
    torch.testing.assert_close(rows.average(), expected)
    torch.testing.assert_close(rows.average(), expected)  # reading it changes nothing


def test_rows_come_to_what_they_are_pulled_to():
    table, *_ = trained([[1, 2]] * 400, [0.9] * 400)
    torch.testing.assert_close(table.weight[1:3], torch.ones(2, 4), atol=0.02, rtol=0)
