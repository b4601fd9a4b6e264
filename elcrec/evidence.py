"""Why a user has a label: the items of the history that speak most for it.

The score of intent c for a user is the cosine of the behaviour h to its centre. h is made of two
halves (`Network.behaviours`): the one is a sum over the user's events, so what an event adds to the
score is known without another pass of the encoder; the other is what the encoder expects next, and
is no sum over events. An item's share is of the first half alone.

The softmax over the intents does not change when every score loses the same amount. So an event
counts by what it adds to the score of the label beyond the mean of all intents: an item that fits
every intent alike says nothing for one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

MOST = 3  # items and intents of a user


@dataclass(frozen=True)
class Evidence:
    """Of each of `n` users, what speaks for the label and which intents are the most probable.

    items: int32 `[n, MOST]`, item numbers, the greatest share first; 0 where there is none.
    shares: float32 `[n, MOST]`. All items that speak for the label, named here or not, have shares
        that sum to 1. Items that speak against it have none.
    intents: int32 `[n, MOST]`, the most probable first, whether the label is held or not; −1 where
        there is none.
    probabilities: float32 `[n, MOST]`, of each of them to be the most probable one after the
        user's next event; NaN where there is none, and where the model is not calibrated.
    confidence: float32 `[n]`, the same of the label; NaN for a user without one, and where the
        model is not calibrated (`elcrec.calibration`).
    """

    items: NDArray[np.int32]
    shares: NDArray[np.float32]
    intents: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    confidence: NDArray[np.float32]

    @classmethod
    def none(cls, n: int) -> Evidence:
        """No evidence, of `n` users."""
        return cls(
            np.zeros((n, MOST), np.int32),
            np.zeros((n, MOST), np.float32),
            np.full((n, MOST), -1, np.int32),
            np.full((n, MOST), np.nan, np.float32),
            np.full(n, np.nan, np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Evidence of some users after that of others."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(cls)]
        return cls(*map(np.concatenate, columns))


def strongest_items(
    owners: NDArray[np.integer], items: NDArray[np.integer], added: NDArray[np.floating], n: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The items that add most to the score of each user's label, and their shares, `[n, MOST]`.

    owners: int `[N]`, the user of each event, 0 … n − 1. items: int `[N]`, 0 is padding.
    added: float `[N]`, what the event adds to the score.

    Events of one item count together. Of two items that add the same the lower number comes first.
    """
    width = int(items.max(initial=0)) + 1
    real = items > 0
    keys = owners[real].astype(np.int64) * width + items[real]
    pairs, of_events = np.unique(keys, return_inverse=True)  # (user, item), each once
    sums = np.bincount(of_events, added[real], minlength=pairs.size)
    speaks_for = sums > 0
    pairs, sums = pairs[speaks_for], sums[speaks_for]
    users = pairs // width
    shares = sums / np.bincount(users, sums, minlength=n)[users]
    order = np.argsort(users - shares, kind="stable")  # by user; a share is at most 1
    users = users[order]
    place = np.arange(users.size) - np.searchsorted(users, users)
    first = place < MOST
    named, of_named = np.zeros((n, MOST), np.int32), np.zeros((n, MOST), np.float32)
    at = users[first], place[first]
    named[at] = (pairs % width)[order][first]
    of_named[at] = shares[order][first]
    return named, of_named
