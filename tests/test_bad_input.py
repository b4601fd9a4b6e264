"""Bad input: one table of what may come in, and what a night makes of it.

Each case adds something broken to a source that has one good file, `good.csv`, with two events of
the night; the lake has the night before. Whatever happens, that night stays as it is, and an error
leaves every table as it was.
"""

# ruff: noqa: E501 - a case is a line of a table

import datetime as dt
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.errors import NotReadyError, PipelineError
from tasks.lake import Lake, tables
from tasks.lake.tables import TABLES
from tasks.settings import REPO, load_settings
from tasks.steps import run_step

BEFORE, NIGHT = dt.date(2026, 11, 1), dt.date(2026, 11, 2)
HEADER = "user_id,item_id,ts,event_type\n"
GOOD = f"{HEADER}ann,a,{NIGHT}T10:00:00Z,view\nbob,b,{NIGHT}T11:00:00Z,view\n"
ROW = f"cleo,c,{NIGHT}T12:00:00Z,view\n"
EVIL = "x'); DROP TABLE events; --"
AWAY = "../../etc/passwd"
MS = 1_793_620_800_000  # noon of the night

Make = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """Something broken, and what is expected: an error with these words, or counts of rows."""

    name: str
    make: Make = lambda folder: None  # puts it into the folder of the source
    says: tuple[str, ...] = ()  # an error: its kind, then words of its sentence, in order
    events: int = 2  # rows of the night that are kept, with those of the good file
    quarantined: int = 0
    duplicates: int = 0
    repeats: int = 0
    busy: int = 0
    other_nights: int = 0
    reason: str = ""  # of a quarantined row
    user: str = ""  # ids that come out as they went in
    item: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    night: dt.date = NIGHT

    def __str__(self) -> str:
        return self.name


def text(content: str, name: str = "late.csv", encoding: str = "utf-8") -> Make:
    return lambda folder: (folder / name).write_bytes(content.encode(encoding))


def csv(*rows: str) -> Make:
    return text(HEADER + "".join(rows))


def jsonl(*lines: str) -> Make:
    good = {"user_id": "cleo", "item_id": "c", "ts": f"{NIGHT}T12:00:00Z"}
    return text("".join(line + "\n" for line in (json.dumps(good), *lines)), "late.jsonl")


def parquet(**columns: Any) -> Make:
    """Write rows of a night, with these columns in the place of the usual ones."""
    usual = {"user_id": ["cleo"], "item_id": ["c"], "ts": [dt.datetime(2026, 11, 2, 12)]}
    frame = pl.DataFrame(usual | columns)
    return lambda folder: frame.write_parquet(folder / "late.parquet")


def cut(make: Make, name: str, share: float = 0.6) -> Make:
    """Leave the end of a file away."""

    def made(folder: Path) -> None:
        make(folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return made


def both(*makes: Make) -> Make:
    def made(folder: Path) -> None:
        for make in makes:
            make(folder)

    return made


def robot(folder: Path) -> None:
    """Write 10 million events of one user and 1,000 items, one every 8 ms."""
    number = pl.int_range(10_000_000).alias("ts")
    midnight = pl.lit(dt.datetime.combine(NIGHT, dt.time()))
    frame = pl.select(number).select(
        user_id=pl.lit("cleo"),
        item_id=(pl.col("ts") % 1000).cast(pl.String),
        ts=midnight + pl.duration(milliseconds=8 * pl.col("ts")),
    )
    frame.write_parquet(folder / "late.parquet")


def packed(suffix: str) -> Make:
    rows = "".join(f"u{n * 7919 % 10007},c{n},{NIGHT}T12:00:00Z,view\n" for n in range(5000))
    kind = {".gz": "gzip", ".zst": "zstd"}[suffix]

    def made(folder: Path) -> None:
        with pa.output_stream(str(folder / f"late.csv{suffix}"), compression=kind) as stream:
            stream.write((HEADER + rows).encode())

    return made


def link(target: str) -> Make:
    def made(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        (outside / "secret.csv").write_text(HEADER + ROW)
        (folder / "late.csv").symlink_to(target)

    return made


def inside(name: str, content: str = HEADER + ROW) -> Make:
    def made(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return made


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def row(
    user: str = "cleo", item: str = "c", ts: str = f"{NIGHT}T12:00:00Z", more: str = "view"
) -> str:
    return f"{quoted(user)},{quoted(item)},{ts},{more}\n"


def source(**options: Any) -> dict[str, Any]:
    return {f"source.{name}": value for name, value in options.items()}


S = "SourceError"
QUARANTINE = source(broken_rows="quarantine")

# fmt: off
CASES = [
    # Files that are not whole, or not what their name says.
    Case("Parquet cut short", cut(parquet(), "late.parquet"), (S, "late.parquet is no readable Parquet file", "deliver it again")),
    Case("Parquet that is text", text(GOOD, "late.parquet"), (S, "late.parquet")),
    Case("gzip cut short", cut(packed(".gz"), "late.csv.gz"), (S, "late.csv.gz", "cut short")),
    Case("gzip cut in its header", cut(packed(".gz"), "late.csv.gz", 0.0002), (S, "late.csv.gz")),
    Case("zstd cut short", cut(packed(".zst"), "late.csv.zst"), (S, "late.csv.zst", "cut short")),
    Case("text named .gz", text(GOOD, "late.csv.gz"), (S, "late.csv.gz")),
    Case("an empty file", text("", "late.csv"), (S, "late.csv is empty")),
    Case("an empty compressed file", lambda folder: (folder / "late.csv.gz").write_bytes(gzip.compress(b"")), (S, "late.csv.gz is empty")),
    Case("Parquet cut short in the middle of a folder", both(cut(parquet(), "late.parquet"), text(GOOD, "z.csv")), (S, "late.parquet is no readable Parquet file")),
    Case("gzip cut short in the middle of a folder", both(cut(packed(".gz"), "late.csv.gz"), text(GOOD, "z.csv")), (S, "late.csv.gz", "cut short")),
    Case("a header and no row", csv()),
    Case("a file still being written, by its name", text(GOOD[:-9], "_late.csv.tmp")),
    Case("files still being written, by their time", csv(ROW), ("NotReadyError", "may still be written", "ingest.settle_minutes"), settings={"ingest.settle_minutes": 5}),
    Case("a hidden file", text(GOOD[:-9], ".late.csv")),
    Case("a folder named like a file", lambda folder: (folder / "late.csv").mkdir()),
    Case("a file of another kind", text("read me", "README.md")),
    # How text is written.
    Case("a byte-order mark", text("\ufeff" + HEADER + ROW), events=3),
    Case("Latin-1", text(HEADER + row("zoë"), encoding="latin-1"), (S, "late.csv", "UTF-8")),
    Case("UTF-16", text(HEADER + ROW, encoding="utf-16"), (S, "late.csv")),
    Case("line ends of Windows", text((HEADER + ROW).replace("\n", "\r\n")), events=3),
    Case("no line end at the end", text((HEADER + ROW)[:-1]), events=3),
    Case("semicolons", text((HEADER + ROW).replace(",", ";")), events=3),
    Case("a separator that nobody told of", text((HEADER + ROW).replace(",", "^")), (S, "late.csv", "has no column")),
    Case("a separator that is set wrong", csv(ROW), (S, "good.csv", "has no column"), settings=source(separator="|")),
    Case("a quote that never ends", csv(ROW, '"dora,d,2026-11-02T12:00:00Z,view\n', ROW), (S, "late.csv line 3")),
    Case("a quote that never ends, to quarantine", csv(ROW, '"dora,d,2026-11-02T12:00:00Z,view\n'), events=3, quarantined=1, settings=QUARANTINE),
    Case("a row with a column too many", csv(ROW, row(more="view,more")), (S, "late.csv line 3")),
    Case("a row with a column too many, to quarantine", csv(ROW, row(more="view,more")), events=3, quarantined=1, settings=QUARANTINE, reason="cannot be parsed"),
    Case("a row with a column too few", csv(ROW, "dora,d\n"), (S, "late.csv line 3")),
    Case("JSON cut short", jsonl('{"user_id": "dora", "item'), (S, "late.jsonl line 2")),
    Case("JSON cut short, to quarantine", jsonl('{"user_id": "dora", "item'), events=3, quarantined=1, settings=QUARANTINE),
    Case("JSON that is no object", jsonl('["dora", "d"]'), events=3, quarantined=1, reason="no user"),
    # Columns.
    Case("no column with users", text(GOOD.replace("user_id", "who")), (S, "late.csv has no column", "source.user_columns")),
    Case("no column with times", text(GOOD.replace("ts", "when")), (S, "late.csv has no column", "source.time_columns")),
    Case("two columns of one name", text(GOOD.replace("event_type", "item_id")), (S, "late.csv has two columns named item_id")),
    Case("columns in another order, and new ones", text("more,ts,item_id,user_id\n1,2026-11-02T12:00:00Z,c,cleo\n"), events=3),
    Case("ids that became numbers overnight", parquet(user_id=[17], item_id=[4]), events=3, user="17"),
    Case("times that became text overnight", parquet(ts=[f"{NIGHT}T12:00:00Z"]), events=3),
    Case("times that became numbers overnight", parquet(ts=[MS]), events=3),
    Case("a weight that became text overnight", parquet(rating=["much"]), quarantined=1, reason="the weight is no finite number"),
    Case("a weight that is not finite", parquet(rating=[float("inf")]), quarantined=1, reason="the weight is no finite number"),
    # Times.
    Case("milliseconds that are set to be seconds", parquet(ts=[MS]), (S, "late.parquet", "looks like ms", "source.time_unit"), settings=source(time_unit="s")),
    Case("microseconds that are set to be milliseconds: the year 55,000", parquet(ts=[MS * 1000]), (S, "late.parquet", "looks like us", "source.time_unit"), settings=source(time_unit="ms")),
    Case("one time of the year 55,000 among others", parquet(user_id=["cleo"] * 3, item_id=["c"] * 3, ts=[MS, MS + 1, MS * 1000]), events=4, quarantined=1, reason="1970 to 2199"),
    Case("numbers that are no times", parquet(ts=[55]), (S, "late.parquet", "in no unit")),
    Case("the year 55,000", csv(ROW, row(ts="55000-01-01T00:00:00Z")), events=3, quarantined=1),
    Case("a time before 1970", csv(ROW, row(ts="1901-01-01T00:00:00Z")), events=3, quarantined=1),
    Case("words in the place of a time", csv(ROW, ROW.replace("c,", "d,"), row(ts="yesterday")), events=4, quarantined=1),
    Case("words in the place of all times", csv(row(ts="yesterday"), row(ts="today")), (S, "late.csv", "are no dates")),
    Case("no time", csv(ROW, row(ts="")), events=3, quarantined=1, reason="no time"),
    Case("rows of the night after", csv(ROW, row(ts="2026-11-03T00:00:00Z")), events=3, other_nights=1),
    Case("the last microsecond, and the zone of elsewhere", csv(row(ts="2026-11-02T23:59:59.999999Z"), row(ts="2026-11-03T01:00:00+02:00")), events=4),
    # Ids.
    Case("no user", csv(ROW, row(user="")), events=3, quarantined=1, reason="no user"),
    Case("no item", csv(ROW, row(item=" ")), events=3, quarantined=1, reason="no item"),
    Case("an id of 10,000 characters", csv(row("x" * 10_000)), events=3, user="x" * 10_000),
    Case("an id with a line end", csv(row("one\ntwo")), events=3, user="one\ntwo"),
    Case("an id with NUL", parquet(user_id=["one\0two"], item_id=["a\0b"]), events=3, user="one\0two", item="a\0b"),
    Case("an id with NUL in CSV", csv(row("one\0two", "a\0b")), events=3, user="one\0two", item="a\0b"),
    Case("an id with NUL in JSON", jsonl(json.dumps({"user_id": "one\0two", "item_id": "a\0b", "ts": f"{NIGHT}T12:00:00Z"})), events=4, user="one\0two", item="a\0b"),
    Case("an item of 10,000 characters with line ends", csv(row(item="x\ny" * 3_334)), events=3, item="x\ny" * 3_334),
    Case("an id with letters that Latin-1 has not", csv(row("Straße 日本")), events=3, user="Straße 日本"),
    Case("an id of four bytes a character", csv(row("🦊🦊")), events=3, user="🦊🦊"),
    Case("ids that are SQL", csv(row(EVIL, EVIL, more=quoted(EVIL))), events=3, user=EVIL, item=EVIL),
    Case("ids that are paths", csv(row(AWAY, AWAY, more=AWAY)), events=3, user=AWAY, item=AWAY),
    Case("an id with quotes", csv(row('a "quoted" \'one\'')), events=3, user='a "quoted" \'one\''),
    # How much.
    Case("a file delivered twice", text(GOOD, "again.csv"), duplicates=2),
    Case("10 million events of one user", robot, events=10_002, repeats=9_000_000, busy=990_000, settings={"duckdb.memory_limit": "2GB"}),
    # Paths and names.
    Case("a link out of the folder", link("../outside/secret.csv"), (S, "late.csv leads to", "outside of")),
    Case("a glob that leaves a bucket", says=(S, "s3://bucket/events/../*/*.csv", "without empty parts, . and .."), settings=source(path="s3://bucket/events/../*/*.csv")),
    Case("a link to nowhere", link("nowhere.csv"), (S, "late.csv is a link to nowhere.csv", "remove the link")),
    Case("a glob that meets a link out of its folder", link("../outside/secret.csv"), (S, "late.csv leads to", "outside of"), settings=source(path="events/*.csv")),
    Case("a source that is not there", says=(S, "missing.csv", "does not exist"), settings=source(path="missing.csv")),
    Case("a source with no event file", inside("notes/README.md"), (S, "has no event files"), settings=source(path="events/notes")),
    Case("a folder named like a partition", inside("dt=2026-11-02/late.csv"), events=3),
    Case("a file name that is SQL", inside(EVIL + ".csv"), events=3),
    Case("a table name that is SQL", csv(ROW), ("SettingsError", "publish.postgres_table", "DROP TABLE", "letters, digits"), settings={"publish.postgres_table": EVIL}),
    Case("a folder of days that is SQL and a path", inside(f"{EVIL}=2026-11-02/late.csv"), events=3, settings=source(day_folders=f"../{EVIL}")),
    Case("a column name that is SQL", csv(ROW), (S, "has no column", "DROP TABLE"), settings=source(user_columns=[EVIL])),
    Case("a lake whose name is SQL", csv(ROW), events=3, settings={"lake.root": EVIL}),
    Case("a lake whose name Delta cannot write", says=("SettingsError", "lake.root", "cannot have %"), settings={"lake.root": "100%"}),
    # Settings and nights.
    Case("a format that there is not", says=("SettingsError", "source.format", "xml"), settings=source(format="xml")),
    Case("a time unit that there is not", says=("SettingsError", "source.time_unit", "days"), settings=source(time_unit="days")),
    Case("a setting that there is not", says=("SettingsError", "source.pth", "did you mean source.path"), settings=source(pth="x")),
    Case("a source that is not set", says=(S, "source.path is not set"), settings=source(path="")),
    Case("a night that is not over", says=("NightError", "not over yet"), night=dt.date(2999, 1, 1)),
    Case("a night without events", says=("NightError", "has no events"), night=dt.date(2026, 10, 1)),
]
# fmt: on


@pytest.fixture(scope="module")
def night_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the night before into a lake that each case copies."""
    folder = tmp_path_factory.mktemp("before")
    (folder / "events").mkdir()
    (folder / "events" / "good.csv").write_text(GOOD.replace(str(NIGHT), str(BEFORE)))
    settings = load_settings(
        **{"lake.root": folder / "lake", "source.path": str(folder / "events")}
    )
    for step in ("ingest", "build-sequences"):
        run_step(step, settings, BEFORE)
    return folder / "lake"


def content(root: Path, last: dt.date | None = None) -> dict[str, list[Any]]:
    """Read all tables, or those with nights up to one of them."""
    return {
        name: sorted(map(str, Lake(root).scan(table, last=last).collect().iter_rows()))
        for name, table in TABLES.items()
        if table.partition_by or last is None
    }


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (case.make is robot))
        for case in CASES
    ],
)
def test_bad_input_gets_a_clear_result_and_loses_nothing(
    case: Case, night_before: Path, tmp_path: Path
) -> None:
    paths = ("lake.root", "source.path")
    named = {
        key: str(tmp_path / value) if key in paths and value and "://" not in value else value
        for key, value in case.settings.items()
    }
    folder, root = tmp_path / "events", Path(named.get("lake.root", tmp_path / "lake"))
    shutil.copytree(night_before, root)
    folder.mkdir()
    (folder / "good.csv").write_text(GOOD)
    case.make(folder)
    before, past = content(root), content(root, BEFORE)

    def night() -> dict[str, Any]:
        usual = {"source.path": str(folder), "lake.root": root, "duckdb.threads": 2}
        return run_step("ingest", load_settings(**(usual | named)), case.night)

    if case.says:
        with pytest.raises((PipelineError, NotReadyError)) as error:
            night()
        kind, *words = case.says
        sentence = str(error.value)
        assert type(error.value).__name__ == kind
        assert "\n" not in sentence
        for word in words:
            assert word in sentence, sentence
            sentence = sentence[sentence.index(word) + len(word) :]
        assert content(root) == before
        return
    summary = night()
    counted = {
        name: summary[f"rows_{name}"]
        for name in ("events", "quarantined", "duplicate", "repeat", "busy", "other_nights")
    }
    assert counted == {
        "events": case.events,
        "quarantined": case.quarantined,
        "duplicate": case.duplicates,
        "repeat": case.repeats,
        "busy": case.busy,
        "other_nights": case.other_nights,
    }
    assert summary["rows_read"] == sum(counted.values())
    assert content(root, BEFORE) == past
    lake = Lake(root)
    events = lake.scan(tables.EVENTS, NIGHT, NIGHT).collect()
    assert events.height == case.events
    assert {"ann", "bob"} <= set(events["user_id"])
    assert not case.user or case.user in set(events["user_id"])
    assert not case.item or case.item in set(events["item_id"])
    # No id becomes a path.
    assert {path.name for path in lake.path(tables.EVENTS).iterdir()} == {
        "_delta_log",
        f"dt={BEFORE}",
        f"dt={NIGHT}",
    }
    rejected = lake.scan(tables.QUARANTINE, NIGHT, NIGHT).collect()
    assert rejected.height == case.quarantined
    assert all(case.reason in reason for reason in rejected["reason"])


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [1, 20, 200])
def test_a_disk_that_fills_during_a_write_loses_nothing(
    night_before: Path, tmp_path: Path, kilobytes: int
) -> None:
    root, folder = tmp_path / "lake", tmp_path / "events"
    shutil.copytree(night_before, root)
    folder.mkdir()
    (folder / "good.csv").write_text(GOOD)
    users = [f"u{number * 7919 % 100_003}" for number in range(60_000)]
    hours = [dt.datetime(2026, 11, 2, 12)] * len(users)
    parquet(user_id=users, item_id=users, ts=hours)(folder)
    before = content(root)
    command = [sys.executable, "-m", "tasks", "ingest", "--night", str(NIGHT)]
    command += ["--events", str(folder), "--lake", str(root)]

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        # No file can grow beyond the limit: a write fails in the middle, as on a full disk.
        code = (
            "import os, resource, sys; limit = int(sys.argv[1]);"
            "limit and resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        given = [sys.executable, "-c", code, str(limit), *command]
        return subprocess.run(given, cwd=REPO, capture_output=True, text=True)

    failed = run(kilobytes * 1000)
    assert failed.returncode != 0
    assert "File too large" in failed.stderr
    assert content(root) == before
    done = run(0)
    assert done.returncode == 0, done.stderr
    assert Lake(root).scan(tables.EVENTS, NIGHT, NIGHT).collect().height == 60_002
    assert content(root, BEFORE) == content(night_before, BEFORE)


def test_there_are_at_least_forty_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
