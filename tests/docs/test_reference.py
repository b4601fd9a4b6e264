"""The generated pages say what the code says, and the code says something about everything."""

import pytest

from docs import reference
from tasks.lake.tables import TABLES, Table
from tasks.steps import STEPS


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_of_the_reference_is_what_the_code_gives_now(name: str) -> None:
    written = (reference.FOLDER / name).read_text("utf-8")
    now = reference.PAGES[name]()
    assert written == now, "run .venv/bin/python -m docs.reference and commit what it writes"


def test_the_reference_has_no_other_page() -> None:
    assert {page.name for page in reference.FOLDER.iterdir()} == set(reference.PAGES)


def test_every_table_has_somebody_who_writes_it() -> None:
    written = {name for step in STEPS.values() for name in step.writes}
    assert set(TABLES) - written == set(reference.WRITERS), (
        "name the table in writes of its steps (tasks/steps.py), or in WRITERS of docs/reference.py"
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_and_column_has_a_meaning(table: Table) -> None:
    assert table.row.endswith("."), f"say in row what a row of {table.name} is"
    assert list(table.meanings) == table.schema.names
    for column, meaning in table.meanings.items():
        assert meaning.endswith("."), f"say what {table.name}.{column} holds, in a sentence"


def test_every_setting_is_on_the_page_once() -> None:
    page = reference.settings()
    for section, field in reference.Settings.model_fields.items():
        part = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert part.count(f"`{key}`") >= 1, f"{section}.{key}"
        rows = [line.split(" | ")[0] for line in part.splitlines() if line.startswith("| `")]
        keys = [key for row in rows for key in row.removeprefix("| ").split("<br>")]
        assert sorted(keys) == sorted(f"`{key}`" for key in field.annotation.model_fields)  # type: ignore[union-attr]
