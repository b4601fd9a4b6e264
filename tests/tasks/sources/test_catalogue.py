"""The catalogue as it is read: the same items from every format, and no value as another one."""

import datetime as dt
import gzip
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from tasks.errors import NightError, SourceError
from tasks.lake import duck
from tasks.settings import CATALOGUE_PROFILES, REPO, load_settings
from tasks.sources.catalogue import Catalogue, opened

NIGHT = dt.date(2026, 11, 2)

Item = tuple[str | None, str | None, list[str], dict[str, Any] | None]

# Markup, quotes, an escape of terminals, marks that turn the text around, and a very long one.
HOSTILE = {
    "markup": "<script>alert('x')</script> [bold]x[/bold] {{ 7*7 }}",
    "quotes": 'The "Big" one; DROP TABLE items; -- \'; \\',
    "terminal": "red \x1b[31m text",
    "right to left": "abc \u202egpj.exe \u200f\u0627\u0644",
    "not composed": "e\u0301 and \u00e9",
    "long": "x" * 10_000,
    "formula": "=1+1",
}


def items_of(path: Path | str, night: dt.date = NIGHT, **options: Any) -> list[Item]:
    """Read a catalogue; each item in the order of its row."""
    settings = load_settings(catalogue={"path": str(path), **options}, duckdb={"threads": 1})
    rows: list[Item] = []
    with duck.connect(settings) as con:
        for part in Catalogue(settings).parts(night):
            with opened(con, part):
                found = con.sql(
                    "SELECT item_id, title, categories, attributes FROM source_rows "
                    "WHERE broken IS NULL ORDER BY row_number"
                ).fetchall()
            rows += [(*row, others and json.loads(others)) for *row, others in found]
    return rows


ROWS = [
    {"item_id": 12, "title": 'Big tent, "two" people', "categories": ["Camping", "Tents & more"]},
    {"item_id": 7, "title": "  Kocher ", "categories": []},
    {"item_id": 9, "title": None, "categories": ["Coffee"]},
]
READ: list[Item] = [
    ("12", 'Big tent, "two" people', ["Camping", "Tents & more"], {"price": 20}),
    ("7", "  Kocher ", [], {"price": None}),
    ("9", None, ["Coffee"], {"price": 5}),
]
PRICES = (20, None, 5)


def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS).with_columns(price=pl.Series(PRICES))


def text(separator: str, quote: str) -> str:
    lines = [separator.join(("item_id", "title", "categories", "price"))]
    for row, price in zip(ROWS, PRICES, strict=True):
        title = row["title"] or ""
        assert isinstance(title, str)
        cells = [
            str(row["item_id"]),
            f"{quote}{title.replace(quote, quote * 2)}{quote}" if quote and title else title,
            "|".join(row["categories"]),  # type: ignore[arg-type]
            "" if price is None else str(price),
        ]
        lines.append(separator.join(cells))
    return "\n".join([*lines, ""])


def recbole() -> str:
    head = "item_id:token\ttitle:token_seq\tcategories:token\tprice:float"
    return "\n".join([head, *text("\t", "").splitlines()[1:], ""])


def parquet(folder: Path) -> Path:
    frame().write_parquet(folder / "items.parquet")
    return folder / "items.parquet"


def delta(folder: Path) -> Path:
    # An old version has rows that are gone: only the newest counts.
    write_deltalake(folder / "table", frame().head(1).to_arrow())
    write_deltalake(folder / "table", frame().to_arrow(), mode="overwrite")
    return folder / "table"


def jsonl(folder: Path) -> Path:
    lines = [json.dumps({**row, "price": price}) for row, price in zip(ROWS, PRICES, strict=True)]
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder / "items.jsonl"


def json_array(folder: Path) -> Path:
    values = [{**row, "price": price} for row, price in zip(ROWS, PRICES, strict=True)]
    (folder / "items.json").write_text(json.dumps(values, indent=1))
    return folder / "items.json"


def written(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        packed = gzip.compress(content.encode()) if name.endswith(".gz") else content.encode()
        (folder / name).write_bytes(packed)
        return folder / name

    return write


FORMATS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "csv": (written("items.csv", text(",", '"')), {}),
    "csv.gz": (written("items.csv.gz", text(",", '"')), {}),
    "tsv": (written("items.tsv", text("\t", '"')), {}),
    "txt": (written("items.txt", text("\t", '"')), {}),
    "two characters": (written("items.csv", text("::", "")), {"separator": "::"}),
    "no header": (
        written("items.csv", text(",", '"').partition("\n")[2]),
        {"columns": ["item_id", "title", "categories", "price"]},
    ),
    "item": (written("items.item", recbole()), {"category_separator": "|"}),
    "parquet": (parquet, {}),
    "jsonl": (jsonl, {}),
    "json": (json_array, {"format": "json"}),
    "delta": (delta, {"kind": "delta"}),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_items(form: str, tmp_path: Path) -> None:
    write, options = FORMATS[form]
    found = items_of(write(tmp_path), **options)
    # A table has no order. What is text in a file stays text.
    as_text = [
        (item, title, words, {"price": others and others["price"] and int(others["price"])})
        for item, title, words, others in found
    ]
    assert sorted(as_text, key=repr) == sorted(READ, key=repr)


def test_the_catalogue_of_ml_100k_is_read_as_it_is(real_data: Path) -> None:
    items = items_of(real_data / "ml-100k.item")
    assert len(items) == len({item for item, *_ in items}) == 1682
    assert items[0] == (
        "1",
        "Toy Story",
        ["Animation", "Children's", "Comedy"],
        {"release_year": "1995"},
    )
    lines = (real_data / "ml-100k.item").read_text("utf-8").splitlines()[1:]
    assert [title for _, title, *_ in items] == [line.split("\t")[1] for line in lines]
    assert [words for *_, words, _ in items] == [line.split("\t")[3].split(" ") for line in lines]
    assert len({word for *_, words, _ in items for word in words}) == 19


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_hostile_title_stays_exactly_what_it_is(kind: str, form: str, tmp_path: Path) -> None:
    title = HOSTILE[kind]
    path = tmp_path / f"items.{form}"
    if form == "jsonl":
        path.write_text(json.dumps({"item_id": "a", "title": title}), "utf-8")
    else:
        rows = pl.DataFrame({"item_id": ["a"], "title": [title]})
        rows.write_csv(path) if form == "csv" else rows.write_parquet(path)
    assert items_of(path) == [("a", title, [], None)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_line_end_within_a_title_is_part_of_it(form: str, tmp_path: Path) -> None:
    title = "one\nand two"
    path = tmp_path / f"items.{form}"
    if form == "csv":
        pl.DataFrame({"item_id": ["a", "b"], "title": [title, "x"]}).write_csv(path)
    else:
        lines = [{"item_id": "a", "title": title}, {"item_id": "b", "title": "x"}]
        path.write_text("\n".join(map(json.dumps, lines)))
    assert [row[1] for row in items_of(path)] == [title, "x"]


@pytest.mark.parametrize(
    ("given", "item_id"),
    [(12, "12"), (12.0, "12"), ("12", "12"), ("12.0", "12.0"), ("012", "012"), (" 12", " 12")],
)
def test_an_id_is_the_text_that_events_have(given: object, item_id: str, tmp_path: Path) -> None:
    line = tmp_path / "items.jsonl"
    line.write_text(json.dumps({"item_id": given}))
    assert [row[0] for row in items_of(line)] == [item_id]
    pl.DataFrame({"item_id": [given]}).write_parquet(tmp_path / "items.parquet")
    assert [row[0] for row in items_of(tmp_path / "items.parquet")] == [item_id]


@pytest.mark.parametrize(
    ("value", "options", "words"),
    [
        ("Action|Comedy", {}, ["Action", "Comedy"]),
        ("Action | Comedy|| Action", {}, ["Action", "Comedy"]),
        ("Sci Fi, Horror", {}, ["Sci Fi, Horror"]),
        ("Sci Fi, Horror", {"category_separator": ","}, ["Sci Fi", "Horror"]),
        ("Sci  Fi", {"category_separator": " "}, ["Sci", "Fi"]),
        ("a|b", {"category_separator": ""}, ["a|b"]),
        ("a > b > a", {"category_separator": " > "}, ["a", "b"]),
        ('["a", "b, c"]', {}, ["a", "b, c"]),
        ("[a|b]", {}, ["[a", "b]"]),
        ("NULL", {}, []),
        ("", {}, []),
        (None, {}, []),
        (7, {}, ["7"]),
        (["a", ["b", "a"], None, " "], {}, ["a", "b"]),
        ([{"name": "a"}, {"name": "b"}], {"category_columns": ["categories[].name"]}, ["a", "b"]),
        ({"top": "a"}, {"category_columns": ["categories.top"]}, ["a"]),
    ],
)
def test_categories_are_a_list_whatever_they_were(
    value: object, options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": "a", "categories": value}))
    assert items_of(path, **options)[0][2] == words


def test_several_columns_of_categories_are_joined_and_a_folder_may_name_one(tmp_path: Path) -> None:
    folder = tmp_path / "category=books"
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,genre,tags\na,crime,new|crime\n")
    assert items_of(tmp_path) == [("a", None, ["books", "crime", "new"], None)]


def test_columns_that_are_nothing_else_are_attributes(tmp_path: Path) -> None:
    rows = {
        "item_id": ["a"],
        "name": ["A"],
        "price": [1.5],
        "odd": [float("nan")],
        "day": [NIGHT],
        "sizes": [[1, 2]],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "items.parquet")
    others = {"price": 1.5, "odd": None, "day": "2026-11-02", "sizes": [1, 2]}
    assert items_of(tmp_path) == [("a", "A", [], others)]
    # Of JSON each object has keys of its own, and a name that is not taken is one of the others.
    (tmp_path / "items.parquet").unlink()
    lines = [
        {"item": "b", "title": "B", "name": "x", "a/b~": {"c": None}},
        {"item_id": "c", "title": None},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = items_of(tmp_path)
    assert found == [("b", "B", [], {"name": "x", "a/b~": {"c": None}}), ("c", None, [], None)]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_no_column_may_be_asked_for_but_that_of_the_item(form: str, tmp_path: Path) -> None:
    row = {"item_id": "a", "title": "A", "genre": "x"}
    path = tmp_path / f"items.{form}"
    if form == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pl.DataFrame([row]).write_parquet(path)
    found = items_of(path, title_columns=[], category_columns=[])
    assert found == [("a", None, [], {"title": "A", "genre": "x"})]


def test_of_folders_of_days_the_newest_until_the_night_is_the_catalogue(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        folder = tmp_path / f"dt=2026-11-0{day}"
        folder.mkdir()
        (folder / "items.csv").write_text(f"item_id,title\na,day {day}\n")
    assert [row[1] for row in items_of(tmp_path)] == ["day 2"]
    assert len(items_of(tmp_path, day_folders="")) == 3
    with pytest.raises(NightError, match=r"no folder up to dt=2026-10-31.*catalogue\.day_folders"):
        items_of(tmp_path, night=dt.date(2026, 10, 31))


def test_a_profile_says_how_a_known_catalogue_is_read(tmp_path: Path) -> None:
    movie = "1::Misérables, Les (1995)::Drama|Musical\n"
    (tmp_path / "movies.dat").write_text(movie, "latin-1")
    found = items_of(tmp_path / "movies.dat", profile="movielens_1m")
    assert found == [("1", "Misérables, Les (1995)", ["Drama", "Musical"], None)]
    news = 'N1\tnews\tworld news\tA "quoted" word\tlong\thttps://x\t[]\t[]\n'
    (tmp_path / "news.tsv").write_text(news)
    [(item, title, words, others)] = items_of(tmp_path / "news.tsv", profile="mind")
    assert (item, title, words) == ("N1", 'A "quoted" word', ["news", "world news"])
    assert others and others["abstract"] == "long"


def test_every_profile_is_on_the_page_with_its_settings() -> None:
    page = (REPO / "docs" / "howto" / "catalogue.md").read_text("utf-8")
    for file in CATALOGUE_PROFILES.glob("*.toml"):
        settings = tomllib.loads(file.read_text("utf-8"))
        (row,) = re.findall(rf"^\| `{file.stem}` \| .*", page, re.MULTILINE)
        assert re.findall(r"`(\w+) = (.*?)`", row.replace(r"\|", "|")) == [
            (key, json.dumps(value)) for key, value in settings.items()
        ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("items.csv", "sku,title\na,A\n", "has no column item_id or item.*catalogue.item_columns"),
        ("items.jsonl", '{"sku": 1}\n', "has no column item_id or item.*catalogue.item_columns"),
        ("items.csv", "", "is empty"),
        ("items.xml", "<a/>", r"has the ending .xml, which is unknown.*catalogue.format"),
        ("items.csv", "1,Toy Story\n", "catalogue.columns.*catalogue.item_columns"),
        ("items.parquet", "no parquet", "items.parquet is no Parquet"),
    ],
)
def test_a_catalogue_that_cannot_be_read_says_what_to_do(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=says) as error:
        items_of(tmp_path / name)
    assert "source." not in str(error.value)


def test_a_catalogue_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"catalogue\.path is .*which does not exist"):
        items_of(tmp_path / "nothing")


def test_a_struct_as_title_asks_for_the_name_of_a_value_in_it(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["a"], "title": [{"en": "A"}]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(SourceError, match=r"catalogue.title_columns, such as title.key"):
        items_of(tmp_path)
    assert items_of(tmp_path, title_columns=["title.en"])[0][1] == "A"
