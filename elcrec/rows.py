"""Adam for a table of which a step touches few rows: what it costs does not grow with the table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPS = 1e-8
BETAS = (0.9, 0.999)


class RowAdam:
    """Adam on the rows that have a gradient, and the moving average of all rows' weights.

    A row's moments, and the correction of their start at zero, count the steps that touched it
    alone, as the lazy Adam of sparse embeddings does. The second moment is one number a row, the
    mean over its columns. The average stands still while its row does not change but for the
    drift towards it, which is made up for when the row is touched or read: it is exactly what a
    pass over the whole table at every step would give.

    table: an embedding of `[rows, d]`, whose gradients become sparse; averaged: whether the moving
    average is kept.
    """

    def __init__(self, table: nn.Embedding, learning_rate: float, averaged: bool) -> None:
        table.sparse = True
        weight: Tensor = table.weight
        self.weight = weight
        self.learning_rate = learning_rate
        rows = weight.shape[0]
        self.state = {
            "first": torch.zeros_like(weight, requires_grad=False),  # [rows, d]
            "second": weight.new_zeros(rows),
            "touched": weight.new_zeros(rows),  # steps
        }
        if averaged:
            self.state["average"] = weight.detach().clone()
            # Σ log decay of all steps, and what it was when a row's average was last up to date.
            # float64: small differences of a sum that grows for ever.
            self.state["drift"] = weight.new_zeros((), dtype=torch.float64)
            self.state["drift_seen"] = weight.new_zeros(rows, dtype=torch.float64)

    @torch.no_grad()
    def step(self, decay: float) -> None:
        """Use up the gradient; `decay` is that of the average in this step."""
        gradient = self.weight.grad
        assert gradient is not None
        gradient = gradient.coalesce()
        rows, values = gradient.indices()[0], gradient.values()  # [U], [U, d]
        self.weight.grad = None
        self._catch_up(rows)

        touched = self.state["touched"].index_select(0, rows).add_(1)
        first = self.state["first"].index_select(0, rows).lerp_(values, 1 - BETAS[0])
        second = self.state["second"].index_select(0, rows)
        second.lerp_(values.square().mean(1), 1 - BETAS[1])
        for name, value in (("touched", touched), ("first", first), ("second", second)):
            self.state[name].index_copy_(0, rows, value)
        size = (second / (1 - BETAS[1] ** touched)).sqrt_().add_(EPS)
        pace = -self.learning_rate / (size * (1 - BETAS[0] ** touched))
        self.weight.index_add_(0, rows, first.mul_(pace[:, None]))
        if "average" in self.state:
            self.state["drift"] += math.log(decay)

    @torch.no_grad()
    def average(self) -> Tensor:
        """The average of the whole table, up to date, `[rows, d]`."""
        self._catch_up(torch.arange(self.weight.shape[0], device=self.weight.device))
        return self.state["average"]

    def _catch_up(self, rows: Tensor) -> None:
        """Let the averages of `rows` drift to their weights for the steps that left them alone."""
        if "average" not in self.state:
            return
        weights = self.weight.index_select(0, rows)
        missed = self.state["drift"] - self.state["drift_seen"].index_select(0, rows)
        kept = missed.exp().to(weights.dtype)[:, None]
        averages = weights + (self.state["average"].index_select(0, rows) - weights) * kept
        self.state["average"].index_copy_(0, rows, averages)
        # Not by its number, for which a GPU would have to be waited for.
        self.state["drift_seen"].index_copy_(0, rows, self.state["drift"].expand(rows.numel()))
