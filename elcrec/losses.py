"""The losses, each a function of tensors. Symbols as in the paper (arXiv 2401.05975).

M predicted positions, B sequences, V items, k intents, d width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def next_item_bce(
    outputs: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Loss 1 of the paper: `-mean[log σ(e·v⁺) + log(1 − σ(e·v⁻))]`, one negative a position.

    outputs, positives, negatives: `[M, d]`; weights: `[M]`, of the mean. Scalar out.
    """
    positive, negative = (outputs * positives).sum(-1), (outputs * negatives).sum(-1)  # [M]
    return weighted_mean(F.softplus(-positive) + F.softplus(negative), weights)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of `[M]`, each by its weight; of weights that are all 0 it is 0."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=_TINY)


_TINY = torch.finfo(torch.float32).tiny


def next_item_softmax(
    outputs: Tensor,
    items: Tensor,
    targets: Tensor,
    precision: str = "highest",
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the next item against every item.

    outputs: `[M, d]`; items: `[V + 1, d]`, of which row 0 is padding and no candidate; targets:
    int64 `[M]`, rows of `items`; precision: of the products with the items, as
    `torch.set_float32_matmul_precision` names it; weights: `[M]`, of the mean. Scalar out.
    """
    loss: Tensor = _LinearCrossEntropy.apply(outputs, items, targets, precision, weights)  # type: ignore[no-untyped-call]
    return loss


# What torch calls the instructions for products of bfloat16, of x86 and of ARM.
_BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: a CPU with AVX2 alone takes 13 times as long."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in _BFLOAT16_INSTRUCTIONS)


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `outputs @ items.T` whose gradients are made in the forward pass.

    The softmax is the gradient up to the target's −1, so a `[ROWS, V + 1]` buffer that fits the
    cache, overwritten in place, does for logits, probabilities and gradient; autograd's own way
    keeps and passes over four of them. BLOCKS such buffers go into one product with either side:
    the items' gradient, as large as the vocabulary, is then seldom read and written.
    """

    # Of a block on a CPU, about: many enough for a fast product, few enough for the cache. Blocks
    # are of one size, a multiple of STEP, and the last one is filled up to it, for a product of a
    # new shape costs more to prepare than to compute.
    ROWS = 96
    STEP = 16
    BLOCKS = 3

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Tensor,
        items: Tensor,
        targets: Tensor,
        precision: str,
        weights: Tensor | None,
    ) -> Tensor:
        count = outputs.shape[0]
        rows = count
        if outputs.device.type == "cpu":
            wide = count / max(1, round(count / _LinearCrossEntropy.ROWS))
            rows = _LinearCrossEntropy.STEP * math.ceil(wide / _LinearCrossEntropy.STEP)
        chunk = _LinearCrossEntropy.BLOCKS * rows
        filled = F.pad(outputs, (0, 0, 0, -count % rows))
        labels = F.pad(targets, (0, -count % rows)).unsqueeze(1)
        factor = items.dtype
        if precision == "medium" and _multiplies_bfloat16(items.device):
            factor = torch.bfloat16
        factors = items.to(factor)
        scores = outputs.new_empty(rows, items.shape[0])
        slopes = factors.new_empty(min(chunk, filled.shape[0]), items.shape[0])
        loss_of = outputs.new_empty(filled.shape[0], 1)
        scales = torch.empty_like(loss_of)
        outputs_gradient, items_gradient = torch.empty_like(filled), torch.empty_like(items)
        for start in range(0, filled.shape[0], chunk):
            held = slice(start, min(start + chunk, filled.shape[0]))
            for first in range(held.start, held.stop, rows):
                block = slice(first, first + rows)
                with matmul_precision(precision):
                    torch.mm(filled[block], items.T, out=scores)
                scores[:, 0] = -torch.inf
                highest = scores.amax(1, keepdim=True)
                target_scores = scores.gather(1, labels[block]) - highest
                total = scores.sub_(highest).exp_().sum(1, keepdim=True)
                loss_of[block] = total.log() - target_scores
                scores.scatter_add_(1, labels[block], -total)
                slopes[first - start : first - start + rows] = scores
                # The division by the total waits for the products' smaller sides.
                scales[block] = 1 / (total * count)
            scales[count:] = 0.0
            if weights is not None:
                shares = weights[held] * (count / weights.sum().clamp(min=_TINY))
                scales[start : start + shares.numel()] *= shares.unsqueeze(1)
            by_row, scale = slopes[: held.stop - start], scales[held]
            outputs_gradient[held] = (by_row @ factors) * scale
            gathered = by_row.T @ (filled[held] * scale).to(factor)
            # One chunk is the rule: nothing is added up, then.
            items_gradient.copy_(gathered) if start == 0 else items_gradient.add_(gathered)
        ctx.save_for_backward(outputs_gradient[:count], items_gradient)
        return weighted_mean(loss_of[:count, 0], weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        outputs_gradient, items_gradient = ctx.saved_tensors
        # In place: nobody else has them, and a copy of the items' is as large as the vocabulary.
        outputs_gradient.mul_(gradients[0])
        return outputs_gradient, items_gradient.mul_(gradients[0]), None, None, None


@contextmanager
def matmul_precision(wanted: str) -> Iterator[None]:
    """Multiply float32 matrices as `torch.set_float32_matmul_precision` says, meanwhile."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def next_item_sampled_softmax(
    outputs: Tensor,
    positives: Tensor,
    negatives: Tensor,
    collisions: Tensor,
    log_expected: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the next item against negatives that the batch shares.

    A logit is lowered by the log of how often its item is expected among the negatives, which makes
    the loss an estimate of the full softmax (Jean et al. 2015); the target itself is always there.

    outputs, positives: `[M, d]`; negatives: `[S, d]`; collisions: bool `[M, S]`, true where a
    negative is the position's target; log_expected: `[S]`; weights: `[M]`, of the mean. Scalar out.
    """
    positive = (outputs * positives).sum(-1, keepdim=True)  # [M, 1]
    negative = outputs @ negatives.T - log_expected  # [M, S]
    logits = torch.cat([positive, negative.masked_fill(collisions, float("-inf"))], dim=1)
    return weighted_mean(logits.logsumexp(1) - positive.squeeze(1), weights)


def elcm(behaviours: Tensor, centers: Tensor) -> Tensor:
    """Loss 2 of the paper, learnable clustering: push centres apart, pull behaviours to centres.

    `−1/(k(k−1)) Σ_{i≠j} ‖ĉ_i−ĉ_j‖² + 1/(B·k) Σ_i Σ_j ‖ĥ_i−ĉ_j‖²`, hats meaning unit length.

    behaviours: `[B, d]`; centers: `[k, d]`, k ≥ 2. Scalar out. With unit vectors a mean of squared
    distances is 2 − 2·(mean of cosines), so no `[B, k]` matrix is needed.
    """
    h, c = F.normalize(behaviours, dim=-1), F.normalize(centers, dim=-1)
    k = c.shape[0]
    total = c.sum(0)  # Σ_i Σ_j ĉ_i·ĉ_j = ‖Σ ĉ‖², of which k are i = j
    apart = 2 - 2 * (total @ total - c.square().sum()) / (k * (k - 1))
    pull = 2 - 2 * (h.mean(0) @ c.mean(0))
    return pull - apart


def elcm_of_unit_centers(behaviours: Tensor, centers: Tensor) -> Tensor:
    """Loss 2 as published: of unit centres, but with the gradient along their lengths, too.

    `−1/k² Σ_i Σ_j ‖c_i−c_j‖² + 1/(B·k) Σ_i Σ_j ‖ĥ_i−c_j‖²`, so that the first mean has the zeros of
    i = j in it.

    behaviours: `[B, d]`; centers: `[k, d]`, of unit length. Scalar out.
    """
    h = F.normalize(behaviours, dim=-1)
    squared, mean = centers.square().sum(-1).mean(), centers.mean(0)
    apart = 2 * squared - 2 * (mean @ mean)
    pull = h.square().sum(-1).mean() + squared - 2 * (h.mean(0) @ mean)
    return pull - apart


def intent_attraction(scores: Tensor, temperature: float) -> Tensor:
    """Attract each behaviour to the centres near it, the nearest most: a mixture of directions.

    `−τ·mean_i log Σ_j exp(ĥ_i·ĉ_j/τ − log s_j)`, the log-likelihood of a mixture of von
    Mises-Fisher distributions with concentration 1/τ. Its gradient pulls ĥ_i and ĉ_j together in
    proportion to the soft assignment of i to j. Dividing by `s_j`, the share of users that intent
    j has had lately, keeps large intents from growing and hands users to starving ones.

    scores: `ĥ_i·ĉ_j/τ − log s_j`, `[B, k]`, of `intent_scores`. Scalar out.
    """
    return -temperature * scores.logsumexp(1).mean()


def intent_scores(behaviours: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """`ĥ_i·ĉ_j/τ`, whose softmax is the soft assignment: `[B, d]` and `[k, d]` to `[B, k]`."""
    return F.normalize(behaviours, dim=-1) @ F.normalize(centers, dim=-1).T / temperature


def info_nce(
    first: Tensor, second: Tensor, temperature: float = 1.0, same: Tensor | None = None
) -> Tensor:
    """Contrast of B pairs: row i of one side must find row i of the other among both sides' rows.

    first, second: `[B, d]`, compared by dot product; same: bool `[B, B]`, pairs that are no
    negatives of each other (besides a row and itself). Scalar out.
    """
    return info_nce_of_similarities(
        first @ first.T, second @ second.T, first @ second.T, temperature, same
    )


def info_nce_of_similarities(
    first: Tensor,
    second: Tensor,
    across: Tensor,
    temperature: float = 1.0,
    same: Tensor | None = None,
) -> Tensor:
    """`info_nce` from the three `[B, B]` similarity matrices within and between the sides."""
    own = torch.eye(across.shape[0], dtype=torch.bool, device=across.device)
    within = own if same is None else own | same
    across_hidden = torch.zeros_like(own) if same is None else same & ~own
    minus_infinity = float("-inf")
    across = (across / temperature).masked_fill(across_hidden, minus_infinity)
    rows = torch.cat(
        [
            torch.cat([across, (first / temperature).masked_fill(within, minus_infinity)], dim=1),
            torch.cat(
                [across.T, (second / temperature).masked_fill(within, minus_infinity)], dim=1
            ),
        ]
    )  # [2B, 2B]: a row's partner stands on the diagonal of the left half
    targets = torch.arange(across.shape[0], device=across.device).repeat(2)
    return F.cross_entropy(rows, targets)


def intent_contrast(
    behaviours: Tensor, centers: Tensor, temperature: float = 1.0, same: Tensor | None = None
) -> Tensor:
    """Loss 3b: a view must find its user's intent centre among the centres of the batch's users.

    behaviours: `[B, d]` of one view; centers: `[B, d]`, the (unit) centre of each user's intent;
    same: bool `[B, B]`, users of the same intent, when those are no negatives. Scalar out.
    """
    logits = behaviours @ centers.T / temperature  # [B, B]
    if same is not None:
        own = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~own, float("-inf"))
    return F.cross_entropy(logits, torch.arange(logits.shape[0], device=logits.device))
