"""A file of users is what a spreadsheet can open without harm."""

import csv
import io

import pyarrow as pa
import pytest

from tasks.page.cohort import SCHEMA, as_csv


@pytest.mark.parametrize(
    ("user", "in_file"),
    [
        ("ann", "ann"),
        ("-17", "-17"),
        ("+4930123456", "+4930123456"),
        ("-1.5", "-1.5"),
        ("=1+1", "'=1+1"),
        ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
        ("+1\n", "'+1\n"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tan", "'\tan"),
        ("", ""),
    ],
)
def test_only_an_id_that_a_spreadsheet_would_run_gets_an_apostrophe(
    user: str, in_file: str
) -> None:
    rows = {name: [None] for name in SCHEMA.names} | {"user_id": [user]}
    batch = pa.RecordBatch.from_pydict(rows, schema=SCHEMA)
    [written] = as_csv(iter([batch]))
    [line] = csv.DictReader(io.StringIO(written.decode(), newline=""))
    assert line["user_id"] == in_file
