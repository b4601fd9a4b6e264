"""Order, sessions and k-core of events whose users and items are numbers, in a few passes.

All arrays are columns of events, one element an event.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.signedinteger]
Mask = npt.NDArray[np.bool_]

US_A_MINUTE = 60_000_000
US_A_DAY = 24 * 60 * US_A_MINUTE
AT_ONCE = 2_000_000  # events, and those of the last one's user

# Elements that ascend on average before one does not: from here on numpy, which merges such runs,
# is the fastest way to sort.
LONG_RUN = 1000


def stable_order(key: Ints) -> npt.NDArray[np.int64]:
    """Return the positions that sort `key`, equal elements in their present order; int64 `[n]`.

    Key and position are packed into one number and these sorted, which is several times as fast as
    a stable argsort; a key too wide for that is sorted in parts, the lowest bits first.
    """
    descents = np.count_nonzero(key[1:] < key[:-1])
    if descents * LONG_RUN <= len(key):
        return np.argsort(key, kind="stable")
    positions = np.arange(len(key), dtype=np.int64)
    lowest, highest = int(key.min()), int(key.max())
    position_bits = len(key).bit_length()
    key_bits = 63 - position_bits
    order: npt.NDArray[np.int64] | None = None
    for shift in range(0, max(1, (highest - lowest).bit_length()), key_bits):
        packed = key.astype(np.int64) if order is None else key[order].astype(np.int64)
        packed -= lowest
        packed >>= shift
        packed &= (1 << key_bits) - 1
        packed <<= position_bits
        packed |= positions
        packed.sort()
        packed &= (1 << position_bits) - 1
        order = packed if order is None else order[packed]
    assert order is not None
    return order


def in_order(first: Ints, second: Ints) -> bool:
    """Whether the events ascend by `first`, and where that is the same, by `second`."""
    return bool(
        (first[1:] >= first[:-1]).all()
        and ((first[1:] > first[:-1]) | (second[1:] >= second[:-1])).all()
    )


def k_core(
    users: Ints,
    items: Ints,
    *,
    min_user: int,
    min_item: int,
    core_users: Mask | None = None,
    core_items: Mask | None = None,
) -> Mask:
    """Find the largest part in which each user and item has enough events; bool `[n]`, True: kept.

    Each round looks only at what the one before took away.

    Parameters
    ----------
    users
        Numbers from 0, ascending.
    items
        Numbers from 0; both are taken to leave few out.
    min_user, min_item
        Fewest events of a user and of an item.
    core_users, core_items
        By number, True: has enough without these events.
    """
    kept = np.ones(len(users), dtype=np.bool_)
    of_user = np.bincount(users)
    of_item = np.bincount(items)
    ends = np.cumsum(of_user)
    starts = ends - of_user
    if core_users is not None:
        of_user[core_users[: len(of_user)]] += min_user
    if core_items is not None:
        of_item[core_items[: len(of_item)]] += min_item
    rare_users = np.flatnonzero((of_user > 0) & (of_user < min_user))
    while True:
        dropped = _ranges(starts[rare_users], ends[rare_users])
        dropped = dropped[kept[dropped]]
        kept[dropped] = False
        of_user[rare_users] = 0
        of_item -= np.bincount(items[dropped], minlength=len(of_item))

        rare_items = (of_item > 0) & (of_item < min_item)
        if not rare_items.any():
            return kept
        dropped = np.flatnonzero(rare_items[items])
        dropped = dropped[kept[dropped]]
        kept[dropped] = False
        of_item[rare_items] = 0
        fewer, by = np.unique(users[dropped], return_counts=True)
        of_user[fewer] -= by
        rare_users = fewer[(of_user[fewer] > 0) & (of_user[fewer] < min_user)]


def _ranges(starts: Ints, ends: Ints) -> npt.NDArray[np.int64]:
    """Return the integers of all half-open ranges, one range after the other."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def last_of_each(lengths: Ints, last: int) -> Mask:
    """Mark the last `last` of each run of events; bool `[sum of lengths]`, runs `lengths` long."""
    edges = np.zeros(int(lengths.sum()) + 1, dtype=np.int8)
    ends = np.cumsum(lengths)
    long = lengths > last
    edges[(ends - lengths)[long]] += 1
    edges[(ends - last)[long]] -= 1
    kept: Mask = np.cumsum(edges[:-1], dtype=np.int8) == 0
    return kept


def once_a_session(users: Ints, items: Ints, ts_us: Ints, *, minutes: float) -> Mask:
    """Mark the last event of each item in each session; bool `[n]`, True: kept.

    A session is a user's events of one day (UTC), none of them more than `minutes` after the one
    before: what a later day brings changes none, so histories can be added to.

    Parameters
    ----------
    users
        Ascending.
    items
        Numbers from 0.
    ts_us
        Microseconds since 1970, ascending within a user.
    """
    kept = np.zeros(len(users), dtype=np.bool_)
    start = 0
    while start < len(users):  # some users at a time, for a sort needs several times their memory
        at = min(start + AT_ONCE, len(users)) - 1
        part = slice(start, start := int(np.searchsorted(users, users[at], side="right")))
        kept[part] = _last_of_session(users[part], items[part], ts_us[part], minutes)
    return kept


def strongest_a_session(
    users: Ints,
    items: Ints,
    ts_us: Ints,
    weights: npt.NDArray[np.float32],
    *,
    minutes: float,
) -> npt.NDArray[np.int64]:
    """Find the event of most weight of each item in each session; of equal ones it is the last.

    weights: `[n]`; an event without one (NaN) weighs 1. Others: as for `once_a_session`.

    Returns positions of events, one for each that `once_a_session` keeps, in the order of those.
    """
    found = []
    weights = np.where(np.isnan(weights), np.float32(1), weights)
    start = 0
    while start < len(users):
        at = min(start + AT_ONCE, len(users)) - 1
        part = slice(start, start := int(np.searchsorted(users, users[at], side="right")))
        key = _session_keys(users[part], items[part], ts_us[part], minutes)
        order, by_weight = stable_order(key), np.lexsort((weights[part], key))
        last = _ends(key[order])
        place = np.argsort(order[last])
        found.append(part.start + by_weight[last][place])
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _last_of_session(users: Ints, items: Ints, ts_us: Ints, minutes: float) -> Mask:
    key = _session_keys(users, items, ts_us, minutes)
    order = stable_order(key)
    kept = np.zeros(len(users), dtype=np.bool_)
    kept[order[_ends(key[order])]] = True
    return kept


def _session_keys(users: Ints, items: Ints, ts_us: Ints, minutes: float) -> Ints:
    """Return one number for each item in each session."""
    days = ts_us // US_A_DAY
    starts = np.ones(len(users), dtype=np.bool_)
    starts[1:] = (users[1:] != users[:-1]) | (days[1:] != days[:-1])
    starts[1:] |= np.diff(ts_us) > minutes * US_A_MINUTE
    keys: Ints = np.cumsum(starts, dtype=np.int64) * (int(items.max()) + 1) + items
    return keys


def _ends(ordered: Ints) -> Mask:
    """Mark the last of each run of equal numbers."""
    last = np.ones(len(ordered), dtype=np.bool_)
    last[:-1] = np.diff(ordered) != 0
    return last
