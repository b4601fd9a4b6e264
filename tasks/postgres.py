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


def refusal(connection: str, error: Exception) -> str | None:
    """Say that a connection is refused and what to do, when a person has to mend that."""
    refused = REFUSED.search(str(error))
    if not refused:
        return None
    return (
        f"connection {connection} is refused ({(refused[1] or refused[2]).strip()}): correct it "
        "in Airflow, or let the database's owner admit it"
    )


def fault(error: Exception) -> str | None:
    """Return the server's reason, when a person has to mend what was asked of it."""
    state = getattr(error, "sqlstate", None) or ""
    if not state.startswith(MENDED_BY_A_PERSON) and not TRIPPED.search(str(error)):
        return None
    said = re.search(r"ERROR: +(.*)", str(error))
    return said[1] if said else f"SQLSTATE {state}"
