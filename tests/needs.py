"""What a test needs beside Python: a mark that it gets by itself, and so is true.

A function that starts a server or an Airflow says so once, with `@needs`. A test that reaches it,
by itself, by a fixture or by another function of the tests, is marked. One that starts it all the
same without the mark fails, so `-m "not servers"` starts none.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, TypeVar

import pytest

Function = TypeVar("Function", bound=Callable[..., Any])

MARKS = "marks_of_tests"

_running: list[pytest.Item] = []  # the test that runs, the last one


def needs(mark: str) -> Callable[[Function], Function]:
    """Mark every test that reaches the function; it may be a context manager."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def checked(*given: Any, **named: Any) -> Any:
            if _running and not _running[-1].get_closest_marker(mark):
                raise RuntimeError(
                    f"{_running[-1].nodeid} calls {function.__name__}, but has no mark {mark!r}: "
                    "tests/needs.py does not see the way from one to the other; set the mark by "
                    "hand"
                )
            return function(*given, **named)

        setattr(checked, MARKS, {mark})
        return checked  # type: ignore[return-value]

    return decorate


def mark(item: pytest.Item) -> None:
    """Give a test the marks of what it reaches."""
    if isinstance(item, pytest.Function):
        fixtures = (one for many in item._fixtureinfo.name2fixturedefs.values() for one in many)
        seen: set[int] = set()
        for function in (item.function, *(fixture.func for fixture in fixtures)):
            for found in sorted(reached(function, seen)):
                item.add_marker(found)


def starts(item: pytest.Item) -> None:
    """Note which test runs from now on."""
    _running[:] = [item]


def reached(function: Any, seen: set[int] | None = None) -> set[str]:
    """Return the marks of a function of the tests and of all that it names.

    seen: functions, by identity, that need not be looked at again.
    """
    seen = set() if seen is None else seen
    marks = set(getattr(function, MARKS, set()))
    function = inspect.unwrap(function)
    if not inspect.isfunction(function) or id(function) in seen:
        return marks
    seen.add(id(function))
    if function.__module__.startswith("tests."):
        for name in _names(function.__code__):
            marks |= reached(function.__globals__.get(name), seen)
    return marks


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes that code and the functions within it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
