"""What events say beside their items, as the encoder, the pooling and the losses take it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from elcrec.config import Config
from elcrec.devices import to_device
from elcrec.histories import Histories

TIMES = 32  # vectors of stretches of time, by powers of two of seconds; the last: 34 years and more
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Details:
    """Of `N` events of some sequences, `[N]` each; None is what a config does not ask for.

    Arrays of numpy, or tensors once they are packed.
    types, gaps, idle: which vector is an event's, int64: of its type (0: not known), of the time
        since the event before it (0: there is none), and of the time from it until the next one is
        asked for (0: not known).
    weights: float32, what an event weighs in the pooling, 0 or more.
    """

    types: Any = None
    gaps: Any = None
    idle: Any = None
    weights: Any = None

    def take(self, rows: NDArray[np.integer]) -> Details:
        """The details of the events `rows`."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device) -> Details:
        """The same as tensors on a device."""
        return self._each(lambda values: to_device(values, device))

    def _each(self, change: Any) -> Details:
        values = (getattr(self, field.name) for field in fields(self))
        return Details(*(None if value is None else change(value) for value in values))


def read_details(
    config: Config,
    histories: Histories,
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    learning: np.random.Generator | None = None,
) -> Details | None:
    """Details of the events `rows` of sequences that lie side by side; None if none are asked for.

    rows: int64 `[N]`, places in `histories.items`. lengths: int64 `[B]`, of the sequences, none
    empty. learning: draws when the next event is asked for, which is there for each of `rows`.
    What the histories have nothing of is left out, as if nobody had asked.
    """
    types = gaps = idle = weights = None
    ends = np.cumsum(lengths)
    if config.types and histories.types is not None:
        places = {name: place for place, name in enumerate(config.types, 1)}
        numbers = np.array([0, *(places.get(name, 0) for name in histories.type_names)])
        types = numbers[histories.types[rows]]
    if histories.ts_us is not None and (config.gap_vectors or config.half_life_days):
        ts_us = histories.ts_us[rows]
        if config.gap_vectors:
            gaps = np.zeros(rows.size, np.int64)
            gaps[1:] = time_numbers(np.diff(ts_us))
            gaps[ends - lengths] = 0
        if config.half_life_days:
            age_us = np.repeat(ts_us[ends - 1], lengths) - ts_us
            weights = np.exp2(-age_us / (config.half_life_days * DAY_US)).astype(np.float32)
    if config.weigh_events and histories.weights is not None:
        own = event_weights(histories.weights[rows])
        weights = own if weights is None else weights * own
    if config.idle_vectors and histories.ts_us is not None:
        idle = np.zeros(rows.size, np.int64)
        if learning is not None:
            idle = _drawn_idle(histories.ts_us, rows, learning)
        elif histories.until_us is not None:
            newest = ends - 1
            idle[newest] = time_numbers(histories.until_us - histories.ts_us[rows[newest]])
    found = (types, gaps, idle, weights)
    return None if all(one is None for one in found) else Details(*found)


def _drawn_idle(
    ts_us: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The vector of the time until a night at whose end the next event was asked for, `[N]`.

    Any of the nights between an event and the next, as a nightly run asks. Where there is none the
    next event is asked for at once. Every second time nobody knows, so that a model learns that,
    too.
    """
    days = ts_us[rows] // DAY_US
    nights = ts_us[rows + 1] // DAY_US - days
    ends_us = (days + 1 + (rng.random(rows.size) * nights).astype(np.int64)) * DAY_US
    idle = time_numbers(np.where(nights > 0, ends_us - ts_us[rows], 0))
    return np.where(rng.random(rows.size) < 0.5, idle, 0)


def time_numbers(stretches_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The vector of each stretch of microseconds, int64 `[N]`: from 1, one more when twice as long.

    Of nothing, and of less than nothing, it is 1.
    """
    seconds = np.maximum(stretches_us, 0) / 1e6
    return np.minimum(1 + np.log2(1 + seconds).astype(np.int64), TIMES - 1)


def event_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What events weigh, `[N]`: 1 without a weight of their own, nothing if it is below 0."""
    return np.maximum(np.where(np.isnan(weights), np.float32(1), weights), np.float32(0))


def is_of(
    histories: Histories, names: tuple[str, ...], rows: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Whether the events `rows` of histories that have types are of one of these, bool `[N]`."""
    assert histories.types is not None
    numbers = [number for number, name in enumerate(histories.type_names, 1) if name in names]
    return np.isin(histories.types[rows], numbers)
