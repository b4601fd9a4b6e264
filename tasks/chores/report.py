"""What a night left behind, printed for a person: intents, evaluation, quality, time and place.

Reads the tables of the lake only, so it can be printed for any night at any time.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table as Printed
from rich.text import Text

from tasks.chores.published_scores import by_counts
from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.settings import Settings
from tasks.steps import STEPS

LARGEST = 10  # intents shown
TOP_ITEMS = 5  # items shown of each
SAMPLE = 5  # labels shown
# What others have published for data that a night may hold.
PUBLISHED = by_counts()


def show(
    settings: Settings, night: dt.date, *, console: Console, truth: Path | None = None
) -> None:
    """Print the report of a night; `truth` is the generator's file of planted intents, if any.

    Raises LakeError when the night has no labels.
    """
    lake = Lake(settings.lake.root)
    labels = lake.scan(tables.INTENT_LABELS, first=night, last=night).sort("user_id").collect()
    if labels.is_empty():
        raise LakeError(
            f"{settings.lake.root} has no labels for night {night}: run the night first, "
            f"or choose one of those it has ({_nights(lake)})"
        )
    summaries = _summaries(lake, night)
    for part in (
        _largest_intents(lake, night),
        _labels(labels),
        _evaluation(lake, night, _label_model(labels)),
        *_by_time(lake, night),
        _intent_metrics(settings, lake, night, _label_model(labels), truth),
        _quality(summaries),
        _steps(summaries),
        _places(settings, lake, night, summaries, _label_model(labels)),
    ):
        console.print()
        # A path is printed whole, however narrow the page, so that it can be copied and opened.
        console.print(part, soft_wrap=isinstance(part, Text))


def latest_night(settings: Settings) -> dt.date:
    """Return the last night with labels; LakeError when there is none."""
    nights = Lake(settings.lake.root).nights(tables.INTENT_LABELS)
    if not nights:
        raise LakeError(f"{settings.lake.root} has no labels yet: run a night first")
    return nights[-1]


def _nights(lake: Lake) -> str:
    nights = lake.nights(tables.INTENT_LABELS)
    return f"{nights[0]} to {nights[-1]}" if nights else "none yet"


def _label_model(labels: pl.DataFrame) -> str:
    version: str = labels["model_version"][0]
    return version


def _summaries(lake: Lake, night: dt.date) -> dict[str, dict[str, Any]]:
    """Return the `steps` row of each step, its summary parsed, in the order they run."""
    rows = lake.scan(tables.STEPS, first=night, last=night).collect().to_dicts()
    by_step = {row["step"]: {**row, "summary": json.loads(row["summary"])} for row in rows}
    return {name: by_step[name] for name in STEPS if name in by_step}


def _printed(title: str, columns: Sequence[str], right: Sequence[str] = ()) -> Printed:
    table = Printed(title=title, title_justify="left", title_style="bold", pad_edge=False, box=None)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _add_row(table: Printed, *cells: str | Text, style: str | None = None) -> None:
    """Add a row that is printed as it is: brackets in ids and paths are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def _largest_intents(lake: Lake, night: dt.date) -> Printed:
    profiles = lake.scan(tables.INTENT_PROFILES, first=night, last=night).collect()
    used = profiles.filter(pl.col("users") > 0).sort(
        ["users", "intent_id"], descending=[True, False]
    )
    table = _printed(
        f"The {min(LARGEST, used.height)} largest of {used.height} intents in use",
        ["intent", "users", "share", "top items (lift)"],
        right=["intent", "users", "share"],
    )
    for row in used.head(LARGEST).iter_rows(named=True):
        items = "  ".join(
            f"{top['item_id']} ({top['lift']:.1f})" for top in row["top_items"][:TOP_ITEMS]
        )
        _add_row(table, str(row["intent_id"]), f"{row['users']:,}", f"{row['share']:.1%}", items)
    return table


def _labels(labels: pl.DataFrame) -> Printed:
    table = _printed(
        f"intent_labels ({SAMPLE} of {labels.height:,} users)",
        [
            "user_id",
            "intent_id",
            "confidence",
            "runner_up_id",
            "runner_up_confidence",
            "n_events",
            "last_ts",
        ],
        right=["intent_id", "confidence", "runner_up_id", "runner_up_confidence", "n_events"],
    )
    for row in labels.head(SAMPLE).iter_rows(named=True):
        _add_row(
            table,
            row["user_id"],
            _text(row["intent_id"]),
            _number(row["confidence"], 2),
            _text(row["runner_up_id"]),
            _number(row["runner_up_confidence"], 2),
            str(row["n_events"]),
            f"{row['last_ts']:%Y-%m-%d %H:%M}",
        )
    return table


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _metrics(lake: Lake, night: dt.date, split: str = "test") -> dict[str, dict[str, float]]:
    """Return the metrics of a split over all users, by model version ("popularity" is one)."""
    rows = (
        lake.scan(tables.METRICS, first=night, last=night)
        .filter(pl.col("split") == split, pl.col("slice") == "all")
        .select("model_version", "metric", "value")
        .sort("model_version", "metric")
        .collect()
    )
    found: dict[str, dict[str, float]] = {}
    for version, metric, value in rows.iter_rows():
        found.setdefault(version, {})[metric] = value
    return found


def _evaluation(lake: Lake, night: dt.date, labels_with: str) -> Printed:
    """Compare the night's model with popularity, the model before and published ones."""
    measured = _metrics(lake, night)
    columns = _ranking_metrics(measured)
    table = _printed(
        "Evaluation (test: the newest event of each user, all items ranked)",
        ["", *columns],
        right=columns,
    )
    for version, values in sorted(measured.items(), key=lambda one: one[0] == "popularity"):
        mark = " (labels)" if version == labels_with else ""
        _add_row(table, version + mark, *(_number(values.get(column), 4) for column in columns))
    if known := PUBLISHED.get(_counts(lake, night)):
        for method, figures in known.scores.items():
            _add_row(
                table,
                f"{known.name}: {method}",
                *(_number(figures.get(column), 4) for column in columns),
                style="dim",
            )
    return table


def _by_time(lake: Lake, night: dt.date) -> list[Printed]:
    """Show what the model before made of the night; nothing on a night that had none."""
    measured = _metrics(lake, night, "time")
    if not measured:
        return []
    columns = [*_ranking_metrics(measured), "intent_lift@20"]
    users = max(values["users"] for values in measured.values())
    table = _printed(
        f"By time (trained on nights before; the first event of this night, {users:,.0f} users)",
        ["", *columns],
        right=columns,
    )
    for version, values in sorted(measured.items(), key=lambda one: one[0] == "popularity"):
        _add_row(table, version, *(_number(values.get(column), 4) for column in columns))
    return [table]


def _ranking_metrics(measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = {
        metric
        for values in measured.values()
        for metric in values
        if metric.startswith(("HR@", "NDCG@"))
    }
    return sorted(names, key=lambda metric: (int(metric.split("@")[1]), metric))


def _counts(lake: Lake, night: dt.date) -> tuple[int, int, int]:
    """Return users, distinct items and events of the night's histories."""
    histories = lake.scan(tables.SEQUENCES, first=night, last=night)
    users, events = histories.select(pl.len(), pl.col("n_events").sum()).collect().row(0)
    items = histories.select(pl.col("items").explode().n_unique()).collect().item()
    return users, items, events


def _intent_metrics(
    settings: Settings, lake: Lake, night: dt.date, version: str, truth: Path | None
) -> Printed:
    values = _metrics(lake, night).get(version, {})
    table = _printed("Intents", ["metric", "value", "meaning"], right=["value"])
    for metric, digits, meaning in (
        ("n_intents", 0, "intents the model has"),
        ("perplexity", 1, "intents in effective use"),
        ("utilisation", 3, "perplexity / intents"),
        ("largest_share", 3, "share of users in the largest"),
        ("intent_lift@20", 2, "what knowing the label is worth: next-item HR@20 over popularity's"),
    ):
        if metric in values:
            _add_row(table, metric, _number(values[metric], digits), meaning)
    if truth is not None:
        from tasks.chores.recovery import recovery

        found = recovery(settings, night, truth)
        _add_row(
            table,
            "NMI",
            _number(found["NMI"], 3),
            "agreement with the planted intents, 1 is all of it",
        )
        _add_row(table, "ARI", _number(found["ARI"], 3), "the same by pairs of users")
    return table


def _quality(summaries: Mapping[str, Mapping[str, Any]]) -> Printed:
    table = _printed("Data quality", ["check", "verdict", "found"])
    for name in STEPS:
        if name.startswith("check-"):
            verdict, found = Text("none", "red"), "it failed or did not run: its log says why"
            if name in summaries:
                verdict, found = _verdict(summaries[name]["summary"])
            _add_row(table, name.removeprefix("check-"), verdict, found)
    return table


def _verdict(summary: Mapping[str, Any]) -> tuple[Text, str]:
    warnings: list[str] = summary["warnings"]
    verdict = Text("passed with warnings", "yellow") if warnings else Text("passed", "green")
    met = f"{summary['passed']} of {summary['expectations']} expectations met"
    return verdict, "; ".join([met, *warnings])


def _steps(summaries: Mapping[str, Mapping[str, Any]]) -> Printed:
    table = _printed("Steps", ["step", "seconds", "peak MB"], right=["seconds", "peak MB"])
    for name, row in summaries.items():
        _add_row(table, name, f"{row['seconds']:.1f}", f"{row['peak_mb']:,.0f}")
    total = sum(row["seconds"] for row in summaries.values())
    _add_row(
        table,
        "all",
        f"{total:.1f}",
        f"{max((row['peak_mb'] for row in summaries.values()), default=0):,.0f}",
        style="bold",
    )
    return table


def _places(
    settings: Settings,
    lake: Lake,
    night: dt.date,
    summaries: Mapping[str, Mapping[str, Any]],
    version: str,
) -> Text:
    places: dict[str, object] = {
        "labels": lake.path(tables.INTENT_LABELS) / f"dt={night}",
        "profiles": lake.path(tables.INTENT_PROFILES) / f"dt={night}",
        "all tables": settings.lake.root,
        "model": lake.model_dir(version),
    }
    # The first target is the lake's own table.
    if published := summaries.get("publish", {}).get("summary", {}).get("targets", [])[1:]:
        places["published"] = " and ".join(published)
    for row in summaries.values():
        for suite, page in row["summary"].get("pages", {}).items():
            places[suite.replace("_", " ")] = page
    width = max(map(len, places))
    lines = [f"{what:{width}}  {path}" for what, path in places.items()]
    return Text.assemble(("Where it is", "bold"), "\n", "\n".join(lines))
