"""The part of all users that one of several training processes learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elcrec.config import Config
from elcrec.histories import Histories, Split
from elcrec.windows import training_windows


@dataclass(frozen=True)
class Part:
    """What one rank learns from: a stretch of the users, and what it must know of the others.

    known: what is trained on. had: the same users' histories that negatives are not drawn from, for
    `bce`. validation: some of the users who validate. frequencies: int64 `[V + 1]`, how often all
    ranks' users have had each item, for the sampled softmax.
    """

    known: Histories
    validation: Split
    had: Histories | None
    frequencies: NDArray[np.int64] | None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it by name, to be sent; what is None is left out."""
        found = {
            f"{name}.{f.name}": getattr(histories, f.name)
            for name, histories in (
                ("known", self.known),
                ("validation", self.validation.histories),
                ("had", self.had),
            )
            if histories is not None
            for f in fields(histories)
        }
        found |= {"targets": self.validation.targets, "frequencies": self.frequencies}
        return {name: np.asarray(found[name]) for name in found if found[name] is not None}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Part:
        """What `arrays` gave."""
        values: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            name, _, kind = key.partition(".")
            value = array if array.ndim else array.item()
            values.setdefault(name, {})[kind] = tuple(array) if kind == "type_names" else value
        histories = {
            name: Histories(**values[name])
            for name in ("known", "validation", "had")
            if name in values
        }
        return cls(
            histories["known"],
            Split(histories["validation"], arrays["targets"]),
            histories.get("had"),
            arrays.get("frequencies"),
        )


def cut(whole: Part, config: Config, size: int) -> Iterator[Part]:
    """A part for each of `size` ranks: users in their order, with about as many windows each."""
    windows = training_windows(whole.known, config)
    users = len(whole.known)
    # The window in the middle of each cut, and whose it is.
    middle = np.arange(1, size) * len(windows) // size
    places = windows.starts[middle] if len(windows) else np.zeros_like(middle)
    inner = np.searchsorted(whole.known.offsets, places, side="right") - 1
    ends = np.concatenate([[0], inner, [users]])
    checked = np.arange(size + 1) * len(whole.validation.histories) // size
    for rank in range(size):
        first, last = int(checked[rank]), int(checked[rank + 1])
        yield Part(
            whole.known.slice(int(ends[rank]), int(ends[rank + 1])),
            Split(
                whole.validation.histories.slice(first, last), whole.validation.targets[first:last]
            ),
            whole.had and whole.had.slice(int(ends[rank]), int(ends[rank + 1])),
            whole.frequencies,
        )
