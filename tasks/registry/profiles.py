"""What sets each intent of a night apart: features, next items, closest users, flows, its place.

The tables are whole partitions of the night, each written in one transaction; `intent_profiles`,
which has the names, is written last. All are of the labels as they stand in the lake.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa

from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.lake.tables import Table
from tasks.registry import names, places
from tasks.registry.catalogue import catalogue_night, view_catalogue
from tasks.settings import Settings

if TYPE_CHECKING:  # reports have no need of torch
    from tasks.registry.weights import Loaded

TOP_ITEMS = 10  # of intent_profiles
TOP_ITEMS_POOL = 3 * TOP_ITEMS  # the most frequent items of an intent, of which its top is chosen
TOP_FEATURES = 10  # of a kind, over- and under-represented ones each
NEXT_ITEMS = 10
COMMON_ITEM_USERS = 5  # so many users must have an item that is named as a next one
CLOSEST_USERS = 5
PRIOR_USERS = 5  # what fewer users than about this do says little about an intent
BEFORE = (1, 7, 28)  # nights that the size of an intent is compared with


def profile(
    settings: Settings,
    night: dt.date,
    model: "Loaded",
    *,
    with_retired: bool,
    previous: dt.date | None,
    gives_names: bool,
) -> pa.Table:
    """Write the profiles of a night that has its labels; return `intent_profiles` of it.

    Parameters
    ----------
    model
        The model that gave the labels.
    with_retired
        Whether the intents that the model gave up are told of.
    previous
        The night whose labels these were held against; None: there are no flows.
    gives_names
        Whether intents without a name get one. A relabelled night gives none.
    """
    lake = Lake.of(settings)
    of_model = model.intents.rows(with_retired=with_retired)
    known = names.known(lake, night, but_its_own=gives_names)
    with connect(settings) as con:
        of_night = (tables.INTENT_LABELS, tables.LABEL_EVIDENCE, tables.SEQUENCES, tables.EVENTS)
        for table in of_night:
            lake.view(con, table, first=night, last=night)
        lake.view(con, tables.ITEMS)
        view_catalogue(con, lake, night)
        con.register("named_for", known.features())
        con.execute(sql("intent_holders"))
        con.execute(sql("item_features"))
        values: dict[str, Any] = {"night": night, "top": TOP_FEATURES, "prior": PRIOR_USERS}
        _write(lake, con, tables.INTENT_FEATURES, values)
        values = {"night": night, "top": CLOSEST_USERS}
        _write(lake, con, tables.INTENT_USERS, values)
        common = con.sql(sql("common_items"), params={"least": COMMON_ITEM_USERS}).pl()["item_id"]
        next_items = _next_items(lake, night, model, common)
        lake.replace(tables.INTENT_NEXT_ITEMS, next_items, nights=[night])
        if previous:
            lake.view(con, tables.INTENT_LABELS, "previous_labels", previous, previous)
            _write(lake, con, tables.INTENT_FLOWS, {"night": night})
        else:
            con.register("previous_labels", tables.INTENT_LABELS.schema.empty_table())
            no_flows = tables.INTENT_FLOWS.schema.empty_table()
            lake.replace(tables.INTENT_FLOWS, no_flows, nights=[night])
        _write(lake, con, tables.LABEL_COUNTS, {"night": night})
        features = lake.scan(tables.INTENT_FEATURES, night, night).collect()
        if gives_names:  # and places; a relabelled night gives neither
            ids = model.intents.ids.tolist()
            places.give(lake, night, ids, model.network.centers.detach().cpu().numpy())
            known = names.give(settings, night, known, ids, features)
        effective = known.effective(features)
        con.register("effective_names", effective)
        con.register("model_intents", of_model)
        values = {"night": night, "pool": TOP_ITEMS_POOL, "top": TOP_ITEMS}
        profiles = con.sql(sql("intent_profiles"), params=values).to_arrow_table()
    lake.replace(tables.INTENT_PROFILES, profiles, nights=[night])
    names.tell_of_drift(effective, settings.quality.min_kept_meaning)
    return profiles


def _write(
    lake: Lake, con: duckdb.DuckDBPyConnection, table: Table, values: Mapping[str, Any]
) -> None:
    rows = con.sql(sql(table.name), params=dict(values))
    lake.replace(table, rows, nights=[values["night"]])


def _next_items(lake: Lake, night: dt.date, model: "Loaded", common: pl.Series) -> pl.DataFrame:
    # The model knows little of an item that hardly anyone has, and may put it next to any intent.
    among = model.item_ids.is_in(common.implode()).arg_true().to_numpy() + 1
    count = min(NEXT_ITEMS, model.model.n_items)
    items, scores = model.model.center_items(count, among if among.size >= count else None)
    intents, places = items.shape
    ids = model.item_ids.gather(items.ravel() - 1)
    known = titles(lake, night, ids)
    rows = pl.DataFrame(
        {
            "dt": pl.repeat(night, intents * places, eager=True),
            "intent_id": model.intents.ids.repeat(places),
            "rank": pl.Series(list(range(1, places + 1)) * intents, dtype=pl.Int32),
            "item_id": ids,
            "title": [known.get(item) for item in ids],
            "score": scores.ravel(),
        }
    )
    return rows.sort("intent_id", "rank")


def titles(lake: Lake, night: dt.date, item_ids: Iterable[str]) -> dict[str, str]:
    """Return the titles that these items have in the catalogue that a night reads."""
    its = catalogue_night(lake, night)
    if its is None:
        return {}
    rows = lake.scan(tables.CATALOGUE, its, its).select("item_id", "title").drop_nulls()
    wanted = pl.LazyFrame({"item_id": pl.Series(item_ids, dtype=pl.String).unique()})
    return dict(rows.join(wanted, on="item_id", how="semi").collect().iter_rows())


def sizes(lake: Lake, night: dt.date) -> pl.DataFrame:
    """Return the size of each intent of a night, and what it was 1, 7 and 28 nights before.

    A row an intent of `intent_profiles`: intent_id, users, share, and for each of `BEFORE`
    users_<nights> and share_<nights>, null where that night has no profiles or not this intent.
    They are looked up when asked for, and not kept: a night before may be labelled anew.
    """
    rows = lake.scan(tables.INTENT_PROFILES, night, night).select("intent_id", "users", "share")
    for nights in BEFORE:
        day = night - dt.timedelta(days=nights)
        then = lake.scan(tables.INTENT_PROFILES, day, day).select(
            "intent_id",
            pl.col("users").alias(f"users_{nights}"),
            pl.col("share").alias(f"share_{nights}"),
        )
        rows = rows.join(then, on="intent_id", how="left")
    return rows.sort("intent_id").collect()
