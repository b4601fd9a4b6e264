"""A night tells what its model is worth for purchases, where they follow other intents than views.

In the log of these tests a user views what every fourth user views, and buys what every fourth
user of another division buys. Labels are of views, which are many. So they say much about the next
view and nothing about the next purchase, and all events together hide that.
"""

import datetime as dt
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tasks.chores.report import show
from tasks.lake import Lake, tables
from tasks.night.evaluate import evaluate
from tasks.night.label import label
from tasks.night.promote import promote
from tasks.night.sequences import build_sequences
from tasks.night.train import train
from tasks.page.links import Links
from tasks.page.night import view
from tasks.page.reader import PageLake
from tasks.registry.figures import BASELINES, of_type, type_of
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, mark_ingested, small_settings, table

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
USERS, GROUPS = 400, 4
ITEMS = {"view": 30, "purchase": 8, "refund": 8}  # of a group, the first the most popular
TYPES = ("gift", "purchase", "refund", "view")
REFUNDED = 3  # users whose newest event is a refund
MODEL = SMALL_MODEL | {"n_intents": GROUPS, "max_epochs": 6}
Figures = dict[tuple[str, str, str, str], float]


def write_log(root: Path | str) -> None:
    """Write two nights of events: views by one division of the users, purchases by another."""
    rng, rows = np.random.default_rng(5), list[dict[str, Any]]()

    def add(user: int, night: dt.date, minute: int, kind: str) -> None:
        group = user // GROUPS % GROUPS if kind == "purchase" else user % GROUPS
        day = dt.datetime.combine(night, dt.time(), dt.UTC)
        rows.append(
            {
                "dt": night,
                "user_id": f"u{user:03}",
                "item_id": f"{kind[0]}{group}-{int(ITEMS[kind] * rng.random() ** 1.5)}",
                "event_type": kind,
                "ts": day + dt.timedelta(minutes=minute),
                "weight": None,
                "source": "events.csv",
                "row_number": len(rows) + 1,
                "ingested": night,
            }
        )

    for user in range(USERS):
        kinds = ["view"] * 10 + ["purchase"] * 2
        rng.shuffle(kinds)
        newest = "refund" if user < REFUNDED else "purchase" if user % 8 < 4 else "view"
        for minute, kind in enumerate([*kinds, newest]):
            add(user, NIGHT, minute, kind)
        if user % 2 == 0:
            add(user, NEXT_NIGHT, 0, "view")
            add(user, NEXT_NIGHT, 1, "purchase")
    frame = pl.DataFrame(
        rows, schema_overrides={"weight": pl.Float32, "ts": pl.Datetime("us", "UTC")}
    )
    for (night,), of_night in frame.group_by("dt"):
        Lake(root).replace(tables.EVENTS, of_night, nights=[night])
    mark_ingested(root, [NIGHT, NEXT_NIGHT])


def run(settings: Settings, night: dt.date) -> str:
    build_sequences(settings, night)
    version: str = train(settings, night)["model_version"]
    evaluate(settings, night)
    promote(settings, night)
    label(settings, night)
    return version


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Give settings that ask for types, of which nobody has one, and a lake of two nights."""
    root = tmp_path_factory.mktemp("by-type") / "lake"
    write_log(root)
    settings = small_settings(
        root,
        model=MODEL,
        evaluate={"types": list(TYPES)},
        promote={"force": True},
    )
    for night in (NIGHT, NEXT_NIGHT):
        run(settings, night)
    yield settings


def figures(settings: Settings, night: dt.date) -> Figures:
    columns = ("model_version", "split", "slice", "metric", "value")
    rows = table(settings, tables.METRICS, night).select(columns).iter_rows()
    return {(version, split, users, metric): value for version, split, users, metric, value in rows}


@pytest.mark.slow
def test_labels_of_views_are_worth_something_for_views_and_nothing_for_purchases(
    asked: Settings,
) -> None:
    found, (version,) = figures(asked, NIGHT), table(asked, tables.MODELS, NIGHT)["model_version"]
    lift = {
        name: found[version, "test", of_type(name, "new items"), "intent_lift@20"]
        for name in ("view", "purchase")
    }
    assert lift["view"] > 3 and lift["purchase"] < 1
    # By time, too: the night after, of the model before.
    by_time = {
        name: figures(asked, NEXT_NIGHT)[version, "time", of_type(name), "intent_lift@20"]
        for name in ("view", "purchase")
    }
    assert by_time["view"] > 1.5 and by_time["purchase"] < 1


@pytest.mark.slow
def test_the_types_add_up_to_all(asked: Settings) -> None:
    found, (version,) = figures(asked, NIGHT), table(asked, tables.MODELS, NIGHT)["model_version"]
    views = sum(user % 8 >= 4 for user in range(USERS))
    users = {"view": views, "purchase": USERS - views - REFUNDED, "refund": REFUNDED, "gift": 0}
    for name, count in users.items():
        assert found[version, "test", of_type(name), "users"] == count
    for model in (version, *BASELINES):
        hits = {
            name: users[name] * found[model, "test", of_type(name), "HR@20"]
            for name in ("view", "purchase")
        }
        of_all = USERS * found[model, "test", "all", "HR@20"]
        assert 0 <= round(of_all - sum(hits.values()), 6) <= REFUNDED


@pytest.mark.slow
def test_the_target_by_time_is_the_first_event_of_the_type_tonight(asked: Settings) -> None:
    """Popularity is counted by hand: rank of a purchase among items that the user has not had."""
    found = figures(asked, NEXT_NIGHT)
    events = table(asked, tables.EVENTS).sort("user_id", "ts")
    before, tonight = (events.filter(pl.col("dt") == night) for night in (NIGHT, NEXT_NIGHT))
    counts = dict(before["item_id"].value_counts().iter_rows())
    bought = tonight.filter(event_type="purchase").group_by("user_id").agg(pl.first("item_id"))
    had = dict(before.group_by("user_id").agg("item_id").iter_rows())
    every = sorted({*counts, *tonight["item_id"]})
    hits = []
    for user, target in bought.iter_rows():
        out = set() if target in had[user] else set(had[user])
        ahead = [item for item in every if item not in out and item != target]
        hits.append(sum(counts.get(item, 0) >= counts.get(target, 0) for item in ahead) < 20)
    which = ("popularity", "time", of_type("purchase"))
    assert found[(*which, "users")] == len(hits) == USERS / 2
    assert found[(*which, "HR@20")] == pytest.approx(np.mean(hits))


@pytest.mark.slow
def test_a_type_with_too_few_held_out_events_has_no_figure_and_says_so(
    asked: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    found = figures(asked, NIGHT)
    for name in ("refund", "gift"):
        metrics = {
            metric for _, _, users, metric in found if (type_of(users) or ("", ""))[1] == name
        }
        assert metrics == {"users"}
    with caplog.at_level("INFO"):
        evaluate(asked, NIGHT)
    assert f"of {REFUNDED} users is of type refund: too few for a figure" in caplog.text
    assert "no event is of type 'gift' (evaluate.types): there are purchase, refund, view" in (
        caplog.text
    )


@pytest.mark.slow
def test_the_report_and_the_page_show_them(asked: Settings) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    show(asked, NEXT_NIGHT, console=console)
    text = console.export_text()
    shown = text[text.index("By type of event") : text.index("\nIntents")]
    lines = [line.split() for line in shown.splitlines()]
    assert ["purchase", "first", "of", "this", "night", f"{USERS // 2}"] in [
        line[:6] for line in lines
    ]
    assert ["gift", "newest", "event", "0", "too", "few", "(<", "50)"] in lines

    lake = PageLake(asked.lake.root)
    rows = view(asked, lake, NEXT_NIGHT, Links())["of_types"]
    told = {(row["name"], row["judged_by"]): row for row in rows}
    assert told["purchase", "first of this night"]["users"] == USERS // 2
    assert told["gift", "newest event"]["few"]
    assert not told["view", "first of this night"]["few"]


@pytest.mark.slow
def test_without_them_and_with_one_type_the_figures_are_those_of_before(
    asked: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else of a night changes: not the labels, and no figure of all users."""
    root = tmp_path / "lake"
    write_log(root)
    off = small_settings(root, model=MODEL, promote={"force": True})
    version = run(off, NIGHT)
    found = figures(off, NIGHT)
    assert not any(type_of(users) for _, _, users, _ in found)
    (with_types,) = table(asked, tables.MODELS, NIGHT)["model_version"]
    of_all = {
        (version if name == with_types else name, split, users, metric): value
        for (name, split, users, metric), value in figures(asked, NIGHT).items()
        if not type_of(users)
    }
    assert of_all == found
    labels, labels_with_types = (
        table(one, tables.INTENT_LABELS, NIGHT).drop("model_version") for one in (off, asked)
    )
    assert labels.equals(labels_with_types)

    # Asked for on histories that were built without them, a sentence says what to do.
    late = off.model_copy(update={"evaluate": asked.evaluate})
    evaluate(late, NIGHT)
    assert "built without types: run build-sequences for it again" in caplog.text
    assert figures(late, NIGHT) == found

    # Of a log of one type that type is all.
    events = table(off, tables.EVENTS).with_columns(event_type=pl.lit("view"))
    Lake(root).replace(tables.EVENTS, events, nights=[NIGHT, NEXT_NIGHT])
    run(late, NIGHT)
    one_type = figures(late, NIGHT)
    assert not any(type_of(users) for _, _, users, _ in one_type)
    assert sorted(one_type.values()) == sorted(found.values())


@pytest.mark.parametrize("name", ["purchase", "of type x", "new items of type y", ""])
def test_a_slice_tells_its_users_and_its_type(name: str) -> None:
    for users in ("all", "new items", "repeats"):
        assert type_of(of_type(name, users)) == (users, name)
    for users in ("all", "new items", "idle", "against 20261120-00000000", name):
        assert type_of(users) is None or users == name
