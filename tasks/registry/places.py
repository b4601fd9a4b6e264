"""The map of intents: each has one place in two dimensions, and keeps it for life.

Like a name, a place is given once, on the night that an intent is born, and follows from the rows
of `intent_places` of the nights before. A backfill gives the same places. The first intents of a
lake are laid out together. A later one goes among those that are there, near those that the model
sees as alike. Nothing else moves.
"""

import datetime as dt
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.lake import Lake, tables

Points = npt.NDArray[np.float64]  # [n, 2]
Distances = npt.NDArray[np.float64]

ROUNDS = 200  # of the layout; it is settled long before
NEAREST = 3  # intents that a new one starts between
APART = 0.06  # the smallest distance that a new one is started at: two at one point never part
DIGITS = 6


def give(lake: Lake, night: dt.date, ids: Sequence[int], centers: npt.NDArray[np.floating]) -> None:
    """Write `intent_places` of a night: a place for each intent that has none yet.

    ids: of the model's intents, `[k]`; centers: theirs, `[k, d]`, of any length.
    """
    known = of(lake, night - dt.timedelta(days=1))
    old = [row for row, intent in enumerate(ids) if intent in known]
    new = [row for row, intent in enumerate(ids) if intent not in known]
    apart = distances(centers)
    if old:
        fixed = np.array([known[ids[row]] for row in old])
        places = among(fixed, apart[np.ix_(old, old)], apart[np.ix_(new, old)])
    else:
        places = lay_out(apart)
    rows = pl.DataFrame(
        {
            "dt": pl.repeat(night, len(new), dtype=pl.Date, eager=True),
            "intent_id": pl.Series([ids[row] for row in new], dtype=pl.Int32),
            "x": pl.Series(places[:, 0].round(DIGITS), dtype=pl.Float64),
            "y": pl.Series(places[:, 1].round(DIGITS), dtype=pl.Float64),
        }
    )
    lake.replace(tables.INTENT_PLACES, rows, nights=[night])


def of(lake: Lake, until: dt.date | None = None) -> dict[int, tuple[float, float]]:
    """Return the place of each intent that had one by a night; None: of every intent."""
    rows = lake.scan(tables.INTENT_PLACES, last=until).sort("dt", descending=True).collect()
    found = rows.select("intent_id", "x", "y").iter_rows()
    # A night that ran again may have placed anew what a later one had placed: the first one counts.
    return {intent: (x, y) for intent, x, y in found}


def distances(centers: npt.NDArray[np.floating]) -> Distances:
    """Return how far each two centres point apart, from 0 (the same way) to 2 (opposite), `[k, k]`.

    It is the distance of their ends at length 1. The model compares directions too.
    """
    wide = centers.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    apart: Distances = np.sqrt(np.clip(2 - 2 * unit @ unit.T, 0, None))
    np.fill_diagonal(apart, 0)
    return apart


def lay_out(apart: Distances) -> Points:
    """Return points whose distances fit `apart`, the largest coordinate 1, `[k, 2]`.

    Classical scaling (Torgerson), then stress majorization (SMACOF, de Leeuw 1977) in which a near
    pair counts for more than a far one.
    """
    count = len(apart)
    if count < 2:
        return np.zeros((count, 2))
    centring = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-centring @ apart**2 @ centring / 2)
    points: Points = vectors[:, ::-1][:, :2] * np.sqrt(np.clip(values[::-1][:2], 0, None))
    if points.shape[1] < 2 or count == 2:
        points = np.column_stack([points[:, 0], np.zeros(count)])
    # An eigenvector has no sign of its own.
    strongest = np.abs(points).argmax(axis=0)
    points = points * np.where(points[strongest, [0, 1]] < 0, -1, 1)
    weights = _weights(apart)
    np.fill_diagonal(weights, 0)
    inverse = np.linalg.pinv(np.diag(weights.sum(1)) - weights)
    for _ in range(ROUNDS):
        pull = weights * apart / np.maximum(_between(points, points), 1e-9)
        points = inverse @ ((np.diag(pull.sum(1)) - pull) @ points)
    points = points - points.mean(axis=0)
    reach = np.abs(points).max()
    return points / reach if reach > 0 else points


def among(fixed: Points, apart: Distances, to_fixed: Distances) -> Points:
    """Return places for new points among fixed ones, `[n, 2]`.

    fixed: `[f, 2]`, f at least 1; apart: between these, `[f, f]`; to_fixed: from each new point to
    each of these, `[n, f]`. A new point is placed by the fixed ones alone, so the order of new ones
    does not matter.
    """
    there = _between(fixed, fixed)
    total = (apart**2).sum()
    scale = (apart * there).sum() / total if total > 0 else 1.0
    placed = np.zeros((len(to_fixed), 2))
    for row, wanted in enumerate(to_fixed):
        nearest = np.argsort(wanted, kind="stable")[:NEAREST]
        trust = _weights(wanted[nearest])
        point = (trust[:, None] * fixed[nearest]).sum(0) / trust.sum()
        if np.linalg.norm(fixed - point, axis=1).min() < APART:
            # Away from the middle of all, where there is more room.
            outward = point - fixed.mean(axis=0)
            length = np.linalg.norm(outward)
            point = point + APART * (outward / length if length > 1e-9 else np.array([1.0, 0.0]))
        weights = _weights(wanted)
        for _ in range(ROUNDS):
            away = point - fixed
            length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
            targets = fixed + scale * wanted[:, None] * away / length
            point = (weights[:, None] * targets).sum(0) / weights.sum()
        placed[row] = point
    return placed


def _weights(apart: Distances) -> Distances:
    return np.asarray(1 / np.maximum(apart, 0.05) ** 2)


def _between(some: Points, others: Points) -> Distances:
    return np.asarray(np.linalg.norm(some[:, None] - others[None], axis=2))
