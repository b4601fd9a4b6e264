"""Full ranking by leave-one-out: hit rate and NDCG of a model and of popularity.

Every real item is a candidate but those the user has had (never the target itself). An item with
the target's own score counts as ranked before it: a model that scores all alike gets nothing.

A target that the user has had before would be the only such candidate, and be found by default.
Such repeats are to be ranked among all items, apart from the targets that are new to their users
(`is_repeat`, and `among_all` of what ranks).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elcrec.details import read_details
from elcrec.errors import ELCRecError
from elcrec.histories import Histories, Split, leave_one_out, ragged_arange
from elcrec.model import Network
from elcrec.packing import Packed, pack

# Scores of some users against all items, in a buffer used again for the next: fits the cache, and
# bounds the memory, whatever the number of users.
BLOCK_CELLS = 1_500_000
# Users that the encoder reads at once, outside of training: what it makes of them fits the cache.
BLOCK_USERS = 1_024


def hit_rate_and_ndcg(ranks: NDArray[np.integer], cutoffs: Iterable[int]) -> dict[str, float]:
    """`HR@K` and `NDCG@K`, averaged over users, from each target's rank (0 is first)."""
    metrics = {}
    for k in cutoffs:
        metrics[f"HR@{k}"] = float((ranks < k).mean())
        metrics[f"NDCG@{k}"] = float(ndcg_of_users(ranks, k).mean(dtype=np.float64))
    return metrics


def ndcg_of_users(ranks: NDArray[np.integer], cutoff: int) -> NDArray[np.float32]:
    """NDCG@K of every user, float32 `[n]`: `1 / log₂(rank + 2)` where the rank is below K, else 0.

    ranks: of the one target that each user has (0 is first).
    """
    gains = np.append(1 / np.log2(np.arange(cutoff) + 2.0), 0.0).astype(np.float32)
    of_users: NDArray[np.float32] = gains[np.minimum(ranks, cutoff)]
    return of_users


def is_repeat(split: Split) -> NDArray[np.bool_]:
    """Tell whose target is an item that the user has had before, bool `[n]`."""
    users = np.repeat(np.arange(len(split.histories)), split.histories.lengths)
    same = split.histories.items == split.targets[users]
    repeats: NDArray[np.bool_] = np.bincount(users[same], minlength=len(split.histories)) > 0
    return repeats


def distinct_seen(
    split: Split, among_all: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(user, item) of every item that is no candidate for a user, once each; by user, then item.

    Those are the items that the user has had, without the target.

    among_all: bool `[n]`, users whose target is ranked among all items: of theirs there is none.
    """
    users = np.repeat(np.arange(len(split.histories)), split.histories.lengths)
    items = split.histories.items.astype(np.int64)
    other = items != split.targets[users]
    if among_all is not None:
        other &= ~among_all[users]
    width = int(items.max(initial=0)) + 1
    keys = np.unique(users[other] * width + items[other])
    return keys // width, keys % width


@torch.no_grad()
def target_ranks(
    network: Network,
    split: Split,
    block_cells: int = BLOCK_CELLS,
    among_all: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Rank of every target by the network's scores, int64 `[n]`, 0 is first.

    among_all: bool `[n]`, users whose target is ranked among all items; that of the others is
    ranked among those that the user has not had.

    Raises ELCRecError for scores that are no numbers, which would rank every target first.
    """
    ranks = np.empty(len(split.histories), np.int64)
    seen_users, seen_items = distinct_seen(split, among_all)
    first_seen = np.searchsorted(seen_users, np.arange(ranks.size + 1))
    table = network.items.weight[1:]  # [V, d]: padding is no candidate
    block = min(max(1, block_cells // table.shape[0]), BLOCK_USERS)
    scores = table.new_empty(block, table.shape[0])
    ahead = torch.empty_like(scores, dtype=torch.bool)
    by_length = np.argsort(split.histories.lengths, kind="stable")
    for begin in range(0, by_length.size, BLOCK_USERS):
        encoded = by_length[begin : begin + BLOCK_USERS]
        states = newest_outputs(network, split.histories.take(encoded))  # [b, d]
        finite = bool(torch.isfinite(states).all())
        for first in range(0, encoded.size, block):
            users = encoded[first : first + block]
            n = users.size
            torch.mm(states[first : first + n], table.T, out=scores[:n])
            targets = torch.from_numpy(split.targets[users].astype(np.int64) - 1).to(table.device)
            target_scores = scores[:n].gather(1, targets[:, None])  # [n, 1]
            if not (finite and torch.isfinite(target_scores).all()):
                raise ELCRecError(
                    "the model's scores are not finite: train again with a lower rate"
                )
            before = torch.ge(scores[:n], target_scores, out=ahead[:n]).sum(1, dtype=torch.int32)
            counts = first_seen[users + 1] - first_seen[users]
            items = seen_items[ragged_arange(first_seen[users], counts)] - 1
            rows = torch.from_numpy(np.repeat(np.arange(n), counts)).to(table.device)
            excluded = ahead[rows, torch.from_numpy(items).to(table.device)]
            before -= torch.zeros_like(before).index_add_(0, rows, excluded.to(before.dtype))
            ranks[users] = before.cpu().numpy() - 1
    return ranks


def newest_outputs(network: Network, histories: Histories) -> Tensor:
    """The encoder's output at every history's newest event, `[n, d]`; no history may be empty."""
    batch = _newest_events(network, histories, padding=False)
    return in_callers_order(batch, network.newest(batch))


def behaviours(network: Network, histories: Histories) -> Tensor:
    """The behaviour embedding `h` of every history, `[n, d]`; no history may be empty."""
    batch = events_to_label(network, histories)
    h, _ = network.label_behaviours(batch)
    return in_callers_order(batch, h)


def events_to_label(network: Network, histories: Histories) -> Packed:
    """The events that a label is made from, as the network reads them; no history may be empty."""
    return _newest_events(network, histories, network.config.pooling == "padded_outputs")


def _newest_events(network: Network, histories: Histories, padding: bool) -> Packed:
    L = network.config.max_length
    lengths = np.minimum(histories.lengths, L)
    rows = ragged_arange(histories.offsets[1:] - lengths, lengths)
    items = histories.items[rows]
    if padding:
        full, full_lengths = padded(items, lengths, L)
        return pack(full, full_lengths, L, network.centers.device)
    details = read_details(network.config, histories, rows, lengths)
    return pack(items, lengths, L, network.centers.device, details=details)


def in_callers_order(batch: Packed, rows: Tensor) -> Tensor:
    """What was made of a batch's sequences, in the order in which they were given: `[B, …]`."""
    ordered = torch.empty_like(rows)
    ordered[torch.from_numpy(batch.order).to(rows.device)] = rows
    return ordered


def padded(
    items: NDArray[np.integer], lengths: NDArray[np.int64], width: int
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Sequences filled with item 0 on the left up to `width`, as the published encoder is fed."""
    full = np.zeros((lengths.size, width), items.dtype)
    owners = np.repeat(np.arange(lengths.size), lengths)
    full[owners, ragged_arange(width - lengths, lengths)] = items
    return full.ravel(), np.full(lengths.size, width, np.int64)


def popularity_ranks(
    split: Split,
    counts: NDArray[np.integer],
    among_all: NDArray[np.bool_] | None = None,
    seen: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Rank of every target by `counts` (of items 0 … V), int64 `[n]`, 0 is first.

    among_all: bool `[n]`, see `target_ranks`. seen: what `distinct_seen` gave, where it is known.
    """
    descending = np.sort(-counts[1:])
    before = np.searchsorted(descending, -counts[split.targets], side="right") - 1
    users, items = distinct_seen(split, among_all) if seen is None else seen
    excluded = counts[items] >= counts[split.targets[users]]
    return before - np.bincount(users[excluded], minlength=before.size)


def popularity_baseline(
    histories: Histories, n_items: int, split: str = "test", cutoffs: Iterable[int] = (5, 10, 20)
) -> dict[str, float]:
    """The metrics of recommending everyone the items most frequent before the cut."""
    side = leave_one_out(histories, split)
    counts = np.bincount(side.histories.items, minlength=n_items + 1)
    return hit_rate_and_ndcg(popularity_ranks(side, counts), cutoffs)
