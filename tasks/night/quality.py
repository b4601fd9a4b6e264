"""The steps check-events, check-sequences and check-labels.

Each check opens a throw-away DuckDB database with views over the night's files in the lake and
runs the suites of `tasks/night/suites/` on it with Great Expectations, each on the table
that `sql/<suite>.sql` makes. What was observed, whether it met the expectation or not, is in the
log, in the table `check_results` and on a page a suite under
`<lake root>/quality/<night>/<check>/validations/`; the summaries and errors name the page. Only the
`index.html` beside it needs the network, for its table is made by scripts from there.
"""

import datetime as dt
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from tasks.errors import LakeError, QualityError
from tasks.lake import PAGES, Lake, column_types, duck, tables
from tasks.lake.tables import Table
from tasks.night import gx_duckdb
from tasks.night.gx import ProgressBarsConfig, gx
from tasks.settings import Settings
from tasks.sources.units import SYNTHETIC_EPOCH

log = logging.getLogger(__name__)

SUITES = Path(__file__).parent / "suites"

FIRST_DAY = dt.date(1970, 1, 1)  # no event is older
COLUMNS = "checked_columns"  # the suite of every check, alone when the tables do not fit it
# Repeats are looked for among the users of about as many events: all that a usual night has.
REPEATS_AMONG = 5_000_000
# What is recommended is held against histories of users with about as many items.
HAD_AMONG = 2_000_000
DAY = dt.timedelta(days=1)
COMPARED = 28 * DAY  # a night is held against those of so long before it
# The suites whose table is one row of figures.
OF_FIGURES = (
    *("checked_events", "checked_ingest", "checked_night", "checked_catalogue"),
    *("checked_label_totals", "checked_recommendations"),
)
NOT_COMPARED = "nothing to compare with"  # in the place of a figure that cannot be told yet
STATS_FROM = (tables.EVENTS, tables.SEQUENCES, tables.ITEMS)

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
    lake = Lake.of(settings)
    ingested = lake.scan(tables.INGESTS, night, night).select("bootstrap", "rows_events").collect()
    if ingested.is_empty():
        raise LakeError(f"night {night} was not ingested: run the step ingest of that night first")
    bootstrap = bool(ingested["bootstrap"].any())
    first = FIRST_DAY if bootstrap else night
    quality = settings.quality
    variables = {
        "night": night,
        "bootstrap": bootstrap,
        "has_clock": night.isoformat() != SYNTHETIC_EPOCH[:10],
        "min_compared": quality.min_compared_events,
        "max_id_length": quality.max_id_length,
        "part": -(-ingested["rows_events"].sum() // REPEATS_AMONG) or 1,
    }
    if not any(map(_disagrees, _columns(lake, [*STATS_FROM, tables.NIGHT_STATS]))):
        _write_night_stats(settings, lake, night, variables)
    return _check(
        settings,
        night,
        "events",
        suites=("checked_events", "checked_ingest", "checked_night", "checked_catalogue"),
        sources={
            tables.EVENTS: first,
            tables.INGESTS: night,
            tables.NIGHT_STATS: night - COMPARED,
            tables.CATALOGUE_READS: night - COMPARED,
            tables.STEPS: night - COMPARED,
            **dict.fromkeys(STATS_FROM[1:]),
        },
        limits=quality.model_dump(),
        faults="event_faults",
        variables=variables,
    )


def check_sequences(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Check the vocabulary, and the night's histories against it and the settings.

    Raises
    ------
    QualityError
        A blocking expectation failed.
    """
    items = Lake.of(settings).scan(tables.ITEMS).select("item_index").max().collect()
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
    """Check the night's labels against its histories, profiles and evidence.

    And its recommendations against labels and histories, where the settings ask for some.

    Raises
    ------
    QualityError
        A blocking expectation failed.
    """
    suites: tuple[str, ...] = ("checked_labels", "checked_label_totals")
    sources: Sources = {
        tables.INTENT_LABELS: night,
        tables.LABEL_EVIDENCE: night,
        tables.SEQUENCES: night,
        tables.INTENT_PROFILES: night,
    }
    variables: dict[str, Any] = {}
    if top_k := settings.recommend.top_k:
        suites += ("checked_recommendations",)
        sources |= {tables.USER_RECOMMENDATIONS: night, tables.ITEMS: None}
        labels = Lake.of(settings).scan(tables.INTENT_LABELS, night, night).select(pl.len())
        variables = {
            "leave_out_had": settings.recommend.leave_out_had,
            "part": -(-labels.collect().item() * top_k // HAD_AMONG) or 1,
        }
    return _check(
        settings,
        night,
        "labels",
        suites=suites,
        sources=sources,
        limits=settings.quality.model_dump(),
        variables=variables,
    )


def _check(
    settings: Settings,
    night: dt.date,
    check: str,
    *,
    suites: tuple[str, ...],
    sources: Sources,
    limits: Limits,
    variables: Mapping[str, Any] | None = None,
    faults: str | None = None,
) -> dict[str, Any]:
    """Run the suites, each on what its statement makes, write the pages and judge the results.

    `variables` are those of the statements. `faults` makes a view with a column of booleans for
    each fault that the first suite's table counts in a column of the same name.
    """
    lake = Lake.of(settings)
    folder = f"{PAGES}/{night}/{check}"
    places: dict[str, str] = {}
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "night.duckdb"
        with duck.connect(settings, database) as con:
            columns = _columns(lake, sources)
            con.execute("CREATE TABLE table_columns (column_name TEXT, expected TEXT, found TEXT)")
            con.executemany("INSERT INTO table_columns VALUES (?, ?, ?)", columns)
            con.execute(duck.sql(COLUMNS))
            if not any(map(_disagrees, columns)):
                _create_views(con, settings, night, sources)
                _set_variables(con, variables or {})
                for statement in [faults, *suites] if faults else suites:
                    con.execute(duck.sql(statement))
                places = _first_places(con, faults, suites[0]) if faults else {}
                figures = {suite: _figures(con, suite) for suite in suites}
                suites = (*suites, COLUMNS)
            else:
                suites = (COLUMNS,)  # the others cannot read columns that are not there
        pages = Path(scratch) / "pages"
        results = _validate(settings, night, database, suites, limits, figures, pages)
        page_of = {
            suite: str(lake.storage.at(f"{folder}/{_page(pages, suite)}")) for suite in suites
        }
        # In the place of those of an earlier run.
        lake.storage.put(pages, folder)
    for result in results:
        result["place"] = places.get(result["column"])
    _write_results(settings, night, check, results)
    for line in observed_lines(results):
        log.info("%s of night %s, %s", check, night, line)
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
    met = f"{len(results) - len(failed)} of {len(results)} expectations met"
    log.info("%s of night %s, %s; see %s", check, night, met, ", ".join(page_of.values()))
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
    return page.relative_to(pages).as_posix()


Column = tuple[str, str | None, str]  # its name, type as expected, type as found


def _columns(lake: Lake, sources: Iterable[Table]) -> list[Column]:
    """Return the columns that the tables have; those that came later are read as the lake says."""
    columns: list[Column] = []
    for table in sources:
        expected = column_types(table.schema)
        found = lake.columns(table)
        columns += [(f"{table.name}.{name}", expected.get(name), found[name]) for name in found]
    return columns


def _disagrees(column: Column) -> bool:
    _, expected, found = column
    return expected != found


def _write_night_stats(
    settings: Settings, lake: Lake, night: dt.date, variables: Mapping[str, Any]
) -> None:
    """Count the night's events into `night_stats`; on the first night, those of the days before.

    A day before the first night that has since been run as a night keeps what that counted.
    """
    first = night - COMPARED if variables["bootstrap"] else night
    before = [done for done in lake.nights(tables.SEQUENCES) if done < night]
    nights_run = set(lake.nights(tables.INGESTS)) - {night}
    with duck.connect(settings) as con:
        lake.view(con, tables.EVENTS, first=first, last=night)
        # Without a night before: from the night to the day before it, which is none.
        start, end = (before[-1], before[-1]) if before else (night, night - DAY)
        lake.view(con, tables.SEQUENCES, "known_users", first=start, last=end)
        lake.view(con, tables.ITEMS)
        _set_variables(con, variables)
        con.execute(duck.sql("new_night_stats"))
        days = {day for (day,) in con.execute("SELECT dt FROM new_night_stats").fetchall()}
        written = sorted((days - nights_run) | {night})
        con.register("written", pa.table({"day": pa.array(written, pa.date32())}))
        rows = con.table("new_night_stats").filter("dt IN (SELECT day FROM written)")
        lake.replace(tables.NIGHT_STATS, rows, nights=written)


def _set_variables(con: duckdb.DuckDBPyConnection, variables: Mapping[str, Any]) -> None:
    for name, value in variables.items():
        con.execute(f"SET VARIABLE {duck.identifier(name)} = $value", {"value": value})


def _create_views(
    con: duckdb.DuckDBPyConnection, settings: Settings, night: dt.date, sources: Sources
) -> None:
    for table, first in sources.items():
        last = night if table.partition_by else None
        Lake.of(settings).view(con, table, first=first, last=last)


def _first_places(con: duckdb.DuckDBPyConnection, faults: str, counts: str) -> dict[str, str]:
    """Return the file and row of the first event with each fault that was counted."""
    (row,) = con.table(counts).fetchall()
    counted = dict(zip(con.table(counts).columns, row, strict=True))
    places = {}
    for fault in con.table(faults).columns:
        if counted.get(fault):
            first = con.execute(
                f"SELECT source, row_number FROM {duck.identifier(faults)} "
                f"WHERE {duck.identifier(fault)} ORDER BY ALL LIMIT 1"
            )
            ((source, number),) = first.fetchall()
            places[fault] = f"{source or 'an unknown file'} row {number}"
    return places


def _figures(con: duckdb.DuckDBPyConnection, suite: str) -> dict[str, Any]:
    """Return the figures that a suite looks at, by column; of rows that are no figures, none."""
    looked_at = con.table(suite)
    first = looked_at.limit(2).fetchall()
    if len(first) != 1 or suite not in OF_FIGURES:
        return {}
    return dict(zip(looked_at.columns, first[0], strict=True))


def _write_results(
    settings: Settings, night: dt.date, check: str, results: list[dict[str, Any]]
) -> None:
    """Replace what the check found when it ran on the night before, in `check_results`."""
    step = f"check-{check}"
    rows = [
        {
            "dt": night,
            "step": step,
            "suite": result["suite"],
            "column_name": result["column"],
            "expectation": result["expects"],
            "severity": result["severity"],
            "met": result["success"],
            "observed": result["observed"] if result["value"] is None else None,
            "value": result["value"],
            "expected": result["limit"] or None,
        }
        for result in results
    ]
    Lake.of(settings).replace(
        tables.CHECK_RESULTS,
        pa.Table.from_pylist(rows, schema=tables.CHECK_RESULTS.schema),
        nights=[night],
        within={"step": step},
    )


def observed_lines(results: list[dict[str, Any]]) -> list[str]:
    """Say what was observed: a line for each figure, and one for the faults that nothing has.

    What is not met is not among them: it is said with what to do.
    """
    lines: list[str] = []
    not_compared: list[str] = []
    without = 0
    for result in results:
        if not result["success"]:
            continue
        if result["observed"] == NOT_COMPARED:
            not_compared.append(result["column"])
        elif result["value"] is None or result["limit"] == "at most 0":
            without += 1  # rows without a fault, or a count of faults, which is 0
        else:
            what = result["column"] or "rows"
            limit = f", expected {result['limit']}" if result["limit"] else ""
            lines.append(f"{what}: {result['observed']}{limit}")
    if not_compared:
        lines.append(f"{', '.join(not_compared)}: {NOT_COMPARED}")
    if without:
        lines.append(f"{without} kinds of faults were looked for, and no row has one")
    return lines


def _validate(
    settings: Settings,
    night: dt.date,
    database: Path,
    suites: tuple[str, ...],
    limits: Limits,
    figures: Mapping[str, Mapping[str, Any]],
    pages: Path,
) -> list[dict[str, Any]]:
    """Run Great Expectations; return a flat result for each expectation, in the suites' order.

    `figures` are those of a suite by column. Great Expectations shows a value only where it is not
    as expected; here its pages show each.
    """
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
        flat = [
            _flat(name, result.to_json_dict(), figures.get(name, {})) for result in outcome.results
        ]
        for shown, result in zip(outcome.results, flat, strict=True):
            shown.result["observed_value"] = result["observed"]
        _store(context, name, outcome)
        results += flat
    context.build_data_docs()
    source.get_engine().dispose()
    return results


def _context(pages: Path) -> Any:
    """Return a context that keeps nothing, reports to no one and writes its pages to a folder."""
    # It sets a level of its own, which that of its parent (`tasks.night`) does not reach.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
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


def _store(context: Any, suite: str, outcome: Any) -> None:
    """Put what a suite found in the place of what Great Expectations has stored of it."""
    store = context.validation_results_store
    (key,) = (key for key in store.list_keys() if key.expectation_suite_identifier.name == suite)
    store.set(key, outcome)


def _flat(suite: str, result: dict[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Put what matters of an expectation's result side by side.

    `observed` is what was found, as text; `value` the same as a number, None where it is none.
    """
    expectation, found = result["expectation_config"], result["result"]
    flat = {
        "suite": suite,
        "column": expectation["kwargs"].get("column"),
        "success": result["success"],
        "severity": expectation["severity"],
        "expects": expectation["description"],
        "mend": expectation["meta"]["mend"],
        "limit": _limit(expectation["kwargs"]),
    }
    if not found:
        raise RuntimeError(f"{flat['expects']} could not be checked: {result['exception_info']}")
    if flat["column"] not in figures:
        rows = "observed_value" in found  # the number of rows itself
        return {
            **flat,
            "value": float(found["observed_value"]) if rows else None,
            "observed": _observed(found),
        }
    figure = figures[flat["column"]]
    return {
        **flat,
        "value": None if figure is None else float(figure),
        "observed": NOT_COMPARED if figure is None else _figure(figure),
    }


def _figure(figure: float | int) -> str:
    return str(round(figure, 6))


def _limit(kwargs: dict[str, Any]) -> str:
    words = {"min_value": "at least {}", "max_value": "at most {}", "mostly": "in {} of the rows"}
    limits = [
        text.format(_plain(kwargs[key]))
        for key, text in words.items()
        if kwargs.get(key) is not None
    ]
    return " and ".join(limits)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    place = f", the first in {result['place']}" if result["place"] else ""
    found = f"found {result['observed']}{place}{limit}"
    return f"not met: {result['expects']} ({found}); {result['mend']}"


def _midnight(night: dt.date) -> dt.datetime:
    """Return the start of a night as the views give times: UTC without saying so."""
    return dt.datetime.combine(night, dt.time())


def _end(night: dt.date) -> dt.datetime:
    return _midnight(night) + dt.timedelta(days=1)
