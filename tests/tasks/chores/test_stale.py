"""Which nights are stale is told from fingerprints, and a refresh leaves what nights in order do.

The nights here do without the checks, which read only and take most of a night's time.
"""

import datetime as dt
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from local.generator import generate
from tasks.__main__ import app
from tasks.chores import report
from tasks.chores.forget import forget
from tasks.chores.relabel import relabel, relabel_night
from tasks.chores.stale import FOLLOWS, FRESH, NOT_KNOWN, STALE, Standing, refresh, standings
from tasks.chores.upkeep import upkeep
from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.night import label as label_module
from tasks.registry.choices import roll_back
from tasks.registry.versions import promoted
from tasks.settings import Settings, load_settings
from tasks.steps import STEPS, run_step
from tests.tasks.nights import table

LAST = dt.date(2026, 11, 20)
NIGHTS = [LAST - dt.timedelta(days=age) for age in range(3, -1, -1)]
MODEL = {
    "n_intents": 3,
    "max_epochs": 2,
    "patience": 2,
    "warm_epochs": 1,
    "device": "cpu",
    "threads": 1,
    "max_length": 12,
    "overrides": {"dim": 16, "layers": 1, "batch_users": 16},
}
CHECKS = [name for name in STEPS if name.startswith("check-")]

pytestmark = pytest.mark.slow  # four nights before the first test


def nothing(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Stand in for a check."""
    return {"night": night.isoformat()}


@pytest.fixture(autouse=True, scope="module")
def _without_checks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in CHECKS:
            patch.setitem(STEPS, name, replace(STEPS[name], target=f"{__name__}:nothing"))
        yield


@dataclass(frozen=True)
class Made:
    """Events of four nights, a file a night, and the lake that they left."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return load_settings(
            lake={"root": self.folder / "lake"},
            source={"path": str(self.folder / "events")},
            model=MODEL,
            promote={"force": True},
            duckdb={"threads": 1},
            retention={"min_age_hours": 0, "sequences_nights": 0, "models_nights": 0},
        )

    def file(self, night: dt.date) -> Path:
        return self.folder / "events" / f"dt={night}" / "events.parquet"

    def in_another_lake(self, late: tuple[dt.date, dt.date] | None = None) -> "Made":
        """Run all nights in order, on the events as they are now, in a lake of their own.

        late: the night whose file has a late event last, and the night in whose file it would have
        been in time.
        """
        other = Made(self.folder / "other")
        shutil.copytree(self.folder / "events", other.folder / "events")
        if late:
            rows = pl.read_parquet(other.file(late[0]))
            rows.head(-1).write_parquet(other.file(late[0]))
            own = pl.read_parquet(other.file(late[1]))
            pl.concat([own, rows.tail(1)]).write_parquet(other.file(late[1]))
        for night in NIGHTS:
            run(other.settings, night)
        return other


def run(settings: Settings, night: dt.date) -> None:
    for name in STEPS:
        run_step(name, settings, night)


@pytest.fixture(scope="module")
def four_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stale")
    sizes = {"users": 40, "items": 40, "intents": 3, "nights": 10}
    generate(folder / "generated", **sizes, last_night=LAST, seed=3)
    (folder / "generated" / "events").rename(folder / "events")
    for night in NIGHTS:
        run(Made(folder).settings, night)
    return folder


@pytest.fixture
def made(four_nights: Path, tmp_path: Path) -> Made:
    for part in ("events", "lake"):
        shutil.copytree(four_nights / part, tmp_path / part)
    return Made(tmp_path)


def states(settings: Settings) -> list[str]:
    return [one.state for one in standings(settings)]


def of(settings: Settings, night: dt.date) -> Standing:
    [found] = [one for one in standings(settings) if one.night == night]
    return found


def content(settings: Settings) -> dict[str, pl.DataFrame]:
    """Return what the nights have left, but for when, from which file and by which run it came."""
    items = dict(table(settings, tables.ITEMS).select("item_index", "item_id").iter_rows())
    events = table(settings, tables.EVENTS).drop("ingested", "source", "row_number")
    return {
        "events": events.sort(pl.all()),
        "sequences": table(settings, tables.SEQUENCES).with_columns(
            pl.col("items").list.eval(pl.element().replace_strict(items, return_dtype=pl.String))
        ),
        "models": table(settings, tables.MODELS).filter("promoted"),
        "labels": table(settings, tables.INTENT_LABELS),
        "evidence": table(settings, tables.LABEL_EVIDENCE),
        "profiles": table(settings, tables.INTENT_PROFILES).drop("top_items", "came_from"),
    }


def hold_equal(one: Settings, other: Settings) -> None:
    expected = content(other)
    for name, rows in content(one).items():
        assert rows.equals(expected[name]), name


def hold_equal_but_for_ids(one: Settings, other: Settings) -> None:
    """See that the labels are those of the same models, whatever the ids of their intents."""
    made = [content(settings) for settings in (one, other)]
    for name in ("events", "sequences"):
        assert made[0][name].equals(made[1][name]), name
    labels = [both["labels"].drop("model_version") for both in made]
    ids = labels[0].join(labels[1], on=["dt", "user_id"], suffix="_other")
    pairs = ids.select("dt", "intent_id", "intent_id_other").unique()
    for side in ("intent_id", "intent_id_other"):
        assert not pairs.select("dt", side).is_duplicated().any(), "an intent is one of the other's"
    sure = [rows.drop("intent_id", "runner_up_id") for rows in labels]
    assert sure[0].equals(sure[1])


def add_event(made: Made, into: dt.date, of_day: dt.date) -> None:
    """Write one more event of a day into the file of a night: it comes late if that is later."""
    rows = pl.read_parquet(made.file(into))
    user = pl.read_parquet(made.file(NIGHTS[0])).drop_nulls()["user_id"][0]
    time = dt.datetime.combine(of_day, dt.time(12, 34), dt.UTC)
    more = (
        rows.drop_nulls()
        .head(1)
        .with_columns(user_id=pl.lit(user), timestamp=pl.lit(time).cast(rows.schema["timestamp"]))
    )
    pl.concat([rows, more]).write_parquet(made.file(into))


def test_nights_in_order_are_up_to_date_and_a_refresh_runs_nothing(made: Made) -> None:
    assert states(made.settings) == [FRESH] * 4
    done = refresh(made.settings)
    assert done == {"nights": {}, "left_as_they_are": {}, "not_known": []}


def test_a_backfill_that_changes_nothing_makes_nothing_stale(made: Made) -> None:
    before = table(made.settings, tables.INTENT_LABELS)
    for night in (NIGHTS[2], NIGHTS[0]):
        run(made.settings, night)
    assert states(made.settings) == [FRESH] * 4
    assert table(made.settings, tables.INTENT_LABELS).equals(before)


def test_a_backfill_on_a_corrected_source_makes_later_nights_stale_until_they_are_refreshed(
    made: Made,
) -> None:
    add_event(made, NIGHTS[1], NIGHTS[1])
    run(made.settings, NIGHTS[1])
    found = standings(made.settings)
    assert [one.state for one in found] == [FRESH, FRESH, STALE, STALE]
    assert f"events of night {NIGHTS[1]} have changed" in found[2].line
    assert "late" not in found[2].line
    ran: list[str] = []

    def killed(name: str, settings: Settings, night: dt.date, **given: Any) -> dict[str, Any]:
        if night == NIGHTS[3] and name == "label":
            raise KeyboardInterrupt
        ran.append(f"{night} {name}")
        return run_step(name, settings, night, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.chores.stale.run_step", killed)
        with pytest.raises(KeyboardInterrupt):
            refresh(made.settings)
    assert f"{NIGHTS[2]} publish" in ran and f"{NIGHTS[3]} promote" in ran
    done = refresh(made.settings)
    assert list(done["nights"]) == [str(NIGHTS[3])], "the night before is up to date"
    assert done["nights"][str(NIGHTS[3])]["steps"][0] == "label", "what it did stays done"
    assert states(made.settings) == [FRESH] * 4
    hold_equal(made.settings, made.in_another_lake().settings)


def test_late_events_make_the_nights_they_belong_to_stale(made: Made) -> None:
    """The night that brings them knows them, those between do not."""
    add_event(made, NIGHTS[3], NIGHTS[1])
    run(made.settings, NIGHTS[3])
    found = standings(made.settings)
    assert [one.state for one in found] == [FRESH, STALE, STALE, FOLLOWS]
    for one in found[1:3]:
        assert f"events of night {NIGHTS[1]} have changed (late events came with night" in one.line
    assert f"it goes on from night {NIGHTS[2]}, which is not up to date" in found[3].line
    refresh(made.settings)
    assert states(made.settings) == [FRESH] * 4
    hold_equal(made.settings, made.in_another_lake((NIGHTS[3], NIGHTS[1])).settings)
    newest = table(made.settings, tables.LABEL_REVISIONS, NIGHTS[1]).sort("revision").to_dicts()[-1]
    assert (newest["revision"], newest["why"]) == (2, "late events")
    assert newest["because"] == f"events of its days came late, with night {NIGHTS[3]}"


def test_the_report_of_a_night_says_which_nights_are_stale_and_the_revision(made: Made) -> None:
    def reported(night: dt.date) -> str:
        console = Console(width=120, record=True, file=io.StringIO())
        # The checks, which the report is of, too, did not run here.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "_quality", lambda *_: "")
            report.show(made.settings, night, console=console)
        return console.export_text()

    users = table(made.settings, tables.INTENT_LABELS).filter(dt=NIGHTS[0]).height
    assert f"(command line): first run, {users} labels\n" in reported(NIGHTS[0])
    assert not re.search("nights? (is|are) stale", reported(NIGHTS[0]))
    add_event(made, NIGHTS[1], NIGHTS[1])
    run_step("ingest", made.settings, NIGHTS[1])
    assert f"3 other nights are stale: nights {NIGHTS[1]}, {NIGHTS[2]}" in reported(NIGHTS[0])
    assert f"{NIGHTS[1]} is stale: events of night {NIGHTS[1]} have" in reported(NIGHTS[1])
    assert f"2 other nights are stale: nights {NIGHTS[2]}, {LAST}" in reported(NIGHTS[1])
    lake = made.settings.lake.root
    refreshes = f"to bring them up to date: .venv/bin/python -m tasks refresh --lake {lake}"
    assert refreshes in reported(NIGHTS[1])


def test_a_refresh_up_to_a_night_leaves_those_after_it(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    add_event(made, NIGHTS[1], NIGHTS[1])
    run_step("ingest", made.settings, NIGHTS[1])
    assert states(made.settings) == [FRESH, STALE, STALE, STALE]
    done = refresh(made.settings, last=NIGHTS[1])
    assert list(done["nights"]) == [str(NIGHTS[1])]
    why = f"night {NIGHTS[1]} is stale: events of night {NIGHTS[1]} have changed"
    assert any(message.startswith(why) for message in caplog.messages)
    assert states(made.settings)[:2] == [FRESH, FRESH]
    assert STALE in states(made.settings)[2:]


def test_a_rollback_makes_its_night_and_those_that_go_on_from_it_stale(made: Made) -> None:
    first = promoted(Lake(made.settings.lake.root), until=NIGHTS[0])
    assert first is not None
    roll_back(made.settings, NIGHTS[1], first[0])
    found = standings(made.settings)
    assert [one.state for one in found] == [FRESH, STALE, STALE, FOLLOWS]
    assert f"and is {first[0]}" in found[1].line and "label" in found[1].reasons
    assert "the last promoted model before it was" in found[2].line
    refresh(made.settings)
    assert states(made.settings) == [FRESH] * 4
    labels = table(made.settings, tables.INTENT_LABELS, NIGHTS[1])
    assert labels["model_version"].unique().to_list() == [first[0]]
    last = promoted(Lake(made.settings.lake.root), until=NIGHTS[2])
    models = table(made.settings, tables.MODELS, NIGHTS[2]).filter(model_version=last and last[0])
    assert models["parent_version"].to_list() == [first[0]]


def test_a_relabelled_night_is_up_to_date_and_keeps_its_model_when_it_is_refreshed(
    made: Made,
) -> None:
    chosen = promoted(Lake(made.settings.lake.root), until=NIGHTS[0])
    assert chosen is not None
    relabel(made.settings, NIGHTS[1], NIGHTS[1], chosen[0])
    assert states(made.settings)[:2] == [FRESH, FRESH]
    add_event(made, NIGHTS[1], NIGHTS[1])
    run_step("ingest", made.settings, NIGHTS[1])
    assert states(made.settings)[1] == STALE
    refresh(made.settings)
    assert states(made.settings) == [FRESH] * 4
    labels = table(made.settings, tables.INTENT_LABELS, NIGHTS[1])
    assert labels["model_version"].unique().to_list() == [chosen[0]]
    assert (
        labels["n_events"].sum()
        == table(made.settings, tables.SEQUENCES, NIGHTS[1])["n_events"].sum()
    ), "they are of the histories of now"


def test_other_labels_make_the_night_after_them_stale_which_is_held_against_them(
    made: Made,
) -> None:
    lake = Lake(made.settings.lake.root)
    labels = lake.scan(tables.INTENT_LABELS, NIGHTS[1], NIGHTS[1]).collect()
    surer = labels.with_columns(confidence=pl.lit(0.5, pl.Float32))
    lake.replace(tables.INTENT_LABELS, surer, nights=[NIGHTS[1]])
    # The night after does not read how sure they are; whoever the labels are published to does.
    assert states(made.settings) == [FRESH, STALE, FRESH, FRESH]
    assert set(of(made.settings, NIGHTS[1]).reasons) == {"check-labels", "publish"}
    others = labels.with_columns(intent_id=pl.lit(7, pl.Int32))
    lake.replace(tables.INTENT_LABELS, others, nights=[NIGHTS[1]])
    assert states(made.settings) == [FRESH, STALE, STALE, FOLLOWS]
    assert (
        f"labels of night {NIGHTS[1]}, which its own are held" in of(made.settings, NIGHTS[2]).line
    )


def test_another_held_since_makes_the_night_after_stale_and_its_own_to_be_published_again(
    made: Made,
) -> None:
    lake = Lake(made.settings.lake.root)
    evidence = lake.scan(tables.LABEL_EVIDENCE, NIGHTS[1], NIGHTS[1]).collect()
    held = evidence.with_columns(held_since=pl.lit(NIGHTS[0]))
    assert not held.equals(evidence)
    lake.replace(tables.LABEL_EVIDENCE, held, nights=[NIGHTS[1]])
    assert states(made.settings) == [FRESH, STALE, STALE, FOLLOWS]
    assert set(of(made.settings, NIGHTS[1]).reasons) == {"check-labels", "publish"}
    says = f"the nights since which labels of night {NIGHTS[1]} are held have changed"
    assert of(made.settings, NIGHTS[2]).reasons["label"] == [says]


def test_other_names_are_published_again_and_the_revision_says_so(made: Made) -> None:
    lake = Lake(made.settings.lake.root)
    profiles = lake.scan(tables.INTENT_PROFILES, LAST, LAST).collect()
    renamed = profiles.with_columns(name=pl.lit("Garden tools"))
    lake.replace(tables.INTENT_PROFILES, renamed, nights=[LAST])
    assert of(made.settings, LAST).reasons == {
        "publish": ["its rows of intent_profiles have changed since publish read them"]
    }
    assert refresh(made.settings)["nights"][str(LAST)]["steps"] == ["publish"]
    assert states(made.settings) == [FRESH] * 4
    newest = table(made.settings, tables.LABEL_REVISIONS, LAST).sort("revision").to_dicts()[-1]
    assert (newest["revision"], newest["why"], newest["changed"]) == (2, "other profiles", 0)
    says = "its labels are the same, and intent_profiles of the night is not"
    assert newest["because"] == says


def test_forgetting_people_makes_the_nights_stale_that_knew_them(made: Made) -> None:
    user = table(made.settings, tables.INTENT_LABELS, NIGHTS[0])["user_id"][0]
    forget(made.settings, [user])
    found = standings(made.settings)
    assert [one.state for one in found] == [STALE] * 4
    assert "(people have been forgotten)" in found[0].line
    assert user not in "".join(one.line for one in found).split()
    refresh(made.settings)
    assert states(made.settings) == [FRESH] * 4
    # The first night has no parent, and the ids of the models that knew the person stay theirs.
    hold_equal_but_for_ids(made.settings, made_without(made, user))


def made_without(made: Made, user: str) -> Settings:
    for file in (made.folder / "events").rglob("*.parquet"):
        rows = pl.read_parquet(file)
        rows.filter(pl.col("user_id").ne_missing(user)).write_parquet(file)
    return made.in_another_lake().settings


@pytest.mark.parametrize("step", ["build-sequences", "train", "evaluate", "promote", "label"])
def test_a_step_that_was_killed_leaves_its_night_stale(
    made: Made, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it has written: what it stood on is recorded when it ends and not before."""
    written = STEPS[step].load()

    def killed(settings: Settings, night: dt.date) -> dict[str, Any]:
        written(settings, night)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(step, made.settings, NIGHTS[1], killed)
    found = standings(made.settings)
    assert [one.state for one in found][:2] == [FRESH, STALE]
    assert f"{step} has not ended" in found[1].line
    assert step in refresh(made.settings)["nights"][str(NIGHTS[1])]["steps"]
    assert states(made.settings) == [FRESH] * 4


def test_labels_of_a_choice_that_was_taken_back_do_not_look_up_to_date(made: Made) -> None:
    """Killed when the labels were written, with what they stood on as it was once before."""
    lake = Lake(made.settings.lake.root)
    first = promoted(lake, until=NIGHTS[0])
    assert first is not None
    roll_back(made.settings, NIGHTS[1], first[0])

    def killed(settings: Settings, night: dt.date) -> dict[str, Any]:
        label_module.label(settings, night)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step("label", made.settings, NIGHTS[1], killed)
    lake.replace(tables.CHOICES, tables.CHOICES.schema.empty_table(), nights=[NIGHTS[1]])
    assert of(made.settings, NIGHTS[1]).state == STALE


def test_what_changes_while_a_step_reads_makes_it_stale(made: Made) -> None:
    def meanwhile(settings: Settings, night: dt.date) -> dict[str, Any]:
        summary = STEPS["build-sequences"].load()(settings, night)
        add_event(made, NIGHTS[0], NIGHTS[0])
        run_step("ingest", settings, NIGHTS[0])
        return summary

    run_step("build-sequences", made.settings, NIGHTS[1], meanwhile)
    assert of(made.settings, NIGHTS[1]).state == STALE


def test_a_night_of_before_there_were_records_is_not_known_and_is_left_until_asked_for(
    made: Made,
) -> None:
    without_records(made.settings)
    found = standings(made.settings)
    assert [one.state for one in found] == [NOT_KNOWN] * 4
    assert "what it stood on is not recorded" in found[0].line
    before = table(made.settings, tables.INTENT_LABELS)
    done = refresh(made.settings)
    assert done["nights"] == {} and done["not_known"] == [str(night) for night in NIGHTS]
    assert list(refresh(made.settings, not_known=True)["nights"]) == [str(one) for one in NIGHTS]
    assert states(made.settings) == [FRESH] * 4
    assert table(made.settings, tables.INTENT_LABELS).equals(before)


def without_records(settings: Settings) -> None:
    """Make the lake one of before the column was there."""
    steps = Lake(settings.lake.root).scan(tables.STEPS).drop("inputs").collect()
    shutil.rmtree(settings.lake.root / "steps")
    steps.write_delta(
        settings.lake.root / "steps", delta_write_options={"partition_by": ["dt", "step"]}
    )


def test_what_upkeep_takes_out_makes_no_night_stale(made: Made) -> None:
    kept = made.settings.retention.model_copy(
        update={"events_nights": 2, "labels_nights": 2, "sequences_nights": 1}
    )
    settings = made.settings.model_copy(update={"retention": kept})
    went = upkeep(settings)["nights"]
    assert len(went["events"]) > 2 and went["intent_labels"] == [str(one) for one in NIGHTS[:2]]
    assert states(settings) == [FRESH] * 2
    # Stale for another reason, it cannot be made as it was.
    user = table(settings, tables.INTENT_LABELS, LAST)["user_id"][0]
    forget(settings, [user])
    found = standings(settings)
    assert [one.state for one in found] == [STALE] * 2
    assert "Its histories cannot be built again: upkeep took the events" in found[0].line
    before = table(settings, tables.INTENT_LABELS)
    done = refresh(settings)
    assert done["nights"] == {} and list(done["left_as_they_are"]) == [str(n) for n in NIGHTS[2:]]
    assert table(settings, tables.INTENT_LABELS).equals(before)


def test_the_command_line_says_it_and_does_it(made: Made) -> None:
    lake = ["--lake", str(made.settings.lake.root)]
    said = CliRunner().invoke(app, ["stale", *lake]).stdout
    assert said.startswith(f"4 labelled nights from {NIGHTS[0]} to {LAST}: 4 up to date")
    add_event(made, NIGHTS[3], NIGHTS[3])
    run_step("ingest", made.settings, NIGHTS[3])
    said = CliRunner().invoke(app, ["stale", *lake]).stdout
    assert said.splitlines()[0].startswith(f"{LAST} is stale: events of night {LAST} have changed")
    assert f"in order: .venv/bin/python -m tasks refresh --lake {made.settings.lake.root}" in said
    told = {key: json.dumps(one) if isinstance(one, dict) else one for key, one in MODEL.items()}
    sets = [f"model.{key}={value}" for key, value in told.items()]
    sets += ["promote.force=true", "duckdb.threads=1"]
    changes = [part for one in sets for part in ("--set", one)]
    done = CliRunner().invoke(app, ["refresh", "--quiet", *lake, *changes])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["nights"][str(LAST)]["steps"][0] == "check-events"
    assert "4 up to date" in CliRunner().invoke(app, ["stale", *lake]).stdout


def test_a_lake_that_is_not_there_is_an_error_and_an_empty_one_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="there is no lake"):
        standings(load_settings(lake={"root": tmp_path / "nowhere"}))
    (tmp_path / "empty").mkdir()
    said = CliRunner().invoke(app, ["stale", "--lake", str(tmp_path / "empty")]).stdout
    assert "has no labelled nights yet" in said


def asking(made: Made, top_k: int = 3) -> Settings:
    return made.settings.model_copy(
        update={"recommend": made.settings.recommend.model_copy(update={"top_k": top_k})}
    )


def test_a_night_that_is_checked_again_gets_recommendations_where_they_are_asked_for(
    made: Made,
) -> None:
    asked = asking(made)
    assert states(asked) == [FRESH] * 4, "to ask for some makes no night stale that had none"
    lake = Lake(made.settings.lake.root)
    labels = lake.scan(tables.INTENT_LABELS, NIGHTS[1], NIGHTS[1]).collect()
    surer = labels.with_columns(confidence=pl.lit(0.5, pl.Float32))
    lake.replace(tables.INTENT_LABELS, surer, nights=[NIGHTS[1]])
    steps = ["recommend", "check-labels", "publish"]
    assert refresh(asked)["nights"][str(NIGHTS[1])]["steps"] == steps
    assert states(asked) == [FRESH] * 4
    recommended = table(asked, tables.USER_RECOMMENDATIONS)
    assert set(recommended["dt"]) == {NIGHTS[1]} and recommended.height == labels.height


def test_recommendations_are_of_the_model_that_labels_also_after_a_relabelling(
    made: Made,
) -> None:
    asked, night = asking(made), NIGHTS[1]
    for step in ("recommend", "check-labels", "publish"):
        run_step(step, asked, night)
    own = table(asked, tables.INTENT_LABELS, night)["model_version"][0]
    chosen = promoted(Lake(made.settings.lake.root), until=NIGHTS[0])
    assert chosen is not None and chosen[0] != own
    relabel_night(asked, night, chosen[0])
    says = "its labels have changed since recommend read them"
    assert of(asked, night).reasons["recommend"] == [says]
    relabel(asked, night, night, chosen[0])
    assert of(asked, night).state == FRESH
    models = table(asked, tables.USER_RECOMMENDATIONS, night)["model_version"]
    assert models.unique().to_list() == [chosen[0]]
    relabel(made.settings, night, night, own)
    assert table(asked, tables.USER_RECOMMENDATIONS, night).is_empty(), "none are asked for now"
    assert of(made.settings, night).state == FRESH


def test_recommendations_whose_run_was_killed_leave_the_night_stale(made: Made) -> None:
    asked, night = asking(made), NIGHTS[1]
    written = STEPS["recommend"].load()

    def killed(settings: Settings, night: dt.date) -> dict[str, Any]:
        written(settings, night)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step("recommend", asked, night, killed)
    for settings in (asked, made.settings):
        assert "recommend has not ended" in of(settings, night).line
    assert "recommend" in refresh(asked)["nights"][str(night)]["steps"]
    assert states(asked) == [FRESH] * 4


def test_a_night_from_before_there_was_the_step_is_up_to_date_without_it(made: Made) -> None:
    lake = Lake(made.settings.lake.root)
    nothing = tables.STEPS.schema.empty_table()
    lake.replace(tables.STEPS, nothing, nights=NIGHTS, within={"step": "recommend"})
    assert states(made.settings) == states(asking(made)) == [FRESH] * 4
