"""Figures and dates as people read them, and the words that are explained on hover."""

import datetime as dt
import unicodedata
from collections.abc import Callable, Sequence
from statistics import median

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
BLANK = "\N{NO-BREAK SPACE}"  # between a number and its unit
LONGEST = 80  # characters shown of an id or a title in a table; all of it is on hover

# What a word of the page means, in one or two sentences. A template shows it on hover and focus.
GLOSSARY = {
    "intent": "A group of users who are after the same thing, found by the model in what they do. "
    "Its number stays the same from night to night.",
    "label": "The one intent that the model gives to a user on a night.",
    "lift": "How much better the next item is guessed with the label alone than with overall "
    "popularity. 1 means that the label says nothing.",
    "utilisation": "How evenly users are spread over the intents: 100 % if all are equally large, "
    "little if a few hold almost everybody.",
    "NDCG@20": "How well the model ranks the item that a user takes next among all items: 1 if it "
    "is always the first, 0 if it is never among the first 20.",
    "HR@20": "The share of users whose next item is among the first 20 that the model names.",
    "baseline": "A simple method that the model has to beat, such as naming the most popular items "
    "to everybody.",
    "interval": "Where the true change lies with 90 % confidence: the estimate is from the users "
    "at hand, and other users would give another one.",
    "promoted": "A new model labels users only if it is not surely worse than the one before "
    "and surely better than simple baselines. Otherwise the model before it goes on.",
    "confidence": "The probability that the intent will still be the most probable one after the "
    "user's next event. It is low where a label is held although another intent is more probable "
    "by now.",
    "usual": "The median of the nights before, up to 28 of them.",
    "calibrated": "The probability that this intent will still be the most probable one after the "
    "user's next event.",
    "clear": "A label is clear when it will probably outlive the user's next event.",
    "evidence": "The items of the history that speak most for the label, each with its share of "
    "all that speaks for it.",
    "more often": "What users of the intent have more often than all users, the surest first.",
    "times": "The share among the users of this intent, divided by the share among all users.",
    "trend": "Users with this intent over the last 28 nights, each line on its own scale.",
    "no new events": "Users who had no event since the night before. Their labels should hardly "
    "ever change.",
    "held": "Another intent is more probable now, but not by enough to change the label.",
    "kept meaning": "How much of what set the intent apart when a person named it still does so.",
    "quarantine": "Rows of the source that could not be used. They are kept, each with a reason.",
    "revision": "One published state of a night's labels.",
    "warm": "The training continued from the model before it. Otherwise it began from scratch.",
    "map": "Near intents are alike to the model. A place is given at birth and never changes. The "
    "axes have no unit.",
    "flow": "Users who had one intent on the night before and have another one now.",
    "most alike": "The nearest intents on the map that have users on this night.",
    "loss": "What the training makes smaller, epoch by epoch. Only its course means something.",
}


def shown(text: object, longest: int = LONGEST) -> str:
    """Make a text of a source fit to stand on a page: of one line, of visible letters, not long.

    Marks that turn the direction of writing, and other characters without a look of their own, are
    written as their code. Templates escape what comes out.
    """
    one_line = " ".join(str(text).split())
    seen = "".join(
        letter
        if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        or letter in "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
        else f"\\u{ord(letter):04x}"
        for letter in one_line[: 2 * longest]
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


def signed(value: float | None, digits: int = 0) -> str:
    """Write a difference with its sign: +12."""
    if value is None:
        return NOTHING
    return f"{value:+,.{digits}f}".replace("-", MINUS) if round(value, digits) else "±0"


def points(difference: float | None) -> str:
    """Write the difference of two shares: +1.2 points."""
    return NOTHING if difference is None else f"{signed(100 * difference, 1)} points"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with so many decimals."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def times(value: float | None) -> str:
    """Write a ratio, with the sign for it: 3.4 times."""
    return NOTHING if value is None else f"{value:.1f}{TIMES}"


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


def weekday(date: dt.date) -> str:
    """Write a date with its weekday: Wednesday, 22 April 1998."""
    return f"{date:%A}, {date.day} {date:%B %Y}"


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
) -> str | None:
    """Say how a figure stands to the median of earlier nights: usually 229, +134 %."""
    known = [one for one in earlier if one is not None]
    if value is None or not known:
        return None
    usual = median(known)
    said = f"usually {written(usual)}"
    if not usual or abs(change := value / usual - 1) < 0.005:
        return said
    return f"{said}, {signed(100 * change)}{BLANK}%"
