"""Write `docker/.env` with fresh secrets for compose.yaml. Needs Python alone, no packages.

    python3 docker/new_env.py

Run it once, before the first start; it never replaces a file that is there: PostgreSQL and the
connections that Airflow keeps were made with what it holds.
"""

import base64
import os
import secrets
import sys
from pathlib import Path


def fresh_secrets() -> dict[str, str]:
    """Return a value for each secret of compose.yaml; letters, digits, - and _ fit into a URL."""
    return {
        "ADMIN_PASSWORD": secrets.token_urlsafe(15),
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "REDIS_PASSWORD": secrets.token_urlsafe(24),
        "JWT_SECRET": secrets.token_urlsafe(64),
        "SESSION_KEY": secrets.token_urlsafe(32),
        # What Fernet calls a key: 32 bytes, padded.
        "FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
    }


def main(file: Path) -> int:
    """Write the file, for its owner alone; exit code 2 when it is there."""
    lines = [
        "# Secrets of this deployment: back the file up apart from the database, show it nobody.",
        *(f"{name}={value}" for name, value in fresh_secrets().items()),
        "",
        "# The folder with the events, as this machine calls it.",
        "EVENTS=",
    ]
    try:
        file.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        print(f"error: {file} is there already, and its secrets are in use", file=sys.stderr)
        return 2
    file.write_text("\n".join(lines) + "\n")
    print(f"Wrote {file}. Name the folder of the events in it: EVENTS=/path")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent / ".env"))
