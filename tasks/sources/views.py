"""The view `source_rows` of whatever the settings say the rows are: events or items."""

from tasks.settings import CatalogueSettings, ReadSettings, SourceSettings
from tasks.sources.items import item_rows
from tasks.sources.rows import Rows, source_rows


def view_rows(part: object, source: ReadSettings, rows: Rows) -> str:
    """Write the SELECT of the view `source_rows` over the rows of a part.

    Raises SourceError when a needed column is missing, or holds no single values.
    """
    if isinstance(source, CatalogueSettings):
        return item_rows(part, source, rows)
    assert isinstance(source, SourceSettings)
    return source_rows(part, source, rows)
