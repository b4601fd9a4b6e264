"""Steps 2, 4 and 9: hold the tables to their expectations.

Each check opens a throw-away DuckDB database with views over the night's files in the lake and
runs the suites of `tasks/suites/` on it with Great Expectations. What a suite found is a page under
`<lake root>/quality/<night>/<check>/validations/`; the summaries and errors name it. Only the
`index.html` beside it needs the network, for its table is made by scripts from there.
"""

import datetime as dt
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.data_context.types.base import ProgressBarsConfig

from tasks import duck, gx_duckdb, tables
from tasks.errors import LakeError, QualityError
from tasks.lake import Lake
from tasks.settings import Settings
from tasks.tables import Table

log = logging.getLogger(__name__)

SUITES = Path(__file__).parent / "suites"

FIRST_DAY = dt.date(1970, 1, 1)  # no event is older

Limits = dict[str, Any]
# The views that a check needs: table and first night; None is from the beginning on.
Sources = dict[Table, dt.date | None]


def check_events(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Check what the night's ingest wrote: the night's events, on the first night all of them.

    Raises
    ------
    QualityError
        A blocking expectation failed.
    LakeError
        The night was not ingested.
    """
    lake = Lake(settings.lake.root)
    ingested = lake.scan(tables.INGESTS, night, night).select("bootstrap").collect()
    if ingested.is_empty():
        raise LakeError(f"night {night} was not ingested: run the step ingest of that night first")
    first = FIRST_DAY if ingested["bootstrap"].any() else night
    quality = settings.quality
    return _check(
        settings,
        night,
        "events",
        suites=("checked_events", "checked_ingest"),
        sources={tables.EVENTS: first, tables.INGESTS: night},
        limits={
            "min_events": quality.min_events,
            "first_ts": _midnight(first),
            "end_ts": _end(night),
            "max_quarantined_share": quality.max_quarantined_share,
            "max_duplicate_share": quality.max_duplicate_share,
        },
    )


def check_sequences(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Check the vocabulary, and the night's histories against it and the settings.

    Raises
    ------
    QualityError
        A blocking expectation failed.
    """
    items = Lake(settings.lake.root).scan(tables.ITEMS).select("item_index").max().collect()
    return _check(
        settings,
        night,
        "sequences",
        suites=("checked_sequences", "checked_items"),
        sources={tables.SEQUENCES: night, tables.ITEMS: None},
        limits={
            "last_events": settings.sequences.last_events,
            "vocabulary": items.item() or 0,
            "end_ts": _end(night),
        },
    )


def check_labels(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Check the night's labels against its histories and profiles.

    Raises
    ------
    QualityError
        A blocking expectation failed.
    """
    return _check(
        settings,
        night,
        "labels",
        suites=("checked_labels", "checked_label_totals"),
        sources={
            tables.INTENT_LABELS: night,
            tables.SEQUENCES: night,
            tables.INTENT_PROFILES: night,
        },
        limits={
            "max_label_share": settings.quality.max_label_share,
            "max_unlabelled_share": settings.quality.max_unlabelled_share,
            "min_label_utilisation": settings.quality.min_label_utilisation,
        },
    )


def _check(
    settings: Settings,
    night: dt.date,
    check: str,
    *,
    suites: tuple[str, ...],
    sources: Sources,
    limits: Limits,
) -> dict[str, Any]:
    """Run the suites, each on the view of its name, write the pages and judge the results."""
    pages = Lake(settings.lake.root).root / "quality" / night.isoformat() / check
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "night.duckdb"
        _create_views(settings, night, database, sources, suites)
        results = _validate(settings, night, database, suites, limits, Path(scratch) / "pages")
        _replace_folder(pages, Path(scratch) / "pages")
    page_of = {suite: _page(pages, suite) for suite in suites}
    failed = [result for result in results if not result["success"]]
    stops = [result for result in failed if result["severity"] == "critical"]
    for result in failed:
        log.log(
            logging.ERROR if result["severity"] == "critical" else logging.WARNING,
            "%s of night %s, %s; see %s",
            check,
            night,
            _sentence(result),
            page_of[result["suite"]],
        )
    if stops:
        more = f" ({len(stops) - 1} more expectations failed)" if len(stops) > 1 else ""
        see = " and ".join(dict.fromkeys(page_of[result["suite"]] for result in stops))
        raise QualityError(f"{check} of night {night}, {_sentence(stops[0])}{more}; see {see}")
    return {
        "expectations": len(results),
        "passed": len(results) - len(failed),
        "warnings": [_sentence(result) for result in failed],
        "page": page_of[failed[0]["suite"] if failed else suites[0]],
        "pages": page_of,
    }


def _page(pages: Path, suite: str) -> str:
    """Return the page of what a suite found; Great Expectations puts it below two run folders."""
    (page,) = (pages / "validations" / suite).glob("*/*/*.html")
    return str(page)


def _create_views(
    settings: Settings, night: dt.date, database: Path, sources: Sources, suites: tuple[str, ...]
) -> None:
    with duck.connect(settings, database) as con:
        for table, first in sources.items():
            last = night if table.partition_by else None
            Lake(settings.lake.root).view(con, table, first=first, last=last)
        for suite in suites:
            con.execute(duck.sql(suite))


def _validate(
    settings: Settings,
    night: dt.date,
    database: Path,
    suites: tuple[str, ...],
    limits: Limits,
    pages: Path,
) -> list[dict[str, Any]]:
    """Run Great Expectations; return a flat result for each expectation, in the suites' order."""
    gx_duckdb.register()
    context = _context(pages)
    source = context.data_sources.add_sql(
        name="lake",
        connection_string=f"duckdb+buffered:///{database}",
        kwargs={"connect_args": {"config": duck.config(settings)}},
    )
    # Named and timed by the night: its pages keep their paths when it runs again.
    midnight = _midnight(night).replace(tzinfo=dt.UTC)
    run = gx.RunIdentifier(run_name=night.isoformat(), run_time=midnight)
    results = []
    for name in suites:
        suite = context.suites.add(
            gx.ExpectationSuite(**json.loads((SUITES / f"{name}.json").read_text("utf-8")))
        )
        batch = source.add_table_asset(name, table_name=name).add_batch_definition_whole_table(
            "night"
        )
        validation = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        outcome = validation.run(expectation_parameters=limits, run_id=run)
        results += [_flat(name, result.to_json_dict()) for result in outcome.results]
    context.build_data_docs()
    source.get_engine().dispose()
    return results


def _context(pages: Path) -> Any:
    """Return a context that keeps nothing, reports to no one and writes its pages to a folder."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.variables.plugins_directory = str(SUITES)  # custom_data_docs/ there
    context.delete_data_docs_site("local_site")
    context.add_data_docs_site(
        "night",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(pages),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    return context


def _flat(suite: str, result: dict[str, Any]) -> dict[str, Any]:
    """Put what matters of an expectation's result side by side."""
    expectation, found = result["expectation_config"], result["result"]
    flat = {
        "suite": suite,
        "success": result["success"],
        "severity": expectation["severity"],
        "expects": expectation["description"],
        "mend": expectation["meta"]["mend"],
        "limit": _limit(expectation["kwargs"]),
    }
    if not found:
        raise RuntimeError(f"{flat['expects']} could not be checked: {result['exception_info']}")
    return {**flat, "observed": _observed(found)}


def _limit(kwargs: dict[str, Any]) -> str:
    words = {"min_value": "at least {}", "max_value": "at most {}", "mostly": "in {} of the rows"}
    limits = [
        text.format(kwargs[key]) for key, text in words.items() if kwargs.get(key) is not None
    ]
    return " and ".join(limits)


def _observed(found: dict[str, Any]) -> str:
    if "observed_value" in found:
        return str(found["observed_value"])
    examples = found.get("partial_unexpected_list") or []
    if found["element_count"] == 1 and examples:
        return str(examples[0])
    seen = f"{found['unexpected_count']} of {found['element_count']} rows"
    return f"{seen}, such as {examples[0]}" if examples and examples[0] is not None else seen


def _sentence(result: dict[str, Any]) -> str:
    limit = f", expected {result['limit']}" if result["limit"] else ""
    return f"not met: {result['expects']} (found {result['observed']}{limit}); {result['mend']}"


def _replace_folder(folder: Path, by: Path) -> None:
    """Put new pages in the place of those of an earlier run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(by, folder)


def _midnight(night: dt.date) -> dt.datetime:
    """Return the start of a night as the views give times: UTC without saying so."""
    return dt.datetime.combine(night, dt.time())


def _end(night: dt.date) -> dt.datetime:
    return _midnight(night) + dt.timedelta(days=1)
