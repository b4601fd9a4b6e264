"""The generated events: reproducible, with the structure and the faults they promise."""

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from local.generator import SECONDS_A_DAY, Generated, _draw_night, generate
from local.themes import themes_of
from tasks.errors import PipelineError

SIZES: dict[str, Any] = {
    "users": 400,
    "items": 160,
    "intents": 8,
    "nights": 10,
    "last_night": date(2026, 11, 22),
    "seed": 11,
}


def read(generated: Generated) -> pl.DataFrame:
    return pl.scan_parquet(generated.events / "*" / "events.parquet").collect()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("world"), **SIZES)


@pytest.fixture(scope="module")
def clean(world: Generated) -> pl.DataFrame:
    """Events without the planted faults."""
    return read(world).drop_nulls().unique()


def test_same_arguments_give_the_same_files_and_another_seed_gives_others(
    world: Generated, tmp_path: Path
) -> None:
    again = generate(tmp_path / "again", **SIZES)
    other = generate(tmp_path / "other", **{**SIZES, "seed": 12})
    assert read(again).equals(read(world))
    for file in ("truth", "catalogue", "themes"):
        assert pl.read_parquet(getattr(again, file)).equals(
            pl.read_parquet(getattr(world, file)), null_equal=True
        )
    assert not read(other).equals(read(world))


def test_generating_again_replaces_the_nights_of_an_earlier_result(tmp_path: Path) -> None:
    generate(tmp_path, **SIZES)
    generated = generate(tmp_path, **{**SIZES, "nights": 2})
    assert sorted(folder.name for folder in generated.events.iterdir()) == [
        "dt=2026-11-21",
        "dt=2026-11-22",
    ]


def test_a_killed_generator_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_at_the_third_night(*given: Any) -> pl.DataFrame:
        if given[1] == 2:
            raise KeyboardInterrupt
        return _draw_night(*given)

    monkeypatch.setattr("local.generator._draw_night", killed_at_the_third_night)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, **SIZES)
    assert not (tmp_path / "events").exists()
    monkeypatch.undo()
    generated = generate(tmp_path, **SIZES)
    assert len(list(generated.events.iterdir())) == SIZES["nights"]
    files = ["catalogue.parquet", "events", "themes.parquet", "truth.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_a_killed_generator_leaves_the_result_before_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = generate(tmp_path, **SIZES)
    events, truth = read(before), before.truth.read_bytes()

    def killed(*_: Any) -> pl.DataFrame:
        raise KeyboardInterrupt

    monkeypatch.setattr("local.generator._draw_night", killed)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, **{**SIZES, "seed": 12})
    assert read(before).equals(events) and before.truth.read_bytes() == truth


def test_every_event_lies_in_the_night_of_its_file(world: Generated) -> None:
    for folder in world.events.iterdir():
        night = pl.read_parquet(folder / "events.parquet", hive_partitioning=False)
        days = night["timestamp"].drop_nulls().dt.date().unique().to_list()
        assert days == [date.fromisoformat(folder.name.removeprefix("dt="))]
    assert len(list(world.events.iterdir())) == SIZES["nights"]


def test_faults_are_planted_and_counted(world: Generated, clean: pl.DataFrame) -> None:
    events = read(world)
    assert events.height == world.rows
    assert world.rows == clean.height + world.duplicates + world.broken
    assert world.duplicates >= SIZES["nights"] and world.broken >= SIZES["nights"]
    for field in ("user_id", "item_id", "timestamp"):
        assert events[field].null_count() > 0, field


def test_activity_has_a_heavy_tail_and_some_users_are_seen_once(clean: pl.DataFrame) -> None:
    a_user = clean.group_by("user_id").len()["len"]
    assert a_user.len() == SIZES["users"]
    assert (a_user == 1).sum() >= 0.02 * SIZES["users"]
    assert a_user.max() > 6 * a_user.median()


def test_intents_own_their_items_but_share_staples_and_neighbours(
    world: Generated, clean: pl.DataFrame
) -> None:
    truth = pl.read_parquet(world.truth)
    held = clean.join(truth, on="user_id").group_by("item_id", "intent").len()
    main_share = held.group_by("item_id").agg(
        share=pl.col("len").max() / pl.col("len").sum(), n=pl.col("len").sum()
    )
    frequent = main_share.filter(pl.col("n") >= 50)
    assert frequent["share"].median() > 0.85
    assert frequent["share"].min() < 0.4  # a staple: near 1/8 for each intent


def test_popularity_is_skewed_and_new_items_keep_appearing(clean: pl.DataFrame) -> None:
    a_item = (
        clean.group_by("item_id")
        .agg(pl.len(), first=pl.col("timestamp").min().dt.date())
        .sort("len")
    )
    top_tenth = a_item.tail(len(a_item) // 10)["len"].sum()
    assert top_tenth > 0.25 * clean.height
    assert a_item["first"].n_unique() >= SIZES["nights"] // 2


def test_the_next_item_follows_from_the_last_more_often_than_popularity_says(
    clean: pl.DataFrame,
) -> None:
    views = clean.filter(pl.col("event_type") == "view").sort("user_id", "timestamp")
    pairs = views.select(
        "item_id", following=pl.col("item_id").shift(-1).over("user_id")
    ).drop_nulls()
    counted = pairs.group_by("item_id", "following").len().sort("len", descending=True)
    likeliest = counted.group_by("item_id", maintain_order=True).first()["len"].sum() / pairs.height
    most_popular_within_an_intent = 0.15
    assert likeliest > 1.5 * most_popular_within_an_intent


def test_evenings_are_busier_and_time_stays_in_the_day(clean: pl.DataFrame) -> None:
    seconds = clean["timestamp"].dt.epoch("s") % SECONDS_A_DAY
    assert (seconds > 17 * 3600).mean() > 1.5 * (seconds < 7 * 3600).mean()


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"users": 0}, "users = 0"),
        ({"nights": -1}, "nights = -1"),
        ({"items": 80}, "80 items are too few for 8 intents"),
    ],
)
def test_sizes_no_world_can_have_are_refused(
    tmp_path: Path, sizes: dict[str, int], says: str
) -> None:
    with pytest.raises(PipelineError, match=says):
        generate(tmp_path, **{**SIZES, **sizes})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match=r"in .*file/world \(Not a directory.*another folder"):
        generate(tmp_path / "file" / "world", **SIZES)


def test_a_folder_of_other_events_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "events" / "real.parquet"
    precious.parent.mkdir()
    precious.write_text("real")
    with pytest.raises(PipelineError, match="choose another folder"):
        generate(tmp_path, **SIZES)
    assert precious.read_text() == "real"


@pytest.mark.parametrize("users", [1, 3])
def test_a_handful_of_users_and_nights_without_events_work(tmp_path: Path, users: int) -> None:
    generated = generate(tmp_path, **{**SIZES, "users": users})
    assert read(generated).drop_nulls()["user_id"].n_unique() == users


def test_the_events_are_what_they_were_before_there_was_a_catalogue(world: Generated) -> None:
    # A digest of the rows; the golden labels and all published figures stand on them.
    rows = read(world).sort("user_id", "item_id", "event_type", "timestamp")
    digest = hashlib.sha256(rows.write_csv().encode()).hexdigest()
    assert digest[:16] == "ce67b65bfa7b5fee"


def test_titles_tell_the_theme_of_the_intent_that_owns_the_item(
    world: Generated, clean: pl.DataFrame
) -> None:
    truth, themes = pl.read_parquet(world.truth), pl.read_parquet(world.themes)
    assert themes["intent"].to_list() == list(range(SIZES["intents"]))
    assert themes["theme"].n_unique() == SIZES["intents"]
    items = pl.read_parquet(world.catalogue)
    assert items["item_id"].n_unique() == len(items)
    assert 0.95 * SIZES["items"] < len(items) < SIZES["items"]
    assert items["categories"].list.len().min() == 0
    # Among the events of an intent's users its own theme is by far the most frequent word.
    named = clean.join(truth, on="user_id").join(items, on="item_id")
    for intent, theme in themes.iter_rows():
        titles = named.filter(intent=intent)["title"].drop_nulls().str.to_lowercase()
        shares = {word: titles.str.contains(word).mean() for word in themes["theme"]}
        own = shares.pop(theme)
        assert 0.4 < own < 0.95 and max(shares.values()) < own / 2


def test_more_intents_than_there_are_themes_have_words_of_their_own() -> None:
    words = [theme.word for theme in themes_of(60)]
    assert len(set(words)) == 60 and words[0] == "camping" and words[24] == "camping2"
