"""What event logs look like elsewhere: one table of shapes, and what is read of each.

A shape is told by the file's lines, and by the settings that it needs. A value is never read as
another one, and no row is lost without being counted: each row is an event, in quarantine with its
reason, or the run stops with a sentence that names the setting.
"""

# ruff: noqa: E501 - a case is a line of a table

import bz2
import datetime as dt
import gzip
import io
import json
import os
import re
import string
import tarfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from rich.console import Console

from local.logs import UNDERSTOOD
from tasks.chores.inspection import inspect
from tasks.errors import PipelineError, SettingsError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import PROFILES, REPO, TIME_SPECIFIERS, LakeSettings, load_settings

NIGHT = dt.date(2026, 11, 2)
HEAD = "user_id,item_id,ts\n"
DAY = "2026-11-02"
NOON = dt.datetime(2026, 11, 2, 12)

Files = dict[str, str | bytes | Callable[[Path], object]]


@dataclass(frozen=True)
class Shape:
    """Files, and the events `user item` or `user item type` that they give in the order of time."""

    name: str
    files: Files
    events: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)  # words of the reasons, by row
    says: tuple[str, ...] = ()  # words of the sentence that stops the run
    settings: dict[str, Any] = field(default_factory=dict)  # of source, or with a dot of others
    night: dt.date = NIGHT
    at: tuple[str, ...] = ()  # times of the events, where the day alone does not say enough
    left_out: list[str] = field(default_factory=list)
    raw: tuple[str, ...] = ()  # the rejected rows as read
    weights: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        return self.name


def parquet(**columns: Any) -> bytes:
    usual = {"user_id": ["ann"], "item_id": ["a"], "ts": [NOON]}
    sink = io.BytesIO()
    pq.write_table(pa.table(usual | columns), sink)
    return sink.getvalue()


def rows(*rows: str, head: str = HEAD) -> str:
    return head + "".join(f"{row}\n" for row in rows)


def lines(*objects: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


def event(**values: Any) -> dict[str, Any]:
    return {"user_id": "ann", "item_id": "a", "ts": f"{DAY}T01:00:00Z"} | values


def delta(path: Path) -> None:
    """Write a Delta table of two rows, and delete one of them."""
    folder = path.parent
    frame = pl.DataFrame({"user_id": ["ann", "bob"], "item_id": ["a", "b"], "ts": [NOON] * 2})
    write_deltalake(folder, frame.to_arrow())
    DeltaTable(folder).delete("user_id = 'ann'")


def link_to_a_folder_elsewhere(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "late.csv").write_text(rows(f"bob,b,{DAY}"))
    path.symlink_to(elsewhere)


def two_of_one_name(path: Path) -> None:
    names = ["user_id", "user_id", "item_id", "ts"]
    pq.write_table(pa.Table.from_arrays([["x"], ["y"], ["a"], [NOON]], names=names), path)


def tar_of(content: str) -> bytes:
    packed, raw = io.BytesIO(), content.encode()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        of_a = tarfile.TarInfo("a.csv")
        of_a.size = len(raw)
        archive.addfile(of_a, io.BytesIO(raw))
    return packed.getvalue()


def structs(kind: pa.DataType, *values: Any, name: str = "k") -> pa.Array:
    return pa.array([{name: value} for value in values], pa.struct([(name, kind)]))


def two_fields(name: str) -> pa.Array:
    """Make a struct that has the field twice."""
    return pa.StructArray.from_arrays([pa.array(["x"]), pa.array(["y"])], [name, name])


ONE = rows(f"u1,a,{DAY}")
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"  # a frame of zstd that says nothing
TABS = "user_id\titem_id\ttitle\tts\n"
CLOCK = f"{DAY}T01:00:00Z"

# fmt: off
SHAPES = [
    # Quotes and line ends.
    Shape("quotes in a file with tabs", {"a.tsv": TABS + f'u1\ta\tone\t{DAY}T01\n'.replace("T01", "T01:00") + f'u2\tb\t"Heroes\t{DAY}T02:00\nu3\tc\ttwo\t{DAY}T03:00\nu4\td\tMonday 12"\t{DAY}T04:00\n'}, ["u1 a", "u2 b", "u3 c", "u4 d"]),
    Shape("a tab within quotes", {"a.tsv": TABS + f'u1\ta\t"one\ttwo"\t{DAY}\n'}, ["u1 a"]),
    Shape("a quote that closes behind other rows", {"a.csv": rows("u1,a,x,2026-11-02T01:00", 'u2,b,"x,2026-11-02T02:00', "u3,c,x,2026-11-02T03:00", 'u4,d,x",2026-11-02T04:00', head="user_id,item_id,title,ts\n")}, ["u1 a", "u3 c", "u4 d"], ["closes only behind other rows"], settings={"broken_rows": "quarantine"}),
    Shape("a quote that never closes, amid rows", {"a.csv": rows(f"u1,a,{DAY}T01:00", f'"u2,b,{DAY}', f"u3,c,{DAY}T03:00")}, ["u1 a", "u3 c"], ["never closes"], settings={"broken_rows": "quarantine"}),
    Shape("a quote that never closes stops the run", {"a.csv": rows(f'"u2,b,{DAY}', f"u3,c,{DAY}")}, says=("a.csv line 2", "never closes", "source.broken_rows")),
    Shape("a value over several lines", {"a.csv": rows('"x\r\ny",a,2026-11-02')}, ["x\r\ny a"]),
    Shape("quotes that are letters", {"a.csv": rows(f'"u1,a,{DAY}T01:00', f'u2",b,{DAY}T02:00')}, ['"u1 a', 'u2" b'], settings={"quote": ""}),
    Shape("an escape", {"a.csv": rows(f"u\\,1,a,{DAY}T01:00", f'"u\\"2",b\\\nb,{DAY}T02:00')}, ["u,1 a", 'u"2 b\nb'], settings={"escape": "\\"}),
    Shape("a separator of several characters within quotes", {"a.csv": f'user_id::item_id::ts\n"a::b"::i::{DAY}\n"x\x1fy"::j::{DAY}\n'}, ["a::b i"], ["stray quote"], settings={"separator": "::", "quote": '"', "broken_rows": "quarantine"}),
    Shape("a separator of several characters that is escaped", {"a.csv": f"user_id::item_id::ts\na\\::b::i::{DAY}\n"}, ["a::b i"], settings={"separator": "::", "escape": "\\"}),
    Shape("line ends of three systems in one file", {"a.csv": f"user_id,item_id,ts\r\nu1,a,{DAY}T01:00\nu2,b,{DAY}T02:00\r\n"}, ["u1 a", "u2 b"]),
    Shape("line ends of old", {"a.csv": f"user_id,item_id,ts\ru1,a,{DAY}T01:00\r\ru2,b,{DAY}T02:00"}, ["u1 a", "u2 b"]),
    Shape("lines before the header", {"a.csv": f"Export of 2026\n\n{HEAD}u1,a,{DAY}\n"}, ["u1 a"], settings={"skip_rows": 2}),
    Shape("marks of the byte order between files that were put together", {"a.csv": "\ufeff\ufeff" + rows(f"u1,a,{DAY}T01:00") + f"\ufeffu2,b,{DAY}T02:00\n\ufeff\ufeff" + f'"u,3",c,{DAY}T03:00\n'}, ["u1 a", "u2 b", "u,3 c"]),
    Shape("marks of the byte order between objects", {"a.jsonl": "\ufeff" + lines(event()) + "\ufeff" + lines(event(item_id="b", ts=f"{DAY}T02:00Z")), "b.json": "\ufeff[]\n\ufeff"}, ["ann a", "ann b"], left_out=["b.json"]),
    Shape("marks of the byte order between values", {"a.json": "\ufeff" + json.dumps([event()]) + "\n\ufeff" + json.dumps([event(item_id="b", ts=f"{DAY}T02:00Z")])}, ["ann a", "ann b"], settings={"format": "json"}),
    Shape("a separator as Excel is told it", {"a.csv": f"sep=;\r\nuser_id;item_id;ts\r\nu1;a;{DAY}\r\nu2;;{DAY}\r\n", "b.csv": f'"sep=,"\n{HEAD}u3,a,{DAY}T01:00\n'}, ["u1 a", "u3 a"], ["no item"]),
    Shape("lines to skip, more than there are", {"a.csv": ONE}, says=("a.csv has nothing behind its first 5 lines", "source.skip_rows"), settings={"skip_rows": 5}),
    Shape("an escape that is the quote", {"a.csv": ONE}, says=("source.escape is \"", "leave source.escape empty"), settings={"escape": '"'}),
    Shape("a quote that is the separator", {"a.csv": ONE}, says=("source.quote is ','", "separator ','"), settings={"quote": ","}),
    Shape("an escape within the separator", {"a.csv": ONE}, says=("source.escape is ':'", "separator '::'"), settings={"escape": ":", "separator": "::"}),
    Shape("a column without a name among those that are wanted", {"a.csv": ONE}, says=("source.user_columns", "leave the empty name out"), settings={"user_columns": ["", "user_id"]}),
    Shape("columns without a name", {"a.csv": f",,user,item_id,ts\n0,0,u1,a,{DAY}\n"}, says=('it has "", user, item_id, ts',), settings={"user_columns": ["user_id"]}),
    Shape("no name for a user", {"a.csv": ONE}, says=("a.csv has the columns user_id, item_id, ts", "source.user_columns"), settings={"user_columns": []}),
    Shape("one name for two positions", {"a.csv": ONE}, says=("source.columns", "two columns are named user_id"), settings={"columns": ["user_id", "user_id", "ts"]}),
    Shape("two columns of one name in text", {"a.inter": "user_id:token\tuser_id:token\titem_id:token\tts:float\nx\ty\ta\t1793600000\n"}, says=("a.inter has two columns named user_id", "rename one")),
    Shape("two columns of one name in Parquet", {"a.parquet": two_of_one_name}, says=("a.parquet has two columns named user_id", "rename one")),
    Shape("columns that differ in capitals only", {"a.csv": f"USER_ID,user_id,item_id,ts\nx,y,a,{DAY}\n", "b.parquet": parquet(USER_ID=["x"], File_Row_Number=[3])}, ["y a", "ann a"]),
    Shape("columns that are named as a SELECT does", {"a.parquet": parquet(**{"the user": ["q"], "its weight": ["z"], "its place": [1], "THE ITEM": [2], "c0": [1], "place": ["p"], "weight": [2.5]})}, ["ann a"]),
    Shape("columns that are named as those of a list", {"a.parquet": parquet(**{"its element": ["q"], "its number": [2], "its elements": [3], "items": [["z"]]})}, ["ann z"], settings={"item_columns": ["items[]"]}),
    Shape("two values for one key", {"a.jsonl": '{"user_id":"x","user_id":"y","item_id":"a","ts":"2026-11-02"}\n{"user_id":"x","p":{"id":1,"id":1},"ts":"2026-11-02"}\n{"user_id":"x","p":{"id":1,"user_id":2},"n":1,"n":2,"ts":"2026-11-02"}\n'}, ["x 1"], ["two keys user_id", "two keys id"], settings={"item_columns": ["p.id", "item_id"]}),
    Shape("two values for one key, once with an escape", {"a.jsonl": '{"user\\u005fid":"x","user_id":"y","item_id":"a","ts":"2026-11-02"}\n{"user\\u005fid":"z","item_id":"a","ts":"2026-11-02"}\n'}, ["z a"], ["two keys user_id"]),
    Shape("two values for one key of an element", {"a.jsonl": '{"user_id":"x","e":[{"id":1,"id":2},{"id":3}],"ts":"2026-11-02"}\n'}, ["x 3"], ["two keys id"], settings={"item_columns": ["e[].id"]}),
    # What a rejected row was.
    Shape("rejected lines as they are", {"a.csv": rows('"u1",,2026-11-02,007', 'u1,b,1793600000,"1.50"', f"u1,c,{DAY},1.50", f"u2,c,{DAY},1.50", head="user_id,item_id,ts,x\n"), "b.csv": rows(*(f"u{n},a,1793600000{n:03}" for n in range(5)), 'u9,"b",1793600000.0', f"u9,c,{DAY}", "u9,d,202611021000"), "c.jsonl": lines(event(), event(item_id="b", ts=f"{DAY}T02:00Z")) + '{"user_id":"u1", "item_id":1.50e0 ,"ts":1793600000}\n'}, ["u1 c", "u2 c", "ann a", "ann b", "u0 a", "u1 a", "u2 a", "u3 a", "u4 a"], ["no item", "time cannot be read", "too small", "cannot be read", "date written in digits", "cannot be read"], raw=('"u1",,2026-11-02,007', 'u1,b,1793600000,"1.50"', 'u9,"b",1793600000.0', f"u9,c,{DAY}", "u9,d,202611021000", '{"user_id":"u1", "item_id":1.50e0 ,"ts":1793600000}')),
    Shape("a type that cannot be read", {"a.jsonl": lines(event(event_type={"a": 1}), event(event_type=["a"]), event(event_type=None)), "b.parquet": parquet(event_type=[b"\xff"])}, ["ann a"], ["the type is an object"] * 2 + ["the type is bytes"]),
    # Weights.
    Shape("weights that are no numbers", {"a.csv": f"user_id;item_id;ts;weight\nu1;a;{DAY};3,5\nu2;b;{DAY};x\nu3;c;{DAY};NULL\nu4;d;{DAY}; \nu5;e;{DAY};inf\nu6;f;{DAY};1e40\nu7;g;{DAY};1e3\n"}, ["u3 c", "u4 d", "u7 g"], ["the weight is no finite number such as 3.5 (source.weight_columns)"] * 4, settings={"event_weights": {"event": 7.0}}, weights=(7.0, 7.0, 1000.0)),
    Shape("weights of objects", {"a.jsonl": lines(event(weight="3,5"), event(weight={"a": 1}), event(weight=True), event(weight=4), event(weight=None, item_id="b"), event(weight="2.5", item_id="c"))}, ["ann a", "ann b", "ann c"], ["the weight is no finite number"] * 3, weights=(4.0, None, 2.5)),
    Shape("weights of Parquet", {"a.parquet": parquet(user_id=["u"] * 5, item_id=list("abcde"), ts=[NOON] * 5, weight=[float("nan"), None, 2.5, float("inf"), 1e300]), "b.parquet": parquet(weight=[NOON]), "c.parquet": parquet(weight=[Decimal("0.25")])}, ["u a", "u b", "u c", "ann a"], ["the weight is no finite number"] * 3, weights=(None, None, 2.5, 0.25)),
    # Files of other kinds.
    Shape("users, items and times in a text", {"a.txt": "1 2 1793600000\n1 3 1793600001\n"}, says=("a.txt may be a table", "column 3 is the time, such as 1793600000", 'source.format = "csv"', 'source.format = "sequences"')),
    Shape("users, times and items in a text", {"a.txt": "1 1793600000123 7\n1 1793600001000 8\n"}, says=("column 2 is the time",)),
    Shape("users, items and days in a text", {"a.txt": "1 7 2026-11-02\n1 8 20261102\n"}, says=("column 3 is the time",)),
    Shape("users, items and times in a text that is said to be a table", {"a.txt": "1 2 1793600000\n1 3 1793600001\n"}, ["1 2", "1 3"], settings={"format": "csv", "separator": " ", "columns": ["user_id", "item_id", "ts"]}),
    Shape("ids that look like times", {"a.txt": "1 1793600000 1793600001\n2 7\n"}, ["1 1793600000", "2 7", "1 1793600001"], night=dt.date(2000, 1, 1)),
    Shape("ids that look like times and are said to be ids", {"a.txt": "1 2 1793600000\n"}, ["1 2", "1 1793600000"], settings={"format": "sequences"}, night=dt.date(2000, 1, 1)),
    Shape("pipes, sockets, folders and links beside files", {"a.csv": ONE, "b.csv": os.mkfifo, "c.csv/x.csv": ONE, "d.csv": lambda path: path.symlink_to("c.csv"), ".e.csv": os.mkfifo}, ["u1 a"], left_out=["b.csv", "c.csv", "d.csv"], settings={"path": "*.csv"}),
    Shape("pipes and links in a folder", {"a.csv": ONE, "b.csv": os.mkfifo, "x/c.csv": rows(f"u2,b,{DAY}T01:00"), "y": lambda path: path.symlink_to("x")}, ["u1 a", "u2 b"], left_out=["b.csv", "y"]),
    Shape("folders alone that a glob fits", {"c.csv/x.csv": ONE}, says=("has no event files", "c.csv, a folder that source.path fits"), settings={"path": "*.csv"}),
    Shape("a pipe alone", {"a.csv": os.mkfifo}, says=("a.csv, which is no file, but a pipe",), settings={"path": "a.csv"}),
    Shape("an Iceberg table", {"t/data/a.parquet": parquet(), "t/metadata/v1.metadata.json": "{}"}, says=("t in ", "is an Iceberg table", "export its rows")),
    Shape("a folder of an Iceberg table", {"data/a.parquet": parquet(), "metadata/v1.metadata.json": "{}"}, says=("is an Iceberg table",), settings={"path": "data"}),
    Shape("a folder of metadata that is no table's", {"a.csv": ONE, "metadata/b.csv": rows(f"u2,b,{DAY}T01:00")}, ["u1 a", "u2 b"]),
    Shape("a value of a folder that is not UTF-8", {"event_type=%FF/a.csv": ONE}, says=("a.csv lies in the folder event_type=%FF", "no text in UTF-8", "rename")),
    Shape("two values of a folder", {"event_type=x/event_type=y/a.csv": ONE}, says=("lies in two folders of event_type=",)),
    Shape("a folder that is not UTF-8 and that nobody asks for", {"%FF=%FF/a.csv": ONE}, ["u1 a"]),
    Shape("a file that is compressed twice", {"a.csv.gz": gzip.compress(gzip.compress(ONE.encode()))}, says=("a.csv.gz is compressed twice", "unpack it once")),
    Shape("zstd that begins with a frame to skip", {"a.csv.zst": SKIPPED + pa.compress(ONE.encode(), "zstd", asbytes=True) + SKIPPED}, ["u1 a"]),
    Shape("a tar archive", {"a.csv.gz": gzip.compress(tar_of(ONE))}, says=("a.csv.gz is a tar archive", "unpack it")),
    Shape("an Excel workbook", {"a.csv": b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml"}, says=("a.csv is an Excel workbook", "save it as CSV")),
    Shape("a web page in place of a file", {"a.csv": "<!DOCTYPE html><html><body>403</body></html>\n"}, says=("a.csv is a web page",)),
    Shape("files of other kinds alone", {"a.xlsx": b"PK", "b.zip": b"PK", "c.orc": b"ORC", "d.avro": b"Obj", "e.json": "[]"}, says=("no event files", "a.xlsx, a spreadsheet: save it as CSV", "b.zip, an archive: unpack it", "c.orc, not read: convert it to Parquet", "d.avro, not read", 'source.format = "json"')),
    Shape("a spreadsheet that is named", {"a.xlsx": b"PK\x03\x04"}, says=("a.xlsx is a spreadsheet: save it as CSV",), settings={"path": "a.xlsx"}),
    Shape("a table that is said to be Parquet", {"a.csv": ONE}, says=("a.csv is no Parquet", "source.format"), settings={"format": "parquet"}),
    Shape("compressed Parquet", {"a.parquet": gzip.compress(parquet())}, says=("a.parquet is compressed with gzip", "unpack it")),
    Shape("bytes of another encoding than the one that is set", {"a.csv": HEAD.encode() + f"u1,a,{DAY}\n".encode() + b"u\x81,a,1\n"}, says=("a.csv line 3 has b'\\x81', which is not cp1252", "source.encoding"), settings={"encoding": "cp1252"}),
    Shape("a file in UTF-8 that is said to be in UTF-16", {"a.csv": ONE}, says=("a.csv", "is not utf-16", "source.encoding"), settings={"encoding": "utf-16"}),
    Shape("an archive in an encoding that is set", {"a.csv": b"PK\x03\x04" + b"x" * 100}, says=("a.csv is a zip archive",), settings={"encoding": "latin-1"}),
    Shape("arrays in place of objects", {"a.json": "[[1,2],[3,4]]"}, says=("a.json has no JSON objects, its first value is [1,2]", "user_id"), settings={"format": "json"}),
    Shape("a value that is no JSON", {"a.json": '[{"user_id":1},{"user_id":}]'}, says=("a.json value 2 is no valid JSON, '{\"user_id\":}]'",), settings={"format": "json"}),
    # What a file is.
    Shape("a table that is named a text", {"a.txt": f"7\t{DAY}T01:00:00Z\t48.1\t11.5\t501\n"}, says=("a.txt", "source.columns")),
    Shape("a table that is named a text, with a header", {"a.txt": TABS + f"u1\ta\tx\t{DAY}\n"}, ["u1 a"]),
    Shape("prose beside events", {"README.txt": "These are the events of our shop\n", "a.csv": rows(f"u1,a,{DAY}")}, ["u1 a"], left_out=["README.txt"]),
    Shape("prose alone", {"README.txt": "These are the events of our shop\n"}, says=("no event files", "README.txt", "source.format")),
    Shape("a sequence file beside a table", {"a.txt": "1 2 3\n", "a.csv": rows(f"u1,a,{DAY}")}, ["u1 a"], left_out=["a.txt"]),
    Shape("prose further down in a sequence file", {"a.txt": "1 2 3\n" * 20_000 + "and so on.\n"}, says=("a.txt line 20001", 'source.format = "sequences"')),
    Shape("a Delta table read as files", {"x/a": delta}, says=("is a Delta table", 'source.kind = "delta"')),
    Shape("a partition of a Delta table", {"dt=1/a.csv": rows(f"u1,a,{DAY}"), "x": lambda path: (path.parents[1] / "_delta_log").mkdir()}, says=("is a Delta table", 'source.kind = "delta"')),
    Shape("a Delta table beside the files that are named", {"a.csv": rows(f"u1,a,{DAY}"), "x/a": delta}, ["u1 a"], settings={"path": "*.csv"}),
    Shape("a rotated log beside its newest part", {"e.jsonl": lines(event()), "e.jsonl.1": lines(event(item_id="b"))}, ["ann a"], left_out=["e.jsonl.1"]),
    Shape("a rotated log with its format", {"e.jsonl": lines(event()), "e.jsonl.1": lines(event(item_id="b", ts=f"{DAY}T02:00Z"))}, ["ann a", "ann b"], settings={"format": "jsonl"}),
    Shape("a link to a folder elsewhere", {"a.csv": rows(f"u1,a,{DAY}"), f"dt={DAY}": link_to_a_folder_elsewhere}, says=(f"dt={DAY} leads to", "outside of")),
    Shape("a link to nothing", {"a.csv": rows(f"u1,a,{DAY}"), "c.csv": lambda path: path.symlink_to("nowhere.csv")}, says=("c.csv is a link to nowhere.csv", "remove the link")),
    Shape("a link to nothing that a glob names", {"a.csv": rows(f"u1,a,{DAY}"), "c.csv": lambda path: path.symlink_to("nowhere.csv")}, says=("c.csv is a link to nowhere.csv", "remove the link"), settings={"path": "*.csv"}),
    Shape("links to nothing that nobody asks for", {"a.csv": rows(f"u1,a,{DAY}"), ".c.csv": lambda path: path.symlink_to("nowhere.csv"), "c.tsv": lambda path: path.symlink_to("nowhere.csv")}, ["u1 a"], settings={"path": "*.csv"}),
    Shape("a name that is not UTF-8", {"x/a\udcff.csv": rows(f"u1,a,{DAY}")}, says=("has a file whose name is not UTF-8", "b'x/a\\xff.csv'", "rename it")),
    Shape("gzip without its name", {"a.jsonl": gzip.compress(lines(event()).encode())}, ["ann a"]),
    Shape("bz2", {"a.csv.bz2": bz2.compress(rows(f"u1,a,{DAY}").encode())}, ["u1 a"]),
    Shape("a zip archive", {"a.csv": b"PK\x03\x04" + b"x" * 100}, says=("a.csv is a zip archive", "unpack it")),
    Shape("UTF-16", {"a.csv": rows(f"u1,a,{DAY}").encode("utf-16")}, says=("a.csv is UTF-16", "source.encoding")),
    Shape("UTF-16 with its encoding", {"a.csv": rows(f"ü1,a,{DAY}").encode("utf-16")}, ["ü1 a"], settings={"encoding": "utf-16"}),
    Shape("Latin-1 with its encoding", {"a.csv": rows(f"ü1,a,{DAY}").encode("latin-1")}, ["ü1 a"], settings={"encoding": "latin-1"}),
    Shape("a column by the name of DuckDB's row numbers", {"a.parquet": parquet(File_Row_Number=[7, 7, 7], user_id=["ann", None, "bob"], item_id=["a", "b", "c"], ts=[NOON] * 3)}, ["ann a", "bob c"], ["no user"]),
    Shape("columns in the names of folders", {f"event_type={kind}/0.parquet": parquet() for kind in ("cart", "view")}, ["ann a cart", "ann a view"]),
    Shape("an encoded value in the name of a folder, and none", {"event_type=add%20to/0.csv": rows(f"u1,a,{DAY}"), "event_type=__HIVE_DEFAULT_PARTITION__/0.jsonl": lines(event(ts=f"{DAY}T01:00Z"))}, ["u1 a add to", "ann a event"]),
    Shape("no header", {"a.csv": "7,501,90,pv,1793600000\n7,502,91,pv,1793600001\n"}, says=("a.csv names none of the columns in its first line", "source.columns")),
    Shape("no header, with names for its columns", {"a.csv": "7,501,90,pv,1793600000\n7,502,91,pv,1793600001\n"}, ["7 501 pv", "7 502 pv"], settings={"columns": ["user_id", "item_id", "category", "event", "ts"]}),
    Shape("a row that is named as a header", {"a.csv": "7,501,1793600000\n7,502,1793600001\n"}, says=("a.csv names none of the columns", "source.columns"), settings={"user_columns": ["7"], "item_columns": ["501"], "time_columns": ["1793600000"]}),
    Shape("a header that is named as a row", {"a.csv": rows(f"u1,a,{DAY}")}, says=("a.csv names its columns in its first line",), settings={"columns": ["user_id", "item_id", "ts"]}),
    Shape("a header that is named as a row in another order", {"a.csv": rows(f"u1,a,{DAY}")}, says=("a.csv names its columns in its first line", "source.columns"), settings={"columns": ["item_id", "user_id", "ts"]}),
    Shape("a header in quotes that is named as a row", {"a.csv": rows(f"u1,a,{DAY}", head='"Item_ID", "user_id","ts"\n')}, says=("a.csv names its columns in its first line", "source.columns"), settings={"columns": ["user_id", "item_id", "ts"]}),
    # Ids.
    Shape("one whole number in three formats", {"a.csv": rows(f"123,7,{DAY}T01:00"), "b.parquet": parquet(user_id=[123.0, float("nan")], item_id=[7, 8], ts=[NOON.replace(hour=2)] * 2), "c.jsonl": '{"user_id": 123.0, "item_id": 7.0, "ts": "2026-11-02T03:00Z"}\n'}, ["123 7", "123 7", "123 7"], ["no user"]),
    Shape("texts that look like fractions", {"a.jsonl": lines(event(user_id="123.0"), event(user_id="123.00", ts=f"{DAY}T02:00Z"))}, ["123.0 a", "123.00 a"]),
    Shape("a float too large to be exact", {"a.parquet": parquet(user_id=[2.0**53 + 2, 2.0**52], item_id=["a", "b"], ts=[NOON] * 2)}, ["4503599627370496 b"], ["too large to be exact"]),
    Shape("floats at the end of what is exact", {"a.parquet": parquet(user_id=[2.0**53 - 1, 2.0**53, -(2.0**53)], item_id=pa.array([1, 2, 3], pa.float32()), ts=[NOON] * 3), "b.parquet": parquet(user_id=pa.array([2.0**24 - 1, 2.0**24], pa.float32()), item_id=["d", "e"], ts=[NOON.replace(hour=13)] * 2), "c.jsonl": lines(event(user_id=2.0**53), event(user_id=2.0**53 - 1, item_id="g"))}, ["9007199254740991 g", "9007199254740991 1", "16777215 d"], ["too large to be exact"] * 4),
    Shape("floats of two bytes", {"a.parquet": parquet(other=[{"user_id": [1.0]}] * 3, user_id=pa.array([2047, 2048, 4096], pa.float16()), item_id=pa.array([1, 2, 2049], pa.float32()), ts=[NOON] * 3)}, ["2047 1"], ["too large to be exact"] * 2),
    Shape("a float of two bytes beside one of four by the same name", {"a.parquet": parquet(other=pa.array([{"user_id": 1.0}], pa.struct([("user_id", pa.float16())])), user_id=pa.array([4096], pa.float32()), item_id=pa.array([5], pa.float16()))}, ["4096 5"]),
    Shape("null markers", {"a.csv": rows(f"\\N,a,{DAY}", f"NULL,b,{DAY}", f"NaN,c,{DAY}", f"u1,NA,{DAY}", f"u1,a,{DAY}", "u1,a,NULL")}, ["u1 a"], ["no user", "no user", "no user", "no item", "no time"]),
    Shape("null markers of one's own", {"a.csv": rows(f"-,a,{DAY}T01:00", f"NA,b,{DAY}T02:00")}, ["NA b"], ["no user"], settings={"null_values": ["-"]}),
    Shape("ids of white space", {"a.csv": rows(f"\t,a,{DAY}", f"\u00a0,b,{DAY}", f"\u3000 ,c,{DAY}", f"u1,\u200b,{DAY}", f" u 1 ,a,{DAY}")}, [" u 1  a"], ["no user", "no user", "no user", "no item"]),
    Shape("bytes that are text", {"a.parquet": parquet(user_id=pa.array(["zoë".encode()]), item_id=pa.array([b"a"]))}, ["zoë a"]),
    Shape("bytes that are no text", {"a.parquet": parquet(user_id=pa.array([b"\xff\xfe", b"bob"]), item_id=["a", "b"], ts=[NOON] * 2)}, ["bob b"], ["bytes that are no text"]),
    Shape("an object in place of an id, once", {"a.jsonl": lines(event(), event(user_id={"id": 1}), event(item_id=[1]))}, ["ann a"], ["the user is an object or a list", "the item is an object or a list"]),
    Shape("an object in place of each id", {"a.jsonl": lines(event(user_id={"$oid": "64"}))}, says=("a.jsonl", "the user is an object", "source.user_columns")),
    Shape("a list in place of each id", {"a.parquet": parquet(item_id=[["a", "b"]])}, says=("column item_id", "VARCHAR[]", "item_id[]", "source.item_columns")),
    Shape("JSON keys that change on the way", {"a.jsonl": lines(*[{"user": f"u{n}", "item_id": "a", "ts": f"{DAY}T02:00Z"} for n in range(1001)], event(user="x", ts=f"{DAY}T01:00Z"))}, ["ann a", *(f"u{n} a" for n in range(1001))]),
    Shape("ids within structs keep their types", {"a.parquet": parquet(user_id=structs(pa.float32(), 2.0**24 - 1, 2.0**24), item_id=["a"] * 2, ts=[NOON] * 2), "b.parquet": parquet(user_id=structs(pa.binary(), "zoë".encode(), b"\xff"), item_id=["b"] * 2, ts=[NOON.replace(hour=13)] * 2), "c.parquet": parquet(user_id=structs(pa.decimal128(30, 2), Decimal("12345678901234567890.00")), ts=[NOON.replace(hour=14)]), "d.parquet": parquet(user_id=structs(pa.float16(), 2047, 2048), item_id=["d"] * 2, ts=[NOON.replace(hour=15)] * 2)}, ["16777215 a", "zoë b", "12345678901234567890 a", "2047 d"], ["too large to be exact", "bytes that are no text", "too large to be exact"], settings={"user_columns": ["user_id.k"]}),
    Shape("ids of lists and maps keep their types", {"a.parquet": parquet(items=pa.array([[2.0**24, 5.0]], pa.list_(pa.float32()))), "b.parquet": parquet(items=pa.array([[b"\xff", b"b"]], pa.list_(pa.binary()))), "c.parquet": parquet(items=pa.array([[7.0, None]], pa.list_(pa.float32(), 2)))}, ["ann 5", "ann b", "ann 7"], ["too large to be exact", "bytes that are no text", "no item"], settings={"item_columns": ["items[]"]}),
    Shape("a key of a map", {"a.parquet": parquet(p=pa.array([[("id", 2.0**24), ("x", 1.0)]], pa.map_(pa.string(), pa.float32()))), "b.parquet": parquet(p=pa.array([[("id", b"b")]], pa.map_(pa.string(), pa.binary())))}, ["ann b"], ["too large to be exact"], settings={"item_columns": ["p.id"]}),
    Shape("a struct without the key", {"a.parquet": parquet(user_id=structs(pa.string(), "u"))}, says=("a.parquet has no column user_id.id", "source.user_columns"), settings={"user_columns": ["user_id.id"]}),
    # Times.
    Shape("times that are floats of 32 bits", {"a.parquet": parquet(ts=pa.array([1793600000.0], pa.float32()))}, says=("a.parquet are floats of 32 bits", "source.time_columns")),
    Shape("floats that are no numbers among times", {"a.parquet": parquet(user_id=["u1", "u2"], item_id=["a", "b"], ts=[float("nan"), 1793600000.0])}, ["u2 b"], ["no time"]),
    Shape("null markers that are numbers", {"a.parquet": parquet(user_id=["u1", "u2"], item_id=["a", "b"], ts=[1793600000, 1793600001])}, ["u2 b"], ["no time"], settings={"null_values": ["1793600000"]}),
    Shape("null markers that are numbers among weights", {"a.parquet": parquet(user_id=["u"] * 3, item_id=list("abc"), ts=[NOON] * 3, weight=[-1.0, 2.0, None])}, ["u a", "u b", "u c"], settings={"null_values": ["-1"]}, weights=(None, 2.0, None)),
    Shape("a null marker that is a number among floats", {"a.parquet": parquet(user_id=["u1", "u2"], item_id=["a", "b"], ts=[-1.0, 1793600001.0])}, ["u2 b"], ["no time"], settings={"null_values": ["-1"]}),
    Shape("fractions of microseconds just before midnight", {"a.parquet": parquet(ts=[1793663999.9999998]), "b.csv": rows("bob,b,1793663999999.9997"), "c.jsonl": lines(event(user_id="cleo", ts=1793663999.9999998))}, ["ann a", "bob b", "cleo a"], at=("2026-11-02 23:59:59.999999",) * 3),
    Shape("fields of one name in a struct", {"a.parquet": parquet(p=two_fields("id"))}, says=("a.parquet has two fields named p.id", "rename one of them"), settings={"user_columns": ["p.id"]}),
    Shape("fields of one name in the structs of a list", {"a.parquet": parquet(p=pa.ListArray.from_arrays([0, 1], two_fields("id")))}, says=("two fields named p[].id",), settings={"item_columns": ["p[].id"]}),
    Shape("fields of one name that nobody asks for", {"a.parquet": parquet(p=two_fields("id"))}, ["ann a"]),
    Shape("null markers in Parquet", {"a.parquet": parquet(user_id=["NULL", "u2", "u3", "u4"], item_id=list("abcd"), ts=[DAY, DAY, DAY, "NULL"], weight=["1", "NULL", "2", "3"], event_type=["x", "x", "", "x"])}, ["u2 b x", "u3 c event"], ["no user", "no time"], weights=(None, 2.0)),
    Shape("ticks of .NET", {"a.csv": rows("u1,a,639291744000000000")}, says=("639291744000000000", "ticks of .NET", "source.time_unit")),
    Shape("nanoseconds of before 2001 in their unit", {"a.csv": rows("u1,a,639291744000000000")}, ["u1 a"], settings={"time_unit": "ns"}, night=dt.date(1990, 4, 5)),
    Shape("times within structs keep their types", {"a.parquet": parquet(ts=structs(pa.timestamp("us"), NOON))}, ["ann a"], at=("2026-11-02 11:00:00",), settings={"time_columns": ["ts.k"], "time_zone": "Europe/Berlin"}),
    Shape("nanoseconds just before midnight, typed", {"a.parquet": parquet(ts=pa.array([1793663999999999999], pa.timestamp("ns")))}, ["ann a"], at=("2026-11-02 23:59:59.999999",)),
    Shape("nanoseconds just before midnight, in a zone that is set", {"a.parquet": parquet(ts=pa.array([1793663999999999999], pa.timestamp("ns")))}, ["ann a"], at=("2026-11-02 22:59:59.999999",), settings={"time_zone": "Europe/Berlin"}),
    Shape("nanoseconds just before midnight", {"a.parquet": parquet(ts=[1793663999999999999]), "b.csv": rows("u1,b,1793663999999999999"), "c.jsonl": '{"user_id":"u2","item_id":"c","ts":1793663999999999999}\n', "d.csv": rows("u3,d,1793663999999999.999999")}, ["ann a", "u1 b", "u2 c"], at=("2026-11-02 23:59:59.999999",) * 3),
    Shape("days in a zone that is set", {"a.parquet": parquet(ts=[NOON.date()]), "b.csv": rows(f"u1,a,{DAY}")}, ["ann a", "u1 a"], at=("2026-11-01 23:00:00",) * 2, settings={"time_zone": "Europe/Berlin"}),
    Shape("seventeen digits just before the next minute", {"a.csv": rows("u1,a,20261102235959999", "u1,b,20261102235959998")}, says=("17 digits", "%Y%m%d%H%M%S%g")),
    Shape("mostly times of 0", {"a.csv": rows("u1,a,0", "u1,b,0", "u1,c,0", "u1,d,1793600000001", "u1,e,1793600000002", "u1,f,1793600001")}, ["u1 d", "u1 e"], ["time is 0"] * 3 + ["too small a number for ms"]),
    Shape("mostly times of 0 in a unit that is set", {"a.csv": rows("u1,a,0", "u1,b,0", "u1,c,0", "u1,d,1793600000001", "u1,e,1793600000002", "u1,f,1793600001")}, ["u1 d", "u1 e"], ["time is 0"] * 3 + ["too small a number for ms"], settings={"time_unit": "ms"}),
    Shape("offsets that no place has", {"a.csv": rows(f"u1,a,{DAY}T12:00:00+25:00", f"u2,b,{DAY}T12:00:00-15", f"u3,c,{DAY} 12:00:00.5+1500", f"u4,d,{DAY}T12:00:00+14:00", f"u5,e,{DAY}T12:00:00-12", f"u6,f,{DAY}T12:00:00.123456", f"u7,g,{DAY}T12:00:00.1-00:30")}, ["u4 d", "u6 f", "u7 g"], ["time cannot be read"] * 3, night=dt.date(2026, 11, 2)),
    Shape("AM and PM, and zones in small letters", {"a.csv": rows(f"u1,a,{DAY} 01:00:00 pm", f"u2,b,{DAY} 01:00:00 PM/utc", f"u3,c,{DAY} 01:00:00 utc", f"u4,d,{DAY} 02:00 Gmt", f"u5,e,{DAY} 03:00:00 europe/berlin")}, ["u3 c", "u4 d", "u5 e"], ["AM or PM: set source.time_unit", "time cannot be read"], at=(f"{DAY} 01:00:00", f"{DAY} 02:00:00", f"{DAY} 02:00:00")),
    Shape("times of ten digits that are dates", {"a.csv": rows("u1,a,2026110212", "u2,b,2026110213")}, says=("a.csv", "2026110212", 'source.time_unit', "%Y%m%d%H")),
    Shape("times of twelve digits that are dates", {"a.parquet": parquet(ts=[202611021200])}, says=("a.parquet", "202611021200", "%Y%m%d%H%M")),
    Shape("times of twelve digits with their format", {"a.parquet": parquet(ts=[202611021201.0])}, ["ann a"], at=("2026-11-02 12:01:00",), settings={"time_unit": "%Y%m%d%H%M"}),
    Shape("dates of eight digits with their format", {"a.csv": rows("u1,a,20261102", "u1,b,2026112")}, ["u1 a"], ["time cannot be read"], settings={"time_unit": "%Y%m%d"}),
    Shape("times of seventeen digits with their format", {"a.csv": rows("u1,a,20261102120000123")}, ["u1 a"], at=("2026-11-02 12:00:00.123000",), settings={"time_unit": "%Y%m%d%H%M%S%g"}),
    Shape("a format with an offset", {"a.csv": rows("u1,a,02/Nov/2026:01:00:00 +0100")}, ["u1 a"], at=("2026-11-02 00:00:00",), settings={"time_unit": "%d/%b/%Y:%H:%M:%S %z"}),
    Shape("a percent sign in a format", {"a.csv": rows("u1,a,2026%11-2")}, ["u1 a"], settings={"time_unit": "%Y%%%m-%-d"}),
    Shape("zones with several meanings", {"a.csv": rows(f"u1,a,{DAY} 00:30:00 BST", f"u2,b,{DAY} 00:30:00 IST", f"u3,c,{DAY} 00:30:00 UTC", f"u4,d,{DAY} 01:30:00 GMT", f"u5,e,{DAY} 02:30:00Z")}, ["u3 c", "u4 d", "u5 e"], ["the zone BST", "the zone IST"]),
    Shape("times in a zone that is set", {"a.csv": rows(f"u1,a,{DAY} 01:30:00", f"u2,b,{DAY} 01:30:00Z", f"u3,c,{DAY} 01:30:00+00:30")}, ["u1 a", "u3 c", "u2 b"], at=("2026-11-02 00:30:00", "2026-11-02 01:00:00", "2026-11-02 01:30:00"), settings={"time_zone": "Europe/Berlin"}),
    Shape("offsets in all forms, in a zone that is set", {"a.csv": rows(f"u1,a,{DAY} 10:00:00-03:00:00", f"u2,b,{DAY} 10:00:00 -03:00:00", f"u3,c,{DAY} 10:00 +3", f"u4,d,{DAY} 10:00:00.5 UTC+1", f"u5,e,{DAY} 10:00:00.5", f"u6,f,{DAY} 10:00:00 3", f"u7,g,{DAY} 10:0:1-03")}, ["u4 d", "u5 e", "u1 a", "u7 g"], ["time cannot be read"] * 3, at=("2026-11-02 09:00:00.500000", "2026-11-02 09:00:00.500000", "2026-11-02 13:00:00", "2026-11-02 13:00:01"), settings={"time_zone": "Europe/Berlin"}),
    Shape("typed times in a zone that is set", {"a.parquet": parquet()}, ["ann a"], at=("2026-11-02 11:00:00",), settings={"time_zone": "Europe/Berlin"}),
    Shape("typed times of nanoseconds with a zone", {"a.parquet": parquet(ts=pa.array([1_793_620_800_000_001_999], pa.timestamp("ns", "UTC")))}, ["ann a"], at=("2026-11-02 12:00:00.000001",), settings={"time_zone": "Europe/Berlin"}),
    Shape("times that are decimals", {"a.parquet": parquet(ts=[Decimal("1793620800.25")])}, ["ann a"], at=("2026-11-02 12:00:00.250000",)),
    Shape("times of day without a date", {"a.parquet": parquet(ts=[NOON.time()])}, says=("a.parquet", "12:00:00", "source.time_columns")),
    Shape("a time that is true", {"a.parquet": parquet(ts=[True])}, says=("a.parquet", "true", "source.time_columns")),
    Shape("a column of times without a type", {"a.parquet": parquet(ts=pa.nulls(1)), "b.parquet": parquet()}, ["ann a"], ["no time"]),
    Shape("time 0 for none", {"a.csv": rows("u1,a,0", "u1,b,1793600000", "u1,c,1793600001")}, ["u1 b", "u1 c"], ["time is 0"]),
    Shape("a time in seconds among milliseconds", {"a.csv": rows("u1,a,1793600000000", "u1,b,1793600001", "u1,c,1793600002000")}, ["u1 a", "u1 c"], ["too small a number for ms"]),
    Shape("as many times in seconds as in milliseconds", {"a.parquet": parquet(user_id=["u1"] * 10, item_id=list("abcdefghij"), ts=[*range(1793600000, 1793600005), *range(1793600005000, 1793600010000, 1000)])}, ["u1 f", "u1 g", "u1 h", "u1 i", "u1 j"], ["too small a number for ms"] * 5),
    Shape("a time in seconds with the unit set to milliseconds", {"a.csv": rows("u1,a,1793600000000", "u1,b,1793600001", "u1,c,1793600002000")}, ["u1 a", "u1 c"], ["too small a number for ms"], settings={"time_unit": "ms"}),
    Shape("a time in milliseconds among seconds", {"a.csv": rows("u1,a,1793600000", "u1,b,1793600001000", "u1,c,1793600002")}, ["u1 a", "u1 c"], ["outside of 1970 to 2199"]),
    Shape("times from 1 on in a unit that is set", {"a.csv": rows("u1,a,1", "u1,b,2", "u1,c,3000")}, ["u1 a", "u1 b", "u1 c"], settings={"time_unit": "s"}, night=dt.date(1970, 1, 1)),
    Shape("dates of eight and ten digits among seconds", {"a.csv": rows("u1,a,1793600000", "u1,b,20261102", "u1,c,2026110212", "u1,d,1793600003", "u1,e,1793600004")}, ["u1 a", "u1 d", "u1 e"], ["too small a number for s", "a date written in digits"]),
    Shape("dates of twelve and fourteen digits among milliseconds", {"a.csv": rows("u1,a,1793600000000", "u1,b,202611021000", "u1,c,20261102100000", "u1,d,1793600003000", "u1,e,1793600004000")}, ["u1 a", "u1 d", "u1 e"], ["a date written in digits", "outside of 1970 to 2199"]),
    Shape("seconds of 2034 whose digits are a date", {"a.csv": rows("u1,a,2026110212", "u1,b,2026130212", "u1,c,2026130213")}, ["u1 a", "u1 b", "u1 c"], night=dt.date(2034, 3, 16)),
    Shape("words that DuckDB takes for times", {"a.csv": rows("u1,a,epoch", "u1,b,infinity", f"u1,c,{DAY} (BC)", f"u1,d,{DAY}", f"u1,e,{DAY}", f"u1,f,{DAY}", f"u1,g,{DAY}")}, ["u1 d", "u1 e", "u1 f", "u1 g"], ["time cannot be read"] * 3),
    # Paths into values.
    Shape("a key with dots in it, and a path", {"a.jsonl": lines(event(**{"p.id": "x"}), {"p": {"id": "y"}, "user_id": "bob", "ts": f"{DAY}T02:00Z"})}, ["ann x", "bob y"], settings={"item_columns": ["p.id"]}),
    Shape("a path into a column of structs", {"a.parquet": parquet(item_id=[{"id": 7.0, "more": 1}])}, ["ann 7"], settings={"item_columns": ["item_id.id"]}),
    Shape("a path into a column of JSON texts", {"a.csv": rows('u1,"{""id"": ""x""}",2026-11-02')}, ["u1 x"], settings={"item_columns": ["item_id.id"]}),
    Shape("a list of structs in Parquet", {"a.parquet": parquet(items=[[{"id": "a"}, {"id": "b"}]])}, ["ann a", "ann b"], settings={"item_columns": ["items[].id"]}),
    Shape("a list without elements, and none", {"a.jsonl": lines(event(items=[]), event(), event(items=["x"]))}, ["ann x"], ["no item", "no item"], settings={"item_columns": ["items[]"]}),
    Shape("a list within a list", {"a.jsonl": lines(event(a=[{"b": [1]}]))}, says=("a[].b[]", "one list is taken apart"), settings={"item_columns": ["a[].b[]"]}),
    Shape("an element by its number", {"a.jsonl": lines(event(a=[{"b": 1}]))}, says=("a[0].b", "one list is taken apart"), settings={"item_columns": ["a[0].b"]}),
    Shape("two lists", {"a.jsonl": lines(event(items=[1], times=[2]))}, says=("by one list only", "items[]", "times[]"), settings={"item_columns": ["items[]"], "time_columns": ["times[]"]}),
    Shape("an array of objects", {"a.json": json.dumps([event(), event(item_id="b", ts=f"{DAY}T02:00Z")], indent=2)}, ["ann a", "ann b"], settings={"format": "json"}),
    Shape("an array of objects that is named lines", {"a.jsonl": json.dumps([event(), event(item_id="b", ts=f"{DAY}T02:00Z")])}, ["ann a", "ann b"]),
    Shape("objects one after another", {"a.log": json.dumps(event()) + json.dumps(event(item_id="b", ts=f"{DAY}T02:00Z"), indent=1)}, ["ann a", "ann b"], settings={"format": "json"}),
    Shape("an array cut short", {"a.json": json.dumps([event(), event()])[:-1]}, says=("a.json is cut short",), settings={"format": "json"}),
    # Memory.
    Shape("little memory", {"a.csv": rows(f"u1,a,{DAY}")}, ["u1 a"], settings={"duckdb.memory_limit": "200MB"}),
]

MS = 1_659_304_800_025
PUBLIC = [
    Shape("ga4", {"e.jsonl": lines({"event_timestamp": "1793620800000000", "event_name": "view_item", "user_id": None, "user_pseudo_id": "123.0", "items": [{"item_id": "s0"}, {"item_id": "s9"}]})}, ["123.0 s0 view_item", "123.0 s9 view_item"]),
    Shape("gowalla", {"loc-gowalla_totalCheckins.txt": f"7\t{CLOCK}\t48.1\t11.5\t501\n8\t{DAY}T02:00:00Z\t48.2\t11.6\t502\n"}, ["7 501", "8 502"]),
    Shape("lastfm1k", {"plays.tsv": f'user_1\t{CLOCK}\tart1\tBand\t\tSong\nuser_1\t{DAY}T02:00:00Z\tart2\t"Loud Band\t\tSong\n'}, ["user_1 art1", "user_1 art2"]),
    Shape("mind", {"behaviors.tsv": "1\tU1\t11/2/2026 9:05:58 AM\tN1 N2\tN3-1 N4-0\n2\tU2\t11/2/2026 6:11:30 PM\tN5\tN6-0 N7-1\n"}, ["U1 N3 1", "U2 N7 1"], at=("2026-11-02 09:05:58", "2026-11-02 18:11:30")),
    Shape("movielens", {"ratings.csv": "userId,movieId,rating,timestamp\n1,11,5.0,1793600000\n"}, ["1 11"]),
    Shape("movielens_1m", {"ratings.dat": "1::11::5::1793600000\n2::12::5::1793600001\n"}, ["1 11", "2 12"]),
    Shape("movielens_100k", {"u.data": "196\t242\t3\t1793600000\n"}, ["196 242"]),
    Shape("mongo", {"e.jsonl": lines({"user_id": {"$oid": "64aa0"}, "item_id": {"$numberLong": "550"}, "ts": {"$date": CLOCK}}, {"user_id": "x", "item_id": 551, "ts": {"$date": {"$numberLong": "1793620800000"}}}, {"user_id": "y", "item_id": 552, "ts": {"$date": f"{DAY}T02:00:00Z"}})}, ["64aa0 550", "y 552"], ["time cannot be read"]),
    Shape("online_retail", {"data.csv": "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n900000,S1A,CHEAP £,6,11/2/2026 8:26,2.55,17850,United Kingdom\r\n900000,S2A,THING 2,6,11/2/2026 8:26,3.39,,United Kingdom\r\n".encode("cp1252")}, ["17850 S1A"], ["no user"], at=("2026-11-02 08:26:00",)),
    Shape("otto", {"train.jsonl": lines({"session": 0, "events": [{"aid": 100, "ts": MS, "type": "clicks"}, {"aid": 101, "ts": MS + 1, "type": "carts"}]}, {"session": 1, "events": [{"aid": 101, "ts": MS + 2, "type": "clicks"}]})}, ["0 100 clicks", "0 101 carts", "1 101 clicks"], night=dt.date(2022, 7, 31)),
    Shape("segment", {"track.jsonl": lines({"type": "track", "event": "Product Viewed", "userId": "u0", "anonymousId": "x0", "timestamp": f"{DAY}T10:00:00.123Z", "properties": {"product_id": "p0"}}, {"type": "track", "event": "Product Viewed", "userId": None, "anonymousId": "x2", "timestamp": f"{DAY}T12:00:00.123Z", "properties": {"product_id": "p2"}})}, ["u0 p0 Product Viewed", "session:x2 p2 Product Viewed"]),
    Shape("taobao", {"UserBehavior.csv": "7,501,90,pv,1793600000\n8,503,90,buy,1793600001\n"}, ["7 501 pv", "8 503 buy"]),
    Shape("yoochoose", {"yoochoose-clicks.dat": f"7,{CLOCK},555002,0\n8,{DAY}T02:00:00.5Z,555142,0\n"}, ["7 555002", "8 555142"]),
]
# fmt: on


def write(shape: Shape, folder: Path) -> None:
    for name, content in shape.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(shape: Shape, folder: Path, **more: Any) -> None:
    """Ingest a shape and hold what comes out against it."""
    source = folder / "events"
    write(shape, source)
    given = {key if "." in key else f"source.{key}": value for key, value in shape.settings.items()}
    if pattern := shape.settings.get("path"):
        source /= pattern
    given |= {"source.path": str(source), "lake.root": folder / "lake", "duckdb.threads": 2}
    if shape.says:
        with pytest.raises(PipelineError) as error:
            ingest(load_settings(**(given | more)), shape.night)
        sentence = str(error.value)
        assert "\n" not in sentence
        for word in shape.says:
            assert word in sentence, sentence
        return
    summary = ingest(load_settings(**(given | more)), shape.night)
    lake = Lake(folder / "lake")
    found = lake.scan(tables.EVENTS).sort("ts", "source", "row_number").collect()
    columns = ["user_id", "item_id", "event_type"]
    typed = any(kind != "event" for kind in found["event_type"])
    seen = [" ".join(row) for row in found.select(columns[: 3 if typed else 2]).rows()]
    assert seen == shape.events
    times = found["ts"].dt.replace_time_zone(None).cast(pl.String).str.strip_suffix(".000000")
    assert not shape.at or tuple(times) == shape.at
    rejected = lake.scan(tables.QUARANTINE).sort("source", "row_number").collect()
    assert rejected.height == len(shape.rejected)
    for reason, words in zip(rejected["reason"], shape.rejected, strict=True):
        assert words in reason
    assert None not in rejected["raw"].to_list()
    assert not shape.raw or tuple(rejected["raw"]) == shape.raw
    assert not shape.weights or tuple(found["weight"]) == shape.weights
    counts = ("events", "quarantined", "duplicate", "filtered", "other_nights")
    assert summary["rows_read"] == sum(summary[f"rows_{name}"] for name in counts)
    assert summary["left_out"] == shape.left_out
    assert summary["files_left_out"] == len(shape.left_out)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shape_of_file_is_read_right_or_refused_with_a_sentence(
    shape: Shape, tmp_path: Path
) -> None:
    read(shape, tmp_path)


@pytest.mark.parametrize("shape", PUBLIC, ids=str)
def test_a_public_data_set_is_read_by_its_profile(shape: Shape, tmp_path: Path) -> None:
    read(shape, tmp_path, **{"source.profile": shape.name})


def test_every_profile_has_a_shape_and_its_settings_are_on_the_page() -> None:
    profiles = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in PROFILES.glob("*")}
    assert set(profiles) == {shape.name for shape in PUBLIC}
    page = (REPO / "docs" / "sources.md").read_text("utf-8")
    for name, settings in profiles.items():
        (row,) = re.findall(rf"^\| `{name}` \| .*", page, re.MULTILINE)
        assert re.findall(r"`(\w+) = (.*?)`", row) == [
            (key, json.dumps(value)) for key, value in settings.items()
        ]


def test_what_the_settings_say_goes_before_a_profile(tmp_path: Path) -> None:
    own = tmp_path / "shop.toml"
    own.write_text('user_columns = ["buyer"]\ntime_unit = "ms"\n')
    source = load_settings(**{"source.profile": str(own), "source.time_unit": "s"}).source
    assert (source.user_columns, source.time_unit) == (("buyer",), "s")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["source.profile is", "is no profile", "otto"]),
        ("user_columns = 1", ["source.user_columns in the profile", "is 1: write a list"]),
        ("user_colums = []", ["source.user_colums in the profile", "did you mean user_columns"]),
        ('format = "xml"', ["source.format in the profile", "write one of", "parquet"]),
        ("skip_rows = -1", ["source.skip_rows in the profile", "of at least 0"]),
        ('path = "x"', ["has path, which it cannot say"]),
        ("=", ["is no valid TOML"]),
    ],
)
def test_a_wrong_profile_is_a_sentence(
    tmp_path: Path, content: str | None, says: list[str]
) -> None:
    own = tmp_path / "shop.toml"
    if content is not None:
        own.write_text(content)
    with pytest.raises(SettingsError) as error:
        load_settings(**{"source.profile": str(own)})
    assert all(word in str(error.value) for word in says), error.value


INSPECTED = ["otto", "mind", "segment", "taobao", "movielens_1m", "ga4"]


@pytest.mark.parametrize("shape", [shape for shape in PUBLIC if shape.name in INSPECTED], ids=str)
def test_inspect_writes_nothing_and_its_settings_read_the_same(
    shape: Shape, tmp_path: Path
) -> None:
    source = tmp_path / "events"
    write(shape, source)
    lake = tmp_path / "lake"
    told: dict[str, Any] = {"source.path": str(source), "lake.root": lake}
    said = io.StringIO()
    settings = load_settings(**told, **{"source.profile": shape.name})
    inspect(settings, Console(file=said, width=120))
    assert not lake.exists()
    for event in shape.events[:3]:
        assert all(word in said.getvalue() for word in event.split())
    block = tomllib.loads(said.getvalue().partition("pin this reading down:")[2])
    assert "auto" not in block["source"].values()
    pinned = load_settings(**block, **{"lake.root": lake})
    ingest(pinned, shape.night)
    ingest(settings.model_copy(update={"lake": LakeSettings(root=tmp_path / "2")}), shape.night)
    one, two = (Lake(root).scan(tables.EVENTS).collect() for root in (lake, tmp_path / "2"))
    assert one.height == len(shape.events)
    assert one.equals(two)


@pytest.mark.parametrize(
    ("wanted", "wrong"),
    [("%s", "%s"), ("%Y-%Q", "%Q"), ("%Y-%", "%"), ("%", "%"), ("%%%", "%"), ("%-Y", "%-")],
)
def test_a_format_that_reads_no_time_is_a_sentence(wanted: str, wrong: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(**{"source.time_unit": wanted})
    assert "source.time_unit" in str(error.value)
    assert f"no times are read by {wrong}: " in str(error.value)


def test_formats_of_times_have_what_duckdb_reads() -> None:
    known = set()
    with duckdb.connect() as con:
        for sign in ("", "-"):
            for letter in (*string.ascii_letters, "%"):
                with suppress(duckdb.InvalidInputException):
                    con.execute(f"SELECT try_strptime(now()::VARCHAR, '%{sign}{letter}')")
                    known.add(f"%{sign}{letter}")
    signs = {f"%{sign}{letter}" for sign in ("", "-") for letter in (*string.ascii_letters, "%")}
    assert {sign for sign in signs if TIME_SPECIFIERS.fullmatch(sign)} == known - {"%Z"}


def test_inspect_names_what_would_be_rejected_and_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("our events")
    (tmp_path / "a.csv").write_text(rows(f"u1,a,{DAY}", f"NULL,a,{DAY}", "u1,a", head=HEAD))
    said = io.StringIO()
    inspect(load_settings(**{"source.path": str(tmp_path)}), Console(file=said, width=200))
    for words in (
        "a.csv: csv, 3 rows, times in iso",
        "user user_id, item item_id, time ts, type none",
        "go to quarantine: 2",
        "no user",
        "a line of 2 columns, where the first line has 3",
        "Files left out: README.md",
    ):
        assert words in said.getvalue()


def test_ingest_logs_how_each_file_was_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shape = Shape("", {"a.csv": rows(f"u1,a,{DAY}", f"u1,b,{DAY}")}, ["u1 a", "u1 b"])
    read(shape, tmp_path)
    told = (
        "csv, 2 rows, times in iso from 2026-11-02 00:00:00Z to 2026-11-02 00:00:00Z; "
        "user user_id, item item_id, time ts, type none, weight none"
    )
    assert f"a.csv: {told}" in caplog.text
    assert f"events is read as {told}" in caplog.text


def test_ingest_logs_in_one_line_how_the_source_was_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    files: Files = {
        "a.csv": rows(f"u1,a,{DAY}T01:00"),
        "b.jsonl": '{"user": "u2", "item_id": "a", "timestamp": 1793600000}\n',
        "c.csv": HEAD,
    }
    read(Shape("", files, ["u1 a", "u2 a"]), tmp_path)
    (line,) = [one.message for one in caplog.records if one.name == UNDERSTOOD]
    assert line.endswith(
        "events is read as 3 files of csv and jsonl, 2 rows, times in iso or s from "
        "2026-11-02 01:00:00Z to 2026-11-02 06:13:20Z; user user_id or user, item item_id, "
        "time ts or timestamp, type none, weight none"
    )


def test_inspect_says_of_ids_that_are_written_as_floats(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows(f"17850.0,a1.0,{DAY}", f"1.0,a,{DAY}", f",b,{DAY}"))
    said = io.StringIO()
    inspect(load_settings(**{"source.path": str(tmp_path)}), Console(file=said, width=200))
    assert 'All user ids end in ".0"' in said.getvalue()


@pytest.mark.parametrize("block", [64, 100, 1000])
def test_where_blocks_end_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("tasks.sources.lines.BLOCK", block)
    content = "".join(
        f'"u{n} {"é" * (n % 7)}\r\n""q""",a{n},{DAY}T01:{n // 60:02}:{n % 60:02}\r\n'
        for n in range(200)
    )
    shape = Shape(
        "",
        {"a.csv": HEAD.replace("\n", "\r\n") + content},
        [f'u{n} {"é" * (n % 7)}\r\n"q" a{n}' for n in range(200)],
    )
    read(shape, tmp_path)
