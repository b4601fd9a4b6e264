"""The three augmentations of a history, for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elcrec.config import Config
from elcrec.histories import ragged_arange

CROP, MASK, REORDER = 0, 1, 2


@dataclass(frozen=True)
class View:
    """One augmented version of every history of a batch, side by side; none is empty."""

    items: NDArray[np.integer]  # [N']
    rows: NDArray[np.int64]  # [N'], the event of the batch that each one is
    positions: NDArray[np.int64]  # [N'], aligned right in L
    lengths: NDArray[np.int64]  # [B]


def random_view(
    items: NDArray[np.integer], lengths: NDArray[np.int64], config: Config, rng: np.random.Generator
) -> View:
    """Each history by a random one of crop, mask and reorder (loss 3 of the paper).

    items: `[N]`; lengths: `[B]`, each from 1 to L. Crop keeps a window of `crop_ratio·T` events (at
    least one) and moves it to the right end; mask drops `mask_ratio·T` events and leaves the others
    where they were; reorder shuffles a window of `reorder_ratio·T`.
    """
    users = lengths.size
    kind = rng.integers(0, 3, users)
    owners = np.repeat(np.arange(users), lengths)
    within = ragged_arange(np.zeros_like(lengths), lengths)
    kind_of, noise = kind[owners], rng.random(items.size)

    window = np.where(
        kind == CROP, np.maximum((config.crop_ratio * lengths).astype(np.int64), 1), 0
    )
    window = np.where(kind == REORDER, (config.reorder_ratio * lengths).astype(np.int64), window)
    start = (rng.random(users) * (lengths - window + 1)).astype(np.int64)
    inside = (within >= start[owners]) & (within < (start + window)[owners])

    # Masked are the events whose noise is among the user's smallest int(mask_ratio·T).
    rank = np.empty_like(within)
    rank[np.lexsort((noise, owners))] = within
    masked = (kind_of == MASK) & (rank < (config.mask_ratio * lengths).astype(np.int64)[owners])

    # A window is shuffled by sorting its events by noise instead of by place.
    place = np.where((kind_of == REORDER) & inside, start[owners] + noise * window[owners], within)
    order = np.lexsort((place, owners))
    keep = ~masked & ((kind_of != CROP) | inside)

    kept = np.bincount(owners[keep], minlength=users)
    positions = config.max_length - lengths[owners] + within
    cropped_to_right = (lengths - start - window)[owners]
    positions = np.where(kind_of == CROP, positions + cropped_to_right, positions)
    rows = order[keep]
    return View(items[rows], rows, positions[keep], kept)
