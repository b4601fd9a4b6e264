"""Which nights are stale, and why; and how they are brought up to date, in order.

A night is stale when one of its steps would read something else now than it read when it ran. What
it read is in `steps.inputs` (`tasks.registry.inputs`), so no clock is asked. A night whose own
inputs hold, but that comes after a stale one, may turn stale when that one is made anew.

`refresh` walks over the nights, the oldest first, and runs the steps that are stale. A step that
gives the same rows again makes nothing after it stale. The events are taken as they lie in the
lake: the source is not read.
"""

import datetime as dt
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.lake import Lake, tables
from tasks.registry import inputs
from tasks.registry.inputs import Fingerprints, Input, recorded_inputs, taken_out
from tasks.settings import Settings
from tasks.steps import AFTER_LABEL, STEPS, run_step
from tasks.terminal import on_lake

log = logging.getLogger(__name__)

STATES = FRESH, STALE, FOLLOWS, NOT_KNOWN = "up to date", "stale", "may turn stale", "not known"

# Without the events' own step: the events of a night are what the others stand on.
STEPS_AFTER_INGEST = tuple(STEPS)[1:]
# These go by the model that is of the night's data and the present settings: one of them alone
# would not find it.
MODEL_STEPS = ("train", "evaluate", "promote")
# Steps that only look at what is there, or hand it on: no night stands on what they leave.
NOTHING_AFTER = ("check-events", "check-sequences", "recommend", "check-labels", "publish")
SHOWN = 3  # nights that a sentence names


@dataclass
class Standing:
    """How a labelled night stands to the tables of now."""

    night: dt.date
    state: str
    reasons: dict[str, list[str]] = field(default_factory=dict)  # sentences, by step
    remark: str | None = None

    @property
    def line(self) -> str:
        """The same in a line or two for a person."""
        if self.state == FRESH:
            return f"{self.night} is up to date"
        is_ = {FOLLOWS: "may turn stale", NOT_KNOWN: "is not known to be up to date"}
        why = "; ".join(dict.fromkeys(say for says in self.reasons.values() for say in says))
        found = f"{self.night} {is_.get(self.state, 'is stale')}: {why}"
        return f"{found}. {self.remark}" if self.remark else found


def standings(settings: Settings) -> list[Standing]:
    """Say of each labelled night, the oldest first, whether it is up to date.

    Raises LakeError when there is no lake, or a table of it cannot be read.
    """
    now = _Now(settings)
    found: list[Standing] = []
    stale: dt.date | None = None  # the newest night until now that later ones may change with
    for night in now.lake.nights(tables.INTENT_LABELS):
        reasons, unknown = now.reasons(night)
        one = Standing(night, FRESH, reasons)
        if reasons:
            one.state = STALE
            one.remark = now.cannot_be_made(night, reasons)
        elif unknown:
            one.state = NOT_KNOWN
            one.reasons = {unknown[0]: [UNKNOWN]}
        elif stale:
            one.state = FOLLOWS
            one.reasons = {"label": [f"it goes on from night {stale}, which is not up to date"]}
        changes = one.state == FOLLOWS or set(reasons) - set(NOTHING_AFTER)
        if changes and not one.remark:  # one that cannot be made anew stays what others stand on
            stale = night
        found.append(one)
    return found


def lines(settings: Settings) -> list[str]:
    """Say the same in lines for a person: a night each that is not up to date, and a summary."""
    found = standings(settings)
    if not found:
        return [f"{settings.lake.root} has no labelled nights yet"]
    counts = {state: sum(one.state == state for one in found) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    said = [one.line for one in found if one.state != FRESH]
    first, last = found[0].night, found[-1].night
    nights = f"nights from {first} to {last}" if len(found) > 1 else f"night, {first}"
    said.append(f"{len(found)} labelled {nights}: {told}")
    if counts[STALE]:
        command = on_lake(settings.lake.root, "refresh")
        said.append(f"to bring the stale ones up to date, in order: {command}")
    if counts[NOT_KNOWN]:
        command = on_lake(settings.lake.root, "refresh", "--not-known")
        said.append(f"to run those that are not known again, too: {command}")
    return said


def beside_a_night(settings: Settings, night: dt.date) -> list[str]:
    """Say for the report of a night how it and the other nights stand; nothing when all is well.

    Raises as `standings` does.
    """
    found = standings(settings)
    said = [one.line for one in found if one.night == night and one.state != FRESH]
    for state, are in ((STALE, "stale"), (FOLLOWS, "such that they may turn stale")):
        if nights := [one.night for one in found if one.state == state and one.night != night]:
            word = "other night is" if len(nights) == 1 else "other nights are"
            said.append(f"{len(nights)} {word} {are}: {_nights(nights)}")
    if said:
        said.append(f"why: {on_lake(settings.lake.root, 'stale')}")
        said.append(f"to bring them up to date: {on_lake(settings.lake.root, 'refresh')}")
    return said


UNKNOWN = (
    "what it stood on is not recorded, for it was made before this was done, or its rows of steps "
    "are gone"
)


def refresh(
    settings: Settings, *, last: dt.date | None = None, not_known: bool = False
) -> dict[str, Any]:
    """Run the stale steps of all labelled nights, or of those up to `last`, the oldest first.

    A night that a person has relabelled keeps the model that was named for it. A night whose events
    were taken out of the lake is left as it is.

    not_known: also the steps of which nothing is recorded.

    Returns the steps that ran and why, by night; the nights that were left as they are, and why;
    and those that are still not known.

    Raises what the steps raise; the nights before are up to date then.
    """
    lake = Lake.there(settings)
    ran: dict[str, Any] = {}
    left: dict[str, str] = {}
    unknown_nights: list[str] = []
    for night in lake.nights(tables.INTENT_LABELS):
        if last and night > last:
            break
        now = _Now(settings, night)
        reasons, unknown = now.reasons(night)
        if unknown and not_known:
            reasons |= {step: [UNKNOWN] for step in unknown}
        elif unknown:
            unknown_nights.append(night.isoformat())
        if not reasons:
            continue
        if cannot := now.cannot_be_made(night, reasons):
            log.warning("night %s is stale. %s", night, cannot)
            left[night.isoformat()] = cannot
            continue
        log.info("night %s", Standing(night, STALE, reasons).line)
        steps = list(_refreshed(settings, night, now, reasons, not_known=not_known))
        because = list(dict.fromkeys(say for says in reasons.values() for say in says))
        ran[night.isoformat()] = {"steps": steps, "because": because}
    return {"nights": ran, "left_as_they_are": left, "not_known": unknown_nights}


def _refreshed(
    settings: Settings,
    night: dt.date,
    now: "_Now",
    reasons: dict[str, list[str]],
    *,
    not_known: bool,
) -> Iterator[str]:
    """Run what is stale of a night; yield the name of each step that ran."""
    from tasks.chores.relabel import relabel_night  # it loads torch, and most callers only look

    wanted = set(reasons)
    if wanted & set(MODEL_STEPS):
        wanted |= set(MODEL_STEPS)
    if not now.lake.files(tables.SEQUENCES, night, night):
        wanted.add("build-sequences")  # upkeep took the histories out
    for step in STEPS_AFTER_INGEST:
        then = now.recorded(night).get(step)
        if step not in wanted:
            # Steps before it may have changed what it stands on.
            found = now.why(step, night)
            # What is checked and published anew is so by the settings of now.
            asked = (
                step in inputs.OPTIONAL
                and settings.recommend.top_k > 0
                and not wanted.isdisjoint(("label", *AFTER_LABEL))
            )
            if not found and not asked and not (found is None and not_known):
                continue
            if step in MODEL_STEPS:
                wanted |= set(MODEL_STEPS)
            wanted.add(step)
        if step == "label" and (version := _named(then)):
            relabel_night(settings, night, version)
        else:
            run_step(step, _as_a_person_decided(settings, now, night, step), night)
        now.look_again(night)
        yield step


def _as_a_person_decided(settings: Settings, now: "_Now", night: dt.date, step: str) -> Settings:
    """Keep that a person has promoted the night's model by force, as long as it is the same one."""
    if step != "promote":
        return settings
    from tasks.registry.identity import identify  # it loads torch

    rows = now.lake.scan(tables.STEPS, night, night).filter(step=step).collect()
    then = json.loads(rows["summary"].item()) if rows.height else {}
    # Promoted although something spoke against it.
    forced = then.get("promoted") and then.get("reasons")
    if not forced or then["model_version"] != identify(settings, night).version:
        return settings
    by_force = settings.promote.model_copy(update={"force": True})
    return settings.model_copy(update={"promote": by_force})


class _Now:
    """What is recorded of the steps, and the fingerprints of the tables as they are."""

    def __init__(self, settings: Settings, night: dt.date | None = None) -> None:
        self.lake = Lake.there(settings)
        self.fingerprints = Fingerprints(settings, near=night)
        self._recorded = recorded_inputs(self.lake, night, night)
        self._taken_out = taken_out(self.lake)

    def recorded(self, night: dt.date) -> dict[str, list[Input] | None]:
        """Return what is recorded of a night's steps."""
        return self._recorded.get(night, {})

    def look_again(self, night: dt.date) -> None:
        """See what a step of the night has just written."""
        self.fingerprints.forget_files()
        self._recorded |= recorded_inputs(self.lake, night, night)

    def reasons(self, night: dt.date) -> tuple[dict[str, list[str]], list[str]]:
        """Return why steps of a night are stale, and the steps of which that is not known."""
        found = {step: self.why(step, night) for step in STEPS_AFTER_INGEST}
        unknown = [step for step, reasons in found.items() if reasons is None]
        return {step: reasons for step, reasons in found.items() if reasons}, unknown

    def why(self, step: str, night: dt.date) -> list[str] | None:
        """Say why a step of a night is stale; an empty list when it is not, None: not known."""
        steps = self.recorded(night)
        if not steps:
            return None
        if step not in steps and step in inputs.OPTIONAL and not self._asked_for(steps, night):
            return []
        if step not in steps:
            return [f"{step} has not ended: it failed, was killed, or never ran"]
        then = steps[step]
        if then is None:
            return None
        if not then and step in inputs.OPTIONAL:
            return []  # it was off, and wrote nothing
        now = list(self.fingerprints.of_step(step, night, _named(then)))
        return list(self._differences(step, night, then, now))

    def _asked_for(self, steps: Mapping[str, object], night: dt.date) -> bool:
        """Tell whether an optional step of which nothing is recorded has to end.

        A night that came to its check without it is from before there was such a step.
        """
        if self.fingerprints.rows(inputs.RECOMMENDATIONS, night, night):
            return True
        return bool(self.fingerprints.settings.recommend.top_k) and "check-labels" not in steps

    def cannot_be_made(self, night: dt.date, reasons: dict[str, list[str]]) -> str | None:
        """Say why a stale night cannot be made as it would be had it run now; None: it can."""
        if "build-sequences" not in reasons and self.lake.files(tables.SEQUENCES, night, night):
            return None
        there = set(self.lake.nights(tables.EVENTS))
        then = self.recorded(night).get("build-sequences")
        read = {one.night for one in then if one.input == inputs.EVENTS} if then else None
        gone = [
            day
            for name, day in self._taken_out
            if name == inputs.EVENTS and day <= night and day not in there
            if read is None or day in read
        ]
        if not gone:
            return None
        return (
            f"Its histories cannot be built again: upkeep took the events of {_nights(gone)} out "
            "of the lake (retention.events_nights), so it stays as it is"
        )

    def _differences(
        self, step: str, night: dt.date, then: list[Input], now: list[Input]
    ) -> Iterator[str]:
        """Say what a step read that is something else now."""
        before, after = _by_name(then), _by_name(now)
        for name in dict.fromkeys([*before, *after]):
            one, other = before.get(name, {}), after.get(name, {})
            changed = [
                day
                for day in sorted({*one, *other}, key=lambda day: day or dt.date.min)
                if self._digest(name, day, other) != _digest(one, day)
            ]
            before_it = name in (inputs.LABELS_BEFORE, inputs.EVIDENCE_BEFORE)
            if before_it and one and not set(one) & set(changed):
                continue  # they are as they were, or upkeep took them out: none are in their place
            if not changed:
                continue
            if name == inputs.EVENTS:
                days = [day for day in changed if day]
                forgotten = before.get(inputs.FORGOTTEN) != after.get(inputs.FORGOTTEN)
                yield (
                    f"events of {_nights(days)} have changed"
                    f"{self._cause(night, days, people=forgotten)}"
                )
            elif name == inputs.LABELS_BEFORE and set(one) != set(other):
                yield (
                    f"its labels were held against those of {_nights(one) or 'no night'}, and "
                    f"{_nights(other) or 'no night'} comes before it now"
                )
            elif name == inputs.LABELS_BEFORE:
                yield f"labels of night {changed[0]}, which its own are held against, have changed"
            elif name == inputs.EVIDENCE_BEFORE:
                yield f"the nights since which labels of {_nights(changed)} are held have changed"
            elif name in inputs.ROWS:
                yield f"its {SAID[name]} have changed since {step} read them"
            elif name == inputs.NAMES_BEFORE:
                yield "names that nights before it gave to intents have changed"
            elif name != inputs.FORGOTTEN:
                was, is_ = (" and ".join(i.digest for i in of.values()) for of in (one, other))
                yield f"{SAID[name]} was {was or 'none'} and is {is_ or 'none'}"

    def _digest(
        self, name: str, day: dt.date | None, now: dict[dt.date | None, Input]
    ) -> str | None:
        """Return what an input is now; one that upkeep took out is what it was then."""
        if day in now:
            return now[day].digest
        return self._taken_out.get((name, day)) if day else None

    def _cause(self, night: dt.date, days: list[dt.date], *, people: bool) -> str:
        if people:
            return " (people have been forgotten)"
        late = (
            self.lake.scan(tables.EVENTS, min(days), max(days))
            .filter(pl.col("dt").is_in(days), pl.col("ingested") > night)
            .select(pl.col("ingested").unique())
            .collect()["ingested"]
        )
        return f" (late events came with {_nights(sorted(late))})" if len(late) else ""


SAID = {
    inputs.SEQUENCES: "histories",
    inputs.METRICS: "metrics",
    inputs.LABELS: "labels",
    inputs.CATALOGUE: "items in the catalogue",
    **{table.name: f"rows of {table.name}" for table in tables.WITH_LABELS},
    inputs.MODEL_BEFORE: "the last promoted model before it",
    inputs.MODELS: "the models of the night",
    inputs.LABELS_WITH: "the model that labels it",
    inputs.RELABELLED_WITH: "the model it was relabelled with",
}


def _by_name(found: Iterable[Input]) -> dict[str, dict[dt.date | None, Input]]:
    by_name: dict[str, dict[dt.date | None, Input]] = defaultdict(dict)
    for one in found:
        # The night of a model is told by its version.
        by_name[one.input][one.night if one.input in inputs.ROWS else None] = one
    return dict(by_name)


def _digest(found: dict[dt.date | None, Input], day: dt.date | None) -> str | None:
    return found[day].digest if day in found else None


def _named(then: list[Input] | None) -> str | None:
    """Return the model that a person has named for the labels of a night."""
    found = [one.digest for one in then or [] if one.input == inputs.RELABELLED_WITH]
    return found[0] if found else None


def _nights(nights: Iterable[dt.date | None]) -> str:
    """Name nights as a sentence does, the first few of many."""
    known = sorted(night for night in nights if night)
    shown = ", ".join(map(str, known[:SHOWN]))
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"{'night' if len(known) == 1 else 'nights'} {shown}{more}" if known else ""
