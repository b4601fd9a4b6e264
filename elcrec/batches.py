"""What a step of a training reads of the histories, and reading it while the step before runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from elcrec.config import Config
from elcrec.details import Details, event_weights, is_of, read_details
from elcrec.evaluation import padded
from elcrec.histories import Histories, ragged_arange
from elcrec.packing import Packed, pack
from elcrec.windows import training_windows


@dataclass(frozen=True)
class Inputs:
    """The events of `B` windows, side by side, `[N]` each, and as the network takes them.

    rows: int64, places in the histories' items. predicted: bool, after which events the next item
    is predicted. lengths: int64 `[B]`, how many of the events are each window's.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int32]
    lengths: NDArray[np.int64]
    predicted: NDArray[np.bool_]
    details: Details | None
    packed: Packed
    packed_lengths: NDArray[np.int64]  # [B], with padding


class Batches:
    """Reads the windows of histories."""

    def __init__(self, known: Histories, config: Config, device: torch.device) -> None:
        self.known, self.config, self.device = known, config, device
        self.windows = training_windows(known, config)
        self._ahead: list[tuple[NDArray[np.int64], bool, Future[Inputs]]] = []
        self._reader: ThreadPoolExecutor | None = None

    def read(
        self, chosen: NDArray[np.int64], padding: bool, rng: np.random.Generator | None
    ) -> Inputs:
        """The windows `chosen`; padding: whether to fill histories up with item 0."""
        for place, (asked, filled, reading) in enumerate(self._ahead):
            if filled == padding and np.array_equal(asked, chosen):
                del self._ahead[: place + 1]
                return reading.result()
        return self._read(chosen, padding, rng)

    def _read(
        self, chosen: NDArray[np.int64], padding: bool, rng: np.random.Generator | None
    ) -> Inputs:
        rows, lengths, predicted = self._events(chosen)
        items, L = self.known.items[rows], self.config.max_length
        details = None
        if padding:
            filled_items, packed_lengths = padded(items, lengths, L)
            packed = pack(filled_items, packed_lengths, L, self.device)
        else:
            details = read_details(self.config, self.known, rows, lengths, rng)
            packed_lengths = lengths
            packed = pack(items, lengths, L, self.device, details=details)
        return Inputs(rows, items, lengths, predicted, details, packed, packed_lengths)

    def read_ahead(self, chosen: NDArray[np.int64], padding: bool) -> None:
        """Begin to read what the next `read` asks for; nothing where that draws numbers."""
        if self.config.idle_vectors or not chosen.size:
            return
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "elcrec-reader")
        reading = self._reader.submit(self._read, chosen, padding, None)
        self._ahead.append((chosen, padding, reading))

    def weight(self, chosen: NDArray[np.int64]) -> float:
        """What the windows `chosen` weigh in the mean that the loss of the next item is."""
        rows, _, predicted = self._events(chosen)
        if self.config.weigh_targets and self.known.weights is not None:
            of_targets = event_weights(self.known.weights[rows[predicted] + 1])
            return float(of_targets.sum(dtype=np.float64))
        return float(predicted.sum())

    def _events(
        self, chosen: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Rows, lengths and what is predicted, as `Inputs` has them."""
        starts, lengths = self.windows.starts[chosen], self.windows.lengths[chosen] - 1
        rows = ragged_arange(starts, lengths)
        skipped = self.windows.skipped[chosen]
        within = ragged_arange(np.zeros_like(lengths), lengths)
        predicted = within >= np.repeat(skipped, lengths)
        if self.config.target_types and self.known.types is not None:
            predicted &= is_of(self.known, self.config.target_types, rows + 1)
        return rows, lengths, predicted
