"""Data and models: what was read and rejected, what was checked, trained, promoted and refused."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, words
from tasks.page import checks as checked
from tasks.page.links import Links
from tasks.page.night import COMPARED, metrics_of
from tasks.page.reader import RUNS, PageLake
from tasks.registry.figures import COOCCURRENCE, LIFT, NDCG, NEW_ITEMS, POPULARITY, SPLIT

REASONS = 12  # for rejection that are listed
COUNTED = {
    "rows_read": "read",
    "rows_events": "events",
    "rows_quarantined": "unusable",
    "rows_duplicate": "duplicates",
    "rows_late": "late",
    "rows_other": "left out",
}
LEFT_OUT = ("rows_repeat", "rows_busy", "rows_filtered")


def view(lake: PageLake, night: dt.date, links: Links) -> dict[str, Any]:
    """Return what the view of data and models shows, of the last nights up to one."""
    first = night - dt.timedelta(days=COMPARED)
    runs = lake.kept(tables.STEPS, RUNS, first, night)
    told: dict[str, dict[dt.date, dict[str, Any]]] = {}
    for day, step, summary in runs.select("dt", "step", "summary").iter_rows():
        told.setdefault(step, {})[day] = json.loads(summary)
    figures = metrics_of(lake, first, night)
    begun = [one for one in lake.begun() if first <= one <= night]
    labelled = lake.nights(tables.INTENT_PROFILES)
    failed = [one for one in begun if one not in labelled]
    models = _models(lake, first, night, told, figures, links)
    return {
        "ingests": _ingests(lake, first, night, links),
        "rejected": _rejected(lake, night),
        "checks": _checks(lake, first, night, links),
        "models": models,
        "quality": _quality(figures, told, night),
        "curve": _curve(told.get("train", {}).get(night)),
        "counts": {
            "promoted": sum(row["outcome"] == "promoted" for row in models),
            "refused": sum(row["outcome"] == "rejected" for row in models),
            "without": len(failed),
        },
        "failed": words.spans(failed),
        "missing": words.spans(words.between(begun)),
        "source": told.get("ingest", {}).get(night, {}).get("source"),
        "compared": COMPARED,
    }


def _ingests(lake: PageLake, first: dt.date, night: dt.date, links: Links) -> list[dict[str, Any]]:
    """Return what became of the rows of each night, the newest first."""
    names = [name for name in tables.INGESTS.schema.names if name.startswith("rows_")]
    rows = (
        lake.scan(tables.INGESTS, first, night)
        .group_by("dt")
        .agg(
            *(pl.col(name).sum() for name in names),
            pl.len().alias("parts"),
            pl.col("bootstrap").any(),
        )
        .sort("dt", descending=True)
        .collect()
    )
    return [
        {
            "night": row["dt"],
            "href": links.of(row["dt"]).night(),
            "parts": row["parts"],
            "bootstrap": row["bootstrap"],
            "counts": {
                **{name: row.get(name) for name in COUNTED if name != "rows_other"},
                "rows_other": sum(row[name] for name in LEFT_OUT),
            },
        }
        for row in rows.to_dicts()
    ]


def _rejected(lake: PageLake, night: dt.date) -> dict[str, Any]:
    """Return why rows of the night were rejected, the most frequent reason first."""
    rows = (
        lake.scan(tables.QUARANTINE, night, night)
        .group_by("reason")
        .agg(
            pl.len().alias("rows"),
            pl.col("source").sort_by("source", "row_number").first(),
            pl.col("row_number").sort_by("source", "row_number").first(),
        )
        .sort(["rows", "reason"], descending=[True, False])
        .collect()
    )
    return {
        "all": int(rows["rows"].sum()),
        "more": max(0, rows.height - REASONS),
        "rows": [
            {
                "reason": words.shown(row["reason"], 200),
                "rows": row["rows"],
                "first": f"{words.shown(row['source'])}, row {row['row_number']:,}",
            }
            for row in rows.head(REASONS).to_dicts()
        ],
    }


def _checks(lake: PageLake, first: dt.date, night: dt.date, links: Links) -> list[dict[str, Any]]:
    """Return how the checks of each night went, the newest first."""
    rows = lake.kept(
        tables.CHECK_RESULTS,
        (
            *("dt", "suite", "column_name", "expectation", "severity", "met"),
            *("value", "observed", "expected"),
        ),
        first,
        night,
    )
    by_night: dict[dt.date, list[dict[str, Any]]] = {}
    for row in rows.to_dicts():
        by_night.setdefault(row["dt"], []).append(row)
    return [
        {
            "night": day,
            "href": links.of(day).night(),
            "all": sum(map(checked.is_asked, of_night)),
            "met": sum(row["met"] for row in of_night if checked.is_asked(row)),
            "failed": [checked.sentence(*checked.said(row)) for row in of_night if not row["met"]],
            "stopped": any(not row["met"] and row["severity"] == "critical" for row in of_night),
        }
        for day, of_night in sorted(by_night.items(), reverse=True)
    ]


def _models(
    lake: PageLake,
    first: dt.date,
    night: dt.date,
    told: Mapping[str, Mapping[dt.date, Mapping[str, Any]]],
    figures: Mapping[dt.date, Mapping[tuple[str, str, str, str], float]],
    links: Links,
) -> list[dict[str, Any]]:
    """Return the models of the nights, the newest first, with what became of each and why."""
    rows = lake.scan(tables.MODELS, first, night).sort(["dt", "model_version"]).collect()
    found = []
    for row in rows.to_dicts():
        day, version = row["dt"], row["model_version"]
        decided = told.get("promote", {}).get(day, {})
        its_own = decided.get("model_version") == version
        trained = told.get("train", {}).get(day, {})
        trained = trained if trained.get("model_version") == version else {}
        values = figures.get(day, {})
        if row["promoted"]:
            doubts = decided.get("doubts", []) if its_own else []
            outcome, why = "promoted", [f"although {one}" for one in doubts]
        elif row["superseded"]:
            outcome, why = "replaced", ["the night ran again, on other events or another model"]
        elif its_own and decided.get("chosen_by_hand"):
            outcome, why = "set aside", [f"a person has chosen {decided['labels_with']}"]
        elif its_own:
            outcome, why = "rejected", decided.get("reasons", [])
        else:
            outcome, why = "not decided", ["the step promote of its night did not end"]
        found.append(
            {
                "version": version,
                "night": day,
                "href": links.of(day).night(),
                "parent": row["parent_version"],
                "warm": row["warm"],
                "outcome": outcome,
                "why": [words.shown(one, 400) for one in why],
                "ndcg": values.get((version, SPLIT, NEW_ITEMS, NDCG)),
                "lift": values.get((version, SPLIT, NEW_ITEMS, LIFT)),
                "intents": trained.get("intents"),
                "born": trained.get("intents_born"),
                "retired": trained.get("intents_retired"),
                "epochs": trained.get("epochs"),
                "users": trained.get("users"),
            }
        )
    return found[::-1]


def _quality(
    figures: Mapping[dt.date, Mapping[tuple[str, str, str, str], float]],
    told: Mapping[str, Mapping[dt.date, Mapping[str, Any]]],
    night: dt.date,
) -> Markup:
    """Draw how well the models of the nights rank, beside the baselines."""
    days = [day for day in sorted(figures) if day <= night]
    if len(days) < 2:
        return Markup("")

    def course(version: str | None) -> list[float | None]:
        values = []
        for day in days:
            name = version or told.get("promote", {}).get(day, {}).get("labels_with")
            values.append(figures[day].get((str(name), SPLIT, NEW_ITEMS, NDCG)))
        return values

    return charts.lines(
        [words.day(day) for day in days],
        [
            charts.Line("co-occurrence", course(COOCCURRENCE), "other"),
            charts.Line("popularity", course(POPULARITY), "usual"),
            charts.Line("labelling model", course(None)),
        ],
        "Ranking of the next item (NDCG@20) of the model that labels, beside two simple baselines",
    )


def _curve(trained: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Draw how the training of the night's model went, epoch by epoch."""
    curve: Sequence[Mapping[str, Any]] = (trained or {}).get("curve") or []
    if len(curve) < 2:
        return (
            {"epochs": len(curve), "validation": Markup(""), "loss": Markup(""), "best": None}
            if curve
            else None
        )
    places = [f"epoch {one['epoch']}" for one in curve]
    validation = [one["validation"] for one in curve]
    loss = [sum(one["losses"].values()) for one in curve]
    return {
        "epochs": len(curve),
        "best": curve[-1]["best"],
        "validation": charts.lines(
            places,
            [charts.Line("NDCG@20", validation)],
            "Ranking of held-out items (NDCG@20) after each epoch",
            width=460,
            height=180,
        ),
        "loss": charts.lines(
            places,
            [charts.Line("loss", loss)],
            "Loss of each epoch",
            width=460,
            height=180,
            from_zero=False,
        ),
    }
