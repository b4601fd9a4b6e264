"""Automatic names say what intents are about: planted themes, and genres of real films."""

import datetime as dt
import math
from pathlib import Path

import polars as pl
import pytest

from local.generator import generate
from tasks.settings import Settings
from tests.tasks.nights import NIGHT
from tests.tasks.profiles import Users, names_of, profile_by_hand, write_catalogue


@pytest.mark.slow
def test_names_have_the_words_of_the_planted_themes(settings: Settings, tmp_path: Path) -> None:
    made = generate(tmp_path, users=600, items=300, intents=20, nights=14, last_night=NIGHT, seed=5)
    log = (
        pl.read_parquet(made.events / "*" / "events.parquet", hive_partitioning=False)
        .drop_nulls()
        .sort("timestamp", "user_id", "item_id")
    )
    number = {item: place for place, item in enumerate(log["item_id"].unique().sort(), 1)}
    intents = dict(pl.read_parquet(made.truth).select("user_id", "intent").iter_rows())
    by_user = log.group_by("user_id", maintain_order=True).agg("item_id")
    users: Users = {
        user: (intents[user], [number[item] for item in items])
        for user, items in by_user.iter_rows()
    }
    catalogue = pl.read_parquet(made.catalogue).select("item_id", "title", "categories")
    rows = {
        number[item]: (title, categories or [])
        for item, title, categories in catalogue.iter_rows()
        if item in number
    }
    write_catalogue(settings, NIGHT, rows)
    profile_by_hand(settings, NIGHT, users)
    names = names_of(settings, NIGHT)
    themes = dict(pl.read_parquet(made.themes).select("intent", "theme").iter_rows())
    right = [themes[intent] in (name or "").casefold() for intent, name in names.items()]
    assert len(right) == 20 and sum(right) >= 0.9 * len(right), names


GENRES = ("Horror", "Musical", "War", "Sci-Fi", "Romance", "Crime")


@pytest.mark.slow
def test_a_name_begins_with_the_genre_that_its_users_surely_have_more_than_others(
    settings: Settings, real_data: Path
) -> None:
    """Of ml-100k; users are put together by the genre that they see most beyond the usual."""
    events = pl.read_csv(real_data / "ml-100k.inter", separator="\t").select(
        user=pl.col("user_id:token").cast(pl.String), item=pl.col("item_id:token")
    )
    films = pl.read_csv(
        real_data / "ml-100k.item", separator="\t", quote_char=None, infer_schema=False
    ).select(
        item=pl.col("item_id:token").cast(pl.Int64),
        title="movie_title:token_seq",
        genres=pl.col("class:token_seq").str.split(" "),
    )
    seen = events.join(films, on="item")
    has = [pl.col("genres").list.contains(genre).mean().alias(genre) for genre in GENRES]
    usual = seen.select(has).row(0)
    shares = seen.group_by("user").agg(*has, "item").sort("user")
    ratios = pl.concat_list([pl.col(g) / u for g, u in zip(GENRES, usual, strict=True)])
    intents = shares.select("user", ratios.list.arg_max().alias("intent"), "item")
    users: Users = {user: (intent, items) for user, intent, items in intents.iter_rows()}
    night = dt.date(1998, 4, 22)
    rows = {item: (title, genres) for item, title, genres in films.rows()}
    write_catalogue(settings, night, rows)
    profile_by_hand(settings, night, users)
    names = names_of(settings, night)
    of_user = dict(intents.select("user", "intent").iter_rows())
    for intent in range(len(GENRES)):
        over = surely_over(seen, of_user, intent)
        first = (names[intent] or "").split()[0]
        # Without the prior two genres that are all but equal may change places.
        assert over[first] > max(over.values()) - 0.02, (names[intent], over)


def surely_over(seen: pl.DataFrame, of_user: dict[str, int], intent: int) -> dict[str, float]:
    """Return how many times the odds of each genre surely are, as a logarithm, without a prior."""
    draws = seen.with_columns(
        draw=1 / pl.len().over("user").sqrt(),
        own=pl.col("user").replace_strict(of_user) == intent,
    )
    sizes = dict(draws.group_by("own").agg(pl.col("draw").sum()).iter_rows())
    counts = draws.explode("genres").group_by("genres", "own").agg(pl.col("draw").sum())
    surely = {}
    for genre in counts["genres"].unique().sort():
        y = dict(counts.filter(genres=genre).select("own", "draw").iter_rows())
        if min(y.get(True, 0), y.get(False, 0)) < 1:
            continue
        odds = {own: y[own] / (sizes[own] - y[own]) for own in (True, False)}
        error = sum(1 / y[own] + 1 / (sizes[own] - y[own]) for own in (True, False)) ** 0.5
        surely[genre] = math.log(odds[True] / odds[False]) - 1.96 * error
    return surely
