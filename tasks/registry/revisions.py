"""The published states of each night's labels: when, by which run, why, and how many changed.

A night that is published with labels that it was not published with last gets a revision, and so
does one with the same labels and other profiles, names, evidence or recommendations. The same again
gets none, so running `publish` twice leaves what running it once does. The row is written to the
lake before any target has it: a run that is killed in between is completed by the next, which finds
the revision and gives every target that very row.

Why a revision came is told from what the labels were made from (`tasks.registry.inputs`), then and
now.
"""

import datetime as dt
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tasks.lake import Lake, duck, tables
from tasks.registry import inputs
from tasks.registry.inputs import Input, digests, recorded_inputs
from tasks.registry.versions import registered

log = logging.getLogger(__name__)

FIRST_RUN, RERUN, BACKFILL = "first run", "rerun", "backfill"
RELABEL, ROLLBACK, FORGET = "relabel", "rollback", "people forgotten"
LATE_EVENTS, OTHER_EVENTS = "late events", "other events"
OTHER_COMPANIONS, OTHER_RECOMMENDATIONS = "other profiles", "other recommendations"
OTHER_SETTINGS, EARLIER_NIGHTS = "other settings", "earlier nights"

AIRFLOW_RUN = "AIRFLOW_CTX_DAG_RUN_ID"  # Airflow sets it where a task runs
COMMAND_LINE = "command line"
LATE_NIGHTS = dt.timedelta(days=60)  # the most that ingest.late_days can be

# The columns that targets get. The others are for the lake's own use.
PUBLIC = tuple(
    name
    for name in tables.LABEL_REVISIONS.schema.names
    if name not in ("digest", "files", "stood_on", "published_with")
)
MADE_BY = ("build-sequences", "train", "label")  # the steps that labels follow from
OTHERS = {inputs.SEQUENCES: "its histories", inputs.LABELS_WITH: "the model that labels it"}


def revise(lake: Lake, con: duckdb.DuckDBPyConnection, night: dt.date) -> dict[str, Any]:
    """Record the labels in the view `intent_labels` as the night's newest revision.

    Nothing is added when they are those of the newest revision already, and so is what is published
    with them, of which there are views, too. Returns that revision.
    """
    known = _of_night(lake, night)
    last = known[-1] if known else None
    digest = _digest(con.table("intent_labels"), night)
    files, published_with = _files(lake, night), _companions(con, night)
    others = _differing(last, published_with) if last else []
    if last and last["digest"] == digest and not others:
        now = {"files": files, "published_with": json.dumps(published_with, sort_keys=True)}
        if last != last | now:  # the same rows, written anew
            _write(lake, night, [*known[:-1], last | now])
        return last
    stood_on = _stood_on(lake, night)
    if last and last["digest"] == digest:
        are = "are" if len(others) > 1 else "is"
        only = others == [tables.USER_RECOMMENDATIONS.name]
        why = OTHER_RECOMMENDATIONS if only else OTHER_COMPANIONS
        because = f"its labels are the same, and {', '.join(others)} of the night {are} not"
    else:
        why, because = _why(lake, con, night, last, stood_on)
    changed, added, removed = _changes(lake, con, last)
    versions = con.sql("SELECT DISTINCT model_version FROM intent_labels LIMIT 2").fetchall()
    new = {
        "dt": night,
        "revision": len(known) + 1,
        "published_at": dt.datetime.now(dt.UTC),
        "run": run(),
        "why": why,
        "because": because,
        "model_version": versions[0][0] if len(versions) == 1 else None,
        "labels": len(con.table("intent_labels")),
        "changed": changed,
        "added": added,
        "removed": removed,
        "digest": digest,
        "files": files,
        "stood_on": json.dumps(stood_on, sort_keys=True),
        "published_with": json.dumps(published_with, sort_keys=True),
    }
    _write(lake, night, [*known, new])
    log.info("night %s: revision %d, %s", night, new["revision"], _told(new))
    return new


def forgotten(lake: Lake, others: duckdb.DuckDBPyRelation, night: dt.date, removed: int) -> None:
    """Record that a night's labels are about to lose those of forgotten people.

    others: the rows that stay. It is written before these are, so that a run that is killed in
    between leaves no night without it. A night whose labels are not those of its newest revision
    has not been published as it is, and gets its revision when it is.
    """
    known = _of_night(lake, night)
    if not known or known[-1]["files"] != _files(lake, night):
        return
    new = known[-1] | {
        "revision": len(known) + 1,
        "published_at": dt.datetime.now(dt.UTC),
        "run": run(),
        "why": FORGET,
        "because": "labels of forgotten people were removed",
        "labels": len(others),
        "changed": 0,
        "added": 0,
        "removed": removed,
        "digest": _digest(others, night),
        "files": [],
        "published_with": None,  # it loses their rows, too; the next time it is published says it
    }
    _write(lake, night, [*known, new])


def keep_files(lake: Lake, con: duckdb.DuckDBPyConnection) -> None:
    """Let the revisions that `forgotten` recorded name the files that hold their labels now."""
    rows = lake.scan(tables.LABEL_REVISIONS).sort("revision").collect()
    newest = rows.group_by("dt", maintain_order=True).last()
    for row in newest.filter(pl.col("files").list.len() == 0).to_dicts():
        night = row["dt"]
        lake.view(con, tables.INTENT_LABELS, "labels_now", first=night, last=night)
        if _digest(con.table("labels_now"), night) == row["digest"]:
            others = [one for one in _of_night(lake, night) if one["revision"] < row["revision"]]
            _write(lake, night, [*others, row | {"files": _files(lake, night)}])


def public(lake: Lake, *nights: dt.date) -> pa.Table:
    """Return all revisions of some nights, or of all, as targets get them."""
    first, last = (min(nights), max(nights)) if nights else (None, None)
    rows = lake.scan(tables.LABEL_REVISIONS, first, last).sort("dt", "revision").select(PUBLIC)
    schema = pa.schema([tables.LABEL_REVISIONS.schema.field(name) for name in PUBLIC])
    return rows.collect().to_arrow().cast(schema)


def nights_of_run(lake: Lake) -> list[dt.date]:
    """Return the nights that got a revision from the run that this process is of, in order."""
    rows = lake.scan(tables.LABEL_REVISIONS).filter(run=run()).select("dt").unique().sort("dt")
    return rows.collect()["dt"].to_list()


def run() -> str:
    """Name the run that this process is of."""
    return os.environ.get(AIRFLOW_RUN) or COMMAND_LINE


def _of_night(lake: Lake, night: dt.date) -> list[dict[str, Any]]:
    return lake.scan(tables.LABEL_REVISIONS, night, night).collect().sort("revision").to_dicts()


def _write(lake: Lake, night: dt.date, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=tables.LABEL_REVISIONS.schema)
    lake.replace(tables.LABEL_REVISIONS, table, nights=[night])


def _companions(con: duckdb.DuckDBPyConnection, night: dt.date) -> dict[str, str]:
    """Return what stands for the rows of each table that is published with the labels."""
    found = {}
    for table in tables.WITH_LABELS:
        columns = inputs.ROWS[table.name][1]
        digest = digests(con.table(table.name), columns).get(night, "")
        if digest or table not in tables.ONLY_WITH_ROWS:
            found[table.name] = digest
    return found


def _differing(last: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Name the tables whose rows are others than those that a revision was published with.

    Of a revision from before they were published, and of one that people were forgotten from, that
    is not known: then there are none.
    """
    before: dict[str, str] = json.loads(last["published_with"] or "{}")
    if before:
        before = {table.name: "" for table in tables.ONLY_WITH_ROWS} | before
    return [name for name, digest in before.items() if digest != now.get(name, "")]


def _digest(rows: duckdb.DuckDBPyRelation, night: dt.date) -> str:
    return digests(rows, inputs.ROWS[inputs.LABELS][1]).get(night, "")


def _files(lake: Lake, night: dt.date) -> list[str]:
    """Return the names of the files of a night's labels, below the table's folder."""
    return [
        "/".join(file.split("/")[-2:]) for file in lake.files(tables.INTENT_LABELS, night, night)
    ]


def _changes(
    lake: Lake, con: duckdb.DuckDBPyConnection, last: Mapping[str, Any] | None
) -> tuple[int | None, int | None, int | None]:
    """Count users with another intent, new ones and those who are gone since a revision."""
    if last is None:
        before: pl.LazyFrame | None = pl.LazyFrame(
            schema={"user_id": pl.String, "intent_id": pl.Int32}
        )
    else:
        files = last["files"]
        before = lake.rows_of(tables.INTENT_LABELS, files) if files else None
    if before is None:
        return None, None, None  # upkeep has deleted them
    con.register("labels_before", before)
    [(changed, added, removed)] = con.sql(duck.sql("label_changes")).fetchall()
    return changed, added, removed


def _stood_on(lake: Lake, night: dt.date) -> dict[str, str]:
    """Return what a night's labels were made from, as far as its steps have recorded it."""
    steps = recorded_inputs(lake, night, night).get(night, {})
    found: dict[str, list[Input]] = {}
    for step in MADE_BY:
        for one in steps.get(step) or []:
            found.setdefault(one.input, []).append(one)
    return {
        name: inputs.short([f"{one.night} {one.digest}" for one in several])
        if name in inputs.ROWS
        else several[0].digest
        for name, several in found.items()
    }


def _why(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    night: dt.date,
    last: Mapping[str, Any] | None,
    now: Mapping[str, str],
) -> tuple[str, str]:
    """Say why a night's labels are others than those of its last revision: a word, a sentence."""
    later = [one for one in lake.nights(tables.INTENT_LABELS) if one > night]
    is_backfill = bool(later) or run().startswith("backfill")
    after = f"night {later[-1]} was labelled before it" if later else f"run {run()} made it"
    named = now.get(inputs.RELABELLED_WITH)
    before: dict[str, str] = json.loads(last["stood_on"] or "{}") if last else {}

    def differs(name: str) -> bool:
        return name in before and name in now and before[name] != now[name]

    if named and named != before.get(inputs.RELABELLED_WITH):
        return RELABEL, f"a person has named model {named} for this night"
    [(version,)] = con.sql("SELECT max(model_version) FROM intent_labels").fetchall()
    if last is None:
        # From before there were revisions: of an earlier run there is its model.
        for earlier in registered(lake, night)["model_version"]:
            if earlier != version and (other := _other_settings(lake, earlier, version)):
                return OTHER_SETTINGS, other
        if is_backfill:
            return BACKFILL, after
        return FIRST_RUN, "its labels were not published before"
    if differs(inputs.EVENTS) and differs(inputs.FORGOTTEN):
        return FORGET, "events of forgotten people are in its histories no more"
    if differs(inputs.EVENTS):
        if brought := _brought_late(lake, night):
            return LATE_EVENTS, f"events of its days came late, with {brought}"
        return OTHER_EVENTS, "events of its days, or of days before, are others than they were"
    if differs(inputs.LABELS_WITH) and _is_chosen(lake, night, version):
        return ROLLBACK, f"a person has chosen model {version} to label from here on"
    if other := _other_settings(lake, last["model_version"], version):
        return OTHER_SETTINGS, other
    if differs(inputs.MODEL_BEFORE) or differs(inputs.LABELS_BEFORE):
        return EARLIER_NIGHTS, "the model or the labels that it goes on from are others"
    if is_backfill:
        return BACKFILL, after
    return RERUN, _reran(before, now)


def _reran(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say why a night that was run again has other labels, where nothing above explains it."""
    if not before or not now:
        return "it is not recorded what its labels were made from"
    if before == now:
        return (
            "it was made from the same: by another machine, another version of the code, or "
            "other settings than the model's"
        )
    if relabelled := before.get(inputs.RELABELLED_WITH):
        return f"it has its own run's labels again, and not those of model {relabelled}"
    others = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f"these are others than they were: {', '.join(OTHERS.get(one, one) for one in others)}"


def _brought_late(lake: Lake, night: dt.date) -> str | None:
    """Name the night whose ingest brought events of this night's days, or of days before, late."""
    rows = lake.scan(tables.STEPS, night + dt.timedelta(days=1), night + LATE_NIGHTS)
    found = rows.filter(step="ingest").select("dt", "summary").collect().sort("dt")
    for by, summary in found.iter_rows():
        days = json.loads(summary).get("changed_nights") or {}
        if any(dt.date.fromisoformat(day) <= night for day in days):
            return f"night {by}"
    return None


def _is_chosen(lake: Lake, night: dt.date, version: str) -> bool:
    choices = lake.scan(tables.CHOICES, last=night).collect()
    return version in choices["model_version"]


def _other_settings(lake: Lake, before: str | None, now: str) -> str | None:
    """Say that two models were trained on other settings; None when they were not."""
    rows = lake.scan(tables.MODELS).filter(pl.col("model_version").is_in([before or "", now]))
    made = dict(rows.select("model_version", "settings_fingerprint").collect().iter_rows())
    if before is None or before not in made or now not in made or made[before] == made[now]:
        return None
    return (
        f"model {now} labels it, which was trained on other settings, or by another version of "
        f"elcrec, than {before} before"
    )


def _told(revision: Mapping[str, Any]) -> str:
    if revision["changed"] is None:
        return f"{revision['why']}: the labels before are not in the lake any more"
    told = (
        f"{revision['why']}: {revision['changed']} labels changed, {revision['added']} added, "
        f"{revision['removed']} removed"
    )
    return f"{told}; {revision['because']}"
