"""Items that a position's next item is told apart from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elcrec.histories import Histories


class UnseenItems:
    """Uniform items that the user has not had, one a position (the paper's negatives).

    histories: whose events are asked for; had: the same users' histories that no item is drawn
    from, by default these.
    """

    def __init__(self, histories: Histories, n_items: int, had: Histories | None = None) -> None:
        self.n_items = n_items
        self._users = np.repeat(np.arange(len(histories)), histories.lengths)  # of each event
        had = had or histories
        owners = np.repeat(np.arange(len(had)), had.lengths)
        self._had = np.unique(owners * (n_items + 1) + had.items)

    def draw(self, events: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """An item for each of `events`, rows of the histories' items: int64 `[M]` to `[M]`."""
        users = self._users[events]
        drawn = rng.integers(1, self.n_items + 1, users.size)
        for _ in range(20):  # a user who has had nearly every item keeps a random one
            keys = users * (self.n_items + 1) + drawn
            at = np.minimum(np.searchsorted(self._had, keys), self._had.size - 1)
            again = np.flatnonzero(self._had[at] == keys)
            if not again.size:
                break
            drawn[again] = rng.integers(1, self.n_items + 1, again.size)
        return drawn


class FrequentItems:
    """Items by the root of their frequency, shared by a batch: rare ones are drawn too.

    frequencies: int64 `[V + 1]`, how often each item is in the histories.
    """

    def __init__(self, frequencies: NDArray[np.integer]) -> None:
        weights = np.sqrt(frequencies + 1.0)
        weights[0] = 0.0  # padding
        self._chances = weights / weights.sum()
        self._cumulative = self._chances.cumsum()

    def draw(
        self, count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items, int64 `[S]`, and the log of how often each is expected among them, `[S]`."""
        at = rng.random(count) * self._cumulative[-1]
        drawn = np.searchsorted(self._cumulative, at, side="right")
        return drawn, np.log(self._chances[drawn] * count).astype(np.float32)
