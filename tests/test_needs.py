"""A test is marked by what it reaches, and one that gets round the marks is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.needs import needs, reached

started: list[str] = []


@needs("servers")
@contextmanager
def server() -> Iterator[str]:
    started.append("server")
    yield "address"


def by_another_function() -> str:
    return through_a_helper()


def through_a_helper() -> str:
    with server() as address:
        return address


def within_a_function() -> list[str]:
    def start() -> Iterator[str]:
        with server() as address:
            yield address

    return list(start())


def of_no_server() -> str:
    return "server"


@pytest.mark.parametrize("way", [server, through_a_helper, by_another_function, within_a_function])
def test_whatever_way_leads_to_a_server_is_seen(way: object) -> None:
    assert reached(way) == {"servers"}


def test_what_starts_no_server_has_no_mark() -> None:
    assert reached(of_no_server) == set()


@pytest.fixture
def address() -> Iterator[str]:
    with server() as address:
        yield address


def test_a_test_of_a_fixture_that_starts_a_server_is_marked(
    address: str, request: pytest.FixtureRequest
) -> None:
    assert request.node.get_closest_marker("servers")


def test_a_test_without_servers_is_not_marked(request: pytest.FixtureRequest) -> None:
    assert not request.node.get_closest_marker("servers")


def test_a_server_that_is_started_without_the_mark_is_refused() -> None:
    started.clear()
    unseen = globals()["".join(["ser", "ver"])]  # a way that no code names
    with pytest.raises(RuntimeError, match=r"has no mark 'servers'.*by hand"), unseen():
        pass
    assert started == []
