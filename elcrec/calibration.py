"""Confidence that means what it says: how likely a label is to outlive the user's next event.

The softmax over the intents says how near a behaviour is to one centre, not how often such a label
is right: it is too sure on some data and not sure enough on other data. What can be observed is the
label of a user's history without its newest event, and the label with it. Two numbers are fitted to
that, as in temperature scaling (Guo et al., ICML 2017), with one more for what the label has ahead:

    P(intent j is the label after the next event) ∝ p_j^sharpness · exp(inertia if j is it now)

p is the softmax; one event changes a history by little, so the intent that is the most probable now
is more likely to be so next than its p says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

from elcrec.errors import ELCRecError

LEAST_LOG = math.log(torch.finfo(torch.float32).tiny)
AS_IT_IS = np.array([1.0, 0.0])  # the two numbers that leave the softmax as it is
BINS = 15  # of users, in the order of their confidence


@dataclass(frozen=True)
class Calibration:
    """The two numbers that turn a model's softmax into the probabilities of the next label."""

    sharpness: float  # 1 / temperature
    inertia: float  # what the most probable intent has ahead, in the logarithm of probability

    def __call__(self, probabilities: Tensor) -> Tensor:
        """The probability of each intent to be the most probable after the next event.

        probabilities: `[b, k]`, the softmax. The same shape comes out, rows summing to 1.
        """
        # A probability of 0 is below what float32 can tell, not impossible.
        logits = probabilities.log().clamp_(min=LEAST_LOG).mul_(self.sharpness)
        now = probabilities.argmax(1, keepdim=True)
        ahead = torch.full_like(now, self.inertia, dtype=logits.dtype)
        return logits.scatter_add_(1, now, ahead).softmax(1)

    @classmethod
    def fit(cls, probabilities: NDArray[np.floating], after: NDArray[np.integer]) -> Calibration:
        """The calibration that makes what happened the most probable.

        probabilities: `[n, k]`, the softmax before an event; after: int `[n]`, the most probable
        intent after it. Both numbers are drawn to (1, 0), the softmax itself, by as much as one
        user weighs: few users, or users who never change, leave them finite.
        """
        with np.errstate(divide="ignore"):
            log_p = np.maximum(np.log(probabilities.astype(np.float64)), LEAST_LOG)
        users, now = np.arange(len(log_p)), log_p.argmax(1)

        def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            """What happened's negative log-likelihood, convex in the weights, and its gradient."""
            logits = weights[0] * log_p
            logits[users, now] += weights[1]
            log_chances = logits - logsumexp(logits, axis=1, keepdims=True)
            chances = np.exp(log_chances)
            drawn = weights - AS_IT_IS
            value = drawn @ drawn / 2 - log_chances[users, after].sum()
            of_softmax = (chances * log_p).sum() - log_p[users, after].sum()
            of_now = chances[users, now].sum() - (after == now).sum()
            gradient = drawn + np.array([of_softmax, of_now])
            return value / (1 + len(users)), gradient / (1 + len(users))

        found = minimize(loss, AS_IT_IS, jac=True, method="BFGS").x
        return cls(float(found[0]), float(found[1]))

    def to_dict(self) -> dict[str, float]:
        """Plain values by name, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """What `to_dict` gave; anything else is an ELCRecError."""
        try:
            found = cls(**{name: float(value) for name, value in values.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise ELCRecError(f"the calibration {values!r} is damaged: {error}") from None
        return found


@dataclass(frozen=True)
class Foreseen:
    """What was said of the labels of `n` users before an event, and whether they outlived it.

    softmax: float32 `[n]`, the model's own confidence; calibrated: float32 `[n]`;
    stayed: bool `[n]`.
    """

    softmax: NDArray[np.float32]
    calibrated: NDArray[np.float32]
    stayed: NDArray[np.bool_]


@dataclass(frozen=True)
class Reliability:
    """What was foreseen and what happened, of users in the order of their confidence.

    users: int `[bins]`; foreseen: float `[bins]`, the mean confidence; happened: float `[bins]`,
    the share of whom it came true.
    """

    users: NDArray[np.int64]
    foreseen: NDArray[np.float64]
    happened: NDArray[np.float64]

    @classmethod
    def of(
        cls, confidence: NDArray[np.floating], happened: NDArray[np.bool_], bins: int = BINS
    ) -> Reliability:
        """Put users of like confidence into bins of equally many; few users have fewer bins."""
        order = np.argsort(confidence, kind="stable")
        parts = [part for part in np.array_split(order, bins) if part.size]
        return cls(
            np.array([part.size for part in parts], np.int64),
            np.array([confidence[part].mean(dtype=np.float64) for part in parts]),
            np.array([happened[part].mean() for part in parts]),
        )

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of the two over users; NaN without users."""
        if not self.users.size:
            return float("nan")
        return float(np.average(np.abs(self.foreseen - self.happened), weights=self.users))
