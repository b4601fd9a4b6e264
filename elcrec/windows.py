"""Stretches of histories to train on, and which of them make the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elcrec.config import Config
from elcrec.histories import Histories, ragged_arange


@dataclass(frozen=True)
class Windows:
    """Stretches of histories to train on: window w predicts the events after its first.

    A history longer than L + 1 is cut into windows that overlap by half, and only the newer half of
    a later window is predicted, so that every event but the first is predicted once, from at least
    L/2 events before it.
    """

    starts: NDArray[np.int64]  # [W], into Histories.items
    lengths: NDArray[np.int64]  # [W], inputs and the last target: 2 … L + 1
    skipped: NDArray[np.int64]  # [W], leading positions that are not predicted here

    def __len__(self) -> int:
        return self.starts.size


def training_windows(histories: Histories, config: Config) -> Windows:
    """The windows of every history with at least two events."""
    L, lengths = config.max_length, histories.lengths
    users = np.flatnonzero(lengths >= 2)
    ends, lengths = histories.offsets[1:][users], lengths[users]
    if config.long_histories == "newest":
        kept = np.minimum(lengths, L + 1)
        return Windows(ends - kept, kept, np.zeros_like(kept))
    step = max(L // 2, 1)
    windows = 1 + np.maximum(-(-(lengths - (L + 1)) // step), 0)
    owner = np.repeat(np.arange(users.size), windows)
    place = ragged_arange(np.zeros_like(windows), windows)  # 0 is a history's oldest window
    end = np.minimum(L + 1 + place * step, lengths[owner])
    begin = np.maximum(end - (L + 1), 0)
    predicted_before = np.where(place > 0, L + 1 + (place - 1) * step, 1)
    return Windows(
        histories.offsets[users][owner] + begin, end - begin, predicted_before - begin - 1
    )


def drawn_windows(
    config: Config, size: int, number: int, all_windows: NDArray[np.int64], rank: int
) -> tuple[list[NDArray[np.int64]], np.random.Generator]:
    """What a rank draws of its windows for each step of an epoch, and what it draws on with.

    Of each batch a rank has the share that it has of all windows, which may be none.

    size: of a batch of all ranks. number: of the epoch. all_windows: how many each rank has, int64
    `[ranks]`.
    """
    rng = np.random.default_rng([config.seed, number, rank])
    before = np.concatenate([[0], all_windows.cumsum()])
    drawn = min(int(before[-1]), config.epoch_windows)
    counts = np.diff(before * drawn // before[-1])  # that each rank draws
    # The ranks take turns, each as often as it has windows: every step has as many of each.
    turns = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    owners = np.repeat(np.arange(counts.size), counts)[np.argsort(turns, kind="stable")]
    places = np.flatnonzero(owners == rank)
    order = rng.permutation(all_windows[rank])[: places.size]
    firsts = np.arange(size, drawn, size)
    return np.split(order, np.searchsorted(places, firsts)), rng


def drawn_together(
    config: Config, number: int, ranks: int, steps: int
) -> Iterator[np.random.Generator]:
    """What all ranks draw with in each step of an epoch: negatives are shared by a whole batch."""
    for place in range(steps):
        yield np.random.default_rng([config.seed, number, ranks, place])
