"""The registry of trained models: how a version is named, what is registered, and who may label.

A version is named after its night, its settings and its data, so a rerun finds or overwrites its
own model and a change of either makes another. Which model labels a night is a question of dates
alone: the newest promoted one of that night or before it, whatever was trained since. A person may
choose another, any of that night or before (`tasks.promote.roll_back`).

A model numbers the items of its night's histories by the order of their ids, and keeps the ids in
its folder. The index of an item in `items` follows from the order in which nights were run; so a
backfill can equal the nightly run only where no index reaches the model.
"""

import datetime as dt
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

import elcrec
from elcrec import Config, ELCRec, Histories
from elcrec.errors import ELCRecError
from elcrec.estimator import WHERE_IT_RUNS
from elcrec.model import Network
from tasks import intent_ids, tables
from tasks.duck import connect, sql
from tasks.errors import LakeError, ModelError, SettingsError
from tasks.intent_ids import Intents
from tasks.lake import Lake
from tasks.settings import Settings

log = logging.getLogger(__name__)

# Leave-one-out takes two events of a history and trains on what is left.
MIN_EVENTS = 3
# Where a night departs from the library's preset: one a day has no time for the last digit.
NIGHTLY = {"default": {"max_epochs": 10, "patience": 5}}
USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users
VOCABULARY = "vocabulary.parquet"  # in a model's folder: item_id, in the order of the numbers


@dataclass(frozen=True)
class Identity:
    """What a night's model is made of, and the name that follows from it."""

    version: str
    settings_fingerprint: str
    data_fingerprint: str
    n_items: int  # different items in the night's histories
    parent_version: str | None  # the last promoted model of an earlier night
    same_settings: bool  # whether the parent was made with the same
    warm: bool  # whether training goes on from the parent
    first_free_id: int  # an intent that is new gets this id or a higher one


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


def identify(settings: Settings, night: dt.date) -> Identity:
    """Name the model that these settings train on the night's histories, trained or not.

    Raises LakeError when the night has no histories.
    """
    lake = Lake(settings.lake.root)
    item_ids = vocabulary(settings, night)
    data = _data_fingerprint(settings, night, item_ids)
    made = settings_fingerprint(settings)
    parent, same_settings, warm = _parent(settings, lake, night, made)
    first_free = _first_free_id(lake, night)
    ancestry = f"{parent}{warm}{first_free or ''}"
    return Identity(
        version=f"{night:%Y%m%d}-{_digest(made + data + ancestry)[:8]}",
        settings_fingerprint=made,
        data_fingerprint=data,
        n_items=len(item_ids),
        parent_version=parent,
        same_settings=same_settings,
        warm=warm,
        first_free_id=first_free,
    )


def settings_fingerprint(settings: Settings) -> str:
    """Hash every setting that decides which model is trained on given histories."""
    # The whole config, so that another default of the library makes another model too; but where
    # and how fast a model is computed does not change which model it is.
    config = configure(settings, settings.model.n_intents or None).to_dict()
    chosen = {
        "config": {name: value for name, value in config.items() if name not in WHERE_IT_RUNS},
        "n_intents": settings.model.n_intents,
        "warm_epochs": settings.model.warm_epochs,
        "least_overlap": settings.model.least_overlap,
        "least_share": settings.model.least_share,
        "left_nights": settings.model.left_nights,
        "sequences": settings.sequences.rules(),
        "elcrec": elcrec.__version__,
    }
    return _digest(json.dumps(chosen, sort_keys=True))


def _parent(
    settings: Settings, lake: Lake, night: dt.date, made: str
) -> tuple[str | None, bool, bool]:
    """Return the last promoted model of an earlier night, if its settings are these, if to go on.

    Nights that train from nothing are told by their date alone, so that a backfill does as the
    nightly run did. A parent of other settings may have another shape: it lends ids, no weights.
    """
    before = promoted(lake, until=night - dt.timedelta(days=1))
    if before is None:
        return None, False, False
    version, its_night = before
    rows = registered(lake, its_night).filter(pl.col("model_version") == version)
    every = settings.model.retrain_nights
    from_nothing = settings.model.from_scratch or (every and night.toordinal() % every == 0)
    same_settings = bool(rows["settings_fingerprint"].item() == made)
    return version, same_settings, bool(not from_nothing and same_settings)


def configure(settings: Settings, n_intents: int | None = None) -> Config:
    """Make the model's config out of the settings; without `n_intents` with the preset's own.

    Raises SettingsError for a setting or override that the model does not know or take.
    """
    chosen = settings.model
    values: dict[str, Any] = {
        "seed": chosen.seed,
        "device": chosen.device,
        "threads": chosen.threads,
        "max_length": chosen.max_length,
    }
    values |= NIGHTLY.get(chosen.preset, {})
    asked = {
        "max_epochs": chosen.max_epochs,
        "patience": chosen.patience,
        "n_intents": n_intents,
    }
    values |= {name: value for name, value in asked.items() if value}
    values |= chosen.overrides
    try:
        config = Config.preset(chosen.preset, chosen.dataset or None, **values)
        return config.ablation(chosen.ablation)
    except (ELCRecError, TypeError) as error:
        raise SettingsError(f"model.overrides or another setting of model: {error}") from error


def trainable_histories(settings: Settings, night: dt.date) -> Histories:
    """Read the histories of `trainable_users`."""
    return trainable_users(settings, night)[0]


def trainable_users(
    settings: Settings, night: dt.date
) -> tuple[Histories, npt.NDArray[np.datetime64]]:
    """Read the histories of at least MIN_EVENTS items, by item_index, and the times they end at.

    In the order of user_id. Raises ModelError when no user has as many.
    """
    with connect(settings) as con:
        Lake(settings.lake.root).view(con, tables.SEQUENCES, first=night, last=night)
        found = con.sql(sql("trainable_histories"), params={"min_events": MIN_EVENTS})
        rows = found.to_arrow_table()
    histories = Histories.from_arrow(rows.column("items"))
    if len(histories) == 0:
        raise ModelError(
            f"no user of night {night} has {MIN_EVENTS} events or more, so there is nothing to "
            "train on: wait for more events, or loosen sequences.last_events and the k-core"
        )
    return histories, rows.column("last_ts").to_numpy()


def vocabulary(settings: Settings, night: dt.date) -> pl.Series:
    """Return the ids of all items in the night's histories, in the order of their model numbers."""
    lake = Lake(settings.lake.root)
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        lake.view(con, tables.ITEMS)
        item_ids: pl.Series = con.sql(sql("model_vocabulary")).pl()["item_id"]
    return item_ids


def model_numbers(lake: Lake, item_ids: pl.Series) -> npt.NDArray[np.int32]:
    """Map each item_index of the lake to a model's number for that item, int32 `[indices + 1]`.

    Item `item_ids[n]` has number n + 1; an item that the model does not know has one number more
    than it has items, which `elcrec` leaves out; 0 stays 0.
    """
    known = pl.DataFrame({"item_id": item_ids}).with_row_index("number", offset=1).lazy()
    items = lake.scan(tables.ITEMS).select("item_id", "item_index")
    found = items.join(known, on="item_id").select("item_index", "number").collect()
    largest = items.select(pl.col("item_index").max()).collect().item() or 0
    numbers = np.full(largest + 1, len(item_ids) + 1, np.int32)
    numbers[found["item_index"].to_numpy()] = found["number"].to_numpy()
    numbers[0] = 0
    return numbers


def renumbered(histories: Histories, numbers: npt.NDArray[np.int32]) -> Histories:
    """Return histories of item_index as those of the model that `numbers` is of."""
    return Histories(numbers[histories.items], histories.offsets)


def registered(lake: Lake, night: dt.date) -> pl.DataFrame:
    """Return the models of one night."""
    return lake.scan(tables.MODELS, first=night, last=night).collect().sort("model_version")


def register(lake: Lake, night: dt.date, identity: Identity) -> None:
    """Add a model to those of its night, not promoted; one that is there already stays as it is."""
    rows = registered(lake, night)
    if identity.version in rows["model_version"]:
        return
    added = pl.DataFrame(
        {
            "dt": night,
            "model_version": identity.version,
            "path": str(lake.model_dir(identity.version).relative_to(lake.root)),
            "promoted": False,
            "parent_version": identity.parent_version,
            "settings_fingerprint": identity.settings_fingerprint,
            "data_fingerprint": identity.data_fingerprint,
        },
        schema=rows.schema,
    )
    lake.replace(tables.MODELS, pl.concat([rows, added]), nights=[night])


def model_of_night(settings: Settings, night: dt.date) -> Identity:
    """Return the model that `train` registered for this night, these settings and this data."""
    identity = identify(settings, night)
    if identity.version not in registered(Lake(settings.lake.root), night)["model_version"]:
        raise ModelError(
            f"model {identity.version} (night {night}, present settings and data) is not trained: "
            f"run train --night {night} first"
        )
    return identity


def promoted(lake: Lake, *, until: dt.date) -> tuple[str, dt.date] | None:
    """Return the model that labels a night: its version and its own night.

    It is the newest promoted one of `until` or before it, or the one that a person has chosen for
    that night or a later one up to `until`.
    """
    models = lake.scan(tables.MODELS, last=until).select("model_version", "dt", "promoted")
    by_rules = models.filter("promoted").select(
        "model_version", "dt", since=pl.col("dt"), chosen=pl.lit(False)
    )
    choices = lake.scan(tables.CHOICES, last=until).select("model_version", since="dt")
    by_hand = choices.join(models, on="model_version").select(
        "model_version", "dt", "since", chosen=pl.lit(True)
    )
    newest = (
        pl.concat([by_rules, by_hand]).sort("since", "chosen", "model_version").tail(1).collect()
    )
    return newest.select("model_version", "dt").row(0) if newest.height else None


def _first_free_id(lake: Lake, night: dt.date) -> int:
    """Return the id below which a night gives no intent a new one, as its parent may not know.

    A model that goes on from one that was chosen by hand does not have the ids of those after it.
    """
    until = night - dt.timedelta(days=1)
    choices = lake.scan(tables.CHOICES, last=until).select(pl.col("next_intent_id").max())
    return int(choices.collect().item() or 0)


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


def save(model: ELCRec, item_ids: pl.Series, intents: Intents, folder: Path) -> None:
    """Write a model, the ids of its items in the order of their numbers, and of its intents."""
    model.save(folder)
    intent_ids.write(intents, folder)
    item_ids.alias("item_id").to_frame().write_parquet(folder / VOCABULARY)


def load(settings: Settings, version: str) -> Loaded:
    """Load a registered model onto the device and the threads of the settings.

    Raises ModelError when its folder is missing or damaged, or the device is not there.
    """
    folder = Lake(settings.lake.root).model_dir(version)
    if settings.model.threads:
        torch.set_num_threads(settings.model.threads)
    try:
        if not folder.is_dir():
            raise ELCRecError("the folder is missing")
        return _read(folder, device=settings.model.device)
    except (ELCRecError, OSError) as error:
        if isinstance(error, ELCRecError) and is_complete(folder):
            raise ModelError(
                f"model {version} is whole but cannot be loaded (model.device is "
                f"{settings.model.device!r}): {error}"
            ) from error
        trained = dt.datetime.strptime(version[:8], "%Y%m%d").date()
        raise ModelError(
            f"model {version} in {folder} cannot be used ({error}): if files are missing or "
            "damaged, restore them from a backup, or delete the folder and, with the settings of "
            f"that night, run train --night {trained}"
        ) from error


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


def _data_fingerprint(settings: Settings, night: dt.date, item_ids: pl.Series) -> str:
    """Hash users, items and histories, the same for any item_index and any order of rows.

    Raises LakeError when the night has no histories.
    """
    lake = Lake(settings.lake.root)
    numbers = model_numbers(lake, item_ids)
    # One hash a column, so that where a batch ends makes no difference.
    users, lengths, items = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    found = 0
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        ordered = con.sql(sql("fingerprinted_histories"))
        for batch in ordered.to_arrow_reader(USERS_A_BATCH):
            histories = renumbered(Histories.from_arrow(batch.column("items")), numbers)
            users.update(batch.column("user_hash").to_numpy().data)
            lengths.update(histories.lengths.data)
            items.update(histories.items.data)
            found += len(histories)
    if not found:
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    names = _digest(json.dumps(item_ids.to_list()))
    return _digest(names + users.hexdigest() + lengths.hexdigest() + items.hexdigest())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
