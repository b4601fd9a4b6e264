"""Simple recommenders that a model has to beat: they know counts, and nothing of sequences.

Each scores a few items of every user, and ranks all others by popularity behind them. As for a
model, an item with the target's own score counts as ranked before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elcrec.evaluation import distinct_seen, popularity_ranks
from elcrec.histories import Histories, Split, ragged_arange

WINDOW = 5  # events apart at most that items of a history count as seen together
NEIGHBOURS = 100  # of an item, those most often seen together with it
MOST_EVENTS = 1_000_000  # that items are counted in; bounds time and memory
BLOCK_USERS = 16_384  # ranked at once; bounds the memory, whatever the number of users


@dataclass(frozen=True)
class Scores:
    """Scores above 0 of some items of some users, each pair once.

    users, items, scores: int64 `[m]`; users ascend.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.int64]


def last_item_ranks(
    split: Split, counts: NDArray[np.integer], among_all: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Rank of every target when the user's last item comes first again, int64 `[n]`, 0 is first.

    counts: of items 0 … V. among_all: bool `[n]`, see `target_ranks`.
    """

    def last(histories: Histories) -> Scores:
        users = np.flatnonzero(histories.lengths)
        items = histories.items[histories.offsets[1:][users] - 1].astype(np.int64)
        return Scores(users, items, np.ones(users.size, np.int64))

    return _ranks(last, split, counts, among_all)


def most_frequent_ranks(
    split: Split, counts: NDArray[np.integer], among_all: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Rank of every target by how often the user had it; arguments as of `last_item_ranks`."""

    def own(histories: Histories) -> Scores:
        width = counts.size
        users = np.repeat(np.arange(len(histories)), histories.lengths)
        pairs, often = np.unique(users * width + histories.items, return_counts=True)
        return Scores(pairs // width, pairs % width, often)

    return _ranks(own, split, counts, among_all)


def cooccurrence_ranks(
    split: Split,
    counts: NDArray[np.integer],
    among_all: NDArray[np.bool_] | None = None,
    seed: int = 0,
    known: Histories | None = None,
) -> NDArray[np.int64]:
    """Rank of every target by how often it is seen together with the user's last item.

    Together is at most WINDOW events apart in a history of `known`, in either order; by default in
    those of `split`. Of more than MOST_EVENTS events those of users drawn by `seed` are counted.
    Other arguments as of `last_item_ranks`.
    """
    histories = split.histories if known is None else known
    starts, neighbours, often = _neighbours(histories, counts, seed)

    def of_last(histories: Histories) -> Scores:
        users = np.flatnonzero(histories.lengths)
        last = histories.items[histories.offsets[1:][users] - 1]
        lengths = starts[last + 1] - starts[last]
        rows = ragged_arange(starts[last], lengths)
        return Scores(np.repeat(users, lengths), neighbours[rows], often[rows])

    return _ranks(of_last, split, counts, among_all)


def _neighbours(
    histories: Histories, counts: NDArray[np.integer], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The items seen together with each item, the most frequent first, and how often.

    Returns int64 `[V + 2]`, where the neighbours of item i begin, and two columns of them.
    """
    if histories.items.size > MOST_EVENTS:
        order = np.random.default_rng(seed).permutation(len(histories))
        within = np.cumsum(histories.lengths[order]) <= MOST_EVENTS
        histories = histories.take(np.sort(order[within]))
    width = counts.size
    owners = np.repeat(np.arange(len(histories)), histories.lengths)
    items = histories.items.astype(np.int64)
    keys = []
    for apart in range(1, WINDOW + 1):
        one, other = items[:-apart], items[apart:]
        both = (owners[:-apart] == owners[apart:]) & (one != other)
        one, other = one[both], other[both]
        keys.append(np.minimum(one, other) * width + np.maximum(one, other))
    pairs, often = np.unique(np.concatenate(keys), return_counts=True)
    item = np.concatenate([pairs // width, pairs % width])
    neighbour = np.concatenate([pairs % width, pairs // width])
    often = np.concatenate([often, often])
    # Ties as in the ranking: the more popular first.
    place = np.empty(width, np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(width)
    order = _order(item, often.max(initial=0) - often, place[neighbour])
    item, neighbour, often = item[order], neighbour[order], often[order]
    starts = np.searchsorted(item, np.arange(width + 1))
    kept = np.arange(item.size) - starts[item] < NEIGHBOURS
    starts = np.searchsorted(item[kept], np.arange(width + 1))
    return starts, neighbour[kept], often[kept]


def _order(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions that sort by the first key, then by the next; keys are not below 0."""
    bits = [int(key.max(initial=0)).bit_length() for key in keys]
    if sum(bits) > 63:
        return np.lexsort(keys[::-1])
    packed = np.zeros(keys[0].size, np.int64)  # one sort of one number is several times as fast
    for key, width in zip(keys, bits, strict=True):
        packed = (packed << width) | key
    return np.argsort(packed)


def _ranks(
    scored: Callable[[Histories], Scores],
    split: Split,
    counts: NDArray[np.integer],
    among_all: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Rank of every target by the scores of a block of users, then by popularity."""
    ranks = np.empty(len(split.histories), np.int64)
    everything = np.zeros(ranks.size, bool) if among_all is None else among_all
    for first in range(0, ranks.size, BLOCK_USERS):
        block = slice(first, min(first + BLOCK_USERS, ranks.size))
        part = Split(split.histories.slice(block.start, block.stop), split.targets[block])
        ranks[block] = _block_ranks(scored(part.histories), part, counts, everything[block])
    return ranks


def _block_ranks(
    given: Scores, split: Split, counts: NDArray[np.integer], among_all: NDArray[np.bool_]
) -> NDArray[np.int64]:
    n, width = len(split.histories), counts.size
    seen_users, seen_items = distinct_seen(split, among_all)
    popular = popularity_ranks(split, counts, among_all, (seen_users, seen_items))
    seen = seen_users * width + seen_items  # ascends
    pairs = given.users * width + given.items
    at = np.minimum(np.searchsorted(seen, pairs), max(seen.size - 1, 0))
    excluded = seen[at] == pairs if seen.size else np.zeros(pairs.size, bool)
    is_target = given.items == split.targets[given.users]
    target_scores = np.zeros(n, np.int64)
    target_scores[given.users[is_target]] = given.scores[is_target]

    others = ~excluded & ~is_target
    users, items, scores = (column[others] for column in (given.users, given.items, given.scores))
    as_popular = counts[items] >= counts[split.targets[users]]
    before = (scores > target_scores[users]) | ((scores == target_scores[users]) & as_popular)
    ranks = np.bincount(users[before], minlength=n)
    # Behind all that have a score come the others by popularity.
    unscored = target_scores == 0
    behind = popular - np.bincount(users[as_popular], minlength=n)
    ranks[unscored] += behind[unscored]
    return ranks
