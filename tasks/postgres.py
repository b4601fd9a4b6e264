"""What PostgreSQL says when something cannot be, told apart from what passes by itself."""

import re

# Starts of SQLSTATE that trying again does not mend: what PostgreSQL cannot do, values that do not
# fit, constraints, writing where only reading goes, logins, what there is (catalogue, schema),
# syntax and access.
MENDED_BY_A_PERSON = ("0A", "22", "23", "25006", "28", "3D", "3F", "42")
# The same of a statement that trips half way, when the message is all that comes.
TRIPPED = re.compile(
    r"ERROR: +(division by zero|invalid input syntax|.* out of range|cannot execute .* read-only)"
)
# A refused login has no SQLSTATE; a server that is starting, full or away is waited for.
REFUSED = re.compile(
    r"FATAL: +(.*(?:authentication failed|does not exist|pg_hba\.conf|permission denied).*)"
    r"|Failed to connect: (invalid .*)"
)
# A server that is away, starting, full, or that has cut the connection has no SQLSTATE either.
AWAY = re.compile(
    r"Failed to connect: (?:connection to server .* failed: )?(?:FATAL: +)?(.+)"
    r"|((?:terminating|server closed the|no) connection.*|could not receive data from server.*"
    r"|SSL SYSCALL error.*|connection not open)"
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
    """Say that a server does not answer, or no longer; that passes by itself."""
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
    if not state.startswith(MENDED_BY_A_PERSON) and not TRIPPED.search(str(error)):
        return None
    said = re.search(r"ERROR: +(.*)", str(error))
    return said[1] if said else f"SQLSTATE {state}"
