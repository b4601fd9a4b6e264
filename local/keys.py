"""The password of the web page's only user, and the key that Airflow signs its tokens with."""

import json
import secrets
from pathlib import Path

USER = "admin"


def password_file(home: Path) -> Path:
    """Return the file that Airflow reads the password from."""
    return home / "passwords.json"


def password(home: Path) -> str:
    """Return the password of the web page's only user, made up at the first start."""
    file = password_file(home)
    if not file.exists():
        _write_private(file, json.dumps({USER: secrets.token_urlsafe(12)}))
    word: str = json.loads(file.read_text())[USER]
    return word


def token_key(home: Path) -> str:
    """Return the key that Airflow's processes sign their tokens with, the same at every start."""
    file = home / "token-key"
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(64))
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
