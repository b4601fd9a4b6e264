"""Remove people from the lake, and leave them out of every night from then on.

A person's rows go from each table that has user ids and from `quarantine`, and from every published
target; the id goes from what the checks found (`steps`, `check_results`, quality pages), and the
versions of these tables that still held them are deleted, data and log. A search of all that is
left then shows that nothing names the person. `forgotten` keeps a salted hash of the id, by which
`ingest` leaves out what the source still has.

Each part can be killed and done again. It is done while no step runs.
"""

import datetime as dt
import hashlib
import html
import json
import logging
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import ForgetError
from tasks.lake import PAGES, Lake, duck, tables
from tasks.lake.storage import File
from tasks.lake.tables import Table
from tasks.registry import revisions
from tasks.settings import Settings
from tasks.targets import targets_of

log = logging.getLogger(__name__)

# Tables of one row or more a person, and the column that says whose it is.
USER_TABLES = {
    table: "user_id" for table in tables.TABLES.values() if "user_id" in table.schema.names
}
# Tables with a column of text in which an id may stand.
TEXTS = {tables.QUARANTINE: "raw", tables.CHECK_RESULTS: "observed"}
INSTEAD = "forgotten"  # what stands in a finding where an id was
TEXT_PAGES = (".html", ".json", ".txt")


def forget(settings: Settings, users: Iterable[str]) -> dict[str, Any]:
    """Remove users from every table and page of the lake and show that nothing is left.

    Returns, for each table, the rows removed, the nights written anew, the files deleted and the
    rows left, which is 0; the same for each target that labels are published to; and how many
    pages were changed and files searched. No id is in it.

    Raises
    ------
    LakeError
        There is no lake, or a table of it cannot be read.
    ForgetError
        No user is given, or something still names one of them.
    PublishError, SettingsError
        A target that labels are published to is not there as it should be; nothing was changed.
    """
    wanted = sorted(set(users))
    if not wanted or "" in wanted:
        raise ForgetError("no user is named: give each id as it stands in the table events")
    lake = Lake.there(settings)
    targets = list(targets_of(settings))
    for target in targets:
        target.check()
    names = Names(wanted)
    done: dict[str, dict[str, int]] = {}
    with lake.alone(), duck.connect(settings) as con:
        # First of all, so that no night that starts afterwards reads them again.
        added = _remember(lake, wanted)
        for table, column in USER_TABLES.items():
            done[table.name] = _remove(con, lake, table, column, wanted)
        raws = _naming(lake, tables.QUARANTINE, "raw", names)
        done[tables.QUARANTINE.name] = _remove(con, lake, tables.QUARANTINE, "raw", raws)
        done[tables.STEPS.name] = _redact_steps(lake, names)
        done[tables.CHECK_RESULTS.name] = _redact_check_results(lake, names)
        for name, report in done.items():
            report["files_deleted"] = lake.purge(tables.TABLES[name])
        pages = _redact_pages(lake, names)
        searched = _search(lake, wanted, names, done)
        revisions.keep_files(lake, con)
        known = revisions.public(lake)
        published = {str(target): target.forget(wanted, known) for target in targets}
    for name, report in published.items():
        if report["left"]:
            raise ForgetError(
                f"{report['left']} rows of {name} still name the users: something else writes to "
                "it meanwhile; stop it and forget again"
            )
    removed = sum(report["rows_removed"] for report in [*done.values(), *published.values()])
    told = "users forgotten: %d, rows removed: %d, pages changed: %d"
    log.info(told, len(wanted), removed, pages)
    if not removed and added:
        log.warning("no table has a row of these users: are the ids as they stand in events?")
    return {
        "users": len(wanted),
        "users_not_forgotten_before": added,
        "tables": done,
        "targets": published,
        "pages_changed": pages,
        "files_searched": searched,
    }


def read_users(file: Path) -> list[str]:
    """Read the ids of a text file with one a line, blank lines left out.

    Raises ForgetError when the file cannot be read or is no UTF-8.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ForgetError(
            f"{file} cannot be read ({error}): name a UTF-8 text file with a user's id a line"
        ) from None
    return [line.removesuffix("\r") for line in lines if line.strip()]


class Names:
    """Finds ids in text: as whole words, as they are or as JSON, CSV and HTML write them."""

    def __init__(self, users: Iterable[str]) -> None:
        self.forms = sorted({form for user in users for form in _forms(user)})
        any_of = "|".join(re.escape(form) for form in reversed(self.forms))
        self.word = re.compile(rf"(?<![\w-])(?:{any_of})(?![\w-])")
        self.quoted = re.compile(rf"(?<=[\"'])(?:{any_of})(?=[\"'])")

    def within(self, text: str) -> bool:
        """Tell whether a text has one of the ids as a word."""
        return bool(self.word.search(text))

    def redacted(self, text: str) -> str:
        """Put another word in the place of each id in a text."""
        return self.word.sub(INSTEAD, text)

    def redacted_json(self, value: Any) -> Any:
        """Do so in each string of a JSON value."""
        if isinstance(value, dict):
            return {self.redacted(key): self.redacted_json(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.redacted_json(inner) for inner in value]
        return self.redacted(value) if isinstance(value, str) else value

    def redacted_page(self, page: str) -> str:
        """Do so in what an HTML page shows; in its tags and scripts where the id is quoted."""
        parts = re.split(r"(<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>)", page, flags=re.S)
        return "".join(
            self.quoted.sub(INSTEAD, part) if index % 2 else self.redacted(part)
            for index, part in enumerate(parts)
        )


def _forms(user: str) -> set[str]:
    as_json = {json.dumps(user, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    return {user, *as_json, user.replace('"', '""'), html.escape(user)}


def _remember(lake: Lake, users: list[str]) -> int:
    """Add the hashes of users that are not in `forgotten` yet; return how many."""
    rows = lake.scan(tables.FORGOTTEN).collect()
    salt = rows["salt"][0] if rows.height else secrets.token_hex(16)
    hashes = {hashlib.sha256((salt + user).encode()).hexdigest() for user in users}
    new = sorted(hashes - set(rows["user_hash"]))
    if new:
        now = dt.datetime.now(dt.UTC)
        added = [{"user_hash": found, "salt": salt, "forgotten_at": now} for found in new]
        lake.append(tables.FORGOTTEN, pa.Table.from_pylist(added, schema=tables.FORGOTTEN.schema))
    return len(new)


def _remove(
    con: duckdb.DuckDBPyConnection, lake: Lake, table: Table, column: str, values: list[str]
) -> dict[str, int]:
    """Write the nights anew that have rows of these values, without them, one by one."""
    # The ids are data in DuckDB and never a predicate of Delta's, which its log would keep.
    con.register("wanted", pa.table({"value": pa.array(values, pa.string())}))
    is_wanted = f"coalesce({duck.identifier(column)} IN (SELECT value FROM wanted), false)"
    lake.view(con, table, "found")
    found = con.table("found").filter(is_wanted).aggregate("dt, count(*)").order("dt").fetchall()
    for night, rows in found:
        lake.view(con, table, "whole", first=night, last=night)
        others = con.table("whole").filter(f"NOT {is_wanted}")
        if table is tables.INTENT_LABELS:
            revisions.forgotten(lake, others, night, rows)
        lake.replace(table, others, nights=[night])
        log.info("%s of night %s: %d rows removed", table.name, night, rows)
    return {"rows_removed": sum(rows for _, rows in found), "nights_rewritten": len(found)}


def _naming(lake: Lake, table: Table, column: str, names: Names) -> list[str]:
    """Return the different texts of a column that have one of the ids as a word."""
    has_form = pl.col(column).str.contains_any(names.forms)
    texts = lake.scan(table).select(column).filter(has_form).unique().collect()[column]
    return [text for text in texts if names.within(text)]


def _redact_steps(lake: Lake, names: Names) -> dict[str, int]:
    """Take the ids out of the summaries of steps: a check names examples of what it found."""
    summaries = set(_naming(lake, tables.STEPS, "summary", names))
    rows = lake.scan(tables.STEPS).filter(pl.col("summary").is_in(list(summaries))).collect()
    changed = 0
    nights = set()
    for night, step, summary in rows.select("dt", "step", "summary").iter_rows():
        told = json.loads(summary)
        redacted = names.redacted_json(told)
        if redacted == told:
            continue  # a number or a key that only looks like the id
        changed += 1
        nights.add(night)
        row = rows.filter(dt=night, step=step).with_columns(
            summary=pl.lit(json.dumps(redacted, sort_keys=True))
        )
        lake.replace(tables.STEPS, row, nights=[night], within={"step": step})
    return {"rows_removed": 0, "rows_changed": changed, "nights_rewritten": len(nights)}


def _redact_check_results(lake: Lake, names: Names) -> dict[str, int]:
    """Take the ids out of what checks observed: they name an example of a row."""
    observed = _naming(lake, tables.CHECK_RESULTS, "observed", names)
    instead = {text: names.redacted(text) for text in observed}
    naming = pl.col("observed").is_in(observed)
    changed = lake.scan(tables.CHECK_RESULTS).filter(naming).collect()
    runs = changed.select("dt", "step").unique(maintain_order=True)
    for night, step in runs.iter_rows():
        rows = lake.scan(tables.CHECK_RESULTS, first=night, last=night).filter(step=step).collect()
        redacted = rows.with_columns(pl.col("observed").replace(instead))
        lake.replace(tables.CHECK_RESULTS, redacted, nights=[night], within={"step": step})
    return {
        "rows_removed": 0,
        "rows_changed": changed.height,
        "nights_rewritten": runs["dt"].n_unique(),
    }


def _redact_pages(lake: Lake, names: Names) -> int:
    changed = 0
    for path, page in _pages(lake):
        redacted = names.redacted_page(page)
        if redacted != page:
            lake.storage.write(path, redacted.encode("utf-8", errors="surrogateescape"))
            changed += 1
    return changed


def _pages(lake: Lake) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page of the checks."""
    for file in lake.storage.files(PAGES):
        if file.path.endswith(TEXT_PAGES):
            yield file.path, lake.storage.read(file.path).decode("utf-8", errors="surrogateescape")


def _search(
    lake: Lake,
    users: list[str],
    names: Names,
    done: dict[str, dict[str, int]],
) -> int:
    """Search every file of the tables and every page, and note the rows left; return how many."""
    searched = 0
    for name, report in done.items():
        table = tables.TABLES[name]
        # What lies there, whether a version of the table has it or not.
        data = lake.data_files(table)
        left = 0
        for file in data:
            rows = lake.rows_of_file(file)
            if table in USER_TABLES:
                found = rows.select(pl.col("user_id").is_in(users).sum()).collect()
                left += found.item()
            elif table in TEXTS:
                column = pl.col(TEXTS[table])
                texts = rows.select(column.filter(column.str.contains_any(names.forms)))
                left += sum(map(names.within, texts.collect().to_series()))
            else:
                told = rows.select("summary").collect()["summary"]
                left += sum(names.redacted_json(json.loads(row)) != json.loads(row) for row in told)
        entries = lake.log_files(table)
        left += sum(_named_in_log(lake, file, set(users), names) for file in entries)
        report["left"] = left
        searched += len(data) + len(entries)
    left_pages = 0
    for _, text in _pages(lake):
        left_pages += names.redacted_page(text) != text
        searched += 1
    left = sum(report["left"] for report in done.values())
    if left or left_pages:
        raise ForgetError(
            f"{left} rows or entries of the tables and {left_pages} pages of {lake.root} still "
            "name the users: something else writes to the lake meanwhile; stop it and forget again"
        )
    return searched


def _named_in_log(lake: Lake, file: File, users: set[str], names: Names) -> bool:
    """Tell whether an entry of a table's log names a user: the extremes of a file's columns do."""
    if file.path.endswith(".json"):
        lines = lake.storage.read(file.path).decode().splitlines()
        actions = [json.loads(line) for line in lines if line]
    elif file.path.endswith(".parquet"):
        actions = pq.read_table(pa.BufferReader(lake.storage.read(file.path))).to_pylist()
    else:
        return False
    for action in actions:
        for kind in ("add", "remove"):
            stats = json.loads((action.get(kind) or {}).get("stats") or "{}")
            for extreme in ("minValues", "maxValues"):
                values = stats.get(extreme) or {}
                if values.get("user_id") in users:
                    return True
                if any(names.within(values.get(column) or "") for column in TEXTS.values()):
                    return True
    return False
