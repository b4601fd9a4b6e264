"""Generated events whose intents are known, to run a night without real data and to test labels.

Every user has one planted intent. An intent is a catalogue of items with Zipf popularity and a
Markov chain over them: within a session the next item is usually one of the few that follow the
last one. The rest is what real logs have: heavy-tailed activity, users seen once, items shared by
neighbouring intents, staples that everybody touches, visits to another intent, plain noise, items
and users that appear over time, carts and purchases after views, busier evenings and weekends,
rows written twice and rows with a missing field. A catalogue names the items (`local.themes`).

The world (items, intents, users) is drawn once from the seed, each night then from the world,
the seed and its date alone, so the same arguments write the same rows.
"""

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from local.themes import draw_catalogue, themes_of
from tasks.errors import PipelineError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ZIPF_EXPONENT = 0.8  # item popularity within an intent: weight of the r-th item is r^-0.8
SHARED_WITH_NEXT = 0.08  # share of an intent's catalogue borrowed from its neighbour
STAPLES = 0.02  # share of all items that belong to no intent and that everybody touches
NEW_ITEMS = 0.15  # share of items that appear over the nights
NEW_USERS = 0.30  # share of users who arrive over the nights
SUCCESSORS = (0.6, 0.25, 0.15)  # chance of each of the items that follow an item
FOLLOWS = 0.6  # chance that an event follows the Markov chain rather than popularity
WANDERS = 0.03  # chance that a session is about another intent
TOUCHES_STAPLE = 0.04  # chance that an event is a staple
IS_NOISE = 0.02  # chance that an event is any item at all
SEEN_ONCE = 0.04  # share of users with a single event
SESSIONS = 4.5  # sessions of the typical user over all nights
SESSION_SIGMA = 0.9  # log-normal spread of that: the tail of heavy users
SESSION_LENGTH = 4.0  # mean events a session (geometric, at most MAX_SESSION)
MAX_SESSION = 30
WEEKEND = 1.3  # activity on Saturdays and Sundays, relative to other days
CARTED, PURCHASED = 0.12, 0.4  # share of views put into the cart, and of those bought
DUPLICATED, BROKEN = 0.002, 0.001  # share of rows written twice, and written with a field missing
SECONDS_A_DAY = 86_400

_WORLD_STREAM, _NIGHT_STREAM, _CATALOGUE_STREAM = 0, 1, 2


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote: a folder of event files and three files, and counts of rows.

    truth: the true intent of each user. themes: the word that each intent is about.
    """

    events: Path
    truth: Path
    catalogue: Path
    themes: Path
    rows: int
    duplicates: int
    broken: int


@dataclass(frozen=True)
class _World:
    """All that does not change from night to night; items are numbered 0…items-1."""

    released: Ints  # [items] offset of the night an item first exists
    staples: Ints  # [s] items of no intent
    owner: Ints  # [items] the intent that has the item in its own catalogue; -1: none
    catalogue: Ints  # [intents, m] items of each intent, the most popular first
    weights: Floats  # [intents, m] their unnormalised popularity
    successors: Ints  # [intents, m, 3] places in the catalogue that follow a place
    intent: Ints  # [users] the planted truth
    sessions_a_night: Floats  # [users] expected, on a working day
    active_from: Ints  # [users] offset of the night from which a user may come
    sure_to_come: (
        Ints  # [users] offset of a night with at least one session, so that no user stays unseen
    )
    seen_once: npt.NDArray[np.bool_]  # [users]


def generate(
    out_dir: Path, *, users: int, items: int, intents: int, nights: int, last_night: date, seed: int
) -> Generated:
    """Write `events/dt=YYYY-MM-DD/events.parquet` a night and what is known into `out_dir`.

    Event files hold user_id, item_id, event_type (view, cart, purchase) and timestamp
    (microseconds, UTC); `truth.parquet` holds user_id and intent (0…intents-1),
    `catalogue.parquet` item_id, title, categories and price, and `themes.parquet` intent and
    theme. An earlier result in the same folder is replaced. `events` appears last, whole: where it
    is, the others are, too.

    Raises PipelineError for sizes no world has, and for a folder that holds other events or cannot
    be written to.
    """
    _check_sizes(users=users, items=items, intents=intents, nights=nights)
    out_dir = Path(out_dir)
    events, truth = out_dir / "events", out_dir / "truth.parquet"
    catalogue, themes = out_dir / "catalogue.parquet", out_dir / "themes.parquet"
    if events.exists() and not truth.exists():
        raise PipelineError(
            f"{events} exists but was not generated: choose another folder to generate in"
        )
    unfinished = out_dir / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        (unfinished / "events").mkdir(parents=True)
    except OSError as error:
        raise PipelineError(
            f"events cannot be generated in {out_dir} ({error.strerror}: {error.filename}): choose "
            "another folder to generate in, or let this account write there"
        ) from error

    world = _draw_world(users, items, intents, nights, np.random.default_rng([seed, _WORLD_STREAM]))
    user_ids = _ids("u", users)
    item_ids = _ids("i", items)
    pl.DataFrame(
        {"user_id": user_ids, "intent": world.intent}, schema_overrides={"intent": pl.Int32}
    ).write_parquet(unfinished / truth.name)
    of_catalogue = np.random.default_rng([seed, _CATALOGUE_STREAM])
    draw_catalogue(item_ids, world.owner, intents, of_catalogue).write_parquet(
        unfinished / catalogue.name
    )
    pl.DataFrame(
        {"intent": range(intents), "theme": [theme.word for theme in themes_of(intents)]},
        schema_overrides={"intent": pl.Int32},
    ).write_parquet(unfinished / themes.name)

    rows = duplicates = broken = 0
    for offset in range(nights):
        night = last_night - timedelta(days=nights - 1 - offset)
        rng = np.random.default_rng([seed, _NIGHT_STREAM, night.toordinal()])
        clean = _draw_night(world, offset, night, user_ids, item_ids, rng)
        twice, faulty = _written_twice(clean, rng), _with_missing_field(clean, rng)
        folder = unfinished / "events" / f"dt={night:%Y-%m-%d}"
        folder.mkdir()
        logged = pl.concat([clean, twice, faulty])
        logged.sort("logged_at", maintain_order=True).drop("logged_at").write_parquet(
            folder / "events.parquet"
        )
        rows += logged.height
        duplicates += twice.height
        broken += faulty.height
    if events.exists():
        events.rename(unfinished / "replaced")
    for file in (truth, catalogue, themes):
        (unfinished / file.name).replace(file)
    (unfinished / "events").rename(events)
    shutil.rmtree(unfinished)
    return Generated(
        events=events,
        truth=truth,
        catalogue=catalogue,
        themes=themes,
        rows=rows,
        duplicates=duplicates,
        broken=broken,
    )


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise PipelineError(f"the generator needs at least one of each, got {name} = {value}")
    least = 10 * sizes["intents"] + 1
    if sizes["items"] < least:
        raise PipelineError(
            f"{sizes['items']} items are too few for {sizes['intents']} intents: "
            f"the generator needs at least {least}"
        )


def _ids(prefix: str, count: int) -> pl.Series:
    width = len(str(count))
    return pl.select(
        (pl.lit(prefix) + pl.int_range(1, count + 1).cast(pl.String).str.zfill(width)).alias("id")
    )["id"]


def _draw_world(
    users: int, items: int, intents: int, nights: int, rng: np.random.Generator
) -> _World:
    shuffled = rng.permutation(items)
    staples, owned = np.split(shuffled, [max(1, round(STAPLES * items))])
    own_size = len(owned) // intents
    own = owned[: own_size * intents].reshape(intents, own_size)
    owner = np.full(items, -1)
    owner[own] = np.arange(intents)[:, None]
    borrowed = np.roll(own, -1, axis=0)[:, : max(1, round(SHARED_WITH_NEXT * own_size))]
    # Interleaved at random, so that a borrowed item may be popular here and rare at home.
    catalogue = rng.permuted(np.concatenate([own, borrowed], axis=1), axis=1)  # [intents, m]
    size = catalogue.shape[1]
    weights = np.tile(np.arange(1, size + 1, dtype=np.float64) ** -ZIPF_EXPONENT, (intents, 1))
    successors = _draw_rows(weights, np.repeat(np.arange(intents), size * len(SUCCESSORS)), rng)

    released = np.where(rng.random(items) < NEW_ITEMS, rng.integers(0, nights, items), 0)
    released[staples] = 0
    active_from = np.where(rng.random(users) < NEW_USERS, rng.integers(0, nights, users), 0)
    return _World(
        released=released,
        staples=staples,
        owner=owner,
        catalogue=catalogue,
        weights=weights,
        successors=successors.reshape(intents, size, len(SUCCESSORS)),
        intent=rng.integers(0, intents, users),
        sessions_a_night=SESSIONS / nights * rng.lognormal(0.0, SESSION_SIGMA, users),
        active_from=active_from,
        sure_to_come=rng.integers(active_from, nights),
        seen_once=rng.random(users) < SEEN_ONCE,
    )


def _draw_night(
    world: _World,
    offset: int,
    night: date,
    user_ids: pl.Series,
    item_ids: pl.Series,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Draw one night's events, without faults: the columns of the file and `logged_at`."""
    # Every user's sessions are drawn, active or not: the stream then does not depend on who is.
    busy = WEEKEND if night.weekday() >= 5 else 1.0
    sessions = rng.poisson(world.sessions_a_night * busy)
    sessions[world.seen_once | (world.active_from > offset)] = 0
    sessions += world.sure_to_come == offset
    user = np.repeat(np.arange(len(sessions)), sessions)  # [S] the user of each session

    length = np.minimum(rng.geometric(1.0 / SESSION_LENGTH, len(user)), MAX_SESSION)
    length[world.seen_once[user]] = 1
    session_items = _draw_items(world, offset, user, length, rng)  # [S, longest]
    seconds = _draw_seconds(length, rng)  # [S, longest]

    real = np.arange(session_items.shape[1]) < length[:, None]
    events = int(real.sum())
    views = pl.DataFrame(
        {
            "user_id": user_ids.gather(np.repeat(user, length)),
            "item_id": item_ids.gather(session_items[real]),
            "milliseconds": (seconds[real] * 1000).astype(np.int64),
            "carted": (rng.random(events) < CARTED) & ~np.repeat(world.seen_once[user], length),
            "bought": rng.random(events) < PURCHASED,
        }
    )
    carts = views.filter("carted")
    steps = {"view": views, "cart": carts, "purchase": carts.filter("bought")}
    midnight = pl.lit(night).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.concat(
        frame.select(
            "user_id",
            "item_id",
            event_type=pl.lit(event_type),
            timestamp=midnight + pl.duration(milliseconds=pl.col("milliseconds") + delay),
        )
        for (event_type, frame), delay in zip(steps.items(), (0, 1500, 3000), strict=True)
    ).with_columns(logged_at="timestamp")


def _draw_items(
    world: _World, offset: int, user: Ints, length: Ints, rng: np.random.Generator
) -> Ints:
    """Draw the items of each session, [sessions, longest]; past a session's length meaningless."""
    sessions, longest = len(user), int(length.max(initial=0))
    intents = len(world.catalogue)
    wanders = rng.random(sessions) < WANDERS
    intent = np.where(wanders, rng.integers(0, intents, sessions), world.intent[user])
    exists = world.released <= offset
    # Not zero: a catalogue none of whose items exists yet must stay drawable.
    weights = world.weights * np.where(exists[world.catalogue], 1.0, 1e-9)

    drawn = np.empty((sessions, longest), dtype=np.int64)
    place = _draw_rows(weights, intent, rng)
    for position in range(longest):
        if position > 0:
            choice = np.searchsorted(np.cumsum(SUCCESSORS)[:-1], rng.random(sessions), side="right")
            following = world.successors[intent, place, choice]
            follows = (rng.random(sessions) < FOLLOWS) & exists[world.catalogue[intent, following]]
            place = np.where(follows, following, _draw_rows(weights, intent, rng))
        drawn[:, position] = world.catalogue[intent, place]

    # Staples and noise interrupt a session without moving the chain.
    kind = rng.random(drawn.shape)
    drawn = np.where(kind < TOUCHES_STAPLE, rng.choice(world.staples, drawn.shape), drawn)
    return np.where(kind > 1 - IS_NOISE, rng.choice(np.flatnonzero(exists), drawn.shape), drawn)


def _draw_rows(weights: Floats, row: Ints, rng: np.random.Generator) -> Ints:
    """Draw one place in row `row[i]` of `weights` [rows, m] for each i, in proportion to it."""
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    cumulative[:, -1] = 1.0
    stacked = (cumulative + np.arange(len(weights))[:, None]).ravel()
    drawn: Ints = np.searchsorted(stacked, row + rng.random(len(row)), side="right")
    width: int = weights.shape[1]
    return drawn - row * width


def _draw_seconds(length: Ints, rng: np.random.Generator) -> Floats:
    """Draw seconds since midnight, [sessions, longest]: busy evenings, none past midnight."""
    gaps = 5.0 + rng.lognormal(3.5, 0.8, (len(length), int(length.max(initial=0))))
    since_start = np.cumsum(gaps, axis=1)
    duration = since_start[np.arange(len(length)), length - 1]
    start = SECONDS_A_DAY * rng.beta(4.0, 2.2, len(length))
    return np.minimum(start, SECONDS_A_DAY - 10.0 - duration)[:, None] + since_start


def _written_twice(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    chosen = rng.integers(0, max(1, events.height), int(np.ceil(DUPLICATED * events.height)))
    return events[np.unique(chosen)]


def _with_missing_field(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Copy some events without their user, item or time; they keep their place in the log."""
    chosen = rng.integers(0, max(1, events.height), int(np.ceil(BROKEN * events.height)))
    missing = pl.Series(rng.integers(0, 3, len(chosen)))
    fields = ("user_id", "item_id", "timestamp")
    return events[chosen].with_columns(
        pl.when(missing != which).then(pl.col(field)).alias(field)
        for which, field in enumerate(fields)
    )
