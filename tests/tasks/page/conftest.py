"""Lakes of nights that are made by hand, with texts that mean harm, and visitors of the page."""

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from tasks.lake import Lake, tables
from tasks.page.access import Visitor
from tasks.page.app import create_app
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, small_settings
from tests.tasks.profiles import Users, profile_by_hand, write_catalogue

DAY = dt.timedelta(days=1)
NIGHTS = [NIGHT - 2 * DAY, NIGHT - DAY, NIGHT]
MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
TURNED = "abc\N{RIGHT-TO-LEFT OVERRIDE}cba\N{ZERO WIDTH SPACE}"
LONG = "x" * 10_000
FORMULA = '=HYPERLINK("http://example.org";"a")'
HOSTILE = (MARKUP, TURNED, LONG, FORMULA, "a'b\"c;--%?&#", "../../../etc/passwd")


def users_of(night: dt.date) -> Users:
    """Thirty users of three intents, and some of intent 0 whose ids mean harm; one moves."""
    users: dict[str, Any] = {f"u{n:02}": (n // 10, [1 + n // 10, 4 + n % 3]) for n in range(30)}
    users |= {name: (0, [1, 4, 5]) for name in HOSTILE}
    if night == NIGHT:
        users["u00"] = (1, [1, 4, 2])
        users["u29"] = (3, [3])
    return users


def begin(lake: Lake, night: dt.date) -> None:
    """Write a night whose first step ended, and no other."""
    row = {
        "dt": night,
        "step": "ingest",
        "started_at": dt.datetime.combine(night, dt.time(1), tzinfo=dt.UTC),
        "seconds": 1.0,
        "peak_mb": 1.0,
        "summary": "{}",
    }
    rows = pa.Table.from_pylist([row], schema=tables.STEPS.schema)
    lake.replace(tables.STEPS, rows, nights=[night])


@pytest.fixture
def lake(settings: Settings, made_by_hand: Path) -> Lake:
    """Give a lake of three nights whose users, titles and names are made to do harm."""
    shutil.copytree(made_by_hand, settings.lake.root)
    return Lake(settings.lake.root)


@pytest.fixture(scope="session")
def made_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the lake once, for tests to copy."""
    root = tmp_path_factory.mktemp("by-hand") / "lake"
    settings = small_settings(root)
    made = Lake(root)
    titles = {1: MARKUP, 2: TURNED, 3: LONG, 4: "Plain & simple", 5: "javascript:alert(3)"}
    write_catalogue(
        settings,
        NIGHTS[0],
        {number: (title, ["Comedy", MARKUP]) for number, title in titles.items()},
    )
    previous = None
    for night in NIGHTS:
        profile_by_hand(settings, night, users_of(night), previous=previous)
        write_evidence(made, night)
        write_events(made, night)
        previous = night
    return root


def write_evidence(lake: Lake, night: dt.date) -> None:
    labels = lake.scan(tables.INTENT_LABELS, night, night).collect()
    rows = [
        {
            "dt": night,
            "user_id": row["user_id"],
            "intent_id": row["intent_id"],
            "calibrated_confidence": 0.9 if row["user_id"] != "u01" else 0.25,
            "clear": row["user_id"] != "u01",
            "held_since": None,
            "items": [{"item_id": "i1", "share": 0.75}],
            "intents": [
                {"intent_id": row["intent_id"], "probability": 0.9},
                {"intent_id": 2, "probability": 0.1},
            ],
            "model_version": row["model_version"],
        }
        for row in labels.to_dicts()
    ]
    empty = pl.from_arrow(tables.LABEL_EVIDENCE.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    lake.replace(tables.LABEL_EVIDENCE, pl.DataFrame(rows, empty.schema), nights=[night])


def write_events(lake: Lake, night: dt.date) -> None:
    row = {
        "dt": night,
        "user_id": "u01",
        "item_id": "i5" if night == NIGHT else "i1",
        "event_type": "event",
        "ts": dt.datetime.combine(night, dt.time(9, 30), tzinfo=dt.UTC),
        "weight": None,
        "source": "by hand",
        "row_number": 1,
        "ingested": night,
    }
    empty = pl.from_arrow(tables.EVENTS.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    lake.replace(tables.EVENTS, pl.DataFrame([row], empty.schema), nights=[night])


class Someone:
    """Lets one visitor in, or nobody."""

    home: str | None = None
    framed = False

    def __init__(self, visitor: Visitor | None) -> None:
        self.seen = visitor

    async def visitor(self, request: Request) -> Visitor | None:
        return self.seen


Ask = Callable[..., TestClient]


@pytest.fixture
def ask(settings: Settings) -> Iterator[Ask]:
    """Give a function that opens the page for a visitor, by default one who may name."""
    named = Visitor("ann", may_name=True)

    def opened(visitor: Visitor | None = named, **sections: Any) -> TestClient:
        here = small_settings(settings.lake.root, **sections) if sections else settings
        app = create_app(here, Someone(visitor))
        return TestClient(app, follow_redirects=False, raise_server_exceptions=False)

    yield opened
