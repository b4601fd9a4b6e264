"""Is one model worse than another on the same users? The paired bootstrap over users.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: users are drawn anew with
replacement, both models' figures together, and the quantiles of what comes out are the interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elcrec.errors import ELCRecError

BLOCK_CELLS = 4_000_000  # of the table of draws; bounds the memory, whatever the number of users
MOST = 9.0  # a gain of more than tenfold, as over nothing, is told as tenfold


@dataclass(frozen=True)
class Change:
    """How a mean over users changed, as a share of what it was: −0.1 is a tenth less.

    The true change is above `low` with the confidence asked for, and below `high` with the same.
    """

    estimate: float
    low: float
    high: float


def paired_change(
    new: NDArray[np.generic],
    old: NDArray[np.generic],
    *,
    resamples: int = 1_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Change:
    """The relative change of the mean from `old` to `new`, with both its one-sided bounds.

    new, old: `[n]`, numbers ≥ 0 of the same n users, such as NDCG@20 or hits.

    Users with the same pair of numbers are alike, so how often each different pair is drawn is
    multinomial. Drawing these counts is the same bootstrap as drawing n users, and costs nothing a
    user: NDCG@20 of one target has 21 values, a pair of them 441.
    """
    if new.shape != old.shape or new.ndim != 1 or not new.size:
        raise ELCRecError(
            f"figures of the same users are two arrays [n], got {new.shape} and {old.shape}"
        )
    new_values, new_codes = np.unique(new, return_inverse=True)
    old_values, old_codes = np.unique(old, return_inverse=True)
    values = np.concatenate([new_values, old_values]).astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ELCRecError("figures to compare must be finite and not below 0")
    pairs, counts = np.unique(new_codes * old_values.size + old_codes, return_counts=True)
    of_new = new_values[pairs // old_values.size].astype(np.float64)
    of_old = old_values[pairs % old_values.size].astype(np.float64)

    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // pairs.size)
    changes = []
    for first in range(0, resamples, block):
        drawn = rng.multinomial(
            new.size, counts / new.size, size=min(block, resamples - first)
        )  # [b, pairs]
        changes.append(_relative(drawn @ of_new, drawn @ of_old))
    low, high = np.quantile(np.concatenate(changes), [1 - confidence, confidence])
    estimate = _relative(np.array([counts @ of_new]), np.array([counts @ of_old]))
    return Change(float(estimate[0]), float(low), float(high))


def _relative(new: NDArray[np.float64], old: NDArray[np.float64]) -> NDArray[np.float64]:
    """`new / old − 1`, at most MOST; nothing that stays nothing has not changed."""
    share = np.divide(new, old, out=np.where(new > 0, np.inf, 1.0), where=old > 0)
    change: NDArray[np.float64] = np.minimum(share - 1, MOST)
    return change
