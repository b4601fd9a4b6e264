"""The report prints what the tables hold, whatever is in them."""

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tasks.chores import report
from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 20)
# Of a shop that names things as it likes: rich reads the first as a style, the second as its end.
USER, ITEM = "[red]", "[/item]"
PASSED = {"passed": 3, "expectations": 3, "warnings": ["ids such as [/bold] are odd"]}


def row(table: tables.Table, **values: Any) -> pl.DataFrame:
    """Return one row of a table, of the night; what is not named is null."""
    names = dict.fromkeys(table.schema.names)
    empty = pl.from_arrow(table.schema.empty_table())
    return pl.DataFrame([names | {"dt": NIGHT} | values], schema=pl.DataFrame(empty).schema)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings on a lake with one user, one intent and every step done."""
    settings = load_settings(**{"lake.root": str(tmp_path / "a lake")})
    lake = Lake(settings.lake.root)
    label = {"user_id": USER, "intent_id": 0, "confidence": 1.0, "n_events": 3}
    last = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
    model = "20261120-00000000"
    lake.replace(
        tables.INTENT_LABELS,
        row(tables.INTENT_LABELS, **label, last_ts=last, model_version=model),
        nights=[NIGHT],
    )
    top = [{"item_id": ITEM, "lift": 7.0}]
    profile = {"intent_id": 0, "users": 1, "share": 1.0, "top_items": top, "status": "active"}
    lake.replace(tables.INTENT_PROFILES, row(tables.INTENT_PROFILES, **profile), nights=[NIGHT])
    steps = [
        row(tables.STEPS, step=name, seconds=1.0, peak_mb=100.0, summary=json.dumps(PASSED))
        for name in report.STEPS
    ]
    lake.replace(tables.STEPS, pl.concat(steps), nights=[NIGHT])
    return settings


def printed(settings: Settings, **shown: Any) -> str:
    written = io.StringIO()
    report.show(settings, NIGHT, console=Console(file=written), **shown)
    return written.getvalue()


def test_brackets_in_data_are_printed_as_they_are(settings: Settings) -> None:
    text = printed(settings)
    for said in (f"{USER} ", f"{ITEM} (7.0)", "ids such as [/bold] are odd"):
        assert said in text


def test_a_check_that_failed_when_it_ran_again_has_not_passed(settings: Settings) -> None:
    assert printed(settings).count("passed with warnings") == 3
    nothing = tables.STEPS.schema.empty_table()
    Lake(settings.lake.root).replace(
        tables.STEPS, nothing, nights=[NIGHT], within={"step": "check-labels"}
    )
    text = printed(settings)
    assert text.count("passed with warnings") == 2
    (line,) = (
        line for line in text.splitlines() if line.startswith("labels  ") and "/" not in line
    )
    assert line.split()[:2] == ["labels", "none"]


def test_a_report_names_the_targets_that_have_the_labels(settings: Settings) -> None:
    targets = ["Delta table intent_labels", "Parquet files in /out", "table t of connection c"]

    def printed_with(known: list[str]) -> str:
        summary = json.dumps({"targets": known})
        Lake(settings.lake.root).replace(
            tables.STEPS,
            row(tables.STEPS, step="publish", seconds=1.0, peak_mb=100.0, summary=summary),
            nights=[NIGHT],
            within={"step": "publish"},
        )
        return printed(settings)

    assert "Parquet files in /out and table t of connection c\n" in printed_with(targets)
    assert "published" not in printed_with(targets[:1])


def test_a_report_of_labels_without_recorded_steps_prints_what_there_is(settings: Settings) -> None:
    nothing = tables.STEPS.schema.empty_table()
    Lake(settings.lake.root).replace(tables.STEPS, nothing, nights=[NIGHT])
    assert "passed" not in printed(settings)


def test_a_report_shows_both_evaluations_where_there_are_both(settings: Settings) -> None:
    assert "By time" not in printed(settings)
    names = {"dt": NIGHT, "slice": "all"}
    rows = [
        row(tables.METRICS, **names, model_version=version, split=split, metric=metric, value=value)
        for version, split, metric, value in (
            ("20261120-00000000", "test", "NDCG@20", 0.1234),
            ("20261119-00000000", "time", "NDCG@20", 0.0567),
            ("20261119-00000000", "time", "users", 1500.0),
            ("popularity", "time", "NDCG@20", 0.0345),
            ("popularity", "time", "users", 1500.0),
        )
    ]
    Lake(settings.lake.root).replace(tables.METRICS, pl.concat(rows), nights=[NIGHT])
    text = printed(settings)
    by_time = text[text.index("By time") : text.index("\nIntents")]
    for said in ("1,500 users", "20261119-00000000", "0.0567", "popularity", "0.0345"):
        assert said in by_time
    assert "0.1234" in text[text.index("Evaluation (the newest") : text.index("By time")]


def summary_of(settings: Settings, step: str, **summary: Any) -> None:
    told = row(tables.STEPS, step=step, seconds=1.0, peak_mb=1.0, summary=json.dumps(summary))
    Lake(settings.lake.root).replace(tables.STEPS, told, nights=[NIGHT], within={"step": step})


MODEL = "20261120-00000000"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"promoted": True, "labels_with": MODEL}, "promoted"),
        (
            {"promoted": True, "labels_with": MODEL, "reasons": ["it is worse"]},
            "promoted by promote.force although it is worse",
        ),
        (
            {"promoted": True, "labels_with": MODEL, "doubts": ["few users"]},
            "promoted; warning: few users",
        ),
        (
            {"promoted": False, "labels_with": MODEL, "model_version": "b", "reasons": ["c", "d"]},
            "kept: the night's own model b is not promoted, for c; d",
        ),
        (
            {"promoted": True, "labels_with": MODEL, "chosen_by_hand": True},
            "a person has chosen this model",
        ),
        (
            {"promoted": True, "labels_with": "b"},
            "the night was labelled again, by hand, after b had labelled it",
        ),
    ],
)
def test_a_report_begins_with_what_it_is_of_and_how_the_night_ended(
    settings: Settings, told: dict[str, Any], says: str
) -> None:
    summary_of(settings, "ingest", source="/events/of/the shop")
    summary_of(settings, "promote", **told)
    lake = Lake(settings.lake.root)
    for day, users in ((NIGHT - dt.timedelta(days=30), 1), (NIGHT, 2)):
        events = [row(tables.EVENTS, user_id=f"u{n}", item_id="a") for n in range(users)]
        lake.replace(tables.EVENTS, pl.concat(events).with_columns(dt=pl.lit(day)), nights=[day])
    header = printed(settings).split("\n\n")[0].strip().splitlines()
    assert header == [
        f"Night {NIGHT}",
        "source    /events/of/the shop",
        "events    3 from 2026-10-21 to 2026-11-20, 2 of them of this night",
        "users     1 with a label",
        f"model     {MODEL}",
        f"decision  {says}",
    ]


def test_a_report_says_what_became_of_every_row_and_why(settings: Settings) -> None:
    lake = Lake(settings.lake.root)
    counts = {"rows_read": 100, "rows_events": 80, "rows_quarantined": 3, "rows_filtered": 17}
    rest = dict.fromkeys(report.COUNTED, 0)
    lake.replace(tables.INGESTS, row(tables.INGESTS, **rest | counts), nights=[NIGHT])
    rejects = [
        row(tables.QUARANTINE, source="a.csv", row_number=number, reason=reason)
        for number, reason in ((7, "no item"), (9, "no user"), (5, "no item"))
    ]
    lake.replace(tables.QUARANTINE, pl.concat(rejects), nights=[NIGHT])
    summary_of(settings, "build-sequences", events_left_out=12, users_left_out=4)
    read = {"items": 1682, "night_items": 40, "items_without_title": 3}
    lake.replace(tables.CATALOGUE_READS, row(tables.CATALOGUE_READS, **read), nights=[NIGHT])
    lines = [" ".join(line.split()) for line in printed(settings).splitlines()]
    for said in (
        "100 read",
        "80 events of the night, on a first night of the days before it too",
        "3 unusable, in the table quarantine",
        "17 of a type that source.event_types leaves out",
        "1,682 items in the catalogue; 3 of the night's 40 items have no title",
        "2 no item a.csv row 5",
        "1 no user a.csv row 9",
    ):
        assert said in lines
    assert not any("duplicates" in line for line in lines), "of which there are none"
    (left_out,) = (line for line in lines if line.startswith("12 events in no history"))
    assert left_out.endswith("4 users have none left")


def many(settings: Settings) -> None:
    """Label twelve users of twelve intents."""
    lake = Lake(settings.lake.root)
    last = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
    labels, profiles = [], []
    for number in range(12):
        user = {"user_id": f"user{number:02d}", "intent_id": number, "confidence": number / 20}
        second = {"runner_up_id": 0, "runner_up_confidence": 0.01}
        events = {"n_events": 3, "last_ts": last, "model_version": MODEL}
        labels.append(row(tables.INTENT_LABELS, **user, **second, **events))
        top = [{"item_id": f"item-{number}-{at}", "lift": 9.0 - at} for at in range(8)]
        came = [{"intent_id": 3, "share": 0.5}]
        profile = {"intent_id": number, "users": 1, "share": 1 / 12, "top_items": top}
        profile |= {"born": NIGHT, "status": "active", "came_from": came}
        profiles.append(row(tables.INTENT_PROFILES, **profile))
    lake.replace(tables.INTENT_LABELS, pl.concat(labels), nights=[NIGHT])
    lake.replace(tables.INTENT_PROFILES, pl.concat(profiles), nights=[NIGHT])


def test_all_of_a_night_is_every_intent_every_label_and_every_figure(settings: Settings) -> None:
    many(settings)
    found = {"step": "check-events", "suite": "checked_night", "column_name": "silent_hours"}
    found |= {"met": True, "value": 2.5, "expected": "at most 6"}
    lake = Lake(settings.lake.root)
    lake.replace(tables.CHECK_RESULTS, row(tables.CHECK_RESULTS, **found), nights=[NIGHT])
    some, all_of_it = printed(settings), printed(settings, everything=True)
    assert "The 10 largest of 12 intents" in some and "user05" not in some
    assert "silent_hours" not in some
    assert "All 12 intents in use" in all_of_it
    for number in range(12):
        assert f"\nuser{number:02d} " in all_of_it
    assert any(
        line.split() == ["events", "silent_hours", "2.5", "at", "most", "6", "met"]
        for line in all_of_it.splitlines()
    )


def test_one_intent_says_what_its_users_are_after_and_where_it_comes_from(
    settings: Settings,
) -> None:
    many(settings)
    lake = Lake(settings.lake.root)
    written = io.StringIO()
    report.show_intent(settings, NIGHT, 7, console=Console(file=written))
    text = written.getvalue()
    for said in ("Intent 7 of night 2026-11-20", "3 (50%)", "1, 8.3%", "item-7-7", "user07", MODEL):
        assert said in text
    assert "user08" not in text
    # The shares of a later night's training are not of its first users.
    rows = lake.scan(tables.INTENT_PROFILES, NIGHT, NIGHT).collect()
    earlier = rows.with_columns(born=NIGHT - dt.timedelta(days=1))
    lake.replace(tables.INTENT_PROFILES, earlier, nights=[NIGHT])
    written = io.StringIO()
    report.show_intent(settings, NIGHT, 7, console=Console(file=written))
    assert "came from" not in written.getvalue() and "2026-11-19" in written.getvalue()
    with pytest.raises(LakeError, match=r"no intent 77: it has 12, 0 to 11; `report --all` lists"):
        report.show_intent(settings, NIGHT, 77, console=Console(file=written))


def test_names_are_shown_wherever_intents_are(settings: Settings) -> None:
    many(settings)
    lake = Lake(settings.lake.root)
    names = [
        row(tables.INTENT_NAMES, intent_id=intent, name=name, why="born", rests_on=[], meaning=[])
        for intent, name in ((7, "Home cooks"), (0, "[red] Garden"))
    ]
    lake.replace(tables.INTENT_NAMES, pl.concat(names), nights=[NIGHT])
    given = {"intent_id": 3, "name": "Night owls", "description": "They read at night."}
    given |= {"given_by": "ann", "given_at": dt.datetime(2026, 11, 21, tzinfo=dt.UTC)}
    tomorrow = {"dt": NIGHT + dt.timedelta(days=1), "meaning": []}
    lake.append(tables.GIVEN_NAMES, row(tables.GIVEN_NAMES, **given | tomorrow))
    categories = [
        row(
            tables.INTENT_FEATURES,
            intent_id=7,
            kind="category",
            value=f"Pans {rank}",
            rank=rank,
            is_over=True,
            share=0.5,
            expected_share=0.1,
            log_odds=2.0,
            z=4.0,
            score=1.0,
        )
        for rank in (1, 2)
    ]
    lake.replace(tables.INTENT_FEATURES, pl.concat(categories), nights=[NIGHT])
    lake.replace(
        tables.INTENT_PROFILES,
        row(tables.INTENT_PROFILES, intent_id=7, users=5, share=0.25).with_columns(
            dt=pl.lit(NIGHT - dt.timedelta(days=1))
        ),
        nights=[NIGHT - dt.timedelta(days=1)],
    )
    lines = [" ".join(line.split()) for line in printed(settings, everything=True).splitlines()]
    (cooks,) = (line for line in lines if line.startswith("7 Home cooks"))
    assert cooks.startswith("7 Home cooks 1 8.3% -4 Pans 1, Pans 2 item-7-0 (9.0)")
    assert any(line.startswith("user07 7 Home cooks 0.35") for line in lines)
    assert any(line.startswith("3 Night owls 1 8.3% new") for line in lines)
    written = io.StringIO()
    report.show_intent(settings, NIGHT, 7, console=Console(file=written))
    text = written.getvalue()
    for said in (
        "Home cooks (automatic",
        "3 Night owls (50%)",
        "Pans 1",
        "-4 since 1 night before",
    ):
        assert said in text
    report.show_intent(settings, NIGHT, 3, console=Console(file=written))
    assert "Night owls (given by ann, in the tables from night 2026-11-21)" in written.getvalue()
    assert "They read at night." in written.getvalue()
    written = io.StringIO()
    report.show_user(settings, NIGHT, "user07", console=Console(file=written))
    assert "7 Home cooks, confidence 0.35" in written.getvalue()
    assert "0 [red] Garden, confidence 0.01" in written.getvalue()


def test_one_user_says_which_history_the_label_follows_from(settings: Settings) -> None:
    many(settings)
    lake = Lake(settings.lake.root)
    items = pl.DataFrame(
        {"item_id": ["old", "item-7-2"], "item_index": [1, 2], "first_seen": NIGHT},
        schema_overrides={"item_index": pl.Int32},
    )
    lake.append(tables.ITEMS, items)
    history = {"user_id": "user07", "items": [1, 1, 2], "n_events": 3}
    lake.replace(tables.SEQUENCES, row(tables.SEQUENCES, **history), nights=[NIGHT])
    written = io.StringIO()
    report.show_user(settings, NIGHT, "user07", console=Console(file=written))
    lines = [line.split() for line in written.getvalue().splitlines()]
    assert ["intent", "7,", "confidence", "0.35", "(not", "calibrated)"] in lines
    assert ["runner-up", "0,", "confidence", "0.01"] in lines
    at = lines.index(["item-7-2", "7.0"])
    assert lines[at + 1 : at + 3] == [["old"], ["old"]], "the newest first"
    with pytest.raises(LakeError, match=r"no user 'nobody': .* for example 'user00'"):
        report.show_user(settings, NIGHT, "nobody", console=Console(file=written))


def test_one_user_s_first_recommendations_are_listed_with_titles(settings: Settings) -> None:
    many(settings)
    written = io.StringIO()
    report.show_user(settings, NIGHT, "user07", console=Console(file=written))
    assert "recommended" not in written.getvalue()
    lake = Lake(settings.lake.root)
    items = [{"item_id": f"i{rank}", "score": 9.5 - rank} for rank in range(12)]
    recommended = row(tables.USER_RECOMMENDATIONS, user_id="user07", items=items)
    lake.replace(tables.USER_RECOMMENDATIONS, recommended, nights=[NIGHT])
    read = row(tables.CATALOGUE_READS, source="a.csv", catalogue_night=NIGHT, digest="x", items=1)
    lake.replace(tables.CATALOGUE_READS, read, nights=[NIGHT])
    named = row(tables.CATALOGUE, item_id="i1", title="[red] \x1bPan", categories=[])
    lake.replace(tables.CATALOGUE, named, nights=[NIGHT])
    report.show_user(settings, NIGHT, "user07", console=Console(file=written))
    lines = [line.split() for line in written.getvalue().splitlines()]
    at = lines.index(["The", "first", "10", "of", "12", "items", "recommended", "next"])
    assert lines[at + 1] == ["item", "title", "score"]
    assert lines[at + 2 : at + 4] == [["i0", "9.50"], ["i1", "[red]", "Pan", "8.50"]]
    assert ["i9", "0.50"] in lines and not any("i10" in line for line in lines)


def test_a_report_says_why_a_user_has_a_label_and_how_sure_that_is(settings: Settings) -> None:
    many(settings)
    why = {
        "calibrated_confidence": 0.42,
        "clear": False,
        "held_since": NIGHT - dt.timedelta(days=3),
        "items": [{"item_id": "[/red]", "share": 0.61}, {"item_id": "old", "share": 0.2}],
        "intents": [
            {"intent_id": 0, "probability": 0.5},
            {"intent_id": 7, "probability": 0.42},
        ],
    }
    evidence = row(tables.LABEL_EVIDENCE, user_id="user07", intent_id=7, **why)
    Lake(settings.lake.root).replace(tables.LABEL_EVIDENCE, evidence, nights=[NIGHT])
    written = io.StringIO()
    report.show_user(settings, NIGHT, "user07", console=Console(file=written))
    for said in (
        "7, confidence 0.42, which is not clear",
        "0, confidence 0.50",
        "since night 2026-11-17, against a more probable intent",
        "0 (0.50), 7 (0.42)",
        "[/red] (61%), old (20%)",
    ):
        assert said in written.getvalue()
    text = printed(settings, everything=True)
    assert "12 with a label, 1 (8.3%) not clear" in text
    (line,) = (line.split() for line in text.splitlines() if line.startswith("user07 "))
    assert line[1:6] == ["7", "0.42", "no", "0", "(0.50)"]


def test_a_terminal_of_80_columns_breaks_no_word_and_a_pipe_no_row(settings: Settings) -> None:
    many(settings)
    long = "ids such as " + ", ".join(f"shop-{number}" for number in range(40))
    summary_of(settings, "check-events", passed=3, expectations=4, warnings=[long])
    (line,) = (line for line in printed(settings).splitlines() if "shop-0" in line)
    assert "shop-39" in line
    assert not any(line.endswith(" ") for line in printed(settings).splitlines())
    written = io.StringIO()
    narrow = Console(file=written, width=80, force_terminal=True, color_system=None)
    report.show(settings, NIGHT, console=narrow)
    lines = written.getvalue().splitlines()
    paths = lines.index("Where it is")
    assert max(map(len, lines[:paths])) <= 80
    words = set(written.getvalue().split())
    for word in ("confidence", "runner-up", "2026-11-20", *(f"shop-{n}," for n in range(39))):
        assert word in words


def test_those_who_are_told_of_a_night_learn_what_came_of_it(settings: Settings) -> None:
    many(settings)
    summary_of(settings, "promote", promoted=False, labels_with=MODEL, reasons=["it is worse"])
    summary_of(settings, "check-labels", **PASSED, pages={"checked_labels": "/pages/labels.html"})
    root = settings.lake.root
    told = {
        "night": "2026-11-20",
        "users": 12,
        "users_with_intent": 12,
        "model_version": MODEL,
        "promoted": False,
        "reasons": ["it is worse"],
        "labels": f"{root}/intent_labels/dt=2026-11-20",
        "profiles": f"{root}/intent_profiles/dt=2026-11-20",
        "pages": {"checked_labels": "/pages/labels.html"},
    }
    assert report.outcome(settings, NIGHT) == told
    json.dumps(told)
    summary_of(settings, "promote", promoted=True, labels_with="another")
    relabelled = report.outcome(settings, NIGHT)
    assert (relabelled["promoted"], relabelled["reasons"]) == (None, [])


def test_what_decides_and_repeats_are_shown_apart(settings: Settings) -> None:
    rows = [
        row(
            tables.METRICS,
            model_version=version,
            split="test",
            slice=users,
            metric=metric,
            value=value,
        )
        for version, users, metric, value in (
            (MODEL, "all", "NDCG@20", 0.9),
            (MODEL, "all", "intent_lift@20", 9.0),
            (MODEL, "all", "repeat_share", 0.75),
            (MODEL, "new items", "NDCG@20", 0.1),
            (MODEL, "new items", "intent_lift@20", 1.5),
            (MODEL, "new items", "users", 250.0),
            ("popularity", "new items", "NDCG@20", 0.05),
            (MODEL, "repeats", "NDCG@20", 0.7),
            (MODEL, "repeats", "users", 750.0),
            ("last item again", "repeats", "NDCG@20", 0.8),
        )
    ]
    Lake(settings.lake.root).replace(tables.METRICS, pl.concat(rows), nights=[NIGHT])
    lines = [" ".join(line.split()) for line in printed(settings).splitlines()]
    at = lines.index("Evaluation (the newest event of 250 users, of items new to them)")
    assert lines[at + 2 : at + 4] == [f"{MODEL} (labels) 0.1000", "popularity 0.0500"]
    at = lines.index("Repeats (the newest event of 750 users, of items they had before)")
    assert lines[at + 2 : at + 4] == [f"{MODEL} (labels) 0.7000", "last item again 0.8000"]
    assert any(line.startswith("intent_lift@20 1.50") for line in lines)
    assert any(line.startswith("repeat_share 0.750") for line in lines)
    assert not any("0.9000" in line for line in lines)


def test_files_that_were_left_out_are_counted_and_named() -> None:
    summary = {"files_left_out": 21, "left_out": ["README.txt", "e.jsonl.1"]}
    page = io.StringIO()
    Console(file=page, width=200).print(report._quality({"ingest": {"summary": summary}}))
    assert "21 files were not read: README.txt, e.jsonl.1, ..." in page.getvalue()
