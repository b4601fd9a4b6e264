"""What PostgreSQL says when something cannot be, told apart from what passes by itself."""

import re

import adbc_driver_postgresql.dbapi as adbc

# Starts of SQLSTATE that trying again does not mend: what PostgreSQL cannot do, values that do not
# fit, constraints, writing where only reading goes, logins, what there is (catalogue, schema),
# syntax and access.
MENDED_BY_A_PERSON = ("0A", "22", "23", "25006", "28", "3D", "3F", "42")
# libpq hands on no SQLSTATE of a connection that could not be made, only a text. What the server
# says in it is in the server's language. A login that is refused in English fails at once; in
# another language it is tried again first, as with a server that is starting or full.
REFUSED = re.compile(
    r"FATAL: +(.*(?:authentication failed|does not exist|pg_hba\.conf|permission denied).*)"
    r"|Failed to connect: (invalid .*)"
)
# The server's answer to a login begins with its severity, "FATAL:  " in whatever language.
NOT_ADMITTED = re.compile(r"Failed to connect: (?:connection to server .* failed: )?\w+ ?:  (.+)")
# What libpq itself says of a server that is away, or has cut the connection, is in English.
AWAY = re.compile(
    r"Failed to connect: (?:connection to server .* failed: )?(.+)"
    r"|(server closed the connection.*|no connection to the server.*"
    r"|could not receive data from server.*|SSL SYSCALL error.*|connection not open)"
)


def refusal(connection: str, error: Exception) -> str | None:
    """Say that a connection is refused and what to do, when a person has to mend that."""
    refused = REFUSED.search(str(error))
    if not refused:
        return None
    return (
        f"connection {connection} is refused ({(refused[1] or refused[2]).strip()}): correct it "
        "in Airflow, or let the database's owner admit it"
    )


def absence(connection: str, error: Exception) -> str | None:
    """Say that a server does not answer or admit, or no longer; that passes by itself."""
    if reply := NOT_ADMITTED.search(str(error)):
        return (
            f"connection {connection} is not admitted ({reply[1].strip()}): see that its server is "
            "ready and has room, and that user, password and database are right; Airflow tries the "
            "step again, and by hand it can be run again as it is"
        )
    away = AWAY.search(str(error))
    if not away:
        return None
    return (
        f"connection {connection} does not answer ({(away[1] or away[2]).strip()}): see that its "
        "server runs and can be reached from here; Airflow tries the step again, and by hand it "
        "can be run again as it is"
    )


def fault(error: Exception) -> str | None:
    """Return the server's reason, when a person has to mend what was asked of it."""
    state = getattr(error, "sqlstate", None) or ""
    if not state.startswith(MENDED_BY_A_PERSON):
        return None
    fields = {_text(name): _text(value) for name, value in getattr(error, "details", None) or ()}
    return fields.get("PG_DIAG_MESSAGE_PRIMARY") or f"SQLSTATE {state}"


def asked_again(uri: str, query: str) -> Exception | None:
    """Run a query that tripped half way once more, for its error with a SQLSTATE; None without one.

    Of rows that come as a stream ADBC hands on the text of an error alone, in the server's
    language. EXPLAIN ANALYZE runs the whole query and brings no rows over.
    """
    try:
        with adbc.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
            cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) {query}")
            cursor.fetchall()
    except adbc.Error as error:
        return error if error.sqlstate else None
    return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
