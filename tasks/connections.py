"""Connections by their Airflow id, for steps that know no Airflow.

A DAG hands in Airflow's own lookup (`looked_up_by`), so that connections may live in any secrets
backend. Without one, the environment is read as Airflow does: `AIRFLOW_CONN_EVENTS_DB` is the URI
of the connection `events_db`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from tasks.errors import NotReadyError, SettingsError

Lookup = Callable[[str], str]

# A host that is gone says nothing: libpq takes it for lost within a minute, not after two hours.
PATIENCE = {
    "connect_timeout": "10",  # s
    "keepalives_idle": "30",  # s
    "keepalives_interval": "10",  # s
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # ms that what was sent may stay unacknowledged
}
HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")  # libpq takes several, with commas between


def _of_environment(name: str) -> str:
    """Return the URI that the environment gives; KeyError without one."""
    return os.environ[f"AIRFLOW_CONN_{name.upper()}"]


_lookup: ContextVar[Lookup] = ContextVar("lookup", default=_of_environment)


@contextmanager
def looked_up_by(lookup: Lookup) -> Iterator[None]:
    """Let this function find the URI of a connection by its id, within the block.

    It raises KeyError when there is none, and what it likes when it cannot tell, as when a secrets
    backend does not answer: the errors that a person reads are made here.
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
    NotReadyError
        Where connections are kept does not answer.
    """
    parts = _looked_up(name, "postgresql://user:password@host:5432/database")
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
    options = PATIENCE | dict(parse_qsl(parts.query))
    options.pop("__extra__", None)
    return f"postgresql://{owner}{at}{hosts}{parts.path}?{urlencode(options)}"


def s3_options(name: str) -> dict[str, str]:
    """Return the keys, region and endpoint of an AWS connection, by obstore's names for them.

    Raises
    ------
    SettingsError
        There is no such connection, or it is none to AWS, or asks for more than these. No part of
        the URI is told.
    NotReadyError
        Where connections are kept does not answer.
    """
    parts = _looked_up(name, "aws://key:secret@/?region_name=eu-west-1")
    if parts.scheme != "aws":
        raise SettingsError(f"connection {name} is of type {parts.scheme or '?'}, not aws")
    owner, at, _ = parts.netloc.rpartition("@")
    key, _, secret = owner.partition(":")
    if "@" in parts.path or (parts.netloc and not at) or bool(key) != bool(secret):
        raise SettingsError(
            f"connection {name} has no valid key and secret: write one that has / or + "
            "percent-encoded (%2F, %2B)"
        )
    extra = dict(parse_qsl(parts.query))
    # Airflow writes what is more than texts as JSON.
    extra |= json.loads(extra.pop("__extra__", "{}"))
    for more in ("role_arn", "profile_name", "session_kwargs", "assume_role_kwargs"):
        if extra.get(more):
            raise SettingsError(
                f"connection {name} has {more}, which is not read here: give it a key and a "
                "secret, or none and let the environment name the role (AWS_ROLE_ARN, "
                "AWS_WEB_IDENTITY_TOKEN_FILE)"
            )
    found = {
        "access_key_id": unquote(key),
        "secret_access_key": unquote(secret),
        "session_token": extra.get("aws_session_token", ""),
        "region": extra.get("region_name", ""),
        "endpoint": extra.get("endpoint_url", ""),
    }
    return {option: value for option, value in found.items() if value}


def azure_options(name: str) -> dict[str, str]:
    """Return the account, its key or token and the address of a connection to Azure Blob Storage.

    By obstore's names for them, without what it puts before each.

    Raises
    ------
    SettingsError
        There is no such connection, or it is none to Azure, or asks for more than these. No part
        of the URI is told.
    NotReadyError
        Where connections are kept does not answer.
    """
    parts = _looked_up(name, "wasb://account:key@")
    if parts.scheme != "wasb":
        raise SettingsError(f"connection {name} is of type {parts.scheme or '?'}, not wasb")
    owner, at, host = parts.netloc.rpartition("@")
    account, _, key = owner.partition(":")
    if "@" in parts.path or not at or not account:
        raise SettingsError(
            f"connection {name} has no valid account and key: write a key that has / or + "
            "percent-encoded (%2F, %2B)"
        )
    extra = dict(parse_qsl(parts.query))
    extra |= json.loads(extra.pop("__extra__", "{}"))
    for more in ("connection_string", "tenant_id", "client_secret_auth_config"):
        if extra.get(more):
            raise SettingsError(
                f"connection {name} has {more}, which is not read here: give it an account and "
                "its key or a sas_token, or let the environment name the identity "
                "(AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_FEDERATED_TOKEN_FILE)"
            )
    found = {
        "account_name": unquote(account),
        "account_key": unquote(key),
        "sas_key": extra.get("sas_token", ""),
        "endpoint": extra.get("account_url") or unquote(host),
    }
    return {option: value for option, value in found.items() if value}


def _looked_up(name: str, example: str) -> SplitResult:
    try:
        uri = _lookup.get()(name)
    except KeyError:
        raise SettingsError(
            f"there is no connection {name}: add it to Airflow, or set "
            f"AIRFLOW_CONN_{name.upper()} to {example}"
        ) from None
    except Exception as error:  # whatever a secrets backend raises; its text may hold a secret
        raise NotReadyError(
            f"connection {name} could not be looked up ({type(error).__name__}): see that the "
            "secrets backend of Airflow answers; Airflow tries the step again, and by hand it can "
            "be run again as it is"
        ) from None
    try:
        return urlsplit(uri)
    except ValueError:
        raise SettingsError(
            f"connection {name} is no valid URI: write it as {example}, with / ? # [ ] of a user "
            "or password percent-encoded (%2F for /)"
        ) from None
