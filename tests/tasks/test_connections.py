from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tasks.connections import PATIENCE, looked_up_by, postgres_uri, s3_options
from tasks.errors import NotReadyError, SettingsError


def test_the_environment_gives_connections_as_it_does_to_airflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_EVENTS_DB", "postgres://me:p%40ss@db:5433/log?sslmode=require")
    uri, _, options = postgres_uri("events_db").partition("?")
    assert uri == "postgresql://me:p%40ss@db:5433/log"
    assert options == f"{urlencode(PATIENCE)}&sslmode=require"


def test_what_is_airflows_own_is_left_out() -> None:
    with looked_up_by(lambda name: f"postgresql://{name}@db/log?__extra__=%7B%7D&sslmode=prefer"):
        uri, _, options = postgres_uri("me").partition("?")
    assert uri == "postgresql://me@db/log"
    assert options == f"{urlencode(PATIENCE)}&sslmode=prefer"


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_EVENTS_DB", raising=False)
    with pytest.raises(SettingsError, match=r"no connection events_db: .*AIRFLOW_CONN_EV"):
        postgres_uri("events_db")


def test_connections_that_cannot_be_looked_up_now_are_waited_for() -> None:
    """A vault that is away for a moment does not say that there is no such connection."""

    def away(name: str) -> str:
        raise ConnectionError(f"vault does not answer, asked for {name} with token s3cret")

    def unknown(name: str) -> str:
        raise KeyError(name)

    for uri_of in (postgres_uri, s3_options):
        with looked_up_by(away), pytest.raises(NotReadyError, match=r"db .*ConnectionErr") as told:
            uri_of("db")
        assert "s3cret" not in str(told.value) and told.value.__cause__ is None
        with looked_up_by(unknown), pytest.raises(SettingsError, match="no connection db"):
            uri_of("db")


def test_another_kind_of_connection_is_refused_without_its_password() -> None:
    with (
        looked_up_by(lambda name: "mysql://me:secret@db/log"),
        pytest.raises(SettingsError, match="connection db is of type mysql") as refused,
    ):
        postgres_uri("db")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("me:se@cr:et%zz@db", "me:se%40cr%3Aet%25zz@db"),
        ("me@[::1]:5433", "me@[::1]:5433"),
        ("one:5432,two:5433", "one:5432,two:5433"),
        ("", ""),
    ],
)
def test_a_password_is_written_so_that_libpq_cannot_take_it_for_something_else(
    given: str, wanted: str
) -> None:
    with looked_up_by(lambda _: f"postgresql://{given}/log"):
        assert postgres_uri("db").partition("?")[0] == f"postgresql://{wanted}/log"


@pytest.mark.parametrize("password", ["se/cret", "se?cret", "se#cret", "[secret", "12/sec@ret"])
def test_a_uri_that_cannot_be_taken_apart_is_refused_without_its_password(password: str) -> None:
    with (
        looked_up_by(lambda _: f"postgresql://me:{password}@db/log"),
        pytest.raises(SettingsError, match="connection db") as refused,
    ):
        postgres_uri("db")
    assert not any(part in str(refused.value) for part in ("se/", "cret", "sec"))


def test_a_connection_may_be_more_patient_with_its_server() -> None:
    with looked_up_by(lambda _: "postgresql://me@db/log?connect_timeout=60"):
        assert dict(parse_qsl(urlsplit(postgres_uri("db")).query)) == {
            **PATIENCE,
            "connect_timeout": "60",
        }
