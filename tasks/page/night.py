"""The night view: is last night good? Its figures beside those of the nights before it."""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, people, words
from tasks.page import checks as checked
from tasks.page.links import Links
from tasks.page.reader import RUNS, SIZES, PageLake
from tasks.registry import names
from tasks.registry.figures import (
    ALL_USERS,
    CHURN,
    COOCCURRENCE,
    IDLE_USERS,
    LABELS,
    LARGEST_SHARE,
    LEAST_OF_TYPE,
    LIFT,
    NDCG,
    NEW_ITEMS,
    POPULARITY,
    SPLIT,
    USERS,
    UTILISATION,
    against,
    change_of,
    of_types,
)
from tasks.settings import Settings
from tasks.steps import STEPS

COMPARED = 28  # nights that a night is shown beside
FAR = 2  # times as far as all changes from earlier models: a change that would hide these
WEEK = dt.timedelta(days=7)
FALL = 0.05  # of the share of clear labels within a week: more asks for a look
WORST = 3  # intents that are named beside such a fall
NO_TIME = 0.2  # seconds; a step that usually takes less did nothing
NEW_STEP = 5  # times that, at least, of a step that does something now
NEAREST = 3  # checks that are shown where all are met
OF_WEEKDAY = 3  # nights of a weekday at least, as the check of the number of events wants them
BUSIEST = "largest_user_share"  # column of the check whose user is named
MOST_EVENTS = 2_000_000  # of a night that is looked through for that user
OF_INTENTS = ("largest_share", "utilisation", "kept_meaning")  # columns of checks
GOOD, LOOK, BAD = "good", "look", "bad"

Metrics = Mapping[tuple[str, str, str, str], float]  # by model, split, slice, metric


@dataclass(frozen=True)
class Tile:
    """A figure of the night: what it is, how much, beside what, and its course."""

    name: str
    value: str
    beside: list[str]
    course: Markup
    meaning: str | None = None  # shown on hover
    more: tuple[str, str] | None = None  # what is told of it elsewhere, and where


@dataclass(frozen=True)
class Reason:
    """What asks for a look: what it is, what a person can do, and where the page explains it."""

    said: str
    mend: str
    href: str
    where: str  # what is there, in words


@dataclass(frozen=True)
class Verdict:
    """Whether the night is good, in a sentence, and what asks for a look."""

    state: str
    sentence: str
    reasons: list[Reason] = field(default_factory=list)


@dataclass(frozen=True)
class Rule:
    """One limit that a model has to keep: what is held against it, and whether it was met."""

    what: str
    observed: str
    limit: str
    met: bool
    basis: str  # which labels are counted


def window(lake: PageLake, night: dt.date, nights: int = COMPARED) -> list[dt.date]:
    """Return the nights with profiles up to one, the last `nights` of them before it at most."""
    first = night - dt.timedelta(days=nights)
    return [one for one in lake.nights(tables.INTENT_PROFILES) if first <= one <= night]


def view(
    settings: Settings, lake: PageLake, night: dt.date, links: Links, *, names_users: bool = True
) -> dict[str, Any]:
    """Return what the night view shows. names_users: False for a page that leaves the house."""
    nights = window(lake, night)
    if night not in nights:
        nights.append(night)  # it was begun and has no labels
    runs = lake.kept(tables.STEPS, RUNS, nights[0], night)
    summaries = _summaries(runs, night)
    checks = _checks(lake, nights, night, links)
    if names_users:
        _name_busiest(settings, lake, night, checks, links)
    decision = _decision(summaries)
    tiles = _tiles(settings, lake, night, nights, runs, links)
    fall = _fall_of_clear(settings, lake, nights, night, links)
    return {
        "verdict": _verdict(summaries, checks, decision, fall),
        "tiles": tiles,
        "decision": decision,
        "intervals": _intervals(settings, lake, night, decision),
        "rules": _rules(settings, lake, night, decision),
        "scores": _scores(lake, night, decision),
        "of_types": _of_types(lake, night, decision),
        "checks": checks,
        "not_met": [one for one in checks if not one["met"]],
        "nearest": [one for one in checks if one["met"] and one["nearness"] > 0][:NEAREST],
        "read": _read(lake, night),
        "steps": _steps(runs, nights, night),
        "total": _total(runs, nights, night),
        "compared": max(0, len(nights) - 1),
        "confidence": round(100 * (2 * settings.evaluate.confidence - 1)),
        "revision": _revision(lake, night),
    }


def summaries_of(lake: PageLake, night: dt.date) -> dict[str, dict[str, Any]]:
    """Return what each step of a night said, in the order of the steps."""
    return _summaries(lake.kept(tables.STEPS, RUNS, night, night), night)


def metrics_of(lake: PageLake, first: dt.date, last: dt.date) -> dict[dt.date, Metrics]:
    """Return the figures of nights first..last, by night."""
    rows = lake.kept(
        tables.METRICS, ("dt", "model_version", "split", "slice", "metric", "value"), first, last
    )
    found: dict[dt.date, dict[tuple[str, str, str, str], float]] = {}
    for night, version, split, users, metric, value in rows.iter_rows():
        found.setdefault(night, {})[version, split, users, metric] = value
    return dict(found)


def _summaries(runs: pl.DataFrame, night: dt.date) -> dict[str, dict[str, Any]]:
    rows = {row["step"]: row for row in runs.filter(dt=night).to_dicts()}
    return {
        name: rows[name] | {"summary": json.loads(rows[name]["summary"])}
        for name in STEPS
        if name in rows
    }


def _verdict(
    summaries: Mapping[str, Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    decision: Mapping[str, Any],
    fall: Reason | None,
) -> Verdict:
    missing = [name for name in STEPS if name not in summaries]
    if "recommend" in missing and "check-labels" in summaries:
        missing.remove("recommend")  # the night is from before there was this step
    if missing:
        return Verdict(
            BAD,
            f"This night is not finished: {words.plural(len(missing), 'step')} of "
            f"{len(STEPS)} did not end well.",
            [_stopped_at(missing, checks)],
        )
    reasons = [one["reason"] for one in checks if not one["met"]]
    if fall:
        reasons.append(fall)
    stopped = any(one["severity"] == "critical" and not one["met"] for one in checks)
    if not decision["promoted"] and not decision["by_hand"]:
        reasons.insert(
            0,
            Reason(
                "The new model was rejected; the model before it has labelled",
                "Nothing has to be done today: the labels are those of a model that was good. If "
                "models are rejected night after night, see which limit they break.",
                "#model",
                "Why it was rejected",
            ),
        )
    if stopped:
        return Verdict(BAD, "A check of this night failed.", reasons)
    if reasons:
        what = words.plural(len(reasons), "thing")
        return Verdict(LOOK, f"All steps ended well; {what} to look at.", reasons)
    return Verdict(GOOD, "All steps ended well, and all checks were met.")


def _stopped_at(missing: Sequence[str], checks: Sequence[Mapping[str, Any]]) -> Reason:
    """Say at which step a night stopped, why if a check did it, and what did not run since.

    missing: the steps that did not end well, in the order of the steps.
    """
    first, *rest = missing
    why = [
        one["reason"].said
        for one in checks
        if f"check-{one['step']}" == first and not one["met"] and one["severity"] == "critical"
    ]
    said = f"{first} failed: {'; '.join(why)}" if why else f"{first} failed or has not ended"
    if rest == list(STEPS)[-len(rest) :]:
        after = "the step after it" if len(rest) == 1 else f"the {len(rest)} steps after it"
        said += f"; {after} did not run"
    elif rest:
        said += f"; nor have {', '.join(rest)}"
    return Reason(
        said,
        "Whoever runs the nights mends what the last line of the step's log says, and runs the "
        "night again (in Airflow: clears the task).",
        "#steps",
        "The steps of this night",
    )


def _name_busiest(
    settings: Settings,
    lake: PageLake,
    night: dt.date,
    checks: Sequence[dict[str, Any]],
    links: Links,
) -> None:
    """Say which user made too many of a night's events, where a check found that one did.

    A night of more than `MOST_EVENTS` events is not looked through for it. A user whose intent
    has fewer users than `page.min_users` is not named, as nowhere on the page.
    """
    found = next((one for one in checks if one["column"] == BUSIEST and not one["met"]), None)
    if found is None:
        return
    reason = found["reason"]
    stats = lake.scan(tables.NIGHT_STATS, night, night).select("events").collect()["events"]
    if stats.is_empty() or stats.sum() > MOST_EVENTS:
        said = (
            f"{reason.said}. To find the user, count the rows of the table events with "
            f"dt = {night} by user_id: they are too many for the page"
        )
        found["reason"] = replace(reason, said=said)
        return
    rows = (
        lake.scan(tables.EVENTS, night, night)
        .group_by("user_id")
        .agg(pl.len().alias("events"))
        .sort(["events", "user_id"], descending=[True, False])
        .head(1)
        .collect()
    )
    if rows.is_empty():
        return
    user, events = rows.row(0)
    label = (
        lake.scan(tables.INTENT_LABELS, night, night)
        .filter(pl.col("user_id") == user)
        .select("intent_id")
        .collect()
    )
    sizes = lake.kept(tables.INTENT_PROFILES, SIZES, night, night)
    of_it = sizes.join(label, on="intent_id")["users"]
    if of_it.len() and of_it.sum() < settings.page.min_users:
        said = (
            f"{reason.said}. It made {words.plural(events, 'event')}; its intent has too few "
            "users for the page to name it (page.min_users)"
        )
        found["reason"] = replace(reason, said=said)
        return
    found["reason"] = replace(
        reason,
        said=f"{reason.said}. It is user {words.shown(user, 60)}, with "
        f"{words.plural(events, 'event')}",
        href=links.user(user),
        where="This user",
    )


def _decision(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Say what became of the night's model, and why."""
    if "promote" not in summaries:
        return {
            "known": False,
            "promoted": False,
            "by_hand": False,
            "version": None,
            "labels_with": None,
            "compared_with": None,
            "reasons": [],
            "doubts": [],
            "sentence": "No model of this night was promoted or rejected: the step promote did not "
            "end.",
        }
    told = summaries["promote"]["summary"]
    version, labels_with = told["model_version"], told.get("labels_with")
    by_hand = bool(told.get("chosen_by_hand"))
    if by_hand:
        sentence = f"A person has chosen model {labels_with} for this night."
    elif told["promoted"]:
        sentence = f"Model {version} was promoted: it keeps every limit."
        if told.get("reasons"):
            sentence = f"Model {version} was promoted by promote.force, against the rules."
        elif told.get("compared_with") is None:
            sentence = f"Model {version} was promoted; it is the first one of this lake."
        elif told.get("doubts"):
            sentence = (
                f"Model {version} was promoted although the users were too few to tell that it is "
                "better: it breaks no limit."
            )
    else:
        sentence = f"Model {version} was rejected; model {labels_with} goes on."
    return {
        "known": True,
        "promoted": bool(told["promoted"]),
        "by_hand": by_hand,
        "version": version,
        "labels_with": labels_with,
        "compared_with": told.get("compared_with"),
        "reasons": told.get("reasons", []),
        "doubts": told.get("doubts", []),
        "sentence": sentence,
    }


def _share_clear(lake: PageLake, first: dt.date, night: dt.date) -> dict[dt.date, float]:
    rows = lake.scan(tables.LABEL_COUNTS, first, night).filter(pl.col("users_with_intent") > 0)
    share = pl.col("clear") / pl.col("users_with_intent")
    return dict(rows.select("dt", share).collect().iter_rows())


def _week_before(values: Mapping[dt.date, Any], night: dt.date) -> dt.date | None:
    """Return the last night that is a week or more before; in a younger lake, its first night."""
    earlier = sorted(day for day in values if day < night)
    return next(
        (day for day in reversed(earlier) if day <= night - WEEK), next(iter(earlier), None)
    )


def _when(day: dt.date, night: dt.date) -> str:
    return "a week before" if night - day == WEEK else f"on {words.day(day)}"


def _fall_of_clear(
    settings: Settings, lake: PageLake, nights: Sequence[dt.date], night: dt.date, links: Links
) -> Reason | None:
    """Say how far the share of clear labels has fallen within a week, and in which intents."""
    clear = _share_clear(lake, nights[0] if nights else night, night)
    before = _week_before(clear, night)
    if before is None or night not in clear or clear[night] > clear[before] - FALL:
        return None
    said = (
        f"Clear labels fell from {words.percent(clear[before])} {_when(before, night)} to "
        f"{words.percent(clear[night])}; a fall of {100 * FALL:.0f} points within a week asks for "
        "a look"
    )
    then, now = (_unclear(lake, day) for day in (before, night))
    rose = {
        intent: users * (share - then[intent][1] if intent in then else share)
        for intent, (users, share) in now.items()
    }
    worst = [one for one in sorted(rose, key=lambda one: (-rose[one], one)) if rose[one] > 0]

    def reason(text: str) -> Reason:
        return Reason(
            text,
            "See whether these intents still mean what their names say, and rename those that do "
            "not; whoever uses the labels can leave out those that are not clear.",
            links.intents(sort="confidence", order="up"),
            "The intents, the least sure first",
        )

    if not worst:
        return reason(said)
    called = names.shown(lake, night)
    told = []
    for intent in worst[:WORST]:
        name = called.of(intent)
        users, share = now[intent]
        earlier = f", {words.percent(then[intent][1], 0)} then" if intent in then else ""
        told.append(
            f"{words.shown(name.name if name else f'Intent {intent}', 60)} "
            f"({words.percent(share, 0)} of {words.plural(users, 'user')} not clear{earlier})"
        )
    return reason(f"{said}. Most in: {'; '.join(told)}")


def _since_most(clear: Mapping[dt.date, float], night: dt.date) -> str | None:
    """Say how far the share of clear labels is below its largest of the nights before, if far."""
    earlier = {day: share for day, share in clear.items() if day < night}
    if night not in clear or not earlier:
        return None
    most = max(earlier, key=lambda day: (earlier[day], day))
    if clear[night] > earlier[most] - FALL:
        return None
    return (
        f"{words.points(clear[night] - earlier[most])} since {words.day(most)}, when most were "
        f"clear ({words.percent(earlier[most])})"
    )


def _unclear(lake: PageLake, day: dt.date) -> dict[int, tuple[int, float]]:
    """Return, by intent, its users and which share of them is not clear; none where unknown."""
    rows = lake.kept(tables.INTENT_PROFILES, SIZES, day, day).select("intent_id", "users")
    clear = lake.clear(day)
    return {
        intent: (users, 1 - clear[intent] / users)
        for intent, users in rows.iter_rows()
        if users and intent in clear
    }


def _evenness(users: Sequence[int]) -> float | None:
    """Return the use of the intents, as check-labels measures it: exp(entropy) by their number."""
    total = sum(users)
    if not total:
        return None
    shares = [one / total for one in users if one]
    return math.exp(-sum(one * math.log(one) for one in shares)) / len(users)


def _tiles(
    settings: Settings,
    lake: PageLake,
    night: dt.date,
    nights: Sequence[dt.date],
    runs: pl.DataFrame,
    links: Links,
) -> list[Tile]:
    first = nights[0] if nights else night
    counts = {
        row["dt"]: row for row in lake.scan(tables.LABEL_COUNTS, first, night).collect().to_dicts()
    }
    events = dict(
        lake.scan(tables.NIGHT_STATS, first, night).select("dt", "events").collect().iter_rows()
    )
    sizes = lake.kept(tables.INTENT_PROFILES, SIZES, first, night)
    in_use, all_intents, users = {}, {}, {}
    for row in (
        sizes.group_by("dt")
        .agg(
            used=(pl.col("users") > 0).sum(),
            there=(pl.col("status") != "retired").sum(),
            users=pl.col("users").sum(),
        )
        .to_dicts()
    ):
        in_use[row["dt"]], all_intents[row["dt"]] = row["used"], row["there"]
        users[row["dt"]] = row["users"]
    users |= {day: row["users"] for day, row in counts.items()}
    figures = metrics_of(lake, first, night)
    told = {row["dt"]: json.loads(row["summary"]) for row in runs.filter(step="promote").to_dicts()}

    def of_labelling(metric: str, split: str = SPLIT, of: str = ALL_USERS) -> dict[dt.date, float]:
        """Return a figure of the model that labels each night."""
        found = {}
        for day, values in figures.items():
            version = told.get(day, {}).get("labels_with")
            if version and (version, split, of, metric) in values:
                found[day] = values[version, split, of, metric]
        return found

    def baseline(name: str, metric: str) -> float | None:
        return figures.get(night, {}).get((name, SPLIT, NEW_ITEMS, metric))

    now = counts.get(night)
    lift = of_labelling(LIFT, of=NEW_ITEMS)
    ndcg = of_labelling(NDCG, of=NEW_ITEMS)
    used = {
        day: share
        for (day,), of_day in sizes.partition_by("dt", as_dict=True).items()
        if (share := _evenness(of_day["users"].to_list())) is not None
    }
    clear = _share_clear(lake, first, night)
    held, changed, active_changed, idle_changed = {}, {}, {}, {}
    for day, row in counts.items():
        if row["held"] is not None and row["users_with_intent"]:
            held[day] = row["held"] / row["users_with_intent"]
        if row["compared"]:
            changed[day] = row["changed"] / row["compared"]
        if active := row["compared"] - row["idle"]:
            active_changed[day] = (row["changed"] - row["idle_changed"]) / active
        if row["idle"]:
            idle_changed[day] = row["idle_changed"] / row["idle"]

    has_labels = night in lake.nights(tables.INTENT_PROFILES)

    def tile(
        name: str,
        values: Mapping[dt.date, float],
        written: Any,
        beside: Sequence[str | None],
        meaning: str | None = None,
        *,
        usual: bool = True,
        share: bool = False,
        more: tuple[str, str] | None = None,
    ) -> Tile:
        if night not in values and not has_labels:
            return Tile(name, "no labels", [], Markup(""), meaning)
        series = [values.get(one) for one in nights]
        said = [one for one in beside if one]
        earlier = series[:-1]
        if usual and (
            text := words.against_usual(values.get(night), earlier, written, share=share)
        ):
            said.append(text)
        known = [one for one in series if one is not None]
        label = f"{name}: {written(values.get(night))}"
        if len(known) > 1:
            label += (
                f"; from {written(min(known))} to {written(max(known))} over {len(known)} nights"
            )
        return Tile(
            name,
            written(values.get(night)),
            said,
            charts.spark(series, label, width=132, height=34),
            meaning,
            more,
        )

    def of_part(values: Mapping[dt.date, float], users: int, which: str) -> str | None:
        if night not in values:
            return None
        said = f"{words.percent(values[night])} of {words.plural(users, 'user')} {which}"
        earlier = [values.get(one) for one in nights[:-1]]
        usual = words.against_usual(values[night], earlier, words.percent, share=True)
        return f"{said}, {usual}" if usual else said

    without = now["users"] - now["users_with_intent"] if now else 0
    model_share = baseline(POPULARITY, NDCG)
    beside_ndcg = [
        f"{words.number(value, 3)} {says}"
        for name, says in ((POPULARITY, "naming what is popular"), (COOCCURRENCE, "co-occurrence"))
        if (value := baseline(name, NDCG)) is not None
    ]
    week = _week_before(clear, night) if night in clear else None
    not_clear = now["users_with_intent"] - now["clear"] if now else 0
    compared = (now or {}).get("compared", 0)
    idle = (now or {}).get("idle", 0)
    last_before = max(
        (one for one in lake.nights(tables.INTENT_PROFILES) if one < night), default=None
    )
    return [
        tile(
            "Users with a label",
            users,
            words.count,
            [f"{words.count(without)} of them without an intent" if without else None],
        ),
        tile("Events of the night", events, words.count, [_of_weekday(lake, night)]),
        tile(
            "Intents in use",
            in_use,
            words.count,
            [f"of {words.plural(all_intents.get(night, 0), 'intent')} that there are"],
            words.GLOSSARY["intent"],
            usual=False,
        ),
        tile(
            "Lift of the labels",
            lift,
            words.times,
            [f"{words.times(1)} would say nothing"],
            words.GLOSSARY["lift"],
        ),
        tile(
            "Ranking of the next item",
            ndcg,
            lambda one: words.number(one, 3),
            beside_ndcg,
            words.GLOSSARY[NDCG],
            usual=not model_share,
        ),
        tile(
            "Use of the intents",
            used,
            words.percent,
            [],
            words.GLOSSARY["utilisation"],
            share=True,
        ),
        tile(
            "Labels changed",
            changed,
            words.percent,
            [
                None
                if compared
                else "there is no night before to compare with"
                if now
                else "not counted on this night",
                of_part(active_changed, compared - idle, "with new events"),
                of_part(idle_changed, idle, "without"),
            ],
            words.GLOSSARY["changed"],
            usual=False,
            more=("Who changed, from which intent to which", links.flows(last_before))
            if compared and last_before
            else None,
        ),
        tile(
            "Labels held",
            held,
            words.percent,
            [
                "not counted on this night"
                if now is None or night not in held
                else f"{words.count(now['held'])} of {words.count(now['users_with_intent'])}: the "
                "model now prefers another intent"
                if compared
                else "there is no night before whose labels could stay",
            ],
            "The label stays although another intent is more probable by now. It changes "
            f"{people.changes_when(settings.label)}.",
            share=True,
        ),
        tile(
            "Clear labels",
            clear,
            words.percent,
            [
                f"{words.count(not_clear)} of {words.count(now['users_with_intent'])} are not clear"
                if now
                else None,
                f"{words.percent(clear[week])} {_when(week, night)}, "
                f"{words.points(clear[night] - clear[week])}"
                if week
                else None,
                _since_most(clear, night),
            ],
            "A label is clear when it is at least "
            f"{words.percent(settings.label.clear_above, 0)} likely to be the same label after "
            "the user's next event (label.clear_above).",
            share=True,
        ),
    ]


def _of_weekday(lake: PageLake, night: dt.date) -> str | None:
    """Say how the night's events stand to those of its weekday, as the check of them does."""
    first = night - dt.timedelta(days=COMPARED)
    rows = lake.scan(tables.NIGHT_STATS, first, night).select("dt", "events").collect()
    events = dict(rows.iter_rows())
    such = [
        of_it for day, of_it in events.items() if day < night and day.weekday() == night.weekday()
    ]
    if len(such) < OF_WEEKDAY:
        return None
    told = words.against_usual(events.get(night), such, words.count)
    return told and f"on a {night:%A} {told}; the check compares with this"


def _intervals(
    settings: Settings, lake: PageLake, night: dt.date, decision: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the changes from baselines and earlier models, a chart for each figure."""
    version = decision["version"]
    values = metrics_of(lake, night, night).get(night, {})
    limits = settings.promote
    found = []
    for metric, name, drop in (
        (NDCG, "Ranking of the next item (NDCG@20)", limits.max_ndcg_drop),
        (LIFT, "Lift of the labels", limits.max_lift_drop),
    ):
        rows, told = [], []
        others = sorted(
            {
                users.removeprefix("against ")
                for v, _, users, _ in values
                if v == version and users.startswith("against ")
            },
            key=lambda one: (
                one not in (POPULARITY, COOCCURRENCE),
                one == decision["compared_with"],
                one,
            ),
        )
        for other in others:
            simple = other in (POPULARITY, COOCCURRENCE)
            if simple and metric == LIFT and other != POPULARITY:
                continue  # the lift is over popularity already
            estimate, low, high = (
                values.get((version, SPLIT, against(other), change_of(metric, end)))
                for end in ("estimate", "low", "high")
            )
            if estimate is None or low is None or high is None:
                continue
            limit = 0.0 if simple else -drop
            if simple:
                what = f"than {other}" if metric == NDCG else "than without labels"
            elif other == decision["compared_with"]:
                what = "than the model before"
            else:
                what = "than the last one from scratch"
            met = high >= limit
            rows.append((what, estimate, low, high, None if simple else limit, met))
            told.append(
                {
                    "what": what,
                    "estimate": words.change(estimate),
                    "low": words.change(low),
                    "high": words.change(high),
                    "limit": "surely no better"
                    if simple
                    else f"surely below {words.change(limit)}",
                    "met": met,
                }
            )
        if rows:
            users = values.get((version, SPLIT, NEW_ITEMS, USERS))
            label = f"{name}: how much better the new model is, with intervals"
            near, far = _near_and_far(rows)
            found.append(
                {
                    "name": name,
                    "chart": charts.intervals(near, label),
                    "far": [one for one in told if one["what"] in far],
                    "rows": told,
                    "users": users,
                }
            )
    return found


Row = tuple[str, float, float, float, float | None, bool]


def _near_and_far(rows: list[Row]) -> tuple[list[Row], set[str]]:
    """Tell changes that fit on one scale from those so much better that they would hide the others.

    The second are given by what is compared. Nothing that is worse, or could be, is far.
    """
    reach = max(
        (abs(value) for row in rows if row[4] is not None for value in row[1:5] if value), default=0
    )
    far = {row[0] for row in rows if reach and row[4] is None and row[2] > FAR * reach}
    return [row for row in rows if row[0] not in far], far


def _rules(
    settings: Settings, lake: PageLake, night: dt.date, decision: Mapping[str, Any]
) -> list[Rule]:
    """Return the limits on the labels that the new model would give."""
    version = decision["version"]
    values = metrics_of(lake, night, night).get(night, {})
    limits = settings.promote
    found = []
    in_test = "in the test: labels from histories without their newest item"
    of_night = "of the users with a label on the night before, by the new model"
    for what, key, limit, at_least in (
        ("Use of the intents", (SPLIT, ALL_USERS, UTILISATION), limits.min_utilisation, True),
        (
            "Users in the largest intent",
            (SPLIT, ALL_USERS, LARGEST_SHARE),
            limits.max_largest_share,
            False,
        ),
        ("Labels that would change", (LABELS, ALL_USERS, CHURN), limits.max_churn, False),
        (
            "Labels that would change without new events",
            (LABELS, IDLE_USERS, CHURN),
            limits.max_idle_churn,
            False,
        ),
    ):
        value = values.get((version, *key))
        if value is not None:
            met = value >= limit if at_least else value <= limit
            side = "at least" if at_least else "at most"
            found.append(
                Rule(
                    what,
                    words.percent(value),
                    f"{side} {words.percent(limit, 0)}",
                    met,
                    of_night if key[0] == LABELS else in_test,
                )
            )
    return found


def _scores(lake: PageLake, night: dt.date, decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of the models and baselines of a night, beside each other."""
    values = metrics_of(lake, night, night).get(night, {})
    versions = {v for v, split, users, _ in values if split == SPLIT and users == NEW_ITEMS}
    shown = (NDCG, "HR@20", LIFT)
    rows = []
    for version in versions:
        of_it = {metric: values.get((version, SPLIT, NEW_ITEMS, metric)) for metric in shown}
        role = {
            decision["version"]: "the new model",
            decision["compared_with"]: "the model before",
        }.get(
            version,
            "baseline" if "-" not in version or not version[:8].isdigit() else "an earlier model",
        )
        rows.append(
            {
                "name": version,
                "role": role,
                "ndcg": words.number(of_it[NDCG], 4),
                "hits": words.percent(of_it["HR@20"]),
                "lift": words.times(of_it[LIFT]),
                "of_labels": version == decision["labels_with"],
                "sort": (role == "baseline", -(of_it[NDCG] or 0)),
            }
        )
    return sorted(rows, key=lambda row: row["sort"])


def _of_types(lake: PageLake, night: dt.date, decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures by the type of the event to be found; nothing where there are none."""
    values = metrics_of(lake, night, night).get(night, {})
    rows = ((*which, value) for which, value in values.items())
    return [
        {
            "name": one.name,
            "judged_by": one.judged_by,
            "users": one.users,
            "few": one.users < LEAST_OF_TYPE,
            "hits": words.percent(one.model.get("HR@20")),
            "popular": words.percent(one.popularity.get("HR@20")),
            "lift": words.times(one.model.get(LIFT)),
        }
        for one in of_types(rows, decision["labels_with"])
    ]


def _checks(
    lake: PageLake, nights: Sequence[dt.date], night: dt.date, links: Links
) -> list[dict[str, Any]]:
    """Return the expectations of a night with what was observed.

    Those not met come first, then those met, the nearest to its limit first; what had nothing to
    check is last.
    """
    columns = (
        "dt",
        "step",
        "suite",
        "column_name",
        "expectation",
        "severity",
        "met",
        "value",
        "observed",
        "expected",
    )
    rows = lake.kept(tables.CHECK_RESULTS, columns, nights[0], night)
    courses: dict[tuple[str, str, str | None, str], dict[dt.date, float | None]] = {}
    of_all = rows.select("suite", "step", "column_name", "expectation", "dt", "value")
    for *which, day, value in of_all.iter_rows():
        suite, step, column, expectation = which
        courses.setdefault((suite, step, column, expectation), {})[day] = value
    order = {name: at for at, name in enumerate(STEPS)}
    unmet: dict[tuple[str, str, str | None, str], dict[dt.date, bool]] = {}
    for row in rows.to_dicts():
        if checked.is_asked(row):
            key = (row["suite"], row["step"], row["column_name"], row["expectation"])
            unmet.setdefault(key, {})[row["dt"]] = not row["met"]
    found = []
    for row in rows.filter(dt=night).to_dicts():
        key = (row["suite"], row["step"], row["column_name"], row["expectation"])
        series = [courses[key].get(one) for one in nights]
        observed, limit = checked.said(row)
        is_asked, nearness = checked.is_asked(row), checked.nearness(row)
        href, where = _explained(row, links)
        moves = len({value for value in series if value is not None}) > 1
        found.append(
            {
                "step": row["step"].removeprefix("check-"),
                "column": row["column_name"],
                "expects": row["expectation"],
                "severity": row["severity"],
                "met": row["met"],
                "is_asked": is_asked,
                "observed": observed,
                "limit": limit,
                "nearness": nearness,
                "reason": Reason(
                    checked.sentence(observed, limit)
                    + ("" if row["met"] else _before(unmet[key], night)),
                    checked.mend(row) or "The log of the check says what to do.",
                    href,
                    where,
                ),
                "course": charts.spark(series, f"{observed}; its course over the last nights")
                if moves
                else Markup('<span class="muted">unchanged</span>'),
                "sort": (
                    *(row["met"], not is_asked, not row["met"] and row["severity"] != "critical"),
                    *(-nearness, row["severity"] != "critical", order.get(row["step"], 99)),
                ),
            }
        )
    return sorted(found, key=lambda one: one["sort"])


def _before(unmet: Mapping[dt.date, bool], night: dt.date) -> str:
    """Say on how many nights before one a check was not met either; nothing where it is the first.

    unmet: whether the check was not met, by night.
    """
    earlier = [was for day, was in unmet.items() if day < night]
    if not earlier:
        return ""
    # Not every night makes every check: a first night has nothing to hold its events against.
    nights = "the last night" if len(earlier) == 1 else f"the last {len(earlier)} nights"
    nights += " that made this check"
    if not any(earlier):
        return f" (new: met on {nights})"
    return f" (on {nights} too)" if all(earlier) else f" (on {sum(earlier)} of {nights} too)"


def _explained(row: Mapping[str, Any], links: Links) -> tuple[str, str]:
    """Return which part of the page explains what a check looks at, and what is there in words."""
    if row["column_name"] in OF_INTENTS:
        return links.intents(), "The intents of this night"
    if row["step"] == "check-events":
        return links.data(), "What was read on this night, and what was rejected"
    return "#checks", "The checks of this night"


def _read(lake: PageLake, night: dt.date) -> dict[str, int] | None:
    """Return what became of the rows that a night has read; None: it is not recorded."""
    counted = ("rows_read", "rows_events", "rows_quarantined", "rows_duplicate")
    rows = lake.scan(tables.INGESTS, night, night).select(counted).collect()
    return None if rows.is_empty() else rows.sum().row(0, named=True)


def _steps(runs: pl.DataFrame, nights: Sequence[dt.date], night: dt.date) -> list[dict[str, Any]]:
    by_step: dict[str, dict[dt.date, tuple[float, float]]] = {}
    for day, step, seconds, peak in runs.select("dt", "step", "seconds", "peak_mb").iter_rows():
        by_step.setdefault(step, {})[day] = (seconds, peak)
    found = []
    for name, step in STEPS.items():
        of_it = by_step.get(name, {})
        now = of_it.get(night)
        seconds = [of_it[one][0] if one in of_it else None for one in nights]
        peaks = [of_it[one][1] if one in of_it else None for one in nights]
        found.append(
            {
                "name": name,
                "does": step.does,
                "ran": now is not None,
                "seconds": words.duration(now[0] if now else None),
                "usual": _usual_time(now[0] if now else None, seconds[:-1]),
                "seconds_course": charts.spark(seconds, f"Time of {name}, over the last nights"),
                "memory": words.memory(now[1] if now else None),
                "memory_course": charts.spark(peaks, f"Memory of {name}, over the last nights"),
            }
        )
    return found


def _usual_time(now: float | None, earlier: Sequence[float | None]) -> str | None:
    """Say how the time of a step stands to the usual one, in seconds; of a step that is new, so."""
    known = [one for one in earlier if one is not None]
    if now is not None and known and median(known) < NO_TIME <= now / NEW_STEP:
        return "new step: took no time before"
    return words.against_usual(now, earlier, words.duration)


def _total(runs: pl.DataFrame, nights: Sequence[dt.date], night: dt.date) -> dict[str, Any]:
    totals = dict(runs.group_by("dt").agg(pl.col("seconds").sum()).iter_rows())
    series = [totals.get(one) for one in nights]
    tonight = runs.filter(dt=night).sort("seconds", descending=True)
    longest = tonight.row(0, named=True) if tonight.height else None
    largest = max(tonight.to_dicts(), key=lambda step: step["peak_mb"] or 0, default=None)
    return {
        "longest": longest and longest["step"],
        "longest_seconds": words.duration(longest["seconds"] if longest else None),
        "longest_share": longest and longest["seconds"] / (totals.get(night) or 1),
        "seconds": words.duration(totals.get(night)),
        "usual": words.against_usual(totals.get(night), series[:-1], words.duration),
        "course": charts.spark(series, "Time of all steps, over the last nights"),
        "largest": largest and largest["step"],
        "memory": words.memory(largest["peak_mb"] if largest else None),
    }


def _revision(lake: PageLake, night: dt.date) -> dict[str, Any] | None:
    rows = lake.scan(tables.LABEL_REVISIONS, night, night).sort("revision").collect().to_dicts()
    return rows[-1] if rows else None
