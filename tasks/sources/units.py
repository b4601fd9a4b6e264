"""Units of times that are numbers: how many microseconds, and which one numbers look like."""

import datetime as dt
from typing import NamedTuple

from tasks.errors import SourceError

# A time outside of these is a wrong unit or a slip.
START_OF_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
END_OF_TIME = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)

US_PER_UNIT = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001, "iso": 0.0}

# Position p (from 0) of a history without a clock becomes this moment plus p minutes.
SYNTHETIC_EPOCH = "2000-01-01 00:00:00+00"

# A number of this size, up to 1000 times 7.26e9, is a time between 1973 and 2199 in one unit only.
SMALLEST_TIME = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
# Ticks of 100 ns since the year 1 or 1601 are smaller: these two are nanoseconds of before 2001.
FIRST_SURE_NS = 1e18
LARGEST_SECONDS = 7_258_118_400  # 2200-01-01

# How a date is written in so many digits, as a format of DuckDB.
DATE_FORMATS = {
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
    17: "%Y%m%d%H%M%S%g",
}
# How many digits those dates have that are also times of a unit, of 2032 to 2039 or of 1976.
DATE_DIGITS = {"s": 10, "ms": 12}


class Limits(NamedTuple):
    """Which numbers are no times of a source although they would be some in its unit."""

    smallest_time: float = 0.0  # a smaller one is in another unit
    # From the first to before the last a number is no time when its digits are a date.
    first_date: float | None = None
    last_date: float | None = None
    date_format: str | None = None


def is_date(number: float) -> bool:
    """Whether the digits of a number are a date, as `sql/date_numbers.sql` tells it."""
    digits = f"{number:.0f}"
    try:
        dt.datetime.strptime(f"{digits:0<14}"[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return False
    return len(digits) in DATE_FORMATS and "1970" <= digits[:4] < "2200"


def refuse_dates(source: object, number: float) -> None:
    """Raise SourceError for times whose digits are dates, such as 202611021200."""
    digits = f"{number:.0f}"
    raise SourceError(
        f"the times of {source} look like dates written in {len(digits)} digits, such as {digits}: "
        f'set source.time_unit to their format, which may be "{DATE_FORMATS[len(digits)]}"'
    )


def limits_of(unit: str, middle: float) -> Limits:
    """Return which numbers are no times where the times, around `middle`, are in this unit.

    Where the setting alone says the unit and `middle` is a time of before 1973, none are.
    """
    if unit == "iso" or not _is_of(unit, middle):
        return Limits()
    smallest = SMALLEST_TIME[unit]
    if unit in DATE_DIGITS:
        after_year = 10.0 ** (DATE_DIGITS[unit] - 4)
        first, last = 1970 * after_year, 2200 * after_year
        # From 2032 on such seconds are real times, whatever their digits.
        if not first <= middle < last:
            return Limits(smallest, first, last, DATE_FORMATS[DATE_DIGITS[unit]])
    return Limits(smallest)


def _is_of(unit: str, number: float) -> bool:
    return SMALLEST_TIME[unit] <= number < LARGEST_SECONDS * 1e6 / US_PER_UNIT[unit]


class PlainTimes(NamedTuple):
    """Which times of a source are taken; the texts of their rows are not kept.

    Numbers from `plain_from` to before `plain_to`, but for those from `first_date` to before
    `last_date`; and dates and clocks, if `plain_stamps`.
    """

    plain_from: float
    plain_to: float
    plain_stamps: bool
    first_date: float | None = None
    last_date: float | None = None


# Of some unit: for as long as it is not known which.
ANY_TIMES = PlainTimes(SMALLEST_TIME["s"], LARGEST_SECONDS * 1e9, plain_stamps=True)


def plain_times(unit: str | None, middle: float) -> PlainTimes:
    """Return which times are taken where most, around `middle`, are in this unit; None: in none."""
    if unit in ("iso", None):
        return PlainTimes(0.0, 0.0, plain_stamps=unit == "iso")
    limits = limits_of(unit, middle)
    first = max(limits.smallest_time, 1.0 / US_PER_UNIT[unit])
    last = LARGEST_SECONDS * 1e6 / US_PER_UNIT[unit]
    return PlainTimes(first, last, False, limits.first_date, limits.last_date)


def unit_like(middle: float) -> str | None:
    """Return the unit in which a number is a time between 1973 and 2199."""
    return next((unit for unit in SMALLEST_TIME if _is_of(unit, middle)), None)


def unit_of(source: object, wanted: str, middle: float) -> str:
    """Decide in which unit times around `middle` are written: by size, or as the setting says.

    Parameters
    ----------
    source
        Whose times they are, for messages.
    wanted
        The setting `source.time_unit`.

    Raises
    ------
    SourceError
        The size fits no unit, or contradicts the setting.
    """
    looks = unit_like(middle)
    if wanted == "auto":
        if looks is None:
            raise SourceError(
                f"the times of {source} are around {middle:.0f}, which is a date after 1973 in no "
                'unit: set source.time_unit to "s", "ms", "us" or "ns", or name another column '
                "in source.time_columns"
            )
        if looks == "ns" and middle < FIRST_SURE_NS:
            raise SourceError(
                f"the times of {source} are around {middle:.0f}, which may be nanoseconds of "
                "before 2001 or ticks of .NET or Windows: convert them, or, if they are "
                'nanoseconds, set source.time_unit to "ns"'
            )
        return looks
    if looks is not None and looks != wanted:
        raise SourceError(
            f"the times of {source} are around {middle:.0f}, which looks like {looks}, "
            f'but source.time_unit is "{wanted}": correct it, or set it to "auto"'
        )
    return wanted
