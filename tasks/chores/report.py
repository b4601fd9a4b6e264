"""What a night left behind, printed for a person: its outcome, intents, evaluation, rows, checks.

Reads the tables of the lake only, so it can be printed for any night at any time. A terminal gets
lines of its width; a pipe or a file gets a line a row, however long, with no blanks at its end.
"""

import datetime as dt
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table as Printed
from rich.text import Text

from tasks.chores import stale
from tasks.chores.published_scores import DataSet, by_counts
from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.registry import names, profiles
from tasks.registry.figures import (
    ALL_USERS,
    BASELINES,
    BY_TIME,
    CALIBRATION_ERROR,
    CLEAR_SHARE,
    CUTOFF,
    LEAST_OF_TYPE,
    LIFT,
    NDCG,
    NEW_ITEMS,
    REPEAT_SHARE,
    REPEATS,
    SPLIT,
    USERS,
    of_types,
)
from tasks.settings import Settings
from tasks.steps import STEPS

LARGEST = 10  # intents shown
TOP_ITEMS = 2  # items shown of each
TOP_CATEGORIES = 2  # shown of each
TOP_FEATURES = 5  # of each kind and direction, of one intent
LONGEST_TITLE = 24  # characters shown of a title in a table of intents
SAMPLE = 5  # labels shown
NEWEST = 20  # items shown of a user's history
RECOMMENDED = 10  # items shown of those recommended to a user
UNBOUNDED = 100_000  # columns of a page that nobody's eye has to fit
# What others have published for data that a night may hold.
PUBLISHED = by_counts()


def show(
    settings: Settings,
    night: dt.date,
    *,
    console: Console,
    truth: Path | None = None,
    everything: bool = False,
) -> None:
    """Print the report of a night.

    Parameters
    ----------
    truth
        The generator's file of planted intents, if any.
    everything
        Every intent, every label and every figure of the checks, not only the first ones.

    Raises LakeError when the night has no labels.
    """
    lake, labels = _labelled(settings, night)
    summaries = _summaries(lake, night)
    version = _label_model(labels)
    parts = (
        _header(lake, night, labels, summaries),
        _intents(lake, night, None if everything else LARGEST),
        _labels(lake, night, labels, None if everything else SAMPLE),
        *_evaluation(lake, night, version),
        *_by_time(lake, night),
        *_by_type(lake, night, version),
        _intent_metrics(settings, lake, night, version, truth),
        _rows(lake, night, summaries),
        *_rejects(lake, night),
        _quality(summaries),
        *(_observed(lake, night) if everything else ()),
        _steps(summaries),
        _places(settings, lake, night, summaries, version),
        *_standing(settings, lake, night),
    )
    _print(console, parts)


def show_intent(settings: Settings, night: dt.date, intent: int, *, console: Console) -> None:
    """Print one intent of a night: what its users are after, who they are, where it comes from.

    Raises LakeError when the night has no labels or no such intent.
    """
    lake, labels = _labelled(settings, night)
    profiles = lake.scan(tables.INTENT_PROFILES, first=night, last=night).collect()
    known = sorted(profiles["intent_id"].to_list())
    profile = profiles.filter(intent_id=intent).to_dicts()
    if not profile:
        raise LakeError(
            f"night {night} has no intent {intent}: it has {len(known)}, "
            f"{known[0]} to {known[-1]}; `report --all` lists them"
        )
    (found,) = profile
    called = names.shown(lake, night)
    facts = {"name": _told_name(called, intent)}
    if (name := called.of(intent)) and name.description:
        facts["description"] = name.description
    facts |= {
        "status": found["status"],
        "users": f"{found['users']:,}, {found['share']:.1%} of those with an intent",
        **_changes(lake, night, intent),
        "born": f"night {found['born']}",
    }
    # On a later night the shares are those of that night's own training, not of the first users.
    if found["born"] == night:
        came_from = found["came_from"] or []
        facts["came from"] = (
            ", ".join(
                f"{_with_name(called, one['intent_id'])} ({one['share']:.0%})" for one in came_from
            )
            or "no earlier intent"
        )
    facts["model"] = _label_model(labels)
    if deciles := found["confidence_deciles"]:
        low, middle, high = (deciles[place] for place in (0, 4, 8))
        facts["confidence"] = f"10 % have at most {low:.2f}, half {middle:.2f}, 90 % {high:.2f}"
    parts = [_facts(f"Intent {intent} of night {night}", facts)]
    parts += _feature_tables(_features(lake, night).filter(intent_id=intent))
    if len(parts) == 1:  # a night from before there were features
        title = "Items that its users have more often than others"
        lifts = _printed(title, ["item", "lift"], ["lift"])
        for top in found["top_items"] or []:
            _add_row(lifts, top["item_id"], f"{top['lift']:.1f}")
        parts.append(lifts)
    parts += _next_items(lake, night, intent)
    parts += _flows(lake, night, intent, called)
    closest = lake.scan(tables.INTENT_USERS, first=night, last=night).filter(intent_id=intent)
    ranked = closest.select("user_id").collect()
    its_own = labels.filter(intent_id=intent)
    if ranked.height:
        its_own = its_own.join(ranked, on="user_id", how="semi")
    else:  # a night from before they were kept
        its_own = its_own.sort(["confidence", "user_id"], descending=[True, False]).head(SAMPLE)
    shown = pl.coalesce("calibrated_confidence", "confidence")
    its_own = its_own.sort(shown, "user_id", descending=[True, False])
    title = f"{its_own.height} of its users, the surest first"
    _print(console, (*parts, _label_rows(title, its_own, called)))


def _told_name(called: names.Names, intent: int) -> str:
    name = called.of(intent)
    if name is None:
        return "none yet: it gets one on the first night that it has users"
    by = f"given by {name.by}, in the tables from night {name.night}"
    return f"{name.name} ({by if name.by else f'automatic, of night {name.night}'})"


def _changes(lake: Lake, night: dt.date, intent: int) -> dict[str, str]:
    """Say how the size of an intent has changed since the nights that it is compared with."""
    [row] = profiles.sizes(lake, night).filter(intent_id=intent).to_dicts()
    told = [
        f"{row['users'] - row[f'users_{nights}']:+,} since {nights} night{'s' * (nights > 1)} "
        f"before ({100 * (row['share'] - row[f'share_{nights}']):+.1f} points)"
        for nights in profiles.BEFORE
        if row[f"users_{nights}"] is not None
    ]
    return {"change": ", ".join(told)} if told else {}


# Of each kind of feature: its title, what one is, and of what its share is.
FEATURES = {
    "category": ("Categories", "category", "of events"),
    "word": ("Words of titles", "word", "of events"),
    "item": ("Items", "item", "of users"),
    "event_type": ("Event types of the night", "type", "of events"),
}
BY_CHANCE = 2.0  # a z nearer to 0 may well be chance


def _feature_tables(features: pl.DataFrame) -> list[Printed]:
    """List what sets an intent apart, a table a kind: over-represented first, then under."""
    found = []
    for kind, (title, column, of) in FEATURES.items():
        rows = features.filter(
            pl.col("rank") <= TOP_FEATURES, pl.col("z").abs() >= BY_CHANCE, kind=kind
        )
        if kind == "word":  # of many words some come more often by chance
            rows = rows.filter(pl.col("score") > 0)
        if rows.is_empty():
            continue
        shares = [f"share {of}", "of all", "log-odds", "z"]
        title = f"{title} that set it apart, by more than chance (z beyond {BY_CHANCE:.0f})"
        table = _printed(title, [column, *shares], shares)
        for row in rows.sort(["is_over", "rank"], descending=[True, False]).iter_rows(named=True):
            _add_row(
                table,
                names.clean(row["title"] or row["value"]),
                f"{row['share']:.1%}",
                f"{row['expected_share']:.1%}",
                f"{row['log_odds']:+.2f}",
                f"{row['z']:+.1f}",
            )
        found.append(table)
    return found


def _next_items(lake: Lake, night: dt.date, intent: int) -> list[Printed]:
    rows = lake.scan(tables.INTENT_NEXT_ITEMS, night, night).filter(intent_id=intent)
    table = _printed("What the model expects next of its users", ["item", "title"])
    for row in rows.sort("rank").head(TOP_FEATURES).collect().iter_rows(named=True):
        _add_row(table, row["item_id"], names.clean(row["title"] or ""))
    return [table] if table.row_count else []


def _flows(lake: Lake, night: dt.date, intent: int, called: names.Names) -> list[Printed]:
    """List where an intent's users came from and went to since the labelled night before."""
    flows = lake.scan(tables.INTENT_FLOWS, night, night).collect()
    table = _printed("Users since the labelled night before", ["", "intent", "users"], ["users"])
    ends = {"came from": ("to_intent_id", "from_intent_id")}
    ends["went to"] = ("from_intent_id", "to_intent_id")
    for word, (here, there) in ends.items():
        moved = flows.filter(pl.col(here) == intent, pl.col(there).ne_missing(intent))
        for row in moved.sort("users", there, descending=[True, False]).head(SAMPLE).to_dicts():
            other = "none" if row[there] is None else _with_name(called, row[there])
            _add_row(table, word, other, f"{row['users']:,}")
    return [table] if table.row_count else []


def show_user(settings: Settings, night: dt.date, user: str, *, console: Console) -> None:
    """Print one user of a night: the label, the runner-up, and the history it follows from.

    Raises LakeError when the night has no labels or no such user.
    """
    lake, labels = _labelled(settings, night)
    label = labels.filter(user_id=user).to_dicts()
    if not label:
        raise LakeError(
            f"night {night} has no user {user!r}: give the id as it stands in the table events, "
            f"for example {labels['user_id'][0]!r}"
        )
    (found,) = label
    called = names.shown(lake, night)
    facts = {
        "intent": "none: the model knows no item of the history"
        if found["intent_id"] is None
        else f"{_with_name(called, found['intent_id'])}, {_sure(found)}",
        "runner-up": "none"
        if found["runner_up_id"] is None
        else f"{_with_name(called, found['runner_up_id'])}, confidence {_of_runner_up(found):.2f}",
        "events": f"{found['n_events']:,}, the last one {found['last_ts']:%Y-%m-%d %H:%M} UTC",
        "model": found["model_version"],
    }
    if found["held_since"]:
        facts["held"] = f"since night {found['held_since']}, against a more probable intent"
    if found["intents"]:
        facts["most probable"] = ", ".join(
            f"{one['intent_id']} ({_number(one['probability'], 2) or 'not calibrated'})"
            for one in found["intents"]
        )
    if found["named_items"]:
        facts["because of"] = ", ".join(
            f"{one['item_id']} ({one['share']:.0%})" for one in found["named_items"]
        )
    history = lake.scan(tables.SEQUENCES, first=night, last=night).filter(user_id=user)
    newest = history.select(item_index=pl.col("items").explode()).reverse().head(NEWEST)
    items = lake.scan(tables.ITEMS).select("item_index", "item_id")
    named = newest.join(items, on="item_index", how="left", maintain_order="left").collect()
    of_intent = lake.scan(tables.INTENT_PROFILES, first=night, last=night).filter(
        intent_id=found["intent_id"]
    )
    lifts = {
        top["item_id"]: top["lift"]
        for tops in of_intent.select("top_items").collect()["top_items"].to_list()
        for top in tops or []
    }
    titles = profiles.titles(lake, night, named["item_id"])
    table = _printed(
        f"The newest {named.height} items of the history, the newest first, and how typical they "
        "are of the intent",
        ["item", *(["title"] if titles else []), "lift in the intent"],
        ["lift in the intent"],
    )
    for item in named["item_id"]:
        title = [names.clean(titles.get(item, ""))] if titles else []
        _add_row(table, item, *title, f"{lifts[item]:.1f}" if item in lifts else "")
    recommended = _recommended(lake, night, user)
    _print(console, (_facts(f"User {user} on night {night}", facts), table, *recommended))


def _recommended(lake: Lake, night: dt.date, user: str) -> list[Printed]:
    """List the first items that are recommended to a user; nothing without recommendations."""
    rows = lake.scan(tables.USER_RECOMMENDATIONS, night, night).filter(user_id=user)
    items = rows.select(pl.col("items").explode()).drop_nulls().unnest("items").collect()
    if items.is_empty():
        return []
    first = items.head(RECOMMENDED)
    titles = profiles.titles(lake, night, first["item_id"])
    table = _printed(
        f"The first {first.height} of {items.height} items recommended next",
        ["item", *(["title"] if titles else []), "score"],
        ["score"],
    )
    for item, score in first.iter_rows():
        title = [names.clean(titles.get(item, ""))] if titles else []
        _add_row(table, item, *title, f"{score:.2f}")
    return [table]


def outcome(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Say in figures and paths what came of a night, for those who are told that it is done.

    Returns the night, how many users have labels and how many of them an intent, the model of the
    labels, whether the night's own model was promoted and what spoke against it (null and none on
    a relabelled night), and where tables and pages of the checks are.

    Raises LakeError when the night has no labels.
    """
    lake, labels = _labelled(settings, night)
    summaries = _summaries(lake, night)
    told = summaries.get("promote", {}).get("summary", {})
    version = _label_model(labels)
    own = told.get("labels_with") == version  # else the night was relabelled since
    return {
        "night": night.isoformat(),
        "users": labels.height,
        "users_with_intent": labels.height - labels["intent_id"].null_count(),
        "model_version": version,
        "promoted": told.get("promoted") if own else None,
        "reasons": told.get("reasons", []) if own else [],
        "labels": str(lake.partition(tables.INTENT_LABELS, night)),
        "profiles": str(lake.partition(tables.INTENT_PROFILES, night)),
        "pages": _pages(summaries),
    }


def _labelled(settings: Settings, night: dt.date) -> tuple[Lake, pl.DataFrame]:
    """Return the lake and the night's labels with their evidence; there is a label at least."""
    lake = Lake.there(settings)
    evidence = lake.scan(tables.LABEL_EVIDENCE, first=night, last=night).select(
        "user_id",
        "calibrated_confidence",
        "clear",
        "held_since",
        "intents",
        named_items=pl.col("items"),
    )
    labels = (
        lake.scan(tables.INTENT_LABELS, first=night, last=night)
        .join(evidence, on="user_id", how="left")
        .sort("user_id")
        .collect()
    )
    if labels.is_empty():
        raise LakeError(
            f"{settings.lake.root} has no labels for night {night}: run the night first, "
            f"or choose one of those it has ({_nights(lake)})"
        )
    return lake, labels


def _print(console: Console, parts: Iterable[Printed | Text]) -> None:
    for part in parts:
        console.print()
        if isinstance(part, Printed) and part.title is not None:
            # By itself: a table breaks its title where its columns end, and reads it as markup.
            console.print(Text(str(part.title), style="bold"), soft_wrap=not console.is_terminal)
            part.title = None
        if console.is_terminal:
            # A path is printed whole, however narrow the page, so that it can be copied and opened.
            console.print(part, soft_wrap=isinstance(part, Text))
            continue
        whole = io.StringIO()
        Console(file=whole, width=UNBOUNDED).print(part)
        for line in whole.getvalue().splitlines():
            console.out(line.rstrip(), highlight=False)


def _standing(settings: Settings, lake: Lake, night: dt.date) -> list[Text]:
    """Tell how often the night was published, and whether it is up to date."""
    revisions = (
        lake.scan(tables.LABEL_REVISIONS, night, night).sort("revision").collect().to_dicts()
    )
    lines = []
    for row in revisions[-1:]:
        if row["revision"] == 1:
            labels = f"{row['labels']:,} labels"
        elif row["changed"] is None:
            labels = "the labels before are not in the lake any more"
        else:
            labels = (
                f"{row['changed']:,} labels changed, {row['added']:,} added, "
                f"{row['removed']:,} removed"
            )
        lines.append(
            f"revision {row['revision']} of {row['published_at']:%Y-%m-%d %H:%M} UTC "
            f"({row['run']}): {row['why']}, {labels}"
        )
    lines += stale.beside_a_night(settings, night)
    return [Text.assemble(("Published", "bold"), "\n", "\n".join(lines))] if lines else []


def latest_night(settings: Settings) -> dt.date:
    """Return the last night with labels; LakeError when there is none."""
    nights = Lake.there(settings).nights(tables.INTENT_LABELS)
    if not nights:
        raise LakeError(f"{settings.lake.root} has no labels yet: run a night first")
    return nights[-1]


def _nights(lake: Lake) -> str:
    nights = lake.nights(tables.INTENT_LABELS)
    if len(nights) == 1:
        return str(nights[0])
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
    table = Printed(title=title, pad_edge=False, box=None)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _add_row(table: Printed, *cells: str | Text, style: str | None = None) -> None:
    """Add a row that is printed as it is: brackets in ids and paths are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def _facts(title: str, facts: Mapping[str, str]) -> Printed:
    table = Printed(title=title, pad_edge=False, box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        _add_row(table, name, value)
    return table


def _header(
    lake: Lake,
    night: dt.date,
    labels: pl.DataFrame,
    summaries: Mapping[str, Mapping[str, Any]],
) -> Printed:
    """Say what the report is of, and how the night ended."""
    days = [day for day in lake.nights(tables.EVENTS) if day <= night]
    every, tonight = (
        lake.scan(tables.EVENTS, first=first, last=night).select(pl.len()).collect().item()
        for first in (None, night)
    )
    events = "none left in the lake"
    if days:
        events = f"{every:,} from {days[0]} to {days[-1]}, {tonight:,} of them of this night"
    without = labels["intent_id"].null_count()
    unclear = labels.filter(~pl.col("clear")).height
    users = f"{labels.height:,} with a label"
    if without:
        users += f", {without:,} of them with no intent: the model knows no item of theirs"
    if unclear:
        users += f", {unclear:,} ({unclear / labels.height:.1%}) not clear"
    return _facts(
        f"Night {night}",
        {
            "source": summaries.get("ingest", {}).get("summary", {}).get("source", "not recorded"),
            "events": events,
            "users": users,
            "model": _label_model(labels),
            "decision": _decision(_label_model(labels), summaries),
        },
    )


def _decision(version: str, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Say why these labels are of this model."""
    if "promote" not in summaries:
        return "not recorded: the step promote of the night failed or did not run"
    told = summaries["promote"]["summary"]
    why = "; ".join(told.get("reasons", []))
    if told.get("labels_with", version) != version:
        return f"the night was labelled again, by hand, after {told['labels_with']} had labelled it"
    if told.get("chosen_by_hand"):
        return "a person has chosen this model"
    if told.get("promoted", True):
        doubts = "; ".join(told.get("doubts", []))
        if why:
            return f"promoted by promote.force although {why}"
        return f"promoted; warning: {doubts}" if doubts else "promoted"
    return f"kept: the night's own model {told['model_version']} is not promoted, for {why}"


def _intents(lake: Lake, night: dt.date, most: int | None) -> Printed:
    sized = profiles.sizes(lake, night).filter(pl.col("users") > 0)
    used = sized.sort(["users", "intent_id"], descending=[True, False])
    shown = used.head(most) if most else used
    few = f"The {shown.height} largest of {used.height}" if shown.height < used.height else "All"
    columns = ["intent", "name", "users", "share"]
    since = _newest_before(used)
    columns += [f"since {since} d"] if since else []
    features = _features(lake, night)
    is_listed = (features["kind"] == "category").any()
    columns += ["more often", "top items"] if is_listed else ["top items"]
    table = _printed(
        f"{few} intents in use" if few != "All" else f"All {used.height} intents in use",
        columns,
        right=["intent", "users", "share", *(name for name in columns if name.startswith("since"))],
    )
    called = names.shown(lake, night)
    lifts = _top_items(lake, night)
    for row in shown.iter_rows(named=True):
        intent = row["intent_id"]
        cells = [str(intent), _name(called, intent), f"{row['users']:,}", f"{row['share']:.1%}"]
        if since:
            cells.append(_change(row, since))
        over = features.filter(pl.col("is_over"), intent_id=intent)
        if is_listed:
            surely = over.filter(pl.col("score") > 0, kind="category").head(TOP_CATEGORIES)
            cells.append(", ".join(map(names.clean, surely["value"])))
        items = over.filter(kind="item").head(TOP_ITEMS)
        told = [_short(title or item) for item, title in items.select("value", "title").iter_rows()]
        cells.append("; ".join(told) if told else "; ".join(lifts.get(intent, [])[:TOP_ITEMS]))
        _add_row(table, *cells)
    return table


def _features(lake: Lake, night: dt.date) -> pl.DataFrame:
    rows = lake.scan(tables.INTENT_FEATURES, first=night, last=night).collect()
    return rows.sort("intent_id", "kind", "is_over", "rank")


def _top_items(lake: Lake, night: dt.date) -> dict[int, list[str]]:
    """Return the top items of profiles and their lift; older nights have no features."""
    rows = lake.scan(tables.INTENT_PROFILES, first=night, last=night).collect()
    return {
        intent: [f"{top['item_id']} ({top['lift']:.1f})" for top in tops or []]
        for intent, tops in rows.select("intent_id", "top_items").iter_rows()
    }


def _name(called: names.Names, intent: int | None) -> str:
    found = None if intent is None else called.of(intent)
    return found.name if found else ""


def _with_name(called: names.Names, intent: int) -> str:
    return f"{intent} {_name(called, intent)}".rstrip()


def _short(title: str) -> str:
    clean = names.clean(title)
    return clean if len(clean) <= LONGEST_TITLE else f"{clean[: LONGEST_TITLE - 1].rstrip()}…"


def _newest_before(sized: pl.DataFrame) -> int | None:
    """Return how many nights back the nearest sizes to compare with are."""
    return next((nights for nights in profiles.BEFORE if sized[f"users_{nights}"].count()), None)


def _change(row: Mapping[str, Any], nights: int) -> str:
    then = row[f"users_{nights}"]
    return "new" if then is None else f"{row['users'] - then:+,}"


def _labels(lake: Lake, night: dt.date, labels: pl.DataFrame, most: int | None) -> Printed:
    shown = labels.head(most) if most else labels
    title = f"intent_labels ({shown.height:,} of {labels.height:,} users)"
    return _label_rows(title, shown, names.shown(lake, night))


def _label_rows(title: str, labels: pl.DataFrame, called: names.Names) -> Printed:
    table = _printed(
        title,
        ["user", "intent", "name", "confidence", "clear", "runner-up", "events", "last event"],
        right=["intent", "confidence", "runner-up", "events"],
    )
    for row in labels.iter_rows(named=True):
        runner_up = ""
        if row["runner_up_id"] is not None:
            runner_up = f"{row['runner_up_id']} ({_of_runner_up(row):.2f})"
        _add_row(
            table,
            row["user_id"],
            _text(row["intent_id"]),
            _name(called, row["intent_id"]),
            _number(_of_label(row), 2),
            {True: "yes", False: "no", None: ""}[row["clear"]],
            runner_up,
            str(row["n_events"]),
            f"{row['last_ts']:%Y-%m-%d %H:%M}",
        )
    return table


def _of_label(label: Mapping[str, Any]) -> float | None:
    """Return the calibrated confidence of a label; the model's own where there is none."""
    calibrated: float | None = label["calibrated_confidence"]
    return label["confidence"] if calibrated is None else calibrated


def _of_runner_up(label: Mapping[str, Any]) -> float:
    """Return the probability of the runner-up that goes with the confidence of the label."""
    for one in label["intents"] or []:
        if one["intent_id"] == label["runner_up_id"] and one["probability"] is not None:
            return float(one["probability"])
    return float(label["runner_up_confidence"])


def _sure(label: Mapping[str, Any]) -> str:
    """Say how sure a label is, and whether that is clear."""
    clear = {True: "", False: ", which is not clear", None: " (not calibrated)"}[label["clear"]]
    return f"confidence {_of_label(label):.2f}{clear}"


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _metrics(
    lake: Lake, night: dt.date, split: str = SPLIT, users: str = ALL_USERS
) -> dict[str, dict[str, float]]:
    """Return the metrics of a split over some users, by model version (a baseline is one)."""
    rows = (
        lake.scan(tables.METRICS, first=night, last=night)
        .filter(pl.col("split") == split, pl.col("slice") == users)
        .select("model_version", "metric", "value")
        .sort("model_version", "metric")
        .collect()
    )
    found: dict[str, dict[str, float]] = {}
    for version, metric, value in rows.iter_rows():
        found.setdefault(version, {})[metric] = value
    return found


def _evaluation(lake: Lake, night: dt.date, labels_with: str) -> list[Printed]:
    """Compare the night's model with simple baselines, the model before and published ones."""
    on_new = _metrics(lake, night, users=NEW_ITEMS)
    repeats = _metrics(lake, night, users=REPEATS)
    shown = []
    if on_new:
        title = f"Evaluation (the newest event of {_of_users(on_new)}, of items new to them)"
        shown.append(_scores(title, on_new, labels_with, PUBLISHED.get(_counts(lake, night))))
    if repeats:
        title = f"Repeats (the newest event of {_of_users(repeats)}, of items they had before)"
        shown.append(_scores(title, repeats, labels_with))
    if not shown:  # a night of before these were told apart
        title = "Evaluation (the newest event of each user, all items ranked)"
        published = PUBLISHED.get(_counts(lake, night))
        shown.append(_scores(title, _metrics(lake, night), labels_with, published))
    return shown


def _of_users(measured: Mapping[str, Mapping[str, float]]) -> str:
    users = max((values.get(USERS, 0) for values in measured.values()), default=0)
    return f"{users:,.0f} user{'' if users == 1 else 's'}"


def _scores(
    title: str,
    measured: Mapping[str, Mapping[str, float]],
    labels_with: str,
    known: DataSet | None = None,
) -> Printed:
    """Print scores: models first, then baselines, then those published for these very data."""
    columns = _ranking_metrics(measured)
    table = _printed(title, ["", *columns], right=columns)
    for version, values in sorted(measured.items(), key=lambda one: one[0] in BASELINES):
        mark = " (labels)" if version == labels_with else ""
        _add_row(table, version + mark, *(_number(values.get(column), 4) for column in columns))
    if known:
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
    measured = _metrics(lake, night, BY_TIME)
    if not measured:
        return []
    columns = [*_ranking_metrics(measured), LIFT]
    table = _printed(
        f"By time (trained on nights before; the first event of this night, {_of_users(measured)})",
        ["", *columns],
        right=columns,
    )
    for version, values in sorted(measured.items(), key=lambda one: one[0] in BASELINES):
        _add_row(table, version, *(_number(values.get(column), 4) for column in columns))
    return [table]


def _by_type(lake: Lake, night: dt.date, labels_with: str) -> list[Printed]:
    """Show what labels and recommendations are worth by the type of the event that is to be found.

    Nothing on a night that was not judged by type.
    """
    rows = lake.scan(tables.METRICS, first=night, last=night).collect()
    known = of_types(
        rows.select("model_version", "split", "slice", "metric", "value").iter_rows(), labels_with
    )
    if not known:
        return []
    columns = ["users", f"HR@{CUTOFF}", NDCG, "popularity's HR", f"lift@{CUTOFF}"]
    table = _printed("By type of event", ["type", "judged by", *columns], right=columns)
    for one in known:
        few = one.users < LEAST_OF_TYPE
        hits = _number(one.model.get(f"HR@{CUTOFF}"), 4)
        _add_row(
            table,
            one.name,
            one.judged_by,
            f"{one.users:,}",
            f"too few (< {LEAST_OF_TYPE})" if few else hits,
            _number(one.model.get(NDCG), 4),
            _number(one.popularity.get(f"HR@{CUTOFF}"), 4),
            _number(one.model.get(LIFT), 2),
        )
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
    # What decides is measured on items that are new to the user.
    values |= {
        name: value
        for name, value in _metrics(lake, night, users=NEW_ITEMS).get(version, {}).items()
        if name == LIFT
    }
    table = _printed("Intents", ["metric", "value", "meaning"], right=["value"])
    for metric, digits, meaning in (
        ("n_intents", 0, "intents the model has"),
        ("perplexity", 1, "intents in effective use"),
        ("utilisation", 3, "perplexity / intents"),
        ("largest_share", 3, "share of users in the largest"),
        (LIFT, 2, "what knowing the label is worth: next-item HR@20 over popularity's"),
        (CLEAR_SHARE, 3, "share of labels that are clear (label.clear_above)"),
        (
            CALIBRATION_ERROR,
            3,
            "mean distance of confidence from the share of labels that outlive the next event",
        ),
        (REPEAT_SHARE, 3, "share of users whose newest event is of an item that they had before"),
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


# What became of the rows that the night read: column of `ingests`, and what it says.
COUNTED = {
    "rows_events": "events of the night, on a first night of the days before it too",
    "rows_late": "events of nights before, which came late",
    "rows_quarantined": "unusable, in the table quarantine",
    "rows_duplicate": "exact duplicates",
    "rows_repeat": "repeats above ingest.max_repeats",
    "rows_busy": "of users above ingest.max_user_events",
    "rows_filtered": "of a type that source.event_types leaves out",
    "rows_other_nights": "of other nights",
}


def _rows(lake: Lake, night: dt.date, summaries: Mapping[str, Mapping[str, Any]]) -> Printed:
    """Say what became of every row that was read, and what histories leave out."""
    ingests = lake.scan(tables.INGESTS, first=night, last=night).collect()
    table = _printed("Rows of the source", ["rows", "what became of them"], right=["rows"])
    for name, says in {"rows_read": "read", **COUNTED}.items():
        rows = ingests[name].sum()
        if rows or name in ("rows_read", "rows_events", "rows_quarantined"):
            _add_row(table, f"{rows:,}", says)
    built = summaries.get("build-sequences", {}).get("summary", {})
    if events := built.get("events_left_out", 0):
        _add_row(
            table,
            f"{events:,}",
            "events in no history: of users or items with fewer than sequences.min_user_events or "
            f"min_item_events, or several of an item in a session; {built['users_left_out']:,} "
            "users have none left",
        )
    for read in lake.scan(tables.CATALOGUE_READS, night, night).collect().iter_rows(named=True):
        _add_row(
            table,
            f"{read['items']:,}",
            f"items in the catalogue; {read['items_without_title']:,} of the night's "
            f"{read['night_items']:,} items have no title",
        )
    return table


def _rejects(lake: Lake, night: dt.date) -> list[Printed]:
    """List why rows are in quarantine, each reason with the place of its first one."""
    found = (
        lake.scan(tables.QUARANTINE, first=night, last=night)
        .sort("source", "row_number")
        .group_by("reason", maintain_order=True)
        .agg(pl.len().alias("rows"), pl.col("source").first(), pl.col("row_number").first())
        .sort("rows", descending=True, maintain_order=True)
        .collect()
    )
    if found.is_empty():
        return []
    table = _printed("In quarantine", ["rows", "reason", "the first"], right=["rows"])
    for reason, rows, source, row_number in found.iter_rows():
        _add_row(table, f"{rows:,}", reason, f"{source} row {row_number}")
    return [table]


def _observed(lake: Lake, night: dt.date) -> list[Printed]:
    """List what the checks have observed, expectation by expectation."""
    found = lake.scan(tables.CHECK_RESULTS, first=night, last=night).collect()
    table = _printed("What the checks observed", ["check", "of", "observed", "expected", "verdict"])
    order = pl.col("step").replace_strict({name: at for at, name in enumerate(STEPS)}, default=None)
    for row in found.sort(order, maintain_order=True).iter_rows(named=True):
        verdict = Text("met", "green") if row["met"] else Text("not met", "red")
        observed = row["observed"] if row["value"] is None else f"{row['value']:g}"
        _add_row(
            table,
            row["step"].removeprefix("check-"),
            row["column_name"] or "rows",
            observed or "",
            row["expected"] or "",
            verdict,
        )
    return [table] if found.height else []


def _quality(summaries: Mapping[str, Mapping[str, Any]]) -> Printed:
    table = _printed("Data quality", ["check", "verdict", "found"])
    left_out = summaries.get("ingest", {}).get("summary", {}).get("files_left_out", 0)
    if left_out:
        names: list[str] = summaries["ingest"]["summary"]["left_out"]
        more = ", ..." * (left_out > len(names))
        found = f"{left_out} files were not read: {', '.join(names)}{more}"
        _add_row(table, "files", Text("left out", "yellow"), found)
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


def _pages(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the pages of the checks, by suite."""
    return {
        suite: page
        for row in summaries.values()
        for suite, page in row["summary"].get("pages", {}).items()
    }


def _places(
    settings: Settings,
    lake: Lake,
    night: dt.date,
    summaries: Mapping[str, Mapping[str, Any]],
    version: str,
) -> Text:
    places: dict[str, object] = {
        "labels": lake.partition(tables.INTENT_LABELS, night),
        "profiles": lake.partition(tables.INTENT_PROFILES, night),
        "all tables": settings.lake.root,
        "model": lake.model_dir(version),
    }
    # The first target is the lake's own table.
    if published := summaries.get("publish", {}).get("summary", {}).get("targets", [])[1:]:
        places["published"] = " and ".join(published)
    places |= {suite.replace("_", " "): page for suite, page in _pages(summaries).items()}
    width = max(map(len, places))
    lines = [f"{what:{width}}  {path}" for what, path in places.items()]
    return Text.assemble(("Where it is", "bold"), "\n", "\n".join(lines))
