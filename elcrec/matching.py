"""Intent ids that keep their meaning from one model to the next.

The centres of a model have no identity of their own: training anew numbers them anew, and even a
warm start lets them wander. An intent is the users who have it; so the intents of two models are
matched by the users they share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Matching:
    """The ids of a model's `k` intents, and what became of those of the model before it.

    ids: int32 `[k]`, each once. inherited: bool `[k]`, whether the model before had that id.
    retired: int32, ids of the model before that no intent carries on; they never come back.
    origins: float64 `[k, ids before]`, the share of an intent's users that each earlier one held;
        rows of zeros where there are no users.
    next_id: the smallest id that was never given.
    """

    ids: NDArray[np.int32]
    inherited: NDArray[np.bool_]
    retired: NDArray[np.int32]
    origins: NDArray[np.float64]
    next_id: int


def first_ids(k: int, next_id: int = 0) -> Matching:
    """The ids of a model that has none before it: `k` from the smallest that was never given."""
    ids = np.arange(next_id, next_id + k, dtype=np.int32)
    nobody = np.empty(0, np.int32)
    return Matching(ids, np.zeros(k, bool), nobody, np.zeros((k, 0)), next_id + k)


# With fewer expected users than this, a low share may be chance.
LEAST_EXPECTED = 10
LEFT_BELOW = 0.2


def deserted(
    intents: NDArray[np.integer], recently_consistent: NDArray[np.bool_], k: int, least_share: float
) -> NDArray[np.bool_]:
    """Which intents have lost their users, bool `[k]`; never all.

    An intent is deserted when it has fewer users than `least_share` of the average intent, or when
    its users have moved on: the share of its users whose newest events still have this intent is
    less than a fifth (LEFT_BELOW) of the same share over all users.

    intents: int `[n]`, each user's, −1 for none. recently_consistent: bool `[n]`, whether the
    user's newest events have the same intent.
    """
    sizes = np.bincount(intents[intents >= 0], minlength=k)
    seen = np.bincount(intents[recently_consistent & (intents >= 0)], minlength=k)
    expected = sizes * (seen.sum() / max(sizes.sum(), 1))
    left = (expected >= LEAST_EXPECTED) & (seen < LEFT_BELOW * expected)
    gone: NDArray[np.bool_] = left | (sizes < least_share * sizes.mean())
    return gone if not gone.all() else np.zeros(k, bool)


def match_intents(
    before: NDArray[np.integer],
    after: NDArray[np.integer],
    ids_before: NDArray[np.int32],
    k: int,
    next_id: int,
    *,
    least_overlap: float,
    carried: NDArray[np.integer] | None = None,
) -> Matching:
    """Give the intents of a new model the ids of the earlier ones that they carry on.

    Two intents overlap by the users in both over the users in either (Jaccard). A pair below
    `least_overlap` is none. Of the others those are chosen that have the largest sum of overlaps
    (the assignment problem). An intent without a partner gets a new id.

    before, after: int `[n]`, each user's intent, a centre's index, by the two models on the same
        histories; −1 is none.
    ids_before: the ids of the earlier model's centres.
    next_id: the smallest id that was never given.
    carried: int `[k]`, the earlier centre that each new one started from, −1 for none: where users
        do not decide, and between intents without users, the centre does. An earlier intent whose
        centre no new one started from was given up, and nobody takes over its id.
    """
    k_before = ids_before.size
    known = (before >= 0) & (after >= 0)
    pairs = before[known].astype(np.int64) * k + after[known]
    shared = np.bincount(pairs, minlength=k_before * k).reshape(k_before, k).astype(np.float64)
    sizes_before, sizes_after = shared.sum(1), shared.sum(0)
    either = sizes_before[:, None] + sizes_after[None, :] - shared
    overlap = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)

    likeness = overlap.copy()
    if carried is not None:
        started = np.flatnonzero(carried >= 0)
        same = (carried[started], started)
        likeness[same] += 1e-6
        # Nobody in either: the centre waits for users as it did before.
        overlap[same] = np.where(either[same] == 0, 1.0, overlap[same])
        given_up = np.setdiff1d(np.arange(k_before), carried)
        likeness[given_up] = overlap[given_up] = 0.0
    # Left out before pairs are chosen: a pair that is none after all must not keep two from theirs.
    enough = overlap >= least_overlap
    rows, columns = linear_sum_assignment(np.where(enough, likeness, 0.0), maximize=True)
    kept = enough[rows, columns]
    rows, columns = rows[kept], columns[kept]

    ids = np.full(k, -1, np.int32)
    ids[columns] = ids_before[rows]
    inherited = ids >= 0
    born = np.flatnonzero(~inherited)
    ids[born] = next_id + np.arange(born.size)
    origins = np.divide(
        shared.T, sizes_after[:, None], out=np.zeros((k, k_before)), where=sizes_after[:, None] > 0
    )
    retired = np.setdiff1d(ids_before, ids).astype(np.int32)
    return Matching(ids, inherited, retired, origins, next_id + int(born.size))
