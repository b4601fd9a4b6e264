"""The folder of a model: weights, the ids of its items and of its intents; what a warm start keeps.

A model numbers the items of its night's histories by the order of their ids, and keeps the ids in
its folder. The index of an item in `items` follows from the order in which nights were run; so a
backfill can equal the nightly run only where no index reaches the model.
"""

import datetime as dt
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from elcrec import Config, ELCRec
from elcrec.errors import ELCRecError
from elcrec.model import Network
from tasks.errors import ModelError
from tasks.lake import Lake, model_folder
from tasks.registry import intent_ids
from tasks.registry.intent_ids import Intents
from tasks.settings import Settings

log = logging.getLogger(__name__)

VOCABULARY = "vocabulary.parquet"  # in a model's folder: item_id, in the order of the numbers


@dataclass(frozen=True)
class Loaded:
    """A model of the registry, the ids of its items in the order of their numbers, its intents."""

    model: ELCRec
    item_ids: pl.Series
    intents: Intents

    @property
    def network(self) -> Network:
        """The model's network."""
        assert self.model.network is not None
        return self.model.network


def save(model: ELCRec, item_ids: pl.Series, intents: Intents, folder: Path) -> None:
    """Write a model, the ids of its items in the order of their numbers, and of its intents."""
    model.save(folder)
    intent_ids.write(intents, folder)
    item_ids.alias("item_id").to_frame().write_parquet(folder / VOCABULARY)


def load(settings: Settings, version: str) -> Loaded:
    """Load a registered model onto the device and the threads of the settings.

    Raises ModelError when its folder is missing or damaged, or the device is not there.
    """
    if settings.model.threads:
        torch.set_num_threads(settings.model.threads)
    return load_from(Lake.of(settings), version, settings.model.device)


def load_from(lake: Lake, version: str, device: str) -> Loaded:
    """Load a registered model of a lake onto a device: auto, cpu or cuda. Raises as `load` does."""
    with lake.storage.fetched(model_folder(version)) as folder:
        try:
            if not folder.is_dir():
                raise ELCRecError("the folder is missing")
            return _read(folder, device=device)
        except (ELCRecError, OSError) as error:
            place = lake.model_dir(version)
            why = str(error).replace(str(folder), str(place))  # a copy has a place of its own
            if isinstance(error, ELCRecError) and is_complete(folder):
                raise ModelError(
                    f"model {version} is whole but cannot be loaded (model.device is "
                    f"{device!r}): {why}"
                ) from error
            trained = dt.datetime.strptime(version[:8], "%Y%m%d").date()
            raise ModelError(
                f"model {version} in {place} cannot be used ({why}): if files are missing or "
                "damaged, restore them from a backup, or delete the folder and, with the settings "
                f"of that night, run train --night {trained}"
            ) from error


def is_complete(folder: Path) -> bool:
    """Tell whether a folder holds a whole model, whatever device it was trained for.

    Only what is missing or damaged makes it incomplete: a disk that cannot be read raises OSError.
    """
    if not folder.is_dir():
        return False
    try:
        _read(folder, device="cpu")
    except ELCRecError as error:
        log.warning("model %s is not whole: %s", folder.name, error)
        return False
    return True


def carried_over(
    parent: Loaded, item_ids: pl.Series, night_config: Config, centers: npt.NDArray[np.int64]
) -> ELCRec:
    """Return the parent with the items of another vocabulary, its own where they are the same.

    Items that the parent does not know have the rows of an untrained model. Of its centres it has
    those at the places `centers`.
    """
    torch.manual_seed(night_config.seed)
    model = ELCRec(night_config)
    network = Network(night_config, len(item_ids)).to(parent.network.centers.device)
    numbers = pl.DataFrame({"item_id": item_ids}).with_row_index("new", offset=1)
    known = pl.DataFrame({"item_id": parent.item_ids}).with_row_index("old", offset=1)
    both = numbers.join(known, on="item_id")
    state = dict(parent.network.state_dict())
    rows = network.items.weight.detach().clone()
    new, old = (both[name].cast(pl.Int64).to_torch().to(rows.device) for name in ("new", "old"))
    rows[new] = state["items.weight"][old]
    kept = torch.from_numpy(centers).to(rows.device)
    state |= {name: state[name][kept] for name in ("centers", "shares")}
    network.load_state_dict(state | {"items.weight": rows})
    model.network, model.n_items = network, len(item_ids)
    return model


def _read(folder: Path, device: str) -> Loaded:
    """Read what `save` wrote; raises ELCRecError for what is missing or damaged."""
    model = ELCRec.load(folder, device=device)
    file = folder / VOCABULARY
    try:
        item_ids = pl.read_parquet(file)["item_id"]
    except FileNotFoundError:
        raise ELCRecError(f"{folder} lacks {VOCABULARY}, the ids of its items") from None
    except pl.exceptions.PolarsError as error:
        raise ELCRecError(f"{file} is damaged: {error}") from error
    if len(item_ids) != model.n_items:
        raise ELCRecError(f"{file} has {len(item_ids)} items, the model {model.n_items}")
    return Loaded(model, item_ids, intent_ids.read(folder, model.config.n_intents))
