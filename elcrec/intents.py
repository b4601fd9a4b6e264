"""Intents: assignment, k-means, and the metrics that say what a label is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from elcrec.errors import ELCRecError
from elcrec.evaluation import distinct_seen, popularity_ranks
from elcrec.evidence import Evidence
from elcrec.histories import Histories, Split, leave_one_out


@dataclass(frozen=True)
class Labels:
    """One intent a user and the runner-up: ids int32 `[n]`, confidences float32 `[n]`.

    A user without a known item has −1 and NaN. evidence: why, where it was asked for.
    """

    intent: NDArray[np.int32]
    confidence: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    runner_up_confidence: NDArray[np.float32]
    evidence: Evidence | None = None

    def __len__(self) -> int:
        return self.intent.size

    @classmethod
    def none(cls, n: int, *, evidence: bool = False) -> Labels:
        """No labels, of `n` users."""
        ids, sure = np.full((2, n), -1, np.int32), np.full((2, n), np.nan, np.float32)
        return cls(ids[0], sure[0], ids[1], sure[1], Evidence.none(n) if evidence else None)

    @classmethod
    def joined(cls, parts: Sequence[Labels]) -> Labels:
        """Labels of some users after those of others; evidence of all of them, or of none."""
        evidence = [part.evidence for part in parts if part.evidence is not None]
        return cls(
            np.concatenate([part.intent for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.runner_up for part in parts]),
            np.concatenate([part.runner_up_confidence for part in parts]),
            Evidence.joined(evidence) if evidence else None,
        )


def spherical_kmeans(
    points: Tensor, k: int, iterations: int = 20, seed: int = 0, starts: int = 1
) -> tuple[Tensor, Tensor]:
    """Unit centres `[k, d]` and the nearest centre of each point, int64 `[n]`, by cosine.

    points: `[n, d]`, n ≥ k. Starts from greedy k-means++; a centre that loses all its points moves
    to the point that fits its own centre worst. Of several starts the one is kept whose points lie
    nearest to their centres. No two centres are the same, even if all points are.
    """
    n = points.shape[0]
    if n < k:
        raise ELCRecError(f"{k} centres need at least as many users, there are {n}")
    unit = F.normalize(points, dim=-1)
    generator = torch.Generator().manual_seed(seed)
    found = [_kmeans_once(unit, k, iterations, generator) for _ in range(starts)]
    centers, nearest, _ = max(found, key=lambda result: result[2])
    # Centres that coincide (there are fewer different points than centres) would share users by
    # rounding alone: all but the first of them turn away.
    coincide = (centers @ centers.T > 1 - 1e-6).triu(1).any(0)
    if coincide.any():
        away = torch.randn(int(coincide.sum()), unit.shape[1], generator=generator)
        centers[coincide] = F.normalize(away, dim=-1).to(unit.device)
        nearest, _ = _nearest(unit, centers)
    return centers, nearest


def group_centers(points: Tensor, groups: NDArray[np.integer], k: int, seed: int = 0) -> Tensor:
    """Unit centres `[k, d]` of users whose groups are known: each the mean direction of its group.

    points: `[n, d]`; groups: int `[n]`, −1 for none. Where a group has no user the centre is a
    point far from all others, as k-means++ chooses it.
    """
    unit = F.normalize(points, dim=-1)
    sums = unit.new_zeros(k, unit.shape[1])
    known = np.flatnonzero(groups >= 0)
    of_users = torch.from_numpy(groups[known].astype(np.int64)).to(unit.device)
    sums.index_add_(0, of_users, unit[torch.from_numpy(known).to(unit.device)])
    filled = torch.bincount(of_users, minlength=k) > 0
    centers = F.normalize(sums, dim=-1)
    generator = torch.Generator().manual_seed(seed)
    spread = _spread_points(unit, k, generator, centers[filled] if filled.any() else None)
    centers[~filled] = spread[int(filled.sum()) :]
    return centers


MOST_CANDIDATES = 4_096  # drawn of the users that fit no centre; bounds the memory
KMEANS_ITERATIONS = 20
# A user fits no intent when similarity < median − max(UNFITTED · (median − q25), LEAST_GAP). The
# similarity is the cosine to the nearest centre; median and q25, the lower quartile, are over all
# users: a new group of users hardly moves these two. LEAST_GAP counts where intents are very tight.
UNFITTED, LEAST_GAP = 4.0, 0.25


def unfitted_groups(points: Tensor, centers: Tensor, least_users: int, seed: int = 0) -> Tensor:
    """Unit centres `[m, d]` for groups of users who fit each other but none of the centres.

    Those are a group whom a new centre would take at least half of the way from how their nearest
    centre fits to how that of a typical user does, when they are `least_users` or more and are on
    average too far from all centres (`UNFITTED`, `LEAST_GAP`). Users who only fit badly are
    scattered and make no group; those of half an intent are near enough to its centre.

    points: `[n, d]`; centers: `[k, d]`. seed: of the draw of users to begin a group at, where more
    fit no centre than can be looked at together.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(points, dim=-1)
    _, fit = _nearest(unit, F.normalize(centers, dim=-1))
    quarter, half = fit.quantile(0.25), fit.quantile(0.5)
    limit = half - torch.clamp(UNFITTED * (half - quarter), min=LEAST_GAP)
    added: list[Tensor] = []
    while True:
        candidates = (fit < limit).nonzero().squeeze(1)
        if len(candidates) < least_users:
            break
        if len(candidates) > MOST_CANDIDATES:
            drawn = torch.randperm(len(candidates), generator=generator)[:MOST_CANDIDATES]
            candidates = candidates[drawn.to(candidates.device)]
        gains = (unit[candidates] @ unit[candidates].T - fit[candidates]).clamp(min=0)
        center = unit[candidates[gains.sum(1).argmax()]]
        enough = torch.maximum(fit, (fit + half) / 2)
        for _ in range(KMEANS_ITERATIONS):
            center = F.normalize(unit[unit @ center > enough].mean(0), dim=-1)
        similarity = unit @ center
        members = similarity > enough
        if int(members.sum()) < least_users or fit[members].mean() >= limit:
            break
        added.append(center)
        fit = torch.maximum(fit, similarity)
    return torch.stack(added) if added else unit.new_zeros(0, unit.shape[1])


def _kmeans_once(
    unit: Tensor, k: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Centres, nearest centres, and the sum of the points' similarities to them."""
    centers = _spread_points(unit, k, generator)
    nearest, similarity = _nearest(unit, centers)
    for _ in range(iterations):
        sums = torch.zeros_like(centers).index_add_(0, nearest, unit)
        empty = (torch.bincount(nearest, minlength=k) == 0).nonzero().squeeze(1)
        if empty.numel():
            sums[empty] = unit[similarity.argsort()[: empty.numel()]]
        centers = F.normalize(sums, dim=-1)
        nearest, similarity = _nearest(unit, centers)
    return centers, nearest, similarity.sum().item()


def _spread_points(
    unit: Tensor, k: int, generator: torch.Generator, centers: Tensor | None = None
) -> Tensor:
    """Choose points far apart: k-means++ that takes the best of a few draws each time.

    centers: `[c, d]`, the first of the k, to which k − c points are added.
    """
    draws = 2 + int(math.log(k))
    if centers is None:
        centers = unit[torch.randint(unit.shape[0], (1,), generator=generator).to(unit.device)]
        nearest = unit @ centers[0]
    else:
        _, nearest = _nearest(unit, centers)
    distance = (1 - nearest).clamp(min=0)  # [n], to the nearest centre
    for _ in range(k - len(centers)):
        # Drawn in proportion to distance on the cumulative sum: multinomial() ends at 2²⁴ points.
        cumulative = (distance + 1e-12).double().cumsum(0)
        draw = torch.rand(draws, generator=generator, dtype=torch.float64).to(unit.device)
        drawn = torch.searchsorted(cumulative, draw * cumulative[-1]).clamp(max=unit.shape[0] - 1)
        nearer = torch.minimum(distance, (1 - unit[drawn] @ unit.T).clamp(min=0))  # [draws, n]
        best = nearer.sum(1).argmin()
        distance = nearer[best]
        centers = torch.cat([centers, unit[drawn[best : best + 1]]])
    return centers


def _nearest(unit: Tensor, centers: Tensor, block: int = 65_536) -> tuple[Tensor, Tensor]:
    blocks = (unit[i : i + block] for i in range(0, unit.shape[0], block))
    pairs = [(rows @ centers.T).max(1) for rows in blocks]
    return torch.cat([p.indices for p in pairs]), torch.cat([p.values for p in pairs])


def perplexity(labels: NDArray[np.integer]) -> float:
    """`exp(−Σ_j p_j ln p_j)`, p_j the share of the labelled users that have label j."""
    counts = np.bincount(labels[labels >= 0])
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if shares.size else 0.0


def utilisation(labels: NDArray[np.integer], k: int) -> float:
    """Perplexity as a share of the number of intents."""
    return perplexity(labels) / k


def largest_share(labels: NDArray[np.integer]) -> float:
    """Share of the labelled users that the largest intent holds."""
    known = labels[labels >= 0]
    return float(np.bincount(known).max() / known.size) if known.size else 0.0


@dataclass(frozen=True)
class Survival:
    """Of the users labelled with confidence ≥ `confidence`, how many keep a label."""

    confidence: float
    users: float  # share of all users with two events or more
    without_oldest: float  # share of those that keep it when their oldest event is dropped
    without_newest: float  # … when their newest is


def label_survival(
    transform: Callable[[Histories], Labels],
    histories: Histories,
    confidences: Iterable[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
) -> list[Survival]:
    """How stable labels are at each level of confidence, which should grow with it.

    transform: as of a fitted `ELCRec`; histories of fewer than two events are left out.
    """
    longer = histories.take(np.flatnonzero(histories.lengths >= 2))
    labels = transform(longer)
    kept = [
        transform(cut).intent == labels.intent
        for cut in (longer.drop_first(1), longer.drop_last(1))
    ]
    survivals = []
    for confidence in confidences:
        sure = labels.confidence >= confidence
        shares = [float(same[sure].mean()) if sure.any() else float("nan") for same in kept]
        survivals.append(Survival(confidence, float(sure.mean()), *shares))
    return survivals


@dataclass(frozen=True)
class IntentHits:
    """Whether a user's target is among the first K, by intent and by popularity: bool `[n]`."""

    by_intent: NDArray[np.bool_]
    by_popularity: NDArray[np.bool_]
    cutoff: int

    def of(self, users: NDArray[np.bool_]) -> IntentHits:
        """The same of some of the users, by a mask."""
        return IntentHits(self.by_intent[users], self.by_popularity[users], self.cutoff)

    @property
    def lift(self) -> float:
        """HR@K by intent over HR@K by popularity; ELCRecError when popularity hits nothing."""
        if not self.by_popularity.any():
            raise ELCRecError(
                f"popularity finds no target among its first {self.cutoff}: "
                "there is nothing to compare with"
            )
        return float(self.by_intent.mean() / self.by_popularity.mean())


def intent_hits(
    labels: NDArray[np.integer],
    known: Histories,
    split: Split,
    n_items: int,
    cutoff: int = 20,
    among_all: NDArray[np.bool_] | None = None,
    users: NDArray[np.integer] | None = None,
) -> IntentHits:
    """Tell whose target is found by the item counts of the user's intent, and by popularity.

    labels: int `[n]`, made from `known`. Items are scored by their count in the histories `known`
    of the users with the same label (the user's own left out), ties broken by popularity; the
    histories of `split`, which `known` may be, are no candidates.
    users: int `[m]`, whose targets `split` has; by default everybody's.
    among_all: bool `[m]`, see `elcrec.evaluation.target_ranks`.
    """
    popularity = np.bincount(known.items, minlength=n_items + 1)
    return IntentHits(
        intent_ranks(labels, known, split, popularity, among_all, users) < cutoff,
        popularity_ranks(split, popularity, among_all) < cutoff,
        cutoff,
    )


def intent_lift(
    labels: NDArray[np.integer], histories: Histories, n_items: int, cutoff: int = 20
) -> float:
    """How much better a user's intent predicts the newest item than popularity: a ratio of HRs.

    histories: whole ones, `s_1 … s_T` with T ≥ 3; labels: int `[n]`, made from `s_1 … s_{T−2}`
    alone, as the counts that score the items are (`intent_hits`).
    """
    split = leave_one_out(histories, "test")
    return intent_hits(labels, histories.drop_last(2), split, n_items, cutoff).lift


def intent_ranks(
    labels: NDArray[np.integer],
    known: Histories,
    split: Split,
    popularity: NDArray[np.integer],
    among_all: NDArray[np.bool_] | None = None,
    users: NDArray[np.integer] | None = None,
) -> NDArray[np.int64]:
    """Rank of every target by the item counts of the user's intent, int64 `[m]`, 0 is first.

    Arguments as of `intent_hits`.
    """
    # Users without a label are one intent of their own: only what they have in common is known.
    labels = np.where(labels < 0, labels.max(initial=-1) + 1, labels)
    asked, own = (labels, known) if users is None else (labels[users], known.take(users))
    m = len(own)
    tie_break = 1e-3 * popularity / popularity.max()
    their_own = np.repeat(np.arange(m), own.lengths)
    own_target = np.bincount(their_own[own.items == split.targets[their_own]], minlength=m)
    seen_users, seen_items = distinct_seen(split, among_all)
    ranks, target_scores = np.empty(m, np.int64), np.empty(m)
    excluded = np.empty(seen_users.size, bool)
    of_users, of_events, of_seen = map(
        _ByLabel, (asked, np.repeat(labels, known.lengths), asked[seen_users])
    )
    for label in np.unique(asked):
        mine, seen = of_users[label], of_seen[label]
        scores = np.bincount(known.items[of_events[label]], minlength=popularity.size) + tie_break
        target_scores[mine] = scores[split.targets[mine]] - own_target[mine]
        # Less one: the target is among those that score as high, its owner's count in or out.
        ranks[mine] = np.searchsorted(np.sort(-scores[1:]), -target_scores[mine], side="right") - 1
        excluded[seen] = scores[seen_items[seen]] >= target_scores[seen_users[seen]]
    return ranks - np.bincount(seen_users[excluded], minlength=m)


class _ByLabel:
    """Where each label stands in an array of labels, found by one sort."""

    def __init__(self, labels: NDArray[np.integer]) -> None:
        self._order = np.argsort(labels, kind="stable")
        self._sorted = labels[self._order]

    def __getitem__(self, label: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(self._sorted, [label, label + 1])
        return self._order[low:high]
