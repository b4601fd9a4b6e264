"""The view `source_rows` of whatever the settings say the rows are: events or items."""

from collections.abc import Iterable, Mapping

from tasks.settings import CatalogueSettings, ReadSettings, SourceSettings
from tasks.sources.items import item_rows
from tasks.sources.rows import Object, source_rows


def view_rows(
    part: object,
    source: ReadSettings,
    columns: Mapping[str, str] | Object,
    *,
    reader: str,
    row_number: str,
    raw: str,
    broken: str = "NULL::VARCHAR",
    types: Mapping[str, str] | None = None,
    folders: Mapping[str, str | None] | None = None,
    ordered: bool = True,
    blanks_between: Iterable[str] = (),
) -> str:
    """Write the SELECT of the view `source_rows` over what has named columns.

    The parameters are those of `source_rows` in `tasks.sources.rows`, and of `item_rows` in
    `tasks.sources.items`.

    Raises SourceError when a needed column is missing, or holds no single values.
    """
    if isinstance(source, CatalogueSettings):
        return item_rows(
            part,
            source,
            columns,
            reader=reader,
            row_number=row_number,
            raw=raw,
            broken=broken,
            types=types,
            folders=folders,
            blanks_between=blanks_between,
        )
    assert isinstance(source, SourceSettings)
    return source_rows(
        part,
        source,
        columns,
        reader=reader,
        row_number=row_number,
        raw=raw,
        broken=broken,
        types=types,
        folders=folders,
        ordered=ordered,
    )
