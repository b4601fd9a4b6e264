"""Connections by their Airflow id, for steps that know no Airflow.

A DAG hands in Airflow's own lookup (`looked_up_by`), so that connections may live in any secrets
backend. Without one, the environment is read as Airflow does: `AIRFLOW_CONN_EVENTS_DB` is the URI
of the connection `events_db`.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tasks.errors import SettingsError

Lookup = Callable[[str], str]

HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")  # libpq takes several, with commas between


def _of_environment(name: str) -> str:
    """Return the URI that the environment gives; KeyError without one."""
    return os.environ[f"AIRFLOW_CONN_{name.upper()}"]


_lookup: ContextVar[Lookup] = ContextVar("lookup", default=_of_environment)


@contextmanager
def looked_up_by(lookup: Lookup) -> Iterator[None]:
    """Let this function find the URI of a connection by its id, within the block.

    It raises what it likes when there is none: the error that a person reads is made here.
    """
    token = _lookup.set(lookup)
    try:
        yield
    finally:
        _lookup.reset(token)


def postgres_uri(name: str) -> str:
    """Return the URI of a PostgreSQL connection as libpq wants it. It holds the password.

    Raises
    ------
    SettingsError
        There is no such connection, or it is none to PostgreSQL. No part of the URI is told.
    """
    try:
        parts = urlsplit(_lookup.get()(name))
    except Exception as error:  # whatever the secrets backend raises
        raise SettingsError(
            f"there is no connection {name} ({type(error).__name__}): add it to Airflow, or set "
            f"AIRFLOW_CONN_{name.upper()} to postgresql://user:password@host:5432/database"
        ) from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise SettingsError(f"connection {name} is of type {parts.scheme or '?'}, not postgres")
    owner, at, hosts = parts.netloc.rpartition("@")
    if "@" in parts.path or not all(HOST.fullmatch(host) for host in hosts.split(",")):
        raise SettingsError(
            f"connection {name} has no valid host and port: write a user or password that has "
            "one of / ? # [ ] percent-encoded (%2F for /)"
        )
    # What libpq cannot read it quotes in its message: so nothing of a password may look so.
    owner = ":".join(quote(unquote(part), safe="") for part in owner.split(":", 1))
    # Airflow keeps what libpq has no name for in a field of its own.
    options = [(key, value) for key, value in parse_qsl(parts.query) if key != "__extra__"]
    question = "?" if options else ""
    return f"postgresql://{owner}{at}{hosts}{parts.path}{question}{urlencode(options)}"
