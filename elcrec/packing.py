"""Batches without padding: the events of many sequences side by side.

Everything that works token by token (embedding, LayerNorm, feed-forward, the losses) runs on the
packed `[N, d]` rows. Only attention needs rectangles; sequences are sorted by length and cut into
groups whose shortest member is more than half as long as the longest, so that a rectangle of many
sequences is never more than half empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elcrec.details import Details
from elcrec.devices import to_device
from elcrec.histories import ragged_arange

# Below this many sequences the calls for one more group cost more than the emptiness it saves.
SMALLEST_GROUP = 32


@dataclass(frozen=True)
class Group:
    """Sequences of like length, as one rectangle `[count, width]` for attention."""

    tokens: slice  # its rows in the packed batch
    sequences: slice  # its sequences there
    count: int
    width: int
    rectangle: Tensor  # int64 [count * width]: the row (within the group) of each cell
    cells: Tensor  # int64 [rows of the group]: the cell of each row
    keys_hidden: Tensor | None  # bool [count, width]: padding that attention must not see
    lengths: Tensor  # int64 [count]

    def ages(self) -> Tensor:
        """How many events are newer than each cell's, below 0 for empty cells: `[count, width]`."""
        return self.lengths[:, None] - 1 - torch.arange(self.width, device=self.lengths.device)


@dataclass(frozen=True)
class Packed:
    """`B` sequences, longest first, as `N` rows; `order[i]` is the caller's index of sequence i."""

    items: Tensor  # int64 [N]
    positions: Tensor  # int64 [N], the newest event of a full sequence at L - 1
    owners: Tensor  # int64 [N], the sequence of each row
    lengths: Tensor  # int64 [B], descending
    groups: tuple[Group, ...]
    order: NDArray[np.int64]
    details: Details | None = None  # of each row, tensors

    @property
    def last_rows(self) -> Tensor:
        """The row of every sequence's newest event, int64 `[B]`."""
        return self.lengths.cumsum(0) - 1

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over each sequence's rows: `[N, d]` to `[B, d]`."""
        sums = rows.new_zeros(self.lengths.numel(), rows.shape[1]).index_add_(0, self.owners, rows)
        return sums / self.lengths.unsqueeze(1).to(rows.dtype)


def pack(
    items: NDArray[np.integer],
    lengths: NDArray[np.integer],
    max_length: int,
    device: torch.device,
    positions: NDArray[np.integer] | None = None,
    details: Details | None = None,
) -> Packed:
    """Pack sequences given one after the other; none may be empty or longer than `max_length`.

    items: `[N]`; lengths: `[B]`; positions: `[N]`, by default aligned right; details: of `N`.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths) - lengths
    sorted_lengths = lengths[order].astype(np.int64)
    rows = ragged_arange(starts[order], sorted_lengths)
    within = ragged_arange(np.zeros_like(sorted_lengths), sorted_lengths)
    packed_items = items[rows]
    packed_positions = (
        positions[rows]
        if positions is not None
        else max_length - np.repeat(sorted_lengths, sorted_lengths) + within
    )

    groups = []
    hides_padding = bool((packed_items == 0).any())
    ends = np.cumsum(sorted_lengths)
    first = 0
    while first < sorted_lengths.size:
        width = int(sorted_lengths[first])
        # Lengths descend, so the sequences longer than half the width are a prefix of what is left.
        like = int(np.searchsorted(-sorted_lengths[first:], -(width // 2), side="left"))
        last = min(first + max(like, SMALLEST_GROUP), sorted_lengths.size)
        count = last - first
        begin, end = int(ends[first] - width), int(ends[last - 1])
        cells = np.repeat(np.arange(count) * width, sorted_lengths[first:last]) + within[begin:end]
        rectangle = np.zeros(count * width, np.int64)
        rectangle[cells] = np.arange(end - begin)
        hidden = None
        if hides_padding:
            empty = (packed_items[begin:end][rectangle] == 0).reshape(count, width)
            hidden = to_device(empty, device)
        groups.append(
            Group(
                slice(begin, end),
                slice(first, last),
                count,
                width,
                to_device(rectangle, device),
                to_device(cells, device),
                hidden,
                to_device(sorted_lengths[first:last], device),
            )
        )
        first = last
    return Packed(
        items=to_device(packed_items.astype(np.int64), device),
        positions=to_device(packed_positions.astype(np.int64), device),
        owners=to_device(np.repeat(np.arange(sorted_lengths.size), sorted_lengths), device),
        lengths=to_device(sorted_lengths, device),
        groups=tuple(groups),
        order=order,
        details=details and details.take(rows).to(device),
    )
