"""Images of items, of hosts that the settings allow; the browser asks no other."""

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import polars as pl

from tasks.lake import tables
from tasks.page.reader import PageLake
from tasks.registry.catalogue import catalogue_night
from tasks.settings import PageSettings


def of(
    settings: PageSettings, lake: PageLake, night: dt.date, items: Iterable[str]
) -> dict[str, str]:
    """Return the address of the image of each item that has an allowed one."""
    its = catalogue_night(lake, night) if settings.image_hosts else None
    if its is None:
        return {}
    rows = (
        lake.scan(tables.CATALOGUE, its, its)
        .filter(pl.col("item_id").is_in(sorted(set(items))), pl.col("attributes").is_not_null())
        .select("item_id", "attributes")
        .collect()
    )
    found = {}
    for item, attributes in rows.iter_rows():
        address = json.loads(attributes).get(settings.image_column)
        if isinstance(address, str) and allowed(address, settings.image_hosts):
            found[item] = address
    return found


def allowed(address: str, hosts: Sequence[str]) -> bool:
    """Tell whether an image may be asked for: over HTTPS, on its usual port, of an allowed host."""
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != "https" or port not in (None, 443) or "@" in parts.netloc:
        return False
    return any(
        host.endswith(one.removeprefix("*")) if one.startswith("*.") else host == one
        for one in hosts
    )
