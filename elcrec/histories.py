"""Users' histories as two flat arrays, and the cuts that leave-one-out makes in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from elcrec.errors import ELCRecError

if TYPE_CHECKING:
    import pyarrow as pa

    ArrowLists: TypeAlias = pa.ListArray | pa.LargeListArray | pa.ChunkedArray


@dataclass(frozen=True)
class Histories:
    """Items of `n` users, oldest first, without padding.

    items: int32 `[N]`, every user's items one after the other; 1 is the first item, 0 is padding
        and must not occur.
    offsets: int64 `[n + 1]`; user u owns `items[offsets[u]:offsets[u + 1]]`, which may be empty.

    What is known of each event beside its item, each `[N]`, or None where nothing is:
    types: int32, type n is `type_names[n - 1]`; 0 is a type that is not known.
    weights: float32; NaN for an event without one.
    ts_us: int64, microseconds since 1970.
    until_us: up to when there are no other events, the end of a night; None where nobody knows.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    types: NDArray[np.int32] | None = None
    type_names: tuple[str, ...] = ()
    weights: NDArray[np.float32] | None = None
    ts_us: NDArray[np.int64] | None = None
    until_us: int | None = None

    def __post_init__(self) -> None:
        items, offsets = np.asarray(self.items), np.asarray(self.offsets)
        if not np.issubdtype(items.dtype, np.integer) and items.size:
            raise ELCRecError(f"items must be integers, not {items.dtype}")
        if offsets.ndim != 1 or offsets.size == 0 or offsets[0] != 0 or offsets[-1] != items.size:
            raise ELCRecError(
                f"offsets must run from 0 to the number of items ({items.size}), "
                f"got {offsets[:1].tolist()} … {offsets[-1:].tolist()}"
            )
        if (np.diff(offsets) < 0).any():
            raise ELCRecError("offsets must not decrease")
        if items.size and items.min() < 1:
            at = int(np.argmin(items))
            user = int(np.searchsorted(offsets, at, side="right") - 1)
            raise ELCRecError(
                f"user {user} has item {int(items[at])} at event {at - int(offsets[user])}: "
                "items are numbered from 1, 0 is padding"
            )
        object.__setattr__(self, "items", items.astype(np.int32, copy=False))
        object.__setattr__(self, "offsets", offsets.astype(np.int64, copy=False))
        for name, kind in (("types", np.int32), ("weights", np.float32), ("ts_us", np.int64)):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != items.shape:
                raise ELCRecError(f"{name} has {values.size} values for {items.size} items")
            object.__setattr__(self, name, values.astype(kind, copy=False))
        if self.types is not None:
            lowest, highest = self.types.min(initial=0), self.types.max(initial=0)
            if lowest < 0 or highest > len(self.type_names):
                raise ELCRecError(
                    f"types are numbers of {len(self.type_names)} type_names, from 1, or 0, "
                    f"got {lowest} … {highest}"
                )

    @classmethod
    def from_lists(cls, histories: Iterable[Sequence[int]]) -> Histories:
        """Histories given as one sequence of item numbers a user."""
        lists = [np.asarray(h, dtype=np.int64) for h in histories]
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(np.concatenate(lists) if lists else np.empty(0, np.int32), offsets)

    @classmethod
    def from_arrow(
        cls,
        lists: ArrowLists,
        types: ArrowLists | None = None,
        weights: ArrowLists | None = None,
        times: ArrowLists | None = None,
    ) -> Histories:
        """Histories from Arrow columns of lists, one a user; one chunk is not copied.

        lists: item numbers. types: texts. weights: numbers. times: timestamps in microseconds. Of
        each of these as many as items, or nothing but nulls where nothing is known; a type or a
        weight may be null, a time may not.
        """
        offsets, items = _flat(lists)
        found: dict[str, Any] = {}
        if types is not None and types.null_count < len(types):
            coded = _aligned("types", types, offsets).dictionary_encode()
            found["types"] = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
            found["type_names"] = tuple(coded.dictionary.to_pylist())
        if weights is not None and weights.null_count < len(weights):
            numbers = _aligned("weights", weights, offsets).fill_null(float("nan"))
            found["weights"] = numbers.to_numpy(zero_copy_only=False)
        if times is not None and times.null_count < len(times):
            moments = _aligned("times", times, offsets)
            if moments.null_count:
                raise ELCRecError(f"{moments.null_count} events have no time")
            found["ts_us"] = moments.cast("int64").to_numpy(zero_copy_only=False)
        return cls(items.to_numpy(zero_copy_only=False), offsets, **found)

    def events(self, rows: Any, offsets: NDArray[np.int64]) -> Histories:
        """The histories that the events `rows` (places in `items`, a mask or a slice) make."""

        def taken(values: Any) -> Any:
            return None if values is None else values[rows]

        details = {name: taken(getattr(self, name)) for name in ("types", "weights", "ts_us")}
        return replace(self, items=self.items[rows], offsets=offsets, **details)

    def with_items(self, items: NDArray[np.int32]) -> Histories:
        """The same events with other numbers of their items, `[N]`."""
        return replace(self, items=items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events a user, int64 `[n]`."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def take(self, users: NDArray[np.integer]) -> Histories:
        """The histories of `users`, in that order."""
        starts, lengths = self.offsets[users], self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return self.events(ragged_arange(starts, lengths), offsets)

    def where(self, chosen: NDArray[np.bool_] | None) -> Histories:
        """The histories of the users that `chosen`, bool `[n]`, has; None is everybody."""
        return self if chosen is None else self.take(np.flatnonzero(chosen))

    def slice(self, first: int, last: int) -> Histories:
        """The histories of users `first … last - 1`, as a view."""
        offsets = self.offsets[first : last + 1]
        return self.events(slice(offsets[0], offsets[-1]), offsets - offsets[0])

    def drop_last(self, count: int, of: NDArray[np.bool_] | None = None) -> Histories:
        """Every history without its newest `count` items; shorter ones become empty.

        of: bool `[n]`, of whom alone; the histories of the others stay whole.
        """
        dropped = count if of is None else count * of
        lengths = np.maximum(self.lengths - dropped, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        left = self.events(ragged_arange(self.offsets[:-1], lengths), offsets)
        return replace(left, until_us=None)  # others came before that

    def drop_first(self, count: int) -> Histories:
        """Every history without its oldest `count` items; shorter ones become empty."""
        lengths = np.maximum(self.lengths - count, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return self.events(ragged_arange(self.offsets[1:] - lengths, lengths), offsets)

    def newest(self, count: int) -> Histories:
        """The newest `count` items of every history, all of a shorter one."""
        lengths = np.minimum(self.lengths, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return self.events(ragged_arange(self.offsets[1:] - lengths, lengths), offsets)

    def oldest(self, counts: int | NDArray[np.integer]) -> Histories:
        """The oldest `counts` items of every history, all of a shorter one.

        counts: one number for all users or `[n]`.
        """
        lengths = np.minimum(self.lengths, counts)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        left = self.events(ragged_arange(self.offsets[:-1], lengths), offsets)
        return replace(left, until_us=None)  # others came before that

    def last(self, back: int) -> NDArray[np.int32]:
        """Item `back` places from the end of every history (1 is the newest), int32 `[n]`."""
        if len(self) and self.lengths.min() < back:
            raise ELCRecError(
                f"a history of {int(self.lengths.min())} items has no item {back} from its end"
            )
        return self.items[self.offsets[1:] - back]


def _flat(lists: ArrowLists) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets from 0 and values of a column of lists."""
    whole = lists.combine_chunks() if hasattr(lists, "combine_chunks") else lists
    if whole.null_count:
        raise ELCRecError(f"{whole.null_count} histories are null; give an empty list instead")
    offsets = whole.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], whole.flatten()


def _aligned(name: str, lists: ArrowLists, offsets: NDArray[np.int64]) -> pa.Array:
    """The values of lists that are as long as those that `offsets` are of."""
    found, values = _flat(lists)
    if not np.array_equal(found, offsets):
        raise ELCRecError(f"a history has not as many {name} as items")
    return values


def ragged_arange(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """`[s, s + 1, …, s + l - 1]` for each start `s` and length `l`, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    ranges: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return ranges


@dataclass(frozen=True)
class Split:
    """One side of leave-one-out: what the model may see, and the item it must find.

    histories: `n` histories that end before the target.
    targets: int32 `[n]`.
    """

    histories: Histories
    targets: NDArray[np.int32]


def leave_one_out(histories: Histories, split: str) -> Split:
    """Validation (`s_{T-1}` after `s_1 … s_{T-2}`) or test (`s_T` after `s_1 … s_{T-1}`).

    Every history needs three items; the caller leaves shorter ones out.
    """
    back = {"validation": 2, "test": 1}.get(split)
    if back is None:
        raise ELCRecError(f"unknown split {split!r}: it is 'validation' or 'test'")
    if len(histories) == 0 or histories.lengths.min() < 3:
        raise ELCRecError("leave-one-out needs histories of at least 3 items")
    return Split(histories.drop_last(back), histories.last(back))
