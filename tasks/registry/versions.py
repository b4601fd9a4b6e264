"""Which models there are, and which one labels a night.

Which model labels a night is a question of dates alone: the newest promoted one of that night or
before it, whatever was trained since. A person may choose another, any of that night or before
(`tasks.registry.choices`).
"""

import datetime as dt
from collections.abc import Sequence

import polars as pl

from tasks.lake import Lake, tables


def registered(lake: Lake, night: dt.date) -> pl.DataFrame:
    """Return the models of one night."""
    return lake.scan(tables.MODELS, first=night, last=night).collect().sort("model_version")


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


def anchor(lake: Lake, version: str) -> str | None:
    """Return the model of the last training from scratch that this one goes back to, maybe itself.

    It is the first one, from this one over its parents, that was not trained on from another. Small
    steps of trainings that go on add up; against this one they show.
    None for a model that is not registered.
    """
    columns = ("model_version", "parent_version", "warm", "settings_fingerprint")
    rows = lake.scan(tables.MODELS).select(*columns).collect().iter_rows()
    models = {name: facts for name, *facts in rows}
    found = version if version in models else None
    while found:
        parent, warm, made = models[found]
        if parent not in models:
            break
        # Of rows from before: a parent of other settings lends no weights.
        if not (models[parent][2] == made if warm is None else warm):
            break
        found = parent
    return found


def held_out_one_in(lake: Lake, versions: Sequence[str]) -> int:
    """Return n, where every one of these models held out one user in n (`registry.held_out`)."""
    models = lake.scan(tables.MODELS).filter(pl.col("model_version").is_in(versions))
    return models.select(pl.col("held_out_one_in").max()).collect().item() or 1
