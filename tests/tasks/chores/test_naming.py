"""A person names an intent: what counts from when, what stays, what is refused, who is told."""

import datetime as dt
import json
import logging

import pytest

from tasks.chores.naming import name
from tasks.errors import NamingError
from tasks.lake import Lake, tables
from tasks.registry import names
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, table
from tests.tasks.profiles import names_of, profile_by_hand, write_catalogue
from tests.tasks.registry.test_names import CATALOGUE, DAY, users_of


@pytest.fixture
def named_night(settings: Settings) -> Settings:
    """Give settings on a lake with one night of two intents, kitchens and gardens."""
    write_catalogue(settings, NIGHT, CATALOGUE)
    profile_by_hand(settings, NIGHT, users_of({0: 0, 1: 1}))
    return settings


def seen(settings: Settings, night: dt.date, intent: int = 0) -> str | None:
    found = names.shown(Lake(settings.lake.root), night).of(intent)
    return found.name if found else None


@pytest.mark.slow
def test_a_name_counts_at_once_where_people_look_and_in_tables_from_the_next_night(
    named_night: Settings,
) -> None:
    told = name(named_night, 0, " Home  cooks ", description="They cook.", by="ann")
    assert told == {
        "intent_id": 0,
        "name": "Home cooks",
        "description": "They cook.",
        "named_by": "ann",
        "before": "Kitchen Pan",
        "in_tables_from": (NIGHT + DAY).isoformat(),
    }
    assert seen(named_night, NIGHT) == "Home cooks"
    # A backfill of the night gives what the night gave.
    before = table(named_night, tables.INTENT_PROFILES, NIGHT)
    profile_by_hand(named_night, NIGHT, users_of({0: 0, 1: 1}))
    assert table(named_night, tables.INTENT_PROFILES, NIGHT).equals(before)
    # The next nights have it, also when a model is trained from scratch: the id is the same.
    for night in (NIGHT + DAY, NIGHT + 2 * DAY):
        row, _ = profile_by_hand(named_night, night, users_of({0: 0, 1: 1}))
        assert (row["name"], row["description"], row["named_by"]) == (
            "Home cooks",
            "They cook.",
            "ann",
        )
        assert row["kept_meaning"] == pytest.approx(1)


def test_a_name_is_taken_back_and_its_history_stays(named_night: Settings) -> None:
    name(named_night, 0, "Home cooks", by="ann")
    name(named_night, 0, "Cooks", by="ben")
    told = name(named_night, 0, "", by="cid")
    assert (told["name"], told["before"], told["named_by"]) == ("Kitchen Pan", "Cooks", None)
    rows = table(named_night, tables.GIVEN_NAMES).sort("given_at")
    assert rows.select("name", "given_by").rows() == [
        ("Home cooks", "ann"),
        ("Cooks", "ben"),
        ("", "cid"),
    ]
    profile_by_hand(named_night, NIGHT + DAY, users_of({0: 0, 1: 1}))
    assert names_of(named_night, NIGHT + DAY)[0] == "Kitchen Pan"


def test_the_same_again_adds_nothing_and_a_description_stays_until_it_is_changed(
    named_night: Settings,
) -> None:
    for _ in range(2):
        name(named_night, 0, "Cooks", description="They cook.", by="ann")
    assert table(named_night, tables.GIVEN_NAMES).height == 1
    assert name(named_night, 0, "Home cooks")["description"] == "They cook."
    assert name(named_night, 0, "Home cooks", description="")["description"] is None


@pytest.mark.parametrize(
    ("intent", "given", "description", "says"),
    [
        (7, "Cooks", None, "has no intent 7: it has 0, 1"),
        (0, "garden  SPADE", None, "intent 1 has the name Garden Spade: choose another"),
        (0, "x" * 61, None, "name has 61 characters: write at most 60"),
        (0, "a\x1b[31mb", None, "name has a character that cannot be seen"),
        (0, "Cooks", "x" * 1001, "description has 1001 characters"),
    ],
)
def test_what_is_no_name_is_refused_in_one_sentence(
    named_night: Settings, intent: int, given: str, description: str | None, says: str
) -> None:
    with pytest.raises(NamingError, match=says) as caught:
        name(named_night, intent, given, description=description)
    assert "\n" not in str(caught.value)
    assert table(named_night, tables.GIVEN_NAMES).is_empty()


def test_a_lake_without_nights_has_nothing_to_name(settings: Settings) -> None:
    settings.lake.root.mkdir()
    with pytest.raises(NamingError, match="has no intents yet: run a night first"):
        name(settings, 0, "Cooks")


def test_an_automatic_name_is_never_one_that_a_person_gave(named_night: Settings) -> None:
    name(named_night, 1, "Music Drum", by="ann")
    profile_by_hand(named_night, NIGHT + DAY, users_of({0: 0, 1: 1, 2: 2}))
    found = names_of(named_night, NIGHT + DAY)
    assert found[1] == "Music Drum" and found[2] != "Music Drum"


@pytest.mark.slow
def test_a_night_warns_when_an_intent_is_not_what_a_person_named(
    named_night: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    name(named_night, 0, "Home cooks", by="ann")
    with caplog.at_level(logging.WARNING):
        profile_by_hand(named_night, NIGHT + DAY, users_of({0: 0, 1: 1}))
        assert caplog.messages == []
        row, other = profile_by_hand(named_night, NIGHT + 2 * DAY, users_of({0: 2, 1: 1}))
    assert row["name"] == "Home cooks" and row["kept_meaning"] < 0.1
    assert other["kept_meaning"] is None
    assert "intent 0, which ann named Home cooks, is not what it was then" in caplog.text
    # Named anew, it is held against what it is now.
    name(named_night, 0, "Drummers", by="ben")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        row, _ = profile_by_hand(named_night, NIGHT + 3 * DAY, users_of({0: 2, 1: 1}))
    assert row["kept_meaning"] == pytest.approx(1) and caplog.messages == []


def test_the_command_line_names_an_intent(
    named_night: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from tasks.__main__ import app

    arguments = ["name", "0", "Köche", "--by", "ann", "--lake", str(named_night.lake.root)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "Köche"
    assert seen(named_night, NIGHT) == "Köche"
