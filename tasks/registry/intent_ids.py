"""Which intent is which from night to night: ids, their births, and where their users came from.

A model's folder holds the ids of its intents. A model that had a promoted one before it, whether it
was trained on from that or from scratch, carries on the ids of the intents whose users it kept
together (`elcrec.matching`); an id that no intent carries on is retired and never comes back.
"""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator

from elcrec.errors import ELCRecError
from elcrec.matching import Matching

FILE = "intents.json"
LEAST_ORIGIN = 0.1  # a smaller share of an intent's users does not say where it came from

ORIGINS = pa.list_(pa.struct([("intent_id", pa.int32()), ("share", pa.float32())]))
ROWS = pa.schema(
    [
        ("intent_id", pa.int32()),
        ("born", pa.date32()),
        ("came_from", ORIGINS),
        ("retired", pa.bool_()),
    ]
)


class Origin(BaseModel):
    """A share of an intent's users, and the intent of the model before that they had."""

    intent_id: int
    share: float


class Intent(BaseModel):
    """An intent of a model, or one that the model retired."""

    intent_id: int
    born: dt.date
    came_from: list[Origin] = []


class Intents(BaseModel):
    """The intents of a model in the order of its centres, those it retired, the next free id."""

    of_centers: list[Intent]
    retired: list[Intent]
    next_id: int

    @model_validator(mode="after")
    def _is_sound(self) -> "Intents":
        ids = [intent.intent_id for intent in (*self.of_centers, *self.retired)]
        if len(set(ids)) < len(ids) or not all(0 <= number < self.next_id for number in ids):
            raise ValueError("ids are not unique or not below next_id")
        return self

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """The id of each centre, int32 `[k]`."""
        return np.array([intent.intent_id for intent in self.of_centers], np.int32)

    def centers_of(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the centre of each id; -1 for an id that no centre has."""
        own = self.ids
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(own, ids, sorter=order), own.size - 1)
        return np.where(own[order[at]] == ids, order[at], -1)

    def rows(self, *, with_retired: bool) -> pa.Table:
        """Return a row an intent, for `sql/intent_profiles.sql`."""
        intents = [(intent, False) for intent in self.of_centers]
        intents += [(intent, True) for intent in self.retired if with_retired]
        rows = [intent.model_dump() | {"retired": retired} for intent, retired in intents]
        return pa.Table.from_pylist(rows, schema=ROWS)


def named(matching: Matching, night: dt.date, before: Intents | None) -> Intents:
    """Turn the result of a matching into the intents of the model of a night."""
    earlier = {intent.intent_id: intent for intent in before.of_centers} if before else {}
    names = before.ids if before else np.empty(0, np.int32)
    of_centers = []
    for number, inherited, shares in zip(
        matching.ids.tolist(), matching.inherited.tolist(), matching.origins, strict=True
    ):
        born = earlier[number].born if inherited else night
        large = [j for j in np.argsort(-shares, kind="stable") if shares[j] >= LEAST_ORIGIN]
        came_from = [Origin(intent_id=int(names[j]), share=round(shares[j], 4)) for j in large]
        of_centers.append(Intent(intent_id=number, born=born, came_from=came_from))
    retired = [earlier[number].model_copy(update={"came_from": []}) for number in matching.retired]
    return Intents(of_centers=of_centers, retired=retired, next_id=matching.next_id)


def write(intents: Intents, folder: Path) -> None:
    """Write the intents of a model into its folder."""
    (folder / FILE).write_text(intents.model_dump_json(indent=1) + "\n", "utf-8")


def read(folder: Path, n_intents: int) -> Intents:
    """Read what `write` wrote.

    Raises ELCRecError for a file that is missing, damaged or of another number of intents.
    """
    intents = read_any(folder)
    if len(intents.of_centers) != n_intents:
        raise ELCRecError(
            f"{folder / FILE} has {len(intents.of_centers)} intents, the model {n_intents}"
        )
    return intents


def read_any(folder: Path) -> Intents:
    """Read what `write` wrote, of however many intents; raises as `read`."""
    file = folder / FILE
    try:
        return parsed(file.read_bytes(), file)
    except FileNotFoundError:
        raise ELCRecError(f"{folder} lacks {FILE}, the ids of its intents") from None


def parsed(content: bytes, file: Path | str) -> Intents:
    """Read the content of a file that `write` wrote; ELCRecError when it is damaged."""
    try:
        return TypeAdapter(Intents).validate_json(content)
    except ValidationError as error:
        raise ELCRecError(f"{file} is damaged: {_first_line(error)}") from None


def _first_line(error: ValidationError) -> str:
    first: dict[str, Any] = json.loads(error.json(include_url=False))[0]
    return str(first["msg"])
