"""Figures and dates as people read them, and the words that are explained on hover."""

import datetime as dt
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from statistics import median

NOTHING = "\N{EN DASH}"
TO = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
BLANK = "\N{NO-BREAK SPACE}"  # between a number and its unit
LONGEST = 80  # characters shown of an id or a title in a table; all of it is on hover

# What a word of the page means, in one or two sentences. A template shows it on hover and focus.
GLOSSARY = {
    "intent": "A group of users who are after the same thing, found by the model in what they do. "
    "Its number stays the same from night to night.",
    "label": "The one intent that the model gives to a user on a night.",
    "lift": "How much knowing a user's intent helps to guess the user's next item, beside naming "
    "what is popular with everybody. 1.0 is no help, 2.0 is twice as good.",
    "utilisation": "How evenly users are spread over the intents: 100 % if all are equally large, "
    "little if a few hold almost everybody.",
    "NDCG@20": "How high the model ranks the next item of a user among all items: 1 if it is "
    "always the first, 0 if it is never among the first 20.",
    "HR@20": "The share of users whose next item is among the first 20 that the model names.",
    "baseline": "A simple method that the model has to beat, such as naming the most popular items "
    "to everybody.",
    "interval": "Where the true change lies with 90 % confidence: the estimate is from the users "
    "at hand, and other users would give another one.",
    "promoted": "A new model labels users unless it breaks a limit: it is surely worse than the "
    "model before, or surely no better than simple baselines. Where the users are too few to tell, "
    "it is promoted all the same, and the page says so. A rejected model labels nobody: the model "
    "before goes on.",
    "confidence": "The probability that the intent will still be the most probable one after the "
    "user's next event. It is low where a label is held although another intent is more probable "
    "by now.",
    "usual": "The median of the nights before, up to 28 of them, whatever their weekday. Where a "
    "figure is beside nights of the same weekday, it says so.",
    "calibrated": "The probability that this intent will still be the most probable one after the "
    "user's next event.",
    "clear": "A label is clear when its intent is likely enough to be the most probable one after "
    "the user's next event. The night view says how likely that has to be (label.clear_above).",
    "changed": "Of the users with a label on this night and on the night before, the share whose "
    "label differs: another intent, or none on one of the two nights. Users who are new are not "
    "counted.",
    "evidence": "How much an item of the history speaks for this label. All items of the history "
    "together are 100 %.",
    "more often": "What users of the intent have more often than all users, the surest first.",
    "times": "The share among the users of this intent, divided by the share among all users.",
    "trend": "Users with this intent over the last 28 nights, each line on its own scale.",
    "held": "The label stays although another intent is more probable now: the other one is not "
    "yet so much more probable that the label changes.",
    "kept meaning": "How much of what set the intent apart when a person named it still does so.",
    "quarantine": "Rows of the source that could not be used. They are kept, each with a reason.",
    "revision": "One published state of a night's labels.",
    "warm": "The training went on with what the model before had learned. A training from scratch "
    "forgets that and learns from all events anew.",
    "scratch": "A training from scratch forgets what the model before had learned, and learns from "
    "all events anew.",
    "map": "Near intents are alike to the model. A place is given at birth and never changes. The "
    "axes have no unit.",
    "flow": "Changes from one intent to another, from each night to the next, summed over all "
    "nights from the first of the two to the second.",
    "most alike": "The nearest intents on the map that have users on this night.",
    "loss": "What the training makes smaller, epoch by epoch. Only its course means something.",
}


def shown(text: object, longest: int = LONGEST) -> str:
    """Make a text of a source fit to stand on a page: of one line, of visible letters, not long.

    Marks that turn the direction of writing, and other characters without a look of their own, are
    written as their code. Templates escape what comes out.
    """
    one_line = " ".join(str(text).split())[: 2 * longest]
    # Letter by letter only where some letter needs it: a view has tens of thousands of letters.
    seen = (
        one_line
        if one_line.isprintable()
        else "".join(
            letter
            if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
            or letter in "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
            else f"\\u{ord(letter):04x}"
            for letter in one_line
        )
    )
    return seen if len(seen) <= longest else f"{seen[: longest - 1].rstrip()}…"


def count(value: float | None) -> str:
    """Write a whole number with its thousands apart: 12,345."""
    return NOTHING if value is None else f"{value:,.0f}".replace("-", MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of 1 as per cent: 12.3 %. What is not all is not written as 100, nor as 0."""
    if share is None:
        return NOTHING
    least = 10.0**-digits
    if 0 < 100 * share < least / 2:
        return f"<{BLANK}{least:.{digits}f}{BLANK}%"
    if 100 - least / 2 <= 100 * share < 100:
        return f">{BLANK}{100 - least:.{digits}f}{BLANK}%"
    return f"{100 * share:.{digits}f}{BLANK}%".replace("-", MINUS)


def sure(probability: float | None) -> str:
    """Write a probability as whole per cent. It is estimated, so it is never written as 100 %."""
    return percent(None if probability is None else min(probability, 1 - 1e-9), 0)


def signed(value: float | None, digits: int = 0) -> str:
    """Write a difference with its sign: +12."""
    if value is None:
        return NOTHING
    return f"{value:+,.{digits}f}".replace("-", MINUS) if round(value, digits) else "±0"


def change(value: float) -> str:
    """Write a relative change of 1 as per cent with its sign: +5.0 %."""
    return f"{signed(100 * value, 1)}{BLANK}%"


def points(difference: float | None) -> str:
    """Write the difference of two shares: +1.2 points."""
    return NOTHING if difference is None else f"{signed(100 * difference, 1)} points"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with so many decimals."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def times(value: float | None) -> str:
    """Write a ratio, with the sign for it: 3.4 times."""
    if value is None:
        return NOTHING
    near_one = abs(value - 1) < 0.05 and value != 1  # 1.0 would say that there is no difference
    return f"{value:.{2 if near_one else 1}f}{TIMES}"


def duration(seconds: float | None) -> str:
    """Write a time span in the units that suit it: 3.2 s, 4 min 05 s, 2 h 10 min."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f}{BLANK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}{BLANK}h {minutes:02d}{BLANK}min"
        if hours
        else f"{minutes}{BLANK}min {rest:02d}{BLANK}s"
    )


def memory(megabytes: float | None) -> str:
    """Write an amount of memory in MB or GB."""
    if megabytes is None:
        return NOTHING
    return f"{megabytes / 1000:.1f}{BLANK}GB" if megabytes >= 1000 else f"{megabytes:.0f}{BLANK}MB"


def day(date: dt.date | None) -> str:
    """Write a date for reading: 22 Apr 1998."""
    return NOTHING if date is None else f"{date.day}{BLANK}{date:%b}{BLANK}{date:%Y}"


def between(nights: Iterable[dt.date]) -> list[dt.date]:
    """Return the days between the first and the last of some nights that are none of them."""
    there = set(nights)
    if not there:
        return []
    first, last = min(there), max(there)
    days = (first + dt.timedelta(days=one) for one in range((last - first).days))
    return [one for one in days if one not in there]


def runs(days: Sequence[dt.date]) -> list[tuple[dt.date, dt.date]]:
    """Join days, oldest first, that follow each other: the first and the last of each run."""
    found: list[tuple[dt.date, dt.date]] = []
    for one in days:
        if found and one - found[-1][1] == dt.timedelta(days=1):
            found[-1] = (found[-1][0], one)
        else:
            found.append((one, one))
    return found


def span(first: dt.date, last: dt.date) -> str:
    """Write a run of days: from 9 to 12 Apr 1998 in one."""
    if first == last:
        return day(first)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}{TO}{day(last)}"
    return f"{day(first)} {TO} {day(last)}"


def spans(days: Sequence[dt.date], most: int = 4) -> str:
    """Write days, oldest first, as the runs that they are in; of many runs the newest."""
    found = runs(days)
    said = [span(*one) for one in found[-most:]]
    if len(found) > most:
        said[0] = f"{plural(len(found) - most, 'earlier span')} of days, {said[0]}"
    return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)


def weekday(date: dt.date) -> str:
    """Write a date with its weekday: Wednesday, 22 Apr 1998."""
    return f"{date:%A}, {day(date)}"


def moment(time: dt.datetime | None) -> str:
    """Write a point in time, in UTC: 22 Apr 1998 16:53."""
    return NOTHING if time is None else f"{day(time.date())} {time:%H:%M}"


def plural(value: float, one: str, many: str | None = None) -> str:
    """Write a number with its noun: 1 night, 3 nights."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def against_usual(
    value: float | None,
    earlier: Sequence[float | None],
    written: Callable[[float], str],
    *,
    share: bool = False,
) -> str | None:
    """Say how a figure stands to the median of earlier nights: usually 229, +134 %.

    share: whether it is a share of 1; how far apart two shares are is given in points.
    """
    known = [one for one in earlier if one is not None]
    if value is None or not known:
        return None
    usual = median(known)
    said = f"usually {written(usual)}"
    if share:
        # Of the shares as they are written, so that a reader gets the same.
        difference = round(value, 3) - round(usual, 3)
        return f"{said}, {points(difference)}" if round(difference, 3) else said
    if not usual or abs(change := value / usual - 1) < 0.005:
        return said
    return f"{said}, {signed(100 * change)}{BLANK}%"
